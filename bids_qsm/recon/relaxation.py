"""R2*, T2* and the signal at TE = 0 from the decay of the magnitude."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.background_gradient import LOST, spread_function
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import Need, method

MAX_R2STAR = 1000.0
"""Fastest decay reported (1/s): a faster one leaves no signal in any echo."""
MAX_T2STAR = 1.0
"""Slowest decay reported (s): beyond it the signal of a usual echo train is flat."""
ARLO, LINE, FLOOR = 0, 1, 2


@method(memory=Need(volume=4, echoes=2), prose='ARLO [@arlo]')
def arlo(
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field: Array,
    field_strength: float,
    grid: Grid,
    *,
    spread: bool = False,
):
    r"""Fit a single exponential to the magnitude of all echoes by ARLO [1]_.

    .. math:: \hat T_2^* = \frac{\sum_i S_i (S_i + \frac{\Delta}{3} \delta_i)}
        {\sum_i \delta_i (S_i + \frac{\Delta}{3} \delta_i)}, \quad
        S_i = \tfrac{\Delta}{3} (s_i + 4 s_{i+1} + s_{i+2}), \quad \delta_i = s_i - s_{i+2}

    ARLO needs three echoes or more, evenly spaced. Series of two echoes or uneven spacing, and voxels in
    which ``spread`` leaves two echoes, are fitted by `loglinear`.

    Parameters
    ----------
    magnitude : ndarray of float32, shape (x, y, z, echo)
    mask : ndarray of bool, shape (x, y, z)
        Where to fit; all results are 0 elsewhere.
    echo_times : sequence of float
        Rising echo times (s).
    field : ndarray of float32, shape (x, y, z)
        Total field (ppm); used with ``spread`` only, as are field_strength (T) and grid.
    spread : bool
        Correct for signal loss by background gradients, see `spread_function`.

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
    return _maps(ARLO, magnitude, mask, echo_times, field, field_strength, grid, spread)


@method(memory=Need(volume=4, echoes=2), prose='a weighted log-linear fit [@loglinear]')
def loglinear(
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field: Array,
    field_strength: float,
    grid: Grid,
    *,
    spread: bool = False,
):
    r"""Fit a line to the logarithm of the magnitude, weighted by its square [1]_.

    .. math:: \min_{a, R} \sum_k s_k^2 (\log s_k - a + R T_k)^2

    The weights give each logarithm its noise. Parameters, results and errors as in `arlo`.

    References
    ----------
    .. [1] Veraart et al. (2013), NeuroImage 81:335. doi:10.1016/j.neuroimage.2013.05.028
    """
    return _maps(LINE, magnitude, mask, echo_times, field, field_strength, grid, spread)


@method(memory=Need(volume=4, echoes=2), prose='nonlinear least squares [@nlls]')
def nlls(
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field: Array,
    field_strength: float,
    grid: Grid,
    *,
    spread: bool = False,
):
    r"""Fit decay and noise floor to the magnitude by nonlinear least squares [1]_.

    .. math:: \min_{S_0, R} \sum_k \Big(s_k - \sqrt{a_k^2 + \sigma^2 (1 + (\tfrac{\pi}{2} - 1)
        e^{-a_k^2 / 2 \sigma^2})}\Big)^2, \quad a_k = S_0 e^{-R T_k}

    The root is the mean of a Rician magnitude to within 1.5 %, and exact for zero and for high signal; the
    paper corrects a running mean by tables instead. sigma is the noise level of the first echo. The fit is by
    Levenberg and Marquardt, from that of `loglinear`. Parameters, results and errors as in `arlo`.

    References
    ----------
    .. [1] Gudbjartsson & Patz (1995), MRM 34:910. doi:10.1002/mrm.1910340618
    """
    return _maps(FLOOR, magnitude, mask, echo_times, field, field_strength, grid, spread)


