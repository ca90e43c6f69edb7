"""Smooth deformation that raises the normalised mutual information of two images inside a mask."""

import numpy as np
from numba import njit
from scipy import ndimage

from bids_qsm.anatomy.align import BINS, Similarity, joint_histogram
from bids_qsm.anatomy.transform import Displacement, regrid, transform_points
from bids_qsm.recon.arrays import Array


@njit(cache=True)
def _forces(points: Array, fixed: Array, matrix: Array, moving: Array, slope: Array):
    """Gradient (n, 3; moving voxels) of the similarity at every point, given its slope over the histogram."""
    out = np.zeros(points.shape)
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
        value, dx, dy, dz = 0.0, 0.0, 0.0, 0.0
        for di in range(2):
            wu, su = (u, 1.0) if di else (1 - u, -1.0)
            for dj in range(2):
                wv, sv = (v, 1.0) if dj else (1 - v, -1.0)
                for dk in range(2):
                    ww, sw = (w, 1.0) if dk else (1 - w, -1.0)
                    m = moving[i + di, j + dj, k + dk]
                    value += wu * wv * ww * m
                    dx += su * wv * ww * m
                    dy += wu * sv * ww * m
                    dz += wu * wv * sw * m
        low = int(value)
        t = value - low
        f = fixed[p]
        pull = (
            -slope[f, low] * (1 - t) ** 2
            + slope[f, low + 1] * (3 * t**2 - 4 * t)
            + slope[f, low + 2] * (1 + 2 * t - 3 * t**2)
            + slope[f, low + 3] * t**2
        ) / 2
        out[p, 0], out[p, 1], out[p, 2] = pull * dx, pull * dy, pull * dz
    return out


def _slope(histogram: Array):
    """Derivative of (H(fixed) + H(moving)) / H(fixed, moving) by each entry of the joint histogram."""
    joint = np.maximum(histogram / histogram.sum(), 1e-9)
    fixed, moving = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    entropy = -(joint * np.log(joint)).sum()
    ratio = -((fixed * np.log(fixed)).sum() + (moving * np.log(moving)).sum()) / entropy
    return (-np.log(fixed) - np.log(moving) - 2 + ratio * (np.log(joint) + 1)) / entropy


def deform(
    similarity: Similarity,
    matrix: Array,
    shape: tuple[int, ...],
    affine: Array,
    *,
    iterations: int = 60,
    sigma_mm: float = 16.0,
    step_mm: float = 0.5,
    spacing: float = 4.0,
):
    """Displacement x -> x + u(x) of fixed points which, before ``matrix``, raises a `Similarity`.

    Each iteration gathers the gradient of the similarity at its sample points on a lattice, smooths it
    by a Gaussian of ``sigma_mm``, and goes along it by ``step_mm`` at most, less and less. Where ``matrix``
    takes all points out of the moving image, nothing is displaced.

    Parameters
    ----------
    similarity : Similarity
    matrix : ndarray (4, 4)
        Maps fixed to moving points.
    shape, affine
        Grid of the fixed image, whose extent the lattice takes.

    References
    ----------
    Modat et al. (2010), Comput Methods Programs Biomed 98:278. doi:10.1016/j.cmpb.2009.09.002
    """
    shape, affine = regrid(shape, affine, spacing)
    points, fixed = similarity.points, similarity.fixed
    node = np.rint((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    node = np.ravel_multi_index(tuple(np.clip(node, 0, np.array(shape) - 1).T), shape)
    size = int(np.prod(shape))
    sigma = sigma_mm / spacing

    def smooth(values: Array):
        return ndimage.gaussian_filter(values.reshape(shape), sigma, mode='constant', truncate=3)

    count = smooth(np.bincount(node, minlength=size).astype(float))
    to_voxel = similarity.world_to_moving @ matrix
    field = np.zeros((*shape, 3), np.float32)
    for n in range(iterations):
        moved = transform_points(points, [Displacement(field, affine)])
        histogram = joint_histogram(moved, fixed, to_voxel, similarity.moving, BINS)
        if not histogram.any():
            # no point lies in the moving image, as in a crop that could not be aligned: nothing to follow
            break
        force = _forces(moved, fixed, to_voxel, similarity.moving, _slope(histogram)) @ to_voxel[:3, :3]
        gathered = [smooth(np.bincount(node, force[:, d], size)) for d in range(3)]
        gathered = np.stack(gathered, -1) / (count + 0.02 * count.max())[..., None]
        longest = np.sqrt((gathered**2).sum(-1)).max()
        if longest == 0:
            break
        field += (gathered * (step_mm * (1 - n / iterations) / longest)).astype(np.float32)
    return Displacement(field, affine)
