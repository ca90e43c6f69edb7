"""Nonlinear fit of the field to the complex signal of all echoes, whatever wraps are left in its phase."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.echo_weights import fit_voxels, spread, trust, weigh
from bids_qsm.recon.registry import Need, method


@method(memory=Need(volume=2.5, echoes=4), prose='(nonlinear) [@nonlinear]')
def nonlinear(
    unwrapped: Array,
    phase: Array,
    magnitude: Array,
    mask: Array,
    echo_times: Sequence[float],
    field_strength: float,
):
    r"""Fit the field to the complex signal of all echoes at once [1]_.

    .. math:: \hat\omega = \arg\min_\omega \sum_k w_k |e^{i \phi_k} - e^{i \omega T_k}|^2,
        \quad w_k = m_k^2 - 2 \sigma^2

    by Gauss-Newton from the slope of `linear`, with its weights of single echoes. A late echo that is wrapped
    or has random phase, which would spoil a linear fit, has a bounded effect. The phase at TE = 0 is removed
    before; the paper fits it in each voxel, at the cost of more noise. The weights leave out the noise in
    the squared signal.

    ``phase`` is wrapped; all else is as in :func:`bids_qsm.recon.field.linear`.

    References
    ----------
    .. [1] Liu et al. (2013), MRM 69:467. doi:10.1002/mrm.24272
    """
    return fit_voxels(_fit, (unwrapped, phase), magnitude, mask, echo_times, field_strength)


@njit(cache=True)
def _climb(rate: float, phase: Array, weight: Array, times: Array):
    """Slope (rad/s) of the least misfit near ``rate``, by Gauss-Newton."""
    bottom = np.float32(0)
    for k in range(times.size):
        bottom += weight[k] * times[k] * times[k]
    for _ in range(30):
        top = np.float32(0)
        for k in range(times.size):
            top += weight[k] * times[k] * np.sin(phase[k] - rate * times[k])
        step = top / bottom
        rate += step
        # what the last echo turns by
        if abs(step) * times[-1] < np.float32(1e-3):
            break
    return rate


@njit(cache=True, parallel=True)
def _fit(unwrapped: Array, wrapped: Array, magnitude: Array, mask: Array, times: Array, sigma: float):
    echoes, voxels = wrapped.shape
    field = np.zeros(voxels, np.float32)
    noise = np.zeros(voxels, np.float32)
    residual = np.zeros(voxels, np.float32)
    two = np.float32(2)
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
            start = trust(phase, weight, times, sigma, trusted)
            rate = _climb(start, wrapped[:, v], trusted, times)
            misfit = signal = np.float32(0)
            for k in range(echoes):
                misfit += two * weight[k] * (np.float32(1) - np.cos(wrapped[k, v] - rate * times[k]))
                signal += weight[k]
            field[v] = rate
            residual[v] = np.sqrt(misfit / signal)
            noise[v] = spread(misfit, trusted, weight, times, sigma)
    return field, noise, residual
