"""Rigid and affine alignment by normalised mutual information, without random numbers."""

from collections.abc import Callable

import numpy as np
from numba import njit
from scipy import ndimage, optimize

from bids_qsm.anatomy.transform import apply_affine, regrid, resample, spacing_of
from bids_qsm.recon.arrays import Array

BINS = 40
_RADIUS = 60.0
"""Length (mm) that converts angles, scales and shears to shifts."""


@njit(cache=True)
def joint_histogram(points: Array, fixed: Array, matrix: Array, moving: Array, bins: int):
    """Count pairs of fixed bins and moving values (cubic B-spline Parzen window) at mapped points."""
    histogram = np.zeros((bins, bins + 3))
    nx, ny, nz = moving.shape
    for p in range(points.shape[0]):
        a, b, c = points[p, 0], points[p, 1], points[p, 2]
        x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c + matrix[0, 3]
        y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c + matrix[1, 3]
        z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c + matrix[2, 3]
        if x < 0 or y < 0 or z < 0 or x >= nx - 1 or y >= ny - 1 or z >= nz - 1:
            continue
        i, j, k = int(x), int(y), int(z)
        u, v, w = x - i, y - j, z - k
        low = (1 - v) * (moving[i, j, k] * (1 - w) + moving[i, j, k + 1] * w) + v * (
            moving[i, j + 1, k] * (1 - w) + moving[i, j + 1, k + 1] * w
        )
        high = (1 - v) * (moving[i + 1, j, k] * (1 - w) + moving[i + 1, j, k + 1] * w) + v * (
            moving[i + 1, j + 1, k] * (1 - w) + moving[i + 1, j + 1, k + 1] * w
        )
        value = low * (1 - u) + high * u
        m = int(value)
        t = value - m
        f = fixed[p]
        histogram[f, m] += (1 - t) ** 3 / 6
        histogram[f, m + 1] += (3 * t**3 - 6 * t**2 + 4) / 6
        histogram[f, m + 2] += (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        histogram[f, m + 3] += t**3 / 6
    return histogram


def _entropy(counts: Array):
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log(share)).sum()


def to_bins(image: Array, mask: Array):
    """Scale an image to [0, bins - 1] between the 0.5th and 99.5th percentile of the masked values."""
    low, high = np.percentile(image[mask], (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1).astype(np.float32) * (BINS - 1)


def matrix_of(parameters: Array, center: Array):
    """4x4 matrix of 6 (shift, rotation) or 12 (also log scale, shear) parameters in mm about ``center``.

    >>> matrix_of(np.array([1., 2, 3, 0, 0, 0]), np.zeros(3))[:3, 3].tolist()
    [1.0, 2.0, 3.0]
    """
    x, y, z = parameters[3:6] / _RADIUS
    cx, cy, cz, sx, sy, sz = np.cos(x), np.cos(y), np.cos(z), np.sin(x), np.sin(y), np.sin(z)
    linear = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )
    if parameters.size == 12:
        shear = np.eye(3)
        shear[0, 1], shear[0, 2], shear[1, 2] = parameters[9:12] / _RADIUS
        linear = linear @ shear @ np.diag(np.exp(parameters[6:9] / _RADIUS))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = center - linear @ center + parameters[:3]
    return matrix


class Similarity:
    """Normalised mutual information of two images at points spread evenly over a mask.

    (H(fixed) + H(moving)) / H(fixed, moving) over the points that fall inside the moving image [1]_;
    at each level both images are smoothed by ``sigma`` (mm).

    References
    ----------
    .. [1] Studholme et al. (1999), Pattern Recognition 32:71. doi:10.1016/S0031-3203(98)00091-0
    """

    def __init__(
        self,
        fixed: Array,
        fixed_affine: Array,
        fixed_mask: Array,
        moving: Array,
        moving_affine: Array,
        *,
        n_points: int,
        sigma: float,
    ):
        smooth_fixed = _smooth(fixed, fixed_affine, sigma)
        smooth_moving = _smooth(moving, moving_affine, sigma)
        self.world_to_moving = np.linalg.inv(moving_affine)
        at = spread(fixed_mask, n_points)
        values = ndimage.map_coordinates(to_bins(smooth_fixed, fixed_mask), at.T, order=1, mode='nearest')
        self.points = apply_affine(fixed_affine, at)
        self.fixed = np.minimum(values, BINS - 1).astype(np.int32)
        # stay just below the last bin, whose spline support is also needed
        self.moving = np.minimum(to_bins(smooth_moving, smooth_moving > 0), np.float32(BINS - 1.001))
        self.moving = np.ascontiguousarray(self.moving)

    def __call__(self, matrix: Array, overlap: float = 0.4):
        """Similarity for a 4x4 matrix that maps fixed to moving points; 0 where too few fall inside."""
        to_voxel = self.world_to_moving @ matrix
        histogram = joint_histogram(self.points, self.fixed, to_voxel, self.moving, BINS)
        if histogram.sum() < overlap * len(self.points):
            return 0.0
        joint = _entropy(histogram)
        return (_entropy(histogram.sum(0)) + _entropy(histogram.sum(1))) / joint if joint > 0 else 0.0


def _smooth(image: Array, affine: Array, sigma: float):
    size = spacing_of(affine)
    return ndimage.gaussian_filter(image, sigma / size) if sigma else image


def spread(mask: Array, n_points: int):
    """Voxel coordinates (n, 3) inside a mask along a low-discrepancy sequence (Roberts' R3).

    Points off the grid, as on it interpolation favours shifts by whole voxels.
    """
    corners = np.array([(s.start, s.stop) for s in ndimage.find_objects(mask.astype(np.int8))[0]], float)
    volume = np.prod(corners[:, 1] - corners[:, 0])
    total = int(n_points * volume / mask.sum())
    step = 1.2207440846057596 ** -np.arange(1, 4)
    unit = (0.5 + np.arange(1, total + 1)[:, None] * step) % 1
    at = corners[:, 0] - 0.5 + unit * (corners[:, 1] - corners[:, 0])
    at = np.clip(at, 0, np.array(mask.shape) - 1)
    return at[mask[tuple(np.rint(at).astype(int).T)]]


def coarsen(image: Array, affine: Array, spacing: float):
    """An image and its affine on an isotropic grid of ``spacing`` (mm), smoothed first if that is coarser."""
    size = spacing_of(affine)
    sigma = np.sqrt(np.maximum((spacing / size) ** 2 - 1, 0)) / 2.355
    shape, new = regrid(image.shape, affine, spacing)
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), sigma)
    return resample(smooth, affine, shape, new, []), new


def refine(
    similarity: Callable[[Array, float], float],
    start: Array,
    center: Array,
    *,
    n_parameters: int,
    step: float,
    tolerance: float,
    overlap: float = 0.4,
):
    """Maximise from ``start`` (4x4) by Powell's method over rigid (6) or affine (12) parameters.

    Returns (matrix, similarity). ``center`` is the fixed world point about which rotations turn;
    ``step`` (mm) scales the first line searches, ``tolerance`` (mm) ends the search.
    """

    def cost(scaled: Array):
        return -similarity(start @ matrix_of(scaled * step, center), overlap)

    found = optimize.minimize(
        cost,
        np.zeros(n_parameters),
        method='Powell',
        options={'xtol': tolerance / step, 'ftol': 1e-6, 'maxiter': 12},
    )
    return start @ matrix_of(found.x * step, center), -float(found.fun)
