"""The magnitude of a series, coarse, for what must be known of it before its graph is built."""

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.align import coarsen
from bids_qsm.layout.series import Series

COARSE_MM = 4.0


def coarse_magnitude(series: Series):
    """Magnitude of the first echo on isotropic voxels of 4 mm, combined over coils stored one by one.

    Of a run of frames it is the first.

    Returns
    -------
    image : ndarray of float32, 3D
    affine : ndarray (4, 4)
    """
    many = series.coils
    parts = [series.magnitude[:many]] if series.magnitude else [series.real[:many], series.imag[:many]]
    images = [nib.load(path) for part in parts for path in part]
    squares = sum(np.nan_to_num(_first_volume(one)) ** 2 for one in images)
    return coarsen(np.sqrt(squares), images[0].affine, COARSE_MM)


def _first_volume(image: nib.spatialimages.SpatialImage):
    volume = image.dataobj[..., 0] if image.ndim == 4 else image.dataobj
    return np.asarray(volume, np.float32)
