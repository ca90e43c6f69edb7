"""Sources of the signal of three pools, from several echoes alone."""

from collections.abc import Sequence

import numba
import numpy as np

from bids_qsm.biomarkers.separation.sources import FITS_WITHIN, Sources, laid
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.units import ppm_per_radian

SHIFT = 2 / 3
"""Field inside a sphere over its susceptibility, as the model of the pools has it."""
MOST = 200.0
"""Largest relaxation rate of the reference pool (1/s)."""


@method(memory=Need(volume=14, echoes=2), prose='DECOMPOSE-QSM [@chen2021]')
def decompose(
    chi: np.ndarray,
    echoes: np.ndarray,
    echo_times: Sequence[float],
    mask: np.ndarray,
    chi_noise: float,
    scale: float,
    *,
    relaxivity: float = 323.5,
    start: float = 0.05,
    start_rate: float = 25.0,
    most: float = 0.5,
    alternations: int = 10,
    steps: int = 3,
):
    r"""Separate sources by fitting three pools to the echoes of each voxel [1]_.

    .. math:: S(t) = C_+ e^{-(a \chi_+ + R_0) t + \frac23 i \gamma B_0 \chi_+ t}
        + C_- e^{-(a |\chi_-| + R_0) t + \frac23 i \gamma B_0 \chi_- t} + C_0 e^{-R_0 t}

    In turn, ``alternations`` times, the amplitudes have the least squares (none negative), and
    :math:`\chi_+, \chi_-, R_0` move by ``steps`` steps of Levenberg and Marquardt within their bounds,
    ``most`` (ppm) for both susceptibilities. Paramagnetic susceptibility of the voxel is
    :math:`C_+ \chi_+ / (C_+ + C_- + C_0)`, and so for the diamagnetic one. ``relaxivity`` is a at 3 T
    (static dephasing by spheres), proportional to the field strength; all pools start at the same values.

    Departures from [1]_: the phase of each echo is that of one map of susceptibility,
    :math:`\frac23 \gamma B_0 \chi t`, not of a map by echo, so that it tells nothing beyond its mean;
    the steps are ours.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Chen et al. (2021), NeuroImage 242:118477. doi:10.1016/j.neuroimage.2021.118477
    """
    there = mask & (echoes[..., 0] > 0)
    signal = echoes[there].astype(np.float64)
    signal /= signal[:, :1]
    times = np.asarray(echo_times, np.float64)
    turn = SHIFT / ppm_per_radian(3.0 * scale)
    total = chi[there].astype(np.float64)
    pools = [
        _fit(
            signal,
            total,
            times,
            factor * relaxivity * scale,
            turn,
            start,
            start_rate,
            most,
            alternations,
            steps,
        )
        for factor in (1.0, 1.1)
    ]
    (para, dia), changes = pools[0], pools[1] - pools[0]
    fits = np.abs(para - dia - total) < FITS_WITHIN * chi_noise
    para, dia, by_para, by_dia = (laid(one, there) for one in (para, -dia, changes[0], -changes[1]))
    found = np.zeros(mask.shape, bool)
    found[there] = fits
    return Sources(para, dia, found, by_para, by_dia, (relaxivity * scale,) * 2)


@numba.njit(cache=True, parallel=True)
def _fit(
    signal: np.ndarray,
    total: np.ndarray,
    times: np.ndarray,
    kernel: float,
    turn: float,
    start: float,
    start_rate: float,
    most: float,
    alternations: int,
    steps: int,
):
    """Susceptibility of both pools, weighted by their shares (ppm, both positive), shape (2, voxels)."""
    out = np.zeros((2, len(total)))
    n = len(times)
    for v in numba.prange(len(total)):
        goal = np.empty(2 * n)
        for e in range(n):
            angle = turn * total[v] * times[e]
            goal[e], goal[n + e] = signal[v, e] * np.cos(angle), signal[v, e] * np.sin(angle)
        theta = np.array([start, start, start_rate])
        pools = np.empty((3, 2 * n))
        tried = np.empty((3, 2 * n))
        slopes = np.empty((3, 2 * n))
        damping = 1e-2
        _draw(theta, times, kernel, turn, pools)
        shares = np.zeros(3)
        for _ in range(alternations):
            _amplitudes(pools, goal, shares)
            cost = _cost(pools, shares, goal)
            for _ in range(steps):
                _differentiate(pools, shares, times, kernel, turn, slopes)
                new = _step(theta, pools, shares, slopes, goal, damping, most)
                _draw(new, times, kernel, turn, tried)
                better = _cost(tried, shares, goal)
                if better < cost:
                    theta, cost, damping = new, better, damping * 0.3
                    pools[:] = tried
                else:
                    damping *= 8.0
        whole = max(shares[0] + shares[1] + shares[2], 1e-9)
        out[0, v], out[1, v] = shares[0] * theta[0] / whole, shares[1] * theta[1] / whole
    return out


