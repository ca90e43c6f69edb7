"""Harmonised tables of sites: what is kept, what is refused, and what tests of them say."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.harmonise import RAW, TIME, dictionary, harmonise
from bids_qsm.cohort.model import fit_models
from bids_qsm.errors import UserError
from tests.cohort.people import cohort

REGIONS = ('GP', 'SN', 'RN', 'Putamen')


def of_sites(long, sites=('A', 'B'), shift=0.02):
    """Give participants sites by turns of two, and shift the second."""
    who = long['participant_id'].str.removeprefix('sub-').astype(int)
    long = long.assign(site=np.array(sites)[(who // 2) % len(sites)])
    long.loc[long['site'] == sites[1], 'mean'] += shift
    return long


@pytest.fixture
def long():
    return of_sites(cohort(40, regions=REGIONS, hemispheres=('L', 'R', 'both')))


def difference(rows):
    """Of the sites, over all regions, with age and group equal."""
    both = rows[rows['hemisphere'] == 'both']
    wide = both.pivot(index='participant_id', columns='region', values='mean')
    known = both.drop_duplicates('participant_id').set_index('participant_id').loc[wide.index]
    x = np.column_stack(
        [
            np.ones(len(known)),
            known['site'] == 'B',
            known['group'] == 'patient',
            known['age'],
            known['sex'] == 'F',
        ]
    ).astype(float)
    return np.linalg.lstsq(x, wide.to_numpy(), rcond=None)[0]


def test_shifts_go_and_group_and_age_stay(long):
    found = harmonise(long, 'site')
    before, after = difference(long), difference(found.long)
    assert np.abs(after[1]).mean() < 0.1 * np.abs(before[1]).mean()
    np.testing.assert_allclose(after[2:4], before[2:4], rtol=0.1, atol=2e-3)
    assert (found.long[RAW] == long['mean']).all()
    assert 'median' not in found.long
    effects = found.effects
    assert set(effects) <= set(dictionary())
    own = effects[(effects['hemisphere'] == 'both') & (effects['site'] == 'B')]
    assert own['shift'].mean() == pytest.approx(0.01, abs=0.004)
    assert (own['effect_left'].abs() < 0.2).all()
    assert any('kept: group, age, sex' in note for note in found.notes)


def test_the_model_decides_what_is_kept(long):
    found = harmonise(long, 'site', model='chi ~ group * cr(age, df=3) + site')
    assert any('kept: group, age.' in note for note in found.notes)


def test_the_site_counts_in_the_model_and_has_no_row(long):
    values = harmonise(long, 'site').long
    table, _, notes = fit_models(values, 'chi ~ group + age + sex', nuisance='site')
    assert set(table['term']) == {'group', 'age', 'sex'}
    assert (table['dof'] == 40 - 5).all()
    assert any('site is in the model' in note for note in notes)
    # a shift of a site changes no estimate: only its scale does
    raw, _, _ = fit_models(long, 'chi ~ group + age + sex + site')
    keys = ['region', 'hemisphere', 'term']
    both = table.merge(raw, on=keys, suffixes=('', '_raw'))
    np.testing.assert_allclose(both['estimate'], both['estimate_raw'], atol=2e-3)


def test_no_more_false_positives_than_a_test_may_have():
    p = []
    for seed in range(8):
        long = cohort(40, seed=seed, effect=0.0, regions=REGIONS)
        who = long['participant_id'].str.removeprefix('sub-').astype(int)
        # four of five of the one site are patients, one of five of the other
        at_b = np.where(long['group'] == 'patient', who % 10 == 1, who % 10 != 0)
        long = long.assign(site=np.where(at_b, 'B', 'A'))
        long.loc[long['site'] == 'B', 'mean'] *= 1.2
        values = harmonise(long, 'site').long
        table = fit_models(values, 'chi ~ group + age + sex', nuisance='site')[0]
        p += list(table.loc[table['term'] == 'group', 'p'])
    assert np.mean(np.array(p) < 0.05) < 0.16


def test_repeated_visits_count_once_and_keep_time():
    long = of_sites(cohort(24, sessions=2, regions=REGIONS))
    long['acq_time'] = np.where(long['session_id'] == 'ses-1', '2020-01-01T10:00:00', '2022-01-01T10:00:00')
    long.loc[long['session_id'] == 'ses-2', 'mean'] += 0.004
    found = harmonise(long, 'site')
    assert (found.effects['n_participants'] == 12).all()
    assert any(TIME in note for note in found.notes)
    change = found.long.groupby('session_id')['mean'].mean().diff().iloc[-1]
    before = long.groupby('session_id')['mean'].mean().diff().iloc[-1]
    assert change == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda t: t.assign(site=np.where(t['group'] == 'patient', 'A', 'B')), 'all with group'),
        (lambda t: t.assign(site='A'), 'there are no two sites to harmonise, but only A'),
        (lambda t: t.assign(site=np.where(t['participant_id'] < 'sub-004', 'A', t['site'])), 'A (4)'),
        (
            lambda t: t.assign(
                group=np.where((t['group'] == 'patient') & (t['site'] == 'A'), 'third', t['group'])
            ),
            'all with group patient are of site B',
        ),
        (
            lambda t: t.assign(
                group=np.select([t['group'] == 'control', t['site'] == 'A', t['age'] > 45], [1, 2, 3], 1)
            ),
            'all with group 2 are of site A',
        ),
        (
            lambda t: t.assign(age=np.where(t['site'] == 'A', 30, 60) + t['age'] / 100),
            '% of the variance of age',
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_told_from_the_site_is_refused(long, change, said):
    table = change(long)
    if 'A (4)' in said:
        table.loc[table['participant_id'] >= 'sub-004', 'site'] = 'B'
    with pytest.raises(UserError) as refused:
        harmonise(table, 'site')
    assert said in str(refused.value)
    assert str(refused.value).startswith('--harmonise site')


def test_a_scanner_that_changed_between_visits_is_refused():
    long = cohort(24, sessions=2, regions=REGIONS)
    long['acq_time'] = np.where(long['session_id'] == 'ses-1', '2020-01-01T10:00:00', '2022-01-01T10:00:00')
    long['site'] = long['session_id'].map({'ses-1': 'old', 'ses-2': 'new'})
    with pytest.raises(UserError, match=r'of the variance of Q\('):
        harmonise(long, 'site')


def test_no_such_column(long):
    with pytest.raises(UserError, match=r'no such column; there are .*site'):
        harmonise(long, 'scanner')


def test_what_few_of_a_site_have_is_missing(long):
    thin = (long['region'] == 'RN') & (long['site'] == 'B') & (long['participant_id'] > 'sub-008')
    found = harmonise(long[~thin], 'site')
    rn = found.long[(found.long['region'] == 'RN')]
    assert rn.loc[rn['site'] == 'B', 'mean'].isna().all()
    assert (rn.loc[rn['site'] == 'A', 'mean'] == rn.loc[rn['site'] == 'A', RAW]).all()
    assert any('have RN' in note for note in found.notes)


def test_codes_of_sites_may_be_numbers_and_gaps_are_said(long):
    long['site'] = long['site'].map({'A': 1, 'B': 2}).astype(float)
    long.loc[long['participant_id'] == 'sub-003', 'site'] = np.nan
    found = harmonise(long, 'site')
    assert set(found.effects['site']) == {'1', '2'}
    assert found.long.loc[long['participant_id'] == 'sub-003', 'mean'].isna().all()
    assert any('1 participants without site' in note for note in found.notes)
    assert isinstance(found.effects, pd.DataFrame)


def test_two_scanners_stay_two_where_their_numbers_are_long(long):
    long['site'] = long['site'].map({'A': 40123451, 'B': 40123452}).astype(float)
    long.loc[long['participant_id'] == 'sub-003', 'site'] = np.nan
    assert set(harmonise(long, 'site').effects['site']) == {'40123451', '40123452'}


def test_a_region_of_one_site_keeps_its_errors(long):
    long = long.assign(se=0.001, border_effect=0.002)
    found = harmonise(long[(long['region'] != 'RN') | (long['site'] == 'A')], 'site')
    rn = found.long[found.long['region'] == 'RN']
    assert (rn[['se', 'border_effect']] == [0.001, 0.002]).all(axis=None)
    said = ' '.join(found.notes)
    assert 'chi of RN was measured at one site alone and stays as it is' in said
    assert 'has no harmonised value' not in said


def test_the_column_of_the_groups_is_refused(long):
    with pytest.raises(UserError, match='its own effect would be taken away'):
        harmonise(long, 'group')


def test_sites_that_are_numbers_are_factors_of_the_model(long):
    who = long['participant_id'].str.removeprefix('sub-').astype(int)
    long = long.assign(site=1 + who // 2 % 3)
    for formula in ('chi ~ group', 'chi ~ group + site', 'chi ~ group + C(site)'):
        table = fit_models(long, formula, nuisance='site')[0]
        assert set(table['term']) == {'group'}
        assert (table['dof'] == 40 - 4).all()
    table = fit_models(long, 'chi ~ group:site', nuisance='site')[0]
    assert (table['dof'] == 40 - 6).all()
