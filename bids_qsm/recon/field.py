"""Linear fit of the field to the unwrapped phase of all echoes."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.echo_weights import fit_voxels, spread, trust, weigh
from bids_qsm.recon.nonlinear import nonlinear
from bids_qsm.recon.registry import Need, method


@method(memory=Need(volume=2.5, echoes=3), prose='(linear) [@linear]')
def linear(
    unwrapped: Array, magnitude: Array, mask: Array, echo_times: Sequence[float], field_strength: float
):
    r"""Fit the field to the phase of all echoes by least squares through the origin [1]_.

    .. math:: \hat\omega = \frac{\sum_k w_k T_k \phi_k}{\sum_k w_k T_k^2}, \quad
        w_k = (m_k^2 - 2\sigma^2) \min(1, \ell_k / |\phi_k - \hat\omega_{k-1} T_k|)^2

    The weight is the squared signal less the noise in it; echoes below the noise floor (m < 3 sigma) do not
    count. Each echo is predicted from the earlier ones: remaining multiples of 2 pi are removed, and an echo
    whose phase departs by more than l (three standard deviations plus .2 rad) counts less. Such departures
    are common near air, where parts of a voxel lose their signal at different rates. The noise of a voxel is
    that predicted by the magnitude, raised where the misfit is larger. The lower weight of single echoes is
    ours, the rest is the paper's.

    Parameters
    ----------
    unwrapped, magnitude : ndarray of float32, shape (x, y, z, echo)
        Unwrapped phase without offset at TE = 0 (rad), and magnitude.
    mask : ndarray of bool, shape (x, y, z)
        Where to fit; all results are 0 elsewhere.
    echo_times : sequence of float
        Echo times (s).
    field_strength : float
        B0 (T).

    Returns
    -------
    field, noise, residual : ndarray of float32, shape (x, y, z)
        Field (ppm), its standard deviation (ppm), and weighted root mean square residual (rad).

    References
    ----------
    .. [1] Robinson et al. (2017), NMR Biomed 30:e3601. doi:10.1002/nbm.3601
    """
    return fit_voxels(_fit, (unwrapped,), magnitude, mask, echo_times, field_strength)


@njit(cache=True, parallel=True)
def _fit(unwrapped: Array, magnitude: Array, mask: Array, times: Array, sigma: float):
    echoes, voxels = unwrapped.shape
    field = np.zeros(voxels, np.float32)
    noise = np.zeros(voxels, np.float32)
    residual = np.zeros(voxels, np.float32)
    chunk = 4096
    for c in prange((voxels + chunk - 1) // chunk):
        phase = np.empty(echoes, np.float32)
        weight = np.empty(echoes, np.float32)
        trusted = np.empty(echoes, np.float32)
        for v in range(c * chunk, min((c + 1) * chunk, voxels)):
            if not mask[v]:
                continue
            phase[:] = unwrapped[:, v]
            weigh(magnitude[:, v], weight, sigma)
            slope = trust(phase, weight, times, sigma, trusted)
            misfit = signal = np.float32(0)
            for k in range(echoes):
                r = phase[k] - slope * times[k]
                misfit += weight[k] * r * r
                signal += weight[k]
            field[v] = slope
            residual[v] = np.sqrt(misfit / signal)
            noise[v] = spread(misfit, trusted, weight, times, sigma)
    return field, noise, residual


FIELD = {'linear': linear, 'nonlinear': nonlinear}
