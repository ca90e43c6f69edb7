"""Sinuses at the surface of the brain, inside and outside its mask, by the decay of the magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.graph import MCP_Geometric

from bids_qsm.anatomy.transform import apply_affine, transform_points
from bids_qsm.biomarkers.veins_graph import centreline
from bids_qsm.biomarkers.veins_names import COURSES, fine_course
from bids_qsm.biomarkers.veins_size import filled_shares
from bids_qsm.biomarkers.vesselness import grown_box, tube_eigenvalues, tubeness
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.relaxation import loglinear

BLOOD_RATE = 2.4
"""R2* of venous blood over that of the brain, about 48 over 20 1/s at 3 T: both rise with the field strength.
In a real head of 3 T the voxels of the superior sagittal sinus had 1.7 to 2.6."""
RATE_SPREAD = (0.4, 0.6)
"""Standard deviation of its logarithm, below and above: bone in the voxel and dephasing raise the rate."""
DARK, BRIGHT = 0.5, 0.8
"""First echo over that of the brain beside it: a voxel below the first is mostly bone or air, one above the
second is full of blood or tissue."""
OUTWARD_MM, INWARD_MM = 10.0, 3.0
"""How far from the rim of the mask the axis of a sinus may lie, outwards and inwards."""
MARGIN_MM = 2.0, 7.0
"""How much farther, outwards and inwards, evidence is made: a sheet cut off there looks like a tube."""
CORRIDOR_MM = 10.0
"""How far the axis may lie from its course: people differ, and alignment has errors."""
SCALES_MM = (1.35, 2.0, 3.0)
"""Standard deviations of the Gaussians: tubes of 3 to 8 mm."""
FULL = 0.32
"""Strength of a round tube of evidence 1 at the scale at which it is largest."""
FLOOR = 0.05
"""Strength that counts as none in the cost of a path."""
WINDOW_MM = 12.0
"""Standard deviation of the Gaussian over which strength along a path is averaged."""
LEAST_TUBE = 0.2
"""Least strength of a sinus, whatever that of decoys."""
LEAST_SCORE = 4.0
"""Least score of a stretch, see `find_sinuses`."""
LEAST_MM = 15.0
"""Least length of a stretch."""
INDEPENDENT_MM = 30.0
"""Length of one independent piece of a path, after `WINDOW_MM`."""
WIDEST_MM = 6.0
"""Largest radius of a sinus."""
DECOYS = {
    'superior_sagittal_sinus': ((22, 0, 0), (-22, 0, 0), (36, 0, 0), (-36, 0, 0)),
    'transverse_sinus': ((0, 0, 20), (0, 0, -20)),
}
"""Displacements (mm of the template) that take the course of a sinus to surface of the brain without one."""


@dataclass(frozen=True, eq=False)
class Sinus:
    """A stretch of a sinus.

    ``points`` (n, 3) of its centreline and unit tangents ``direction`` lie in mm along the voxel axes, with
    ``diameter_mm`` (n,); ``voxels`` (m, 3) hold the ``share`` (m,) of it, 0 to 1.
    """

    name: str
    points: np.ndarray
    direction: np.ndarray
    diameter_mm: np.ndarray
    voxels: np.ndarray
    share: np.ndarray


def find_sinuses(
    echoes: np.ndarray,
    echo_times: Sequence[float],
    mask: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    to_template: Sequence,
):
    r"""Find the superior sagittal and transverse sinuses around the rim of a mask.

    Outside the mask there is no susceptibility, but magnitude: venous blood is about as bright as brain in
    the first echo, where bone and air are dark, and decays faster than brain and CSF, slower than marrow
    (`evidence`). The path is followed that runs along the course of each sinus in template space and is
    cheapest through strong tubes (`follow`). The same is done along displaced courses (`DECOYS`), which have
    no sinus; where they are shorter than 30 mm in all, nothing is found. With the mean m and standard
    deviation s of the strength along these, smoothed (`WINDOW_MM`), stretches of strength over
    :math:`m + s` and `LEAST_TUBE` are kept if they have the score

    .. math:: \frac{\bar t - m}{s} \sqrt{l / 30 \, \mathrm{mm}} \ge 4

    for a mean strength t and a length l, of which 30 mm is one independent piece.

    Parameters
    ----------
    echoes : ndarray of float32, shape (x, y, z, echo)
        Magnitude.
    echo_times : sequence of float
        (s).
    mask : ndarray of bool
        Of the brain.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    grid : Grid
    to_template : sequence of ndarray (4, 4) or Displacement
        Takes points of the scanner to the template.

    Returns
    -------
    list of Sinus
    """
    sides = np.array(grid.voxel_size)
    box = grown_box(mask, np.ceil((OUTWARD_MM + MARGIN_MM[0] + 6) / sides).astype(int))
    first = np.array([b.start for b in box])
    mask, echoes = mask[box], echoes[box]
    part = Grid(mask.shape, grid.voxel_size, grid.b0_dir)
    to_voxels = np.linalg.inv(affine)
    to_voxels[:3, 3] -= first
    to_scanner = np.linalg.inv(to_voxels)
    out, deep = _rim(mask, part)
    wide = (out <= OUTWARD_MM + MARGIN_MM[0]) & (deep <= INWARD_MM + MARGIN_MM[1])
    shell = (out <= OUTWARD_MM) & (deep <= INWARD_MM)
    likely = evidence(echoes, echo_times, mask, wide, part)
    surface = np.argwhere((out > 0) & (out <= 1.01 * sides.max())) * sides
    if not len(surface):
        return []
    rim, last = KDTree(surface), (np.array(mask.shape) - 1) * sides
    found, decoys, decoys_mm = [], [], 0.0
    for course in COURSES:
        if course.name not in DECOYS:
            continue
        line, _ = fine_course(course.waypoints)
        for displaced in ((0, 0, 0), *DECOYS[course.name]):
            places = _in_scanner(line + np.array(displaced, float), mask, to_scanner, to_template)
            places = apply_affine(to_voxels, places) * sides
            # where the field of view cuts the head, the course comes in pieces
            pieces, count = ndimage.label(np.all((places >= 0) & (places <= last), 1))
            for n in range(1, count + 1):
                piece = places[pieces == n]
                if any(displaced):
                    on_rim = surface[rim.query(piece)[1]]
                    piece = ndimage.gaussian_filter1d(on_rim, 5, axis=0, mode='nearest')
                path, strength = follow(piece, likely, shell, part)
                if any(displaced):
                    decoys.append(_smooth(strength, WINDOW_MM, path, sides))
                    decoys_mm += _length(path, sides)
                else:
                    found.append((course.name, path, strength))
    if decoys_mm < INDEPENDENT_MM:
        return []
    decoy = np.concatenate(decoys)
    mean, spread = float(decoy.mean()), max(float(decoy.std()), 1e-3)
    sinuses = []
    for name, path, strength in found:
        for stretch in _stretches(path, strength, mean, spread, sides):
            sinuses.append(_measured(name, stretch, likely, first, part))
    return [one for one in sinuses if one is not None]


def _rim(mask: np.ndarray, grid: Grid):
    """Distance (mm) of voxels outside a mask to it, and of those inside to what is outside."""
    farthest = OUTWARD_MM + MARGIN_MM[0] + 1
    pad = [(n, n) for n in np.ceil(farthest / np.array(grid.voxel_size)).astype(int)]
    # beyond the volume is no brain
    out = depth(~np.pad(mask, pad), grid.voxel_size, farthest)[tuple(slice(a, -b) for a, b in pad)]
    return out, depth(mask, grid.voxel_size, INWARD_MM + MARGIN_MM[1] + 1)


def evidence(
    echoes: np.ndarray, echo_times: Sequence[float], mask: np.ndarray, shell: np.ndarray, grid: Grid
):
    r"""How much the decay in each voxel of a shell is that of venous blood (0 to 1).

    With the first echo s, its mean in the brain around :math:`s_b` (over about 6 mm), R2* and its median
    :math:`R_b` in the brain,

    .. math:: e = \exp\left(-\frac{\log^2(R_2^* / 2.4 R_b)}{2 \sigma^2}\right)
        \min\left(\max\left(\frac{s / s_b - 0.5}{0.3}, 0\right), 1\right)

    with :math:`\sigma` of `RATE_SPREAD`.
    """
    inner = np.zeros(mask.shape, bool)
    inner[::3, ::3, ::3] = mask[::3, ::3, ::3]
    # a thin or small mask may lie between these
    inner = inner if inner.any() else mask
    rate = loglinear(echoes, shell | inner, echo_times, None, 0.0, grid)[0]
    usual = max(float(np.median(rate[inner])), 1e-3)
    start = np.ascontiguousarray(echoes[..., 0], np.float32)
    sigma = [6.0 / v for v in grid.voxel_size]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3)
    level = ndimage.gaussian_filter(np.where(mask, start, 0), sigma, truncate=3) / np.maximum(weight, 1e-4)
    bright = np.clip((start / np.maximum(level, 1e-6) - DARK) / (BRIGHT - DARK), 0, 1)
    away = np.log(np.maximum(rate, 1e-3) / (BLOOD_RATE * usual))
    away /= np.where(away < 0, *RATE_SPREAD).astype(np.float32)
    # a cost that is not a number would break the search for paths
    return np.nan_to_num(np.where(shell, np.exp(-0.5 * away**2) * bright, 0)).astype(np.float32)


def _in_scanner(line: np.ndarray, mask: np.ndarray, affine: np.ndarray, to_template: Sequence):
    """Points (mm) that transforms take to a line of the template, by Newton's method with one Jacobian."""
    some = np.argwhere(mask)
    some = apply_affine(affine, some[:: max(len(some) // 5000, 1)])
    there = transform_points(some, list(to_template))
    linear, *_ = np.linalg.lstsq(np.c_[there, np.ones(len(there))], some, rcond=None)
    points = np.c_[line, np.ones(len(line))] @ linear
    for _ in range(10):
        points += (line - transform_points(points, list(to_template))) @ linear[:3]
    return points


def follow(line: np.ndarray, likely: np.ndarray, shell: np.ndarray, grid: Grid):
    """Cheapest path from the first to the last points of a line, near it and in a shell.

    A step through strength t costs its length over t + 0.05. The strength is that of tubes in the evidence:
    the geometric mean of the two curvatures across the axis, times `vesselness.tubeness`, 1 in a round tube
    of 3 to 8 mm. Sheets (dura, partial volume of bone and CSF) have one curvature alone.

    Parameters
    ----------
    line : ndarray, shape (n, 3)
        In mm along the voxel axes, half a mm apart.
    likely : ndarray of float32
        See `evidence`.
    shell : ndarray of bool
    grid : Grid

    Returns
    -------
    path : ndarray of int, shape (m, 3)
        Voxels; none where there is no path.
    strength : ndarray, shape (m,)
        Along it.
    """
    sides, none = np.array(grid.voxel_size), (np.zeros((0, 3), int), np.zeros(0))
    if not len(line):
        return none
    low = np.maximum(np.floor((line.min(0) - CORRIDOR_MM - 8) / sides), 0).astype(int)
    high = np.ceil((line.max(0) + CORRIDOR_MM + 8) / sides).astype(int) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    voxels = np.argwhere(shell[box])
    near, at = KDTree(line).query((voxels + low) * sides, distance_upper_bound=CORRIDOR_MM)
    voxels, at = voxels[np.isfinite(near)], at[np.isfinite(near)]
    if not len(voxels):
        return none
    tube = np.zeros(shell[box].shape, np.float32)
    for scale in SCALES_MM:
        values, _ = tube_eigenvalues(likely[box], voxels, grid, scale)
        strength = np.sqrt(np.maximum(values[:, 1] * values[:, 2], 0)) * tubeness(values) / FULL
        tube[tuple(voxels.T)] = np.maximum(tube[tuple(voxels.T)], strength)
    cost = np.full(tube.shape, -1.0)
    cost[tuple(voxels.T)] = 1 / (FLOOR + tube[tuple(voxels.T)])
    # the course may begin and end a little earlier or later
    first, last = voxels[at <= at.min() + 6], voxels[at >= at.max() - 6]
    search = MCP_Geometric(cost, sampling=tuple(sides))
    total, _ = search.find_costs(first.tolist(), last.tolist())
    ends = total[tuple(last.T)]
    if not np.isfinite(ends).any():
        return none
    path = np.array(search.traceback(last[np.argmin(ends)]))
    return path + low, tube[tuple(path.T)]


def _length(path: np.ndarray, sides: np.ndarray):
    """Length (mm) of a path of voxels."""
    return float(np.linalg.norm(np.diff(path * sides, axis=0), axis=1).sum())


def _smooth(strength: np.ndarray, width_mm: float, path: np.ndarray, sides: np.ndarray):
    """Strength along a path of voxels, averaged over a Gaussian."""
    if len(path) < 2:
        return strength.astype(float)
    step = _length(path, sides) / (len(path) - 1)
    return ndimage.gaussian_filter1d(strength.astype(float), width_mm / step, mode='nearest')


def _stretches(path: np.ndarray, strength: np.ndarray, mean: float, spread: float, sides: np.ndarray):
    """Stretches of a path that are a sinus."""
    sharp, smooth = (_smooth(strength, width, path, sides) for width in (WINDOW_MM / 4, WINDOW_MM))
    least = max(mean + spread, LEAST_TUBE)
    labels, count = ndimage.label(smooth > least)
    for n in range(1, count + 1):
        clear = np.flatnonzero((labels == n) & (sharp > least))
        if not len(clear):
            continue
        # the Gaussian reaches beyond both ends
        mine = slice(clear[0], clear[-1] + 1)
        length = _length(path[mine], sides)
        score = (float(smooth[mine].mean()) - mean) / spread * np.sqrt(length / INDEPENDENT_MM)
        if length >= LEAST_MM and score >= LEAST_SCORE:
            yield path[mine]


def _measured(name: str, path: np.ndarray, likely: np.ndarray, first: np.ndarray, grid: Grid):
    """Voxels, centreline and diameters of a stretch; None where it has no voxels."""
    sides = np.array(grid.voxel_size)
    side = float(sides.prod() ** (1 / 3))
    low = np.maximum(path.min(0) - np.ceil((WIDEST_MM + 2) / sides).astype(int), 0)
    high = path.max(0) + np.ceil((WIDEST_MM + 2) / sides).astype(int) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    path, part = path - low, likely[box]
    voxels = np.argwhere(np.ones(part.shape, bool))
    away, at = KDTree(path * sides).query(voxels * sides, distance_upper_bound=WIDEST_MM)
    voxels, at, away = voxels[np.isfinite(away)], at[np.isfinite(away)], away[np.isfinite(away)]
    value = part[tuple(voxels.T)]
    radius = _radius(at, away, value, len(path), side)
    inside = (away <= 1.25 * radius[at] + side / 2) & (value >= 0.5)
    near = np.zeros(part.shape, bool)
    near[tuple(voxels[inside].T)] = True
    near[tuple(path.T)] |= part[tuple(path.T)] > 0.1
    pieces, _ = ndimage.label(near, np.ones((3, 3, 3)))
    kept = np.unique(pieces[tuple(path.T)])
    near &= np.isin(pieces, kept[kept > 0])
    if not near.any():
        return None
    points, direction = centreline(path, part * near, sides, radius)
    voxels = np.argwhere(near)
    _, at = KDTree(points).query(voxels * sides)
    step = float(np.linalg.norm(np.diff(points, axis=0), axis=1).mean())
    filled = np.bincount(at, part[tuple(voxels.T)] * grid.voxel_volume, len(points))
    area = ndimage.gaussian_filter1d(filled, 3.0 / step, mode='nearest') / step
    wide = np.sqrt(np.maximum(area, side**2 / 4) / np.pi)
    voxels = np.argwhere(ndimage.binary_dilation(near, iterations=2))
    _, at = KDTree(points).query(voxels * sides)
    ends = np.r_[-1, np.zeros(len(points) - 2, int), 1]
    share = filled_shares(voxels * sides, points[at], direction[at], wide[at], ends[at], sides)
    return Sinus(
        name,
        points + (low + first) * sides,
        direction,
        2 * wide,
        (voxels + low + first)[share > 0],
        share[share > 0],
    )


def _radius(at: np.ndarray, away: np.ndarray, value: np.ndarray, count: int, side: float):
    """Radius (mm) along a path: where the mean evidence around it falls below one half.

    The mean over a ring is of voxels with evidence above 0.1; it is 0 where all have less. A ring without
    voxels, as between the rows of a grid along the path, tells nothing.
    """
    steps = np.arange(side, WIDEST_MM + 1e-6, max(side / 2, 0.5))
    below = []
    for first, last in zip(np.r_[0, steps[:-1]], steps, strict=True):
        ring = (away >= first) & (away < last)
        some = value[ring] > 0.1
        along = [np.bincount(at[ring], w, count).astype(float) for w in (value[ring] * some, some, None)]
        sums, number, every = (ndimage.gaussian_filter1d(v, 3.0, mode='nearest') for v in along)
        # less than half a voxel a point: those of a bend nearby
        below.append((sums < 0.5 * np.maximum(number, 1e-3)) & (every > 0.5))
    index = np.where(np.any(below, 0), np.argmax(below, 0), len(steps) - 1)
    return np.maximum(steps[index] - side / 4, side / 2)
