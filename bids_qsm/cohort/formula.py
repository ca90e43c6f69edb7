"""Read a model formula without running it.

formulaic evaluates ``log(age)``, and so ``open('x').read()``, as Python. Here it only splits a formula and
expands its operators. The factors of a term are read as text: a column, and functions of a closed list.
"""

import re
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import comb
from typing import TYPE_CHECKING

from bids_qsm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from formulaic.parser.types import ASTNode, Token

FUNCTIONS = {
    'C': ('reference',), 'log': (), 'center': (), 'standardize': (), 'bs': ('df', 'degree'), 'cr': ('df',),
}  # fmt: skip
"""Functions of a column (a factor, transforms of a number, splines), and their arguments in order."""
HELP = 'Allowed are names of columns, + : * ( ) **, C(), Q(), log(), center(), standardize(), bs() and cr().'
_NAME = r'[^\W\d][\w.]*'
_TEXT = r"""(?:"[^"\n]+"|'[^'\n]+')"""
_QUOTED = re.compile(rf'Q\(\s*({_TEXT})\s*\)|(`[^`\n]+`)')
_HIDDEN = {ord(sign): 0xE000 + i for i, sign in enumerate('()[]{}`~\\ ')}
_SHOWN = {private: sign for sign, private in _HIDDEN.items()}
"""Operators and spaces within quotes are replaced by private characters while formulaic reads a formula."""
_VALUE = rf'(?:\d{{1,3}}|{_TEXT})'
_ARGUMENT = rf'\s*,\s*(?:\w+\s*=\s*)?(?:Treatment\(\s*(?:reference\s*=\s*)?{_VALUE}\s*\)|{_VALUE})\s*'
_CALL = re.compile(rf'(\w+)\(\s*(.+?)\s*((?:{_ARGUMENT})*)\)')
_KEY_AND_VALUE = re.compile(rf',\s*(?:(\w+)\s*=\s*)?(Treatment\(\s*(?:reference\s*=\s*)?)?({_VALUE})')
_MOST_OF = {'df': 20, 'degree': 5}
_LONGEST = 1000
_DEEPEST = 20
_MOST = 200
"""Most characters, parentheses within each other, and terms."""


@dataclass(frozen=True)
class Factor:
    """A column and what is done with it.

    Attributes
    ----------
    column : str
    calls : tuple of (str, tuple of (str, value))
        Functions and their arguments, from the inside out.
    """

    column: str
    calls: tuple = ()

    def __str__(self):
        text = self.column if re.fullmatch(r'[^\W\d]\w*', self.column) else f'Q({self.column!r})'
        for name, arguments in self.calls:
            more = ''.join(f', {key}={value!r}' for key, value in arguments)
            text = f'{name}({text}{more})'
        return text


@dataclass(frozen=True)
class Formula:
    """A response and the terms of its model; a term is a tuple of factors. The intercept is implied.

    Attributes
    ----------
    response : str
        A map, such as chi; empty where the formula has only a right side.
    terms : tuple of tuple of Factor
        Main effects first, then interactions.
    """

    response: str
    terms: tuple

    @property
    def columns(self) -> list[str]:
        """The columns that the terms name, each once."""
        return list(dict.fromkeys(factor.column for term in self.terms for factor in term))

    def __str__(self):
        right = ' + '.join(name(term) for term in self.terms) or '1'
        return f'{self.response} ~ {right}' if self.response else right


def name(term: tuple[Factor, ...]) -> str:
    """A term as it is written in a formula."""
    return ':'.join(str(factor) for factor in term)


