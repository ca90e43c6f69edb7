import numpy as np
import statsmodels.api as sm

from bids_qsm.cohort.random_slope import random_slope


def draw(seed, *, people=20, visits=4, varies=3.0, holes=False):
    """Visits of people of two arms; the slope of the second is 5 less."""
    rng = np.random.default_rng(seed)
    time = np.tile(np.linspace(0, 1.5, visits), people)
    who = np.repeat(np.arange(people), visits)
    if holes:
        kept = rng.uniform(size=len(time)) > 0.2
        time, who = time[kept] + rng.uniform(-0.1, 0.1, kept.sum()), who[kept]
    arm = (who % 2).astype(float)
    own = rng.normal(0, 20, people)[who] + rng.normal(0, varies, people)[who] * time
    y = 150 + own + time - 5 * arm * time + rng.normal(0, 2.5, len(time))
    return np.column_stack([np.ones_like(time), arm, time, arm * time]), y, who, time


def deviance(x, y, who, time, random, within):
    """Twice the negative restricted likelihood, with the whole covariance, and coefficients."""
    z = np.column_stack([np.ones_like(time), time])
    cov = within * np.eye(len(y)) + (who[:, None] == who) * (z @ random @ z.T)
    inverse = np.linalg.inv(cov)
    information = x.T @ inverse @ x
    beta = np.linalg.solve(information, x.T @ inverse @ y)
    rest = y - x @ beta
    fit = np.linalg.slogdet(cov)[1] + np.linalg.slogdet(information)[1] + rest @ inverse @ rest
    return fit, beta, np.linalg.inv(information)


def test_the_fit_is_that_of_statsmodels():
    x, y, who, time = draw(0, holes=True)
    fit = random_slope(x, y, who, time)
    other = sm.MixedLM(y, x, who, exog_re=np.column_stack([np.ones_like(time), time])).fit()
    np.testing.assert_allclose(fit.beta, other.fe_params, rtol=1e-4)
    np.testing.assert_allclose(fit.random, other.cov_re, rtol=1e-3)
    np.testing.assert_allclose(fit.within, other.scale, rtol=1e-3)
    assert fit.converged


def test_the_likelihood_is_higher_where_statsmodels_stops_early():
    x, y, who, time = draw(6, holes=True)
    fit = random_slope(x, y, who, time)
    own, beta, cov = deviance(x, y, who, time, fit.random, fit.within)
    np.testing.assert_allclose(fit.beta, beta, rtol=1e-6)
    np.testing.assert_allclose(fit.weights @ y, beta, rtol=1e-6)
    np.testing.assert_allclose(fit.cov, cov, rtol=1e-6)
    # where MixedLM of statsmodels 0.15 stops, with a warning
    stopped = deviance(x, y, who, time, np.array([[488.37, -15.4], [-15.4, 2.49]]), fit.within)[0]
    assert own < stopped - 1
    assert fit.converged


def test_slopes_of_equal_visits_are_those_of_single_lines():
    x, y, who, time = draw(5, visits=3)
    fit = random_slope(x, y, who, time)
    lines = np.array([np.polyfit(time[who == i], y[who == i], 1)[0] for i in range(20)])
    np.testing.assert_allclose(fit.beta[3], lines[1::2].mean() - lines[::2].mean(), rtol=1e-6)
    spread = np.sqrt((lines[1::2].var(ddof=1) + lines[::2].var(ddof=1)) / 2 * 2 / 10)
    np.testing.assert_allclose(np.sqrt(fit.cov[3, 3]), spread, rtol=1e-3)
    assert fit.dof == 18
    assert fit.converged


def test_equal_slopes_are_said():
    rng = np.random.default_rng(0)
    x, y, who, time = draw(0, visits=5, varies=0.0)
    # errors that sum to a line less than chance does
    y = (
        150
        + rng.normal(0, 20, 20)[who]
        + time
        + np.tile([2.0, -3.0, 2.0, -3.0, 2.0], 20) * rng.choice([-1, 1], 20)[who]
    )
    fit = random_slope(x, y, who, time)
    assert fit.converged
    assert fit.random[1, 1] < 0.01 * fit.within
    assert 'do not vary' in fit.note
