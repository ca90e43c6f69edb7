"""Background field removal by projection onto the fields of dipoles outside the mask."""

from bids_qsm.recon.arrays import Array, like, to_numpy
from bids_qsm.recon.background.spheres import demeaned
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import certainty, typical_noise
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=14.5), prose='PDF [@pdf]')
def pdf(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    *,
    padding: float = 30.0,
    tolerance: float = 0.0015,
    max_iterations: int = 200,
):
    r"""Remove the background field by projection onto the fields of dipoles outside the mask (PDF) [1]_.

    .. math:: \min_\chi \|W M (f - D (1 - M) \chi)\|^2, \quad f_L = M (f - D (1 - M) \chi)

    Sources lie outside the mask M, in a box that is ``padding`` mm larger. W is the median noise over the
    noise of the voxel, at most 1. Conjugate gradients on the normal equations find the sources of strong
    fields first; early stopping is the only regularisation, as in the paper. The mean of the field, which no
    dipole makes, is subtracted before.

    There is no preconditioner: those by the distance of a source, by the spectrum of the dipole and for
    smooth sources all needed more transforms for the same local field.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    padding : float
        Size of the box less that of the mask (mm), half of it at either side.
    tolerance : float
        Stop when the residual of the normal equations has fallen to this share.

    Returns
    -------
    local : array of float32
        Local field (ppm), 0 outside the mask.
    mask : array of bool
        ``mask`` itself.

    References
    ----------
    .. [1] Liu et al. (2011), NMR Biomed 24:1129. doi:10.1002/nbm.1670
    """
    box = Box.around(to_numpy(mask), grid, padding=padding)
    inside = box.crop(mask)
    square = certainty(box.crop(noise), inside, typical_noise(noise, field, mask))
    total = demeaned(box.crop(field), inside, square)
    dipole = like(dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir), field)
    outside = ~inside
    right = convolve(square * total, dipole)
    right *= outside
    sources = conjugate_gradient(
        seen_from(outside, dipole, square), right, tolerance=tolerance, max_iterations=max_iterations
    )
    total -= convolve(sources, dipole)
    total *= inside
    return box.uncrop(total), box.uncrop(inside)


def seen_from(outside: Array, dipole: Array, square: Array):
    """Normal operator of `pdf`: the field of sources outside, weighted, carried back to them."""

    def apply(sources: Array):
        out = convolve(sources, dipole)
        out *= square
        out = convolve(out, dipole)
        out *= outside
        return out

    return apply
