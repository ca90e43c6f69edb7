"""Iterative least squares with streaks estimated and subtracted."""

from collections.abc import Sequence

import numpy as np

from bids_qsm.recon.arrays import Array, like, namespace, to_numpy
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, gradient_energy
from bids_qsm.recon.fused_kernels import divergence, gradient
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, relative_noise, typical_noise
from bids_qsm.recon.inversion.tikhonov import least_squares
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=16), prose='iLSQR [@ilsqr]')
def ilsqr(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    threshold: float = 0.1,
    strength: float = 0.02,
    low: float = 0.3,
    high: float = 0.97,
    tolerance: float = 0.01,
    max_iterations: int = 100,
):
    r"""Invert the dipole by weighted least squares and subtract the streaks of its cone [1]_.

    .. math:: \chi_0 = \arg\min \|W (D \chi - f)\|^2 + \lambda \|\nabla \chi\|^2, \quad
              \chi = \chi_0 - C \arg\min_a \|V \nabla (\chi_0 - C a)\|^2

    W is the median noise over the noise of the voxel, at most 1, and 0 outside the mask. C selects the part
    of k-space with :math:`|D|` below ``threshold``, which contains the streaks. V is 1 where the gradient of a
    first map is shorter than its quantile ``low`` over the mask, and falls linearly to 0 at the quantile
    ``high``.

    Departures from [1]_: :math:`\chi_0` is `tikhonov` with its :math:`\lambda` (``strength``), not LSQR
    stopped early; W follows the noise map, not the Laplacian of the field; :math:`\chi_0` is the first map,
    instead of a fast estimate from smoothed k-space; V is the same for the three axes, and falls from 1 to 0
    over lower quantiles (.6 and .999 in the paper).

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Li et al. (2015), NeuroImage 108:111. doi:10.1016/j.neuroimage.2014.12.043
    """
    box = Box.around(mask, grid, padding=PADDING)
    inside, size = box.crop(mask), grid.voxel_volume ** (1 / 3)
    square = certainty(box.crop(noise), inside, typical_noise(noise, field, mask))
    weight = strength * size * relative_noise(noise, field, mask)
    kernel = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    dipole = like(kernel, field)
    prior = like(np.float32(weight) * gradient_energy(box.shape, grid.voxel_size), field)
    chi = least_squares(box.crop(field) * inside, square, dipole, prior, tolerance, max_iterations)
    del dipole, prior, square
    cone = np.abs(kernel) < threshold
    chi -= streaks(chi, inside, cone, grid.voxel_size, low, high, tolerance, max_iterations)
    return box.uncrop(chi * inside)


def streaks(
    chi: Array,
    inside: Array,
    cone: Array,
    spacing: Sequence[float],
    low: float,
    high: float,
    tolerance: float,
    max_iterations: int,
):
    """The streaks of ``chi`` (on a box): the part in ``cone`` whose removal makes its smooth areas smoothest.

    ``cone`` is bool (NumPy) in the layout of `rfft`; the other arguments are those of `ilsqr`.
    """
    steps = tuple(1 / h for h in spacing)
    slopes = like(np.empty((3, *chi.shape), np.float32), chi)
    gradient(chi, slopes, steps)
    smooth = _smoothness(slopes, inside, low, high)
    energy = gradient_energy(tuple(chi.shape), spacing)
    # a constant is no streak
    energy[0, 0, 0] = np.inf
    # this scaling makes the spectrum of the penalty flat on the cone, so that few steps are needed
    flat = like((cone / np.sqrt(energy)).astype(np.float32), chi)
    apply = smoothing_operator(flat, smooth, slopes, steps)
    slopes *= smooth
    right = 0 * chi
    divergence(slopes, right, steps)
    right = convolve(right, flat)
    found = conjugate_gradient(apply, right, tolerance=tolerance, max_iterations=max_iterations)
    return convolve(found, flat)


def smoothing_operator(flat: Array, smooth: Array, slopes: Array, steps: Sequence[float]):
    """The function x -> F G^T V^2 G F x for the kernel F = ``flat``; ``slopes`` is overwritten."""

    def apply(x: Array):
        x = convolve(x, flat)
        gradient(x, slopes, steps)
        slopes[...] *= smooth
        divergence(slopes, x, steps)
        return convolve(x, flat)

    return apply


def _smoothness(slopes: Array, inside: Array, low: float, high: float):
    """Squared weight of a voxel's differences: 1 where smooth and outside, 0 at edges."""
    xp = namespace(slopes)
    size = xp.sqrt(xp.sum(slopes * slopes, axis=0))
    least, most = (float(q) for q in np.quantile(to_numpy(size)[to_numpy(inside)], (low, high)))
    ramp = xp.clip((most - size) / max(most - least, 1e-12), 0.0, 1.0)
    return xp.where(inside, ramp * ramp, xp.ones_like(ramp))
