"""Closed triangle surfaces: a sphere, its neighbours, and the voxels inside."""

import numpy as np
from numba import njit
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid


def sphere(level: int):
    """Unit sphere by parting each triangle of an icosahedron in four, ``level`` times.

    Returns
    -------
    points : ndarray of float32, shape (10 * 4**level + 2, 3)
    triangles : ndarray of int, shape (20 * 4**level, 3)
        Corners, anticlockwise from outside.

    >>> [len(part) for part in sphere(2)]
    [162, 320]
    """
    g = (1 + 5**0.5) / 2
    points = [(a, b * g, 0.0) for b in (1, -1) for a in (-1, 1)]
    points += [(0.0, a, b * g) for b in (1, -1) for a in (-1, 1)]
    points += [(b * g, 0.0, a) for b in (1, -1) for a in (-1, 1)]
    points = np.array(points)
    # the faces are the triples of mutual neighbours, whose distance is 2
    near = np.abs(np.linalg.norm(points[:, None] - points, axis=-1) - 2) < 1e-6
    triangles = []
    for i, j in np.argwhere(np.triu(near)):
        for k in np.flatnonzero(near[i] & near[j]):
            if k > j:
                outward = np.linalg.det(points[[i, j, k]]) > 0
                triangles.append((i, j, k) if outward else (i, k, j))
    points /= np.linalg.norm(points[0])
    triangles = np.array(triangles)
    for _ in range(level):
        sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
        unique, place = np.unique(sides, axis=0, return_inverse=True)
        middle = points[unique].mean(1)
        a, b, c = triangles.T
        ab, bc, ca = (len(points) + place.ravel()).reshape(3, -1)
        points = np.concatenate([points, middle / np.linalg.norm(middle, axis=1)[:, None]])
        triangles = np.concatenate(
            [np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
    return points.astype(np.float32), triangles


def neighbours(triangles: Array, count: int):
    """Neighbours of each of ``count`` vertices, anticlockwise, filled up with -1: int array (count, 6)."""
    after = [{} for _ in range(count)]
    for corners in triangles.tolist():
        for n in range(3):
            after[corners[n]][corners[(n + 1) % 3]] = corners[(n + 2) % 3]
    near = np.full((count, 6), -1)
    for v, ring in enumerate(after):
        at = next(iter(ring))
        for n in range(len(ring)):
            near[v, n] = at
            at = ring[at]
    return near


def fill_surface(points: Array, triangles: Array, grid: Grid):
    """Voxels whose centres a closed surface winds around (mm, the first voxel's centre at 0).

    Where the surface has cut itself, pockets that it encloses are inside too.
    """
    crossings = np.zeros((*grid.shape[:2], grid.shape[2] + 1), np.int16)
    _cross(np.asarray(points, np.float64) / grid.voxel_size, triangles, crossings)
    return ndimage.binary_fill_holes(np.cumsum(crossings, 2, dtype=np.int16)[..., :-1] != 0)


@njit(cache=True)
def _cross(points: Array, triangles: Array, crossings: Array):
    """Add up at each voxel the ways (in or out) in which the line along the third axis meets triangles."""
    nx, ny, nz = crossings.shape
    # lines slightly off the voxel centres meet no vertex and no edge
    dx, dy = 1.234e-5, 2.345e-5
    for t in range(triangles.shape[0]):
        a, b, c = points[triangles[t, 0]], points[triangles[t, 1]], points[triangles[t, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0:
            continue
        first = max(0, int(np.ceil(min(a[0], b[0], c[0]) - dx)))
        last = min(nx - 1, int(np.floor(max(a[0], b[0], c[0]) - dx)))
        low = max(0, int(np.ceil(min(a[1], b[1], c[1]) - dy)))
        high = min(ny - 1, int(np.floor(max(a[1], b[1], c[1]) - dy)))
        for i in range(first, last + 1):
            for j in range(low, high + 1):
                x, y = i + dx, j + dy
                u = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
                v = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    z = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
                    crossings[i, j, min(max(int(np.ceil(z)), 0), nz - 1)] += 1 if area > 0 else -1
