"""Columns of a linear model from a formula and a table, without those that cannot be estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import BSpline, CubicSpline

from bids_qsm.cohort import formula as formulas
from bids_qsm.cohort.observations import is_numeric, numeric, some
from bids_qsm.cohort.tables import group_column
from bids_qsm.errors import UserError

CONTROLS: tuple[str, ...] = ('control', 'controls', 'healthy', 'hc', 'healthycontrol', 'healthycontrols')
CONTROLS += ('con', 'ctrl', 'ctl', 'hv', 'normal', 'nc', 'cn', 'none', 'volunteer')
"""Common names of control groups, in lower case without punctuation: such a level is the reference."""
_COLLINEAR = 1e-7


@dataclass(frozen=True)
class Column:
    """One column of the design.

    Attributes
    ----------
    term : str
        As written in the formula.
    level : str
        Of a factor, the level against the reference ('patient - control'); else empty.
    kind : {'factor', 'contrast', 'number', 'curve'}
        A difference of levels, a difference of such differences, a slope, or one of the columns that make a
        curve together.
    """

    term: str
    level: str
    kind: str


@dataclass(frozen=True)
class Design:
    """Columns of a linear model.

    Attributes
    ----------
    x : ndarray, shape (n, p)
        The first column is the intercept.
    columns : list of Column
        Of all but the intercept, p - 1.
    rows : ndarray of bool
        The n rows of the table that are in the model.
    notes : list of str
    """

    x: np.ndarray
    columns: list[Column]
    rows: np.ndarray
    notes: list[str]


def check_columns(formula: formulas.Formula, table: pd.DataFrame, *, where: str = 'the tables') -> None:
    """Raise where a formula names a column that is not there."""
    unknown = [c for c in formula.columns if c not in table]
    if unknown:
        known = ', '.join(str(c) for c in table.columns)
        raise UserError(f'The formula names {", ".join(unknown)}, which {where} lack; there are {known}.')


def build(
    formula: formulas.Formula,
    table: pd.DataFrame,
    participants: np.ndarray,
    *,
    controls: str = '',
    rows: np.ndarray | None = None,
) -> Design:
    """Columns of the terms of a formula over the rows of a table that state all of them.

    The column that parts the participants (`group_column`) is a factor, though its values be numbers. Left
    out and said in the notes: rows that lack a column, text among numbers, levels with one participant,
    terms that are constant, columns that those before them determine.

    Parameters
    ----------
    formula : Formula
    table : DataFrame
        One row an observation.
    participants : ndarray of int
        Participant of each row.
    controls
        Level that is the reference wherever it occurs; otherwise one with a name of `CONTROLS`, otherwise the
        first in the alphabet.
    rows : ndarray of bool, optional
        Rows that may enter.

    Raises
    ------
    UserError
        The formula names a column that is not there, or whose numbers have decimal commas.
    """
    check_columns(formula, table)
    notes: list[str] = []
    keep = np.ones(len(table), bool) if rows is None else rows.copy()
    data, factors = {}, forced(formula)
    if not any(f.calls for t in formula.terms for f in t if f.column == group_column(table)):
        factors.add(group_column(table))
    for column in formula.columns:
        data[column] = _read(table[column], column in factors, column, notes)
    for column, values in data.items():
        lacking = keep & values.isna().to_numpy()
        if lacking.all():
            notes.append(f'{column} is empty and was left out.')
        elif lacking.any():
            if not (keep & ~lacking).any():
                notes.append(f'No observation with {column} has a value here.')
            n = len(set(participants[lacking]))
            notes.append(f'{n} participant{"" if n == 1 else "s"} without {column} left out.')
    empty = {c for c, values in data.items() if values.isna().all()}
    for column, values in data.items():
        if column not in empty:
            keep &= values.notna().to_numpy()
    _drop_lonely(data, keep, participants, notes)
    terms, constant = [], set(empty)
    for column, values in data.items():
        there = values[keep].unique()
        if column not in empty and len(there) < 2:
            constant.add(column)
            shown = f' ({there[0]})' if len(there) else ''
            notes.append(f'{column} is constant{shown} and was left out.')
    terms = [t for t in formula.terms if not any(f.column in constant for f in t)]
    kept = {c: values[keep] for c, values in data.items()}
    blocks = [(np.ones((int(keep.sum()), 1)), [])]
    for term in terms:
        block = _term(term, terms, kept, controls, notes)
        if block is not None:
            blocks.append(block)
    x = np.column_stack([block for block, _ in blocks])
    columns = [c for _, part in blocks for c in part]
    good = _independent(x)
    for term in dict.fromkeys(c.term for c in columns):
        mine = [i + 1 for i, c in enumerate(columns) if c.term == term]
        lost = [i for i in mine if i not in good]
        if lost and len(x):
            what = term if len(lost) == len(mine) else f'{len(lost)} of {len(mine)} columns of {term}'
            notes.append(f'{what} left out: determined by the terms before (collinear).')
    _say_separated(kept, notes)
    _say_where(formula.terms, kept, notes)
    return Design(x[:, good], [columns[i - 1] for i in good if i], keep, notes)


def forced(formula: formulas.Formula) -> set:
    """Columns that are factors because the formula says so."""
    return {f.column for t in formula.terms for f in t for call, _ in f.calls if call == 'C'}


def _read(column: pd.Series, is_factor: bool, name: str, notes: list[str]):
    """A column as numbers or, where most of it is text, as text."""
    if not is_factor and is_numeric(column):
        numbers, texts = numeric(column)
        if texts:
            notes.append(f'{name} holds text among its numbers ({some(texts, most=3)}), taken as missing.')
        return numbers
    if not is_factor and column.dropna().astype(str).str.fullmatch(r'-?\d+,\d+').mean() >= 0.5:
        raise UserError(f'The numbers of the column {name!r} have decimal commas; write points (20.5).')
    text = column.astype(object)
    return text.where(column.notna()).map(_label, na_action='ignore')


def _label(value: object):
    # in a column of whole numbers with gaps, 1.0 is the level 1
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_factor(values: pd.Series):
    return not pd.api.types.is_float_dtype(values)


def _drop_lonely(data: dict[str, pd.Series], keep: np.ndarray, participants: np.ndarray, notes: list[str]):
    """Leave out levels with one participant, whose effect cannot be separated from the participant's."""
    again, lonely = True, {}
    while again:
        again = False
        for column, values in data.items():
            if not _is_factor(values) or values.isna().all() or column == 'participant_id':
                continue
            here = pd.DataFrame({'level': values.to_numpy()[keep], 'who': participants[keep]})
            counts = here.groupby('level')['who'].nunique()
            for level in counts.index[counts == 1]:
                keep &= (values != level).to_numpy()
                lonely.setdefault(column, []).append(repr(level))
                again = True
    for column, levels in lonely.items():
        told = 'has one participant and was' if len(levels) == 1 else 'have one participant each and were'
        notes.append(f'{column} {some(levels)} {told} left out.')


