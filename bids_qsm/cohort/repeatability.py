"""Repeatability of regional values, from scans of the same person that should not differ."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort.leaks import SITES
from bids_qsm.cohort.observations import KEYS, QUANTITY, Observations, average, codes, describe, observe, some
from bids_qsm.cohort.tables import PROTOCOL
from bids_qsm.cohort.visits import order, visits

REPEATABILITY = {
    'chi': {
        **dict.fromkeys(('Caudate', 'Putamen', 'GP', 'GPe', 'GPi'), 0.005),
        **dict.fromkeys(('RN', 'SN', 'SNc', 'SNr'), 0.01),
    }
}
"""Within-subject standard deviation of regional means from the literature (ppm), by map and region."""
OWN_LEAST = 5
"""Fewest degrees of freedom of the study's own repeats, where the literature has a figure."""
DETECTABLE = 1.96 * np.sqrt(2)
"""Standard deviations within participants that a change of one participant must pass."""
_LEAST_PAIRS = 3
_SEE = 'see column units'
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    **QUANTITY,
    'repeats': (
        'Scans that were compared. sites: one scan at each of several sites, in one visit; sessions: '
        'sessions of one visit, with the participant positioned anew, at one site; runs: runs of one '
        'session, in most studies without that.'
    ),
    'n_participants': 'Participants with repeated scans of the region.',
    'n_scans': 'Scans of these.',
    'mean': ('Mean over their scans.', _SEE),
    'sdw': ('Within-subject standard deviation of one scan.', _SEE),
    'sdw_low': ('Lower end of its 95 % confidence interval.', _SEE),
    'sdw_high': ('Upper end of its 95 % confidence interval.', _SEE),
    'dof': (
        'Degrees of freedom of sdw: scans beyond the first; of sites, those of a sum of two variances, by '
        'Satterthwaite, as a few sites say little of all sites.'
    ),
    'sd_between': (
        'Of sites: standard deviation between sites, that is of sdw what repeated scans at one site do not '
        'explain.',
        _SEE,
    ),
    'sd_within': ('Of sites: standard deviation of repeated scans at one site.', _SEE),
    'dof_within': 'Of sites: degrees of freedom of sd_within.',
    'detectable': (
        'Minimal detectable change, 1.96 x sqrt(2) x sdw: of 100 participants who do not change, 5 seem to '
        'change by more between two scans.',
        _SEE,
    ),
    'n_pairs': 'Participants whose first two repeats, or scans at all sites, enter what follows.',
    'icc_2_1': 'Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, one scan.',
    'icc_2_1_low': 'Lower end of its 95 % confidence interval.',
    'icc_2_1_high': 'Upper end of its 95 % confidence interval.',
    'icc_3_1': 'Intraclass correlation ICC(3,1): two-way mixed effects, consistency, one scan.',
    'icc_3_1_low': 'Lower end of its 95 % confidence interval.',
    'icc_3_1_high': 'Upper end of its 95 % confidence interval.',
    'bias': ('Mean difference, second less first scan (Bland and Altman).', _SEE),
    'bias_low': ('Lower end of its 95 % confidence interval.', _SEE),
    'bias_high': ('Upper end of its 95 % confidence interval.', _SEE),
    'limit_low': ('Lower limit of agreement: bias less 1.96 standard deviations of the difference.', _SEE),
    'limit_high': ('Upper limit of agreement.', _SEE),
    'units': 'Unit of the values.',
    'note': 'Why there is no value.',
}
COLUMNS = list(_DESCRIBED)


@dataclass(frozen=True)
class Repeats:
    """Values that repeat, and what they are repeats of.

    Attributes
    ----------
    kind : {'sites', 'sessions', 'runs'}
    data : Observations
        One row a session (runs averaged), or a run; of sites, the first session at each.
    place : ndarray of int, shape (n,)
        Rows of equal number are repeats.
    """

    kind: str
    data: Observations
    place: np.ndarray

    def within(self):
        """Within-subject standard deviation of each column, its degrees of freedom, means and deviations."""
        values = self.data.values
        valid = np.isfinite(values)
        total, count = np.zeros((2, self.place.max(initial=-1) + 1, values.shape[1]))
        np.add.at(total, self.place, np.nan_to_num(values))
        np.add.at(count, self.place, valid)
        mean = total / np.maximum(count, 1)
        rest = np.where(valid, values - mean[self.place], 0.0)
        dof = np.maximum(count - 1, 0).sum(0)
        return np.sqrt((rest**2).sum(0) / np.maximum(dof, 1)), dof


