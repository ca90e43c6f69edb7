"""How phase and magnitude continue from slice to slice: negated neighbours, offsets, wrong order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import signal_mask, wrap
from bids_qsm.recon.polarity import block_mean

NEGATED = -0.3
"""Mean cosine of the phase step between neighbours below which every second one is negated."""
BENT = 0.3
"""Median bend (rad) of the phase through slices beyond which slices have offsets.

In healthy phantoms and real heads it is .01 to .09; uniformly random offsets give 1.6.
"""
HOPELESS = 0.9
"""Bend (rad) from which offsets that differ between echoes leave no field: their deviation is .5 rad."""
ALIKE = 0.7
"""Least share of the coherence along other axes where the offsets are constants; it is .9 without any."""
UNRELATED = 0.25
"""Largest share of it where neighbouring slices have nothing in common, however they bend."""
INCOHERENT = 0.15
"""Coherence below which phase is random; at a signal-to-noise ratio of 12 it is .93."""
LARGE = 0.3
"""Area of a slice, relative to that of the largest, from which it is looked at."""
FEWEST = 5
"""Slices that are needed to tell."""
BLOCK_MM = 6.0
"""Size of the blocks by which slices are compared."""
NEARER = 1.2
"""How much nearer than its neighbours another slice must be for a slice to be out of place."""
MISPLACED = 0.4
"""Share of slices out of place from which the order is wrong; 0 in healthy data, .88 to 1 where it is."""
EMPTY = 0.05
"""Area of a slice, relative to that of the largest, below which it is empty."""
JUMP = 0.3
"""Step of this area from slice to slice that no head has; it is .2 in spheres of 9 mm slices."""
THIN = 64


@dataclass(frozen=True)
class Bends:
    """How the phase of an image bends through its slices along each axis.

    ``bend`` is the median over slices of the size of the mean second difference of phase (rad), and
    ``coherence`` that of the length of the mean of exp(i second difference), 0 to 1; NaN where there are too
    few slices.
    """

    bend: tuple[float, ...]
    coherence: tuple[float, ...]


def step_cosines(phase: Array, magnitude: Array):
    """Mean cosine, weighted by both magnitudes, of the phase step between neighbours along each axis.

    It is near 1 for any plausible field gradient, as a gradient of pi per voxel would leave no signal, and
    near -1 along axes along which every second slice is negated.
    """
    found = []
    for axis in range(3):
        p, m = _along(phase, axis), _along(magnitude, axis)
        weight = m[1:] * m[:-1]
        found.append(float((weight * np.cos(p[1:] - p[:-1])).sum() / max(weight.sum(), 1e-30)))
    return tuple(found)


def find_bends(phase: Array, magnitude: Array):
    """The `Bends` of a 3D image, weighted by the magnitudes of the three voxels of each second difference."""
    scaled, found = magnitude / max(float(magnitude.max()), 1e-30), []
    for axis in range(3):
        p, m = _along(phase, axis), _along(scaled, axis)
        weight = m[:-2] * m[1:-1] * m[2:]
        total = (weight * np.exp(1j * (p[:-2] - 2 * p[1:-1] + p[2:]))).sum((1, 2))
        area = m[1:-1].sum((1, 2))
        large = (area > LARGE * area.max(initial=0)) & (weight.sum((1, 2)) > 0)
        if large.sum() < FEWEST:
            found.append((np.nan, np.nan))
            continue
        mean = total[large] / weight.sum((1, 2))[large]
        found.append((float(np.median(np.abs(np.angle(mean)))), float(np.median(np.abs(mean)))))
    bend, coherence = zip(*found, strict=True)
    return Bends(bend, coherence)


def broken_axis(bends: Bends):
    """Axis along which phase does not continue from slice to slice, or None; and whether offsets are why.

    Where each slice has a phase of its own, the phase still bends alike at all voxels of a slice.
    """
    best = np.nanmax([*bends.coherence, 0])
    for axis, (bend, coherence) in enumerate(zip(bends.bend, bends.coherence, strict=True)):
        alike = coherence > max(ALIKE * best, INCOHERENT)
        if bend > BENT or coherence < UNRELATED * best:
            return axis, bool(alike)
    return None, False


def is_random(bends: Bends):
    """Whether neighbouring voxels have unrelated phase along all axes."""
    known = [one for one in bends.coherence if np.isfinite(one)]
    return bool(known) and max(known) < INCOHERENT


def remove_slice_offsets(phase: Array, magnitude: Array, echo_times: Sequence[float], axis: int):
    r"""Take a constant phase, the same in all echoes, off each slice along ``axis``, in place.

    .. math:: \Delta\phi_0 = \Delta\phi_1 - \frac{T_1}{T_2 - T_1} \Delta(\phi_2 - \phi_1)

    where :math:`\Delta` is the step from slice to slice, is that of the phase at TE = 0. Its mean over the
    voxels of a slice is removed; no unwrapping is needed, and the field stays as it is.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude, of two or more echoes.
    echo_times : sequence of float
        Rising echo times (s).
    axis : int
        Axis across the slices.
    """
    bright = np.moveaxis(signal_mask(magnitude[..., 0]), axis, 0)
    first, second = (np.moveaxis(phase[..., k], axis, 0) for k in (0, 1))
    ratio = np.float32(echo_times[0] / (echo_times[1] - echo_times[0]))
    steps = np.diff(first, axis=0) - ratio * wrap(np.diff(second - first, axis=0))
    mean = np.angle((np.exp(1j * steps) * (bright[1:] & bright[:-1])).sum((1, 2)))
    offsets = np.append(0, np.cumsum(mean)).astype(np.float32)
    offsets = offsets.reshape([-1 if a == axis else 1 for a in range(3)])
    for k in range(phase.shape[3]):
        phase[..., k] = wrap(phase[..., k] - offsets)


def find_disorder(magnitude: Array, grid: Grid, axis: int):
    """Share of the slices along ``axis`` that are out of place by their magnitude, 0 to 1.

    A slice is out of place where another than its neighbours is clearly more like it. Slices that are alike
    as mirror images, such as of both hemispheres, do not count. Where the object reaches both ends of the
    stack but breaks off within it, all are out of place.
    """
    factors = [1 if a == axis else max(1, round(BLOCK_MM / v)) for a, v in enumerate(grid.voxel_size)]
    flat = np.moveaxis(block_mean(magnitude, factors), axis, 0)
    flat = flat.reshape(len(flat), -1)
    area = (flat > 0.25 * np.percentile(flat, 99)).sum(1)
    large = np.flatnonzero(area > LARGE * area.max())
    if len(large) < 2 * FEWEST:
        return 0.0
    share = area / area.max()
    if min(share[0], share[-1]) > LARGE and (share.min() < EMPTY or np.abs(np.diff(share)).max() > JUMP):
        return 1.0
    root = np.sqrt(np.maximum(flat[large], 0))
    distance = np.array([np.abs(root - one).sum(1) / np.maximum((root + one).sum(1), 1e-30) for one in root])
    np.fill_diagonal(distance, np.inf)
    here = np.arange(len(large))
    steps = np.diagonal(distance, 1)
    beside = np.minimum(np.append(np.inf, steps), np.append(steps, np.inf))
    away = _away(distance, beside)
    if not away.any():
        return 0.0
    middle = np.median((distance.argmin(1) + here)[away])
    distance[np.abs(here + here[:, None] - middle) <= 2] = np.inf
    return float(_away(distance, beside).mean())


def _away(distance: Array, beside: Array):
    """Which slices have another that is clearly nearer than those beside them."""
    far = np.abs(distance.argmin(1) - np.arange(len(distance))) > 1
    return far & (beside > NEARER * distance.min(1))


def _along(volume: Array, axis: int):
    """``volume`` with ``axis`` first, thinned along the other two."""
    moved = np.moveaxis(volume, axis, 0)
    return moved[(slice(None), *(slice(None, None, max(1, n // THIN)) for n in moved.shape[1:]))]
