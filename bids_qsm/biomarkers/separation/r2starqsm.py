"""Sources of the field and R2* alone."""

import numpy as np

from bids_qsm.biomarkers.separation.medi import medi
from bids_qsm.biomarkers.separation.sources import Sources
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=37), prose='R2*-QSM [@dimov2022]')
def r2starqsm(
    field: np.ndarray,
    r2star: np.ndarray,
    chi: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    rate_noise: float,
    scale: float,
    grid: Grid,
    *,
    relaxivity: float = 274.0,
    strength: float = 0.08,
    edges: float = 0.3,
    tolerance: float = 0.01,
    max_iterations: int = 100,
) -> Sources:
    r"""Separate sources of the local field and R2*, without R2 [1]_.

    .. math:: R_2^* = r (\chi_+ + |\chi_-|)

    takes the place of R2' in `medi`; r (``relaxivity``, at 3 T, proportional to the field strength) thus
    holds irreversible relaxation too, and tissue without sources gets some of both kinds.

    Departures from [1]_ are those of `medi`.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Dimov et al. (2022), J Neuroimaging 32:852. doi:10.1111/jon.13014
    """
    return medi(
        field,
        r2star,
        chi,
        magnitude,
        mask,
        rate_noise,
        scale,
        grid,
        relaxivity=relaxivity,
        strength=strength,
        edges=edges,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
