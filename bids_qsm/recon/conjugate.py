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
        Symmetric positive approximation of the inverse of ``apply``; it must not change its argument.
    tolerance : float
        Stop when the residual, in the norm of ``precondition``, falls to this share of its first value.

    Returns
    -------
    array
        x, of the type of ``right``.

    References
    ----------
    .. [1] Hestenes & Stiefel (1952), J Res Natl Bur Stand 49:409. doi:10.6028/jres.049.044
    """
    r, x = right, 0 * right
    z = r if precondition is None else precondition(r)
    p = namespace(right).asarray(z, copy=True)
    rz = start = dot(r, z)
    for _ in range(max_iterations):
        if not rz > tolerance**2 * start:
            break
        Ap = apply(p)
        pAp = dot(p, Ap)
        if not pAp > 0:
            # rounding errors dominate: the residual cannot become smaller
            break
        _step(x, r, p, Ap, rz / pAp)
        z = r if precondition is None else precondition(r)
        previous, rz = rz, dot(r, z)
        _turn(p, z, rz / previous)
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
def _step_compiled(x: Array, r: Array, p: Array, Ap: Array, alpha: float):
    """Add alpha p to x and take alpha Ap off the residual r, in place."""
    alpha = np.float32(alpha)
    for i in numba.prange(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                x[i, j, k] += alpha * p[i, j, k]
                r[i, j, k] -= alpha * Ap[i, j, k]


def _step_any(x: Array, r: Array, p: Array, Ap: Array, alpha: float):
    x += alpha * p
    r -= alpha * Ap


_step = either(_step_compiled, _step_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _turn_compiled(p: Array, z: Array, beta: float):
    """New search direction z + beta p, in place of p."""
    beta = np.float32(beta)
    for i in numba.prange(p.shape[0]):
        for j in range(p.shape[1]):
            for k in range(p.shape[2]):
                p[i, j, k] = z[i, j, k] + beta * p[i, j, k]


def _turn_any(p: Array, z: Array, beta: float):
    p *= beta
    p += z


_turn = either(_turn_compiled, _turn_any)
