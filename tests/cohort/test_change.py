import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bids_qsm.cohort.change import COLUMNS, SUMMARY, change_summary, changes, dictionary
from bids_qsm.cohort.tables import PROTOCOL
from tests.cohort.people import cohort

TIMES = {'ses-1': '2020-01-01T08:00:00', 'ses-2': '2022-01-01T08:00:00', 'ses-3': '2023-01-01T08:00:00'}


def followed(**options):
    long = cohort(8, **{'sessions': 2} | options)
    return long.assign(acq_time=long['session_id'].map(TIMES))


def test_change_of_each_participant():
    long = followed()
    table, notes = changes(long)
    assert list(table) == COLUMNS
    assert len(table) == 8 * 3
    row = table[(table['participant_id'] == 'sub-003') & (table['region'] == 'SN')].iloc[0]
    mine = long[(long['participant_id'] == 'sub-003') & (long['region'] == 'SN')]['mean'].to_numpy()
    assert (row['session_from'], row['session_to'], row['group']) == ('ses-1', 'ses-2', 'patient')
    np.testing.assert_allclose(row['years'], 731 / 365.25)
    np.testing.assert_allclose(row['change'], mine[1] - mine[0])
    np.testing.assert_allclose(row['per_year'], (mine[1] - mine[0]) * 365.25 / 731)
    # the literature says .01 ppm in SN
    np.testing.assert_allclose(row['se'], 0.01 * np.sqrt(2))
    np.testing.assert_allclose(row['ci_high'] - row['change'], 1.959964 * 0.01 * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(row['per_year_se'], row['se'] / row['years'])
    assert row['beyond'] == (abs(row['change']) > 1.959964 * row['se'])
    assert set(table['repeatability_source']) == {'literature'}
    assert any('literature' in note for note in notes)


def test_repeatability_is_that_of_the_own_runs():
    long = followed(runs=3)
    table, notes = changes(long)
    gp = long[long['region'] == 'GP']
    within = gp.groupby(['participant_id', 'session_id'])['mean']
    sd = np.sqrt(within.var(ddof=1).mean())
    rows = table[table['region'] == 'GP']
    np.testing.assert_allclose(rows['repeatability'], sd)
    np.testing.assert_allclose(rows['se'], sd * np.sqrt(2 / 3))
    np.testing.assert_allclose(rows['ci_high'] - rows['change'], stats.t.ppf(0.975, 32) * rows['se'])
    means = within.mean().unstack()
    np.testing.assert_allclose(rows['change'], means['ses-2'] - means['ses-1'])
    assert any('repositioning' in note for note in notes)


def test_repeatability_that_is_given():
    long = followed(maps=('chi', 'R2star'))
    for given, chi, r2star in (
        (0.02, 0.02, None),
        ({'GP': 0.03}, 0.03, None),
        ({'R2star': {'GP': 2}}, None, 2),
    ):
        table = changes(long, repeatability=given)[0].set_index(['map', 'region'])
        for name, wanted in (('chi', chi), ('R2star', r2star)):
            found = table.loc[(name, 'GP'), 'repeatability']
            assert found.isna().all() if wanted is None else (found == wanted).all()


def test_without_repeatability_nothing_is_beyond():
    table, notes = changes(followed(regions=('Thalamus',)))
    assert table['beyond'].isna().all()
    assert table['se'].isna().all()
    assert table['change'].notna().all()
    assert any('No repeatability is known for chi of Thalamus' in note for note in notes)


def test_slope_over_three_sessions():
    long = followed(sessions=3)
    lost = (long['participant_id'] == 'sub-001') & (long['session_id'] == 'ses-3') & (long['region'] == 'GP')
    long.loc[lost, 'mean'] = np.nan
    table = changes(long)[0]
    gp = table[table['region'] == 'GP'].set_index('participant_id')
    time = np.array([0, 731, 731 + 365]) / 365.25
    mine = long[(long['participant_id'] == 'sub-002') & (long['region'] == 'GP')]['mean']
    fit = stats.linregress(time, mine)
    np.testing.assert_allclose(gp.loc['sub-002', 'per_year'], fit.slope)
    np.testing.assert_allclose(
        gp.loc['sub-002', 'per_year_se'], 0.005 / np.sqrt(np.sum((time - time.mean()) ** 2))
    )
    assert gp.loc['sub-002', 'session_to'] == 'ses-3'
    assert gp.loc['sub-001', 'session_to'] == 'ses-2'


def test_unknown_times_are_said():
    table, notes = changes(cohort(4, sessions=2))
    assert table['per_year'].isna().all()
    assert table['change'].notna().all()
    assert any('No change per year for sub-000' in note for note in notes)


@pytest.mark.parametrize('long', [cohort(4), cohort(4, sessions=2).query('session_id == "ses-1"')])
def test_no_second_session_is_said(long):
    table, notes = changes(long)
    assert table.empty
    assert list(table) == COLUMNS
    assert 'No change' in notes[-1]
    assert change_summary(table)[0].empty


def test_acquisitions_are_not_mixed():
    long = followed()
    other = long[long['session_id'] == 'ses-2'].assign(mean=9.0)
    both = pd.concat([long.assign(acquisition='a'), other.assign(acquisition='b')])
    table = changes(both)[0]
    assert set(table['acquisition']) == {'a'}
    assert table['last'].max() < 1


def test_intervals_cover_a_known_change():
    long = followed(runs=2)
    frames = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth = 0.01 * (long['session_id'] == 'ses-2')
        table = changes(long.assign(mean=truth + rng.normal(0, 0.005, len(long))))[0]
        frames.append(table[['ci_low', 'ci_high']])
    found = pd.concat(frames)
    covered = np.mean((found['ci_low'] <= 0.01) & (found['ci_high'] >= 0.01))
    assert abs(covered - 0.95) < 0.03


def test_mean_change_by_group():
    table = changes(followed())[0]
    summary, notes = change_summary(table)
    assert list(summary) == SUMMARY
    assert not notes
    assert set(summary['group']) == {'control', 'patient', 'all'}
    for _, row in summary[summary['group'] == 'patient'].iterrows():
        mine = table[(table['group'] == 'patient') & (table['region'] == row['region'])]
        test = stats.ttest_1samp(mine['change'], 0)
        np.testing.assert_allclose((row['mean'], row['p']), (mine['change'].mean(), test.pvalue))
        np.testing.assert_allclose((row['ci_low'], row['ci_high']), test.confidence_interval())
        np.testing.assert_allclose(row['per_year_mean'], mine['per_year'].mean())
        assert (row['n'], row['n_beyond']) == (4, mine['beyond'].sum())
    patients = summary[summary['group'] == 'patient']
    np.testing.assert_allclose(patients['p_fdr'], multipletests(patients['p'], method='fdr_bh')[1])


def test_groups_of_one_are_said():
    table = changes(followed())[0]
    few = table[(table['group'] == 'control') | (table['participant_id'] == 'sub-001')]
    summary, notes = change_summary(few)
    alone = summary[summary['group'] == 'patient']
    assert alone['p'].isna().all()
    assert set(alone['note']) == {'one participant'}
    assert 'patient' in notes[0]
    same = change_summary(table.assign(change=0.0))[0]
    assert same['p'].isna().all()


def test_every_column_is_described():
    assert set(dictionary()) == {*COLUMNS, *SUMMARY, *PROTOCOL}


def test_spans_of_days_tell_of_no_mean_change_per_year():
    long = followed()
    soon = (long['participant_id'] == 'sub-001') & (long['session_id'] == 'ses-2')
    table = changes(long.assign(acq_time=long['acq_time'].mask(soon, '2020-01-21T08:00:00')))[0]
    assert table['per_year'].notna().all()
    summary, notes = change_summary(table)
    rows = table[(table['region'] == 'GP') & (table['participant_id'] != 'sub-001')]
    whole = summary[(summary['region'] == 'GP') & (summary['group'] == 'all')].iloc[0]
    np.testing.assert_allclose(whole['per_year_mean'], rows['per_year'].mean())
    assert whole['n'] == 8
    assert 'leaves out 1 participant with less than 0.25 years' in notes[0]


def test_columns_of_the_protocol_are_described():
    long = followed()
    table = changes(pd.concat([long.assign(acquisition=a) for a in 'ab'], ignore_index=True))[0]
    assert 'acquisition' in table
    assert set(table) <= set(dictionary())


def test_change_of_a_neighbour_widens_the_interval():
    long = followed()
    late = (long['session_id'] == 'ses-2') & (long['region'] == 'SN')
    long = long.assign(border_effect=0.0)
    long.loc[late, 'border_effect'] = -0.03
    table = changes(long)[0]
    mine = table[table['region'] == 'SN']
    np.testing.assert_allclose(mine['border_change'], -0.03)
    np.testing.assert_allclose(mine['se'], np.hypot(0.01 * np.sqrt(2), 0.03))
    assert (table.loc[table['region'] != 'SN', 'border_change'] == 0).all()
    found, plain = (
        change_summary(changes(part)[0])[0].set_index(['group', 'region']).loc[('patient', 'SN')]
        for part in (long, long.drop(columns='border_effect'))
    )
    assert (found['se_border'], plain['se_border']) == (pytest.approx(0.03), 0)
    alone = plain['sd'] / np.sqrt(plain['n'])
    reach = stats.t.ppf(0.975, plain['n'] - 1)
    np.testing.assert_allclose(found['ci_high'] - found['mean'], reach * np.hypot(alone, 0.03))
    np.testing.assert_allclose(
        found['p'], 2 * stats.t.sf(abs(found['mean']) / np.hypot(alone, 0.03), plain['n'] - 1)
    )
    # the sessions are two years apart
    wide = (found['per_year_ci_high'] - found['per_year_ci_low']) / (
        plain['per_year_ci_high'] - plain['per_year_ci_low']
    )
    np.testing.assert_allclose(wide, np.hypot(alone, 0.03) / alone, rtol=1e-3)


def test_single_changes_are_counted_together():
    table = changes(followed(), repeatability=0.005)[0]
    np.testing.assert_allclose(table['index'], table['change'] / (0.005 * np.sqrt(2)))
    np.testing.assert_allclose(table['p'], 2 * stats.norm.sf(table['index'].abs()))
    np.testing.assert_allclose(table['p_fdr'], multipletests(table['p'], method='fdr_bh')[1])
    assert table['beyond'].any()
    wanted = np.where(table['beyond'], np.where(table['change'] > 0, 'rise', 'fall'), '')
    assert table['direction'].tolist() == wanted.tolist()


def test_a_retest_is_part_of_its_visit_and_tells_the_error():
    long = followed(sessions=3)
    long['visit'] = long['session_id'].map({'ses-1': 1, 'ses-2': 1, 'ses-3': 2})
    table, notes = changes(long.drop(columns='acq_time'))
    gp = table[table['region'] == 'GP']
    wide = long[long['region'] == 'GP'].pivot(index='participant_id', columns='session_id', values='mean')
    change = wide['ses-3'] - wide[['ses-1', 'ses-2']].mean(axis=1)
    np.testing.assert_allclose(gp['change'], change)
    sd = np.sqrt(wide[['ses-1', 'ses-2']].var(axis=1, ddof=1).mean())
    np.testing.assert_allclose(gp['se'], sd * np.sqrt(1 / 2 + 1))
    assert set(gp['repeatability_source']) == {'own sessions'}
    assert any('sessions of one visit of this study' in note for note in notes)
