"""Z-scores of each participant against the controls of the study, given age."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from bids_qsm.cohort.curve import AgeCurve
from bids_qsm.cohort.observations import (
    QUANTITY,
    average,
    describe,
    is_numeric,
    numeric,
    observe,
    patterns,
    say_averaged,
    some,
)
from bids_qsm.cohort.tables import group_column as find_group
from bids_qsm.cohort.visits import order, years
from bids_qsm.errors import UserError

_UNIT = 'see column units'
_LEAST = 5
"""Fewest controls, and fewest of each sex for a difference between the sexes."""
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    'participant_id': 'Label of the participant.',
    'session_id': 'Label of the session.',
    **QUANTITY,
    'age': ('Age at the session.', 'year'),
    'value': ('Measured value (mean of the runs of the session).', _UNIT),
    'expected': (
        f'Mean of controls of that age, and of that sex where the sex of all controls is known and there are '
        f'{_LEAST} of each; without the participant where it is a control.',
        _UNIT,
    ),
    'sd': (
        'Standard deviation of a new participant about it: scatter of controls and error of the curve.',
        _UNIT,
    ),
    'dof': 'Degrees of freedom of sd; (value - expected) / sd follows the t distribution with these.',
    'z': 'Normal score of the same probability.',
    'percentile': ('Share of healthy participants of that age with a lower value.', '%'),
    'n_controls': 'Controls that the participant is compared with.',
    'is_control': 'Whether the participant is a control.',
    'units': 'Unit of the values.',
    'note': 'Why there is no z, or a caution.',
}
COLUMNS = list(_DESCRIBED)


def normative(
    long: pd.DataFrame,
    *,
    controls: str | Sequence[str],
    group_column: str = '',
    age_column: str = 'age',
    statistic: str = 'mean',
    min_coverage: float = 0.5,
):
    """Z-scores of each region against controls, whose mean is a smooth curve over age, moved by sex.

    The curve is a cubic smoothing spline, its smoothness found by restricted maximum likelihood for each
    region (:class:`bids_qsm.cohort.curve.AgeCurve`); one session a control enters, the first. A control is
    compared with a curve fitted without it. ``sd`` is that of a new participant: the scatter of controls
    about the curve and the error of the curve at that age. Where 5 controls of each sex are known, the
    curves of the sexes are a constant apart; who has no known sex is compared with both. As controls are
    few, (value - expected) / sd follows the t distribution with ``dof`` degrees of freedom [1]_; z is the
    normal score of the same probability, so that 1.96 is passed by 2.5 % of healthy participants however
    many controls there are.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    controls : str or sequence of str
        Level or levels of the group that are controls.
    group_column
        Column of the groups; ``group`` of participants.tsv unless given.
    age_column
        Column of the age (years) at the session; where it is the same at all sessions of a participant and
        acq_time is known, the time since the first session is added; where it is stated at some sessions
        only, that of the others is computed from the first of these. Without the column, one mean is
        used for all ages.
    statistic, min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`: one row a session (runs averaged) and region; z is NaN and the note says why where
        it could not be computed.
    notes : list of str

    Raises
    ------
    UserError
        There is no such column, or no participant is a control.

    References
    ----------
    .. [1] Crawford & Howell (1998), Clin Neuropsychol 12:482. doi:10.1076/clin.12.4.482.7241
    """
    data = observe(long, statistic=statistic, min_coverage=min_coverage)
    notes = list(data.notes) + say_averaged(data.series)
    data = average(data, ['participant_id', 'session_id'])
    rows = order(data.series)
    series, values = data.series.iloc[rows].reset_index(drop=True), data.values[rows]
    is_control = which_controls(series, controls, group_column)
    age = ages(series, age_column, notes)
    sex = sexes(series)
    who = series['participant_id'].to_numpy()
    expected, sd, dof = np.full((3, *values.shape), np.nan)
    n_controls, said = np.zeros(values.shape, int), np.full(values.shape, '', object)
    for there, columns in patterns(np.where(is_control[:, None], values, np.nan)):
        # the first session of each control that has a value
        mine = np.flatnonzero(there & np.isfinite(age))
        mine = mine[~pd.Series(who[mine]).duplicated().to_numpy()]
        n_controls[:, columns] = len(mine)
        if len(mine) < _LEAST:
            said[:, columns] = f'{len(mine)} controls are too few'
            continue
        both = np.isfinite(sex[mine]).all() and min((sex[mine] == k).sum() for k in (0, 1)) >= _LEAST
        curve = AgeCurve(age[mine], sex[mine] if both else None)
        place = {name: i for i, name in enumerate(who[mine])}
        left_out = np.array([place.get(name, -1) for name in who])
        timed = np.isfinite(age)
        told = np.where(np.isfinite(sex), sex, sex[mine].mean())[timed] if both else None
        found = curve.predict(values[np.ix_(mine, columns)], age[timed], left_out[timed], told)
        for array, part in zip((expected, sd, dof), found, strict=True):
            array[np.ix_(timed, columns)] = part
        outside = (age < age[mine].min()) | (age > age[mine].max())
        span = f'age outside that of the controls ({age[mine].min():g} to {age[mine].max():g})'
        said[np.ix_(outside, columns)] = span if np.ptp(age[mine]) > 0 and age_column in series else ''
        n_controls[np.ix_(left_out >= 0, np.array(columns))] -= 1
    still = sd <= 1e-12 * np.maximum(np.abs(values), 1e-300)
    with np.errstate(invalid='ignore'):
        t = (values - expected) / np.where(still, np.nan, sd)
        tail = np.clip(stats.t.sf(np.abs(t), np.where(np.isfinite(dof), dof, 1)), 1e-300, 0.5)
    z = -np.sign(t) * special.ndtri(tail)
    said[still] = 'the controls do not vary'
    said[~np.isfinite(age)] = f'no {age_column}'
    unscored = [some(sorted(set(who[~np.isfinite(age)])))] if not np.isfinite(age).all() else []
    notes += [f'No z-score for {names}: no {age_column}.' for names in unscored]
    few = data.keys['region'][(np.isnan(z).all(0)) & np.isfinite(values).any(0)]
    if len(few):
        notes.append(f'No z-scores for {some(dict.fromkeys(few))}: too few controls, or they do not vary.')
    measured = np.isfinite(values)
    if not measured.any():
        notes.append('No z-scores: no region has a value.')
    r, c = np.nonzero(measured)
    table = data.keys.iloc[c].reset_index(drop=True)
    table['participant_id'] = who[r]
    table['session_id'] = series['session_id'].to_numpy()[r] if 'session_id' in series else np.nan
    table['age'] = age[r] if age_column in series else np.nan
    for name, array in (('value', values), ('expected', expected), ('sd', sd), ('dof', dof), ('z', z)):
        table[name] = array[r, c]
    table['percentile'] = 100 * special.ndtr(z[r, c])
    table['n_controls'], table['note'] = n_controls[r, c], said[r, c].astype(str)
    table['is_control'] = is_control[r]
    return table[COLUMNS], list(dict.fromkeys(notes))


def which_controls(series: pd.DataFrame, controls: str | Sequence[str], group_column: str):
    """Which rows are of controls."""
    column = group_column or find_group(series)
    if not column or column not in series:
        named = f'column {group_column!r}' if group_column else 'column group'
        raise UserError(f'There is no {named} in participants.tsv that says who is a control.')
    wanted = {controls} if isinstance(controls, str) else set(map(str, controls))
    groups = series[column].astype(object).fillna('').astype(str)
    found = groups.isin(wanted).to_numpy()
    if not found.any():
        levels = ', '.join(sorted(set(groups) - {''}))
        raise UserError(f'No participant has {column} {" or ".join(sorted(wanted))!r}; there are {levels}.')
    return found


def sexes(series: pd.DataFrame):
    """Sex of each row: 0 male, 1 female, NaN where it is not stated."""
    if 'sex' not in series:
        return np.full(len(series), np.nan)
    first = series['sex'].astype(str).str.strip().str.upper().str[:1]
    return first.map({'M': 0.0, 'F': 1.0}).to_numpy(float)


def ages(series: pd.DataFrame, age_column: str, notes: list[str]):
    """Age of each row; 0 for all where no age is known."""
    if age_column not in series:
        notes.append(f'There is no column {age_column}: the controls are one group of all ages.')
        return np.zeros(len(series))
    if not is_numeric(series[age_column]):
        notes.append(f'The column {age_column} holds no numbers: the controls are one group of all ages.')
        return np.zeros(len(series))
    age, texts = numeric(series[age_column])
    if texts:
        notes.append(f'{age_column} holds text among its numbers ({some(texts, most=3)}), taken as missing.')
    age = age.to_numpy(copy=True)
    who = series['participant_id'].to_numpy()
    stated = pd.Series(age).groupby(who)
    everywhere = (stated.transform('count') == stated.transform('size')).to_numpy()
    same = everywhere & (stated.transform('nunique') == 1).to_numpy()
    since = years(series.drop(columns='age', errors='ignore'))
    # a missing age follows from the age at another session and the time between them
    birth = pd.Series(age - since).groupby(who).transform('first').to_numpy()
    filled = np.isnan(age) & np.isfinite(birth + since)
    if filled.any():
        age[filled] = (birth + since)[filled]
        names = some(sorted(set(who[filled])))
        notes.append(f'{age_column} of {names} was counted from another session, where it is not stated.')
    later = same & np.isfinite(since) & (since > 0)
    if later.any():
        age[later] += since[later]
        notes.append(f'{age_column} is that of the first session; the time since then was added.')
    return age


def dictionary() -> dict:
    """Describe every column of the table of standard scores."""
    return describe(_DESCRIBED)
