"""Whatever is wrong with a cohort, its statistics say so; they neither fail nor warn."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.change import change_summary, changes
from bids_qsm.cohort.correlation import compare_correlations, correlate
from bids_qsm.cohort.model import fit_models
from bids_qsm.cohort.normative import normative
from tests.cohort.people import cohort

SMALL = {'sessions': 2, 'maps': ('chi', 'R2star'), 'hemispheres': ('L', 'both')}


def some(table):
    return table['participant_id'] < 'sub-004'


COHORTS = {
    'nobody': lambda: cohort(2, **SMALL).iloc[:0],
    'one participant': lambda: cohort(1, **SMALL),
    'one of each': lambda: cohort(2, **SMALL),
    'three': lambda: cohort(3, **SMALL),
    'infinite values': lambda: cohort(8, **SMALL).assign(mean=np.inf),
    'text for values': lambda: cohort(8, **SMALL).assign(mean='n.d.'),
    'zero everywhere': lambda: cohort(8, **SMALL).assign(mean=0.0),
    'one value alone': lambda: cohort(8, **SMALL).assign(mean=lambda t: t['mean'].where(t.index == 0)),
    'half the rows': lambda: cohort(9, **SMALL).sample(frac=0.5, random_state=0),
    'columns of categories': lambda: cohort(12, **SMALL).astype({'group': 'category', 'sex': 'category'}),
    'true and false': lambda: cohort(12, **SMALL).assign(group=lambda t: t['group'] == 'patient'),
    'nothing known': lambda: cohort(12, **SMALL).assign(age=np.nan, group=None, sex=None, score=np.nan),
    'numbers for times': lambda: cohort(12, **SMALL).assign(acq_time=3.0),
    'no coverage': lambda: cohort(12, **SMALL).assign(coverage=0.0),
    'sessions of some': lambda: cohort(12, **SMALL).assign(
        session_id=lambda t: t['session_id'].mask(some(t))
    ),
    'tiny values': lambda: cohort(12, **SMALL).assign(mean=lambda t: 1e-200 * t['mean']),
    'huge values': lambda: cohort(12, **SMALL).assign(mean=lambda t: 1e100 * t['mean']),
}


@pytest.mark.parametrize('name', COHORTS)
def test_said_and_skipped(name):
    long = COHORTS[name]()
    told = []
    if set(long['map']):
        table, residuals, notes = fit_models(long, 'chi ~ group * age + sex + session_id')
        assert np.isfinite(table['p'].to_numpy(float)).all()
        assert np.isfinite(residuals['residual'].to_numpy(float)).all()
        told += [(table, notes)]
        told += [correlate(long, 'score', covariates=['age', 'sex'], n_boot=20)]
        told += [compare_correlations(long, [('score', 'GP', 'SN')], n_boot=20)]
    change, notes = changes(long)
    told += [(change, notes)]
    summary, said = change_summary(change)
    assert len(summary) or change.empty
    assert all(said)
    if (long['group'] == 'control').any():
        told += [normative(long, controls='control')]
    for table, notes in told:
        assert isinstance(table, pd.DataFrame)
        assert all(isinstance(note, str) and note for note in notes)
        # an empty table, or one without a single result, has a reason
        assert notes or table.get('p', table.get('z', table.get('change'))).notna().any()
