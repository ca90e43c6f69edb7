"""Which voxels are veins: tubes of evidence, above what chance makes, that go on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.biomarkers import veins_evidence as ev
from bids_qsm.biomarkers.veins_graph import Branch, branches, wall_radius
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

_CUBE = np.ones((3, 3, 3), bool)
SURE = 6.0
"""Contrast (spreads) of voxels that are vein beyond doubt, for the weights of the maps."""
LEAST = 2.0
"""Evidence (spreads) of every voxel of a vein."""
IN_NUCLEI = 3.0
"""How many times the high threshold a chain in a nucleus reaches somewhere: its edges look like tubes."""
FLANK = 0.35
"""Share of the evidence of the strongest voxel near it below which a voxel is only the blur of a vein."""
NEAR = 1.75
"""Distance (voxels) that blur reaches."""
FEWEST = 30
"""Voxels that the weights of the maps can be learned from."""


@dataclass(frozen=True, eq=False)
class Found:
    """Voxels of veins and what tells them from tissue.

    ``mask`` (bool), ``evidence`` (float32, spreads of tissue) and ``score`` (float32) are on the grid of the
    maps; ``low`` and ``least`` are the thresholds of the score of voxels and of chains. ``contrast`` is that
    of susceptibility (ppm), None without it; ``weights`` are those of the maps.
    """

    mask: np.ndarray
    evidence: np.ndarray
    score: np.ndarray
    low: float
    least: float
    contrast: np.ndarray | None
    weights: dict[str, float]


def detect(
    maps: Mapping[str, np.ndarray | None],
    mask: np.ndarray,
    nuclei: np.ndarray,
    grid: Grid,
    *,
    false_share: float = 0.3,
    chain_share: float = 0.01,
    nuclei_mm: float = 1.5,
    rim_mm: float = 3.0,
):
    """Detect the voxels of veins.

    The maps become one image of evidence (`veins_evidence.combine`), which is filtered for tubes at several
    scales that go on along their axis. The score of a voxel is the geometric mean of its evidence and of the
    tube, less where artefacts make strong tubes of the opposite sign (`veins_evidence.decoy_excess`).
    Components of voxels over a low threshold are kept where a chain of their skeleton is clear
    (`chain_score`). Both thresholds are set by the share of false tubes (`veins_evidence.thresholds`): of
    single voxels, and of the voxels of chains, which are found in the same way in the negated evidence.

    Parameters
    ----------
    maps : dict of str to ndarray of float32 or None
        'chi', 'swi' and 'r2star', see `veins_evidence.contrasts`.
    mask : ndarray of bool
    nuclei : ndarray of int
        Labels of iron-rich nuclei. Chains in them and within ``nuclei_mm`` must be clearer, see `IN_NUCLEI`.
    grid : Grid
    false_share, chain_share : float
        Of voxels over the low threshold, and of voxels in clear chains.
    rim_mm : float
        Depth (mm) at which susceptibility-weighted magnitude counts in full: at the rim, it is dark for other
        reasons.

    Returns
    -------
    Found
    """
    contrast, spread = ev.contrasts(maps, mask, nuclei, grid)
    if 'swi' in contrast:
        contrast['swi'] *= depth(mask, grid.voxel_size, rim_mm) / np.float32(rim_mm)
    names = list(contrast)
    zone = depth(nuclei == 0, grid.voxel_size, nuclei_mm + 0.1) <= nuclei_mm if nuclei.any() else nuclei > 0
    tissue = mask & ~zone
    clearest = contrast[names[0]]
    seeds = tissue & (clearest > SURE)
    if seeds.sum() < FEWEST and tissue.sum() > FEWEST:
        seeds = tissue & (clearest >= np.partition(clearest[tissue], -FEWEST)[-FEWEST])
    evidence, weights = ev.combine(contrast, seeds, tissue)
    scales = ev.scales_of(grid)
    score = _score(evidence, mask, grid, scales)
    decoy = _score(-evidence, mask, grid, scales)
    excess = ev.decoy_excess(decoy, tissue, grid)
    score /= excess
    decoy /= excess
    high, low = ev.thresholds(score[tissue], decoy[tissue], (chain_share, false_share))
    kept = _over(score, evidence, low, mask, tissue, grid)
    chains = _chains(kept, grid)
    false = _chains(_over(decoy, -evidence, low, mask, tissue, grid), grid)
    least = ev.thresholds(_of_voxels(chains, score, tissue), _of_voxels(false, decoy, tissue), [chain_share])[
        0
    ]
    pieces, count = ndimage.label(kept, _CUBE)
    strong = np.zeros(count + 1, bool)
    for chain in chains:
        at = tuple(chain.voxels.T)
        if _is_outside(chain, tissue) or (score[at] > IN_NUCLEI * high).any():
            strong[pieces[at]] |= chain_score(chain, score) >= least
    chi = contrast['chi'] * spread['chi'] if 'chi' in contrast else None
    return Found(strong[pieces], evidence, score, low, least, chi, weights)


def chain_score(chain: Branch, score: np.ndarray):
    """Mean score of a chain of n voxels times the square root of n: noise makes no long chains."""
    return float(score[tuple(chain.voxels.T)].mean() * np.sqrt(len(chain.voxels)))


def _over(
    score: np.ndarray, evidence: np.ndarray, low: float, mask: np.ndarray, tissue: np.ndarray, grid: Grid
):
    """Voxels over the low threshold, and those beside them that clearly belong to them."""
    # each must stand out of noise by itself
    kept = mask & (score > low) & (evidence > LEAST)
    # at junctions nothing is a tube
    kept |= ndimage.binary_dilation(kept, _CUBE) & (evidence > 2 * SURE / 3) & tissue
    return kept & (evidence > FLANK * ndimage.maximum_filter(evidence, footprint=_ball(grid, NEAR)))


def _chains(kept: np.ndarray, grid: Grid):
    """Branches of the skeleton."""
    return branches(kept, np.array(grid.voxel_size), wall_radius(kept, grid))


def _is_outside(chain: Branch, tissue: np.ndarray):
    """Whether most of a chain is outside nuclei."""
    return bool(tissue[tuple(chain.voxels.T)].mean() > 0.5)


def _of_voxels(chains: list[Branch], score: np.ndarray, tissue: np.ndarray):
    """Score of the chain of each voxel in tissue."""
    chains = [c for c in chains if _is_outside(c, tissue)]
    return np.repeat([chain_score(c, score) for c in chains], [len(c.voxels) for c in chains])


def _ball(grid: Grid, reach: float):
    """Footprint of a ball of ``reach`` mean voxel sides."""
    sides = np.array(grid.voxel_size)
    limit = reach * sides.prod() ** (1 / 3)
    half = np.maximum(np.floor(limit / sides), 1).astype(int)
    offset = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing='ij'), -1) * sides
    return np.linalg.norm(offset, axis=-1) <= max(limit, sides.max() + 1e-6)


def _score(evidence: np.ndarray, mask: np.ndarray, grid: Grid, scales: list[float]):
    """Geometric mean of evidence and of tubes that go on."""
    strength, axis, _ = ev.tube_strength(evidence, mask, grid, scales)
    along = ev.continue_along(strength, axis, grid)
    return np.sqrt(np.maximum(evidence, 0) * along)
