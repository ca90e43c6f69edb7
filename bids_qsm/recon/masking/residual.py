"""Correction of a mask by the residual of the field fit."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import cut_necks, landlocked, not_empty
from bids_qsm.recon.noise import DEAD


def refine(
    mask: Array, residual: Array, noise: Array, grid: Grid, *, limit: float = 30.0, opening_mm: float = 1.0
):
    """Remove the rim and the end slices of a mask where the fit of the field failed; enclosed voxels stay.

    The fit of a voxel failed where its residual is larger than noise explains (1 / 3 rad, as echoes of less
    than three times the noise do not count), or where the noise of its field is more than ``limit`` times the
    median over the mask. Such voxels are removed where they are connected with the outside (by more than a
    chain of veins, see `landlocked`), and so are parts that are then connected by a neck of less than twice
    ``opening_mm``.

    A slice at either end of the mask, along any axis, is removed as a whole where the field of most of its
    voxels cannot be trusted (see `trusted`), and so is then the next one: the others share the cause.

    Parameters
    ----------
    mask : ndarray of bool, shape (x, y, z)
    residual, noise : ndarray of float32, shape (x, y, z)
        Root mean square residual (rad) and standard deviation (ppm) of the field.

    Returns
    -------
    ndarray of bool, shape (x, y, z)
        ``mask`` itself where no voxel of the rim is bad.
    """
    not_empty(mask, 'it')
    bad = mask & ((residual > 1 / DEAD) | (noise > limit * np.median(noise[mask])))
    box = Box.around(mask, grid, padding=4 * max(grid.voxel_size))
    inside = box.crop(mask)
    ends = _failed_ends(inside, inside & ~box.crop(trusted(mask, residual, noise)))
    pieces, _ = ndimage.label(box.crop(bad) | ends | ~inside)
    # the padded corner lies outside
    dropped = inside & (pieces == pieces[0, 0, 0])
    dropped &= ~landlocked(dropped, inside, grid)
    if not dropped.any():
        return mask
    refined = box.uncrop(cut_necks(inside & ~dropped, grid, opening_mm))
    not_empty(refined, 'the mask')
    return refined


def trusted(mask: Array, residual: Array, noise: Array, *, limit: float = 6.0):
    """Voxels whose field was fitted well: misfit within noise, and noise near that of the mask.

    The residual is at most 1 / 3 rad (echoes of less than three times the noise do not count), the noise at
    most ``limit`` times its median over ``mask``.
    """
    return (noise > 0) & (residual <= 1 / DEAD) & (noise <= limit * np.median(noise[mask]))


def _failed_ends(mask: Array, failed: Array):
    """Slices of ``mask`` from either end of each axis up to the first of which half or less has failed."""
    ends = np.zeros_like(mask)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        lost = failed.sum(others) > 0.5 * mask.sum(others)
        held = np.flatnonzero(mask.any(others) & ~lost)
        if held.size:
            away = np.ones(mask.shape[axis], bool)
            away[held[0] : held[-1] + 1] = False
            ends |= away.reshape([-1 if a == axis else 1 for a in range(3)])
    return ends & mask
