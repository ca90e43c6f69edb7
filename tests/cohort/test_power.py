import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestIndPower

from bids_qsm.cohort.power import COLUMNS, dictionary, per_arm, sample_sizes


@pytest.mark.parametrize('ratio', [0.2, 0.5, 1.0, 2.5])
@pytest.mark.parametrize('power', [0.8, 0.9])
def test_numbers_are_those_of_the_t_test(ratio, power):
    wanted = TTestIndPower().solve_power(ratio, power=power, alpha=0.05)
    assert per_arm(ratio, 1.0, power) == np.ceil(wanted - 1e-6)


def test_numbers_that_are_too_large_are_none():
    assert np.isnan(per_arm([0.0, 1e-4], 1.0, 0.8)).all()


def study(**more):
    """Slopes of one region: true slopes vary by 4 and a visit by 3 ppb, over 2 years, fewer in this arm."""
    row = {
        'atlas': 'a', 'map': 'chi', 'region': 'GP', 'hemisphere': 'both', 'arm': 'placebo', 'reference': '',
        'n_participants': 20, 'n_visits': 60, 'years': 1.0, 'years_study': 2.0,
        'baseline': 200.0, 'slope': 10.0,
        'slope_low': 7.0, 'slope_high': 13.0, 'sd_slope': 4.0, 'sd_within': 3.0, 'sd_change': 9.0,
        'sd_last': 30.0, 'correlation': 0.9, 'sdw': 3.0,
        'sdw_source': 'own sessions', 'scans': 1.0, 'method': 'random slope',
        'units': 'ppb per year', **more,
    }  # fmt: skip
    return pd.DataFrame([row, row | {'arm': 'active', 'reference': 'placebo'}])


def test_table_of_sizes():
    table, notes = sample_sizes(study())
    assert list(table) == COLUMNS == list(dictionary())
    assert len(table) == 3 * 2 * 2 * 2
    at = table.set_index(['design', 'effect_of', 'effect', 'power'])
    sd = {'change': 9.0, 'ancova': 30 * np.sqrt(1 - 0.81), 'random slope': np.hypot(8, 3 * np.sqrt(2))}
    for design, value in sd.items():
        row = at.loc[(design, 'change', 0.5, 0.9)]
        np.testing.assert_allclose((row['sd'], row['delta']), (value, 10.0))
        assert row['n_per_arm'] == per_arm(10.0, value, 0.9, covariates=int(design == 'ancova'))
        assert row['n_low'] < row['n_per_arm'] < row['n_high']
        assert at.loc[(design, 'level', 0.25, 0.8), 'delta'] == 50.0
    assert (table['n_study'] == 40).all()
    assert (table['years'] == 2).all()
    assert 'zero of susceptibility' in notes[-1]


def test_a_reference_arm_without_change_has_no_share_of_it():
    table, _ = sample_sizes(study(slope=1.0, slope_low=-2.0, slope_high=4.0))
    none = table[table['effect_of'] == 'change']
    assert none['n_per_arm'].isna().all()
    assert set(none['note']) == {'the reference arm does not change for certain'}
    assert table.loc[table['effect_of'] == 'level', 'n_per_arm'].notna().all()


def test_another_arm_is_not_taken_for_the_reference():
    table, _ = sample_sizes(study().iloc[1:])
    none = table[table['effect_of'] == 'change']
    assert none['n_per_arm'].isna().all()
    assert 'too few of the reference arm placebo' in none['note'].iloc[0]


def test_two_visits_are_parted_by_repeated_scans():
    two = study(method='random intercept', sd_slope=np.nan, n_visits=40)
    row = sample_sizes(two)[0].query('design == "random slope"').iloc[0]
    true = np.sqrt(81 - 2 * 9)
    np.testing.assert_allclose((row['sd_true'], row['sd_error']), (true, 3 * np.sqrt(2)))
    assert row['visits'] == 3
    # the error of a visit is that of the mean of its scans
    twice = sample_sizes(two.assign(scans=2.0))[0].query('design == "random slope"').iloc[0]
    np.testing.assert_allclose((twice['sd_true'], twice['sd_error']), (np.sqrt(81 - 9), 3.0))
    # SDw of other studies tells nothing of this one
    sizes = sample_sizes(two.assign(sdw_source='literature'))[0]
    assert sizes[['sd_true', 'sd_error']].isna().all(axis=None)
    assert sizes.query('design == "change"')['n_per_arm'].notna().all()
    unknown = sizes.query('design == "random slope"')
    assert unknown['n_per_arm'].isna().all()
    assert 'too few repeated scans' in unknown['note'].iloc[0]
    assert sample_sizes(two.iloc[:0])[0].empty
