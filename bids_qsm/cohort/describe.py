"""Descriptive statistics of a cohort: participants by group, fitted lines, normal quantiles, counts."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.biomarkers.mars import pattern
from bids_qsm.cohort.design import build
from bids_qsm.cohort.formula import parse_columns
from bids_qsm.cohort.observations import average, is_numeric, numeric, observe
from bids_qsm.cohort.tables import group_column, series_columns
from bids_qsm.cohort.visits import order, years


def characteristics(long: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Age, scores and other columns by group, each participant counted once.

    Parameters
    ----------
    long : DataFrame
        Long table of the cohort (see `bids_qsm.cohort.tables.join_participants`).
    columns : iterable of str
        Columns to describe; missing and empty ones are left out.

    Returns
    -------
    DataFrame
        Columns group, column, n (participants that have a value), mean, sd, lowest, highest (of numbers),
        levels (of text: each with its count).
    """
    group = group_column(long)
    people = long.drop_duplicates('participant_id')
    names = people[group].fillna('n/a').astype(str) if group else pd.Series('all', index=people.index)
    rows = []
    for column in columns:
        if column not in people or column == group or people[column].isna().all():
            continue
        is_text = not is_numeric(people[column])
        stated = people[column] if is_text else numeric(people[column])[0]
        for name, part in stated.groupby(names, sort=True):
            row = {'group': name, 'column': column, 'n': int(part.notna().sum())}
            if is_text:
                found = part.dropna().astype(str).value_counts().sort_index()
                row['levels'] = ', '.join(f'{level}: {count}' for level, count in found.items())
            elif row['n']:
                row |= {'mean': part.mean(), 'sd': part.std(), 'lowest': part.min(), 'highest': part.max()}
            rows.append(row)
    return pd.DataFrame(rows, columns=['group', 'column', 'n', 'mean', 'sd', 'lowest', 'highest', 'levels'])


def by_participant(
    long: pd.DataFrame, map_name: str, region: str, *, statistic: str = 'mean'
) -> pd.DataFrame:
    """One row a participant: mean over sessions and runs of a region (both hemispheres), and all columns.

    Parameters
    ----------
    long : DataFrame
        Long table of the cohort, of one atlas.

    Returns
    -------
    DataFrame
        All columns of each participant, and ``value``.
    """
    found = average(_observe(long, map_name, [region], statistic), ['participant_id'])
    return found.series.assign(value=found.values[:, 0] if found.values.shape[1] else np.nan)


def _observe(long: pd.DataFrame, map_name: str, regions: Sequence[str], statistic: str):
    # selecting rows first is much faster on large tables
    wanted = (long['map'] == map_name) & long['region'].isin(regions) & (long['hemisphere'] == 'both')
    return observe(long[wanted], statistic=statistic)


def courses(
    long: pd.DataFrame, map_name: str, regions: Sequence[str], *, statistic: str = 'mean'
) -> pd.DataFrame:
    """Values over time of participants with several sessions, runs of a session averaged.

    Parameters
    ----------
    long : DataFrame
        Long table of the cohort, of one atlas.

    Returns
    -------
    DataFrame
        Columns region, participant_id, line (participant and protocol), x (years since the first session, or
        the number of the session where some times are not known), timed, y.
    """
    found = _observe(long, map_name, regions, statistic)
    protocol = [c for c in series_columns(found.series) if c not in ('session_id', 'run')]
    found = average(found, [*protocol, 'session_id'])
    rows = order(found.series)
    series, values = found.series.iloc[rows].reset_index(drop=True), found.values[rows]
    line, *rest = (series[c].astype(object).fillna('').astype(str) for c in protocol)
    line = line.str.cat(rest, sep=' ')
    x, timed = years(series), True
    several = line.duplicated(keep=False).to_numpy()
    if np.isnan(x[several]).any():
        x, timed = line.groupby(line).cumcount().to_numpy(float) + 1, False
    frame = pd.DataFrame({'participant_id': series['participant_id'], 'line': line, 'x': x, 'timed': timed})[
        several
    ]
    parts = [
        frame.assign(region=region, y=values[several, j]) for j, region in enumerate(found.keys['region'])
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset=['y'])


