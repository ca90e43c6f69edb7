"""Susceptibility-weighted imaging of all echoes at once."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box, convolve
from bids_qsm.recon.fused_kernels import add_up
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.swi.shading import combined_magnitude, divide_by_shading, gaussian

SHAPES = ('tanh', 'linear', 'sigmoid')


@method(memory=Need(volume=8, echoes=3), prose='clearswi [@clearswi]')
def clearswi(
    magnitude: Array,
    unwrapped: Array,
    mask: Array,
    echo_times: Sequence[float],
    grid: Grid,
    *,
    phase_mask: str = 'tanh',
    combination: str = 'snr',
    strength: float = 4.0,
    highpass_mm: float = 3.0,
    sensitivity_mm: float = 7.0,
):
    r"""Weight the magnitude of all echoes by their high-pass filtered phase (CLEAR-SWI) [1]_.

    .. math:: S = \frac{m}{G_s * m} \, p(\phi), \quad
              p = \frac{1 + \tanh(1 - \phi / \phi_0)}{1 + \tanh 1} \; (\phi > 0)

    m is the magnitude of all echoes, divided by its smooth part to remove the sensitivity of the coils.
    :math:`\phi` is the unwrapped phase of all echoes, weighted by :math:`m_e^2 T_e` as for a field, less its
    Gaussian mean inside the mask. Its scale :math:`\phi_0` is 10 / ``strength`` times the mean of its
    positive values, so that the contrast does not depend on echo times or field strength. Veins are
    paramagnetic, have positive phase, and become dark.

    Other shapes of p, each 1 at 0 and about one half at :math:`\phi_0`: 'linear',
    :math:`\max(1 - \phi / 2\phi_0, 0)`, which blackens strong veins; 'sigmoid',
    :math:`(1 + e^{-4}) / (1 + e^{4(\phi/\phi_0 - 1)})`, which spares weak ones.

    At the rim of the mask, where air dephases the signal and the mean is of one side only, the filtered phase
    is not that of veins: what p takes off fades to 0 where half of the Gaussian lies outside the mask.

    Unlike the paper, filters are in mm, not voxels, and act along all axes; the high-pass uses voxels of the
    mask only; the scale follows the mean of the positive phase, not the median; no soft threshold is added
    to the magnitude.

    Parameters
    ----------
    magnitude, unwrapped : ndarray of float32, shape (x, y, z, echo)
        Magnitude (any unit) and unwrapped phase (rad, grows with the field).
    mask : ndarray of bool, shape (x, y, z)
        Where the phase is unwrapped; elsewhere only the magnitude is used.
    echo_times : sequence of float
        Echo times (s).
    phase_mask : str
        'tanh', 'linear' or 'sigmoid'.
    combination : str
        'snr' (root sum of squares), 'average' or 'last'.
    highpass_mm, sensitivity_mm : float
        Standard deviations of the two Gaussians (mm); ``sensitivity_mm`` 0 leaves the shading in.

    Returns
    -------
    ndarray of float32, shape (x, y, z)
        About 1 in tissue; in units of the magnitude where its shading is left in.

    References
    ----------
    .. [1] Eckstein et al. (2021), NeuroImage 237:118175. doi:10.1016/j.neuroimage.2021.118175
    """
    if phase_mask not in SHAPES:
        raise UserError(f'phase_mask is {phase_mask!r}; it must be one of: {", ".join(SHAPES)}.')
    image = combined_magnitude(magnitude, combination)
    if sensitivity_mm > 0:
        divide_by_shading(image, grid, sensitivity_mm)
    if not mask.any():
        return image
    # volumes are in column order; their transposes are contiguous
    inside, sizes = np.ascontiguousarray(mask.T), grid.voxel_size[::-1]
    phase = np.zeros(inside.shape, np.float32)
    flat = (
        a.T.astype(np.float32, order='C', copy=False).reshape(len(echo_times), -1)
        for a in (magnitude, unwrapped)
    )
    _rate(*flat, inside.ravel(), np.asarray(echo_times, np.float32), phase.ravel())
    box = Box.around(inside, Grid(inside.shape, sizes), padding=3 * highpass_mm)
    kernel = gaussian(box.shape, sizes, highpass_mm)
    within, phase = box.crop(inside), box.crop(phase)
    share = convolve(within.astype(np.float32), kernel)
    positive, number = _subtract_mean(phase, convolve(phase, kernel), share, within)
    if number:
        scale = np.float32(10 / strength * positive / number)
        lost = np.zeros(box.shape, np.float32)
        inside_volume = _share_inside_volume(box, sizes, highpass_mm)
        _darken(phase, scale, SHAPES.index(phase_mask), share, *inside_volume, lost)
        image *= np.float32(1) - box.uncrop(lost).T
    return image


@njit(cache=True, parallel=True, fastmath=True)
def _rate(magnitude: Array, unwrapped: Array, mask: Array, times: Array, out: Array):
    """Phase evolution (rad/s) of all echoes, weighted by squared magnitude and echo time."""
    echoes, voxels = magnitude.shape
    for v in prange(voxels):
        if mask[v]:
            top = bottom = np.float32(0)
            for e in range(echoes):
                w = magnitude[e, v] * magnitude[e, v] * times[e]
                top += w * unwrapped[e, v]
                bottom += w * times[e]
            out[v] = top / bottom if bottom > 0 else np.float32(0)


@njit(cache=True, parallel=True, fastmath=True)
def _subtract_mean(phase: Array, mean: Array, share: Array, mask: Array):
    """Phase less its mean over the mask, in place; sum and number of the values left above 0."""
    sums = np.zeros((phase.shape[0], 2))
    for i in prange(phase.shape[0]):
        total, number = 0.0, 0
        for j in range(phase.shape[1]):
            for k in range(phase.shape[2]):
                high = np.float32(0)
                if mask[i, j, k]:
                    high = phase[i, j, k] - mean[i, j, k] / max(share[i, j, k], np.float32(0.05))
                phase[i, j, k] = high
                if high > 0:
                    total += high
                    number += 1
        sums[i, 0], sums[i, 1] = total, number
    return add_up(sums)


def _share_inside_volume(box: Box, sizes: tuple[float, ...], width: float):
    """Share of a Gaussian (mm) that lies inside the volume, for the samples of the box along each axis.

    The end of a slab is no rim of the brain.
    """
    shares = []
    for axis, (n, size, region) in enumerate(zip(box.volume, sizes, box.region, strict=True)):
        share = ndimage.gaussian_filter1d(np.ones(n, np.float32), width / size, mode='constant')
        whole = np.ones(box.shape[axis], np.float32)
        start = (len(whole) - (region.stop - region.start)) // 2
        whole[start : start + region.stop - region.start] = share[region]
        shares.append(whole)
    return shares


@njit(cache=True, parallel=True, fastmath=True)
def _darken(phase: Array, scale: float, shape: int, share: Array, x: Array, y: Array, z: Array, lost: Array):
    """Share of the magnitude that the phase mask removes, where the phase is above 0."""
    one, two, four = np.float32(1), np.float32(2), np.float32(4)
    at_zero = one + np.tanh(one)
    for i in prange(phase.shape[0]):
        for j in range(phase.shape[1]):
            for k in range(phase.shape[2]):
                u = phase[i, j, k] / scale
                if u > 0:
                    if shape == 0:
                        part = one - (one + np.tanh(one - u)) / at_zero
                    elif shape == 1:
                        part = min(u / two, one)
                    else:
                        # a large u may not overflow
                        far = min(four * (u - one), np.float32(40))
                        part = one - (one + np.exp(-four)) / (one + np.exp(far))
                    trust = two * share[i, j, k] / (x[i] * y[j] * z[k]) - one
                    lost[i, j, k] = part * min(max(trust, np.float32(0)), one)