def parse(text: str) -> Formula:
    """Read a formula such as ``chi ~ group * age + sex``.

    The grammar is that of R and patsy, less what runs code: ``a + b`` both, ``a:b`` their interaction, ``a *
    b`` both and the interaction, ``(a + b + c) ** 2`` all and their pairs; ``C(a)`` a factor though its
    values are numbers, ``C(a, Treatment('x'))`` one with the reference level x, ``Q('a b')`` or the name in
    backticks a column whose name is not a word, ``log(a)``, ``center(a)`` less the mean, ``standardize(a)``
    also divided by the standard deviation, ``bs(a, df=4)`` a B-spline and ``cr(a, df=3)`` a natural cubic
    spline.

    Raises
    ------
    UserError
        The formula holds anything else.

    >>> print(parse('chi ~ group * age + C(site)'))
    chi ~ group + age + C(site) + group:age
    """
    if len(text) > _LONGEST:
        raise UserError(f'The formula is longer than {_LONGEST} characters.')
    whole, text = text, re.sub(f'{_TEXT}|`[^`\n]+`', _hidden, text)
    # R and patsy allow a space between a function and its parenthesis
    text = re.sub(r'(?<=\w)\s+(?=\()', '', text)
    if max(accumulate((c == '(') - (c == ')') for c in text), default=0) > _DEEPEST:
        raise UserError(f'The formula has more than {_DEEPEST} parentheses within each other.')
    left, tilde, right = text.rpartition('~')
    if '~' in left:
        raise UserError(f'The formula {whole!r} has more than one "~".')
    response = _factor(left.strip().translate(_SHOWN), whole) if tilde else Factor('')
    if response.calls:
        raise UserError(f'The left side of {whole!r} must be the name of a map, such as chi.')
    return Formula(response.column, _terms(right, whole))


def parse_model(text: str) -> Formula:
    """Read a formula that must have both sides."""
    formula = parse(text)
    if not formula.response:
        raise UserError(f'The model {text!r} has no left side; write for example "chi ~ {text.strip()}".')
    return formula


def with_factor(formula: Formula, column: str) -> Formula:
    """The formula with a column as a factor wherever it stands, and with its main term.

    >>> print(with_factor(parse('chi ~ age + group:site'), 'site'))
    chi ~ age + C(site) + group:C(site)
    """

    def coded(factor: Factor):
        is_coded = factor.column != column or any(call == 'C' for call, _ in factor.calls)
        return factor if is_coded else Factor(column, (('C', ()),))

    terms = {}
    for term in formula.terms:
        made = tuple(dict.fromkeys(coded(factor) for factor in term))
        terms.setdefault(frozenset(made), made)
    if not any(len(term) == 1 and term[0].column == column for term in terms.values()):
        alone = (Factor(column, (('C', ()),)),)
        terms[frozenset(alone)] = alone
    return Formula(formula.response, tuple(sorted(terms.values(), key=len)))


def parse_columns(columns: 'Iterable[str]', known: 'Collection[str]') -> Formula:
    """Terms from names of columns; any other text is read as the right side of a formula."""
    terms = []
    for column in columns:
        terms += [(Factor(column),)] if column in known else parse(column).terms
    return Formula('', tuple(dict.fromkeys(terms)))


def _hidden(quoted: re.Match) -> str:
    return quoted[0][0] + quoted[0][1:-1].translate(_HIDDEN) + quoted[0][-1]


