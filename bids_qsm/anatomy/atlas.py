"""The built-in atlas of deep grey nuclei: ellipsoids from a small table, approximate at their borders.

Geometry of nuclei 1-32: CIT168 atlas, Pauli, Nili & Tyszka (2018), Sci Data 5:180063,
doi:10.1038/sdata.2018.63, CC BY 4.0. Thalamus and dentate were fitted to the ICBM152 T1 template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd

from bids_qsm.recon.arrays import Array


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
        """Half sides (mm) of the box that just holds the ellipsoid."""
        return np.sqrt(np.diag(np.linalg.inv(self.precision)))

    def distance(self, points: Array):
        """Mahalanobis distance of ``points`` (..., 3) in units of the surface: 0 at the centre, 1 on it."""
        offset = np.asarray(points, np.float32) - self.centre.astype(np.float32)
        return np.sqrt(((offset @ self.precision.astype(np.float32)) * offset).sum(-1))


def table():
    """Return the geometry table: one row an ellipsoid; rows of the same index together make one nucleus."""
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


def classify(points: Array, shapes: Sequence[Ellipsoid] | None = None):
    """Label points of template space by the nucleus that holds them.

    Where ellipsoids overlap, the one whose centre is nearest in Mahalanobis distance wins.

    Parameters
    ----------
    points : ndarray, shape (..., 3)
        Template coordinates (mm, RAS).
    shapes : sequence of Ellipsoid, optional
        Those of the atlas unless given.

    Returns
    -------
    ndarray of int16, shape (...)
        Index of the nucleus, 0 outside all.
    """
    points = np.asarray(points, np.float32)
    flat = points.reshape(-1, 3)
    label = np.zeros(len(flat), np.int16)
    nearest = np.ones(len(flat), np.float32)
    everything = ellipsoids() if shapes is None else shapes
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
