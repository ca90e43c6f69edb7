import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS

from bids_qsm.cohort.curve import AgeCurve


def iron(age):
    """Hallgren and Sourander's curve of the globus pallidus, as susceptibility."""
    return 0.15 * (1 - np.exp(-0.09 * age))


def test_a_line_is_the_prediction_interval_of_regression():
    rng = np.random.default_rng(0)
    age, y = rng.uniform(20, 70, 8), rng.normal(size=(8, 2))
    new = np.array([10.0, 45.0, 90.0])
    expected, sd, dof = AgeCurve(age).predict(y, new, np.full(3, -1))
    x = np.column_stack([np.ones(8), age])
    at = np.column_stack([np.ones(3), new])
    beta, rest, *_ = np.linalg.lstsq(x, y, rcond=None)
    leverage = np.einsum('mp,pq,mq->m', at, np.linalg.inv(x.T @ x), at)
    np.testing.assert_allclose(expected, at @ beta)
    np.testing.assert_allclose(sd, np.sqrt(rest / 6 * (1 + leverage[:, None])))
    assert set(dof.ravel()) == {6}
    assert np.all(sd[[0, 2]] > sd[1])


@pytest.mark.parametrize('n', [6, 30])
def test_leaving_out_is_fitting_the_others(n):
    rng = np.random.default_rng(1)
    age, y = rng.uniform(5, 70, n), rng.normal(size=(n, 3))
    curve = AgeCurve(age)
    found = curve.predict(y, age, np.arange(n))
    outlier = y.copy()
    outlier[2] += 1000
    changed = curve.predict(outlier, age, np.arange(n))
    # what a control is compared with does not know its value
    for one, other in zip(found, changed, strict=True):
        np.testing.assert_allclose(one[2], other[2], rtol=1e-6)


def test_left_out_line_is_the_externally_studentised_residual():
    rng = np.random.default_rng(2)
    age, y = rng.uniform(20, 70, 8), rng.normal(size=8)
    expected, sd, dof = AgeCurve(age).predict(y[:, None], age, np.arange(8))
    influence = OLS(y, np.column_stack([np.ones(8), age])).fit().get_influence()
    np.testing.assert_allclose((y - expected[:, 0]) / sd[:, 0], influence.resid_studentized_external)
    assert set(dof.ravel()) == {5}


def test_the_curve_follows_iron():
    rng = np.random.default_rng(3)
    age = rng.uniform(3, 80, 200)
    y = iron(age)[:, None] + rng.normal(0, 0.01, (200, 5))
    new = np.linspace(5, 75, 15)
    expected, sd, _ = AgeCurve(age).predict(y, new, np.full(15, -1))
    np.testing.assert_allclose(expected, np.repeat(iron(new)[:, None], 5, 1), atol=0.008)
    np.testing.assert_allclose(sd, 0.01, rtol=0.2)


def test_beyond_the_ages_the_curve_goes_on_as_a_line():
    rng = np.random.default_rng(4)
    age = rng.uniform(20, 60, 40)
    y = iron(age)[:, None] + rng.normal(0, 0.002, (40, 1))
    expected, sd, _ = AgeCurve(age).predict(y, np.array([60.0, 80.0, 100.0, 120.0]), np.full(4, -1))
    np.testing.assert_allclose(np.diff(expected[1:, 0], n=2), 0, atol=1e-9)
    assert np.all(np.diff(sd[:, 0]) > 0)


@pytest.mark.parametrize('n', [12, 40])
def test_probabilities_are_right_with_few_controls(n):
    rng = np.random.default_rng(5)
    found = []
    for _ in range(15):
        age, new = rng.uniform(5, 70, n), rng.uniform(5, 70, 20)
        both = np.r_[age, new]
        y = iron(both)[:, None] + rng.normal(0, 0.01, (n + 20, 20))
        expected, sd, dof = AgeCurve(age).predict(y[:n], both, np.r_[np.arange(n), np.full(20, -1)])
        found.append(stats.norm.ppf(stats.t.cdf((y - expected) / sd, dof)))
    z = np.concatenate(found)
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1) < 0.08
    assert abs(np.mean(np.abs(z) > 1.96) - 0.05) < 0.02


def test_one_age_is_a_mean():
    y = np.random.default_rng(6).normal(size=(6, 1))
    expected, sd, dof = AgeCurve(np.full(6, 30.0)).predict(y, np.array([30.0]), np.array([-1]))
    np.testing.assert_allclose(expected[0, 0], y.mean())
    np.testing.assert_allclose(sd[0, 0], y.std(ddof=1) * np.sqrt(1 + 1 / 6))
    assert dof[0, 0] == 5
