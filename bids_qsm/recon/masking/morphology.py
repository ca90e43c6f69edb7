"""Closing, opening and filling of masks, in mm."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.distance import depth
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid

SPOT_ML = 2.0
"""Largest enclosed hole (ml) to fill where the mask may surround the sinuses."""

PIECE_ML = 0.5
"""Least size of a loose piece of a mask (ml) that is taken for a part of the brain."""

WAY_MM = 10.0
"""Least width of a way by which signal loss at the rim of the brain reaches inwards; sinuses are thinner."""

DEEP_MM = 10.0
"""Depth in the brain up to which any bad phase that is open to the outside belongs to the rim."""


def clean(mask: Array, grid: Grid, closing_mm: float, hole_ml: float, opening_mm: float):
    """Close gaps, fill holes, cut necks, keep the largest piece; see `fill` and `cut_necks`."""
    not_empty(mask, 'it')
    # twice the reach of either step, so that zeros surround the mask
    reach = max(closing_mm / 2, opening_mm, *grid.voxel_size)
    box = Box.around(mask, grid, padding=4 * (reach + max(grid.voxel_size)))
    filled = fill(box.crop(mask), grid, max(closing_mm / 2, *grid.voxel_size), hole_ml)
    return box.uncrop(cut_necks(filled, grid, opening_mm))


def landlocked(lost: Array, brain: Array, grid: Grid):
    """The part of ``lost``, deep in the brain, to which no wide way leads from the outside through ``lost``.

    Veins, whose phase is bad too, may join a pallidum full of iron with the straight sinus. Signal loss above
    the sinuses of the skull is as wide at the rim as it is deep. A way is wide where a ball larger than
    `WAY_MM` fits.
    """
    largest_step = max(grid.voxel_size)
    reach = max(WAY_MM, largest_step) / 2
    box = Box.around(brain, grid, padding=4 * (reach + largest_step))
    inside, gone = box.crop(brain), box.crop(lost)
    pieces, _ = ndimage.label(erode(~inside | gone, grid, reach))
    # the first voxels that the end of the box does not erode lie in the padding
    outside = pieces == pieces[tuple(int(reach / v) for v in grid.voxel_size)]
    deep = depth(inside, grid.voxel_size, DEEP_MM + largest_step) > DEEP_MM
    # one voxel more, as a ball does not fit into corners
    return box.uncrop(gone & deep & ~dilate(outside, grid, reach + largest_step))


def dilate(mask: Array, grid: Grid, reach: float):
    """Voxels whose centres lie within ``reach`` (mm) of one in ``mask``; the caller pads."""
    return depth(~mask, grid.voxel_size, reach + max(grid.voxel_size)) <= reach


def erode(mask: Array, grid: Grid, reach: float):
    """Voxels farther than ``reach`` (mm) from all voxels outside ``mask`` and from the end of the volume."""
    return depth(mask, grid.voxel_size, reach + max(grid.voxel_size)) > reach


def fill(mask: Array, grid: Grid, reach: float, hole_ml: float):
    """Close gaps narrower than twice the ``reach`` (mm) and enclosed holes of up to ``hole_ml``."""
    # dilate, erode, and keep the mask itself
    closed = erode(dilate(mask, grid, reach), grid, reach) | mask
    holes, count = ndimage.label(~closed)
    if count > 1:
        sizes = np.bincount(holes.ravel())
        small = sizes * grid.voxel_volume <= 1000 * hole_ml
        small[0] = False
        # the outside contains the corner of the padded box
        small[holes[0, 0, 0]] = False
        closed |= small[holes]
    return closed


def cut_necks(mask: Array, grid: Grid, opening_mm: float):
    """Cut necks thinner than twice ``opening_mm``, keep the largest piece."""
    core = erode(mask, grid, opening_mm)
    if not core.any():
        return largest(mask)
    return mask & dilate(largest(core), grid, opening_mm + max(grid.voxel_size) / 2)


def largest(mask: Array):
    """Largest connected piece."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1


def without_specks(mask: Array, grid: Grid):
    """``mask`` without its loose pieces of less than PIECE_ML, or 1 % of the largest piece if that is less.

    Where no speck is, ``mask`` itself. Parts that background removal has cut off, such as the cerebellum or
    the tip of a lobe, stay.
    """
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = sizes >= min(1000 * PIECE_ML / grid.voxel_volume, 0.01 * sizes.max())
    return mask if kept[1:].all() else kept[pieces]


def spread_out(data: Array, known: Array):
    """Give what is not ``known`` the value of the nearest voxel that is, by count of voxels.

    >>> spread_out(np.array([5, 0, 0, 7]), np.array([True, False, False, True])).tolist()
    [5, 5, 7, 7]
    """
    if known.all() or not known.any():
        return data
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return data[tuple(nearest)]


def not_empty(mask: Array, name: str):
    if not mask.any():
        raise UserError(
            f'The mask is empty: no voxel of {name} has usable signal and phase; '
            'check the images, or choose another mask with --mask.'
        )