def adjusted(points: pd.DataFrame, covariates: Sequence[str]) -> pd.DataFrame:
    """Regress covariates out of both axes, so that a plot shows the partial correlation.

    Residuals of x and of y on the covariates, each with its mean added back (an added-variable plot).

    Parameters
    ----------
    points : DataFrame
        Columns participant_id, x, y and the covariates.
    covariates : list of str
        Columns, or terms of a formula.

    Returns
    -------
    DataFrame
        The complete rows, with x and y replaced; ``attrs['spent']`` holds the degrees of freedom that the
        covariates use.
    """
    points = points.dropna(subset=['x', 'y']).reset_index(drop=True)
    points.attrs['spent'] = 0
    if not covariates or points.empty:
        return points
    design = build(parse_columns(covariates, points), points, pd.factorize(points['participant_id'])[0])
    points = points[design.rows]
    if points.empty:
        return points
    both = points[['x', 'y']].to_numpy(float)
    rest = both - design.x @ np.linalg.lstsq(design.x, both, rcond=None)[0] + both.mean(0)
    points = points.assign(x=rest[:, 0], y=rest[:, 1])
    points.attrs['spent'] = design.x.shape[1] - 1
    return points


def regression_line(
    x: np.ndarray | pd.Series,
    y: np.ndarray | pd.Series,
    *,
    spent: int = 0,
    level: float = 0.95,
    steps: int = 40,
) -> pd.DataFrame:
    """Straight line through points by least squares, with the confidence band of its mean.

    Parameters
    ----------
    spent
        Degrees of freedom already used, as by the covariates of `adjusted`.

    Returns
    -------
    DataFrame
        Columns x, fit, low, high over the range of ``x``; empty where fewer than two degrees of freedom
        are left or all points have the same x.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    dof = x.size - 2 - spent
    if dof < 2 or np.ptp(x) == 0:
        return pd.DataFrame(columns=['x', 'fit', 'low', 'high'], dtype=float)
    centre, spread = x.mean(), ((x - x.mean()) ** 2).sum()
    slope = ((x - centre) * (y - y.mean())).sum() / spread
    error = np.sqrt(((y - y.mean() - slope * (x - centre)) ** 2).sum() / dof)
    at = np.linspace(x.min(), x.max(), steps)
    fit = y.mean() + slope * (at - centre)
    half = stats.t.ppf(0.5 + level / 2, dof) * error * np.sqrt(1 / x.size + (at - centre) ** 2 / spread)
    return pd.DataFrame({'x': at, 'fit': fit, 'low': fit - half, 'high': fit + half})


def normal_quantiles(values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """Quantile, at the rank of each value, of a normal distribution with the same mean and deviation.

    >>> normal_quantiles([3.0, 1.0, 2.0]).round(2).tolist()
    [2.87, 1.13, 2.0]
    """
    values = np.asarray(values, float)
    ranks = (stats.rankdata(values, method='ordinal') - 0.375) / (values.size + 0.25)  # Blom's places
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return values.mean() + spread * stats.norm.ppf(ranks)


def normal_range(scores: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Add the range that holds this share of controls of the same age, columns low and high.

    Parameters
    ----------
    scores : DataFrame
        Columns expected, sd, dof (see `bids_qsm.cohort.normative.normative`).
    """
    half = stats.t.ppf(0.5 + level / 2, scores['dof']) * scores['sd']
    return scores.assign(low=scores['expected'] - half, high=scores['expected'] + half)


