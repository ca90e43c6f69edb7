"""Background field removal that restores the part of the local field that is harmonic in the mask."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array, like, namespace, to_numpy
from bids_qsm.recon.background.lbv import lbv
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import harmonic_susceptibility
from bids_qsm.recon.inversion.harmonic import whtv
from bids_qsm.recon.inversion.noise_scale import PADDING, typical_noise
from bids_qsm.recon.registry import Need, method


@method(
    memory=Need(0.1, padded=23),
    prose='LBV [@lbv], in turns with a weak-harmonic inversion [@whnltv] whose slowly varying part, which a '
    'field map cannot tell from background [@levelled], was set so that tissue of equal R2* has equal '
    'susceptibility',
    single_echo='LBV [@lbv], in turns with a weak-harmonic inversion [@whnltv]',
)
def levelled(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    r2star: Array | None = None,
    *,
    degree: int = 6,
):
    r"""Remove the background by LBV, and restore the harmonic part and the rim of the local field.

    .. math:: \chi = L(\mathrm{WH}(B(f))), \quad f_L = D \chi + B(f - D \chi)

    B is `lbv` [1]_, WH is `whtv` [2]_, L subtracts the result of `harmonic_susceptibility`, D is the dipole.
    B takes the local field for zero at the edge of the mask, so that what it gives is wrong by a field that
    is harmonic in the mask. WH has such a field as its second unknown, and finds susceptibility beside it.
    The part of susceptibility whose own field is harmonic is free there [3]_; L sets it. The field of the
    susceptibility found is subtracted before B is applied again, and added after it, so that the remaining
    error is of a smaller field. At the rim of the mask, where B gives no field, the data have weight zero:
    total variation extends susceptibility to the edge, and its field is the local field there. The turn, L
    and the rim are ours, not the papers'.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    r2star : array of float32, or None
        R2* (1/s). Without it (a single echo) nothing sets the slowly varying part.
    degree : int
        Highest degree of the polynomials of `harmonic_susceptibility`.

    Returns
    -------
    local : array of float32
        Local field (ppm), 0 outside the mask.
    mask : array of bool
        ``mask`` itself.
    noise : array of float32
        ``noise``, more in the two outermost layers of voxels that have a local field, and without bound (1e6
        times the median) outside these, at the rim.

    Raises
    ------
    UserError
        Where no voxel has all its neighbours in the mask.

    References
    ----------
    .. [1] Zhou et al. (2014), NMR Biomed 27:312. doi:10.1002/nbm.3064
    .. [2] Milovic et al. (2019), MRM 81:1399. doi:10.1002/mrm.27483
    .. [3] Kee et al. (2017), IEEE Trans Biomed Eng 64:2531. doi:10.1109/TBME.2017.2749298
    """
    xp = namespace(field)
    field = xp.where(mask, field, 0.0)
    local, kept = lbv(field, mask, grid)
    # no weight where there is no local field
    doubt = xp.where(kept, noise * like(_rim(to_numpy(kept)), noise), 1e6 * typical_noise(noise, field, mask))
    # a slab of a few slices is mostly rim, which cannot be extended from the few voxels inside
    inverted = mask if 2 * int(xp.sum(kept)) > int(xp.sum(mask)) else kept
    chi = whtv(local, inverted, doubt, grid)
    del local
    if r2star is not None:
        smooth, _ = harmonic_susceptibility(
            chi, inverted, r2star, grid, degree=degree, with_uncertainty=False
        )
        chi = xp.where(inverted, chi - like(smooth, chi), 0.0)
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir, reference=field)
    known = xp.where(mask, box.uncrop(convolve(box.crop(chi), dipole)), 0.0)
    del dipole, chi
    return known + lbv(field - known, mask, grid)[0], mask, doubt


RIM = (5.0, 5.0**0.5)
"""Factors on the noise in the outermost layers of voxels, where near sources spoil the discrete Laplacian.

On a real head of 3 mm the standard deviation over the mask falls from 60 to 50 ppb. NRMSE of simulated heads
falls by 1 to 2 points at 3 T, and rises by 1 point at 7 T and at low SNR.
"""


def _rim(kept: Array):
    factor, layer = np.ones(kept.shape, np.float32), kept
    for one in RIM:
        inner = ndimage.binary_erosion(layer)
        factor[layer & ~inner] = one
        layer = inner
    return factor
