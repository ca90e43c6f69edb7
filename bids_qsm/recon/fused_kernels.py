"""Fused element-wise kernels of the solvers: compiled for NumPy, array expressions for other libraries.

Differences are periodic and forward; ``inverse`` holds 1 / spacing of the three axes.
"""

import numba
import numpy as np
from numba.extending import overload

from bids_qsm.recon.arrays import Array, either, namespace


@numba.njit(cache=True)
def add_up(sums: Array):
    """Sums of the two columns, row by row, so that they do not depend on the number of threads."""
    first, second = 0.0, 0.0
    for i in range(sums.shape[0]):
        first += sums[i, 0]
        second += sums[i, 1]
    return first, second


def _here(threshold: float | Array, i: int, j: int, k: int):
    """Threshold at a voxel, whether one holds for all or each has its own."""
    return threshold[i, j, k] if isinstance(threshold, np.ndarray) else np.float32(threshold)


@overload(_here, inline='always')
def _here_compiled(threshold: float | Array, i: int, j: int, k: int):  # noqa: ARG001
    # numba wants the same names in all of them
    def each(threshold: float | Array, i: int, j: int, k: int):
        return threshold[i, j, k]

    def one(threshold: float | Array, i: int, j: int, k: int):  # noqa: ARG001
        return np.float32(threshold)

    return each if isinstance(threshold, numba.types.Array) else one


@numba.njit(cache=True, parallel=True, fastmath=True)
def _step_gradient(
    x: Array, vector: Array, inverse: tuple[float, float, float], threshold: float | Array, relax: float
):
    """One step of ADMM of ``vector``, the sum of gradient and dual at each voxel, in place.

    Shrinking a vector v by ``threshold`` splits it into the dual, c v with c = min(1, threshold / |v|), and
    the shrunk gradient, (1 - c) v; so v is the whole state. ``relax`` is the over-relaxation, 1 to 2.
    ``threshold`` is one for all voxels, or an array of float32.
    """
    nx, ny, nz = x.shape
    relax = np.float32(relax)
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    for i in numba.prange(nx):
        up = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            right = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                far = k + 1 if k + 1 < nz else 0
                here = x[i, j, k]
                a, b, c = vector[0, i, j, k], vector[1, i, j, k], vector[2, i, j, k]
                cut = _cut(a, b, c, _here(threshold, i, j, k))
                # dual + (1 - relax) * shrunk gradient
                keep = cut + (np.float32(1) - relax) * (np.float32(1) - cut)
                vector[0, i, j, k] = keep * a + relax * (x[up, j, k] - here) * p
                vector[1, i, j, k] = keep * b + relax * (x[i, right, k] - here) * q
                vector[2, i, j, k] = keep * c + relax * (x[i, j, far] - here) * r


@numba.njit(cache=True, fastmath=True, inline='always')
def _cut(a: float, b: float, c: float, threshold: float):
    """Share c of a vector that shrinking removes."""
    square = a * a + b * b + c * c
    return threshold / np.sqrt(square) if square > threshold * threshold else np.float32(1)


def _step_gradient_any(
    x: Array, vector: Array, inverse: tuple[float, float, float], threshold: float | Array, relax: float
):
    xp = namespace(x)
    cut = _cut_any(vector, threshold)
    vector *= cut + (1 - relax) * (1 - cut)
    for axis, inv in enumerate(inverse):
        vector[axis] += relax * float(inv) * (xp.roll(x, -1, axis=axis) - x)


def _cut_any(vector: Array, threshold: float | Array):
    xp = namespace(vector)
    norm = xp.sqrt(xp.sum(vector * vector, axis=0))
    threshold = xp.zeros_like(norm) + threshold
    return threshold / xp.maximum(norm, threshold)


