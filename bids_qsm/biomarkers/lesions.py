"""Lesion masks as labels."""

import numpy as np
from scipy import ndimage


def label_lesions(mask):
    """Number the lesions of a mask.

    Parameters
    ----------
    mask : ndarray, shape (x, y, z)
        Binary (0 and one other value), where each connected piece is a lesion; or labels, which are kept.

    Returns
    -------
    ndarray of int32
        1, 2, ... in the order of the array, or the labels given.

    Examples
    --------
    >>> label_lesions(np.array([[[0, 255, 0, 255]]])).tolist()
    [[[0, 1, 0, 2]]]
    >>> label_lesions(np.array([[[0, 3, 0, 7]]])).tolist()
    [[[0, 3, 0, 7]]]
    """
    mask = np.rint(mask).astype(np.int32)
    if np.unique(mask[mask != 0]).size > 1:
        return mask
    # pieces that touch at a corner are one lesion
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))[0].astype(np.int32)
