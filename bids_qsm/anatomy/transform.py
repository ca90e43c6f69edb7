"""Point transforms in scanner space (RAS, mm) and single-interpolation resampling through them.

A transform is a 4x4 matrix or a `Displacement`. A list of transforms is applied first to last to the
world points of the reference image, and ends at world points of the moving image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.recon.arrays import Array

_SLAB_POINTS = 1_000_000


@dataclass(frozen=True)
class Displacement:
    """A map x -> x + u(x): vectors u (x, y, z, 3; RAS, mm; float32) on the grid of ``affine``.

    Between grid points u is trilinear; outside the grid it keeps the value of the nearest edge.
    """

    field: np.ndarray
    affine: np.ndarray

    def __post_init__(self):
        if self.field.ndim != 4 or self.field.shape[3] != 3:
            raise ValueError(f'a displacement field has shape (x, y, z, 3), not {self.field.shape}')


@njit(cache=True, parallel=True)
def _displace(points: Array, field: Array, world_to_voxel: Array):
    """Move points (n, 3; world) in place by the trilinear interpolation of ``field``."""
    last = np.array([field.shape[0] - 1, field.shape[1] - 1, field.shape[2] - 1])
    for p in prange(points.shape[0]):
        base = np.empty(3, np.int64)
        part = np.empty(3, np.float64)
        for d in range(3):
            c = world_to_voxel[d, 3]
            for e in range(3):
                c += world_to_voxel[d, e] * points[p, e]
            c = min(max(c, 0.0), float(last[d]))
            base[d] = min(int(c), max(last[d] - 1, 0))
            part[d] = c - base[d]
        shift = np.zeros(3, np.float64)
        for i in range(2):
            wi = part[0] if i else 1 - part[0]
            x = min(base[0] + i, last[0])
            for j in range(2):
                wij = wi * (part[1] if j else 1 - part[1])
                y = min(base[1] + j, last[1])
                for k in range(2):
                    w = wij * (part[2] if k else 1 - part[2])
                    z = min(base[2] + k, last[2])
                    for d in range(3):
                        shift[d] += w * field[x, y, z, d]
        for d in range(3):
            points[p, d] += shift[d]


@njit(cache=True, parallel=True)
def _map_points(points: Array, matrix: Array):
    """Apply a 4x4 matrix to points (n, 3) in place (ten times faster than numpy's product)."""
    for p in prange(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        for d in range(3):
            points[p, d] = matrix[d, 0] * x + matrix[d, 1] * y + matrix[d, 2] * z + matrix[d, 3]


@njit(cache=True, parallel=True)
def _grid_points(start: int, stop: int, ny: int, nz: int, matrix: Array):
    points = np.empty(((stop - start) * ny * nz, 3))
    for i in prange(stop - start):
        x = float(start + i)
        for j in range(ny):
            for k in range(nz):
                p = (i * ny + j) * nz + k
                for d in range(3):
                    points[p, d] = matrix[d, 0] * x + matrix[d, 1] * j + matrix[d, 2] * k + matrix[d, 3]
    return points


@njit(cache=True, parallel=True)
def _sample(volume: Array, points: Array, cval: float):
    """Trilinear interpolation at voxel coordinates (n, 3); ``cval`` more than half a voxel outside."""
    out = np.empty(points.shape[0], np.float32)
    nx, ny, nz = volume.shape
    for p in prange(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        if not (-0.5 < x < nx - 0.5 and -0.5 < y < ny - 0.5 and -0.5 < z < nz - 0.5):
            out[p] = cval
            continue
        x = min(max(x, 0.0), nx - 1.0)
        y = min(max(y, 0.0), ny - 1.0)
        z = min(max(z, 0.0), nz - 1.0)
        i, j, k = int(x), int(y), int(z)
        a, b, c = min(i + 1, nx - 1), min(j + 1, ny - 1), min(k + 1, nz - 1)
        u, v, w = x - i, y - j, z - k
        low = (1 - v) * (volume[i, j, k] * (1 - w) + volume[i, j, c] * w) + v * (
            volume[i, b, k] * (1 - w) + volume[i, b, c] * w
        )
        high = (1 - v) * (volume[a, j, k] * (1 - w) + volume[a, j, c] * w) + v * (
            volume[a, b, k] * (1 - w) + volume[a, b, c] * w
        )
        out[p] = low * (1 - u) + high * u
    return out


def spacing_of(affine: Array):
    """Sides (mm) of the voxels of an image.

    >>> spacing_of(np.diag([1.0, 1, 2, 1])).tolist()
    [1.0, 1.0, 2.0]
    """
    return np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(0))


def apply_affine(matrix: Array, points: Array):
    """Apply a 4x4 matrix to points (n, 3).

    >>> apply_affine(np.diag([2.0, 1, 1, 1]), [[1, 2, 3]]).tolist()
    [[2.0, 2.0, 3.0]]
    """
    points = np.array(points, np.float64, order='C')
    _map_points(points, np.ascontiguousarray(matrix, dtype=np.float64))
    return points


def rms_motion(matrix: Array, points: Array) -> float:
    """Root mean square (mm) of how far a matrix (4, 4) moves points (n, 3).

    >>> rms_motion(np.array([[1, 0, 0, 3], [0, 1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1.0]]), np.zeros((2, 3)))
    5.0
    """
    return float(np.sqrt(((apply_affine(matrix, points) - points) ** 2).sum(1).mean()))


def transform_points(points: Array, transforms: Sequence[Array | Displacement]):
    """Apply ``transforms`` to world points (n, 3), first to last.

    >>> transform_points(np.zeros((1, 3)), [np.diag([1., 1, 1, 1])]).tolist()
    [[0.0, 0.0, 0.0]]
    """
    points = np.array(points, np.float64, order='C')
    for transform in transforms:
        if isinstance(transform, Displacement):
            field = np.ascontiguousarray(transform.field, dtype=np.float32)
            _displace(points, field, np.linalg.inv(transform.affine))
        else:
            _map_points(points, np.ascontiguousarray(transform, dtype=np.float64))
    return points


def grid_points(shape: tuple[int, ...], affine: Array, start: int = 0, stop: int | None = None):
    """World points (n, 3) of the voxels of a grid, of slices ``start`` to ``stop`` of its first axis."""
    stop = shape[0] if stop is None else stop
    return _grid_points(start, stop, shape[1], shape[2], np.ascontiguousarray(affine, dtype=np.float64))


def _slabs(shape: tuple[int, ...]):
    """Ranges of slices along the first axis that hold about `_SLAB_POINTS` voxels each."""
    step = max(1, _SLAB_POINTS // (shape[1] * shape[2]))
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _voxels(
    moving_affine: Array,
    shape: tuple[int, ...],
    affine: Array,
    transforms: list[Array | Displacement],
    slab: tuple[int, int],
):
    """Voxel coordinates (n, 3) in the moving image of one slab of the reference grid."""
    chain = [*transforms, np.linalg.inv(moving_affine)]
    return transform_points(grid_points(shape, affine, *slab), chain)


def _inside(voxels: Array, shape: tuple[int, ...]):
    """Which voxel coordinates (n, 3) lie in the image, or up to half a voxel beyond the outermost centres."""
    return ((voxels > -0.5) & (voxels < np.asarray(shape) - 0.5)).all(1)


def resample(
    moving: Array,
    moving_affine: Array,
    shape: tuple[int, ...],
    affine: Array,
    transforms: list[Array | Displacement],
    *,
    order: int = 1,
    cval: float = 0.0,
):
    """Resample a 3D image onto another grid through a chain of transforms, with one interpolation.

    ``out(x) = moving(T_n(... T_1(x)))`` for every voxel centre x of the reference grid.

    Parameters
    ----------
    moving : ndarray, 3D
        Image to resample; masks and integers are interpolated as float32.
    moving_affine, affine : ndarray (4, 4)
        Voxel to world of the moving image and of the reference grid.
    shape : tuple of 3 int
        Shape of the reference grid.
    transforms : sequence of ndarray (4, 4) or Displacement
        Applied in order to the reference's world points.
    order : int
        Spline order of the interpolation (1 linear, 3 cubic).
    cval : float
        Value outside the moving image.

    Returns
    -------
    ndarray of float32, shape ``shape``
    """
    moving = np.ascontiguousarray(moving, dtype=np.float32)
    if order > 1:
        moving = ndimage.spline_filter(moving, order, output=np.float32, mode='nearest')
    out = np.empty(shape, np.float32)
    for slab in _slabs(shape):
        at = _voxels(moving_affine, shape, affine, transforms, slab)
        if order == 1:
            values = _sample(moving, at, np.float32(cval))
        else:
            values = ndimage.map_coordinates(moving, at.T, order=order, mode='nearest', prefilter=False)
            values[~_inside(at, moving.shape)] = cval
        out[slab[0] : slab[1]] = values.reshape(-1, *shape[1:])
    return out


def resample_labels(
    labels: Array,
    moving_affine: Array,
    shape: tuple[int, ...],
    affine: Array,
    transforms: list[Array | Displacement],
):
    """Resample a label image: linear interpolation of each label, then the most likely label or background.

    Unlike nearest-neighbour sampling this keeps outlines smooth, and unlike a maximum over labels only it
    keeps their volume, as the background has the remaining probability.

    Parameters as in `resample`; returns an array of the labels' integer type.
    """
    labels = np.asarray(labels)
    boxes = ndimage.find_objects(labels.astype(np.int32))
    near = ndimage.binary_dilation(labels > 0, np.ones((3, 3, 3)))
    out = np.zeros(shape, labels.dtype)
    for slab in _slabs(shape):
        at = _voxels(moving_affine, shape, affine, transforms, slab)
        candidates = np.flatnonzero(_inside(at, labels.shape))
        candidates = candidates[near[tuple(np.rint(at[candidates]).astype(np.int32).T)]]
        at = at[candidates]
        best = np.zeros(candidates.size, labels.dtype)
        top = np.zeros(candidates.size, np.float32)
        total = np.zeros(candidates.size, np.float32)
        for value, box in enumerate(boxes, start=1):
            if box is None:
                continue
            low = np.array([max(s.start - 1, 0) for s in box])
            high = np.array([s.stop + 1 for s in box])
            some = np.flatnonzero(((at > low - 1) & (at < high)).all(1))
            part = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == value
            share = _sample(part.astype(np.float32), at[some] - low, np.float32(0))
            total[some] += share
            won = share > top[some]
            best[some[won]] = value
            top[some[won]] = share[won]
        best[top < 1 - total] = 0
        flat = np.zeros((slab[1] - slab[0]) * shape[1] * shape[2], labels.dtype)
        flat[candidates] = best
        out[slab[0] : slab[1]] = flat.reshape(-1, *shape[1:])
    return out


def compose(transforms: Sequence[Array | Displacement], shape: tuple[int, ...], affine: Array):
    """Write a chain of transforms as one `Displacement` sampled on a grid."""
    field = np.empty((*shape, 3), np.float32)
    for slab in _slabs(shape):
        points = grid_points(shape, affine, *slab)
        shift = transform_points(points, transforms) - points
        field[slab[0] : slab[1]] = shift.reshape(-1, *shape[1:], 3)
    return Displacement(field, np.asarray(affine, float))


def invert(
    displacement: Displacement,
    shape: tuple[int, ...],
    affine: Array,
    *,
    start: Displacement | None = None,
    iterations: int = 30,
    tolerance: float = 0.01,
):
    """Invert x -> x + u(x) by the fixed point v(y) = -u(y + v(y)), sampled on a grid.

    Parameters
    ----------
    displacement : Displacement
        A diffeomorphism whose u has a gradient below one (a map with a large affine part should be
        inverted without it).
    shape, affine
        Grid of the result.
    start : Displacement, optional
        First guess of v.
    iterations : int
        Largest number of iterations.
    tolerance : float
        Stop where the 99.9th percentile of the change of v falls below this (mm).

    References
    ----------
    Chen et al. (2008), Med Phys 35:81. doi:10.1118/1.2816107
    """
    out = np.empty((*shape, 3), np.float32)
    for slab in _slabs(shape):
        points = grid_points(shape, affine, *slab)
        moved = transform_points(points, [] if start is None else [start])
        for _ in range(iterations):
            step = points - transform_points(moved, [displacement])
            moved += step
            if np.percentile(np.abs(step), 99.9) < tolerance:
                break
        out[slab[0] : slab[1]] = (moved - points).reshape(-1, *shape[1:], 3)
    return Displacement(out, np.asarray(affine, float))


def regrid(shape: tuple[int, ...], affine: Array, spacing: float):
    """Shape and affine of a grid of the same extent and axes, with isotropic ``spacing`` (mm).

    >>> regrid((4, 4, 4), np.eye(4), 2.0)[0]
    (2, 2, 2)
    """
    affine = np.asarray(affine, float)
    size = spacing_of(affine)
    new_shape = np.maximum(np.ceil(np.asarray(shape[:3]) * size / spacing - 1e-6), 1).astype(int)
    ratio = spacing / size
    new = affine.copy()
    new[:3, :3] = affine[:3, :3] * ratio
    # both grids have the same centre
    middle = (np.asarray(shape[:3]) - 1) / 2 - (new_shape - 1) / 2 * ratio
    new[:3, 3] = apply_affine(affine, [middle])[0]
    return tuple(int(n) for n in new_shape), new
