"""Where the field is measured: the mask, and what lies round it with signal."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import dilate, not_empty
from bids_qsm.recon.masking.quality import valley
from bids_qsm.recon.noise import DEAD


def widen(mask: Array, quality: Array, grid: Grid, *, reach_mm: float = 3.0):
    """The mask and what lies within ``reach_mm`` of it, or a voxel, with good phase: where to fit the field.

    Fluid, meninges and vessels round the brain have a phase of their own. Background removal loses the rim
    of what it is given; given these too, it does not lose the rim of the brain.

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
    # the end of the padded box is as good as the mask to `dilate`, and must lie out of reach of the region
    box = Box.around(mask, grid, padding=2 * (margin + max(grid.voxel_size)), margin=margin)
    near = box.uncrop(dilate(box.crop(mask), grid, reach_mm))
    return mask | (near & (quality > valley(quality[mask])))


def support(mask: Array, wide: Array, residual: Array, noise: Array, *, limit: float = 6.0):
    """The part of ``wide`` beyond the mask where the fit of the field went well, and the mask.

    Well is a residual that the noise of the echoes that count can make (1 / 3 rad, for those of less than
    three times the noise do not count), and a noise of at most ``limit`` times the median in the mask. Specks
    and threads of one voxel are left out, and what does not hang together with the mask.

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
    trusted = wide & (noise > 0) & (residual <= 1 / DEAD) & (noise <= limit * np.median(noise[mask]))
    whole = mask | ndimage.binary_opening(mask | trusted)
    pieces, _ = ndimage.label(whole)
    # pieces that hold some of the mask
    held = np.zeros(pieces.max() + 1, bool)
    held[np.unique(pieces[mask])] = True
    return held[pieces]
