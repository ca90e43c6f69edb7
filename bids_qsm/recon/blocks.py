"""Means over blocks of voxels, and linear interpolation from them."""

from collections.abc import Sequence

import numpy as np

from bids_qsm.recon.arrays import Array


def block_means(x: Array, factors: Sequence[int] | Array):
    """Means (float32) over blocks of ``factors`` voxels; axes are filled up with zeros."""
    padded = np.pad(x, [(0, -n % f) for n, f in zip(x.shape, factors, strict=True)])
    form = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    return padded.reshape(form).mean((1, 3, 5), dtype=np.float32)


def linear_basis(at: Array, size: int):
    """Matrix that interpolates a vector of ``size`` linearly at the (fractional) indices ``at``."""
    at = np.clip(at, 0, size - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(size)), 0)
