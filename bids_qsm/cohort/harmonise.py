"""Harmonise regional values of several sites by ComBat, with group, age and sex kept, or say why not."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_qsm.cohort import design as designs
from bids_qsm.cohort.combat import Combat, combat
from bids_qsm.cohort.formula import Factor, Formula, parse_model
from bids_qsm.cohort.observations import (
    KEYS,
    QUANTITY,
    Observations,
    as_text,
    describe,
    is_numeric,
    observe,
    some,
)
from bids_qsm.cohort.tables import (
    BORDER,
    ERRORS,
    SHIFTED,
    ZEROS,
    group_column,
    series_columns,
)
from bids_qsm.cohort.visits import visits, years
from bids_qsm.errors import UserError

FEWEST = 5
"""Fewest participants of a site."""
NEAR = 0.9
"""Share of a covariate's variance, given the others, that the sites may explain."""
RAW = 'raw'
"""Column of the value before harmonisation."""
TIME = 'years since the first visit'
_SE = {'mean': 'se', 'mean_weighted': 'se_weighted', 'core_mean': 'core_se', 'mean_pv': 'se_pv'}
_SEE = 'see column units'
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    **QUANTITY,
    'site': 'Site or scanner.',
    'n_participants': 'Participants of the site with a value.',
    'shift': (
        'What ComBat takes away: shift of the site against the mean of all observations, covariates equal, '
        'drawn towards that of the other regions of the map.',
        _SEE,
    ),
    'shift_se': ('Standard error of the shift.', _SEE),
    'spread': ('Standard deviation about the model, over all sites.', _SEE),
    'effect': 'Shift over the standard deviation about the model.',
    'scale': 'Standard deviation of the site about the model over that of all sites, after empirical Bayes.',
    'scale_se': 'Standard error of the scale.',
    'shift_raw': ('Shift before empirical Bayes.', _SEE),
    'shift_raw_se': ('Standard error of the shift before empirical Bayes.', _SEE),
    'scale_raw': 'Scale before empirical Bayes.',
    'shift_left': ('Shift of the site that is left in the harmonised values.', _SEE),
    'effect_left': 'Shift that is left, over the standard deviation about the model.',
    'scale_left': 'Scale of the site that is left in the harmonised values.',
    'units': 'Unit of the values.',
}
COLUMNS = list(_DESCRIBED)


@dataclass(frozen=True)
class Harmonised:
    """What `harmonise` found.

    Attributes
    ----------
    long : DataFrame
        Rows of the long table of which the value was harmonised, see `harmonise`.
    effects : DataFrame
        Columns `COLUMNS`: one row a quantity and site.
    notes : list of str
    """

    long: pd.DataFrame
    effects: pd.DataFrame
    notes: list[str]


def harmonise(
    long: pd.DataFrame,
    site: str,
    *,
    model: str = '',
    keep: Sequence[str] = (),
    controls: str = '',
    statistic: str = 'mean',
    min_coverage: float = 0.5,
) -> Harmonised:
    """Take the effects of sites away from the values of all regions, by ComBat.

    The regions of a map and atlas share a prior: those of the sides one, and those of both sides together
    another, as the latter say nothing new. Values without a site or a covariate, and those of a region that a
    site has of fewer than `FEWEST` participants, become missing. What was measured at one site alone stays as
    it is.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    site
        Column of participants.tsv or sessions.tsv that names the site or the scanner.
    model
        Formula whose right side is kept; where it is empty, the group, age and sex that there are.
    keep
        Further columns that are kept, as factors.
    controls
        See :func:`bids_qsm.cohort.design.build`.
    statistic
        Column that is harmonised; the other statistics of a region are not, and become missing.
    min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Raises
    ------
    UserError
        There is no such column, it is that of the groups or arms, or sites cannot be told from what is kept
        (see `check_sites`).
    """
    data = observe(long, statistic=statistic, min_coverage=min_coverage)
    if site not in data.series:
        raise UserError(
            f'--harmonise {site}: participants.tsv and sessions.tsv have no such column; there are '
            f'{some(data.series.columns, most=30)}.'
        )
    if site in (group_column(data.series), 'arm'):
        raise UserError(
            f'--harmonise {site}: it parts the participants, and its own effect would be taken away; '
            'name the column of the site or the scanner.'
        )
    notes = list(data.notes)
    table, formula = _kept(data, site, model, keep, notes)
    place, names = pd.factorize(as_text(table[site]), sort=True)
    design = designs.build(formula, table, data.participants[0], controls=controls, rows=place >= 0)
    notes += [f'ComBat, {formula}: {note}' for note in design.notes]
    check_sites(design, place, [str(one) for one in names], table, data.participants[0], site, formula)
    lacking = len(set(data.participants[0][~design.rows]))
    if lacking:
        notes.append(
            f'ComBat: {lacking} participants without {site} or what is kept have no harmonised value.'
        )
    values = _measured(data, design.rows, place, notes)
    found = combat(
        values[design.rows], place[design.rows], data.participants[0][design.rows], design.x[:, 1:],
        _families(data.keys),
    )  # fmt: skip
    made = np.full(data.values.shape, np.nan)
    made[design.rows] = found.values
    scale = np.ones(data.values.shape)
    # what was measured at one site alone stays as it is
    scale[design.rows] = np.where(found.alone, 1.0, found.scale)[place[design.rows]]
    kept = some(formula.columns) or 'nothing else'
    notes.append(
        f'ComBat removed shift and scale of {len(names)} values of {site} ({some(names)}); kept: {kept}.'
    )
    notes += _odd(found, data.keys)
    return Harmonised(_replaced(long, data, made, scale, statistic), _effects(found, data.keys, names), notes)


