import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from bids_qsm.cohort.mixed import least_squares, random_intercept, weighted_coefficients


def observations(seed, *, counts=(1, 2, 3), m=30, tau=1.0):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(m), np.resize(counts, m))
    group = (who % 2).astype(float)
    age = rng.uniform(20, 70, m)[who]
    session = np.concatenate([np.arange(n) for n in np.bincount(who)])
    x = np.column_stack([np.ones(len(who)), group, age, session])
    y = 3 + group + 0.02 * age + rng.normal(0, tau, m)[who] + rng.normal(0, 0.7, len(who))
    return x, y, who


def test_least_squares_is_that_of_statsmodels():
    x, y, _ = observations(0)
    ours, theirs = least_squares(x, y), sm.OLS(y, x).fit()
    for j in range(4):
        estimate, se, dof = ours.coefficient(j)
        np.testing.assert_allclose((estimate, se, dof), (theirs.params[j], theirs.bse[j], theirs.df_resid))
    f, _, dof = ours.joint([1, 2])
    test = theirs.f_test(np.eye(4)[1:3])
    np.testing.assert_allclose((f, stats.f.sf(f, 2, dof)), (test.fvalue, test.pvalue))
    np.testing.assert_allclose(ours.residual, theirs.resid, atol=1e-10)


@pytest.mark.parametrize('seed', [1, 2])
def test_random_intercept_is_that_of_statsmodels(seed):
    x, y, who = observations(seed)
    ours, theirs = random_intercept(x, y, who), sm.MixedLM(y, x, who).fit(reml=True)
    np.testing.assert_allclose(ours.beta, theirs.fe_params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.within, theirs.scale, rtol=1e-4)
    np.testing.assert_allclose(ours.between, np.asarray(theirs.cov_re)[0, 0], rtol=1e-3)
    # without the intercepts, which are shrunken: what is plotted is the model's line
    np.testing.assert_allclose(ours.fitted, x @ theirs.fe_params, rtol=1e-4)
    np.testing.assert_allclose(ours.fitted + ours.residual, y)


def test_small_sample_corrections_are_those_of_dense_matrices():
    """Kenward and Roger's equations, written out with the covariance of all observations."""
    x, y, who = observations(6, m=12)
    fit = random_intercept(x, y, who)
    parts = [np.eye(len(y)), (who[:, None] == who).astype(float)]
    inverse = np.linalg.inv(fit.within * parts[0] + fit.between * parts[1])
    phi = np.linalg.inv(x.T @ inverse @ x)
    project = inverse - inverse @ x @ phi @ x.T @ inverse
    information = [[np.trace(project @ a @ project @ b) / 2 for b in parts] for a in parts]
    w = np.linalg.inv(information)
    p = [-x.T @ inverse @ a @ inverse @ x for a in parts]
    q = [[x.T @ inverse @ a @ inverse @ b @ inverse @ x for b in parts] for a in parts]
    extra = sum(w[i, j] * (q[i][j] - p[i] @ phi @ p[j]) for i in (0, 1) for j in (0, 1))
    np.testing.assert_allclose(fit.cov, phi + 2 * phi @ extra @ phi, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(fit.beta, phi @ x.T @ inverse @ y, rtol=1e-6)
    slope = [(phi @ a @ phi)[1, 1] for a in p]
    np.testing.assert_allclose(fit.coefficient(1)[2], 2 * phi[1, 1] ** 2 / (slope @ w @ slope), rtol=1e-5)


def test_a_balanced_study_is_an_analysis_of_variance():
    """Between participants it is a t test of their means, within them a paired one, with exact degrees."""
    rng = np.random.default_rng(3)
    m = 14
    who = np.repeat(np.arange(m), 2)
    group, session = (who % 2).astype(float), np.tile([0.0, 1.0], m)
    y = group + rng.normal(0, 1, m)[who] + rng.normal(0, 0.5, 2 * m)
    fit = random_intercept(np.column_stack([np.ones(2 * m), group, session]), y, who)
    means = y.reshape(m, 2).mean(1)
    between = stats.ttest_ind(means[1::2], means[::2])
    estimate, se, dof = fit.coefficient(1)
    np.testing.assert_allclose((estimate / se, dof), (between.statistic, m - 2), rtol=1e-4)
    within = stats.ttest_rel(y[1::2], y[::2])
    estimate, se, dof = fit.coefficient(2)
    np.testing.assert_allclose((estimate / se, dof), (within.statistic, m - 1), rtol=1e-4)
    np.testing.assert_allclose(fit.joint([2])[0], within.statistic**2, rtol=1e-4)


def test_a_balanced_factor_has_its_exact_f():
    rng = np.random.default_rng(4)
    m = 15
    who = np.repeat(np.arange(m), 3)
    level = np.arange(m) % 3
    y = rng.normal(0, 1, m)[who] + rng.normal(0, 0.3, 3 * m)
    x = np.column_stack([np.ones(3 * m), level[who] == 1, level[who] == 2]).astype(float)
    means = y.reshape(m, 3).mean(1)
    exact = stats.f_oneway(*(means[level == k] for k in range(3)))
    f, rank, dof = random_intercept(x, y, who).joint([1, 2])
    np.testing.assert_allclose((f, rank, dof), (exact.statistic, 2, m - 3), rtol=1e-3)


@pytest.mark.parametrize('tau', [1.0, 0.05])
def test_intervals_cover_the_truth(tau):
    miss = np.zeros(2)
    for seed in range(400):
        x, y, who = observations(100 + seed, counts=(2, 1, 1, 1, 2), m=16, tau=tau)
        fit = random_intercept(x, y, who)
        for i, (j, truth) in enumerate(((1, 1.0), (3, 0.0))):
            estimate, se, dof = fit.coefficient(j)
            miss[i] += abs(estimate - truth) > stats.t.ppf(0.975, dof) * se
    # 95 % of 400, give or take three standard errors
    assert np.all(miss / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400))
    assert np.all(miss / 400 > 0.01)


def test_units_do_not_matter():
    x, y, who = observations(5)
    one, other = random_intercept(x, y, who), random_intercept(x * [1, 1, 1e4, 1], 1e-3 * y + 5, who)
    for j, unit in ((1, 1e-3), (2, 1e-7), (3, 1e-3)):
        a, b = np.array(one.coefficient(j)), np.array(other.coefficient(j))
        np.testing.assert_allclose(a * [unit, unit, 1], b, rtol=1e-5)
    np.testing.assert_allclose(other.beta[0], 5 + 1e-3 * one.beta[0], rtol=1e-6)


def test_coefficients_of_the_response_itself_are_those_of_the_fit():
    rng = np.random.default_rng(12)
    who = np.repeat(np.arange(12), rng.integers(1, 4, 12))
    x = np.column_stack([np.ones(len(who)), rng.standard_normal((len(who), 2))])
    y = x @ [0.1, 0.4, 0.0] + rng.standard_normal(12)[who] + 0.5 * rng.standard_normal(len(who))
    for fit in (random_intercept(x, y, who), least_squares(x, y)):
        np.testing.assert_allclose(weighted_coefficients(x, y, who, fit), fit.beta, rtol=1e-5, atol=1e-7)
