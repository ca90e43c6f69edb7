"""A mask mended by what the fit of the field left over."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import cut_necks, not_empty
from bids_qsm.recon.noise import DEAD


def refine(
    mask: Array, residual: Array, noise: Array, grid: Grid, *, limit: float = 30.0, opening_mm: float = 1.0
):
    """Take off the rim of a mask where the fit of the field went wrong; enclosed spots stay.

    A voxel is bad where its residual is more than the noise of any echo that counts in the fit can make
    (1 / 3 rad, for those of less than three times the noise do not count), or where the noise of its field
    is more than ``limit`` times the median over the mask. Bad voxels that hang together with the outside
    are dropped, and what then hangs on by a neck of less than twice ``opening_mm``.

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
    pieces, _ = ndimage.label(box.crop(bad) | ~inside)
    # the padded corner lies outside
    dropped = inside & (pieces == pieces[0, 0, 0])
    if not dropped.any():
        return mask
    refined = box.uncrop(cut_necks(inside & ~dropped, grid, opening_mm))
    not_empty(refined, 'the mask')
    return refined
