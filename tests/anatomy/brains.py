"""Small brains of coarse voxels for the tests of alignment: a template, and people made from it."""

from functools import cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_qsm.anatomy.transform import Displacement, resample

SPACING = 3.0
SHAPE = (66, 78, 64)


def template_affine():
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = (-98, -134, -72)
    return affine


@cache
def template():
    """nilearn's ICBM152 T1 without skull and its mask, at `SPACING`."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    volumes = []
    for load in (load_mni152_template, load_mni152_brain_mask):
        image = load(resolution=1)
        smooth = ndimage.gaussian_filter(np.asarray(image.dataobj, np.float32), SPACING / 2.355)
        volumes.append(resample(smooth, image.affine, SHAPE, template_affine(), []))
    return volumes[0], volumes[1] > 0.5


def pose(rotation, shift, scale=1.0):
    """Scanner to template points: turned (degrees about x, y, z), scaled, shifted (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('xyz', rotation, degrees=True).as_matrix() * scale
    matrix[:3, 3] = shift
    return matrix


def warp(seed, size_mm):
    """Smooth displacement of template points, ``size_mm`` (mm) in the mean."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((28, 32, 28, 3)), (2, 2, 2, 0))
    field *= size_mm / np.sqrt((field**2).sum(-1)).mean()
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = (-135, -165, -130)
    return Displacement(field.astype(np.float32), affine)


def head_in_template():
    """T1w-like head in template space with CSF, skull, scalp and neck, and its affine."""
    brain, mask = template()
    pad = ((8, 8), (8, 8), (24, 10))
    brain, mask = np.pad(brain, pad), np.pad(mask, pad)
    affine = template_affine()
    affine[:3, 3] -= SPACING * np.array([8, 8, 24])
    away = ndimage.distance_transform_edt(~mask) * SPACING
    out = np.where(mask, brain, 0.25 * (away < 4) + 0.9 * ((away > 9) & (away < 15)))
    x, y, z = (affine[d, 3] + SPACING * np.arange(brain.shape[d]) for d in range(3))
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    neck = ((x / 55) ** 2 + ((y + 25) / 60) ** 2 < 1) & (z < -65) & (away > 9)
    return np.where(neck, 0.6, out).astype(np.float32), affine


def person(transforms, *, shape=(70, 84, 84), spacing=3.0, noise=0.02, image=None):
    """A head seen by a scanner: ``transforms`` take scanner to template points.

    Returns (image, affine, true brain mask).
    """
    volume, volume_affine = head_in_template() if image is None else image
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2 + (0, -15, -15)
    scan = resample(volume, volume_affine, shape, affine, transforms)
    scan += noise * np.abs(np.random.default_rng(5).standard_normal(shape)).astype(np.float32)
    mask = resample(template()[1], template_affine(), shape, affine, transforms) > 0.5
    return scan, affine, mask


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())
