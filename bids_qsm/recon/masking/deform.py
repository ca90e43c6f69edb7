"""The brain by a surface that grows inside the magnitude image until it meets the skull."""

import numpy as np
from numba import njit
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.masking.morphology import not_empty
from bids_qsm.recon.masking.signal import flatten, signal
from bids_qsm.recon.masking.surface import fill_surface, neighbours, sphere
from bids_qsm.recon.registry import Need, method

INWARD_MM = 20
"""How far below the surface the darkest voxel is sought (d1 of the paper)."""
BRIGHT_MM = 10
"""How far below it the brightest (d2)."""
BEND, STEEP = np.float32((1 / 3.33 + 1 / 10) / 2), np.float32(6 / (1 / 3.33 - 1 / 10))
"""Curvature (1/mm) about which the smoothing sets in, and how sharply: radii of 3.33 and 10 mm."""
GAIN = np.float32(0.05)
"""Share of the edge length by which the image may move a vertex in one step."""
REST = 25
"""Steps from one look at whether the surface rests to the next."""
MOST = 2000
COARSE_MM = 4.0


@method(
    memory=Need(0.08, volume=13, echoes=2), prose='the inside of a surface fitted to the magnitude [@bet]'
)
def bet(magnitude: Array, grid: Grid, *, fraction: float = 0.5, level: int = 4, tolerance: float = 0.02):
    r"""Brain as the inside of a deformable surface, after the Brain Extraction Tool [1]_.

    Each vertex moves by half of its tangential and a share of its normal step towards its neighbours' mean,
    and along the normal by

    .. math:: 0.05\, l\, \frac{2 (I_{min} - t_l)}{I_{max} - t_2}, \quad t_l = t_2 + b (I_{max} - t_2)

    with I_min and I_max the least and largest value below the vertex (20 and 10 mm deep), b the ``fraction``,
    t_2 the 2nd percentile and l the mean edge. Unlike the paper, the image (combined over the echoes) is
    divided by its smooth shading first, so that one threshold serves at 7 T too; the sphere starts where
    the tissue is deepest, not at the centre of gravity, which the neck would pull down; and the steps end
    when the surface rests, not after 1000. No second run is made where the surface cuts itself.

    Parameters
    ----------
    magnitude : ndarray of float32, shape (x, y, z, echo)
    fraction : float
        Share of the local brightness at which the brain ends; smaller values give larger brains.
    level : int
        Times the icosahedron's triangles are parted in four.
    tolerance : float
        The surface rests where its vertices move by less than this share of the mean edge in 25 steps.

    Returns
    -------
    ndarray of bool, shape (x, y, z)

    Raises
    ------
    UserError
        Where the images hold no signal.

    References
    ----------
    .. [1] Smith (2002), Hum Brain Mapp 17:143. doi:10.1002/hbm.10062
    """
    image = combine(magnitude)
    tissue = signal(image, grid)
    not_empty(tissue, 'the magnitude')
    image = flatten(image, tissue, grid)
    centre, radius = _deepest(tissue, grid)
    points, triangles = sphere(level)
    points = (np.float32(centre) + np.float32(radius / 2) * points).astype(np.float32)
    low, high = np.percentile(image, (2, 98))
    inside = fill_surface(points, triangles, grid)
    middle = np.median(image[inside & tissue]) if (inside & tissue).any() else high
    image = np.ascontiguousarray(image)
    limits = tuple(np.float32(v) for v in (low, low + 0.1 * (high - low), middle, fraction))
    size = np.array(grid.voxel_size, np.float32)
    _deform(points, neighbours(triangles, len(points)), image, size, limits, np.float32(tolerance), MOST)
    mask = fill_surface(points, triangles, grid)
    not_empty(mask, 'the surface')
    return mask


