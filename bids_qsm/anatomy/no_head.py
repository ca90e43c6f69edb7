"""Tell crops of a head and phantoms from heads on which a template can be laid."""

import numpy as np

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.head import SCALP_MM, depth_in_head, tissue
from bids_qsm.recon.arrays import Array

FEWEST_ML = 250.0
"""A solid of less is no head, nor a slab of one that a template could be laid on."""
UNIFORM = 0.045
"""Relative spread of brightness of less is that of a fluid; a brain without its skull has .06 or more."""
DARK_SHARE = 0.02
"""Share of dark voxels inside a head: skull, sinuses, ventricles; 6 % or more in heads with a skull."""


def why_no_head(image: Array, affine: Array) -> str | None:
    """Say why an image shows no head on which a template could be laid; None where it may be one.

    A crop has too little tissue. A phantom is a fluid: its brightness, without what is smooth, is uniform,
    and nothing inside it is dark, as skull, sinuses and ventricles of a head are.

    Parameters
    ----------
    image : ndarray, 3D
        Magnitude, or T1w; its voxels should be isotropic and coarse (4 mm), as this takes a second then.
    affine : ndarray (4, 4)
        Voxel to world (mm).
    """
    depth = depth_in_head(image, affine)
    volume = (depth > 0).sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    if volume < FEWEST_ML:
        return f'it holds {volume:.0f} ml of tissue, less than a head or a slab of one'
    corrected = correct_bias(image, affine, deep_mm=SCALP_MM)[0]
    deep = corrected[tissue(image) & (depth > SCALP_MM)]
    if not deep.size:
        return 'it holds thin pieces of tissue alone'
    low, middle, high = np.percentile(deep, (5, 50, 95))
    spread = (high - low) / middle / 3.29  # standard deviations of a normal distribution
    dark = (corrected[depth > SCALP_MM] < 0.5 * middle).mean()
    if spread < UNIFORM and dark < DARK_SHARE:
        return 'its brightness is as uniform as that of a water phantom, without a skull or ventricles'
    return None
