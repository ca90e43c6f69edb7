"""Profiles of a map across the edge of a lesion, by direction from its centre."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

N_DIRECTIONS = 64
STEP_MM = 0.5
"""Width of the bins of signed distance."""
INNER_MM, OUTER_MM = 8.0, 6.0
"""Range of the signed distance on either side of the edge."""
BINS = np.arange(-INNER_MM, OUTER_MM, STEP_MM) + STEP_MM / 2
"""Middles (mm) of the bins."""
_SMOOTH = np.array([0.25, 0.5, 0.25])
_MOST = 12000  # points of a lesion: enough for directions of a few hundred points each


def directions(count: int = N_DIRECTIONS):
    """Unit vectors (count, 3) that divide the sphere into parts of about equal area.

    >>> directions(64).shape, bool(np.abs(directions(64).mean(0)).max() < 0.02)
    ((64, 3), True)
    """
    n = np.arange(count) + 0.5
    height, angle = 1 - 2 * n / count, np.pi * (1 + 5**0.5) * n
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)


@dataclass(frozen=True, eq=False)
class Frame:
    """Points in and around a lesion: how far from its edge, and in which direction from its centre.

    Attributes
    ----------
    points : ndarray, shape (n, 3)
        Voxels of the maps.
    signed : ndarray of float32, shape (n,)
        Distance (mm) to the edge, negative inside.
    direction : ndarray of int, shape (n,)
        Index in `directions` of the foot point on the edge.
    centre : ndarray, shape (3,)
        Voxels of the maps.
    depth_mm : float
        Largest distance to the edge inside.
    voxel_mm : float
        Side of a cube of the volume of a voxel.
    """

    points: np.ndarray
    signed: np.ndarray
    direction: np.ndarray
    centre: np.ndarray
    depth_mm: float
    voxel_mm: float

    @cached_property
    def cell(self):
        """Index of direction and bin of each point, flat."""
        at = np.clip(((self.signed + INNER_MM) / STEP_MM).astype(int), 0, len(BINS) - 1)
        return self.direction * len(BINS) + at

    @property
    def core_mm(self):
        """Distance (mm) from the edge where the core begins: beyond a rim of 2 mm, if there is room."""
        return min(2.0 + 0.5 * self.voxel_mm, 0.75 * self.depth_mm)

    def sampled(self, data: np.ndarray, shift: Sequence[float] | np.ndarray = (0, 0, 0)):
        """Values of a map at the points, moved by ``shift`` (voxels); NaN outside the volume."""
        at = (self.points + np.asarray(shift)).T
        return ndimage.map_coordinates(data, at, order=1, cval=np.nan)

    def profile(self, values: np.ndarray):
        """Mean over the finite ``values`` of each direction and bin, (directions, bins), smoothed along r."""
        size = N_DIRECTIONS * len(BINS)
        there = np.isfinite(values)
        weight = np.bincount(self.cell[there], minlength=size).reshape(N_DIRECTIONS, -1).astype(float)
        total = np.bincount(self.cell[there], values[there], size).reshape(N_DIRECTIONS, -1)
        weight, total = (
            ndimage.correlate1d(one, _SMOOTH, axis=1, mode='constant') for one in (weight, total)
        )
        return np.where(weight > 0, total / np.maximum(weight, 1e-9), np.nan)

    def share(self, marked: np.ndarray, low: float, high: float):
        """Share of marked points of each direction between two signed distances (mm); 1 without points."""
        part = (self.signed >= low) & (self.signed <= high)
        count = np.bincount(self.direction[part], minlength=N_DIRECTIONS)
        hits = np.bincount(self.direction[part & marked], minlength=N_DIRECTIONS)
        return np.where(count > 0, hits / np.maximum(count, 1), 1.0)


def frame_of(lesion: np.ndarray, voxel_size: Sequence[float] | np.ndarray, start: Sequence[int] = (0, 0, 0)):
    """The frame of a lesion, on an isotropic lattice of half a voxel.

    Parameters
    ----------
    lesion : ndarray of bool
        With a margin of `OUTER_MM` around it, as far as the volume reaches.
    voxel_size : sequence of float
        (mm).
    start : sequence of int
        First voxel of this box in the maps.

    Returns
    -------
    Frame
    """
    steps = np.array(voxel_size, float)
    voxel = float(np.prod(steps) ** (1 / 3))
    size = max(float(steps.min()) / 2, 0.3)
    counts = np.ceil(np.array(lesion.shape) * steps / size).astype(int)
    at = [(np.arange(n) + 0.5) * size / s - 0.5 for n, s in zip(counts, steps, strict=True)]
    soft = ndimage.gaussian_filter(lesion.astype(np.float32), 0.5)
    fine = ndimage.map_coordinates(soft, np.meshgrid(*at, indexing='ij'), order=1, mode='nearest') > 0.5
    if not fine.any():
        fine.flat[np.ravel_multi_index([n // 2 for n in fine.shape], fine.shape)] = True
    signed = ndimage.distance_transform_edt(~fine) - ndimage.distance_transform_edt(fine)
    signed = (signed * size).astype(np.float32)
    slopes = np.stack(np.gradient(ndimage.gaussian_filter(signed, 0.7 * voxel / size), size), -1)
    index = np.argwhere((signed > -INNER_MM) & (signed < OUTER_MM))
    if len(index) > _MOST:
        index = index[:: -(-len(index) // _MOST)]
    pick = tuple(index.T)
    away, slope = signed[pick], slopes[pick]
    slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
    places = (index + 0.5) * size
    centre = (np.argwhere(fine) + 0.5).mean(0) * size
    foot = places - away[:, None] * slope - centre
    points = places / steps - 0.5 + np.asarray(start)
    return Frame(
        points,
        away,
        (foot @ directions().T).argmax(1),
        centre / steps - 0.5 + np.asarray(start),
        float(-signed.min()),
        voxel,
    )