def _term(
    term: tuple[formulas.Factor, ...],
    terms: Sequence[tuple[formulas.Factor, ...]],
    data: dict[str, pd.Series],
    controls: str,
    notes: list[str],
):
    """Columns of a term: the products of those of its factors; None where it cannot be made."""
    block, labels, kinds = np.ones((len(next(iter(data.values()))), 1)), [''], set()
    for factor in term:
        rest = tuple(f for f in term if f != factor)
        # as in R, code all levels where the model lacks the term without this factor
        full = bool(rest) and not any(set(t) == set(rest) for t in terms)
        try:
            part, levels, kind = _factor(factor, data[factor.column], controls, full)
        except UserError as error:
            notes.append(f'{formulas.name(term)} left out: {error}')
            return None
        block = (block[:, :, None] * part[:, None, :]).reshape(len(block), -1)
        labels = [':'.join(filter(None, (a, b))) for a in labels for b in levels]
        kinds.add(kind)
    kind = 'curve' if 'curve' in kinds else 'number' if 'number' in kinds else 'factor'
    if len(term) > 1 and kind == 'factor':
        # a difference of differences is not between two groups
        kind = 'contrast'
    return block, [Column(formulas.name(term), label, kind) for label in labels]


def _factor(factor: formulas.Factor, values: pd.Series, controls: str, full: bool):
    """Columns of a factor, the labels of their levels, and their kind."""
    if _is_factor(values):
        from formulaic.transforms.contrasts import TreatmentContrasts  # takes a moment, see formula.py

        if any(call != 'C' for call, _ in factor.calls):
            raise UserError(f'{factor.column} holds text, not numbers.')
        chosen = dict(factor.calls[0][1]).get('reference') if factor.calls else None
        levels = sorted(set(values))
        if chosen is not None and chosen not in levels:
            raise UserError(f'{factor.column} has no level {chosen!r}, only {some(levels)}.')
        reference = chosen if chosen is not None else reference_level(levels, controls)
        coding = TreatmentContrasts(base=reference).get_coding_matrix(levels, reduced_rank=not full)
        labels = list(coding) if full else [f'{level} - {reference}' for level in coding]
        return coding.loc[values].to_numpy(), labels, 'factor'
    numbers = values.to_numpy(float)
    for call, arguments in factor.calls:
        if call == 'log':
            if (numbers <= 0).any():
                raise UserError(f'{factor.column} is not positive everywhere, so it has no logarithm.')
            numbers = np.log(numbers)
        elif call in ('center', 'standardize'):
            numbers = numbers - numbers.mean()
            if call == 'standardize':
                numbers = numbers / numbers.std(ddof=1)
        else:
            block = spline(numbers, call, **dict(arguments))
            return block, [''] * block.shape[1], 'curve'
    two = np.unique(numbers)
    if len(two) == 2 and np.ptp(two) == 1 and not factor.calls:
        # 0 and 1, or 1 and 2, code two groups, and the slope is their difference
        return numbers[:, None], [f'{two[1]:g} - {two[0]:g}'], 'factor'
    return numbers[:, None], [''], 'number'


