"""How far each echo of a voxel can be trusted: what its phase says against the earlier echoes."""

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.noise import DEAD, noise_level
from bids_qsm.recon.units import ppm_per_radian

FLOOR = np.float32(0.2)
"""Phase (rad) by which an echo may depart from a straight line without noise: offset, flow, eddy currents."""
PRIOR = np.float32(8)
"""Degrees of freedom given to the noise model against the misfit of a single voxel."""
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

    It is called with the images, magnitude, mask, times and noise level, sees echoes first and voxels in a
    row, and gives rates in rad/s.
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
    """Fill ``weight`` with the squared signal less its share of noise, 0 for echoes that have died."""
    alive = ZERO
    for k in range(weight.size):
        m = magnitude[k]
        weight[k] = m * m - 2 * sigma * sigma if m > DEAD * sigma else ZERO
        alive += weight[k]
    if alive <= 0:
        # Noise alone: weigh by magnitude, so that the voxel still has a value (and a large noise).
        for k in range(weight.size):
            weight[k] = max(magnitude[k] ** 2, np.float32(1e-30))
    # the first echo, however weak, knows the turn best
    weight[0] = max(weight[0], np.float32(1e-3) * sigma * sigma, np.float32(1e-30))


@njit(cache=True)
def trust(phase: Array, weight: Array, times: Array, sigma: float, trusted: Array):
    """Bring each echo to the turn that the earlier ones predict, and weigh down those that depart from them.

    Where air has bent the field within a voxel, its signal dies unevenly: the phase of the first echo is
    that of the mean field, and the later ones leave the straight line by more and more. An echo whose phase
    departs by more than three standard deviations and FLOOR counts by the square of that limit over its
    departure. Moves ``phase`` in place, fills ``trusted`` (weights), and returns the slope (rad/s).
    """
    # the first echo may itself have kept a wrong turn: where all others would then stay where they are
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
    """Echoes that would have to move by a turn if the first moved by ``shift``."""
    slope = (phase[0] + shift) / times[0]
    moved = 0
    for k in range(1, times.size):
        if weight[k] > 0:
            moved += abs(phase[k] - slope * times[k]) > HALF * TURN
    return moved


@njit(cache=True)
def spread(misfit: float, trusted: Array, weight: Array, times: Array, sigma: float):
    """Standard deviation of the slope (rad/s): as the magnitude predicts, raised where the misfit is larger.

    ``misfit`` is weighted by ``weight``, in which echoes that are not trusted count in full.
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
