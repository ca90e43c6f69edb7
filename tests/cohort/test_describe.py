import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_qsm.cohort.describe import (
    adjusted,
    by_participant,
    candidate_counts,
    characteristics,
    courses,
    lesion_counts,
    normal_quantiles,
    normal_range,
    regression_line,
)


def region(participant, mean, **more):
    row = {'participant_id': participant, 'region': 'GP', 'hemisphere': 'both', 'map': 'chi', 'units': 'ppm'}
    return {**row, 'coverage': 1.0, 'mean': mean, **more}


def test_characteristics_count_each_participant_once():
    long = pd.DataFrame(
        [
            region('sub-1', 0.1, group='a', age=20, sex='F', session_id='ses-1'),
            region('sub-1', 0.1, group='a', age=20, sex='F', session_id='ses-2'),
            region('sub-2', 0.1, group='a', age=40, sex='M'),
            region('sub-3', 0.1, group='b', age=np.nan, sex='M'),
        ]
    )
    table = characteristics(long, ['age', 'sex', 'group', 'nosuch']).set_index(['column', 'group'])
    a = table.loc[('age', 'a')]
    assert (a['n'], a['mean'], a['lowest'], a['highest']) == (2, 30, 20, 40)
    assert a['sd'] == pytest.approx(np.sqrt(200))
    assert table.loc[('age', 'b'), 'n'] == 0
    assert table.loc[('sex', 'a'), 'levels'] == 'F: 1, M: 1'
    assert set(table.index.get_level_values(0)) == {'age', 'sex'}
    assert characteristics(long.drop(columns='group'), ['age'])['group'].tolist() == ['all']


def test_one_row_a_participant():
    long = pd.DataFrame(
        [
            region('sub-1', 0.1, session_id='ses-1', score=2.0),
            region('sub-1', 0.2, session_id='ses-2', score=4.0),
            region('sub-2', 0.5, session_id='ses-1', score=1.0),
            region('sub-2', 9.0, session_id='ses-1', score=1.0, region='SN'),
        ]
    )
    table = by_participant(long, 'chi', 'GP').set_index('participant_id')
    assert table['value'].to_dict() == pytest.approx({'sub-1': 0.15, 'sub-2': 0.5})
    assert table.loc['sub-1', 'score'] == 3.0


def test_courses_are_of_those_with_several_sessions():
    times = {'ses-1': '2020-01-01T00:00:00', 'ses-2': '2021-01-01T00:00:00', 'ses-3': '2022-07-02T12:00:00'}
    rows = [region('sub-1', 0.1 * i, session_id=s, acq_time=t) for i, (s, t) in enumerate(times.items())]
    rows += [region('sub-2', 0.5, session_id='ses-1', acq_time=times['ses-1'])]
    table = courses(pd.DataFrame(rows), 'chi', ['GP'])
    assert table['x'].tolist() == pytest.approx([0, 1, 2.5], abs=0.01)
    assert table['y'].tolist() == pytest.approx([0, 0.1, 0.2])
    assert table['timed'].all()
    untimed = courses(pd.DataFrame(rows).drop(columns='acq_time'), 'chi', ['GP'])
    assert untimed['x'].tolist() == [1, 2, 3]
    assert not untimed['timed'].any()


def test_adjusted_points_show_the_partial_correlation():
    rng = np.random.default_rng(0)
    age, sex = rng.normal(50, 10, 60), rng.choice(['F', 'M'], 60)
    x = age + rng.normal(0, 5, 60) + 3 * (sex == 'M')
    y = 2 * age + rng.normal(0, 5, 60) + 0.5 * x
    points = pd.DataFrame(
        {'participant_id': np.arange(60).astype(str), 'x': x, 'y': y, 'age': age, 'sex': sex}
    )
    points.loc[3, 'x'] = np.nan
    found = adjusted(points, ['age', 'sex'])
    assert len(found) == 59
    whole = points.dropna()
    design = np.column_stack([np.ones(59), whole['age'], whole['sex'] == 'M'])
    residual = whole[['x', 'y']] - design @ np.linalg.lstsq(design, whole[['x', 'y']], rcond=None)[0]
    assert np.corrcoef(found['x'], found['y'])[0, 1] == pytest.approx(residual.corr().iloc[0, 1])
    assert found[['x', 'y']].mean().tolist() == pytest.approx(whole[['x', 'y']].mean().tolist())
    assert adjusted(points, [])['x'].tolist() == points['x'].dropna().tolist()
    assert adjusted(points.assign(age=np.nan, x=np.nan), ['age']).empty


