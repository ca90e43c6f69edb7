"""Chi-separation with edges of the magnitude."""

import numpy as np

from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.joint import equations, solve
from bids_qsm.biomarkers.separation.sources import consistent
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=37), prose='chi-separation with the edges of the magnitude [@shin2021; @medi]')
def medi(
    field: np.ndarray,
    r2prime: np.ndarray,
    chi: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    rate_noise: float,
    scale: float,
    grid: Grid,
    *,
    relaxivity: float = 137.0,
    ratio: float = 1.0,
    strength: float = 0.08,
    edges: float = 0.3,
    tolerance: float = 0.01,
    max_iterations: int = 100,
):
    r"""Separate sources of the local field and R2' at once, smooth but at edges of the magnitude [1]_.

    .. math:: \min_{\chi_+ \ge 0 \ge \chi_-} \tfrac{1}{2\sigma^2} \|W (D * (\chi_+ + \chi_-) - f)\|^2
        + \tfrac{1}{2\sigma_R^2} \|D_+ \chi_+ + D_- |\chi_-| - R_2'\|^2
        + \lambda (|M \nabla \chi_+| + |M \nabla \chi_-|)

    D is the dipole, M is 0 for the share ``edges`` of the differences where the magnitude changes most.
    ``relaxivity`` is :math:`D_+` at 3 T, proportional to the field strength, ``ratio`` :math:`D_-/D_+`.

    Departures from [1]_: weights follow the noise of both maps, and :math:`\lambda` (``strength``) that of
    the field and the voxel size, as in `bids_qsm.recon.inversion.medi`; R2' counts less where susceptibility
    needs more of it than there is (`joint.equations`); `joint.solve` splits the terms instead of
    Gauss-Newton steps with conjugate gradients.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    References
    ----------
    .. [1] Shin et al. (2021), NeuroImage 240:118371. doi:10.1016/j.neuroimage.2021.118371
    """
    kernel = relaxivity * scale, relaxivity * scale * ratio
    start = closed(chi, r2prime, *kernel, rate_noise=rate_noise)
    one = equations(field, r2prime, chi, magnitude, mask, grid, relaxivity=kernel, rate_noise=rate_noise)
    para, dia = solve(
        one,
        start[0],
        -start[1],
        magnitude,
        mask,
        strength=strength,
        edges=edges,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return consistent(para, -dia, r2prime, mask, kernel, rate_noise)
