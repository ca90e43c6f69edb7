"""Paramagnetic rims of lesions: how much of the edge has one, how strong it is, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from bids_qsm.biomarkers.rim_contrast import (
    BLOCKED,
    OUT_MM,
    RIM_MM,
    Chance,
    Edge,
    contrast_by_chance,
    measure_edge,
)
from bids_qsm.biomarkers.rim_profiles import N_DIRECTIONS, OUTER_MM, Frame, frame_of
from bids_qsm.recon.grid import Grid

CLASSES = (('definite', 2 / 3), ('probable', 1 / 2), ('possible', 1 / 3))
"""Class, and the least share of the assessable edge that has a rim."""
ACROSS = 3.0
"""Least voxels across a lesion: a voxel of rim on either side of one of core."""
VEIN_MM = 1.5
"""How far (mm) a vein at the edge may lie off the line of its parts beyond the lesion."""
FEWEST_DIRECTIONS = 16
"""Fewest directions that can be assessed, of 64."""
GREY_PPM = 0.025
"""Susceptibility (ppm) above white matter from which tissue outside counts as grey matter or fluid: half of
what these have."""
SMALL = f'too small: less than {ACROSS:g} voxels across'
HIDDEN = f'fewer than {FEWEST_DIRECTIONS} of {N_DIRECTIONS} directions face white matter'
ALONE = 'too little white matter nearby to tell noise'
OUTSIDE = 'outside the mask of the map'
LOST = 'outside the field of view, or lost in resampling'


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What lies around the lesions, on the grid of the maps.

    ``lesions`` holds their numbers; ``blocked`` is what is neither lesion nor white matter, ``veins`` are
    veins, or None where none were looked for; ``plain`` is white matter without either.
    """

    lesions: np.ndarray
    blocked: np.ndarray
    veins: np.ndarray | None
    plain: np.ndarray


@dataclass(frozen=True)
class Missed:
    """A lesion whose rim was not assessed, and why."""

    number: int
    reason: str


@dataclass(frozen=True, eq=False)
class Rim:
    """What is known of the rim of one lesion; see `bids_qsm.biomarkers.rim_table` for the columns.

    ``positive`` and ``veined`` are the directions that show a rim, and that a vein passes; ``probability`` is
    the image of the rim in the ``box`` of the maps.
    """

    number: int
    frame: Frame
    edge: Edge
    chance: Chance
    positive: np.ndarray
    veined: np.ndarray
    n_slices: int
    n_planes: int
    grade: str
    probability: np.ndarray
    box: tuple[slice, ...]

    @property
    def assessable(self):
        """Directions that were assessed."""
        return np.isfinite(self.edge.contrast)

    @property
    def completeness(self):
        """Share of the directions that can be assessed which have a rim."""
        return float(self.positive.sum() / self.assessable.sum())

    @property
    def seen(self):
        """Directions that the contrast is averaged over: those with a rim, or all where none has one."""
        return self.positive if self.positive.any() else self.assessable

    @property
    def contrast(self):
        """Mean contrast (ppm) over the directions `seen`."""
        return float(self.edge.contrast[self.seen].mean())

    @property
    def score(self):
        """Completeness times contrast (ppm), by which lesions are ranked; 0 without a rim."""
        return self.completeness * max(self.contrast, 0.0) if self.positive.any() else 0.0


def surroundings(
    chi: np.ndarray,
    mask: np.ndarray,
    lesions: np.ndarray,
    grid: Grid,
    *,
    veins: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    white: np.ndarray | None = None,
):
    """Tell white matter, where a rim can be seen, from all else around lesions.

    What is not white matter: outside the mask, ``excluded`` (nuclei, fluid), and what is `GREY_PPM` more
    paramagnetic than the white matter nearby, as cortex and fluid are. Such tissue would hide a rim: its
    directions are left out.

    Parameters
    ----------
    chi : ndarray of float32
        Susceptibility (ppm).
    mask : ndarray of bool
        Where it is given.
    lesions : ndarray of int
        Numbers of the lesions.
    grid : Grid
    veins : ndarray of bool, optional
    excluded : ndarray of bool, optional
    white : ndarray of bool, optional
        Deep white matter, the level of which is taken; without it the median of all tissue is.

    Returns
    -------
    Surroundings
    """
    steps = np.array(grid.voxel_size)
    anywhere = lesions > 0
    tissue = mask & ~anywhere
    if veins is not None:
        veins = veins & mask
        tissue &= ~ndimage.binary_dilation(veins)
    if excluded is not None:
        tissue &= ~excluded
    level = _level(chi, tissue if white is None or not (white & tissue).any() else white & tissue, steps)
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), 0.7 / steps)
    smooth = ndimage.gaussian_filter(np.where(tissue, chi - level, 0).astype(np.float32), 0.7 / steps)
    grey = smooth > GREY_PPM * np.maximum(weight, 0.1)
    plain = tissue & ~grey
    return Surroundings(lesions, ~plain & ~anywhere, veins, plain)


