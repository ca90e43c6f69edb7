"""Linear models of each region: effects of group, age and other variables."""

from collections import defaultdict

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort import design as designs
from bids_qsm.cohort import mixed
from bids_qsm.cohort.formula import Formula, name, parse_model, with_factor
from bids_qsm.cohort.inference import adjust, correlation_interval, noncentrality, small_sample
from bids_qsm.cohort.observations import (
    KEYS,
    QUANTITY,
    Observations,
    average,
    codes,
    describe,
    observe,
    patterns,
    protocols,
    some,
)
from bids_qsm.cohort.tables import PROTOCOL
from bids_qsm.errors import UserError

_DESCRIBED: dict[str, str | tuple[str, str]] = {
    **QUANTITY,
    'term': 'Term of the formula.',
    'level': 'Levels that are compared; empty for the slope of a number; joint: test of the whole term.',
    'estimate': ('Difference between the levels, or slope, all else equal.', 'see column units'),
    'se': ('Standard error of the estimate, that by borders included.', 'see column units'),
    'se_border': (
        'Error of the estimate if the borders of the region are off in all subjects alike: the estimate of '
        'the same model of border_effect, what such an error makes of mean. It grows with effects in a '
        'neighbour. 0 where it is not known, and for statistics of cores.',
        'see column units',
    ),
    'ci_low': ('Lower end of the 95 % confidence interval of the estimate.', 'see column units'),
    'ci_high': ('Upper end of the 95 % confidence interval of the estimate.', 'see column units'),
    'statistic': 'Test statistic.',
    'statistic_name': 't, or F for a joint test.',
    'dof': 'Degrees of freedom of the residual; Kenward and Roger for mixed effects.',
    'dof_term': 'Degrees of freedom of the term.',
    'p': 'p value, not adjusted: two-sided for t; of the F test for joint.',
    'p_fdr': (
        'False discovery rate (Benjamini and Hochberg) over the regions of the same atlas, map, '
        'hemisphere, term and level.'
    ),
    'effect': 'Effect size, see effect_name.',
    'effect_low': 'Lower end of the 95 % confidence interval of the effect size.',
    'effect_high': 'Upper end of the 95 % confidence interval of the effect size.',
    'effect_name': (
        'Hedges g: difference over the standard deviation about the model; partial r: correlation with '
        'all else held; partial eta squared: share of the variance, for a joint test.'
    ),
    'units': 'Unit of the estimate.',
    'n_participants': 'Participants in the model.',
    'n_observations': 'Series, or sessions where runs were averaged, in the model.',
    'method': 'How the model was fitted.',
    'note': 'Differences from the other regions.',
}
COLUMNS = list(_DESCRIBED)
RESIDUALS = [*KEYS, 'participant_id', 'session_id', 'fitted', 'residual', 'units']
_WITHIN_LEAST = 3
"""Fewest observations beyond the first of each participant to estimate the variance within participants."""


