"""Whether phase was high-pass filtered, as for susceptibility-weighted images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import largest
from bids_qsm.recon.phase import signal_mask
from bids_qsm.recon.polarity import block_mean
from bids_qsm.recon.units import ppm_per_radian
from bids_qsm.recon.unwrap import romeo

COARSE_MM = 4.0
SLOW_MM = 10.0
"""Standard deviation of the Gaussian that tells the slow field from the fast."""
LEAST_SLOW = 0.025
"""Spread (ppm) of the slow field below which it is missing.

It is .05 to .35 in shimmed phantoms and real heads and .037 to .28 in slabs of 50 mm of these, but .0002 to
.016 where windows of 24 to 128 samples at 1 mm were used.
"""
LEAST_RATIO = 1.5
"""Least ratio of the slow to the fast field; it is 2 to 15 in these, and .04 to .9 in filtered heads."""
SHAPED = 0.55
"""Correlation with the field of the shape of the head from which its slow field is there, however small.

It is 0 to .49 in filtered heads.
"""
SMALLEST_MM = (40.0, 80.0, 80.0)
"""Smallest sizes of an object in which a head's slow field must be seen."""


@dataclass(frozen=True)
class Spread:
    """Robust standard deviations (ppm) of the ``slow`` and of the ``fast`` part of the field."""

    slow: float
    fast: float

    @property
    def is_filtered(self):
        return self.slow < min(LEAST_SLOW, LEAST_RATIO * self.fast)


def find_spread(
    phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid, field_strength: float
):
    """Spread of the field over an object, slow and fast; None where the object is too small to tell.

    Air around and in a head makes a field that varies slowly over several tenths of a ppm, and that no shim
    can remove. Homodyne filtering divides the image by a low-pass filtered copy of itself [1]_, which leaves
    the details alone. The small field of a water sphere that is well shimmed does not look filtered, as the
    field of far sources is slow.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude.
    echo_times : sequence of float
        Rising echo times (s).
    field_strength : float
        B0 (T).

    References
    ----------
    .. [1] Noll et al. (1991), IEEE Trans Med Imaging 10:154. doi:10.1109/42.79473
    """
    factors = [max(1, round(COARSE_MM / size)) for size in grid.voxel_size]
    sizes = [f * s for f, s in zip(factors, grid.voxel_size, strict=True)]
    last = len(echo_times) - 1
    angle = phase[..., last] - phase[..., 0] if last else phase[..., 0]
    time = echo_times[last] - echo_times[0] if last else echo_times[0]
    weight = magnitude[..., 0] * magnitude[..., last]
    signal, strength = block_mean(weight * np.exp(1j * angle), factors), block_mean(weight, factors)
    bright = signal_mask(block_mean(magnitude[..., 0], factors))
    body = largest(ndimage.binary_erosion(bright & (np.abs(signal) > 0.5 * strength), iterations=2))
    if not body.any():
        return None
    box = ndimage.find_objects(body.view(np.uint8))[0]
    extent = sorted((s.stop - s.start + 4) * size for s, size in zip(box, sizes, strict=True))
    if any(have < least for have, least in zip(extent, SMALLEST_MM, strict=True)):
        return None
    angles = np.angle(signal).astype(np.float32)[..., None]
    field = romeo(angles, np.sqrt(np.abs(signal)).astype(np.float32)[..., None], body, [1.0])[..., 0]
    field = np.where(body, field - np.median(field[body]), 0)
    reach = [SLOW_MM / size for size in sizes]
    slow = ndimage.gaussian_filter(field, reach) / np.maximum(
        ndimage.gaussian_filter(body.astype(np.float32), reach), 1e-6
    )
    to_ppm = ppm_per_radian(field_strength, time)
    return Spread(to_ppm * _spread(slow[body]), to_ppm * _spread((field - slow)[body]))


def _spread(values: Array):
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
