"""Veins of the head: what is known of each segment, and of each voxel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage, optimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.biomarkers.focal_brain import iron_rich
from bids_qsm.biomarkers.veins_graph import branches, centreline, merged, nearest, wall_radius
from bids_qsm.biomarkers.veins_mask import Found, chain_score, detect
from bids_qsm.biomarkers.veins_names import CORTICAL_MM, NAMES, name_segments
from bids_qsm.biomarkers.veins_size import (
    WIDE_RADIUS,
    blood_susceptibility,
    core_contrasts,
    filled_shares,
    sections,
)
from bids_qsm.biomarkers.vesselness import grown_box
from bids_qsm.recon.distance import depth, depth_in_slab
from bids_qsm.recon.grid import Grid

BLUR = 1.5
"""Distance (voxels) that inversion and sampling spread susceptibility over."""
FAINT = 0.15
"""Least share of a voxel of a centreline in the mask: a vein of 0.44 voxels."""
THINNEST = 0.35
"""Least diameter (voxels): noise makes moments of 0 and less."""


def nearest_voxels(points: np.ndarray, shape: tuple[int, ...]):
    """Index of the voxels of a volume nearest to points (n, 3) in voxels."""
    return tuple(np.clip(np.rint(points), 0, np.array(shape) - 1).astype(int).T)


@dataclass(frozen=True, eq=False)
class Segment:
    """A piece of vein between two junctions or ends.

    ``points``, ``voxels``, ``direction`` and ``diameter_mm`` have one row a point; points lie on the smoothed
    centreline, about half a voxel apart, from one end to the other.

    Attributes
    ----------
    number : int
        From 1; the value of the segment in `Veins.numbers` and `Veins.skeleton`.
    name : str
        One of `NAMES`.
    points : ndarray, shape (n, 3)
        Scanner coordinates (RAS, mm).
    voxels : ndarray, shape (n, 3)
        The same in voxels of the maps (the centre of the first voxel is 0).
    direction : ndarray, shape (n, 3)
        Unit vectors along the centreline, in scanner coordinates.
    diameter_mm : ndarray, shape (n,)
        Of the circle that has the area of the section of the vein.
    tilt_deg : ndarray, shape (n,)
        Angle to B0, 0 to 90 degrees.
    ends : tuple of int
        Junctions that the first and the last point belong to, numbered from 1; 0 is a free end.
    """

    number: int
    name: str
    points: np.ndarray
    voxels: np.ndarray
    direction: np.ndarray
    diameter_mm: np.ndarray
    tilt_deg: np.ndarray
    ends: tuple[int, int]

    @cached_property
    def length_mm(self) -> float:
        """Length of the centreline (mm)."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    def passes(self, shape: tuple[int, ...]):
        """Index of the voxel of a volume of this shape that each point lies in."""
        return nearest_voxels(self.voxels, shape)

    @cached_property
    def tortuosity(self) -> float:
        """Length over the distance between the ends: 1 is straight."""
        chord = float(np.linalg.norm(self.points[-1] - self.points[0]))
        return self.length_mm / chord if chord > 0 else np.nan


@dataclass(frozen=True, eq=False)
class Veins:
    """The veins of one head, on the grid of its maps.

    Attributes
    ----------
    share : ndarray of float32
        Share of each voxel that is vein (0 to 1).
    mask : ndarray of bool
        Where vein is most of the voxel (share of at least one half), and the centrelines of thinner veins.
    labels : ndarray of int16
        Key of `NAMES` in the voxels of the mask, 0 elsewhere.
    skeleton : ndarray of int32
        Number of the segment whose centreline passes the voxel, 0 elsewhere.
    numbers : ndarray of int32
        Number of the segment that each voxel with a share belongs to, 0 elsewhere.
    segments : tuple of Segment
        In the order of their numbers.
    blood_chi : float
        Susceptibility (ppm) of blood above the tissue around it that shares and diameters were computed
        with; NaN without a susceptibility map.
    blood_from : str
        'measured' in the widest veins of this head, or 'assumed' where none is wide enough.
    """

    share: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    skeleton: np.ndarray
    numbers: np.ndarray
    segments: tuple[Segment, ...]
    blood_chi: float
    blood_from: str


