"""Alignment of the deep grey matter by susceptibility, where T1-weighted contrast shows little of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.nucleus_shifts import Body, fit, split
from bids_qsm.anatomy.polyaffine import flow
from bids_qsm.anatomy.register import DEEP_GREY, fade, grid_of_box
from bids_qsm.anatomy.transform import Displacement, resample, transform_points
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.registry import Need, method

_LIMIT = 5.0
"""Longest shift of a body (mm): beyond this it was taken for something else."""
_LEAST_GAIN = 0.3
"""Contrast, over that of the template, below which a body is not seen."""
_ACCURACY = 0.5
"""Shift (mm) within which the two images agree: the error of the registration by T1w alone."""
_LEAST_RISE = 0.02
"""Rise of the correlation with the template that is not chance: two standard errors of a thousand samples."""
_ALONE = 'Aligned by the anatomical image alone.'


@method(
    memory=Need(0.95, volume=4, anat=4),
    prose='The alignment of the deep grey matter was refined: starting from where the anatomical image has '
    'each nucleus, its shift was fitted to susceptibility against a susceptibility template ({template}), '
    'and the shifts were joined to an invertible map [@polyaffine].',
)
def hybrid(
    chi: Array,
    chi_affine: Array,
    mask: Array,
    chi_chain: list[Array | Displacement],
    image: Array,
    image_affine: Array,
    image_chain: list[Array | Displacement],
    template: Array,
    template_affine: Array,
    template_chi: Array,
    template_chi_affine: Array,
    dseg: Array,
    dseg_affine: Array,
    labels: pd.DataFrame,
    *,
    misplaced_mm: float = 1.5,
    gain_sd: float = 1.0,
    box: tuple = DEEP_GREY,
):
    """Move each body of grey matter from where the anatomical image has it to where susceptibility shows it.

    The place that the anatomical image gives is what is thought before, with a standard deviation of
    ``misplaced_mm``; susceptibility decides by as much as it shows (see
    :func:`bids_qsm.anatomy.nucleus_shifts.fit`).
    Contrast and zero of susceptibility are found on the way, so that neither iron overload nor another
    reference misleads. What lies between the bodies goes with the nearest, smoothly and invertibly
    (:func:`bids_qsm.anatomy.polyaffine.flow`). Nothing moves outside the box. All stays where both images
    agree within the accuracy of the registration, and where moving makes susceptibility no more like the
    template.

    Parameters
    ----------
    chi : ndarray, 3D
        Susceptibility (ppm), of any zero, field of view and slant.
    mask : ndarray of bool
        Where it holds.
    image, template : ndarray, 3D
        Anatomical image and the template that it was aligned to.
    template_chi : ndarray, 3D
        Susceptibility of the template (ppm), a cohort's mean or :func:`bids_qsm.anatomy.contrast.prior_chi`.
    chi_affine, image_affine, template_affine, template_chi_affine, dseg_affine : ndarray (4, 4)
        Voxel to world (mm).
    chi_chain, image_chain : list of ndarray (4, 4) or Displacement
        Of template points to points of ``chi`` and ``image``.
    dseg : ndarray of int
        Atlas in the template's space.
    labels : DataFrame
        Its table, with columns index, hemisphere, region.
    misplaced_mm : float
        Standard deviation of the bodies' places along each axis.
    gain_sd : float
        Standard deviation of their contrasts over the template's.
    box : tuple
        Lower and upper corner (mm, template space).

    Raises
    ------
    UserError
        Where a standard deviation is not above 0.

    Returns
    -------
    refine, unrefine : Displacement
        The first takes template points to where the chains should have them, the second is its inverse; on a
        grid of 1 mm over the box, and zero at its faces.
    findings : list of dict
        What was found: what, found, action, evidence, level.
    """
    for name, value in (('misplaced_mm', misplaced_mm), ('gain_sd', gain_sd)):
        if not value > 0:
            raise UserError(
                f'--refinement hybrid:{name}={value:g} is no standard deviation: it must be above 0.'
            )
    shape, grid = grid_of_box(box, 1.0)
    measured = resample(np.where(mask, chi, 0), chi_affine, shape, grid, chi_chain)
    seen = resample(mask, chi_affine, shape, grid, chi_chain) > 0.99
    expected = resample(template_chi, template_chi_affine, shape, grid, [])
    bodies, background = split(expected, dseg, dseg_affine, labels, shape, grid)
    covered = [(b.share * seen).sum() > 0.5 * b.share.sum() for b in bodies]
    if not any(covered):
        why = 'None of it that has a contrast lies in the field of view.'
        return *_still(shape, grid), [_finding(why, _ALONE, level='warning')]
    fitted = fit(
        measured,
        seen,
        bodies,
        background,
        psf=_blur(chi_affine, chi_chain, np.mean(box, 0)),
        misplaced=misplaced_mm,
        gain_sd=gain_sd,
        limit=_LIMIT,
    )
    unseen = [b for b in fitted if b.gain < _LEAST_GAIN or np.linalg.norm(b.shift) > 0.98 * _LIMIT]
    held = [
        replace(b, shift=np.zeros(3), error=np.full(3, misplaced_mm)) if b in unseen else b for b in fitted
    ]
    trust = [_trust(b, misplaced_mm) for b in held]
    missed = _missed([f'{b.name} {b.hemisphere}' for b in unseen])
    far = [np.linalg.norm(b.shift) >= _ACCURACY for b in held]
    moved = [b for b, *both in zip(held, covered, far, strict=True) if all(both)]
    if not moved:
        why = f'Susceptibility shows it within {_ACCURACY} mm of where the anatomical image does.'
        return *_still(shape, grid), [_finding(why, _ALONE), *missed]
    refine, unrefine = flow(held, trust, grid, fade(shape, 8.0))

    pairs = (
        (chi * mask, chi_affine, chi_chain, expected),
        (image, image_affine, image_chain, resample(template, template_affine, shape, grid, [])),
    )
    (before, after), anatomy = (
        [
            _likeness(resample(data, affine, shape, grid, [*first, *chain]), target, moved, seen)
            for first in ([], [refine])
        ]
        for data, affine, chain, target in pairs
    )
    evidence = (
        f'Correlation with the template around these: susceptibility {before:.2f} before, {after:.2f} after; '
        f'anatomical image {anatomy[0]:.2f} and {anatomy[1]:.2f}.'
    )
    if after - before < _LEAST_RISE:
        why = 'Elsewhere than the anatomical image has it, susceptibility is no more like the template.'
        return *_still(shape, grid), [_finding(why, _ALONE, evidence), *missed]
    return refine, unrefine, [_finding(_moves(moved), 'Aligned by both.', evidence), *missed]


REFINEMENT = {'hybrid': hybrid}


def _trust(body: Body, misplaced: float):
    """How firmly a body keeps its shift and shape where it meets others: by what susceptibility shows of it.

    That is its contrast squared, less what was known before; a body whose shift is a guess still counts a
    little.
    """
    contrast = body.gain * body.contrast.sum() / body.share.sum()
    return max(0.01, 1 - np.mean(body.error**2) / misplaced**2) * max(abs(contrast), 0.01) ** 2


def _blur(affine: Array, chain: list[Array | Displacement], centre: Array):
    """Standard deviation (mm, along the axes of the template) of the blur of a map over the template's.

    A voxel averages over its sides (variance 1/12 of their square) and linear interpolation over twice that
    (1/6): a quarter in all. The template's own voxels of 1 mm average too.
    """
    points = np.concatenate([centre + 4 * np.eye(3), centre - 4 * np.eye(3)])
    moved = transform_points(points, [*chain, np.linalg.inv(affine)])
    voxel = np.linalg.inv((moved[:3] - moved[3:]).T / 8)
    return np.sqrt(np.maximum(0.25 * (voxel**2).sum(1) - 1 / 12, 0))


def _likeness(data: Array, target: Array, bodies: list[Body], seen: Array):
    """Mean over bodies of the correlation of two images in and around each."""
    found = []
    for body in bodies:
        box = tuple(slice(max(b.start - 4, 0), b.stop + 4) for b in body.box)
        near = ndimage.binary_dilation(body.share[box] > 0.5, iterations=4) & seen[box]
        pair = data[box][near], target[box][near]
        # an image that ends before the body says nothing of it
        if min(np.ptp(p) for p in pair) > 0:
            found.append(np.corrcoef(*pair)[0, 1])
    return float(np.mean(found)) if found else 0.0


def _still(shape: tuple[int, ...], grid: Array):
    """Displacements that move nothing, there and back."""
    still = Displacement(np.zeros((*shape, 3), np.float32), grid)
    return still, still


def _finding(found: str, action: str, evidence: str = '', level: str = 'info'):
    return {
        'what': 'Deep grey matter',
        'found': found,
        'action': action,
        'evidence': evidence,
        'level': level,
    }


def _moves(bodies: list[Body]):
    lengths = sorted(((np.linalg.norm(b.shift), f'{b.name} {b.hemisphere}') for b in bodies), reverse=True)
    listed = ', '.join(f'{name} {length:.1f} mm' for length, name in lengths)
    return f'Susceptibility shows it elsewhere than the anatomical image: {listed}.'


def _missed(names: list[str]):
    found = f'{", ".join(names)}: not to be made out in susceptibility.'
    return [_finding(found, _ALONE, level='warning')] if names else []
