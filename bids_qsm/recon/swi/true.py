"""Susceptibility-weighted imaging from the susceptibility itself."""

import numpy as np

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.swi.shading import combined_magnitude, divide_by_shading


@method(memory=Need(volume=5, echoes=2), prose='true-SWI [@trueswi]')
def trueswi(
    magnitude: Array,
    chi: Array,
    mask: Array,
    grid: Grid,
    *,
    lower: float = 0.0,
    upper: float = 0.45,
    power: int = 2,
    combination: str = 'snr',
    sensitivity_mm: float = 7.0,
):
    r"""Weight the magnitude by susceptibility, so that veins of any direction turn dark alone [1]_.

    .. math:: S = m \, p^n, \quad p = \frac{\chi_2 - \chi}{\chi_2 - \chi_1}, \; 0 \le p \le 1

    The phase outside a vein depends on its direction; its susceptibility does not. Unlike the paper, the
    magnitude is that of all echoes, divided by the coils' sensitivity as in `clearswi`.

    Parameters
    ----------
    magnitude : ndarray of float32, shape (x, y, z, echo)
    chi : ndarray of float32, shape (x, y, z)
        Susceptibility (ppm).
    mask : ndarray of bool, shape (x, y, z)
        Where ``chi`` is given; elsewhere only the magnitude speaks.
    lower, upper : float
        Susceptibility (ppm) up to which nothing is darkened, and from which all is black.
    power : int
        How often the mask p is applied.
    combination, sensitivity_mm
        As in `clearswi`.

    Returns
    -------
    ndarray of float32, shape (x, y, z)
        About 1 in tissue; in units of the magnitude where its shading is left in.

    References
    ----------
    .. [1] Liu et al. (2014), J Magn Reson Imaging 40:698. doi:10.1002/jmri.24413
    """
    image = combined_magnitude(magnitude, combination)
    if sensitivity_mm > 0:
        divide_by_shading(image, grid, sensitivity_mm)
    weight = (np.float32(upper) - chi) / np.float32(upper - lower)
    np.clip(weight, 0, 1, out=weight)
    weight **= power
    image *= np.where(mask, weight, np.float32(1))
    return image
