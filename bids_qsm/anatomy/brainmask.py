"""Brain extraction: a template's mask carried onto the head by an affine map, then fitted to its edge."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, coarsen, matrix_of, refine
from bids_qsm.anatomy.bias import foreground
from bids_qsm.anatomy.elastic import deform
from bids_qsm.anatomy.transform import apply_affine, invert, resample
from bids_qsm.recon.arrays import Array

_HEAD_MM = 150.0
_SCALP_MM = 12.0


def extract_brain(image: Array, affine: Array, template: Array, template_affine: Array, template_mask: Array):
    """Brain mask of a whole head (T1w or gradient-echo magnitude, free of bias) from a template's.

    The template may be without skull: it is compared inside its own (dilated) mask only. A search over
    poses and sizes about the top of the head, below which the neck cannot mislead it, starts an affine
    climb of the normalised mutual information.

    Parameters
    ----------
    image, template : ndarray, 3D
        Head, and template in atlas space.
    affine, template_affine : ndarray (4, 4)
        Voxel to world (mm).
    template_mask : ndarray of bool
        Brain of the template.

    Returns
    -------
    mask : ndarray of bool, shape of ``image``
    matrix : ndarray (4, 4)
        Maps template points to image points.
    """
    if not foreground(image).any():
        raise ValueError('the image holds no head')
    head, head_affine = coarsen(image, affine, 2.0)
    brain, brain_affine = coarsen(template * template_mask, template_affine, 2.0)
    inside = coarsen(template_mask, template_affine, 2.0)[0] > 0.5
    # The rim, zero in the template, stands for skull; CSF and skull lie there in the head.
    around = ndimage.binary_dilation(inside, iterations=2)
    levels = [
        Similarity(brain, brain_affine, around, head, head_affine, n_points=n, sigma=s)
        for n, s in ((4000, 6.0), (10000, 3.0), (30000, 1.0))
    ]
    matrix = _align(levels, head, head_affine, inside, brain_affine)
    fine = Similarity(brain, brain_affine, around, head, head_affine, n_points=80000, sigma=1.0)
    bend = deform(fine, matrix, template.shape, template_affine)
    unbend = invert(bend, bend.field.shape[:3], bend.affine)
    back = [np.linalg.inv(matrix), unbend]
    return resample(template_mask, template_affine, image.shape, affine, back) > 0.5, matrix


def _align(levels: Sequence[Similarity], head: Array, head_affine: Array, inside: Array, brain_affine: Array):
    """Affine map of template to image points: the best of many starts, climbed level by level."""
    center = _centroid(inside, brain_affine)
    starts = _starts(head, head_affine, inside, brain_affine, center)
    starts = sorted(starts, key=levels[0], reverse=True)[:6]
    climbed = [refine(levels[0], s, center, n_parameters=12, step=5.0, tolerance=0.5) for s in starts]
    best = max(climbed, key=lambda c: c[1])[0]
    best = refine(levels[1], best, center, n_parameters=12, step=2.0, tolerance=0.2)[0]
    return refine(levels[2], best, center, n_parameters=12, step=1.0, tolerance=0.05)[0]


def _centroid(mask: Array, affine: Array):
    return apply_affine(affine, [ndimage.center_of_mass(mask)])[0]


def _starts(head: Array, head_affine: Array, inside: Array, brain_affine: Array, center: Array):
    """Poses of the template about the top of the head."""
    tissue = ndimage.binary_opening(foreground(head), iterations=2)
    pieces, n = ndimage.label(tissue)
    if n == 0:
        raise ValueError('the image holds no head: only thin pieces stand out')
    tissue = pieces == 1 + np.argmax(ndimage.sum_labels(tissue, pieces, np.arange(1, n + 1)))
    points = apply_affine(head_affine, np.argwhere(tissue))
    top = np.percentile(points[:, 2], 99.9)
    middle = points[points[:, 2] > top - _HEAD_MM].mean(0)
    brain_top = apply_affine(brain_affine, np.argwhere(inside))[:, 2].max()
    shift = middle - center
    # A slab may end below the top of the head, so lower and higher places are tried too.
    shift[2] = top - _SCALP_MM - brain_top
    scales = np.log((0.88, 1.0, 1.12)) * 60.0
    angles = np.radians((-24, -12, 0, 12, 24)) * 60.0
    for z, y, pitch, roll, scale in itertools.product(
        (-30, -15, 0, 15, 30), (-12, 0, 12), angles, angles[1:4], scales
    ):
        yield matrix_of(
            np.array([shift[0], shift[1] + y, shift[2] + z, pitch, roll, 0, scale, scale, scale, 0, 0, 0]),
            center,
        )
