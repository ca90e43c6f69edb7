"""Orthonormal wavelet transform of Daubechies with four vanishing moments, periodic, in three dimensions."""

import numba
import numpy as np

LOW = np.array(
    [
        0.23037781330885523,
        0.7148465705525415,
        0.6308807679295904,
        -0.02798376941698385,
        -0.18703481171888114,
        0.030841381835986965,
        0.032883011666982945,
        -0.010597401784997278,
    ],
    np.float32,
)
"""Filter of scaling: Daubechies (1988), Commun Pure Appl Math 41:909, doi:10.1002/cpa.3160410705."""
HIGH = (LOW[::-1] * (-1.0) ** np.arange(8)).astype(np.float32)


def analyse(volume: np.ndarray, levels: int):
    """Coefficients in place of ``volume`` (float32), whose sizes are multiples of ``2 ** levels``.

    The first half of each axis holds the coarser volume, as often as there are levels.
    """
    for level in range(levels):
        part = tuple(slice(0, n >> level) for n in volume.shape)
        coarse = np.ascontiguousarray(volume[part])
        for axis in range(3):
            coarse = _along(_split, coarse, axis)
        volume[part] = coarse
    return volume


def synthesise(coefficients: np.ndarray, levels: int):
    """Inverse of `analyse`, in place."""
    for level in reversed(range(levels)):
        part = tuple(slice(0, n >> level) for n in coefficients.shape)
        fine = np.ascontiguousarray(coefficients[part])
        for axis in range(3):
            fine = _along(_join, fine, axis)
        coefficients[part] = fine
    return coefficients


def _along(step: numba.core.dispatcher.Dispatcher, volume: np.ndarray, axis: int):
    before = int(np.prod(volume.shape[:axis]))
    flat = volume.reshape(before, volume.shape[axis], -1)
    out = np.empty_like(flat)
    step(flat, out, LOW, HIGH)
    return out.reshape(volume.shape)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _split(x: np.ndarray, out: np.ndarray, low: np.ndarray, high: np.ndarray):
    n = x.shape[1]
    for i in numba.prange(x.shape[0]):
        for k in range(n // 2):
            for c in range(x.shape[2]):
                smooth = detail = np.float32(0)
                for m in range(8):
                    value = x[i, (2 * k + m) % n, c]
                    smooth += low[m] * value
                    detail += high[m] * value
                out[i, k, c], out[i, n // 2 + k, c] = smooth, detail


@numba.njit(cache=True, parallel=True, fastmath=True)
def _join(x: np.ndarray, out: np.ndarray, low: np.ndarray, high: np.ndarray):
    n = x.shape[1]
    for i in numba.prange(x.shape[0]):
        for k in range(n // 2):
            # the two samples that start at 2 k get four pairs of coefficients each
            for c in range(x.shape[2]):
                even = odd = np.float32(0)
                for m in range(4):
                    at = (k - m) % (n // 2)
                    smooth, detail = x[i, at, c], x[i, n // 2 + at, c]
                    even += low[2 * m] * smooth + high[2 * m] * detail
                    odd += low[2 * m + 1] * smooth + high[2 * m + 1] * detail
                out[i, 2 * k, c], out[i, 2 * k + 1, c] = even, odd
