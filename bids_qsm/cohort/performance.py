"""How well predicted probabilities separate and match two classes, with bootstrap intervals, and curves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from bids_qsm.cohort.resampling import bootstrap_weights
from bids_qsm.cohort.ridge import concordance

MEASURES = ('auc', 'pr_auc', 'sensitivity', 'brier', 'calibration_slope', 'calibration_intercept')
COMPARED = MEASURES[:4]
"""Measures of which the difference of two models is told."""
GRID = np.linspace(0, 1, 101)
"""Horizontal axis of the curves."""
SPECIFICITY = 0.9
"""At which the sensitivity is told."""
_BINS = 8
_LEAST = 10
"""Most points of a calibration curve, and fewest units of each."""
_STEEPEST = 50.0


@dataclass(frozen=True)
class Predictions:
    """Logits of units that were left out, over repeats of cross-validation.

    Attributes
    ----------
    logit, fold : ndarray, shape (r, n)
        Of each repeat and unit, and the fold that the unit was left out in.
    y, person : ndarray, shape (n,)
        Class, 0 or 1, and number of the participant.
    """

    logit: np.ndarray
    fold: np.ndarray
    y: np.ndarray
    person: np.ndarray

    @property
    def probability(self):
        """Mean over repeats, shape (n,)."""
        return special.expit(self.logit).mean(0)

    def measure(self, weight: np.ndarray) -> np.ndarray:
        """Values of `MEASURES` in each repeat, shape (r, 6); NaN without both classes.

        AUC: see `ridge.concordance`. PR-AUC is the average precision. Sensitivity is that at a specificity of
        `SPECIFICITY`, of all units together. Calibration slope: of a logistic
        regression of the label on the logit; calibration intercept: the same with the slope 1.

        Parameters
        ----------
        weight : ndarray, shape (n,)
            Of each unit.
        """
        if not 0 < weight @ self.y < weight.sum():
            return np.full((len(self.logit), len(MEASURES)), np.nan)
        rows = []
        for logit, fold in zip(self.logit, self.fold, strict=True):
            brier = np.average((special.expit(logit) - self.y) ** 2, weights=weight)
            rows.append(
                (
                    concordance(logit, fold, self.y, self.person, weight),
                    average_precision(logit, self.y, weight),
                    sensitivity(logit, self.y, weight),
                    brier,
                    _recalibrated(np.stack([logit, np.ones_like(logit)]), 0.0, self.y, weight),
                    _recalibrated(np.ones((1, len(logit))), logit, self.y, weight),
                )
            )
        return np.array(rows)


def average_precision(logit: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Mean over the positive units of the precision at their score; units of equal score come together."""
    order = np.argsort(-logit, kind='stable')
    last = np.append(np.diff(logit[order]) < 0, True)
    true, drawn = (np.cumsum(w[order])[last] for w in (weight * y, weight))
    return np.sum(np.diff(true, prepend=0) * true / np.maximum(drawn, 1e-300)) / true[-1]


