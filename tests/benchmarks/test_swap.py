"""Swapping the scores of two models between participants."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from bids_qsm.cohort.performance import Predictions
from bids_qsm.cohort.ridge import concordance

N, REPEATS = 60, 3
BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def swap(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import swap

    return swap


@pytest.fixture(scope='module')
def models():
    """Scores of two models, as ranks in their fold; folds hold whole participants."""
    rng = np.random.default_rng(0)
    person = np.sort(rng.integers(0, 30, N))
    person = np.unique(person, return_inverse=True)[1]
    y = (rng.random(N) < 0.5).astype(float)
    fold = np.array([rng.permutation(np.arange(person.max() + 1) % 5)[person] for _ in range(REPEATS)])
    logits = [np.round(rng.normal(size=(REPEATS, N)) + strength * y, 1) for strength in (0.4, 1.2)]
    for logit in logits:
        for r in range(REPEATS):
            for f in range(5):
                logit[r, fold[r] == f] = rankdata(logit[r, fold[r] == f])
    return [Predictions(logit, fold, y, person) for logit in logits]


def difference(first, second):
    return np.mean(
        [
            concordance(b, fold, first.y, first.person, np.ones(N))
            - concordance(a, fold, first.y, first.person, np.ones(N))
            for a, b, fold in zip(first.logit, second.logit, first.fold, strict=True)
        ]
    )


def test_contributions_are_what_a_swap_turns(swap, models):
    first, second = models
    parts = swap.contributions(first, second)
    assert parts.sum() == pytest.approx(difference(first, second))
    swapped = np.random.default_rng(1).random(len(parts)) < 0.5
    turned = [
        Predictions(np.where(swapped[first.person], a.logit, b.logit), first.fold, first.y, first.person)
        for a, b in ((second, first), (first, second))
    ]
    assert np.where(swapped, -parts, parts).sum() == pytest.approx(difference(*turned))


def test_p_is_small_for_a_difference_and_one_for_none(swap, models):
    first, second = models
    assert swap.swap_test(first, second, swaps=999, seed=0) < 0.05
    assert swap.swap_test(first, second, swaps=999, seed=0) == swap.swap_test(
        second, first, swaps=999, seed=0
    )
    assert swap.swap_test(first, first, swaps=99, seed=0) == 1


def test_without_a_pair_there_is_no_p(swap, models):
    first = models[0]
    alone = Predictions(first.logit, first.fold, np.ones(N), first.person)
    assert np.isnan(swap.swap_test(alone, alone, swaps=9, seed=0))
