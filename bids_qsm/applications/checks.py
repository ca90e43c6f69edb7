"""Check acquisition, images and processing against the ISMRM consensus, and fill in its report."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Document, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.consensus import CHECKS, COLUMNS, counts, judge
from bids_qsm.biomarkers.consensus.check import STATES, Facts
from bids_qsm.biomarkers.consensus.measure import found_numbers, measure_images
from bids_qsm.biomarkers.consensus.reporting import COLUMNS as REPORTED
from bids_qsm.biomarkers.consensus.reporting import checklist, paragraph
from bids_qsm.cohort.tables import series_columns
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

IN_SENTENCES = 'In sentences, ready to paste'


def measure(
    echoes: np.ndarray,
    phase: np.ndarray,
    chi: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    affine: np.ndarray,
    echo_times: Sequence[float],
    field_strength: float,
    reference: str,
    sidecar: Mapping[str, object],
    methods: Mapping[str, str],
    conditioning: Sequence[Mapping],
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Judge a series, see `bids_qsm.biomarkers.consensus.judge`, and fill in the checklist."""
    of_brain = {'brain_mean_ppm': float(chi[mask].mean()), 'brain_sd_ppm': float(chi[mask].std())}
    facts = Facts(
        sidecar=sidecar,
        echo_times=tuple(echo_times),
        field_strength=field_strength,
        shape=grid.shape,
        voxel_size=grid.voxel_size,
        b0_dir=grid.b0_dir,
        numbers={
            **found_numbers(conditioning),
            **measure_images(echoes, phase, echo_times, grid, affine, mask),
            **of_brain,
        },
        methods={**methods, 'found_reference': reference},
    )
    table, listed = judge(facts), checklist(facts)
    text = paragraph(listed)
    document = {
        'Description': 'Checks against the consensus on QSM (doi:10.1002/mrm.30006), and its reporting list.',
        'States': counts(table),
        'Checks': {row['check']: row['state'] for row in table.to_dict('records')},
        'Reporting': {
            part: {row['item']: None if row['value'] == 'n/a' else row['value'] for row in rows}
            for part, rows in (
                (name, one.to_dict('records')) for name, one in listed.groupby('part', sort=False)
            )
        },
        'MinimumReport': text,
        'Numbers': dict(facts.numbers),
    }
    last = {'item': IN_SENTENCES, 'value': text, 'needed': 'essential', 'part': 'all'}
    return table, pd.concat([listed, pd.DataFrame([last])], ignore_index=True), document


def compliance(rows: pd.DataFrame) -> pd.DataFrame:
    """Check by state: number of series, and which fail; those that fail most often first."""
    names = series_columns(rows)
    labels = rows[names].apply(lambda row: '_'.join(str(one) for one in row.dropna()), axis=1)
    found = []
    for check, part in rows.assign(series=labels).groupby('check', sort=False):
        failing = part.loc[part['state'] == 'fail', 'series'].tolist()
        found.append({'check': check, **counts(part), 'severity': part['severity'].iloc[0]})
        found[-1]['fails in'] = ', '.join(failing[:12]) + (
            f' and {len(failing) - 12} more' if failing[12:] else ''
        )
    table = pd.DataFrame(found)
    place = table['check'].map({name: i for i, name in enumerate(CHECKS)})
    order = table.assign(place=place).sort_values(['fail', 'warn', 'place'], ascending=[False, False, True])
    return order.drop(columns='place').reset_index(drop=True)


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all series."""
    table = compliance(rows)
    n = len(rows[series_columns(rows)].drop_duplicates())
    total = ', '.join(f'{state}: {int(table[state].sum())}' for state in STATES)
    high = table[(table['fail'] > 0) & (table['severity'] == 'high')]['check'].tolist()
    answers = [f'{len(table)} checks of {n} series ({total}).']
    if high:
        answers.append(f'Fails of high severity, where susceptibility may be wrong: {", ".join(high)}.')
    caption = 'Number of series in each state. A check is unknown where neither sidecar nor images tell it.'
    return {
        'question': 'Do acquisition, images and processing follow the consensus on QSM?',
        'answers': answers,
        'tables': [('Compliance', table, caption)],
    }


APPLICATION = Application(
    name='checks',
    title='Consensus checks',
    measure=measure,
    gives=('table', 'reporting', 'checklist'),
    tables=(
        Table(
            title='Consensus checks',
            entities=(('desc', 'consensus'),),
            dictionary=lambda _: data_dictionary(COLUMNS),
            shown=('state', 'severity', 'title', 'value', 'threshold', 'advice', 'source'),
            caption='Fails and warnings first. Severity says what a broken rule means: high, susceptibility '
            'may be wrong; medium, it is less accurate; low, it is harder to compare or to report.',
        ),
        Table(
            'reporting',
            title='Reporting checklist',
            dictionary=lambda _: data_dictionary(REPORTED),
            caption='What the consensus asks to report. n/a: not known here, to be added by hand.',
        ),
    ),
    fewest_echoes=1,
    documents=(Document('checklist', desc='reporting'),),
    overview=overview,
    method='Acquisition, images and processing were checked against the consensus on QSM [@consensus].',
    memory=Need(0.3, volume=24, echoes=6),
)
