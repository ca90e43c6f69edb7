"""A random vein tree of the brain, drawn into template space."""

from collections.abc import Iterable, Sequence

import numba
import numpy as np
from scipy import ndimage

from bids_qsm.phantom.sampling import Volume
from bids_qsm.phantom.tissue import TISSUES
from bids_qsm.phantom.vessels import Segment

SPACING = 0.5
"""Of the vein volume, in units of the head's own spacing."""

# Waypoints (x, y, z in mm of MNI152) and radius (mm); mirrored where x is not 0.
SINUSES = (
    ([(0, -41, 3), (0, -52, 1), (0, -66, -5), (0, -80, -11), (0, -99, -17)], 2.0),
    ([(0, -103, -17), (22, -99, -21), (45, -80, -27), (58, -60, -31), (57, -47, -36)], 3.0),
    ([(57, -47, -36), (47, -42, -47), (37, -38, -58), (30, -30, -75)], 3.2),
)
DEEP = (
    ([(4, 1, 11), (3, -6, 15), (2.5, -16, 15), (2, -26, 12), (1.5, -34, 8), (0, -41, 3)], 1.0),
    ([(4, 1, 11), (10, -1, 16), (15, -9, 18), (18, -20, 19), (21, -28, 18)], 0.7),
    ([(4, 1, 11), (3, 10, 12), (3, 19, 11), (5, 27, 7)], 0.6),
    ([(15, -1, -18), (16, -9, -16), (15, -20, -9), (12, -30, -3), (5, -38, 1), (0, -41, 3)], 0.9),
)


def _smooth(
    points: Sequence | np.ndarray, step: float, rng: np.random.Generator | None = None, jitter: float = 0.0
):
    """Cubic curve through waypoints, a point every ``step`` mm, the inner waypoints jittered."""
    points = np.asarray(points, float)
    if rng is not None:
        points[1:-1] += jitter * rng.standard_normal(points[1:-1].shape)
    at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    fine = np.linspace(0, at[-1], max(int(at[-1] / step), 2))
    coarse = np.stack([np.interp(fine, at, points[:, k]) for k in range(3)], 1)
    return ndimage.gaussian_filter1d(coarse, 2 / step, axis=0, mode='nearest')


def _mirrored(paths: Iterable[tuple], rng: np.random.Generator, step: float, jitter: float):
    for points, radius in paths:
        points = np.asarray(points, float)
        sides = (1, -1) if np.any(points[:, 0] != 0) else (1,)
        for side in sides:
            yield _smooth(points * (side, 1, 1), step, rng, jitter), radius * rng.uniform(0.85, 1.15)


def _sagittal_sinus(brain: Volume, step: float):
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
    return _smooth(path, step)


def _look(field: Volume, point: np.ndarray):
    """Value and gradient (1/mm) of a field at a point; None outside it."""
    i, j, k = ((point - field.origin) / field.spacing).astype(int)
    if min(i, j, k) < 1 or np.any(np.array((i, j, k)) >= np.array(field.data.shape) - 1):
        return None, None
    d = field.data
    slope = (
        d[i + 1, j, k] - d[i - 1, j, k],
        d[i, j + 1, k] - d[i, j - 1, k],
        d[i, j, k + 1] - d[i, j, k - 1],
    )
    return d[i, j, k], np.array(slope, float) / (2 * field.spacing)


def _unit(vector: np.ndarray):
    return vector / max(np.linalg.norm(vector), 1e-3)


def _descend(
    start: np.ndarray,
    field: Volume,
    stop: float,
    step: float,
    rng: np.random.Generator,
    wander: float,
    longest: float,
):
    """Random walk down the slope of ``field`` (mm) until it is below ``stop``; None if too short."""
    here, path, drift = np.array(start, float), [], np.zeros(3)
    while len(path) < longest / step:
        value, slope = _look(field, here)
        if value is None:
            break
        path.append(here)
        if value < stop:
            break
        drift = 0.85 * drift + 0.25 * rng.standard_normal(3)
        here = here + step * _unit(wander * drift - _unit(slope))
    return np.array(path) if len(path) > 3 / step else None


def _climb(start: np.ndarray, depth: Volume, step: float, rng: np.random.Generator):
    """Along the brain's surface, 1.5 mm deep, from ``start`` to the midline above it."""
    here, path, drift = np.array(start, float), [], np.zeros(3)
    top = np.array([0.0, start[1] + rng.uniform(-15, 15), 78.0])
    while len(path) < 140 / step:
        value, inward = _look(depth, here)
        if value is None or value == 0 or abs(here[0]) < 2:
            break
        path.append(here)
        inward, goal = _unit(inward), _unit(top - here)
        drift = 0.9 * drift + 0.2 * rng.standard_normal(3)
        along = goal - (goal @ inward) * inward
        here = here + step * _unit(along + 0.3 * drift + 0.5 * (1.5 - value) * inward)
    return np.array(path) if len(path) > 3 / step else None