def repeats(data: Observations, *, site: str = '') -> tuple[list[Repeats], Observations, list[str]]:
    """Repeated scans of each kind, and the visits that they belong to, with notes.

    Parameters
    ----------
    data : Observations
    site
        Column of the site; sessions at different sites are no repeats, but those of the kind sites.

    Returns
    -------
    found : list of Repeats
        Repeated sessions first, which count positioning; kinds without repeats are left out.
    sessions : Observations
        One row a session (runs averaged), with the column visit_number.
    notes : list of str
    """
    protocol = [c for c in PROTOCOL if c in data.series and data.series[c].nunique() > 0]
    by = ['participant_id', 'session_id', *protocol]
    sessions = average(data, by)
    number, notes = np.zeros(len(sessions.series), int), []
    if 'session_id' in sessions.series:
        number, notes = visits(sessions.series)
    sessions = replace(sessions, series=sessions.series.assign(visit_number=number))
    visit = ['participant_id', 'visit_number', *protocol]
    at = [site] if site in sessions.series else []
    found = [
        Repeats('sessions', sessions, codes(sessions.series, [*visit, *at])),
        Repeats('runs', data, codes(data.series, by)),
    ]
    if at:
        rows = order(sessions.series)
        first = ~sessions.series.iloc[rows].duplicated([*visit, site]).to_numpy()
        kept = np.sort(rows[first & sessions.series[site].iloc[rows].notna().to_numpy()])
        one = replace(
            sessions,
            series=sessions.series.iloc[kept].reset_index(drop=True),
            values=sessions.values[kept],
            border=sessions.border[kept],
        )
        found.insert(0, Repeats('sites', one, codes(one.series, visit)))
    return [one for one in found if len(set(one.place)) < len(one.place)], sessions, notes


def site_column(long: pd.DataFrame) -> str:
    """A column with a usual name of sites, which differs within participants; empty where there is none."""
    for column in long:
        name = re.sub('[^a-z]', '', str(column).lower().removeprefix('session_'))
        if name in SITES and (long.groupby('participant_id')[column].nunique() > 1).any():
            return str(column)
    return ''


def in_ppb(data: Observations) -> Observations:
    """Write susceptibility in ppb."""
    is_ppm = (data.keys['units'] == 'ppm').to_numpy()
    factor = np.where(is_ppm, 1e3, 1.0)
    keys = data.keys.assign(units=data.keys['units'].mask(is_ppm, 'ppb'))
    return replace(data, values=data.values * factor, border=data.border * factor, keys=keys)


def repeatability(
    long: pd.DataFrame, *, site: str = '', statistic: str = 'mean', min_coverage: float = 0.5
) -> tuple[pd.DataFrame, list[str]]:
    r"""Agreement of repeated scans of each region: standard deviation, detectable change, ICC and bias.

    The within-subject standard deviation pools the variance of the repeats of each visit about their mean,
    so a shift between scans counts as error; :math:`1.96 \sqrt 2` times it is the change of one person that
    repeated scans would rarely show [1]_. Bias and limits of agreement [1]_ and the intraclass correlations
    [2]_ with their intervals [3]_ are of the first two repeats of each participant: ICC(2,1) counts a shift
    between scans as disagreement, ICC(3,1) does not.

    Participants who were scanned at several sites in one visit have rows of the kind sites: sdw is that of
    one scan at any site, as [4]_ reports it, sd_within that of repeated scans at one site, and their
    variances differ by that between sites. Its interval is that of a sum of two variances,
    of which that of three sites has two degrees of freedom. The intraclass correlations are of all
    sites, of participants who were at all; there is no bias, as there is no first site.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    site
        Column that names the site, see `site_column`; empty where there is none.
    statistic, min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`, susceptibility in ppb; empty where nothing was repeated.
    notes : list of str

    References
    ----------
    .. [1] Bland & Altman (1986), Lancet 327:307. doi:10.1016/S0140-6736(86)90837-8
    .. [2] Shrout & Fleiss (1979), Psychol Bull 86:420. doi:10.1037/0033-2909.86.2.420
    .. [3] McGraw & Wong (1996), Psychol Methods 1:30. doi:10.1037/1082-989X.1.1.30
    .. [4] Naji et al. (2022), NMR Biomed 35:e4788. doi:10.1002/nbm.4788
    """
    data = in_ppb(observe(long, statistic=statistic, min_coverage=min_coverage))
    found, _, notes = repeats(data, site=site)
    rows = []
    inside = {one.kind: one.within() for one in found}.get('sessions')
    for one in found:
        sd, dof = one.within()
        who = one.data.series['participant_id'].to_numpy()
        for j, pairs in _pairs(one):
            if dof[j] == 0:
                continue
            free = dof[j]
            low, high = (sd[j] * np.sqrt(free / stats.chi2.ppf(q, free)) for q in (0.975, 0.025))
            if one.kind == 'sites':
                free, low, high = _spread_of_sites(one, j, site)
            known = pd.Series(np.isfinite(one.data.values[:, j]))
            mine = (known & (known.groupby(one.place).transform('sum') > 1)).to_numpy()
            row = {
                **one.data.keys.loc[j].to_dict(), 'repeats': one.kind,
                'n_participants': len(set(who[mine])), 'n_scans': int(mine.sum()),
                'mean': one.data.values[mine, j].mean(), 'sdw': sd[j], 'dof': free,
                'sdw_low': low, 'sdw_high': high,
                'detectable': DETECTABLE * sd[j], 'n_pairs': len(pairs), 'note': '',
            }  # fmt: skip
            if one.kind == 'sites':
                row |= _between(sd[j], inside, j) | _over_sites(one, j, site)
                rows.append(row)
                continue
            rows.append(row | _agreement(pairs))
    if found:
        kinds = {'sites': f'values of {site}', 'sessions': 'sessions of one visit'}
        kinds['runs'] = 'runs of one session'
        notes.append(f'Repeated scans: {" and ".join(kinds[one.kind] for one in found)}.')
    return pd.DataFrame(rows).reindex(columns=COLUMNS), notes


