"""Voxels of two acquisitions made alike: one map is smoothed by what the other's grid is coarser."""

import numpy as np
from scipy import fft

from bids_qsm.recon.arrays import Array

WIDTH = 1 / np.sqrt(8 * np.log(2))
"""Standard deviation of the point spread over the side of a voxel: its full width at half maximum is one
voxel."""


def excess_spread(own: Array, other: Array) -> Array:
    r"""Covariance of the smoothing that gives a grid the point spread of another, where that is coarser.

    .. math:: C = (S_b - S_a)_+, \quad S = w^2 A A^T

    with the axes A of the voxels. Only positive eigenvalues are kept: along the others the own grid is the
    coarser one.

    Parameters
    ----------
    own, other : ndarray, shape (3, 3)
        Axes of the voxels (columns, mm), in the same space.

    Returns
    -------
    ndarray, shape (3, 3)
        (mm^2).

    Examples
    --------
    >>> np.round(excess_spread(np.eye(3), np.diag([2.0, 1.0, 0.5])), 3).diagonal().tolist()
    [0.541, 0.0, 0.0]
    """
    values, vectors = np.linalg.eigh(WIDTH**2 * (other @ other.T - own @ own.T))
    return (vectors * np.maximum(values, 0)) @ vectors.T


def smooth_rate(
    rate: Array, variance: Array, weight: Array, axes: Array, covariance: Array
) -> tuple[Array, Array]:
    r"""Smooth a map of rates as a coarser voxel would, weighted by its signal.

    .. math:: \bar R = \frac{g * (w R)}{g * w}, \quad
        \operatorname{var} \bar R = \frac{g^2 * (w^2 \operatorname{var} R)}{(g * w)^2}

    To first order the rate of a voxel is the mean of its parts, weighted by their signals.

    Parameters
    ----------
    rate, variance : ndarray of float32, shape (x, y, z)
        Rates (1/s) and the variance of their noise.
    weight : ndarray of float32, shape (x, y, z)
        Signal; 0 where the rate is not known.
    axes : ndarray, shape (3, 3)
        Axes of the voxels (columns, mm).
    covariance : ndarray, shape (3, 3)
        Of the Gaussian g (mm^2), see `excess_spread`; as given back where it is 0.

    Returns
    -------
    rate, variance : ndarray of float32, shape (x, y, z)
        0 where the weight is 0.
    """
    known = weight > 0
    reach = 3 * np.sqrt(np.maximum(np.diag(np.linalg.inv(axes) @ covariance @ np.linalg.inv(axes).T), 0))
    if reach.max() < 0.05:
        return np.where(known, rate, 0), np.where(known, variance, 0)
    shape = [
        fft.next_fast_len(n + int(np.ceil(r)), real=True) for n, r in zip(rate.shape, reach, strict=True)
    ]
    spectrum = _gaussian(shape, axes, covariance)
    # its square, for the variance
    kernel = fft.irfftn(spectrum, shape)
    narrow = fft.rfftn(kernel * kernel).real.astype(np.float32)

    def convolve(data: Array, by: Array):
        done = fft.irfftn(fft.rfftn(data.astype(np.float32), shape) * by, shape)
        return done[tuple(slice(0, n) for n in rate.shape)]

    total = np.where(known, convolve(weight, spectrum), 1)
    smooth = convolve(weight * rate, spectrum) / total
    spread = np.maximum(convolve(weight * weight * variance, narrow), 0) / total**2
    return np.where(known, smooth, 0).astype(np.float32), np.where(known, spread, 0).astype(np.float32)


def _gaussian(shape: list[int], axes: Array, covariance: Array):
    """Transfer function of a Gaussian of unit area, for real transforms."""
    turns = [fft.fftfreq(n) for n in shape[:2]] + [fft.rfftfreq(shape[2])]
    index = np.stack(np.meshgrid(*turns, indexing='ij'), -1)
    k = index @ np.linalg.inv(axes)
    return np.exp(-2 * np.pi**2 * np.einsum('...i,ij,...j', k, covariance, k)).astype(np.float32)
