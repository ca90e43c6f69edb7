"""Midbrains whose nigrosome-1 is present, thinned or gone on either side, with known truth.

>>> Lens((0, 0, 0), np.eye(3)).volume.round(2)
6.28
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.families import FAMILIES, Family, draw_solids
from bids_qsm.phantom.fine import PAINTED, Bed
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.skull import soft

SIZE = (1.0, 2.0, 6.0)
"""Thickness, height and length (mm) of the lens."""
CHI = -0.06
"""Susceptibility (ppm) of the lens less that of the substantia nigra."""
DROP = 15.0
"""R2* (1/s at 3 T) that the lens lacks: about that of its iron in the nuclei of the digital head."""
_STEP = 0.25
_NEAR = ('SN', 'RN', 'STN')


@dataclass(frozen=True)
class Lens:
    """An ellipsoid: centre (mm), axes (columns: across the plate, height, length), size (mm), added ppm."""

    centre: tuple[float, ...]
    axes: np.ndarray
    size: tuple[float, ...] = SIZE
    chi: float = CHI

    @property
    def volume(self):
        """Volume (mm^3)."""
        return float(np.pi / 6 * np.prod(self.size))

    def share(self, points: np.ndarray, spacing: float):
        """Share of cells around ``points`` (mm, last axis) that lies in the lens."""
        half = np.asarray(self.size) / 2
        offset = ((points - np.asarray(self.centre)) @ self.axes) / half
        radius = np.linalg.norm(offset, axis=-1)
        # distance to the surface along the ray, in the unit of the thickness where it matters most
        slope = np.linalg.norm(offset / half, axis=-1) / np.maximum(radius, 1e-6)
        return soft(((radius - 1) / np.maximum(slope, 1e-6)).astype(np.float32), np.float32(spacing))

    def moved(self, matrix: np.ndarray):
        """The same lens in other coordinates, ``matrix`` (4, 4) a rigid motion."""
        centre = matrix[:3, :3] @ np.asarray(self.centre) + matrix[:3, 3]
        return replace(self, centre=tuple(map(float, centre)), axes=matrix[:3, :3] @ self.axes)


def draw_lens(put: Mapping[str, np.ndarray], lens: Lens, affine: np.ndarray):
    """Draw a lens, in place, into the channels chi and r2star on the grid ``affine``."""
    shape = put['chi'].shape
    steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
    middle = np.linalg.inv(affine) @ [*lens.centre, 1]
    reach = (max(lens.size) / 2 + 1) / steps
    box = tuple(
        slice(int(np.clip(m - r, 0, n)), int(np.clip(m + r + 1, 0, n)))
        for m, r, n in zip(middle, reach, shape, strict=False)
    )
    index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing='ij'), -1)
    share = lens.share(index @ affine[:3, :3].T + affine[:3, 3], float(np.prod(steps) ** (1 / 3)))
    put['chi'][box] += share * np.float32(lens.chi)
    if 'r2star' in put:
        put['r2star'][box] += share * np.float32(DROP * lens.chi / abs(CHI))


def lens_in(solids: Sequence[atlas.Shape], side: str, rng: np.random.Generator, *, tilt: float = 10.0):
    """Lens at a random place in the dorsolateral posterior part of a nigra, below the red nucleus.

    Parameters
    ----------
    solids : sequence of Shape
        Nuclei of a person, in template space.
    side : str
        L or R.
    rng : numpy.random.Generator
    tilt : float
        Largest angle (degrees) between its length and the long axis of the nigra in the axial plane.

    Returns
    -------
    Lens
        Of all places tried the one that lies deepest in the nigra, of those first that have a rim of it.
    """
    nigra = _points([s for s in solids if body_of(s.region) == 'SN' and s.hemisphere == side])
    red = _points([s for s in solids if s.region == 'RN' and s.hemisphere == side])
    top = red[:, 2].min() + 0.5
    low = nigra[(nigra[:, 2] < top) & (nigra[:, 2] > top - 3.5)]
    middle = low[:, :2].mean(0)
    along = np.linalg.eigh(np.cov((low[:, :2] - middle).T))[1][:, 1]
    along = along if along[1] < 0 else -along  # to the back
    u = (low[:, :2] - middle) @ along
    free = low[(u > np.quantile(u, 0.62)) & (u < np.quantile(u, 0.85))]
    best, chosen = -1.0, None
    for _ in range(60):
        turn = np.radians(rng.uniform(-tilt, tilt, 2))
        ahead = _turned(np.array([*along, 0.0]), turn[0])
        up = np.array([0.0, 0.0, 1.0])
        ahead = np.cos(turn[1]) * ahead + np.sin(turn[1]) * up
        across = np.cross(up, ahead)
        across /= np.linalg.norm(across)
        axes = np.stack([across, np.cross(ahead, across), ahead], 1)
        lens = Lens(tuple(free[rng.integers(len(free))] + rng.uniform(-_STEP, _STEP, 3) / 2), axes)
        # with a rim of half a millimetre
        wide = replace(lens, size=tuple(s + 1.0 for s in SIZE))
        held = wide.share(nigra, _STEP).sum() * _STEP**3 / wide.volume
        if held > best:
            best, chosen = held, lens
        if held > 0.93:
            break
    return chosen


def _turned(vector: np.ndarray, angle: float):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1], vector[2]])


def _points(group: Sequence[atlas.Shape]):
    """Points of a lattice within any of the solids."""
    low = np.min([s.centre - s.reach for s in group], 0)
    high = np.max([s.centre + s.reach for s in group], 0)
    axes = [np.arange(a, b, _STEP) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    return points[np.any([s.distance(points) <= 1 for s in group], 0)]


@dataclass(frozen=True)
class Midbrain(Bed):
    """Nuclei of the midbrain, with lenses, in a bed of white matter.

    Attributes
    ----------
    solids : tuple of Shape
        In scanner space.
    lenses : tuple of Lens
    levels : dict of str to float
        Factor on the susceptibility of a nucleus, by body and side, such as ``('SN', 'L')``.
    fine, broad : float
        Texture (relative standard deviation) of the nuclei at 1.5 and at 4 mm.
    """

    solids: tuple[atlas.Shape, ...] = ()
    lenses: tuple[Lens, ...] = ()
    levels: Mapping[tuple[str, str], float] = field(default_factory=dict)
    fine: float = 0.05
    broad: float = 0.08

    def paint(self, shape: tuple[int, ...], affine: np.ndarray):
        """Tissue on a grid: the channels PAINTED."""
        put = super().paint(shape, affine)
        textured = [(self.fine, 1.5), (self.broad, 4.0)]
        grain = 1 + sum(
            amount * replace(self, grain=mm, seed=self.seed + 7 * n)._texture(shape, affine)
            for n, (amount, mm) in enumerate(textured, 1)
        )
        spacing = float(np.prod(np.sqrt((affine[:3, :3] ** 2).sum(0))) ** (1 / 3))
        back = np.linalg.inv(affine)
        for solid in self.solids:
            corners = solid.centre + solid.reach * (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1)
            at = corners @ back[:3, :3].T + back[:3, 3]
            box = tuple(
                slice(int(np.clip(a - 2, 0, n)), int(np.clip(b + 3, 0, n)))
                for a, b, n in zip(at.min(0), at.max(0), shape, strict=True)
            )
            index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing='ij'), -1)
            points = (index @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
            away = (1 - solid.distance(points.reshape(-1, 3)).reshape(points.shape[:3])) * solid.radius
            share = np.clip(0.5 + away / spacing, 0, 1).astype(np.float32)
            kind = t.NUCLEI[solid.region]
            factor = self.levels.get((body_of(solid.region), solid.hemisphere), 1.0)
            for name in PAINTED[:-1]:
                value = getattr(kind, name)
                if name == 'chi':
                    value = value * factor * grain[box]
                elif name == 'r2star':
                    value = value * (0.5 + 0.5 * factor)
                put[name][box] += share * (value - put[name][box])
        for lens in self.lenses:
            draw_lens(put, lens, affine)
        return put


@dataclass(frozen=True)
class NigraHead(Head):
    """A head with lenses, in scanner space, that are drawn on whatever grid it is sampled."""

    lenses: tuple[Lens, ...] = ()

    def sample(self, shape: tuple[int, ...], affine: np.ndarray, names: Sequence[str] = t.CHANNELS):
        """Tissue on a scanner grid, by name, see Head."""
        found = super().sample(shape, affine, names)
        if 'chi' in found:
            for lens in self.lenses:
                draw_lens(found, lens, affine)
        return found


def draw_midbrain(
    seed: int,
    lost: Mapping[str, float],
    *,
    family: str | Family = 'surface',
    iron: float = 1.0,
    variation: float = 0.1,
) -> Midbrain:
    """Midbrain of a person.

    Parameters
    ----------
    seed : int
        Of anatomy, texture and the places of the lenses.
    lost : dict of str to float
        Share of the contrast of the lens that is lost, by side: ``{'L': 1, 'R': 0.5}``.
    family : str or Family
        Of the shapes and poses of the nuclei.
    iron : float
        Factor on the susceptibility of the nigra of both sides.
    variation : float
        Relative standard deviation of susceptibility between people; 0.3 of it between sides.
    """
    rng = np.random.default_rng([seed, 31])
    solids = draw_solids(FAMILIES[family] if isinstance(family, str) else family, rng)
    solids = tuple(s for s in solids if body_of(s.region) in _NEAR)
    levels = {}
    for body in _NEAR:
        own = (iron if body == 'SN' else 1.0) * (1 + variation * rng.standard_normal())
        levels |= {(body, side): own * (1 + 0.3 * variation * rng.standard_normal()) for side in 'LR'}
    lenses = []
    for side in 'LR':
        lens = lens_in(solids, side, rng)
        left = 1 - lost.get(side, 0.0)
        if left > 0:
            lenses.append(replace(lens, chi=CHI * left))
    return Midbrain((), texture=0.004, seed=seed, solids=solids, lenses=tuple(lenses), levels=levels)


def midbrain_labels(
    midbrain: Midbrain,
    shape: tuple[int, ...],
    affine: np.ndarray,
    *,
    off_mm: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Labels of the nuclei as a segmentation may find them.

    Parameters
    ----------
    off_mm : float
        Standard deviation (mm) of the place of each nucleus along each axis.

    Returns
    -------
    dseg : ndarray of int32
    labels : DataFrame
        Columns index, name, hemisphere, region.
    """
    rng = rng or np.random.default_rng(0)
    shift = {(b, s): off_mm * rng.standard_normal(3) for b in _NEAR for s in 'LR'}
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1).reshape(-1, 3)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    label, nearest = np.zeros(len(points), np.int32), np.ones(len(points))
    for solid in midbrain.solids:
        moved = points - shift[body_of(solid.region), solid.hemisphere]
        near = np.flatnonzero((np.abs(moved - solid.centre) <= solid.reach).all(1))
        distance = solid.distance(moved[near].astype(np.float32))
        wins = distance <= nearest[near]
        label[near[wins]], nearest[near[wins]] = solid.index, distance[wins]
    names = atlas.labels()
    return label.reshape(shape), names[names['index'].isin({s.index for s in midbrain.solids})]