def _maps(
    method: int,
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field: Array,
    field_strength: float,
    grid: Grid,
    spread: bool,
):
    times = np.asarray(echo_times, np.float32)
    if times.size < 2:
        raise UserError('R2* needs at least two echoes; this series has one: leave the R2* map out.')
    spacing = np.diff(times)
    if method == ARLO and (times.size == 2 or np.ptp(spacing) > 0.02 * spacing.mean()):
        method = LINE
    kept = np.ones((1, 1, 1, 1), np.float32)
    if spread:
        kept = spread_function(field, mask, grid, echo_times, field_strength)
    flat = (np.ascontiguousarray(a.T, np.float32).reshape(a.shape[3], -1) for a in (magnitude, kept))
    sigma = np.float32(noise_level(magnitude, mask)) if method == FLOOR else np.float32(0)
    maps = _decay(
        *flat, np.ascontiguousarray(mask.T).ravel(), times, np.float32(spacing.mean()), method, sigma
    )
    return tuple(m.reshape(mask.shape[::-1]).T for m in maps)


def rate_error(
    rate: Array, start: Array, echo_times: Sequence[float], noise: float, kept: Array | None = None
):
    r"""Least standard deviation of the rate of an exponential decay (Cramer and Rao).

    .. math:: \sigma_R = \frac{\sigma}{S_0} \Big(\sum_k T_k^2 e_k - \frac{(\sum_k T_k e_k)^2}{\sum_k e_k}
        \Big)^{-1/2}, \quad e_k = F_k^2 e^{-2 R T_k}

    F is the share of the signal that is ``kept``, 1 where that is not given. As in the fits, echoes are left
    out from the first on that is lost, but the first two.

    Parameters
    ----------
    rate, start : ndarray of float32
        Rate (1/s) and signal at TE = 0.
    echo_times : sequence of float
        (s).
    noise : float
        Standard deviation of one channel (units of ``start``).
    kept : ndarray of float32, shape ``(*rate.shape, echo)``, optional
        See `spread_function`.

    Returns
    -------
    ndarray of float32
        (1/s); 0 where there is no signal.
    """
    none = first = second = np.zeros(rate.shape, np.float32)
    used = np.ones(rate.shape, bool)
    for k, time in enumerate(echo_times):
        power = np.exp(-2 * rate * np.float32(time))
        if kept is not None:
            if k > 1:
                used &= kept[..., k] >= LOST
            # the fits divide by no less
            power *= used * np.maximum(kept[..., k], LOST) ** 2
        none, first, second = none + power, first + time * power, second + time**2 * power
    told = start**2 * (second - first**2 / none)
    return np.where(told > 0, noise / np.sqrt(np.where(told > 0, told, 1)), 0).astype(np.float32)


@njit(cache=True)
def _rate_arlo(signal: Array, spacing: float, count: int):
    third = spacing / 3
    top = bottom = np.float32(0)
    for i in range(count - 2):
        area = third * (signal[i] + 4 * signal[i + 1] + signal[i + 2])
        drop = signal[i] - signal[i + 2]
        balanced = area + third * drop
        top += drop * balanced
        bottom += area * balanced
    return top / bottom if bottom > 0 else np.float32(0)


@njit(cache=True)
def _rate_line(signal: Array, weight: Array, times: Array, count: int):
    w = wt = wy = wtt = wty = np.float32(0)
    for k in range(count):
        if signal[k] > 0:
            share, y = (weight[k] * signal[k]) ** 2, np.log(signal[k])
            w += share
            wt += share * times[k]
            wy += share * y
            wtt += share * times[k] ** 2
            wty += share * times[k] * y
    determinant = w * wtt - wt * wt
    return (wt * wy - w * wty) / determinant if determinant > 0 else np.float32(0)


@njit(cache=True)
def _start(signal: Array, weight: Array, times: Array, count: int, rate: float):
    """Least-squares signal at TE = 0 for a given rate."""
    top = bottom = np.float32(0)
    for k in range(count):
        decay = weight[k] * np.exp(-rate * times[k])
        top += weight[k] * signal[k] * decay
        bottom += decay * decay
    return top / bottom if bottom > 0 else np.float32(0)


