"""Nonlinear dipole inversion, regularised by early stopping."""

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

    Early stopping is the only regularisation. The iteration stops when the mean squared misfit falls to
    ``discrepancy`` times the misfit expected of the noise (Morozov's principle), or when a step reduces the
    misfit by less than ``tolerance``, so that streaks do not grow where the noise is underestimated.

    Departures from the paper: conjugate gradients (Polak-Ribiere) replace gradient descent, and the step
    length comes from a quadratic bound of the misfit instead of a fixed 2. Every step lies in the range of
    the dipole, :math:`\chi = D^T s`, so we iterate in s and :math:`D D^T s`, with one pair of FFTs a step.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Polak et al. (2020), NMR Biomed 33:e4271. doi:10.1002/nbm.4271
    """
    problem = Problem.of(field, mask, noise, grid)
    dipole = dipole_kernel(problem.box.shape, grid.voxel_size, grid.b0_dir)
    square = like(dipole**2, problem.field)
    # the mean squared chord of random phase is 2, however large the stated noise
    xp = namespace(field)
    wander = 2 - 2 * xp.exp(-0.5 * (radians_per_ppm * problem.box.crop(noise)) ** 2)
    expected = float(xp.sum(problem.weight * wander)) / (2 * radians_per_ppm**2)
    s = _descend(
        problem.field,
        problem.weight,
        lambda s: convolve(s, square),
        radians=radians_per_ppm,
        goal=discrepancy * expected,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return problem.give(convolve(s, like(dipole, problem.field)))


def _descend(
    field: Array,
    weight: Array,
    apply: Callable,
    *,
    radians: float,
    goal: float,
    tolerance: float,
    max_iterations: int,
):
    """Nonlinear conjugate gradients in s; ``apply`` computes the field A s = D D^T s."""
    model, s, d, Ad, r, last_r = (0 * field for _ in range(6))
    misfit = _advance(field, weight, model, s, d, Ad, r, 0.0, radians)
    rAr = np.inf
    for _ in range(max_iterations):
        if misfit <= goal:
            break
        # inner products are those of the gradients in chi, D^T r
        Ar = apply(r)
        last, rAr = rAr, dot(Ar, r)
        beta = max(0.0, (rAr - dot(Ar, last_r)) / last)
        last_r[...] = r
        rAd, curvature = _turn(d, Ad, r, Ar, weight, beta)
        if not (rAd > 0 and curvature > 0):
            # rounding errors dominate: no direction of descent is left
            break
        previous = misfit
        misfit = _advance(field, weight, model, s, d, Ad, r, rAd / curvature, radians)
        if misfit > previous * (1 - tolerance):
            break
    return s


@numba.njit(cache=True, parallel=True, fastmath=True)
def _advance_compiled(
    field: Array,
    weight: Array,
    model: Array,
    s: Array,
    d: Array,
    Ad: Array,
    r: Array,
    alpha: float,
    radians: float,
):
    """Add alpha d to s; put the negative gradient there into r, and return the misfit."""
    nx, ny, nz = field.shape
    alpha, radians = np.float32(alpha), np.float32(radians)
    sums = np.zeros((nx, 2))
    for i in numba.prange(nx):
        misfit = 0.0
        for j in range(ny):
            for k in range(nz):
                s[i, j, k] += alpha * d[i, j, k]
                model[i, j, k] += alpha * Ad[i, j, k]
                w = weight[i, j, k]
                if w == 0:
                    r[i, j, k] = 0
                    continue
                half = np.float32(0.5) * radians * (field[i, j, k] - model[i, j, k])
                sine = np.sin(half)
                r[i, j, k] = np.float32(2) * w * sine * np.cos(half) / radians
                misfit += np.float64(np.float32(2) * w * sine * sine)
        sums[i, 0] = misfit
    return add_up(sums)[0] / radians**2


def _advance_any(
    field: Array,
    weight: Array,
    model: Array,
    s: Array,
    d: Array,
    Ad: Array,
    r: Array,
    alpha: float,
    radians: float,
):
    xp = namespace(field)
    s += alpha * d
    model += alpha * Ad
    half = 0.5 * radians * (field - model)
    r[...] = weight * xp.sin(2 * half) / radians
    return float(xp.sum(2 * weight * xp.sin(half) ** 2)) / radians**2


_advance = either(_advance_compiled, _advance_any)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _turn_compiled(d: Array, Ad: Array, r: Array, Ar: Array, weight: Array, beta: float):
    """New direction r + beta d, in place of d; return r A d and an upper bound of the curvature along d."""
    nx, ny, nz = d.shape
    beta = np.float32(beta)
    sums = np.zeros((nx, 2))
    for i in numba.prange(nx):
        rAd, curvature = 0.0, 0.0
        for j in range(ny):
            for k in range(nz):
                d[i, j, k] = r[i, j, k] + beta * d[i, j, k]
                new = Ar[i, j, k] + beta * Ad[i, j, k]
                Ad[i, j, k] = new
                rAd += np.float64(r[i, j, k] * new)
                curvature += np.float64(weight[i, j, k] * new * new)
        sums[i, 0], sums[i, 1] = rAd, curvature
    return add_up(sums)


def _turn_any(d: Array, Ad: Array, r: Array, Ar: Array, weight: Array, beta: float):
    xp = namespace(d)
    d *= beta
    d += r
    Ad *= beta
    Ad += Ar
    return float(xp.sum(r * Ad)), float(xp.sum(weight * Ad * Ad))


_turn = either(_turn_compiled, _turn_any)
