"""Splitting of the data term from the dipole, for methods that differ in the measure of misfit."""

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
"""Penalties of the two splittings (the first times squared voxel size): they change the speed only."""


@dataclass(frozen=True)
class Problem:
    """A field in the padded box of its mask, with weights.

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
        # outside the mask there may be NaN
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

    It takes :math:`\nabla^T q`, returns :math:`\chi`, and calls ``match`` (see `fidelity`) to update the
    model m, the dual s and their difference, the ``target``: two pairs of FFTs.
    """

    def __init__(self, problem: Problem, match: Callable):
        self.field, self.weight, self.match = problem.field, problem.weight, match
        shape, grid = tuple(problem.box.shape), problem.grid
        dipole = dipole_kernel(shape, grid.voxel_size, grid.b0_dir)
        inverse = np.float32(DATA_PENALTY) * dipole**2
        inverse += np.float32(problem.gradient_penalty) * gradient_energy(shape, grid.voxel_size)
        # the mean of chi is undetermined, and set to zero
        inverse[0, 0, 0] = 1
        np.divide(1, inverse, out=inverse)
        self.dipole, self.inverse = like(dipole, self.field), like(inverse, self.field)
        self.penalty = problem.gradient_penalty
        copies = (namespace(self.field).asarray(self.field, copy=True) for _ in range(2))
        (self.model, self.target), self.dual = copies, 0 * self.field

    def __call__(self, pull: Array):
        shape = tuple(self.field.shape)
        spectrum, self.target = rfft(self.target), None
        gradients = rfft(pull)
        solve(spectrum, gradients, self.dipole, self.inverse, self.penalty)
        # one spectrum is freed before the next is transformed, where memory peaks
        chi = irfft(spectrum, shape)
        del spectrum
        self.target = irfft(gradients, shape)
        del gradients
        self.match(self.target, self.field, self.weight, self.model, self.dual)
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
