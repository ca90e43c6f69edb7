"""Bring the local fields of one head in several positions onto one grid, and B0 into its frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.register import rigid
from bids_qsm.anatomy.transform import resample, spacing_of
from bids_qsm.entities import OF_SERIES, entity_set
from bids_qsm.errors import UserError, size_text
from bids_qsm.recon.fourier import next_even_size, refined, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import harmonic_susceptibility
from bids_qsm.recon.masking.morphology import spread_out
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.orientations.operators import is_alike, passband

SAME = 3.0
"""Angle between directions of B0 (degrees) below which two positions are one."""
OVERLAP = 0.7
"""Least share of the reference's brain that another position must cover after registration."""
COARSER = 1.5
"""Largest ratio of the mean voxel sizes of two positions: their point spreads differ too much beyond it."""
AROUND = 8
"""Voxels around a mask that a field is resampled with."""
WHOLE = 0.99
"""Share of mask from which a resampled voxel has a field."""


@dataclass(frozen=True)
class Position:
    """A head position as it was measured, on its own grid.

    ``name`` is that of the series, ``field`` (ppm) the local field within ``mask``, ``magnitude`` combined
    over echoes, ``affine`` voxel to world (RAS, mm). ``b0`` is the unit vector of B0 along the axes of the
    world; with ``is_stated`` it is not that of the header, by which the field was made.
    """

    name: str
    field: np.ndarray
    mask: np.ndarray
    magnitude: np.ndarray
    affine: np.ndarray
    b0: np.ndarray
    is_stated: bool = False

    @property
    def noise(self) -> np.ndarray:
        """Standard deviation (ppm) of the field."""
        return noise_of(self.field, self.magnitude, self.mask)


@dataclass(frozen=True)
class Aligned:
    """Positions on the grid of the first.

    ``directions`` (N, 3) are unit vectors of B0 along the voxel axes of that grid, ``noises`` standard
    deviations (ppm) of the fields, ``transforms`` (N, 4, 4) take points of the first to those of each. The
    columns of ``slabs`` (3, 3) are the edges (mm) of a voxel of each position along those axes. Fields that
    are ``filtered`` have what their slab and that of the first resolve, see `passband`.
    """

    fields: list[np.ndarray]
    masks: list[np.ndarray]
    noises: list[np.ndarray]
    directions: np.ndarray
    transforms: list[np.ndarray]
    slabs: list[np.ndarray]
    filtered: list[bool]

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


def other_voxels(names: Sequence[str], sizes: Sequence[Sequence[float]]) -> dict[str, str]:
    """Series whose voxels (mm) are much larger or smaller than those of most, and why they cannot be joined.

    >>> other_voxels(['first', 'flat'], [(1, 1, 1), (1, 1, 2)])
    {}
    >>> [*other_voxels(['coarse', 'first', 'second'], [(2, 2, 2), (1, 1, 1), (1, 1, 1)])]
    ['coarse']
    """
    mean = np.cbrt(np.prod(np.asarray(sizes, float), axis=1))
    ratios = mean[:, None] / mean
    apart = np.maximum(ratios, 1 / ratios) > 1.001 * COARSER  # headers round
    kept = int(np.argmin(apart.sum(0)))
    found = {}
    for one in np.flatnonzero(apart[:, kept]).tolist():
        ratio = ratios[one, kept]
        found[names[one]] = (
            f'{names[one]} has voxels that are {np.ceil(100 * max(ratio, 1 / ratio)) / 100:.3g} times '
            f'{"larger" if ratio > 1 else "smaller"} in mean size than those of {names[kept]}, and up to '
            f'{COARSER:g} times can be joined as head positions; leave it out by --bids-filter-file.'
        )
    return found


def check_session(
    names: Sequence[str],
    sizes: Sequence[Sequence[float]],
    tables: Mapping[str, tuple[str, pd.DataFrame]],
) -> dict[str, str]:
    """Series of a session that cannot be joined with the others, and why.

    Parameters
    ----------
    names : sequence of str
        Of the series.
    sizes : sequence of (3,)
        Voxel sizes (mm) at which they are reconstructed.
    tables : dict of str to (str, DataFrame)
        Name of the file and content of that of orientations, where there is one, under 'orientations'.

    Raises
    ------
    UserError
        The table of orientations is wrong.
    """
    refused = other_voxels(names, sizes)
    if 'orientations' in tables:
        file, table = tables['orientations']
        stated_b0(table, [name for name in names if name not in refused], source=file)
    return refused


def register(moving: Position, fixed: Position, bright: np.ndarray):
    """Rigid transform (4, 4) that takes points of ``fixed`` to those of ``moving``, of their magnitudes.

    ``bright`` is the magnitude of ``fixed`` after `correct_bias`.

    Raises
    ------
    UserError
        The brains do not overlap after it.
    """
    image, _ = correct_bias(moving.magnitude, moving.affine)
    found = rigid(image, moving.affine, bright, fixed.affine, fixed.mask)
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
    if not level > 0:
        raise UserError(
            'The local field has no noise, by which voxels are weighted; check the maps of this series.'
        )
    typical = float(np.median(magnitude[mask]))
    noise = level * typical / np.maximum(magnitude, 1e-3 * typical)
    return np.where(mask, noise, 0).astype(np.float32)


