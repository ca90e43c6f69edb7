"""From the signal of a vein to voxels, as a scanner brings it there, and to field and magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from bids_qsm.recon.echo_weights import robust_weights

REACH = 4
"""Voxels to each side that act on a voxel."""
_K = (np.arange(250) + 0.5) / 500
_AT = (np.arange(-2 * REACH, 2 * REACH) + 0.5) / 2


@dataclass(frozen=True)
class KSpace:
    r"""Sampling of k-space with a filter whose response falls at ``cut``, by frequency k (cycles per voxel):

    .. math:: M(k) = \frac{1}{1 + e^{(k - k_c) / w}}, \quad k \le 1/2

    It is 1 for a large cut. Filters against ringing, their absence, and zero filling are all about like that.
    The cut has a standard deviation, as the fits of veins find it; w is `FALL`.
    """

    cut: float = 0.5
    cut_sd: float = 0.15


FALL = 0.02
"""Width of the fall of a filter (cycles per voxel). Fitted too, it took up what else blurs veins in heads."""
BOUNDS = 0.2, 0.8
"""Least and largest cut."""


def rows(count: int, cut: float | None = None):
    """Matrix (count, 2 count) that brings halves of voxels along an axis to voxels; means without a ``cut``.

    The response of k-space is divided by that of the mean over a half. Its sinc, which has no end, is faded
    out by a wider one; beyond the ends the halves go on as the last.

    >>> rows(3)[1]
    array([0. , 0. , 0.5, 0.5, 0. , 0. ])
    >>> [round(float(w), 2) for w in rows(9, 5.0)[4, 6:12]]
    [-0.09, 0.14, 0.46, 0.46, 0.14, -0.09]
    """
    if cut is None:
        return np.repeat(np.eye(count), 2, axis=1) / 2
    response = 1 / (1 + np.exp(np.clip((_K - cut) / FALL, -50, 50)))
    weight = (response / np.sinc(_K / 2) * np.cos(2 * np.pi * _AT[:, None] * _K)).mean(1)
    weight *= np.sinc(_AT / REACH)
    weight /= weight.sum()
    n = np.arange(count)
    which = np.clip(2 * n[:, None] + 1 + np.arange(-2 * REACH, 2 * REACH), 0, 2 * count - 1)
    matrix = np.zeros((count, 2 * count))
    np.add.at(matrix, (n[:, None], which), weight)
    return matrix


def to_voxels(halves: np.ndarray, matrices: Sequence[np.ndarray]):
    """Signal (x, y, z, echo) of the voxels of a box from that of their halves (x, y, z, 8, echo)."""
    x, y, z, _, echoes = halves.shape
    fine = halves.reshape(x, y, z, 2, 2, 2, echoes).transpose(0, 3, 1, 4, 2, 5, 6)
    # real and imaginary parts are brought to voxels alike
    parts = np.ascontiguousarray(fine).view(np.float32)
    first, second, third = (m.astype(np.float32) for m in matrices)
    parts = (first @ parts.reshape(2 * x, -1)).reshape(x, 2 * y, -1)
    parts = (second @ parts).reshape(x * y, 2 * z, -1)
    return np.ascontiguousarray(third @ parts).view(np.complex64).reshape(x, y, z, echoes)


@njit(cache=True)
def field_and_magnitude(signal: np.ndarray, tissue: np.ndarray, times: np.ndarray, turn: float):
    """Field (ppm) and magnitude of signals (voxel, echo), as the pipeline takes them from the echoes.

    The field is fitted to the phases as `bids_qsm.recon.field.linear` does, so that parts that lose their
    signal count less. The magnitude is the root sum of squares over echoes, over that of the signal of
    ``tissue``; ``times`` (s, float32) are echo times, ``turn`` the phase (rad/s) of 1 ppm.
    """
    voxels, echoes = signal.shape
    field, magnitude = np.empty(voxels), np.empty(voxels)
    phase, weight = np.empty(echoes, np.float32), np.empty(echoes, np.float32)
    trusted = np.empty(echoes, np.float32)
    full = np.sum(tissue**2)
    for v in range(voxels):
        total = 0.0
        for n in range(echoes):
            power = signal[v, n].real ** 2 + signal[v, n].imag ** 2
            weight[n] = max(power, 1e-12)
            phase[n] = np.arctan2(signal[v, n].imag, signal[v, n].real)
            total += power
        magnitude[v] = np.sqrt(total / full)
        field[v] = robust_weights(phase, weight, times, 0.0, trusted) / turn
    return field, magnitude
