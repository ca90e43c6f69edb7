"""What an image of a head shows in every contrast: tissue against air, and its depth below the skin."""

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.masking.morphology import largest
from bids_qsm.recon.threshold import otsu

SCALP_MM = 12.0
"""Depth below the skin by which scalp and skull end."""
GAP_MM = 12.0
"""Half the width of gaps, such as the skull, that are closed to make the head one solid."""


def tissue(image: Array):
    """Voxels of tissue against air, by Otsu's threshold of the logarithm: bright fat does not raise it."""
    top = np.percentile(image, 99)
    if not top > 0:
        return np.zeros(image.shape, bool)
    level = np.log(np.maximum(image, 1e-3 * top))
    return level > otsu(level)


def depth_in_head(image: Array, affine: Array):
    """Depth (mm) of each voxel below the skin, 0 outside; the end of the field of view is no skin.

    The head is the largest piece of tissue, gaps of up to 24 mm closed and cavities filled, in each plane
    too, as a cavity may be open at the end of the field of view. ``image`` has isotropic voxels.
    """
    size = float(spacing_of(affine)[0])
    found = tissue(image)
    if not found.any():
        return np.zeros(image.shape, np.float32)
    solid = close_gaps(found, GAP_MM, size) | found
    for axis in range(3):
        solid = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(solid, axis, 0)], axis)
    padded = np.pad(largest(solid), 1, mode='edge')
    return (ndimage.distance_transform_edt(padded)[1:-1, 1:-1, 1:-1] * size).astype(np.float32)


def close_gaps(mask: Array, reach_mm: float, size: float):
    """Close gaps of up to twice ``reach_mm`` in a mask of isotropic voxels of ``size`` (mm).

    At the end of the field of view, the mask is taken to go on.
    """
    margin = int(np.ceil(reach_mm / size)) + 2
    padded = np.pad(mask, margin, mode='edge')
    wide = ndimage.distance_transform_edt(~padded) * size <= reach_mm
    closed = ndimage.distance_transform_edt(wide) * size > reach_mm
    return closed[(slice(margin, -margin),) * 3]
