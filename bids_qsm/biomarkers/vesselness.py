"""Detection of veins in susceptibility maps: bright tubes of round section."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.recon.grid import Grid

LEAST_BLUR = 0.6
"""Standard deviation (voxels) of the narrowest Gaussian: below it, differences of neighbours alias."""


def vesselness(
    chi: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    scales_mm: Sequence[float] = (0.7, 1.1, 1.7),
    plate: float = 0.5,
    blob: float = 0.5,
    noise: float = 3.0,
):
    r"""Vesselness of paramagnetic tubes over several scales [1]_.

    With the eigenvalues :math:`|\lambda_1| \le |\lambda_2| \le |\lambda_3|` of the scaled Hessian of
    `tube_eigenvalues`, and :math:`\lambda_2, \lambda_3 < 0`,

    .. math:: V = \Big(1 - e^{-\frac{\lambda_2^2}{2 p^2 \lambda_3^2}}\Big) \,
                  e^{-\frac{\lambda_1^2}{2 b^2 |\lambda_2 \lambda_3|}} \,
                  \Big(1 - e^{-\frac{S^2}{2 c^2}}\Big), \quad S^2 = \sum_i \lambda_i^2

    is large on tubes, small on plates (first factor) and blobs (second), and near 0 without structure
    (third): c is ``noise`` times the median of S over the mask, where most voxels have no structure.

    Parameters
    ----------
    chi : ndarray of float32, shape ``grid.shape``
        Susceptibility (ppm), or any image in which tubes are bright.
    mask : ndarray of bool
    scales_mm : sequence of float
        Standard deviations (mm) of the Gaussians, about the radii of veins.
    plate, blob : float
        p and b, as in the paper.
    noise : float

    Returns
    -------
    ndarray of float32
        Largest V (0 to 1) over all scales; 0 outside the mask.

    References
    ----------
    .. [1] Frangi et al. (1998), LNCS 1496:130. doi:10.1007/BFb0056195
    """
    out = np.zeros(chi.shape, np.float32)
    if not mask.any():
        return out
    box = grown_box(mask, np.ceil(3 * max(scales_mm) / np.array(grid.voxel_size)).astype(int) + 1)
    inside = mask[box]
    filled = fill(chi[box], inside, grid)
    voxels = np.argwhere(inside)
    best = np.zeros(len(voxels), np.float32)
    for scale in scales_mm:
        values, _ = tube_eigenvalues(filled, voxels, grid, scale)
        strength = np.linalg.norm(values, axis=1)
        level = max(noise * float(np.median(strength)), 1e-12)
        found = tubeness(values, plate=plate, blob=blob)
        found *= 1 - np.exp(-(strength**2) / (2 * level**2))
        np.maximum(best, found, out=best)
    out[box][inside] = best
    return out


def tubeness(values: np.ndarray, *, plate: float = 0.5, blob: float = 0.5):
    """How much eigenvalues (n, 3) are those of a bright tube: the first two factors of `vesselness` (0 to 1).

    >>> tube, plate, ball = [0, -1, -1], [0, 0, -1], [-1, -1, -1]
    >>> tubeness(np.array([tube, plate, ball], float)).round(2).tolist()
    [0.86, 0.0, 0.12]
    """
    first = np.abs(values[:, 0])
    second, third = np.maximum(np.abs(values[:, 1:]), 1e-12).T
    found = 1 - np.exp(-((second / third) ** 2) / (2 * plate**2))
    found *= np.exp(-(first**2) / (2 * blob**2 * second * third))
    found[(values[:, 1] >= 0) | (values[:, 2] >= 0)] = 0
    return found


def tube_eigenvalues(data: np.ndarray, voxels: np.ndarray, grid: Grid, scale_mm: float):
    r"""Eigenvalues of the Hessian at a scale, and the direction in which the image changes least.

    Along axis i the image is smoothed by a Gaussian of s mm (at least `LEAST_BLUR` voxels). With the voxel of
    side :math:`h_i` its blur is :math:`\sigma_i`, and the Hessian is scaled by it:

    .. math:: \sigma_i^2 = s_i^2 + h_i^2 / 12, \quad H_{ij} = \sigma_i \sigma_j \, \partial_i \partial_j f

    In coordinates scaled by the blur, a tube that is thinner than the voxel is round whatever the sides of
    the voxel: without it, in thick slices, thin veins that lie in the slice look like plates.

    Parameters
    ----------
    data : ndarray of float32, 3D
    voxels : ndarray of int, shape (n, 3)
    scale_mm : float
        s.

    Returns
    -------
    values : ndarray of float32, shape (n, 3)
        Ordered by absolute value.
    axis : ndarray of float32, shape (n, 3)
        Unit vectors (mm along the voxel axes), with either sign.
    """
    sides = np.array(grid.voxel_size)
    blur = np.maximum(scale_mm / sides, LEAST_BLUR)
    smooth = ndimage.gaussian_filter(data, blur)
    sigma = sides * np.sqrt(blur**2 + 1 / 12)
    values, axis = hessian_eigenvalues(smooth, voxels, sides / sigma)
    axis *= sigma.astype(np.float32)
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-12)
    return values, axis


def vein_tree(
    tubes: np.ndarray,
    contrast_to_noise: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    least: float = 0.3,
    noise: float = 3.0,
    length_mm: float = 12.0,
):
    """Segment veins: connected voxels of high vesselness and contrast, of a minimum length.

    Parameters
    ----------
    tubes : ndarray of float32
        See `vesselness`; the threshold is ``least``.
    contrast_to_noise : ndarray of float32
        Susceptibility above that of the surrounding tissue, in standard deviations; the threshold is
        ``noise``.
    mask : ndarray of bool
    length_mm : float
        Least length of a piece: twice the distance (mm) from its centroid to its farthest voxel. This
        excludes the flanks of balls, which have a high vesselness too.

    Returns
    -------
    ndarray of bool
    """
    pieces, count = ndimage.label(mask & (tubes > least) & (contrast_to_noise > noise), np.ones((3, 3, 3)))
    voxels = np.argwhere(pieces)
    number = pieces[tuple(voxels.T)]
    places = voxels * np.array(grid.voxel_size)
    sizes = np.maximum(np.bincount(number, minlength=count + 1), 1)
    middle = np.stack([np.bincount(number, axis, count + 1) / sizes for axis in places.T], 1)
    reach = np.zeros(count + 1)
    np.maximum.at(reach, number, np.linalg.norm(places - middle[number], axis=1))
    return (2 * reach >= length_mm)[pieces]


def fill(data: np.ndarray, mask: np.ndarray, grid: Grid, *, reach_mm: float = 2.0):
    """Extend ``data`` smoothly beyond the mask, so that the edge of the mask is not a structure."""
    sigma = [reach_mm / v for v in grid.voxel_size]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(mask, data, 0).astype(np.float32), sigma)
    smooth /= np.maximum(weight, 1e-3)
    return np.where(mask, data, smooth).astype(np.float32)


def hessian_eigenvalues(data: np.ndarray, voxels: np.ndarray, voxel_size: Sequence[float] | np.ndarray):
    """Eigenvalues of the Hessian at given voxels, ordered by absolute value, and the axis of the first.

    Parameters
    ----------
    data : ndarray of float32, 3D
        Smooth enough for differences between neighbours.
    voxels : ndarray of int, shape (n, 3)
    voxel_size : ndarray, shape (3,)
        (mm, or any other unit of length).

    Returns
    -------
    values : ndarray of float32, shape (n, 3)
        (1/mm^2).
    axis : ndarray of float32, shape (n, 3)
        Unit eigenvector of the eigenvalue of smallest absolute value.

    Examples
    --------
    >>> x, y, z = np.indices((5, 5, 5), np.float32)
    >>> parabola = 2 * x**2 - y**2 + z**2 / 2
    >>> values, axis = hessian_eigenvalues(parabola, np.array([[2, 2, 2]]), np.ones(3))
    >>> values.round(2).tolist(), np.abs(axis).round(2).tolist()
    ([[1.0, -2.0, 4.0]], [[0.0, 0.0, 1.0]])
    """
    padded = np.pad(np.asarray(data, np.float32), 1, mode='edge')
    return _eigenvalues(padded, np.ascontiguousarray(voxels, np.int64), np.asarray(voxel_size, float))


@njit(cache=True, parallel=True)
def _eigenvalues(padded: np.ndarray, voxels: np.ndarray, steps: np.ndarray):
    """Eigenvalues of central second differences, and an axis; ``padded`` has one more voxel all around."""
    out = np.empty((len(voxels), 3), np.float32)
    axis = np.empty((len(voxels), 3), np.float32)
    sx, sy, sz = steps
    for n in prange(len(voxels)):
        i, j, k = voxels[n, 0] + 1, voxels[n, 1] + 1, voxels[n, 2] + 1
        p = padded
        twice = 2.0 * p[i, j, k]
        xx = (p[i + 1, j, k] + p[i - 1, j, k] - twice) / (sx * sx)
        yy = (p[i, j + 1, k] + p[i, j - 1, k] - twice) / (sy * sy)
        zz = (p[i, j, k + 1] + p[i, j, k - 1] - twice) / (sz * sz)
        xy = p[i + 1, j + 1, k] + p[i - 1, j - 1, k] - p[i + 1, j - 1, k] - p[i - 1, j + 1, k]
        xz = p[i + 1, j, k + 1] + p[i - 1, j, k - 1] - p[i + 1, j, k - 1] - p[i - 1, j, k + 1]
        yz = p[i, j + 1, k + 1] + p[i, j - 1, k - 1] - p[i, j + 1, k - 1] - p[i, j - 1, k + 1]
        xy, xz, yz = xy / (4 * sx * sy), xz / (4 * sx * sz), yz / (4 * sy * sz)
        # the three real roots of the cubic by trigonometry (Smith 1961, CACM 4:168)
        mean = (xx + yy + zz) / 3
        xx, yy, zz = xx - mean, yy - mean, zz - mean
        radius = np.sqrt((xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
        turn = 0.0
        if radius > 0:
            det = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
            turn = np.arccos(min(max(det / (2 * radius**3), -1.0), 1.0)) / 3
        high = mean + 2 * radius * np.cos(turn)
        low = mean + 2 * radius * np.cos(turn + 2 * np.pi / 3)
        a, b, c = low, 3 * mean - high - low, high
        if abs(a) > abs(b):
            a, b = b, a
        if abs(b) > abs(c):
            b, c = c, b
        if abs(a) > abs(b):
            a, b = b, a
        out[n, 0], out[n, 1], out[n, 2] = a, b, c
        # the eigenvector is normal to the rows of H - a: the longest product of two of them
        xx, yy, zz = xx + mean - a, yy + mean - a, zz + mean - a
        ux, uy, uz = xy * yz - xz * yy, xz * xy - xx * yz, xx * yy - xy * xy
        vx, vy, vz = xy * zz - xz * yz, xz * xz - xx * zz, xx * yz - xy * xz
        wx, wy, wz = yy * zz - yz * yz, yz * xz - xy * zz, xy * yz - yy * xz
        u, v, w = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz
        if v > u:
            u, ux, uy, uz = v, vx, vy, vz
        if w > u:
            u, ux, uy, uz = w, wx, wy, wz
        if u > 0:
            size = np.sqrt(u)
            axis[n, 0], axis[n, 1], axis[n, 2] = ux / size, uy / size, uz / size
        else:
            axis[n, 0], axis[n, 1], axis[n, 2] = 1.0, 0.0, 0.0
    return out, axis


def grown_box(mask: np.ndarray, margin: np.ndarray):
    """Box of a mask with a margin (voxels), inside the volume."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(b.start - m, 0), min(b.stop + m, n))
        for b, m, n in zip(box, margin, mask.shape, strict=True)
    )
