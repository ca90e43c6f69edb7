"""The sampling grid of a volume, and where B0 points in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.arrays import Array


@dataclass(frozen=True)
class Grid:
    """Shape, voxel size (mm) and B0 direction (unit vector along the voxel axes) of a 3D volume."""

    shape: tuple[int, ...]
    voxel_size: tuple[float, ...] = (1.0, 1.0, 1.0)
    b0_dir: tuple[float, ...] = (0.0, 0.0, 1.0)

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: Array, scanner: Array | None = None):
        """Read voxel size and B0 direction from a voxel-to-world affine (RAS, mm).

        B0 lies along the scanner's z axis; its components along the voxel axes are the
        third row of the rotation, so oblique slabs need no special case. ``scanner`` is
        the affine to the scanner, where the world is turned against it.

        >>> Grid.from_affine((4, 4, 4), np.diag([1, 1, -2, 1])).b0_dir
        (0.0, 0.0, -1.0)
        """
        matrix = np.asarray(affine, float)[:3, :3]
        voxel_size = np.sqrt((matrix**2).sum(0))
        turned = matrix if scanner is None else np.asarray(scanner, float)[:3, :3]
        b0_dir = turned[2] / np.sqrt((turned**2).sum(0))
        b0_dir = b0_dir / np.linalg.norm(b0_dir)
        return cls(
            tuple(int(n) for n in shape[:3]),
            tuple(float(v) for v in voxel_size),
            tuple(float(b) for b in b0_dir),
        )

    @property
    def voxel_volume(self):
        """Volume of a voxel (mm^3)."""
        return float(np.prod(self.voxel_size))
