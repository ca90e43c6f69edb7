"""The graph of a vein mask: centrelines between junctions, in mm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import interpolate, ndimage
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

_CUBE = np.ones((3, 3, 3), bool)
_STEPS = np.argwhere(_CUBE) - 1
_STEPS = _STEPS[np.any(_STEPS != 0, 1)]
WOBBLE = 0.25
"""Standard deviation (voxels) of the centres of sections about the axis."""
PASSES = 3
"""Times that points move to the centre of their section: the section turns with the line through them."""


@dataclass(frozen=True, eq=False)
class Branch:
    """A chain of skeleton voxels, with the junctions (from 1) at both ends, 0 where it ends free."""

    voxels: np.ndarray
    ends: tuple[int, int]

    def length(self, sides: np.ndarray):
        """Length (mm)."""
        return float(np.linalg.norm(np.diff(self.voxels * sides, axis=0), axis=1).sum())


def wall_radius(mask: np.ndarray, grid: Grid):
    """Radius (mm) of veins in the voxels of their mask: the distance to the wall, at least half a voxel."""
    side = grid.voxel_volume ** (1 / 3)
    return np.maximum(depth(mask, grid.voxel_size, 10.0) - side / 2, side / 2) * mask


def branches(mask: np.ndarray, sides: np.ndarray, radius: np.ndarray, *, spur: float = 1.5):
    """Branches of the skeleton of a mask, without spurs.

    A spur ends free and is no longer than ``spur`` times the radius at its junction and two voxels: thinning
    makes one of a bump on a wide vein.

    Parameters
    ----------
    mask : ndarray of bool, 3D
    sides : ndarray, shape (3,)
        Sides of the voxels (mm).
    radius : ndarray of float32
        Radius (mm) of the vein in the voxels of the mask, as by the distance to its wall.

    Returns
    -------
    list of Branch
        In the order of the volume.
    """
    skeleton = skeletonize(mask) if mask.any() else np.zeros(mask.shape, bool)
    while True:
        found = _split(skeleton)
        spurs = [b for b in found if _is_spur(b, sides, radius, spur)]
        if not spurs:
            return found
        # the shortest at each junction first: the other may be the vein
        gone = set()
        for branch in sorted(spurs, key=lambda b: b.length(sides)):
            junction = max(branch.ends)
            if junction not in gone:
                gone.add(junction)
                free = branch.voxels[:-1] if branch.ends[1] else branch.voxels[1:]
                skeleton[tuple(free.T)] = False
        skeleton = skeletonize(skeleton)


def _is_spur(branch: Branch, sides: np.ndarray, radius: np.ndarray, spur: float):
    if (branch.ends[0] > 0) == (branch.ends[1] > 0):
        return False
    root = branch.voxels[-1] if branch.ends[1] else branch.voxels[0]
    return branch.length(sides) <= spur * radius[tuple(root)] + 2 * sides.max()


def _split(skeleton: np.ndarray):
    """Branches of a skeleton; the end next to a junction is the voxel of the junction that it touches."""
    voxels = np.argwhere(skeleton)
    if not len(voxels):
        return []
    number = np.full(np.array(skeleton.shape) + 2, -1)
    number[tuple((voxels + 1).T)] = np.arange(len(voxels))
    near = np.stack([number[tuple((voxels + 1 + step).T)] for step in _STEPS], 1)
    degree = (near >= 0).sum(1)
    nodes = np.zeros(skeleton.shape, bool)
    nodes[tuple(voxels[degree > 2].T)] = True
    junction = ndimage.label(nodes, _CUBE)[0][tuple(voxels.T)]
    used = np.zeros(len(voxels), bool)
    found = []

    def walk(start: np.integer, first: np.integer | int, root: int):
        """Chain from a voxel on, to a junction or a free end."""
        chain = [first, start] if first >= 0 else [start]
        used[start] = True
        while True:
            onward = [n for n in near[chain[-1]] if n >= 0 and not used[n] and not junction[n]]
            if len(chain) > 1 or first < 0:
                met = [n for n in near[chain[-1]] if n >= 0 and junction[n] and n != first]
                met = [n for n in met if junction[n] != root or len(chain) > 3]
                if met:
                    return [*chain, met[0]], int(junction[met[0]])
            if not onward:
                return chain, 0
            used[onward[0]] = True
            chain.append(onward[0])

    for at in np.flatnonzero(junction):
        for start in near[at]:
            if start >= 0 and not junction[start] and not used[start]:
                chain, end = walk(start, at, junction[at])
                found.append(Branch(voxels[chain], (int(junction[at]), end)))
    for at in np.flatnonzero((junction == 0) & (degree <= 1)):
        if not used[at]:
            chain, end = walk(at, -1, 0)
            found.append(Branch(voxels[chain], (0, end)))
    for at in np.flatnonzero((junction == 0) & ~used):
        # a ring
        if not used[at]:
            chain, end = walk(at, -1, 0)
            found.append(Branch(voxels[chain], (0, end)))
    return found


def merged(parts: Sequence[Branch]):
    """Branches without junctions at which only two of them meet: what is left where a spur was."""
    parts = list(parts)
    while True:
        meet: dict[int, list[int]] = {}
        for n, branch in enumerate(parts):
            for end in branch.ends:
                if end:
                    meet.setdefault(end, []).append(n)
        pair = next(((e, ns) for e, ns in meet.items() if len(ns) == 2 and ns[0] != ns[1]), None)
        if pair is None:
            return parts
        end, (a, b) = pair
        first, second = parts[a], parts[b]
        one = first.voxels if first.ends[1] == end else first.voxels[::-1]
        two = second.voxels if second.ends[0] == end else second.voxels[::-1]
        outer = (
            first.ends[0] if first.ends[1] == end else first.ends[1],
            second.ends[1] if second.ends[0] == end else second.ends[0],
        )
        parts[a] = Branch(np.concatenate([one, two[1:] if np.array_equal(one[-1], two[0]) else two]), outer)
        del parts[b]


def centreline(voxels: np.ndarray, weight: np.ndarray, sides: np.ndarray, radius: np.ndarray):
    """Smooth axis (n, 3; mm along the voxel axes) of a chain of voxels, and its unit tangents.

    Each point moves to the centre of mass of ``weight`` (at least 0) in the section around it, `PASSES`
    times, then a cubic spline takes out their noise.

    Parameters
    ----------
    voxels : ndarray of int, shape (m, 3)
    weight : ndarray of float32, 3D
    sides : ndarray, shape (3,)
        Sides of the voxels (mm).
    radius : ndarray, shape (m,)
        Radius (mm) at each point.
    """
    points = voxels * sides
    if len(points) < 2:
        return points.astype(float), np.array([[0.0, 0.0, 1.0]])
    for _ in range(PASSES):
        points = _recentred(points, weight, sides, radius)
    step = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    keep = np.r_[True, np.diff(step) > 1e-6]
    points, step = points[keep], step[keep]
    if len(points) < 2:
        return points, np.array([[0.0, 0.0, 1.0]])
    count = max(int(np.ceil(2 * step[-1] / sides.min())), 2) + 1
    at = np.linspace(0, step[-1], count)
    order = min(3, len(points) - 1)
    wobble = WOBBLE * np.linalg.norm(sides) / np.sqrt(3)
    spline, _ = interpolate.splprep(points.T, u=step, k=order, s=len(points) * wobble**2)
    smooth = np.stack(interpolate.splev(at, spline), 1)
    tangent = np.stack(interpolate.splev(at, spline, der=1), 1)
    return smooth, tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)


def _recentred(points: np.ndarray, weight: np.ndarray, sides: np.ndarray, radius: np.ndarray):
    """Points moved, across the axis, to the centre of mass of the section."""
    smooth = ndimage.gaussian_filter1d(points.astype(float), 2, axis=0, mode='nearest')
    tangent = np.gradient(smooth, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    moved = points.astype(float).copy()
    for n, (point, along, wide) in enumerate(zip(points, tangent, radius, strict=True)):
        reach = wide + sides.max()
        half = np.ceil(reach / sides).astype(int)
        centre = np.rint(point / sides).astype(int)
        low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, weight.shape)
        axes = [np.arange(a, b) * s - p for a, b, s, p in zip(low, high, sides, point, strict=True)]
        offset = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
        forward = offset @ along
        across = offset - forward[..., None] * along
        near = (np.linalg.norm(across, axis=-1) <= reach) & (np.abs(forward) <= sides.max())
        mass = weight[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] * near
        total = mass.sum()
        if total > 0:
            shift = (mass[..., None] * across).sum((0, 1, 2)) / total
            size = np.linalg.norm(shift)
            most = sides.max()
            moved[n] += shift * min(1, most / size) if size > 0 else 0
    return moved


def nearest(lines: Sequence[np.ndarray], places: np.ndarray, reach: float):
    """Line and point on it nearest to each place (mm); both -1 where none is within ``reach``."""
    owner = np.concatenate([np.full(len(line), n) for n, line in enumerate(lines)])
    order = np.concatenate([np.arange(len(line)) for line in lines])
    distance, at = KDTree(np.concatenate(lines)).query(places, distance_upper_bound=reach)
    there = np.isfinite(distance)
    at = np.where(there, at, 0)
    return np.where(there, owner[at], -1), np.where(there, order[at], -1), distance
