import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.observations import average, codes, is_numeric, numeric, observe, patterns, some
from bids_qsm.errors import UserError
from tests.cohort.people import cohort


def test_series_down_and_regions_across():
    long = cohort(4, sessions=2, runs=2, maps=('R2star', 'chi'), hemispheres=('L', 'both'))
    data = observe(long)
    assert data.values.shape == (16, 12)
    assert list(data.series)[:3] == ['participant_id', 'session_id', 'run']
    assert {'group', 'age', 'sex', 'score'} < set(data.series)
    assert not {'region', 'mean', 'atlas', 'units'} & set(data.series)
    assert data.keys['map'].tolist() == ['chi'] * 6 + ['R2star'] * 6
    assert data.keys['units'].tolist() == ['ppm'] * 6 + ['1/s'] * 6
    for i, j in ((0, 0), (7, 5), (15, 11)):
        row, key = data.series.loc[i], data.keys.loc[j]
        here = (
            long[['participant_id', 'session_id', 'run']] == row[['participant_id', 'session_id', 'run']]
        ).all(axis=1)
        here &= (long[['map', 'region', 'hemisphere']] == key[['map', 'region', 'hemisphere']]).all(axis=1)
        assert data.values[i, j] == long.loc[here, 'mean'].item()


def test_what_was_asked_for():
    data = observe(cohort(4, hemispheres=('L', 'both')), regions=['SN'], hemispheres=['L'])
    assert data.keys[['region', 'hemisphere']].to_numpy().tolist() == [['SN', 'L']]
    with pytest.raises(UserError, match='no hemisphere R; there are both'):
        observe(cohort(2), hemispheres=['R'])


def test_rows_that_do_not_count():
    long = cohort(4)
    odd = pd.concat([long, long.iloc[:1].assign(mean=9.0), long.assign(region='lesion', hemisphere='n/a')])
    odd.loc[odd['region'] == 'SN', 'coverage'] = 0.4
    data = observe(odd.reset_index(drop=True))
    assert data.keys['region'].tolist() == ['GP', 'SN', 'RN']
    assert np.isnan(data.values[:, 1]).all()
    assert not (data.values == 9).any()
    assert any('SN were left out: less than 50%' in note for note in data.notes)
    assert any('1 rows repeat' in note for note in data.notes)


def test_an_empty_table():
    data = observe(cohort(2).iloc[:0])
    assert data.values.shape == (0, 0)


def test_averages_leave_missing_values_out():
    long = cohort(3, runs=2)
    gone = (long['run'] == '1') & (long['region'] == 'GP')
    long.loc[gone, 'mean'] = np.nan
    data = average(observe(long), ['participant_id', 'session_id'])
    assert data.values.shape == (3, 3)
    second = long[(long['run'] == '2') & (long['region'] == 'GP')]['mean']
    np.testing.assert_allclose(data.values[:, 0], second)
    both = long[long['region'] == 'SN'].groupby('participant_id')['mean'].mean()
    np.testing.assert_allclose(data.values[:, 1], both)


def test_numbers_of_a_session_are_averaged():
    long = cohort(3, sessions=2)
    long['score'] = np.where(long['session_id'] == 'ses-1', 1.0, 4.0)
    assert average(observe(long), ['participant_id']).series['score'].tolist() == [2.5] * 3


def test_codes_tell_rows_apart():
    table = pd.DataFrame({'a': ['x', 'x', 'y', None, None, 'x'], 'b': [1.0, 1, 1, np.nan, np.nan, 2]})
    assert codes(table, ['a', 'b', 'absent']).tolist() == [0, 0, 1, 2, 2, 3]
    assert codes(table, []).tolist() == [0] * 6


def test_numbers_and_text():
    numbers, texts = numeric(pd.Series(['1', 2, 'old', None, np.inf]))
    assert numbers.tolist()[:2] == [1, 2]
    assert numbers[2:].isna().all()
    assert texts == ['inf', 'old']
    assert is_numeric(pd.Series([1, 'x', 2]))
    assert not is_numeric(pd.Series(['x', 'y', 2]))
    assert not is_numeric(pd.Series([True, False]))
    assert not is_numeric(pd.Series([None, None]))
    assert some('abcd', most=2) == 'a, b and 2 more'


def test_whole_numbers_and_numbers_among_text_are_averaged_but_no_labels():
    long = cohort(3, sessions=2, runs=2)
    second = long['session_id'] == 'ses-2'
    odd = long['participant_id'] == 'sub-002'
    long = long.assign(
        updrs=np.where(second, 30, 10),
        moca=pd.Series(np.where(second, '20', '30'), dtype=object).mask(odd, 'not done'),
        group=np.where(second, 2, 1),
        site=np.where(second, 2, 1),
    )
    found = average(observe(long), ['participant_id'], factors=['site']).series
    assert found['updrs'].tolist() == [20] * 3
    assert found['moca'].tolist() == [25, 25, 'not done']
    assert found[['group', 'site', 'run']].astype(str).to_numpy().tolist() == [['1', '1', '1']] * 3


def test_regions_that_the_same_rows_have():
    values = np.array([[1, np.nan, 2, 3], [1, 4, 2, np.nan]])
    found = [(rows.tolist(), columns) for rows, columns in patterns(values)]
    assert found == [([True, True], [0, 2]), ([False, True], [1]), ([True, False], [3])]


def test_border_effects_go_along():
    long = cohort(3, sessions=2).assign(border_effect=0.004)
    long.loc[long['region'] == 'SN', 'border_effect'] = np.nan
    data = observe(long)
    assert np.unique(data.border[:, data.keys['region'] != 'SN']) == [0.004]
    assert not data.border[:, data.keys['region'] == 'SN'].any()
    assert np.unique(average(data, ['participant_id']).border).tolist() == [0, 0.004]
    # that of the mean is not that of the core, nor that of tables without the column
    cores = observe(long.assign(core_mean=0.1), statistic='core_mean')
    assert not cores.border.any()
    assert not observe(long.drop(columns='border_effect')).border.any()


def test_a_border_that_is_known_less_well_is_no_effect():
    long = cohort(2).assign(border_effect=0.01, border_mm=0.25)
    later = long['participant_id'] == 'sub-001'
    # the same slope, with the outline of the atlas
    long.loc[later, ['border_effect', 'border_mm']] = 0.032, 0.8
    data = observe(long)
    np.testing.assert_allclose(data.border[0], data.border[1])