def _kept(data: Observations, site: str, model: str, keep: Sequence[str], notes: list[str]):
    """The series with the column `TIME` where visits repeat, and the formula of what is kept."""
    table = data.series
    if model:
        terms = [t for t in parse_model(model).terms if not any(f.column == site for f in t)]
    else:
        there = dict.fromkeys(filter(None, (group_column(table), 'age', 'sex')))
        terms = [(Factor(c),) for c in there if c in table and c != site and table[c].notna().any()]
    named = {f.column for term in terms for f in term}
    terms += [(Factor(c, (('C', ()),)),) for c in dict.fromkeys(keep) if c in table and c not in named]
    if 'session_id' in table and 'session_id' not in named:
        number, _ = visits(table)
        if number.any():
            since = pd.Series(years(table))
            since = since.where(since.notna(), pd.Series(number, dtype=float))
            # sessions of one visit differ by days, in which nothing changes
            table = table.assign(
                **{TIME: since.groupby([table['participant_id'].to_numpy(), number]).transform('min')}
            )
            terms.append((Factor(TIME),))
            notes.append('Visits repeat: ComBat has a random intercept for each participant, and keeps time.')
    return table, Formula('', tuple(terms))


def check_sites(
    design: designs.Design,
    place: np.ndarray,
    names: Sequence[str],
    table: pd.DataFrame,
    participants: np.ndarray,
    site: str,
    formula: Formula,
) -> None:
    """Raise UserError where site effects cannot be told from what is kept.

    There are fewer than two sites; a site has fewer than `FEWEST` participants; a level of a factor is at one
    site alone; or the sites explain more than `NEAR` of a column of the design, given the others.

    Parameters
    ----------
    design : Design
        Of what is kept.
    place : ndarray of int, shape (n,)
        Number of the site of each row of ``table``; -1 where it is not stated.
    names : sequence of str
        Of the sites.
    participants : ndarray of int, shape (n,)
    site
        Name of the column.
    formula : Formula
        Of what is kept.
    """
    rows = design.rows
    flag = f'--harmonise {site}'
    there = np.unique(place[rows])
    if len(there) < 2:
        which = f'only {names[there[0]]}' if len(there) else 'none'
        raise UserError(f'{flag}: there are no two sites to harmonise, but {which}; leave it out.')
    people = {names[i]: len(set(participants[rows & (place == i)])) for i in range(len(names))}
    small = [f'{one} ({n})' for one, n in people.items() if n < FEWEST]
    if small:
        raise UserError(
            f'{flag}: {some(small)} has fewer than {FEWEST} participants with all that is kept, too few to '
            'know its effect; leave them out by --participant-label, or put them together with a site of the '
            'same scanner.'
        )
    factors = designs.forced(formula) | {group_column(table)}
    for column in formula.columns:
        levels = as_text(table[column])[rows]
        # of other columns, two numbers code two groups
        is_number = column not in factors and is_numeric(table[column]) and levels.nunique() > 2
        if column == TIME or is_number:
            continue
        for level in sorted(levels.unique()):
            at = np.unique(place[rows][(levels == level).to_numpy()])
            if len(at) == 1 and levels.nunique() > 1:
                raise UserError(
                    f'{flag}: all with {column} {level} are of {site} {names[at[0]]}, so that the effects of '
                    f'{site} and {column} cannot be told apart; scan some of them elsewhere, or leave '
                    f'{column} or {flag} out.'
                )
    one_hot = (place[rows][:, None] == there).astype(float)
    for i, one in enumerate(design.columns):
        rest = np.delete(design.x, i + 1, axis=1)
        own = design.x[:, i + 1]
        before, after = (_left(own, x) for x in (rest, np.column_stack([rest, one_hot])))
        if after < (1 - NEAR) * before:
            # time is kept where visits repeat, whatever was asked for
            either = flag if TIME in one.term else f'{one.term} or {flag}'
            raise UserError(
                f'{flag}: {site} tells {100 * (1 - after / before):.0f} % of the variance of {one.term}, '
                f'so that their effects cannot be told apart; leave {either} out.'
            )


