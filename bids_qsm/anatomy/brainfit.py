"""Lay a template's brain onto an image by what all contrasts share: a bright brain in a dark skull."""

import itertools
from collections.abc import Iterator

import numpy as np
from numba import njit
from scipy import ndimage

from bids_qsm.anatomy.align import matrix_of, refine, spread
from bids_qsm.anatomy.transform import apply_affine, spacing_of
from bids_qsm.recon.arrays import Array

USUAL_ML, SPREAD = 1400.0, 0.15
"""Volume of a brain with the fluid around it, and standard deviation of its logarithm between people."""
ANISOTROPY = 0.06
"""Standard deviation of the logarithm of the size along one axis, relative to the others."""
TURNS = (0.4, 0.2, 0.2)
"""Standard deviation of pitch, roll and yaw of a head in the coil (rad)."""
PRIOR = 0.03
"""Gain of the fit that one half of a squared standard deviation costs."""
BASE_MM = -25.0
"""Height (template space) above which the brain has a plain shell of bone around it."""
RIM_MM = 12.0
"""Depth of the rim of the brain that counts twice: where the scalp is taken for it, the skull lies there."""
SHELL_MM = (2.0, 7.0)
"""Distances from the brain between which the skull lies."""
HEAD_MM, SCALP_MM = 150.0, 12.0
"""Height of a head less its neck, and what lies over the brain at the vertex."""
BRIGHTNESS = (0.3, 0.9, 1.5, 2.1)
"""Relative to that of the brain: of bone or air, of the brain (from, to), of fat."""
MOST_STARTS, APART_MM = 8, 15.0


@njit(cache=True)
def _gain(points: Array, weights: Array, matrix: Array, image: Array):
    """Weighted sum of an image (trilinear) at mapped points; what lies outside of it is 0."""
    nx, ny, nz = image.shape
    total = 0.0
    for p in range(points.shape[0]):
        a, b, c = points[p, 0], points[p, 1], points[p, 2]
        x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c + matrix[0, 3]
        y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c + matrix[1, 3]
        z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c + matrix[2, 3]
        if x < 0 or y < 0 or z < 0 or x >= nx - 1 or y >= ny - 1 or z >= nz - 1:
            continue
        i, j, k = int(x), int(y), int(z)
        u, v, w = x - i, y - j, z - k
        low = (1 - v) * (image[i, j, k] * (1 - w) + image[i, j, k + 1] * w) + v * (
            image[i, j + 1, k] * (1 - w) + image[i, j + 1, k + 1] * w
        )
        high = (1 - v) * (image[i + 1, j, k] * (1 - w) + image[i + 1, j, k + 1] * w) + v * (
            image[i + 1, j + 1, k] * (1 - w) + image[i + 1, j + 1, k + 1] * w
        )
        total += weights[p] * (low * (1 - u) + high * u)
    return total


