"""The grid that a network sees: a box around the mask, with its voxel size and B0 along its third axis."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.plugins.manifest import Manifest, Triple
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import spread_out

NEAR_SIZE = 0.02
"""Relative difference of voxel sizes up to which nothing is resampled."""
NEAR_ANGLE = 1.0
"""Angle (degrees) of B0 to an axis up to which nothing is turned."""


@dataclass(frozen=True)
class Frame:
    """A box of a volume, perhaps turned and resampled, and the way there and back.

    Attributes
    ----------
    order, flips : tuple
        Axis of the volume that each axis of the box follows, and whether it runs backwards.
    grid : Grid
        Of the box: shape, voxel size, direction of B0.
    matrix, offset : ndarray
        From indices of the box to those of the volume whose axes were put in order.
    """

    source: Grid
    order: Triple
    flips: tuple[bool, bool, bool]
    grid: Grid
    matrix: np.ndarray
    offset: np.ndarray

    @property
    def is_resampled(self) -> bool:
        return not np.array_equal(self.matrix, np.eye(3))

    def into(self, values: np.ndarray, mask: np.ndarray, *, order: int = 3) -> np.ndarray:
        """An image (float32) on the grid of the box, 0 outside the mask; ``order`` is that of the splines.

        Order 1 stays within the values of neighbours, as noise must, which is very large in some voxels.
        """
        inside, box_mask = self._ordered(mask), self.mask_into(mask)
        values = self._ordered(values)
        if not self.is_resampled:
            return np.where(box_mask, self._crop(values.astype(np.float32)), 0)
        ratio = np.array(self.grid.voxel_size) / np.array(_ordered_sizes(self.source, self.order))
        # a voxel averages over its size: what becomes coarser is smoothed by as much
        sigma = np.sqrt(np.maximum(ratio**2 - 1, 0) / 12)
        # the edge of the mask is no step for interpolation
        filled = spread_out(values.astype(np.float32), inside)
        if sigma.any():
            filled = ndimage.gaussian_filter(filled, sigma)
        return np.where(box_mask, self._sample(filled, self.matrix, self.offset, self.grid.shape, order), 0)

    def mask_into(self, mask: np.ndarray) -> np.ndarray:
        """A mask (bool) on the grid of the box."""
        inside = self._ordered(mask)
        if not self.is_resampled:
            return self._crop(inside)
        return (
            ndimage.affine_transform(
                inside.astype(np.float32), self.matrix, self.offset, self.grid.shape, order=1
            )
            > 0.5
        )

    def out(self, values: np.ndarray, box_mask: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A result (float32) on the grid of the volume, 0 outside its mask."""
        shape = tuple(self.source.shape[axis] for axis in self.order)
        if self.is_resampled:
            back = np.linalg.inv(self.matrix)
            found = self._sample(
                spread_out(values.astype(np.float32), box_mask), back, -back @ self.offset, shape, 3
            )
        else:
            found = np.zeros(shape, np.float32)
            inner, outer = self._overlap(shape)
            found[outer] = values[inner]
        found = found[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return np.where(mask, np.ascontiguousarray(found.transpose(np.argsort(self.order))), 0)

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        return values.transpose(self.order)[
            tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        ]

    def _crop(self, values: np.ndarray) -> np.ndarray:
        found = np.zeros(self.grid.shape, values.dtype)
        inner, outer = self._overlap(values.shape)
        found[inner] = values[outer]
        return found

    def _overlap(self, shape: tuple[int, ...]):
        """Slices of the box, and of the volume, of what they share."""
        inner, outer = [], []
        for start, size, length in zip(self.offset.astype(int), self.grid.shape, shape, strict=True):
            first, last = max(start, 0), min(start + size, length)
            inner.append(slice(first - start, last - start))
            outer.append(slice(first, last))
        return tuple(inner), tuple(outer)

    def _sample(
        self,
        values: np.ndarray,
        matrix: np.ndarray,
        offset: np.ndarray,
        shape: tuple[int, ...],
        order: int,
    ):
        spline = ndimage.spline_filter(values, order, np.float32, mode='nearest') if order > 1 else values
        return ndimage.affine_transform(
            spline, matrix, offset, shape, np.float32, order=order, mode='nearest', prefilter=False
        )


def frame_of(manifest: Manifest, grid: Grid, mask: np.ndarray, margin: int) -> Frame:
    """The grid on which the network of a plug-in works on what lies in ``mask``.

    It ends ``margin`` voxels outside the mask or later, and its sizes are multiples that the tiles ask for.
    """
    order: Triple = (0, 1, 2)
    flips, turn, b0 = (False, False, False), np.eye(3), np.array(grid.b0_dir)
    if manifest.b0 == 'axial':
        nearest = int(np.argmax(np.abs(b0)))
        first, second = (axis for axis in range(3) if axis != nearest)
        order = (first, second, nearest)
        flips = (False, False, bool(b0[nearest] < 0))
        b0 = b0[list(order)]
        b0[2] = abs(b0[2])
        if np.degrees(np.arccos(min(b0[2], 1.0))) > NEAR_ANGLE:
            turn = _turn_to(b0)
        b0 = np.array([0.0, 0.0, 1.0])
    sizes = np.array(_ordered_sizes(grid, order))
    wanted = sizes if manifest.resample_mm is None else np.array(manifest.resample_mm)
    if np.all(np.abs(wanted / sizes - 1) <= NEAR_SIZE):
        wanted = sizes
    is_same = wanted is sizes and np.array_equal(turn, np.eye(3))
    matrix = np.eye(3) if is_same else np.diag(1 / sizes) @ turn @ np.diag(wanted)
    ordered = mask.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    places = _corners(ordered) @ np.linalg.inv(matrix).T
    multiple = manifest.tile.multiple
    first = np.floor(places.min(0) + 1e-6).astype(int) - margin
    last = np.ceil(places.max(0) - 1e-6).astype(int) + margin
    least = manifest.tile.size or (1, 1, 1)
    shape = np.maximum(-(-(last - first + 1) // multiple) * multiple, least)
    return Frame(
        grid,
        order,
        flips,
        Grid(tuple(int(n) for n in shape), tuple(float(v) for v in wanted), tuple(float(b) for b in b0)),
        matrix,
        matrix @ first,
    )


def _ordered_sizes(grid: Grid, order: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(grid.voxel_size[axis] for axis in order)


def _turn_to(direction: np.ndarray) -> np.ndarray:
    """The least rotation that takes the third axis to ``direction``."""
    axis = np.cross([0.0, 0.0, 1.0], direction)
    skew = np.cross(np.eye(3), axis)
    return np.eye(3) + skew + skew @ skew / (1 + direction[2])


def _corners(mask: np.ndarray) -> np.ndarray:
    """Corners of the surface of a mask: the voxels that are first or last along the first axis."""
    columns = mask.any(0)
    first, last = mask.argmax(0)[columns], mask.shape[0] - 1 - mask[::-1].argmax(0)[columns]
    others = np.argwhere(columns)
    return np.concatenate([np.column_stack([ends, others]) for ends in (first, last)]).astype(float)
