"""White-matter lesions whose veins are known: through the centre, beside it, at the edge, several or none.

>>> sites, bed = scene(1, (40, 40, 40))
>>> sorted({site.kind for site in sites} - set(KINDS))
[]
>>> labels = draw_sites(sites, (40, 40, 40), centred((40, 40, 40)))
>>> len(np.unique(labels[labels > 0])) == len(sites)
True
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bids_qsm.phantom.fine import Bed, tube
from bids_qsm.phantom.lesions import Lesion
from bids_qsm.phantom.vessels import Segment

KINDS = ('central', 'off-centre', 'edge', 'none', 'several', 'confluent', 'small')
"""Where veins lie, or why a lesion cannot be assessed: more than one vein, two lesions in one, under 3 mm."""
WIDTHS = (0.3, 0.5, 0.7, 1.0, 1.5)
"""Diameters of veins (mm)."""
_SHARES = (0.34, 0.12, 0.1, 0.26, 0.06, 0.06, 0.06)
_TRIES = 400


@dataclass(frozen=True)
class Site:
    """A lesion, or two that touch, and its veins.

    Attributes
    ----------
    kind : str
        One of KINDS.
    lesions : tuple of Lesion
        Spheres in scanner space; two that touch are of the kind 'confluent'.
    width, tilt : float
        Diameter (mm) of its veins, and the angle (degrees) to B0 of the first; NaN without a vein.
    veins : tuple of Segment
    drawn : tuple of float
        How far (mm) the mask of the lesion is off.
    """

    kind: str
    lesions: tuple[Lesion, ...]
    width: float = np.nan
    tilt: float = np.nan
    veins: tuple[Segment, ...] = ()
    drawn: tuple[float, ...] = field(default=(0.0, 0.0, 0.0))

    def reaches(self, points: np.ndarray, margin: float) -> bool:
        """Whether points (n, 3) come within ``margin`` mm of a lesion."""
        return any(
            (np.linalg.norm(points - one.centre, axis=1) < one.radius + margin).any() for one in self.lesions
        )


def scene(
    seed: int,
    fov: Sequence[float],
    *,
    number: int = 12,
    others: int = 5,
    widths: Sequence[float] = WIDTHS,
    texture: float = 0.008,
) -> tuple[tuple[Site, ...], Bed]:
    """Lesions at random places of a block of white matter, and the bed with all veins.

    A vein goes on 4 to 8 mm beyond its lesion and may be bent, with a radius of 40 mm at least. The axis of a
    central vein passes the centre within 0.15 radii, one off the centre at 0.5 to 0.75, one at the edge at
    0.95 to 1.1. ``others`` veins of white matter touch no lesion. Spheres have radii of 2.2 to 5 mm, 0.02 to
    0.05 ppm and, one in five, a rim.

    Parameters
    ----------
    seed : int
    fov : sequence of float
        Sides of the block (mm), whose middle is the isocentre.
    number : int
        Most lesions; fewer where there is no room.
    others : int
    widths : sequence of float
        Diameters of the veins (mm).
    texture : float
        Standard deviation (ppm) of the susceptibility of white matter.

    Returns
    -------
    sites : tuple of Site
    bed : Bed
    """
    rng = np.random.default_rng([seed, 31])
    half = np.asarray(fov, float) / 2
    sites: list[Site] = []
    loose: list[Segment] = []
    for _ in range(_TRIES):
        if len(sites) == number:
            break
        site = _site(rng, half, widths)
        lines = [v.points for one in sites for v in one.veins]
        if any(site.reaches(np.array([b.centre]), b.radius + 3.0) for a in sites for b in a.lesions):
            continue
        if any(site.reaches(line, 1.5) for line in lines):
            continue
        if any(one.reaches(vein.points, 1.5) for one in sites for vein in site.veins):
            continue
        sites.append(site)
    for _ in range(_TRIES):
        if len(loose) == others:
            break
        vein, _ = _vein(
            rng, rng.uniform(-0.8, 0.8, 3) * half, 0.0, rng.uniform(8, 12), float(rng.choice(widths))
        )
        if not any(one.reaches(vein.points, 1.5) for one in sites):
            loose.append(vein)
    veins = tuple(vein for site in sites for vein in site.veins)
    return tuple(sites), Bed((*veins, *loose), texture=texture, seed=seed)


def _site(rng: np.random.Generator, half: np.ndarray, widths: Sequence[float]):
    """A lesion at a random place, with its veins."""
    kind = str(rng.choice(KINDS, p=_SHARES))
    radius = rng.uniform(0.9, 1.2) if kind == 'small' else rng.uniform(2.2, 5.0)
    centre = rng.uniform(-1, 1, 3) * (half - radius - 4)
    chi, rim = float(rng.uniform(0.02, 0.05)), float(rng.choice([0.0, 0.04], p=[0.8, 0.2]))
    lesions = [Lesion(_triple(centre), float(radius), chi, rim)]
    if kind == 'confluent':
        side = rng.standard_normal(3)
        second = centre + 1.5 * radius * side / np.linalg.norm(side)
        lesions.append(Lesion(_triple(second), float(0.9 * radius), chi, rim))
    off = {'central': (0, 0.15), 'off-centre': (0.5, 0.75), 'edge': (0.95, 1.1), 'several': (0.25, 0.4)}
    low, high = off.get(kind, (0, 0.15))
    width = float(rng.choice(widths))
    count = {'none': 0, 'several': 2}.get(kind, 1)
    first = rng.uniform(0, 2 * np.pi)
    made = []
    for n in range(count):
        away = radius * rng.uniform(low, high)
        made.append(_vein(rng, centre, away, radius + rng.uniform(4, 8), width, first + n * np.pi, made))
    return Site(
        kind,
        tuple(lesions),
        width if made else np.nan,
        made[0][1] if made else np.nan,
        tuple(vein for vein, _ in made),
        _triple(rng.uniform(-0.5, 0.5, 3)),
    )


def _vein(
    rng: np.random.Generator,
    centre: np.ndarray,
    away: float,
    reach: float,
    width: float,
    turn: float = 0.0,
    beside: Sequence[tuple[Segment, float]] = (),
):
    """A vein that passes a point at a distance (mm), and its angle to B0; along the vein ``beside``."""
    if beside:
        tilt, azimuth = beside[0][1], float(np.degrees(_azimuth(beside[0][0])))
    else:
        # directions are even over the sphere
        tilt, azimuth = float(np.degrees(np.arccos(rng.uniform(0, 1)))), float(rng.uniform(0, 360))
    bend = float(rng.uniform(-1, 1)) / 40
    a, b = np.radians((tilt, azimuth))
    across = np.array((np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), -np.sin(a)))
    second = np.array((-np.sin(b), np.cos(b), 0.0))
    point = centre + away * (np.cos(turn) * across + np.sin(turn) * second)
    vein = tube(diameter=width, tilt=tilt, azimuth=azimuth, centre=point, bend=bend, length=2 * reach)
    return vein, tilt


def _azimuth(vein: Segment):
    """Angle (rad) about B0 of the direction of a vein at its middle."""
    n = len(vein.points) // 2
    step = vein.points[n + 1] - vein.points[n - 1]
    return np.arctan2(step[1], step[0])


def _triple(values: np.ndarray):
    x, y, z = (float(v) for v in values)
    return x, y, z


def centred(shape: Sequence[int], voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Affine (4, 4) of a grid along the axes of the scanner with its middle at the isocentre."""
    affine = np.diag([*voxel_size, 1.0])
    affine[:3, 3] = -np.array(voxel_size) * (np.array(shape) - 1) / 2
    return affine


def draw_sites(sites: Sequence[Site], shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Masks of lesions, each with the number of its place in ``sites`` from 1, as a reader would draw them.

    Returns
    -------
    ndarray of int32
    """
    labels = np.zeros(tuple(shape), np.int32)
    points = np.moveaxis(np.indices(labels.shape, np.float32), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    for number, site in enumerate(sites, 1):
        for one in site.lesions:
            centre = np.array(one.centre) + site.drawn
            labels[np.linalg.norm(points - centre, axis=-1) <= one.radius] = number
    return labels
