"""Conjugate gradients on arrays of any library."""

from collections.abc import Callable

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, namespace
from bids_qsm.recon.fused_kernels import add_up


def conjugate_gradient(
    apply: Callable,
    right: Array,
    *,
    tolerance: float,
    max_iterations: int,
    precondition: Callable | None = None,
):
    """Solve ``apply(x) = right`` for a symmetric positive semi-definite operator [1]_.

    Parameters
    ----------
    apply : callable
        Returns a new array, or one that it may overwrite at its next call.
    right : array, 3D
        Overwritten.
    precondition : callable, optional
        Symmetric positive approximation of the inverse of ``apply``; it must leave its argument alone.
    tolerance : float
        Stop when the residual, in the norm of ``precondition``, falls to this share of where it began.

    Returns
    -------
    array
        x, of the type of ``right``; 0 where ``right`` is 0 throughout.

    References
    ----------
    .. [1] Hestenes & Stiefel (1952), J Res Natl Bur Stand 49:409. doi:10.6028/jres.049.044
    """
    residual, x = right, 0 * right
    better = residual if precondition is None else precondition(residual)
    way = namespace(right).asarray(better, copy=True)
    height = start = dot(residual, better)
    for _ in range(max_iterations):
        if not height > tolerance**2 * start:
            break
        image = apply(way)
        curvature = dot(way, image)
        if not curvature > 0:
            # rounding has the last word: no way down is left
            break
        _step(x, residual, way, image, height / curvature)
        better = residual if precondition is None else precondition(residual)
        previous, height = height, dot(residual, better)
        _turn(way, better, height / previous)
    return x


@numba.njit(cache=True, parallel=True, fastmath=True)
def _dot_compiled(a: Array, b: Array):
    """Inner product, summed in double precision."""
    sums = np.zeros((a.shape[0], 2))
    for i in numba.prange(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                total += np.float64(a[i, j, k]) * np.float64(b[i, j, k])
        sums[i, 0] = total
    return add_up(sums)[0]


def _dot_any(a: Array, b: Array):
    xp = namespace(a)
    return float(xp.sum(a * b, dtype=xp.float64))


dot = either(_dot_compiled, _dot_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _step_compiled(x: Array, residual: Array, way: Array, image: Array, length: float):
    """Go ``length`` along ``way``, in place."""
    length = np.float32(length)
    for i in numba.prange(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                x[i, j, k] += length * way[i, j, k]
                residual[i, j, k] -= length * image[i, j, k]


def _step_any(x: Array, residual: Array, way: Array, image: Array, length: float):
    x += length * way
    residual -= length * image


_step = either(_step_compiled, _step_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _turn_compiled(way: Array, better: Array, share: Array):
    """Turn ``way`` to ``better`` plus its ``share`` of before, in place."""
    share = np.float32(share)
    for i in numba.prange(way.shape[0]):
        for j in range(way.shape[1]):
            for k in range(way.shape[2]):
                way[i, j, k] = better[i, j, k] + share * way[i, j, k]


def _turn_any(way: Array, better: Array, share: Array):
    way *= share
    way += better


_turn = either(_turn_compiled, _turn_any)
