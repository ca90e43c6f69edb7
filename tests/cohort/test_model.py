import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from bids_qsm.cohort.inference import noncentrality
from bids_qsm.cohort.model import COLUMNS, RESIDUALS, dictionary, fit_models
from bids_qsm.errors import UserError
from tests.cohort.people import cohort, known, values


@pytest.fixture(scope='module')
def long():
    return cohort(hemispheres=('L', 'R', 'both'), maps=('chi', 'R2star'))


@pytest.fixture(scope='module')
def found(long):
    return fit_models(long, 'chi ~ group + age + sex')


def row(table, term, region='GP', level=None):
    rows = table[(table['region'] == region) & (table['hemisphere'] == 'both') & (table['term'] == term)]
    return rows.iloc[0] if level is None else rows.set_index('level').loc[level]


def test_one_observation_each_is_least_squares(long, found):
    table, residuals, notes = found
    assert list(table) == COLUMNS
    assert list(residuals) == RESIDUALS
    assert not notes
    theirs = smf.ols('y ~ group + age + sex', known(long).assign(y=values(long))).fit()
    for term, name in (('group', 'group[T.patient]'), ('age', 'age'), ('sex', 'sex[T.M]')):
        ours = row(table, term)
        wanted = [theirs.params[name], theirs.bse[name], *theirs.conf_int().loc[name], theirs.pvalues[name]]
        np.testing.assert_allclose(ours[['estimate', 'se', 'ci_low', 'ci_high', 'p']].astype(float), wanted)
        assert (ours['method'], ours['n_participants'], ours['dof']) == ('ordinary least squares', 24, 20)
    assert row(table, 'group')['level'] == 'patient - control'
    assert row(table, 'group')['units'] == 'ppm'
    assert row(table, 'age')['units'] == 'ppm per age'
    both = residuals[(residuals['region'] == 'GP') & (residuals['hemisphere'] == 'both')]
    np.testing.assert_allclose(both['residual'], theirs.resid, atol=1e-12)
    assert set(table['map']) == {'chi'}


def test_effect_sizes(long, found):
    table = found[0]
    data = known(long).assign(y=values(long))
    theirs = smf.ols('y ~ group + age + sex', data).fit()
    g = row(table, 'group')
    assert g['effect_name'] == 'Hedges g'
    raw = theirs.params['group[T.patient]'] / np.sqrt(theirs.scale)
    np.testing.assert_allclose(g['effect'], raw * (1 - 3 / (4 * 20 - 1)), rtol=2e-3)
    assert g['effect_low'] < g['effect'] < g['effect_high']
    r = row(table, 'age')
    assert r['effect_name'] == 'partial r'
    x = smf.ols('age ~ group + sex', data).fit().resid
    y = smf.ols('y ~ group + sex', data).fit().resid
    np.testing.assert_allclose(r['effect'], np.corrcoef(x, y)[0, 1])


def test_false_discovery_rate_is_over_regions(found):
    table = found[0]
    for _, part in table.groupby(['hemisphere', 'term']):
        assert len(part) == 3
        np.testing.assert_allclose(part['p_fdr'], multipletests(part['p'], method='fdr_bh')[1])


@pytest.mark.parametrize('repeat', [{'sessions': 2}, {'runs': 2}])
def test_repeats_are_a_random_intercept(repeat):
    long = cohort(**repeat)
    table, residuals, notes = fit_models(long, 'chi ~ group + age')
    rows = long[long['region'] == 'GP']
    theirs = smf.mixedlm('y ~ group + age', rows.assign(y=100 * rows['mean']), groups='participant_id').fit()
    ours = row(table, 'group')
    np.testing.assert_allclose(100 * ours['estimate'], theirs.params['group[T.patient]'], rtol=1e-4)
    # balanced: the correction for small samples is in the degrees of freedom alone
    np.testing.assert_allclose(100 * ours['se'], theirs.bse['group[T.patient]'], rtol=2e-2)
    assert ours['dof'] == pytest.approx(21)
    assert (ours['n_participants'], ours['n_observations']) == (24, 48)
    assert 'random intercept' in ours['method']
    assert len(residuals) == 3 * 48
    assert not notes


