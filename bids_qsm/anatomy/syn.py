"""Symmetric diffeomorphic alignment by DIPY, whose warps are composed and inverted by kernels of our own.

These take most of its time. In single precision, and without a copy of each field, it takes half as long; an
iteration gives the same fields to some nanometres.
"""

from collections.abc import Sequence

import numpy as np
from dipy.align import VerbosityLevels
from dipy.align.imwarp import DiffeomorphicMap, SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from numba import njit

from bids_qsm.anatomy.transform import Displacement
from bids_qsm.recon.arrays import Array

ONE = np.float32(1)


def syn(
    static: Array,
    moving: Array,
    affine: Array,
    *,
    iterations: Sequence[int],
    radius: int = 3,
    sigma: float = 1.7,
):
    """Symmetric diffeomorphic alignment of two images on one grid by local correlation [1]_.

    Parameters
    ----------
    static, moving : ndarray, 3D
    affine : ndarray (4, 4)
        Voxel to world of both.
    iterations : sequence of int
        From coarse to fine; the last level has the voxels of the images, those before it cubes of twice the
        smallest side, of four times, and so on.
    radius, sigma : int, float
        Of the window of the correlation, and of the Gaussian that smooths each step (voxels).

    Returns
    -------
    forward, backward : Displacement
        Forward maps static to moving points, backward the other way.

    References
    ----------
    .. [1] Avants et al. (2008), Med Image Anal 12:26. doi:10.1016/j.media.2007.06.004
    """
    metric = CCMetric(3, sigma_diff=sigma, radius=radius)
    engine = Engine(metric, level_iters=list(iterations), step_length=0.25)
    engine.verbosity = VerbosityLevels.NONE
    mapping = engine.optimize(
        static.astype(np.float32),
        moving.astype(np.float32),
        static_grid2world=affine,
        moving_grid2world=affine,
    )
    # DIPY returns the map of static to moving as the inverse of the optimised one
    fields = (
        (mapping.backward, mapping.forward) if mapping.is_inverse else (mapping.forward, mapping.backward)
    )
    return tuple(Displacement(np.asarray(f, np.float32), affine) for f in fields)


class Engine(SymmetricDiffeomorphicRegistration):
    """DIPY's engine of 3D images on one grid; an iteration does what DIPY's does, in the same order."""

    def _iterate(self):
        level, scales = self.current_level, self.static_ss
        spacing = np.asarray(scales.get_spacing(level), np.float32)
        grid, to_voxel = scales.get_affine(level), np.float32(scales.get_affine_inv(level)[:3, :3])
        metric, sides = self.metric, (self.static_to_ref, self.moving_to_ref)
        images = self.static_ss.get_image(level), self.moving_ss.get_image(level)
        warped = [_warped(image, side, grid) for image, side in zip(images, sides, strict=True)]
        metric.set_static_image(warped[0], grid, spacing, self.static_direction)
        metric.set_moving_image(warped[1], grid, spacing, self.moving_direction)
        metric.initialize_iteration()
        energy = 0.0
        for side, compute in zip(sides, (metric.compute_forward, metric.compute_backward), strict=True):
            side.forward = _moved(side.forward, compute(), to_voxel, spacing, self.step_length)
            energy += metric.get_energy()
        is_early = len(self.energy_list) < self.energy_window
        slope = np.inf if is_early else self._get_energy_derivative()  # without this iteration, as in DIPY
        self.energy_list.append(energy)
        for side in sides:
            side.backward = self._inverse(side.forward, side.backward, to_voxel, spacing)
            side.forward = self._inverse(side.backward, side.forward, to_voxel, spacing)
        metric.free_iteration()
        return slope

    def _inverse(self, field: Array, start: Array, to_voxel: Array, spacing: Array):
        """Inverse of a displacement by damped fixed points, from a first guess [1]_.

        References
        ----------
        .. [1] Chen et al. (2008), Med Phys 35:81. doi:10.1118/1.2816107
        """
        found, error = start.copy(), np.empty_like(start)
        for n in range(self.inv_iter):
            _compose(found, field, to_voxel, ONE, error)
            longest, mean = _lengths(error, spacing)
            share, longest = np.float32(0.5 if n else 0.75), np.float32(longest)
            _step_back(found, error, spacing, share, share * longest)
            if longest <= 0.1 or mean <= self.inv_tol:
                break
        return found


def _warped(image: Array, side: DiffeomorphicMap, grid: Array):
    """An image as one side sees it on the grid (voxel to world) of its displacement; zero outside."""
    to_image = side.codomain_world2grid
    out = np.empty(side.backward.shape[:3], np.float32)
    _warp(image, side.backward, np.float32(to_image @ grid), np.float32(to_image[:3, :3]), out)
    return out


def _moved(field: Array, step: Array, to_voxel: Array, spacing: Array, length: float):
    """A displacement after a step of ``length`` voxels at most, which is zero on the faces of the grid."""
    for axis in range(3):
        faces = np.moveaxis(step, axis, 0)
        faces[0] = faces[-1] = 0
    step = np.ascontiguousarray(step, np.float32)
    longest, _ = _lengths(step, spacing)
    out = np.empty_like(step)
    _compose(
        np.ascontiguousarray(field, np.float32), step, to_voxel, np.float32(length) / (longest or ONE), out
    )
    return out