def _left(column: np.ndarray, x: np.ndarray):
    """Sum of squares of a column about what others explain."""
    return float(((column - x @ np.linalg.lstsq(x, column, rcond=None)[0]) ** 2).sum())


def _measured(data: Observations, rows: np.ndarray, place: np.ndarray, notes: list[str]):
    """Values, less those of a region that a site has of few participants."""
    values, thin = data.values.copy(), []
    who = data.participants[0]
    for i in np.unique(place[rows]):
        here = rows & (place == i)
        people = pd.DataFrame(np.isfinite(values[here])).groupby(who[here]).any().sum().to_numpy()
        few = (people > 0) & (people < FEWEST)
        if few.any():
            values[np.ix_(here, few)] = np.nan
            thin += list(data.keys.loc[few, 'region'])
    if thin:
        notes.append(
            f'ComBat: fewer than {FEWEST} participants of a site have {some(dict.fromkeys(thin))}, whose '
            'values are missing there.'
        )
    return values


def _families(keys: pd.DataFrame) -> list[np.ndarray]:
    """Columns that share a prior: those of one atlas, map and kind of hemisphere."""
    sides = keys['hemisphere'].where(~keys['hemisphere'].isin(['L', 'R']), 'sides')
    groups = keys.groupby([keys['atlas'], keys['map'], sides], sort=False).indices
    return list(groups.values())


def _odd(found: Combat, keys: pd.DataFrame) -> list[str]:
    """What was measured and has no harmonised value at any site, and why, or at one site alone."""
    lost = ~np.isfinite(found.scale).any(0) & (found.people > 0).any(0) & ~found.alone
    said = defaultdict(dict)
    for j in np.flatnonzero(found.alone | lost):
        why = 'was measured at one site alone and stays as it is'
        if lost[j]:
            why = f'has no harmonised value: {found.faults[j] or "no site has two participants with it"}'
        said[why][f'{keys.loc[j, "map"]} of {keys.loc[j, "region"]}'] = None
    return [f'ComBat: {some(regions)} {why}.' for why, regions in said.items()]


def _effects(found: Combat, keys: pd.DataFrame, names: Sequence) -> pd.DataFrame:
    parts = []
    for i, one in enumerate(names):
        scale = found.scale[i]
        left = (found.raw_shift[i] - found.shift[i]) / scale
        parts.append(
            keys.assign(
                site=str(one), n_participants=found.people[i], shift=found.shift[i],
                shift_se=found.shift_se[i], spread=found.spread, effect=found.shift[i] / found.spread,
                scale=scale, scale_se=found.scale_se[i],
                shift_raw=found.raw_shift[i], shift_raw_se=found.raw_shift_se[i],
                scale_raw=found.raw_scale[i], shift_left=left,
                effect_left=left / found.spread, scale_left=found.raw_scale[i] / scale,
                order=np.arange(len(keys)),
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table = table[np.isfinite(table['shift'])].sort_values(['order', 'site'], kind='stable')
    return table.reindex(columns=COLUMNS).reset_index(drop=True)


def _replaced(
    long: pd.DataFrame, data: Observations, made: np.ndarray, scale: np.ndarray, statistic: str
) -> pd.DataFrame:
    """The long table with harmonised values in the column of the statistic, and those measured in `RAW`."""
    wanted = (long['region'] != 'lesion').to_numpy()
    rows = long[wanted].reset_index(drop=True)
    row = pd.MultiIndex.from_frame(_words(data.series, series_columns(rows)))
    column = pd.MultiIndex.from_frame(_words(data.keys, KEYS))
    i = row.get_indexer(pd.MultiIndex.from_frame(_words(rows, series_columns(rows))))
    j = column.get_indexer(pd.MultiIndex.from_frame(_words(rows, KEYS)))
    raw = pd.to_numeric(rows[statistic], errors='coerce')
    rows = rows.drop(
        columns=[
            c
            for c in (*SHIFTED, *ERRORS, *ZEROS, 'mean_positive', 'sd', 'core_sd', 'core_voxels')
            if c in rows and c not in (statistic, _SE.get(statistic))
        ]
    )
    rows[statistic] = made[i, j]
    rows[RAW] = raw
    for other in (_SE.get(statistic), BORDER):
        if other in rows:
            rows[other] = pd.to_numeric(rows[other], errors='coerce') / scale[i, j]
    return rows


def _words(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns as text, a missing one empty."""
    found = table.reindex(columns=list(columns)).astype(object)
    return found.where(found.notna(), '').astype(str)


def dictionary() -> dict:
    """Describe every column of the table of site effects."""
    return describe(_DESCRIBED)
