"""Sources from a field and relaxation at once, with edges of the magnitude, by splitting."""

from dataclasses import dataclass

import numba
import numpy as np

from bids_qsm.recon.fourier import Box, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.fused_kernels import change
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import RELAX, squares
from bids_qsm.recon.inversion.morphology import pull_smooth, smooth_places, step_smooth
from bids_qsm.recon.inversion.noise_scale import PADDING
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, GRADIENT_PENALTY
from bids_qsm.recon.noise import noise_level

BOUND_PENALTY = 0.1
"""Penalty of the splitting of bounds and relaxation: it changes the speed, not the result."""
OUTLIER = 3.0
"""Standard deviations of relaxation from which a voxel holds other than the two sources of tissue."""
LEAST_NOISE = 2e-4
"""Least noise of a field (ppm): errors of background removal are smooth and do not show in its detail."""


@dataclass(frozen=True)
class Equations:
    r"""Field and relaxation of two sources, in the padded box of a mask.

    .. math:: \tfrac12 \|W (D (\chi_+ - |\chi_-|) - f)\|^2
              + \tfrac12 \|V (a_+ \chi_+ + a_- |\chi_-| - r)\|^2

    Attributes
    ----------
    box : Box
    grid : Grid
    dipole : ndarray
        Kernel D in the layout of `rfft`; ones where ``field`` is susceptibility itself.
    field, weight : ndarray
        f (ppm) and squared W, which is the typical noise over that of the voxel, at most 1, 0 outside.
    rate : ndarray
        r, relaxation over the paramagnetic relaxivity (ppm).
    rate_weight : ndarray
        Squared V: the typical noise of the field over that of ``rate``, 0 outside.
    first, second : ndarray
        Paramagnetic and diamagnetic relaxivity of each voxel over that which ``rate`` was divided by.
    noise : float
        Typical noise of the field (ppm).
    """

    box: Box
    grid: Grid
    dipole: np.ndarray
    field: np.ndarray
    weight: np.ndarray
    rate: np.ndarray
    rate_weight: np.ndarray
    first: np.ndarray
    second: np.ndarray
    noise: float


def equations(
    field: np.ndarray,
    rate: np.ndarray,
    chi: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    relaxivity: tuple[float, float],
    rate_noise: float,
):
    """`Equations` of a local field (ppm) and relaxation (1/s); the noise of the field goes as 1/magnitude.

    Where a map of susceptibility needs more relaxation than there is (veins, calcium), by more than
    `OUTLIER` deviations, the weight of relaxation is divided by the squared excess, as in MERIT [1]_.

    References
    ----------
    .. [1] Liu et al. (2013), MRM 69:467. doi:10.1002/mrm.24272
    """
    box = Box.around(mask, grid, padding=PADDING)
    noise = max(noise_level(field[..., None], mask), LEAST_NOISE)
    bright = box.crop(np.where(mask, magnitude, 0).astype(np.float32))
    weight = np.minimum(bright / np.median(magnitude[mask & (magnitude > 0)]), 1) ** 2
    para, dia = relaxivity
    needed = np.maximum(para * chi, -dia * chi) - np.maximum(rate, 0)
    excess = np.maximum(needed / (OUTLIER * rate_noise), 1)
    first = np.ones(box.shape, np.float32)
    return Equations(
        box,
        grid,
        dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir),
        box.crop(np.where(mask, field, 0).astype(np.float32)),
        weight.astype(np.float32),
        box.crop(np.where(mask, rate / para, 0).astype(np.float32)),
        box.crop(np.where(mask, (noise * para / rate_noise / excess) ** 2, 0).astype(np.float32)),
        first,
        np.float32(dia / para) * first,
        noise,
    )


