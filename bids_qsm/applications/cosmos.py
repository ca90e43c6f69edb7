"""Susceptibility from several head positions of a session (COSMOS)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.positions import (
    SAME,
    align,
    check_session,
    distinct,
    on_first,
    position_table,
    positions_of,
    said_of_rotation,
    said_of_slow,
    slow_error_of,
)
from bids_qsm.entities import join_entities
from bids_qsm.errors import UserError
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.orientation_charts import plot_coverage, plot_singles
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.conditioning import GOOD, Conditioning, conditioning
from bids_qsm.recon.orientations.cosmos import Determined, cosmos, determined
from bids_qsm.recon.registry import Need, is_within

POSITIONS = (
    Column('position', 'Series.'),
    Column(
        'b0_x',
        'Direction of B0 in the head, along the axes of the scanner of the first series, to the right.',
    ),
    Column('b0_y', 'The same, to the front.'),
    Column('b0_z', 'The same, up.'),
    Column('angle_deg', 'Angle between it and that of the first series.', 'deg'),
    Column('shift_mm', 'How far the middle of the image moved.', 'mm'),
    Column('b0_from', 'Where the direction of B0 comes from.'),
    Column('voxel_mm', 'Voxel size along the axes of its own grid.', 'mm'),
    Column('same_affine', 'Whether the affine is that of the first series.'),
    Column(
        'filtered',
        'Whether frequencies near the highest were taken off, as its voxels are not those of the first '
        'series (turned by 3 degrees or more, or of another size by more than 5 %).',
    ),
    Column('overlap', 'Share of the mask of the first series that this one covers.'),
    Column('noise_ppb', 'Noise of the local field.', 'ppb'),
    Column(
        'correlation',
        'Correlation of susceptibility from this position alone with that from all; none where a table '
        'states B0.',
    ),
    Column('difference_ppb', 'Standard deviation of their difference.', 'ppb'),
)
"""Columns of the table of positions."""
ORIENTATIONS = Query(
    'orientations',
    'table of orientations',
    ('orientations',),
    datatype='',
    extension='.tsv',
    outside_bids=True,
)
"""Where B0 points in each file, when headers do not say it."""


def measure(
    localfield: list[np.ndarray],
    mask: list[np.ndarray],
    magnitude: list[np.ndarray],
    chi: list[np.ndarray],
    affine: list[np.ndarray],
    grid: list[Grid],
    entities: list[dict[str, str]],
    dseg: list[np.ndarray],
    labels: list[pd.DataFrame],
    r2star: list[np.ndarray | None],
    levelled: list[bool],
    orientations: list[pd.DataFrame | None],
    *,
    limit: float = GOOD,
):
    """Register positions and invert them together, see `bids_qsm.recon.orientations.cosmos`.

    Parameters
    ----------
    limit : float
        Root mean square of the dipole kernel below which a spatial frequency is regularised. Where slabs
        differ and not all positions measure a frequency, it is no less than .1 times the share of the others
        that do not.
    """
    names = [join_entities(one.items()) for one in entities]
    positions = positions_of(names, localfield, mask, magnitude, affine, grid, orientations[0])
    aligned = align(positions)
    refuse(names, aligned.directions)
    found = conditioning(aligned.directions)
    of_slabs = determined(aligned.directions, grid[0], slabs=aligned.slabs, limit=limit)
    susceptibility, sd, excess = cosmos(
        aligned.fields,
        aligned.masks,
        aligned.noises,
        aligned.directions,
        grid[0],
        slabs=aligned.slabs,
        limit=limit,
    )
    there = sd > 0
    rates = r2star[0] if levelled[0] else None
    slow = slow_error_of(susceptibility, there, rates, grid[0], aligned.directions[0])
    susceptibility -= slow
    single = on_first(chi, positions, aligned)
    where = mask[0] & there
    zero = chi[0][where].mean() - susceptibility[where].mean()
    susceptibility = np.where(there, susceptibility + zero, 0)
    listed = position_table(positions, aligned, single, susceptibility, there)
    if positions[0].is_stated:
        # made by B0 of the header, they say nothing of the positions
        single = [np.full_like(one, np.nan) for one in single]
    rows, own = _tables(names, single, aligned.masks, susceptibility, sd, where, dseg[0], labels[0])
    facts = facts_of(found, of_slabs, listed, limit)
    facts['excess'] = {
        'value': float(np.median(excess[where])),
        'source': 'median of residuals of the fields over their noise: 1 where positions agree but for noise',
    }
    facts['slow_variation_removed'] = said_of_slow(slow, there, r2star[0], levelled[0])
    return susceptibility.astype(np.float32), sd, rows, listed, own, facts


def check(participant: Mapping, params: Mapping):
    """Raise UserError where a parameter cannot be used."""
    del participant
    limit = params.get('limit', GOOD)
    if not is_within(limit, 0, 0.5):
        raise UserError(f'--cosmos:limit is {limit!r}; it must be a number from 0 to 0.5.')


def refuse(names: list[str], directions: np.ndarray):
    """Raise UserError where the head has one position in all series."""
    if distinct(directions) < 2:
        raise UserError(
            f'{names[0]} and the {len(names) - 1} other series of the session have the head in one position, '
            f'within {SAME:g} degrees; scan it in others or, if the images were aligned beforehand, state B0 '
            'of each in a table sub-<label>_orientations.tsv (file, x, y, z).'
        )


def facts_of(found: Conditioning, of_slabs: Determined, listed: pd.DataFrame, limit: float):
    """How well positions and their slabs are conditioned, for the sidecars."""
    if found.coverage < limit:
        said = f'below {limit:g} spatial frequencies are drawn to zero'
    elif of_slabs.regularised:
        said = f'at or above {limit:g}; frequencies that are filtered in some positions are drawn to zero'
    else:
        said = f'at or above {limit:g}, so that nothing is regularised but the mean'
    return {
        'positions': {'value': len(listed), 'source': ', '.join(listed['position'])},
        'rotation': {'value': said_of_rotation(listed)},
        'limit': {
            'value': limit,
            'source': 'root mean square of the dipole kernel below which spatial frequencies are regularised',
        },
        'coverage': {
            'value': found.coverage,
            'source': f'least root mean square of the dipole kernel over positions; {said}',
        },
        'regularised': {
            'value': of_slabs.regularised,
            'source': 'share of spatial frequencies that are drawn to zero, of all but the mean',
        },
        'first_alone': {
            'value': of_slabs.alone,
            'source': 'share of spatial frequencies that come from the first series alone, as others are '
            'filtered there',
        },
        'noise_gain': {
            'value': of_slabs.noise_gain,
            'source': 'standard deviation of susceptibility over that of the field of one position, with '
            'what is filtered and regularised',
        },
    }


def _tables(
    names: list[str],
    single: list[np.ndarray],
    masks: list[np.ndarray],
    chi: np.ndarray,
    sd: np.ndarray,
    where: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
):
    """Tidy rows by region, and rows by region and position."""
    rows, own = [], []
    count = np.sum(masks, axis=0)
    average = np.sum(single, axis=0) / np.maximum(count, 1)
    for name, side, region in regions_of(where, dseg, labels):
        there = region.any()
        place = {'region': name, 'hemisphere': side}
        means = [
            float(image[region & inside].mean()) if (region & inside).any() else np.nan
            for image, inside in zip(single, masks, strict=True)
        ]
        mean = float(chi[region].mean()) if there else np.nan
        of_voxel = float(sd[region].mean()) if there else np.nan
        known = [one for one in means if np.isfinite(one)]
        spread = float(np.std(known, ddof=1)) if len(known) > 1 else np.nan
        common = {**place, 'n_voxels': int(region.sum()), 'units': 'ppm', 'spread': spread}
        rows.append(
            {
                **common,
                'map': 'chi_cosmos',
                'mean': mean,
                'sd': float(chi[region].std()) if there else np.nan,
                'se': np.nan,
                'voxel_sd': of_voxel,
            }
        )
        if known:
            rows.append(
                {
                    **common,
                    'map': 'chi_single',
                    'mean': float(np.mean(known)),
                    'sd': float(average[region].std()),
                    'se': spread / len(known) ** 0.5,
                    'voxel_sd': np.nan,
                }
            )
        own += [
            {**place, 'position': series, 'chi_single': one, 'chi_cosmos': mean, 'cosmos_sd': of_voxel}
            for series, one in zip(names, means, strict=True)
        ]
    columns = ['region', 'hemisphere', 'n_voxels', 'map', 'mean', 'sd', 'se', 'units', 'spread', 'voxel_sd']
    return pd.DataFrame(rows)[columns].round(6), pd.DataFrame(own).round(6)


APPLICATION = Application(
    name='cosmos',
    title='Susceptibility from several head positions',
    measure=measure,
    gives=('cosmos', 'cosmossd', 'table', 'cosmospositions', 'cosmosregions', 'facts'),
    extra=(ORIENTATIONS,),
    images=(
        Image(
            'cosmos',
            'Chimap',
            'Susceptibility from all head positions of the session',
            'ppm',
            look=Look('Susceptibility (COSMOS)', 'ppm', window=(-0.1, 0.2)),
        ),
        Image(
            'cosmossd',
            'Chisdmap',
            'Its standard deviation',
            'ppm',
            desc='cosmos',
            look=Look('Standard deviation (COSMOS)', 'ppm', 'viridis', (0.0, 0.02)),
        ),
    ),
    tables=(
        Table(
            maps=(
                Column('chi_cosmos', 'susceptibility from all head positions', 'ppm'),
                Column(
                    'chi_single',
                    'mean over positions of susceptibility from each alone; not made where a table states B0',
                    'ppm',
                ),
            ),
            columns=(
                Column(
                    'se',
                    'Standard error of the mean of chi_single over positions: spread over the root of their '
                    'number. n/a for chi_cosmos, as errors of its voxels depend on each other, see voxel_sd.',
                    'ppm',
                ),
                Column(
                    'spread', 'Standard deviation over positions of susceptibility from each alone.', 'ppm'
                ),
                Column(
                    'voxel_sd',
                    'Of chi_cosmos: standard deviation of the error of a voxel, its mean over the region.',
                    'ppm',
                ),
            ),
            caption='All have the mean of susceptibility of the first series over its mask. Where white '
            'matter is anisotropic, susceptibility from one position depends on that, and COSMOS is an '
            'average.',
            cohort='tidy',
        ),
        Table(
            'cosmospositions',
            title='Head positions',
            columns=POSITIONS,
            shown=(
                'position',
                'angle_deg',
                'shift_mm',
                'b0_from',
                'noise_ppb',
                'correlation',
                'difference_ppb',
            ),
            caption='The turn of the head comes from registration of the magnitudes; B0 of the scanner is '
            'turned by it.',
        ),
        Table(
            'cosmosregions',
            title='Regions from each position alone',
            columns=(
                Column('region', 'Region of the atlas.'),
                Column('hemisphere', 'L, R or both.'),
                Column('position', 'Series.'),
                Column(
                    'chi_single',
                    'Mean susceptibility from this position alone; none where a table states B0.',
                    'ppm',
                ),
                Column('chi_cosmos', 'The same from all positions.', 'ppm'),
                Column(
                    'cosmos_sd',
                    'Standard deviation of the error of a voxel, its mean over the region.',
                    'ppm',
                ),
            ),
        ),
    ),
    figures=(
        Figure(
            'cosmoscoverage',
            'What the head positions measure',
            'Half of the sphere of spatial frequencies seen from B0 of the first position. Dark directions '
            'are hardly measured in any position. White line: below it frequencies are regularised.',
            draw=plot_coverage,
            table='cosmospositions',
            takes=('facts',),
        ),
        Figure('cosmos', 'COSMOS', 'Susceptibility from all head positions, in ppm.'),
        Figure(
            'cosmossingles',
            'Regions from all positions and from each alone',
            'Diamonds: COSMOS with the error of a voxel. Points: susceptibility from one position.',
            draw=plot_singles,
            table='cosmosregions',
        ),
    ),
    scope='subject',
    fewest_series=2,
    check=check,
    check_session=check_session,
    method='Local fields of the head positions of a session were aligned rigidly by their magnitudes and '
    'inverted together by least squares (COSMOS) [@cosmos], with B0 turned into the frame of the first '
    'series. Where voxels of a series were not those of the first, spatial frequencies near the highest of '
    'either were filtered from its field, and from its model alike.',
    # for two positions, of which the resampling of one takes most; of twelve it is twice what they take
    memory=Need(0.1, volume=18, padded=10),
)