def _seeds(where: np.ndarray, number: int, volume: Volume, rng: np.random.Generator):
    index = np.argwhere(where)
    chosen = index[rng.choice(len(index), min(number, len(index)), replace=False)]
    return volume.origin + volume.spacing * (chosen + rng.uniform(-0.5, 0.5, chosen.shape))


@numba.njit(cache=True)
def _draw(blood: np.ndarray, points: np.ndarray, radii: np.ndarray):
    """Rasterise tubes (points and radii in voxels) with soft walls; thin ones fill voxels in part."""
    for n in range(len(points)):
        r = radii[n]
        full = min(1.0, (r / 0.5) ** 2)
        low = [max(int(np.ceil(points[n, k] - r - 1)), 0) for k in range(3)]
        high = [min(int(np.floor(points[n, k] + r + 1)) + 1, blood.shape[k]) for k in range(3)]
        for i in range(low[0], high[0]):
            for j in range(low[1], high[1]):
                for k in range(low[2], high[2]):
                    d = np.sqrt((i - points[n, 0]) ** 2 + (j - points[n, 1]) ** 2 + (k - points[n, 2]) ** 2)
                    share = full * min(max(r + 0.5 - d, 0.0), 1.0)
                    if share > blood[i, j, k]:
                        blood[i, j, k] = share


def draw_veins(brain: Volume, white: np.ndarray, csf: np.ndarray, rng: np.random.Generator):
    """Draw dural sinuses, deep, cortical, sulcal and medullary veins.

    Parameters
    ----------
    brain : Volume
        Brain mask, one channel (x, y, z).
    white, csf : ndarray, shape (x, y, z)
        Shares of white matter and CSF on the same lattice.
    rng : numpy.random.Generator

    Returns
    -------
    Volume
        Share of venous blood (0 .. 1), one channel (x, y, z, 1), twice as fine as ``brain``.
    """
    spacing = brain.spacing * SPACING
    step = spacing / 2

    def distance(inside: np.ndarray):
        filled = ndimage.distance_transform_edt(inside).astype(np.float32) * np.float32(brain.spacing)
        return Volume(filled, brain.origin, brain.spacing)

    depth = distance(brain.data > 0.5)
    x, y, z = np.meshgrid(*(brain.points(k) for k in range(3)), indexing='ij', sparse=True)
    # ventricles: CSF deep inside; medullary veins run from white matter towards them
    ventricle = (csf > 0.6) & (depth.data > 18) & (z > -5) & (z < 40) & (y > -60) & (np.abs(x) > 1)
    to_ventricle = distance(~ventricle)
    paths = [(_sagittal_sinus(brain, step), 2.8)]
    paths += _mirrored(SINUSES, rng, step, 1.0)
    paths += _mirrored(DEEP, rng, step, 0.5)
    far = to_ventricle.data
    medullary = (white > 0.8) & (far > 6) & (far < 22) & (z > 0) & (z < 50)
    for start in _seeds(medullary, 130, brain, rng):
        paths.append((_descend(start, to_ventricle, 1.0, step, rng, 0.15, 40), rng.uniform(0.2, 0.45)))
    sulcal = (csf > 0.45) & (depth.data > 4) & (depth.data < 18) & (far > 12)
    for start in _seeds(sulcal, 240, brain, rng):
        paths.append((_descend(start, depth, 1.5, step, rng, 0.25, 30), rng.uniform(0.35, 0.7)))
    # cortical veins climb along the surface to the sagittal sinus
    rim = (depth.data > 0.5) & (depth.data < 3) & (z > 5) & (np.abs(x) > 25)
    for start in _seeds(rim, 26, brain, rng):
        paths.append((_climb(start, depth, step, rng), rng.uniform(0.7, 1.2)))
    paths = [(path, radius) for path, radius in paths if path is not None]
    points = np.concatenate([path for path, _ in paths])
    # veins widen along their course
    radii = np.concatenate([radius * np.linspace(0.75, 1.2, len(path)) for path, radius in paths])
    blood = np.zeros([int(n * brain.spacing / spacing) - 1 for n in brain.data.shape], np.float32)
    _draw(blood, (points - brain.origin) / spacing, radii / spacing)
    chi = TISSUES['blood'].chi
    tree = [Segment(p[::4], r * np.linspace(0.75, 1.2, len(p[::4])), 1 - chi / 1.425, chi) for p, r in paths]
    return Volume(blood[..., None], brain.origin, spacing), tuple(tree)
