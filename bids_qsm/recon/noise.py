"""The noise of an image, and below which signal an echo says nothing."""

import numpy as np

from bids_qsm.recon.arrays import Array

DEAD = 3
"""Magnitude over noise below which an echo's phase says nothing, and its turns cannot be known."""


def noise_level(magnitude: Array, mask: Array):
    """Standard deviation of the noise in each channel (units of ``magnitude``), from its finest detail.

    The eight corners of a cube summed with alternating signs cancel smooth signal; their median absolute
    value gives the noise [1]_. Images interpolated by the scanner hold less fine detail than noise, and
    come out low.

    References
    ----------
    .. [1] Donoho & Johnstone (1994), Biometrika 81:425. doi:10.1093/biomet/81.3.425
    """
    corners = [(slice(0, n - n % 2, 2), slice(1, n, 2)) for n in mask.shape]
    whole = np.ones(tuple(n // 2 for n in mask.shape), bool)
    detail = np.zeros((*whole.shape, magnitude.shape[3]), np.float32)
    for i in range(8):
        place = tuple(pair[(i >> axis) & 1] for axis, pair in enumerate(corners))
        whole &= mask[place]
        detail += np.float32((-1) ** i.bit_count()) * magnitude[place]
    if not whole.any():
        return 0.0
    # The noise of a magnitude is that of one channel only where there is signal: take the first echo's.
    return float(np.median(np.abs(detail[whole, 0])) / 0.6745 / np.sqrt(8))
