"""Magnitude of all echoes as one image."""

import numpy as np


def combine(magnitude):
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
