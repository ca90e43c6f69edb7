"""What the search for focal sources reads: contrasts over a brain, its iron-rich nuclei, veins and voids."""

import numpy as np
from scipy import ndimage

from bids_qsm.biomarkers.moment import darkness, void
from bids_qsm.biomarkers.vesselness import vein_tree, vesselness
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

NOTCH_MM = 6.0
"""Half the width (mm) of the notches at the edge of the mask that belong to the brain."""
WIDE_MM = 16.0
"""Reach (mm) of the tissue that large foci are compared with."""
FAR_MM = 20.0
"""Distances (mm) are measured up to this."""


class Brain:
    """Contrast and spread of susceptibility and R2* over a brain, its iron-rich nuclei, veins and voids.

    Parameters
    ----------
    chi, r2star, magnitude : ndarray of float32, or None but for chi
        (ppm, 1/s, any unit).
    mask : ndarray of bool
    dseg : ndarray of int
    grid : Grid
    """

    def __init__(
        self,
        chi: np.ndarray,
        r2star: np.ndarray | None,
        magnitude: np.ndarray | None,
        mask: np.ndarray,
        dseg: np.ndarray,
        grid: Grid,
    ):
        self.chi, self.mask, self.grid = chi, mask, grid
        self.size = np.array(grid.voxel_size)
        # strong sources leave holes and notches in the mask, which are not the edge of the brain
        self.whole = closed(mask, grid, NOTCH_MM)
        self.nuclei = iron_rich(chi, mask, dseg)
        tissue = mask & ~self.nuclei
        self.contrast, self.spread = tissue_contrast(chi, tissue, grid)
        self.contrast[~mask] = 0
        # a large focus fills the tissue that it is compared with
        self.wide_contrast, self.wide_spread = tissue_contrast(chi, tissue, grid, reach_mm=WIDE_MM)
        self.wide_contrast[~mask] = 0
        tubes = vesselness(chi, mask, grid)
        self.tree = vein_tree(tubes, self.contrast / self.spread, tissue, grid)
        self.tubes = tubes * self.tree
        self.vein_level = _high(self.contrast[self.tree])
        self.nuclei_level = _high(self.contrast[self.nuclei])
        self.r2star = None
        if r2star is not None and (mask & (r2star > 0)).any():
            inside = self.whole & (r2star > 0)
            self.r2star = np.where(inside, r2star, np.nan)
            self.decay, self.decay_spread = tissue_contrast(r2star, tissue & inside, grid)
            self.decay[~inside] = 0
        self.dark = None if magnitude is None else darkness(magnitude, mask, grid)
        self.lost = void(magnitude, r2star, mask, grid)
        self.to_edge = depth(self.whole, grid.voxel_size, FAR_MM)
        self.to_vein = away(self.tree, grid)
        self.to_nucleus = away(self.nuclei, grid)


def away(region: np.ndarray, grid: Grid):
    """Distance (mm) to a region, at most `FAR_MM`."""
    if not region.any():
        return np.full(region.shape, FAR_MM, np.float32)
    found = ndimage.distance_transform_edt(~region, sampling=grid.voxel_size)
    return np.minimum(found, FAR_MM).astype(np.float32)


def closed(mask: np.ndarray, grid: Grid, reach_mm: float):
    """Fill the holes of a mask, and its notches up to twice ``reach_mm`` wide."""
    pad = np.ceil(reach_mm / np.array(grid.voxel_size)).astype(int) + 1
    wide = np.pad(mask, [(n, n) for n in pad])
    near = away(wide, grid) <= reach_mm
    filled = depth(near, grid.voxel_size, reach_mm + 1) > reach_mm
    inner = tuple(slice(n, -n) for n in pad)
    return ndimage.binary_fill_holes(filled[inner] | mask)


def iron_rich(chi: np.ndarray, mask: np.ndarray, dseg: np.ndarray):
    """Voxels of regions whose median exceeds that of the brain by more than its spread."""
    values = chi[mask]
    middle = np.median(values)
    limit = middle + 1.4826 * np.median(np.abs(values - middle))
    present = np.unique(dseg[mask & (dseg > 0)])
    medians = ndimage.median(chi, np.where(mask, dseg, 0), present) if present.size else []
    return np.isin(dseg, present[np.asarray(medians) > limit])


def tissue_contrast(values: np.ndarray, tissue: np.ndarray, grid: Grid, *, reach_mm: float = 8.0):
    """Values relative to the surrounding tissue, and the spread of that tissue.

    Both are computed over a cube of twice ``reach_mm``. Values are clipped at two standard deviations, which
    limits the effect of veins and lesions.

    Returns
    -------
    contrast, spread : ndarray of float32
        In the unit of the values. The spread is a standard deviation.
    """
    size = [2 * int(np.ceil(reach_mm / v)) + 1 for v in grid.voxel_size]
    inside = tissue.astype(np.float32)

    def mean(values: np.ndarray):
        return ndimage.uniform_filter(np.where(tissue, values, 0).astype(np.float32), size) / weight

    weight = np.maximum(ndimage.uniform_filter(inside, size), 1e-3)
    level = mean(values)
    spread = np.sqrt(np.maximum(mean((values - level) ** 2), 0))
    for _ in range(4):
        off = values - level
        level = level + mean(np.clip(off, -2 * spread, 2 * spread))
        # a normal distribution keeps 92 % of its variance when clipped at two standard deviations
        kept = mean(np.minimum((values - level) ** 2, 4 * spread**2))
        spread = np.sqrt(np.maximum(kept, 0) / 0.9205)
    return (values - level).astype(np.float32), np.maximum(spread, 1e-6).astype(np.float32)


def _high(values: np.ndarray):
    return float(np.quantile(values, 0.9)) if values.size else 0.0
