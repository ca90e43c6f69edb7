"""Sections of the cohort page, one an analysis: the answer in sentences, charts and tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Table
from bids_qsm.cohort import describe
from bids_qsm.cohort.asymmetry import LESS
from bids_qsm.cohort.total import VOLUME
from bids_qsm.plotting.cohort_charts import (
    p_text,
    plot_changes,
    plot_forest,
    plot_normative,
    plot_residuals,
    plot_scatter,
    plot_zscores,
)
from bids_qsm.reports.blocks import (
    ALPHA,
    FOLD,
    PANELS,
    by_region,
    charted,
    charted_whole,
    figure,
    grid,
    parts,
    section,
    signed,
    words,
)
from bids_qsm.reports.trial_sections import total_beside_mean

FAR, BY_CHANCE = 2.0, 0.0455
"""Absolute z-score above which a participant is named, and the share of healthy people above it."""
_MOST_LEVELS = 4
_NAMED = 6  # regions in a sentence
_READABLE = {'participant_id': 'participant', 'session_id': 'session'}
_READABLE |= {'volume_mm3': 'volume (mm³)', 'chi_mean': 'mean χ (ppm)'}
_INTERVAL = {'ci_low': '95 % low', 'ci_high': '95 % high'}
_JOINT = {'region': 'region', 'statistic': 'F', 'dof_term': 'of the term', 'dof': 'degrees of freedom'}
_JOINT |= {'p': 'p', 'p_fdr': 'p (FDR)', 'effect': 'partial eta squared', 'n_participants': 'n'}
_SIZES = {'region': 'region', 'effect': 'effect size', 'effect_low': '95 % low', 'effect_high': '95 % high'}
_SIZES |= {'effect_name': 'kind', 'n': 'n', 'n_observations': 'observations', 'method': 'method'}
_DIFFERENCES = {'column': 'number', 'region_a': 'region', 'region_b': 'against', 'r_a': 'r'}
_DIFFERENCES |= {'r_b': 'against r', 'difference': 'difference', **_INTERVAL, 'p': 'p', 'n': 'n'}


def model_section(
    table: pd.DataFrame, residuals: pd.DataFrame, formula: str, notes: list[str], files: list[str]
) -> dict:
    """Effect of each term of the model on each region, and the fit of the model."""
    said, blocks, answers = words('model'), [], []
    for key, title, _, rows in parts(table):
        for number, (term, of_term) in enumerate(rows.groupby('term', sort=False)):
            levels = [level for level in of_term['level'].fillna('').unique() if level != 'joint']
            if (of_term['level'] == 'joint').any():
                joint = of_term[of_term['level'] == 'joint']
                sure = joint.loc[joint['p_fdr'] < ALPHA, 'region']
                answers.append(
                    f'{title}, {term} as a whole: an effect on {len(sure)} of {len(joint)} regions after '
                    f'correction{": " if len(sure) else ""}{", ".join(sure)}.'
                )
                blocks.append(grid(f'{title}: {term}', joint, columns=_JOINT, caption=said['joint']))
            if len(levels) > _MOST_LEVELS:
                continue
            for level in levels:
                one = of_term[of_term['level'].fillna('') == level]
                one = one.rename(columns={'n_participants': 'n'}).assign(label=one['region'])
                name, unit = f'{term} ({level})' if level else term, one['units'].iloc[0]
                answers.append(_effects_in_words(f'{title}, {name}', one, unit))
                drawn, cut = charted_whole(one, _sure(one))
                caption = said['forest'].format(term=name, map=title) + cut
                svg = plot_forest(
                    drawn, xlabel=f'{name}: {"difference" if level else "slope"} of {title} ({unit})'
                )
                place = f'model-{key}-{number}-{levels.index(level)}'
                blocks.append(figure(place, f'{title}: {name}', svg, caption))
                heading = f'Effect sizes of {name}'
                blocks.append(grid(heading, one, columns=_SIZES, caption=said['effect'], folded=True))
        own, cut = charted(_residuals_of(residuals, rows), _sure(rows), PANELS)
        if len(own):
            svg = plot_residuals(own, unit=own['units'].iloc[0])
            blocks.append(figure(f'residuals-{key}', f'{title}: residuals', svg, said['residuals'] + cut))
    question = said['question'].format(formula=formula)
    return section('model', question=question, answers=answers, blocks=blocks, notes=notes, files=files)


def _residuals_of(residuals: pd.DataFrame, rows: pd.DataFrame):
    """Residuals of the regions of one part, each with its normal quantile."""
    regions = list(dict.fromkeys(rows['region']))
    wanted = residuals['region'].isin(regions)
    for key in ('atlas', 'map', 'hemisphere'):
        wanted &= residuals[key].fillna('') == (rows[key].fillna('').iloc[0] if len(rows) else '')
    own = residuals[wanted].dropna(subset=['fitted', 'residual'])
    own = by_region(own, regions)
    return own.assign(normal=own.groupby('region')['residual'].transform(describe.normal_quantiles))


def _sure(rows: pd.DataFrame):
    """Regions with an effect that is significant after correction, by rising p-value."""
    return rows[rows['p_fdr'] < ALPHA].sort_values('p_fdr', kind='stable')['region'].unique()


def _effects_in_words(name: str, rows: pd.DataFrame, unit: str):
    tested = rows[np.isfinite(rows['estimate'])]
    sure = tested[tested['p_fdr'] < ALPHA].sort_values('p_fdr')
    if tested.empty:
        return f'{name}: no region could be tested.'
    n = f'{tested["n"].min():.0f}' + ('' if tested['n'].nunique() == 1 else f' to {tested["n"].max():.0f}')
    if sure.empty:
        return f'{name}: no effect on any of {len(tested)} regions after correction (n = {n}).'
    listed = '; '.join(
        f'{r["region"]} {signed(r["estimate"])} {unit} ({signed(r["ci_low"])} to {signed(r["ci_high"])}; '
        f'{r["effect_name"]} {signed(r["effect"])})'
        for r in sure.head(_NAMED).to_dict('records')
    )
    more = f'; and {len(sure) - _NAMED} more' if len(sure) > _NAMED else ''
    found = f'an effect on {len(sure)} of {len(tested)} regions after correction (n = {n})'
    return f'{name}: {found}: {listed}{more}.'


def correlation_section(
    table: pd.DataFrame,
    differences: pd.DataFrame,
    long: pd.DataFrame,
    *,
    asked: Sequence[tuple[str, str]],
    covariates: Sequence[str],
    statistic: str,
    groups: dict[str, str],
    notes: list[str],
    files: list[str],
) -> dict:
    """Correlations of regions with clinical numbers, and differences of correlations between regions.

    ``asked`` holds pairs of a column and a region; ``groups`` maps participants to groups, for colours.
    """
    said, blocks, answers = words('correlation'), [], []
    for key, title, _, rows in parts(table):
        for column, one in rows.groupby('column', sort=False):
            one = one.assign(label=one['region'], estimate=one['r'])
            own = [region for c, region in asked if c == column]
            others = [c for c in covariates if c != column]
            given = f', given {", ".join(others)}' if others else ''
            answers += [_correlation_in_words(title, column, region, one) for region in own]
            if one['r'].isna().all():
                continue
            place = f'{key}-{list(rows["column"].unique()).index(column)}'
            drawn, cut = charted_whole(one, [*(region for _, region in asked), *_sure(one)])
            svg = plot_forest(drawn, xlabel=f'correlation of {title} with {column} (r, no unit)')
            caption = said['forest'].format(map=title, column=column, given=given) + cut
            blocks.append(figure(f'correlation-{place}', f'{title} and {column}', svg, caption))
            # regions that were asked for first, then others, in one row
            there = set(one['region'])
            wanted = dict.fromkeys([*own, *(r for _, r in asked), *one['region']])
            regions = [r for r in wanted if r in there][: max(4, len(own))]
            svg = _scatter(long, one, column, others, regions, statistic, title, groups)
            adjusted = said['adjusted'].format(covariates=', '.join(others)) if others else ''
            caption = said['scatter'].format(adjusted=adjusted)
            blocks.append(figure(f'scatter-{place}', f'{title} over {column}', svg, caption))
    compared = differences.rename(columns={'region_a': 'region'})
    for _, title, _, rows in parts(compared):
        rows = rows.rename(columns={'region': 'region_a'})
        answers += [_difference_in_words(title, row) for row in rows.to_dict('records')]
        heading = f'{title}: differences of correlations between regions'
        blocks.append(grid(heading, rows, columns=_DIFFERENCES, caption=said['difference']))
    answers.sort(key=lambda answer: 'could not be' in answer)  # last
    question = said['question'].format(asked=', '.join(f'{column} with {region}' for column, region in asked))
    return section('correlation', question=question, answers=answers, blocks=blocks, notes=notes, files=files)


def _correlation_in_words(title: str, column: str, region: str, rows: pd.DataFrame):
    found = rows[(rows['region'] == region) & np.isfinite(rows['r'])]
    if found.empty:
        return f'{column} and {title} of {region}: could not be tested.'
    r = found.iloc[0]
    p = p_text(r['p_fdr'])
    return (
        f'{column} and {title} of {region}: r = {r["r"]:.2f} ({r["ci_low"]:.2f} to {r["ci_high"]:.2f}), '
        f'p (FDR) {p if p.startswith("<") else f"= {p}"}, n = {r["n"]:.0f}.'
    ).replace('-', '−')


def _difference_in_words(title: str, row: dict):
    names = f'{row["column"]} and {title} of {row["region_a"]} against {row["region_b"]}'
    if not np.isfinite(row['difference']):
        return f'{names}: could not be compared.'
    sure = row['ci_low'] > 0 or row['ci_high'] < 0
    more = 'more' if row['difference'] > 0 else 'less'
    verdict = f'{row["column"]} goes {more} with {row["region_a"]}' if sure else 'no clear difference'
    figures = f'r = {row["r_a"]:.2f} against {row["r_b"]:.2f}'.replace('-', '−')
    figures += f', difference {signed(row["difference"])}'
    interval = f'{signed(row["ci_low"])} to {signed(row["ci_high"])}'
    return f'{names}: {verdict} ({figures}, 95 % interval {interval}, n = {row["n"]:.0f}).'


def _scatter(
    long: pd.DataFrame,
    rows: pd.DataFrame,
    column: str,
    covariates: Sequence[str],
    regions: Sequence[str],
    statistic: str,
    title: str,
    groups: dict[str, str],
):
    long, first = _of_part(long, rows), rows.iloc[0]
    points, lines, texts = [], [], {}
    for region in regions:
        here = describe.by_participant(long, first['map'], region, statistic=statistic)
        here = here.assign(x=pd.to_numeric(here[column], errors='coerce'), y=here['value'])
        here = describe.adjusted(here, covariates)
        spent = here.attrs.get('spent', 0)
        here['group'] = _group_of(here, groups)
        points.append(here[['x', 'y', 'group']].assign(region=region))
        line = describe.regression_line(here['x'], here['y'], spent=spent)
        lines.append(line.assign(region=region))
        r = rows[rows['region'] == region].iloc[0]
        interval = f'[{r["ci_low"]:.2f}, {r["ci_high"]:.2f}]'
        texts[region] = (
            f'r = {r["r"]:.2f} {interval}, n = {r["n"]:.0f}' if np.isfinite(r['r']) else 'not tested'
        )
    units = long.loc[long['map'] == first['map'], 'units'].dropna().unique() if 'units' in long else []
    ylabel = f'{title} ({next(iter(units), "n/a")})'
    drawn = [line for line in lines if len(line)] or lines[:1]
    return plot_scatter(
        pd.concat(points), pd.concat(drawn), texts, xlabel=column, ylabel=ylabel, groups=groups.values()
    )


def change_section(
    table: pd.DataFrame,
    summary: pd.DataFrame,
    long: pd.DataFrame,
    groups: dict[str, str],
    *,
    statistic: str,
    notes: list[str],
    files: list[str],
    with_total: bool = False,
) -> dict:
    """Change over sessions: the course of each participant, and the mean change of each group.

    ``groups`` maps participants to groups, for colours. ``with_total`` sets the change of the mean
    beside that of the total.
    """
    said, blocks, answers = words('change'), [], []
    # n/a stands for no group, and is read as missing
    summary = summary.assign(group=summary['group'].fillna('n/a'))
    means = {key: rows for key, _, _, rows in parts(summary)}
    for key, title, unit, rows in parts(table[table['map'] != VOLUME]):
        rows = rows.assign(beyond=rows['beyond'].isin([True, 'True']))
        known = rows.dropna(subset=['repeatability'])
        answers += _changes_in_words(title, unit, known)
        beyond = rows[rows['beyond']]
        changed = beyond['region'].value_counts().index
        # regions with a known repeatability first: only there a change can be detected
        shown, cut = charted(rows, [*changed, *known['region']], PANELS)
        regions = list(dict.fromkeys(shown['region']))
        visits = describe.courses(_of_part(long, rows), rows['map'].iloc[0], regions, statistic=statistic)
        visits['group'] = _group_of(visits, groups)
        texts, sd = {}, known.groupby('region')['repeatability'].median().to_dict()
        for region in regions:
            one = rows[rows['region'] == region]
            passing = f'{_who(one[one["beyond"]])} beyond repeatability'
            texts[region] = f'n = {_who(one)}; {passing if region in sd else "repeatability n/a"}'
        visits = by_region(visits, regions)
        if len(visits):
            xlabel = 'years since the first session' if visits['timed'].all() else 'session'
            half = known['ci_high'] - known['change']
            least = half.groupby(known['region']).median().to_dict()
            svg = plot_changes(
                visits,
                texts,
                xlabel=xlabel,
                ylabel=f'{title} ({unit})',
                detectable=least,
                groups=groups.values(),
            )
            source = ', '.join(sorted(known['repeatability_source'].dropna().unique()))
            listed = ', '.join(f'{region} {sd[region]:.2g}' for region in regions if region in sd)
            caption = said['course']
            if listed:
                caption += ' ' + said['repeatability'].format(unit=unit, listed=listed, source=source)
            blocks.append(figure(f'change-{key}', f'{title} over sessions', svg, caption + cut))
        if key in means:
            own = means[key].assign(label=means[key]['region'], estimate=means[key]['mean'])
            by = 'group' if own['group'].nunique() > 1 else None
            own, cut = charted_whole(own, _sure(own))
            svg = plot_forest(own, xlabel=f'mean change of {title} ({unit})', by=by, groups=groups.values())
            caption = said['mean'].format(what=f'change of {title}') + cut
            blocks.append(figure(f'change-mean-{key}', f'{title}: mean change', svg, caption))
        if len(beyond):
            columns = {'participant_id': 'participant', 'region': 'region', 'session_from': 'from'}
            columns |= {'session_to': 'to', 'years': 'years', 'change': f'change ({unit})', **_INTERVAL}
            columns |= {'per_year': f'per year ({unit}/year)', 'direction': 'direction', 'index': 'index'}
            columns |= {'p_fdr': 'p (FDR)'}
            heading, folded = f'{title}: changes beyond repeatability', len(beyond) > FOLD
            blocks.append(grid(heading, beyond, columns=columns, caption=said['beyond'], folded=folded))
    if with_total:
        more, told = total_beside_mean(summary, 'group', 'mean')
        blocks, answers = blocks + more, answers + told
    return section(
        'change', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def _of_part(long: pd.DataFrame, rows: pd.DataFrame):
    """Rows of the long table that belong to the atlas of a part."""
    atlas = rows['atlas'].fillna('').iloc[0] if 'atlas' in rows else ''
    return long[long['atlas'] == atlas] if atlas and 'atlas' in long else long


def _who(rows: pd.DataFrame):
    """Number of participants."""
    return rows['participant_id'].nunique()


def _group_of(rows: pd.DataFrame, groups: dict[str, str]):
    return rows['participant_id'].map(groups).astype(object).fillna('n/a')


def _changes_in_words(title: str, unit: str, rows: pd.DataFrame):
    if rows.empty:
        return [f'{title}: the repeatability is not known, so no change can be tested.']
    answers = []
    for region, one in rows.groupby('region', sort=False):
        beyond = one[one['beyond']]
        if len(beyond):
            mean = signed(beyond['change'].mean())
            answers.append(
                f'{title} of {region} changed by more than repetition explains in {_who(beyond)} of '
                f'{_who(one)} participants (by {mean} {unit} on average in these).'
            )
    if not answers:
        return [f'{title}: no change beyond repeatability in {_who(rows)} participants.']
    n, left = rows['beyond'].sum(), (rows['p_fdr'] < ALPHA).sum()
    answers.append(
        f'{title}: of {len(rows)} comparisons (participants and regions) {n} are beyond repeatability; by '
        f'chance about {ALPHA * len(rows):.0f} would be. {left} stay after correction for that number.'
    )
    return answers


def normative_section(
    table: pd.DataFrame, groups: dict[str, str], *, notes: list[str], files: list[str]
) -> dict:
    """z-scores of each participant against controls of the same age."""
    said, blocks, answers = words('normative'), [], []
    for key, title, unit, rows in parts(table):
        rows = rows.assign(
            group=_group_of(rows, groups),
            is_control=rows['is_control'].isin([True, 'True']),
        ).dropna(subset=['z'])
        if rows.empty:
            continue
        others = rows[~rows['is_control']]
        far = others[others['z'].abs() > FAR].sort_values('z', key=abs, ascending=False, kind='stable')
        answers += _scores_in_words(title, others, far)
        outliers = far['region'].value_counts().index
        drawn, cut = charted(rows, outliers)
        svg = plot_zscores(drawn, groups=groups.values())
        blocks.append(figure(f'z-{key}', f'{title}: z-scores', svg, said['scores'] + cut))
        aged, cut = charted(rows.dropna(subset=['age']), outliers, PANELS)
        if len(aged):
            aged = describe.normal_range(aged)
            svg = plot_normative(
                aged, xlabel='age (years)', ylabel=f'{title} ({unit})', groups=groups.values()
            )
            blocks.append(figure(f'normative-{key}', f'{title} over age', svg, said['age'] + cut))
        if len(far):
            columns = {'participant_id': 'participant', 'session_id': 'session', 'region': 'region'}
            columns |= {'value': f'value ({unit})', 'expected': f'expected ({unit})', 'z': 'z'}
            columns |= {'percentile': 'percentile', 'n_controls': 'controls'}
            heading, far = f'{title}: beyond {FAR:g} standard deviations', far.dropna(axis=1, how='all')
            blocks.append(grid(heading, far, columns=columns, caption=said['far'], folded=len(far) > FOLD))
        uneven = table[(table['map'] == rows['map'].iloc[0]) & (table['hemisphere'] == LESS)]
        uneven = uneven[uneven['atlas'].fillna('') == (rows['atlas'].fillna('').iloc[0])]
        more, told = _sides(title, unit, uneven.dropna(subset=['z']))
        blocks, answers = blocks + more, answers + told
    return section(
        'normative', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def _sides(title: str, unit: str, rows: pd.DataFrame):
    """Table and sentence on participants whose sides differ by more than those of controls."""
    others = rows[~rows['is_control'].isin([True, 'True'])]
    far = others[others['z'].abs() > FAR].sort_values('z', key=abs, ascending=False, kind='stable')
    if far.empty:
        return [], []
    listed = ', '.join(f'{region} {n}' for region, n in far['region'].value_counts(sort=False).items())
    chance = f'{BY_CHANCE * len(others):.0f}'
    answer = (
        f'{title}: left and right differ by more than in controls in {len(far)} of {len(others)} comparisons '
        f'({listed}; by chance about {chance}).'
    )
    columns = {'participant_id': 'participant', 'session_id': 'session', 'region': 'region'}
    columns |= {'value': f'left less right ({unit})', 'expected': f'expected ({unit})', 'z': 'z'}
    heading, caption = f'{title}: sides that differ', words('normative')['sides']
    far = far.dropna(axis=1, how='all')
    return [grid(heading, far, columns=columns, caption=caption, folded=len(far) > FOLD)], [answer]


def _scores_in_words(title: str, others: pd.DataFrame, far: pd.DataFrame):
    if others.empty:
        return [f'{title}: all participants are controls.']
    answers = []
    for region in others['region'].unique():
        one = far[far['region'] == region]
        if len(one):
            above, below = _who(one[one['z'] > 0]), _who(one[one['z'] < 0])
            whole = _who(others[others['region'] == region])
            chance = f'{BY_CHANCE * whole:.0f}'
            answers.append(
                f'{title} of {region}: {_who(one)} of {whole} participants beyond {FAR:g} standard '
                f'deviations from controls ({above} above, {below} below; by chance about {chance}).'
            )
    return answers or [f'{title}: nobody beyond {FAR:g} standard deviations from controls.']


def application_section(
    app: Application, table: Table, rows: pd.DataFrame, *, notes: list, files: list
) -> dict:
    """Overview of an application over all series; for a table without one, all its rows."""
    key, has_own = app.key(table), app.overview is not None and table == app.tables_of_events[0]
    said = {'tables': [('All series', rows, '')]}
    if has_own:
        try:
            said = app.overview(rows)
        except (TypeError, ValueError) as error:  # of a damaged table, in a column of numbers without a unit
            notes = [*notes, f'These rows cannot be summed up: a table has text for a number ({error}).']
    blocks = [
        figure(f'{key}-{i}', title, content, caption)
        for i, (title, content, caption) in enumerate(said.get('figures', []))
    ]
    for title, frame, caption in said.get('tables', []):
        frame = frame.rename(columns=_READABLE)
        blocks.append(grid(title, frame, caption=caption, folded=len(frame) > 4 * FOLD))
    return section(
        key,
        title=table.title or app.title,
        question=said.get('question', ''),
        answers=said.get('answers', ()),
        blocks=blocks,
        notes=notes,
        files=files,
    )