def _deepest(tissue: Array, grid: Grid):
    """Centre (mm) and radius (mm) of the largest ball within the filled tissue, on a coarse grid."""
    steps = [max(1, round(COARSE_MM / v)) for v in grid.voxel_size]
    sizes = [s * v for s, v in zip(steps, grid.voxel_size, strict=True)]
    coarse = np.pad(tissue[:: steps[0], :: steps[1], :: steps[2]], 1)
    # ventricles and vessels are no ends of the brain; the skull, which leads outside, is
    coarse = ndimage.binary_fill_holes(ndimage.binary_closing(coarse))
    distance = ndimage.distance_transform_edt(coarse, sampling=sizes)
    top = np.argwhere(distance > 0.95 * distance.max()).mean(0) - 1
    return top * sizes, float(distance.max())


@njit(cache=True, fastmath=True)
def _deform(
    points: Array,
    near: Array,
    image: Array,
    size: Array,
    limits: tuple[float, float, float, float],
    tolerance: float,
    most: int,
):
    """Move the vertices in place until they rest; ``near`` lists neighbours in turn, -1 for none."""
    before = points.copy()
    moves = np.empty_like(points)
    for turn in range(most):
        if turn % REST == 0:
            edge = _mean_edge(points, near)
            shift = np.sqrt(((points - before) ** 2).sum() / points.shape[0])
            if turn > 0 and shift < tolerance * edge:
                break
            before[:] = points
        for v in range(points.shape[0]):
            _move(moves[v], v, points, near, image, size, limits, edge)
        points += moves


@njit(cache=True, fastmath=True)
def _mean_edge(points: Array, near: Array):
    total, edges = np.float32(0), 0
    for v in range(points.shape[0]):
        for n in near[v]:
            if n >= 0:
                total += np.sqrt(((points[n] - points[v]) ** 2).sum())
                edges += 1
    return total / np.float32(edges)


@njit(cache=True, fastmath=True)
def _move(
    move: Array,
    v: Array,
    points: Array,
    near: Array,
    image: Array,
    size: Array,
    limits: tuple[float, float, float, float],
    edge: float,
):
    """Step of one vertex."""
    low, floor, middle, fraction = limits
    half, zero = np.float32(0.5), np.float32(0)
    hx, hy, hz = points[v, 0], points[v, 1], points[v, 2]
    valence = near.shape[1]
    if near[v, valence - 1] < 0:
        valence -= 1
    mx = my = mz = x = y = z = zero
    last = near[v, valence - 1]
    ax, ay, az = points[last, 0] - hx, points[last, 1] - hy, points[last, 2] - hz
    for i in range(valence):
        n = near[v, i]
        bx, by, bz = points[n, 0] - hx, points[n, 1] - hy, points[n, 2] - hz
        mx, my, mz = mx + bx, my + by, mz + bz
        x, y, z = x + ay * bz - az * by, y + az * bx - ax * bz, z + ax * by - ay * bx
        ax, ay, az = bx, by, bz
    length = max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
    x, y, z = x / length, y / length, z / length
    share = np.float32(1) / np.float32(valence)
    mx, my, mz = mx * share, my * share, mz * share
    along = mx * x + my * y + mz * z
    # 1 / radius of curvature, from the height of the vertex over its neighbours
    curvature = np.float32(2) * abs(along) / (edge * edge)
    smooth = half * (np.float32(1) + np.tanh(STEEP * (curvature - BEND)))
    darkest, brightest = middle, floor
    for s in range(INWARD_MM):
        i = int((hx - s * x) / size[0] + half)
        j = int((hy - s * y) / size[1] + half)
        k = int((hz - s * z) / size[2] + half)
        value = zero
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1] and 0 <= k < image.shape[2]:
            value = image[i, j, k]
        darkest = min(darkest, value)
        if s <= BRIGHT_MM:
            brightest = max(brightest, value)
    darkest = max(darkest, low)
    brightest = min(brightest, middle)
    push = (
        np.float32(2)
        * (darkest - low - fraction * (brightest - low))
        / max(brightest - low, np.float32(1e-12))
    )
    normal = (smooth - half) * along + GAIN * push * edge
    move[0] = half * mx + normal * x
    move[1] = half * my + normal * y
    move[2] = half * mz + normal * z
