"""What checks must know of the images of a series, measured in seconds."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.align import Similarity, coarsen, refine
from bids_qsm.anatomy.brainmask import cut_ends
from bids_qsm.anatomy.head import depth_in_head
from bids_qsm.anatomy.no_head import why_no_head
from bids_qsm.anatomy.transform import resample, rms_motion, spacing_of
from bids_qsm.biomarkers.consensus.kspace import sampled_shares
from bids_qsm.biomarkers.consensus.singularities import longest_singularity
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import largest
from bids_qsm.recon.misfit import find_misfit
from bids_qsm.recon.noise import DEAD, noise_level
from bids_qsm.recon.phase import signal_mask, wrap
from bids_qsm.recon.unwrap import voxel_quality

COARSE_MM = 4.0
POOR_QUALITY = 0.3
"""Quality of the phase below which it is poor."""
DEEP_MM = 20.0
"""Depth below the skin from which there is brain, away from its rim."""
UPPER_MM = 85.0
"""Height from the top of the head that has no sinuses and no neck, though some of the top may be cut off."""
SIGNAL = 0.5
"""Magnitude, relative to that of the brain and to that around, from which phase should not be singular."""
MARGIN_MM = 8.0
"""Rim of the object in which tails of its signal are no ghosts."""
KEPT, KEPT_MM = 0.9, 8.0
"""Share of signal that stays to the next echo, relative to that deep in the head, where motion is measured;
and how far (mm) signal is averaged for it.
"""
BODY = 0.25
"""Brightness of the object, relative to its brightest parts; ghosts are darker."""
EVEN = 0.05
"""Largest relative difference between spacings of echoes that are even."""

FINDINGS = {
    'Missing values': {'share': 'missing'},
    'Phase scaling': {
        'usual': 'usual_scale',
        'least_turn': 'least_turn',
        'largest_turn': 'largest_turn',
        'levels': 'levels',
    },
    'Slices': {'bend': 'slice_bend'},
    'Bipolar readout': {'span': 'bipolar_span', 'share': 'bipolar_share'},
    'High-pass filter': {'slow': 'slow_field', 'fast': 'fast_field'},
    'Phase sign': {'correlation': 'sign_correlation', 'sure': 'sign_sure'},
}
"""Numbers of the findings of `bids_qsm.recon.conditioning.condition`, and how checks call them."""


def found_numbers(findings: Sequence[Mapping]) -> dict[str, float]:
    """Numbers that the conditioning of the phase found, by the names that checks know."""
    found: dict[str, float] = {}
    for one in findings:
        names, numbers = FINDINGS.get(one['what'], {}), one.get('numbers', {})
        found |= {names[key]: float(value) for key, value in numbers.items() if key in names}
        if one['what'] == 'High-pass filter':
            found['filtered'] = float(one['level'] == 'warning')
        if one['what'] == 'Slices':
            found['slices_mended'] = float('removed' in one['action'])
    return found


def measure_images(
    magnitude: Array,
    phase: Array,
    echo_times: Sequence[float],
    grid: Grid,
    affine: Array,
    mask: Array | None = None,
) -> dict[str, float]:
    """Numbers of images whose phase is conditioned; what cannot be measured is left out.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) after `bids_qsm.recon.conditioning.condition`.
    echo_times : sequence of float
        Rising (s).
    grid : Grid
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    mask : ndarray of bool, optional
        Where susceptibility is given; without it the coverage of the brain is not judged. All else is
        measured deep in the upper head, so that it is the same before and after a run.
    """
    first, last = magnitude[..., 0], magnitude.shape[3] - 1
    coarse, coarse_affine = coarsen(first, affine, COARSE_MM)
    depth = depth_in_head(coarse, coarse_affine)
    is_head = why_no_head(coarse, coarse_affine) is None
    numbers: dict[str, float] = {}
    if is_head:
        numbers |= _coverage(depth, coarse_affine)
    if mask is not None:
        # the lower end of a mask may leave the field of view in the neck alone, where it is narrow
        numbers['brain_cuts'] = float(len(cut_ends(mask, affine)))
    inside = _inside(first, depth * is_head, coarse_affine, affine)
    if not inside.any():
        return numbers
    sigma = noise_level(magnitude, inside)
    if sigma > 0:
        numbers['snr_first'] = float(np.median(first[inside])) / sigma
        numbers['snr_last'] = float(np.median(magnitude[..., last][inside])) / sigma
        of_first = phase[..., 0], first, inside, sigma, grid.voxel_size
        numbers['singularity_mm'] = longest_singularity(*of_first, least=SIGNAL)
        if not is_head:  # sinuses of a head have such lines
            numbers['fringe_mm'] = longest_singularity(*of_first, least=0.0)
    quality = voxel_quality(phase, magnitude, echo_times)
    numbers['poor_phase'] = float((quality[inside] < POOR_QUALITY).mean())
    shares = sampled_shares((first * np.exp(1j * phase[..., 0])).astype(np.complex64))
    both = [max(pair) for pair in shares if np.isfinite(pair).all()]
    if both:
        numbers['sampled'] = min(both)
        numbers['one_sided'] = min(min(pair) / max(pair) for pair in shares if np.isfinite(pair).all())
    misfit = echo_misfit(phase, magnitude, echo_times, inside)
    if misfit is not None:
        numbers['misfit'] = misfit
    ghost = ghost_ratio(first, grid.voxel_size)
    if ghost is not None:
        numbers['ghost'] = ghost
    if is_head:  # a crop may be too small, and a phantom looks the same after a turn
        # where later echoes keep their signal
        head = (depth > 0) & _upper(depth, coarse_affine)
        alive = [k for k in range(1, last + 1) if np.median(magnitude[..., k][inside]) > DEAD * sigma]
        echoes = [coarse, *(coarsen(magnitude[..., k], affine, COARSE_MM)[0] for k in alive)]
        core = head & (depth > DEEP_MM)
        pairs = pairwise(echoes) if core.any() else ()
        moved = [_moved(_kept(head, core, *pair), coarse_affine, *pair) for pair in pairs]
        if moved:
            numbers['moved_mm'] = max(moved)
    return numbers


def _inside(first: Array, depth: Array, coarse_affine: Array, affine: Array):
    """What lies deep in the upper head: brain above the sinuses. Of other objects, all."""
    core = (depth > DEEP_MM) & _upper(depth, coarse_affine)
    deep = resample(core.astype(np.float32), coarse_affine, first.shape, affine, []) > 0.5
    if deep.any():
        return deep
    solid = ndimage.binary_fill_holes(largest(signal_mask(first)))
    # away from the air, but not from the ends of the image
    return ndimage.binary_erosion(solid, iterations=2, border_value=1)


def _upper(depth: Array, affine: Array):
    """The part of the image that holds the upper head, without sinuses and neck."""
    heights = np.tensordot(affine[2, :3], np.indices(depth.shape), 1)
    return heights > heights[depth > 0].max(initial=-np.inf) - UPPER_MM


def _coverage(depth: Array, affine: Array) -> dict[str, float]:
    """Height (mm) from the top of the head to the lower end of the image, and width of the widest cut (mm).

    A cut is where the head reaches an end of the image other than the lower one; its width is that of the
    largest circle in it.
    """
    head = depth > 0
    if not head.any():
        return {}
    size = float(spacing_of(affine)[0])
    vertical = int(np.argmax(np.abs(affine[2, :3])))
    upwards = affine[2, vertical] > 0
    flat = np.flatnonzero(head.any(tuple(a for a in range(3) if a != vertical)))
    height = (flat[-1] + 1 if upwards else head.shape[vertical] - flat[0]) * size
    widest = 0.0
    for axis in range(3):
        for end in (0, -1):
            if axis == vertical and (end == 0) == upwards:
                continue
            plane = np.pad(np.take(head, end, axis), 1)
            widest = max(widest, 2 * float(ndimage.distance_transform_edt(plane).max()) * size)
    return {'height_mm': height, 'cut_mm': widest}


def echo_misfit(phase: Array, magnitude: Array, echo_times: Sequence[float], mask: Array) -> float | None:
    """Share of the mask whose phase is not linear in the echo time; None without three even echoes.

    The evolution from echo to echo is the same in all of them then, so that no unwrapping is needed. What
    is left is judged by `find_misfit`.
    """
    spacing = np.diff(echo_times)
    if len(spacing) < 2 or spacing.max() - spacing.min() > EVEN * spacing.mean():
        return None
    n = len(echo_times)
    steps = [wrap(phase[..., k + 1] - phase[..., k]) for k in range(n - 1)]
    mean = np.angle(
        sum(magnitude[..., k] * magnitude[..., k + 1] * np.exp(1j * step) for k, step in enumerate(steps))
    )
    away = np.zeros(phase.shape, np.float32)
    for k, step in enumerate(steps):
        away[..., k + 1] = away[..., k] + wrap(step - mean)
    weight = magnitude**2
    weight /= np.maximum(weight.sum(-1, keepdims=True), 1e-30)
    times = np.arange(n, dtype=np.float32)
    centre = (weight * times).sum(-1, keepdims=True)
    away -= (weight * away).sum(-1, keepdims=True)
    spread = (weight * (times - centre) ** 2).sum(-1, keepdims=True)
    slope = (weight * away * (times - centre)).sum(-1, keepdims=True) / np.maximum(spread, 1e-12)
    away -= slope * (times - centre)
    found = find_misfit(np.sqrt((weight * away**2).sum(-1)), magnitude, mask)
    return found.share


def ghost_ratio(first: Array, voxel_size: Sequence[float]) -> float | None:
    """Root of the power of what repeats the object beside it along one axis, relative to the object.

    Signal beside the object along an axis is compared with that beside it along none; None where the image
    has too little air, or none was stored.
    """
    body = largest(first > BODY * np.percentile(first, 99))
    near = ndimage.distance_transform_edt(~body, sampling=voxel_size) < MARGIN_MM
    shadows = [near.any(axis, keepdims=True) & ~near for axis in range(3)]
    corner = ~near & ~(shadows[0] | shadows[1] | shadows[2])
    if not body.any():
        return None
    # quartiles, as tails of the object are bright and few, and a ghost need not fill what is beside it
    power = first.astype(np.float64) ** 2
    if corner.sum() < 500 or np.count_nonzero(first[corner]) < 0.5 * corner.sum():
        return None
    ground = float(np.percentile(power[corner], 75))
    found = []
    for axis, shadow in enumerate(shadows):
        alone = shadow & ~shadows[(axis + 1) % 3] & ~shadows[(axis + 2) % 3]
        if alone.sum() >= 500:
            found.append(max(float(np.percentile(power[alone], 75)) - ground, 0.0))
    return float(np.sqrt(max(found) / np.median(power[body]))) if found else None


def _kept(head: Array, core: Array, fixed: Array, moving: Array):
    """Where the head keeps as much signal from one echo to the next as its core does.

    Signal is lost near sinuses and ears; that changes the outline of the head, as motion does.
    """
    sigma = KEPT_MM / COARSE_MM
    before, after = (ndimage.gaussian_filter(image * head, sigma) for image in (fixed, moving))
    share = after / np.maximum(before, 1e-6 * before.max())
    return head & (share > KEPT * np.median(share[core]))


def _moved(head: Array, affine: Array, fixed: Array, moving: Array) -> float:
    """Root mean square (mm) over the head of the rigid motion from one echo to the next."""
    similarity = Similarity(fixed, affine, head, moving, affine, n_points=3000, sigma=0.0)
    points = similarity.points
    matrix, _ = refine(similarity, np.eye(4), points.mean(0), n_parameters=6, step=1.0, tolerance=0.1)
    return rms_motion(matrix, points)
