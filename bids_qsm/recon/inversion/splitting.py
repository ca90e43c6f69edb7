"""A weighted field split from its dipole, for methods that measure the misfit each in its own way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, like, namespace
from bids_qsm.recon.fourier import Box, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, typical_noise

GRADIENT_PENALTY, DATA_PENALTY = 0.025, 0.3
"""Penalties of the two splittings (the first times squared voxel size): they set the pace, not the result."""


@dataclass(frozen=True)
class Problem:
    """A field in the padded box of its mask, and how far to trust it.

    ``weight`` is the squared ratio of the ``typical`` noise (ppm) to the voxel's, at most 1, and 0 outside
    the mask; ``size`` is the geometric mean of the voxel's edges (mm).
    """

    box: Box
    grid: Grid
    inside: Any
    field: Any
    weight: Any
    typical: float
    size: float

    @classmethod
    def of(cls, field: Array, mask: Array, noise: Array, grid: Grid):
        box = Box.around(mask, grid, padding=PADDING)
        inside = box.crop(mask)
        typical = typical_noise(noise, field, mask)
        xp = namespace(field)
        # there may be anything outside the mask, NaN as well
        field, noise = (box.crop(xp.where(mask, a, xp.zeros_like(a))) for a in (field, noise))
        weight = certainty(noise, inside, typical)
        return cls(box, grid, inside, field, weight, typical, grid.voxel_volume ** (1 / 3))

    @property
    def gradient_penalty(self):
        return GRADIENT_PENALTY * self.size**2

    def give(self, chi: Array):
        """Susceptibility in the volume, 0 outside the mask."""
        return self.box.uncrop(chi * self.inside)


class Splitting:
    r"""Least-squares step of a total variation whose data term is split as ``model`` = D chi.

    .. math:: \min_\chi \rho/2 |D\chi - (m - s)|^2 + \mu/2 |\nabla\chi - q|^2

    It takes :math:`\nabla^T q`, returns :math:`\chi`, and lets ``match`` (see `fidelity`) renew the model m
    and the dual s: two pairs of FFTs.
    """

    def __init__(self, problem: Problem, match: Callable):
        self.field, self.weight, self.match = problem.field, problem.weight, match
        shape, grid = tuple(problem.box.shape), problem.grid
        dipole = dipole_kernel(shape, grid.voxel_size, grid.b0_dir)
        inverse = np.float32(DATA_PENALTY) * dipole**2
        inverse += np.float32(problem.gradient_penalty) * gradient_energy(shape, grid.voxel_size)
        # the mean of chi is open; it stays at zero
        inverse[0, 0, 0] = 1
        np.divide(1, inverse, out=inverse)
        self.dipole, self.inverse = like(dipole, self.field), like(inverse, self.field)
        self.penalty = problem.gradient_penalty
        self.model, self.dual = namespace(self.field).asarray(self.field, copy=True), 0 * self.field

    def __call__(self, pull: Array):
        shape = tuple(self.field.shape)
        spectrum, gradients = rfft(self.model - self.dual), rfft(pull)
        solve(spectrum, gradients, self.dipole, self.inverse, self.penalty)
        # one spectrum goes before the next turns into an image, which is what sets the peak of memory
        chi = irfft(spectrum, shape)
        del spectrum
        image = irfft(gradients, shape)
        del gradients
        self.match(image, self.field, self.weight, self.model, self.dual)
        return chi


@numba.njit(cache=True, parallel=True, fastmath=True)
def _solve(spectrum: Array, gradients: Array, dipole: Array, inverse: Array, penalty: float):
    """Spectra of model and pull on entry; of chi and of its field on return."""
    nx, ny, nz = dipole.shape
    rho, mu = np.float32(DATA_PENALTY), np.float32(penalty)
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                d = dipole[i, j, k]
                chi = inverse[i, j, k] * (rho * d * spectrum[i, j, k] + mu * gradients[i, j, k])
                spectrum[i, j, k] = chi
                gradients[i, j, k] = d * chi


def _solve_any(spectrum: Array, gradients: Array, dipole: Array, inverse: Array, penalty: float):
    spectrum *= dipole
    spectrum *= DATA_PENALTY
    gradients *= penalty
    spectrum += gradients
    spectrum *= inverse
    gradients[...] = spectrum * dipole


solve = either(_solve, _solve_any)
