"""Tubes of blood: what a vein is, and how it is drawn onto a grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np

CLASSES = {
    'superior sagittal sinus': 1,
    'straight sinus': 2,
    'vein of Galen': 3,
    'internal cerebral vein': 4,
    'cortical vein': 5,
    'deep medullary vein': 6,
    'other vein': 7,
}
"""Labels of the classes of veins."""


@dataclass(frozen=True)
class Segment:
    """An unbranched piece of a vein, from upstream to downstream.

    Attributes
    ----------
    points : ndarray, shape (n, 3)
        Its axis (mm): of template space in a tree, of the scanner in a simulated block.
    radius : ndarray, shape (n,)
        Inner radius (mm) at each point.
    oxygenation, chi : float
        Of its blood (0 .. 1; ppm relative to water).
    kind : str
        A key of CLASSES.
    index, downstream : int
        Its number, and that of the segment it flows into, -1 at the end.
    """

    points: np.ndarray
    radius: np.ndarray
    oxygenation: float
    chi: float
    kind: str = 'other vein'
    index: int = 0
    downstream: int = -1

    @property
    def length(self):
        """Length (mm) along the axis."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    @property
    def diameter(self):
        """Mean diameter (mm)."""
        return 2 * float(self.radius.mean())

    @property
    def tilt(self):
        """Angle (degrees, 0 to 90) between B0 (the z axis) and the line from the first point to the last."""
        line = self.points[-1] - self.points[0]
        return float(np.degrees(np.arccos(np.clip(abs(line[2]) / np.linalg.norm(line), 0, 1))))


@numba.njit(cache=True)
def _draw(
    share: np.ndarray,
    owner: np.ndarray,
    ends: np.ndarray,
    radii: np.ndarray,
    who: np.ndarray,
    steps: np.ndarray,
):
    """Rasterise cones, each between two points (voxel indices) with a radius (mm) at both.

    The wall is a ramp of one voxel; radius and height are such that the area of a cross-section is exact.
    """
    width = (steps[0] * steps[1] * steps[2]) ** (1 / 3)
    a, u = np.empty(3), np.empty(3)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for n in range(len(ends)):
        thick = max(radii[n, 0], radii[n, 1], width) + width
        square = 0.0
        for c in range(3):
            a[c] = ends[n, 0, c] * steps[c]
            u[c] = ends[n, 1, c] * steps[c] - a[c]
            square += u[c] * u[c]
            first, last = min(ends[n, 0, c], ends[n, 1, c]), max(ends[n, 0, c], ends[n, 1, c])
            low[c] = max(int(np.ceil(first - thick / steps[c])), 0)
            high[c] = min(int(np.floor(last + thick / steps[c])) + 1, share.shape[c])
        for i in range(low[0], high[0]):
            for j in range(low[1], high[1]):
                for k in range(low[2], high[2]):
                    x, y, z = i * steps[0] - a[0], j * steps[1] - a[1], k * steps[2] - a[2]
                    at = (x * u[0] + y * u[1] + z * u[2]) / square if square > 0 else 0.0
                    at = min(max(at, 0.0), 1.0)
                    away = (x - at * u[0]) ** 2 + (y - at * u[1]) ** 2 + (z - at * u[2]) ** 2
                    radius = radii[n, 0] + at * (radii[n, 1] - radii[n, 0])
                    if away >= (max(radius, width) + width) ** 2:
                        continue
                    wall = np.sqrt(max(radius**2 - width**2 / 12, width**2 / 4))
                    full = min(radius**2 / (wall**2 + width**2 / 12), 1.0)
                    value = full * min(max(0.5 + (wall - np.sqrt(away)) / width, 0.0), 1.0)
                    if value > share[i, j, k]:
                        share[i, j, k] = value
                        owner[i, j, k] = who[n]


def draw(segments: Sequence[Segment], shape: Sequence[int], affine: np.ndarray):
    """Draw segments onto a grid whose ``affine`` (4, 4) leads to the space of their points.

    Returns
    -------
    tuple of ndarray
        Share of blood (float32) of each voxel, and the position (int32) in ``segments`` of the one that
        holds most of it, -1 where there is none.
    """
    share, owner = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    if segments:
        inverse = np.linalg.inv(affine)
        at = [s.points @ inverse[:3, :3].T + inverse[:3, 3] for s in segments]
        ends = np.concatenate([np.stack([p[:-1], p[1:]], 1) for p in at])
        radii = np.concatenate([np.stack([s.radius[:-1], s.radius[1:]], 1) for s in segments])
        who = np.repeat(np.arange(len(at), dtype=np.int32), [len(p) - 1 for p in at])
        steps = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(0))
        _draw(share, owner, ends, radii, who, steps)
    return share, owner


def clip(segments: Sequence[Segment], shape: Sequence[int], affine: np.ndarray):
    """Return the parts of segments whose axis lies within a grid; one that leaves and returns is two."""
    inverse = np.linalg.inv(affine)
    found = []
    for s in segments:
        at = s.points @ inverse[:3, :3].T + inverse[:3, 3]
        inside = np.all((at >= -0.5) & (at <= np.array(shape) - 0.5), 1)
        edges = np.flatnonzero(np.diff(np.r_[0, inside, 0]))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first > 1:
                found.append(replace(s, points=s.points[first:last], radius=s.radius[first:last]))
    return tuple(found)
