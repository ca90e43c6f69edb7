"""Tell two classes of units apart with and without QSM features, in nested cross-validation.

A unit is what a row of the table stands for: a lesion or a participant. Participants are never split between
the units that a model is fitted to and those that it is tried on.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_qsm.cohort.paired import paired_variance
from bids_qsm.cohort.performance import Predictions, curves, intervals
from bids_qsm.cohort.resampling import bootstrap_weights
from bids_qsm.cohort.ridge import PENALTIES, concordance, fit, nested, scale

FOLDS = 5
FEWEST = 10
"""Fewest participants, and so units, with each class: for fewer the intervals were not tried."""
_FEWEST_ARRANGEMENTS = 1000
_REPEATS = 2
"""Repeats of the cross-validation in a resample."""


@dataclass(frozen=True)
class Units:
    """Units to be told apart.

    Attributes
    ----------
    table : DataFrame
        Columns that name the unit.
    y : ndarray of float, shape (n,)
        1 in the class ``positive``, 0 in ``negative``.
    person : ndarray of int, shape (n,)
        Number of the participant.
    x : DataFrame, n rows
        Features as numbers; NaN where missing.
    base, qsm : tuple of str
        Columns of ``x``; qsm may be empty.
    site : ndarray of int, shape (n,), optional
        Number of the site, whose shift and scale are taken away from the columns ``of_site`` of ``x``. They
        are learned in the units that a model is fitted to.
    of_site : tuple of str
    """

    table: pd.DataFrame
    y: np.ndarray
    person: np.ndarray
    x: pd.DataFrame
    positive: str
    negative: str
    base: tuple[str, ...]
    qsm: tuple[str, ...] = ()
    site: np.ndarray | None = None
    of_site: tuple[str, ...] = ()

    @property
    def models(self) -> dict[str, list[str]]:
        """Name of each model -> its features."""
        return {'base': [*self.base], **({'base + QSM': [*self.base, *self.qsm]} if self.qsm else {})}

    @property
    def by_participant(self) -> bool:
        """Whether all units of a participant are of one class."""
        positive = np.bincount(self.person, self.y)
        return bool(np.all((positive == 0) | (positive == np.bincount(self.person))))

    def strata(self, fold: np.ndarray) -> np.ndarray:
        """Number of the fold and site of each unit: only units of one fold and site are compared."""
        return fold if self.site is None else fold * (self.site.max() + 1) + self.site


@dataclass(frozen=True)
class Classified:
    """What `classify` found.

    Attributes
    ----------
    performance : DataFrame
        Columns model, measure, estimate, ci_low, ci_high, p.
    predictions : DataFrame
        ``Units.table`` with class, and mean predicted probability of each model.
    coefficients : DataFrame
        Columns model, feature, coefficient, ci_low, ci_high, same_sign, penalty.
    curves : DataFrame
        See `bids_qsm.cohort.performance.curves`, with the column model.
    models : dict
        Name of the model -> ndarray, shape (repeats * FOLDS, p + 1): intercept and coefficients per unit of
        each feature of the models that were tried.
    notes : list of str
    """

    performance: pd.DataFrame
    predictions: pd.DataFrame
    coefficients: pd.DataFrame
    curves: pd.DataFrame
    models: dict[str, np.ndarray]
    notes: list[str]


def classify(
    units: Units,
    *,
    repeats: int = 10,
    permutations: int = 999,
    n_boot: int = 400,
    seed: int = 0,
    n_jobs: int = 1,
) -> Classified:
    r"""Cross-validate logistic regression with the base features and with all features on the same splits.

    Each model is a pipeline: missing values become the mean, features are scaled by their standard deviation,
    and coefficients are shrunk by a ridge penalty. All of it is found in the units that the model is fitted
    to; the penalty is chosen in inner folds of these. The folds hold whole participants and have about as
    many positive units each.

    p of an AUC is the share of permutations of the labels whose AUC, in one repeat of the whole procedure, is
    larger than that of the first repeat with the true labels: :math:`p = (1 + b) / (1 + B)`, with ties broken
    at random. Where labels are
    the same within each participant, participants are permuted, each with the number of units that it has;
    else units within each participant [1]_.

    Where the effects of sites are taken away, the error of a shift is shared by all units of the site, those
    left out as well. Where labels are not spread alike over sites, a model could read the site from it, and
    so the label. So the AUC compares units of one site alone, and labels are permuted within sites; other
    measures, of all units together, count what sites tell.

    Parameters
    ----------
    units : Units
    repeats, permutations, n_boot
        Repeats of the outer cross-validation, two at least; permutations for each p; resamples of
        participants.
    seed
        Of the splits, permutations and resamples.
    n_jobs
        Threads; the result does not depend on it.

    Returns
    -------
    Classified

    References
    ----------
    .. [1] Winkler et al. (2015), NeuroImage 123:253. doi:10.1016/j.neuroimage.2015.05.092
    """
    n_people = units.person.max() + 1
    splits = [split(units.y, units.person, np.random.default_rng([seed, 1, r])) for r in range(repeats)]
    runs = {name: _crossed(units, columns, splits) for name, columns in units.models.items()}
    compared = units.strata(np.array([outer for outer, _ in splits]))
    predictions = {
        name: Predictions(logit, compared, units.y, units.person) for name, (logit, _) in runs.items()
    }
    values = {name: one.measure(np.ones(len(units.y))) for name, one in predictions.items()}
    with ThreadPoolExecutor(n_jobs) as pool:
        drawn = _resampled(units, splits[:_REPEATS], bootstrap_weights(n_people, n_boot, seed), pool)
        observed = {name: one[0, 0] for name, one in values.items()}
        p, notes = _permuted(units, observed, permutations, seed, pool)
    # with several units each, the jackknife is too sure: its intervals held the difference in 89 % of cohorts
    is_alone = len(units.y) == n_people
    paired = paired_variance(*predictions.values()) if len(predictions) == 2 and is_alone else None
    performance = intervals(values, drawn, n_people - 2, paired=paired)
    is_auc = performance['measure'] == 'auc'
    for name, value in p.items():
        performance.loc[is_auc & (performance['model'] == name), 'p'] = value
    table = units.table.assign(
        label=np.where(units.y > 0, units.positive, units.negative),
        **{f'p_{_word(name)}': one.probability for name, one in predictions.items()},
    )
    drawn = pd.concat(
        [curves(one, seed=seed).assign(model=name) for name, one in predictions.items()], ignore_index=True
    )
    coefficients = [
        _coefficients(units, columns, runs[name][1], n_boot=n_boot, seed=seed).assign(model=name)
        for name, columns in units.models.items()
    ]
    return Classified(
        performance,
        table.reset_index(drop=True),
        pd.concat(coefficients, ignore_index=True),
        drawn,
        {name: models for name, (_, models) in runs.items()},
        notes + _passed(units, splits),
    )


def _word(name: str):
    """A model in the name of a column."""
    return name.lower().replace(' + ', '_')


def deal(y: np.ndarray, person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put participants into `FOLDS` folds at random, with about as many positive and negative units in each.

    Participants in order of their positive and negative units are dealt in rounds, one to each fold. So no
    fold lacks a class, and folds differ between repeats however different the participants are.

    Parameters
    ----------
    y, person : ndarray, shape (n,)
        Class, and number of the participant.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    size = np.bincount(person)
    there = np.flatnonzero(size)
    positive = np.bincount(person, y)[there]
    order = there[np.lexsort((rng.random(len(there)), positive - size[there], -positive))]
    rounds = -(-len(order) // FOLDS)
    fold = np.empty(len(size), np.int64)
    fold[order] = rng.permuted(np.tile(np.arange(FOLDS), (rounds, 1)), axis=1).ravel()[: len(order)]
    return fold[person]


def split(y: np.ndarray, person: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Outer folds, shape (n,), and the inner folds of each, shape (FOLDS, n); see `ridge.nested`."""
    outer = deal(y, person, rng)
    inner = np.full((FOLDS, len(y)), -1)
    for fold in range(FOLDS):
        rest = outer != fold
        inner[fold, rest] = deal(y[rest], person[rest], rng)
    return outer, inner


