"""Midbrains whose nigrosome-1 is present, thinned or gone on either side, with known truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.families import FAMILIES, Family, draw_solids
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.nuclei_bed import Lens, NucleiBed, draw_lens

SIZE = (1.0, 2.0, 6.0)
"""Thickness, height and length (mm) of the lens. Assumed, as its susceptibility."""
CHI = -0.06
"""Susceptibility (ppm) of the lens less that of the substantia nigra."""
DROP = -15.0
"""R2* (1/s at 3 T) that the lens adds: it lacks about half the iron of the nigra."""
_STEP = 0.25
_NEAR = ('SN', 'RN', 'STN')


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
    aside = np.array([-along[1], along[0]])
    aside = aside if (aside[0] < 0) == (side == 'R') else -aside
    v = (low[:, :2] - middle) @ aside
    free = low[(u > np.quantile(u, 0.62)) & (u < np.quantile(u, 0.85)) & (v > -_STEP)]
    best, chosen = -1.0, None
    for _ in range(60):
        turn = np.radians(rng.uniform(-tilt, tilt, 2))
        ahead = _turned(np.array([*along, 0.0]), turn[0])
        up = np.array([0.0, 0.0, 1.0])
        ahead = np.cos(turn[1]) * ahead + np.sin(turn[1]) * up
        across = np.cross(up, ahead)
        across /= np.linalg.norm(across)
        axes = np.stack([across, np.cross(ahead, across), ahead], 1)
        centre = free[rng.integers(len(free))] + rng.uniform(-_STEP, _STEP, 3) / 2
        lens = Lens(tuple(map(float, centre)), axes, SIZE, CHI, DROP)
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


def with_nigrosomes(head: Head, lost: Mapping[str, float], seed: int) -> NigraHead:
    """The same head with a lens in each nigra, less the share of its contrast that is lost on a side."""
    rng = np.random.default_rng([seed, 33])
    lenses = []
    for side in 'LR':
        lens = lens_in(head.shapes, side, rng)
        left = 1 - lost.get(side, 0.0)
        if left > 0:
            middle = np.asarray(lens.centre)
            ends = head.to_scanner(np.stack([middle, *(middle + lens.axes.T)]))
            # the nearest turn to what pose and warp make of the axes
            u, _, v = np.linalg.svd((ends[1:] - ends[0]).T)
            centre = tuple(map(float, ends[0]))
            lenses.append(replace(lens, centre=centre, axes=u @ v, chi=CHI * left, r2star=DROP * left))
    known = {one.name: getattr(head, one.name) for one in fields(Head)}
    return NigraHead(**known, lenses=tuple(lenses))


def draw_midbrain(
    seed: int,
    lost: Mapping[str, float],
    *,
    family: str | Family = 'surface',
    iron: float = 1.0,
    variation: float = 0.1,
) -> NucleiBed:
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
            lenses.append(replace(lens, chi=CHI * left, r2star=DROP * left))
    return NucleiBed((), texture=0.004, seed=seed, solids=solids, lenses=tuple(lenses), levels=levels)
