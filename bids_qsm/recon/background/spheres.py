"""Background field removal by spherical means of one radius: SHARP, RESHARP and iSMV."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array, like, namespace, to_numpy
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.distance import depth
from bids_qsm.recon.fourier import Box, convolve, smv_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=8.5), prose='SHARP [@sharp]')
def sharp(field: Array, mask: Array, grid: Grid, *, radius: float = 6.0, threshold: float = 0.02):
    r"""Remove the background field by spherical means and a truncated deconvolution (SHARP) [1]_.

    .. math:: f_L = M_r \, C^{-1}_{t} \, M_r C f, \quad C = 1 - S_r

    A field without sources in a sphere equals its mean over that sphere, so :math:`C f` depends on local
    sources only, wherever the sphere fits into the mask. The deconvolution :math:`C^{-1}_t` divides by C where
    C exceeds ``threshold``, and is 0 elsewhere. Unlike the paper, voxels cut by the surface of the sphere
    count in part.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    radius : float
        Of the sphere (mm); at least one voxel is taken.

    Returns
    -------
    local : array of float32
        Local field (ppm), 0 outside the mask returned.
    mask : array of bool
        Where it is given: the centres of all spheres that fit into ``mask``.

    Raises
    ------
    UserError
        Where the mask is too thin for the sphere.

    References
    ----------
    .. [1] Schweser et al. (2011), NeuroImage 54:2789. doi:10.1016/j.neuroimage.2010.10.070
    """
    ball = _Ball(field, mask, grid, radius)
    wide = Box.around(ball.inside, replace(grid, shape=ball.box.shape), padding=4 * ball.radius)
    inverse = truncated_inverse(wide.shape, grid, ball.radius, threshold)
    local = convolve(wide.crop(ball.residue()), like(inverse, field))
    return ball.hand_back(wide.uncrop(local))


@method(memory=Need(padded=9.5), prose='RESHARP [@resharp]')
def resharp(
    field: Array,
    mask: Array,
    grid: Grid,
    *,
    radius: float = 6.0,
    strength: float = 1e-4,
    tolerance: float = 0.03,
    max_iterations: int = 200,
):
    r"""Remove the background field by spherical means with Tikhonov regularisation (RESHARP) [1]_.

    .. math:: \min_{f_L} \|M_r C (f_L - f)\|^2 + \lambda \|f_L\|^2, \quad C = 1 - S_r

    The solution is :math:`f_L = C M_r y` with :math:`(M_r C^2 M_r + \lambda) y = M_r C f`. We solve this by
    conjugate gradients, preconditioned by the operator without the mask: it has the minimum of the paper's
    normal equations, and takes half the transforms.

    Data, results and errors are those of `sharp`.

    Parameters
    ----------
    radius : float
        Of the sphere (mm); at least one voxel is taken.
    strength : float
        :math:`\lambda`; C has no unit and reaches 1.
    tolerance : float
        Stop when the residual has fallen to this share.

    References
    ----------
    .. [1] Sun & Wilman (2014), MRM 71:1151. doi:10.1002/mrm.24765
    """
    ball = _Ball(field, mask, grid, radius)
    square = ball.kernel**2
    apply = within(ball.kept, square, strength)
    precondition = within(ball.kept, 1 / (square + strength))
    source = conjugate_gradient(
        apply,
        ball.residue(),
        precondition=precondition,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return ball.hand_back(convolve(source, ball.kernel))


@method(memory=Need(padded=8), prose='iSMV [@ismv]')
def ismv(
    field: Array,
    mask: Array,
    grid: Grid,
    *,
    radius: float = 5.0,
    tolerance: float = 1e-3,
    max_iterations: int = 200,
):
    r"""Remove the background field by spherical means repeated to their limit (iSMV) [1]_.

    .. math:: f_B \leftarrow M_r S_r f_B + (M - M_r) f

    The mean over spheres is repeated where they fit, while the rim keeps the total field. Unlike the paper we
    compute the limit directly: there the local field :math:`f_L = f - f_B` solves
    :math:`M_r (1 - S_r) M_r f_L = M_r (1 - S_r) f`, by conjugate gradients.

    Data, results and errors are those of `sharp`.

    Parameters
    ----------
    radius : float
        Of the sphere (mm); at least one voxel is taken.
    tolerance : float
        Stop when the residual has fallen to this share.

    References
    ----------
    .. [1] Wen et al. (2014), MRM 72:1065. doi:10.1002/mrm.24998
    """
    ball = _Ball(field, mask, grid, radius)
    apply = within(ball.kept, ball.kernel)
    local = conjugate_gradient(apply, ball.residue(), tolerance=tolerance, max_iterations=max_iterations)
    return ball.hand_back(local)


class _Ball:
    """A field in the box of its mask, the kernel of the sphere :math:`C = 1 - S`, and where the sphere fits.

    Where the sphere fits it stays in the mask, so that circular convolution needs no padding; only the
    deconvolution of `sharp` does.
    """

    def __init__(self, field: Array, mask: Array, grid: Grid, radius: float):
        shape = to_numpy(mask)
        self.box = Box.around(shape, grid, padding=0)
        self.inside = self.box.crop(shape)
        self.radius = max(radius, *grid.voxel_size)
        self.kept = like(fits(self.inside, grid, [self.radius]) > 0, field)
        self.field = demeaned(self.box.crop(field), like(self.inside, field))
        self.kernel = like(1 - smv_kernel(self.box.shape, grid.voxel_size, self.radius), field)

    def residue(self):
        """The field less its spherical mean, where the sphere fits."""
        out = convolve(self.field, self.kernel)
        out *= self.kept
        return out

    def hand_back(self, local: Array):
        """Local field and mask in the volume."""
        local *= self.kept
        return self.box.uncrop(local), self.box.uncrop(self.kept)


def truncated_inverse(shape: tuple[int, ...], grid: Grid, radius: float, threshold: float):
    """Spectrum of the deconvolution of ``1 - S``: 0 where that does not exceed the threshold. NumPy."""
    kernel = 1 - smv_kernel(shape, grid.voxel_size, radius)
    return np.where(kernel > threshold, 1 / np.maximum(kernel, np.float32(threshold)), np.float32(0))


def within(kept: Array, kernel: Array, shift: float = 0.0):
    """Operator x -> K (k * x + shift x), of functions that are 0 outside ``kept`` (K)."""

    def apply(x: Array):
        out = convolve(x, kernel)
        if shift:
            out += shift * x
        out *= kept
        return out

    return apply


def demeaned(field: Array, inside: Array, weight: Array = None):
    """``field`` less its (weighted) mean inside; 0 outside, NaN included."""
    xp = namespace(field)
    field = xp.where(inside, field, xp.zeros_like(field))
    if weight is None:
        mean = float(xp.sum(field)) / int(inside.sum())
    else:
        mean = float(xp.sum(weight * field)) / float(xp.sum(weight))
    field -= mean * inside
    return field


def fits(inside: Array, grid: Grid, radii: Sequence[float]):
    """Number, counted from 1, of the first of the ``radii`` (mm) whose sphere fits about each voxel; else 0.

    Takes and returns NumPy arrays. A voxel outside the mask reaches half a step towards the sphere.
    """
    step = min(grid.voxel_size)
    distance = depth(inside, grid.voxel_size, max(radii) + step)
    number = np.zeros(inside.shape, np.int8)
    for n, radius in reversed(list(enumerate(radii, 1))):
        number[distance >= radius + step / 2] = n
    if max(grid.voxel_size) >= min(radii) + step / 2:
        # with thick slices the smallest spheres still use the adjacent voxels
        number *= ndimage.binary_erosion(inside)
    if not number.any():
        raise UserError(
            f'The mask is empty after background removal: no part of it is thicker than '
            f'{2 * min(radii):.1f} mm; check the mask, or choose another with --mask.'
        )
    return number
