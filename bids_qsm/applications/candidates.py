"""Look for microbleeds and calcifications that nobody has drawn."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Figure, Image, Table
from bids_qsm.biomarkers.focal import find_candidates
from bids_qsm.biomarkers.focal_columns import dictionary
from bids_qsm.biomarkers.localisation import PLACE
from bids_qsm.biomarkers.mars import GROUPS, mars_dictionary
from bids_qsm.cohort.describe import candidate_counts
from bids_qsm.derivatives.products import LOOKS
from bids_qsm.plotting.montage import plot_candidates
from bids_qsm.recon.registry import Need

QUESTION = 'Which focal sources of susceptibility were found?'
CAUTION = 'Found by the computer and not confirmed: places for a reader to look at, not a diagnosis.'
COUNTED = ('microbleed', 'calcification', 'large focus')
PARTS = ('lobar', 'deep', 'infratentorial')


def draw(
    table: pd.DataFrame,
    magnitude: np.ndarray | None,
    swi: np.ndarray | None,
    localfield: np.ndarray | None,
    chi: np.ndarray,
    affine: np.ndarray,
) -> bytes:
    """Show each candidate in the maps that the series has, see `plot_candidates`."""
    maps = {'magnitude': magnitude, 'swi': swi, 'localfield': localfield, 'chi': chi}
    there = {name: one for name, one in maps.items() if one is not None}
    return plot_candidates(table, there, affine, looks=LOOKS)


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: candidates of each class in the brain, microbleeds by part of it."""
    rows = [('Brain', one.replace(' ', '_'), (table['class'] == one).sum()) for one in COUNTED]
    bleeds = table.loc[table['class'] == 'microbleed', 'mars_region']
    # where lobes are not told, a count of 0 would be wrong
    if not len(bleeds) or bleeds.isin(GROUPS).all():
        parts = bleeds.map(GROUPS)
        rows += [(part.capitalize(), 'microbleed', (parts == part).sum()) for part in PARTS]
    return pd.DataFrame(
        [
            {'region': region, 'hemisphere': 'both', 'map': f'{what}_count', 'mean': int(number)}
            for region, what, number in rows
        ]
    ).assign(units='count')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all candidates."""
    if rows.empty:
        return {'question': QUESTION, 'answers': ['No candidate was found.']}
    classes = ', '.join(f'{one}: {n}' for one, n in rows['class'].value_counts().items())
    people = rows['participant_id'].nunique()
    table = candidate_counts(rows)
    patterns = ', '.join(f'{one}: {n}' for one, n in table['microbleeds'].value_counts().items())
    return {
        'question': QUESTION,
        'answers': [
            f'{len(rows)} candidates in {people} participants ({classes}), found by the computer and not '
            'confirmed.',
            f'Pattern of microbleeds by series with candidates: {patterns}.',
        ],
        'tables': [('Candidates by participant', table, CAUTION)],
    }


APPLICATION = Application(
    name='candidates',
    title='Candidates for microbleeds and calcifications',
    measure=find_candidates,
    gives=('candidates', 'table', 'mars'),
    images=(
        Image(
            'candidates',
            suffix='dseg',
            about='Candidates for microbleeds and calcifications, numbered as in their table',
        ),
    ),
    tables=(
        Table(
            entities=(('label', 'candidate'),),
            dictionary=lambda _: dictionary(),
            shown=(
                'candidate',
                'class',
                'certainty',
                'confidence',
                *PLACE,
                'mars_region',
                'side',
                'diameter_mm',
                'moment',
                'moment_se',
                'chi_peak',
                'R2star_mean',
                'reason',
            ),
            caption=CAUTION,
            cohort=counts,
        ),
        Table(
            'mars',
            title='Microbleeds by region',
            dictionary=lambda _: mars_dictionary(),
            caption='Regions of the Microbleed Anatomical Rating Scale, approximate. ' + CAUTION,
        ),
    ),
    figures=(
        Figure(
            'montage',
            'Candidates',
            'Each candidate, its class, and its net dipole moment m with the standard error. Paramagnetic '
            'sources (bleeds) have m above 0, calcium below. ' + CAUTION,
            draw=draw,
            picture=True,
            takes=('magnitude', 'swi', 'localfield', 'chi', 'affine'),
        ),
    ),
    overview=overview,
    method='Candidates for microbleeds (paramagnetic) and calcifications (diamagnetic) are focal extrema of '
    'susceptibility, of R2* or of signal loss. The sign is that of their net dipole moment, fitted in the '
    'field around them.',
    memory=Need(0.1, volume=36, anat=10),
)
