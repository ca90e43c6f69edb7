"""Separation of sources: susceptibility and relaxation to paramagnetic and diamagnetic susceptibility.

Data of the methods: ``chi``, susceptibility (ppm, zero where there are no sources, but for `posterior`);
``rate``, R2', or R2* where ``reversible`` is False (1/s); ``r2prime`` and ``r2star`` (1/s); ``field``, the
local field (ppm); ``magnitude`` (any units); ``echoes``, magnitude of all echoes, the last axis, and
``echo_times`` (s); ``mask`` (bool); ``zone``, see `tissues.zones`; ``chi_noise`` (ppm) and ``rate_noise``
(1/s), standard deviations; ``smooth_error`` (ppm), see `posterior.separate`; ``scale``, field strength over
3 T; ``cosine`` and ``fa``, squared cosine of the fibre's angle to B0 and fractional anisotropy (NaN where
it is not known), or None; ``grid``. Each gives `sources.Sources`, but `posterior`, whose
`posterior.Separated` has standard deviations too.
"""

import numpy as np

from bids_qsm.biomarkers.separation.apart import apart
from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.decompose import decompose
from bids_qsm.biomarkers.separation.hollowcylinder import hollowcylinder
from bids_qsm.biomarkers.separation.ilsqr import ilsqr
from bids_qsm.biomarkers.separation.medi import medi
from bids_qsm.biomarkers.separation.posterior import separate
from bids_qsm.biomarkers.separation.r2starqsm import r2starqsm
from bids_qsm.biomarkers.separation.sources import consistent
from bids_qsm.biomarkers.separation.tissues import FLUID, ZONES, table
from bids_qsm.biomarkers.separation.wavesep import wavesep
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(
    memory=Need(0.3, volume=50),  # 40 where a quarter of the volume is brain
    prose='the equations of susceptibility and relaxation [@shin2021], as the most probable pair of each '
    'voxel given the tissues of the brain, with total variation; relaxivities and the zero of susceptibility '
    'were estimated from the person',
)
def posterior(
    chi: np.ndarray,
    rate: np.ndarray,
    mask: np.ndarray,
    zone: np.ndarray,
    chi_noise: float,
    rate_noise: float,
    reversible: bool,
    scale: float,
    smooth_error: float,
    grid: Grid,
    cosine: np.ndarray | None = None,
    fa: np.ndarray | None = None,
):
    """Separate sources by the most probable pair of each voxel, see `posterior.separate`."""
    return separate(
        chi,
        rate,
        mask,
        zone,
        chi_noise=chi_noise,
        rate_noise=rate_noise,
        voxel_size=tuple(grid.voxel_size),
        reversible=reversible,
        scale=scale,
        smooth_error=smooth_error,
        cosine=cosine,
        fa=fa,
    )


@method(
    memory=Need(volume=14), prose='the equations of susceptibility and relaxation of each voxel [@shin2021]'
)
def closed_form(
    chi: np.ndarray,
    r2prime: np.ndarray,
    mask: np.ndarray,
    chi_noise: float,
    rate_noise: float,
    scale: float,
    *,
    relaxivity: float = 137.0,
    ratio: float = 1.0,
):
    """Separate sources voxel by voxel, see `closed.closed`.

    ``relaxivity`` is the paramagnetic one at 3 T, proportional to the field strength, ``ratio`` the
    diamagnetic one over it [1]_.

    References
    ----------
    .. [1] Shin et al. (2021), NeuroImage 240:118371. doi:10.1016/j.neuroimage.2021.118371
    """
    kernel = relaxivity * scale, relaxivity * scale * ratio
    noises = {'chi_noise': chi_noise, 'rate_noise': rate_noise}
    para, dia = closed(chi, r2prime, *kernel, **noises)
    moved = closed(chi, r2prime, 1.1 * kernel[0], 1.1 * kernel[1], **noises)
    return consistent(para, dia, r2prime, mask, kernel, rate_noise, moved=moved)


def assumed_r2(zone: np.ndarray, scale: float = 1.0):
    """R2 (1/s) at ``scale`` times 3 T where none was measured: the mean of the tissues expected in a zone."""
    rates = table(2, scale)[:, 0]
    shares = np.array([*ZONES.values()])[:, : len(rates)]
    shares[:, FLUID] = 0
    return ((shares @ rates) / shares.sum(1)).astype(np.float32)[zone]


SEPARATION = {
    'posterior': posterior,
    'closed': closed_form,
    'medi': medi,
    'ilsqr': ilsqr,
    'r2starqsm': r2starqsm,
    'decompose': decompose,
    'apart': apart,
    'wavesep': wavesep,
    'hollowcylinder': hollowcylinder,
}
