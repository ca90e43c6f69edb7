"""Falx and tentorium, sheets of dura that may be taken for veins."""

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.sampling import Volume
from bids_qsm.phantom.skull import soft
from bids_qsm.phantom.veins import INFERIOR_SAGITTAL, STRAIGHT, tentorium

THICKNESS = 2.0
"""mm."""
CLEFT = 6.0
"""How far (mm) from a typical tentorium the cleft of a brain is looked for."""


def draw_dura(volume: Volume):
    """Draw falx and tentorium into the CSF of a brain (channels `tissue.CHANNELS`), in place.

    The falx lies in the middle, above the inferior sagittal and straight sinuses; the tentorium follows the
    cleft between cerebrum and cerebellum. Thickness, susceptibility and R2* of dura are assumed.
    """
    _draw_tentorium(_within(volume, (-72, -116, -60), (72, -22, 20)))
    _draw_falx(_within(volume, (-4, -105, -20), (4, 70, 110)))


def _within(volume: Volume, low: tuple[float, ...], high: tuple[float, ...]):
    """The part of a volume between two corners (mm)."""
    box = []
    for first, last, origin, n in zip(low, high, volume.origin, volume.data.shape, strict=False):
        ends = ((first - origin) / volume.spacing, (last - origin) / volume.spacing + 1)
        box.append(slice(*(int(np.clip(e, 0, n)) for e in ends)))
    start = volume.origin + volume.spacing * np.array([b.start for b in box])
    return Volume(volume.data[tuple(box)], start, volume.spacing)


def _draw_falx(part: Volume):
    x, y, z = (part.points(k).astype(np.float32) for k in range(3))
    low = np.array(
        [STRAIGHT[-1], *STRAIGHT[-2:0:-1], *INFERIOR_SAGITTAL[:0:-1], INFERIOR_SAGITTAL[0], (0, 66, 0)]
    )
    edge = np.interp(y, low[:, 1], low[:, 2], left=np.inf, right=np.inf).astype(np.float32)
    middle = soft(np.abs(x) - np.float32(THICKNESS / 2), np.float32(part.spacing))
    _paint(part, middle[:, None, None] * (z > edge[:, None]))


def _draw_tentorium(part: Volume):
    x, y, z = (part.points(k).astype(np.float32) for k in range(3))
    if not (x.size and y.size and z.size):
        return
    u, v = np.meshgrid(x, y, indexing='ij')
    wide = (v < -38) & (v > -100) & (np.abs(u) < 56) & ((np.abs(u) > 20) | (v < -50))
    typical = tentorium(u, v)
    # the cleft is where most CSF is
    shift = np.arange(-CLEFT, CLEFT + 0.1, 1.0)
    at = (typical[..., None] + shift - z[0]) / part.spacing
    smooth = ndimage.gaussian_filter(t.channels(part.data)['csf'], 1.5 / part.spacing)
    i, j = np.indices(u.shape)
    seen = smooth[i[..., None], j[..., None], np.clip(np.round(at).astype(int), 0, len(z) - 1)]
    height = typical + shift[np.argmax(seen - 0.01 * np.abs(shift), -1)]
    height = ndimage.gaussian_filter(height, 4 / part.spacing)
    tilt = 1 / np.sqrt(1 + sum(np.square(g / part.spacing) for g in np.gradient(height)))
    away = np.abs(z - height[..., None].astype(np.float32)) * tilt[..., None].astype(np.float32)
    _paint(part, soft(away - np.float32(THICKNESS / 2), np.float32(part.spacing)) * wide[..., None])


def _paint(part: Volume, amount: np.ndarray):
    """Turn CSF into dura, in place, by its share ``amount``."""
    put = t.channels(part.data)
    amount = amount * np.clip(2 * put['csf'], 0, 1) * put['brain']
    for name in t.PAINTED:
        put[name] += amount * (np.float32(getattr(t.TISSUES['dura'], name)) - put[name])
    put['csf'] *= 1 - amount
