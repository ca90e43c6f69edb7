"""Ridge logistic regression and its nested cross-validation, against the pipeline of scikit-learn."""

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bids_qsm.cohort.ridge import PENALTIES, concordance, nested, scale


@pytest.fixture(scope='module')
def data():
    rng = np.random.default_rng(0)
    x = rng.normal([5, -3, 0], [20, 0.1, 1], (60, 3))
    y = (rng.random(60) < 1 / (1 + np.exp(-(x[:, 0] - 5) / 10))).astype(float)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y


def pipeline(penalty):
    model = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=1000)
    # the scale is that of the values that are known
    return make_pipeline(StandardScaler(), SimpleImputer(), model)


def test_it_is_the_pipeline_of_scikit_learn(data):
    x, y = data
    outer = np.arange(60) % 2
    inner = np.array([np.where(outer == fold, -1, np.arange(60) // 2 % 2) for fold in (0, 1)])
    logit, models, chosen = nested(x, y, np.ones(60), inner, PENALTIES)
    for fold in (0, 1):
        losses = []
        for penalty in PENALTIES:
            parts = [(inner[fold] == 1 - part, inner[fold] == part) for part in (0, 1)]
            fitted = [(pipeline(penalty).fit(x[a], y[a]), b) for a, b in parts]
            losses.append(sum(log_loss(y[b], m.predict_proba(x[b]), normalize=False) for m, b in fitted))
        assert chosen[fold] == np.argmin(losses)
        best = pipeline(PENALTIES[chosen[fold]]).fit(x[outer != fold], y[outer != fold])
        assert logit[outer == fold] == pytest.approx(best.decision_function(x[outer == fold]), abs=1e-5)
        known = np.isfinite(x).all(1) & (outer == fold)
        assert models[fold, 0] + x[known] @ models[fold, 1:] == pytest.approx(logit[known], abs=1e-8)


def test_a_weight_is_a_number_of_copies(data):
    x, y = data
    inner = (np.arange(60) % 3)[None]
    weight = np.arange(60) % 4
    copies = np.repeat(np.arange(60), weight)
    weighed = nested(x, y, weight.astype(float), inner, PENALTIES)
    copied = nested(x[copies], y[copies], np.ones(len(copies)), inner[:, copies], PENALTIES)
    assert weighed[2] == copied[2]
    # nobody is in the outer fold, so no model is tried
    assert weighed[1] == pytest.approx(copied[1], rel=1e-5)


def test_what_does_not_vary_counts_nothing():
    z, mean, sd = scale(np.array([[1.0, 2], [np.nan, 2], [3, 2]]), np.array([1.0, 1, 1]))
    assert z.tolist() == [[1, -1, 0], [1, 0, 0], [1, 1, 0]]
    assert (mean.tolist(), sd.tolist()) == ([2, 2], [1, 0])


def test_pairs_are_of_one_fold_and_of_two_participants():
    rng = np.random.default_rng(1)
    score, y = np.round(rng.normal(size=40), 1), (rng.random(40) < 0.5).astype(float)
    fold, alone, one = np.zeros(40, int), np.arange(40), np.ones(40)
    assert concordance(score, fold, y, alone, one) == pytest.approx(roc_auc_score(y, score))
    halves = np.arange(40) % 2
    shifted = score + 100 * halves * y
    parts = [roc_auc_score(y[halves == h], shifted[halves == h]) for h in (0, 1)]
    sizes = [np.prod(np.bincount(y[halves == h].astype(int))) for h in (0, 1)]
    assert concordance(shifted, halves, y, alone, one) == pytest.approx(np.average(parts, weights=sizes))
    assert np.isnan(concordance(score, fold, y, fold, one))
