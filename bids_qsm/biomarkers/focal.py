"""Detection of small sources of susceptibility: candidates for microbleeds and calcifications."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.biomarkers.localisation import Places, described
from bids_qsm.biomarkers.vesselness import vein_tree, vesselness
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

KINDS = {'microbleed': 1, 'calcification': -1}
"""Kinds of small sources, and the sign of their susceptibility."""
EVIDENCE = ('strength', 'isolation', 'roundness', 'apart', 'decay')
_CUBE = np.ones((3, 3, 3), bool)


def find_candidates(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    affine: np.ndarray,
    to_template: Sequence = (),
    reference: str = '',
    *,
    threshold: float = 6.0,
    confidence: float = 0.5,
    edge_mm: float = 3.0,
    margin_mm: float = 2.0,
    largest_mm: float = 10.0,
):
    r"""Find small round sources outside veins and nuclei.

    A source is a peak of contrast (susceptibility less that of the tissue within some 8 mm) over
    ``threshold`` times the spread of that tissue, with all connected voxels of at least half its height.
    Paramagnetic sources are candidates for microbleeds, diamagnetic sources for calcifications [1]_. Five
    scores from 0 to 1 describe each source; a score of one half means that a harmless structure is as likely.
    The confidence is the smallest score:

    - strength, :math:`p / (p + h)`: p is the height of the peak, h that of harmless structures: 5 spreads or,
      for paramagnetic sources, the veins of this person if they are higher (90th percentile of contrast over
      the vein tree).
    - isolation, :math:`1 - q / p`: q is the largest contrast of either sign in a shell around the source. It
      is low for veins, which cross the shell, and for side lobes of strong sources.
    - roundness: the shortest axis over the longest axis of its ellipsoid of inertia.
    - apart, :math:`1 - v`: v is the largest vesselness of the vein tree over the voxels of the source. It
      separates a bulge of a vein from a bleed beside a vein.
    - decay, :math:`r / (r + 3 s_r)`: r is how much R2* exceeds its median in the shell, :math:`s_r` its
      spread there. Both bleeds and calcifications dephase their surroundings. Without R2*, this score is
      left out.

    Parameters
    ----------
    chi : ndarray of float32, 3D
        Susceptibility (ppm).
    r2star : ndarray of float32 or None
        R2* (1/s); voxels without one (0 or less) do not count.
    mask : ndarray of bool
        Where susceptibility is given.
    dseg : ndarray of int
        Regions of an atlas on the same grid. Iron-rich regions (their median exceeds that of the brain by
        more than its spread) and voxels within ``margin_mm`` of them are excluded.
    labels : DataFrame
        Columns index, hemisphere and region of the atlas.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms that take points of the scanner to the template, first to last.
    reference : str
        Reference of susceptibility, for the column of that name.
    threshold : float
    confidence : float
        Least confidence of a candidate in the table.
    edge_mm : float
        Sources with a peak closer to the edge of the mask (mm) are excluded, because of veins and residual
        background fields.
    margin_mm : float
        Tolerance for the position of the labels of nuclei (mm).
    largest_mm : float
        Largest diameter (mm); microbleeds have at most 10 mm [2]_.

    Returns
    -------
    labels : ndarray of int32
        1, 2, ... in the order of the table, on the voxels of at least half the height of the peak.
    table : DataFrame
        One row a candidate, by falling confidence, see `dictionary`.

    References
    ----------
    .. [1] Deistung et al. (2013), PLoS One 8:e57924. doi:10.1371/journal.pone.0057924
    .. [2] Greenberg et al. (2009), Lancet Neurol 8:165. doi:10.1016/S1474-4422(09)70013-4
    """
    found = np.zeros(chi.shape, np.int32)
    rows = []
    if mask.any():
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        grid = Grid.from_affine([side.stop - side.start for side in box], affine)
        brain = _Brain(chi[box], r2star if r2star is None else r2star[box], mask[box], dseg[box], grid)
        zone = brain.zone(edge_mm, margin_mm)
        for kind, sign in KINDS.items():
            for row, at, region in _sources(brain, zone, sign, threshold, largest_mm):
                if row['confidence'] >= confidence:
                    rows.append(({'kind': kind, **row}, at, region))
    rows.sort(key=lambda item: -item[0]['confidence'])
    where = Places(dseg, labels, affine, to_template)
    for number, (row, at, region) in enumerate(rows, 1):
        voxels = np.argwhere(region) + [a + b.start for a, b in zip(at, box, strict=True)]
        found[tuple(voxels.T)] = number
        points = np.c_[voxels, np.ones(len(voxels))] @ np.asarray(affine)[:3].T
        row |= {'candidate': number, **where.columns(points.mean(0), points)}
    table = pd.DataFrame([row for row, *_ in rows], columns=list(dictionary()))
    table['reference'] = reference or 'n/a'
    return found, table


class _Brain:
    """Contrast and spread of susceptibility over a brain, its iron-rich nuclei and its veins."""

    def __init__(
        self, chi: np.ndarray, r2star: np.ndarray | None, mask: np.ndarray, dseg: np.ndarray, grid: Grid
    ):
        self.chi, self.mask, self.grid = chi, mask, grid
        self.voxel_size = np.array(grid.voxel_size)
        self.r2star = None if r2star is None else np.where(mask & (r2star > 0), r2star, np.nan)
        self.nuclei = iron_rich(chi, mask, dseg)
        self.contrast, self.spread = tissue_contrast(chi, mask & ~self.nuclei, grid)
        self.contrast[~mask] = 0
        tubes = vesselness(chi, mask, grid)
        self.tree = vein_tree(tubes, self.contrast / self.spread, mask & ~self.nuclei, grid)
        self.tubes = tubes * self.tree
        veins = self.contrast[self.tree]
        self.vein_level = float(np.quantile(veins, 0.9)) if veins.size else 0.0

    def zone(self, edge_mm: float, margin_mm: float):
        """Voxels that may hold a peak."""
        # strong sources leave holes in the mask, which are not the edge of the brain
        whole = ndimage.binary_fill_holes(self.mask)
        size = self.grid.voxel_size
        zone = self.mask & (depth(whole, size, edge_mm + 1) > edge_mm)
        if self.nuclei.any():
            zone &= depth(~self.nuclei, size, margin_mm + 1) > margin_mm
        return zone


def iron_rich(chi: np.ndarray, mask: np.ndarray, dseg: np.ndarray):
    """Voxels of regions whose median exceeds that of the brain by more than its spread."""
    values = chi[mask]
    middle = np.median(values)
    limit = middle + 1.4826 * np.median(np.abs(values - middle))
    present = np.unique(dseg[mask & (dseg > 0)])
    medians = ndimage.median(chi, np.where(mask, dseg, 0), present) if present.size else []
    return np.isin(dseg, present[np.asarray(medians) > limit])


def tissue_contrast(chi: np.ndarray, tissue: np.ndarray, grid: Grid, *, reach_mm: float = 8.0):
    """Susceptibility relative to the surrounding tissue, and the spread of that tissue.

    Both are computed over a cube of twice ``reach_mm``. Values are clipped at two standard deviations, which
    limits the effect of veins and lesions.

    Returns
    -------
    contrast, spread : ndarray of float32
        (ppm). The spread is a standard deviation.
    """
    size = [2 * int(np.ceil(reach_mm / v)) + 1 for v in grid.voxel_size]
    inside = tissue.astype(np.float32)

    def mean(values: np.ndarray):
        return ndimage.uniform_filter(np.where(tissue, values, 0).astype(np.float32), size) / weight

    weight = np.maximum(ndimage.uniform_filter(inside, size), 1e-3)
    level = mean(chi)
    spread = np.sqrt(np.maximum(mean((chi - level) ** 2), 0))
    for _ in range(4):
        off = chi - level
        level = level + mean(np.clip(off, -2 * spread, 2 * spread))
        # a normal distribution keeps 92 % of its variance when clipped at two standard deviations
        kept = mean(np.minimum((chi - level) ** 2, 4 * spread**2))
        spread = np.sqrt(np.maximum(kept, 0) / 0.9205)
    return (chi - level).astype(np.float32), np.maximum(spread, 1e-6).astype(np.float32)


def _sources(brain: _Brain, zone: np.ndarray, sign: int, threshold: float, largest_mm: float):
    """(columns, first voxel of the box, region in the box) of every source of one sign, peaks first."""
    contrast = sign * brain.contrast
    peaks = zone & (contrast > threshold * brain.spread)
    peaks &= contrast == ndimage.maximum_filter(contrast, footprint=_CUBE)
    seeds = np.argwhere(peaks)
    # stable, so that the result does not depend on the machine
    order = np.argsort(-contrast[tuple(seeds.T)], kind='stable')
    claimed = np.zeros(zone.shape, bool)
    margin = np.ceil((largest_mm + _gap(brain)[1]) / brain.voxel_size).astype(int)
    for seed in seeds[order]:
        if claimed[tuple(seed)]:
            continue
        box = tuple(
            slice(max(c - m, 0), min(c + m + 1, n)) for c, m, n in zip(seed, margin, zone.shape, strict=True)
        )
        at = tuple(c - side.start for c, side in zip(seed, box, strict=True))
        here = contrast[box]
        pieces, _ = ndimage.label(here > here[at] / 2, _CUBE)
        region = pieces == pieces[at]
        claimed[box] |= region
        # a shoulder of a higher peak is not a separate source
        if here[region].max() > here[at]:
            continue
        row = _measure(brain, box, at, here, region, sign, largest_mm)
        if row is not None:
            yield row, [side.start for side in box], region


def _gap(brain: _Brain):
    """Inner and outer distance (mm) of the shell around a source: one voxel away, 2 mm thick."""
    touch = np.linalg.norm(brain.voxel_size) + 1e-3
    return touch, touch + max(2.0, *brain.voxel_size)


def _measure(
    brain: _Brain,
    box: tuple[slice, ...],
    at: tuple[int, ...],
    contrast: np.ndarray,
    region: np.ndarray,
    sign: int,
    largest_mm: float,
):
    """Columns of a source; None where it is too long or has no measured surround."""
    size, voxel = brain.voxel_size, brain.grid.voxel_volume
    places = np.argwhere(region) * size
    weights = contrast[region]
    offset = places - np.average(places, axis=0, weights=weights)
    if 2 * np.linalg.norm(offset, axis=1).max() > largest_mm:
        return None
    distance = ndimage.distance_transform_edt(~region, sampling=size)
    inner, outer = _gap(brain)
    mask = brain.mask[box]
    shell = mask & (distance > inner) & (distance <= outer)
    if not shell.any():
        return None
    chi, spread = brain.chi[box], float(brain.spread[box][at])
    around = float(np.median(chi[shell]))
    peak = float(contrast[at])
    # the voxel size is added, so that a source of one voxel is not elongated along the slices
    inertia = (offset * weights[:, None]).T @ offset / weights.sum() + np.eye(3) * size.max() ** 2 / 4
    axes = np.sqrt(np.linalg.eigvalsh(inertia))
    harmless = 5 * spread
    if sign > 0:
        harmless = max(harmless, brain.vein_level)
    evidence = {
        'strength': peak / (peak + harmless),
        'isolation': 1 - float(np.abs(contrast[shell]).max()) / peak,
        'roundness': axes[0] / axes[2],
        'apart': 1 - float(brain.tubes[box][region].max()),
        'decay': np.nan,
    }
    row = {
        'volume_mm3': region.sum() * voxel,
        'diameter_mm': (6 * region.sum() * voxel / np.pi) ** (1 / 3),
        'chi_peak': chi[at],
        'chi_mean': chi[region].mean(dtype=float),
        'chi_surround': around,
        'contrast_to_noise': peak / spread,
        'moment': (chi[mask & (distance <= inner)] - around).sum(dtype=float) * voxel,
        'vesselness': brain.tubes[box][region | shell].max(),
    }
    if brain.r2star is not None:
        rate = brain.r2star[box]
        inside, outside = (v[np.isfinite(v)] for v in (rate[region], rate[shell]))
        if inside.size and outside.size:
            excess = max(inside.mean(dtype=float) - np.median(outside), 0)
            noise = max(1.4826 * np.median(np.abs(outside - np.median(outside))), 1e-6)
            evidence['decay'] = excess / (excess + 3 * noise)
            row |= {'R2star_mean': inside.mean(dtype=float), 'R2star_surround': np.median(outside)}
    row |= {name: float(np.clip(value, 0, 1)) for name, value in evidence.items()}
    row['confidence'] = float(np.nanmin([row[name] for name in EVIDENCE]))
    return {name: float(f'{value:.4g}') for name, value in row.items()}


def dictionary():
    """Describe every column of `find_candidates`' table, as a BIDS data dictionary."""
    half = 'over the voxels of at least half the height of its peak'
    columns = {
        'candidate': ('Number of the candidate, and its label in the image of candidates.', None),
        'kind': (
            'Possible kind: microbleed (paramagnetic) or calcification (diamagnetic). Not a diagnosis: '
            'check the images.',
            None,
        ),
        'confidence': (
            f'The least of {", ".join(EVIDENCE)}: 0 to 1; one half means that a harmless structure is as '
            'likely.',
            None,
        ),
        **described('candidate'),
        'volume_mm3': ('Volume of the voxels of at least half the height of the peak.', 'mm^3'),
        'diameter_mm': ('Diameter of the ball of that volume.', 'mm'),
        'chi_peak': ('Susceptibility at the peak.', 'ppm'),
        'chi_mean': (f'Mean susceptibility {half}.', 'ppm'),
        'chi_surround': ('Median susceptibility of a shell around it, a voxel away and 2 mm thick.', 'ppm'),
        'contrast_to_noise': (
            'Height of the peak over the tissue within some 8 mm, in standard deviations of that tissue.',
            None,
        ),
        'moment': (
            'Susceptibility less that of the surround, integrated over the source and the voxels that touch '
            'it. It depends little on the resolution.',
            'ppm mm^3',
        ),
        'R2star_mean': (f'Mean R2* {half}.', '1/s'),
        'R2star_surround': ('Median R2* of the shell.', '1/s'),
        'vesselness': (
            'Largest vesselness (0 to 1) of the tree of veins in the source and the shell; 0 where no vein '
            'is near.',
            None,
        ),
        'strength': (
            'p / (p + h), where p is the height of the peak and h that of the veins of this person or 5 '
            'standard deviations of the tissue, whichever is more (for calcifications the latter).',
            None,
        ),
        'isolation': (
            '1 less the largest contrast of either sign in the shell over the height of the peak.',
            None,
        ),
        'roundness': ('Shortest over longest axis.', None),
        'apart': ('1 less the largest vesselness of the tree of veins in the source itself.', None),
        'decay': (
            'r / (r + 3 s), where r is R2star_mean less R2star_surround and s the spread of R2* in the '
            'shell; n/a without R2*.',
            None,
        ),
        'reference': ('Region whose susceptibility is zero.', None),
    }
    return {
        name: {'Description': text, **({'Units': units} if units else {})}
        for name, (text, units) in columns.items()
    }
