"""Lesions of a digital head: drawing, and random placement of all kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.sampling import Volume, near
from bids_qsm.phantom.skull import soft

if TYPE_CHECKING:
    from bids_qsm.phantom.head import Head

KINDS = ('lesion', 'microbleed', 'calcification')
DECAY = 137.0
"""Reversible relaxation (1/s at 3 T) that 1 ppm gives, Shin et al. (2021), NeuroImage 240:118371.
doi:10.1016/j.neuroimage.2021.118371"""


@dataclass(frozen=True)
class Lesion:
    """A round change of tissue: centre (mm, template), radius (mm), added susceptibility (ppm), kind.

    ``kind`` is one of KINDS: 'lesion' (loss of myelin, with a paramagnetic rim where ``rim``), 'microbleed'
    (a clump of iron, dark on T1w; 1 to 3 mm and .3 to 1 ppm are usual) or 'calcification'.
    """

    centre: tuple[float, ...]
    radius: float
    chi: float = 0.06
    rim: float = 0.0
    kind: str = 'lesion'

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f'no kind of lesion {self.kind!r}; known are {list(KINDS)}')

    def signed(self, points: np.ndarray):
        """Distance (mm) of points (..., 3) to the wall, negative inside."""
        return np.linalg.norm(points - np.array(self.centre, points.dtype), axis=-1) - self.radius

    def shares(self, points: np.ndarray, spacing: float):
        """Shares of lesion and of rim in cells of side ``spacing`` (mm) at points (..., 3)."""
        wall = self.signed(points)
        inside = soft(wall.astype(np.float32), np.float32(spacing))
        return inside, inside * np.exp(-0.5 * ((wall + 1) / 0.8) ** 2)

    def filled(self, points: np.ndarray, spacing: float):
        """Share of the lesion in cells of a lattice, as `draw_lesion` draws it; a small bleed has above 1."""
        if self.kind == 'microbleed':
            return _share(points, self, spacing)
        return self.shares(points, spacing)[0]


def draw_lesion(volume: Volume, lesion: Lesion):
    """Draw a lesion into the channels (`tissue.CHANNELS`) of a volume, in place."""
    box, points = near(volume, lesion.centre, 3 * [lesion.radius + 3])
    put = t.channels(volume.data[box])
    inside = lesion.filled(points, volume.spacing)
    rim = 0.0 if lesion.kind == 'microbleed' else lesion.shares(points, volume.spacing)[1]
    paint_lesion(put, inside, lesion, rim)


def draw_sphere(put: Mapping[str, np.ndarray], lesion: Lesion, affine: np.ndarray):
    """Draw a lesion, in place, into channels on the fine grid ``affine``, in whose space its centre is."""
    shape = put['chi'].shape
    steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
    middle = np.linalg.inv(affine) @ [*lesion.centre, 1]
    box = []
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        reach = (lesion.radius + 3) / step
        low, high = (int(np.clip(middle[axis] + side * reach, 0, n)) for side in (-1, 1))
        box.append(slice(low, high))
    index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing='ij'), -1)
    points = (index @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    inside, rim = lesion.shares(points, float(np.prod(steps) ** (1 / 3)))
    paint_lesion({name: value[tuple(box)] for name, value in put.items()}, inside, lesion, rim)


def paint_lesion(
    put: Mapping[str, np.ndarray], inside: np.ndarray, lesion: Lesion, rim: np.ndarray | float = 0.0
):
    """Change channels, in place, by a lesion of which each voxel holds the share ``inside``."""
    change = {
        'microbleed': {'density': 0.8, 't1w': 0.65},
        'calcification': {},
        'lesion': {'r1': 0.65, 't1w': 0.72},
    }[lesion.kind]
    for name, factor in change.items():
        if name in put:
            put[name] *= 1 - (1 - factor) * inside
    put['chi'] += inside * lesion.chi + (0 if lesion.kind == 'microbleed' else rim * lesion.rim)
    if lesion.kind == 'microbleed':
        put['r2star'] += inside * np.float32(DECAY * abs(lesion.chi))
    elif lesion.kind == 'calcification':
        stone = t.TISSUES['calcification']
        for name in ('r2star', 'density', 't1w'):
            if name in put:
                put[name] += inside * (getattr(stone, name) - put[name])
    else:
        put['r2star'] += -6 * inside + 8 * rim * (lesion.rim > 0)
        put['density'] += inside * 0.12


def _share(points: np.ndarray, lesion: Lesion, spacing: float, parts: int = 4):
    """Share of each voxel within the sphere, scaled so that a small bleed keeps its moment."""
    at = ((np.arange(parts) + 0.5) / parts - 0.5) * spacing
    inside = np.zeros(points.shape[:3], np.float32)
    for shift in np.stack(np.meshgrid(at, at, at), -1).reshape(-1, 3):
        inside += np.linalg.norm(points + shift - lesion.centre, axis=-1) <= lesion.radius
    volume = 4 / 3 * np.pi * lesion.radius**3
    return inside * np.float32(volume / (inside.sum() * spacing**3))


# kind, least and most radius (mm), susceptibility (ppm) and rim (ppm) of each; least share of white matter
_SORTS = {
    'rims': ('lesion', (3.0, 6.0), (0.02, 0.05), (0.05, 0.09), 0.7),
    'lesions': ('lesion', (2.5, 5.0), (0.03, 0.07), (0.0, 0.0), 0.7),
    'calcifications': ('calcification', (1.5, 3.0), (-0.6, -0.3), (0.0, 0.0), 0.0),
    'microbleeds': ('microbleed', (1.0, 3.0), (0.3, 1.0), (0.0, 0.0), 0.0),
}


def scatter(
    seed: int,
    head: 'Head',
    *,
    rims: int = 0,
    lesions: int = 0,
    calcifications: int = 0,
    microbleeds: int = 0,
    depth: float = 5.0,
    apart: float = 4.0,
):
    """Place lesions of all kinds at random in white and grey matter, away from nuclei, veins and CSF.

    Parameters
    ----------
    seed : int
    head : 'Head'
    rims, lesions, calcifications, microbleeds : int
        How many of each; rims and lesions (which have none) lie in white matter.
    depth : float
        Least distance (mm) from a lesion's wall to the surface of the brain.
    apart : float
        Least distance (mm) from wall to wall, and from a wall to a nucleus; half of it to a vein.

    Returns
    -------
    tuple of Lesion
        Rims first, then in the order of the arguments.

    Raises
    ------
    ValueError
        There is not enough room for all of them.
    """
    rng = np.random.default_rng([seed, 9])
    numbers = {'rims': rims, 'lesions': lesions, 'calcifications': calcifications, 'microbleeds': microbleeds}
    places, room, white = room_in(head, depth, apart)
    found = []
    for sort, number in numbers.items():
        kind, *ranges, whitest = _SORTS[sort]
        for _ in range(number):
            radius, chi, rim = (float(rng.uniform(*r)) for r in ranges)
            free = np.flatnonzero((room >= radius) & (white >= whitest))
            if not len(free):
                raise ValueError(f'no place is left in the head for {number} {sort}')
            # centres are off the lattice, as real lesions are
            centre = places[rng.choice(free)] + rng.uniform(-0.5, 0.5, 3)
            x, y, z = map(float, centre)
            found.append(Lesion((x, y, z), radius, chi, rim, kind))
            room = np.minimum(room, np.linalg.norm(places - centre, axis=-1) - radius - apart)
    return tuple(found)


def room_in(head: 'Head', depth: float, apart: float, spacing: float = 2.0):
    """Points (n, 3) of the brain (mm, template), largest radius (mm) there, share of white matter."""
    volume = head.tissue
    skip = max(round(spacing / volume.spacing), 1)
    spacing = skip * volume.spacing
    put = t.channels(volume.data[::skip, ::skip, ::skip])

    def marked(points: np.ndarray):
        index = np.round((points - volume.origin) / spacing).astype(int)
        mark = np.zeros(put['brain'].shape, bool)
        mark[tuple(index.T)] = True
        return mark

    nuclei = [n.origin + volume.spacing * np.argwhere(n.amount > 0.3) for n in head.nuclei]
    held = head.veins.data[..., 0] > 0.3 / head.veins.unit
    veins = head.veins.origin + head.veins.spacing * np.argwhere(held)
    brain = put['brain'] > 0.99
    obstacles = (
        (~brain, depth),
        (brain & (put['csf'] > 0.5), 0.5),
        (marked(np.concatenate(nuclei)), apart),
        (marked(veins), apart / 2),
    )
    room = np.min([spacing * ndimage.distance_transform_edt(~o) - margin for o, margin in obstacles], 0)
    index = np.argwhere(room > 0)
    white = put['white'][tuple(index.T)]
    return volume.origin + spacing * index, room[tuple(index.T)], white
