"""Central vein sign: whether a vein runs through the centre of a lesion.

The definition follows the consensus of the North American Imaging in Multiple Sclerosis Cooperative [1]_: one
vein, less than 2 mm wide, runs through the centre of the lesion, and is seen in at least two planes. Lesions
smaller than 3 mm, confluent lesions and those with several veins are not assessed.

References
----------
.. [1] Sati et al. (2016), Nat Rev Neurol 12:714. doi:10.1038/nrneurol.2016.166
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

SMALL_MM, WIDE_MM = 3.0, 2.0
"""Least size of a lesion along each axis, and the diameter that a central vein stays below."""
LARGEST_MM, LONGEST_MM = 1.3, 2.1
"""Largest voxels (cube root of the volume, longest side) in which thin veins are seen, by
benchmarks/central_vein.py."""
CROSSES = 0.5
"""Least score of a vein that runs through the centre: it passes within 0.43 radii of it in a sphere."""
BOTH_SIDES = 0.5
"""Part of the depth of the centre that the vein reaches beyond it, on either side."""
NECK, FINE_MM = 0.08, 0.4
"""Least fall of the depth between two centres of a confluent lesion, in depths of its deepest voxel, and the
voxels that these are looked for with."""
SEEN = 2.0
"""Contrast of a vein in a plane, in standard deviations of the lesion there."""
FEWEST = 8
"""Fewest voxels without a vein that it is compared with."""
PLANES = 2
"""Planes in which the vein is seen."""
PLACES = 999
"""Random places in white matter that the score is compared with."""
CLASSES = {1: 'central vein', 2: 'no central vein', 3: 'excluded'}
"""Labels of the image of lesions."""

COARSE = 'not assessable: voxels too large for thin veins'
OUTSIDE = 'partly outside the mask of the map'
SMALL = f'smaller than {SMALL_MM:g} mm'
CONFLUENT = 'confluent'
SEVERAL = 'several veins'
NONE, ASIDE, SHORT, WIDE, FAINT = (
    'no vein in the lesion',
    'vein off the centre',
    'vein ends in the lesion',
    'vein too wide',
    'vein seen in fewer than two planes',
)

MEASURED: tuple[str, ...] = ('label', 'cvs', 'reason', 'score', 'p', 'size_mm', 'n_veins')
MEASURED += ('vein_width_mm', 'off_centre_mm', 'n_planes')
"""Columns of the table of `central_veins`."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Centrelines of veins, point by point.

    Attributes
    ----------
    voxels : ndarray, shape (n, 3)
        Points (voxels of the maps).
    length, diameter : ndarray, shape (n,)
        Length of vein (mm) that a point stands for, and diameter there (mm).
    """

    voxels: np.ndarray
    length: np.ndarray
    diameter: np.ndarray

    @classmethod
    def from_table(cls, table: pd.DataFrame, affine: np.ndarray):
        """Of the table of centrelines that `bids_qsm.biomarkers.veins_table.line_table` makes."""
        points = table[['x', 'y', 'z']].to_numpy(float)
        step = np.linalg.norm(np.diff(points, axis=0), axis=1)
        step[np.diff(table['segment']) != 0] = 0
        length = (np.r_[0, step] + np.r_[step, 0])[: len(points)] / 2
        voxels = apply_affine(np.linalg.inv(affine), points) if len(points) else points
        return cls(voxels, length, table['diameter_mm'].to_numpy(float))

    def select(self, which: np.ndarray):
        """Some of the points."""
        return Lines(self.voxels[which], self.length[which], self.diameter[which])


@dataclass(frozen=True, eq=False)
class _Shape:
    """A lesion in a box that begins at voxel ``first`` of the maps, and the depth (mm) of its voxels."""

    here: np.ndarray
    depth: np.ndarray
    first: np.ndarray
    sides: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, number: int, box: tuple[slice, ...], grid: Grid):
        box = tuple(slice(max(b.start - 2, 0), b.stop + 2) for b in box)
        here = labels[box] == number
        sides = np.array(grid.voxel_size)
        # the edge of the volume is no wall
        far = depth(np.pad(here, 1, mode='edge'), grid.voxel_size, 1e3)[3 * (slice(1, -1),)]
        wall = np.maximum(far - sides.prod() ** (1 / 3) / 2, 0) * here
        return cls(here, wall, np.array([b.start for b in box]), sides)

    @property
    def deepest(self):
        """Radius (mm) of the largest sphere inside."""
        return max(float(self.depth.max()), 1e-3)

    @property
    def centre(self):
        """Centre of mass (voxels of the maps)."""
        return np.argwhere(self.here).mean(0) + self.first

    @property
    def size(self):
        """Extent (mm) along each axis."""
        found = np.argwhere(self.here)
        return (np.ptp(found, axis=0) + 1) * self.sides

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """Depth (mm) at points (n, 3) in voxels of the maps, 0 outside."""
        return ndimage.map_coordinates(self.depth, (voxels - self.first).T, order=1, mode='constant')

    def in_core(self, voxels: np.ndarray) -> np.ndarray:
        """Whether points lie in the core: in the inner half, by depth."""
        return self.at(voxels) >= self.deepest / 2

    def is_confluent(self) -> bool:
        """Whether there are two centres with a neck between them."""
        step = min(FINE_MM, float(self.sides.min()))
        # on a finer grid, so that steps of voxels make no neck
        soft = ndimage.gaussian_filter(self.here.astype(np.float32), 0.5)
        inside = ndimage.zoom(soft, self.sides / step, order=1) > 0.5
        smooth = ndimage.gaussian_filter(depth(inside, 3 * (step,), 1e3), 0.7)
        fall = NECK * smooth.max()
        for level in np.arange(smooth.max() - fall, 0, -fall / 2):
            pieces, count = ndimage.label(smooth > level)
            if count > 1 and (ndimage.maximum(smooth, pieces, range(1, count + 1)) >= level + fall).sum() > 1:
                return True
        return False


def coarse(grid: Grid) -> bool:
    """Whether voxels are too large for thin veins."""
    return grid.voxel_volume ** (1 / 3) > LARGEST_MM or max(grid.voxel_size) > LONGEST_MM


def central_veins(
    chi: np.ndarray,
    mask: np.ndarray,
    labels: np.ndarray,
    lines: Lines,
    tissue: np.ndarray,
    grid: Grid,
    *,
    places: int = PLACES,
    seed: int = 0,
) -> tuple[pd.DataFrame, np.ndarray]:
    r"""Assess the central vein sign of each lesion.

    The core of a lesion are the points at least half as deep as the deepest one; in a sphere, the inner half
    of the diameter. The score is the length of vein in the core over the diameter of the core (2 x half of
    the greatest depth), at most 1. A vein runs through the centre where its score is `CROSSES` at least, and
    it goes on beyond the centre on both sides. It is seen in a plane through the centre if its mean
    susceptibility there is `SEEN` standard deviations above that of the lesion without veins.

    p is the share of random places in ``tissue`` at which the core of the same lesion, mirrored at random,
    holds at least as much vein: how often a lesion there would have this score by chance.

    Parameters
    ----------
    chi : ndarray of float32, 3D
        Susceptibility (ppm).
    mask : ndarray of bool
        Where susceptibility is given.
    labels : ndarray of int
        Number of each lesion on the grid of the maps, 0 elsewhere.
    lines : Lines
        Centrelines of all veins.
    tissue : ndarray of bool
        White matter, where the random places lie.
    grid : Grid
    places : int
        Number of random places.
    seed : int
        Of the places.

    Returns
    -------
    table : DataFrame
        One row a lesion in the order of the numbers, with the columns `MEASURED`.
    classes : ndarray of int16
        `CLASSES` of lesions.
    """
    rng = np.random.default_rng(seed)
    tree = KDTree(lines.voxels * np.array(grid.voxel_size)) if len(lines.voxels) else None
    free = np.argwhere(tissue & mask & (labels == 0))
    classes = np.zeros(labels.shape, np.int16)
    rows = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        shape = _Shape.of(labels, number, box, grid)
        inside = lines.select(shape.at(lines.voxels) > 0)
        row = {'label': number, **_assess(shape, inside, chi, mask, grid)}
        if tree is not None and row['cvs'] != 'excluded':
            row['p'] = _by_chance(shape, _held(shape, inside), lines, tree, free, places, rng)
        classes[box][labels[box] == number] = {'yes': 1, 'no': 2, 'excluded': 3}[row['cvs']]
        rows.append(row)
    return pd.DataFrame(rows, columns=list(MEASURED)), classes


def _assess(shape: _Shape, inside: Lines, chi: np.ndarray, mask: np.ndarray, grid: Grid) -> dict:
    """Class of a lesion with the veins ``inside`` it, and what it was told by."""
    pieces = _pieces(inside, shape.sides)
    scores = [_held(shape, one) / shape.deepest for one in pieces]
    main = pieces[int(np.argmax(scores))] if pieces else None
    row = {
        'size_mm': float(shape.size.min()),
        'score': min(max(scores, default=0.0), 1.0),
        'n_veins': sum(score >= CROSSES for score in scores),
        'n_planes': 0,
    }
    if main is not None:
        row |= {
            'vein_width_mm': float(np.median(main.diameter)),
            'off_centre_mm': float(np.linalg.norm((main.voxels - shape.centre) * shape.sides, axis=1).min()),
            'n_planes': sum(_seen(shape, main, inside, chi)),
        }
    reason, excluded = _reason(shape, main, row, mask, grid)
    row |= {'cvs': 'excluded' if excluded else 'no' if reason else 'yes', 'reason': reason or np.nan}
    if reason == COARSE:
        row |= dict.fromkeys(('score', 'n_veins', 'vein_width_mm', 'off_centre_mm', 'n_planes'), np.nan)
    return row


def _reason(shape: _Shape, main: Lines | None, row: dict, mask: np.ndarray, grid: Grid) -> tuple[str, bool]:
    """Why a lesion has no sign, and whether it is excluded for that."""
    voxels = np.argwhere(shape.here) + shape.first
    if coarse(grid):
        return COARSE, True
    # where the volume ends the lesion may go on
    if not mask[tuple(voxels.T)].all() or (voxels == 0).any() or (voxels == np.array(mask.shape) - 1).any():
        return OUTSIDE, True
    if row['size_mm'] < SMALL_MM:
        return SMALL, True
    if shape.is_confluent():
        return CONFLUENT, True
    if row['n_veins'] > 1:
        return SEVERAL, True
    if main is None:
        return NONE, False
    if row['score'] < CROSSES:
        return ASIDE, False
    if not _both_sides(shape, main):
        return SHORT, False
    if row['vein_width_mm'] >= WIDE_MM:
        return WIDE, False
    return ('', False) if row['n_planes'] >= PLANES else (FAINT, False)


def _held(shape: _Shape, lines: Lines):
    """Length (mm) of vein in the core."""
    return float(lines.length[shape.in_core(lines.voxels)].sum())


def _pieces(inside: Lines, sides: np.ndarray) -> list[Lines]:
    """The veins in a lesion: chains of points less than two voxels apart."""
    n = len(inside.voxels)
    if not n:
        return []
    pairs = KDTree(inside.voxels * sides).query_pairs(1.5 * sides.max(), output_type='ndarray')
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n))
    count, piece = connected_components(links, directed=False)
    return [inside.select(piece == number) for number in range(count)]


def _both_sides(shape: _Shape, vein: Lines):
    """Whether the vein goes on beyond the centre on both sides."""
    away = (vein.voxels - shape.centre) * shape.sides
    _, _, axes = np.linalg.svd(away - away.mean(0), full_matrices=False)
    along = away @ axes[0]
    return min(along.max(), -along.min()) >= BOTH_SIDES * shape.deepest


def _seen(shape: _Shape, vein: Lines, inside: Lines, chi: np.ndarray) -> list[bool]:
    """Whether the vein is seen in each of the three planes through the centre of the lesion."""
    voxels = np.argwhere(np.ones_like(shape.here)) + shape.first
    away, _ = KDTree(inside.voxels * shape.sides).query(voxels * shape.sides)
    plain = away > 1.5 * shape.sides.prod() ** (1 / 3)
    in_lesion = shape.here[tuple((voxels - shape.first).T)]
    # a vein may fill a small lesion
    rest = plain & in_lesion if (plain & in_lesion).sum() >= FEWEST else plain
    if rest.sum() < FEWEST:
        return [False] * 3
    around = chi[tuple(voxels[rest].T)]
    level = around.mean() + SEEN * around.std(ddof=1)
    found = []
    for axis in range(3):
        own = np.abs(vein.voxels[:, axis] - shape.centre[axis]) <= 0.75
        at = np.clip(np.rint(vein.voxels[own]).astype(int), 0, np.array(chi.shape) - 1)
        found.append(bool(own.any() and chi[tuple(at.T)].mean() > level))
    return found


def _by_chance(
    shape: _Shape,
    held: float,
    lines: Lines,
    tree: KDTree,
    free: np.ndarray,
    places: int,
    rng: np.random.Generator,
) -> float:
    """Share of random places, and of random mirror images, where the core holds as much vein."""
    if not len(free):
        return np.nan
    core = np.argwhere(shape.depth >= shape.deepest / 2) + shape.first - shape.centre
    reach = float(np.linalg.norm((np.abs(core) + 1) * shape.sides, axis=1).max())
    chosen = free[rng.integers(len(free), size=places)] + rng.uniform(-0.5, 0.5, (places, 3))
    signs = rng.choice([-1.0, 1.0], (places, 3))
    beyond = 0
    for place, sign, near in zip(
        chosen, signs, tree.query_ball_point(chosen * shape.sides, reach), strict=True
    ):
        if near:
            voxels = shape.centre + sign * (lines.voxels[near] - place)
            beyond += lines.length[near][shape.in_core(voxels)].sum() >= held
        else:
            beyond += held <= 0
    return (1 + int(beyond)) / (1 + places)
