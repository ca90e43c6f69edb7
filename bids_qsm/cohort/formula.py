"""Read a model formula without running it.

Formulas of R and patsy are programs: ``chi ~ open('x').read()`` is one. Here a formula is parsed by a small
grammar and its terms are names and a few known functions, never evaluated.
"""

import re
from dataclasses import dataclass
from itertools import combinations
from math import comb

from bids_qsm.errors import UserError

FUNCTIONS = {'C', 'Q', 'log', 'center', 'standardize', 'bs', 'cr', 'Treatment'}
"""What may be called: a factor, a quoted name, transforms of a number, splines, the reference of a factor."""
HELP = 'Allowed are names of columns, + : * ( ) **, C(), Q(), log(), center(), standardize(), bs() and cr().'
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<name>[^\W\d][\w.]*)|(?P<text>"[^"\n]*"|'[^'\n]*')"""
    r"""|(?P<sign>\*\*|[+:*(),=~-]))"""
)
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
    """A response and the terms of its model; a term is a tuple of factors, and the intercept always stands.

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


def name(term) -> str:
    """A term as it is written in a formula."""
    return ':'.join(str(factor) for factor in term)


def parse(text: str) -> Formula:
    """Read a formula such as ``chi ~ group * age + sex``.

    The grammar is that of R and patsy, less what runs code: ``a + b`` both, ``a:b`` their interaction, ``a *
    b`` both and the interaction, ``(a + b + c) ** 2`` all and their pairs; ``C(a)`` a factor though its
    values are numbers, ``C(a, Treatment('x'))`` one with the reference level x, ``Q('a b')`` a column whose
    name is no word, ``log(a)``, ``center(a)`` less the mean, ``standardize(a)`` also divided by the standard
    deviation, ``bs(a, df=4)`` a B-spline and ``cr(a, df=3)`` a natural cubic spline.

    Raises
    ------
    UserError
        Anything else stands there.

    >>> print(parse('chi ~ group * age + C(site)'))
    chi ~ group + age + C(site) + group:age
    """
    if len(text) > _LONGEST:
        raise UserError(f'The formula is longer than {_LONGEST} characters.')
    left, tilde, right = text.partition('~')
    if tilde and '~' in right:
        raise UserError(f'The formula {text!r} has more than one "~".')
    response = ''
    if tilde:
        reader = _Reader(left, text)
        factor = reader.factor()
        reader.end()
        if factor.calls:
            raise UserError(f'The left side of {text!r} must be the name of a map, such as chi.')
        response = factor.column
    reader = _Reader(right if tilde else left, text)
    terms = reader.sum()
    reader.end()
    terms = [term for term in terms if term]
    return Formula(response, tuple(sorted(dict.fromkeys(terms), key=len)))


def parse_model(text: str) -> Formula:
    """Read a formula that must have both sides."""
    formula = parse(text)
    if not formula.response:
        raise UserError(f'The model {text!r} has no left side; write for example "chi ~ {text.strip()}".')
    return formula


def parse_columns(columns, known) -> Formula:
    """Terms from names of columns; what is no column is read as a formula's right side."""
    terms = []
    for column in columns:
        terms += [(Factor(column),)] if column in known else parse(column).terms
    return Formula('', tuple(dict.fromkeys(terms)))


