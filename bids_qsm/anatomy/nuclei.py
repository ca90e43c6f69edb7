"""Segmentation of the deep grey nuclei of a person in susceptibility and R2*."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import ndimage, special

from bids_qsm.anatomy.nucleus_findings import LEAST_CONTRAST, LOW, distance_apart, finding, tell
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.anatomy.nucleus_outlines import Outline, Scene, deform, divide, fit_poses, make_scene
from bids_qsm.anatomy.nucleus_search import (
    coupling,
    find_common,
    is_small,
    locate_large,
    locate_small,
    shifts_alone,
    template_view,
)
from bids_qsm.anatomy.nucleus_shapes import Nucleus, nuclei_of
from bids_qsm.anatomy.polyaffine import Body, flow
from bids_qsm.anatomy.register import DEEP_GREY, fade, grid_of_box
from bids_qsm.anatomy.transform import (
    Displacement,
    apply_affine,
    resample_labels,
    spacing_of,
    transform_points,
)
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.registry import Need, method

_MISFIT = {'chi': 0.01, 'r2star': 1.0, 'signal': 0.05}
"""Least standard deviation (ppm; 1/s for each T; relative) of what the model leaves of a map."""
_BLUR = 0.35
"""Standard deviation of the point spread of a map over the side of its voxels, beyond averaging over them."""
_LARGEST_VOXEL = 40.0
"""Volume (mm^3) of voxels beyond which the atlas is as good."""
_VOLUMES = (0.4, 2.5)
"""Plausible volume over that of the atlas."""
_HIDDEN = ('SN', 'RN', 'STN', 'Dentate')
"""Nuclei that T1w hardly shows."""
SHOWN = ('Putamen', 'Caudate', 'Striatum', 'GP', 'Thalamus')
"""Nuclei that segmentations of T1w have."""
_ALONE_MM = 10.0
"""Longest plausible shift (mm) apart from that of the neighbours."""


@dataclass(frozen=True, eq=False)
class Refined:
    """Where the nuclei of a person lie.

    ``refine`` maps template points to corrected ones, ``unrefine`` is its inverse; ``findings`` are entries
    of the report. ``dseg`` has the labels on the grid of the maps, and ``labels`` is their table with source,
    confidence, moved_mm and volume_ratio. Where nuclei were segmented, ``shares`` (x, y, z, label; uint8, in
    255ths) has the share of each voxel that lies in each label.
    """

    refine: Displacement
    unrefine: Displacement
    findings: list[dict]
    dseg: np.ndarray
    labels: pd.DataFrame
    shares: np.ndarray | None = field(default=None, repr=False)


def _still(box: tuple) -> tuple[Displacement, Displacement]:
    """Zero displacements, forward and backward, over a box (mm)."""
    shape, grid = grid_of_box(box, 1.0)
    none = Displacement(np.zeros((*shape, 3), np.float32), grid)
    return none, none


@method(
    memory=Need(0.6, volume=24),
    prose="The nuclei were segmented in the subject's own maps: starting from the atlas, the shift of each "
    'was searched, its pose and size were fitted, and its surface was moved to where susceptibility and R2* '
    'change, with a model of the partial volume of each voxel.',
)
def segment(
    chi: Array,
    chi_affine: Array,
    mask: Array,
    chi_chain: list[Array | Displacement],
    to_template: list[Array | Displacement],
    dseg: Array,
    dseg_affine: Array,
    labels: pd.DataFrame,
    magnitude: Array | None = None,
    r2star: Array | None = None,
    field_strength: float | None = None,
    given: Array | None = None,
    given_labels: pd.DataFrame | None = None,
    *,
    box: tuple = DEEP_GREY,
):
    r"""Segment the deep grey nuclei of a person, from an atlas that registration has brought near.

    First shifts are searched: of all together, then of each (:mod:`bids_qsm.anatomy.nucleus_search`), and
    pose and size are fitted, twelve parameters a nucleus
    (:func:`bids_qsm.anatomy.nucleus_outlines.fit_poses`). Large nuclei come first: those of the midbrain are
    searched in what they leave. Last the surfaces move along their normals
    (:func:`bids_qsm.anatomy.nucleus_outlines.deform`). Nuclei that T1w hardly shows start with the shape of
    the atlas after the affine part of the registration, and fluid, told by R2* or a single magnitude, has the
    values of white matter, as its susceptibility is that of caudate and thalamus. The fits compare the maps
    with

    .. math:: I(x) = m_0(x) + \sum_k s_k(x) \, (m_k(x) - m_0(x))

    where s is the share of a voxel that lies in a nucleus, and both levels, inside and around, are the
    person's own: iron overload, age and the zero of the map do not matter. In a voxel that a nucleus shares
    with its surroundings, phases add by signal, and the shares in susceptibility are weighted accordingly.
    Parts of a nucleus (GPe and GPi, SNc and SNr) divide it about as in the atlas, the border moved to where
    susceptibility changes.

    A nucleus keeps the outline of the atlas, moved with its neighbours, where its contrast is below
    0.012 ppm, its volume is below 0.4 or above 2.5 of that of the atlas, or it would move by more than 10 mm
    by itself.

    Parameters
    ----------
    chi : ndarray, 3D
        Susceptibility (ppm), of any zero, field of view and orientation.
    chi_affine, dseg_affine : ndarray (4, 4)
        Voxel to world (mm).
    mask : ndarray of bool
        Where it is valid.
    chi_chain, to_template : list of ndarray (4, 4) or Displacement
        From template points to points of ``chi``, and back.
    dseg : ndarray of int
        Atlas in the template's space.
    labels : DataFrame
        Its table, with columns index, hemisphere, region.
    magnitude : ndarray, optional
        Signal of the series, on the grid of ``chi``.
    r2star : ndarray, optional
        R2* (1/s) on that grid; without it the magnitude decides borders to CSF.
    field_strength : float, optional
        Tesla; 3 where it is unknown.
    given : ndarray of int, optional
        A segmentation of the person's T1w on the grid of ``chi``, as of FreeSurfer: where it has them,
        putamen, caudate, pallidum and thalamus are searched around its places.
    given_labels : DataFrame, optional
        Its table, with columns index, hemisphere, region.
    box : tuple
        Lower and upper corner (mm, template space) of the displacement.

    Returns
    -------
    Refined
    """
    placed = resample_labels(dseg, dseg_affine, chi.shape, chi_affine, to_template).astype(np.int32)
    nuclei = nuclei_of(dseg, dseg_affine, labels)
    covered = {id(n): _coverage(n, mask, chi_affine, chi_chain) for n in nuclei}
    nuclei = [n for n in nuclei if covered[id(n)] > 0.5]
    known = [n for n in nuclei if n.is_known]
    size = np.prod(spacing_of(chi_affine))
    if not known or size > _LARGEST_VOXEL:
        why = 'No nucleus of the atlas lies in the field of view.'
        action = 'Nuclei have the outlines of the atlas.'
        if known:
            why = f'Voxels of {size:.0f} mm^3 are too large for the nuclei, {_LARGEST_VOXEL:g} mm^3 at most.'
            action = (
                'Nuclei have the outlines of the atlas: do not compare them with those of smaller voxels, or '
                'give a segmentation of the person by --derivatives.'
            )
        table = _with_quality(labels, {})
        return Refined(*_still(box), [finding(why, action, level='warning')], placed * mask, table)
    scale = _unwarp(nuclei, mask, chi_affine, chi_chain, to_template)
    channels, noise = _channels(chi, chi_affine, mask, magnitude, r2star, field_strength or 3.0)
    covariance = coupling(known, common_mm=3.0, near_mm=1.5, own_mm=1.2)
    view = template_view(channels, chi_affine, mask, chi_chain, nuclei, noise)
    find_common(view, nuclei, covariance)
    if given is not None and given_labels is not None:
        complete = [n for n in known if covered[id(n)] > 0.97]
        _place(complete, given, chi_affine, given_labels, to_template, scale)
    locate_large(view, nuclei, covariance)
    signal = np.ones_like(chi) if magnitude is None else magnitude
    corner, scene = make_scene(channels, signal, chi_affine, mask, to_template, nuclei, noise)
    # the point spread of a map grows with its voxels
    side = float(np.prod(scene.size)) ** (1 / 3)
    large = [n for n in nuclei if not is_small(n)]
    rows = [row for row, n in enumerate(known) if not is_small(n)]
    fit_poses(scene, large, covariance[np.ix_(rows, rows)], blur_mm=2.0, rigid=True, iterations=8)
    fit_poses(scene, large, covariance[np.ix_(rows, rows)], blur_mm=0.8 * side, ground_mm=1.5 * side)
    locate_small(view, nuclei, covariance)
    fit_poses(scene, nuclei, covariance, blur_mm=0.8 * side, ground_mm=1.5 * side)
    outlines = deform(scene, nuclei, blur_mm=_BLUR * side, ground_mm=1.3 * side)
    expected = {id(n): covered[id(n)] * n.volume * scale for n in known}
    quality = _judge(scene, outlines, expected, covariance)
    kept = [n for n in known if quality[id(n)]['source'] == 'prior']
    if kept:
        _fall_back(kept, known, quality, covariance)
        again = [o for o in outlines if o.nucleus not in kept]
        outlines = [*deform(scene, kept, blur_mm=0.0, iterations=0), *again]
    own, shares = _labelled(scene, outlines, list(labels['index']))
    result = np.where(np.isin(placed, labels['index']), placed, 0)
    result[corner] = own
    whole = np.zeros((*chi.shape, len(labels)), np.uint8)
    whole[corner] = shares
    moved = _moved(known, quality, box)
    table = _with_quality(labels, {i: quality[id(n)] for n in nuclei for i in n.parts if id(n) in quality})
    report = tell(known, quality, distance_apart(known, quality, covariance))
    return Refined(*moved, report, result * mask, table, whole)


def _coverage(nucleus: Nucleus, mask: Array, affine: Array, there: list):
    """Share of a nucleus of the atlas that lies inside the mask and the field of view."""
    inside = apply_affine(np.linalg.inv(nucleus.to_lattice), np.argwhere(nucleus.levels < 0))
    voxels = apply_affine(np.linalg.inv(affine), transform_points(inside, there))
    return float(ndimage.map_coordinates(mask.astype(np.float32), voxels.T, order=0).mean())


def _unwarp(nuclei: list[Nucleus], mask: Array, affine: Array, there: list, back: list, step_mm: float = 4.0):
    """Give each nucleus the shape of the atlas after the affine map nearest to the registration.

    Where T1w hardly shows a nucleus, what registration does to its shape is chance. Returns the volume of
    the person over that of the template.
    """
    # of blocks of voxels: every n-th of a list may lie in one plane
    step = max(1, round((mask.sum() / 20_000) ** (1 / 3)))
    voxels = step * np.argwhere(mask[::step, ::step, ::step])
    points = apply_affine(affine, voxels)
    design = np.concatenate([points, np.ones((len(points), 1))], 1)
    whole = np.linalg.lstsq(design, transform_points(points, back), rcond=None)[0][:3].T
    for n in [n for n in nuclei if n.name in _HIDDEN]:
        steps = step_mm * np.concatenate([np.eye(3), -np.eye(3)])
        middle = transform_points(n.centre[None], there)
        ends = transform_points(middle + steps, back)
        local = (ends[:3] - ends[3:]).T / (2 * step_mm)
        n.rest = whole @ np.linalg.inv(local)
        n.matrix = n.rest.copy()
    return 1 / abs(float(np.linalg.det(whole)))


def _place(
    nuclei: list[Nucleus], given: Array, affine: Array, labels: pd.DataFrame, back: list, scale: float
):
    """Put whole nuclei that T1w shows where a segmentation of it has them."""
    bodies = labels['region'].map(body_of)
    for n in [n for n in nuclei if n.name in SHOWN]:
        rows = (bodies == n.name) & (labels['hemisphere'] == n.hemisphere)
        inside = np.isin(given, labels.loc[rows, 'index'])
        ratio = inside.sum() * np.prod(spacing_of(affine)) / (n.volume * scale)
        if _VOLUMES[0] <= ratio <= _VOLUMES[1]:
            middle = apply_affine(affine, np.argwhere(inside).mean(0)[None])
            n.placed = transform_points(middle, back)[0] - n.centre
            n.shift = -n.matrix @ n.placed


def _channels(
    chi: Array,
    affine: Array,
    mask: Array,
    magnitude: Array | None,
    r2star: Array | None,
    field_strength: float,
):
    """Maps that show the nuclei, and the least standard deviation of what the model leaves of each.

    Fluid has the values of white matter: by its own susceptibility it looks like caudate and thalamus.
    """
    channels, least = {'chi': np.where(mask, chi, 0)}, {'chi': _MISFIT['chi']}
    size = spacing_of(affine)
    if r2star is not None:
        # where it was not fitted, it tells nothing
        known = mask & np.isfinite(r2star) & (r2star > 0)
        channels['r2star'] = np.where(known, r2star, np.median(r2star[known]) if known.any() else 0)
        least['r2star'] = _MISFIT['r2star'] * field_strength
    elif magnitude is not None:
        tissue = _tissue_level(magnitude, mask, size)
        channels['signal'] = np.where(mask, magnitude / np.maximum(tissue, 1e-9), 1)
        least['signal'] = _MISFIT['signal']
    fluid = _fluid(channels, size, mask)
    noise = {}
    for name, image in channels.items():
        rough = np.abs(image - ndimage.gaussian_filter(image, 1.0))[mask]
        noise[name] = float(np.hypot(least[name], 1.4826 * np.median(rough)))
        level = np.percentile(image[mask & ~fluid], 25 if name == 'chi' else 50)
        channels[name] = np.where(fluid, level, image).astype(np.float32)
    return channels, noise


def _tissue_level(image: Array, mask: Array, size: Array, mm: float = 10.0):
    """Level of tissue around each voxel; what is much darker does not count."""
    weight = mask.astype(np.float32)
    for _ in range(3):
        total = ndimage.gaussian_filter(weight, mm / size, truncate=3)
        level = ndimage.gaussian_filter(weight * image, mm / size, truncate=3) / np.maximum(total, 1e-6)
        weight = (mask & (image > 0.8 * level)).astype(np.float32)
    return level


def _fluid(channels: dict, size: Array, mask: Array):
    """Where there is CSF: it relaxes slowly, or else is dark without the susceptibility of iron."""
    if 'r2star' in channels:
        smooth = ndimage.gaussian_filter(channels['r2star'], 0.5 / size)
        return mask & (smooth < 0.5 * np.median(channels['r2star'][mask]))
    if 'signal' not in channels:
        return np.zeros(mask.shape, bool)
    signal, chi = (ndimage.gaussian_filter(channels[name], 0.7 / size) for name in ('signal', 'chi'))
    # the rim of a nucleus rich in iron is dark too
    plain = mask & ~ndimage.binary_dilation(chi > np.median(chi[mask]) + 0.06)
    # pieces that are dark all through; nuclei without much iron may be rather dark, too
    pieces, count = ndimage.label(plain & (signal < 0.82))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    dark = np.bincount(pieces[plain & (signal < 0.74)], minlength=count + 1) > 0.35 * sizes
    dark[0] = False
    return dark[pieces]


def _judge(scene: Scene, outlines: list[Outline], expected: dict[int, float], covariance: Array):
    """Source, confidence, shift and volume of each known nucleus, by its id.

    ``expected`` has the volume (mm^3) of each in the atlas, scaled to the head, of what the mask holds.
    """
    known = [o for o in outlines if o.nucleus.is_known]
    shifts = np.array([_shift(scene, o) for o in known])
    alone = shifts_alone(shifts, covariance)
    chi, found = scene.channels['chi'], {}
    for o, shift, apart in zip(known, shifts, alone, strict=True):
        share, part = o.share, chi[o.box]
        seen = scene.seen[o.box]
        near = seen & (o.distance + o.moved < 3)
        # regression of the map on the share of the nucleus: its slope is the contrast
        contrast, confidence = 0.0, 0.0
        if near.sum() > 3 and np.ptp(share[near]) > 0.1:
            slope, start = np.polyfit(share[near], part[near], 1)
            left = part[near] - start - slope * share[near]
            contrast = float(slope)
            confidence = max(0.0, 1 - float(left.var() / part[near].var()))
        ratio = float(share[seen].sum() * np.prod(scene.size) / expected[id(o.nucleus)])
        reasons = []
        if contrast < LEAST_CONTRAST:
            reasons.append(LOW)
        if not _VOLUMES[0] <= ratio <= _VOLUMES[1]:
            reasons.append(f'its volume would be {ratio:.2f} of that of the atlas')
        if apart > _ALONE_MM:
            reasons.append(f'it would move by {apart:.1f} mm by itself')
        found[id(o.nucleus)] = {
            'shift': shift,
            'source': 'prior' if reasons else 'own',
            'confidence': 0.0 if reasons else round(confidence, 3),
            'contrast': contrast,
            'moved_mm': round(float(np.linalg.norm(shift)), 2),
            'volume_ratio': round(ratio, 3),
            'reason': ', '.join(reasons),
        }
    return found


def _shift(scene: Scene, outline: Outline):
    """Shift (mm, template space) of the centre of a nucleus from the atlas to the person."""
    points = scene.points.reshape(*scene.shape, 3)[outline.box]
    share = outline.share * scene.seen[outline.box]
    still = special.ndtr(-outline.nucleus.still.distance(np.ascontiguousarray(points.reshape(-1, 3))) / 0.5)
    found = np.average(points.reshape(-1, 3), axis=0, weights=share.ravel() + 1e-9)
    # the box may not hold all of the nucleus of the atlas
    whole = still.sum() * np.prod(scene.size) > 0.9 * outline.nucleus.volume
    start = np.average(points.reshape(-1, 3), axis=0, weights=still) if whole else outline.nucleus.centre
    return found - start


def _fall_back(kept: list[Nucleus], known: list[Nucleus], quality: dict[int, dict], covariance: Array):
    """Put nuclei of the atlas where T1w shows them, or else where those that were found let expect them."""
    rows = [i for i, n in enumerate(known) if n not in kept]
    shifts = np.array([quality[id(known[i])]['shift'] for i in rows]).reshape(-1, 3)
    for i, n in enumerate(known):
        if n not in kept:
            continue
        expected = np.zeros(3)
        if rows:
            expected = np.linalg.solve(covariance[np.ix_(rows, rows)], covariance[rows, i]) @ shifts
        expected = expected if n.placed is None else n.placed
        n.matrix, n.shift = n.rest.copy(), -n.rest @ expected
        found = {
            'shift': expected,
            'moved_mm': round(float(np.linalg.norm(expected)), 2),
            'volume_ratio': 1.0,
        }
        quality[id(n)].update(found)


def _labelled(scene: Scene, outlines: list[Outline], order: list[int]):
    """Labels of the voxels of the box, and shares (box, label; uint8 in 255ths) in the order of the table."""
    best = np.zeros(scene.shape, np.float32)
    total = np.zeros(scene.shape, np.float32)
    found = np.zeros(scene.shape, np.int32)
    shares = np.zeros((*scene.shape, len(order)), np.uint8)
    points = scene.points.reshape(*scene.shape, 3)
    column = {int(index): n for n, index in enumerate(order)}
    for o in outlines:
        total[o.box] += o.share
    for o in outlines:
        share = _one_piece(o.share)
        parts = list(o.nucleus.parts)
        part = np.zeros(share.shape, int)
        if len(parts) > 1:
            near = share > 0.01
            where = np.ascontiguousarray(points[o.box][near])
            part[near] = divide(scene, o, where, share)
        index = np.array(parts)[part]
        wins = share > best[o.box]
        found[o.box][wins] = index[wins]
        best[o.box][wins] = share[wins]
        amount = np.rint(255 * share / np.maximum(total[o.box], 1)).astype(np.uint8)
        for i in parts:
            shares[(*o.box, column[i])] = np.where(index == i, amount, 0)
    found[(best < 0.3) | (best < 1 - total)] = 0
    return found, shares


def _one_piece(share: Array):
    """Share of the largest piece of a nucleus."""
    pieces, count = ndimage.label(share > 0.5)
    if count < 2:
        return share
    largest = 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    near = ndimage.binary_dilation(pieces == largest, iterations=2)
    return np.where(near, share, 0)


def _moved(known: list[Nucleus], quality: dict[int, dict], box: tuple) -> tuple[Displacement, Displacement]:
    """Displacements of template points that take each nucleus from the atlas to the person, and back."""
    shape, grid = grid_of_box(box, 1.0)
    centres = np.array([n.centre for n in known])
    inner = np.all((centres > np.array(box[0]) + 8) & (centres < np.array(box[1]) - 8), axis=1)
    axes = [grid[d, 3] + np.arange(n) for d, n in enumerate(shape)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    bodies = []
    for n in [n for n, i in zip(known, inner.tolist(), strict=True) if i]:
        share = special.ndtr(-n.still.distance(points) / 0.5).reshape(shape).astype(np.float32)
        bodies.append(Body(share, quality[id(n)]['shift']))
    if not bodies:
        return _still(box)
    return flow(bodies, grid, fade(shape, 8.0))


def _with_quality(labels: pd.DataFrame, quality: dict[int, dict]):
    """The label table with how each label was found; labels that were not segmented are of the atlas."""
    plain = {'source': 'prior', 'confidence': np.nan, 'moved_mm': np.nan, 'volume_ratio': np.nan}
    rows = [{**plain, **quality.get(int(i), {})} for i in labels['index']]
    return labels.assign(**{name: [row[name] for row in rows] for name in plain})


REFINEMENT = {'segment': segment}
