"""The built-in atlas of deep grey nuclei: smooth surfaces, with approximate borders.

Geometry of nuclei 1-32: CIT168 atlas, Pauli, Nili & Tyszka (2018), Sci Data 5:180063,
doi:10.1038/sdata.2018.63, CC BY 4.0. Thalamus and dentate are ellipsoids drawn on the ICBM152 T1 template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import fft, ndimage

from bids_qsm.recon.arrays import Array

REACH, UNIT = 3.0, 0.5
"""Distance (mm) up to which a surface is described, and unit (mm) of the coefficients of its waves."""


class Shape(Protocol):
    """A solid of template space (mm), part of the nucleus of label ``index``.

    ``reach`` are the half sides of its bounding box about ``centre``, ``radius`` is that of a sphere of the
    same volume; ``distance`` of points (..., 3) is below 1 inside, 1 on the surface, and rises by about
    1 / radius for each mm near it.
    """

    index: int
    region: str
    hemisphere: str
    centre: np.ndarray

    @property
    def volume(self) -> float: ...

    @property
    def radius(self) -> float: ...

    @property
    def reach(self) -> np.ndarray: ...

    def distance(self, points: Array) -> Array: ...


@dataclass(frozen=True)
class Ellipsoid:
    """Solid ellipsoid {x : (x - centre)' precision (x - centre) <= 1} in template space (mm)."""

    index: int
    name: str
    hemisphere: str
    region: str
    centre: np.ndarray
    precision: np.ndarray
    volume: float

    @property
    def radius(self):
        """Radius (mm) of the sphere of the same volume."""
        return (3 * self.volume / (4 * np.pi)) ** (1 / 3)

    @property
    def reach(self):
        """Half sides (mm) of the bounding box."""
        return np.sqrt(np.diag(np.linalg.inv(self.precision)))

    def distance(self, points: Array):
        """Mahalanobis distance of ``points`` (..., 3) in units of the surface: 0 at the centre, 1 on it."""
        offset = np.asarray(points, np.float32) - self.centre.astype(np.float32)
        return np.sqrt(((offset @ self.precision.astype(np.float32)) * offset).sum(-1))


@dataclass(frozen=True, eq=False)
class Surface:
    """A nucleus by the signed distance (mm) to its surface, on a lattice of 1 mm from ``origin`` on."""

    index: int
    name: str
    hemisphere: str
    region: str
    origin: np.ndarray
    levels: np.ndarray

    @cached_property
    def _box(self):
        (box,) = ndimage.find_objects((self.levels < 0).astype(np.uint8))
        return np.array([[b.start - 1, b.stop] for b in box])

    @property
    def centre(self):
        """Middle (mm) of the bounding box."""
        return self.origin + self._box.mean(1)

    @property
    def reach(self):
        """Half sides (mm) of the bounding box."""
        return np.ptp(self._box, 1) / 2

    @cached_property
    def volume(self):
        """Volume (mm^3)."""
        return float((self.levels < 0).sum())

    @property
    def radius(self):
        """Radius (mm) of the sphere of the same volume."""
        return (3 * self.volume / (4 * np.pi)) ** (1 / 3)

    def distance(self, points: Array):
        """Distance of ``points`` (..., 3) to the surface in units of the radius, plus 1: 1 on it."""
        points = np.asarray(points, np.float32) - self.origin.astype(np.float32)
        found = ndimage.map_coordinates(self.levels, np.moveaxis(points, -1, 0), order=1, mode='nearest')
        return 1 + found / np.float32(self.radius)


@lru_cache(maxsize=1)
def surfaces():
    """Return the surfaces of nuclei 1-32, from a cosine transform of their signed distance.

    Computed from the labels of CIT168 by benchmarks/nuclei_surfaces.py.
    """
    names = labels().set_index('index')
    with resources.files('bids_qsm.data').joinpath('nuclei_surfaces.npz').open('rb') as file:
        kept = dict(np.load(file))
    found = []
    for index, origin, shape in zip(kept['index'], kept['origin'], kept['shape'], strict=True):
        waves = np.zeros(shape, np.float32)
        known = kept[f'waves_{index}']
        waves[tuple(map(slice, known.shape))] = UNIT * known
        levels = fft.idctn(waves, norm='ortho')
        # from the squashed distance to mm
        levels = REACH * np.arctanh(np.clip(levels / REACH, -0.995, 0.995))
        name, side, region = names.loc[index, ['name', 'hemisphere', 'region']]
        found.append(Surface(int(index), name, side, region, origin.astype(float), levels.astype(np.float32)))
    return tuple(found)


def shapes():
    """Return all nuclei of the atlas: surfaces, and the ellipsoids of those without."""
    known = surfaces()
    return [*known, *(e for e in ellipsoids() if e.index not in {s.index for s in known})]


def table():
    """Return the geometry table: one row per ellipsoid; rows of the same index form one nucleus."""
    with resources.files('bids_qsm.data').joinpath('nuclei.tsv').open() as file:
        return pd.read_csv(file, sep='\t', comment='#')


def labels():
    """Return the label table: index, name, hemisphere, region."""
    return table()[['index', 'name', 'hemisphere', 'region']].drop_duplicates().reset_index(drop=True)


def ellipsoids():
    r"""Return the nuclei as solid ellipsoids.

    A covariance C fixes the shape up to a factor s; the volume fixes s:

    .. math:: V = \tfrac{4}{3} \pi s^3 \sqrt{\det C}
    """
    found = []
    for row in table().to_dict('records'):
        cov = np.array([[row['cov_' + ''.join(sorted(a + b))] for b in 'xyz'] for a in 'xyz'])
        scale = (3 * row['volume_mm3'] / (4 * np.pi * np.sqrt(np.linalg.det(cov)))) ** (1 / 3)
        found.append(
            Ellipsoid(
                int(row['index']),
                row['name'],
                row['hemisphere'],
                row['region'],
                np.array([row['x_mm'], row['y_mm'], row['z_mm']]),
                np.linalg.inv(cov) / scale**2,
                float(row['volume_mm3']),
            )
        )
    return found


def classify(points: Array, solids: Sequence[Shape] | None = None):
    """Label points of template space by the nucleus that contains them.

    Where nuclei overlap, the label is that of the smallest distance.

    Parameters
    ----------
    points : ndarray, shape (..., 3)
        Template coordinates (mm, RAS).
    solids : sequence of Shape, optional
        Those of the atlas by default.

    Returns
    -------
    ndarray of int16, shape (...)
        Index of the nucleus, 0 outside all.
    """
    points = np.asarray(points, np.float32)
    flat = points.reshape(-1, 3)
    label = np.zeros(len(flat), np.int16)
    nearest = np.ones(len(flat), np.float32)
    everything = shapes() if solids is None else solids
    low = np.min([e.centre - e.reach for e in everything], 0)
    high = np.max([e.centre + e.reach for e in everything], 0)
    candidates = np.flatnonzero(((flat >= low) & (flat <= high)).all(1))
    inner = flat[candidates]
    for e in everything:
        near = (np.abs(inner - e.centre) <= e.reach).all(1)
        where = candidates[near]
        distance = e.distance(inner[near])
        wins = distance <= nearest[where]
        label[where[wins]] = e.index
        nearest[where[wins]] = distance[wins]
    return label.reshape(points.shape[:-1])


def nuclei_atlas(shape: Sequence[int], affine: Array):
    """Draw the nuclei on a grid of template space.

    Parameters
    ----------
    shape : tuple of int
    affine : ndarray, shape (4, 4)
        Voxel to template coordinates (mm, RAS).

    Returns
    -------
    dseg : ndarray of int16, shape ``shape``
    labels : DataFrame
        Columns index, name, hemisphere, region.

    References
    ----------
    .. [1] Pauli, Nili & Tyszka (2018), Sci Data 5:180063. doi:10.1038/sdata.2018.63
    """
    affine = np.asarray(affine, np.float32)
    axes = [np.arange(n, dtype=np.float32) for n in shape[:3]]
    points = np.empty((*shape[:3], 3), np.float32)
    for k in range(3):
        i, j, l = (affine[k, a] * axes[a] for a in range(3))  # noqa: E741
        points[..., k] = i[:, None, None] + j[None, :, None] + l[None, None, :] + affine[k, 3]
    return classify(points), labels()