@njit(cache=True)
def _corner(x: float, y: float, z: float, shape: tuple[int, ...]):
    """Lower corner of the cell of a point (voxels), and the place in it; the nearest on the faces for others.

    DIPY lets values fade to zero beyond the faces, where there is no brain and nothing moves.
    """
    i = min(max(int(x), 0), shape[0] - 2)
    j = min(max(int(y), 0), shape[1] - 2)
    k = min(max(int(z), 0), shape[2] - 2)
    u = min(max(x - np.float32(i), np.float32(0)), ONE)
    v = min(max(y - np.float32(j), np.float32(0)), ONE)
    w = min(max(z - np.float32(k), np.float32(0)), ONE)
    return i, j, k, u, v, w


@njit(cache=True)
def _warp(image: Array, field: Array, matrix: Array, to_voxel: Array, out: Array):
    """Fill ``out`` with the image, trilinear, where ``matrix`` and then a field move its voxels."""
    nx, ny, nz = image.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                a, b, c = field[i, j, k, 0], field[i, j, k, 1], field[i, j, k, 2]
                x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
                y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
                z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
                x += to_voxel[0, 0] * a + to_voxel[0, 1] * b + to_voxel[0, 2] * c
                y += to_voxel[1, 0] * a + to_voxel[1, 1] * b + to_voxel[1, 2] * c
                z += to_voxel[2, 0] * a + to_voxel[2, 1] * b + to_voxel[2, 2] * c
                if not (-1 < x < nx and -1 < y < ny and -1 < z < nz):
                    out[i, j, k] = 0
                    continue
                p, q, r, u, v, w = _corner(x, y, z, image.shape)
                near = (ONE - v) * ((ONE - w) * image[p, q, r] + w * image[p, q, r + 1])
                near += v * ((ONE - w) * image[p, q + 1, r] + w * image[p, q + 1, r + 1])
                far = (ONE - v) * ((ONE - w) * image[p + 1, q, r] + w * image[p + 1, q, r + 1])
                far += v * ((ONE - w) * image[p + 1, q + 1, r] + w * image[p + 1, q + 1, r + 1])
                out[i, j, k] = (ONE - u) * near + u * far


@njit(cache=True)
def _compose(first: Array, second: Array, to_voxel: Array, scale: float, out: Array):
    """Fill ``out`` with u + scale * v(x + u), of displacements u and v (x, y, z, 3; mm) on one grid."""
    shape = first.shape[:3]
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                a, b, c = first[i, j, k, 0], first[i, j, k, 1], first[i, j, k, 2]
                x = np.float32(i) + to_voxel[0, 0] * a + to_voxel[0, 1] * b + to_voxel[0, 2] * c
                y = np.float32(j) + to_voxel[1, 0] * a + to_voxel[1, 1] * b + to_voxel[1, 2] * c
                z = np.float32(k) + to_voxel[2, 0] * a + to_voxel[2, 1] * b + to_voxel[2, 2] * c
                p, q, r, u, v, w = _corner(x, y, z, shape)
                for d in range(3):
                    near = (ONE - v) * ((ONE - w) * second[p, q, r, d] + w * second[p, q, r + 1, d])
                    near += v * ((ONE - w) * second[p, q + 1, r, d] + w * second[p, q + 1, r + 1, d])
                    far = (ONE - v) * ((ONE - w) * second[p + 1, q, r, d] + w * second[p + 1, q, r + 1, d])
                    far += v * ((ONE - w) * second[p + 1, q + 1, r, d] + w * second[p + 1, q + 1, r + 1, d])
                    out[i, j, k, d] = first[i, j, k, d] + scale * ((ONE - u) * near + u * far)


@njit(cache=True)
def _length(vectors: Array, i: int, j: int, k: int, spacing: Array):
    a, b, c = (
        vectors[i, j, k, 0] / spacing[0],
        vectors[i, j, k, 1] / spacing[1],
        vectors[i, j, k, 2] / spacing[2],
    )
    return np.sqrt(a * a + b * b + c * c)


@njit(cache=True)
def _lengths(vectors: Array, spacing: Array):
    """Largest and mean length (voxels) of vectors (x, y, z, 3; mm)."""
    total, longest = 0.0, np.float32(0)
    nx, ny, nz, _ = vectors.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                length = _length(vectors, i, j, k, spacing)
                total += length
                longest = max(longest, length)
    return longest, total / (nx * ny * nz)


@njit(cache=True)
def _step_back(field: Array, error: Array, spacing: Array, share: float, limit: float):
    """Take a share of ``error`` from a displacement, less where it is longer than ``limit`` (voxels)."""
    nx, ny, nz, _ = field.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                length = _length(error, i, j, k, spacing)
                factor = share * limit / length if length > limit else share
                for d in range(3):
                    field[i, j, k, d] -= factor * error[i, j, k, d]