def find_veins(
    chi: np.ndarray | None,
    swi: np.ndarray | None,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    dseg: np.ndarray | None,
    affine: np.ndarray,
    grid: Grid,
    to_template: Sequence = (),
    *,
    false_share: float = 0.3,
    least_mm: float = 5.0,
):
    """Find veins, and measure their segments.

    Parameters
    ----------
    chi : ndarray of float32, 3D, or None
        Susceptibility (ppm).
    swi : ndarray of float32 or None
        Susceptibility-weighted magnitude, dark in veins.
    r2star : ndarray of float32 or None
        R2* (1/s); voxels without one (0 or less) do not count.
    mask : ndarray of bool
        Where maps are given.
    dseg : ndarray of int or None
        Labels of deep grey nuclei.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    grid : Grid
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms that take points of the scanner to the template, first to last; without any, no vein has a
        name of its own.
    false_share : float
        Share of false voxels that is tolerated before segments are chosen, see `veins_mask.detect`.
    least_mm : float
        Least length (mm) of connected veins.

    Returns
    -------
    Veins
    """
    # the same axes whichever way the file is stored: thinning depends on their order
    turn = turn_of(affine, mask.shape)
    inside, frame = turn.apply(mask), turn.frame(grid)
    if not mask.any():
        return _nothing(mask.shape)
    box = grown_box(inside, np.ceil(6 / np.array(frame.voxel_size)).astype(int))
    first = np.array([b.start for b in box])
    inside = inside[box]
    frame = replace(frame, shape=inside.shape)
    maps = {
        name: None if data is None else turn.apply(data)[box]
        for name, data in (('chi', chi), ('swi', swi), ('r2star', r2star))
    }
    nuclei = np.zeros(inside.shape, np.int32)
    if dseg is not None and maps['chi'] is not None:
        labels = turn.apply(dseg)[box]
        nuclei[:] = labels * iron_rich(maps['chi'], inside, labels)
    found = detect(maps, inside, nuclei, frame, false_share=false_share)
    traced = _trace(found, inside, frame, least_mm)
    placed = _place(traced, turn, first, box, affine, mask.shape, frame)
    return _named(placed, mask, grid, to_template)


@dataclass(frozen=True)
class Turn:
    """Order and signs of the axes of a file that lead nearest to right, front and top."""

    order: np.ndarray
    signs: np.ndarray
    shape: tuple[int, ...]

    def apply(self, data: np.ndarray):
        """The volume with these axes."""
        return np.ascontiguousarray(
            np.flip(np.transpose(data, self.order), tuple(np.flatnonzero(self.signs < 0).tolist()))
        )

    def undo(self, data: np.ndarray):
        """A volume with these axes as the file has it."""
        flipped = np.flip(data, tuple(np.flatnonzero(self.signs < 0).tolist()))
        return np.ascontiguousarray(np.transpose(flipped, np.argsort(self.order)))

    def frame(self, grid: Grid):
        """The grid of the file with these axes."""
        sides, b0_dir = np.array(grid.voxel_size)[self.order], np.array(grid.b0_dir)[self.order] * self.signs
        return Grid(tuple(self.shape[a] for a in self.order), tuple(sides.tolist()), tuple(b0_dir.tolist()))

    def directions(self, steps: np.ndarray, affine: np.ndarray):
        """Unit vectors in scanner coordinates of steps (n, 3) in voxels of the turned volume."""
        there = steps @ (affine[:3, :3] @ self.to_file[:3, :3]).T
        return there / np.linalg.norm(there, axis=1, keepdims=True)

    @property
    def to_file(self):
        """Voxels of the turned volume to voxels of the file (4, 4)."""
        matrix = np.zeros((4, 4))
        matrix[self.order, range(3)] = self.signs
        matrix[self.order, 3] = np.where(self.signs < 0, np.array(self.shape)[self.order] - 1, 0)
        matrix[3, 3] = 1
        return matrix


def turn_of(affine: np.ndarray, shape: tuple[int, ...]):
    """The turn of a file."""
    columns = np.asarray(affine, float)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    _, order = optimize.linear_sum_assignment(-np.abs(cosines))
    return Turn(order, np.sign(cosines[range(3), order]), tuple(shape))