def test_runs_are_averaged_where_sessions_repeat_too():
    long = cohort(8, sessions=2, runs=2)
    table, _, notes = fit_models(long, 'chi ~ group + session_id')
    assert any('averaged' in note for note in notes)
    assert set(table['n_observations']) == {16}
    assert row(table, 'session_id')['level'] == 'ses-2 - ses-1'


def test_several_levels_and_curves_are_tested_jointly(long):
    three = long.assign(group=long['group'].mask(long['participant_id'] < 'sub-006', 'other'))
    table, _, _ = fit_models(three, 'chi ~ group + cr(age, df=3)')
    data = known(three).assign(y=values(three))
    theirs = smf.ols("y ~ group + cr(age, df=3, constraints='center')", data).fit()
    for term, name in (('group', 'group'), ('cr(age, df=3)', "cr(age, df=3, constraints='center')")):
        joint = row(table, term, level='joint')
        test = theirs.wald_test_terms(scalar=True).table.loc[name]
        np.testing.assert_allclose(joint[['statistic', 'p']].astype(float), test[['statistic', 'pvalue']])
        assert joint['effect_name'] == 'partial eta squared'
        assert np.isnan(joint['estimate'])
    assert set(table.loc[table['term'] == 'group', 'level']) == {
        'other - control', 'patient - control', 'joint',
    }  # fmt: skip
    assert set(table.loc[table['term'] == 'cr(age, df=3)', 'level']) == {'joint'}


def test_missing_regions_and_covariates_are_said():
    long = cohort()
    lost = (long['region'] == 'SN') & (long['participant_id'] < 'sub-004')
    long.loc[lost, 'mean'] = np.nan
    long.loc[long['region'] == 'RN', 'mean'] = 0.1
    long.loc[long['participant_id'] == 'sub-010', 'age'] = np.nan
    long.loc[(long['region'] == 'GP') & (long['participant_id'] == 'sub-011'), 'coverage'] = 0.2
    table, _, notes = fit_models(long, 'chi ~ group + age')
    assert row(table, 'age', 'SN')['n_participants'] == 19
    assert row(table, 'age', 'GP')['n_participants'] == 22
    assert 'RN' not in set(table['region'])
    for said in ('RN both: the values are constant', '1 participant without age', '50%'):
        assert any(said in note for note in notes), said


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'group': 'control'}, 'no term is left'),
        ({'group': lambda t: t['participant_id']}, 'no observation has a value'),
        ({'group': np.nan}, 'group is empty'),
        ({'mean': np.nan}, 'no observation has a value'),
        ({'mean': 'text'}, 'no observation has a value'),
        ({'mean': lambda t: 0.1 * (t['group'] == 'patient')}, 'determine the values'),
    ],
)
def test_nothing_to_fit_is_said_never_raised(change, said):
    table, residuals, notes = fit_models(cohort(6).assign(**change), 'chi ~ group')
    assert table.empty
    assert list(table) == COLUMNS
    assert residuals.empty
    assert any(said in note for note in notes), notes


def test_too_few_participants():
    table, _, notes = fit_models(cohort(4), 'chi ~ group + age + sex + score')
    assert table.empty
    assert any('too few' in note for note in notes)


def test_two_acquisitions_are_said():
    long = cohort(sessions=2).assign(acquisition=lambda t: t['session_id'].map({'ses-1': 'a', 'ses-2': 'b'}))
    notes = fit_models(long, 'chi ~ group')[2]
    assert any('acquisition (a, b)' in note for note in notes)


def test_numbers_that_stand_for_two_groups_have_a_standardised_difference(long):
    coded = long.assign(group=(long['group'] == 'patient').astype(int))
    one = row(fit_models(long, 'chi ~ group')[0], 'group')
    other = row(fit_models(coded, 'chi ~ group')[0], 'group')
    assert other['level'] == '1 - 0'
    assert other['units'] == 'ppm'
    np.testing.assert_allclose(other['effect'], one['effect'])


