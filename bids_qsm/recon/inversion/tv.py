"""Dipole inversion regularised by total variation."""

import numba
import numpy as np

from bids_qsm.recon.arrays import either, like, namespace
from bids_qsm.recon.fourier import Box, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.setting import PADDING, typical_noise
from bids_qsm.recon.solvers import total_variation


def tv(
    field,
    mask,
    noise,
    grid: Grid,
    *,
    strength: float = 0.06,
    tolerance: float = 0.01,
    max_iterations: int = 100,
):
    r"""Invert the dipole with total variation, by the alternating direction method [1]_ [2]_.

    .. math:: \min_\chi \tfrac12 \|W (D \chi - f)\|^2 + \lambda \sum |\nabla \chi|,
              \quad \lambda = \mathrm{strength} \cdot \tilde\sigma h

    W is the median noise over the noise of the voxel, at most 1, and 0 outside the mask: there :math:`\chi`
    is free, so that neither the cut of the field at the mask nor a remaining background field has to be
    explained from inside. It is split from the dipole as in [2]_, so each iteration takes two pairs of FFTs
    and no inner solver. The weight follows the noise :math:`\tilde\sigma` (its median, ppm) and the voxel
    size h (geometric mean, mm), so that it does not depend on the scan; gradients are isotropic, per mm. The
    iteration stops when it changes :math:`\chi` by less than ``tolerance``, relative.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Local field (ppm).
    mask : ndarray of bool
    noise : ndarray of float32
        Standard deviation of the field (ppm).

    Returns
    -------
    ndarray of float32
        Susceptibility (ppm), 0 outside the mask.

    References
    ----------
    .. [1] Bilgic et al. (2014), MRM 72:1444. doi:10.1002/mrm.25029
    .. [2] Milovic et al. (2018), MRM 80:814. doi:10.1002/mrm.27073
    """
    box = Box.around(mask, grid, padding=PADDING)
    inside = box.crop(mask)
    size = float(np.prod(grid.voxel_size)) ** (1 / 3)
    typical = typical_noise(noise, field, mask)
    xp = namespace(field)
    weight = box.crop(xp.where(mask, noise, xp.zeros_like(noise)))
    weight = inside * (typical / xp.clip(weight, typical, None)) ** 2
    penalty = GRADIENT_PENALTY * size**2
    local = box.crop(xp.where(mask, field, xp.zeros_like(field)))
    chi = total_variation(
        _split_data(local, weight, grid, penalty),
        local,
        grid.voxel_size,
        weight=strength * typical * size,
        penalty=penalty,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return box.uncrop(chi * inside)


GRADIENT_PENALTY, DATA_PENALTY = 0.025, 0.3
"""Penalties of the two splittings (the first times squared voxel size): they set the pace, not the result."""


def _split_data(field, weight, grid, penalty):
    """Build the least-squares step of `total_variation` for a weighted field, split as ``model = D chi``."""
    shape = tuple(field.shape)
    dipole = dipole_kernel(shape, grid.voxel_size, grid.b0_dir)
    inverse = np.float32(DATA_PENALTY) * dipole**2
    inverse += np.float32(penalty) * gradient_energy(shape, grid.voxel_size)
    # the mean of chi is open; it stays at zero
    inverse[0, 0, 0] = 1
    np.divide(1, inverse, out=inverse)
    dipole, inverse = like(dipole, field), like(inverse, field)
    model, dual = namespace(field).asarray(field, copy=True), 0 * field

    def update(pull):
        spectrum = rfft(model - dual)
        spectrum *= dipole
        spectrum *= DATA_PENALTY
        gradients = rfft(pull)
        gradients *= penalty
        spectrum += gradients
        spectrum *= inverse
        gradients[...] = spectrum
        gradients *= dipole
        chi = irfft(spectrum, shape)
        _match(irfft(gradients, shape), field, weight, model, dual, DATA_PENALTY, 1.8)
        return chi

    return update


@numba.njit(cache=True, parallel=True, fastmath=True)
def _match_compiled(image, field, weight, model, dual, penalty, relax):
    """Draw the model towards the field where it is trusted, towards the image of chi elsewhere, in place."""
    nx, ny, nz = field.shape
    penalty, relax = np.float32(penalty), np.float32(relax)
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                w = weight[i, j, k]
                goal = relax * image[i, j, k] + (np.float32(1) - relax) * model[i, j, k] + dual[i, j, k]
                new = (w * field[i, j, k] + penalty * goal) / (w + penalty)
                model[i, j, k] = new
                dual[i, j, k] = goal - new


def _match_any(image, field, weight, model, dual, penalty, relax):
    goal = relax * image + (1 - relax) * model + dual
    model[...] = (weight * field + penalty * goal) / (weight + penalty)
    dual[...] = goal - model


_match = either(_match_compiled, _match_any)
