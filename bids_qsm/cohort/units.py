"""From tables to units with a label of two levels, and features as numbers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bids_qsm.cohort import leaks
from bids_qsm.cohort.classify import FEWEST, Units
from bids_qsm.cohort.design import reference_level
from bids_qsm.cohort.formula import Factor, parse
from bids_qsm.cohort.harmonise import FEWEST as FEWEST_OF_SITE
from bids_qsm.cohort.harmonise import NEAR
from bids_qsm.cohort.observations import as_text, average, is_numeric, numeric, observe, say_averaged, some
from bids_qsm.cohort.tables import ENTITY_COLUMNS
from bids_qsm.errors import UserError

_EVENTS = 10
"""Units of the smaller class for each feature, below which models of small samples are doubtful."""
NAMES = (*ENTITY_COLUMNS.values(), 'source', 'lesion', 'candidate', 'vein', 'segment', 'label_id')
"""Columns that name a unit."""


def parse_classes(text: str) -> tuple[str, list[Factor], list[Factor]]:
    """Read ``label ~ base | qsm``: the label, the base features and the QSM features.

    Features are names of columns joined by +; C() makes a factor of a column of numbers. Without | there is
    one model.

    Raises
    ------
    UserError

    >>> label, base, qsm = parse_classes('group ~ age + sex | chi_GP')
    >>> label, [str(f) for f in base], [str(f) for f in qsm]
    ('group', ['age', 'sex'], ['chi_GP'])
    """
    left, bar, right = text.partition('|')
    first = parse(left)
    if not first.response or not first.terms:
        raise UserError(
            f'--classify {text!r} must name a label and base features, as in "group ~ age + sex | chi_GP".'
        )
    parts = [first.terms, parse(right).terms if bar else ()]
    for factor in (f for terms in parts for term in terms for f in term):
        if any(name != 'C' or arguments for name, arguments in factor.calls):
            raise UserError(f'--classify {text!r} has {factor}; features are columns, joined by +.')
    if any(len(term) > 1 for terms in parts for term in terms) or (bar and not parts[1]):
        raise UserError(f'--classify {text!r} must name columns, joined by +, on both sides of "|".')
    base, qsm = ([term[0] for term in terms] for terms in parts)
    columns = [f.column for f in (*base, *qsm)]
    twice = [c for c in columns if columns.count(c) > 1 or c == first.response]
    if twice:
        raise UserError(
            f'--classify {text!r} names {twice[0]!r} twice; the label and each feature stand there once.'
        )
    return first.response, base, qsm


def by_participant(
    long: pd.DataFrame, label: str = '', *, statistic: str = 'mean', site: str = ''
) -> tuple[pd.DataFrame, list[str]]:
    """One row a participant: the columns of participants.tsv, and regional values as chi_GP or chi_GP_L.

    Sessions, runs and acquisitions are averaged. Where several atlases have a region, the first one counts.
    UserError where a participant has two values of the column ``label`` or ``site``, which are not averaged.
    """
    data = observe(long, statistic=statistic)
    notes = [*data.notes, *say_averaged(data.series)]
    if several := _with_several(data.series, label):
        raise UserError(
            f'--classify: {label} differs between sessions of {several}, but a participant has one label; '
            'make a column with one value for each, and n/a for those to leave out.'
        )
    if several := _with_several(data.series, site):
        raise UserError(
            f'--classify with --harmonise {site}: {several} were at several of them, but a participant '
            'counts once; name sessions by --session-label.'
        )
    data = average(data, ['participant_id'], factors=[label, site])
    table = data.series.copy()
    values = {}
    for j, key in enumerate(data.keys.to_dict('records')):
        side = '' if key['hemisphere'] in ('both', '') else f'_{key["hemisphere"]}'
        values.setdefault(f'{key["map"]}_{key["region"]}{side}', data.values[:, j])
    wide = pd.DataFrame(values, index=table.index)
    clash = [c for c in wide if c in table]
    if clash:
        notes.append(
            f'Columns of participants.tsv that are called as a region gave way to it: {some(clash)}.'
        )
    return table.drop(columns=clash).join(wide), notes


def _with_several(series: pd.DataFrame, column: str) -> str:
    """Participants with more than one value of a column, '' where there are none or no such column."""
    if column not in series:
        return ''
    differ = series.groupby('participant_id')[column].nunique() > 1
    return some(differ.index[differ]) if differ.any() else ''


def make_units(
    table: pd.DataFrame, text: str, *, controls: str = '', site: str = '', of_site: Sequence[str] = ()
) -> tuple[Units, list[str], list[str], list[dict]]:
    """Units from a table and a formula, with what was left out and what looks like a leak.

    Parameters
    ----------
    table : DataFrame
        One row a unit, with the column participant_id.
    text : str
        See `parse_classes`.
    controls : str
        Label that is negative; found by its name, or the first in the alphabet, where it is empty.
    site : str
        Column of the site, whose effect is taken away from those features that are among ``of_site``.
    of_site : sequence of str
        Columns of regional values.

    Returns
    -------
    units : Units
    notes, warnings : list of str
        What was left out or assumed; signs of leaks.
    flow : list of dict
        Units and participants after each step, for the report.

    Raises
    ------
    UserError
        A column is not there, the label has not two levels, or participants are too few.
    """
    label, base, qsm = parse_classes(text)
    _check_columns(table, [label, *(f.column for f in (*base, *qsm))], text)
    flow = [_counted('in the table', table)]
    notes = []
    if 'reason' in table:
        table = table[table['reason'].isna()]
        flow.append(_counted('measured', table))
    table = table[table[label].notna()]
    if site and table[site].isna().any():
        table = table[table[site].notna()]
        flow.append(_counted(f'with a value of {site}', table))
    table = table.reset_index(drop=True)
    flow.append(_counted(f'with a value of {label}', table))
    said = as_text(table[label])
    levels = sorted(said.unique())
    if len(levels) != 2:
        raise UserError(
            f'--classify needs a label of two levels, but {label} has {len(levels)} ({some(levels)}); make a '
            'column with two, and n/a in rows to leave out.'
        )
    negative = reference_level(levels, controls)
    positive = next(level for level in levels if level != negative)
    sides = [_features(table, factors, notes) for factors in (base, qsm)]
    x, names = pd.concat(sides, axis=1), [tuple(side) for side in sides]
    known = x.notna().any(axis=1).to_numpy()
    if not known.all():
        flow.append(_counted('with any feature', table[known]))
    table, x, said = (part[known].reset_index(drop=True) for part in (table, x, said))
    y = (said == positive).to_numpy(float)
    person = pd.factorize(table['participant_id'])[0]
    person, leaking = leaks.same_people(x, person, table['participant_id'].astype(str).to_numpy())
    units = Units(
        table[[c for c in NAMES if c in table]], y, person, x, positive, negative, names[0], names[1]
    )
    _check_size(units, label, leaking)
    mine = tuple(c for c in x if c in set(of_site)) if site else ()
    if mine:
        _check_sites(units, as_text(table[site]), label, site)
        units = replace(units, site=pd.factorize(as_text(table[site]), sort=True)[0], of_site=mine)
        notes.append(f'Shift and scale of {site} were taken away from {some(mine)}, learned in each fold.')
    elif site:
        notes.append(f'No feature is a regional value, so that none was harmonised by {site}.')
    features = [f.column for f in (*base, *qsm)]
    leaking += leaks.warnings(table, features, y, person)
    return units, notes + _doubts(units, label), leaking, flow


def _counted(step: str, table: pd.DataFrame):
    return {'step': step, 'units': len(table), 'participants': table['participant_id'].nunique()}


def _check_columns(table: pd.DataFrame, columns: Sequence[str], text: str):
    for column in columns:
        if column not in table:
            there = some([c for c in table if c not in NAMES], most=30)
            raise UserError(f'--classify {text!r}: the units have no column {column!r}; there are {there}.')
        if table[column].isna().all():
            raise UserError(f'--classify {text!r}: {column!r} has no value in any unit.')


def _features(table: pd.DataFrame, factors: Sequence[Factor], notes: list[str]) -> pd.DataFrame:
    """Columns of numbers as they are, others as one column of 0 and 1 for each level but the first.

    Columns that do not vary are left out, with a note; UserError where none does.
    """
    found, still = {}, []
    for factor in factors:
        values = table[factor.column]
        if is_numeric(values) and not factor.calls:
            numbers, texts = numeric(values)
            if numbers.nunique() > 1:
                found[factor.column] = numbers
            else:
                still.append(factor.column)
            if texts:
                held = f'holds text among its numbers ({some(texts, most=3)})'
                notes.append(f'{factor.column} {held}, taken as missing.')
            continue
        levels = sorted(values.dropna().astype(str).unique())
        if len(levels) > max(2, len(table) / 4):
            raise UserError(
                f'--classify: {factor.column} has {len(levels)} levels in {len(table)} units, too many for a '
                'feature; leave it out.'
            )
        still += [factor.column] if len(levels) < 2 else []
        for level in levels[1:]:
            is_level = (values.astype(str) == level).astype(float)
            found[f'{factor.column}={level}'] = is_level.where(values.notna())
    if still and not found:
        raise UserError(
            '--classify: nothing on one side of the formula varies in the units with a label '
            f'({some(still)}); name other features.'
        )
    if still:
        notes.append(f'Without two values in the units with a label, so left out: {some(still)}.')
    return pd.DataFrame(found, index=table.index)


def _check_sites(units: Units, sites: pd.Series, label: str, site: str):
    """Raise UserError where the effect of the site cannot be told from the label."""
    for one, person in pd.Series(units.person).groupby(sites.to_numpy()).unique().items():
        if len(person) < FEWEST_OF_SITE:
            raise UserError(
                f'--harmonise {site}: {one} has {len(person)} participants with a label, fewer than '
                f'{FEWEST_OF_SITE}, too few to know its effect; leave them out by --participant-label.'
            )
    for value, name in ((0, units.negative), (1, units.positive)):
        at = sites[units.y == value].unique()
        if len(at) == 1:
            raise UserError(
                f'--harmonise {site}: all with {label} {name} are of {site} {at[0]}, so that the effects of '
                f'{site} and {label} cannot be told apart; leave --classify or --harmonise out.'
            )
    place = pd.factorize(sites)[0]
    share = np.bincount(place, units.y) / np.bincount(place)
    told = share[place].var() / units.y.var()
    people = pd.DataFrame({'site': place, 'y': units.y, 'person': units.person}).drop_duplicates()
    fewer = int(pd.crosstab(people['site'], people['y']).min(axis=1).sum())
    why = ''
    if told > NEAR:
        why = f'{site} tells {100 * told:.0f} % of the variance of {label}'
    elif fewer < FEWEST:
        why = f'only {fewer} participants have the rarer {label} of their {site}, fewer than {FEWEST}'
    if why:
        raise UserError(
            f'--harmonise {site}: {why}, so that the effects of {site} and {label} cannot be told apart; '
            'leave --classify or --harmonise out.'
        )


def _check_size(units: Units, label: str, merged: list[str]):
    counts = {
        name: len(np.unique(units.person[units.y == value]))
        for value, name in ((0, units.negative), (1, units.positive))
    }
    if min(counts.values()) < FEWEST:
        told = ' and '.join(f'{n} with {label} = {name}' for name, n in counts.items())
        raise UserError(
            f'--classify needs at least {FEWEST} participants with each label, but there are {told}; collect '
            'more, or leave --classify out.' + ''.join(f' {note}' for note in merged)
        )


def _doubts(units: Units, label: str):
    notes = [f'{label} = {units.positive} is the positive label, {units.negative} the negative.']
    events = int(min(units.y.sum(), (1 - units.y).sum()))
    n = units.x.shape[1]
    if events < _EVENTS * n:
        notes.append(
            f'{events} units of the smaller class for {n} features are fewer than {_EVENTS} for each: '
            'coefficients and calibration are uncertain.'
        )
    lacking = units.x.isna().sum()
    if lacking.any():
        told = some(f'{c} ({k})' for c, k in lacking[lacking > 0].items())
        notes.append(f'Missing values, replaced by the mean of the units that a model is fitted to: {told}.')
    return notes