step_gradient = either(_step_gradient, _step_gradient_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _pull(vector: Array, out: Array, inverse: tuple[float, float, float], threshold: float | Array):
    """Divergence of the target of the next gradient, (1 - 2 c) v of `step_gradient`, into ``out``."""
    nx, ny, nz = out.shape
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    one, two = np.float32(1), np.float32(2)
    a, b, c = vector[0], vector[1], vector[2]
    for i in numba.prange(nx):
        for j in range(ny):
            before = one - two * _cut(a[i, j, -1], b[i, j, -1], c[i, j, -1], _here(threshold, i, j, -1))
            before *= c[i, j, -1]
            for k in range(nz):
                # index -1 wraps around, as the forward differences do
                here = one - two * _cut(a[i, j, k], b[i, j, k], c[i, j, k], _here(threshold, i, j, k))
                t = _here(threshold, i - 1, j, k)
                low = one - two * _cut(a[i - 1, j, k], b[i - 1, j, k], c[i - 1, j, k], t)
                t = _here(threshold, i, j - 1, k)
                left = one - two * _cut(a[i, j - 1, k], b[i, j - 1, k], c[i, j - 1, k], t)
                along = here * c[i, j, k]
                out[i, j, k] = (
                    (low * a[i - 1, j, k] - here * a[i, j, k]) * p
                    + (left * b[i, j - 1, k] - here * b[i, j, k]) * q
                    + (before - along) * r
                )
                before = along


def _pull_any(vector: Array, out: Array, inverse: tuple[float, float, float], threshold: float | Array):
    _divergence_any((1 - 2 * _cut_any(vector, threshold)) * vector, out, inverse)


pull = either(_pull, _pull_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _divergence(vector: Array, out: Array, inverse: tuple[float, float, float]):
    """Adjoint of periodic forward differences, into ``out``."""
    nx, ny, nz = out.shape
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                # index -1 wraps around, as the forward differences do
                out[i, j, k] = (
                    (vector[0, i - 1, j, k] - vector[0, i, j, k]) * p
                    + (vector[1, i, j - 1, k] - vector[1, i, j, k]) * q
                    + (vector[2, i, j, k - 1] - vector[2, i, j, k]) * r
                )


def _divergence_any(vector: Array, out: Array, inverse: tuple[float, float, float]):
    xp = namespace(out)
    out[...] = sum(
        (xp.roll(vector[axis], 1, axis=axis) - vector[axis]) * float(inv) for axis, inv in enumerate(inverse)
    )


divergence = either(_divergence, _divergence_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _gradient(x: Array, out: Array, inverse: tuple[float, float, float]):
    """Periodic forward differences of ``x`` along the three axes, into ``out``."""
    nx, ny, nz = x.shape
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    for i in numba.prange(nx):
        up = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            right = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                far = k + 1 if k + 1 < nz else 0
                here = x[i, j, k]
                out[0, i, j, k] = (x[up, j, k] - here) * p
                out[1, i, j, k] = (x[i, right, k] - here) * q
                out[2, i, j, k] = (x[i, j, far] - here) * r


def _gradient_any(x: Array, out: Array, inverse: tuple[float, float, float]):
    xp = namespace(x)
    for axis, inv in enumerate(inverse):
        out[axis] = (xp.roll(x, -1, axis=axis) - x) * float(inv)


gradient = either(_gradient, _gradient_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _change(x: Array, previous: Array):
    """Squared norms of ``x - previous`` and of ``x``."""
    nx, ny, nz = x.shape
    sums = np.zeros((nx, 2))
    for i in numba.prange(nx):
        change, size = 0.0, 0.0
        for j in range(ny):
            for k in range(nz):
                change += np.float64(x[i, j, k] - previous[i, j, k]) ** 2
                size += np.float64(x[i, j, k]) ** 2
        sums[i, 0], sums[i, 1] = change, size
    return add_up(sums)


def _change_any(x: Array, previous: Array):
    xp = namespace(x)
    return float(xp.sum((x - previous) ** 2)), float(xp.sum(x * x))


change = either(_change, _change_any)
