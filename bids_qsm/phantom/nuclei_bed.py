"""Deep grey nuclei in a bed of white matter, with lenses of other tissue in them, to be drawn finely.

>>> round(Lens((0, 0, 0), np.eye(3), (1.0, 2.0, 6.0)).volume, 2)
6.28
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.fine import PAINTED, Bed
from bids_qsm.phantom.skull import soft

JOINED_MM = 1.0
"""Parts of a nucleus are joined as if each were as soft as this at its border."""


@dataclass(frozen=True)
class Lens:
    """An ellipsoid that adds susceptibility (ppm) and R2* (1/s at 3 T) to the tissue it lies in.

    ``axes`` are unit vectors (columns) along its ``size`` (mm, whole axes); ``centre`` is in mm.
    """

    centre: tuple[float, ...]
    axes: np.ndarray
    size: tuple[float, ...]
    chi: float = 0.0
    r2star: float = 0.0

    @property
    def volume(self):
        """Volume (mm^3)."""
        return float(np.pi / 6 * np.prod(self.size))

    def share(self, points: np.ndarray, spacing: float):
        """Share of cells around ``points`` (mm, last axis) that lies in the lens."""
        half = np.asarray(self.size) / 2
        offset = ((points - np.asarray(self.centre)) @ self.axes) / half
        radius = np.linalg.norm(offset, axis=-1)
        # distance to the surface, by the slope of the radius there
        slope = np.linalg.norm(offset / half, axis=-1) / np.maximum(radius, 1e-6)
        return soft(((radius - 1) / np.maximum(slope, 1e-6)).astype(np.float32), np.float32(spacing))


def draw_lens(
    put: Mapping[str, np.ndarray], lens: Lens, affine: np.ndarray, within: np.ndarray | None = None
):
    """Draw a lens, in place, into the channels chi and r2star on the grid ``affine``.

    ``within`` is the share of each cell that it may fill.
    """
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
    if within is not None:
        share = share * within[box]
    put['chi'][box] += share * np.float32(lens.chi)
    if 'r2star' in put:
        put['r2star'][box] += share * np.float32(lens.r2star)


@dataclass(frozen=True)
class NucleiBed(Bed):
    """Nuclei, with lenses, in a bed of one tissue.

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
        inside = np.zeros(shape, np.float32)
        bodies = dict.fromkeys((body_of(s.region), s.hemisphere) for s in self.solids)
        for body in bodies:
            parts = [s for s in self.solids if (body_of(s.region), s.hemisphere) == body]
            box, points = _around(parts, shape, affine)
            away = np.stack([(1 - s.distance(points)) * s.radius for s in parts])
            # the union, without the cleft that surfaces of neighbours leave between them
            whole = np.logaddexp.reduce(away / JOINED_MM, 0) * JOINED_MM
            share = np.clip(0.5 + whole / spacing, 0, 1).astype(np.float32).reshape(inside[box].shape)
            inside[box] = np.maximum(inside[box], share)
            nearest = away.argmax(0).reshape(share.shape)
            factor = self.levels.get(body, 1.0)
            for name in PAINTED[:-1]:
                value = np.array([getattr(t.NUCLEI[s.region], name) for s in parts], np.float32)[nearest]
                if name == 'chi':
                    value = value * np.float32(factor) * grain[box]
                elif name == 'r2star':
                    value = value * np.float32(0.5 + 0.5 * factor)
                put[name][box] += share * (value - put[name][box])
        for lens in self.lenses:
            draw_lens(put, lens, affine, inside)
        return put


def _around(parts: Sequence[atlas.Shape], shape: tuple[int, ...], affine: np.ndarray):
    """Box of a grid around solids, and its points (mm), shape (n, 3)."""
    corner = np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1
    corners = np.concatenate([s.centre + s.reach * corner for s in parts])
    back = np.linalg.inv(affine)
    at = corners @ back[:3, :3].T + back[:3, 3]
    box = tuple(
        slice(int(np.clip(a - 2, 0, n)), int(np.clip(b + 3, 0, n)))
        for a, b, n in zip(at.min(0), at.max(0), shape, strict=True)
    )
    index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing='ij'), -1)
    return box, (index.reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)


def labels_of(
    bed: NucleiBed,
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
    bodies = dict.fromkeys((body_of(s.region), s.hemisphere) for s in bed.solids)
    shift = {body: off_mm * rng.standard_normal(3) for body in bodies}
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1).reshape(-1, 3)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    label, nearest = np.zeros(len(points), np.int32), np.ones(len(points))
    for solid in bed.solids:
        moved = points - shift[body_of(solid.region), solid.hemisphere]
        near = np.flatnonzero((np.abs(moved - solid.centre) <= solid.reach).all(1))
        distance = solid.distance(moved[near].astype(np.float32))
        wins = distance <= nearest[near]
        label[near[wins]], nearest[near[wins]] = solid.index, distance[wins]
    names = atlas.labels()
    return label.reshape(shape), names[names['index'].isin({s.index for s in bed.solids})]