def solve(
    one: Equations,
    para: np.ndarray,
    dia: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    *,
    strength: float,
    edges: float,
    tolerance: float,
    max_iterations: int,
):
    r"""Minimise `Equations` plus weighted total variation of both sources, none below zero, by ADMM [1]_.

    .. math:: \lambda \sum |M \nabla \chi_+| + \lambda \sum |M \nabla \chi_-|,
              \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    M is 0 for the share ``edges`` of the differences where the magnitude changes most, and 1 elsewhere
    (`smooth_places`); :math:`\tilde\sigma` is the noise of the field and h the voxel size (mm). The field
    does not tell the mean of susceptibility, which stays that of the start but for the bounds.

    Parameters
    ----------
    para, dia : ndarray, shape of ``mask``
        Where iterations start (ppm, both positive).

    Returns
    -------
    para, dia : ndarray of float32
        Both positive, 0 outside the mask.

    References
    ----------
    .. [1] Boyd et al. (2010), Found Trends Mach Learn 3:1. doi:10.1561/2200000016
    """
    grid, shape = one.grid, tuple(one.box.shape)
    size, steps = grid.voxel_volume ** (1 / 3), tuple(1 / h for h in grid.voxel_size)
    smooth = smooth_places(one.box.crop(magnitude), one.box.crop(mask), grid.voxel_size, edges)
    penalty, bound = np.float32(GRADIENT_PENALTY * size**2), np.float32(BOUND_PENALTY)
    threshold = strength * one.noise * size / float(penalty)
    apart = penalty * gradient_energy(shape, grid.voxel_size) + bound
    match = squares(DATA_PENALTY)
    copies = np.stack([one.box.crop(np.where(mask, a, 0).astype(np.float32)) for a in (para, dia)])
    dual = np.zeros_like(copies)
    vector, pulls = np.zeros((2, 3, *shape), np.float32), np.zeros_like(copies)
    model, target = one.field.copy(), one.field.copy()
    slack = np.zeros_like(model)
    total, between = np.float32(2 * DATA_PENALTY), np.float32(DATA_PENALTY)
    previous = np.zeros_like(model)
    for _ in range(max_iterations):
        _gather(pulls, copies, dual, penalty, bound)
        both, apart_of = rfft(pulls[0] + pulls[1]), rfft(pulls[0] - pulls[1])
        apart_of += (2 * between) * one.dipole * rfft(target)
        apart_of /= total * one.dipole**2 + apart
        both /= apart
        field = irfft(one.dipole * apart_of, shape)
        x, y = irfft(apart_of, shape), irfft(both, shape)
        match(field, one.field, one.weight, model, slack)
        target = field
        moved, norm = change(x, previous)
        previous = x
        sources = np.stack([(y + x) / 2, (y - x) / 2])
        _bound(sources, copies, dual, one.rate, one.rate_weight, one.first, one.second, bound)
        for c in range(2):
            step_smooth(sources[c], vector[c], smooth, steps, threshold, RELAX)
            pull_smooth(vector[c], smooth, pulls[c], steps, threshold)
        if moved <= tolerance**2 * norm:
            break
    return tuple(one.box.uncrop(a) * mask for a in copies)


@numba.njit(cache=True, parallel=True)
def _gather(pulls: np.ndarray, copies: np.ndarray, dual: np.ndarray, penalty: float, bound: float):
    """Right side of the least-squares step of each source, in place of the divergence of its gradient."""
    for i in numba.prange(pulls.shape[1]):
        for c in range(2):
            for j in range(pulls.shape[2]):
                for k in range(pulls.shape[3]):
                    goal = copies[c, i, j, k] - dual[c, i, j, k]
                    pulls[c, i, j, k] = penalty * pulls[c, i, j, k] + bound * goal


@numba.njit(cache=True, parallel=True)
def _bound(
    sources: np.ndarray,
    copies: np.ndarray,
    dual: np.ndarray,
    rate: np.ndarray,
    weight: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    bound: float,
):
    """Copies of both sources that explain relaxation and are not negative, near the sources plus duals."""
    zero, relax = np.float32(0), np.float32(RELAX)
    for i in numba.prange(rate.shape[0]):
        for j in range(rate.shape[1]):
            for k in range(rate.shape[2]):
                p = relax * sources[0, i, j, k] + (1 - relax) * copies[0, i, j, k] + dual[0, i, j, k]
                q = relax * sources[1, i, j, k] + (1 - relax) * copies[1, i, j, k] + dual[1, i, j, k]
                a, b, w = first[i, j, k], second[i, j, k], weight[i, j, k] / bound
                r = rate[i, j, k]
                # the matrix is the identity plus w times the outer product of (a, b)
                lack = w * (r - a * p - b * q) / (1 + w * (a * a + b * b))
                x, y = p + a * lack, q + b * lack
                if x < 0:
                    x, y = zero, max((q + w * b * r) / (1 + w * b * b), zero)
                elif y < 0:
                    x, y = max((p + w * a * r) / (1 + w * a * a), zero), zero
                copies[0, i, j, k], copies[1, i, j, k] = x, y
                dual[0, i, j, k], dual[1, i, j, k] = p - x, q - y
