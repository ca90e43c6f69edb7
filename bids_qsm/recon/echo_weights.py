"""Weights of the echoes of a voxel, from its magnitude and from how linear its phase is in echo time."""

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.noise import DEAD, noise_level
from bids_qsm.recon.units import ppm_per_radian

FLOOR = np.float32(0.2)
"""Departure from linear phase (rad) that is allowed without noise: offset, flow, eddy currents."""
PRIOR = np.float32(8)
"""Degrees of freedom of the noise model, weighed against the misfit of a single voxel."""
TURN = np.float32(2 * np.pi)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


def fit_voxels(
    fit: Callable,
    images: Sequence[Array],
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field_strength: float,
):
    """Field, noise (ppm) and residual (rad) of each voxel by ``fit``.

    ``fit`` takes images and magnitude (echo, voxel), mask, echo times and noise level, and returns field,
    noise (rad/s) and residual.
    """
    times = np.asarray(echo_times, np.float32)
    sigma = np.float32(noise_level(magnitude, mask))
    flat = (np.ascontiguousarray(a.T, np.float32).reshape(times.size, -1) for a in (*images, magnitude))
    maps = fit(*flat, np.ascontiguousarray(mask.T).ravel(), times, sigma)
    field, noise, residual = (m.reshape(mask.shape[::-1]).T for m in maps)
    scale = np.float32(ppm_per_radian(field_strength))
    field *= scale
    noise *= scale
    return field, noise, residual


@njit(cache=True)
def weigh(magnitude: Array, weight: Array, sigma: float):
    """Fill ``weight`` with the squared signal less the noise in it, 0 for echoes below the noise floor."""
    total = ZERO
    for k in range(weight.size):
        m = magnitude[k]
        weight[k] = m * m - 2 * sigma * sigma if m > DEAD * sigma else ZERO
        total += weight[k]
    if total <= 0:
        # noise only: weigh by magnitude, so that the voxel has a value, with a large noise
        for k in range(weight.size):
            weight[k] = max(magnitude[k] ** 2, np.float32(1e-30))
    # the first echo must count: it wraps least
    weight[0] = max(weight[0], np.float32(1e-3) * sigma * sigma, np.float32(1e-30))


@njit(cache=True)
def trust(phase: Array, weight: Array, times: Array, sigma: float, trusted: Array):
    """Remove wraps that the earlier echoes rule out, and lower the weight of echoes that depart from them.

    Near air the field varies within a voxel, and its parts lose signal at different rates: the first echo has
    the phase of the mean field, and later echoes depart from linear phase more and more. The limit is three
    standard deviations plus FLOOR; the weight of an echo that departs by more falls by the square of limit
    over departure. Changes ``phase`` in place, fills ``trusted`` (weights), and returns the slope (rad/s).
    """
    # the first echo itself may be wrapped: if moving it by 2 pi leaves no other echo to move
    best = ZERO
    if 2 * _moved(phase, weight, times, ZERO) > times.size - 1:
        for n in (-1, 1):
            if _moved(phase, weight, times, np.float32(n) * TURN) == 0:
                best = np.float32(n) * TURN
    phase[0] += best
    bottom = weight[0] * times[0] ** 2
    top = weight[0] * times[0] * phase[0]
    trusted[:] = ZERO
    trusted[0] = weight[0]
    variance = sigma * sigma
    for k in range(1, times.size):
        if weight[k] == 0:
            continue
        predicted = top / bottom * times[k]
        away = phase[k] - predicted
        away -= TURN * np.floor(away / TURN + HALF)
        phase[k] = predicted + away
        limit = 3 * np.sqrt(times[k] ** 2 * variance / bottom + variance / weight[k]) + FLOOR
        share = min(ONE, limit / max(abs(away), np.float32(1e-6)))
        trusted[k] = weight[k] * share * share
        bottom += trusted[k] * times[k] ** 2
        top += trusted[k] * times[k] * phase[k]
    return top / bottom


@njit(cache=True)
def _moved(phase: Array, weight: Array, times: Array, shift: float):
    """Number of echoes that would have to move by 2 pi if the first moved by ``shift``."""
    slope = (phase[0] + shift) / times[0]
    moved = 0
    for k in range(1, times.size):
        if weight[k] > 0:
            moved += abs(phase[k] - slope * times[k]) > HALF * TURN
    return moved


@njit(cache=True)
def spread(misfit: float, trusted: Array, weight: Array, times: Array, sigma: float):
    """Standard deviation of the slope (rad/s): predicted by the magnitude, raised where the misfit is larger.

    ``misfit`` is weighted by ``weight``, so that echoes of low trust count in full.
    """
    bottom = ZERO
    counted = 0
    for k in range(times.size):
        bottom += trusted[k] * times[k] ** 2
        counted += weight[k] > 0
    if counted > 1 and sigma > 0:
        excess = (PRIOR + misfit / (sigma * sigma)) / (PRIOR + np.float32(counted - 1))
        return sigma * np.sqrt(max(excess, ONE) / bottom)
    if counted > 1:
        return np.sqrt(misfit / np.float32(counted - 1) / bottom)
    return sigma / np.sqrt(bottom)
