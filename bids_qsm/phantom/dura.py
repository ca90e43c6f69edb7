"""Falx and tentorium, sheets of dura that may be taken for veins."""

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.sampling import Volume
from bids_qsm.phantom.skull import soft
from bids_qsm.phantom.veins import INFERIOR_SAGITTAL, STRAIGHT, tentorium

THICKNESS = 2.0
"""mm."""


def draw_dura(volume: Volume):
    """Draw falx and tentorium into the CSF of a brain (channels `tissue.CHANNELS`), in place.

    The falx lies in the middle, above the inferior sagittal and straight sinuses; the tentorium follows the
    cleft between cerebrum and cerebellum.
    """
    put = t.channels(volume.data)
    x, y, z = (volume.points(k).astype(np.float32) for k in range(3))
    step = np.float32(volume.spacing)
    low = np.array(
        [STRAIGHT[-1], *STRAIGHT[-2:0:-1], *INFERIOR_SAGITTAL[:0:-1], INFERIOR_SAGITTAL[0], (0, 66, 0)]
    )
    edge = np.interp(y, low[:, 1], low[:, 2], left=np.inf, right=np.inf).astype(np.float32)
    middle = soft(np.abs(x) - np.float32(THICKNESS / 2), step)[:, None, None]
    amount = np.zeros(put['csf'].shape, np.float32)
    np.maximum(amount, middle * (z > edge[:, None]), out=amount)

    # the cleft: where most CSF is, within 6 mm of a typical tentorium
    u, v = np.meshgrid(x, y, indexing='ij')
    wide = (v < -38) & (v > -100) & (np.abs(u) < 56) & ((np.abs(u) > 20) | (v < -50))
    typical = tentorium(u, v)
    shift = np.arange(-6, 6.1, 1.0)
    at = (typical[..., None] + shift - z[0]) / step
    smooth = ndimage.gaussian_filter(put['csf'], 1.5 / volume.spacing)
    i, j = np.indices(u.shape)
    seen = smooth[i[..., None], j[..., None], np.clip(np.round(at).astype(int), 0, len(z) - 1)]
    height = typical + shift[np.argmax(seen - 0.01 * np.abs(shift), -1)]
    height = ndimage.gaussian_filter(height, 4 / volume.spacing)
    tilt = 1 / np.sqrt(1 + sum(np.square(g / volume.spacing) for g in np.gradient(height)))
    away = np.abs(z - height[..., None].astype(np.float32)) * tilt[..., None].astype(np.float32)
    np.maximum(amount, soft(away - np.float32(THICKNESS / 2), step) * wide[..., None], out=amount)

    amount *= np.clip(2 * put['csf'], 0, 1) * put['brain']
    for name in t.PAINTED:
        put[name] += amount * (np.float32(getattr(t.TISSUES['dura'], name)) - put[name])
    put['csf'] *= 1 - amount