class BrainFit:
    """How well a template's brain, mapped by a matrix, lies on the brain of an image.

    .. math:: \\bar b_{brain} + \\bar b_{rim} - \\bar b_{shell} - \\lambda P

    with b -1 where it is dark (air, bone) or too bright (fat) and 1 where it is as bright as the brain, its
    means over the brain, its rim below the calvaria, and the shell of bone around that; 0 outside the image.
    P is half the squared distance, in standard deviations, of volume (ml), proportions and pose from those of
    people. Mutual information has no signs and takes the scalp for the rim of the brain, this does not.

    Parameters
    ----------
    brightness : ndarray, 3D
        Image of a head over the brightness of its brain.
    affine : ndarray (4, 4)
        Voxel to world (mm).
    inside : ndarray of bool
        Brain of the template, isotropic voxels.
    inside_affine : ndarray (4, 4)
    n_points : int
        Sample points in each of the three parts.
    """

    def __init__(
        self, brightness: Array, affine: Array, inside: Array, inside_affine: Array, *, n_points: int
    ):
        size = float(spacing_of(inside_affine)[0])
        margin = int(np.ceil(SHELL_MM[1] / size)) + 1
        brain, grid = np.pad(inside, margin), np.array(inside_affine, float)
        grid[:3, 3] = apply_affine(inside_affine, [[-margin] * 3])[0]
        outside = ndimage.distance_transform_edt(~brain) * size
        depth = ndimage.distance_transform_edt(brain) * size
        height = sum(
            grid[2, d] * np.arange(n).reshape([-1 if d == e else 1 for e in range(3)])
            for d, n in enumerate(brain.shape)
        )
        above = height + grid[2, 3] > BASE_MM
        shell = (outside > SHELL_MM[0]) & (outside <= SHELL_MM[1]) & above
        parts = [
            (apply_affine(grid, spread(part, n_points)), sign)
            for part, sign in ((brain, 1), (brain & (depth <= RIM_MM) & above, 1), (shell, -1))
        ]
        self.points = np.concatenate([points for points, _ in parts])
        self.weights = np.concatenate([np.full(len(points), sign / len(points)) for points, sign in parts])
        self.millilitres = brain.sum() * size**3 / 1000
        self.world_to_image = np.linalg.inv(affine)
        # from dark over brain to fat
        values = np.interp(brightness, BRIGHTNESS, (-1, 1, 1, -1))
        self.image = np.ascontiguousarray(values, np.float32)

    def penalty(self, matrix: Array):
        """Half the squared distance of volume, proportions and pose from those of people."""
        left, sizes, right = np.linalg.svd(matrix[:3, :3])
        turn, logs = left @ right, np.log(sizes)
        pose = (
            np.arctan2(turn[2, 1], turn[2, 2]),
            np.arcsin(np.clip(-turn[2, 0], -1, 1)),
            np.arctan2(turn[1, 0], turn[0, 0]),
        )
        volume = np.log(np.prod(sizes) * self.millilitres / USUAL_ML) / SPREAD
        shape = (logs - logs.mean()) / ANISOTROPY
        return 0.5 * (
            volume**2 + (shape**2).sum() + sum((p / t) ** 2 for p, t in zip(pose, TURNS, strict=True))
        )

    def __call__(self, matrix: Array, overlap: float = 0.0):
        """Gain for a 4x4 matrix that maps template to image points."""
        del overlap  # of no use here, as nothing is known of what lies outside the field of view
        gain = _gain(self.points, self.weights, self.world_to_image @ matrix, self.image)
        return gain - PRIOR * self.penalty(matrix)


def fit_brain(brightness: Array, affine: Array, depth: Array, inside: Array, inside_affine: Array):
    """Affine map of template to image points that lays the template's brain onto that of the image.

    Poses and sizes are searched below the top of the head; some that lie apart are refined.

    Parameters
    ----------
    brightness, affine, inside, inside_affine
        See `BrainFit`.
    depth : ndarray of float
        Depth below the skin (mm), see `depth_in_head`.

    Returns
    -------
    ndarray (4, 4)
    """
    coarse, fine = (BrainFit(brightness, affine, inside, inside_affine, n_points=n) for n in (1000, 6000))
    corners = apply_affine(inside_affine, np.argwhere(inside))
    center = corners.mean(0)
    around = np.array(list(itertools.product(*zip(corners.min(0), corners.max(0), strict=True))))
    ranked = sorted(_starts(affine, depth, corners), key=coarse, reverse=True)
    chosen: list[tuple[Array, Array]] = []
    for start in ranked:
        there = apply_affine(start, around)
        if all(np.sqrt(((there - other) ** 2).sum(1).mean()) > APART_MM for _, other in chosen):
            chosen.append((start, there))
        if len(chosen) == MOST_STARTS:
            break
    climbed = [refine(coarse, s, center, n_parameters=12, step=5.0, tolerance=0.5) for s, _ in chosen]
    best = max(climbed, key=lambda c: c[1])[0]
    return refine(fine, best, center, n_parameters=12, step=2.0, tolerance=0.1)[0]


def _starts(affine: Array, depth: Array, brain: Array) -> Iterator[Array]:
    """Poses of the template, whose brain has the points ``brain`` (mm), about the top of the head."""
    points = apply_affine(affine, np.argwhere(depth > 0))
    top = np.percentile(points[:, 2], 99.9)
    center = brain.mean(0)
    shift = points[points[:, 2] > top - HEAD_MM].mean(0) - center
    # a slab may end below the top of the head, so lower and higher positions are tried too
    shift[2] = top - SCALP_MM - brain[:, 2].max()
    angles = np.radians((-24, -12, 0, 12, 24)) * 60.0
    sizes = np.log((0.84, 0.92, 1.0)) * 60.0
    for z, y, pitch, roll, size in itertools.product(
        (-30, -15, 0, 15, 30, 45), (-12, 0, 12), angles, angles[1:4], sizes
    ):
        yield matrix_of(
            np.array([shift[0], shift[1] + y, shift[2] + z, pitch, roll, 0, size, size, size, 0, 0, 0]),
            center,
        )
