"""Rapid two-step dipole inversion."""

import numpy as np

from bids_qsm.recon.arrays import Array, like
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, typical_noise
from bids_qsm.recon.inversion.tikhonov import normal_operator
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.solvers import total_variation


@method(memory=Need(padded=14.5), prose='RTS [@rts]')
def rts(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    threshold: float = 0.1,
    strength: float = 2.0,
    steps: int = 3,
    tolerance: float = 0.03,
    max_iterations: int = 100,
):
    r"""Invert what the dipole determines well, then fill in the rest by total variation [1]_.

    .. math:: \chi_1 = \arg\min \|W (D \chi - f)\|^2 \text{ in a few steps}, \quad
              \min_\chi \tfrac12 \|C (\hat\chi - \hat\chi_1)\|^2 + \lambda \sum |\nabla \chi|,
              \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    W is the median noise over the noise of the voxel, at most 1, and 0 outside the mask. A few ``steps`` of
    conjugate gradients settle the well-conditioned part of k-space, C = 1 where :math:`|D|` is above
    ``threshold`` and 0 on the cone about the magic angle.

    Departures from [1]_: the paper all but fixes the well-conditioned part (a weight of 1e5 on it); here
    :math:`\lambda` follows the noise :math:`\tilde\sigma` (its median, ppm) and the voxel size h (geometric
    mean, mm), so that its noise is taken off, too. Conjugate gradients stand for
    LSMR; scaled by the square of the larger of :math:`|D|` and ``threshold``, they need fewer steps.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Kames et al. (2018), NeuroImage 167:276. doi:10.1016/j.neuroimage.2017.11.018
    """
    box = Box.around(mask, grid, padding=PADDING)
    inside, size = box.crop(mask), grid.voxel_volume ** (1 / 3)
    typical = typical_noise(noise, field, mask)
    square = certainty(box.crop(noise), inside, typical)
    kernel = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    dipole = like(kernel, field)
    better = like(1 / np.maximum(np.abs(kernel), np.float32(threshold)) ** 2, field)
    first = conjugate_gradient(
        normal_operator(square, dipole, 0.0),
        convolve(box.crop(field) * square, dipole),
        tolerance=0.0,
        max_iterations=steps,
        precondition=lambda residual: convolve(residual, better),
    )
    del square, dipole
    penalty = GRADIENT_PENALTY * size**2
    chi = total_variation(
        _well_conditioned(first, np.abs(kernel) > threshold, grid, penalty),
        first,
        grid.voxel_size,
        weight=strength * typical * size,
        penalty=penalty,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return box.uncrop(chi * inside)


GRADIENT_PENALTY = 0.2
"""Penalty of the splitting, times squared voxel size: it sets the pace, not the result."""


def _well_conditioned(first: Array, certain: Array, grid: Grid, penalty: float):
    """Build the least-squares step of `total_variation` towards ``first`` where k-space is ``certain``."""
    shape = tuple(first.shape)
    inverse = np.float32(penalty) * gradient_energy(shape, grid.voxel_size)
    inverse += certain
    inverse[0, 0, 0] = 1
    np.divide(1, inverse, out=inverse)
    known, inverse = like(certain, first), like(inverse, first)
    goal = rfft(first)
    goal *= known
    goal *= inverse
    inverse *= penalty

    def update(pull: Array):
        spectrum = rfft(pull)
        spectrum *= inverse
        spectrum += goal
        return irfft(spectrum, shape)

    return update
