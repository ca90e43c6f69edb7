"""Two equations a voxel, solved."""

import numpy as np


def closed(chi: np.ndarray, rate: np.ndarray, para: float, dia: float):
    r"""Separate sources voxel by voxel, without noise model or regularisation.

    .. math:: \chi_+ = \frac{D_- \chi + R_2'}{D_+ + D_-}, \quad \chi_- = \chi - \chi_+

    Values of the wrong sign are set to zero, and the other source to :math:`\chi`.

    Parameters
    ----------
    chi : ndarray of float
        Susceptibility (ppm), zero where there are no sources.
    rate : ndarray of float
        R2' (1/s).
    para, dia : float
        Relaxivities (1/s/ppm).

    Returns
    -------
    para, dia : ndarray of float
        At least 0, and at most 0 (ppm).

    Examples
    --------
    >>> [round(float(v), 3) for v in closed(np.array(0.02), np.array(8.0), 100.0, 100.0)]
    [0.05, -0.03]
    """
    iron = (dia * chi + np.maximum(rate, 0)) / (para + dia)
    iron = np.maximum(iron, np.maximum(chi, 0))
    return iron, chi - iron
