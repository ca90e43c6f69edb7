from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_qsm.cohort.formula import Factor, parse, parse_columns, parse_model
from bids_qsm.errors import UserError
from tests.test_fuzz import fuzz


@pytest.mark.parametrize(
    ('text', 'same'),
    [
        ('chi ~ group + age', 'chi ~ group + age'),
        ('chi~a*b', 'chi ~ a + b + a:b'),
        ('chi ~ a:b + a', 'chi ~ a + a:b'),
        ('chi ~ (a + b + c) ** 2', 'chi ~ a + b + c + a:b + a:c + b:c'),
        ('chi ~ a * (b + c)', 'chi ~ a + b + c + a:b + a:c'),
        ('chi ~ 1 + a', 'chi ~ a'),
        ('chi ~ 1', 'chi ~ 1'),
        ("chi ~ Q('two words') + C(site)", "chi ~ Q('two words') + C(site)"),
        ('chi ~ `two words` + log (Q("a) ~ b"))', "chi ~ Q('two words') + log(Q('a) ~ b'))"),
        (
            "chi ~ C(site, Treatment(reference=1)) + C(class, '2)')",
            "chi ~ C(site, reference='1') + C(class, reference='2)')",
        ),
        ("chi ~ C(group, Treatment('HC'))", "chi ~ C(group, reference='HC')"),
        ('chi ~ bs(age, df=4) + cr(log(age), 3)', 'chi ~ bs(age, df=4) + cr(log(age), df=3)'),
        ('chi ~ standardize(center(age))', 'chi ~ standardize(center(age))'),
        ('chi ~ a + a', 'chi ~ a'),
        ('chi ~ a:b + b:1:a', 'chi ~ a:b'),
    ],
)
def test_formulas_are_read(text, same):
    assert str(parse(text)) == same
    assert str(parse(same)) == same


@pytest.mark.parametrize(
    'text',
    [
        'chi ~ __import__("os").system("true")',
        'chi ~ np.exp(age)',
        'chi ~ I(age)',
        'chi ~ eval("1")',
        'chi ~ log(age, __import__)',
        "chi ~ Q(open('x').read())",
        'chi ~ age.__class__()',
        'chi ~ (lambda: 1)()',
        'chi ~ {open("x")}',
        'chi ~ a + `b',
        'chi ~ age[0]',
        'chi ~ .',
        'chi ~ a | b',
        'chi ~ a / b',
        'chi ~ C(group, contr.sum)',
        'chi ~ [a for a in b]',
        'chi ~ a if b else c',
        'chi ~ age; group',
        'chi ~ C(a, C(b))',
        'chi ~ bs(age, df=4, knots=age)',
        'chi ~ bs(age, df=999999)',
        'chi ~ bs(age, degree=3)',
        'chi ~ log(C(age))',
        'chi ~ age ** 2',
        'chi ~ (a + b) ** 9',
        'chi ~ (a + b',
        'chi ~ a b',
        'chi ~ a - 1',
        'chi ~ 0 + a',
        'chi ~ a +',
        'chi ~ a ~ b',
        'chi + R2star ~ a',
        'log(chi) ~ a',
        '~ a',
        'chi ~ ',
        'chi ~ a' + ' + a' * 400,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match=r'formula|left side'):
        parse(text)


def test_a_model_needs_both_sides():
    assert parse_model('chi ~ age').response == 'chi'
    with pytest.raises(UserError, match='"chi ~ age"'):
        parse_model('age')


def test_names_of_columns_need_no_quotes_where_they_are_columns():
    terms = parse_columns(['two words', 'cr(age, df=3)'], {'two words', 'age'}).terms
    assert terms == ((Factor('two words'),), (Factor('age', (('cr', (('df', 3),)),)),))


def test_columns_are_named_once():
    assert parse('chi ~ group * age + log(age)').columns == ['group', 'age']


@pytest.mark.parametrize(
    'text',
    [
        'chi ~ ' + '(' * 300 + 'a' + ')' * 300,
        'chi ~ ' + 'log(' * 150 + 'a' + ')' * 150,
        'chi ~ C(a, ' + 'Treatment(' * 60 + "'x'" + ')' * 61,
        'chi ~ (' + ' + '.join(f'a{i}' for i in range(100)) + ') ** 4',
        'chi ~ (' + ' + '.join(f'a{i}' for i in range(12)) + ') ** 4',
        'chi ~ ' + ' * '.join(f'a{i}' for i in range(30)),
    ],
)
def test_monsters_are_refused(text):
    with pytest.raises(UserError, match='more than 20'):
        parse(text)


@fuzz(200)
@given(st.text('ab1 ~+*:()[]{}`\'",=.-\\\nCQ', max_size=30))
def test_any_text_is_read_or_refused(text):
    with suppress(UserError):
        assert parse(str(parse(text))) == parse(text)


def test_nothing_is_evaluated(monkeypatch):
    monkeypatch.setattr('builtins.eval', None)
    monkeypatch.setattr('builtins.exec', None)
    monkeypatch.setattr('ast.parse', None)
    assert len(parse('chi ~ C(group) * log(age)').terms) == 3
    with pytest.raises(UserError):
        parse('chi ~ log(age, open("x"))')


def test_depth_is_that_of_parentheses_within_each_other():
    assert len(parse(' + '.join(f'(log(a{i}))' for i in range(40))).terms) == 40