def _level(chi: np.ndarray, white: np.ndarray, steps: np.ndarray, reach_mm: float = 15.0):
    """Mean of white matter nearby (ppm), of values within 2.5 spreads of the median."""
    values = chi[white]
    if not values.size:
        return np.zeros(chi.shape, np.float32)
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    kept = white & (np.abs(chi - middle) < 2.5 * spread)
    sigma = reach_mm / 2 / steps
    weight = ndimage.gaussian_filter(kept.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(kept, chi - middle, 0).astype(np.float32), sigma)
    # far from white matter the level is that of all of it
    return (middle + total / np.maximum(weight, 0.05)).astype(np.float32)


def measure_rims(
    chi: np.ndarray, around: Surroundings, mask: np.ndarray, grid: Grid, *, count: int | None = None
):
    r"""Look for a rim in the edge of each lesion.

    In each of 64 directions of equal area the rim is where the map stands out most, between 1.5 mm inside and
    0.5 mm outside the edge of the mask, a voxel more on either side. Its contrast is the least of rim less
    core and rim less outside, so that a solid lesion has none. A direction is positive if

    .. math:: c > \max(\bar c_0, 0) + 2 \sigma_0

    where :math:`\bar c_0` and :math:`\sigma_0` are the median and the spread of the contrasts that the same
    shape has at other places of white matter: noise, its correlation and the search for the largest value are
    accounted for, and no threshold in ppm is needed.

    Lesions are graded by the share of directions that are positive, of those that can be assessed, following
    the consensus on rim lesions [1]_: definite from 2/3, probable from 1/2, possible from 1/3, if at least as
    much of the edge has a rim in two consecutive slices or two planes through the centre.

    Parameters
    ----------
    chi : ndarray of float32
        Susceptibility (ppm).
    around : Surroundings
    mask : ndarray of bool
    grid : Grid
    count : int, optional
        Largest number of a lesion; of those without a voxel on the grid the reason says so.

    Returns
    -------
    list of Rim and Missed
        One a lesion, in the order of their numbers.

    References
    ----------
    .. [1] Bagnato et al. (2024), Brain. doi:10.1093/brain/awae013
    """
    boxes = ndimage.find_objects(around.lesions, max_label=count or 0)
    known = np.where(mask, chi, np.nan)
    return [
        Missed(n, LOST) if box is None else _rim(chi, known, around, mask, grid, n, box)
        for n, box in enumerate(boxes, 1)
    ]


def _rim(
    chi: np.ndarray,
    known: np.ndarray,
    around: Surroundings,
    mask: np.ndarray,
    grid: Grid,
    number: int,
    box: tuple[slice, ...],
):
    steps = np.array(grid.voxel_size)
    margin = np.ceil((OUTER_MM + 1) / steps).astype(int)
    box = tuple(
        slice(max(b.start - m, 0), min(b.stop + m, n)) for b, m, n in zip(box, margin, chi.shape, strict=True)
    )
    here = around.lesions[box] == number
    if not (here & mask[box]).sum() > 0.5 * here.sum():
        return Missed(number, OUTSIDE)
    frame = frame_of(here, steps, [side.start for side in box])
    if 2 * frame.depth_mm < ACROSS * frame.voxel_mm:
        return Missed(number, SMALL)
    away = frame.signed > 0
    other = np.where(here, 0, around.lesions[box] > 0) | around.blocked[box]
    start = -np.array([side.start for side in box], float)
    hidden = away & (frame.sampled(other.astype(np.float32), start) > 0.5)
    values = frame.sampled(known)
    veined = np.zeros(len(values), bool)
    if around.veins is not None:
        passing = _passing(around.veins[box], here, steps)
        veined = frame.sampled(passing.astype(np.float32), start) > 0.5
        values = np.where(veined, np.nan, values)
    values = np.where(hidden, np.nan, values)
    lost = ~np.isfinite(values)
    rim = (RIM_MM[0] - frame.voxel_mm, RIM_MM[1])
    assessable = (frame.share(lost, *rim) <= BLOCKED) & (frame.share(lost, *OUT_MM) <= BLOCKED)
    edge = measure_edge(frame, values, assessable)
    if np.isfinite(edge.contrast).sum() < FEWEST_DIRECTIONS:
        return Missed(number, HIDDEN)
    chance = contrast_by_chance(frame, chi, around.plain, steps)
    if chance is None:
        return Missed(number, ALONE)
    positive = np.isfinite(edge.contrast) & (np.nan_to_num(edge.contrast) > chance.threshold)
    crossed = veined & (frame.signed >= rim[0]) & (frame.signed <= rim[1])
    passed = np.bincount(frame.direction[crossed], minlength=N_DIRECTIONS) > 0
    grade, slices, planes = _grade(frame, edge, positive, steps)
    return Rim(
        number,
        frame,
        edge,
        chance,
        positive,
        passed,
        slices,
        planes,
        grade,
        _probability(chi, frame, edge, positive, box),
        box,
    )