@pytest.mark.parametrize(
    ('formula', 'said'),
    [
        ('chi ~ weight', 'weight, which the tables lack; there are'),
        ('T1 ~ age', 'there are R2star, chi'),
        ('age', 'no left side'),
        ('chi ~ exp(age)', 'calls exp'),
    ],
)
def test_user_errors(long, formula, said):
    with pytest.raises(UserError, match=said):
        fit_models(long, formula)


def test_unknown_statistic(long):
    with pytest.raises(UserError, match="no statistic 'mode'; there are"):
        fit_models(long, 'chi ~ group', statistic='mode')


def test_every_column_is_described():
    assert list(dictionary()) == COLUMNS
    assert set(pd.DataFrame(dictionary()).loc['Description'].str.len() > 3) == {True}


@pytest.mark.parametrize('runs', [1, 2])
def test_acquisitions_of_a_session_are_no_runs(runs):
    long = cohort(12, sessions=2, runs=runs)
    own = np.where(long['region'] == 'GP', 0.02, 0.0)
    both = pd.concat(
        [long.assign(acquisition='a'), long.assign(acquisition='b', mean=long['mean'] + own)],
        ignore_index=True,
    )
    table, _, notes = fit_models(both, 'chi ~ group + acquisition')
    found = row(table, 'acquisition')
    assert found['level'] == 'b - a'
    assert found['estimate'] == pytest.approx(0.02)
    assert found['n_observations'] == 12 * 2 * 2
    assert not any('acquisition' in note for note in notes)
    assert any('add acquisition' in note for note in fit_models(both, 'chi ~ group')[2])


def test_codes_of_groups_are_levels_and_no_slope(long):
    codes = long['group'].map({'control': 1, 'patient': 3}).mask(long['participant_id'] < 'sub-006', 2)
    table = fit_models(long.assign(group=codes), 'chi ~ group + age')[0]
    assert set(table.loc[table['term'] == 'group', 'level']) == {'2 - 1', '3 - 1', 'joint'}
    levels = set(fit_models(long.assign(group=codes), 'chi ~ group', controls='3')[0]['level'])
    assert levels == {'1 - 3', '2 - 3', 'joint'}


def test_a_difference_of_differences_has_the_unit_of_the_map(long):
    found = row(fit_models(long, 'chi ~ group * sex')[0], 'group:sex')
    assert found['units'] == 'ppm'
    assert found['effect_name'] == 'partial r'
    slope = row(fit_models(long, 'chi ~ group * center(age)')[0], 'group:center(age)')
    assert slope['units'] == 'ppm per group:center(age)'


def test_the_interval_of_an_effect_size_is_corrected_as_the_effect_is():
    found = row(fit_models(cohort(8), 'chi ~ group')[0], 'group')
    per_sd = found['effect'] / found['statistic']
    ends = np.array(noncentrality(found['statistic'], found['dof'])) * per_sd
    np.testing.assert_allclose(found[['effect_low', 'effect_high']].astype(float), ends)


def test_residuals_of_a_mixed_model_hold_the_intercepts():
    long = cohort(sessions=2)
    table, residuals, _ = fit_models(long, 'chi ~ group')
    gp = residuals[residuals['region'] == 'GP']
    assert gp['fitted'].round(9).nunique() == 2
    ends = gp.groupby('fitted')['fitted'].first().diff().iloc[-1]
    assert ends == pytest.approx(row(table, 'group')['estimate'])
    np.testing.assert_allclose(gp['fitted'] + gp['residual'], long[long['region'] == 'GP']['mean'])


def beside(long, *, region='SN', neighbour='GP', reach=0.02):
    """A region whose mean holds a share ``reach`` of its neighbour, and the column that says so."""
    keys = [c for c in ('participant_id', 'session_id', 'hemisphere', 'map') if c in long]
    strong = long[long['region'] == neighbour].set_index(keys)['mean']
    mine = long['region'] == region
    spill = reach * strong.loc[pd.MultiIndex.from_frame(long.loc[mine, keys])].to_numpy()
    found = long.assign(border_effect=0.0)
    found.loc[mine, 'border_effect'] = spill
    found.loc[mine, 'mean'] += spill
    return found