def reference_level(levels: Sequence[str], controls: str = '') -> str:
    """The level that others are compared with: the controls, or the first in the alphabet."""
    if controls in levels:
        return controls
    known = [x for x in levels if ''.join(filter(str.isalnum, x.lower())) in CONTROLS]
    return known[0] if known else levels[0]


def spline(x: np.ndarray, kind: str, *, df: int, degree: int = 3) -> np.ndarray:
    """Columns of a spline with knots at quantiles, without the constant.

    Parameters
    ----------
    x : ndarray, shape (n,)
    kind : {'bs', 'cr'}
        B-spline, as formulaic's ``bs(x, df=df, degree=degree)``; natural cubic spline, with the span of
        formulaic's ``cr(x, df=df, constraints='center')``, which fails for df=1.

    Raises
    ------
    UserError
        df is too small for the degree, or x has too few different values.
    """
    distinct = np.unique(x)
    if len(distinct) < df + 2:
        raise UserError(f'{len(distinct)} different values are too few for a curve of df={df}.')
    if kind == 'bs':
        if df < degree:
            raise UserError(f'df={df} is less than the degree {degree}.')
        inner = np.quantile(x, np.linspace(0, 1, df - degree + 2)[1:-1])
        knots = np.r_[[x.min()] * (degree + 1), inner, [x.max()] * (degree + 1)]
        # the intercept replaces the first column
        return BSpline.design_matrix(x, knots, degree).toarray()[:, 1:]
    knots = np.quantile(distinct, np.linspace(0, 1, df + 1))
    basis = natural_spline(knots)(x)
    return basis[:, 1:] - basis[:, 1:].mean(0)


def natural_spline(knots: np.ndarray) -> CubicSpline:
    """Natural cubic splines that are 1 at one knot and 0 at the others."""
    if len(knots) == 2:
        low, high = knots
        return lambda x: np.stack([(high - x) / (high - low), (x - low) / (high - low)], -1)
    return CubicSpline(knots, np.eye(len(knots)), bc_type='natural')


def _independent(x: np.ndarray):
    """Columns that are linearly independent of those before them."""
    kept, basis = [], np.zeros((len(x), 0))
    for i in range(x.shape[1]):
        column = x[:, i]
        size = np.linalg.norm(column)
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        left = np.linalg.norm(rest)
        # relative to the variation: a year of birth varies little relative to its size
        spread = max(np.linalg.norm(column - column.mean()) if i and len(x) else size, 1e-12 * size)
        if size > 0 and left > _COLLINEAR * spread and math.isfinite(left):
            kept.append(i)
            basis = np.column_stack([basis, rest / left])
    return kept


def _say_separated(data: dict[str, pd.Series], notes: list[str]):
    """Note where levels of a factor do not overlap in a number: their difference is extrapolated."""
    factors = {c: v for c, v in data.items() if _is_factor(v) and 2 <= v.nunique() <= 5}
    for column, values in ((c, v) for c, v in data.items() if not _is_factor(v) and v.nunique() > 2):
        for name, levels in factors.items():
            ends = values.groupby(levels.to_numpy()).agg(['min', 'max']).sort_values('min')
            apart = ends['min'].to_numpy()[1:] > np.maximum.accumulate(ends['max'].to_numpy())[:-1]
            if apart.any():
                notes.append(
                    f'The levels of {name} do not overlap in {column}: their difference depends on the '
                    'model alone.'
                )


def _say_where(terms: Sequence[tuple[formulas.Factor, ...]], data: dict[str, pd.Series], notes: list[str]):
    """Note where an interaction leaves the main effects at a value of 0 that nobody has."""
    for term in terms:
        for factor in term if len(term) > 1 else ():
            values = data.get(factor.column)
            if values is None or _is_factor(values) or factor.calls or not len(values):
                continue
            others = [formulas.name((f,)) for f in term if f != factor]
            if not values.min() <= 0 <= values.max():
                notes.append(
                    f'{", ".join(others)}: with {formulas.name(term)} in the model the effect is that at '
                    f'{factor.column} 0, where nobody is; center({factor.column}) gives it at the mean.'
                )
