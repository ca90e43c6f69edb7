"""Correlation of regional values with clinical numbers, partial for covariates, and their differences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from bids_qsm.cohort import design as designs
from bids_qsm.cohort.formula import Formula, parse_columns
from bids_qsm.cohort.inference import adjust
from bids_qsm.cohort.observations import (
    KEYS,
    QUANTITY,
    Observations,
    average,
    codes,
    describe,
    is_numeric,
    numeric,
    observe,
    patterns,
    say_averaged,
    some,
)
from bids_qsm.cohort.resampling import (
    bootstrap_weights,
    corrected_interval,
    partial_correlations,
)
from bids_qsm.cohort.tables import group_column
from bids_qsm.errors import UserError

COLUMNS = [*KEYS, 'column', 'covariates', 'r', 'ci_low', 'ci_high', 'p', 'p_fdr', 'n', 'note']
DIFFERENCES = ['atlas', 'map', 'hemisphere', 'column', 'covariates', 'region_a', 'region_b', 'r_a', 'r_b']
DIFFERENCES += ['difference', 'ci_low', 'ci_high', 'p', 'n', 'note']
NBIA = (('dystonia', 'GP', 'SN'), ('parkinsonism', 'SN', 'GP'))
"""Hypotheses on neurodegeneration with brain iron accumulation: dystonia correlates more with the globus
pallidus than with the substantia nigra, parkinsonism the reverse (column, region_a, region_b)."""
_CONSTANT = 'the values are constant'
_LEAST_DOF = 3
"""Fewest degrees of freedom, n - 2 - covariates, of a correlation."""


@dataclass(frozen=True)
class _Sample:
    """Participants with a value of the column, of all covariates and of the regions."""

    x: np.ndarray
    z: np.ndarray
    rows: np.ndarray
    notes: list

    @property
    def n(self):
        return len(self.x)

    @property
    def dof(self):
        return self.n - self.z.shape[1] - 1

    @property
    def fault(self):
        """Why there is no correlation; empty where there is one."""
        if self.dof < _LEAST_DOF:
            return f'{self.n} participants are too few'
        if np.ptp(self.x) == 0:
            return 'the column is constant'
        rest = self.x - self.z @ np.linalg.lstsq(self.z, self.x, rcond=None)[0]
        return 'the covariates determine the column' if rest.std() < 1e-7 * self.x.std() else ''


def correlate(
    long: pd.DataFrame,
    column: str,
    *,
    covariates: Sequence[str] = (),
    maps: Sequence[str] = (),
    regions: Sequence[str] = (),
    hemispheres: Sequence[str] = (),
    statistic: str = 'mean',
    min_coverage: float = 0.5,
    n_boot: int = 5000,
    seed: int = 0,
):
    r"""Correlate each region with a numeric column.

    Sessions and runs are averaged first, of the region and of the column, so that each participant counts
    once. With covariates the correlation is partial: that of the residuals of both after a linear fit. p is
    from
    :math:`t = r \sqrt{\nu / (1 - r^2)}` with :math:`\nu = n - 2 - k` for k columns of covariates; the
    interval is a bias-corrected and accelerated bootstrap over participants. The false discovery rate is
    controlled over the regions of each atlas, map and hemisphere.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    column
        A column of numbers.
    covariates : sequence of str
        Columns, or terms such as ``cr(age, df=3)``.
    maps, regions, hemispheres : sequence of str
        Those wanted; all where empty.
    statistic, min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.
    n_boot, seed
        Resamples and the seed that draws them.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`, one row a region; r is NaN and the note says why where there is none.
    notes : list of str

    Raises
    ------
    UserError
        A column, map or region is not there, or the column holds text.
    """
    data = observe(
        long, statistic=statistic, maps=maps, regions=regions, hemispheres=hemispheres,
        min_coverage=min_coverage,
    )  # fmt: skip
    notes = list(data.notes) + say_averaged(data.series)
    data = _by_participant(data, covariates)
    terms, whole = _start(data, column, covariates, notes)
    table = data.keys[KEYS].assign(column=column, covariates=str(terms) if terms.terms else '')
    numbers = np.full((4, len(table)), np.nan)
    n, said = np.zeros(len(table), int), [''] * len(table)
    weights = bootstrap_weights(len(data.series), n_boot, seed, np.uint16)
    for rows, columns in patterns(data.values):
        sample = _sample(data, column, terms, rows)
        extra = [note for note in sample.notes if note not in whole.notes]
        varies = (
            [] if sample.fault else [j for j in columns if _varies(data.values[sample.rows, j], sample.z)]
        )
        for j in columns:
            n[j] = sample.n
            reason = sample.fault or ('' if j in varies else _CONSTANT)
            said[j] = '; '.join([*([reason] if reason else []), *extra])
        if varies:
            numbers[:, varies] = _correlations(data.values[np.ix_(sample.rows, varies)], sample, weights)
    table['r'], table['ci_low'], table['ci_high'], table['p'] = numbers
    table['p_fdr'] = adjust(table['p'], codes(table, ['atlas', 'map', 'hemisphere']))
    table['n'], table['note'] = n, said
    table.loc[table['r'].isna() & (table['note'] == ''), 'note'] = _CONSTANT
    lost = table[table['r'].isna()]
    for reason, part in lost.groupby('note', sort=False):
        names = part['region'] + ' ' + part['hemisphere']
        notes.append(f'{column}: no correlation for {some(dict.fromkeys(names))}: {reason}.')
    return table[COLUMNS], list(dict.fromkeys(notes))


def compare_correlations(
    long: pd.DataFrame,
    pairs: Iterable[tuple[str, str, str]] = NBIA,
    *,
    covariates: Sequence[str] = (),
    maps: Sequence[str] = (),
    hemispheres: Sequence[str] = (),
    statistic: str = 'mean',
    min_coverage: float = 0.5,
    n_boot: int = 5000,
    seed: int = 0,
):
    """Compare the correlations of one number with two regions in the same participants.

    Both correlations use the participants who have both regions, and the same resamples, so that their
    dependence is taken into account. The interval of the difference r_a - r_b is a bias-corrected and
    accelerated bootstrap; p is the level at which it includes zero.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    pairs : sequence of (column, region_a, region_b)
        Pairs whose column or regions do not exist are skipped, with a note.
    covariates, maps, hemispheres, statistic, min_coverage, n_boot, seed
        See `correlate`.

    Returns
    -------
    table : DataFrame
        Columns `DIFFERENCES`, one row a pair, atlas, map and hemisphere.
    notes : list of str
    """
    rows, notes = [], []
    there = set(long['region'].dropna().astype(str))
    for column, *regions in pairs:
        missing = [r for r in regions if r not in there] or ([column] if column not in long else [])
        if missing:
            notes.append(f'{column}, {" against ".join(regions)}: there is no {" and no ".join(missing)}.')
            continue
        data = observe(
            long, statistic=statistic, maps=maps, regions=list(dict.fromkeys(regions)),
            hemispheres=hemispheres, min_coverage=min_coverage,
        )  # fmt: skip
        notes += say_averaged(data.series)
        data = _by_participant(data, covariates)
        terms, _ = _start(data, column, covariates, notes)
        weights = bootstrap_weights(len(data.series), n_boot, seed, np.uint16)
        for key, part in data.keys.groupby(['atlas', 'map', 'hemisphere'], sort=False):
            place = {region: j for j, region in zip(part.index, part['region'], strict=True)}
            if any(region not in place for region in regions):
                continue
            both = data.values[:, [place[region] for region in regions]]
            sample = _sample(data, column, terms, np.isfinite(both).all(1))
            row = dict(zip(['atlas', 'map', 'hemisphere'], key, strict=True))
            row |= {'column': column, 'covariates': str(terms) if terms.terms else '', 'n': sample.n}
            row |= {'region_a': regions[0], 'region_b': regions[1], 'note': sample.fault}
            if not sample.fault and all(_varies(both[sample.rows, i], sample.z) for i in (0, 1)):
                row |= _difference(both[sample.rows], sample, weights)
            if not sample.fault and not np.isfinite(row.get('difference', np.nan)):
                row['note'] = _CONSTANT
            if row['note']:
                what = ' '.join(filter(None, (*key, column)))
                notes.append(f'{what}, {" against ".join(regions)}: no comparison: {row["note"]}.')
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=DIFFERENCES), list(dict.fromkeys(notes))


def _by_participant(data: Observations, covariates: Sequence[str]):
    """One row a participant; columns that are factors are not averaged."""
    return average(data, ['participant_id'], factors=designs.forced(parse_columns(covariates, data.series)))


def _start(data: Observations, column: str, covariates: Sequence[str], notes: list[str]):
    """Terms of the covariates, and the sample of all participants with its notes."""
    if column not in data.series:
        known = [str(c) for c in data.series if is_numeric(data.series[c])]
        raise UserError(f'There is no column {column!r} to correlate with; numbers are {", ".join(known)}.')
    stated = data.series[column]
    if stated.notna().any() and not is_numeric(stated):
        raise UserError(f'The column {column!r} holds text, not numbers, so nothing correlates with it.')
    terms = parse_columns([c for c in covariates if c != column], data.series)
    whole = _sample(data, column, terms, np.ones(len(data.series), bool))
    notes += [f'{column}: {note}' for note in whole.notes]
    group = group_column(data.series)
    if group and group not in terms.columns:
        x = pd.Series(whole.x, index=data.series.index[whole.rows])
        levels = data.series.loc[whole.rows, group].astype(object)
        still = [str(g) for g, part in x.groupby(levels) if len(part) > 1 and part.nunique() == 1]
        if still and x.nunique() > 1 and levels.nunique() > 1:
            notes.append(
                f'{column} is the same in all of {some(still)}: its correlations also reflect the difference '
                f'between groups; add {group} as a covariate to remove it.'
            )
    return terms, whole


def _sample(data: Observations, column: str, terms: Formula, rows: np.ndarray):
    """Participants among ``rows`` with a value of the column and of all covariates."""
    notes = []
    x, texts = numeric(data.series[column])
    if texts:
        notes.append(f'{column} holds text among its numbers ({some(texts, most=3)}), taken as missing.')
    lacking = int((rows & x.isna().to_numpy()).sum())
    if lacking:
        notes.append(f'{lacking} participant{"" if lacking == 1 else "s"} without {column} left out.')
    x = x.to_numpy()
    design = designs.build(terms, data.series, data.participants[0], rows=rows & np.isfinite(x))
    return _Sample(x[design.rows], design.x, design.rows, notes + design.notes)


def _varies(y: np.ndarray, z: np.ndarray):
    """Whether values vary about the fit of the covariates."""
    rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
    return np.abs(rest).max() > 1e-9 * max(np.abs(y).max(), 1e-300)


def _resampled(y: np.ndarray, sample: _Sample, weights: np.ndarray):
    """Correlations of the sample, of each resample of its participants, and with each left out."""
    drawn = weights if sample.rows.all() else weights[:, sample.rows]
    estimate = partial_correlations(sample.x, y, sample.z, np.ones((1, sample.n)))[0]
    return (
        estimate,
        partial_correlations(sample.x, y, sample.z, drawn),
        partial_correlations(sample.x, y, sample.z, None),
    )


def _correlations(y: np.ndarray, sample: _Sample, weights: np.ndarray):
    """r, its interval and p of the t test, one column a region."""
    r, drawn, left_out = _resampled(y, sample, weights)
    # on Fisher's z scale the resamples are nearly normal, and the ends stay within -1 and 1
    found, resampled, jackknife = (np.arctanh(_open(v)) for v in (r, drawn, left_out))
    low, high, _ = corrected_interval(found, resampled, jackknife, sample.dof)
    t = r * np.sqrt(sample.dof / np.maximum(1 - r**2, 1e-300))
    return np.stack([r, np.tanh(low), np.tanh(high), 2 * special.stdtr(sample.dof, -np.abs(t))])


def _difference(y: np.ndarray, sample: _Sample, weights: np.ndarray):
    """The numeric columns of a comparison."""
    found, drawn, left_out = (r[..., 0] - r[..., 1] for r in _resampled(y, sample, weights))
    r = partial_correlations(sample.x, y, sample.z, np.ones((1, sample.n)))[0]
    low, high, p = corrected_interval(np.atleast_1d(found), drawn[:, None], left_out[:, None], sample.dof)
    return {
        'r_a': r[0], 'r_b': r[1], 'difference': float(found), 'ci_low': low[0], 'ci_high': high[0], 'p': p[0],
    }  # fmt: skip


def _open(r: np.ndarray):
    return np.clip(r, -1 + 1e-12, 1 - 1e-12)


def dictionary() -> dict:
    """Describe every column of the tables of correlations and of their differences."""
    described: dict[str, str | tuple[str, str]] = {
        **QUANTITY,
        'column': 'Number that the region is correlated with.',
        'covariates': 'Covariates that were regressed out of both; empty without any.',
        'r': 'Correlation over participants (partial, where there are covariates).',
        'region_a': 'Region of the first correlation.',
        'region_b': 'Region of the second correlation.',
        'r_a': 'Correlation with region_a.',
        'r_b': 'Correlation with region_b.',
        'difference': 'r_a less r_b.',
        'ci_low': 'Lower end of the 95 % interval, by bootstrap over participants.',
        'ci_high': 'Upper end of the 95 % interval, by bootstrap over participants.',
        'p': 'Two-sided p value, not adjusted: t test of r; of a difference, by the bootstrap.',
        'p_fdr': (
            'False discovery rate (Benjamini and Hochberg) over the regions of the same atlas, map and '
            'hemisphere.'
        ),
        'n': 'Participants.',
        'note': 'Why there is no value, or differences from the other regions.',
    }
    return describe(described)
