"""Signal loss by gradients of the background field."""

from collections.abc import Sequence

import numpy as np

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

LOST = np.float32(0.3)
"""Share of the signal below which an echo is not corrected but left out."""


def spread_function(
    field: Array,
    mask: Array,
    grid: Grid,
    echo_times: Sequence[float],
    field_strength: float,
    *,
    rolloff: float = 0.5,
):
    r"""Share of the signal of each echo that remains after dephasing by background gradients [1]_.

    .. math:: F_k = \prod_d h\left(\frac{\gamma B_0 |\partial_d f| v_d T_k}{\pi}\right), \quad
        h(u) = \tfrac12 + \tfrac12 \cos\left(\pi\, \frac{u - (1 - b)}{2 b}\right), \;
        1 - b \le u \le 1 + b

    A gradient shifts the signal in k-space. No signal is lost (h = 1) until the shift nears the edge of the
    sampled range, where the phase changes by pi from voxel to voxel; beyond it all is lost (h = 0). The paper
    sums over the spread functions of the neighbours. Here the edge is a cosine of width b, because vendors'
    filters and detail in the object smooth it. A box-shaped voxel (a product of sincs) would predict a loss
    of a tenth where there is none. Divide the magnitude by F before fitting its decay.

    Parameters
    ----------
    field : ndarray of float32, shape (x, y, z)
        Total field (ppm).
    mask : ndarray of bool, shape (x, y, z)
        Where the field is known.
    echo_times : sequence of float
        Echo times (s).
    field_strength : float
        B0 (T).
    rolloff : float
        Half width b of the edge, as a share of the sampled range of k-space.

    Returns
    -------
    ndarray of float32, shape (x, y, z, echo)
        0 to 1; 1 outside the mask.

    References
    ----------
    .. [1] Yablonskiy et al. (2013), MRM 70:1283. doi:10.1002/mrm.24585
    """
    kept = np.ones((*mask.shape, len(echo_times)), np.float32, order='F')
    for axis in range(3):
        # half turns per voxel and second; the voxel size cancels
        turns = _slope(field, mask, axis) / np.float32(np.pi * ppm_per_radian(field_strength))
        if grid.shape[axis] == 1:
            continue
        for k, time in enumerate(echo_times):
            place = np.clip((turns * np.float32(time) - (1 - rolloff)) / (2 * rolloff), 0, 1)
            kept[..., k] *= 0.5 + 0.5 * np.cos(np.float32(np.pi) * place)
    return kept


def _slope(field: Array, mask: Array, axis: int):
    """Absolute difference per voxel along an axis: the mean of the steps to neighbours in the mask."""
    ahead = np.moveaxis(field, axis, 0)
    inside = np.moveaxis(mask, axis, 0)
    pair = inside[1:] & inside[:-1]
    step = (ahead[1:] - ahead[:-1]) * pair
    total = np.zeros(ahead.shape, np.float32)
    count = np.zeros(ahead.shape, np.float32)
    total[1:] += step
    total[:-1] += step
    count[1:] += pair
    count[:-1] += pair
    return np.moveaxis(np.abs(total / np.maximum(count, 1)), 0, axis)
