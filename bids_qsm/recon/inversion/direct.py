"""Dipole inversion by divisions in k-space."""

import numpy as np

from bids_qsm.recon.arrays import Array, like
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, gradient_energy
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING, relative_noise
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=7.3), prose='TKD [@tkd]')
def tkd(field: Array, mask: Array, grid: Grid, *, threshold: float = 0.15):
    r"""Invert the dipole by truncated k-space division [1]_.

    .. math:: \hat\chi(k) = \hat f(k) \, \mathrm{sign}(D) / \max(|D|, t) / c

    The truncation reduces all values. Division by c, the mean over k-space of :math:`D \, \mathrm{sign}(D) /
    \max(|D|, t)`, restores the value of a point source [2]_.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Shmueli et al. (2009), MRM 62:1510. doi:10.1002/mrm.22135
    .. [2] Schweser et al. (2013), MRM 69:1582. doi:10.1002/mrm.24405
    """
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    inverse = np.copysign(1 / np.maximum(np.abs(dipole), np.float32(threshold)), dipole)
    # in the layout of a real transform all columns but the first, and the last of an even size, count twice
    times = np.full(dipole.shape[2], 2.0)
    times[0] = 1
    if box.shape[2] % 2 == 0:
        times[-1] = 1
    inverse /= np.float32(np.sum((dipole * inverse).sum((0, 1), dtype=float) * times) / np.prod(box.shape))
    inside = box.crop(mask)
    chi = convolve(box.crop(field) * inside, like(inverse, field))
    return box.uncrop(chi * inside)


@method(memory=Need(padded=7.3), prose='truncated SVD [@tsvd]')
def tsvd(field: Array, mask: Array, noise: Array, grid: Grid, *, strength: float = 0.2):
    r"""Invert the dipole by truncated singular value decomposition [1]_.

    .. math:: \hat\chi(k) = \hat f(k) / D(k) \text{ where } |D| > t, \text{ else } 0,
              \quad t = \mathrm{strength} \sqrt{\tilde\sigma / s}

    The singular values of a convolution are the magnitudes of its kernel's spectrum. The paper leaves t
    open; here it follows the noise :math:`\tilde\sigma` (the median) relative to the field's spread s: the
    threshold of least error grows as the root of that ratio.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Wharton et al. (2010), MRM 63:1292. doi:10.1002/mrm.22334
    """
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    threshold = strength * relative_noise(noise, field, mask) ** 0.5
    inverse = np.zeros_like(dipole)
    np.divide(1, dipole, out=inverse, where=np.abs(dipole) > threshold)
    inside = box.crop(mask)
    return box.uncrop(convolve(box.crop(field) * inside, like(inverse, field)) * inside)


@method(memory=Need(padded=8), prose='closed-form L2 regularisation [@l2]')
def l2(field: Array, mask: Array, noise: Array, grid: Grid, *, strength: float = 0.06):
    r"""Invert the dipole with a penalty on squared gradients, in closed form [1]_.

    .. math:: \hat\chi = \frac{D \hat f}{D^2 + \lambda |G|^2},
              \quad \lambda = \mathrm{strength} \cdot h \, \tilde\sigma / s

    :math:`|G|^2` is the spectrum of the squared forward differences (1/mm^2). The paper takes
    :math:`\lambda` from an L-curve; here it follows the noise :math:`\tilde\sigma` (the median) relative to
    the field's spread s, and the voxel size h (geometric mean, mm).

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Bilgic et al. (2014), J Magn Reson Imaging 40:181. doi:10.1002/jmri.24365
    """
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    weight = strength * relative_noise(noise, field, mask) * grid.voxel_volume ** (1 / 3)
    inverse = gradient_energy(box.shape, grid.voxel_size)
    inverse *= np.float32(weight)
    inverse += dipole**2
    inverse[0, 0, 0] = 1
    np.divide(dipole, inverse, out=inverse)
    inside = box.crop(mask)
    return box.uncrop(convolve(box.crop(field) * inside, like(inverse, field)) * inside)