def test_an_effect_of_a_neighbour_widens_the_interval(long):
    strong = long.copy()
    ill = (strong['region'] == 'GP') & (strong['group'] == 'patient')
    strong.loc[ill, 'mean'] += 0.5
    plain = row(fit_models(strong, 'chi ~ group + age')[0], 'group', 'SN')
    assert plain['se_border'] == 0
    spilt = beside(strong)
    table = fit_models(spilt, 'chi ~ group + age')[0]
    found = row(table, 'group', 'SN')
    unknown = row(fit_models(spilt.assign(border_effect=0.0), 'chi ~ group + age')[0], 'group', 'SN')
    # a share of .02 of an effect of .5 ppm and more
    np.testing.assert_allclose(found['se_border'], found['estimate'] - plain['estimate'])
    assert found['se_border'] > 0.01
    np.testing.assert_allclose(found['se'], np.hypot(unknown['se'], found['se_border']))
    np.testing.assert_allclose(found['statistic'], found['estimate'] / found['se'])
    assert found['ci_low'] < plain['estimate'] < found['ci_high']
    # the neighbour's own effect is as certain as before
    assert row(table, 'group', 'GP')['se_border'] == 0
    # means of cores do not reach the border
    cores = fit_models(spilt.assign(core_mean=strong['mean']), 'chi ~ group', statistic='core_mean')[0]
    assert (cores['se_border'] == 0).all()


def test_joint_tests_count_the_border(long):
    three = beside(long.assign(site=long['participant_id'].str[-1].map(lambda n: f's{int(n) % 3}')))
    three.loc[three['region'] == 'SN', 'border_effect'] *= three['site'].map({'s0': 0, 's1': 20, 's2': -20})
    term = row(fit_models(three, 'chi ~ site')[0], 'site', 'SN', 'joint')
    plain = row(fit_models(three.assign(border_effect=0.0), 'chi ~ site')[0], 'site', 'SN', 'joint')
    assert term['p'] > plain['p']


def test_the_border_counts_in_mixed_models():
    long = beside(cohort(sessions=2))
    found = row(fit_models(long, 'chi ~ group + session_id')[0], 'group', 'SN')
    plain = row(fit_models(long.assign(border_effect=0.0), 'chi ~ group + session_id')[0], 'group', 'SN')
    assert 'mixed' in found['method']
    np.testing.assert_allclose(found['se'], np.hypot(plain['se'], found['se_border']))
    np.testing.assert_allclose(found['dof'], plain['dof'])


def test_what_differs_between_people_alone_is_no_error_of_a_change():
    """Some come back once, and the border makes the same of both visits."""
    long = cohort(sessions=2)
    who = long['participant_id']
    seldom = sorted(set(who))[::3]
    long = long[(long['session_id'] == 'ses-1') | who.isin(seldom)].reset_index(drop=True)
    own = dict(zip(sorted(set(who)), np.random.default_rng(3).normal(0, 0.02, who.nunique()), strict=True))
    # people differ much more than their visits
    long['mean'] += 5 * long['participant_id'].map(own)
    table = fit_models(
        long.assign(border_effect=long['participant_id'].map(own)), 'chi ~ group + session_id'
    )[0]
    assert row(table, 'session_id', 'SN')['se_border'] < 0.1 * row(table, 'session_id', 'SN')['se']
    assert row(table, 'group', 'SN')['se_border'] > 0.001


def test_correlations_are_not_made_smaller_by_the_border(long):
    spilt = long.assign(border_effect=0.0005 * long['age'].astype(float))
    for formula, term, level in (('chi ~ age', 'age', None), ('chi ~ age * group', 'age', None)):
        plain, found = (row(fit_models(part, formula)[0], term, 'GP', level) for part in (long, spilt))
        assert found['se'] > 1.05 * plain['se']
        columns = ['effect', 'effect_low', 'effect_high']
        np.testing.assert_allclose(found[columns].astype(float), plain[columns].astype(float), rtol=1e-6)
