"""Change over time by arm of a trial: slopes of each region, and their difference."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort import mixed
from bids_qsm.cohort.design import CONTROLS, reference_level
from bids_qsm.cohort.inference import adjust
from bids_qsm.cohort.observations import (
    QUANTITY,
    as_text,
    average,
    codes,
    describe,
    observe,
    say_averaged,
    some,
)
from bids_qsm.cohort.random_slope import random_slope
from bids_qsm.cohort.repeatability import in_ppb, repeats, scans_of_visits, within_sd
from bids_qsm.cohort.visits import order, years

ARM = 'arm'
"""Column of participants.tsv or sessions.tsv."""
_REFERENCES = ('placebo', 'untreated', 'notreatment', 'naturalhistory', 'sham', 'standardcare', 'usualcare')
_YEAR = 'see column units'
_LEVEL = 'unit before "per year" of column units'
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    **QUANTITY,
    'arm': 'Arm; all: there are no arms.',
    'reference': 'Arm that it is compared with, even if too few of it are left; empty for that arm itself.',
    'n_participants': 'Participants of the arm with two visits or more.',
    'n_visits': 'Visits of these.',
    'years': ('Median time from first to last visit.', 'year'),
    'years_study': ('The same over all arms.', 'year'),
    'baseline': ('Mean at the first visit, by the model.', _LEVEL),
    'slope': ('Change a year in the arm.', _YEAR),
    'slope_low': ('Lower end of its 95 % confidence interval.', _YEAR),
    'slope_high': ('Upper end of its 95 % confidence interval.', _YEAR),
    'difference': ('Slope less that of the reference.', _YEAR),
    'ci_low': ('Lower end of its 95 % confidence interval.', _YEAR),
    'ci_high': ('Upper end of its 95 % confidence interval.', _YEAR),
    'se': ('Standard error of the difference; that by borders (border_effect) included.', _YEAR),
    'dof': 'Degrees of freedom of se.',
    'p': 'Two-sided p value of no difference, not adjusted.',
    'p_fdr': (
        'False discovery rate (Benjamini and Hochberg) over the regions of the same atlas, map, hemisphere '
        'and arm.'
    ),
    'sd_slope': ('Standard deviation of true slopes between participants of an arm.', _YEAR),
    'sd_within': ('Standard deviation of a visit about the line of its participant.', _LEVEL),
    'sd_change': ('Standard deviation, in an arm, of the change from first to last visit.', _LEVEL),
    'sd_last': ('Standard deviation, in an arm, at the last visit.', _LEVEL),
    'correlation': 'Correlation, in an arm, of first and last visit.',
    'sdw': ('Within-subject standard deviation of one scan, as for changes.', _LEVEL),
    'sdw_source': 'Where it comes from: own sessions or own runs (of this study), or literature.',
    'scans': 'Scans, as sdw counts them, of a visit: harmonic mean.',
    'method': 'random slope: random intercept and slope; random intercept: where visits allow no more.',
    'converged': 'Whether the search of the variances settled.',
    'units': 'Unit of the slopes.',
    'note': 'What is to be minded.',
}
COLUMNS = list(_DESCRIBED)
_LEAST_PEOPLE = 3
"""Fewest participants of an arm."""
_SLOPE_LEAST = 5
"""Fewest visits beyond the second of each participant for a random slope."""
_LEAST_YEARS = 0.02


@dataclass(frozen=True)
class _Model:
    """A fitted model of one region: coefficients (intercept, arms, time, time by arm) and variances."""

    beta: np.ndarray
    cov: np.ndarray
    dof: np.ndarray
    method: str
    within: float
    slope: float
    converged: bool
    note: str

    def contrast(self, *columns: int):
        """Sum of coefficients, its standard error and degrees of freedom."""
        c = np.zeros(len(self.beta))
        c[list(columns)] = 1
        return float(c @ self.beta), float(np.sqrt(c @ self.cov @ c)), float(self.dof[list(columns)].min())


def slopes(
    long: pd.DataFrame,
    *,
    controls: str = '',
    site: str = '',
    statistic: str = 'mean',
    min_coverage: float = 0.5,
) -> tuple[pd.DataFrame, list[str]]:
    r"""Change a year of each region in each arm, and its difference from that of the reference arm.

    .. math:: y_{ij} = \beta_0 + \beta_a + (\gamma_0 + \gamma_a) t_{ij} + u_i + v_i t_{ij} + e_{ij}

    for visit j of participant i in arm a: a linear mixed model [1]_ with a random intercept and, where enough
    participants have three visits, a random slope (:func:`bids_qsm.cohort.random_slope.random_slope`); else a
    random intercept with the tests of Kenward and Roger. Runs and sessions of a visit are averaged. As in
    models, what an error of the border makes of the coefficients counts in their covariance.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins; times as in `bids_qsm.cohort.visits.years`,
        the arm of a participant from the column arm. Without it, all are one arm.
    controls
        Reference arm, where there is one of that name; otherwise one with a usual name of controls or
        placebo, or the first.
    site
        See :func:`bids_qsm.cohort.change.changes`.
    statistic, min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`: one row a region and arm, susceptibility in ppb; empty where no participant has two
        visits of known time.
    notes : list of str

    References
    ----------
    .. [1] Laird & Ware (1982), Biometrics 38:963. doi:10.2307/2529876
    """
    data = observe(long, statistic=statistic, min_coverage=min_coverage)
    nothing = pd.DataFrame(columns=COLUMNS)
    if 'session_id' not in data.series:
        return nothing, []
    notes = [*data.notes, *say_averaged(data.series)]
    found, sessions, _ = repeats(data, site=site)
    sdw, _, source = within_sd(found, data.keys, None, [])
    sdw = sdw * np.where(data.keys['units'] == 'ppm', 1e3, 1.0)
    visit = ['participant_id', 'visit_number']
    scans = scans_of_visits(data, sessions, visit, source)
    data = in_ppb(data)
    visits = average(in_ppb(sessions), visit)
    rows = order(visits.series)
    series = visits.series.iloc[rows].reset_index(drop=True)
    time = years(series)
    arms, reference, arm = _arms(series, controls, notes)
    who = pd.factorize(series['participant_id'])[0]
    there = np.isfinite(time) & (arm >= 0)
    table, skipped, small = [], defaultdict(list), defaultdict(list)
    for j in range(len(data.keys)):
        values = visits.values[rows, j]
        mine = np.flatnonzero(there & np.isfinite(values))
        mine = mine[_several(who[mine], time[mine])]
        used = [a for a in range(len(arms)) if len(set(who[mine][arm[mine] == a])) >= _LEAST_PEOPLE]
        mine = mine[np.isin(arm[mine], used)]
        name = ' '.join(filter(None, data.keys.loc[j, ['map', 'region', 'hemisphere']]))
        if not used:
            skipped['no arm has three participants with two visits of known time'].append(name)
            continue
        if np.ptp(values[mine]) <= 1e-9 * np.abs(values[mine]).max():
            skipped['the values are constant'].append(name)
            continue
        for a in sorted(set(range(len(arms))) - set(used)):
            small[arms[a]].append(name)
        place = np.searchsorted(used, arm[mine])
        border = visits.border[rows, j][mine]
        model = _fit(values[mine], border, time[mine], who[mine], place, len(used))
        spread = _spread(values[mine], who[mine], place)
        common = {
            **data.keys.loc[j].to_dict(), **spread, 'sdw': sdw[j], 'sdw_source': source[j],
            'scans': 1 / np.mean(1 / scans[rows[mine], j]),
        }  # fmt: skip
        table += _rows(model, common, [arms[a] for a in used], reference, place, who[mine], time[mine])
    notes += [f'No slope of {some(names)}: {why}.' for why, names in skipped.items()]
    notes += [
        f'{"The reference arm" if name == reference else "Arm"} {name} was left out of {some(names)}: fewer '
        f'than {_LEAST_PEOPLE} participants with two visits of known time.'
        for name, names in small.items()
    ]
    if not table:
        return nothing, notes
    frame = pd.DataFrame(table).reindex(columns=COLUMNS)
    frame['p_fdr'] = adjust(frame['p'], codes(frame, ['atlas', 'map', 'hemisphere', 'arm']))
    frame['units'] += ' per year'
    unsettled = frame.loc[~frame['converged'], 'region'].unique()
    if len(unsettled):
        notes.append(f'The model of {some(unsettled)} did not settle; its slopes are not to be relied on.')
    return frame, notes


def _arms(series: pd.DataFrame, controls: str, notes: list[str]):
    """Names of the arms, the reference first; its name; and the arm of each row (-1: none)."""
    if ARM not in series or series[ARM].isna().all():
        return ['all'], 'all', np.zeros(len(series), int)
    who = series['participant_id']
    stated = as_text(series[ARM])
    per_person = stated.groupby(who).nunique()
    crossed = sorted(per_person.index[per_person > 1])
    if crossed:
        notes.append(f'{some(crossed)} change arm between sessions and were left out: no parallel arms.')
    name = stated.groupby(who).transform('first').mask(who.isin(crossed))
    unknown = sorted(set(who[name.isna()]) - set(crossed))
    if unknown:
        notes.append(f'No arm is known for {some(unknown)}, who were left out.')
    levels = sorted(set(name.dropna()))
    if not levels:
        return ['all'], 'all', np.full(len(series), -1)
    usual = [x for x in levels if ''.join(filter(str.isalnum, x.lower())) in (*CONTROLS, *_REFERENCES)]
    reference = controls if controls in levels else (usual or [reference_level(levels)])[0]
    if controls not in levels and not usual and len(levels) > 1:
        notes.append(
            f'No arm is called like a placebo or controls; the others are compared with {reference!r}.'
        )
    arms = [reference, *(x for x in levels if x != reference)]
    return arms, reference, name.map({x: i for i, x in enumerate(arms)}).fillna(-1).to_numpy(int)


def _several(who: np.ndarray, time: np.ndarray):
    """Rows of participants with visits at two times."""
    span = pd.Series(time).groupby(who).transform(lambda part: part.max() - part.min())
    return span.to_numpy() > _LEAST_YEARS


def _fit(y: np.ndarray, border: np.ndarray, time: np.ndarray, who: np.ndarray, arm: np.ndarray, n: int):
    """Fit the model of one region; coefficients: intercept, other arms, time, time in other arms."""
    dummies = (arm[:, None] == np.arange(1, n)).astype(float)
    x = np.column_stack([np.ones(len(y)), dummies, time, dummies * time[:, None]])
    beyond = np.maximum(np.bincount(who) - 2, 0).sum()
    if beyond >= _SLOPE_LEAST:
        fit = random_slope(x, y, who, time)
        common = fit.weights @ border
        cov = fit.cov + np.outer(common, common)
        return _Model(
            fit.beta, cov, np.full(len(fit.beta), fit.dof), 'random slope', np.sqrt(fit.within),
            np.sqrt(fit.random[1, 1]), fit.converged, fit.note,
        )  # fmt: skip
    plain = mixed.random_intercept(x, y, who)
    plain = plain.with_common(mixed.weighted_coefficients(x, border, who, plain))
    dof = np.array([plain.coefficient(c)[2] for c in range(x.shape[1])])
    within = np.sqrt(plain.within)
    return _Model(plain.beta, plain.cov, dof, 'random intercept', within, np.nan, True, '')


def _spread(y: np.ndarray, who: np.ndarray, arm: np.ndarray):
    """Figures of the first and last visit, pooled over arms."""
    first = np.unique(who, return_index=True)[1]
    last = len(who) - 1 - np.unique(who[::-1], return_index=True)[1]
    pair = pd.DataFrame({'first': y[first], 'last': y[last]})
    pair = pair - pair.groupby(arm[first]).transform('mean')
    dof = max(len(pair) - len(set(arm)), 1)
    a, b = pair['first'].to_numpy(), pair['last'].to_numpy()
    spread = np.sqrt((a @ a) * (b @ b))
    return {
        'sd_change': np.sqrt(((b - a) ** 2).sum() / dof),
        'sd_last': np.sqrt(b @ b / dof),
        'correlation': a @ b / spread if spread > 0 else np.nan,
    }


def _rows(
    model: _Model,
    common: dict,
    arms: Sequence[str],
    reference: str,
    place: np.ndarray,
    who: np.ndarray,
    time: np.ndarray,
):
    """One row an arm."""
    n, rows = len(arms), []
    frame = pd.DataFrame({'who': who, 'time': time, 'arm': place})
    span = frame.groupby('who')['time'].agg(lambda part: part.max() - part.min())
    of = frame.drop_duplicates('who').set_index('who')['arm']
    for a, name in enumerate(arms):
        level = model.contrast(*([0] if a == 0 else [0, a]))
        slope, se, dof = model.contrast(*([n] if a == 0 else [n, n + a]))
        reach = stats.t.ppf(0.975, dof)
        row = common | {
            'arm': name, 'reference': '' if name == reference else reference,
            'n_participants': int((of == a).sum()), 'n_visits': int((place == a).sum()),
            'years': float(span[of == a].median()), 'years_study': float(span.median()),
            'baseline': level[0], 'slope': slope, 'slope_low': slope - reach * se,
            'slope_high': slope + reach * se, 'sd_slope': model.slope, 'sd_within': model.within,
            'method': model.method, 'converged': model.converged, 'note': model.note,
        }  # fmt: skip
        if a and arms[0] == reference:
            difference, se, dof = model.contrast(n + a)
            reach = stats.t.ppf(0.975, dof)
            row |= {
                'difference': difference, 'ci_low': difference - reach * se,
                'ci_high': difference + reach * se, 'se': se, 'dof': dof,
                'p': 2 * stats.t.sf(abs(difference) / se, dof),
            }  # fmt: skip
        rows.append(row)
    return rows


def dictionary() -> dict:
    """Describe every column of the table of slopes."""
    return describe(_DESCRIBED)
