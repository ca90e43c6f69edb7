"""ComBat against neuroCombat, on what it cannot do, and learned in some units for others."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat

from bids_qsm.cohort.combat import combat, learn


@pytest.fixture
def study():
    """90 people of three sites, 12 regions; the second site is shifted, the third is stretched."""
    rng = np.random.default_rng(3)
    n, k = 90, 12
    site = np.repeat([0, 1, 2], 30)
    x = np.column_stack([rng.random(n) < 0.5, rng.uniform(20, 70, n).round()]).astype(float)
    y = 0.1 + x @ [[0.01], [0.0005]] + 0.01 * rng.normal(size=(n, k))
    centre = 0.1 + x @ [[0.01], [0.0005]]
    y = np.where(site[:, None] == 2, centre + 1.5 * (y - centre), y) + 0.02 * (site[:, None] == 1)
    return y, site, x


def together(k):
    return [np.arange(k)]


def test_neurocombat_has_the_same_values(study):
    y, site, x = study
    known = pd.DataFrame({'site': site, 'group': x[:, 0], 'age': x[:, 1]})
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = neuroCombat(y.T.copy(), known, 'site', ['group'], ['age'])
    ours = combat(y, site, np.arange(90), x, together(12))
    np.testing.assert_allclose(ours.values, theirs['data'].T, atol=1e-7)
    spread = np.sqrt(theirs['estimates']['var.pooled']).ravel()
    np.testing.assert_allclose(ours.shift, theirs['estimates']['gamma.star'] * spread, atol=1e-7)
    np.testing.assert_allclose(ours.scale, np.sqrt(theirs['estimates']['delta.star']), atol=1e-6)


def test_planted_effects_are_found(study):
    y, site, x = study
    found = combat(y, site, np.arange(90), x, together(12))
    assert (found.shift[1] - found.shift[0]).mean() == pytest.approx(0.02, abs=0.002)
    assert found.scale[2].mean() / found.scale[0].mean() == pytest.approx(1.5, abs=0.1)
    error = found.shift[1] - found.shift[1].mean()
    assert error.std() < 2 * found.shift_se[1].mean()


def test_missing_values_stay_missing_and_others_hardly_change(study):
    y, site, x = study
    whole = combat(y, site, np.arange(90), x, together(12)).values
    gone = y.copy()
    gone[::7, 3] = np.nan
    found = combat(gone, site, np.arange(90), x, together(12)).values
    assert np.isnan(found[::7, 3]).all()
    assert np.isnan(found).sum() == np.isnan(gone).sum()
    there = np.isfinite(found)
    np.testing.assert_allclose(found[there], whole[there], atol=0.002)


def test_a_region_of_one_site_or_without_spread(study):
    y, site, x = study
    y[site != 0, 2] = np.nan
    y[:, 5] = 0.0
    found = combat(y, site, np.arange(90), x, together(12))
    np.testing.assert_array_equal(found.values[:, 2], y[:, 2])
    assert np.isnan(found.values[:, 5]).all()
    assert np.isfinite(np.delete(found.values, [2, 5], axis=1)).all()
    assert found.alone.nonzero()[0].tolist() == [2]
    assert found.faults[5] == 'the values do not vary about the model'


def test_few_regions_have_no_prior(study):
    y, site, x = study
    found = combat(y[:, :2], site, np.arange(90), x, together(2))
    np.testing.assert_allclose(found.shift, found.raw_shift)
    # with its own estimates each site has the common mean and spread, covariates equal
    again = combat(found.values, site, np.arange(90), x, together(2))
    np.testing.assert_allclose(again.raw_scale, 1, atol=0.05)


def test_a_region_whose_sites_cannot_be_told_apart_is_named(study):
    y, site, x = study
    # only patients of one site and controls of the others have it
    y[(x[:, 0] > 0) != (site == 1), 4] = np.nan
    found = combat(y, site, np.arange(90), x, together(12))
    assert 'cannot be told apart' in found.faults[4]
    assert (found.people[:, 4] > 0).all()
    assert np.isnan(found.values[:, 4]).all()


def test_regions_of_other_sites_have_their_own_prior(study):
    """Their shifts are relative to the mean of other sites."""
    y, site, x = study
    y[site == 2, :6] = np.nan
    found = combat(y, site, np.arange(90), x, together(12))
    alone = combat(y[:, :6], site, np.arange(90), x, together(6))
    np.testing.assert_allclose(found.shift[:, :6], alone.shift)


def test_those_who_travel_tell_the_shift():
    rng = np.random.default_rng(5)
    person = np.repeat(np.arange(30), 2)
    site = np.tile([0, 1], 30)
    own = 0.05 * rng.normal(size=(30, 6))
    y = own[person] + 0.002 * rng.normal(size=(60, 6)) + 0.01 * site[:, None]
    found = combat(y, site, person, np.zeros((60, 0)), together(6))
    assert (found.raw_shift[1] - found.raw_shift[0]) == pytest.approx(0.01 * np.ones(6), abs=0.002)
    # the error is that within participants, not that of 30 against 30 others (0.013)
    assert found.shift_se.max() < 0.001


def test_what_is_learned_holds_for_others_and_not_for_unseen_sites():
    rng = np.random.default_rng(1)
    site = np.repeat([0, 1, 2], 40)
    label = (rng.random(120) < np.array([0.8, 0.3, 0.5])[site]).astype(float)
    age = rng.uniform(20, 80, (120, 1))
    clean = 0.1 + 0.001 * age + 0.03 * label[:, None] + 0.01 * rng.normal(size=(120, 2))
    y = clean + 0.05 * (site == 1)[:, None]
    weight = np.where((np.arange(120) % 4 > 0) & (site < 2), 1.0, 0.0)
    effects = learn(y, site, age, label, weight)
    made = effects.apply(y, site, age)
    held = (weight == 0) & (site < 2)
    moved = made[held] - clean[held]
    assert abs(moved[site[held] == 1].mean() - moved[site[held] == 0].mean()) < 0.01
    np.testing.assert_array_equal(made[site == 2], y[site == 2])
    few = np.where((site == 1) & (weight.cumsum() < weight[site < 1].sum() + 6) | (site == 0), weight, 0.0)
    assert learn(y, site, age, label, few).scale[1].tolist() == [1, 1]
    # the label of those who are held out is not looked at
    other = np.where(weight > 0, label, 1 - label)
    np.testing.assert_array_equal(learn(y, site, age, other, weight).apply(y, site, age), made)