class _Reader:
    """Reads one side of a formula by recursive descent; a list of terms is a sum."""

    def __init__(self, text, whole):
        self.whole, self.tokens, self.at, self.depth = whole, [], 0, 0
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if not match:
                raise UserError(f'The formula {whole!r} has {text[place:].strip()[:12]!r}. {HELP}')
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ('end', '')

    def take(self, sign=None):
        kind, value = self.peek()
        if sign is not None and (kind, value) != ('sign', sign):
            found = repr(value) if value else 'its end'
            raise UserError(f'The formula {self.whole!r} has {found} where {sign!r} should be. {HELP}')
        self.at += 1
        return kind, value

    def see(self, *signs):
        kind, value = self.peek()
        return kind == 'sign' and value in signs

    def end(self):
        kind, value = self.peek()
        if value == '-':
            raise UserError(f'The formula {self.whole!r} takes a term away; leave it out instead. {HELP}')
        if kind != 'end':
            raise UserError(f'The formula {self.whole!r} has {value!r} where it should end. {HELP}')

    def deeper(self):
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UserError(f'The formula has more than {_DEEPEST} parentheses within each other.')

    def counted(self, terms):
        if len(terms) > _MOST:
            raise UserError(f'The formula has more than {_MOST} terms.')
        return terms

    def sum(self):
        terms = self.product()
        while self.see('+'):
            self.take()
            terms = self.counted(_merged(terms, self.product()))
        return terms

    def product(self):
        terms = self.interaction()
        while self.see('*'):
            self.take()
            more = self.interaction()
            terms = self.counted(_merged(terms, more, _crossed(terms, more)))
        return terms

    def interaction(self):
        terms = self.power()
        while self.see(':'):
            self.take()
            terms = self.counted(_crossed(terms, self.power()))
        return terms

    def power(self):
        terms = self.atom()
        while self.see('**'):
            self.take()
            kind, value = self.take()
            if kind != 'number' or value not in {'2', '3', '4'}:
                raise UserError(f'The formula {self.whole!r} has the power {value!r}; use 2, 3 or 4.')
            if len(terms) == 1:
                raise UserError(
                    f'In the formula {self.whole!r}, a term to a power is the term itself; '
                    'for a curve write cr(column, df=3).'
                )
            if sum(comb(len(terms), n) for n in range(1, int(value) + 1)) > _MOST**2:
                raise UserError(f'The formula has more than {_MOST} terms.')
            terms = [
                term
                for n in range(1, int(value) + 1)
                for chosen in combinations(terms, n)
                for term in _product_of(chosen)
            ]
            terms = self.counted(list(dict.fromkeys(terms)))
        return terms

    def atom(self):
        kind, value = self.peek()
        if kind == 'number':
            if value != '1':
                raise UserError(
                    f'The formula {self.whole!r} has the number {value}; the intercept always stays.'
                )
            self.take()
            return [()]
        if self.see('('):
            self.take()
            self.deeper()
            terms = self.sum()
            self.take(')')
            self.depth -= 1
            return terms
        return [(self.factor(),)]

    def factor(self):
        """A column, perhaps inside functions."""
        kind, value = self.take()
        if kind != 'name':
            found = repr(value) if value else 'its end'
            raise UserError(f'The formula {self.whole!r} has {found} where a column should be. {HELP}')
        if not self.see('('):
            return Factor(value)
        if value not in FUNCTIONS - {'Treatment'}:
            raise UserError(f'The formula {self.whole!r} calls {value}(). {HELP}')
        self.take('(')
        if value == 'Q':
            kind, quoted = self.take()
            if kind != 'text':
                raise UserError(f"The formula {self.whole!r} has Q() without a quoted name, as in Q('a b').")
            self.take(')')
            return Factor(quoted[1:-1])
        self.deeper()
        inner = self.factor()
        self.depth -= 1
        if any(call in ('C', 'bs', 'cr') for call, _ in inner.calls):
            raise UserError(f'The formula {self.whole!r} applies {value}() to {inner}, which is no number.')
        arguments = self.arguments(value)
        return Factor(inner.column, (*inner.calls, (value, arguments)))

    def arguments(self, function):
        """What follows the column in a call."""
        allowed = {'C': ('reference',), 'bs': ('df', 'degree'), 'cr': ('df',)}.get(function, ())
        found = {}
        while self.see(','):
            self.take()
            key = allowed[len(found)] if len(found) < len(allowed) else ''
            if self.peek()[0] == 'name' and self.peek(1) == ('sign', '='):
                key = self.take()[1]
                self.take('=')
            found[key] = self.argument()
            if key not in allowed:
                raise UserError(
                    f'The formula {self.whole!r} gives {function}() an argument it does not have.'
                )
            wanted = str if key == 'reference' else int
            if not isinstance(found[key], wanted) or (key == 'df' and not 1 <= found[key] <= 20):
                raise UserError(
                    f'The formula {self.whole!r} gives {function}() a wrong {key}: {found[key]!r}.'
                )
            if key == 'degree' and not 1 <= found[key] <= 5:
                raise UserError(f'The formula {self.whole!r} gives bs() a degree beyond 1 to 5.')
        self.take(')')
        if function in ('bs', 'cr') and 'df' not in found:
            raise UserError(
                f'The formula {self.whole!r} has {function}() without df, as in {function}(age, df=3).'
            )
        return tuple(sorted(found.items()))

    def argument(self):
        kind, value = self.take()
        if kind == 'number' and value.isdigit() and len(value) < 4:
            return int(value)
        if kind == 'text':
            return value[1:-1]
        if (kind, value) == ('name', 'Treatment'):
            self.take('(')
            self.deeper()
            if self.peek() == ('name', 'reference'):
                self.take()
                self.take('=')
            level = self.argument()
            self.take(')')
            self.depth -= 1
            return str(level)
        raise UserError(f'The formula {self.whole!r} has the argument {value!r}. {HELP}')


def _merged(*lists):
    return list(dict.fromkeys(term for terms in lists for term in terms))


def _crossed(first, second):
    return list(dict.fromkeys(tuple(dict.fromkeys((*a, *b))) for a in first for b in second))


def _product_of(terms):
    return [tuple(dict.fromkeys(factor for term in terms for factor in term))]
