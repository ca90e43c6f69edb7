"""Cerebrospinal fluid of the ventricles, a reference of susceptibility."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid


def ventricles(
    mask: Array,
    r2star: Array,
    grid: Grid,
    *,
    ratio: float = 0.35,
    reach_mm: float = 35.0,
    below_mm: float = 5.0,
    min_ml: float = 3.0,
    max_ml: float = 120.0,
):
    """Fluid of the lateral ventricles, found by low R2* near the centre of the brain [1]_.

    Fluid is where smoothed R2* is below ``ratio`` times its median over the mask, so that the limit follows
    the field strength (the paper takes 5/s at 3 T). Pieces must lie within ``reach_mm`` of the centroid of
    the mask, and at most ``below_mm`` below it (the cisterns lie lower). The largest piece is kept, and
    others of a fifth of its size or more (the other ventricle). Their rim, of partial volume, is left out
    where at least a fifth of the voxels remains, and ENOUGH voxels.

    The lateral ventricles of an adult hold 5 ml and more. Fluid of less than ``min_ml``, rim included, is
    plexus, a cistern or noise of R2*, and fluid of more than ``max_ml`` is no ventricle.

    Parameters
    ----------
    mask : ndarray of bool
    r2star : ndarray of float32
        R2* (1/s); voxels without one do not count.

    Returns
    -------
    region : ndarray of bool
        Empty where there is no such fluid, or no plausible amount.
    found : str
        What was found, as '1.2 ml of fluid near the centre, where 3 to 120 ml is plausible'.

    References
    ----------
    .. [1] Liu et al. (2018), MRM 79:2795. doi:10.1002/mrm.26946
    """
    mask = mask & (r2star > 0)
    if not mask.any():
        return mask, 'no R2* in the mask'
    weight = ndimage.gaussian_filter(mask.astype(np.float32), [0.7 / v for v in grid.voxel_size])
    smooth = ndimage.gaussian_filter(np.where(mask, r2star, 0), [0.7 / v for v in grid.voxel_size])
    smooth /= np.maximum(weight, 0.01)
    centre = ndimage.center_of_mass(mask)
    away = [
        ((np.arange(n) - c) * v).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, c, v) in enumerate(zip(mask.shape, centre, grid.voxel_size, strict=True))
    ]
    # B0 of a supine subject points to the head
    height = sum(np.float32(b) * a for b, a in zip(grid.b0_dir, away, strict=True))
    near = (sum(a**2 for a in away) < reach_mm**2) & (height > -below_mm)
    fluid = mask & near & (smooth < ratio * np.median(r2star[mask]))
    pieces, _ = ndimage.label(fluid)
    sizes = np.bincount(pieces.ravel(), minlength=2)
    sizes[0] = 0
    region = fluid & (sizes >= 0.2 * sizes.max())[pieces]
    ml = region.sum() * grid.voxel_volume / 1000
    found = f'{ml:.1f} ml of fluid near the centre'
    if not min_ml <= ml <= max_ml:
        return np.zeros_like(fluid), f'{found}, where {min_ml:g} to {max_ml:g} ml is plausible'
    core = ndimage.binary_erosion(region)
    return (core if core.sum() >= max(0.2 * region.sum(), ENOUGH) else region), found


ENOUGH = 100
"""Voxels whose mean is steady: at a spread of .03 ppm, as on heads of 3 mm, to .003 ppm."""
