"""Contrasts of stages: known changes, exact small-sample formulas, refusals in one sentence."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort import stages
from bids_qsm.cohort.tables import gather, join_participants, relative_to
from bids_qsm.errors import UserError
from bids_qsm.phantom.stages import Stages, draw_stages


@pytest.fixture(scope='module')
def drawn():
    return draw_stages(Stages(number=12, sites=2), 4)


@pytest.fixture(scope='module')
def long(drawn):
    return join_participants(gather(drawn.tables), drawn.people)[0]


@pytest.fixture(scope='module')
def compared(long):
    return stages.compare_stages(long, 'stage', field_strength=3.0)


def test_changes_are_found_with_their_intervals(drawn, compared):
    table, constants, notes = compared
    assert list(table) == stages.COLUMNS
    truth = drawn.truth.assign(stage=drawn.truth['stage'].astype(str)).melt(
        ['region', 'stage'], var_name='map'
    )
    both = table.merge(truth, on=['region', 'stage', 'map'])
    assert len(both) == 2 * 8 * 3
    holds = (both['ci_low'] <= both['value']) & (both['value'] <= both['ci_high'])
    assert holds.mean() > 0.85
    white = both[(both['region'] == 'White matter') & (both['stage'] == '3')].set_index('map')
    assert white.loc['iron', 'estimate'] == pytest.approx(4, rel=0.3)
    assert white.loc['mvf', 'estimate'] == pytest.approx(-0.10, rel=0.4)
    assert (both['rho_iron_mvf'].abs() < 1).all()
    known = constants.set_index(['map', 'constant'])
    true = [drawn.constants['chi_iron'], drawn.constants['R2star_iron']]
    for name, value in zip(('chi', 'R2star'), true, strict=True):
        row = known.loc[(name, 'iron')]
        assert abs(row['value'] - value) < 3 * row['sd']
        assert row['sd'] < row['literature_sd'] / 2
    assert any('age, sex, site' in note for note in notes)
    assert any('literature given the first stage in' in note for note in notes)


def test_raw_values_are_those_of_the_tables(long, compared):
    """Means of two stages differ by the estimate where covariates are the same in both."""
    same = long.assign(age=50.0, sex='F', site='a')
    table = stages.compare_stages(same, 'stage', field_strength=3.0)[0]
    means = same.groupby(['map', 'region', 'stage'])['mean'].mean()
    for name in ('chi', 'R2star'):
        row = table[(table['map'] == name) & (table['region'] == 'GP') & (table['stage'] == '2')].iloc[0]
        assert row['estimate'] == pytest.approx(means[name, 'GP', 2] - means[name, 'GP', 0])
    assert (compared[0]['estimate'] != table['estimate']).any()


def test_two_groups_have_the_errors_and_degrees_of_freedom_of_the_formulas():
    rng = np.random.default_rng(0)
    n, m = 7, 15
    x = np.column_stack([np.ones(n + m), np.r_[np.zeros(n), np.ones(m)]])
    y = rng.standard_normal((n + m, 2)) * np.r_[np.ones(n), np.full(m, 3)][:, None]
    fit = stages._fit(x, y)
    np.testing.assert_allclose(fit.estimate[1], y[n:].mean(0) - y[:n].mean(0))
    cov = np.cov(y[:n].T) / n + np.cov(y[n:].T) / m
    np.testing.assert_allclose(fit.cov[1], cov)
    # Imbens and Kolesar (2016), equation of two groups
    dof = (1 / n + 1 / m) ** 2 / (1 / (n**2 * (n - 1)) + 1 / (m**2 * (m - 1)))
    assert fit.dof[1] == pytest.approx(dof)


def test_text_stages_begin_with_the_controls(long):
    names = {0: 'healthy', 1: 'early', 2: 'late', 3: 'late'}
    table = stages.compare_stages(long.assign(phase=long['stage'].map(names)), 'phase', field_strength=3.0)[0]
    assert set(table['reference']) == {'healthy'}
    assert list(dict.fromkeys(table['stage'])) == ['early', 'late']


def test_controls_come_before_numbers_and_need_no_stage(pair):
    whole, _ = pair
    plain = stages.compare_stages(whole, 'stage', field_strength=3.0)[0]
    early = whole['stage'] == 0
    for changed, name in (
        (whole.assign(stage=np.where(early, 'HC', '10')), 'HC'),
        (whole.assign(stage=whole['stage'].where(~early), group=np.where(early, 'hv', 'patient')), 'hv'),
        (whole.assign(stage=whole['stage'].where(~early), group=np.where(early, 'us', 'them')), 'us'),
    ):
        table, _, notes = stages.compare_stages(
            changed, 'stage', field_strength=3.0, controls='us' if name == 'us' else ''
        )
        assert set(table['reference']) == {name}
        np.testing.assert_allclose(table['estimate'], plain['estimate'])
        assert any('they are the first stage' in note for note in notes) == (name != 'HC')
    assert stages._in_order(pd.Series(['b', '10', 'HC', '9', '1.5']), 'stage', '') == [
        'HC',
        '1.5',
        '9',
        '10',
        'b',
    ]


def test_without_r2star_there_is_susceptibility_alone(long):
    table, constants, notes = stages.compare_stages(long[long['map'] == 'chi'], 'stage', field_strength=3.0)
    assert set(table['map']) == {'chi'}
    assert constants.empty
    assert any('without R2*' in note.lower().replace('r2*', 'R2*') for note in notes)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda t: t.drop(columns='stage'), "no column 'stage'"),
        (lambda t: t.drop(columns='age'), "no column 'age' with values, as iron"),
        (lambda t: t[t['stage'] == 0], r'one stage \(0\)'),
        (lambda t: t[(t['stage'] < 2) | (t['participant_id'] == 'sub-030')], r'2 \(1\) has fewer than 5'),
        (lambda t: t.assign(site=np.where(t['stage'] == 3, 'b', 'a')), 'stage 3 cannot be told from site'),
        (
            lambda t: t[t['stage'] < 2].assign(sex=np.where(t[t['stage'] < 2]['stage'] == 1, 'F', 'M')),
            'stage 1 cannot be told from sex',
        ),
        (
            lambda t: pd.concat(
                [t.assign(session_id='ses-1'), t.assign(session_id='ses-2', stage=t['stage'] + 1)]
            ),
            'sub-001, sub-002, .* has several stages',
        ),
        (lambda t: t.assign(stage=t['stage'].map(dict(enumerate('dabc')))), 'none of a, b, c, d is called'),
        (lambda t: t.assign(age='50-60'), r'no age in participants.tsv is a number \(there are 50-60\)'),
        (lambda t: t.assign(age=t['age'].where(t['stage'] > 0)), r'0 \(0\) has fewer than 5'),
        (
            lambda t: t.assign(group=np.where(t['stage'] == 1, 'control', 'patient')),
            r'nobody of group control is of the first stage \(0\)',
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(long, change, said):
    with pytest.raises(UserError, match=said):
        stages.compare_stages(change(long), 'stage', field_strength=3.0)


def test_regions_with_few_values_are_left_out(long):
    few = long.copy()
    few.loc[(few['region'] == 'RN') & (few['stage'] == 1) & (few['map'] == 'R2star'), 'mean'] = np.nan
    table, _, notes = stages.compare_stages(few, 'stage', field_strength=3.0)
    assert set(table[table['region'] == 'RN']['map']) == {'chi'}
    assert any(note.startswith('R2* of RN left out: fewer than 5') for note in notes)
    few.loc[(few['region'] == 'RN') & (few['stage'] == 1), 'mean'] = np.nan
    table, _, notes = stages.compare_stages(few, 'stage', field_strength=3.0)
    assert 'RN' not in set(table['region'])
    assert any(note.startswith('RN left out') for note in notes)


def rows_of(table, *maps):
    rows = table[table['map'].isin(maps)].drop(columns='p_fdr').set_index(['region', 'stage', 'map'])
    return rows.select_dtypes('number').dropna(axis=1)


@pytest.fixture(scope='module')
def pair():
    """Two stages at two scanners, and the same without R2* of the second scanner."""
    drawn = draw_stages(Stages(iron=(0.0, 4.0), myelin=(0.0, -0.1), number=20, sites=2), 7)
    whole = join_participants(gather(drawn.tables), drawn.people)[0].assign(scanner='the same', sex='F')
    whole = whole[whole['region'].isin(['GP', 'White matter'])].reset_index(drop=True)
    return whole, whole.assign(
        mean=whole['mean'].mask((whole['map'] == 'R2star') & (whole['site'] == 'scanner2'))
    )


def test_a_site_without_r2star_counts_for_susceptibility_alone(pair):
    whole, lacking = pair
    table, constants, notes = stages.compare_stages(lacking, 'stage', field_strength=3.0)
    first = stages.compare_stages(whole[whole['site'] == 'scanner1'], 'stage', field_strength=3.0)
    same = 'iron', 'mvf', 'R2star'
    pd.testing.assert_frame_equal(rows_of(table, *same), rows_of(first[0], *same))
    pd.testing.assert_frame_equal(constants, first[1])
    both = stages.compare_stages(whole, 'stage', field_strength=3.0)[0]
    pd.testing.assert_frame_equal(rows_of(table, 'chi'), rows_of(both, 'chi'))
    number = whole[whole['site'] == 'scanner2']['participant_id'].nunique()
    assert any(note.startswith(f'{number} participants without R2* in GP') for note in notes)
    # the first of the columns of sites is constant, so that the next one counts
    renamed = whole.rename(columns={'site': 'scanner', 'scanner': 'site'})
    pd.testing.assert_frame_equal(
        rows_of(stages.compare_stages(renamed, 'stage', field_strength=3.0)[0], 'chi'), rows_of(both, 'chi')
    )


def test_a_stage_that_is_one_site_where_there_is_r2star_has_none(pair):
    whole, _ = pair
    apart = (whole['site'] == 'scanner2') != (whole['stage'] == 1)
    only = whole.assign(mean=whole['mean'].mask(apart & (whole['map'] == 'R2star')))
    table, constants, notes = stages.compare_stages(only, 'stage', field_strength=3.0)
    assert set(table['map']) == {'chi'}
    assert constants.empty
    said = 'R2* of GP, R2* of White matter left out: stage 1 cannot be told from site'
    assert any(note.startswith(said) for note in notes)


@pytest.mark.parametrize('region', ['White matter', 'GP'])
def test_the_region_of_reference_has_r2star_alone(long, compared, region):
    """Its susceptibility is zero, and that of others has any zero: iron is the same."""
    shifted, _ = relative_to(long, region)
    table, constants, notes = stages.compare_stages(shifted, 'stage', field_strength=3.0, relative_to=region)
    assert set(table[table['region'] == region]['map']) == {'R2star'}
    assert table['p'].notna().all()
    assert any('which has no contrast of its own' in note for note in notes)
    assert 'not known' in constants.loc[0, 'source']
    known, plain = (one.set_index(['map', 'constant']) for one in (constants, compared[1]))
    for key in (('chi', 'iron'), ('chi', 'myelin')):
        assert abs(known.loc[key, 'value'] - plain.loc[key, 'value']) < plain.loc[key, 'sd']


def test_young_people_do_not_calibrate_where_iron_is_known_of_adults(long):
    ages = long['age'].where(long['participant_id'] > 'sub-002', 25.0)
    notes = stages.compare_stages(long.assign(age=ages), 'stage', field_strength=3.0)[2]
    used = next(note for note in notes if 'given the first stage in' in note)
    assert used.endswith('in GP, Putamen, Caudate, White matter.')
    assert any(note.startswith('SN, RN, Thalamus, Dentate not used for the constants') for note in notes)


def test_zero_everywhere_is_refused(long):
    zero = long[(long['region'] == 'GP') & (long['map'] == 'chi')].assign(mean=0.0)
    with pytest.raises(UserError, match='no region can be compared: GP left out: all participants have'):
        stages.compare_stages(zero, 'stage', field_strength=3.0)


def test_people_without_age_are_left_out(long):
    lacking = long.assign(age=long['age'].where(long['participant_id'] != 'sub-001'))
    table, _, notes = stages.compare_stages(lacking, 'stage', field_strength=3.0)
    assert set(table['n_reference']) == {11}
    assert any(note.startswith('1 participants without') for note in notes)
    texts = long.assign(age=long['age'].astype(object).where(long['participant_id'] != 'sub-001', '89+'))
    assert any(
        'taken as missing: 89+' in note
        for note in stages.compare_stages(texts, 'stage', field_strength=3.0)[2]
    )
    assert isinstance(table, pd.DataFrame)
