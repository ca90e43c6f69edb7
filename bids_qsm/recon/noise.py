"""The noise level of an image, and the noise floor of its echoes."""

import numpy as np

from bids_qsm.recon.arrays import Array

DEAD = 3
"""Noise floor: magnitude over noise below which the phase of an echo is random and cannot be unwrapped."""


def noise_level(magnitude: Array, mask: Array):
    """Standard deviation of the noise in each channel (units of ``magnitude``), from its finest detail.

    The sum of the eight corners of a cube with alternating signs cancels smooth signal; its median absolute
    value gives the noise [1]_. The noise of images that the scanner interpolated is underestimated.

    References
    ----------
    .. [1] Donoho & Johnstone (1994), Biometrika 81:425. doi:10.1093/biomet/81.3.425
    """
    corners = [(slice(0, n - n % 2, 2), slice(1, n, 2)) for n in mask.shape]
    whole = np.ones(tuple(n // 2 for n in mask.shape), bool)
    detail = np.zeros(whole.shape, np.float32)
    # The noise of a magnitude is that of one channel only where there is signal: take the first echo's.
    first = magnitude[..., 0]
    for i in range(8):
        place = tuple(pair[(i >> axis) & 1] for axis, pair in enumerate(corners))
        whole &= mask[place]
        detail += np.float32((-1) ** i.bit_count()) * first[place]
    if not whole.any():
        return 0.0
    return float(np.median(np.abs(detail[whole])) / 0.6745 / np.sqrt(8))
