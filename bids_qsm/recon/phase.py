"""Removing the phase at TE = 0 (MCPC-3D-S)."""

import numpy as np
from numba import njit, prange

from bids_qsm.recon.grid import Grid
from bids_qsm.recon.unwrap import romeo


def remove_offset(phase, magnitude, mask, echo_times, grid: Grid, *, sigma_mm: float = 4.0):
    r"""Estimate the phase at TE = 0 from the first two echoes, smooth it, and take it off every echo [1]_.

    .. math:: \phi_0 = \phi_1 - \frac{T_1}{T_2 - T_1} U(\phi_2 - \phi_1)

    with U unwrapping by ROMEO. The offset is smoothed as a complex number weighted by m1 m2, and what the
    smoothing left over is smoothed once more and added, which halves the order of the bias on slopes and
    at the rim of the mask. A single echo passes through with offset 0.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude.
    mask : ndarray of bool, shape (x, y, z), or None
        Where to estimate; None takes all voxels with signal. The smooth offset reaches beyond the mask.
    echo_times : sequence of float
        Rising echo times (s).
    sigma_mm : float
        Standard deviation of the Gaussian (mm), 0 for none.

    Returns
    -------
    phase : ndarray of float32, shape (x, y, z, echo)
        Phase without offset, in [-pi, pi).
    offset : ndarray of float32, shape (x, y, z)
        The offset (rad).

    References
    ----------
    .. [1] Eckstein et al. (2018), MRM 79:2996. doi:10.1002/mrm.26963
    """
    if len(echo_times) == 1:
        return phase, np.zeros(phase.shape[:3], np.float32)
    if mask is None:
        mask = signal_mask(magnitude[..., 0])
    first = phase[..., 0]
    evolution = wrap(phase[..., 1] - first)
    weight = magnitude[..., 0] * magnitude[..., 1]
    # Roots keep the magnitude coherence of ROMEO that of one echo.
    unwrapped = romeo(evolution[..., None], np.sqrt(weight)[..., None], mask, [echo_times[1] - echo_times[0]])
    scale = np.float32(echo_times[0] / (echo_times[1] - echo_times[0]))
    raw = wrap(first - scale * unwrapped[..., 0])
    offset = raw
    if sigma_mm > 0:
        weight[~mask] = 0
        sigmas = [sigma_mm / size for size in grid.voxel_size]
        offset = _smooth_angle(raw, weight, sigmas)
        offset += _smooth_angle(raw - offset, weight, sigmas)
        offset = wrap(offset)
    corrected = np.empty_like(phase, order='F')
    for e in range(phase.shape[3]):
        corrected[..., e] = wrap(phase[..., e] - offset)
    return corrected, offset


def wrap(angle):
    """Angle (rad) brought into [-pi, pi), float32.

    >>> round(float(wrap(np.float32([3 * np.pi / 2]))[0] / np.pi), 5)
    -0.5
    """
    return _wrap(np.asarray(angle, np.float32).T).T


def signal_mask(magnitude):
    """Voxels brighter than a tenth of the 99th percentile: a cheap guess of where there is an object."""
    return magnitude > 0.1 * np.percentile(magnitude[::2, ::2, ::2], 99)


@njit(cache=True, parallel=True)
def _wrap_flat(angle, out):
    turn = np.float32(2 * np.pi)
    for i in prange(angle.size):
        out[i] = angle[i] - turn * np.floor(angle[i] / turn + np.float32(0.5))


def _wrap(angle):
    angle = np.ascontiguousarray(angle)
    out = np.empty_like(angle)
    _wrap_flat(angle.ravel(), out.ravel())
    return out


def _smooth_angle(angle, weight, sigmas):
    """Argument of the Gaussian-smoothed ``weight * exp(i angle)``; 0 out of reach of any weight."""
    signal = _polar(np.ascontiguousarray(angle.T), np.ascontiguousarray(weight.T))
    for axis, sigma in zip((2, 1, 0), sigmas, strict=True):
        radius = int(np.ceil(3 * sigma))
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
        # Real and imaginary part are the innermost axis: (all before, axis, all after).
        before = int(np.prod(signal.shape[:axis]))
        signal = _convolve(signal.reshape(before, signal.shape[axis], -1), taps).reshape(signal.shape)
    return np.arctan2(signal[..., 1], signal[..., 0]).T


@njit(cache=True, parallel=True)
def _polar(angle, weight):
    signal = np.empty((*angle.shape, 2), np.float32)
    for z in prange(angle.shape[0]):
        for y in range(angle.shape[1]):
            for x in range(angle.shape[2]):
                signal[z, y, x, 0] = weight[z, y, x] * np.cos(angle[z, y, x])
                signal[z, y, x, 1] = weight[z, y, x] * np.sin(angle[z, y, x])
    return signal


@njit(cache=True, parallel=True, fastmath=True)
def _convolve(volume, taps):
    """Convolve along the middle axis, zeros beyond the ends."""
    before, n, after = volume.shape
    radius = taps.size // 2
    out = np.zeros_like(volume)
    for row in prange(before * n):
        b, i = row // n, row % n
        for t in range(max(0, radius - i), min(taps.size, n + radius - i)):
            for a in range(after):
                out[b, i, a] += taps[t] * volume[b, i + t - radius, a]
    return out
