"""The jackknife of the difference of the AUC of two models."""

import numpy as np
import pytest

from bids_qsm.cohort.paired import paired_variance
from bids_qsm.cohort.performance import Predictions
from bids_qsm.cohort.ridge import concordance


def scored(seed, people=40, repeats=2, units=1):
    """Scores of two models in folds of whole participants."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), units)
    y = np.repeat((np.arange(people) % 2).astype(float), units)
    own = rng.normal(size=(repeats, people * units))
    fold = np.array([rng.permutation(np.arange(people) // 2 % 5)[person] for _ in range(repeats)])
    logits = [own + 0.5 * y, own + rng.normal(size=own.shape) + 1.5 * y]
    return [Predictions(logit, fold, y, person) for logit in logits]


def difference(first, second, kept):
    gains = [
        [concordance(one.logit[r], one.fold[r], one.y, one.person, kept) for one in (second, first)]
        for r in range(len(first.fold))
    ]
    return np.subtract(*np.transpose(gains))


def test_it_is_the_jackknife_of_the_auc():
    first, second = scored(0, people=20, units=2)
    left = [difference(first, second, (first.person != p).astype(float)).mean() for p in range(20)]
    expected = 19 / 20 * np.sum((left - np.mean(left)) ** 2)
    expected += difference(first, second, np.ones(40)).var(ddof=1) / 2
    assert paired_variance(first, second) == pytest.approx(expected)
    assert paired_variance(second, first) == pytest.approx(expected)
    assert paired_variance(first, first) == 0


def test_without_a_pair_there_is_none():
    first, second = scored(0)
    alone = [
        Predictions(one.logit, one.fold, np.r_[1.0, np.zeros(39)], one.person) for one in (first, second)
    ]
    assert np.isnan(paired_variance(*alone))