def test_line_and_its_band():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, 30)
    y = 2 * x + rng.normal(0, 1, 30)
    line = regression_line(x, y)
    fit = stats.linregress(x, y)
    assert line['fit'].to_numpy() == pytest.approx(fit.intercept + fit.slope * line['x'].to_numpy())
    # at zero the band is the interval of the intercept
    zero = (line['x'] - 0).abs().idxmin()
    half = stats.t.ppf(0.975, 28) * fit.intercept_stderr
    assert (line['high'] - line['fit'])[zero] == pytest.approx(half, rel=0.02)
    assert regression_line([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]).empty
    assert regression_line([1, 2, np.nan, 4], [1, 2, 3, 4]).empty


def test_normal_quantiles_lie_on_the_line_of_a_normal_sample():
    sample = np.random.default_rng(2).normal(5, 2, 2000)
    assert np.corrcoef(sample, normal_quantiles(sample))[0, 1] > 0.998
    assert normal_quantiles([4.0]).tolist() == [4.0]


def test_range_of_controls():
    table = normal_range(pd.DataFrame({'expected': [1.0], 'sd': [2.0], 'dof': [1e9]}))
    assert table['low'].iloc[0] == pytest.approx(1 - 2 * 1.96, abs=1e-3)
    assert table['high'].iloc[0] == pytest.approx(1 + 2 * 1.96, abs=1e-3)


def test_lesions_by_participant():
    columns = ['participant_id', 'lesion', 'reason', 'volume_mm3', 'chi_mean', 'sign']
    rows = [
        ('sub-1', 1, None, 10.0, 0.1, 'paramagnetic'),
        ('sub-1', 2, None, 30.0, -0.1, 'diamagnetic'),
        ('sub-1', 3, 'outside', 5.0, np.nan, None),
        ('sub-2', None, 'the mask is empty', 0.0, np.nan, None),
    ]
    table = lesion_counts(pd.DataFrame(rows, columns=columns)).set_index('participant_id')
    one, two = table.loc['sub-1'], table.loc['sub-2']
    assert (one['lesions'], one['measured'], one['paramagnetic'], one['diamagnetic']) == (3, 2, 1, 1)
    assert (one['volume_mm3'], one['chi_mean']) == pytest.approx((40, -0.05))
    assert one['not measured'] == 'outside (1)'
    assert (two['lesions'], two['measured'], two['not measured']) == (0, 0, 'the mask is empty (1)')


def test_candidates_by_participant():
    rows = {
        'participant_id': ['sub-1', 'sub-1', 'sub-2', 'sub-3'],
        'class': ['microbleed', 'microbleed', 'calcification', 'microbleed'],
        'mars_region': ['frontal', 'deep', 'frontal', 'not assessable'],
    }
    table = candidate_counts(pd.DataFrame(rows)).set_index('participant_id')
    assert table.loc['sub-1'].to_dict() == {'calcification': 0, 'microbleed': 2, 'microbleeds': 'mixed'}
    assert table.loc['sub-2', 'microbleeds'] == 'none'
    assert table.loc['sub-3', 'microbleeds'] == 'not assessable'


def test_band_is_wider_where_covariates_took_degrees_of_freedom():
    rng = np.random.default_rng(3)
    points = pd.DataFrame(rng.normal(size=(12, 4)), columns=['x', 'y', 'a', 'b'])
    points['participant_id'] = points.index.astype(str)
    assert adjusted(points, []).attrs['spent'] == 0
    found = adjusted(points, ['a', 'b'])
    assert found.attrs['spent'] == 2
    plain = regression_line(found['x'], found['y'])
    wide = regression_line(found['x'], found['y'], spent=2)
    assert wide['fit'].tolist() == pytest.approx(plain['fit'].tolist())
    ratio = stats.t.ppf(0.975, 8) / stats.t.ppf(0.975, 10) * np.sqrt(10 / 8)
    assert ((wide['high'] - wide['fit']) / (plain['high'] - plain['fit'])).tolist() == pytest.approx(
        [ratio] * 40
    )
    assert regression_line(found['x'], found['y'], spent=9).empty


def test_one_text_among_numbers_makes_no_levels():
    ages = [20, 40, 'unknown']
    long = pd.DataFrame([region(f'sub-{i}', 0.1, age=age) for i, age in enumerate(ages)])
    row = characteristics(long, ['age']).iloc[0]
    assert (row['n'], row['mean'], row['lowest'], row['highest']) == (2, 30, 20, 40)


def test_courses_of_acquisitions_are_lines_of_their_own():
    rows = [
        region('sub-1', 0.1 * i, session_id=f'ses-{i}', acquisition=a) for i in (1, 2) for a in ('a', 'b')
    ]
    table = courses(pd.DataFrame(rows), 'chi', ['GP'])
    assert sorted(set(table['line'])) == ['sub-1 a', 'sub-1 b']
