"""A random tree of the brain's veins, grown in template space."""

from collections.abc import Sequence

import numpy as np
from scipy import interpolate, ndimage, spatial

from bids_qsm.phantom.blood import Blood, blood_chi
from bids_qsm.phantom.growth import CELL, Ground, Nodes, chains, flows, grow
from bids_qsm.phantom.sampling import Volume
from bids_qsm.phantom.vessels import CLASSES, COUNT, Segment, blend, draw

SPACING = 0.5
"""Of the vein volume, in units of the head's own spacing."""
SMALLEST = (0.15, 0.19)
"""Range of the radii (mm) of veins where they begin."""
SEEDS = {'deep': 2200, 'cortical': 5600, 'infratentorial': 900}
"""Places that veins come from in each territory; those that others pass through do not begin there."""
TERRITORIES = {name: n for n, name in enumerate(SEEDS, 1)}

# Waypoints (x, y, z in mm of MNI152) downstream; those with x not 0 are of the right side, and mirrored.
GALEN = [(0, -39, 6), (0, -45, 3.5), (0, -52, 1)]
STRAIGHT = [(0, -52, 1), (0, -66, -5), (0, -80, -11), (0, -101, -17)]
INFERIOR_SAGITTAL = [(0, 38, 26), (0, 12, 38), (0, -18, 38), (0, -40, 20), (0, -49, 6), (0, -52, 1)]
TRANSVERSE = [(0, -103, -17), (22, -99, -21), (45, -80, -27), (58, -60, -31), (57, -47, -36)]
SIGMOID = [(57, -47, -36), (47, -42, -47), (37, -38, -58), (30, -30, -75)]
INTERNAL = [(4, 1, 11), (3, -6, 15), (2.5, -16, 15), (2, -26, 12), (1.5, -34, 8), (0, -39, 6)]
BASAL = [(15, -1, -18), (16, -9, -16), (15, -20, -9), (12, -30, -3), (5, -37, 3), (0, -39, 6)]
# Tributaries and what they flow into.
TRIBUTARIES: dict[str, tuple] = {
    'internal': (
        [(21, -28, 18), (18, -20, 19), (15, -9, 18), (10, -1, 16), (4, 1, 11)],  # thalamostriate
        [(5, 27, 7), (3, 19, 11), (3, 10, 12), (4, 1, 11)],  # septal
    ),
    'galen': ([(30, -44, 14), (24, -44, 14), (14, -42, 11), (5, -40, 8), (0, -39, 6)],),  # atrial
}


def _smooth(points: Sequence | np.ndarray, rng: np.random.Generator, jitter: float, step: float = 2.0):
    """Curve through waypoints, a point every ``step`` mm, the inner waypoints jittered."""
    points = np.array(points, float)
    points[1:-1] += jitter * rng.standard_normal(points[1:-1].shape)
    at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    curve = interpolate.PchipInterpolator(at, points)(np.linspace(0, at[-1], max(int(at[-1] / step), 2)))
    smooth = ndimage.gaussian_filter1d(curve, 3 / step, axis=0, mode='nearest')
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _sagittal_sinus(brain: Volume):
    """The superior sagittal sinus: just outside the brain on the midline, from frontal pole to occiput."""
    reach = np.arange(30, 120, 0.5)
    path = []
    middle = np.argmin(np.abs(brain.points(0)))
    plane = brain.data[middle - 3 : middle + 4].max(0)
    for angle in np.radians(np.arange(2, 205, 4)):
        y, z = -20 + reach * np.cos(angle), 10 + reach * np.sin(angle)
        index = [(y - brain.origin[1]) / brain.spacing, (z - brain.origin[2]) / brain.spacing]
        inside = ndimage.map_coordinates(plane, index, order=1) > 0.5
        last = reach[np.flatnonzero(inside)[-1]] + 2.0
        path.append((0, -20 + last * np.cos(angle), 10 + last * np.sin(angle)))
    return path


