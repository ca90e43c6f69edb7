from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_qsm.cohort.tables import gather, join_participants, join_sessions
from bids_qsm.cohort.total import add_total
from bids_qsm.cohort.trial import COLUMNS, dictionary, slopes
from bids_qsm.phantom.trial import DEFERIPRONE, WILSON, draw_trial


def drawn(of, seed=3):
    tables, people, sessions = draw_trial(of, seed)
    return join_sessions(join_participants(gather(tables), people)[0], sessions)[0]


def only(of, *regions):
    return replace(of, regions={name: of.regions[name] for name in regions})


def test_known_slopes_are_found():
    of = only(DEFERIPRONE, 'GP', 'Putamen')
    table, _ = slopes(drawn(of, 5))
    assert list(table) == COLUMNS == list(dictionary())
    assert table['arm'].tolist() == ['placebo', 'deferiprone'] * 2
    gp = table[table['region'] == 'GP'].set_index('arm')
    for arm, row in gp.iterrows():
        assert row['slope_low'] < of.truth('GP', arm)['chi'] < row['slope_high']
    row = gp.loc['deferiprone']
    apart = of.truth('GP', 'deferiprone')['chi'] - of.truth('GP', 'placebo')['chi']
    assert row['ci_low'] < apart < row['ci_high']
    assert row['ci_high'] < -30
    assert row['p_fdr'] < 1e-6
    assert (row['n_participants'], row['n_visits'], row['dof']) == (24, 72, 34)
    assert row['units'] == 'ppb per year'
    assert row['sd_slope'] == pytest.approx(12, rel=0.4)
    assert row['sdw'] == pytest.approx(3, rel=0.5)
    assert row['converged']
    assert table.loc[table['region'] == 'Putamen', 'p_fdr'].dropna().iloc[0] > 0.05


def test_atrophy_hides_in_the_mean_what_the_total_shows():
    of = only(WILSON, 'Putamen')
    table, _ = slopes(add_total(drawn(of)))
    at = table.set_index(['map', 'arm'])
    assert at.loc[('chi', 'standard care'), 'slope_low'] > 0
    assert (
        at.loc[('chi_total', 'standard care'), 'slope_low']
        < 0
        < at.loc[('chi_total', 'standard care'), 'slope_high']
    )
    assert at.loc[('chi_total', 'chelation'), 'slope_high'] < 0
    assert at.loc[('volume', 'chelation'), 'slope'] == pytest.approx(-0.36, abs=0.05)
    assert at.loc[('chi_total', 'chelation'), 'units'] == 'ppb ml per year'


def test_two_visits_are_a_test_of_changes():
    of = replace(only(DEFERIPRONE, 'GP'), visits=(0.0, 1.0), retests=0, late=0.0)
    long = drawn(of)
    table, _ = slopes(long)
    row = table[table['arm'] == 'deferiprone'].iloc[0]
    wide = long.pivot(index=['participant_id', 'arm'], columns='session_id', values='mean')
    change = (1e3 * (wide['ses-12m'] - wide['ses-00m'])).reset_index(level='arm', name='change')
    groups = [part['change'] for _, part in change.groupby('arm')]
    test = stats.ttest_ind(*groups)
    years = 365 / 365.25
    np.testing.assert_allclose(row['difference'], (groups[0].mean() - groups[1].mean()) / years, rtol=1e-4)
    np.testing.assert_allclose(row['p'], test.pvalue, rtol=1e-3)
    assert row['method'] == 'random intercept'
    np.testing.assert_allclose(
        row['sd_change'], np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / 34), rtol=1e-6
    )


def test_an_error_of_borders_widens_the_interval():
    long = drawn(only(DEFERIPRONE, 'GP'))
    plain = slopes(long)[0].iloc[1]
    years = (pd.to_datetime(long['acq_time']) - pd.Timestamp('2021-01-01')).dt.days / 365.25
    since = years - years.groupby(long['participant_id']).transform('min')
    moved = slopes(long.assign(border_effect=0.01 * since * (long['arm'] == 'deferiprone')))[0].iloc[1]
    np.testing.assert_allclose(moved['se'], np.hypot(plain['se'], 10), rtol=1e-3)


def test_arms_are_read_with_care():
    of = replace(only(DEFERIPRONE, 'GP'), arms={'placebo': 4, 'deferiprone': 4}, retests=0)
    long = drawn(of)
    who = sorted(long['participant_id'].unique())
    later = (long['participant_id'] == who[0]) & (long['session_id'] == 'ses-18m')
    arm = long['arm'].astype(object).mask(later, 'deferiprone').mask(long['participant_id'] == who[5])
    table, notes = slopes(long.assign(arm=arm))
    said = ' '.join(notes)
    assert f'{who[0]} change arm' in said
    assert f'No arm is known for {who[5]}' in said
    assert table['n_participants'].tolist() == [3, 3]
    named = slopes(long.replace({'arm': {'placebo': 'b', 'deferiprone': 'a'}}))
    assert named[0]['reference'].tolist() == ['', 'a']
    assert 'No arm is called like a placebo' in ' '.join(named[1])
    given = slopes(long.replace({'arm': {'placebo': 'b', 'deferiprone': 'a'}}), controls='b')[0]
    assert given['arm'].tolist() == ['b', 'a']
    few, said = slopes(long[~long['participant_id'].isin(who[:2])])
    assert few[['arm', 'reference']].to_numpy().tolist() == [['deferiprone', 'placebo']]
    assert 'The reference arm placebo was left out of chi GP' in ' '.join(said)
    assert (few['sdw_source'].iloc[0], few['scans'].iloc[0]) == ('literature', 1)
    short = slopes(long[(long['arm'] != 'placebo') | (long['session_id'] != 'ses-18m')])[0]
    np.testing.assert_allclose(short['years'], (0.75, 1.5), atol=0.1)
    np.testing.assert_allclose(short['years_study'], short['years'].mean(), atol=0.01)
    coded = slopes(long.assign(arm=long['arm'].map({'placebo': 0.0, 'deferiprone': 1.0})))[0]
    assert (coded['arm'].tolist(), coded['n_participants'].tolist()) == (['0', '1'], [4, 4])


def test_without_arms_all_are_one_and_without_times_there_is_nothing():
    long = drawn(replace(only(DEFERIPRONE, 'GP'), arms={'placebo': 5}, retests=0)).drop(columns='arm')
    table, _ = slopes(long)
    assert table['arm'].tolist() == ['all']
    assert pd.isna(table['difference']).all()
    timed = long.assign(time=long['session_id'].map({'ses-00m': 0, 'ses-09m': 0.75, 'ses-18m': 1.5}))
    by_time = slopes(timed.drop(columns='acq_time'))[0]
    assert by_time['years'].iloc[0] == 1.5
    none, notes = slopes(long.drop(columns='acq_time'))
    assert none.empty
    assert 'two visits of known time' in ' '.join(notes)
    few = slopes(long[long['participant_id'].isin(sorted(long['participant_id'].unique())[:2])])
    assert few[0].empty
