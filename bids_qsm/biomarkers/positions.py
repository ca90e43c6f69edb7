"""Bring the local fields of one head in several positions onto one grid, and B0 into its frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.register import rigid
from bids_qsm.anatomy.transform import resample
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level

SAME = 3.0
"""Angle between directions of B0 (degrees) below which two positions are one."""
OVERLAP = 0.7
"""Least share of the reference's brain that another position must cover after registration."""
WHOLE = 0.99
"""Share of mask from which a resampled voxel has a field."""


@dataclass(frozen=True)
class Position:
    """A head position as it was measured, on its own grid.

    ``name`` is that of the series, ``field`` (ppm) the local field within ``mask``, ``magnitude`` combined
    over echoes, ``affine`` voxel to world (RAS, mm). ``b0`` is the unit vector of B0 along the axes of the
    world.
    """

    name: str
    field: np.ndarray
    mask: np.ndarray
    magnitude: np.ndarray
    affine: np.ndarray
    b0: np.ndarray


@dataclass(frozen=True)
class Aligned:
    """Positions on the grid of the first.

    ``directions`` (N, 3) are unit vectors of B0 along the voxel axes of that grid, ``noises`` standard
    deviations (ppm) of the fields, ``transforms`` (N, 4, 4) take points of the first to those of each.
    """

    fields: list[np.ndarray]
    masks: list[np.ndarray]
    noises: list[np.ndarray]
    directions: np.ndarray
    transforms: list[np.ndarray]

    @property
    def data(self):
        """First arguments of `cosmos` and `tensor`."""
        return self.fields, self.masks, self.noises, self.directions


def axes_of(affine: np.ndarray):
    """Rotation (3, 3), with a reflection where the voxel axes are left-handed: the nearest to an affine.

    Its columns are the directions of the voxel axes in the world.

    >>> axes_of(np.diag([-2.0, 2, 3, 1])).tolist()
    [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    matrix = np.asarray(affine, float)[:3, :3]
    u, _, vt = np.linalg.svd(matrix / np.sqrt((matrix**2).sum(0)))
    return u @ vt


def b0_in_world(grid: Grid, affine: np.ndarray):
    """Unit vector of B0 along the axes of the world (RAS) of an image.

    >>> from bids_qsm.recon.grid import Grid
    >>> affine = np.diag([-2.0, 2, 3, 1])
    >>> b0_in_world(Grid.from_affine((4, 4, 4), affine), affine).tolist()
    [0.0, 0.0, 1.0]
    """
    return axes_of(affine) @ np.array(grid.b0_dir) + 0.0


def register(moving: Position, fixed: Position):
    """Rigid transform (4, 4) that takes points of ``fixed`` to those of ``moving``, of their magnitudes.

    Raises
    ------
    UserError
        The brains do not overlap after it.
    """
    images = [correct_bias(one.magnitude, one.affine)[0] for one in (moving, fixed)]
    found = rigid(images[0], moving.affine, images[1], fixed.affine, fixed.mask)
    there = resample(moving.mask, moving.affine, fixed.mask.shape, fixed.affine, [found])
    share = float(there[fixed.mask].mean())
    if share < OVERLAP:
        raise UserError(
            f'{moving.name} could not be aligned to {fixed.name}: {share:.0%} of the brain overlaps; leave this '
            'series out, or check that it is of the same head.'
        )
    return found


def noise_of(one: Position):
    """Standard deviation (ppm) of the noise of a local field, which goes with 1 / magnitude."""
    level = noise_level(one.field[..., None], one.mask)
    typical = float(np.median(one.magnitude[one.mask]))
    noise = level * typical / np.maximum(one.magnitude, 1e-3 * typical)
    return np.where(one.mask, noise, 0).astype(np.float32)


def align(positions: Sequence[Position], transforms: Sequence[np.ndarray] | None = None):
    """Resample positions onto the grid of the first, and turn their B0 into its frame.

    Each local field was made in its own frame. It is resampled with cubic splines, which keep edges better
    than linear interpolation, and kept where the resampled mask is whole.

    Parameters
    ----------
    positions : sequence of Position
    transforms : sequence of (4, 4), optional
        Take points of the first to those of each; by default from registration.

    Returns
    -------
    Aligned
    """
    first = positions[0]
    if transforms is None:
        transforms = [np.eye(4), *(register(one, first) for one in positions[1:])]
    axes = axes_of(first.affine)
    fields, masks, noises, directions = [first.field * first.mask], [first.mask], [noise_of(first)], []
    for one, matrix in zip(positions, transforms, strict=True):
        directions.append(axes.T @ matrix[:3, :3].T @ one.b0)
        if one is first:
            continue
        place = (one.affine, first.mask.shape, first.affine, [matrix])
        mask = resample(one.mask, *place) > WHOLE
        fields.append(resample(one.field, *place, order=3) * mask)
        noises.append(resample(noise_of(one), *place) * mask)
        masks.append(mask)
    return Aligned(fields, masks, noises, np.array(directions), list(transforms))


def distinct(directions: np.ndarray):
    """How many directions of B0 differ from all before them by `SAME` degrees or more.

    >>> distinct(np.array([[0, 0, 1], [0, 0.01, 1], [0, 1, 0]]))
    2
    """
    kept: list[np.ndarray] = []
    for one in np.asarray(directions, float):
        unit = one / np.linalg.norm(one)
        # the field is the same with B0 reversed
        if all(abs(unit @ other) < np.cos(np.radians(SAME)) for other in kept):
            kept.append(unit)
    return len(kept)