@njit(cache=True)
def _rician(amplitude: float, sigma: float):
    """Mean of a magnitude, and its slope against the amplitude without noise."""
    square = sigma * sigma
    bump = np.float32(np.pi / 2 - 1) * np.exp(np.float32(-0.5) * amplitude * amplitude / square)
    mean = np.sqrt(amplitude * amplitude + square * (np.float32(1) + bump))
    return mean, amplitude * (np.float32(1) - np.float32(0.5) * bump) / mean


@njit(cache=True)
def _rate_floor(signal: Array, weight: Array, times: Array, count: int, sigma: float, rate: float):
    """Levenberg-Marquardt over start and rate; ``signal`` and ``sigma`` on the scale of the first."""
    start = _start(signal, weight, times, count, rate)
    damping, best = np.float32(1e-3), np.float32(np.inf)
    step_start = step_rate = np.float32(0)
    for _ in range(50):
        ss = sr = rr = gs = gr = cost = np.float32(0)
        for k in range(count):
            decay = np.exp(-(rate + step_rate) * times[k])
            # compared with the signal as measured, before correction for gradients
            mean, slope = _rician(weight[k] * (start + step_start) * decay, sigma)
            away = weight[k] * signal[k] - mean
            by_start = slope * weight[k] * decay
            by_rate = -by_start * (start + step_start) * times[k]
            cost += away * away
            ss += by_start * by_start
            sr += by_start * by_rate
            rr += by_rate * by_rate
            gs += by_start * away
            gr += by_rate * away
        if cost <= best:
            gain = best - cost
            start, rate = start + step_start, rate + step_rate
            a, b, c, p, q = ss, sr, rr, gs, gr
            damping *= np.float32(0.3)
            if gain < np.float32(1e-5) * cost:
                break
            best = cost
        else:
            damping *= np.float32(4)
            if damping > 1e4:
                break
        d, e = a * (1 + damping), c * (1 + damping)
        determinant = d * e - b * b
        if determinant <= 0:
            break
        step_start, step_rate = (e * p - b * q) / determinant, (d * q - b * p) / determinant
    return start, rate


@njit(cache=True, parallel=True)
def _decay(
    magnitude: Array, kept: Array, mask: Array, times: Array, spacing: float, method: int, sigma: float
):
    echoes, voxels = magnitude.shape
    r2star = np.zeros(voxels, np.float32)
    t2star = np.zeros(voxels, np.float32)
    s0 = np.zeros(voxels, np.float32)
    whole = kept.size == 1
    chunk = 4096
    for c in prange((voxels + chunk - 1) // chunk):
        signal = np.empty(echoes, np.float32)
        weight = np.ones(echoes, np.float32)
        for v in range(c * chunk, min((c + 1) * chunk, voxels)):
            if not mask[v]:
                continue
            scale = np.float32(0)
            for k in range(echoes):
                scale = max(scale, magnitude[k, v])
            if scale <= 0:
                continue
            count = echoes
            for k in range(echoes):
                if not whole:
                    weight[k] = kept[k, v]
                    if weight[k] < LOST:
                        count = max(min(count, k), 2)
                signal[k] = magnitude[k, v] / scale / max(weight[k], LOST)
            if method == ARLO and count > 2:
                rate = _rate_arlo(signal, spacing, count)
            else:
                rate = _rate_line(signal, weight, times, count)
            rate = min(max(rate, np.float32(0)), np.float32(MAX_R2STAR))
            start = _start(signal, weight, times, count, rate)
            if method == FLOOR and sigma > 0:
                start, rate = _rate_floor(signal, weight, times, count, sigma / scale, rate)
                if not 0 <= rate <= MAX_R2STAR:
                    rate = min(max(rate, np.float32(0)), np.float32(MAX_R2STAR))
                    start = _start(signal, weight, times, count, rate)
            r2star[v] = rate
            t2star[v] = np.float32(1) / max(rate, np.float32(1 / MAX_T2STAR))
            s0[v] = scale * start
    return r2star, t2star, s0


R2STAR = {'arlo': arlo, 'loglinear': loglinear, 'nlls': nlls}
