"""Nonlinear dipole inversion without a regulariser: it stops where the noise begins."""

from collections.abc import Callable

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, like, namespace
from bids_qsm.recon.conjugate import dot
from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.fused_kernels import add_up
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.splitting import Problem
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=15), prose='NDI [@ndi]')
def ndi(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    radians_per_ppm: float,
    *,
    discrepancy: float = 0.7,
    tolerance: float = 0.01,
    max_iterations: int = 100,
):
    r"""Invert the dipole by descent on the complex misfit, stopped early [1]_.

    .. math:: \min_\chi \Phi(D \chi), \quad \Phi(m) = \tfrac12 \|W (e^{i r m} - e^{i r f})\|^2 / r^2

    Nothing but the early stop regularises. It comes when the mean squared misfit falls to ``discrepancy``
    times what the noise alone would leave (Morozov's principle), or when a step gains less than ``tolerance``
    of the misfit that is left, so that an underestimated noise does not let streaks grow.

    Where we depart from the paper: steps are conjugate gradients (Polak-Ribiere), as long as the squares that
    bound the misfit allow, instead of a fixed step of 2; and since every
    step is an image of the dipole, :math:`\chi = D^T s`, the iteration goes on in s and :math:`D D^T s`
    alone, for one pair of FFTs each.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Local field (ppm).
    mask : ndarray of bool
    noise : ndarray of float32
        Standard deviation of the field (ppm).
    radians_per_ppm : float
        Phase (rad) that 1 ppm gives at the effective echo time.

    Returns
    -------
    ndarray of float32
        Susceptibility (ppm), 0 outside the mask.

    References
    ----------
    .. [1] Polak et al. (2020), NMR Biomed 33:e4271. doi:10.1002/nbm.4271
    """
    problem = Problem.of(field, mask, noise, grid)
    dipole = dipole_kernel(problem.box.shape, grid.voxel_size, grid.b0_dir)
    square = like(dipole**2, problem.field)
    # of a phase that is noise alone a mean squared chord of 2 is left, however large its noise is said to be
    xp = namespace(field)
    wander = 2 - 2 * xp.exp(-0.5 * (radians_per_ppm * problem.box.crop(noise)) ** 2)
    expected = float(xp.sum(problem.weight * wander)) / (2 * radians_per_ppm**2)
    steps = _descend(
        problem.field,
        problem.weight,
        lambda s: convolve(s, square),
        radians=radians_per_ppm,
        goal=discrepancy * expected,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return problem.give(convolve(steps, like(dipole, problem.field)))


def _descend(
    field: Array,
    weight: Array,
    square: Callable,
    *,
    radians: float,
    goal: float,
    tolerance: float,
    max_iterations: int,
):
    """Nonlinear conjugate gradients in s, of which ``square`` gives the field."""
    model, steps, way, image, slope, before = (0 * field for _ in range(6))
    misfit = _advance(field, weight, model, steps, way, image, slope, 0.0, radians)
    height = np.inf
    for _ in range(max_iterations):
        if misfit <= goal:
            break
        # inner products are those of the gradients in chi, D^T slope
        rise = square(slope)
        last, height = height, dot(rise, slope)
        turn = max(0.0, (height - dot(rise, before)) / last)
        before[...] = slope
        down, curvature = _turn(way, image, slope, rise, weight, turn)
        if not (down > 0 and curvature > 0):
            # rounding has the last word: no way down is left
            break
        previous = misfit
        misfit = _advance(field, weight, model, steps, way, image, slope, down / curvature, radians)
        if misfit > previous * (1 - tolerance):
            break
    return steps


@numba.njit(cache=True, parallel=True, fastmath=True)
def _advance_compiled(
    field: Array,
    weight: Array,
    model: Array,
    steps: Array,
    way: Array,
    image: Array,
    slope: Array,
    length: float,
    radians: float,
):
    """Go on by ``length``; return the misfit there and put its downward slope into ``slope``."""
    nx, ny, nz = field.shape
    length, radians = np.float32(length), np.float32(radians)
    sums = np.zeros((nx, 2))
    for i in numba.prange(nx):
        misfit = 0.0
        for j in range(ny):
            for k in range(nz):
                steps[i, j, k] += length * way[i, j, k]
                model[i, j, k] += length * image[i, j, k]
                w = weight[i, j, k]
                if w == 0:
                    slope[i, j, k] = 0
                    continue
                half = np.float32(0.5) * radians * (field[i, j, k] - model[i, j, k])
                sine = np.sin(half)
                slope[i, j, k] = np.float32(2) * w * sine * np.cos(half) / radians
                misfit += np.float64(np.float32(2) * w * sine * sine)
        sums[i, 0] = misfit
    return add_up(sums)[0] / radians**2


def _advance_any(
    field: Array,
    weight: Array,
    model: Array,
    steps: Array,
    way: Array,
    image: Array,
    slope: Array,
    length: float,
    radians: float,
):
    xp = namespace(field)
    steps += length * way
    model += length * image
    half = 0.5 * radians * (field - model)
    slope[...] = weight * xp.sin(2 * half) / radians
    return float(xp.sum(2 * weight * xp.sin(half) ** 2)) / radians**2


_advance = either(_advance_compiled, _advance_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _turn_compiled(way: Array, image: Array, slope: Array, rise: Array, weight: Array, turn: float):
    """Turn the way and its image; return how steeply it falls, and the most that its slope can rise."""
    nx, ny, nz = way.shape
    turn = np.float32(turn)
    sums = np.zeros((nx, 2))
    for i in numba.prange(nx):
        down, curvature = 0.0, 0.0
        for j in range(ny):
            for k in range(nz):
                way[i, j, k] = slope[i, j, k] + turn * way[i, j, k]
                new = rise[i, j, k] + turn * image[i, j, k]
                image[i, j, k] = new
                down += np.float64(slope[i, j, k] * new)
                curvature += np.float64(weight[i, j, k] * new * new)
        sums[i, 0], sums[i, 1] = down, curvature
    return add_up(sums)


def _turn_any(way: Array, image: Array, slope: Array, rise: Array, weight: Array, turn: float):
    xp = namespace(way)
    way *= turn
    way += slope
    image *= turn
    image += rise
    return float(xp.sum(slope * image)), float(xp.sum(weight * image * image))


_turn = either(_turn_compiled, _turn_any)