def _nothing(shape: tuple[int, ...]):
    """No veins."""
    share, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    labels, skeleton, numbers = (np.zeros(shape, kind) for kind in (np.int16, np.int32, np.int32))
    return Veins(share, mask, labels, skeleton, numbers, (), np.nan, 'assumed')


def _trace(found: Found, within: np.ndarray, grid: Grid, least_mm: float):
    """Veins in the frame of the maps, with points in mm along the voxel axes."""
    sides, mask = np.array(grid.voxel_size), found.mask
    side = grid.voxel_volume ** (1 / 3)
    radius = wall_radius(mask, grid)
    parts = branches(mask, sides, radius)
    # a chain of faint voxels; between two junctions it may be the dip of a vein
    clear = [chain_score(b, found.score) >= found.least or min(b.ends) > 0 for b in parts]
    parts = merged([b for b, is_clear in zip(parts, clear, strict=True) if is_clear])
    parts = _long_enough(parts, sides, radius, least_mm)
    if not parts:
        return _nothing(mask.shape)
    # around a vein, the other maps are dark or decay for its field too, more so on some sides
    weight = np.maximum(found.evidence if found.contrast is None else found.contrast, 0)
    wide = [radius[tuple(b.voxels.T)] for b in parts]
    lines, tangents = zip(
        *(centreline(b.voxels, weight, sides, w) for b, w in zip(parts, wide, strict=True)), strict=True
    )
    wide = [_along(w, len(p)) for w, p in zip(wide, lines, strict=True)]
    reach = [w + BLUR * side for w in wide]
    voxels = np.argwhere(depth(~mask, grid.voxel_size, 4 * side) < 4 * side)
    line, point, distance = nearest(lines, voxels * sides, max(r.max() for r in reach) + 2 * side)
    voxels, line, point, distance = (v[line >= 0] for v in (voxels, line, point, distance))
    row = np.cumsum([0, *(len(p) for p in lines)])[line] + point
    at = tuple(voxels.T)
    close = distance <= np.concatenate(reach)[row] + 2 * side
    around = line[close], point[close], distance[close]
    full = np.zeros(len(row), np.float32)
    if found.contrast is None:
        blood, source = np.nan, 'assumed'
        areas = sections(mask[at][close], *around, lines, reach, grid.voxel_volume)
    else:
        blood, source = blood_susceptibility(found.contrast, mask, within, grid)
        moments = sections(found.contrast[at][close], *around, lines, reach, grid.voxel_volume)
        cores = core_contrasts(found.contrast[at][close], *around, lines, side)
        levels = [
            np.where(w >= WIDE_RADIUS * side, np.clip(c, blood / 3, blood), blood)
            for w, c in zip(wide, cores, strict=True)
        ]
        areas = [m / b for m, b in zip(moments, levels, strict=True)]
        large = mask[at] & (np.concatenate(wide)[row] >= WIDE_RADIUS * side)
        full[large] = np.clip(found.contrast[at] / np.concatenate(levels)[row], 0, 1)[large]
    diameters = [2 * np.sqrt(np.maximum(a, np.pi * (THINNEST * side / 2) ** 2) / np.pi) for a in areas]
    ends = [np.r_[-1, np.zeros(len(p) - 2, int), 1] if len(p) > 1 else np.zeros(1, int) for p in lines]
    tubes = filled_shares(
        voxels * sides,
        *(np.concatenate(one)[row] for one in (lines, tangents)),
        np.concatenate(diameters)[row] / 2,
        np.concatenate(ends)[row],
        sides,
    )
    share, numbers = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.int32)
    share[at] = np.maximum(tubes, full)
    numbers[at] = np.where(share[at] > 0, line + 1, 0)
    segments = _segments(parts, lines, tangents, diameters, grid)
    skeleton = np.zeros(mask.shape, np.int32)
    for one in segments:
        skeleton[one.passes(mask.shape)] = one.number
    return Veins(
        share,
        (share >= 0.5) | ((skeleton > 0) & (share >= FAINT)),
        np.zeros(mask.shape, np.int16),
        skeleton,
        numbers,
        segments,
        blood,
        source,
    )


