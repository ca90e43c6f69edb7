"""Which voxels are veins: tubes of evidence, above what chance makes, that go on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.biomarkers import veins_evidence as ev
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

_CUBE = np.ones((3, 3, 3), bool)
SURE = 6.0
"""Contrast (spreads) of voxels that are vein beyond doubt, for the weights of the maps."""
LEAST = 2.0
"""Evidence (spreads) of every voxel of a vein."""
IN_NUCLEI = 3.0
"""How many times the high threshold a seed in a nucleus has: its edges look like tubes."""
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
    maps; ``low`` and ``high`` are the thresholds of the score. ``contrast`` is that of susceptibility (ppm),
    None without it; ``weights`` are those of the maps.
    """

    mask: np.ndarray
    evidence: np.ndarray
    score: np.ndarray
    low: float
    high: float
    contrast: np.ndarray | None
    weights: dict[str, float]


def detect(
    maps: Mapping[str, np.ndarray | None],
    mask: np.ndarray,
    nuclei: np.ndarray,
    grid: Grid,
    *,
    false_share: float = 0.3,
    seed_share: float = 0.01,
    nuclei_mm: float = 1.5,
    rim_mm: float = 3.0,
):
    """Detect the voxels of veins.

    The maps become one image of evidence (`veins_evidence.combine`), which is filtered for tubes at several
    scales that go on along their axis. The score of a voxel is the geometric mean of its evidence and of the
    tube. Components of voxels over a low threshold are kept where they have a voxel over a high one. Both
    are set by the share of false tubes (`veins_evidence.thresholds`).

    Parameters
    ----------
    maps : dict of str to ndarray of float32 or None
        'chi', 'swi' and 'r2star', see `veins_evidence.contrasts`.
    mask : ndarray of bool
    nuclei : ndarray of int
        Labels of iron-rich nuclei. Seeds in them and within ``nuclei_mm`` must be clearer, see `IN_NUCLEI`.
    grid : Grid
    false_share, seed_share : float
        Of voxels over the low and the high threshold.
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
    high, low = ev.thresholds(score[tissue], decoy[tissue], (seed_share, false_share))
    # a seed must stand out of noise by itself
    kept = mask & (score > low) & (evidence > LEAST)
    # at junctions nothing is a tube
    kept |= ndimage.binary_dilation(kept, _CUBE) & (evidence > 2 * SURE / 3) & tissue
    kept &= evidence > FLANK * ndimage.maximum_filter(evidence, footprint=_ball(grid, NEAR))
    pieces, count = ndimage.label(kept, _CUBE)
    strong = np.zeros(count + 1, bool)
    strong[pieces[(score > np.where(zone, IN_NUCLEI * high, high)) & kept]] = True
    strong[0] = False
    chi = contrast['chi'] * spread['chi'] if 'chi' in contrast else None
    return Found(strong[pieces], evidence, score, low, high, chi, weights)


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
