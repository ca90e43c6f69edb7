"""Error that the position of a region's border brings into its mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.recon.grid import Grid

PATCH_MM = 4.0
"""Length (mm) over which errors of an outline go together. A judgement: about that over which outlines of
nuclei are smooth."""


@dataclass(frozen=True)
class Slope:
    """How the mean of a region changes with its border (map unit per mm)."""

    grow: float
    """All of the border moves outward."""
    shift: float
    """The region moves as a whole: root of the summed squares over the three axes."""
    rough: float
    """Each patch of the border moves by itself, with a standard deviation of 1 mm."""

    def error(self, border_mm: float):
        """Standard error (map unit) of the mean, ``border_mm`` the standard deviation of the border.

        A third of its variance each is of size, of place and of outline: segmentations err in all three, and
        a single one does not tell by how much.
        """
        return float(border_mm * np.sqrt((self.grow**2 + self.shift**2 + self.rough**2) / 3))


def border_slope(data: np.ndarray, bodies: Sequence[np.ndarray], inside: np.ndarray, grid: Grid):
    r"""Change of the mean of a region when its border moves, from the values at the border.

    A border that moves outward by :math:`\delta(s)` changes the mean m over the volume V by

    .. math:: \Delta m = \frac{1}{V} \oint (z(s) - m) \, \delta(s) \, dS.

    Borders lie on the faces between voxels, where the map z is the mean of the two. A face counts by the
    cosine between its axis and the normal, which makes the area that of the smooth surface. Where the border
    is soft, each face counts by the step of the share in it.

    Parameters
    ----------
    data : ndarray of float
        A map.
    bodies : sequence of ndarray of bool or float
        Parts of the region that move independently as a whole (its two sides): the voxels, or the share of
        each voxel that lies in the part.
    inside : ndarray of bool
        Where the map is valid. The region ends there for other reasons than its outline, which does not move.
    grid : Grid

    Returns
    -------
    Slope
        0 where there is no border inside, NaN where there is no voxel.
    """
    # sides lie far apart: each in its own box takes less memory
    parts = [_cropped(np.where(inside, body, 0), inside, data) for body in bodies if (body * inside).any()]
    volume = sum(share.sum() for share, *_ in parts) * grid.voxel_volume
    if not volume:
        return Slope(np.nan, np.nan, np.nan)
    mean = sum((share * values).sum() for share, _, values in parts) * grid.voxel_volume / volume
    grow, shift, square, area = 0.0, 0.0, 0.0, 0.0
    for share, valid, values in parts:
        slopes, steepness = _normals(share, grid)
        for axis, size in enumerate(grid.voxel_size):
            lower, upper = _pair(axis)
            step = np.where(valid[lower] & valid[upper], share[lower] - share[upper], 0)
            above = (values[lower] + values[upper]) / 2 - mean
            face = grid.voxel_volume / size
            # the steeper of the two voxels counts more: the middle of a thin region has no normal
            both = np.maximum(steepness[lower] + steepness[upper], 1e-9)
            patch = np.abs(step) * face * (slopes[axis][lower] + slopes[axis][upper]) / both
            grow += float((above * patch).sum())
            square += float((above**2 * patch).sum())
            area += float(patch.sum())
            shift += float((above * step).sum() * face) ** 2
    # the errors of patches average over the surface; a small region is a single patch
    patch_area = min(PATCH_MM**2, area)
    return Slope(grow / volume, np.sqrt(shift) / volume, np.sqrt(square * patch_area) / volume)


def _cropped(share: np.ndarray, inside: np.ndarray, data: np.ndarray):
    """Share, where the map is valid, and the map, within two voxels of where the share is not 0."""
    box = tuple(
        slice(max(b.start - 2, 0), b.stop + 2) for b in ndimage.find_objects((share > 0).astype(np.uint8))[0]
    )
    valid = inside[box]
    return share[box].astype(np.float64), valid, np.where(valid, data[box], 0).astype(np.float64)


def _normals(share: np.ndarray, grid: Grid):
    """Size of the slopes along each axis of the share, smoothed by one voxel, and of its gradient."""
    size = np.array(grid.voxel_size)
    smooth = ndimage.gaussian_filter(share, np.prod(size) ** (1 / 3) / size, mode='nearest')
    slopes = [
        np.gradient(smooth, v, axis=a) if share.shape[a] > 1 else 0 * smooth for a, v in enumerate(size)
    ]
    return np.abs(slopes), np.sqrt(np.square(slopes).sum(0))


def _pair(axis: int):
    """Slices of the voxels below and above each face across an axis."""
    lower, upper = [slice(None)] * 3, [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)
