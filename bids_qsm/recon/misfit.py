"""Whether the phase of all echoes agrees with one field, as far as noise lets it."""

from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.noise import DEAD, noise_level

SYSTEMATIC = 0.1
"""Departure (rad) from linear phase beside noise that is usual: offsets, flow, eddy currents."""
FACTOR = 3.0
"""How many times larger than expected the residual of a voxel is where the fit failed."""
DOUBTFUL, HOPELESS = 0.05, 0.7
"""Share of the mask where the fit failed beyond which maps are doubtful, and beyond which there is no map.

In healthy phantoms (1.5 to 7 T, SNR 12 to 70, slices up to 6 mm, bipolar) and real heads it is 0 to .008, at
sinuses and veins. With one echo of another scale it is .57 to .61, with one of inverted sign .9, and with
slices whose offsets differ between echoes .53 to .99.
"""


@dataclass(frozen=True)
class Misfit:
    """``share`` of the mask where the fit failed; medians of residual and of what noise predicts (rad)."""

    share: float
    residual: float
    expected: float


def find_misfit(residual: Array, magnitude: Array, mask: Array):
    r"""Compare the residual of the field fit with what the noise of the magnitude predicts.

    .. math:: r_e = \sigma \sqrt{(n - 1) / \sum_k (m_k^2 - 2 \sigma^2)}

    with n echoes above the noise floor. The fit of a voxel failed where its residual exceeds FACTOR times the
    root of :math:`r_e^2` and SYSTEMATIC squared. Some such voxels are right: parts of a voxel near air lose
    signal at different rates, blood flows, and myelin, fat and water precess at different rates.

    Parameters
    ----------
    residual : ndarray of float32, shape (x, y, z)
        Root mean square residual of the fit, weighted by squared signal (rad).
    magnitude : ndarray of float32, shape (x, y, z, echo)
    mask : ndarray of bool, shape (x, y, z)
        Where to compare, before voxels are removed by their residual.

    Returns
    -------
    Misfit or None
        None with a single echo, which fits always.
    """
    if magnitude.shape[3] == 1:
        return None
    sigma, found = noise_level(magnitude, mask), residual[mask]
    signal, count = np.zeros_like(found), np.zeros_like(found)
    for k in range(magnitude.shape[3]):
        m = magnitude[..., k][mask]
        alive = m > DEAD * sigma
        signal += np.where(alive, m * m - np.float32(2 * sigma**2), 0)
        count += alive
    expected = sigma * np.sqrt(np.maximum(count - 1, 0) / np.maximum(signal, 1e-30))
    failed = found > FACTOR * np.hypot(expected, SYSTEMATIC)
    return Misfit(float(failed.mean()), float(np.median(found)), float(np.median(expected)))