def repeat_pairs(long: pd.DataFrame, *, kind: str, site: str = '', statistic: str = 'mean') -> pd.DataFrame:
    """The first two repeats of each participant: columns atlas, map, region, hemisphere, first, second.

    ``kind`` is sessions or runs, of one ``site`` where there is such a column; susceptibility is in ppb.
    """
    data = in_ppb(observe(long, statistic=statistic))
    found, _, _ = repeats(data, site=site)
    parts = [
        pd.DataFrame(pairs, columns=['first', 'second']).assign(**one.data.keys.loc[j].to_dict())
        for one in found
        if one.kind == kind
        for j, pairs in _pairs(one)
        if len(pairs)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*KEYS, 'first', 'second'])


def _pairs(one: Repeats) -> Iterator[tuple[int, np.ndarray]]:
    """Column, and its values at the first two repeats of each participant, shape (participants, 2)."""
    rows = order(one.data.series)
    if 'run' in one.data.series and one.kind == 'runs':
        run = pd.to_numeric(one.data.series['run'], errors='coerce').fillna(0).to_numpy()
        rows = rows[np.lexsort((np.arange(len(rows)), run[rows], pd.factorize(one.place[rows])[0]))]
    place = one.place[rows]
    who = pd.factorize(one.data.series['participant_id'].to_numpy()[rows])[0]
    for j in range(one.data.values.shape[1]):
        values = one.data.values[rows, j]
        there = np.flatnonzero(np.isfinite(values))
        nth = pd.Series(place[there]).groupby(place[there]).cumcount().to_numpy()
        second = there[nth == 1]
        # of each participant, the first visit that was repeated
        second = second[~pd.Series(who[second]).duplicated().to_numpy()]
        first = {p: i for i, p in zip(there[nth == 0], place[there][nth == 0], strict=True)}
        yield j, np.array([(values[first[place[i]]], values[i]) for i in second]).reshape(-1, 2)


def _agreement(pairs: np.ndarray):
    """Bias, limits of agreement and intraclass correlations of pairs."""
    if len(pairs) < _LEAST_PAIRS:
        return {'note': f'{len(pairs)} participants are too few for bias and correlation'}
    difference = pairs[:, 1] - pairs[:, 0]
    bias, spread, n = difference.mean(), difference.std(ddof=1), len(pairs)
    half = stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)
    row = {'bias': bias, 'bias_low': bias - half, 'bias_high': bias + half}
    row |= {'limit_low': bias - 1.96 * spread, 'limit_high': bias + 1.96 * spread}
    if spread <= 1e-12 * np.abs(pairs).max():
        return row | {'note': 'the differences do not vary' if bias else 'the repeats are equal'}
    for name, found in icc(pairs).items():
        row |= dict(zip((name, f'{name}_low', f'{name}_high'), found, strict=True))
    return row