def sensitivity(logit: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """True positive rate at a false positive rate of 1 - `SPECIFICITY`, interpolated on the ROC curve.

    >>> y = np.repeat([1.0, 0.0], [4, 10])
    >>> score = np.r_[9.0, 8, 6, 1, 7, 5, 4, 3, 2, np.zeros(5)]
    >>> float(sensitivity(score, y, np.ones(14)))
    0.75
    """
    order = np.argsort(-logit, kind='stable')
    last = np.append(np.diff(logit[order]) < 0, True)
    true, false = (
        np.append(0, np.cumsum((weight * one)[order])[last] / (weight @ one)) for one in (y, 1 - y)
    )
    aim = 1 - SPECIFICITY + 1e-9
    here = np.searchsorted(false, aim, side='right') - 1
    if here == len(false) - 1:
        return true[here]
    part = (aim - false[here]) / (false[here + 1] - false[here])
    return true[here] + part * (true[here + 1] - true[here])


def net_benefit(probability: np.ndarray, y: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    r"""Net benefit of acting on probabilities of at least each threshold t [1]_, shape of ``thresholds``.

    .. math:: \frac{TP}{n} - \frac{FP}{n} \, \frac{t}{1 - t}

    References
    ----------
    .. [1] Vickers et al. (2019), Diagn Progn Res 3:18. doi:10.1186/s41512-019-0064-7

    >>> probability, y = np.array([0.9, 0.6, 0.4, 0.1]), np.array([1.0, 0, 1, 0])
    >>> net_benefit(probability, y, np.array([0.2, 0.5])).round(4).tolist()
    [0.4375, 0.0]
    """
    acted = probability >= thresholds[:, None]
    odds = thresholds / (1 - thresholds)
    return (acted @ y - odds * (acted @ (1 - y))) / len(y)


def _recalibrated(design: np.ndarray, offset: np.ndarray | float, y: np.ndarray, weight: np.ndarray) -> float:
    """First coefficient of a logistic regression; NaN where it grows without end."""
    beta = np.zeros(len(design))
    for _ in range(50):
        p = special.expit(offset + beta @ design)
        curve = (design * (weight * p * (1 - p))) @ design.T
        step = np.linalg.lstsq(curve, design @ (weight * (y - p)), rcond=None)[0]
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-7:
            return beta[0]
        if np.abs(beta).max() > _STEEPEST:
            break
    return np.nan


def intervals(
    values: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    dof: float,
    *,
    paired: float | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Estimates of all measures of each model with their intervals, and of the differences of two models.

    The whole cross-validation runs again in each resample of the participants, as the models vary with the
    sample too [1]_: with models that stay, intervals of 24 to 75 participants held the mean AUC of such
    models in 88 to 94 of 100 simulated cohorts only. Resamples have fewer repeats than the sample. The
    variance is

    .. math:: \mathrm{Var}_b(\bar v_b) - \overline{s^2_b} / r + s^2 / R,

    with the mean and the variance over r repeats in resample b, and the variance over R repeats in the sample
    itself. The interval is the estimate and t times its root; for AUC, PR-AUC and sensitivity on the scale of
    the logit, for the Brier score of the logarithm (by the delta method). Differences use the same resamples
    and splits for both models; their p is that of the same t.

    Parameters
    ----------
    values : dict of ndarray, shape (R, 6)
        `MEASURES` in each repeat.
    drawn : dict of ndarray, shape (b, r, 6)
        The same in each resample.
    dof : float
        Degrees of freedom of t.
    paired : float or None
        Variance of the difference of the AUC in place of that of resamples, see `paired.paired_variance`.

    Returns
    -------
    DataFrame
        Columns model, measure, estimate, ci_low, ci_high, p. Without an interval where resamples do not vary
        or many have no value, as where the labels are told without an error.

    References
    ----------
    .. [1] Bates et al. (2024), J Am Stat Assoc 119:1434. doi:10.1080/01621459.2023.2197686
    """
    rows = []
    for name, own in values.items():
        for j, what in enumerate(MEASURES):
            found = _interval(own[:, j], drawn[name][..., j], dof, level, *_SCALES.get(what, _PLAIN))
            rows.append((name, what, *found[:3], np.nan))
    if len(values) == 2:
        (base, full), (base_drawn, full_drawn) = values.values(), drawn.values()
        for j, what in enumerate(COMPARED):
            pair = full[:, j] - base[:, j], (full_drawn - base_drawn)[..., j]
            told = (
                _ends(pair[0].mean(), np.sqrt(paired), dof, level, *_PLAIN[:2])
                if what == 'auc' and paired is not None
                else _interval(*pair, dof, level, *_PLAIN)
            )
            rows.append(('difference', what, *told))
    return pd.DataFrame(rows, columns=['model', 'measure', 'estimate', 'ci_low', 'ci_high', 'p'])


def _same(value: float):
    return value


_Scale = tuple[Callable, Callable, Callable]
"""A function, its inverse and its derivative."""
_PLAIN: _Scale = (_same, _same, np.ones_like)
_LOGIT: _Scale = (special.logit, special.expit, lambda v: 1 / (v * (1 - v)))
_SCALES: dict[str, _Scale] = dict.fromkeys(('auc', 'pr_auc', 'sensitivity'), _LOGIT)
_SCALES |= {'brier': (np.log, np.exp, lambda v: 1 / v)}


def _interval(
    own: np.ndarray, drawn: np.ndarray, dof: float, level: float, to: Callable, back: Callable, rate: Callable
):
    """Estimate, low, high, and p of zero."""
    estimate, there = own.mean(), np.isfinite(drawn).all(1)
    if not np.isfinite(estimate) or there.mean() < 0.9:
        return estimate, np.nan, np.nan, np.nan
    drawn = drawn[there]
    variance = drawn.mean(1).var(ddof=1) - drawn.var(1, ddof=1).mean() / drawn.shape[1]
    variance += own.var(ddof=1) / len(own)
    with np.errstate(divide='ignore', invalid='ignore'):
        # resamples of a good classifier are slightly worse, and vary more
        se = np.sqrt(variance) * rate(drawn.mean())
    return _ends(estimate, se, dof, level, to, back)


def _ends(estimate: float, se: float, dof: float, level: float, to: Callable, back: Callable):
    """Estimate, low, high, and p of zero; ``se`` is on the scale ``to``."""
    with np.errstate(divide='ignore', invalid='ignore'):
        middle = to(estimate)
    if not (np.isfinite(middle) and np.isfinite(se) and se > 0):
        return estimate, np.nan, np.nan, np.nan
    half = special.stdtrit(dof, (1 + level) / 2) * se
    return estimate, back(middle - half), back(middle + half), 2 * special.stdtr(dof, -abs(middle / se))


def curves(predictions: Predictions, *, n_boot: int = 500, seed: int = 0) -> pd.DataFrame:
    """ROC, precision-recall, decision and calibration curves.

    ROC: true positive rate over false positive rate. PR: precision over recall. Both are of all units
    together, for curves without the steps of small folds, and means over repeats; the area can differ
    slightly from the AUC, which compares units of one fold. Decision: net benefit over the threshold of the
    probability. Calibration: share of positive units over their mean predicted probability, in bins of as
    many units, with a bootstrap interval over participants.

    Returns
    -------
    DataFrame
        Columns curve (roc, pr, decision, calibration), x, y, low, high, n (units of a bin).
    """
    y = predictions.y
    roc = np.mean([_roc(logit, y) for logit in predictions.logit], 0)
    precision = np.mean([_precision(logit, y) for logit in predictions.logit], 0)
    benefit = np.mean([net_benefit(special.expit(logit), y, GRID[1:-1]) for logit in predictions.logit], 0)
    parts = [
        pd.DataFrame({'curve': 'roc', 'x': GRID, 'y': roc}),
        pd.DataFrame({'curve': 'pr', 'x': GRID[1:], 'y': precision}),
        pd.DataFrame({'curve': 'decision', 'x': GRID[1:-1], 'y': benefit}),
        _bins(predictions, bootstrap_weights(predictions.person.max() + 1, n_boot, seed)),
    ]
    return pd.concat(parts, ignore_index=True).reindex(columns=['curve', 'x', 'y', 'low', 'high', 'n'])


def _roc(score: np.ndarray, y: np.ndarray):
    """True positive rate at each false positive rate of the grid."""
    order = np.argsort(-score, kind='stable')
    last = np.append(np.diff(score[order]) < 0, True)
    true, false = (np.append(0, np.cumsum(one[order])[last] / one.sum()) for one in (y, 1 - y))
    return true[np.searchsorted(false, GRID + 1e-9, side='right') - 1]


def _precision(score: np.ndarray, y: np.ndarray):
    """Precision at each recall of the grid above 0, by the fewest units that reach it."""
    order = np.argsort(-score, kind='stable')
    last = np.append(np.diff(score[order]) < 0, True)
    true = np.cumsum(y[order])[last]
    precision = true / (np.flatnonzero(last) + 1)
    return precision[np.searchsorted(true / true[-1], GRID[1:] - 1e-9)]


def _bins(predictions: Predictions, weights: np.ndarray):
    p = predictions.probability
    place = np.argsort(np.argsort(p, kind='stable'), kind='stable')
    n_bins = int(np.clip(len(p) // _LEAST, 1, _BINS))
    bins = place * n_bins // len(p)
    rows = []
    for number in range(n_bins):
        here = bins == number
        count, positive = (
            np.bincount(predictions.person[here], w, weights.shape[1]) for w in (None, predictions.y[here])
        )
        drawn = weights @ count
        share = (weights @ positive)[drawn > 0] / drawn[drawn > 0]
        low, high = np.quantile(share, [0.025, 0.975])
        rows.append(('calibration', p[here].mean(), predictions.y[here].mean(), low, high, here.sum()))
    return pd.DataFrame(rows, columns=['curve', 'x', 'y', 'low', 'high', 'n'])
