"""The long table as an array: one row a series, one column a region, with the columns of each series."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bids_qsm.cohort.tables import (
    BORDER,
    ENTITY_COLUMNS,
    MEASURES,
    PROTOCOL,
    WHOLE,
    group_column,
    series_columns,
)
from bids_qsm.errors import UserError

KEYS = ['atlas', 'map', 'region', 'hemisphere']
"""Columns that identify a measured quantity."""


QUANTITY = {
    'atlas': 'Atlas that the regions come from.',
    'map': 'Quantity: chi (susceptibility), R2star (transverse relaxation rate), chi_total (chi times '
    'volume), volume, or one of an application.',
    'region': 'Region of the atlas.',
    'hemisphere': 'L, R, or both together; L - R: left less right.',
}
"""Descriptions of `KEYS`."""


@dataclass(frozen=True)
class Observations:
    """Measured values with the columns of each series.

    Attributes
    ----------
    series : DataFrame, n rows
        Entities of each series and columns of participants.tsv and sessions.tsv.
    values : ndarray, shape (n, k)
        NaN where a region was not measured.
    border : ndarray, shape (n, k)
        Change of each value by the error of its border (column border_effect); 0 where that is not known.
    keys : DataFrame, k rows
        Columns atlas, map, region, hemisphere, units.
    notes : list of str
        What was left out.
    """

    series: pd.DataFrame
    values: np.ndarray
    border: np.ndarray
    keys: pd.DataFrame
    notes: list[str]

    @property
    def participants(self):
        """Index of the participant of each row, and their labels."""
        return pd.factorize(self.series['participant_id'], sort=True)

    def take(self, columns: Sequence[int] | np.ndarray):
        """Select measured quantities."""
        return replace(
            self,
            values=self.values[:, columns],
            border=self.border[:, columns],
            keys=self.keys.iloc[columns].reset_index(drop=True),
        )


def observe(
    long: pd.DataFrame,
    *,
    statistic: str = 'mean',
    maps: Sequence[str] = (),
    regions: Sequence[str] = (),
    hemispheres: Sequence[str] = (),
    min_coverage: float = 0.5,
) -> Observations:
    """Pivot the long table: one row a series, one column a region.

    Parameters
    ----------
    long : DataFrame
        From `tables.gather` and the joins.
    statistic
        Column that is analysed: mean, mean_weighted, median, core_mean...
    maps, regions, hemispheres : sequence of str
        Those wanted; all where empty.
    min_coverage
        Regions with a smaller share inside the mask and the field of view are left out.

    Raises
    ------
    UserError
        The long table has no such column, map or region.
    """
    if statistic not in long or statistic not in MEASURES:
        known = [c for c in long if c in MEASURES and pd.api.types.is_numeric_dtype(long[c])]
        raise UserError(f'The tables have no statistic {statistic!r}; there are {", ".join(known)}.')
    wanted = pd.Series(True, index=long.index)
    for column, chosen in (('map', maps), ('region', regions), ('hemisphere', hemispheres)):
        if len(chosen):
            there = set(long[column].dropna().astype(str))
            unknown = [c for c in chosen if c not in there]
            if unknown:
                raise UserError(
                    f'The tables have no {column} {", ".join(unknown)}; there are {", ".join(sorted(there))}.'
                )
            wanted &= long[column].isin(list(chosen))
    wanted &= long['region'] != 'lesion'
    rows = long[wanted].reset_index(drop=True)
    notes = []
    by = series_columns(rows)
    place = codes(rows, by)
    first = np.unique(place, return_index=True)[1]
    series = rows.iloc[first].reset_index(drop=True)
    series = series.drop(columns=[c for c in (*MEASURES, 'atlas') if c in rows])
    code = codes(rows, KEYS)
    start = np.unique(code, return_index=True)[1]
    keys = rows.iloc[start].reindex(columns=KEYS).astype(object).fillna('').astype(str).reset_index(drop=True)
    units = rows['units'] if 'units' in rows else pd.Series('n/a', index=rows.index)
    keys['units'] = units.iloc[start].astype(object).fillna('n/a').to_numpy()
    numbers = pd.to_numeric(rows[statistic], errors='coerce').to_numpy(float)
    cut = np.zeros(len(rows), bool)
    if 'coverage' in rows:
        coverage = pd.to_numeric(rows['coverage'], errors='coerce').to_numpy(float)
        cut = (coverage < min_coverage) & np.isfinite(numbers)
    if cut.any():
        names = sorted(set(keys['region'].to_numpy()[code[cut]]))
        notes.append(
            f'{cut.sum()} values of {some(names)} were left out: less than {min_coverage:.0%} of the region '
            'lies inside the mask and the field of view.'
        )
    numbers = np.where(cut | ~np.isfinite(numbers), np.nan, numbers)
    values, border = np.full((2, len(series), len(keys)), np.nan)
    once = np.unique(place * (len(keys) + 1) + code, return_index=True)[1]
    values[place[once], code[once]] = numbers[once]
    if statistic in WHOLE and BORDER in rows:
        border[place[once], code[once]] = _at_one_distance(rows, code)[once]
    border = np.where(np.isfinite(border) & np.isfinite(values), border, 0)
    twice = len(rows) - len(once)
    if twice:
        notes.append(f'{twice} rows repeat a region of the same series; the first one counts.')
    ranks = [pd.factorize(keys[c], sort=True)[0] for c in ('map', 'atlas')]
    order = np.lexsort((np.arange(len(keys)), ranks[0], keys['map'] != 'chi', ranks[1]))
    return Observations(series, values, border, keys, notes).take(order)


def _at_one_distance(rows: pd.DataFrame, code: np.ndarray):
    """The column border_effect, for the same error of the border in all rows of a region."""
    effect = pd.to_numeric(rows[BORDER], errors='coerce')
    if 'border_mm' not in rows:
        return effect.to_numpy(float)
    # an outline of its own at one visit and that of the atlas at another are no effect
    mm = pd.to_numeric(rows['border_mm'], errors='coerce')
    return (effect / mm * mm.groupby(code).transform('median')).to_numpy(float)


def average(observations: Observations, by: Sequence[str], *, factors: Iterable[str] = ()) -> Observations:
    """Average the rows that agree in the columns ``by``.

    Numeric columns are averaged; of all others, of entities, of the group and of the columns ``factors``,
    the first stated value is kept.
    """
    series = observations.series
    by = [c for c in by if c in series]
    place = codes(series, by)
    n = place.max(initial=-1) + 1
    if n == len(series):
        return observations
    grouped = series.groupby(place, sort=True)
    labels = {*by, *ENTITY_COLUMNS.values(), group_column(series), *factors}
    known = {}
    for column in series:
        known[column] = grouped[column].first()
        if column not in labels and is_numeric(series[column]):
            means = numeric(series[column])[0].groupby(place, sort=True).mean()
            # text stays, so that the reader of the column can report it
            text = means.isna() & known[column].notna()
            known[column] = means if not text.any() else means.astype(object).where(~text, known[column])
    valid = np.isfinite(observations.values)
    count = np.zeros((n, valid.shape[1]))
    np.add.at(count, place, valid)

    def mean(part: np.ndarray):
        total = np.zeros((n, valid.shape[1]))
        np.add.at(total, place, np.where(valid, part, 0))
        return total / np.maximum(count, 1)

    return replace(
        observations,
        series=pd.DataFrame(known).reset_index(drop=True),
        values=np.where(count > 0, mean(observations.values), np.nan),
        border=mean(observations.border),
    )


def protocols(series: pd.DataFrame) -> dict:
    """Columns of the acquisition that differ between series, and their values."""
    kinds = {c: sorted(series[c].dropna().astype(str).unique()) for c in PROTOCOL if c in series}
    return {column: values for column, values in kinds.items() if len(values) > 1}


def say_averaged(series: pd.DataFrame) -> list[str]:
    """Notes on averaging series of different acquisitions."""
    return [
        f'Series differ in {column} ({some(kinds)}) and were averaged as one measurement.'
        for column, kinds in protocols(series).items()
    ]


def patterns(values: np.ndarray) -> list[tuple[np.ndarray, list[int]]]:
    """(rows with a value, columns with just these rows), the most frequent pattern first."""
    groups = defaultdict(list)
    for j in range(values.shape[1]):
        groups[np.isfinite(values[:, j]).tobytes()].append(j)
    found = [(np.frombuffer(rows, bool), columns) for rows, columns in groups.items()]
    return sorted(found, key=lambda item: (-len(item[1]), -item[0].sum(), item[1]))


def codes(table: pd.DataFrame, columns: Iterable[str]) -> np.ndarray:
    """Number the rows by their values in some columns, in order of first appearance."""
    code = np.zeros(len(table), np.int64)
    for column in columns:
        if column in table:
            # NaN equals NaN: a series without a run is one series
            part, levels = pd.factorize(table[column], use_na_sentinel=True)
            code, _ = pd.factorize(code * (len(levels) + 1) + part + 1)
    return code


def numeric(column: pd.Series) -> tuple[pd.Series, list[str]]:
    """Convert a column to numbers, and list the text in it.

    Returns
    -------
    numbers : Series of float
        Missing where there is text.
    texts : list of str
        The text found.
    """
    numbers = pd.to_numeric(column.astype(object), errors='coerce').astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    texts = column[column.notna() & numbers.isna()].astype(str)
    return numbers, sorted(set(texts))


def is_numeric(column: pd.Series) -> bool:
    """Whether at least half of the values of a column are numbers."""
    if pd.api.types.is_bool_dtype(column):
        return False
    found = numeric(column)[0].count()
    return bool(found) and bool(found >= column.notna().sum() / 2)


def as_text(values: pd.Series) -> pd.Series:
    """Levels as text, n/a as it is; of numbers, those of a column with gaps are whole numbers too.

    >>> as_text(pd.Series([40123451, None, 1.5])).tolist()
    ['40123451', nan, '1.5']
    """

    def text(value: object):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return values.astype(object).map(text, na_action='ignore')


def some(names: Iterable, *, most: int = 6) -> str:
    """List a few names.

    >>> some(['a', 'b', 'c'], most=2)
    'a, b and 1 more'
    """
    names = [str(n) for n in names]
    rest = len(names) - most
    return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')


def describe(columns: Mapping[str, str | tuple[str, str]]) -> dict:
    """A BIDS data dictionary from the text of each column, or its text and units."""
    return {
        column: {'Description': told} if isinstance(told, str) else {'Description': told[0], 'Units': told[1]}
        for column, told in columns.items()
    }
