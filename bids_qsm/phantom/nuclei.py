"""The deep grey nuclei of a digital head: tissue and drawing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.anatomy import atlas
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.families import BODIES, Family
from bids_qsm.phantom.sampling import Volume, near

CLEARED = 1.5
_BODY = {region: body for body, regions in BODIES.items() for region in regions}


@dataclass(frozen=True)
class Nucleus:
    """One solid of a nucleus as drawn: susceptibility (ppm), share of each voxel around it, texture.

    ``origin`` (mm) is the template coordinate of the first node of ``amount`` and ``grain``.
    """

    index: int
    region: str
    chi: float
    origin: np.ndarray
    amount: np.ndarray
    grain: np.ndarray


def clear(volume: Volume, solids: Sequence[atlas.Shape], names: Sequence[str]):
    """Put white matter, in place, where the template has its nuclei, so that moved ones leave no trace.

    ``names`` are the channels to change. The borders of the template's nuclei are wide, so that
    what lies within CLEARED mm of a solid goes too.
    """
    put = t.channels(volume.data)
    for e in solids:
        box, points = near(volume, e.centre, e.reach + CLEARED + 2 * volume.spacing)
        away = (e.distance(points) - 1) * e.radius - CLEARED
        amount = np.clip(0.5 - away / volume.spacing, 0, 1)
        amount *= np.clip(1 - put['csf'][box], 0, 1) * put['brain'][box]
        for name in names:
            put[name][box] += amount * (getattr(t.TISSUES['white'], name) - put[name][box])


def draw_nuclei(
    volume: Volume,
    shapes: Sequence[atlas.Shape],
    texture: Callable,
    rng: np.random.Generator,
    variation: float,
    family: Family,
):
    """Draw nuclei into the brain, with the susceptibility of this person.

    Parameters
    ----------
    volume : Volume
        Channels of `tissue.CHANNELS`, changed in place.
    shapes : sequence of Shape
    texture : callable
        Random field of unit variance on the lattice, by its smoothness (mm).
    rng : numpy.random.Generator
    variation : float
        Relative standard deviation of susceptibility between persons; that between the sides of a person,
        by label, is 0.3 of it.
    family : Family
        Whose texture, gradients and R2* the nuclei have.

    Returns
    -------
    tuple of Nucleus
    """
    put = t.channels(volume.data)
    fine, broad = texture(1.5), texture(4.0)
    person = {name: 1 + variation * rng.standard_normal() for name in t.NUCLEI}
    sides = {n: 1 + 0.3 * variation * rng.standard_normal() for n in atlas.labels()['index']}
    own = own_texture(family, texture, rng)
    parts, total = [], np.zeros(volume.data.shape[:3], np.float32)
    for e in shapes:
        box, points = near(volume, e.centre, e.reach + 2 * volume.spacing)
        # a soft border of one voxel keeps the volume of a nucleus on any lattice
        amount = np.clip(0.5 + (1 - e.distance(points)) * e.radius / volume.spacing, 0, 1)
        amount *= np.clip(1 - put['csf'][box], 0, 1) * put['brain'][box]
        total[box] += amount
        grain = 1 + 0.05 * fine[box] + 0.08 * broad[box]
        if own is not None:
            grain += own.grain(e, box, points)
        parts.append((e, box, amount, grain))
    np.maximum(total, 1, out=total)
    before = volume.data.copy()
    nuclei = []
    for e, box, amount, grain in parts:
        amount /= total[box]
        kind, factor = t.NUCLEI[e.region], person[e.region] * sides[e.index]
        first = volume.origin + volume.spacing * np.array([b.start for b in box])
        nucleus = Nucleus(e.index, e.region, kind.chi * factor, first, amount, grain)
        values = kind._replace(chi=kind.chi * factor + abs(kind.chi) * (grain - 1))
        # about half of R2* comes from iron
        relaxing = grain if own is None or not family.free_r2star else own.relaxing(e, box)
        values = values._replace(r2star=kind.r2star * (0.5 + 0.5 * factor) * relaxing)
        old = t.channels(before[box])
        for name in ('chi', 'r2star', 'density', 'r1', *(('t1w',) if family.t1w == 'true' else ())):
            put[name][box] += amount * (getattr(values, name) - old[name])
        nuclei.append(nucleus)
    return tuple(nuclei)


@dataclass(frozen=True)
class _OwnTexture:
    """Texture, gradients and R2* of the nuclei of one person of a family."""

    family: Family
    fields: tuple[np.ndarray, ...]
    directions: dict
    levels: dict

    def grain(self, solid: atlas.Shape, box: tuple[slice, ...], points: np.ndarray):
        """Relative susceptibility of a solid over its mean, less 1."""
        along = ((points - solid.centre) / solid.reach) @ self.directions[_body_of(solid)]
        return self.family.grain * self.fields[0][box] + self.family.gradient * np.clip(along, -1, 1)

    def relaxing(self, solid: atlas.Shape, box: tuple[slice, ...]):
        """Relative R2* of a solid."""
        return self.levels[_body_of(solid)] * (1 + 0.08 * self.fields[1][box])


def _body_of(solid: atlas.Shape):
    return _BODY.get(solid.region, solid.region), solid.hemisphere


def own_texture(family: Family, texture: Callable, rng: np.random.Generator):
    """Return texture, gradients and R2* of a person, or None where the family has none of its own."""
    if not (family.grain or family.gradient or family.free_r2star):
        return None
    bodies = [(body, side) for body in (*BODIES, *t.NUCLEI) for side in ('L', 'R')]
    # mostly from front to back, as in the putamen
    directions = {body: rng.normal((0, -0.5, 0), (0.3, 0.3, 0.3)) for body in bodies}
    levels = {body: 1 + 0.12 * rng.standard_normal() for body in bodies}
    return _OwnTexture(family, (texture(1.2), texture(1.5)), directions, levels)
