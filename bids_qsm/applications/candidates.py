"""Look for microbleeds and calcifications that nobody has drawn."""

import pandas as pd

from bids_qsm.applications.contract import Application, Image, Table
from bids_qsm.biomarkers.focal import KINDS, dictionary, find_candidates
from bids_qsm.biomarkers.localisation import PLACE
from bids_qsm.cohort.describe import candidate_counts
from bids_qsm.recon.registry import Need

QUESTION = 'Which focal sources of susceptibility were found?'


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: how many candidates of each kind."""
    kinds = table['kind'].value_counts() if len(table) else {}
    return pd.DataFrame(
        {'region': 'Brain', 'hemisphere': 'both', 'map': f'{kind}_count', 'mean': kinds.get(kind, 0)}
        for kind in KINDS
    ).assign(units='count')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all candidates."""
    if rows.empty:
        return {'question': QUESTION, 'answers': ['No candidate was found.']}
    kinds = ', '.join(f'{kind}: {n}' for kind, n in rows['kind'].value_counts().items())
    people = rows['participant_id'].nunique()
    caption = 'Found by the computer and not confirmed: places for a reader to look at, not a diagnosis.'
    return {
        'question': QUESTION,
        'answers': [
            f'{len(rows)} candidates in {people} participants ({kinds}), found by the computer and not '
            'confirmed.'
        ],
        'tables': [('Candidates by participant', candidate_counts(rows), caption)],
    }


APPLICATION = Application(
    name='candidates',
    title='Candidates for microbleeds and calcifications',
    measure=find_candidates,
    gives=('candidates', 'table'),
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
                'kind',
                'confidence',
                *PLACE,
                'diameter_mm',
                'chi_peak',
                'moment',
                'R2star_mean',
            ),
            caption='Found by the computer and not confirmed: places to look at, not a diagnosis.',
            cohort=counts,
        ),
    ),
    overview=overview,
    method='Candidates for microbleeds (paramagnetic) and calcifications (diamagnetic) are focal extrema of '
    'susceptibility away from vessels, the deep grey nuclei and the edge of the mask.',
    memory=Need(0.1, volume=23, anat=10),
)
