"""Measure the substantia nigra: share below a threshold of susceptibility, and nigrosome-1."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Figure, Image, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.nigra import LOOKUP, columns, nigra_table
from bids_qsm.errors import UserError
from bids_qsm.plotting.nigra_charts import plot_nigra
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

CAUTION = (
    'Candidates, not a diagnosis. A threshold in ppb holds for one zero, one inversion and one voxel size '
    'only; the column per 10 ppb says what another zero would do.'
)
QUESTION = 'Is nigrosome-1 seen, and how much of the nigra has low susceptibility?'


def measure(
    chi: np.ndarray,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
    reference: str,
    *,
    threshold: float = 70.0,
) -> tuple[np.ndarray, pd.DataFrame, dict]:
    """Measure both nigrae, see `bids_qsm.biomarkers.nigra.nigra_table`; ``threshold`` is in ppb."""
    image, table = nigra_table(chi, mask, dseg, labels, grid, affine, reference, threshold=threshold)
    facts = {
        'threshold': {
            'value': threshold,
            'units': 'ppb',
            'source': "as set; 70 ppb told Parkinson's disease from controls best in one study (PMC5765262), "
            'with another inversion and zero',
        }
    }
    return image, table, facts


def check(participant: Mapping[str, object], params: Mapping[str, object]):
    """Refuse a threshold that is no number of ppb."""
    del participant
    value = params.get('threshold', 70.0)
    if not isinstance(value, int | float) or not -1000 <= value <= 1000 or abs(value) < 1:
        raise UserError(f'--nigra:threshold is {value}; it is in ppb, such as 70.')


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series, by side."""
    found = []
    for row in table.to_dict('records'):
        for column, units, error in (
            ('sn_below', '%', 'sn_below_se'),
            ('lower_below', '%', 'lower_below_se'),
            ('n1_contrast', 'ppb', 'n1_contrast_se'),
            ('n1_volume', 'mm^3', 'n1_volume_se'),
            ('n1_visible', 'n/a', None),
        ):
            found.append(
                {
                    'region': 'SN',
                    'hemisphere': row['hemisphere'],
                    'map': column,
                    'mean': row[column],
                    'se': row[error] if error else np.nan,
                    'units': units,
                    'reference': row['reference'] if units in ('%', 'ppb') else 'n/a',
                }
            )
    return pd.DataFrame(found)


def overview(table: pd.DataFrame) -> dict:
    """What the cohort's page says of all nigrae."""
    counts = table['n1_finding'].value_counts()
    listed = ', '.join(f'{finding}: {n}' for finding, n in counts.items())
    weaker = table.drop_duplicates('participant_id')['n1_weaker_side'].isin(('L', 'R')).sum()
    share = pd.to_numeric(table['lower_below'], errors='coerce')
    return {
        'question': QUESTION,
        'answers': [
            f'Nigrosome-1 of {len(table)} sides: {listed}. Weaker on one side in {weaker} participants.',
            f'Share of the nigra below the red nucleus under the threshold: median {share.median():.3g} % '
            f'(quartiles {share.quantile(0.25):.3g} to {share.quantile(0.75):.3g}).',
        ],
        'tables': [('All sides', table, CAUTION)],
    }


APPLICATION = Application(
    name='nigra',
    title='Substantia nigra and nigrosome-1',
    measure=measure,
    gives=('nigra', 'table', 'facts'),
    check=check,
    images=(
        Image('nigra', 'dseg', 'Nigra, place of nigrosome-1, and voxels that are low in it', lookup=LOOKUP),
    ),
    tables=(
        Table(
            dictionary=lambda _: data_dictionary(columns()),
            shown=(
                *('hemisphere', 'sn_mean', 'sn_below', 'lower_mean', 'lower_below', 'lower_below_se'),
                *('lower_below_per_10ppb', 'n1_contrast', 'n1_contrast_se', 'n1_volume', 'n1_visible'),
                *('n1_finding', 'n1_weaker_side', 'reason'),
            ),
            caption='Susceptibility in ppb, shares in %. ' + CAUTION,
            cohort=rows,
        ),
    ),
    figures=(
        Figure(
            'nigra',
            'Place of nigrosome-1',
            'Outlines of the nigra, of the place where nigrosome-1 is looked for, and of what is low in '
            'it, over susceptibility.',
            over='chi',
        ),
        Figure('sides', 'Nigra by side', 'Left and right, with standard errors. ' + CAUTION, draw=plot_nigra),
    ),
    overview=overview,
    method='In the substantia nigra the share of voxels below a threshold of susceptibility was taken, and '
    'nigrosome-1 was looked for as a lens of low susceptibility in its dorsal posterior part below the red '
    'nucleus.',
    memory=Need(0.1, volume=14),
)
