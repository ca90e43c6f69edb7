"""Look for superficial siderosis of the cerebral cortex: thin sheets of iron in sulci."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Figure, Image, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.siderosis import COLUMNS, NEAR_EDGE_MM, find_sheets, pattern
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

QUESTION = 'Where was superficial siderosis found?'
SUMMARY = {
    'pattern': (
        'focal (1 to 3 sulci), disseminated (4 or more), none, or not assessable; of definite sheets.',
        None,
    ),
    'sulci': ('Sulci with definite sheets.', None),
    'sulci_possible': ('Sulci with possible sheets alone.', None),
    'area_mm2': ('Area of definite sheets.', 'mm^2'),
    'searched_ml': ('Volume of the cerebral convexity in the mask, which was searched.', 'ml'),
    'edge_share': (f'Share of it within {NEAR_EDGE_MM:g} mm of the edge of the mask.', None),
    'reason': ('Why it cannot be assessed.', None),
}


def measure(
    chi: np.ndarray,
    r2star: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    affine: np.ndarray,
    to_template: list,
    *,
    chi_sd: float = 3.0,
    r2star_sd: float = 1.0,
) -> tuple:
    """Find sheets, see `bids_qsm.biomarkers.siderosis.find_sheets`."""
    found = find_sheets(chi, r2star, mask, grid, affine, to_template, chi_sd=chi_sd, r2star_sd=r2star_sd)
    table = found.table
    is_definite = table['certainty'] == 'definite'
    definite = set(table.loc[is_definite, 'sulcus'])
    is_known = found.problem is None
    row = {
        'pattern': pattern(table) if is_known else 'not assessable',
        'sulci': len(definite) if is_known else np.nan,
        'sulci_possible': len(set(table['sulcus']) - definite) if is_known else np.nan,
        'area_mm2': round(float(table.loc[is_definite, 'area_mm2'].sum()), 1) if is_known else np.nan,
        'searched_ml': round(found.searched_ml, 1),
        'edge_share': round(found.edge_share, 3),
        'reason': found.problem or 'n/a',
    }
    facts = {
        'SusceptibilitySpread': {
            'value': found.chi_spread,
            'units': 'ppm',
            'source': 'median over the convexity',
        },
        'R2starSpread': {'value': found.r2star_spread, 'units': '1/s', 'source': 'median over the convexity'},
    }
    return found.labels > 0, found.labels, pd.DataFrame([row]), table, facts


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: sulci with siderosis and its area."""
    row = table.iloc[0]
    found = [('siderosis_sulci', row['sulci'], 'count'), ('siderosis_area', row['area_mm2'], 'mm^2')]
    rows = pd.DataFrame(found, columns=['map', 'mean', 'units'])
    return rows.assign(region='Brain', hemisphere='both')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all series."""
    patterns = ', '.join(f'{kind}: {n}' for kind, n in rows['pattern'].value_counts().items())
    return {
        'question': QUESTION,
        'answers': [
            f'Series of {rows["participant_id"].nunique()} participants ({patterns}). Found by the computer '
            'and not confirmed.'
        ],
    }


APPLICATION = Application(
    name='siderosis',
    title='Superficial siderosis',
    measure=measure,
    gives=('siderosis', 'sheets', 'table', 'sheetlist', 'facts'),
    images=(
        Image(
            'siderosis',
            'mask',
            'Definite and possible sheets of iron on the cortex',
            desc='',
            entities=(('label', 'siderosis'),),
        ),
        Image('sheets', 'dseg', 'Sheets of iron on the cortex, numbered as in their table', desc='siderosis'),
    ),
    tables=(
        Table(
            dictionary=lambda _: data_dictionary(SUMMARY),
            caption='Found by the computer and not confirmed: places to look at, not a diagnosis.',
            cohort=counts,
        ),
        Table(
            'sheetlist',
            title='Sheets of siderosis',
            dictionary=lambda _: data_dictionary(COLUMNS),
            shown=(
                *('piece', 'sulcus', 'certainty', 'side', 'lobe', 'x', 'y', 'z', 'area_mm2'),
                *('contrast_ppm', 'R2star_contrast', 'sheetness'),
            ),
            caption='One row a sheet. Long narrow ones may be veins.',
        ),
    ),
    figures=(
        Figure(
            'sheets',
            'Superficial siderosis',
            'Outlines of sheets over the susceptibility-weighted image or, without it, the magnitude or a '
            'map.',
            over='swi',
        ),
    ),
    overview=overview,
    method='Superficial siderosis was looked for as sheets of high susceptibility and R2* on the cerebral '
    'convexity, told from veins by the Hessian of susceptibility.',
    memory=Need(0.2, volume=30, anat=10),
)
