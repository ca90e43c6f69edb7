import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_qsm.cohort.normative import COLUMNS, dictionary, normative
from bids_qsm.errors import UserError
from tests.cohort.people import cohort


@pytest.fixture(scope='module')
def long():
    return cohort(80, effect=0.05)


def of(table, region='GP'):
    return table[table['region'] == region].set_index('participant_id')


def test_patients_stand_out_and_controls_do_not(long):
    table, notes = normative(long, controls='control')
    assert list(table) == COLUMNS
    assert not notes
    gp, sn = of(table), of(table, 'SN')
    assert gp.loc[~gp['is_control'], 'z'].mean() == pytest.approx(0.05 / 0.0112, rel=0.15)
    for rows in (gp[gp['is_control']], sn):
        assert abs(rows['z'].mean()) < 0.4
        assert 0.75 < rows['z'].std() < 1.25
    np.testing.assert_allclose(table['percentile'], 100 * stats.norm.cdf(table['z']))
    t = (table['value'] - table['expected']) / table['sd']
    np.testing.assert_allclose(stats.norm.cdf(table['z']), stats.t.cdf(t, table['dof']), atol=1e-9)
    assert set(gp.loc[gp['is_control'], 'n_controls']) == {39}
    assert set(gp.loc[~gp['is_control'], 'n_controls']) == {40}


def test_a_control_does_not_influence_its_own_score(long):
    before = of(normative(long, controls='control')[0])
    extreme = long.assign(mean=long['mean'] + 0.5 * (long['participant_id'] == 'sub-004'))
    after = of(normative(extreme, controls='control')[0])
    columns = ['expected', 'sd']
    np.testing.assert_allclose(*(t.loc['sub-004', columns].astype(float) for t in (before, after)), rtol=1e-5)
    assert after.loc['sub-004', 'z'] > 7
    assert after.loc['sub-002', 'sd'] > 2 * before.loc['sub-002', 'sd']


def test_women_are_compared_with_women_where_enough_are_known(long):
    """A difference between the sexes leaves z as it is, whoever lacks a sex, and counts with few of one."""
    apart = long.assign(mean=long['mean'] + 0.03 * (long['sex'] == 'F'))
    before, after = (of(normative(one, controls='control')[0]) for one in (long, apart))
    np.testing.assert_allclose(after['z'], before['z'], atol=1e-6)
    few = long['sex'].where(long['participant_id'] < 'sub-004', 'M')
    mixed = of(normative(apart.assign(sex=few), controls='control')[0])
    assert mixed['sd'].mean() > 1.2 * after['sd'].mean()
    unknown = long['sex'].where(long['participant_id'] != 'sub-001')
    lacking = of(normative(apart.assign(sex=unknown), controls='control')[0])
    shift = lacking['expected'] - after['expected']
    assert abs(shift['sub-001']) == pytest.approx(0.015, abs=0.006)
    np.testing.assert_allclose(shift.drop('sub-001'), 0, atol=1e-9)


def test_sessions_are_scored_one_by_one_against_first_ones():
    long = cohort(40, sessions=2)
    long['acq_time'] = long['session_id'].map({'ses-1': '2020-01-01', 'ses-2': '2022-01-01'})
    table, notes = normative(long, controls=['control'])
    assert len(table) == 40 * 2 * 3
    assert any('age is that of the first session' in note for note in notes)
    age = of(table).pivot(columns='session_id', values='age')
    np.testing.assert_allclose(age['ses-2'] - age['ses-1'], 731 / 365.25)
    assert of(table)['n_controls'].max() == 20
    # a control's second session is not compared with its own first
    high = long.assign(mean=long['mean'] + (long['participant_id'] == 'sub-000'))
    own = of(normative(high, controls='control')[0]).loc['sub-000', 'expected']
    np.testing.assert_allclose(own, of(table).loc['sub-000', 'expected'], rtol=1e-5)


def test_without_an_age_there_is_one_mean():
    table, notes = normative(cohort(20).drop(columns=['age', 'sex']), controls='control')
    gp = of(table)
    controls = gp.loc[gp['is_control'], 'value']
    patient = gp.loc['sub-001']
    np.testing.assert_allclose(patient['expected'], controls.mean())
    np.testing.assert_allclose(patient['sd'], controls.std() * np.sqrt(1 + 1 / 10))
    assert 'no column age' in notes[0]


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            {'age': lambda t: t['age'].where(t['participant_id'] != 'sub-001')},
            'No z-score for sub-001: no age',
        ),
        ({'age': lambda t: t['age'].astype(object).where(t['participant_id'] != 'sub-001', 'old')}, r'(old)'),
        ({'age': 'grown-up'}, 'holds no numbers'),
        ({'mean': 0.1}, 'do not vary'),
        ({'mean': np.nan}, ''),
        ({'mean': lambda t: t['mean'].where(t['participant_id'] > 'sub-030')}, 'too few controls'),
        ({'age': lambda t: t['age'].where(t['group'] != 'control', 30.0)}, ''),
        (
            {'group': lambda t: t['group'].where(t['participant_id'] > 'sub-034', 'patient')},
            'too few controls',
        ),
    ],
)
def test_what_cannot_be_scored_is_said(change, said):
    table, notes = normative(cohort(40).assign(**change), controls='control')
    assert said in ' '.join(notes)
    assert list(table) == COLUMNS
    missing = table['z'].isna()
    assert (table.loc[missing, 'note'] != '').all()


def test_ages_beyond_the_controls_are_said():
    long = cohort(40)
    long['age'] = long['age'].where(long['participant_id'] != 'sub-001', 95.0)
    row = of(normative(long, controls='control')[0]).loc['sub-001']
    assert 'outside' in row['note']
    assert row['sd'] > of(normative(long, controls='control')[0])['sd'].median()


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'controls': 'healthy'}, "group 'healthy'; there are control, patient"),
        ({'controls': 'control', 'group_column': 'diagnosis'}, "no column 'diagnosis'"),
    ],
)
def test_user_errors(long, options, said):
    with pytest.raises(UserError, match=said):
        normative(long, **options)


def test_every_column_is_described():
    assert set(dictionary()) == set(COLUMNS)


def test_an_age_that_is_stated_later_is_not_added_to_twice():
    long = cohort(40, sessions=2).assign(
        acq_time=lambda t: t['session_id'].map({'ses-1': '2020-01-01', 'ses-2': '2022-01-01'})
    )
    first = long['session_id'] == 'ses-1'
    late = long.assign(age=long['age'].mask(first & (long['participant_id'] == 'sub-001')))
    table, notes = normative(late, controls='control')
    age = of(table).pivot(columns='session_id', values='age').loc['sub-001']
    stated = long.loc[long['participant_id'] == 'sub-001', 'age'].iloc[0]
    np.testing.assert_allclose(age, [stated - 731 / 365.25, stated])
    assert any('sub-001 was counted from another session' in note for note in notes)


def test_acquisitions_that_are_averaged_are_said():
    both = pd.concat([cohort(20).assign(acquisition=a) for a in 'ab'], ignore_index=True)
    assert any('acquisition (a, b)' in note for note in normative(both, controls='control')[1])
