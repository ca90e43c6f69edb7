"""Detection of veins in susceptibility maps: bright tubes of round section."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.recon.grid import Grid


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

    With the eigenvalues :math:`|\lambda_1| \le |\lambda_2| \le |\lambda_3|` of the Hessian of chi smoothed
    by a Gaussian of each scale s, times :math:`s^2`, and :math:`\lambda_2, \lambda_3 < 0`,

    .. math:: V = \Big(1 - e^{-\frac{\lambda_2^2}{2 p^2 \lambda_3^2}}\Big) \,
                  e^{-\frac{\lambda_1^2}{2 b^2 |\lambda_2 \lambda_3|}} \,
                  \Big(1 - e^{-\frac{S^2}{2 c^2}}\Big), \quad S^2 = \sum_i \lambda_i^2

    is large on tubes, small on plates (first factor) and blobs (second), and near 0 without structure
    (third): c is ``noise`` times the median of S over the mask, where most voxels have no structure.

    Parameters
    ----------
    chi : ndarray of float32, shape ``grid.shape``
        Susceptibility (ppm).
    mask : ndarray of bool
    scales_mm : sequence of float
        Standard deviations (mm) of the Gaussians, about the radii of veins; at least 0.6 voxels along each
        axis.
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
    voxel_size = np.array(grid.voxel_size)
    box = _grown(mask, np.ceil(3 * max(scales_mm) / voxel_size).astype(int) + 1)
    inside = mask[box]
    filled = fill(chi[box], inside, grid)
    voxels = np.argwhere(inside)
    best = np.zeros(len(voxels), np.float32)
    for scale in scales_mm:
        smooth = ndimage.gaussian_filter(filled, np.maximum(scale / voxel_size, 0.6))
        values = hessian_eigenvalues(smooth, voxels, voxel_size) * np.float32(scale**2)
        first, second, third = np.abs(values).T
        strength = np.linalg.norm(values, axis=1)
        level = max(noise * float(np.median(strength)), 1e-12)
        third = np.maximum(third, 1e-12)
        second = np.maximum(second, 1e-12)
        found = 1 - np.exp(-((second / third) ** 2) / (2 * plate**2))
        found *= np.exp(-(first**2) / (2 * blob**2 * second * third))
        found *= 1 - np.exp(-(strength**2) / (2 * level**2))
        found[(values[:, 1] >= 0) | (values[:, 2] >= 0)] = 0
        np.maximum(best, found, out=best)
    out[box][inside] = best
    return out


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
    """Eigenvalues of the Hessian (1/mm^2) at given voxels, ordered by absolute value.

    Parameters
    ----------
    data : ndarray of float32, 3D
        Smooth enough for differences between neighbours.
    voxels : ndarray of int, shape (n, 3)
    voxel_size : ndarray, shape (3,)
        (mm).

    Returns
    -------
    ndarray of float32, shape (n, 3)

    Examples
    --------
    >>> x, y, z = np.indices((5, 5, 5), np.float32)
    >>> hessian_eigenvalues(2 * x**2 - y**2 + z**2 / 2, np.array([[2, 2, 2]]), np.ones(3)).round(2).tolist()
    [[1.0, -2.0, 4.0]]
    """
    padded = np.pad(np.asarray(data, np.float32), 1, mode='edge')
    return _eigenvalues(padded, np.ascontiguousarray(voxels, np.int64), np.asarray(voxel_size, float))


@njit(cache=True, parallel=True)
def _eigenvalues(padded: np.ndarray, voxels: np.ndarray, steps: np.ndarray):
    """Eigenvalues (n, 3) of central second differences; ``padded`` has one more voxel all around."""
    out = np.empty((len(voxels), 3), np.float32)
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
    return out


def _grown(mask: np.ndarray, margin: np.ndarray):
    """Box of a mask with a margin (voxels), inside the volume."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(b.start - m, 0), min(b.stop + m, n))
        for b, m, n in zip(box, margin, mask.shape, strict=True)
    )