def _between(sd: float, inside: tuple[np.ndarray, np.ndarray] | None, j: int) -> dict:
    """Standard deviation between sites, where scans were also repeated at one site."""
    if inside is None or not inside[1][j]:
        return {'note': 'no scan was repeated at one site, so what is between sites is not known apart'}
    within = inside[0][j]
    return {
        'sd_between': np.sqrt(max(sd**2 - within**2, 0.0)),
        'sd_within': within,
        'dof_within': inside[1][j],
        'note': '',
    }


def _spread_of_sites(one: Repeats, j: int, site: str) -> tuple[float, float, float]:
    r"""Degrees of freedom and both ends of the interval of the standard deviation of scans at any site.

    The sum of squares about the mean of each participant has a part of the s sites, with
    :math:`\nu_1 = s - 1` degrees of freedom, and the rest, with :math:`\nu_2`. The variance is the sum of
    :math:`a_i = S_i / (\nu_1 + \nu_2)`, and the ends of its interval are [1]_

    .. math:: \sum_i a_i \mp \sqrt{\sum_i \left(1 - \frac{\nu_i}{\chi^2_{\nu_i}}\right)^2 a_i^2}

    with the quantiles 0.975 and 0.025 of the chi-squared distribution. Degrees of freedom are those of
    Satterthwaite, :math:`(\sum a_i)^2 / \sum (a_i^2 / \nu_i)`, whose interval held the truth in 80 % of
    simulations of three sites.

    References
    ----------
    .. [1] Graybill & Wang (1980), J Am Stat Assoc 75:869. doi:10.1080/01621459.1980.10477565
    """
    known = np.isfinite(one.data.values[:, j])
    place = pd.Series(one.place[known])
    known[known] = (place.groupby(place).transform('size') > 1).to_numpy()
    columns = pd.get_dummies(one.data.series.loc[known, site].astype(str), dtype=float)
    columns.insert(0, 'value', one.data.values[known, j])
    about = (columns - columns.groupby(one.place[known]).transform('mean')).to_numpy()
    y, x = about[:, 0], about[:, 1:]
    rank = np.linalg.matrix_rank(x)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    free = np.array([rank, len(y) - len(set(one.place[known])) - rank], float)
    part = np.array([fitted @ fitted, (y - fitted) @ (y - fitted)]) / free.sum()
    part, free = part[free > 0], free[free > 0]
    if not part.any():
        return float(free.sum()), 0.0, 0.0
    total, (upper, lower) = part.sum(), stats.chi2.ppf([[0.975], [0.025]], free)
    away = [np.sqrt((((1 - free / q) * part) ** 2).sum()) for q in (upper, lower)]
    ends = np.sqrt([max(total - away[0], 0.0), total + away[1]])
    return float(total**2 / (part**2 / free).sum()), float(ends[0]), float(ends[1])


def _over_sites(one: Repeats, j: int, site: str) -> dict:
    """Intraclass correlations over all sites, of participants who were at all of them in a visit."""
    sites = one.data.series[site].astype(str)
    wide = pd.Series(one.data.values[:, j]).groupby([one.place, sites.to_numpy()]).first().unstack().dropna()
    if len(wide) < _LEAST_PAIRS or np.ptp(wide.to_numpy(), axis=1).max() <= 0:
        return {'n_pairs': len(wide)}
    row: dict[str, float] = {'n_pairs': len(wide)}
    for name, found in icc(wide.to_numpy()).items():
        row |= dict(zip((name, f'{name}_low', f'{name}_high'), found, strict=True))
    return row