def align(
    positions: Sequence[Position],
    transforms: Sequence[np.ndarray] | None = None,
    *,
    is_filtered: bool = True,
):
    """Resample positions onto the grid of the first, and turn their B0 into its frame.

    Each local field was made in its own frame. It is resampled, and kept where the resampled mask is whole.

    Parameters
    ----------
    positions : sequence of Position
    transforms : sequence of (4, 4), optional
        Take points of the first to those of each; by default from registration.
    is_filtered : bool
        Take off frequencies that the slab of a position or that of the first hardly resolve, for a model that
        counts with it (`cosmos`), and interpolate the rest by sinc. Otherwise by cubic splines.

    Returns
    -------
    Aligned
    """
    first = positions[0]
    if transforms is None:
        bright, _ = correct_bias(first.magnitude, first.affine)
        transforms = [np.eye(4), *(register(one, first, bright) for one in positions[1:])]
    axes = axes_of(first.affine)
    fields, masks, noises = [first.field * first.mask], [first.mask], [first.noise]
    directions, slabs, filtered = [], [], []
    for one, matrix in zip(positions, transforms, strict=True):
        turn = axes.T @ matrix[:3, :3].T
        directions.append(turn @ one.b0)
        slabs.append(turn @ axes_of(one.affine) * spacing_of(one.affine))
        filtered.append(is_filtered and not is_alike(slabs[0], slabs[-1]))
        if one is first:
            continue
        shape, affine = first.mask.shape, first.affine
        chain: list = [matrix]
        mask = resample(one.mask, one.affine, shape, affine, chain) > WHOLE
        if is_filtered:
            # with the slab of the first along the voxel axes of this one
            fine, place = _finer(one, (turn @ axes_of(one.affine)).T @ slabs[0])
        else:
            # splines ring at steps
            fine, place = spread_out(one.field, one.mask), one.affine
        fields.append(resample(fine, place, shape, affine, chain, order=3) * mask)
        noises.append(resample(one.noise, one.affine, shape, affine, chain) * mask)
        masks.append(mask)
    return Aligned(fields, masks, noises, np.array(directions), list(transforms), slabs, filtered)


def _finer(one: Position, slab: np.ndarray):
    """Field with what it and another ``slab`` resolve, on a grid twice as fine, and the affine of that.

    Cubic splines of the field as it was measured lose what is near the highest frequency, and fold back what
    is beyond that of the other slab: the error of noise-free COSMOS was half as large again.
    """
    (extent,) = ndimage.find_objects(one.mask.astype(np.uint8))
    low = [max(part.start - AROUND, 0) for part in extent]
    high = [part.stop + AROUND for part in extent]
    field = spread_out(one.field, one.mask)[tuple(map(slice, low, high))]
    # reflected beyond the edges, where the ends of the periodic field would meet
    sizes = [next_even_size(n + 2 * AROUND) for n in field.shape]
    pads = [(AROUND, size - n - AROUND) for n, size in zip(field.shape, sizes, strict=True)]
    field = np.pad(field, pads, mode='symmetric').astype(np.float32)
    spacing = spacing_of(one.affine)
    spectrum = rfft(field) * passband(field.shape, tuple(spacing), slab, np.diag(spacing))
    fine = refined(spectrum, field.shape)
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (np.array(low, float) - AROUND)
    affine[:3, :3] /= 2
    return fine, affine


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


def stated_b0(table: pd.DataFrame | None, names: Sequence[str], *, source: str = 'The table of orientations'):
    """Unit vectors of B0 (N, 3) that a table states for the series of a session; None where it states none.

    Files and series are compared by the entities that tell series apart: run-1 is run-01, and sub-01 is not
    sub-01_acq-tilt.

    Parameters
    ----------
    table : DataFrame, optional
        Columns file, a name of a file of a series, and x, y, z: B0 along the axes of the world (RAS) of that
        file. One whose files are all of other sessions does not count.
    names : sequence of str
        Of the series.
    source : str
        What messages call the table.

    Raises
    ------
    UserError
        A column or the row of a series is missing, a vector is none, or rows of a series differ.
    """
    if table is None:
        return None
    lost = [column for column in ('file', 'x', 'y', 'z') if column not in table]
    if lost:
        raise UserError(f'{source} has no column {lost[0]}; it must have file, x, y and z.')
    files = [_series_of(str(file)) for file in table['file']]
    sessions = {dict(one).get('ses') for one in files}
    if files and None not in sessions and dict(_series_of(names[0])).get('ses') not in (None, *sessions):
        return None
    rows = {name: [file == _series_of(name) for file in files] for name in names}
    lost = [name for name, own in rows.items() if not any(own)]
    if lost:
        raise UserError(
            f'{source} has no row for {", ".join(lost)}; add a row with a file of each of '
            'these series, or remove the table.'
        )
    values = table[['x', 'y', 'z']].apply(pd.to_numeric, errors='coerce').to_numpy(float)
    found = []
    for name, own in rows.items():
        vectors = values[own]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UserError(f'{source} states no direction of B0 for {name}; mend x, y and z there.')
        vectors = vectors / lengths
        if not np.allclose(vectors, vectors[0], atol=1e-3):
            raise UserError(f'{source} has rows for {name} that differ in B0; leave one of them.')
        found.append(vectors[0])
    return np.array(found)