def _segments(parts: list, lines: Sequence, tangents: Sequence, diameters: Sequence, grid: Grid):
    """Segments in mm along the voxel axes, without names."""
    b0_dir, sides = np.array(grid.b0_dir), np.array(grid.voxel_size)
    found = []
    for branch, points, along, diameter in zip(parts, lines, tangents, diameters, strict=True):
        tilt = np.degrees(np.arccos(np.clip(np.abs(along @ b0_dir), 0, 1)))
        number = len(found) + 1
        found.append(Segment(number, NAMES[6], points, points / sides, along, diameter, tilt, branch.ends))
    return tuple(found)


def _along(values: np.ndarray, count: int):
    """Values of a chain of voxels, smoothed, at ``count`` evenly spaced points of it."""
    at = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(values)), values)
    return ndimage.gaussian_filter1d(at, 4, mode='nearest')


def _long_enough(parts: list, sides: np.ndarray, radius: np.ndarray, least_mm: float):
    """Branches of components that are long, and at least three times as long as they are wide."""
    if not parts:
        return parts
    length = np.array([b.length(sides) for b in parts])
    width = np.array([2 * radius[tuple(b.voxels.T)].max() for b in parts])
    count = max(max(b.ends) for b in parts) + 1
    rows = [(n, end) for n, b in enumerate(parts) for end in b.ends if end]
    first, second = np.array(rows).T if rows else (np.zeros(0, int), np.zeros(0, int))
    size = len(parts) + count
    links = coo_array((np.ones(len(first)), (first, len(parts) + second)), shape=(size, size))
    piece = connected_components(links, directed=False)[1][: len(parts)]
    total = np.bincount(piece, length)[piece]
    widest = np.zeros(piece.max() + 1)
    np.maximum.at(widest, piece, width)
    good = (total >= least_mm) & (total >= 3 * widest[piece])
    return [b for b, ok in zip(parts, good, strict=True) if ok]


def _place(
    veins: Veins,
    turn: Turn,
    first: np.ndarray,
    box: tuple[slice, ...],
    affine: np.ndarray,
    shape: tuple[int, ...],
    frame: Grid,
):
    """The same veins on the grid of the file, with points in scanner coordinates."""
    to_file = turn.to_file
    whole = [shape[axis] for axis in turn.order]
    sides = np.array(frame.voxel_size)

    def unturned(data: np.ndarray):
        full = np.zeros(whole, data.dtype)
        full[box] = data
        return turn.undo(full)

    segments = []
    for one in veins.segments:
        voxels = apply_affine(to_file, one.voxels + first)
        direction = turn.directions(one.direction / sides, affine)
        segments.append(replace(one, points=apply_affine(affine, voxels), voxels=voxels, direction=direction))
    return replace(
        veins,
        share=unturned(veins.share),
        mask=unturned(veins.mask),
        labels=unturned(veins.labels),
        skeleton=unturned(veins.skeleton),
        numbers=unturned(veins.numbers),
        segments=tuple(segments),
    )


def _named(veins: Veins, mask: np.ndarray, grid: Grid, to_template: Sequence):
    """The same veins with names and labels."""
    if not veins.segments:
        return veins
    deep = depth_in_slab(ndimage.binary_fill_holes(mask), grid.voxel_size, CORTICAL_MM + 1)
    depths = [float(np.median(deep[s.passes(mask.shape)])) for s in veins.segments]
    names = name_segments(
        [s.points for s in veins.segments],
        depths,
        [float(np.median(s.diameter_mm)) for s in veins.segments],
        to_template,
    )
    segments = tuple(replace(s, name=name) for s, name in zip(veins.segments, names, strict=True))
    return replace(veins, segments=segments, labels=labels_of(segments, veins.numbers, veins.mask))


def labels_of(segments: Sequence[Segment], numbers: np.ndarray, mask: np.ndarray):
    """Keys of `NAMES` of the segments that the voxels of a mask belong to."""
    index = {name: key for key, name in NAMES.items()}
    keys = np.array([0, *(index[s.name] for s in segments)], np.int16)
    return keys[numbers] * mask
