"""Minimum-intensity projection over a sliding slab."""

from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid


def minip(swi: Array, grid: Grid, *, thickness_mm: float = 10.0):
    """Minimum over a slab of ``thickness_mm`` that slides along the axis nearest to head-foot.

    That axis is B0's in a supine subject, whether the volume is stored in axial, coronal or sagittal slices,
    so that the slab is axial, as it is read. Shape and grid stay those of ``swi``.
    """
    axis = max(range(3), key=lambda a: (round(abs(grid.b0_dir[a]), 3), grid.voxel_size[a]))
    slices = max(round(thickness_mm / grid.voxel_size[axis]), 1)
    return ndimage.minimum_filter1d(swi, slices, axis=axis, mode='nearest')