def fit_models(
    long: pd.DataFrame,
    formula: str,
    *,
    statistic: str = 'mean',
    controls: str = '',
    nuisance: str = '',
    min_coverage: float = 0.5,
):
    r"""Fit one linear model to each region, hemisphere and map, and test each of its terms.

    Ordinary least squares where each participant has one observation; where sessions or runs repeat, a random
    intercept a participant (restricted maximum likelihood, tests after Kenward and Roger, see
    :func:`bids_qsm.cohort.mixed.random_intercept`). Where both repeat, runs of one acquisition are
    averaged within a session first. Factors are coded against a reference level, so that each coefficient is
    a difference from it; factors of more than two levels and curves also have a joint F test (level
    ``joint``).

    Where the statistic is of whole regions, borders that are off in all subjects alike turn an effect in a
    neighbour into one in the region. The same model is fitted to the column border_effect, what an error of
    the border makes of each value, and with its coefficients b the covariance of the estimates grows by
    :math:`b b^T`.

    Effect sizes: for two levels, Hedges' g: the difference over the standard deviation about the model
    (:math:`\sqrt{\sigma^2 + \tau^2}`) with the correction for small samples [1]_ and the interval of the
    noncentral t distribution [2]_, with the same correction; for a number and for a difference of
    differences, the partial correlation :math:`t / \sqrt{t^2 + \nu}`; for a joint test, partial eta squared
    :math:`F \nu_1 / (F \nu_1 + \nu_2)`. The false discovery rate is controlled over the regions of each
    atlas, map, hemisphere, term and level.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    formula
        ``chi ~ group + age + sex``: left a map, right what :func:`bids_qsm.cohort.formula.parse` reads.
    statistic
        Column that is the response: mean, mean_weighted, median, core_mean...
    controls
        Reference level of factors that have it; otherwise one that is called like controls, or the first.
    nuisance
        Column, such as the site, whose effect was taken away from the values: it is a factor of the model,
        so that its degrees of freedom count, also where its values are numbers, and has no rows.
    min_coverage
        See :func:`bids_qsm.cohort.observations.observe`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`; see `dictionary`. One row a coefficient; the intercept has none.
    residuals : DataFrame
        Columns `RESIDUALS`: one row an observation of a fitted region. Residuals of a mixed model are
        marginal: they include the random intercept.
    notes : list of str
        What was left out and why.

    Raises
    ------
    UserError
        The formula cannot be read, or names a map or column that does not exist.

    References
    ----------
    .. [1] Hedges (1981), J Educ Stat 6:107. doi:10.3102/10769986006002107
    .. [2] Cumming & Finch (2001), Educ Psychol Meas 61:532. doi:10.1177/0013164401614002
    """
    model = parse_model(formula)
    maps = sorted(set(long['map'].dropna().astype(str))) if 'map' in long else []
    if model.response not in maps:
        raise UserError(
            f'The left side of {formula!r} names no map of the tables; there are {", ".join(maps)}.'
        )
    if nuisance:
        model = with_factor(model, nuisance)
    data = observe(long, statistic=statistic, maps=[model.response], min_coverage=min_coverage)
    designs.check_columns(model, data.series)
    notes = list(data.notes)
    data = _observations(data, model, notes)
    fits, skipped = [], defaultdict(list)
    said = None
    for rows, columns in patterns(data.values):
        design = designs.build(model, data.series, data.participants[0], controls=controls, rows=rows)
        if said is None:
            # the pattern of most regions comes first; rows of others note the difference
            said = design.notes
            notes += [f'{model}: {note}' for note in said]
        gap = '; '.join(note for note in design.notes if note not in said)
        for j in columns:
            fit, method = _fit(data, j, design)
            if fit is None:
                skipped[method].append(_label(data.keys, j))
            else:
                fits.append((j, design, fit, method, gap))
    notes += [f'No model for {some(names)}: {reason}.' for reason, names in skipped.items()]
    if nuisance:
        notes.append(f'{nuisance} is in the model, so that the degrees of freedom of its effects count.')
    hidden = {name(term) for term in model.terms if [factor.column for factor in term] == [nuisance]}
    return _table(data, fits, hidden), _residuals(data, fits), list(dict.fromkeys(notes))


def _observations(data: Observations, model: Formula, notes: list[str]):
    """One row a series, or a session and protocol where both runs and sessions repeat."""
    who = data.series['participant_id']
    if 'session_id' in data.series:
        by = ['participant_id', 'session_id', *PROTOCOL]
        several = data.series['session_id'].astype(object).fillna('').groupby(who).nunique() > 1
        if several.any() and pd.Series(codes(data.series, by)).duplicated().any():
            notes.append('Sessions and runs repeat: the runs of a session were averaged.')
            data = average(data, by, factors=designs.forced(model))
            who = data.series['participant_id']
    for entity, kinds in protocols(data.series).items():
        if entity not in model.columns and who.duplicated().any():
            notes.append(
                f'Series differ in {entity} ({some(kinds)}) and count as repeats of one measurement; '
                f'add {entity} to the formula to part them.'
            )
    return data


def _fit(data: Observations, j: int, design: designs.Design):
    """The fit of a region and its method, or None and why there is none."""
    y = data.values[design.rows, j]
    who = data.participants[0][design.rows]
    x = design.x
    if not y.size:
        return None, 'no observation has a value and all columns of the formula'
    if not design.columns:
        return None, 'no term is left'
    if np.ptp(y) <= 1e-12 * max(np.abs(y).max(), 1e-300):
        return None, 'the values are constant'
    if len(set(who)) - x.shape[1] < 1:
        return None, f'{len(set(who))} participants are too few for {x.shape[1]} coefficients'
    repeats = len(y) - len(set(who))
    if repeats >= _WITHIN_LEAST:
        fit, method = mixed.random_intercept(x, y, who), 'mixed effects, random intercept, REML'
    else:
        fit, method = mixed.least_squares(x, y), 'ordinary least squares'
        if repeats:
            method += f' ({repeats} repeats taken as independent)'
    if fit.within <= 1e-20 * y.var():
        return None, 'the terms determine the values'
    border = mixed.weighted_coefficients(x, data.border[design.rows, j], who, fit)
    return fit.with_common(border), method


