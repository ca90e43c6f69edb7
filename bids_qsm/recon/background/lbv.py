"""Background field removal by Laplace's equation in the mask."""

from dataclasses import replace

from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array, like, to_numpy
from bids_qsm.recon.background.spheres import demeaned
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.multigrid import Laplacian
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=8), prose='LBV [@lbv]')
def lbv(field: Array, mask: Array, grid: Grid, *, tolerance: float = 1e-4, max_iterations: int = 50):
    r"""Remove the background field by solving Laplace's equation in the mask (LBV) [1]_.

    .. math:: \nabla^2 f_B = 0 \text{ in } M, \quad f_B = f \text{ on its outermost voxels}

    Near the edge of the mask the background is far larger than the local field, which is assumed to be zero
    there. We solve for the local field, :math:`\nabla^2 f_L = \nabla^2 f` with zeros at the boundary, so that
    no digits are lost to the background. Conjugate gradients preconditioned with a multigrid cycle replace
    the full multigrid of the paper: they converge as fast in a mask of any shape.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    tolerance : float
        Stop when the residual, in the energy norm, has fallen to this share.

    Returns
    -------
    local : array of float32
        Local field (ppm), 0 outside the mask returned.
    mask : array of bool
        ``mask`` less the voxels that have a neighbour outside it.

    Raises
    ------
    UserError
        Where no voxel has all its neighbours in the mask.

    References
    ----------
    .. [1] Zhou et al. (2014), NMR Biomed 27:312. doi:10.1002/nbm.3064
    """
    shape = to_numpy(mask)
    box = Box.around(shape, grid, padding=0)
    box = replace(box, shape=tuple((s.stop - s.start) | 1 for s in box.region))
    inside = box.crop(shape)
    region = ndimage.binary_erosion(inside)
    if not region.any():
        raise UserError(
            'The mask is empty after background removal: no voxel of it has all its neighbours inside; '
            'check the mask, or choose another with --mask.'
        )
    laplacian = Laplacian(region, grid.voxel_size, field)
    right = laplacian.apply(demeaned(box.crop(field), like(inside, field)))
    local = conjugate_gradient(
        laplacian.apply,
        right,
        precondition=laplacian.cycle,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return box.uncrop(local), box.uncrop(laplacian.region)