def _passing(veins: np.ndarray, lesion: np.ndarray, steps: np.ndarray):
    """Veins that pass a lesion, one voxel wider: on the lines of what is vein 3 to 6 mm away from it.

    A part of a rim may look like a vein, and be joined to one, but does not go on along its line.
    """
    distance = ndimage.distance_transform_edt(~lesion, sampling=steps)
    parts, count = ndimage.label(veins & (distance > 3) & (distance <= OUTER_MM), np.ones((3, 3, 3)))
    near = np.argwhere(veins & (distance <= 3)) * steps
    kept = veins & (distance > 3)
    on_line = np.zeros(len(near), bool)
    for part in range(1, count + 1):
        places = np.argwhere(parts == part) * steps
        if len(places) < 3:
            continue
        middle = places.mean(0)
        along = np.linalg.svd(places - middle, full_matrices=False)[2][0]
        aside = near - middle
        aside -= np.outer(aside @ along, along)
        on_line |= np.linalg.norm(aside, axis=1) <= VEIN_MM
    kept[tuple(np.rint(near[on_line] / steps).astype(int).T)] = True
    return ndimage.binary_dilation(kept)


def _grade(frame: Frame, edge: Edge, positive: np.ndarray, steps: np.ndarray):
    """Class of a lesion; slices in a row, and planes through its centre, in which the rim is that complete.

    Slices lie across the longest side of the voxel. Without a class, they are those of the lowest.
    """
    assessable = np.isfinite(edge.contrast)
    ring = (frame.signed >= -1) & (frame.signed <= 0.5) & assessable[frame.direction]
    place, hit = frame.points[ring], positive[frame.direction[ring]]
    axis = len(steps) - 1 - int(np.argmax(steps[::-1]))
    index = np.rint(place[:, axis]).astype(int)
    index -= index.min(initial=0)
    count = np.bincount(index)
    shares = np.bincount(index, hit, len(count)) / np.maximum(count, 1)
    # few points: the cap of the lesion, where a slice shows no ring
    shares[count < 0.3 * np.median(count[count > 0])] = 0
    through = [np.abs(place[:, a] - frame.centre[a]) <= 1 for a in range(3)]
    planes = np.array([hit[part].mean() if part.any() else 0.0 for part in through])
    total = positive.sum() / assessable.sum()
    for name, least in CLASSES:
        row, several = _longest(shares >= least), int((planes >= least).sum())
        if total >= least and (row >= 2 or several >= 2):
            return name, row, several
    return 'no', row, several


def _longest(marked: Sequence[bool] | np.ndarray):
    """Length of the longest run of True.

    >>> _longest([True, False, True, True])
    2
    """
    best = run = 0
    for one in marked:
        run = run + 1 if one else 0
        best = max(best, run)
    return best


def _probability(chi: np.ndarray, frame: Frame, edge: Edge, positive: np.ndarray, box: tuple[slice, ...]):
    """How far each voxel of a box is up from core and outside to the rim (0 to 1), in positive directions."""
    found = np.zeros(chi[box].shape, np.float32)
    if not positive.any():
        return found
    start = np.array([side.start for side in box])
    voxels = np.argwhere(np.ones(found.shape, bool)) + start
    distance, near = KDTree(frame.points).query(voxels, distance_upper_bound=1.5)
    there = np.isfinite(distance)
    voxels, near = voxels[there], near[there]
    which = frame.direction[near]
    off = np.abs(frame.signed[near] - edge.at[which])
    base = np.maximum(edge.core, edge.outside[which])
    height = (chi[tuple(voxels.T)] - base) / np.maximum(edge.rim[which] - base, 1e-6)
    share = np.where(positive[which] & (off <= 1.0 + 0.5 * frame.voxel_mm), np.clip(height, 0, 1), 0)
    found[tuple((voxels - start).T)] = np.nan_to_num(share)
    return found