def _table(data: Observations, fits: list[tuple], hidden: set[str]):
    """Rows of all tests but those of the terms ``hidden``, with effect sizes and false discovery rates."""
    rows, extra = [], []
    for j, design, fit, method, gap in fits:
        who = data.participants[0][design.rows]
        common = {
            **data.keys.loc[j, KEYS].to_dict(),
            'n_participants': len(set(who)), 'n_observations': len(who), 'method': method, 'note': gap,
        }  # fmt: skip
        unit = data.keys.loc[j, 'units']
        of_term = defaultdict(list)
        for c, column in enumerate(design.columns):
            if column.term not in hidden:
                of_term[column.term].append(c)
        for term, members in of_term.items():
            kind = design.columns[members[0]].kind
            if kind != 'curve':
                for c in members:
                    estimate, se, dof = fit.coefficient(c + 1)
                    units = f'{unit} per {term}' if kind == 'number' else unit
                    rows.append(common | {
                        'term': term, 'level': design.columns[c].level, 'estimate': estimate, 'se': se,
                        'se_border': abs(float(fit.common[c + 1])), 'units': units,
                        'statistic': estimate / se, 'statistic_name': 't', 'dof': dof, 'dof_term': 1.0,
                    })  # fmt: skip
                    extra.append((kind, se / fit.spread, estimate / fit.without_common.coefficient(c + 1)[1]))
            if kind == 'curve' or len(members) > 1:
                f, dof_term, dof = fit.joint([c + 1 for c in members])
                rows.append(common | {
                    'term': term, 'level': 'joint', 'statistic': f, 'statistic_name': 'F', 'dof': dof,
                    'dof_term': dof_term, 'units': 'n/a',
                })  # fmt: skip
                extra.append(('joint', np.nan, fit.without_common.joint([c + 1 for c in members])[0]))
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    if table.empty:
        return table
    number = [c for c in ('estimate', 'se', 'se_border', 'statistic', 'dof', 'dof_term') if c in table]
    table[number] = table[number].astype(float)
    value, dof = table['statistic'].to_numpy(), table['dof'].to_numpy()
    half = stats.t.ppf(0.975, dof) * table['se'].to_numpy()
    table['ci_low'], table['ci_high'] = table['estimate'] - half, table['estimate'] + half
    is_t = (table['statistic_name'] == 't').to_numpy()
    table['p'] = np.where(
        is_t, 2 * stats.t.sf(np.abs(value), dof), stats.f.sf(np.abs(value), table['dof_term'].to_numpy(), dof)
    )
    table['p_fdr'] = adjust(table['p'], codes(table, ['atlas', 'map', 'hemisphere', 'term', 'level']))
    kinds, per_sd, plain = (np.array(column) for column in zip(*extra, strict=True))
    _effects(table, kinds, per_sd, value, plain, dof)
    return table


def _effects(
    table: pd.DataFrame,
    kinds: np.ndarray,
    per_sd: np.ndarray,
    value: np.ndarray,
    plain: np.ndarray,
    dof: np.ndarray,
):
    """Fill in the columns effect, effect_low, effect_high, effect_name.

    ``plain`` is the statistic without the error by borders, of which correlations do not become smaller.
    """
    low, high = np.full(len(table), np.nan), np.full(len(table), np.nan)
    effect = np.full(len(table), np.nan)
    g = kinds == 'factor'
    ends = noncentrality(value[g], dof[g])
    per_sd = small_sample(dof[g]) * per_sd[g]
    effect[g], low[g], high[g] = value[g] * per_sd, ends[0] * per_sd, ends[1] * per_sd
    r = (kinds == 'number') | (kinds == 'contrast')
    effect[r] = plain[r] / np.sqrt(plain[r] ** 2 + dof[r])
    low[r], high[r] = correlation_interval(effect[r], dof[r])
    both = kinds == 'joint'
    ratio = plain[both] * table['dof_term'].to_numpy()[both]
    effect[both] = ratio / (ratio + dof[both])
    names = {'factor': 'Hedges g', 'number': 'partial r', 'joint': 'partial eta squared'}
    names['contrast'] = names['number']
    table['effect'], table['effect_low'], table['effect_high'] = effect, low, high
    table['effect_name'] = [names[kind] for kind in kinds]


def _residuals(data: Observations, fits: list[tuple]):
    """Fitted values and residuals of every fit, stacked."""
    known = data.series.reindex(columns=['participant_id', 'session_id'])
    frames = []
    for j, design, fit, _, _ in fits:
        frame = known[design.rows].assign(fitted=fit.fitted, residual=fit.residual)
        frames.append(frame.assign(**data.keys.loc[j].to_dict()))
    if not frames:
        return pd.DataFrame(columns=RESIDUALS)
    return pd.concat(frames, ignore_index=True)[RESIDUALS]


def _label(keys: pd.DataFrame, j: int):
    """A measured quantity in words."""
    row = keys.loc[j]
    return ' '.join(filter(None, (row['atlas'], row['region'], row['hemisphere'])))


def dictionary() -> dict:
    """Describe every column of the table of models, as a BIDS data dictionary."""
    return describe(_DESCRIBED)
