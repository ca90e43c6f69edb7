"""Weighted linear least squares: the dipole inversion that conjugate gradients solve."""

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array, like
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, relative_noise, typical_noise
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=15.5), prose='Tikhonov regularisation [@tikhonov]')
def tikhonov(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    strength: float = 0.05,
    order: int = 1,
    tolerance: float = 0.02,
    max_iterations: int = 100,
):
    r"""Invert the dipole by weighted least squares with a Tikhonov penalty [1]_.

    .. math:: \min_\chi \|W (D \chi - f)\|^2 + \lambda \|\nabla^n \chi\|^2,
              \quad \lambda = \mathrm{strength} \cdot h^n \, \tilde\sigma / s

    W is the median noise over the noise of the voxel, at most 1, and 0 outside the mask. The ``order`` n is 0
    (small values) or 1 (small gradients, per mm). The weight :math:`\lambda`, which the paper takes from an
    L-curve, follows the noise :math:`\tilde\sigma` (the median) relative to the field's spread s, and the
    voxel size h (geometric mean, mm). Conjugate gradients, preconditioned by the solution for
    W = 1, run until the residual has fallen to the share ``tolerance``.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Kressler et al. (2010), IEEE Trans Med Imaging 29:273. doi:10.1109/TMI.2009.2023787
    """
    if order not in (0, 1):
        raise UserError(f'tikhonov:order is {order}; it must be 0 or 1.')
    box = Box.around(mask, grid, padding=PADDING)
    inside = box.crop(mask)
    size = grid.voxel_volume ** (1 / 3)
    weight = strength * relative_noise(noise, field, mask) * size**order
    energy = gradient_energy(box.shape, grid.voxel_size) if order else np.float32(1)
    square = certainty(box.crop(noise), inside, typical_noise(noise, field, mask))
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    prior = like(np.ones_like(dipole) * (np.float32(weight) * energy), field)
    chi = least_squares(
        box.crop(field) * inside, square, like(dipole, field), prior, tolerance, max_iterations
    )
    return box.uncrop(chi * inside)


def normal_operator(square: Array, dipole: Array, prior: Array):
    """The function x -> D W^2 D x + P x, for kernels D and P in the layout of `rfft`."""

    def apply(x: Array):
        spectrum = rfft(x)
        kept = spectrum * prior
        spectrum *= dipole
        seen = irfft(spectrum, x.shape)
        seen *= square
        spectrum = rfft(seen)
        spectrum *= dipole
        spectrum += kept
        return irfft(spectrum, x.shape)

    return apply


def least_squares(
    field: Array, square: Array, dipole: Array, prior: Array, tolerance: float, max_iterations: int
):
    """Minimise the weighted misfit plus the quadratic ``prior``, whose kernel has the layout of `rfft`."""
    better = dipole**2
    better += prior
    # the mean of chi is open; it stays at zero
    better[0, 0, 0] = 1
    better = 1 / better
    better[0, 0, 0] = 0
    return conjugate_gradient(
        normal_operator(square, dipole, prior),
        convolve(field * square, dipole),
        tolerance=tolerance,
        max_iterations=max_iterations,
        precondition=lambda residual: convolve(residual, better),
    )
