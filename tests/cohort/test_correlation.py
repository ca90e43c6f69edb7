import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bids_qsm.cohort.correlation import (
    COLUMNS,
    DIFFERENCES,
    NBIA,
    compare_correlations,
    correlate,
    dictionary,
)
from bids_qsm.errors import UserError
from tests.cohort.people import cohort, known, values


@pytest.fixture(scope='module')
def long():
    """The score goes with GP, not with the others, and with age."""
    table = cohort(30)
    people = known(table)
    noise = np.random.default_rng(1).normal(0, 1, 30)
    score = 60 * values(table) + 0.05 * people['age'] + 0.5 * noise
    return table.assign(dystonia=table['participant_id'].map(score), parkinsonism=lambda t: -t['dystonia'])


def test_correlation_of_each_region(long):
    table, notes = correlate(long, 'dystonia', n_boot=500)
    assert list(table) == COLUMNS
    assert not notes
    for _, row in table.iterrows():
        r, p = stats.pearsonr(known(long)['dystonia'], values(long, row['region']))
        np.testing.assert_allclose((row['r'], row['p']), (r, p), rtol=1e-8)
        assert row['ci_low'] < row['r'] < row['ci_high']
        assert row['n'] == 30
    np.testing.assert_allclose(table['p_fdr'], multipletests(table['p'], method='fdr_bh')[1])


def test_partial_correlation_takes_covariates_out_of_both(long):
    row = correlate(long, 'dystonia', covariates=['age', 'sex'], regions=['GP'], n_boot=200)[0].iloc[0]
    people = known(long)
    z = np.column_stack([np.ones(30), people['age'], people['sex'] == 'M']).astype(float)
    x, y = (v - z @ np.linalg.lstsq(z, v, rcond=None)[0] for v in (people['dystonia'], values(long)))
    r = np.corrcoef(x, y)[0, 1]
    t = r * np.sqrt(26 / (1 - r**2))
    np.testing.assert_allclose((row['r'], row['p']), (r, 2 * stats.t.sf(t, 26)), rtol=1e-7)
    assert row['covariates'] == 'age + sex'


def test_repeats_are_one_point(long):
    twice = pd.concat([long.assign(session_id=s, mean=long['mean'] + d) for s, d in (('a', 1), ('b', -1))])
    table = correlate(twice, 'dystonia', n_boot=100)[0]
    np.testing.assert_allclose(table['r'], correlate(long, 'dystonia', n_boot=100)[0]['r'])
    assert set(table['n']) == {30}


def test_the_same_seed_gives_the_same_interval(long):
    one, same, other = (correlate(long, 'dystonia', n_boot=200, seed=s)[0]['ci_low'] for s in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


def test_differences_of_correlations(long):
    table, notes = compare_correlations(long, n_boot=1000)
    assert list(table) == DIFFERENCES
    assert not notes
    assert list(zip(table['column'], table['region_a'], table['region_b'], strict=True)) == list(NBIA)
    alone = correlate(long, 'dystonia', n_boot=100)[0].set_index('region')['r']
    first, second = table.iloc[0], table.iloc[1]
    np.testing.assert_allclose((first['r_a'], first['r_b']), alone[['GP', 'SN']])
    assert first['difference'] == pytest.approx(first['r_a'] - first['r_b'])
    assert 0 < first['ci_low'] < first['difference'] < first['ci_high']
    assert first['p'] < 0.05
    assert second['difference'] == pytest.approx(first['difference'])


def test_intervals_cover_the_truth():
    """Correlations .6 and .2 of one number with two regions that share .3."""
    rng = np.random.default_rng(5)
    mix = np.linalg.cholesky([[1, 0.6, 0.2], [0.6, 1, 0.3], [0.2, 0.3, 1]])
    frame = cohort(30)
    place = pd.factorize(frame['participant_id'])[0]
    hits = np.zeros(2)
    for seed in range(40):
        x, a, b = mix @ rng.normal(size=(3, 30))
        mean = np.where(frame['region'] == 'GP', a[place], b[place])
        long = frame.assign(mean=mean, dystonia=x[place])
        one = correlate(long, 'dystonia', regions=['GP'], n_boot=300, seed=seed)[0].iloc[0]
        two = compare_correlations(long, NBIA[:1], n_boot=300, seed=seed)[0].iloc[0]
        hits += one['ci_low'] <= 0.6 <= one['ci_high'], two['ci_low'] <= 0.4 <= two['ci_high']
    # three standard errors below 95 % of 40
    assert np.all(hits >= 33)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'dystonia': 3.0}, 'the column is constant'),
        ({'dystonia': np.nan}, '0 participants are too few'),
        ({'dystonia': lambda t: t['age'] * 2}, 'covariates determine the column'),
        ({'mean': 0.1}, 'the values are constant'),
        ({'mean': np.nan}, 'too few'),
        ({'age': np.nan}, 'age is empty'),
        ({'dystonia': lambda t: t['dystonia'].astype(object).where(t['sex'] == 'F', 'n.d.')}, 'text among'),
        ({'dystonia': lambda t: t['dystonia'].where(t['group'] == 'patient', 0)}, 'same in all of control'),
    ],
)  # fmt: skip
def test_what_cannot_be_correlated_is_said(long, change, said):
    changed = long.assign(**change)
    table, notes = correlate(changed, 'dystonia', covariates=['age'], n_boot=100)
    assert any(said in note for note in [*notes, *table['note']]), notes
    assert len(table) == 3
    pairs, _ = compare_correlations(changed, covariates=['age'], n_boot=100)
    assert len(pairs) == 2


def test_a_missing_region_leaves_out_its_participants_only(long):
    lost = (long['region'] == 'SN') & (long['participant_id'] < 'sub-005')
    cut = long.assign(mean=long['mean'].mask(lost))
    table = correlate(cut, 'dystonia', n_boot=100)[0].set_index('region')
    assert table['n'].to_dict() == {'GP': 30, 'SN': 25, 'RN': 30}
    assert compare_correlations(cut, n_boot=100)[0]['n'].tolist() == [25, 25]


def test_pairs_that_are_not_there_are_said(long):
    table, notes = compare_correlations(
        long, [('tremor', 'GP', 'SN'), ('dystonia', 'GP', 'Dentate')], n_boot=100
    )
    assert table.empty
    assert 'no tremor' in notes[0]
    assert 'no Dentate' in notes[1]


@pytest.mark.parametrize(
    ('column', 'options', 'said'),
    [
        ('weight', {}, "no column 'weight' .* numbers are age"),
        ('sex', {}, 'holds text'),
        ('score', {'covariates': ['weight']}, 'weight, which'),
        ('score', {'regions': ['Dentate']}, 'no region Dentate; there are GP, RN, SN'),
    ],
)
def test_user_errors(long, column, options, said):
    with pytest.raises(UserError, match=said):
        correlate(long, column, **options)


def test_every_column_is_described():
    assert set(dictionary()) == {*COLUMNS, *DIFFERENCES}


def test_acquisitions_that_are_averaged_are_said(long):
    both = pd.concat([long.assign(acquisition=a) for a in 'ab'], ignore_index=True)
    for notes in (correlate(both, 'dystonia', n_boot=50)[1], compare_correlations(both, n_boot=50)[1]):
        assert any('acquisition (a, b)' in note for note in notes)
