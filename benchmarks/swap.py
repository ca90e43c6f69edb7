"""Test the difference of the AUC of two models by swapping their scores, participant by participant.

It is not what --classify uses: see "useless" in benchmarks/classify.py.
"""

import numpy as np
from scipy.stats import rankdata

from bids_qsm.cohort.performance import Predictions

_BLOCK = 2**22
"""Largest size of an intermediate array."""


def swap_test(first: Predictions, second: Predictions, *, swaps: int, seed: int) -> float:
    r"""p, two-sided, of the difference of the AUC of two models on the same splits, by permutation [1]_.

    If the models are equally good, it does not matter which of them a score is from. So the scores of both
    models, as ranks within the fold and repeat, change places in all units of random participants, in all
    repeats at once. p is the share of such swaps whose difference of the AUC is at least that found:
    :math:`p = (1 + b) / (1 + B)`. The models are those that were fitted.

    Parameters
    ----------
    first, second : Predictions
        Of the same units and folds.
    swaps : int
        B.
    seed : int

    Returns
    -------
    float
        NaN without a pair to compare.

    References
    ----------
    .. [1] Bandos et al. (2005), Stat Med 24:2873. doi:10.1002/sim.2149
    """
    parts = contributions(first, second)
    if not np.isfinite(parts).all():
        return np.nan
    rng = np.random.default_rng(seed)
    least = abs(parts.sum()) * (1 - 1e-9)
    beyond, step = 0, max(_BLOCK // len(parts), 1)
    for start in range(0, swaps, step):
        # -1 where the models change places
        kept = rng.choice([-1.0, 1.0], (min(step, swaps - start), len(parts)))
        beyond += int((np.abs(kept @ parts) >= least).sum())
    return (1 + beyond) / (1 + swaps)


def contributions(first: Predictions, second: Predictions) -> np.ndarray:
    r"""What each participant adds to the difference of the AUC (second less first), shape (participants,).

    Let :math:`C^{ab}_{ij}` be 1 where the score of the positive unit i by model a beats that of the negative
    unit j by model b, and 1/2 in a tie. With :math:`k = -1` for units whose scores change places and 1 else,
    the difference of a pair is

    .. math:: \tfrac12 (k_i + k_j) (C^{11}_{ij} - C^{00}_{ij}) + \tfrac12 (k_i - k_j)
        (C^{10}_{ij} - C^{01}_{ij}),

    so that each unit has a share that changes its sign with k, and the shares of a participant add up. Pairs
    are those of `ridge.concordance`; the mean over repeats is taken.
    """
    y, person = first.y, first.person
    found = np.zeros((len(first.fold), person.max() + 1))
    for r, fold in enumerate(first.fold):
        pairs, share = 0, np.zeros(len(y))
        for number in np.unique(fold):
            ranks = np.empty((2, len(y)))
            here = fold == number
            for model, one in enumerate((first, second)):
                ranks[model, here] = rankdata(one.logit[r, here])
            positive, negative = np.flatnonzero(here & (y > 0)), np.flatnonzero(here & (y == 0))
            counted = person[positive][:, None] != person[negative]
            pairs += counted.sum()
            wins = {
                (a, b): counted * (1 + np.sign(ranks[a, positive][:, None] - ranks[b, negative])) / 2
                for a in (0, 1)
                for b in (0, 1)
            }
            same, crossed = wins[1, 1] - wins[0, 0], wins[1, 0] - wins[0, 1]
            share[positive] += (same + crossed).sum(1) / 2
            share[negative] += (same - crossed).sum(0) / 2
        total = np.bincount(person, share, person.max() + 1)
        found[r] = total / pairs if pairs else np.nan
    return found.mean(0)
