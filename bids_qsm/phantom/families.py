"""Families of digital heads, which differ in what they assume about the nuclei and the tissue around them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from nilearn import datasets

from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers.iron import CURVES, expected_iron

BODIES = {
    'GP': ('GPe', 'GPi'),
    'Putamen': ('Putamen',),
    'Caudate': ('Caudate',),
    'Nucleus Accumbens': ('Nucleus Accumbens',),
    'Thalamus': ('Thalamus',),
    'SN': ('SNc', 'SNr', 'Parabrachial Pigmented'),
    'STN': ('STN',),
    'RN': ('RN',),
    'Dentate': ('Dentate',),
}
"""Nuclei with a pose of their own in each person and side, and the regions of the atlas that go along."""
MIDDLE_AGE = 45.0
CANDIDATES = 60
LATTICE = 0.8
"""Spacing (mm) of the points for overlaps."""
CROWDED = 0.1
"""Largest share of a nucleus, or of its neighbour, that may overlap more than in the atlas."""


@dataclass(frozen=True)
class Family:
    """What the heads of a family have in common.

    Attributes
    ----------
    solids : str
        'ellipsoid', 'surface' (of CIT168) or 'superquadric' (with a bend).
    shift_mm, together_mm, side_mm : float
        Largest shift of each nucleus, of all together, and of those of each side together.
    turn : float
        Largest angle (degrees) by which a nucleus is turned.
    size : float
        Largest relative change of its volume.
    grain, gradient : float
        Texture (standard deviation) and gradient (from middle to end) of susceptibility within a nucleus,
        relative to its mean.
    roughness : float
        Standard deviation (ppm) of the texture of cortex and white matter at the scale of a voxel.
    free_r2star : bool
        R2* of nuclei and tissue has a texture and a level of its own, independent of susceptibility.
    ventricles : float
        By how much (relative) the lateral ventricles are widened at most.
    t1w : str
        Where the T1-weighted image has the nuclei: 'template' (where the template has them, whatever their
        pose), 'true', or 'none' (it hardly shows them).
    ages : tuple of float, optional
        Youngest and oldest age (years), which sets the susceptibility of the basal ganglia.
    diseases : tuple of (str, float)
        Regions and factors, one of which is drawn; '' is none.
    """

    solids: str = 'ellipsoid'
    shift_mm: float = 0.0
    together_mm: float = 0.0
    side_mm: float = 0.0
    turn: float = 0.0
    size: float = 0.0
    grain: float = 0.0
    gradient: float = 0.0
    roughness: float = 0.0
    free_r2star: bool = False
    ventricles: float = 0.0
    t1w: str = 'template'
    ages: tuple[float, float] | None = None
    diseases: tuple[tuple[str, float], ...] = (('', 1.0),)


_ILL = (('', 1.0), ('', 1.0), ('GP', 2.5), ('SN', 1.3))
FAMILIES = {
    'atlas': Family(),
    'surface': Family(
        'surface', shift_mm=2.0, side_mm=1.0, turn=8.0, size=0.2, roughness=0.005, t1w='true', ages=(20, 70)
    ),
    'moved': Family(
        'surface',
        shift_mm=2.5,
        together_mm=4.0,
        side_mm=1.0,
        turn=10.0,
        size=0.3,
        grain=0.1,
        free_r2star=True,
        t1w='none',
        diseases=_ILL,
    ),
    'bent': Family(
        'superquadric',
        shift_mm=3.0,
        side_mm=1.5,
        turn=15.0,
        size=0.3,
        gradient=0.2,
        roughness=0.008,
        free_r2star=True,
        t1w='true',
        ages=(5, 85),
        diseases=_ILL,
    ),
    'wide': Family(
        'superquadric',
        shift_mm=4.0,
        turn=12.0,
        size=0.3,
        grain=0.15,
        gradient=0.3,
        roughness=0.01,
        free_r2star=True,
        ventricles=0.35,
        t1w='none',
        ages=(40, 85),
        diseases=_ILL,
    ),
}
"""Name -> family; 'atlas' has the ellipsoids of the built-in table just where it has them."""


def aged(region: str, age: float):
    """Susceptibility of a region at an age relative to middle age, from iron in the basal ganglia."""
    if region not in CURVES:
        return 1.0
    return float(expected_iron(region, age) / expected_iron(region, MIDDLE_AGE))


def traits(family: Family, rng: np.random.Generator):
    """Factors on the susceptibility of regions that age and disease of a person of a family set."""
    effects = {}
    if family.ages is not None:
        age = rng.uniform(*family.ages)
        effects = {region: aged(region, age) for region in CURVES}
    region, factor = family.diseases[rng.integers(len(family.diseases))]
    if region:
        effects[region] = effects.get(region, 1.0) * factor
    return effects


@dataclass(frozen=True, eq=False)
class Superquadric:
    """An ellipsoid of the atlas with other exponents: 1 is the ellipsoid, smaller is nearer to a box.

    ``axes`` (3, 3) has the half axes (mm) as columns, longest first; ``bend`` (1 / mm) moves points along the
    shortest one by its product with the squared distance along the longest.
    """

    index: int
    region: str
    hemisphere: str
    centre: np.ndarray
    axes: np.ndarray
    exponents: tuple[float, float]
    bend: float

    @cached_property
    def volume(self):
        """Volume (mm^3), counted on a lattice."""
        steps = [np.arange(-r, r + 0.5, 0.5) for r in self.reach]
        points = self.centre + np.stack(np.meshgrid(*steps, indexing='ij'), -1)
        return float((self.distance(points) <= 1).sum()) * 0.125

    @property
    def radius(self):
        """Radius (mm) of the sphere of about the same volume."""
        return float(abs(np.linalg.det(self.axes)) ** (1 / 3))

    @property
    def reach(self):
        """Half sides (mm) of a box around it."""
        longest = np.linalg.norm(self.axes[:, 0])
        shortest = self.axes[:, 2] / np.linalg.norm(self.axes[:, 2])
        return np.abs(self.axes).sum(1) + abs(self.bend) * longest**2 * np.abs(shortest)

    def distance(self, points: np.ndarray):
        """1 on the surface, below 1 inside."""
        u, v, w = np.moveaxis(
            (np.asarray(points, np.float32) - self.centre) @ np.linalg.inv(self.axes).T, -1, 0
        )
        longest, shortest = (np.linalg.norm(self.axes[:, n]) for n in (0, 2))
        w = w - self.bend * longest**2 / shortest * (u**2 - 0.33)
        first, second = self.exponents
        flat = (np.abs(u) ** (2 / second) + np.abs(v) ** (2 / second)) ** (second / first)
        return ((flat + np.abs(w) ** (2 / first)) ** (first / 2)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Posed:
    """A solid in another pose: turned and scaled by ``matrix`` (3, 3) about ``pivot``, then shifted (mm)."""

    solid: atlas.Shape
    matrix: np.ndarray
    pivot: np.ndarray
    shift: np.ndarray

    @property
    def index(self):
        """Label."""
        return self.solid.index

    @property
    def region(self):
        """Region of the atlas."""
        return self.solid.region

    @property
    def hemisphere(self):
        """L or R."""
        return self.solid.hemisphere

    @property
    def centre(self):
        """Middle (mm)."""
        return self.matrix @ (self.solid.centre - self.pivot) + self.pivot + self.shift

    @property
    def reach(self):
        """Half sides (mm) of a box around it."""
        return np.abs(self.matrix) @ self.solid.reach

    @property
    def volume(self):
        """Volume (mm^3)."""
        return self.solid.volume * float(np.linalg.det(self.matrix))

    @property
    def radius(self):
        """Radius (mm) of the sphere of the same volume."""
        return self.solid.radius * float(np.linalg.det(self.matrix)) ** (1 / 3)

    def distance(self, points: np.ndarray):
        """1 on the surface, below 1 inside."""
        back = np.linalg.inv(self.matrix)
        offset = np.asarray(points, np.float32) - (self.pivot + self.shift).astype(np.float32)
        return self.solid.distance(offset @ back.T.astype(np.float32) + self.pivot.astype(np.float32))


def draw_solids(family: Family, rng: np.random.Generator):
    """Nuclei of a person of a family, in template space.

    Poses are drawn again where a nucleus would overlap CSF or its neighbours (those already posed in their
    new poses) much more than in the atlas.

    Parameters
    ----------
    family : Family
    rng : numpy.random.Generator

    Returns
    -------
    tuple of Shape
        In the order of the atlas.
    """
    solids = _solids(family, rng)
    at_rest = tuple(solids)
    common = _within(rng, family.together_mm)
    sides = {side: common + _within(rng, family.side_mm) for side in ('L', 'R')}
    solids = [Posed(s, np.eye(3), s.centre, sides[s.hemisphere]) for s in solids]
    for side in ('L', 'R'):
        waiting = list(BODIES)
        for name in BODIES:
            waiting.remove(name)
            group = [n for n, s in enumerate(at_rest) if _belongs(s, side, [name])]
            others = [n for n, s in enumerate(at_rest) if n not in group and not _belongs(s, side, waiting)]
            pose = _pose(rng, family, at_rest, solids, group, others, sides[side])
            for n in group:
                solids[n] = Posed(at_rest[n], *pose)
    return tuple(solids)


def _solids(family: Family, rng: np.random.Generator):
    if family.solids == 'surface':
        return atlas.shapes()
    if family.solids == 'ellipsoid':
        return atlas.ellipsoids()
    found = atlas.ellipsoids()
    # pieces of one nucleus stay joined
    pieces = Counter(e.index for e in found)
    return [_superquadric(e, rng, 1.0 if pieces[e.index] == 1 else 0.3) for e in found]


def _superquadric(ellipsoid: atlas.Ellipsoid, rng: np.random.Generator, amount: float):
    lengths, axes = np.linalg.eigh(np.linalg.inv(ellipsoid.precision))
    axes = (axes * np.sqrt(lengths))[:, ::-1]
    half = np.linalg.norm(axes, axis=0)
    found = Superquadric(
        ellipsoid.index,
        ellipsoid.region,
        ellipsoid.hemisphere,
        ellipsoid.centre,
        axes,
        tuple(1 + amount * rng.uniform(-0.4, 0.3, 2)),
        amount * rng.uniform(-0.35, 0.35) * half[2] / half[0] ** 2,
    )
    scale = (ellipsoid.volume / found.volume) ** (1 / 3)
    return replace(found, axes=axes * scale, bend=found.bend / scale)


def _belongs(solid: atlas.Shape, side: str, names: Sequence[str]):
    return solid.hemisphere == side and any(solid.region in BODIES[name] for name in names)


def _within(rng: np.random.Generator, limit: float):
    """A vector drawn uniformly from a ball."""
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction) * limit * rng.uniform() ** (1 / 3)


def _pose(
    rng: np.random.Generator,
    family: Family,
    at_rest: Sequence[atlas.Shape],
    solids: Sequence[atlas.Shape],
    group: list[int],
    others: list[int],
    common: np.ndarray,
):
    """Matrix, pivot and shift of ``group``: the first candidate that fits, or else the best."""
    points = inside([at_rest[n] for n in group])
    pivot = points.mean(0)
    rest = crowding(points, [at_rest[n] for n in others])
    around = [solids[n] for n in others]
    best, chosen = np.inf, None
    for _ in range(CANDIDATES):
        matrix = _turned(rng, family)
        shift = common + _within(rng, family.shift_mm)
        more = (crowding((points - pivot) @ matrix.T + pivot + shift, around) - rest).max()
        if more < best:
            best, chosen = more, (matrix, pivot, shift)
        if more <= CROWDED:
            break
    return chosen


def _turned(rng: np.random.Generator, family: Family):
    """A turn about a random axis, after a change of size that differs by axis."""
    axis = _within(rng, 1.0)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(rng.uniform(0, family.turn))
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    volume = rng.uniform(1 - family.size, 1 + family.size)
    uneven = 0.3 * family.size * rng.standard_normal(3)
    return turn @ np.diag(volume ** (1 / 3) * np.exp(uneven - uneven.mean()))


def inside(group: Sequence[atlas.Shape]):
    """Points (n, 3) of a lattice within any of the solids."""
    low = np.min([s.centre - s.reach for s in group], 0)
    high = np.max([s.centre + s.reach for s in group], 0)
    axes = [np.arange(a, b, LATTICE) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    return points[np.any([s.distance(points) <= 1 for s in group], 0)]


def crowding(points: np.ndarray, others: Sequence[atlas.Shape]):
    """Share of a nucleus in CSF, then its overlap with each other as a share of the smaller one."""
    solid, affine = _solid()
    index = np.round((points - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
    shares = [1 - solid[tuple(index.T)].mean()]
    for s in others:
        close = points[(np.abs(points - s.centre) <= s.reach).all(1)]
        smaller = min(len(points), s.volume / LATTICE**3)
        shares.append((s.distance(close) <= 1).sum() / smaller)
    return np.array(shares)


@lru_cache(maxsize=1)
def _solid():
    """Where the template is grey or white matter rather than CSF (bool), and its affine."""
    grey, white = (
        load(resolution=1) for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    return np.asarray(grey.dataobj) + np.asarray(white.dataobj) > 0.5, grey.affine
