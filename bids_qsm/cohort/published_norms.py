"""Z-scores against iron post mortem of 1958, scaled to the susceptibility of the study.

For studies without controls of their own: which ppb an iron of 1958 has depends on reconstruction and zero,
so that the line between the two is fitted to the study itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special

from bids_qsm.biomarkers.iron import ADULTS, REGIONS, expected_iron
from bids_qsm.cohort.normative import ages, which_controls
from bids_qsm.cohort.observations import QUANTITY, average, describe, is_numeric, observe, some
from bids_qsm.cohort.visits import order

FLAG = 'norms of 1958 post mortem, scaled to this study'
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    'participant_id': 'Label of the participant.',
    'session_id': 'Label of the session.',
    **QUANTITY,
    'age': ('Age at the session.', 'year'),
    'value': ('Measured value (mean of the runs of the session).', 'see column units'),
    'iron': ('Iron of the region at that age by Hallgren and Sourander (1958).', 'mg/100 g'),
    'expected': ('Offset and slope of the study, applied to iron.', 'see column units'),
    'sd': (
        'Standard deviation of a person about it: spread between people, and error of the line.',
        'see column units',
    ),
    'spread': 'Where the spread between people comes from: published (1958), or study (scatter of the '
    'region in this study, as no published one is at hand).',
    'z': '(value - expected) / sd.',
    'percentile': ('Share of people of that age with a lower value, if the norm holds.', '%'),
    'slope': (
        'Susceptibility for each mg/100 g of iron in this study.',
        'see column units, for each mg/100 g',
    ),
    'offset': ('Susceptibility without iron in this study.', 'see column units'),
    'on_line': 'Whether the region was used for the line.',
    'units': 'Unit of the values.',
    'norm': 'What the score refers to.',
    'note': 'Why there is no z, or a caution.',
}
COLUMNS = list(_DESCRIBED)
_FEWEST_REGIONS, _FEWEST_PEOPLE = 4, 5
_LEAST_RANGE = 8.0
"""Least range (mg/100 g) of the iron of the regions of the line."""
_LEAST_R = 0.8
_OFF = 3.0
"""Distance from the line, over its scatter, beyond which a region is off it."""


@dataclass(frozen=True)
class Line:
    """Susceptibility over iron: offset, slope, scatter of regions about it, and what gives its error."""

    offset: float
    slope: float
    scatter: float
    iron: np.ndarray
    on: np.ndarray

    def at(self, iron: np.ndarray):
        """Expected value."""
        return self.offset + self.slope * iron

    def error(self, iron: np.ndarray):
        """Standard deviation of a region about the line, and of the line itself."""
        used = self.iron[self.on]
        spread = np.square(used - used.mean()).sum()
        return self.scatter * np.sqrt(1 + 1 / len(used) + np.square(iron - used.mean()) / spread)


def fit_line(iron: np.ndarray, value: np.ndarray) -> Line | str:
    """Fit a line to the medians of regions, of which some may be abnormal.

    Least trimmed squares: the line through the largest subset of regions, at least three of five, with the
    smallest squares; regions that lie near it join.

    Parameters
    ----------
    iron, value : ndarray, shape (k,)
        Iron (mg/100 g) and susceptibility of the regions.

    Returns
    -------
    Line, or a sentence that says why there is none.
    """
    k = len(iron)
    if k < _FEWEST_REGIONS:
        return f'Only {k} regions have a norm; the line needs {_FEWEST_REGIONS}.'
    kept = max(_FEWEST_REGIONS - 1, int(np.ceil(0.6 * k)))
    best, chosen = np.inf, np.arange(k)
    for subset in combinations(range(k), kept):
        part = list(subset)
        if np.ptp(iron[part]) < _LEAST_RANGE:
            continue
        rest = value[part] - np.polyval(np.polyfit(iron[part], value[part], 1), iron[part])
        if np.square(rest).sum() < best:
            best, chosen = np.square(rest).sum(), np.array(part)
    if not np.isfinite(best):
        return (
            f'The iron of the regions differs by less than {_LEAST_RANGE:g} mg/100 g, too little for a line.'
        )
    slope, offset = np.polyfit(iron[chosen], value[chosen], 1)
    # a trimmed sum of squares is too small for the scatter
    scale = np.sqrt(best / max(kept - 2, 1)) * np.sqrt(k / kept)
    on = np.abs(value - offset - slope * iron) <= _OFF * scale
    on[chosen] = True
    slope, offset = np.polyfit(iron[on], value[on], 1)
    rest = value[on] - offset - slope * iron[on]
    scatter = float(np.sqrt(np.square(rest).sum() / max(on.sum() - 2, 1)))
    r = float(np.corrcoef(iron[on], value[on])[0, 1])
    if slope <= 0 or r < _LEAST_R:
        return (
            f'Susceptibility does not rise with the iron of 1958 over the regions (r = {r:.2f}), so that '
            'these norms cannot be scaled to this study.'
        )
    return Line(float(offset), float(slope), scatter, iron, on)


def published_norms(
    long: pd.DataFrame,
    *,
    controls: str | Sequence[str] = (),
    group_column: str = '',
    age_column: str = 'age',
    statistic: str = 'mean',
    min_coverage: float = 0.5,
):
    """Z-scores of susceptibility against iron of 1958 [1]_.

    The line of susceptibility over iron goes through the medians of the regions over the participants, at
    their median age: over the controls where there are five or more, else over all, of whom regions that are
    abnormal in most leave the line (:func:`fit_line`). ``sd`` adds the published spread between people
    times the slope, where there is one, else the scatter of the region in this study; and the scatter of the
    regions about the line.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    controls : str or sequence of str
        Level or levels of the group that are controls; empty where there are none.
    group_column, age_column, statistic, min_coverage
        See :func:`bids_qsm.cohort.normative.normative`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`; empty where the norms could not be scaled.
    notes : list of str

    References
    ----------
    .. [1] Hallgren & Sourander (1958), J Neurochem 3:41. doi:10.1111/j.1471-4159.1958.tb12607.x
    """
    none = pd.DataFrame(columns=COLUMNS)
    wanted = long[(long['map'] == 'chi') & long['region'].isin(REGIONS)]
    if wanted.empty:
        return none, [f'No table has a region of the norms of 1958: {", ".join(REGIONS)}.']
    if age_column not in long or not is_numeric(long[age_column]):
        return none, [f'There is no column {age_column} with numbers, and the norms of 1958 are by age.']
    data = observe(wanted, statistic=statistic, min_coverage=min_coverage)
    data = average(data, ['participant_id', 'session_id'])
    rows = order(data.series)
    series, values = data.series.iloc[rows].reset_index(drop=True), data.values[rows]
    notes = list(data.notes)
    age = ages(series, age_column, notes)
    own = which_controls(series, controls, group_column) if controls else np.zeros(len(series), bool)
    first = ~series['participant_id'].duplicated().to_numpy() & np.isfinite(age)
    base = first & own if (first & own).sum() >= _FEWEST_PEOPLE else first
    if base.sum() < _FEWEST_PEOPLE:
        return none, [
            *notes,
            f'{base.sum()} participants are too few to scale the norms of 1958 to the study.',
        ]
    of = 'the controls' if (base & own).sum() == base.sum() and own.any() else 'all participants'
    parts = []
    for (_, side), keys in data.keys.groupby(['atlas', 'hemisphere'], sort=False):
        found = _of_side(series, age, values, keys, base)
        if isinstance(found, str):
            notes += [found] if side in ('both', '') else []
            continue
        line, off, table = found
        if side in ('both', ''):
            said = f'Susceptibility = {line.offset:.4g} + {line.slope:.4g} x iron (mg/100 g), fitted to {of}.'
            notes += [said + (f' Off the line, and not used for it: {some(off)}.' if off else '')]
        parts.append(table)
    if not parts:
        return none, notes
    notes.append(f'These are {FLAG}, not norms of healthy people in this scanner.')
    return pd.concat(parts, ignore_index=True)[COLUMNS], list(dict.fromkeys(notes))


def _of_side(series: pd.DataFrame, age: np.ndarray, values: np.ndarray, keys: pd.DataFrame, base: np.ndarray):
    """Line and rows of one atlas and hemisphere, or why there are none."""
    iron = np.stack([expected_iron(region, age) for region in keys['region']], 1)
    part = values[:, keys.index]
    known = base[:, None] & np.isfinite(iron) & np.isfinite(part)
    enough = known.sum(0) >= _FEWEST_PEOPLE
    if enough.sum() < _FEWEST_REGIONS:
        return f'Only {enough.sum()} regions have norms and {_FEWEST_PEOPLE} values: too few for a line.'
    middle = np.full((2, len(keys)), np.nan)
    for j in np.flatnonzero(enough):
        middle[0, j], middle[1, j] = np.median(iron[known[:, j], j]), np.median(part[known[:, j], j])
    line = fit_line(middle[0, enough], middle[1, enough])
    if isinstance(line, str):
        return line
    on = np.zeros(len(keys), bool)
    on[enough] = line.on
    expected = line.at(iron)
    spread, source = _spread(keys['region'], part - expected, known, line)
    few = np.isnan(spread)
    sd = np.hypot(spread, line.error(iron))
    z = (part - expected) / sd
    r, c = np.nonzero(np.isfinite(part))
    table = keys.iloc[c].reset_index(drop=True)
    table['participant_id'] = series['participant_id'].to_numpy()[r]
    table['session_id'] = series['session_id'].to_numpy()[r] if 'session_id' in series else np.nan
    table['age'] = age[r]
    arrays = (('value', part), ('iron', iron), ('expected', expected), ('sd', sd), ('z', z))
    for name, array in arrays:
        table[name] = array[r, c]
    table['percentile'] = 100 * special.ndtr(z[r, c])
    table['spread'], table['slope'], table['offset'] = source[c], line.slope, line.offset
    table['on_line'], table['norm'] = on[c], FLAG
    missing = np.where(
        np.isnan(age[r]), 'no age', 'the norm of this region is of adults of 30 years and more'
    )
    table['note'] = np.where(
        np.isnan(z[r, c]), missing, np.where(on[c], '', 'off the line of the other regions')
    )
    said = f'fewer than {_FEWEST_PEOPLE} people to measure the spread of this region'
    table.loc[few[c] & np.isfinite(iron[r, c]), 'note'] = said
    return line, keys['region'][~on].tolist(), table


def _spread(regions: pd.Series, rest: np.ndarray, known: np.ndarray, line: Line):
    """Standard deviation between people of each region, NaN where these are few, and where it comes from."""
    spread, source = np.full(len(regions), np.nan), np.full(len(regions), 'published', object)
    for j, region in enumerate(regions):
        if region in ADULTS:
            spread[j] = line.slope * ADULTS[region][1]
            continue
        own = rest[known[:, j], j]
        source[j] = 'study'
        if len(own) >= _FEWEST_PEOPLE:
            spread[j] = 1.4826 * np.median(np.abs(own - np.median(own)))
    return spread, source


def dictionary() -> dict:
    """Describe every column of the table."""
    return describe(_DESCRIBED)
