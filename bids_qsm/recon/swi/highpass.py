"""Susceptibility-weighted imaging as scanners do it, from one echo."""

import numpy as np
from numba import njit, prange

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box, convolve, frequencies
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(memory=Need(volume=2, echoes=4), prose='the homodyne high-pass filter [@highpass]')
def highpass(
    magnitude: Array, phase: Array, mask: Array, grid: Grid, *, width_mm: float = 8.0, power: int = 4
):
    r"""Weight the magnitude of the last echo by its homodyne high-pass filtered phase [1]_.

    .. math:: S = m \, p^n, \quad p = 1 - \phi / \pi \; (\phi > 0), \quad
              \phi = \arg\!\left( I / (H * I) \right)

    H keeps the centre of k-space of the complex image I: a Hann window that ends at 1 / ``width_mm``, the
    usual window of 64 lines where the field of view is 32 times as wide as ``width_mm``. Nothing is
    unwrapped; where the field is steep, the phase wraps through the filter and leaves its mark. Unlike the
    paper, the window acts along all axes and is set in mm. In series of several echoes the last, of the
    strongest phase, is taken.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
        Magnitude (any unit) and phase (rad, grows with the field), wrapped or not.
    mask : ndarray of bool, shape (x, y, z)
        Where the phase counts; elsewhere only the magnitude speaks.
    power : int
        How often the mask p is applied.

    Returns
    -------
    ndarray of float32, shape (x, y, z)
        In units of the magnitude.

    References
    ----------
    .. [1] Haacke et al. (2004), MRM 52:612. doi:10.1002/mrm.20198
    """
    image = np.array(magnitude[..., -1], np.float32)
    if not mask.any():
        return image
    box = Box.around(mask, grid, padding=width_mm, margin=width_mm)
    real, imaginary = (box.crop(image * part(phase[..., -1]).astype(np.float32)) for part in (np.cos, np.sin))
    window = _window(box.shape, grid.voxel_size, width_mm)
    weight = np.ones(box.shape, np.float32)
    smooth = convolve(real, window), convolve(imaginary, window)
    _weigh(real, imaginary, *smooth, box.crop(mask), power, weight)
    return image * np.where(mask, box.uncrop(weight), np.float32(1))


def _window(shape: tuple[int, ...], voxel_size: tuple[float, float, float], width: float):
    square = sum(f**2 for f in frequencies(shape, voxel_size))
    k = np.minimum(np.sqrt(square) * np.float32(width), np.float32(1))
    return np.float32(0.5) + np.float32(0.5) * np.cos(np.float32(np.pi) * k)


@njit(cache=True, parallel=True)
def _weigh(
    real: Array,
    imaginary: Array,
    smooth_real: Array,
    smooth_imaginary: Array,
    mask: Array,
    power: int,
    out: Array,
):
    for i in prange(real.shape[0]):
        for j in range(real.shape[1]):
            for k in range(real.shape[2]):
                if mask[i, j, k]:
                    a, b = real[i, j, k], imaginary[i, j, k]
                    c, d = smooth_real[i, j, k], smooth_imaginary[i, j, k]
                    phi = np.arctan2(b * c - a * d, a * c + b * d)
                    if phi > 0:
                        out[i, j, k] = (np.float32(1) - phi / np.float32(np.pi)) ** power
