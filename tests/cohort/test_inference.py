import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bids_qsm.cohort.inference import adjust, correlation_interval, noncentrality, small_sample


def test_false_discovery_rates_within_families():
    p = np.array([0.01, 0.02, np.nan, 0.2, 0.03, 0.5])
    family = ['a', 'a', 'a', 'a', 'b', 'b']
    found = adjust(p, family)
    np.testing.assert_allclose(found[[0, 1, 3]], multipletests(p[[0, 1, 3]], method='fdr_bh')[1])
    np.testing.assert_allclose(found[4:], multipletests(p[4:], method='fdr_bh')[1])
    assert np.isnan(found[2])


def test_the_ends_of_noncentrality_leave_the_tails():
    # at 5.3835, scipy's distribution is NaN where the search passes
    t, dof = (
        np.array([0.0, 2.0, -3.5, 12.0, 40.0, 5.383501695129218]),
        np.array([10.0, 3.0, 22.0, 497.0, 8.0, 50.0]),
    )
    low, high = noncentrality(t, dof)
    assert np.all((low < t) & (t < high))
    np.testing.assert_allclose(stats.nct.sf(t, dof, low), 0.025, rtol=1e-5)
    np.testing.assert_allclose(stats.nct.cdf(t, dof, high), 0.025, rtol=1e-5)


def test_standardised_differences_are_unbiased_and_covered():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, (4000, 8)), rng.normal(0, 1, (4000, 8))
    t = stats.ttest_ind(a, b, axis=1).statistic
    k = np.sqrt(2 / 8)
    assert abs((small_sample(14) * t * k).mean() - 0.8) < 0.03
    low, high = noncentrality(t, 14)
    assert abs(np.mean((low * k <= 0.8) & (high * k >= 0.8)) - 0.95) < 0.015


def test_interval_of_a_correlation_is_fishers():
    low, high = correlation_interval(0.5, 28)
    np.testing.assert_allclose((low, high), np.tanh(np.arctanh(0.5) + np.array([-1, 1]) * 1.959964 / 27**0.5))
    assert np.isnan(correlation_interval(0.5, 1)).all()
