"""Change of regional values over sessions, compared with the repeatability of the method."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from bids_qsm.cohort.inference import adjust
from bids_qsm.cohort.observations import KEYS, QUANTITY, Observations, average, codes, describe, observe, some
from bids_qsm.cohort.repeatability import repeats, scans_of_visits, within_sd
from bids_qsm.cohort.tables import DESCRIPTIONS, PROTOCOL, group_column
from bids_qsm.cohort.visits import order, years

COLUMNS = ['participant_id', 'group', *KEYS, 'session_from', 'session_to', 'years', 'first', 'last', 'change']
COLUMNS += [
    'border_change',
    'se',
    'ci_low',
    'ci_high',
    'per_year',
    'per_year_se',
    'repeatability',
    'repeatability_source',
]
COLUMNS += ['index', 'beyond', 'direction', 'p', 'p_fdr', 'units', 'note']
SUMMARY = [*KEYS, 'group', 'n', 'mean', 'sd', 'se_border', 'ci_low', 'ci_high', 'p', 'p_fdr', 'per_year_mean']
SUMMARY += ['per_year_ci_low', 'per_year_ci_high', 'n_beyond', 'units', 'note']
_LEAST_YEARS = 1 / 365.25
"""Sessions less than a day apart give no change per year."""
_LEAST_SPAN = 0.25
"""Fewest years between sessions for a change per year that counts in a mean."""


def changes(
    long: pd.DataFrame,
    *,
    repeatability: float | dict | None = None,
    site: str = '',
    statistic: str = 'mean',
    min_coverage: float = 0.5,
):
    r"""Change of every region from the first to the last session of each participant.

    Runs of a session, and sessions of a visit (`bids_qsm.cohort.visits.visits`), are averaged. The error of a
    change is that of the method: with the within-subject standard deviation s of one measurement,
    :math:`s \sqrt{1/n_1 + 1/n_2}` for visits of :math:`n_1` and :math:`n_2` scans; a change is beyond
    repeatability where its 95 % interval leaves out zero, which for single scans is
    :math:`1.96 \sqrt 2 s`, the repeatability coefficient [1]_. The reliable change index [2]_ is the change
    over that error. Each comparison by itself is wrong in 5 % of participants who do not change, so p_fdr
    controls the false discovery rate over all regions and participants of an atlas, map and hemisphere.
    Where a neighbour changes, what a misplaced border makes changes too: the change of the column
    border_effect adds in quadrature.
    The change per year is the slope of a line through all sessions of known time. Sessions are compared
    within the same acquisition only.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins; times from the column acq_time, or an age
        that differs between sessions.
    repeatability : float or dict, optional
        Within-subject standard deviation in the unit of the map: for all regions of chi, or by region, or by
        map and region as `bids_qsm.cohort.repeatability.REPEATABILITY`. By default, it is estimated from
        repeated sessions, else from repeated runs of the study where there are enough of them, and taken
        from the literature otherwise.
    site
        Column of the site; sessions of a visit at different sites are no repeats. Empty where there is none.
    statistic, min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`, and those of the protocol where there are several. Without a repeatability, se and
        what follows from it are NaN and beyond is missing.
    notes : list of str

    References
    ----------
    .. [1] Bland & Altman (1986), Lancet 327:307. doi:10.1016/S0140-6736(86)90837-8
    .. [2] Jacobson & Truax (1991), J Consult Clin Psychol 59:12. doi:10.1037/0022-006X.59.1.12
    """
    data = observe(long, statistic=statistic, min_coverage=min_coverage)
    notes = list(data.notes)
    if 'session_id' not in data.series:
        return pd.DataFrame(columns=COLUMNS), [*notes, 'No change: the series have no sessions.']
    protocol = [c for c in PROTOCOL if c in data.series and data.series[c].nunique() > 0]
    by = ['participant_id', 'visit_number', *protocol]
    group = group_column(data.series)
    again, sessions, said = repeats(data, site=site)
    notes += said
    visits = average(sessions, by)
    sd, dof, source = within_sd(again, data.keys, repeatability, notes)
    runs = scans_of_visits(data, sessions, by, source)
    since, rows = years(visits.series), order(visits.series)
    who = codes(visits.series, ['participant_id', *protocol])
    rows = rows[np.argsort(who[rows], kind='stable')]
    cuts = np.flatnonzero(who[rows][1:] != who[rows][:-1]) + 1
    parts = [
        _of_participant(visits.values[mine], visits.border[mine], runs[mine], since[mine], mine, sd)
        for mine in np.split(rows, cuts)
        if len(mine) > 1
    ]
    if not sum(len(part['column']) for part in parts):
        return pd.DataFrame(columns=COLUMNS), [*notes, 'No change: no participant has two sessions.']
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = _table(found, visits, sd, dof, source, [*protocol, *([group] if group else [])])
    table['group'] = table[group].astype(object).fillna('n/a').astype(str) if group else 'all'
    untimed = sorted(set(table.loc[table['years'].isna(), 'participant_id']))
    if untimed:
        notes.append(
            f'No change per year for {some(untimed)}: neither scans.tsv nor sessions.tsv states the time '
            'of the sessions (acq_time).'
        )
    return table[[*COLUMNS, *(c for c in protocol if c not in COLUMNS)]], notes


def _of_participant(
    values: np.ndarray,
    border: np.ndarray,
    runs: np.ndarray,
    time: np.ndarray,
    rows: np.ndarray,
    sd: np.ndarray,
):
    """Changes of one participant (and acquisition) in each region measured at two sessions, as columns."""
    valid = np.isfinite(values)
    columns = np.flatnonzero(valid.sum(0) > 1)
    values, n, valid = values[:, columns], runs[:, columns], valid[:, columns]
    start, end = valid.argmax(0), len(rows) - 1 - valid[::-1].argmax(0)
    at = np.arange(len(columns))
    change = border[end, columns] - border[start, columns]
    # line through the sessions with a known time, weighted by their number of runs
    weight = np.where(valid & np.isfinite(time)[:, None], n, 0.0)
    when = np.nan_to_num(time)[:, None]
    middle = (weight * when).sum(0) / np.maximum(weight.sum(0), 1e-9)
    lever = weight * (when - middle)
    about = (lever * (when - middle)).sum(0)
    timed = about > _LEAST_YEARS**2 / 2
    about = np.where(timed, about, np.nan)
    return {
        'column': columns,
        'start': rows[start],
        'end': rows[end],
        'years': time[end] - time[start],
        'first': values[start, at],
        'last': values[end, at],
        'border_change': change,
        'se': np.hypot(sd[columns] * np.sqrt(1 / n[start, at] + 1 / n[end, at]), change),
        'per_year': (lever * np.nan_to_num(values)).sum(0) / about,
        'per_year_se': np.hypot(sd[columns] / np.sqrt(about), (lever * border[:, columns]).sum(0) / about),
    }


def _table(
    found: dict[str, np.ndarray],
    visits: Observations,
    sd: np.ndarray,
    dof: np.ndarray,
    source: np.ndarray,
    known: Sequence[str],
):
    """The changes of all participants, with intervals and identifying columns."""
    column, start, end = found.pop('column'), found.pop('start'), found.pop('end')
    session = visits.series['session_id'].astype(object).fillna('').to_numpy()
    exact = np.isinf(dof)
    reach = np.where(exact, special.ndtri(0.975), stats.t.ppf(0.975, np.where(exact, 1, dof)))[column]
    change = found['last'] - found['first']
    half = reach * found['se']
    index = change / np.where(found['se'] > 0, found['se'], np.nan)
    p = 2 * stats.t.sf(np.abs(index), dof[column])
    table = visits.keys.iloc[column].reset_index(drop=True).assign(
        participant_id=visits.series['participant_id'].to_numpy()[start],
        session_from=session[start], session_to=session[end], **found, change=change,
        ci_low=change - half, ci_high=change + half, repeatability=sd[column],
        repeatability_source=source[column], note=np.where(np.isnan(half), 'no repeatability known', ''),
        index=index, p=p, beyond=pd.array(np.abs(change) > half, dtype='boolean'),
        direction=np.where(np.abs(change) > half, np.where(change > 0, 'rise', 'fall'), ''),
    )  # fmt: skip
    table['p_fdr'] = adjust(table['p'], codes(table, ['atlas', 'map', 'hemisphere']))
    table['beyond'] = table['beyond'].mask(np.isnan(half))
    for name in known:
        table[name] = visits.series[name].to_numpy()[start]
    return table


def change_summary(table: pd.DataFrame):
    """Mean change of each region by group, tested against zero over participants.

    Parameters
    ----------
    table : DataFrame
        From `changes`.

    Returns
    -------
    summary : DataFrame
        Columns `SUMMARY`: mean change with its 95 % interval and t test, and the same per year; where there
        are several groups, also ``all`` of them together. The false discovery rate is controlled over the
        regions of each atlas, map, hemisphere and group.
    notes : list of str
        Groups of one participant are skipped, and spans too short for a mean change per year.
    """
    if table.empty:
        return pd.DataFrame(columns=SUMMARY), []
    whole = [table.assign(group='all')] if table['group'].nunique() > 1 else []
    people = [*KEYS, 'group', 'participant_id']
    stacked = pd.concat([table, *whole], ignore_index=True)
    stacked['per_year'] = stacked['per_year'].where(stacked['years'] >= _LEAST_SPAN)
    stacked['beyond'] = stacked['beyond'].astype('Float64').astype(float)
    stacked['border_per_year'] = (stacked['border_change'] / stacked['years']).where(
        stacked['per_year'].notna()
    )
    # one value a participant, also with several acquisitions
    each = stacked.groupby(people, sort=False).agg(
        change=('change', 'mean'),
        per_year=('per_year', 'mean'),
        beyond=('beyond', 'max'),
        border=('border_change', 'mean'),
        border_per_year=('border_per_year', 'mean'),
        units=('units', 'first'),
    )
    grouped = each.reset_index().groupby([*KEYS, 'group'], sort=False)
    found = grouped.agg(
        n=('change', 'size'), mean=('change', 'mean'), sd=('change', 'std'),
        per_year_mean=('per_year', 'mean'), _sd=('per_year', 'std'), _n=('per_year', 'count'),
        se_border=('border', 'mean'), _border=('border_per_year', 'mean'), n_beyond=('beyond', 'sum'),
        _known=('beyond', 'count'), units=('units', 'first'),
    ).reset_index()  # fmt: skip
    found.loc[found['_known'] == 0, 'n_beyond'] = np.nan
    found['se_border'] = found['se_border'].abs()
    for mean, sd, border, n, ends in (
        ('mean', 'sd', 'se_border', 'n', ('ci_low', 'ci_high')),
        ('per_year_mean', '_sd', '_border', '_n', ('per_year_ci_low', 'per_year_ci_high')),
    ):
        dof = np.maximum(found[n].to_numpy(float) - 1, 1)
        error = np.hypot(found[sd] / np.sqrt(np.maximum(found[n], 1)), found[border])
        half = stats.t.ppf(0.975, dof) * error
        found[ends[0]], found[ends[1]] = found[mean] - half, found[mean] + half
    spread = found['sd'].to_numpy()
    tested = (found['n'].to_numpy() > 1) & (spread > 0)
    error = np.hypot(spread / np.sqrt(found['n'].to_numpy()), found['se_border'].to_numpy())
    t = found['mean'].to_numpy() / np.where(tested, error, 1)
    p = 2 * stats.t.sf(np.abs(t), np.maximum(found['n'].to_numpy() - 1, 1))
    found['p'] = np.where(tested, p, np.nan)
    found['p_fdr'] = adjust(found['p'], codes(found, ['atlas', 'map', 'hemisphere', 'group']))
    found['note'] = np.where(
        found['n'] < 2, 'one participant', np.where(tested, '', 'all changes are the same')
    )
    alone = sorted(set(found.loc[found['n'] < 2, 'group']))
    notes = [f'Change: {some(alone)} has one participant in some regions, so no test.'] if alone else []
    short = table.loc[table['per_year'].notna() & (table['years'] < _LEAST_SPAN), 'participant_id'].nunique()
    if short:
        notes.append(
            f'The mean change per year leaves out {short} participant{"" if short == 1 else "s"} with less '
            f'than {_LEAST_SPAN:g} years between sessions.'
        )
    return found[SUMMARY], notes


def dictionary() -> dict:
    """Describe every column of the tables of changes and of their summary, and of those of the protocol."""
    unit = 'see column units'
    described: dict[str, str | tuple[str, str]] = {
        'participant_id': 'Label of the participant.',
        'group': 'Group of the participant; all: every group together.',
        **QUANTITY,
        'session_from': 'First session at which the region was measured.',
        'session_to': 'Last session at which it was.',
        'years': ('Time between the two sessions.', 'year'),
        'first': ('Value at the first visit: mean of its sessions and runs.', unit),
        'last': ('Value at the last visit: mean of its sessions and runs.', unit),
        'change': ('Last less first.', unit),
        'border_change': (
            'Change of border_effect: what an error of the border, the same at both, makes.',
            unit,
        ),
        'se': ('Standard error of the change: repeatability of the method, and border_change.', unit),
        'se_border': (
            'Error of the mean change if borders are off in all participants alike: mean of border_change.',
            unit,
        ),
        'ci_low': ('Lower end of the 95 % confidence interval of the (mean) change.', unit),
        'ci_high': ('Upper end of the 95 % confidence interval of the (mean) change.', unit),
        'per_year': ('Slope of a line through all sessions of known time.', 'unit of the map per year'),
        'per_year_se': ('Standard error of per_year.', 'unit of the map per year'),
        'repeatability': ('Within-subject standard deviation of one measurement.', unit),
        'repeatability_source': (
            'own sessions: repeated sessions of a visit of this study; own runs: runs within its sessions; '
            'literature; given.'
        ),
        'index': 'Reliable change index: change over its standard error.',
        'beyond': 'Whether the change is beyond repeatability: its 95 % interval leaves out zero.',
        'direction': 'rise or fall, where the change is beyond repeatability.',
        'n': 'Participants.',
        'mean': ('Mean change over participants.', unit),
        'sd': ('Standard deviation of the change over participants.', unit),
        'p': 'Two-sided p value of no change, not adjusted: of one participant, or of the mean (t test).',
        'p_fdr': (
            'False discovery rate (Benjamini and Hochberg) over the regions of the same atlas, map, '
            'hemisphere and group; for single changes over regions and participants together.'
        ),
        'per_year_mean': (
            f'Mean change per year over participants with at least {_LEAST_SPAN:g} years between sessions.',
            'unit of the map per year',
        ),
        'per_year_ci_low': ('Lower end of its 95 % confidence interval.', 'unit of the map per year'),
        'per_year_ci_high': ('Upper end of its 95 % confidence interval.', 'unit of the map per year'),
        'n_beyond': 'Participants whose change is beyond repeatability.',
        'units': 'Unit of the values.',
        'note': 'Why there is no value.',
        **{column: DESCRIPTIONS[column] for column in PROTOCOL},
    }
    return describe(described)