def _crossed(units: Units, columns: Sequence[str], splits: list) -> tuple[np.ndarray, np.ndarray]:
    """Logits, shape (repeats, n), and the models of all folds."""
    x = _array(units, columns)
    found = [_nested(units, columns, x, units.y, np.ones(len(x)), inner) for _, inner in splits]
    return np.array([logit for logit, *_ in found]), np.concatenate([models for _, models, _ in found])


def _nested(
    units: Units,
    columns: Sequence[str],
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    inner: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`ridge.nested`, with the effects of sites learned in the units outside of each outer fold."""
    if units.site is None:
        return nested(x, y, weight, inner, PENALTIES)
    parts = []
    for fold in inner:
        made = _without_site(units, columns, x, y, weight * (fold >= 0))
        parts.append(nested(made, y, weight, fold[None], PENALTIES))
    logits, models, chosen = zip(*parts, strict=True)
    # each has logits of its own fold, and zeros elsewhere
    return np.sum(logits, axis=0), np.concatenate(models), np.concatenate(chosen)


def _without_site(units: Units, columns: Sequence[str], x: np.ndarray, y: np.ndarray, weight: np.ndarray):
    """Features less the effects of sites that the units with a weight show."""
    from bids_qsm.cohort.combat import learn

    mine = np.array([c in units.of_site for c in columns])
    if units.site is None or not mine.any() or not 0 < weight @ y < weight.sum():
        return x
    known = units.x[[c for c in units.base if c not in units.of_site]].to_numpy(float)
    there = np.isfinite(known) & (weight > 0)[:, None]
    total = np.where(there, weight[:, None], 0).sum(0)
    mean = np.where(there, known * weight[:, None], 0).sum(0) / np.maximum(total, 1e-300)
    known = np.where(np.isfinite(known), known, mean)
    made = x.copy()
    effects = learn(x[:, mine], units.site, known, y, weight)
    made[:, mine] = effects.apply(x[:, mine], units.site, known)
    return made


def _passed(units: Units, splits: list) -> list[str]:
    """Notes on folds in which a site had too few units to learn its effect from."""
    if units.site is None:
        return []
    from bids_qsm.cohort.combat import LEARNED, SCALED

    trained = [
        np.bincount(units.site[fold >= 0], minlength=units.site.max() + 1)
        for _, inner in splits
        for fold in inner
    ]
    few, some = (sum(bool((one < least).any()) for one in trained) for least in (LEARNED, SCALED))
    notes = []
    if few:
        notes.append(
            f'In {few} of {len(trained)} folds a site had fewer than {LEARNED} units to learn its effect '
            'from; its units passed without harmonisation.'
        )
    if some:
        notes.append(
            f'In {some} of {len(trained)} folds a site had fewer than {SCALED} units to learn its scale '
            'from; only its shift was taken away.'
        )
    return notes


def _array(units: Units, columns: Sequence[str]):
    return np.ascontiguousarray(units.x[[*columns]].to_numpy(float))


def _resampled(units: Units, splits: list, weights: np.ndarray, pool: Executor) -> dict[str, np.ndarray]:
    """Measures of each model in the whole procedure on resamples of participants, shape (b, r, 6).

    A participant that is drawn twice stays in one fold.
    """
    arrays = {name: _array(units, columns) for name, columns in units.models.items()}
    outer = units.strata(np.array([fold for fold, _ in splits]))

    def one(drawn: np.ndarray) -> list[np.ndarray]:
        weight = drawn[units.person]
        found = []
        for name, x in arrays.items():
            columns = units.models[name]
            logit = np.array([_nested(units, columns, x, units.y, weight, inner)[0] for _, inner in splits])
            found.append(Predictions(logit, outer, units.y, units.person).measure(weight))
        return found

    found = np.array(list(pool.map(one, weights)))
    return {name: found[:, j] for j, name in enumerate(arrays)}


def _permuted(units: Units, observed: dict[str, float], permutations: int, seed: int, pool: Executor):
    """p of each model, and notes on what was permuted."""
    arrays = {name: _array(units, columns) for name, columns in units.models.items()}
    by_participant, ones = units.by_participant, np.ones(len(units.y))

    def one(number: int) -> list[float]:
        rng = np.random.default_rng([seed, 2, number])
        y = shuffle(units.y, units.person, rng, by_participant=by_participant, site=units.site)
        outer, inner = split(y, units.person, rng)
        outer = units.strata(outer)
        logits = (_nested(units, units.models[name], x, y, ones, inner)[0] for name, x in arrays.items())
        return [concordance(logit, outer, y, units.person, ones) for logit in logits]

    drawn = np.array(list(pool.map(one, range(permutations)))).reshape(-1, len(arrays))
    # an AUC of few pairs has few values; ties that all counted would make the test timid
    chance = 1e-9 * np.random.default_rng([seed, 4]).random((permutations + 1, len(arrays)))
    beyond = (drawn + chance[1:] > np.array(list(observed.values())) + chance[0]).sum(0)
    p = dict(zip(observed, (1 + beyond) / (1 + permutations), strict=True))
    notes = []
    if units.site is not None:
        notes.append(
            'AUC compares units of one site, and its p permutes labels within sites; other measures are of '
            'all sites together and count what the site tells of the label.'
        )
    if by_participant:
        return p, ['All units of a participant have one label, so p of an AUC permutes participants.', *notes]
    notes += [
        'Labels differ within participants, so p of an AUC permutes the labels of units within each '
        'participant: it tests what tells units of the same person apart.'
    ]
    if _arrangements(units) < _FEWEST_ARRANGEMENTS:
        notes.append('Few participants have both labels, so p of an AUC cannot become small.')
    return p, notes


def shuffle(
    y: np.ndarray,
    person: np.ndarray,
    rng: np.random.Generator,
    *,
    by_participant: bool,
    site: np.ndarray | None = None,
) -> np.ndarray:
    """Permute labels between participants, or between the units of each participant; within sites."""
    if by_participant:
        label, place = np.zeros(person.max() + 1), np.zeros(person.max() + 1, int)
        label[person] = y
        if site is not None:
            place[person] = site
        return _within(label, place, rng)[person]
    return _within(y, person if site is None else person * (site.max() + 1) + site, rng)


def _within(y: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute labels within each group."""
    # the positive labels go to those with the smallest random numbers
    by_chance, by_label = np.lexsort((rng.random(len(y)), group)), np.lexsort((-y, group))
    found = np.empty_like(y)
    found[by_chance] = y[by_label]
    return found


def _arrangements(units: Units) -> float:
    """Number of different arrangements of the labels within participants."""
    from scipy.special import comb

    return float(np.prod(comb(np.bincount(units.person), np.bincount(units.person, units.y))))


def _coefficients(units: Units, columns: Sequence[str], models: np.ndarray, *, n_boot: int, seed: int):
    """Coefficients of the model of all units, with percentiles of resamples of participants.

    The penalty is chosen in one more cross-validation and stays in the resamples.
    """
    x, y = _array(units, columns), units.y
    x = _without_site(units, columns, x, y, np.ones(len(y)))
    folds = deal(y, units.person, np.random.default_rng([seed, 3]))
    # one outer fold that leaves nobody out
    _, _, (best,) = nested(x, y, np.ones(len(y)), folds[None], PENALTIES)
    penalty = PENALTIES[best]

    def fitted(weight: np.ndarray):
        z, _, _ = scale(x, weight)
        beta = np.zeros(len(columns) + 1)
        fit(z, y, weight, penalty, beta)
        return beta[1:]

    def resampled() -> Iterator[np.ndarray]:
        for drawn in bootstrap_weights(units.person.max() + 1, n_boot, seed):
            weight = drawn[units.person]
            if 0 < weight @ y < weight.sum():
                yield fitted(weight)

    found = fitted(np.ones(len(y)))
    low, high = np.quantile(np.array(list(resampled())), [0.025, 0.975], axis=0)
    alike = (np.sign(models[:, 1:]) == np.sign(found)).mean(0)
    return pd.DataFrame(
        {
            'feature': [*columns],
            'coefficient': found,
            'ci_low': low,
            'ci_high': high,
            'same_sign': alike,
            'penalty': penalty,
        }
    )