class _Trunks:
    """Sinuses and named deep veins, which the others grow towards."""

    def __init__(self, brain: Volume, rng: np.random.Generator):
        self.points, self.downstream, self.kind, self.opens = [], [], [], []
        self.rng = rng
        # most heads drain the sagittal sinus to the right, and the straight sinus to the left
        side = 1 if rng.uniform() < 0.7 else -1
        ends = {}
        for s in (side, -side):
            path = self._path(TRANSVERSE, s, 1.0)[:-1], self._path(SIGMOID, s, 1.0)
            ends[s] = self._add(np.concatenate(path), -1, 'other vein', ('cortical', 'infratentorial'))
        sagittal = _smooth([*_sagittal_sinus(brain), self.points[ends[side]]], rng, 0.0)
        self._add(sagittal, ends[side], 'superior sagittal sinus', ('cortical',))
        straight = [*STRAIGHT[:-1], self.points[ends[-side]]]
        both = ('cortical', 'infratentorial')
        end = self._add(self._path(straight, 1, 1.0), ends[-side], 'straight sinus', both)
        self._add(self._path(INFERIOR_SAGITTAL, 1, 1.0), end, 'other vein', ('cortical',))
        galen = self._add(self._path(GALEN, 1, 0.4), end, 'vein of Galen', ('infratentorial',))
        for s in (1, -1):
            monro = self._add(self._path(INTERNAL, s, 0.4), galen, 'internal cerebral vein', ('deep',))
            self._add(self._path(BASAL, s, 0.5), galen, 'other vein', ('deep',))
            for into, paths in TRIBUTARIES.items():
                first = {'internal': monro, 'galen': galen}[into]
                for path in paths:
                    self._add(self._path(path, s, 0.5), first, 'other vein', ('deep',))

    def _path(self, points: Sequence | np.ndarray, side: int, jitter: float):
        return _smooth(np.multiply(points, (side, 1, 1)), self.rng, jitter)

    def _add(self, path: np.ndarray, into: int, kind: str, opens: tuple[str, ...]):
        """Add a way whose last point is that of the node ``into``; return its most upstream node."""
        for point in path[::-1][into >= 0 :]:
            self.points.append(point)
            self.downstream.append(into)
            into = len(self.points) - 1
            self.kind.append(CLASSES[kind])
            self.opens.append([name in opens for name in SEEDS])
        return into

    @property
    def nodes(self):
        return Nodes(np.array(self.points), np.array(self.downstream), np.array(self.kind))


def tentorium(x: np.ndarray, y: np.ndarray):
    """Height (mm) of the tentorium: from the straight sinus down to the transverse sinuses."""
    ridge = 1 + 0.375 * (np.minimum(y, -52) + 52)
    return ridge - (np.abs(x) / 57) ** 1.3 * (ridge + 33)


def _distance(region: np.ndarray, step: float, most: float):
    """Distance (mm) to a region, infinite beyond a box that reaches ``most`` mm around it."""
    far, margin = np.full(region.shape, np.inf), int(most / step)
    for box in ndimage.find_objects(region.astype(np.uint8)):
        wide = tuple(slice(max(b.start - margin, 0), b.stop + margin) for b in box)
        far[wide] = ndimage.distance_transform_edt(~region[wide]) * step
    return far


def _ground(brain: Volume, white: np.ndarray, csf: np.ndarray, trunks: _Trunks, rng: np.random.Generator):
    """What veins grow in, with the share of tissue (white or grey) of each node."""
    skip = max(round(2 / brain.spacing), 1)
    step = skip * brain.spacing
    mask, white, csf = (c[::skip, ::skip, ::skip] for c in (brain.data > 0.5, white, csf))
    shape = [int(n * brain.spacing / CELL) for n in brain.data.shape]
    cells = np.indices(shape).reshape(3, -1).T
    points = brain.origin + CELL * (cells + 0.5 + rng.uniform(-0.4, 0.4, cells.shape))
    nearest = np.round((points - brain.origin) / step).astype(int)
    nearest = np.minimum(nearest, np.array(mask.shape) - 1)
    inside = mask[tuple(nearest.T)]
    cells, points, at = cells[inside], points[inside], tuple(nearest[inside].T)

    depth = ndimage.distance_transform_edt(mask) * step
    axes = [brain.origin[k] + step * np.arange(mask.shape[k]) for k in range(3)]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    ventricle = (csf > 0.6) & (depth > 18) & (z > -5) & (z < 40) & (y > -60) & (np.abs(x) > 1)
    far = _distance(ventricle, step, 28.0)[at]
    depth, white, csf = depth[at], white[at], csf[at]
    grey = 1 - white - csf
    x, y, z = points.T
    deep = (far < 26) & (depth > 8) & (z > -16) & ((csf < 0.4) | (far < 3))
    deep &= (grey < 0.5) | ((depth > 26) & (np.abs(x) < 32) & (far < 22))
    below = (z < tentorium(x, y)) & (y < -38)
    below |= (np.abs(x) < 20) & (y < -10) & (y > -50) & (z < -12)
    territory = np.where(below, TERRITORIES['infratentorial'], TERRITORIES['cortical'])
    territory[deep & ~below] = TERRITORIES['deep']
    # deep veins run through white matter and along the walls of ventricles, the others over the surface
    cost = np.where(csf > 0.4, 1.0, np.where(grey > 0.5, 2.0, 5.0))
    cost[territory == TERRITORIES['deep']] = np.where(far < 0.5, 3.0, 1.0)[territory == TERRITORIES['deep']]
    cost *= np.exp(0.35 * rng.standard_normal(len(cost)))

    opens, places = np.array(trunks.opens), np.array(trunks.points)
    entry, gate = np.full(len(points), np.inf, np.float32), np.full(len(points), -1)
    for name, n in TERRITORIES.items():
        mine, doors = np.flatnonzero(territory == n), np.flatnonzero(opens[:, n - 1])
        # bridging veins enter a sinus here and there
        doors = doors[rng.uniform(size=len(doors)) < (0.7 if name == 'deep' else 0.3)]
        away, which = spatial.cKDTree(places[doors]).query(points[mine], distance_upper_bound=8.0)
        near = np.isfinite(away)
        entry[mine[near]], gate[mine[near]] = 2 * away[near], doors[which[near]]
    ground = Ground(points, cells, territory, cost.astype(np.float32), entry, gate)
    return ground, np.where(territory == TERRITORIES['cortical'], grey + 0.3 * white, grey + white)


