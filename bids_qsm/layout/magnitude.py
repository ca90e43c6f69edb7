"""The magnitude of a series, coarse, for what must be known of it before its graph is built."""

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.align import coarsen
from bids_qsm.layout.series import Series

COARSE_MM = 4.0


def coarse_magnitude(series: Series):
    """Magnitude of the first echo on isotropic voxels of 4 mm, combined over coils stored one by one.

    Returns
    -------
    image : ndarray of float32, 3D
    affine : ndarray (4, 4)
    """
    many = series.coils
    parts = [series.magnitude[:many]] if series.magnitude else [series.real[:many], series.imag[:many]]
    images = [nib.load(path) for part in parts for path in part]
    squares = sum(np.nan_to_num(np.asarray(one.dataobj, np.float32)) ** 2 for one in images)
    return coarsen(np.sqrt(squares), images[0].affine, COARSE_MM)
