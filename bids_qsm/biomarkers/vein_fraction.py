"""Veins on the grid of a BOLD run: their share of each voxel, what to exclude, and how the anatomy fits."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.transform import (
    Displacement,
    apply_affine,
    resample,
    spacing_of,
    transform_points,
)

Chain = Sequence[np.ndarray | Displacement]
"""Transforms that take points of the run to points of another image, first to last."""
_FINEST = 6


def share_of_voxels(
    image: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], grid: np.ndarray, to_image: Chain
):
    r"""Mean of an image over each voxel of a coarser grid, with one interpolation.

    .. math:: f(v) = \frac{1}{n^3} \sum_{i=1}^{n^3} p\big(T(x_i)\big)

    over :math:`n^3` points x spread evenly over the voxel v: three along each axis, or more where the image
    is finer still.

    Parameters
    ----------
    image : ndarray of float32, 3D
        Such as the probability of a vein p. Outside of it p is 0.
    affine, grid : ndarray, shape (4, 4)
        Voxel to scanner coordinates (mm) of the image, and of the grid.
    shape : tuple of int
        Of the grid.
    to_image : sequence of ndarray (4, 4) or Displacement
        T, which takes points of the grid to points of the image.

    Returns
    -------
    ndarray of float32, shape ``shape``

    Examples
    --------
    >>> half = np.zeros((6, 6, 6), np.float32)
    >>> half[:, :, :2] = 1
    >>> coarse = np.diag([3.0, 3, 3, 1])
    >>> coarse[:3, 3] = 1
    >>> share_of_voxels(half, np.eye(4), (2, 2, 2), coarse, [])[0, 0].tolist() == [np.float32(2 / 3), 0]
    True
    """
    ratio = spacing_of(grid).max() / spacing_of(affine).min()
    n = int(np.clip(np.ceil(ratio - 0.05), 3, _FINEST))
    fine = grid @ np.diag([1 / n, 1 / n, 1 / n, 1.0])
    fine[:3, 3] = apply_affine(grid, [[0.5 / n - 0.5] * 3])[0]
    out = np.empty(shape, np.float32)
    for i in range(shape[0]):
        start = fine.copy()
        start[:3, 3] = apply_affine(fine, [[n * i, 0, 0]])[0]
        values = resample(image, affine, (n, n * shape[1], n * shape[2]), start, list(to_image))
        out[i] = values.reshape(n, shape[1], n, shape[2], n).mean((0, 2, 4))
    return out


def excluded(veins: np.ndarray, sinuses: np.ndarray, *, threshold: float = 0.1):
    """Voxels of a run that veins change: shares above ``threshold``, for sinuses with one voxel around.

    Sinuses are wide and their signal fluctuates far more than that of tissue, so that the point spread and
    head motion carry it into neighbours.

    Parameters
    ----------
    veins, sinuses : ndarray of float32
        Shares of each voxel (0 to 1).

    Returns
    -------
    ndarray of bool
    """
    return (veins > threshold) | ndimage.binary_dilation(sinuses > threshold)


def pure(veins: np.ndarray, grey: np.ndarray | None, *, share: float = 0.3):
    """Voxels whose signal is that of veins: ``share`` or more of them, and not deep in grey matter.

    Deep in it, where all six neighbours are grey matter too, even a vein has more of the signal of tissue.

    Returns
    -------
    ndarray of bool
    """
    inside = veins > share
    return inside if grey is None else inside & ~ndimage.binary_erosion(grey > 0.5)


def boundary_points(white: np.ndarray, affine: np.ndarray, *, most: int = 20_000):
    """Points on the surface of white matter (n, 3; mm) and unit normals that point into it.

    Parameters
    ----------
    white : ndarray of float32, 3D
        Probability of white matter; the surface is where it is one half.
    affine : ndarray, shape (4, 4)
        Voxel to scanner coordinates (mm).
    most : int
        Number of points, spread evenly.
    """
    spacing = spacing_of(affine)
    smooth = ndimage.gaussian_filter(white, 0.7 / spacing)
    slope = np.stack(np.gradient(smooth), -1) / spacing
    size = np.linalg.norm(slope, axis=-1)
    near = np.argwhere((np.abs(smooth - 0.5) < 0.25) & (size > 0.1))
    near = near[:: max(1, len(near) // most)]
    at = tuple(near.T)
    step = ((0.5 - smooth[at]) / size[at] ** 2)[:, None] * slope[at]
    turn = affine[:3, :3] / spacing
    points = apply_affine(affine, near) + step @ turn.T
    return points, (slope[at] / size[at][:, None]) @ turn.T


def boundary_cost(
    image: np.ndarray,
    affine: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    to_image: Chain,
    *,
    shift: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    reach_mm: float = 2.0,
    slope: float = 0.5,
):
    r"""Cost of boundary-based registration [1]_ of a T2*-weighted image, where white matter is the darker.

    .. math:: h = \frac{1}{N} \sum_i \Big[1 + \tanh\Big(M \cdot
                  \frac{100\,(w_i - g_i)}{(w_i + g_i)/2}\Big)\Big]

    with the image at ``reach_mm`` on the inner side w and the outer side g of the surface of white matter,
    and the ``slope`` M (per percent). It is 0 where all of the surface has the right contrast,
    and 1 by chance.

    Parameters
    ----------
    image : ndarray of float32, 3D
        Reference of the run.
    affine : ndarray, shape (4, 4)
    points, normals : ndarray, shape (n, 3)
        See `boundary_points`.
    to_image : sequence
        Takes the points to those of the image, first to last.
    shift : sequence of 3 float
        Moves the points in the image (mm).

    References
    ----------
    .. [1] Greve & Fischl (2009), NeuroImage 48:63. doi:10.1016/j.neuroimage.2009.06.060
    """
    to_voxel = np.linalg.inv(affine)
    sides = []
    for reach in (reach_mm, -reach_mm):
        at = transform_points(points + reach * normals, to_image) + np.asarray(shift, float)
        sides.append(ndimage.map_coordinates(image, apply_affine(to_voxel, at).T, order=1, cval=np.nan))
    white, grey = sides
    known = np.isfinite(white) & np.isfinite(grey) & (white + grey > 0)
    white, grey = white[known], grey[known]
    if not white.size:
        return np.nan
    return float(np.mean(1 + np.tanh(slope * 200 * (white - grey) / (white + grey))))


def misfit(
    image: np.ndarray,
    affine: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    to_image: Chain,
    *,
    reach_mm: float = 6.0,
):
    """How far (mm) the anatomy must be shifted to fit a run best, and `boundary_cost` as it is and there.

    Shifts are tried along each axis of the scanner by itself, in steps of 1 mm up to ``reach_mm``; that of
    lowest cost counts. What is wrong by a rotation or a distortion shows as a shift of its average.

    Returns
    -------
    shift : float
        Distance (mm), 0 where no shift is better.
    cost, best : float
        The cost without a shift, and the lowest.
    """
    steps = np.arange(-reach_mm, reach_mm + 0.5)
    tried = np.array([step * axis for axis in np.eye(3) for step in steps if step])
    costs = [boundary_cost(image, affine, points, normals, to_image, shift=one) for one in tried]
    here = boundary_cost(image, affine, points, normals, to_image)
    best = int(np.argmin(costs))
    if not costs[best] < here:
        return 0.0, here, here
    return float(np.linalg.norm(tried[best])), here, float(costs[best])