def icc(values: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Intraclass correlations ICC(2,1) and ICC(3,1) with their 95 % intervals.

    Parameters
    ----------
    values : ndarray, shape (participants, scans)
        Complete.

    Returns
    -------
    dict
        ``icc_2_1`` and ``icc_3_1`` -> value, lower and upper end.
    """
    n, k = values.shape
    centre = values.mean()
    rows = k * ((values.mean(1) - centre) ** 2).sum() / (n - 1)
    columns = n * ((values.mean(0) - centre) ** 2).sum() / (k - 1)
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + centre
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    dof = (n - 1) * (k - 1)
    agreement = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
    consistency = (rows - error) / (rows + (k - 1) * error)
    f = rows / max(error, 1e-300)
    low, high = f / stats.f.ppf(0.975, n - 1, dof), f * stats.f.ppf(0.975, dof, n - 1)
    ends = ((low - 1) / (low + k - 1), (high - 1) / (high + k - 1))
    # degrees of freedom of the mixture of both errors, after Satterthwaite
    a = k * agreement / (n * (1 - agreement))
    b = 1 + k * agreement * (n - 1) / (n * (1 - agreement))
    mixed = (a * columns + b * error) ** 2 / ((a * columns) ** 2 / (k - 1) + (b * error) ** 2 / dof)
    upper, lower = stats.f.ppf(0.975, n - 1, mixed), stats.f.ppf(0.975, mixed, n - 1)
    both = k * columns + (k * n - k - n) * error
    ends_2 = (
        n * (rows - upper * error) / (upper * both + n * rows),
        n * (lower * rows - error) / (both + n * lower * rows),
    )
    return {'icc_2_1': (agreement, *ends_2), 'icc_3_1': (consistency, *ends)}


def within_sd(
    found: Sequence[Repeats],
    keys: pd.DataFrame,
    given: float | dict | None,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Within-subject standard deviation of each column, its degrees of freedom (inf: known), and its source.

    Repeated sessions come before runs, and these before the literature. Scans at several sites do not count,
    as visits are mostly of one.
    """
    regions, maps = keys['region'].to_numpy(), keys['map'].to_numpy()
    if given is not None:
        table = given if isinstance(given, dict) else {'chi': dict.fromkeys(regions, float(given))}
        table = table if all(isinstance(v, dict) for v in table.values()) else {'chi': table}
        sd = np.array([table.get(m, {}).get(r, np.nan) for m, r in zip(maps, regions, strict=True)], float)
        return sd, np.full(len(sd), np.inf), np.where(np.isfinite(sd), 'given', '').astype(object)
    sd = np.array(
        [REPEATABILITY.get(m, {}).get(r, np.nan) for m, r in zip(maps, regions, strict=True)], float
    )
    least = np.where(np.isfinite(sd), OWN_LEAST, 2)
    source = np.where(np.isfinite(sd), 'literature', '').astype(object)
    dof = np.full(len(sd), np.inf)
    for one in (one for one in found if one.kind != 'sites'):
        own, have = one.within()
        used = (have >= least) & (own > 0) & ~np.isin(source, ['own sessions', 'own runs'])
        sd, dof = np.where(used, own, sd), np.where(used, have, dof)
        source[used] = f'own {one.kind}'
    if 'own sessions' in source:
        notes.append('Repeatability was estimated from sessions of one visit of this study.')
    if 'own runs' in source:
        notes.append(
            'Repeatability was estimated from runs within sessions of this study; it does not include the '
            'effect of repositioning the participant.'
        )
    if 'literature' in source:
        notes.append('Repeatability was taken from the literature where the study has too few repeats.')
    if (source == '').any():
        unknown = [f'{m} of {r}' for m, r, s in zip(maps, regions, source, strict=True) if not s]
        notes.append(f'No repeatability is known for {some(dict.fromkeys(unknown))}; beyond is n/a there.')
    return sd, dof, source


def scans_of_visits(
    data: Observations, sessions: Observations, by: Sequence[str], source: np.ndarray
) -> np.ndarray:
    """Single scans, of the kind that the repeatability is about, that each visit and region counts for.

    Parameters
    ----------
    data, sessions : Observations
        All series, and one row a session, from `repeats`.
    by : sequence of str
        Columns of sessions that name a visit.
    source : ndarray of str, shape (k,)
        From `within_sd`.

    Returns
    -------
    ndarray, shape (visits, k)
    """
    place, there = codes(sessions.series, by), np.isfinite(sessions.values)
    n = place.max(initial=-1) + 1
    runs = np.zeros(sessions.values.shape)
    own = codes(data.series, ['participant_id', 'session_id', *PROTOCOL])
    np.add.at(runs, own, np.isfinite(data.values))
    count, inverse = np.zeros((2, n, there.shape[1]))
    np.add.at(count, place, there)
    np.add.at(inverse, place, np.where(there, 1 / np.maximum(runs, 1), 0))
    # a mean of m sessions with k runs each has the variance sum(1 / k) / m^2
    of_runs = count**2 / np.maximum(inverse, 1e-9)
    return np.where(source == 'own sessions', count, of_runs)


def dictionary() -> dict:
    """Describe every column of the table of repeatability."""
    return describe(_DESCRIBED)
