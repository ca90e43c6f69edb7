"""Brain extraction: a template's brain laid onto the head, bent to it, and corrected by tissue and phase."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, coarsen, refine
from bids_qsm.anatomy.bias import foreground
from bids_qsm.anatomy.brainfit import fit_brain
from bids_qsm.anatomy.elastic import deform
from bids_qsm.anatomy.head import close_gaps, depth_in_head, tissue
from bids_qsm.anatomy.transform import apply_affine, invert, resample
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.masking.morphology import largest
from bids_qsm.recon.masking.quality import valley

SPACING = 2.0
"""Of the grid (mm) on which the brain is sought."""
NEAR_MM = 5.0
"""What lies farther from the fitted brain is scalp, face or neck, and no part of any candidate."""
NECK_MM = 3.0
"""Half the width of bridges through the skull that are cut."""
SHADE_MM = 15.0
"""Smoothness of the brightness of the brain, to which its rim is compared."""
BRIGHTEST = 1.5
BRIGHT = 0.6
"""Brightness, relative to the brain nearby, from which a voxel is no skull."""
SAME_SIZE = 0.15
"""Change of the logarithm of volume up to which the similarity of contrast may correct the fit."""
PLAUSIBLE_ML = (800.0, 2000.0)
"""Volume of a whole brain with the fluid around it."""
AGREED = 0.85
"""Overlap (Dice) of a candidate with the brain mask below which they disagree."""
NO_HEAD = (
    'No template can be laid on the image, as it shows no head: give a mask of the whole brain by '
    '--mask FILE, or leave regions out by --no-registration.'
)
CUT = 0.3
"""Area of an end of a mask over that of its largest plane, from which it is cut; whole brains have .12."""


@dataclass(frozen=True)
class Brain:
    """A brain mask and how it came about.

    ``matrix`` maps template to image points, ``share`` is the part of the template's brain within the
    field of view, and ``candidates`` the overlap (Dice) of each with the mask.
    """

    mask: Array
    matrix: Array
    millilitres: float
    share: float
    candidates: dict[str, float]

    @property
    def doubts(self) -> list[str]:
        """Sentences on what is odd with it."""
        low, high = (self.share * ml for ml in PLAUSIBLE_ML)
        found = []
        if not low <= self.millilitres <= high:
            found.append(
                f'The brain mask has {self.millilitres:.0f} ml; {low:.0f} to {high:.0f} ml are plausible '
                f'for the {100 * self.share:.0f} % of a brain that the field of view holds.'
            )
        apart = [f'{name} ({dice:.2f})' for name, dice in self.candidates.items() if dice < AGREED]
        if apart:
            found.append(f'Ways to find the brain disagree with the mask (overlap): {", ".join(apart)}.')
        return found


def odd_volume(millilitres: float, is_part: bool) -> list[str]:
    """What is odd with the volume of a mask of a brain, or of ``is_part`` of one, that no template gave."""
    least, most = PLAUSIBLE_ML
    if millilitres > most:
        return [f'The brain mask has {millilitres:.0f} ml; no brain has more than {most:.0f} ml.']
    if millilitres < least and not is_part:
        return [
            f'The brain mask has {millilitres:.0f} ml, little for the whole brain of an adult '
            f'({least:.0f} ml or more), but is taken for one: if it covers a part of it, regions are wrong.'
        ]
    return []


def cut_ends(mask: Array, affine: Array) -> list[tuple[int, int]]:
    """Ends at which a brain mask is cut straight, in the image or by its field of view.

    A whole brain tapers off along every axis, a part of one ends in a large plane.

    Parameters
    ----------
    mask : ndarray of bool, 3D
    affine : ndarray (4, 4)
        Voxel to world (mm).

    Returns
    -------
    list of (axis, end)
        With end 0 for the first and 1 for the last voxel along the axis; empty for a whole brain.
    """
    inside = coarsen(mask, affine, SPACING)[0] > 0.5
    found = []
    for axis in range(3):
        areas = inside.sum(tuple(other for other in range(3) if other != axis))
        # a few voxels beyond a cut would hide it
        held = areas[areas > 0.02 * areas.max()]
        if held.size:
            found += [(axis, end) for end in (0, 1) if held[-end] > CUT * held.max()]
    return found


def extract_brain(
    image: Array,
    affine: Array,
    template: Array,
    template_affine: Array,
    template_mask: Array,
    *,
    quality: Array | None = None,
    same_contrast: bool = True,
):
    """Brain mask of a whole head, or of a part of one, from that of a template.

    The brain of the template is laid onto the image where that is bright and has dark bone around it
    (`fit_brain`); then the normalised mutual information of both, without what lies far from the brain,
    corrects the fit and bends it. Where image and template have the ``same_contrast`` that is the mask.
    Otherwise these vote on each voxel: the template, bent; tissue as bright as the brain nearby, with bridges
    to the scalp cut; and, where it is given, tissue whose phase is good. The template decides a tie, and what
    is added to it is one voxel thick at most: muscle below the skull is bright and has a good phase too.

    Parameters
    ----------
    image, template : ndarray, 3D
        Head without bias (T1w or gradient-echo magnitude), and template with or without skull.
    affine, template_affine : ndarray (4, 4)
        Voxel to world (mm).
    template_mask : ndarray of bool
        Brain of the template.
    quality : ndarray, 3D, optional
        Reliability of the phase (0 to 1), on the grid of the image.
    same_contrast : bool
        Whether both show tissues alike, as T1w images do.

    Returns
    -------
    Brain

    Raises
    ------
    UserError
        Where the image has no head.
    """
    fit = _fit(image, affine, template, template_affine, template_mask)
    bend = deform(fit.likeness, fit.matrix, template.shape, template_affine)
    back = [np.linalg.inv(fit.matrix), invert(bend, bend.field.shape[:3], bend.affine)]
    bent = _laid(fit.inside, fit.brain_grid, fit.fitted.shape, fit.grid, back)

    others = {}
    if not same_contrast:
        others['tissue'] = fit.tissue
        if quality is not None:
            good = coarsen(quality, affine, SPACING)[0]
            others['phase'] = _piece((good > valley(good[bent])) & fit.near & (fit.brightness > 0.5 * BRIGHT))
    if others:
        votes = np.sum([2 * one.astype(int) - 1 for one in (bent, *others.values())], axis=0)
        chosen = largest(
            ndimage.binary_fill_holes(((votes > 0) & _within(bent, SPACING)) | ((votes == 0) & bent))
        )
        mask = resample(chosen, fit.grid, image.shape, affine, []) > 0.5
    else:
        chosen = bent
        mask = resample(template_mask, template_affine, image.shape, affine, back) > 0.5
    volume = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    candidates = {'template': fit.fitted, **others} if others else {}
    return Brain(
        mask=mask,
        matrix=fit.matrix,
        millilitres=float(volume),
        share=_share(template_mask, template_affine, fit.matrix, image.shape, affine),
        candidates={name: _dice(one, chosen) for name, one in candidates.items()},
    )


def lay_brain(image: Array, affine: Array, template: Array, template_affine: Array, template_mask: Array):
    """Affine map (4, 4) of points of a template (mm) to those of a head, as `extract_brain` finds it.

    UserError where the image has no head.
    """
    return _fit(image, affine, template, template_affine, template_mask).matrix


@dataclass(frozen=True, eq=False)
class _Fit:
    """A template laid onto a head: images on the grid of the search, and of the brain of the template.

    ``fitted`` is that brain in the head, ``near`` what lies near it, ``likeness`` the similarity of both.
    """

    matrix: Array
    brightness: Array
    grid: Array
    inside: Array
    brain_grid: Array
    fitted: Array
    near: Array
    tissue: Array
    likeness: Similarity


def _fit(image: Array, affine: Array, template: Array, template_affine: Array, template_mask: Array):
    if not foreground(image).any():
        raise UserError(NO_HEAD)
    head, grid = coarsen(image, affine, SPACING)
    depth = depth_in_head(head, grid)
    brain, brain_grid = coarsen(template * template_mask, template_affine, SPACING)
    inside = coarsen(template_mask, template_affine, SPACING)[0] > 0.5
    deep = tissue(head) & (depth > 0.5 * depth.max())
    if not deep.any():
        raise UserError(NO_HEAD)
    brightness = head / np.median(head[deep])
    matrix = fit_brain(brightness, grid, depth, inside, brain_grid)
    fitted = _laid(inside, brain_grid, head.shape, grid, [np.linalg.inv(matrix)])
    near = _within(fitted, NEAR_MM)
    of_tissue = _of_tissue(brightness, fitted, near)
    # without the scalp; fat is brighter than anything in a brain, and would leave few grey levels to that
    shown = np.minimum(brightness, BRIGHTEST) * (near & _within(of_tissue | fitted, SPACING))
    # the rim, zero in the template, corresponds to fluid and skull in the head
    around = ndimage.binary_dilation(inside, iterations=2)
    levels = [
        Similarity(brain, brain_grid, around, shown, grid, n_points=n, sigma=s)
        for n, s in ((10000, 3.0), (80000, 1.0))
    ]
    center = apply_affine(brain_grid, [ndimage.center_of_mass(inside)])[0]
    closer = refine(levels[0], matrix, center, n_parameters=12, step=1.0, tolerance=0.05)[0]
    if abs(np.log(np.linalg.det(closer[:3, :3]) / np.linalg.det(matrix[:3, :3]))) < SAME_SIZE:
        matrix = closer
    return _Fit(matrix, brightness, grid, inside, brain_grid, fitted, near, of_tissue, levels[1])


def _laid(inside: Array, inside_affine: Array, shape: tuple[int, ...], affine: Array, chain: list):
    return resample(inside, inside_affine, shape, affine, chain) > 0.5


def _within(mask: Array, reach: float):
    """Voxels within ``reach`` (mm) of a mask on the grid of the search."""
    return ndimage.distance_transform_edt(~mask) * SPACING <= reach


def _piece(mask: Array):
    """The largest piece of a mask, less bridges narrower than twice `NECK_MM`; it may leave the image."""
    padded = np.pad(mask, 1, mode='edge')
    core = (ndimage.distance_transform_edt(padded) * SPACING > NECK_MM)[1:-1, 1:-1, 1:-1]
    return _within(largest(core), NECK_MM) & mask if core.any() else mask


def _of_tissue(brightness: Array, brain: Array, near: Array):
    """Tissue near the brain that is as bright as the brain nearby."""
    known = brain & (brightness > BRIGHT)
    sigma = SHADE_MM / SPACING
    share = ndimage.gaussian_filter(known.astype(np.float32), sigma)
    mean = ndimage.gaussian_filter((brightness * known).astype(np.float32), sigma) / np.maximum(share, 1e-3)
    bright = ndimage.gaussian_filter(brightness, 0.4) > BRIGHT * np.maximum(mean, 1e-3)
    piece = _piece(bright & near & (share > 1e-3))
    # sulci and vessels
    return ndimage.binary_fill_holes(piece | (close_gaps(piece, NEAR_MM, SPACING) & near))


def _share(mask: Array, mask_affine: Array, matrix: Array, shape: tuple[int, ...], affine: Array):
    """Part of the voxels of a template's mask that lies in the field of view of an image."""
    points = apply_affine(matrix, apply_affine(mask_affine, np.argwhere(mask)[::27]))
    at = apply_affine(np.linalg.inv(affine), points)
    return float(((at > -0.5) & (at < np.array(shape) - 0.5)).all(1).mean())


def _dice(first: Array, second: Array):
    return 2 * float((first & second).sum()) / max(float(first.sum() + second.sum()), 1.0)
