"""Magnitude of all echoes as one image."""

import numpy as np

from bids_qsm.recon.arrays import Array


def combine(magnitude: Array):
    """Combine the echoes' magnitudes by root sum of squares.

    Parameters
    ----------
    magnitude : ndarray of float, shape (x, y, z, echo)
        Magnitude of each echo (any unit).

    Returns
    -------
    ndarray of float32, shape (x, y, z)
    """
    return np.sqrt(np.einsum('...e,...e->...', magnitude, magnitude)).astype(np.float32)
