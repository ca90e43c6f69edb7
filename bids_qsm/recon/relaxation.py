"""R2*, T2* and the signal at TE = 0 from the decay of the magnitude."""

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError

MAX_R2STAR = 1000.0
"""Fastest decay reported (1/s); what decays faster has no signal left in any echo."""
MAX_T2STAR = 1.0
"""Slowest decay reported (s); beyond it the signal of a usual echo train is flat."""


def fit_arlo(magnitude, mask, echo_times):
    r"""Fit a single exponential to the magnitude of all echoes by ARLO [1]_.

    .. math:: \hat T_2^* = \frac{\sum_i S_i (S_i + \frac{\Delta}{3} \delta_i)}
        {\sum_i \delta_i (S_i + \frac{\Delta}{3} \delta_i)}, \quad
        S_i = \tfrac{\Delta}{3} (s_i + 4 s_{i+1} + s_{i+2}), \quad \delta_i = s_i - s_{i+2}

    ARLO needs three echoes or more, evenly spaced. Two echoes, or uneven spacing, are fitted by a line
    through log s with weights s^2.

    Parameters
    ----------
    magnitude : ndarray of float32, shape (x, y, z, echo)
    mask : ndarray of bool, shape (x, y, z)
        Where to fit; all results are 0 elsewhere.
    echo_times : sequence of float
        Rising echo times (s).

    Returns
    -------
    r2star, t2star, s0 : ndarray of float32, shape (x, y, z)
        R2* (1/s, 0 to 1000), T2* (s, at most 1) and signal at TE = 0 (units of ``magnitude``).

    Raises
    ------
    UserError
        With a single echo.

    References
    ----------
    .. [1] Pei et al. (2015), MRM 73:843. doi:10.1002/mrm.25137
    """
    times = np.asarray(echo_times, np.float32)
    if times.size < 2:
        raise UserError('R2* needs at least two echoes; this series has one: leave the R2* map out.')
    spacing = np.diff(times)
    even = times.size > 2 and np.ptp(spacing) <= 0.02 * spacing.mean()
    flat = np.ascontiguousarray(magnitude.T, np.float32).reshape(times.size, -1)
    maps = _decay(flat, np.ascontiguousarray(mask.T).ravel(), times, np.float32(spacing.mean()), even)
    return tuple(m.reshape(mask.shape[::-1]).T for m in maps)


@njit(cache=True)
def _rate_arlo(signal, spacing):
    third = spacing / 3
    top = bottom = np.float32(0)
    for i in range(signal.size - 2):
        area = third * (signal[i] + 4 * signal[i + 1] + signal[i + 2])
        drop = signal[i] - signal[i + 2]
        balanced = area + third * drop
        top += drop * balanced
        bottom += area * balanced
    return top / bottom if bottom > 0 else np.float32(0)


@njit(cache=True)
def _rate_log_linear(signal, times):
    w = wt = wy = wtt = wty = np.float32(0)
    for k in range(times.size):
        if signal[k] > 0:
            weight, y = signal[k] ** 2, np.log(signal[k])
            w += weight
            wt += weight * times[k]
            wy += weight * y
            wtt += weight * times[k] ** 2
            wty += weight * times[k] * y
    determinant = w * wtt - wt * wt
    return (wt * wy - w * wty) / determinant if determinant > 0 else np.float32(0)


@njit(cache=True, parallel=True)
def _decay(magnitude, mask, times, spacing, even):
    echoes, voxels = magnitude.shape
    r2star = np.zeros(voxels, np.float32)
    t2star = np.zeros(voxels, np.float32)
    s0 = np.zeros(voxels, np.float32)
    chunk = 4096
    for c in prange((voxels + chunk - 1) // chunk):
        signal = np.empty(echoes, np.float32)
        for v in range(c * chunk, min((c + 1) * chunk, voxels)):
            if not mask[v]:
                continue
            scale = np.float32(0)
            for k in range(echoes):
                scale = max(scale, magnitude[k, v])
            if scale <= 0:
                continue
            for k in range(echoes):
                signal[k] = magnitude[k, v] / scale
            rate = _rate_arlo(signal, spacing) if even else _rate_log_linear(signal, times)
            rate = min(max(rate, np.float32(0)), np.float32(MAX_R2STAR))
            top = bottom = np.float32(0)
            for k in range(echoes):
                decay = np.exp(-rate * times[k])
                top += signal[k] * decay
                bottom += decay * decay
            r2star[v] = rate
            t2star[v] = np.float32(1) / max(rate, np.float32(1 / MAX_T2STAR))
            s0[v] = scale * top / bottom if bottom > 0 else np.float32(0)
    return r2star, t2star, s0
