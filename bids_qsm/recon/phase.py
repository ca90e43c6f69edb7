"""Removing the phase at TE = 0 (MCPC-3D-S), of the combined image or of each receive coil."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.unwrap import romeo


def remove_offset(
    phase: Array,
    magnitude: Array,
    mask: Array | None,
    echo_times: Sequence[float],
    grid: Grid,
    *,
    sigma_mm: float = 4.0,
):
    r"""Estimate the phase at TE = 0 from the first two echoes, smooth it, and subtract it [1]_.

    .. math:: \phi_0 = \phi_1 - \frac{T_1}{T_2 - T_1} U(\phi_2 - \phi_1)

    where U is unwrapping by ROMEO. The offset is smoothed as a complex number weighted by m1 m2. The residual
    of the smoothing is smoothed again and added, which reduces the bias on slopes and at the rim of the mask.
    A single echo is returned unchanged, with offset 0.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude.
    mask : ndarray of bool, shape (x, y, z), or None
        Where to estimate; None is all voxels with signal. The smooth offset extends beyond the mask.
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
    weight = magnitude[..., 0] * magnitude[..., 1]
    evolved = _unwrap_evolution(wrap(phase[..., 1] - first), weight, mask, echo_times)
    weight[~mask] = 0
    offset = _smooth_twice(wrap(first - evolved), weight, _sigmas(sigma_mm, grid))
    corrected = np.empty_like(phase, order='F')
    for e in range(phase.shape[3]):
        corrected[..., e] = wrap(phase[..., e] - offset)
    return corrected, offset


def combine_coils(
    magnitude: Array, phase: Array, echo_times: Sequence[float], grid: Grid, *, sigma_mm: float = 4.0
):
    r"""Combine the images of receive coils, after removal of the phase of each at TE = 0 [1]_.

    .. math:: \phi_{0c} = \phi_{1c} - \frac{T_1}{T_2 - T_1}\, U\Big(\arg \sum_c m_{1c} m_{2c}
        e^{i (\phi_{2c} - \phi_{1c})}\Big), \quad
        S_k = \sum_c m_{kc}^2 e^{i (\phi_{kc} - \phi_{0c})}

    The phase evolution between the first two echoes is the same in all coils and is unwrapped once. Offsets
    are smoothed as in `remove_offset`. The weight is the squared magnitude (the magnitude in the paper), so
    that phase counts by its signal-to-noise ratio; the combined magnitude is the root sum of squares.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo, coil)
        Magnitude and wrapped phase (rad).
    echo_times : sequence of float
        Rising echo times (s), two or more.
    sigma_mm : float
        Standard deviation of the Gaussian (mm), 0 for none.

    Returns
    -------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)

    Raises
    ------
    UserError
        With a single echo, from which the offsets of the coils cannot be estimated.

    References
    ----------
    .. [1] Eckstein et al. (2018), MRM 79:2996. doi:10.1002/mrm.26963
    """
    if len(echo_times) == 1:
        raise UserError(
            'The coils of a single echo cannot be combined, as their phase offsets are not known: '
            'give images that the scanner combined.'
        )
    coils = range(magnitude.shape[4])
    evolution = np.zeros(magnitude.shape[:3], np.complex64)
    for c in coils:
        product = magnitude[..., 0, c] * magnitude[..., 1, c]
        evolution += product * np.exp(1j * (phase[..., 1, c] - phase[..., 0, c]))
    weight = np.abs(evolution)
    mask = signal_mask(np.sqrt(weight))
    evolved = _unwrap_evolution(np.angle(evolution), weight, mask, echo_times)
    signal = np.zeros(magnitude.shape[:4], np.complex64, order='F')
    squares = np.zeros(magnitude.shape[:4], np.float32, order='F')
    for c in coils:
        weight = magnitude[..., 0, c] ** 2 * mask
        offset = _smooth_twice(wrap(phase[..., 0, c] - evolved), weight, _sigmas(sigma_mm, grid))
        for k in range(len(echo_times)):
            square = magnitude[..., k, c] ** 2
            squares[..., k] += square
            signal[..., k] += square * np.exp(1j * (phase[..., k, c] - offset))
    return np.sqrt(squares), np.angle(signal)