@numba.njit(cache=True)
def _draw(theta: np.ndarray, times: np.ndarray, kernel: float, turn: float, pools: np.ndarray):
    """Signal of each pool for unit amplitude: real parts, then imaginary ones."""
    n = len(times)
    for e in range(n):
        rest = np.exp(-theta[2] * times[e])
        for c in range(2):
            size = rest * np.exp(-kernel * theta[c] * times[e])
            angle = turn * theta[c] * times[e]
            pools[c, e] = size * np.cos(angle)
            pools[c, n + e] = size * np.sin(angle) * (1 if c == 0 else -1)
        pools[2, e], pools[2, n + e] = rest, 0.0


@numba.njit(cache=True)
def _cost(pools: np.ndarray, shares: np.ndarray, goal: np.ndarray):
    total = 0.0
    for e in range(len(goal)):
        off = shares[0] * pools[0, e] + shares[1] * pools[1, e] + shares[2] * pools[2, e] - goal[e]
        total += off * off
    return total


@numba.njit(cache=True)
def _amplitudes(pools: np.ndarray, goal: np.ndarray, shares: np.ndarray):
    """Least squares of the three amplitudes, none negative: the best of all choices of pools."""
    gram, right = np.zeros((3, 3)), np.zeros(3)
    for c in range(3):
        for d in range(3):
            gram[c, d] = np.dot(pools[c], pools[d])
        right[c] = np.dot(pools[c], goal)
        # pools that are alike share the amplitude
        gram[c, c] *= 1 + 1e-6
    best = np.inf
    kept, trial = np.zeros(3), np.zeros(3)
    for chosen in range(1, 8):
        trial[:] = 0
        _subset(gram, right, chosen, trial)
        if trial.min() < 0:
            continue
        value = -np.dot(right, trial)
        if value < best:
            best = value
            kept[:] = trial
    shares[:] = kept


@numba.njit(cache=True)
def _subset(gram: np.ndarray, right: np.ndarray, chosen: int, out: np.ndarray):
    """Solve the equations of those unknowns whose bit is set, by elimination."""
    index = np.empty(3, np.int64)
    n = 0
    for c in range(3):
        if chosen >> c & 1:
            index[n] = c
            n += 1
    a, b = np.empty((3, 3)), np.empty(3)
    for i in range(n):
        b[i] = right[index[i]]
        for j in range(n):
            a[i, j] = gram[index[i], index[j]]
    _eliminate(a, b, n)
    for i in range(n):
        out[index[i]] = b[i]


@numba.njit(cache=True)
def _eliminate(a: np.ndarray, b: np.ndarray, n: int):
    """Solution of positive definite equations, in place of ``b``."""
    for i in range(n):
        for j in range(i + 1, n):
            factor = a[j, i] / a[i, i]
            for k in range(i, n):
                a[j, k] -= factor * a[i, k]
            b[j] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[i, k] * b[k]
        b[i] /= a[i, i]


@numba.njit(cache=True)
def _differentiate(
    pools: np.ndarray,
    shares: np.ndarray,
    times: np.ndarray,
    kernel: float,
    turn: float,
    slopes: np.ndarray,
):
    """Derivatives of the signal by both susceptibilities and the rate."""
    n = len(times)
    for e in range(n):
        t = times[e]
        for c in range(2):
            sign = turn if c == 0 else -turn
            real, imaginary = pools[c, e], pools[c, n + e]
            slopes[c, e] = shares[c] * t * (-kernel * real - sign * imaginary)
            slopes[c, n + e] = shares[c] * t * (-kernel * imaginary + sign * real)
        for half in (e, n + e):
            slopes[2, half] = -t * (
                shares[0] * pools[0, half] + shares[1] * pools[1, half] + shares[2] * pools[2, half]
            )


@numba.njit(cache=True)
def _step(
    theta: np.ndarray,
    pools: np.ndarray,
    shares: np.ndarray,
    slopes: np.ndarray,
    goal: np.ndarray,
    damping: float,
    most: float,
):
    """Damped Gauss-Newton step within the bounds."""
    a, b = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for j in range(3):
            a[i, j] = np.dot(slopes[i], slopes[j])
        a[i, i] = a[i, i] * (1 + damping) + 1e-12
        for e in range(len(goal)):
            off = shares[0] * pools[0, e] + shares[1] * pools[1, e] + shares[2] * pools[2, e] - goal[e]
            b[i] -= slopes[i, e] * off
    _eliminate(a, b, 3)
    new = np.empty(3)
    for i in range(3):
        new[i] = min(max(theta[i] + b[i], 0.0), MOST if i == 2 else most)
    return new
