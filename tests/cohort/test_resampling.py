import numpy as np
from scipy import stats

from bids_qsm.cohort.resampling import (
    bootstrap_weights,
    corrected_interval,
    left_out_weights,
    partial_correlations,
)


def sample(n=30, seed=0):
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.ones(n), rng.normal(50, 9, n), rng.integers(0, 2, n)])
    x = z[:, 1] / 9 + rng.normal(size=n)
    return x, np.column_stack([x + z[:, 2] + rng.normal(size=n), rng.normal(size=n) + z[:, 1]]), z


def test_resamples_are_those_drawn_by_hand():
    x, y, z = sample()
    weights = bootstrap_weights(30, 20, 1)
    assert np.all(weights.sum(1) == 30)
    found = partial_correlations(x, y, z, weights)
    for w, row in zip(weights.astype(int), found, strict=True):
        drawn = np.repeat(np.arange(30), w)
        fit = np.linalg.pinv(z[drawn])
        a, *b = (v[drawn] - z[drawn] @ (fit @ v[drawn]) for v in (x, *y.T))
        np.testing.assert_allclose(row, [np.corrcoef(a, c)[0, 1] for c in b], rtol=1e-6)


def test_one_participant_is_left_out_at_a_time():
    x, y, z = sample(10)
    found = partial_correlations(x, y, z[:, :1], left_out_weights(10))
    wanted = [np.corrcoef(np.delete(x, i), np.delete(y[:, 0], i))[0, 1] for i in range(10)]
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-7)


def test_what_does_not_vary_has_no_correlation():
    x, y, z = sample()
    y[:, 1] = 3 * z[:, 1] + 2
    found = partial_correlations(x, y, z, np.ones((1, 30)))[0]
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_the_interval_without_widening_is_scipys():
    rng = np.random.default_rng(2)
    data = rng.exponential(size=40)
    weights = bootstrap_weights(40, 20000, 0)
    drawn, left = weights @ data / 40, (data.sum() - data) / 39
    low, high, _ = corrected_interval(data.mean(keepdims=True), drawn[:, None], left[:, None], 1e9)
    theirs = stats.bootstrap((data,), np.mean, n_resamples=20000, rng=np.random.default_rng(1))
    interval = theirs.confidence_interval
    # widened by sqrt(n / (n - 1)), 1 %
    np.testing.assert_allclose((low[0], high[0]), interval, rtol=0.03)
    assert high[0] - low[0] > 0.99 * (interval.high - interval.low)


def test_p_is_where_the_interval_touches_zero():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.2, 0.35, 0.6, 5.0):
        data = rng.exponential(size=40) - 1 + shift
        drawn, left = bootstrap_weights(40, 4000, 0) @ data / 40, (data.sum() - data) / 39
        parts = data.mean(keepdims=True), drawn[:, None], left[:, None], 39
        low, high, p = corrected_interval(*parts)
        assert (p[0] < 0.05) == (low[0] > 0 or high[0] < 0)
        assert 1 / 4000 <= p[0] <= 1
        if 0.001 < p[0] < 0.9:
            ends = np.abs(np.concatenate(corrected_interval(*parts, level=1 - p[0])[:2]))
            assert ends.min() < 0.02


def test_a_resample_may_hold_none_of_the_few_who_have_a_region():
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=4), rng.normal(size=(4, 2)), np.eye(4)[[0, 1, 2, 3, 3]] * 2.0
    weights[-1] = 0
    weights = np.concatenate([weights, np.ones((1, 4))])
    found = partial_correlations(x, y, np.ones((4, 1)), weights)
    assert np.isnan(found[:-1]).all()
    np.testing.assert_allclose(found[-1], [np.corrcoef(x, y[:, k])[0, 1] for k in (0, 1)])


def test_too_few_participants_are_no_sample():
    """Four participants and two covariates lie on a line, whatever is measured."""
    x, y, z = sample(12)
    weights = np.zeros((2, 12))
    weights[0, :4] = 3
    weights[1, :6] = 2
    found = partial_correlations(x, y, z, weights)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_thousands_who_are_left_out_once_need_no_weights(monkeypatch):
    rng = np.random.default_rng(4)
    x, y, z = (
        rng.normal(size=60),
        rng.normal(size=(60, 3)),
        np.column_stack([np.ones(60), rng.normal(size=60)]),
    )
    expected = partial_correlations(x, y, z, left_out_weights(60))
    np.testing.assert_array_equal(partial_correlations(x, y, z, None), expected)
    monkeypatch.setattr('bids_qsm.cohort.resampling._BLOCK', 1000)
    np.testing.assert_allclose(partial_correlations(x, y, z, None), expected, atol=1e-12)