def _unwrap_evolution(evolution: Array, weight: Array, mask: Array, echo_times: Sequence[float]):
    """Phase evolution up to the first echo (rad), from that between the first two echoes."""
    # the root makes the magnitude coherence of ROMEO that of one echo
    step = echo_times[1] - echo_times[0]
    unwrapped = romeo(evolution[..., None], np.sqrt(weight)[..., None], mask, [step])
    return np.float32(echo_times[0] / step) * unwrapped[..., 0]


def wrap(angle: Array):
    """Angle (rad) brought into [-pi, pi), float32.

    >>> round(float(wrap(np.float32([3 * np.pi / 2]))[0] / np.pi), 5)
    -0.5
    """
    return _wrap(np.asarray(angle, np.float32).T).T


def signal_mask(magnitude: Array):
    """Voxels brighter than a tenth of the 99th percentile: a quick estimate of the object."""
    return magnitude > 0.1 * np.percentile(magnitude[::2, ::2, ::2], 99)


@njit(cache=True, parallel=True)
def _wrap_flat(angle: Array, out: Array):
    turn = np.float32(2 * np.pi)
    for i in prange(angle.size):
        out[i] = angle[i] - turn * np.floor(angle[i] / turn + np.float32(0.5))


def _wrap(angle: Array):
    angle = np.ascontiguousarray(angle)
    out = np.empty_like(angle)
    _wrap_flat(angle.ravel(), out.ravel())
    return out


RUN = 4096
"""Values that a convolution works on at a time."""


def _sigmas(sigma_mm: float, grid: Grid):
    """Standard deviations in voxels."""
    return [sigma_mm / size for size in grid.voxel_size]


def _smooth_twice(angle: Array, weight: Array, sigmas: Sequence[float]):
    """Smoothed angle plus its smoothed residual; the angle itself for sigma 0."""
    if not any(sigmas):
        return angle
    smooth = _smooth_angle(angle, weight, sigmas)
    smooth += _smooth_angle(angle - smooth, weight, sigmas)
    return wrap(smooth)


def _smooth_angle(angle: Array, weight: Array, sigmas: Sequence[float]):
    """Argument of the Gaussian-smoothed ``weight * exp(i angle)``; 0 out of reach of any weight."""
    signal = _polar(np.ascontiguousarray(angle.T), np.ascontiguousarray(weight.T))
    for axis, sigma in zip((2, 1, 0), sigmas, strict=True):
        radius = int(np.ceil(3 * sigma))
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
        # real and imaginary part are the innermost axis: (all before, axis, all after)
        before = int(np.prod(signal.shape[:axis]))
        signal = _convolve(signal.reshape(before, signal.shape[axis], -1), taps).reshape(signal.shape)
    return np.arctan2(signal[..., 1], signal[..., 0]).T


@njit(cache=True, parallel=True)
def _polar(angle: Array, weight: Array):
    signal = np.empty((*angle.shape, 2), np.float32)
    for z in prange(angle.shape[0]):
        for y in range(angle.shape[1]):
            for x in range(angle.shape[2]):
                signal[z, y, x, 0] = weight[z, y, x] * np.cos(angle[z, y, x])
                signal[z, y, x, 1] = weight[z, y, x] * np.sin(angle[z, y, x])
    return signal


@njit(cache=True, parallel=True, fastmath=True)
def _convolve(volume: Array, taps: Array):
    """Convolve along the middle axis, zeros beyond the ends.

    Runs of contiguous values, which hold whole rows where little comes after the axis, stay in the fastest
    cache while all taps are added.
    """
    before, n, after = volume.shape
    flat, out = volume.reshape(before, n * after), np.zeros((before, n * after), np.float32)
    runs = (n * after + RUN - 1) // RUN
    for job in prange(before * runs):
        row, first = job // runs, job % runs * RUN
        _add_taps(out[row], flat[row], first, min(first + RUN, n * after), after, taps)
    return out.reshape(volume.shape)


@njit(cache=True, fastmath=True)
def _add_taps(out: Array, row: Array, first: int, last: int, step: int, taps: Array):
    """Convolve ``row`` with taps ``step`` values apart; add that from ``first`` to ``last`` to ``out``."""
    for t in range(taps.size):
        shift = (t - taps.size // 2) * step
        start, stop = max(first, -shift), min(last, row.size - shift)
        if start < stop:
            there, here = out[start:stop], row[start + shift : stop + shift]
            for a in range(there.size):
                there[a] += taps[t] * here[a]