def lesion_sums(lesions: pd.DataFrame) -> dict[str, float]:
    """Number ('measured'), volume ('volume_mm3') and susceptibility ('chi_mean') of the lesions of a series.

    Those without a reason in its table; susceptibility (ppm) is the mean weighted by volume.
    """
    measured = lesions[lesions['reason'].isna()]
    chi, volume = (pd.to_numeric(measured[c], errors='coerce') for c in ('chi_mean', 'volume_mm3'))
    known = chi.notna() & (volume > 0)
    mean = np.average(chi[known], weights=volume[known]) if known.any() else np.nan
    return {'measured': len(measured), 'volume_mm3': volume.sum(), 'chi_mean': mean}


def rim_counts(lesions: pd.DataFrame) -> pd.DataFrame:
    """Lesions by class of their rim, of each participant and session.

    Parameters
    ----------
    lesions : DataFrame
        Tables of rim lesions of all series, gathered: columns participant_id (and session_id), reason,
        rim_class.

    Returns
    -------
    DataFrame
        Columns participant_id (and session_id, acquisition, run), lesions, assessed, definite, probable,
        possible.
    """
    keys, rows = series_columns(lesions), []
    for key, part in lesions.groupby(keys, sort=True, dropna=False):
        done = part[part['reason'].isna()]
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                'lesions': len(part),
                'assessed': len(done),
                **{
                    name: int((done['rim_class'] == name).sum())
                    for name in ('definite', 'probable', 'possible')
                },
            }
        )
    return pd.DataFrame(rows, columns=[*keys, 'lesions', 'assessed', 'definite', 'probable', 'possible'])


def lesion_counts(lesions: pd.DataFrame) -> pd.DataFrame:
    """Number, sign, volume and susceptibility of the lesions of each participant and session.

    Parameters
    ----------
    lesions : DataFrame
        Lesion tables of all series, gathered: columns participant_id (and session_id), reason, volume_mm3,
        chi_mean, sign. A row with a reason was not measured.

    Returns
    -------
    DataFrame
        Columns participant_id (and session_id, acquisition, run), lesions (empty masks are none), measured,
        volume_mm3 (sum of the measured), chi_mean (ppm, mean weighted by volume), paramagnetic, diamagnetic,
        not measured (reasons and how often).
    """
    keys, rows = series_columns(lesions), []
    for key, part in lesions.groupby(keys, sort=True, dropna=False):
        measured = part[part['reason'].isna()]
        reasons = part['reason'].dropna().astype(str).value_counts(sort=False)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                'lesions': int((part['lesion'].notna() if 'lesion' in part else part['reason'].isna()).sum()),
                **lesion_sums(part),
                'paramagnetic': int((measured['sign'] == 'paramagnetic').sum()),
                'diamagnetic': int((measured['sign'] == 'diamagnetic').sum()),
                'not measured': '; '.join(f'{reason} ({n})' for reason, n in reasons.items()),
            }
        )
    columns = [*keys, 'lesions', 'measured', 'volume_mm3', 'chi_mean', 'paramagnetic', 'diamagnetic']
    return pd.DataFrame(rows, columns=[*columns, 'not measured'])


def candidate_counts(candidates: pd.DataFrame) -> pd.DataFrame:
    """Number of candidates of each class, and the pattern of microbleeds, by participant and session.

    Parameters
    ----------
    candidates : DataFrame
        Tables of candidates of all series, gathered: columns participant_id, class and
        mars_region.

    Returns
    -------
    DataFrame
        The columns that identify a series, and one column a class, and microbleeds: none, lobar only, deep,
        mixed or not assessable.
    """
    keys = series_columns(candidates)
    counts = candidates.groupby([*keys, 'class'], dropna=False).size().unstack('class', fill_value=0)
    counts.columns.name = None
    bleeds = candidates['mars_region'].where(candidates['class'] == 'microbleed')
    counts['microbleeds'] = bleeds.groupby([candidates[key] for key in keys], dropna=False).agg(
        lambda regions: pattern(regions.dropna().tolist())
    )
    return counts.reset_index()
