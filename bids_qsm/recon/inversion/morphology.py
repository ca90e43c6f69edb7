"""Total variation without penalty at the edges of another image.

The kernels are compiled without ``fastmath``: with it, the run that compiles them differed in the last bit
from later runs, which load them from Numba's cache. It made nothing faster here.
"""

from collections.abc import Sequence

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, namespace, to_numpy
from bids_qsm.recon.fused_kernels import divergence


def smooth_places(magnitude: Array, inside: Array, spacing: Sequence[float], edges: float):
    """Where a forward difference counts as smooth: bool (3, x, y, z), NumPy.

    The steepest differences between two voxels of the mask, a share of ``edges``, are edges. All others
    count, also those that leave the mask: without a penalty there, sources outside would explain much of the
    field.
    """
    magnitude, inside = to_numpy(magnitude), to_numpy(inside)
    smooth = np.ones((3, *magnitude.shape), bool)
    if edges > 0:
        slopes, both = [], []
        for axis, step in enumerate(spacing):
            both.append(inside & np.roll(inside, -1, axis))
            slope = np.roll(magnitude, -1, axis) - magnitude
            slopes.append(np.abs(slope[both[-1]]) / np.float32(step))
        known = np.concatenate(slopes)
        steep = np.quantile(known, 1 - edges, overwrite_input=True)
        for part, pair, slope in zip(smooth, both, slopes, strict=True):
            part[pair] = slope <= steep
    return smooth


@numba.njit(cache=True, inline='always')
def _cut(vector: Array, smooth: Array, i: int, j: int, k: int, threshold: float):
    """Share of the smooth components of a vector that shrinking removes."""
    total = np.float32(0)
    for axis in range(3):
        part = vector[axis, i, j, k] if smooth[axis, i, j, k] else np.float32(0)
        total += part * part
    return threshold / np.sqrt(total) if total > threshold * threshold else np.float32(1)


@numba.njit(cache=True, parallel=True)
def _step_smooth_compiled(
    x: Array, vector: Array, smooth: Array, inverse: Sequence[float], threshold: float, relax: float
):
    """`fused_kernels.step_gradient` with a penalty on the ``smooth`` components of the gradient alone."""
    nx, ny, nz = x.shape
    threshold, relax = np.float32(threshold), np.float32(relax)
    one = np.float32(1)
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    for i in numba.prange(nx):
        up = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            right = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                far = k + 1 if k + 1 < nz else 0
                here = x[i, j, k]
                cut = _cut(vector, smooth, i, j, k, threshold)
                # dual + (1 - relax) * shrunk gradient; an edge has no dual
                keep, edge = cut + (one - relax) * (one - cut), one - relax
                a = vector[0, i, j, k] * (keep if smooth[0, i, j, k] else edge)
                b = vector[1, i, j, k] * (keep if smooth[1, i, j, k] else edge)
                c = vector[2, i, j, k] * (keep if smooth[2, i, j, k] else edge)
                vector[0, i, j, k] = a + relax * (x[up, j, k] - here) * p
                vector[1, i, j, k] = b + relax * (x[i, right, k] - here) * q
                vector[2, i, j, k] = c + relax * (x[i, j, far] - here) * r


def _step_smooth_any(
    x: Array, vector: Array, smooth: Array, inverse: Sequence[float], threshold: float, relax: float
):
    xp = namespace(x)
    cut = _cut_any(vector, smooth, threshold)
    vector *= cut + (1 - relax) * (1 - cut)
    for axis, inv in enumerate(inverse):
        vector[axis] += relax * float(inv) * (xp.roll(x, -1, axis=axis) - x)


def _cut_any(vector: Array, smooth: Array, threshold: float):
    """Share that shrinking removes of each component, 0 at edges."""
    xp = namespace(vector)
    norm = xp.sqrt(xp.sum((vector * smooth) ** 2, axis=0))
    return smooth * (threshold / xp.clip(norm, threshold, None))


step_smooth = either(_step_smooth_compiled, _step_smooth_any)


@numba.njit(cache=True, inline='always')
def _target(vector: Array, smooth: Array, axis: int, i: int, j: int, k: int, threshold: float):
    cut = _cut(vector, smooth, i, j, k, threshold)
    share = np.float32(1) - np.float32(2) * cut if smooth[axis, i, j, k] else np.float32(1)
    return share * vector[axis, i, j, k]


@numba.njit(cache=True, parallel=True)
def _pull_smooth_compiled(
    vector: Array, smooth: Array, out: Array, inverse: Sequence[float], threshold: float
):
    """Divergence of the target of the next gradient into ``out``, as `fused_kernels.pull`."""
    nx, ny, nz = out.shape
    threshold = np.float32(threshold)
    p, q, r = np.float32(inverse[0]), np.float32(inverse[1]), np.float32(inverse[2])
    one, two = np.float32(1), np.float32(2)
    for i in numba.prange(nx):
        for j in range(ny):
            before = _target(vector, smooth, 2, i, j, nz - 1, threshold)
            for k in range(nz):
                share = one - two * _cut(vector, smooth, i, j, k, threshold)
                a = vector[0, i, j, k] * (share if smooth[0, i, j, k] else one)
                b = vector[1, i, j, k] * (share if smooth[1, i, j, k] else one)
                c = vector[2, i, j, k] * (share if smooth[2, i, j, k] else one)
                # index -1 wraps around, as the forward differences do
                low = _target(vector, smooth, 0, i - 1, j, k, threshold)
                left = _target(vector, smooth, 1, i, j - 1, k, threshold)
                out[i, j, k] = (low - a) * p + (left - b) * q + (before - c) * r
                before = c


def _pull_smooth_any(vector: Array, smooth: Array, out: Array, inverse: Sequence[float], threshold: float):
    divergence((1 - 2 * _cut_any(vector, smooth, threshold)) * vector, out, inverse)


pull_smooth = either(_pull_smooth_compiled, _pull_smooth_any)
