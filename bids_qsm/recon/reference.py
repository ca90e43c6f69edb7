"""The zero of susceptibility: QSM finds differences, and a region has to be named as zero."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.grid import Grid


def csf(
    chi,
    mask,
    r2star,
    grid: Grid,
    *,
    r2star_ratio: float = 0.35,
    reach_mm: float = 35.0,
    below_mm: float = 5.0,
    min_ml: float = 0.5,
    max_ml: float = 80.0,
):
    """Mean over the fluid of the lateral ventricles, found by low R2* near the centre of the brain [1]_.

    Fluid is where smoothed R2* lies below ``r2star_ratio`` times its median over the mask, so the limit
    follows the field strength (the paper takes 5/s at 3 T). Of its pieces within ``reach_mm`` of the
    mask's centroid, and no more than ``below_mm`` under it (towards the feet, where the cisterns are), the
    largest is kept, and others of a fifth of its size or more (the other ventricle). Where the region has
    less than ``min_ml`` or more than ``max_ml``, or R2* is not given, the mean of the whole mask is used, and
    the note says so and why.

    Parameters
    ----------
    chi : ndarray of float32, shape ``grid.shape``
        Susceptibility (ppm).
    mask : ndarray of bool
    r2star : ndarray of float32 or None
        R2* (1/s).

    Returns
    -------
    offset : float
        Value (ppm) to subtract from ``chi``.
    region : ndarray of bool or None
        Where it was measured.
    name : str
        What the region is, for tables.
    note : str
        A sentence for the sidecar and the report.

    References
    ----------
    .. [1] Liu et al. (2018), MRM 79:2795. doi:10.1002/mrm.26946
    """
    if r2star is None:
        return _whole(chi, mask, 'there is no R2* map to find the ventricles by')
    region = _ventricles(mask, r2star, grid, r2star_ratio, reach_mm, below_mm)
    volume = region.sum() * grid.voxel_volume / 1000
    if not min_ml <= volume <= max_ml:
        return _whole(
            chi,
            mask,
            f'the fluid near the centre has {volume:.1f} ml where {min_ml:g} to {max_ml:g} ml is plausible',
        )
    offset = float(chi[region].mean(dtype=float))
    note = f'Susceptibility is relative to the fluid of the ventricles ({volume:.1f} ml, found by low R2*).'
    return offset, region, 'CSF', note


def brain(chi, mask):
    """Mean over the whole mask; returns as `csf`."""
    note = 'Susceptibility is relative to the mean of the whole brain mask.'
    return float(chi[mask].mean(dtype=float)), mask, 'whole brain', note


def none():
    """Take values as the inversion left them, whose mean over its volume is zero; returns as `csf`."""
    return 0.0, None, 'none', 'Susceptibility was not referenced to a region.'


def _whole(chi, mask, reason):
    offset, region, name, note = brain(chi, mask)
    return offset, region, name, f'{note} Reference to CSF was asked for, but {reason}.'


def _ventricles(mask, r2star, grid, ratio, reach, below):
    """Connected fluid near the centroid of ``mask``, less its partial-volume rim where enough is left."""
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
    near = (sum(a**2 for a in away) < reach**2) & (height > -below)
    fluid = mask & near & (smooth < ratio * np.median(r2star[mask]))
    pieces, count = ndimage.label(fluid)
    if count == 0:
        return fluid
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    region = (sizes >= 0.2 * sizes.max())[pieces]
    core = ndimage.binary_erosion(region)
    return core if core.sum() > 0.2 * region.sum() else region


REFERENCE = {'csf': csf, 'brain': brain, 'none': none}
