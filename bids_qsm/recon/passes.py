"""Fused element-wise passes that the solvers share: compiled for NumPy, array expressions for the rest.

Differences are periodic and forward; ``inverse`` holds 1 / spacing of the three axes.
"""

import numba
import numpy as np

from bids_qsm.recon.arrays import either, namespace


@numba.njit(cache=True, parallel=True, fastmath=True)
def _shrink(x, dual, target, inverse, threshold, relax):
    """Shrink the vector ``grad x + dual`` at each voxel, in place.

    On return ``dual`` is the part cut off and ``target`` the shrunk vector minus ``dual``, which the next
    least-squares step approaches. ``relax`` is the over-relaxation of ADMM, 1 to 2.
    """
    nx, ny, nz = x.shape
    relax, threshold = np.float32(relax), np.float32(threshold)
    inverse = (np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2]))
    for i in numba.prange(nx):
        up = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            right = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                far = k + 1 if k + 1 < nz else 0
                here = x[i, j, k]
                keep = np.float32(1) - relax
                a, b, c = dual[0, i, j, k], dual[1, i, j, k], dual[2, i, j, k]
                a += relax * (x[up, j, k] - here) * inverse[0] + keep * (target[0, i, j, k] + a)
                b += relax * (x[i, right, k] - here) * inverse[1] + keep * (target[1, i, j, k] + b)
                c += relax * (x[i, j, far] - here) * inverse[2] + keep * (target[2, i, j, k] + c)
                norm = np.sqrt(a * a + b * b + c * c)
                cut = threshold / norm if norm > threshold else np.float32(1)
                dual[0, i, j, k] = cut * a
                dual[1, i, j, k] = cut * b
                dual[2, i, j, k] = cut * c
                rest = np.float32(1) - np.float32(2) * cut
                target[0, i, j, k] = rest * a
                target[1, i, j, k] = rest * b
                target[2, i, j, k] = rest * c


def _shrink_any(x, dual, target, inverse, threshold, relax):
    xp = namespace(x)
    for axis, inv in enumerate(inverse):
        slope = (xp.roll(x, -1, axis=axis) - x) * float(inv)
        dual[axis] += relax * slope + (1 - relax) * (target[axis] + dual[axis])
    norm = xp.sqrt(xp.sum(dual * dual, axis=0))
    cut = float(threshold) / xp.maximum(norm, xp.full_like(norm, float(threshold)))
    target[...] = (1 - 2 * cut) * dual
    dual *= cut


shrink = either(_shrink, _shrink_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _divergence(vector, out, inverse):
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


def _divergence_any(vector, out, inverse):
    xp = namespace(out)
    out[...] = sum(
        (xp.roll(vector[axis], 1, axis=axis) - vector[axis]) * float(inv) for axis, inv in enumerate(inverse)
    )


divergence = either(_divergence, _divergence_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _gradient(x, out, inverse):
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


def _gradient_any(x, out, inverse):
    xp = namespace(x)
    for axis, inv in enumerate(inverse):
        out[axis] = (xp.roll(x, -1, axis=axis) - x) * float(inv)


gradient = either(_gradient, _gradient_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _change(x, previous):
    """Squared norms of ``x - previous`` and of ``x``."""
    nx, ny, nz = x.shape
    change, size = 0.0, 0.0
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                change += np.float64(x[i, j, k] - previous[i, j, k]) ** 2
                size += np.float64(x[i, j, k]) ** 2
    return change, size


def _change_any(x, previous):
    xp = namespace(x)
    return float(xp.sum((x - previous) ** 2)), float(xp.sum(x * x))


change = either(_change, _change_any)
