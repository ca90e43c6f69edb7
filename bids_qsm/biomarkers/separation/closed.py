"""Two equations a voxel, solved."""

import numpy as np


def closed(
    chi: np.ndarray,
    rate: np.ndarray,
    para: float | np.ndarray,
    dia: float | np.ndarray,
    *,
    chi_noise: float = 0.005,
    rate_noise: float = 1.0,
):
    r"""Separate sources voxel by voxel, without regularisation.

    .. math:: \chi_+ = \frac{D_- \chi + R_2'}{D_+ + D_-}, \quad \chi_- = \chi - \chi_+

    Where one source would have the wrong sign it is zero, and the other has the least squares of both
    equations, each weighted by its noise:

    .. math:: \chi_+ = \frac{\chi/\sigma_\chi^2 + D_+ R_2'/\sigma_R^2}{1/\sigma_\chi^2 + D_+^2/\sigma_R^2}

    Parameters
    ----------
    chi : ndarray of float
        Susceptibility (ppm), zero where there are no sources.
    rate : ndarray of float
        R2' (1/s).
    para, dia : float or ndarray of float
        Relaxivities (1/s/ppm).
    chi_noise, rate_noise : float
        Standard deviations of both maps; their ratio counts.

    Returns
    -------
    para, dia : ndarray of float
        At least 0, and at most 0 (ppm).

    Examples
    --------
    >>> [round(float(v), 3) for v in closed(np.array(0.02), np.array(8.0), 100.0, 100.0)]
    [0.05, -0.03]
    >>> [round(float(v), 3) for v in closed(np.array(0.05), np.array(5.0), 100.0, 100.0)]
    [0.05, -0.0]
    """
    both = para + dia
    first, second = (dia * chi + rate) / both, (rate - para * chi) / both
    weight = (chi_noise / rate_noise) ** 2
    alone = np.maximum((chi + weight * para * rate) / (1 + weight * para**2), 0)
    other = np.maximum((weight * dia * rate - chi) / (1 + weight * dia**2), 0)
    iron = np.where(second < 0, alone, np.where(first < 0, 0, first))
    myelin = np.where(first < 0, other, np.where(second < 0, 0, second))
    return iron, -myelin