def _terms(text: str, whole: str) -> tuple:
    """Terms of a right side, main effects first."""
    # importing formulaic takes a moment, which only models need
    from formulaic.errors import FormulaicError
    from formulaic.parser import DefaultOperatorResolver
    from formulaic.parser.algos.tokenize import tokenize
    from formulaic.parser.algos.tokens_to_ast import tokens_to_ast

    unreadable = f'The formula {whole!r} lacks a column, an operator or a parenthesis. {HELP}'
    factors = {}
    try:
        tokens = list(tokenize(text))
        for token in tokens:
            token.token = token.token.translate(_SHOWN)
            if token.kind in (token.Kind.NAME, token.Kind.PYTHON):
                is_name = token.kind is token.Kind.NAME
                factor = Factor(token.token) if is_name else _factor(token.token, whole)
                token.token = str(factor)
                factors[token.token] = factor
            elif token.token == '-':
                raise UserError(f'The formula {whole!r} takes a term away; leave it out instead. {HELP}')
            elif token.kind is not token.Kind.VALUE and token.token not in ('+', ':', '*', '**', '(', ')'):
                raise UserError(f'The formula {whole!r} has {token.token!r}. {HELP}')
        tree = tokens_to_ast(tokens, DefaultOperatorResolver())
    except FormulaicError:
        raise UserError(unreadable) from None
    if tree is None or ('(', ')') in pairwise(token.token for token in tokens):
        raise UserError(unreadable)
    if len(tokens) > 2 * _MOST or _count(tree, whole) > _MOST:
        raise UserError(f'The formula has more than {_MOST} terms.')
    terms = {}
    for expanded in tree.to_terms():
        # the intercept, 1, is not a factor
        term = tuple(factors[f.expr] for f in expanded.factors if f.expr in factors)
        terms.setdefault(frozenset(term), term)
    terms.pop(frozenset(), None)
    return tuple(sorted(terms.values(), key=len))


def _count(node: 'ASTNode | Token', whole: str) -> int:
    """Terms that a part of a formula makes, repeated ones included."""
    if not hasattr(node, 'operator'):
        if node.kind is node.Kind.VALUE and node.token != '1':
            raise UserError(f'The formula {whole!r} has the number {node.token}; the intercept always stays.')
        return 1
    first, *rest = node.args
    n = _count(first, whole)
    if node.operator.symbol == '**':
        power = getattr(rest[0], 'token', '')
        if power not in ('2', '3', '4'):
            raise UserError(f'The formula {whole!r} has the power {power!r}; use 2, 3 or 4.')
        if n == 1:
            raise UserError(
                f'In the formula {whole!r}, a term to a power is the term itself; '
                'for a curve write cr(column, df=3).'
            )
        return sum(comb(n, k) for k in range(1, int(power) + 1))
    for other in rest:
        m = _count(other, whole)
        n = {'+': n + m, ':': n * m, '*': n + m + n * m}[node.operator.symbol]
    return n


def _factor(text: str, whole: str) -> Factor:
    """A column, perhaps inside functions."""
    quoted = _QUOTED.fullmatch(text)
    if quoted or re.fullmatch(_NAME, text):
        return Factor((quoted[1] or quoted[2])[1:-1] if quoted else text)
    call = _CALL.fullmatch(text)
    if not call:
        raise UserError(f'The formula {whole!r} has {text!r} where a column should be. {HELP}')
    function, inner, arguments = call.groups()
    if function not in FUNCTIONS:
        raise UserError(f'The formula {whole!r} calls {function}(). {HELP}')
    inner = _factor(inner, whole)
    if any(name in ('C', 'bs', 'cr') for name, _ in inner.calls):
        raise UserError(f'The formula {whole!r} applies {function}() to {inner}, which is not a number.')
    return Factor(inner.column, (*inner.calls, (function, _arguments(function, arguments, whole))))


def _arguments(function: str, text: str, whole: str) -> tuple:
    """What follows the column in a call."""
    allowed, found = FUNCTIONS[function], {}
    for key, treatment, value in _KEY_AND_VALUE.findall(text):
        key = key or next(iter(allowed[len(found) :]), '')
        if key not in allowed:
            raise UserError(f'The formula {whole!r} gives {function}() an argument it does not have.')
        is_number = value.isdigit() and not treatment
        if is_number == (key == 'reference') or (is_number and not 1 <= int(value) <= _MOST_OF[key]):
            raise UserError(f'The formula {whole!r} gives {function}() a wrong {key}: {value}.')
        text = value if value.isdigit() else value[1:-1]
        found[key] = int(value) if is_number else text
    if 'df' in allowed and 'df' not in found:
        raise UserError(f'The formula {whole!r} has {function}() without df, as in {function}(age, df=3).')
    return tuple(sorted(found.items()))
