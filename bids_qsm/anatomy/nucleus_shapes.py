"""Shapes of the deep grey nuclei of an atlas, and their pose in a person."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numba import njit, prange
from scipy import ndimage, optimize

from bids_qsm.anatomy.nucleus_names import NUCLEI, body_of
from bids_qsm.anatomy.transform import apply_affine, spacing_of
from bids_qsm.recon.arrays import Array

_PAD_MM = 12.0
"""Margin (mm) around a nucleus in which distances are known; beyond it they are extrapolated."""
_SMOOTH_MM = 0.6
"""Smoothing (mm) of the signed distance, which has steps where labels have."""


@dataclass(eq=False)
class Nucleus:
    """A nucleus of one side: its surface in the atlas, and its pose in this person.

    ``levels`` is the signed distance (mm, negative inside) on the lattice that ``to_lattice`` (4, 4) maps
    template points to; ``parts`` are those of its parts, by label. ``centre`` (mm) and ``volume`` (mm^3) are
    those of the atlas. The pose maps template points of the person's nucleus to those of the atlas's:
    ``matrix`` (3, 3) about the centre, then ``shift`` (mm). ``rest`` (3, 3) is the matrix that its prior has.
    ``placed`` is the shift of the centre (mm) in a segmentation of the person's T1w, where there is one.
    """

    name: str
    hemisphere: str
    parts: dict
    levels: np.ndarray
    to_lattice: np.ndarray
    centre: np.ndarray
    volume: float
    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(3))
    rest: np.ndarray = field(default_factory=lambda: np.eye(3))
    placed: np.ndarray | None = None

    @property
    def is_known(self):
        """Whether it is one of the nuclei that chi shows."""
        return self.name in NUCLEI

    @property
    def back(self):
        """Matrix (4, 4) that maps template points of the person's nucleus to points of the atlas's."""
        found = np.eye(4)
        found[:3, :3] = self.matrix
        found[:3, 3] = self.centre + self.shift - self.matrix @ self.centre
        return found

    @property
    def moved(self):
        """Shift (mm) of the centre from the atlas to the person."""
        return -np.linalg.solve(self.matrix, self.shift)

    @property
    def still(self):
        """The same nucleus in the pose of the atlas."""
        return replace(self, matrix=np.eye(3), shift=np.zeros(3))

    def distance(self, points: Array, levels: Array | None = None):
        """Signed distance (mm) of template points (n, 3) to the posed surface, or to that of a part."""
        return self.slope(points, levels)[:, 0]

    def slope(self, points: Array, levels: Array | None = None):
        """Signed distance and its gradient (n, 4) at the posed points, in the frame of the atlas."""
        return _look(self.levels if levels is None else levels, self.to_lattice, self.back, points)


@njit(cache=True, parallel=True)
def _look(levels: Array, to_lattice: Array, back: Array, points: Array):
    """Trilinear value and gradient (n, 4) of ``levels`` at mapped points; beyond the lattice it goes on.

    The gradient is that by the points after ``back`` (4, 4).
    """
    out = np.empty((points.shape[0], 4), np.float32)
    nx, ny, nz = levels.shape
    size = np.array([nx, ny, nz])
    matrix = np.zeros((3, 4))
    for d in range(3):
        for e in range(4):
            for g in range(4):
                matrix[d, e] += to_lattice[d, g] * back[g, e]
    for p in prange(points.shape[0]):
        base = np.empty(3, np.int64)
        part = np.empty(3, np.float64)
        beyond = 0.0
        for d in range(3):
            c = matrix[d, 3]
            scale = 0.0
            for e in range(3):
                c += matrix[d, e] * points[p, e]
                scale += matrix[d, e] ** 2
            inside = min(max(c, 0.0), size[d] - 1.0)
            beyond += (c - inside) ** 2 / scale
            base[d] = min(int(inside), size[d] - 2)
            part[d] = inside - base[d]
        value = 0.0
        slope = np.zeros(3, np.float64)
        for i in range(2):
            wi, si = (part[0], 1.0) if i else (1 - part[0], -1.0)
            for j in range(2):
                wj, sj = (part[1], 1.0) if j else (1 - part[1], -1.0)
                for k in range(2):
                    wk, sk = (part[2], 1.0) if k else (1 - part[2], -1.0)
                    v = levels[base[0] + i, base[1] + j, base[2] + k]
                    value += wi * wj * wk * v
                    slope[0] += si * wj * wk * v
                    slope[1] += wi * sj * wk * v
                    slope[2] += wi * wj * sk * v
        out[p, 0] = value + np.sqrt(beyond)
        for e in range(3):
            total = 0.0
            for d in range(3):
                total += slope[d] * to_lattice[d, e]
            out[p, 1 + e] = total
    return out


def nuclei_of(dseg: Array, affine: Array, labels: pd.DataFrame):
    """Nuclei of an atlas, one a side; GPe and GPi are one, and so are SNc and SNr.

    Parameters
    ----------
    dseg : ndarray of int
        Atlas in template space.
    affine : ndarray (4, 4)
        Voxel to template points (mm).
    labels : DataFrame
        Columns index, hemisphere and region.

    Returns
    -------
    list of Nucleus
        Labels without a side, and those that are not in the image, are left out.
    """
    found, boxes = [], ndimage.find_objects(dseg)
    named = labels.assign(body=labels['region'].map(body_of), side=labels['hemisphere'].map(str))
    for (name, side), rows in named.groupby(['body', 'side'], sort=False):
        indices = [int(i) for i in rows['index'] if 0 < i <= len(boxes) and boxes[int(i) - 1]]
        if side not in ('L', 'R') or not indices:
            continue
        box, start = _box_around([boxes[i - 1] for i in indices], affine)
        near = dseg[box]
        inside = np.isin(near, indices)
        to_lattice = np.linalg.inv(start)
        parts = {i: _levels(near == i, affine) for i in indices}
        whole = parts[indices[0]] if len(indices) == 1 else _levels(inside, affine)
        at = np.argwhere(inside) + [b.start for b in box]
        centre = apply_affine(affine, [at.mean(0)])[0]
        volume = float(inside.sum() * abs(np.linalg.det(affine[:3, :3])))
        found.append(Nucleus(name, side, parts, whole, to_lattice, centre, volume))
    return found


def _box_around(boxes: list[tuple[slice, ...]], affine: Array):
    """Slices around some boxes with a margin, and the affine there."""
    pad = np.ceil(_PAD_MM / spacing_of(affine)).astype(int)
    box = tuple(
        slice(max(min(s.start for s in sides) - p, 0), max(s.stop for s in sides) + p)
        for sides, p in zip(zip(*boxes, strict=True), pad, strict=True)
    )
    start = np.array(affine, float)
    start[:3, 3] = apply_affine(affine, [[b.start for b in box]])[0]
    return box, start


def _levels(inside: Array, affine: Array):
    """Smooth signed distance (mm) to the surface of a region, which keeps its volume."""
    size = spacing_of(affine)
    outer = ndimage.distance_transform_edt(~inside, size)
    inner = ndimage.distance_transform_edt(inside, size)
    distance = np.where(inside, 0.5 * size.mean() - inner, outer - 0.5 * size.mean())
    distance = ndimage.gaussian_filter(distance, _SMOOTH_MM / size)
    near, side = distance[np.abs(distance) < 3 * size.mean()], size.mean()
    filled = inside.sum() - (distance <= -3 * side).sum()

    def excess(level: float):
        return np.clip(0.5 + (level - near) / side, 0, 1).sum() - filled

    return (distance - optimize.brentq(excess, -2 * side, 2 * side)).astype(np.float32)


def extent(nucleus: Nucleus):
    """Half sides (mm) of the box around the surface."""
    inside = np.argwhere(nucleus.levels < 0)
    places = apply_affine(np.linalg.inv(nucleus.to_lattice), inside)
    return np.abs(places - nucleus.centre).max(0)
