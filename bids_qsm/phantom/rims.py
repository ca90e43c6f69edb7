"""Lesions with a paramagnetic rim: ellipsoids with thin, incomplete rims, drawn finer than the voxel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bids_qsm.phantom.head import rigid
from bids_qsm.phantom.lesions import Lesion, room_in
from bids_qsm.phantom.skull import soft
from bids_qsm.phantom.vessels import average

if TYPE_CHECKING:
    from bids_qsm.phantom.head import Head

SORTS = ('rim', 'solid', 'demyelinated', 'plain')
"""What a lesion is: with a rim; a raised core with a sharp edge; a raised core with an edge that fades over
2 mm; hardly raised, as most lesions are."""
FADE = 2.0
"""Width (mm) of the edge of demyelinated lesions."""
_CORE = {'rim': (0.0, 0.04), 'solid': (0.03, 0.08), 'demyelinated': (0.02, 0.05), 'plain': (0.0, 0.02)}
"""Least and most susceptibility (ppm) that the whole of a lesion has above the tissue."""
DIAMETERS, THICKNESS, RIM, COMPLETE = (4.0, 15.0), (0.5, 2.0), (0.02, 0.10), (0.4, 1.0)
"""Ranges of the longest diameter and the thickness of a rim (mm), of its susceptibility (ppm) and of the
share of the surface that it covers."""


@dataclass(frozen=True)
class RimLesion(Lesion):
    """An ellipsoid; ``radius`` is its longest half axis, and ``rim`` the susceptibility (ppm) of its rim.

    ``ratios`` are the half axes over the radius, ``turn`` the rotation (degrees about x, y, z) from its axes
    to those of space. The rim is ``thickness`` mm thick, lies inside the wall and covers the share
    ``completeness`` of the surface: all but caps around the directions ``gaps``. ``fade`` is the width (mm)
    of the edge of the whole; 0 is a sharp one.
    """

    ratios: tuple[float, ...] = (1.0, 1.0, 1.0)
    turn: tuple[float, ...] = (0.0, 0.0, 0.0)
    thickness: float = 1.0
    completeness: float = 1.0
    gaps: tuple[tuple[float, ...], ...] = ((0.0, 0.0, 1.0),)
    fade: float = 0.0

    @property
    def sort(self):
        """One of SORTS."""
        if self.rim:
            return 'rim'
        return 'demyelinated' if self.fade else 'solid' if self.chi > _CORE['plain'][1] else 'plain'

    def _along_axes(self, points: np.ndarray):
        """Points (..., 3) relative to the centre along the axes, in half axes; and the half axes (mm)."""
        half = (self.radius * np.array(self.ratios)).astype(points.dtype)
        away = points - np.array(self.centre, points.dtype)
        return away @ rigid(self.turn)[:3, :3].astype(points.dtype) / half, half

    def signed(self, points: np.ndarray):
        """Distance (mm) of points (..., 3) to the wall, negative inside; exact near the wall."""
        unit, half = self._along_axes(points)
        norm = np.linalg.norm(unit, axis=-1)
        slope = np.maximum(np.linalg.norm(unit / half, axis=-1), 1e-6)
        return norm * (norm - 1) / slope

    def covered(self, points: np.ndarray):
        """Whether the part of the wall next to points (..., 3) has a rim."""
        if self.completeness >= 1:
            return np.ones(points.shape[:-1], bool)
        # area of the wall by direction, for caps that hold just the share without a rim
        n = np.arange(4000) + 0.5
        height, angle = 1 - 2 * n / len(n), np.pi * (1 + 5**0.5) * n
        flat = np.sqrt(1 - height**2)
        sphere = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)
        area = np.linalg.norm(sphere / np.array(self.ratios), axis=-1)
        nearness = (sphere @ np.array(self.gaps).T).max(-1)
        order = np.argsort(nearness)
        at = np.searchsorted(np.cumsum(area[order]), self.completeness * area.sum())
        unit, _ = self._along_axes(points)
        toward = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
        return (toward @ np.array(self.gaps, points.dtype).T).max(-1) <= nearness[order[at]]

    def shares(self, points: np.ndarray, spacing: float):
        """Shares of lesion and of rim in cells of side ``spacing`` (mm) at points (..., 3).

        A rim thinner than the cell keeps its volume.
        """
        wall = self.signed(points).astype(np.float32)
        size = np.float32(spacing)
        rim = soft(wall, size) - soft(wall + np.float32(self.thickness), size)
        inside = soft(wall + np.float32(self.fade / 2), np.float32(max(spacing, self.fade)))
        return inside, rim * self.covered(points) if self.rim else 0 * rim

    def rim_shares(self, shape: Sequence[int], affine: np.ndarray, *, factor: int = 3):
        """Share of rim (float32) of the voxels of a grid in the space of the lesion."""
        found = np.zeros(shape, np.float32)
        if not self.rim:
            return found
        steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
        middle = np.linalg.inv(affine) @ [*self.centre, 1]
        low, high = (
            np.clip(np.rint(middle[:3] + side * (self.radius + 2) / steps).astype(int), 0, shape)
            for side in (-1, 1)
        )
        at = np.stack(
            np.meshgrid(
                *(
                    (np.arange(a * factor, b * factor) + 0.5) / factor - 0.5
                    for a, b in zip(low, high, strict=True)
                ),
                indexing='ij',
            ),
            -1,
        )
        points = (at @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
        _, rim = self.shares(points, float(np.prod(steps) ** (1 / 3)) / factor)
        found[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = average(
            np.ascontiguousarray(rim, np.float32), factor
        )
        return found


def draw_one(rng: np.random.Generator, sort: str, centre: Sequence[float] = (0.0, 0.0, 0.0)):
    """A lesion of a sort, of random size, shape and contrast, at a centre (mm)."""
    radius = rng.uniform(*DIAMETERS) / 2
    gaps = rng.standard_normal((int(rng.integers(1, 3)), 3))
    gaps /= np.linalg.norm(gaps, axis=1, keepdims=True)
    has_rim = sort == 'rim'
    x, y, z = map(float, centre)
    return RimLesion(
        (x, y, z),
        float(radius),
        float(rng.uniform(*_CORE[sort])),
        float(rng.uniform(*RIM)) if has_rim else 0.0,
        ratios=(1.0, *map(float, rng.uniform(0.65, 1, 2))),
        turn=tuple(map(float, rng.uniform(0, 180, 3))),
        thickness=float(rng.uniform(*THICKNESS)),
        completeness=float(rng.uniform(*COMPLETE)) if has_rim else 1.0,
        gaps=tuple(tuple(map(float, gap)) for gap in gaps),
        fade=FADE if sort == 'demyelinated' else 0.0,
    )


def neighbour(rng: np.random.Generator, one: RimLesion, sort: str):
    """Another lesion that overlaps ``one``, so that a mask of both is one piece: a confluent pair."""
    other = draw_one(rng, sort)
    way = rng.standard_normal(3)
    way /= np.linalg.norm(way)
    # along the line of their centres both reach less far than the longest half axis
    reach = sum(_reach(lesion, way) for lesion in (one, other))
    x, y, z = map(float, one.centre + rng.uniform(0.8, 0.97) * reach * way)
    return replace(other, centre=(x, y, z))


def _reach(lesion: RimLesion, way: np.ndarray):
    """Distance (mm) from the centre to the wall in a direction."""
    unit, _ = lesion._along_axes(lesion.centre + way)
    return 1 / np.linalg.norm(unit)


def scatter_rims(
    seed: int,
    head: 'Head',
    numbers: dict[str, int],
    *,
    centre: Sequence[float],
    half: Sequence[float],
    depth: float = 1.0,
    apart: float = 4.0,
):
    """Place lesions at random in the white matter of a box of a head, also next to ventricles and cortex.

    Parameters
    ----------
    seed : int
    head : Head
    numbers : dict of str to int
        How many of each of SORTS.
    centre, half : sequence of float
        Middle and half sides (mm, template) of the box; lesions lie inside it.
    depth, apart : float
        Least distance (mm) to the surface of the brain, and from wall to wall.

    Returns
    -------
    tuple of RimLesion
        As many as find a place.
    """
    rng = np.random.default_rng([seed, 17])
    places, room, white = room_in(head, depth, apart)
    inner = (np.abs(places - np.array(centre)) + 8 < np.array(half)).all(1)
    found = []
    for sort in [name for name, number in numbers.items() for _ in range(number)]:
        lesion = draw_one(rng, sort)
        free = np.flatnonzero(inner & (room >= 0.8 * lesion.radius) & (white > 0.7))
        if not len(free):
            continue
        x, y, z = map(float, places[rng.choice(free)] + rng.uniform(-0.5, 0.5, 3))
        found.append(replace(lesion, centre=(x, y, z)))
        away = np.linalg.norm(places - (x, y, z), axis=-1)
        room = np.minimum(room, away - lesion.radius - apart)
    return tuple(found)
