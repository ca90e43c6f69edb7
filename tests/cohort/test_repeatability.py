import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_qsm.cohort.repeatability import COLUMNS, dictionary, icc, repeat_pairs, repeatability
from tests.cohort.people import cohort


def test_intraclass_correlations_of_the_paper():
    """Shrout and Fleiss (1979), table 2: four judges, six targets; intervals by R's psych."""
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7.0]]
    )
    found = icc(ratings)
    np.testing.assert_allclose(found['icc_2_1'], (0.29, 0.019, 0.76), atol=0.005)
    np.testing.assert_allclose(found['icc_3_1'], (0.71, 0.34, 0.95), atol=0.005)


def test_runs_of_a_session():
    long = cohort(12, runs=3, regions=('GP',))
    table, notes = repeatability(long)
    assert list(table) == COLUMNS == list(dictionary())
    row = table.iloc[0]
    values = 1e3 * long['mean'].to_numpy().reshape(12, 3)
    sd = np.sqrt(values.var(1, ddof=1).mean())
    np.testing.assert_allclose((row['sdw'], row['dof']), (sd, 24))
    np.testing.assert_allclose(row['detectable'], 1.96 * np.sqrt(2) * sd)
    ends = sd * np.sqrt(24 / stats.chi2.ppf([0.975, 0.025], 24))
    np.testing.assert_allclose((row['sdw_low'], row['sdw_high']), ends)
    difference = values[:, 1] - values[:, 0]
    np.testing.assert_allclose(row['bias'], difference.mean())
    np.testing.assert_allclose(row['limit_high'], difference.mean() + 1.96 * difference.std(ddof=1))
    test = stats.ttest_1samp(difference, 0).confidence_interval()
    np.testing.assert_allclose((row['bias_low'], row['bias_high']), test)
    assert (row['units'], row['repeats'], row['n_scans'], row['n_pairs']) == ('ppb', 'runs', 36, 12)
    assert 'runs of one session' in notes[-1]
    pairs = repeat_pairs(long, kind='runs')
    np.testing.assert_allclose(pairs[['first', 'second']], values[:, :2])
    assert repeat_pairs(long, kind='sessions').empty


@pytest.mark.parametrize('how', ['visit', 'days'])
def test_sessions_of_one_visit(how):
    long = cohort(8, sessions=3, regions=('GP',))
    if how == 'visit':
        long['visit'] = long['session_id'].map({'ses-1': 'a', 'ses-2': 'a', 'ses-3': 'b'})
    else:
        days = {'ses-1': '2020-01-01', 'ses-2': '2020-01-08', 'ses-3': '2021-01-01'}
        long['acq_time'] = long['session_id'].map(days)
    # a shift between test and retest counts in SDw and ICC(2,1), not in ICC(3,1)
    long.loc[long['session_id'] == 'ses-2', 'mean'] += 0.02
    table, notes = repeatability(long)
    row = table.iloc[0]
    values = 1e3 * long['mean'].to_numpy().reshape(8, 3)[:, :2]
    np.testing.assert_allclose(row['sdw'], np.sqrt(values.var(1, ddof=1).mean()))
    assert (row['repeats'], row['n_pairs'], row['n_scans']) == ('sessions', 8, 16)
    assert row['bias_low'] > 0
    assert row['icc_3_1'] > row['icc_2_1'] + 0.2
    assert 'Sessions of one visit' in notes[0]


def test_nothing_is_repeated():
    assert repeatability(cohort(4))[0].empty
    long = cohort(2, runs=2, regions=('GP',))
    row = repeatability(long)[0].iloc[0]
    assert 'too few' in row['note']
    assert row['sdw'] > 0
    assert pd.isna(row['bias'])
    same = repeatability(cohort(4, runs=2, sigma=0.0, regions=('GP',)))[0].iloc[0]
    assert same['note'] == 'the repeats are equal'


def test_only_repeats_of_the_region_count():
    long = cohort(6, runs=2, regions=('GP', 'RN'))
    lost = (
        (long['region'] == 'RN') & (long['run'] == '2') & long['participant_id'].isin(['sub-000', 'sub-001'])
    )
    shifted = long['mean'].where(
        long['run'] == '1', long.groupby(['participant_id', 'region'])['mean'].transform('first') + 0.02
    )
    table = repeatability(long.assign(mean=shifted.mask(lost)))[0].set_index('region')
    assert table[['n_participants', 'n_scans', 'n_pairs']].to_numpy().tolist() == [[6, 12, 6], [4, 8, 4]]
    assert set(table['note']) == {'the differences do not vary'}


def test_those_who_travel_tell_sites_from_scans():
    rng = np.random.default_rng(7)
    rows = []
    for person in range(30):
        own, at = rng.normal(0.1, 0.02), 0.0
        for number, site in enumerate(('A', 'A', 'B', 'B', 'C', 'C')):
            at = 0.003 * rng.normal() if number % 2 == 0 else at
            rows.append(
                {
                    'participant_id': f'sub-{person:02d}', 'session_id': f'ses-{number + 1}', 'site': site,
                    'visit': 1, 'region': 'GP', 'hemisphere': 'both', 'map': 'chi', 'units': 'ppm',
                    'mean': own + at + 0.002 * rng.normal(),
                }
            )  # fmt: skip
    table, notes = repeatability(pd.DataFrame(rows), site='site')
    by = table.set_index('repeats')
    assert list(table['repeats']) == ['sites', 'sessions']
    assert by.loc['sites', 'sd_between'] == pytest.approx(3, rel=0.25)
    assert by.loc['sites', 'sd_within'] == by.loc['sessions', 'sdw'] == pytest.approx(2, rel=0.2)
    assert by.loc['sites', 'sdw'] == pytest.approx(np.hypot(3, 2), rel=0.2)
    assert by.loc['sites', 'dof_within'] == by.loc['sessions', 'dof'] == 90
    assert by.loc['sites', 'icc_2_1'] == pytest.approx(400 / 413, abs=0.02)
    assert by.loc['sites', 'n_pairs'] == 30
    # three sites say little of all sites: the interval has few degrees of freedom
    assert 2 < by.loc['sites', 'dof'] < 60
    assert by.loc['sites', 'sdw_low'] < np.hypot(3, 2) < by.loc['sites', 'sdw_high']
    assert any('values of site' in note for note in notes)
    pairs = repeat_pairs(pd.DataFrame(rows), kind='sessions', site='site')
    assert np.std(pairs['first'] - pairs['second']) == pytest.approx(2 * np.sqrt(2), rel=0.3)
    once, _ = repeatability(pd.DataFrame(rows[::2]), site='site')
    assert list(once['repeats']) == ['sites']
    assert once['sd_between'].isna().all()
    assert 'no scan was repeated at one site' in once['note'].iloc[0]
