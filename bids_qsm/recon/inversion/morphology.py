"""Total variation without penalty at the edges of another image."""

from collections.abc import Sequence

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, namespace, to_numpy


def smooth_places(magnitude: Array, inside: Array, spacing: Sequence[float], edges: float):
    """Where a forward difference counts as smooth: bool (3, x, y, z), NumPy.

    The steepest differences between two voxels of the mask, a share of ``edges``, are edges. All others count,
    also those that leave the mask: without a penalty there, sources outside would explain much of the field.
    """
    magnitude, inside = to_numpy(magnitude), to_numpy(inside)
    slopes, both = np.empty((3, *magnitude.shape), np.float32), np.empty((3, *magnitude.shape), bool)
    for axis, step in enumerate(spacing):
        slopes[axis] = np.abs(np.roll(magnitude, -1, axis) - magnitude) / np.float32(step)
        both[axis] = inside & np.roll(inside, -1, axis)
    steep = np.quantile(slopes[both], 1 - edges) if edges > 0 else np.inf
    return (slopes <= steep) | ~both


@numba.njit(cache=True, parallel=True, fastmath=True)
def _shrink_compiled(
    x: Array, dual: Array, target: Array, regular: Array, inverse: Sequence[float], threshold: float
):
    """Shrink the components of ``grad x + dual`` that are ``regular``, in place.

    ``dual`` becomes the part that is cut off, ``target`` the shrunk vector minus ``dual``.
    """
    nx, ny, nz = x.shape
    threshold, relax = np.float32(threshold), np.float32(1.8)
    keep = np.float32(1) - relax
    inverse = (np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2]))
    for i in numba.prange(nx):
        up = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            right = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                far = k + 1 if k + 1 < nz else 0
                here = x[i, j, k]
                a, b, c = dual[0, i, j, k], dual[1, i, j, k], dual[2, i, j, k]
                a += relax * (x[up, j, k] - here) * inverse[0] + keep * (target[0, i, j, k] + a)
                b += relax * (x[i, right, k] - here) * inverse[1] + keep * (target[1, i, j, k] + b)
                c += relax * (x[i, j, far] - here) * inverse[2] + keep * (target[2, i, j, k] + c)
                p = a if regular[0, i, j, k] else np.float32(0)
                q = b if regular[1, i, j, k] else np.float32(0)
                r = c if regular[2, i, j, k] else np.float32(0)
                norm = np.sqrt(p * p + q * q + r * r)
                cut = threshold / norm if norm > threshold else np.float32(1)
                dual[0, i, j, k] = cut * p
                dual[1, i, j, k] = cut * q
                dual[2, i, j, k] = cut * r
                target[0, i, j, k] = a - np.float32(2) * cut * p
                target[1, i, j, k] = b - np.float32(2) * cut * q
                target[2, i, j, k] = c - np.float32(2) * cut * r


def _shrink_any(
    x: Array, dual: Array, target: Array, regular: Array, inverse: Sequence[float], threshold: float
):
    xp = namespace(x)
    for axis, inv in enumerate(inverse):
        slope = (xp.roll(x, -1, axis=axis) - x) * float(inv)
        dual[axis] += 1.8 * slope - 0.8 * (target[axis] + dual[axis])
    target[...] = dual
    dual *= regular
    norm = xp.sqrt(xp.sum(dual * dual, axis=0))
    dual *= float(threshold) / xp.clip(norm, float(threshold), None)
    target -= 2 * dual


shrink_smooth = either(_shrink_compiled, _shrink_any)