def draw_veins(
    brain: Volume, white: np.ndarray, csf: np.ndarray, blood: Blood, rng: np.random.Generator
) -> tuple[Volume, tuple[Segment, ...]]:
    r"""Grow the veins of a brain towards its sinuses and draw them.

    Where veins meet, the radii obey Murray's law [1]_,

    .. math:: r^3 = \sum_i r_i^3

    which is flow in proportion to the cube of the radius; blood mixes in these proportions.

    Parameters
    ----------
    brain : Volume
        Brain mask, one channel (x, y, z).
    white, csf : ndarray, shape (x, y, z)
        Shares of white matter and CSF on the same lattice.
    blood : Blood
    rng : numpy.random.Generator

    Returns
    -------
    Volume
        Share of venous blood (0 .. 1) and its product with the susceptibility (ppm) of that blood, two
        channels (x, y, z, 2) of counts, twice as fine as ``brain``.
    tuple of Segment
        The veins in template space.

    References
    ----------
    .. [1] Murray (1926), PNAS 12:207. doi:10.1073/pnas.12.3.207
    """
    trunks = _Trunks(brain, rng)
    ground, tissue = _ground(brain, white, csf, trunks, rng)
    seeds = []
    for name, number in SEEDS.items():
        weight = tissue * (ground.territory == TERRITORIES[name])
        seeds.append(rng.choice(len(weight), number, replace=False, p=weight / weight.sum()))
    kinds = np.array([0, *(CLASSES[k] for k in ('deep medullary vein', 'cortical vein', 'other vein'))])
    nodes = grow(trunks.nodes, ground, np.concatenate(seeds), kinds[ground.territory])

    count, first = len(nodes.points), len(trunks.points)
    leaf = np.ones(count, bool)
    leaf[:first] = False
    leaf[nodes.downstream[first:]] = False
    source = np.where(leaf, rng.uniform(*SMALLEST, count) ** 3, 0)
    oxygenation = np.where(nodes.kind == CLASSES['deep medullary vein'], blood.deep, blood.cortical)
    oxygenation = np.clip(oxygenation + blood.spread * rng.standard_normal(count), 0, 1)
    flow, mixed = flows(nodes, source, oxygenation)
    heads, points, starts, into = chains(nodes, flow)
    names = {n: name for name, n in CLASSES.items()}
    radii = np.repeat(np.cbrt(flow[heads]), np.diff(starts))
    columns = (
        np.split(points, starts[1:-1]),
        np.split(radii, starts[1:-1]),
        mixed[heads].tolist(),
        blood_chi(mixed[heads], blood.hematocrit).tolist(),
        [names[k] for k in nodes.kind[heads].tolist()],
        range(len(heads)),
        into.tolist(),
    )
    tree = tuple(Segment(*row) for row in zip(*columns, strict=True))
    spacing = brain.spacing * SPACING
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = brain.origin
    shape = [int(n * brain.spacing / spacing) - 1 for n in brain.data.shape]
    share, owner = draw(tree, shape, affine)
    data = blend(share, owner, np.array([s.chi for s in tree], np.float32))
    return Volume(data, brain.origin, spacing, COUNT), tree
