"""Microbleeds and calcifications in a measured signal: where they lie, and what they do to it.

A focus is drawn after the head was acquired: its field is known exactly, so that voids and dephasing within
voxels are right however strong it is, and one head can be used with many plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.phantom.tissue import scale_r2star
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

if TYPE_CHECKING:
    from bids_qsm.phantom.gre import Protocol
    from bids_qsm.phantom.head import Head

KINDS = ('microbleed', 'calcification', 'mixed', 'large')
PLACES = ('edge', 'vein', 'nucleus', 'elsewhere')
IRON_RICH = ('GPe', 'GPi', 'SNc', 'SNr', 'RN', 'STN', 'Dentate', 'Putamen', 'Caudate')
"""Regions of the built-in atlas that count as nuclei here."""
STEEP = 0.3
"""Change of phase (rad) over a voxel at the last echo, above which the voxel is drawn in parts."""


@dataclass(frozen=True)
class Sphere:
    """A ball with added susceptibility (ppm) and R2* (1/s at 3 T), and a factor on proton density."""

    radius: float
    chi: float
    r2star: float
    density: float

    @property
    def moment(self):
        """Integral of its susceptibility (ppm mm^3)."""
        return self.chi * 4 / 3 * np.pi * self.radius**3


@dataclass(frozen=True)
class Focus:
    """Concentric balls at ``centre`` (mm, scanner); ``kind`` is one of KINDS, ``place`` one of PLACES."""

    centre: tuple[float, float, float]
    spheres: tuple[Sphere, ...]
    kind: str
    place: str = 'elsewhere'

    @property
    def radius(self):
        """Of the largest ball (mm)."""
        return max(s.radius for s in self.spheres)

    @property
    def moment(self):
        """Net moment (ppm mm^3)."""
        return sum(s.moment for s in self.spheres)


def draw_focus(kind: str, diameter: float, rng: np.random.Generator):
    """Balls of a focus of some kind.

    Bleeds have 0.3 to 3 ppm and R2* of up to 300/s, calcium -0.1 to -2 ppm and little water; mixed ones are
    calcium within a bleed; large ones (cavernoma, haemorrhage) have 0.3 to 1 ppm.
    """
    radius = diameter / 2

    def between(low: float, high: float):
        return float(np.exp(rng.uniform(*np.log((low, high)))))

    def bleed(low: float, high: float):
        chi = between(low, high)
        # 137 /s for each ppm, see phantom.lesions.DECAY
        return Sphere(radius, chi, min(137 * chi, 300.0), 0.8)

    if kind == 'microbleed':
        return (bleed(0.3, 3.0),)
    if kind == 'large':
        return (bleed(0.3, 1.0),)
    chi = -between(0.1, 2.0)
    # the denser the calcium, the less water: a fifth is left at 2 ppm
    stone = Sphere(radius, chi, min(60 - 120 * chi, 300.0), 1 + 0.4 * chi)
    if kind == 'calcification':
        return (stone,)
    outer = bleed(0.3, 1.5)
    core = Sphere(0.6 * radius, chi - outer.chi, max(stone.r2star - outer.r2star, 0.0), stone.density)
    return (outer, core)


def plan_foci(
    seed: int,
    head: 'Head',
    shape: tuple[int, ...],
    affine: np.ndarray,
    *,
    microbleeds: int = 12,
    calcifications: int = 6,
    mixed: int = 2,
    large: int = 0,
    diameters: tuple[float, float] = (1.0, 8.0),
    apart: float = 8.0,
):
    """Place foci in the brain: a quarter each at its edge, beside veins, beside nuclei, and elsewhere.

    Parameters
    ----------
    seed : int
    head : Head
    shape, affine
        Of the grid of the scan (mm, scanner), on which places are looked for.
    microbleeds, calcifications, mixed, large : int
        How many of each.
    diameters : tuple of float
        Least and largest (mm), drawn evenly in the logarithm; large ones have 11 to 16 mm.
    apart : float
        Least distance (mm) from wall to wall.

    Returns
    -------
    tuple of Focus

    Raises
    ------
    ValueError
        There is not enough room for all of them.
    """
    rng = np.random.default_rng([seed, 21])
    points, distances = _distances(head, shape, affine)
    room = np.full(len(points), np.inf)
    kinds = ['large'] * large + [
        *(['microbleed'] * microbleeds + ['calcification'] * calcifications + ['mixed'] * mixed)
    ]
    places = [PLACES[n % len(PLACES)] for n in range(len(kinds) - large)]
    places = ['elsewhere'] * large + [places[n] for n in rng.permutation(len(places))]
    found = []
    for kind, place in zip(kinds, places, strict=True):
        low, high = (11.0, 16.0) if kind == 'large' else diameters
        radius = float(np.exp(rng.uniform(*np.log((low, high))))) / 2
        fits = _fits(place, radius, distances) & (room >= radius)
        free = np.flatnonzero(fits)
        if not len(free):
            raise ValueError(f'no place is left in the head for a focus of {2 * radius:.1f} mm: {place}')
        centre = points[rng.choice(free)] + rng.uniform(-0.5, 0.5, 3)
        x, y, z = map(float, centre)
        found.append(Focus((x, y, z), draw_focus(kind, 2 * radius, rng), kind, place))
        room = np.minimum(room, np.linalg.norm(points - centre, axis=1) - radius - apart)
    return tuple(found)


def _distances(head: 'Head', shape: tuple[int, ...], affine: np.ndarray):
    """Points (n, 3) of brain without CSF (mm), and their distances (mm) to the edge, to veins and nuclei."""
    part = head.sample(shape, affine, ('brain', 'csf', 'blood'))
    size = Grid.from_affine(shape, affine).voxel_size
    brain = part['brain'] > 0.5
    labels = head.labels(shape, affine)
    rich = [s.index for s in head.shapes if s.region in IRON_RICH]

    def away(obstacle: np.ndarray):
        return ndimage.distance_transform_edt(~obstacle, sampling=size)

    solid = brain & (part['csf'] < 0.5) & (part['blood'] < 0.1) & (labels == 0)
    index = np.argwhere(solid)
    at = tuple(index.T)
    found = {'edge': away(~brain)[at], 'vein': away(part['blood'] > 0.3)[at]}
    found['nucleus'] = away(np.isin(labels, rich))[at]
    return apply_affine(affine, index), found


def _fits(place: str, radius: float, distances: dict[str, np.ndarray]):
    """Where a focus lies at such a place: its wall within 2 mm of it, and farther from the others."""
    wall = {name: distance - radius for name, distance in distances.items()}
    # what touches by less than half a millimetre still touches
    far = {'edge': 4.0, 'vein': 2.5, 'nucleus': 4.0}
    fits = wall['edge'] > -0.5
    for name, least in far.items():
        fits &= (wall[name] > -0.5) & (wall[name] < 1.5) if name == place else wall[name] > least
    return fits


def put_foci(signal: np.ndarray, foci: Sequence[Focus], protocol: 'Protocol', *, parts: int = 6):
    r"""Change an acquired signal, without noise, by foci.

    The field of a ball of radius a is known, with angle :math:`\theta` to B0: outside

    .. math:: f = \frac{\Delta\chi}{3} \frac{a^3}{r^3} (3 \cos^2 \theta - 1)

    and 0 inside (sphere of Lorentz). The signal of each voxel is multiplied by the mean over its parts of
    density, decay and phase; where the field is smooth over a voxel, by the phase at its centre.

    Parameters
    ----------
    signal : ndarray of complex64, shape (x, y, z, echo)
        Changed in place. Its phase rises where the field is high.
    foci : sequence of Focus
    protocol : Protocol
    parts : int
        Along each side of a voxel.
    """
    affine = np.asarray(protocol.affine, float)
    times = np.array(protocol.echo_times)
    turns = times / ppm_per_radian(protocol.field_strength)
    for focus in foci:
        rates = [scale_r2star(s.r2star, protocol.field_strength) for s in focus.spheres]
        spheres = np.array(
            [(s.radius, s.chi, r, s.density) for s, r in zip(focus.spheres, rates, strict=True)]
        )
        strength = sum(abs(s.moment) for s in focus.spheres) * 6 / (4 * np.pi)
        widest = np.sqrt((affine[:3, :3] ** 2).sum(0)).max()
        near = (strength * widest * turns[-1] / STEEP) ** 0.25
        _put(
            signal,
            affine,
            np.array(focus.centre),
            spheres,
            turns,
            times,
            max(near, focus.radius + widest),
            parts,
        )


@numba.njit(cache=True, parallel=True)
def _put(
    signal: np.ndarray,
    affine: np.ndarray,
    centre: np.ndarray,
    spheres: np.ndarray,
    turns: np.ndarray,
    times: np.ndarray,
    near: float,
    parts: int,
):
    nx, ny, nz, ne = signal.shape
    for i in numba.prange(nx):
        factor = np.empty(ne, np.complex128)
        for j in range(ny):
            for k in range(nz):
                x = affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * k + affine[0, 3] - centre[0]
                y = affine[1, 0] * i + affine[1, 1] * j + affine[1, 2] * k + affine[1, 3] - centre[1]
                z = affine[2, 0] * i + affine[2, 1] * j + affine[2, 2] * k + affine[2, 3] - centre[2]
                count = parts if x * x + y * y + z * z < near * near else 1
                factor[:] = 0
                for a in range(count):
                    u = (a + 0.5) / count - 0.5
                    for b in range(count):
                        v = (b + 0.5) / count - 0.5
                        for c in range(count):
                            w = (c + 0.5) / count - 0.5
                            px = x + affine[0, 0] * u + affine[0, 1] * v + affine[0, 2] * w
                            py = y + affine[1, 0] * u + affine[1, 1] * v + affine[1, 2] * w
                            pz = z + affine[2, 0] * u + affine[2, 1] * v + affine[2, 2] * w
                            square = px * px + py * py + pz * pz
                            field, rate, density = 0.0, 0.0, 1.0
                            for s in range(len(spheres)):
                                radius = spheres[s, 0]
                                if square < radius * radius:
                                    rate += spheres[s, 2]
                                    density *= spheres[s, 3]
                                else:
                                    field += (
                                        spheres[s, 1]
                                        / 3
                                        * radius**3
                                        * (3 * pz * pz / square - 1)
                                        / square**1.5
                                    )
                            for e in range(ne):
                                size = density * np.exp(-rate * times[e])
                                angle = field * turns[e]
                                factor[e] += size * np.cos(angle) + 1j * size * np.sin(angle)
                for e in range(ne):
                    signal[i, j, k, e] *= factor[e] / count**3


def label_foci(foci: Sequence[Focus], shape: tuple[int, ...], affine: np.ndarray):
    """Number the foci (from 1, in their order) on a grid; each has the voxel of its centre at least."""
    found = np.zeros(shape, np.int32)
    inverse = np.linalg.inv(affine)
    sides = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(0))
    for number, focus in enumerate(foci, 1):
        middle = apply_affine(inverse, np.array([focus.centre]))[0]
        reach = focus.radius / sides + 1
        low = np.maximum(np.floor(middle - reach), 0).astype(int)
        high = np.minimum(np.ceil(middle + reach) + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        size = tuple(high - low)
        index = np.indices(size).reshape(3, -1).T + low
        inside = np.linalg.norm(apply_affine(affine, index) - focus.centre, axis=1) <= focus.radius
        found[box][inside.reshape(size)] = number
        nearest = np.clip(np.round(middle).astype(int), 0, np.array(shape) - 1)
        found[tuple(nearest)] = number
    return found