def _series_of(name: str):
    """Entities of the series that a file is of, or of its name."""
    return {(key, value) for key, value in entity_set(name) if key in OF_SERIES}


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
    stated = stated_b0(table, names)
    if stated is None:
        b0 = [b0_in_world(grid, affine) for grid, affine in zip(grids, affines, strict=True)]
    else:
        b0 = list(stated)
    parts = zip(names, fields, masks, magnitudes, affines, b0, strict=True)
    return [
        Position(name, field, mask, magnitude, affine, vector, is_stated=stated is not None)
        for name, field, mask, magnitude, affine, vector in parts
    ]


def position_table(
    positions: Sequence[Position],
    aligned: Aligned,
    single: Sequence[np.ndarray],
    chi: np.ndarray,
    there: np.ndarray,
):
    """One row a position: where B0 points in the head, how the head moved, and how its maps compare.

    Parameters
    ----------
    positions, aligned
        As `align` has them.
    single : sequence of ndarray
        Susceptibility (ppm) from each position alone, on the grid of the first. Where B0 is stated it is not
        compared, as it was made by that of the header.
    chi : ndarray
        Susceptibility (ppm) from all.
    there : ndarray of bool
        Where that is given.
    """
    first = positions[0]
    rows = []
    for n, one in enumerate(positions):
        # along the axes of the scanner of the first position
        b0 = axes_of(first.affine) @ aligned.directions[n]
        matrix, mask = aligned.transforms[n], aligned.masks[n]
        centre = first.affine[:3, :3] @ ((np.array(first.mask.shape) - 1) / 2) + first.affine[:3, 3]
        start = axes_of(first.affine) @ aligned.directions[0]
        shared = mask & aligned.masks[0]
        both = shared & there
        rows.append(
            {
                'position': one.name,
                'b0_x': b0[0],
                'b0_y': b0[1],
                'b0_z': b0[2],
                'angle_deg': np.degrees(np.arccos(np.clip(abs(b0 @ start), 0, 1))),
                'shift_mm': np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre),
                'b0_from': 'table' if one.is_stated else 'scanner and registration',
                'voxel_mm': size_text(spacing_of(one.affine)),
                'same_affine': bool(np.allclose(one.affine, first.affine, atol=1e-3)),
                'filtered': aligned.filtered[n],
                'overlap': shared.sum() / aligned.masks[0].sum(),
                'noise_ppb': 1e3 * np.median(aligned.noises[n][mask]),
                'correlation': np.nan if one.is_stated else np.corrcoef(single[n][both], chi[both])[0, 1],
                'difference_ppb': np.nan if one.is_stated else 1e3 * np.std((single[n] - chi)[both]),
            }
        )
    return pd.DataFrame(rows).round(4)


def on_first(images: Sequence[np.ndarray], positions: Sequence[Position], aligned: Aligned):
    """Images of each position on the grid of the first, with the mean of the first within the mask common."""
    first = positions[0]
    found = [images[0]]
    for image, one, matrix in zip(images[1:], positions[1:], aligned.transforms[1:], strict=True):
        wide = spread_out(image, one.mask)
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


def slow_error_of(
    chi: np.ndarray, mask: np.ndarray, r2star: np.ndarray | None, grid: Grid, b0_dir: np.ndarray
):
    """Smooth part (ppm) of susceptibility that background removal left, found by R2*; 0 without that.

    It is found as in the map of each series, see `harmonic_susceptibility`, for B0 of the first position,
    ``b0_dir``: its field is harmonic there, and nearly so in positions that are turned by some degrees.
    """
    if r2star is None:
        return np.zeros_like(chi)
    grid = replace(grid, b0_dir=tuple(float(one) for one in b0_dir))
    return np.where(mask, harmonic_susceptibility(chi, mask, r2star, grid, with_uncertainty=False)[0], 0)


def said_of_slow(slow: np.ndarray, there: np.ndarray, r2star: np.ndarray | None, levelled: bool):
    """What was taken off as varying slowly, for the sidecars; no value where nothing was looked for."""
    if not levelled or r2star is None:
        why = 'the first series has no R2*' if levelled else 'nor is it from the map of the first series'
        return {'value': None, 'source': f'not taken off: {why}'}
    return {
        'value': float(slow[there].std()),
        'units': 'ppm',
        'source': 'standard deviation of what varies slowly at equal R2* of the first series, harmonic for '
        'its B0',
    }
