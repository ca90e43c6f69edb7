"""Alignment of the deep grey matter by susceptibility, as it has little T1-weighted contrast."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.nuclei import Refined, finding, segment, still
from bids_qsm.anatomy.nucleus_shifts import Body, fit, split
from bids_qsm.anatomy.polyaffine import flow
from bids_qsm.anatomy.register import DEEP_GREY, fade, grid_of_box
from bids_qsm.anatomy.transform import Displacement, resample, transform_points
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.registry import Need, method

_LIMIT = 5.0
"""Longest shift of a nucleus (mm): a longer one is a mismatch."""
_LEAST_GAIN = 0.3
"""Contrast, over that of the template, below which a nucleus is not visible."""
_ACCURACY = 0.5
"""Shift (mm) below which the images agree: the error of T1w registration."""
_LEAST_RISE = 0.02
"""Smallest significant rise of the correlation: two standard errors of a thousand samples."""
_ALONE = 'Positions are those by the anatomical image.'


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
    """Move each nucleus from its position by the anatomical image to that in the susceptibility map.

    The position by the anatomical image is the prior, with standard deviation ``misplaced_mm``; the weight of
    susceptibility depends on the contrast of the nucleus (:func:`bids_qsm.anatomy.nucleus_shifts.fit`).
    Contrast and zero of susceptibility are fitted too, so that iron overload or another reference do not
    mislead. Tissue between the nuclei moves with the nearest, smoothly and invertibly
    (:func:`bids_qsm.anatomy.polyaffine.flow`). Nothing moves outside the box, where both images agree within
    the accuracy of the registration, or if moving does not improve the match with the template.

    Parameters
    ----------
    chi : ndarray, 3D
        Susceptibility (ppm), of any zero, field of view and orientation.
    mask : ndarray of bool
        Where it is valid.
    image, template : ndarray, 3D
        Anatomical image and the template that it was aligned to.
    template_chi : ndarray, 3D
        Susceptibility of the template (ppm): a cohort mean, or :func:`bids_qsm.anatomy.contrast.prior_chi`.
    chi_affine, image_affine, template_affine, template_chi_affine, dseg_affine : ndarray (4, 4)
        Voxel to world (mm).
    chi_chain, image_chain : list of ndarray (4, 4) or Displacement
        From template points to points of ``chi`` and ``image``.
    dseg : ndarray of int
        Atlas in the template's space.
    labels : DataFrame
        Its table, with columns index, hemisphere, region.
    misplaced_mm : float
        Standard deviation of the positions of nuclei along each axis.
    gain_sd : float
        Standard deviation of their contrasts over those of the template.
    box : tuple
        Lower and upper corner (mm, template space).

    Raises
    ------
    UserError
        Where a standard deviation is not above 0.

    Returns
    -------
    Refined
        Its displacements are on a grid of 1 mm over the box, and zero at its faces.
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
        why = 'No nucleus of sufficient contrast lies in the field of view.'
        return Refined(*still(box), [finding(why, _ALONE, level='warning')])
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
        why = f'The nuclei lie within {_ACCURACY} mm of their positions by the anatomical image.'
        return Refined(*still(box), [finding(why, _ALONE), *missed])
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
        f'Correlation with the template around the moved nuclei: susceptibility {before:.2f} before, '
        f'{after:.2f} after; anatomical image {anatomy[0]:.2f} before, {anatomy[1]:.2f} after.'
    )
    if after - before < _LEAST_RISE:
        why = 'Moving the nuclei did not improve the match with the template.'
        return Refined(*still(box), [finding(why, _ALONE, evidence), *missed])
    action = 'Nuclei were moved to their positions in the susceptibility map.'
    return Refined(refine, unrefine, [finding(_moves(moved), action, evidence), *missed])


REFINEMENT = {'segment': segment, 'hybrid': hybrid}


def _trust(body: Body, misplaced: float):
    """Relative weight of the shift of a body: squared contrast, times its gain of precision over the prior.

    A body whose shift is that of the prior still has a small weight.
    """
    contrast = body.gain * body.contrast.sum() / body.share.sum()
    return max(0.01, 1 - np.mean(body.error**2) / misplaced**2) * max(abs(contrast), 0.01) ** 2


def _blur(affine: Array, chain: list[Array | Displacement], centre: Array):
    """Standard deviation (mm, along the axes of the template) of the blur of a map beyond the template's.

    The variance of averaging over a voxel is 1/12 of its squared side, that of linear interpolation 1/6: 1/4
    together. That of the template's own voxels of 1 mm, 1/12, is subtracted.
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
        # an image that does not reach the body does not count
        if min(np.ptp(p) for p in pair) > 0:
            found.append(np.corrcoef(*pair)[0, 1])
    return float(np.mean(found)) if found else 0.0


def _moves(bodies: list[Body]):
    lengths = sorted(((np.linalg.norm(b.shift), f'{b.name} {b.hemisphere}') for b in bodies), reverse=True)
    listed = ', '.join(f'{name} {length:.1f} mm' for length, name in lengths)
    return f'Positions in the susceptibility map differ from those by the anatomical image: {listed}.'


def _missed(names: list[str]):
    found = f'Not visible in the susceptibility map: {", ".join(names)}.'
    return [finding(found, _ALONE, level='warning')] if names else []
