"""How much of k-space holds data: zero filling, filters, and partial Fourier acquisition."""

import numpy as np
from scipy import fft

from bids_qsm.recon.arrays import Array

BANDS = 20
"""Bands of frequency from the middle to the edge of k-space along an axis."""
LEAST_VOXELS = 32
"""Of an axis whose k-space can be told; crops have fewer."""
OTHERS = (0.25, 0.45)
"""Frequencies of the two other axes, as shares of their largest: signal is small, and an elliptical k-space
shutter does not reach there."""
STEP = 0.03
"""Fall of power over two bands that no image has; filters of scanners make .15 at the edge."""


def sampled_shares(signal: Array):
    """Share of the frequencies along each axis that hold data, on the negative and on the positive side.

    Noise has the same power at all frequencies that were acquired. Where an image was interpolated by zeros
    in k-space, it has none beyond those: the power falls at once.

    Parameters
    ----------
    signal : ndarray of complex64, shape (x, y, z)

    Returns
    -------
    list of (float, float)
        For each axis; NaN where it has less than `LEAST_VOXELS`.
    """
    power = np.abs(fft.fftn(signal)) ** 2
    places = [np.abs(fft.fftfreq(n)) / 0.5 for n in signal.shape]
    found = []
    for axis, n in enumerate(signal.shape):
        if n < LEAST_VOXELS:
            found.append((np.nan, np.nan))
            continue
        few = power
        for other in range(3):
            if other != axis:
                at = places[other]
                few = np.compress((at >= OTHERS[0]) & (at <= OTHERS[1]), few, other)
        if not few.size:  # the other axes have few voxels
            found.append((np.nan, np.nan))
            continue
        profile = np.median(few, tuple(other for other in range(3) if other != axis))
        side = np.sign(fft.fftfreq(n))
        found.append(tuple(_share(profile[side == s], places[axis][side == s]) for s in (-1, 1)))
    return found


def _share(profile: Array, place: Array):
    """Frequency up to which a profile of power is not empty, 0 to 1."""
    count = min(BANDS, len(profile) // 2)
    bands = np.minimum((place * count).astype(int), count - 1)
    power = np.array([np.median(profile[bands == b]) if (bands == b).any() else np.inf for b in range(count)])
    for band in range(4, count):
        known = power[band:][np.isfinite(power[band:])]
        if known.size and np.isfinite(power[band - 2]) and known.max() < STEP * power[band - 2]:
            return band / count
    return 1.0
