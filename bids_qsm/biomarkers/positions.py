"""Bring the local fields of one head in several positions onto one grid, and B0 into its frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.register import rigid
from bids_qsm.anatomy.transform import resample
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import harmonic_susceptibility
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

    @property
    def noise(self) -> np.ndarray:
        """Standard deviation (ppm) of the field."""
        return noise_of(self.field, self.magnitude, self.mask)


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
    def data(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], np.ndarray]:
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
            f'{moving.name} could not be aligned to {fixed.name}: {share:.0%} of the brain overlaps; leave '
            'this series out, or check that it is of the same head.'
        )
    return found


def noise_of(field: np.ndarray, magnitude: np.ndarray, mask: np.ndarray):
    """Standard deviation (ppm) of the noise of a local field, which goes with 1 / magnitude."""
    level = noise_level(field[..., None], mask)
    typical = float(np.median(magnitude[mask]))
    noise = level * typical / np.maximum(magnitude, 1e-3 * typical)
    return np.where(mask, noise, 0).astype(np.float32)


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
    fields, masks, noises, directions = (
        [first.field * first.mask],
        [first.mask],
        [first.noise],
        [],
    )
    for one, matrix in zip(positions, transforms, strict=True):
        directions.append(axes.T @ matrix[:3, :3].T @ one.b0)
        if one is first:
            continue
        shape, affine = first.mask.shape, first.affine
        chain: list = [matrix]
        mask = resample(one.mask, one.affine, shape, affine, chain) > WHOLE
        fields.append(
            resample(_widened(one.field, one.mask), one.affine, shape, affine, chain, order=3) * mask
        )
        noises.append(resample(one.noise, one.affine, shape, affine, chain) * mask)
        masks.append(mask)
    return Aligned(fields, masks, noises, np.array(directions), list(transforms))


def _widened(field: np.ndarray, mask: np.ndarray):
    """A field that keeps, outside the mask, its nearest value inside: splines ring at steps."""
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return field[tuple(nearest)]


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


def stated_b0(table: pd.DataFrame | None, name: str):
    """Unit vector of B0 (3,) that a table states for a series; None where it states none.

    Parameters
    ----------
    table : DataFrame, optional
        Columns file, which begins with ``name``, and x, y, z: B0 along the axes of the world (RAS) of that
        file.
    name : str
        Of the series.

    Raises
    ------
    UserError
        A column is missing, or the vector is none.
    """
    if table is None:
        return None
    lost = [column for column in ('file', 'x', 'y', 'z') if column not in table]
    if lost:
        raise UserError(f'The table of orientations has no column {lost[0]}; it must have file, x, y and z.')
    files = table['file'].astype(str).str.rpartition('/')[2]
    rows = table[[file == name or file.startswith(f'{name}_') for file in files]]
    if rows.empty:
        return None
    vector = pd.to_numeric(rows.iloc[0][['x', 'y', 'z']], errors='coerce').to_numpy(float)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise UserError(
            f'The table of orientations states no direction of B0 for {name}; mend x, y and z there.'
        )
    return vector / length


def positions_of(
    names: Sequence[str],
    fields: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    magnitudes: Sequence[np.ndarray],
    affines: Sequence[np.ndarray],
    grids: Sequence[Grid],
    table: pd.DataFrame | None = None,
):
    """Positions of the series of a session; B0 is that of the scanner, or that which a table states."""
    parts = zip(names, fields, masks, magnitudes, affines, grids, strict=True)
    found = []
    for name, field, mask, magnitude, affine, grid in parts:
        b0 = stated_b0(table, name)
        found.append(
            Position(name, field, mask, magnitude, affine, b0_in_world(grid, affine) if b0 is None else b0)
        )
    return found


def position_table(
    positions: Sequence[Position],
    aligned: Aligned,
    single: Sequence[np.ndarray],
    chi: np.ndarray,
    table: pd.DataFrame | None = None,
):
    """One row a position: where B0 points in the head, how the head moved, and how its maps compare.

    Parameters
    ----------
    positions, aligned
        As `align` has them.
    single : sequence of ndarray
        Susceptibility (ppm) from each position alone, on the grid of the first.
    chi : ndarray
        Susceptibility (ppm) from all.
    table : DataFrame, optional
        Which stated B0, see `stated_b0`.
    """
    first = positions[0]
    rows = []
    for n, one in enumerate(positions):
        # along the axes of the scanner of the first position
        b0 = axes_of(first.affine) @ aligned.directions[n]
        matrix, mask = aligned.transforms[n], aligned.masks[n]
        centre = first.affine[:3, :3] @ ((np.array(first.mask.shape) - 1) / 2) + first.affine[:3, 3]
        start = axes_of(first.affine) @ aligned.directions[0]
        both = mask & aligned.masks[0]
        rows.append(
            {
                'position': one.name,
                'b0_x': b0[0],
                'b0_y': b0[1],
                'b0_z': b0[2],
                'angle_deg': np.degrees(np.arccos(np.clip(abs(b0 @ start), 0, 1))),
                'shift_mm': np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre),
                'b0_from': 'table' if stated_b0(table, one.name) is not None else 'scanner and registration',
                'same_affine': bool(np.allclose(one.affine, first.affine, atol=1e-3)),
                'overlap': both.sum() / aligned.masks[0].sum(),
                'noise_ppb': 1e3 * np.median(aligned.noises[n][mask]),
                'correlation': np.corrcoef(single[n][both], chi[both])[0, 1],
                'difference_ppb': 1e3 * np.std((single[n] - chi)[both]),
            }
        )
    return pd.DataFrame(rows).round(4)


def on_first(images: Sequence[np.ndarray], positions: Sequence[Position], aligned: Aligned):
    """Images of each position on the grid of the first, with the mean of the first within the mask common."""
    first = positions[0]
    found = [images[0]]
    for image, one, matrix in zip(images[1:], positions[1:], aligned.transforms[1:], strict=True):
        wide = _widened(image, one.mask)
        found.append(resample(wide, one.affine, first.mask.shape, first.affine, [matrix], order=3))
    zero = float(images[0][first.mask].mean())
    shifted = []
    for image, mask in zip(found, aligned.masks, strict=True):
        both = mask & first.mask
        shifted.append(np.where(mask, image + (zero - image[both].mean()), 0).astype(np.float32))
    return shifted


def said_of_rotation(table: pd.DataFrame) -> str:
    """How the turn of the head was found, for the sidecars.

    >>> said_of_rotation(pd.DataFrame({'same_affine': [True, True], 'b0_from': ['x', 'x']}))
    'from registration of the images alone: all series have the same affine'
    """
    if (table['b0_from'] == 'table').any():
        return 'B0 as the table of orientations states it, and registration of the images'
    if table['same_affine'].all():
        return 'from registration of the images alone: all series have the same affine'
    return 'from the affines of the series and registration of the images'


def series_name(entities: Mapping[str, str]) -> str:
    """Name of a series.

    >>> series_name({'sub': '01', 'acq': 'pos2'})
    'sub-01_acq-pos2'
    """
    return '_'.join(f'{key}-{value}' for key, value in entities.items())


def slow_error_of(chi: np.ndarray, mask: np.ndarray, r2star: np.ndarray | None, grid: Grid):
    """Smooth part (ppm) of susceptibility that background removal left, 0 without R2* to find it by.

    It is found as in the map of each series, see `harmonic_susceptibility`.
    """
    if r2star is None:
        return np.zeros_like(chi)
    return np.where(mask, harmonic_susceptibility(chi, mask, r2star, grid, with_uncertainty=False)[0], 0)
