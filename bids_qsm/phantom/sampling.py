"""Resampling of template-space volumes through pose and warp onto any grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np


@dataclass(frozen=True)
class Warp:
    """Smooth displacement (mm) added to template coordinates: nodes (i, j, k, 3) on a regular lattice."""

    nodes: np.ndarray
    origin: np.ndarray
    spacing: float


@dataclass(frozen=True)
class Volume:
    """Channels (x, y, z, channel) on an isotropic lattice along the axes of template space (mm).

    Their values are ``data`` times ``unit``.
    """

    data: np.ndarray
    origin: np.ndarray
    spacing: float
    unit: float = 1.0

    def points(self, axis: int):
        """Template coordinates (mm) of the lattice along one axis."""
        return self.origin[axis] + self.spacing * np.arange(self.data.shape[axis])


def near(volume: Volume, centre: Sequence[float] | np.ndarray, reach: Sequence[float] | np.ndarray):
    """Box of the lattice around ``centre`` and the coordinates (x, y, z, 3) of its nodes."""
    box, points = [], []
    for k in range(3):
        low = max(int((centre[k] - reach[k] - volume.origin[k]) / volume.spacing), 0)
        high = min(int((centre[k] + reach[k] - volume.origin[k]) / volume.spacing) + 2, volume.data.shape[k])
        box.append(slice(low, high))
        points.append(volume.origin[k] + volume.spacing * np.arange(low, high))
    return tuple(box), np.stack(np.meshgrid(*points, indexing='ij'), -1)


@numba.njit(cache=True)
def _warped(
    i: int,
    j: int,
    k: int,
    matrix: np.ndarray,
    nodes: np.ndarray,
    origin: np.ndarray,
    spacing: float,
    out: np.ndarray,
):
    """Template coordinates of voxel (i, j, k): affine, then displacement by trilinear interpolation."""
    x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
    y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
    z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
    u = min(max((x - origin[0]) / spacing, 0.0), nodes.shape[0] - 1.001)
    v = min(max((y - origin[1]) / spacing, 0.0), nodes.shape[1] - 1.001)
    w = min(max((z - origin[2]) / spacing, 0.0), nodes.shape[2] - 1.001)
    a, b, c = int(u), int(v), int(w)
    fu, fv, fw = u - a, v - b, w - c
    out[0], out[1], out[2] = x, y, z
    for da in range(2):
        wa = fu if da else 1 - fu
        for db in range(2):
            wb = wa * (fv if db else 1 - fv)
            for dc in range(2):
                weight = wb * (fw if dc else 1 - fw)
                for n in range(3):
                    out[n] += weight * nodes[a + da, b + db, c + dc, n]


@numba.njit(cache=True, parallel=True)
def _coordinates(
    shape: tuple[int, ...], matrix: np.ndarray, nodes: np.ndarray, origin: np.ndarray, spacing: float
):
    result = np.empty((shape[0], shape[1], shape[2], 3), np.float32)
    for i in numba.prange(shape[0]):
        point = np.empty(3)
        for j in range(shape[1]):
            for k in range(shape[2]):
                _warped(i, j, k, matrix, nodes, origin, spacing, point)
                for n in range(3):
                    result[i, j, k, n] = point[n]
    return result


@numba.njit(cache=True)
def _interpolate(
    point: np.ndarray,
    data: np.ndarray,
    origin: np.ndarray,
    spacing: float,
    channels: np.ndarray,
    total: np.ndarray,
):
    """Trilinear interpolation; False outside the volume. Its lowest plane continues below it."""
    u = (point[0] - origin[0]) / spacing
    v = (point[1] - origin[1]) / spacing
    w = max((point[2] - origin[2]) / spacing, 0.0)
    if u < 0 or v < 0 or u >= data.shape[0] - 1 or v >= data.shape[1] - 1 or w >= data.shape[2] - 1:
        return False
    a, b, c = int(u), int(v), int(w)
    fu, fv, fw = np.float32(u - a), np.float32(v - b), np.float32(w - c)
    total.fill(0)
    one = np.float32(1)
    for da in range(2):
        wa = fu if da else one - fu
        for db in range(2):
            wb = wa * (fv if db else one - fv)
            for dc in range(2):
                weight = wb * (fw if dc else one - fw)
                for n in range(len(channels)):
                    total[n] += weight * data[a + da, b + db, c + dc, channels[n]]
    return True


@numba.njit(cache=True, parallel=True)
def _pull(
    shape: tuple[int, ...],
    matrix: np.ndarray,
    warp: tuple,
    volume: tuple,
    channels: np.ndarray,
    outside: np.ndarray,
    veins: tuple,
):
    nodes, origin, spacing = warp
    data, place, step = volume
    more, more_place, more_step, unit = veins
    count = len(channels)
    result = np.empty((count + 2, shape[0], shape[1], shape[2]), np.float32)
    for i in numba.prange(shape[0]):
        point = np.empty(3)
        total = np.empty(count, np.float32)
        extra = np.empty(2, np.float32)
        both = np.arange(2)
        for j in range(shape[1]):
            for k in range(shape[2]):
                _warped(i, j, k, matrix, nodes, origin, spacing, point)
                if not _interpolate(point, data, place, step, channels, total):
                    for n in range(count):
                        total[n] = outside[n]
                for n in range(count):
                    result[n, i, j, k] = total[n]
                inside = _interpolate(point, more, more_place, more_step, both, extra)
                for n in range(2):
                    result[count + n, i, j, k] = extra[n] * unit if inside else 0
    return result


@numba.njit(cache=True)
def _undo(
    points: np.ndarray, nodes: np.ndarray, origin: np.ndarray, spacing: float, still: np.ndarray, times: int
):
    found, reached = points.copy(), np.empty(3)
    for m in range(len(points)):
        at = found[m]
        for _ in range(times):
            _warped(at[0], at[1], at[2], still, nodes, origin, spacing, reached)
            for d in range(3):
                at[d] += points[m, d] - reached[d]
    return found


def undo(points: np.ndarray, warp: Warp):
    """Points (n, 3) (mm) that a warp moves to the given ones, by fixed-point iteration: it is smooth."""
    return _undo(points, warp.nodes, warp.origin, warp.spacing, np.eye(4), 8)


def coordinates(shape: tuple[int, ...], matrix: np.ndarray, warp: Warp):
    """Template coordinates (mm) of every voxel, shape (x, y, z, 3).

    ``matrix`` (4, 4) maps voxel indices to template space before the warp.
    """
    return _coordinates(tuple(shape), np.asarray(matrix, float), warp.nodes, warp.origin, warp.spacing)


def pull(
    shape: tuple[int, ...],
    matrix: np.ndarray,
    warp: Warp,
    volume: Volume,
    channels: Sequence[int],
    outside: Sequence[float],
    veins: Volume,
):
    """Sample ``channels`` of a volume, and last the two of veins, at every voxel: (channel + 2, x, y, z).

    Beyond the volume the values are those of ``outside``, one a channel, and no veins.
    """
    return _pull(
        tuple(shape),
        np.asarray(matrix, float),
        (warp.nodes, warp.origin, warp.spacing),
        (volume.data, volume.origin, volume.spacing),
        np.asarray(channels, np.int64),
        np.asarray(outside, np.float32),
        (veins.data, veins.origin, veins.spacing, np.float32(veins.unit)),
    )


@numba.njit(cache=True, parallel=True)
def _expand(volume: np.ndarray, starts: tuple, weights: tuple):
    """Apply banded matrices along the three axes, a plane of the result at a time."""
    (s0, s1, s2), (w0, w1, w2) = starts, weights
    out = np.empty((len(s0), len(s1), len(s2)), np.float32)
    for i in numba.prange(len(s0)):
        plane = np.zeros((volume.shape[1], volume.shape[2]), np.float32)
        for m in range(w0.shape[1]):
            for j in range(plane.shape[0]):
                for k in range(plane.shape[1]):
                    plane[j, k] += w0[i, m] * volume[s0[i] + m, j, k]
        row = np.empty(volume.shape[2], np.float32)
        for j in range(len(s1)):
            row.fill(0)
            for m in range(w1.shape[1]):
                for k in range(len(row)):
                    row[k] += w1[j, m] * plane[s1[j] + m, k]
            for k in range(len(s2)):
                total = np.float32(0)
                for m in range(w2.shape[1]):
                    total += w2[k, m] * row[s2[k] + m]
                out[i, j, k] = total
    return out


def _band(basis: np.ndarray):
    """First column and values of the band of a matrix that is not negligible."""
    matters = np.abs(basis) > 1e-5
    start = matters.argmax(1)
    width = int((basis.shape[1] - matters[:, ::-1].argmax(1) - start).max())
    start = np.minimum(start, basis.shape[1] - width)
    values = np.take_along_axis(basis, start[:, None] + np.arange(width), 1)
    return start, np.ascontiguousarray(values, np.float32)


def expand(volume: np.ndarray, bases: Iterable[np.ndarray]):
    """Apply one banded matrix (n_out, n_in) along each axis of a volume: separable interpolation."""
    starts, weights = zip(*(_band(basis) for basis in bases), strict=True)
    return _expand(np.ascontiguousarray(volume, np.float32), starts, weights)


def spline_basis(at: np.ndarray, size: int):
    """Matrix that evaluates a quadratic B-spline of ``size`` coefficients at the indices ``at``."""
    d = np.abs(at[:, None] - np.arange(size))
    return np.where(d < 0.5, 0.75 - d**2, 0.5 * np.maximum(1.5 - d, 0) ** 2)
