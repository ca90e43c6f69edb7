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
COUNT = 2.0**-15
"""Step of the share, and of the susceptibility (ppm), in which volumes of veins are stored as integers."""
SEEN = 0.02
"""Least share of veins in a voxel with a label."""


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
        thick = max(radii[n, 0], radii[n, 1], width / 2) + width / 2
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
                    if away >= (max(radius, width / 2) + width / 2) ** 2:
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
        at = np.concatenate([s.points for s in segments]) @ inverse[:3, :3].T + inverse[:3, 3]
        radii = np.concatenate([s.radius for s in segments])
        who = np.repeat(np.arange(len(segments), dtype=np.int32), [len(s.radius) for s in segments])
        first = np.flatnonzero(who[:-1] == who[1:])
        pairs = np.stack([first, first + 1], 1)
        steps = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(0))
        _draw(share, owner, at[pairs], radii[pairs], who[first], steps)
    return share, owner


@numba.njit(cache=True)
def blend(share: np.ndarray, owner: np.ndarray, values: np.ndarray):
    """Channels (x, y, z, 2), in counts: the share, and its product with the value (0 .. 2) of its owner."""
    out = np.zeros((*share.shape, 2), np.uint16)
    for i in range(share.shape[0]):
        for j in range(share.shape[1]):
            for k in range(share.shape[2]):
                if share[i, j, k] > 0:
                    counts = share[i, j, k] / np.float32(COUNT)
                    out[i, j, k, 0] = np.uint16(counts + np.float32(0.5))
                    out[i, j, k, 1] = np.uint16(counts * values[owner[i, j, k]] + np.float32(0.5))
    return out


def average(volume: np.ndarray, factor: int):
    """Mean over blocks of ``factor`` voxels along each axis."""
    x, y, z = (n // factor for n in volume.shape)
    return volume.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5))


@numba.njit(cache=True)
def _largest(kinds: np.ndarray, share: np.ndarray, factor: int):
    """Class (int16) that holds the largest share of each voxel."""
    shape = (share.shape[0] // factor, share.shape[1] // factor, share.shape[2] // factor)
    found = np.zeros(shape, np.int16)
    amount = np.empty((shape[2], 8), np.float32)
    for i in range(shape[0]):
        for j in range(shape[1]):
            amount[:] = 0
            for a in range(i * factor, (i + 1) * factor):
                for b in range(j * factor, (j + 1) * factor):
                    for c in range(share.shape[2]):
                        amount[c // factor, kinds[a, b, c]] += share[a, b, c]
            for k in range(shape[2]):
                found[i, j, k] = np.argmax(amount[k])
    return found


def summed(segments: Sequence[Segment], share: np.ndarray, owner: np.ndarray, factor: int):
    """Truth of the veins, as of vein_truth, from what was drawn on a grid ``factor`` times as fine."""
    chi = np.array([*(s.chi for s in segments), 0], np.float32)
    kinds = np.array([*(CLASSES[s.kind] for s in segments), 0], np.int8)
    held = average(share, factor)
    return {
        'veins': held,
        'vein_chi': average(share * chi[owner], factor) / np.maximum(held, np.float32(1e-6)),
        'vein_dseg': _largest(kinds[owner], share, factor) * (held >= SEEN),
    }


def vein_truth(segments: Sequence[Segment], shape: Sequence[int], affine: np.ndarray, *, factor: int = 2):
    """Share of venous blood, its susceptibility and the class of vein in each voxel of a grid.

    Returns
    -------
    dict of str to ndarray
        veins (0 .. 1); vein_chi (ppm, of the blood itself; 0 where there is none); vein_dseg (int16, of
        CLASSES): the vein that holds most, where veins hold 2 % or more.
    """
    fine = affine @ np.diag([1 / factor] * 3 + [1])
    fine[:3, 3] = affine[:3, :3] @ np.full(3, 0.5 / factor - 0.5) + affine[:3, 3]
    share, owner = draw(segments, [n * factor for n in shape], fine)
    return summed(segments, share, owner, factor)


def clip(segments: Sequence[Segment], shape: Sequence[int], affine: np.ndarray):
    """Return the parts of segments whose axis lies within a grid; one that leaves and returns is two."""
    if not segments:
        return ()
    inverse = np.linalg.inv(affine)
    at = np.concatenate([s.points for s in segments]) @ inverse[:3, :3].T + inverse[:3, 3]
    within = np.all((at >= -0.5) & (at <= np.array(shape) - 0.5), 1)
    starts = np.r_[0, np.cumsum([len(s.points) for s in segments])]
    found = []
    for n in np.flatnonzero(np.add.reduceat(within, starts[:-1], dtype=int)).tolist():
        s, inside = segments[n], within[starts[n] : starts[n + 1]]
        edges = np.flatnonzero(np.diff(np.r_[0, inside, 0]))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first > 1:
                found.append(replace(s, points=s.points[first:last], radius=s.radius[first:last]))
    return tuple(found)
