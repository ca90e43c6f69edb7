"""Minimum-intensity projection over a sliding slab."""

from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid


def minip(swi: Array, grid: Grid, *, thickness_mm: float = 10.0):
    """Minimum over a slab of ``thickness_mm`` that slides along the slices, the axis of the thickest voxels.

    Of equally thick axes the last is taken. Shape and grid stay those of ``swi``.
    """
    axis = max(range(3), key=lambda a: (round(grid.voxel_size[a], 3), a))
    slices = max(round(thickness_mm / grid.voxel_size[axis]), 1)
    return ndimage.minimum_filter1d(swi, slices, axis=axis, mode='nearest')
