"""Look for the eye of the tiger in the pallidum: a core of low susceptibility inside a ring of high one."""

import numpy as np
import pandas as pd

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.applications.contract import Application, Column, Figure, Image, Table
from bids_qsm.biomarkers.nigra_frame import nucleus_voxels
from bids_qsm.biomarkers.pallidum import Eye, find_eye, profile
from bids_qsm.plotting.nigra_charts import plot_profiles
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

CAUTION = (
    'A figure of shape, not a diagnosis: the sign occurs in other diseases and is missing in some patients '
    'with PKAN.'
)
COLUMNS = (
    Column('hemisphere', 'L or R.'),
    Column('contrast', 'Susceptibility of the ring less that of the core.', 'ppb'),
    Column(
        'contrast_se', 'Its standard error: scatter of the smoothed map in the rest of the pallidum.', 'ppb'
    ),
    Column('ring', 'Susceptibility of the ring less that of the tissue around the pallidum.', 'ppb'),
    Column('enclosed', 'Share of directions from the core in which the ring is met.', 'fraction'),
    Column('score', 'Share of the susceptibility of the ring that the core lacks, times enclosed: 0 to 1.'),
    Column('score_se', 'Its standard error.'),
    Column(
        'core_volume', 'Volume below the middle between core and ring; of no meaning without a core.', 'mm^3'
    ),
    Column('core_length', 'Length of the ellipsoid of the same spread.', 'mm'),
    Column('core_r2star', 'R2* of the ring less that of the core, over that of the ring.', 'fraction'),
    Column(
        'finding',
        'core inside a ring; no core inside a ring; low band through the pallidum; diamagnetic core, as of '
        'calcium; core whose R2* is not lower, as of calcium; not assessable.',
    ),
    Column('reason', 'Why it was not assessed.'),
)


def measure(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Measure the pallidum of both sides, see `bids_qsm.biomarkers.pallidum.find_eye`."""
    eyes = {side: find_eye(chi, r2star, dseg, labels, mask, grid, affine, side) for side in 'LR'}
    image = np.zeros(dseg.shape, np.int32)
    for side, eye in eyes.items():
        image[nucleus_voxels(dseg, labels, 'GP', side, spacing_of(affine))] = 1
        if eye.core is not None and eye.finding not in (
            'no core inside a ring',
            'low band through the pallidum',
            'not assessable',
        ):
            image[tuple(eye.core.T)] = 2
    return image, pd.DataFrame([_row(eye) for eye in eyes.values()]), profile(chi, affine, eyes)


def _row(eye: Eye) -> dict:
    numbers = {
        'contrast': 1e3 * eye.contrast,
        'contrast_se': 1e3 * eye.contrast_se,
        'ring': 1e3 * eye.ring,
        'enclosed': eye.enclosed,
        'score': eye.score,
        'score_se': eye.score_se,
        'core_volume': eye.volume,
        'core_length': eye.length,
        'core_r2star': eye.r2star,
    }
    rounded = {name: float(f'{value:.5g}') for name, value in numbers.items()}
    return {'hemisphere': eye.side, **rounded, 'finding': eye.finding, 'reason': eye.reason or 'n/a'}


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series, by side."""
    found = []
    for row in table.to_dict('records'):
        for name, column, units, error in (
            ('tiger_score', 'score', 'n/a', 'score_se'),
            ('tiger_contrast', 'contrast', 'ppb', 'contrast_se'),
        ):
            cells = {'mean': row[column], 'se': row[error], 'units': units}
            found.append({'region': 'GP', 'hemisphere': row['hemisphere'], 'map': name, **cells})
    return pd.DataFrame(found)


def overview(table: pd.DataFrame) -> dict:
    """What the cohort's page says of all pallida."""
    listed = ', '.join(f'{finding}: {n}' for finding, n in table['finding'].value_counts().items())
    return {
        'question': 'Which pallida have a core of low susceptibility inside a ring of high one?',
        'answers': [f'{len(table)} sides: {listed}.'],
        'tables': [('All sides', table, CAUTION)],
    }


APPLICATION = Application(
    name='pallidum',
    title='Pallidum: core and ring',
    measure=measure,
    gives=('pallidum', 'table', 'pallidumprofile'),
    images=(Image('pallidum', 'dseg', 'Pallidum and the core in it', lookup=((1, 'pallidum'), (2, 'core'))),),
    tables=(
        Table(columns=COLUMNS, caption='Susceptibility in ppb. ' + CAUTION, cohort=rows),
        Table(
            'pallidumprofile',
            suffix='profile',
            columns=(
                Column('hemisphere', 'L or R.'),
                Column('distance_mm', 'From the middle of the core, positive to the side.', 'mm'),
                Column('chi', 'Susceptibility.', 'ppm'),
            ),
        ),
    ),
    figures=(
        Figure(
            'pallidum',
            'Pallidum',
            'Outlines of the pallidum and of a core in it, over the magnitude.',
            over='magnitude',
        ),
        Figure(
            'profile',
            'Profile through the pallidum',
            'Susceptibility from left to right through the lowest point inside each pallidum. A core in a '
            'ring shows as a dip between two peaks. ' + CAUTION,
            draw=plot_profiles,
            table='pallidumprofile',
        ),
    ),
    overview=overview,
    method='In the pallidum a core of low susceptibility inside a ring of high one was looked for.',
    memory=Need(0.1, volume=12),
)
