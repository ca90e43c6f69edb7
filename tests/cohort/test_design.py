import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix

from bids_qsm.cohort.design import build, check_columns, reference_level, spline
from bids_qsm.cohort.formula import parse
from bids_qsm.errors import UserError


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    n = 40
    return pd.DataFrame(
        {
            'age': rng.uniform(20, 70, n),
            'dose': rng.gamma(2, 1, n),
            'group': rng.choice(['control', 'NBIA', 'PD'], n),
            'sex': rng.choice(['F', 'M'], n),
            'site': rng.choice([1, 2], n),
        }
    )


def design(text, table, **options):
    return build(parse(text), table, np.arange(len(table)), **options)


@pytest.mark.parametrize(
    ('text', 'same'),
    [
        ('age + group', "age + C(group, Treatment('control'))"),
        ('group * age + sex', "C(group, Treatment('control')) * age + sex"),
        ('group:age', 'group:age'),
        ('sex:group', 'sex:group'),
        ('sex + sex:age', 'sex + sex:age'),
        ('C(site) * sex + log(dose)', 'C(site) * sex + np.log(dose)'),
        ('center(age):dose + standardize(dose)', 'center(age):dose + standardize(dose)'),
        ('bs(age, df=5) + sex', 'bs(age, df=5) + sex'),
        ('bs(age, df=3, degree=2)', 'bs(age, df=3, degree=2)'),
        ('cr(age, df=4)', "cr(age, df=4, constraints='center')"),
        ('cr(age, df=3) * sex', "cr(age, df=3, constraints='center') * sex"),
    ],
)
def test_columns_span_what_formulaic_makes_of_the_formula(table, text, same):
    found, wanted = design(text, table).x, model_matrix(same, table).to_numpy(float)
    rank = np.linalg.matrix_rank(wanted)
    assert found.shape[1] == rank
    assert np.linalg.matrix_rank(np.column_stack([found, wanted])) == rank


def test_levels_are_compared_with_the_controls(table):
    assert [c.level for c in design('group', table).columns] == ['NBIA - control', 'PD - control']
    assert [c.level for c in design('group', table, controls='PD').columns] == ['NBIA - PD', 'control - PD']
    named = design("C(group, Treatment('NBIA'))", table)
    assert [c.level for c in named.columns] == ['PD - NBIA', 'control - NBIA']
    assert reference_level(['AD', 'Healthy Controls']) == 'Healthy Controls'
    assert reference_level(['b', 'c']) == 'b'


@pytest.mark.parametrize(
    ('change', 'text', 'said', 'terms'),
    [
        ({'age': np.nan}, 'age + sex', 'age is empty', {'sex'}),
        ({'sex': 'F'}, 'age + sex', r'sex is constant \(F\)', {'age'}),
        ({'age': lambda t: t['age'].where(t.index > 3)}, 'age + sex', '4 participants', {'age', 'sex'}),
        ({'age': lambda t: t['age'].astype(object).where(t.index > 0, 'old')}, 'age', r'\(old\)', {'age'}),
        ({'group': lambda t: t['group'].where(t.index > 0, 'rare')}, 'group', "'rare' has one", {'group'}),
        ({'twin': lambda t: t['age'] * 2 + 1}, 'age + twin', 'twin left out: .*collinear', {'age'}),
        ({'age': lambda t: t['age'] + 99 * (t['sex'] == 'F')}, 'age + sex', 'overlap', {'age', 'sex'}),
        ({}, 'log(group)', 'holds text', set()),
        ({'age': lambda t: t['age'] - 50}, 'log(age)', 'no logarithm', set()),
        ({}, 'bs(site, df=4)', 'too few', set()),
        ({}, 'bs(age, df=2)', 'less than the degree', set()),
        ({}, "C(sex, Treatment('X')) + age", "no level 'X'", {'age'}),
        ({}, 'group * age', 'center', {'group', 'age', 'group:age'}),
    ],
)  # fmt: skip
def test_what_cannot_be_estimated_is_said_and_left_out(table, change, text, said, terms):
    found = design(text, table.assign(**change))
    assert {c.term for c in found.columns} == terms
    assert pd.Series(found.notes).str.contains(said).any(), found.notes
    assert found.x.shape == (found.rows.sum(), 1 + len(found.columns))
    assert np.linalg.matrix_rank(found.x) == found.x.shape[1]


def test_large_numbers_that_vary_little_are_kept(table):
    year = table.assign(year=2020 + table['age'] / 1e4)
    assert {c.term for c in design('year', year).columns} == {'year'}


def test_nothing_is_left(table):
    found = design('age', table.assign(age='n/a'), rows=np.zeros(len(table), bool))
    assert not found.columns
    assert not found.rows.any()


def test_unknown_columns_are_named_with_those_there_are(table):
    with pytest.raises(UserError, match='weight, which the tables lack; there are age, dose'):
        check_columns(parse('weight + age'), table)


def test_a_spline_needs_values():
    with pytest.raises(UserError, match='too few'):
        spline(np.array([1.0, 2.0, 1.0]), 'cr', df=3)


def test_decimal_commas_are_an_error(table):
    commas = table['age'].round(1).astype(str).str.replace('.', ',')
    with pytest.raises(UserError, match="column 'age' have decimal commas"):
        design('age', table.assign(age=commas))
    found = design('age', table.assign(age=table['age'].astype(object).where(table.index > 0, '20,0')))
    assert 'text among its numbers (20,0)' in found.notes[0]


def test_lonely_levels_are_said_together(table):
    many = table['group'].where(table.index > 8, [f'rare{i}' for i in range(len(table))])
    notes = [note for note in design('group', table.assign(group=many)).notes if 'rare' in note]
    assert notes == [
        "group 'rare0', 'rare1', 'rare2', 'rare3', 'rare4', 'rare5' and 3 more have one participant each and "
        'were left out.'
    ]


def test_kinds_of_columns(table):
    coded = table.assign(group=table['group'].map({'control': 1, 'NBIA': 2, 'PD': 3}))
    kinds = {c.term: c.kind for c in design('group * sex + sex:age + cr(dose, df=3)', coded).columns}
    assert kinds == {
        'group': 'factor', 'sex': 'factor', 'group:sex': 'contrast', 'sex:age': 'number',
        'cr(dose, df=3)': 'curve',
    }  # fmt: skip
    assert [c.kind for c in design('center(group)', coded).columns] == ['number']
