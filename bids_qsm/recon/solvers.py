"""Iterative solvers: they take callables and arrays, and know no physics."""

import numba
import numpy as np


def total_variation(
    least_squares, shape, spacing, *, weight: float, penalty: float, tolerance: float, max_iterations: int
):
    r"""Minimise a quadratic plus isotropic total variation by (over-relaxed) ADMM [1]_.

    .. math:: \min_x E(x) + \lambda \sum |\nabla x|, \quad z = \nabla x

    Parameters
    ----------
    least_squares : callable
        Takes :math:`\nabla^T q`, returns the minimiser of :math:`E(x) + \mu/2 |\nabla x - q|^2`,
        where :math:`\mu` is ``penalty``. It may itself keep the state of a splitting of E.
    shape, spacing : tuple
        Of x, and the step along each axis (mm).
    weight : float
        :math:`\lambda`.
    tolerance : float
        Stop when an iteration changes x by less than this share of its norm.

    Returns
    -------
    ndarray of float32

    References
    ----------
    .. [1] Boyd et al. (2010), Found Trends Mach Learn 3:1. doi:10.1561/2200000016
    """
    dual = np.zeros((3, *shape), np.float32)
    target = np.zeros((3, *shape), np.float32)
    pull = np.zeros(shape, np.float32)
    inverse = tuple(np.float32(1 / h) for h in spacing)
    x = least_squares(pull)
    for _ in range(max_iterations):
        shrink(x, dual, target, inverse, np.float32(weight / penalty), np.float32(1.8))
        divergence(target, pull, inverse)
        previous, x = x, least_squares(pull)
        change, size = _change(x.ravel(), previous.ravel())
        if change <= tolerance**2 * size:
            break
    return x


@numba.njit(cache=True, fastmath=True)
def _change(x, previous):
    change, size = 0.0, 0.0
    for i in range(x.size):
        change += np.float64(x[i] - previous[i]) ** 2
        size += np.float64(x[i]) ** 2
    return change, size


@numba.njit(cache=True, parallel=True, fastmath=True)
def shrink(x, dual, target, inverse, threshold, relax):
    """Shrink the vector ``grad x + dual`` at each voxel, in place.

    On return ``dual`` is the part cut off and ``target`` the shrunk vector minus ``dual``, which the next
    least-squares step approaches.
    """
    nx, ny, nz = x.shape
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


@numba.njit(cache=True, parallel=True, fastmath=True)
def divergence(vector, out, inverse):
    """Adjoint of periodic forward differences (``inverse`` holds 1 / spacing), into ``out``."""
    nx, ny, nz = out.shape
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                # index -1 wraps around, as the forward differences do
                out[i, j, k] = (
                    (vector[0, i - 1, j, k] - vector[0, i, j, k]) * inverse[0]
                    + (vector[1, i, j - 1, k] - vector[1, i, j, k]) * inverse[1]
                    + (vector[2, i, j, k - 1] - vector[2, i, j, k]) * inverse[2]
                )
