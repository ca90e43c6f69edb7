"""Phase differences between odd and even slices of interleaved 2D acquisitions."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array

IN_PLANE_MM = 12.0
"""Standard deviation of the smoothing within slices: what varies faster is taken for anatomy."""
SLICES = 4.0
"""The same across slices."""


def remove_stripes(signal: Array, voxel_size: Sequence[float]):
    r"""Remove the phase by which odd slices differ from even ones, and what varies smoothly of it.

    The phase of slice k (along the third axis) is

    .. math:: \phi_k = f_k + (-1)^k a, \quad
        2 \phi_k - \phi_{k-1} - \phi_{k+1} = 4 (-1)^k a + f''

    with the part f of the field, whose bend f'' does not alternate. The constant part of a, of any size, is
    found from the steps between slices. The rest, up to pi/4, is found from their bend, times (-1)^k and
    smoothed as a complex number. So only what alternates is changed: a band about the highest spatial
    frequency across slices, of a standard deviation of .04 cycles per slice, and smooth within slices.

    Parameters
    ----------
    signal : ndarray of complex64, shape (x, y, slice)
        Changed in place.
    voxel_size : sequence of float
        Sides of a voxel (mm).

    Returns
    -------
    constant, varying : float
        Difference of odd and even slices (rad) that was removed: what is the same everywhere, and the root
        mean square of what varies.
    """
    if signal.shape[2] < 4:
        return 0.0, 0.0
    steps = (signal[..., 1:] * np.conj(signal[..., :-1])).sum((0, 1))
    rising, falling = np.angle(steps[::2].sum()), np.angle(steps[1::2].sum())
    constant = (rising - falling) / 2
    if np.cos((rising + falling) / 2) < 0:  # the step of the field itself is below pi / 2
        constant += np.pi
    constant = float(np.angle(np.exp(1j * constant)))
    signal[..., 1::2] *= np.complex64(np.exp(-1j * constant))

    bend = np.zeros_like(signal)
    bend[..., 1:-1] = signal[..., 1:-1] ** 2 * np.conj(signal[..., :-2] * signal[..., 2:])
    bend /= np.maximum(np.sqrt(np.abs(bend)), np.finfo(np.float32).tiny)
    bend[..., 1::2] = np.conj(bend[..., 1::2])
    bend = ndimage.convolve1d(bend, (0.25, 0.5, 0.25), axis=2, mode='constant')  # the bend of the field
    sigma = (*(IN_PLANE_MM / side for side in voxel_size[:2]), SLICES)
    varying = np.angle(ndimage.gaussian_filter(bend, sigma, mode='constant')) / 4
    signal[..., ::2] *= np.exp(-1j * varying[..., ::2])
    signal[..., 1::2] *= np.exp(1j * varying[..., 1::2])
    weight = np.abs(signal) ** 2
    size = np.sqrt((weight * (2 * varying) ** 2).sum() / max(float(weight.sum()), 1e-30))
    return constant, float(size)
