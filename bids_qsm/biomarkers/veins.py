"""Veins of the head: what is known of each segment, and of each voxel."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NAMES = {
    1: 'superior_sagittal_sinus',
    2: 'straight_sinus',
    3: 'vein_of_galen',
    4: 'internal_cerebral_vein',
    5: 'cortical_vein',
    6: 'deep_vein',
    7: 'other_vein',
}
"""Values of `Veins.labels`, and the names of segments."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A piece of vein between two junctions or ends.

    ``points``, ``voxels``, ``direction`` and ``diameter_mm`` have one row a point; points lie on the smoothed
    centreline, about half a voxel apart, from one end to the other.

    Attributes
    ----------
    number : int
        From 1; the value of the segment in `Veins.numbers` and `Veins.skeleton`.
    name : str
        One of `NAMES`.
    points : ndarray, shape (n, 3)
        Scanner coordinates (RAS, mm).
    voxels : ndarray, shape (n, 3)
        The same in voxels of the maps (the centre of the first voxel is 0).
    direction : ndarray, shape (n, 3)
        Unit vectors along the centreline, in scanner coordinates.
    diameter_mm : ndarray, shape (n,)
        Of the circle that has the area of the section of the vein.
    tilt_deg : ndarray, shape (n,)
        Angle to B0, 0 to 90 degrees.
    ends : tuple of int
        Junctions that the first and the last point belong to, numbered from 1; 0 is a free end.
    """

    number: int
    name: str
    points: np.ndarray
    voxels: np.ndarray
    direction: np.ndarray
    diameter_mm: np.ndarray
    tilt_deg: np.ndarray
    ends: tuple[int, int]

    @cached_property
    def length_mm(self) -> float:
        """Length of the centreline (mm)."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    @cached_property
    def tortuosity(self) -> float:
        """Length over the distance between the ends: 1 is straight."""
        chord = float(np.linalg.norm(self.points[-1] - self.points[0]))
        return self.length_mm / chord if chord > 0 else np.nan


@dataclass(frozen=True, eq=False)
class Veins:
    """The veins of one head, on the grid of its maps.

    Attributes
    ----------
    share : ndarray of float32
        Share of each voxel that is vein (0 to 1).
    mask : ndarray of bool
        Where vein is most of the voxel (share of at least one half), and the centrelines of thinner veins.
    labels : ndarray of int16
        Key of `NAMES` in the voxels of the mask, 0 elsewhere.
    skeleton : ndarray of int32
        Number of the segment whose centreline passes the voxel, 0 elsewhere.
    numbers : ndarray of int32
        Number of the segment that each voxel with a share belongs to, 0 elsewhere.
    segments : tuple of Segment
        In the order of their numbers.
    blood_chi : float
        Susceptibility (ppm) of blood above the tissue around it that shares and diameters were computed
        with; NaN without a susceptibility map.
    blood_from : str
        'measured' in the widest veins of this head, or 'assumed' where none is wide enough.
    """

    share: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    skeleton: np.ndarray
    numbers: np.ndarray
    segments: tuple[Segment, ...]
    blood_chi: float
    blood_from: str
