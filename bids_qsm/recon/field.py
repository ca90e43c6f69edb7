"""From the unwrapped phase of all echoes to one field map, its noise and its residual."""

import numpy as np
from numba import njit, prange

from bids_qsm.recon.units import ppm_per_radian

DEAD = 3
"""Magnitude over noise below which an echo's phase says nothing, and its turns cannot be known."""
NOISE_PRIOR = 8
"""Degrees of freedom given to the noise model against the misfit of a single voxel."""


def fit_field(unwrapped, magnitude, mask, echo_times, *, field_strength: float):
    r"""Fit the field to the phase of all echoes by least squares through the origin.

    .. math:: \hat\omega = \frac{\sum_k w_k T_k \phi_k}{\sum_k w_k T_k^2}, \quad w_k = m_k^2 - 2\sigma^2

    The weight is the squared signal without its share of noise; echoes that have died (m < 3 sigma) do not
    count. An echo that kept a multiple of 2 pi is brought back where this lowers the misfit; the fewest
    echoes are moved. The noise of a voxel is what the magnitude predicts, raised where the misfit is larger.

    Parameters
    ----------
    unwrapped, magnitude : ndarray of float32, shape (x, y, z, echo)
        Unwrapped phase without offset at TE = 0 (rad), and magnitude.
    mask : ndarray of bool, shape (x, y, z)
        Where to fit; all results are 0 elsewhere.
    echo_times : sequence of float
        Echo times (s).
    field_strength : float
        B0 (T).

    Returns
    -------
    field, noise, residual : ndarray of float32, shape (x, y, z)
        Field (ppm), its standard deviation (ppm), and weighted root mean square residual (rad).
    """
    times = np.asarray(echo_times, np.float32)
    sigma = noise_level(magnitude, mask)
    flat = (np.ascontiguousarray(a.T, np.float32).reshape(times.size, -1) for a in (unwrapped, magnitude))
    maps = _fit(*flat, np.ascontiguousarray(mask.T).ravel(), times, np.float32(sigma))
    field, noise, residual = (m.reshape(mask.shape[::-1]).T for m in maps)
    scale = np.float32(ppm_per_radian(field_strength))
    field *= scale
    noise *= scale
    return field, noise, residual


def noise_level(magnitude, mask):
    """Standard deviation of the noise in each channel (units of ``magnitude``), from its finest detail.

    The eight corners of a cube summed with alternating signs cancel smooth signal; their median absolute
    value gives the noise [1]_. Images interpolated by the scanner hold less fine detail than noise, and
    come out low.

    References
    ----------
    .. [1] Donoho & Johnstone (1994), Biometrika 81:425. doi:10.1093/biomet/81.3.425
    """
    corners = [(slice(0, n - n % 2, 2), slice(1, n, 2)) for n in mask.shape]
    whole = np.ones(tuple(n // 2 for n in mask.shape), bool)
    detail = np.zeros((*whole.shape, magnitude.shape[3]), np.float32)
    for i in range(8):
        place = tuple(pair[(i >> axis) & 1] for axis, pair in enumerate(corners))
        whole &= mask[place]
        detail += np.float32((-1) ** i.bit_count()) * magnitude[place]
    if not whole.any():
        return 0.0
    # The noise of a magnitude is that of one channel only where there is signal: take the first echo's.
    return float(np.median(np.abs(detail[whole, 0])) / 0.6745 / np.sqrt(8))


@njit(cache=True)
def _slope(phase, weight, times, skip):
    top = bottom = np.float32(0)
    for k in range(times.size):
        if k != skip:
            top += weight[k] * times[k] * phase[k]
            bottom += weight[k] * times[k] * times[k]
    return top / bottom if bottom > 0 else np.float32(0)


@njit(cache=True)
def _misfit(phase, weight, times):
    slope = _slope(phase, weight, times, -1)
    total = np.float32(0)
    for k in range(times.size):
        r = phase[k] - slope * times[k]
        total += weight[k] * r * r
    return total


@njit(cache=True)
def _mend_wraps(phase, weight, times):
    """Move single echoes by whole turns, the one that helps most first, while the misfit falls."""
    turn = np.float32(2 * np.pi)
    misfit = _misfit(phase, weight, times)
    for _ in range(times.size):
        best, best_misfit, best_shift = -1, misfit, np.float32(0)
        for k in range(times.size):
            away = phase[k] - _slope(phase, weight, times, k) * times[k]
            shift = turn * np.floor(away / turn + np.float32(0.5))
            if shift != 0:
                phase[k] -= shift
                trial = _misfit(phase, weight, times)
                phase[k] += shift
                if trial < best_misfit:
                    best, best_misfit, best_shift = k, trial, shift
        if best < 0:
            return
        phase[best] -= best_shift
        misfit = best_misfit


@njit(cache=True, parallel=True)
def _fit(unwrapped, magnitude, mask, times, sigma):
    echoes, voxels = unwrapped.shape
    field = np.zeros(voxels, np.float32)
    noise = np.zeros(voxels, np.float32)
    residual = np.zeros(voxels, np.float32)
    chunk = 4096
    for c in prange((voxels + chunk - 1) // chunk):
        phase = np.empty(echoes, np.float32)
        weight = np.empty(echoes, np.float32)
        for v in range(c * chunk, min((c + 1) * chunk, voxels)):
            if not mask[v]:
                continue
            signal = np.float32(0)
            for k in range(echoes):
                phase[k] = unwrapped[k, v]
                alive = magnitude[k, v] > DEAD * sigma
                weight[k] = magnitude[k, v] ** 2 - 2 * sigma**2 if alive else np.float32(0)
                signal += weight[k]
            if signal <= 0:
                # Noise alone: weigh by magnitude, so that the voxel still has a value (and a large noise).
                for k in range(echoes):
                    weight[k] = max(magnitude[k, v] ** 2, np.float32(1e-30))
                    signal += weight[k]
            slope = _slope(phase, weight, times, -1)
            for k in range(echoes):
                if weight[k] > 0 and abs(phase[k] - slope * times[k]) > np.float32(1.5):
                    _mend_wraps(phase, weight, times)
                    slope = _slope(phase, weight, times, -1)
                    break
            misfit = bottom = np.float32(0)
            counted = 0
            for k in range(echoes):
                r = phase[k] - slope * times[k]
                misfit += weight[k] * r * r
                bottom += weight[k] * times[k] * times[k]
                counted += weight[k] > 0
            field[v] = slope
            residual[v] = np.sqrt(misfit / signal)
            if counted > 1 and sigma > 0:
                excess = (NOISE_PRIOR + misfit / sigma**2) / (NOISE_PRIOR + counted - 1)
                noise[v] = sigma * np.sqrt(max(excess, np.float32(1)) / bottom)
            elif counted > 1:
                noise[v] = np.sqrt(misfit / (counted - 1) / bottom)
            else:
                noise[v] = sigma / np.sqrt(bottom)
    return field, noise, residual
