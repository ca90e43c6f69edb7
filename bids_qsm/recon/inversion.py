"""Dipole inversion: local field to susceptibility."""

import numba
import numpy as np

from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, frequencies, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.solvers import total_variation

PADDING = 16.0
"""Zeros around the mask (mm) that keep the dipole's periodic copies away."""


def tkd(field, mask, grid: Grid, *, threshold: float = 0.15):
    r"""Invert the dipole by truncated k-space division [1]_.

    .. math:: \hat\chi(k) = \hat f(k) \, \mathrm{sign}(D) / \max(|D|, t) / c

    The truncation lowers all values; c is the mean over k-space of :math:`D \, \mathrm{sign}(D) / \max(|D|,
    t)`, the height that a point source keeps, and mends that [2]_.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Local field (ppm).
    mask : ndarray of bool

    Returns
    -------
    ndarray of float32
        Susceptibility (ppm), 0 outside the mask.

    References
    ----------
    .. [1] Shmueli et al. (2009), MRM 62:1510. doi:10.1002/mrm.22135
    .. [2] Schweser et al. (2013), MRM 69:1582. doi:10.1002/mrm.24405
    """
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    inverse = np.copysign(1 / np.maximum(np.abs(dipole), np.float32(threshold)), dipole)
    # in the layout of a real transform every column but the first, and the last if even, stands for two
    times = np.full(dipole.shape[2], 2.0)
    times[0] = 1
    if box.shape[2] % 2 == 0:
        times[-1] = 1
    inverse /= np.float32(np.sum((dipole * inverse).sum((0, 1), dtype=float) * times) / np.prod(box.shape))
    inside = box.crop(mask)
    chi = convolve(box.crop(field) * inside, inverse)
    return box.uncrop(chi * inside)


def tv(
    field,
    mask,
    noise,
    grid: Grid,
    *,
    strength: float = 0.06,
    tolerance: float = 0.03,
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
    typical = float(np.median(noise[mask]))
    if typical <= 0:
        # noise-free data: a field exact to a part in a thousand
        typical = 1e-3 * float(field[mask].std())
    weight = np.where(inside, (typical / np.maximum(box.crop(noise), np.float32(typical))) ** 2, 0)
    penalty = np.float32(GRADIENT_PENALTY * size**2)
    update = _split_data(box.crop(field) * inside, weight.astype(np.float32), grid, penalty)
    chi = total_variation(
        update,
        box.shape,
        grid.voxel_size,
        weight=strength * typical * size,
        penalty=float(penalty),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return box.uncrop(chi * inside)


GRADIENT_PENALTY, DATA_PENALTY = 0.025, np.float32(0.3)
"""Penalties of the two splittings (the first times squared voxel size): they set the pace, not the result."""


def _split_data(field, weight, grid, penalty):
    """Build the least-squares step of `total_variation` for a weighted field, split as ``model = D chi``."""
    dipole = dipole_kernel(field.shape, grid.voxel_size, grid.b0_dir)
    inverse = DATA_PENALTY * dipole**2
    for k, h in zip(frequencies(field.shape, grid.voxel_size), grid.voxel_size, strict=True):
        inverse += penalty * ((2 - 2 * np.cos(2 * np.pi * k * np.float32(h))) / np.float32(h**2))
    # the mean of chi is open; it stays at zero
    inverse[0, 0, 0] = 1
    np.divide(1, inverse, out=inverse)
    model, dual = field.copy(), np.zeros_like(field)

    def update(pull):
        spectrum = rfft(model - dual)
        spectrum *= dipole
        spectrum *= DATA_PENALTY
        gradients = rfft(pull)
        gradients *= penalty
        spectrum += gradients
        spectrum *= inverse
        np.multiply(spectrum, dipole, out=gradients)
        chi = irfft(spectrum, field.shape)
        _match(irfft(gradients, field.shape), field, weight, model, dual, DATA_PENALTY, np.float32(1.8))
        return chi

    return update


@numba.njit(cache=True, parallel=True, fastmath=True)
def _match(image, field, weight, model, dual, penalty, relax):
    """Draw the model towards the field where it is trusted, towards the image of chi elsewhere, in place."""
    nx, ny, nz = field.shape
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                w = weight[i, j, k]
                goal = relax * image[i, j, k] + (np.float32(1) - relax) * model[i, j, k] + dual[i, j, k]
                new = (w * field[i, j, k] + penalty * goal) / (w + penalty)
                model[i, j, k] = new
                dual[i, j, k] = goal - new


INVERSION = {'tv': tv, 'tkd': tkd}
