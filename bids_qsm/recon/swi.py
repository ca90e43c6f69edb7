"""Susceptibility-weighted imaging: magnitude darkened where phase shows veins."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.fourier import Box, convolve, frequencies
from bids_qsm.recon.grid import Grid


def swi(
    magnitude,
    unwrapped,
    mask,
    echo_times,
    grid: Grid,
    *,
    highpass_mm: float = 3.0,
    sensitivity_mm: float = 7.0,
    strength: float = 4.0,
):
    r"""Weight the magnitude of all echoes by their high-pass filtered phase, after CLEAR-SWI [1]_.

    .. math:: S = \frac{m}{G_s * m} \, p(\phi), \quad
              p = \frac{1 + \tanh(1 - \phi / \phi_0)}{1 + \tanh 1} \; (\phi > 0)

    m is the root sum of squares over echoes, divided by its smooth part against the coils' sensitivity.
    :math:`\phi` is the unwrapped phase of all echoes, weighted by :math:`m_e^2 T_e` as a field would be, less
    its Gaussian mean. Its scale :math:`\phi_0` is 10 / ``strength`` times the mean of its positive values, so
    that the contrast does not depend on echo times or field strength. Veins are paramagnetic, their phase is
    positive, and they turn dark. Unlike the paper, filters are in mm and not in voxels, and act along the
    slices as well.

    Parameters
    ----------
    magnitude, unwrapped : ndarray of float32, shape (x, y, z, echo)
        Magnitude (any unit) and unwrapped phase (rad, grows with the field).
    mask : ndarray of bool, shape (x, y, z)
        Where the phase is unwrapped; elsewhere only the magnitude speaks.
    echo_times : sequence of float
        Echo times (s).
    highpass_mm, sensitivity_mm : float
        Standard deviations of the two Gaussians (mm).

    Returns
    -------
    ndarray of float32, shape (x, y, z)
        About 1 in tissue.

    References
    ----------
    .. [1] Eckstein et al. (2021), NeuroImage 237:118175. doi:10.1016/j.neuroimage.2021.118175
    """
    energy = np.zeros(grid.shape, np.float32)
    phase, weight = np.zeros_like(energy), np.zeros_like(energy)
    for echo, time in enumerate(echo_times):
        square = magnitude[..., echo] ** 2
        energy += square
        square *= np.float32(time)
        phase += square * unwrapped[..., echo]
        square *= np.float32(time)
        weight += square
    phase /= np.maximum(weight, np.finfo(np.float32).tiny)
    clean = np.sqrt(energy) / _sensitivity(np.sqrt(energy), grid, sensitivity_mm)
    box = Box.around(mask, grid, padding=3 * highpass_mm)
    inside = box.crop(mask).astype(np.float32)
    phase = box.crop(phase) * inside
    # dividing by the smoothed mask keeps the rim of the mask from looking like an edge of the phase
    low = _smooth(phase, grid, highpass_mm) / np.maximum(_smooth(inside, grid, highpass_mm), 0.05)
    high = box.uncrop((phase - low) * inside)
    positive = high > 0
    if positive.any():
        scale = high[positive].mean() * 10 / strength
        clean[positive] *= (1 + np.tanh(1 - high[positive] / scale)) / np.float32(1 + np.tanh(1))
    return clean


def minip(swi, grid: Grid, *, thickness_mm: float = 10.0):
    """Minimum over a slab of ``thickness_mm`` that slides along the slices, the axis of the thickest voxels.

    Of equally thick axes the last is taken. Shape and grid stay those of ``swi``.
    """
    axis = max(range(3), key=lambda a: (round(grid.voxel_size[a], 3), a))
    slices = max(round(thickness_mm / grid.voxel_size[axis]), 1)
    return ndimage.minimum_filter1d(swi, slices, axis=axis, mode='nearest')


def _sensitivity(image, grid, width):
    """Smooth part of an image over its signal, extended where there is none."""
    whole = np.ones(image.shape, bool)
    box = Box.around(whole, grid, padding=3 * width)
    floor = 0.1 * np.percentile(image[::2, ::2, ::2], 95)
    signal = image > floor
    smooth = _smooth(box.crop(np.where(signal, image, 0)), grid, width)
    share = _smooth(box.crop(signal.astype(np.float32)), grid, width)
    # far from any signal the ratio would be one of roundings
    ratio = box.uncrop(np.maximum(smooth, 0) / np.maximum(share, 0.05))
    return np.maximum(ratio, max(floor, np.finfo(np.float32).tiny))


def _smooth(x, grid, width):
    """Gaussian mean of standard deviation ``width`` (mm), periodic."""
    k = frequencies(x.shape, grid.voxel_size)
    parts = [np.exp(-2 * (np.pi * np.float32(width) * f) ** 2) for f in k]
    return convolve(x, parts[0] * parts[1] * parts[2])
