"""Classifiers on tables whose separability in the population is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from bids_qsm.cohort.classify import FOLDS, _nested, classify, deal, shuffle, split
from bids_qsm.cohort.performance import MEASURES, Predictions, average_precision, curves
from bids_qsm.cohort.units import make_units
from bids_qsm.phantom.classes import Population

QUICK = {'repeats': 2, 'permutations': 19, 'n_boot': 40}
STRONG = Population(base=(0.5,), qsm=(2.0,))
FORMULA = 'label ~ base_0 | qsm_0'


def units(table, formula=FORMULA):
    return make_units(table, formula)[0]


def rows(result, measure='auc'):
    return result.performance[result.performance['measure'] == measure].set_index('model')


@pytest.fixture(scope='module')
def participants():
    return units(STRONG.draw(3, people=(30, 25)))


@pytest.fixture(scope='module')
def found(participants):
    return classify(participants, **QUICK)


def test_known_aucs_lie_in_their_intervals(found):
    auc = rows(found)
    truth = {name: STRONG.auc(models[:, 1:]).mean() for name, models in found.models.items()}
    assert truth['base + QSM'] > 0.9 > 0.65 > truth['base']
    for name, true in truth.items():
        assert auc.loc[name, 'ci_low'] < true < auc.loc[name, 'ci_high']
    assert auc.loc['base + QSM', 'p'] == 0.05  # the least that 19 permutations give
    gain = auc.loc['difference']
    assert 0 < gain['ci_low'] < truth['base + QSM'] - truth['base'] < gain['ci_high']
    assert gain['p'] < 0.01
    assert list(rows(found, 'calibration_slope').index) == ['base', 'base + QSM']


def test_nobody_is_predicted_by_a_model_that_saw_them(participants):
    _, inner = split(participants.y, participants.person, np.random.default_rng(0))
    assert ((inner == -1).sum(0) == 1).all()


def test_threads_do_not_change_a_bit(participants, found):
    again = classify(participants, **QUICK, n_jobs=3)
    for name in ('performance', 'predictions', 'coefficients', 'curves'):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name), check_exact=True)
    other = classify(participants, **QUICK, seed=1)
    assert not other.performance.equals(found.performance)


def test_both_models_have_the_same_splits(participants):
    """A feature that does not vary adds nothing, not even a difference of the folds."""
    idle = replace(participants, x=participants.x.assign(qsm_0=1.0))
    result = classify(idle, repeats=2, permutations=1, n_boot=3)
    assert (result.predictions['p_base'] == result.predictions['p_base_qsm']).all()
    assert rows(result).loc['difference', 'estimate'] == 0
    assert np.isnan(rows(result).loc['difference', 'ci_low'])


def test_labels_told_without_an_error_have_no_interval(participants):
    told = replace(participants, x=participants.x.assign(qsm_0=participants.y))
    result = classify(told, repeats=2, permutations=1, n_boot=3)
    one = rows(result).loc['base + QSM']
    assert one['estimate'] == 1
    assert np.isnan(one['ci_low'])


def test_coefficients_have_their_sign_and_interval(found):
    table = found.coefficients.set_index(['model', 'feature'])
    one = table.loc['base + QSM', 'qsm_0']
    assert 0 < one['ci_low'] < one['coefficient'] < one['ci_high']
    assert one['same_sign'] == 1


@pytest.mark.parametrize('mixed', [False, True])
def test_folds_hold_whole_participants_and_both_labels(mixed):
    one = units(STRONG.draw(1, people=(20, 15), units=6, mixed=mixed))
    folds = [deal(one.y, one.person, np.random.default_rng(seed)) for seed in range(4)]
    for fold in folds:
        assert pd.Series(fold).groupby(one.person).nunique().max() == 1
        share = pd.Series(one.y).groupby(fold).sum()
        assert len(share) == FOLDS
        assert share.max() < 1.8 * share.min()
    assert len({tuple(fold) for fold in folds}) == 4


def test_labels_are_permuted_where_they_vary():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    y = (person % 2).astype(float)
    moved = [shuffle(y, person, rng, by_participant=True) for _ in range(20)]
    assert all(pd.Series(one).groupby(person).nunique().max() == 1 for one in moved)
    assert len({tuple(one) for one in moved}) > 10
    y = (np.arange(21) % 2).astype(float)
    moved = [shuffle(y, person, rng, by_participant=False) for _ in range(20)]
    assert all((np.bincount(person, one) == np.bincount(person, y)).all() for one in moved)
    assert len({tuple(one) for one in moved}) > 10


def test_labels_of_participants_with_several_units_can_be_tested():
    """Permuting within participants, as scikit-learn does with groups, would move nothing."""
    table = replace(STRONG, shared=0.5).draw(2, people=(12, 12), units=4)
    result = classify(units(table), **QUICK)
    assert rows(result).loc['base + QSM', 'p'] == 0.05
    assert 'permutes participants' in result.notes[0]


def test_labels_of_lesions_are_permuted_within_participants():
    table = replace(STRONG, shared=0.5).draw(2, people=(10, 10), units=4, mixed=True)
    result = classify(units(table), **QUICK)
    assert rows(result).loc['base + QSM', 'p'] == 0.05
    assert 'within each participant' in result.notes[0]


def test_average_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, score = (rng.random(50) < 0.4).astype(float), np.round(rng.normal(size=50), 1)
    weight = rng.integers(0, 3, 50).astype(float)
    expected = average_precision_score(y, score, sample_weight=weight)
    assert average_precision(score, y, weight) == pytest.approx(expected)


def test_right_probabilities_are_calibrated_and_their_curves_end_where_they_must():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, (1, 4000))
    y = (rng.random(4000) < 1 / (1 + np.exp(-logit[0]))).astype(float)
    one = Predictions(logit, np.zeros((1, 4000), int), y, np.arange(4000))
    found = dict(zip(MEASURES, one.measure(np.ones(4000))[0], strict=True))
    assert found['calibration_slope'] == pytest.approx(1, abs=0.1)
    assert found['calibration_intercept'] == pytest.approx(0, abs=0.1)
    drawn = curves(replace(one, logit=2 * logit), n_boot=20)
    roc = drawn[drawn['curve'] == 'roc']
    assert roc['y'].iloc[-1] == 1
    assert np.trapezoid(roc['y'], roc['x']) == pytest.approx(found['auc'], abs=0.01)
    bins = drawn[drawn['curve'] == 'calibration']
    assert (bins['low'] <= bins['y']).all()
    # too extreme: more positive units than said where few are said
    assert bins['y'].iloc[0] > bins['x'].iloc[0]
    assert one.measure(np.zeros(4000)).shape == (1, 6)
    at = roc.loc[roc['x'] <= 0.1 + 1e-9, 'y'].iloc[-1]
    assert found['sensitivity'] == pytest.approx(at, abs=0.02)
    # acting on all is as good as it can be at a low threshold
    benefit = drawn[drawn['curve'] == 'decision'].set_index('x')['y']
    assert benefit.iloc[0] == pytest.approx(y.mean(), abs=0.02)
    assert benefit.iloc[-1] < 0.02


def test_sites_are_learned_in_the_training_units_alone():
    """A shift of a site hides a feature, which shows again where it is taken away in folds."""
    table = STRONG.draw(3, people=(30, 30)).assign(site=['A', 'B', 'C'] * 20)
    table['qsm_0'] += 20.0 * (table['site'] == 'B')
    hidden = rows(classify(units(table), repeats=2, permutations=1, n_boot=4))
    made = make_units(table, FORMULA, site='site', of_site=['qsm_0'])[0]
    shown = classify(made, repeats=2, permutations=1, n_boot=4)
    assert hidden.loc['base + QSM', 'estimate'] < 0.85
    assert rows(shown).loc['base + QSM', 'estimate'] > 0.88
    # other labels of those who are left out change no model: nothing is learned from them
    outer, inner = split(made.y, made.person, np.random.default_rng(0))
    x, weight = made.x[['base_0', 'qsm_0']].to_numpy(), np.ones(60)
    y = np.where(inner[0] < 0, 1 - made.y, made.y)
    one, other = (_nested(made, ['base_0', 'qsm_0'], x, label, weight, inner[:1])[1] for label in (made.y, y))
    np.testing.assert_array_equal(one, other)
    assert (outer == 0).any()


def test_a_site_does_not_stand_in_for_the_label():
    """Labels are permuted within sites, and only units of one site are compared."""
    rng = np.random.default_rng(0)
    site, y = np.repeat([0, 1], 30), (np.arange(60) % 10 < np.repeat([1, 9], 30)).astype(float)
    person = np.arange(60)
    moved = [shuffle(y, person, rng, by_participant=True, site=site) for _ in range(10)]
    assert all(one[:30].sum() == y[:30].sum() for one in moved)
    assert len({tuple(one) for one in moved}) == 10
    table = STRONG.draw(3, people=(30, 30))
    patient = (table['label'] == 'patient').to_numpy()
    table['site'] = np.where(patient == (np.arange(60) % 30 < 24), 'A', 'B')
    table['base_0'] = table['qsm_0'] = rng.normal(size=60)
    table['base_0'] += 50.0 * (table['site'] == 'A')
    made = make_units(table, FORMULA, site='site', of_site=['qsm_0'])[0]
    plain = rows(classify(units(table), repeats=2, permutations=1, n_boot=3))
    within = rows(classify(made, repeats=2, permutations=1, n_boot=3))
    assert plain.loc['base', 'estimate'] > 0.7
    assert within.loc['base', 'estimate'] < 0.65
