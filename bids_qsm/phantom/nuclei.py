"""The deep grey nuclei of a digital head: where a person's lie, what they are made of, and their drawing."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from nilearn import datasets

from bids_qsm.anatomy import atlas
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.sampling import near

TOGETHER = {
    'GP': ('GPe', 'GPi'),
    'STN': ('STN',),
    'SN': ('SNc', 'SNr', 'Parabrachial Pigmented'),
    'RN': ('RN',),
}
"""Structures that `displaced` moves, and the regions of the atlas that go with each."""

CANDIDATES = 200
LATTICE = 0.8
"""Of the points that overlaps are counted on (mm)."""
CROWDED = 0.1
"""Share of its volume that a nucleus or its neighbour may lose by the move, to each other or to CSF."""


@dataclass(frozen=True)
class Nucleus:
    """One ellipsoid of a nucleus as drawn: susceptibility (ppm), share of each voxel around it, texture.

    ``origin`` (mm) is the template coordinate of the first node of ``amount`` and ``grain``.
    """

    index: int
    region: str
    chi: float
    origin: np.ndarray
    amount: np.ndarray
    grain: np.ndarray


def displaced(rng, nuclei_mm):
    """Return the atlas's ellipsoids with GP, STN, SN and RN of each side moved, each its own way.

    A displacement is drawn uniformly from a ball; it is drawn anew where the nucleus would run into CSF or
    into its neighbours (the ones moved before it where they now lie), as no brain has that.

    Parameters
    ----------
    rng : numpy.random.Generator
    nuclei_mm : float
        Radius of the ball (mm); at 0 every nucleus stays.

    Returns
    -------
    tuple of Ellipsoid
        In the order of `atlas.ellipsoids`.
    """
    shapes = atlas.ellipsoids()
    if nuclei_mm == 0:
        return tuple(shapes)
    at_rest = tuple(shapes)
    for side in ('L', 'R'):
        waiting = list(TOGETHER)
        for name in TOGETHER:
            waiting.remove(name)
            group = [n for n, e in enumerate(shapes) if _belongs(e, side, [name])]
            # those that move later make room for this one
            others = [n for n, e in enumerate(shapes) if n not in group and not _belongs(e, side, waiting)]
            step = _step(rng, nuclei_mm, at_rest, shapes, group, others)
            for n in group:
                shapes[n] = replace(shapes[n], centre=shapes[n].centre + step)
    return tuple(shapes)


def _belongs(ellipsoid, side, names):
    return ellipsoid.hemisphere == side and any(ellipsoid.region in TOGETHER[name] for name in names)


def _step(rng, limit, at_rest, shapes, group, others):
    """Displacement (mm) of ``group``: of the candidates the first that fits, or the one that fits best."""
    direction = rng.standard_normal((CANDIDATES, 3))
    length = limit * rng.uniform(size=(CANDIDATES, 1)) ** (1 / 3)
    candidates = direction / np.linalg.norm(direction, axis=1, keepdims=True) * length
    points = _inside([at_rest[n] for n in group])
    rest = _crowding(points, [at_rest[n] for n in others])
    around = [shapes[n] for n in others]
    best = None
    for step in candidates:
        more = (_crowding(points + step, around) - rest).max()
        if best is None or more < best[0]:
            best = more, step
        if more <= CROWDED:
            break
    return best[1]


def _inside(group):
    """Points (n, 3) of a lattice within any of the ellipsoids."""
    low = np.min([e.centre - e.reach for e in group], 0)
    high = np.max([e.centre + e.reach for e in group], 0)
    axes = [np.arange(a, b, LATTICE) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    return points[np.any([e.distance(points) <= 1 for e in group], 0)]


def _crowding(points, others):
    """Share of a nucleus in CSF, then the share of it, or of each other one if smaller, that they share."""
    solid, affine = _solid()
    index = np.round((points - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
    shares = [1 - solid[tuple(index.T)].mean()]
    for e in others:
        close = points[(np.abs(points - e.centre) <= e.reach).all(1)]
        smaller = min(len(points), e.volume / LATTICE**3)
        shares.append((e.distance(close) <= 1).sum() / smaller)
    return np.array(shares)


@lru_cache(maxsize=1)
def _solid():
    """Where the template is grey or white matter rather than CSF (bool), and its affine."""
    grey, white = (
        load(resolution=1) for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    return np.asarray(grey.dataobj) + np.asarray(white.dataobj) > 0.5, grey.affine


def draw_nuclei(volume, shapes, texture, rng, variation):
    """Draw nuclei into the brain, each with this person's susceptibility.

    Parameters
    ----------
    volume : Volume
        Channels of `tissue.CHANNELS`, changed in place.
    shapes : sequence of Ellipsoid
    texture : callable
        Random field of unit variance on the lattice, by its smoothness (mm).
    rng : numpy.random.Generator
    variation : float
        Standard deviation of susceptibility between persons, relative; that between the sides of a person,
        label by label, is three tenths of it.

    Returns
    -------
    tuple of Nucleus
    """
    put = t.channels(volume.data)
    fine, broad = texture(1.5), texture(4.0)
    person = {name: 1 + variation * rng.standard_normal() for name in t.NUCLEI}
    sides = {n: 1 + 0.3 * variation * rng.standard_normal() for n in atlas.labels()['index']}
    parts, total = [], np.zeros(volume.data.shape[:3], np.float32)
    for e in shapes:
        box, points = near(volume, e.centre, e.reach + 2 * volume.spacing)
        # a soft border of one voxel, so that a nucleus has its volume on any lattice
        amount = np.clip(0.5 + (1 - e.distance(points)) * e.radius / volume.spacing, 0, 1)
        amount *= np.clip(1 - put['csf'][box], 0, 1) * put['brain'][box]
        total[box] += amount
        grain = 1 + 0.05 * fine[box] + 0.08 * broad[box]
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
        # about half of R2* goes with iron
        values = values._replace(r2star=kind.r2star * (0.5 + 0.5 * factor) * grain)
        old = t.channels(before[box])
        for name in ('chi', 'r2star', 'density', 'r1'):
            put[name][box] += amount * (getattr(values, name) - old[name])
        nuclei.append(nucleus)
    return tuple(nuclei)
