"""A box of white matter with rim lesions, a ventricle, cortex and veins: its field, and what a FLAIR shows.

>>> box = make_box(1, shape=(24, 24, 24), lesions=1)
>>> box.field.shape, box.drawn.dtype, len(box.lesions)
((24, 24, 24), dtype('bool'), 1)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bids_qsm.phantom.fine import tube
from bids_qsm.phantom.forward import dipole_field
from bids_qsm.phantom.lesions import draw_sphere
from bids_qsm.phantom.rims import RimLesion, draw_one, neighbour
from bids_qsm.phantom.skull import soft
from bids_qsm.phantom.tissue import TISSUES
from bids_qsm.phantom.vessels import Segment, average, draw
from bids_qsm.recon.grid import Grid

MIX = {'rim': 0.45, 'solid': 0.2, 'demyelinated': 0.2, 'plain': 0.15}
"""Share of each sort of lesion: many rims, so that few boxes tell much. Real scans have about 3 %."""
PAIRS, EDGE_VEINS = 0.15, 0.2
"""Share of lesions that get a neighbour they touch, and that get a vein along their edge."""
SIDES = ('ventricle', 'cortex', '')
"""What a lesion may touch; most touch neither."""


@dataclass(frozen=True)
class Box:
    """The field of a box, and the truth.

    Attributes
    ----------
    field : ndarray of float32
        Local field (ppm) with white noise of standard deviation ``noise``.
    chi : ndarray of float32
        Susceptibility (ppm), the mean over each voxel.
    drawn : ndarray of bool
        Lesions as on a FLAIR image: confluent ones in one piece, the edge off by up to a voxel.
    owner : ndarray of int32
        The lesion (from 1) that each voxel of ``drawn`` is nearest to.
    rim : ndarray of float32
        Share of rim of each voxel.
    tissue, veins : ndarray of bool
        White matter with lesions, without veins; voxels a tenth of which or more is vein.
    parents : tuple of int
        Of each lesion the number of its group: lesions of one group are drawn as one piece.
    """

    field: np.ndarray
    noise: float
    chi: np.ndarray
    drawn: np.ndarray
    owner: np.ndarray
    rim: np.ndarray
    tissue: np.ndarray
    veins: np.ndarray
    grid: Grid
    affine: np.ndarray
    lesions: tuple[RimLesion, ...]
    parents: tuple[int, ...]


def make_box(
    seed: int,
    *,
    shape: Sequence[int] = (72, 72, 64),
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    noise: float = 0.003,
    texture: float = 0.006,
    lesions: int | Sequence[RimLesion] = 8,
    tilt: float = 15.0,
    factor: int = 3,
):
    """Make a box, drawn ``factor`` times as fine as its voxels along each side.

    Parameters
    ----------
    seed : int
    shape : sequence of int
        Voxels.
    voxel_size : sequence of float
        (mm).
    noise : float
        Standard deviation (ppm) of the noise of the field.
    texture : float
        Standard deviation (ppm) of the susceptibility of white matter, with a grain of about 2 mm.
    lesions : int or sequence of RimLesion
        How many are asked for, without neighbours; fewer where there is no place. Or the lesions themselves,
        in a box without other tissue and veins.
    tilt : float
        Largest angle (degrees) of B0 to the third axis.

    Returns
    -------
    Box
    """
    rng = np.random.default_rng([seed, 19])
    voxel = np.array(voxel_size, float)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = -voxel * (np.array(shape) - 1) / 2
    half = voxel * np.array(shape) / 2
    angle, turn = np.radians(rng.uniform(0, tilt)), rng.uniform(0, 2 * np.pi)
    b0 = (np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle))
    shelf, segments = None, []
    if isinstance(lesions, int):
        shelf = _Shelf(rng, half)
        found, parents = _place(rng, shelf, half, lesions)
        segments = _vessels(rng, found, half)
    else:
        found, parents = tuple(lesions), tuple(range(1, len(lesions) + 1))

    fine_shape = tuple(n * factor for n in shape)
    fine_affine = affine @ np.diag([1 / factor] * 3 + [1])
    fine_affine[:3, 3] = affine[:3, 3] + voxel * (0.5 / factor - 0.5)
    chi = _background(rng, shelf, fine_shape, fine_affine, texture)
    rest = {name: np.zeros(fine_shape, np.float32) for name in ('r2star', 'density')}
    for lesion in found:
        draw_sphere({'chi': chi, **rest}, lesion, fine_affine)
    blood, _ = draw(segments, fine_shape, fine_affine)
    chi += blood * (np.float32(TISSUES['blood'].chi) - chi)
    chi -= np.float32(TISSUES['white'].chi)
    fine = Grid(fine_shape, tuple(voxel / factor), b0)
    field = average(dipole_field(chi, fine), factor)
    field += np.float32(noise) * rng.standard_normal(field.shape, dtype=np.float32)

    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing='ij'), -1)
    points = (at @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    walls = np.stack([lesion.signed(points) for lesion in found]) if found else np.full((1, *shape), 99.0)
    nearest = walls.argmin(0)
    drawn = walls.min(0) < _jitter(rng, shape, voxel)
    fluid, grey = shelf.shares(points) if shelf else (np.zeros(shape), np.zeros(shape))
    veins = average(blood, factor) > 0.1
    return Box(
        field,
        noise,
        average(chi, factor),
        drawn,
        np.where(drawn, nearest + 1, 0).astype(np.int32),
        np.sum([lesion.rim_shares(shape, affine) for lesion in found], 0) if found else np.zeros(shape),
        (fluid + grey < 0.2) & ~veins,
        veins,
        Grid(tuple(shape), tuple(voxel), b0),
        affine,
        found,
        parents,
    )


class _Shelf:
    """Ventricle at one side of a box, folded cortex and fluid at the other."""

    def __init__(self, rng: np.random.Generator, half: np.ndarray):
        self.wide = np.array([0.22, 0.8, 0.5]) * half
        self.centre = np.array([-half[0] + 0.5 * self.wide[0], 0, 0])
        self.level = half[0] - 0.16 * half[0]
        self.phase, self.waves = rng.uniform(0, 6, 2), rng.uniform(14, 22, 2)

    def ventricle(self, points: np.ndarray):
        """Distance (mm, about) to the ventricle, negative inside."""
        unit = (points - self.centre.astype(points.dtype)) / self.wide.astype(points.dtype)
        norm = np.linalg.norm(unit, axis=-1)
        return norm * (norm - 1) / np.maximum(np.linalg.norm(unit / self.wide, axis=-1), 1e-6)

    def cortex(self, points: np.ndarray):
        """Distance (mm, about) to the cortex, negative inside and beyond."""
        folds = np.sin(2 * np.pi * points[..., 1] / self.waves[0] + self.phase[0]) * np.sin(
            2 * np.pi * points[..., 2] / self.waves[1] + self.phase[1]
        )
        return (self.level - 2.5 * folds - points[..., 0]) * 0.8

    def shares(self, points: np.ndarray, spacing: float = 1.0):
        """Share of fluid and of grey matter at points (..., 3)."""
        depth, size = self.cortex(points).astype(np.float32), np.float32(spacing)
        beyond = soft(depth + np.float32(2.5), size)
        fluid = np.maximum(soft(self.ventricle(points).astype(np.float32), size), beyond)
        return fluid, soft(depth, size) - beyond


def _place(rng: np.random.Generator, shelf: _Shelf, half: np.ndarray, count: int):
    """Lesions at random places, each with the number of its group."""
    found, parents = [], []
    sorts = rng.choice(list(MIX), count, p=list(MIX.values()))
    for group, sort in enumerate(sorts, 1):
        touches = rng.choice(SIDES, p=(0.12, 0.12, 0.76))
        pair = rng.random() < PAIRS
        for _ in range(200):
            point = rng.uniform(-half + 6, half - 6).tolist()
            here = [draw_one(rng, str(sort), point)]
            if pair:
                here.append(neighbour(rng, here[0], str(rng.choice(list(MIX), p=list(MIX.values())))))
            if all(_fits(one, found, shelf, half, str(touches)) for one in here):
                found += here
                parents += [group] * len(here)
                break
    return tuple(found), tuple(parents)


def _fits(one: RimLesion, others: Sequence[RimLesion], shelf: _Shelf, half: np.ndarray, touches: str):
    """Whether a lesion lies in white matter at its distance to all else."""
    centre = np.array(one.centre)
    if np.any(np.abs(centre) + one.radius + 3 > half):
        return False
    for name in ('ventricle', 'cortex'):
        gap = float(getattr(shelf, name)(centre)) - one.radius
        if (not -0.5 <= gap <= 1.0) if name == touches else gap < 3:
            return False
    return all(np.linalg.norm(centre - other.centre) > one.radius + other.radius + 3.5 for other in others)


def _vessels(rng: np.random.Generator, lesions: Sequence[RimLesion], half: np.ndarray):
    """Thin veins through the box, and along the edge of some lesions."""

    def vein(centre: np.ndarray):
        return tube(
            diameter=rng.uniform(0.4, 1.2),
            tilt=np.degrees(np.arccos(rng.uniform(0, 1))),
            azimuth=rng.uniform(0, 360),
            centre=centre.tolist(),
            bend=rng.uniform(0, 1 / 60),
            length=rng.uniform(20, 60),
        )

    found: list[Segment] = [vein(rng.uniform(-half, half)) for _ in range(int(np.prod(2 * half) / 4e4))]
    for lesion in lesions:
        if rng.random() < EDGE_VEINS:
            way = rng.standard_normal(3)
            way /= np.linalg.norm(way)
            one = vein(np.zeros(3))
            # beside the lesion, not through it
            along = one.points[len(one.points) // 2 + 1] - one.points[len(one.points) // 2]
            aside = np.cross(along, way)
            aside /= np.linalg.norm(aside)
            found.append(replace(one, points=one.points + lesion.centre + lesion.radius * aside))
    return found


def _background(
    rng: np.random.Generator,
    shelf: _Shelf | None,
    shape: tuple[int, ...],
    affine: np.ndarray,
    texture: float,
):
    """Susceptibility (ppm) of white matter, cortex and fluid on the fine grid."""
    steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
    coarse = tuple(int(np.ceil(n * s / 1.5)) + 2 for n, s in zip(shape, steps, strict=True))
    grain = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 0.8, mode='wrap')
    zoom = np.divide(shape, coarse)
    grain = ndimage.zoom(grain / grain.std(), zoom, order=1, grid_mode=True, mode='nearest')
    chi = (TISSUES['white'].chi + texture * grain).astype(np.float32)
    if shelf is None:
        return chi
    # a slab at a time: coordinates of the fine grid take much memory
    for i in range(shape[0]):
        at = np.stack(np.meshgrid([i], np.arange(shape[1]), np.arange(shape[2]), indexing='ij'), -1)
        points = (at @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
        fluid, grey = shelf.shares(points, float(steps.mean()))
        for share, tissue in ((grey, 'grey'), (fluid, 'csf')):
            chi[i] += share[0] * (np.float32(TISSUES[tissue].chi) - chi[i])
    return chi


def _jitter(rng: np.random.Generator, shape: Sequence[int], voxel: np.ndarray):
    """How far (mm) the outline of lesions lies outside their wall: smooth over 3 mm, one voxel at most."""
    size = float(np.prod(voxel) ** (1 / 3))
    rough = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 3 / voxel)
    rough *= 0.5 / rough.std()
    return size * np.clip(rough, -1, 1)


def outline(rng: np.random.Generator, lesions: Sequence[RimLesion], voxel_size: Sequence[float]):
    """Mask (bool) of lesions near 0 as on a FLAIR image, in a volume around them, without a field."""
    voxel = np.array(voxel_size, float)
    middle = np.mean([lesion.centre for lesion in lesions], 0)
    shape = tuple(np.ceil(40 / voxel).astype(int))
    at = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing='ij'), -1)
    points = (at * voxel + middle).astype(np.float32)
    walls = np.min([lesion.signed(points) for lesion in lesions], 0)
    return walls < _jitter(rng, shape, voxel)
