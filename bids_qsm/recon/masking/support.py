"""The support of the field: the mask, and voxels around it with signal."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import dilate, not_empty
from bids_qsm.recon.masking.quality import valley
from bids_qsm.recon.masking.residual import trusted


def widen(mask: Array, quality: Array, grid: Grid, *, reach_mm: float = 3.0):
    """The mask plus voxels of good phase within ``reach_mm`` (or one voxel) of it: where to fit the field.

    Fluid, meninges and vessels around the brain have a usable phase. Background removal loses the rim of its
    mask; with these voxels added, it does not lose the rim of the brain.

    Parameters
    ----------
    mask : ndarray of bool, shape (x, y, z)
    quality : ndarray of float32, shape (x, y, z)
        Reliability of the phase, 0 to 1.

    Returns
    -------
    ndarray of bool, shape (x, y, z)
    """
    not_empty(mask, 'it')
    reach_mm = max(reach_mm, *grid.voxel_size)
    margin = reach_mm + max(grid.voxel_size)
    # `dilate` takes the end of the padded box for the mask: it must be out of reach of the region
    box = Box.around(mask, grid, padding=2 * (margin + max(grid.voxel_size)), margin=margin)
    near = box.uncrop(dilate(box.crop(mask), grid, reach_mm))
    return mask | (near & (quality > valley(quality[mask])))


def support(mask: Array, wide: Array, residual: Array, noise: Array):
    """The mask plus the voxels of ``wide`` where the fit of the field succeeded, see `trusted`.

    Specks and threads of one voxel are left out, and so are pieces that are not connected with the mask.

    Parameters
    ----------
    mask, wide : ndarray of bool, shape (x, y, z)
        The mask, and `widen` of it.
    residual, noise : ndarray of float32, shape (x, y, z)
        Root mean square residual (rad) and standard deviation (ppm) of the field.

    Returns
    -------
    ndarray of bool, shape (x, y, z)
    """
    not_empty(mask, 'it')
    whole = mask | ndimage.binary_opening(mask | (wide & trusted(mask, residual, noise)))
    pieces, _ = ndimage.label(whole)
    # pieces that contain part of the mask
    held = np.zeros(pieces.max() + 1, bool)
    held[np.unique(pieces[mask])] = True
    return held[pieces]
