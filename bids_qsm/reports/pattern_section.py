"""Sections of the cohort page on the norms of 1958 and on patterns."""

import pandas as pd

from bids_qsm.plotting.cohort_charts import plot_zscores
from bids_qsm.plotting.pattern_charts import MOST, plot_patterns, plot_similarity
from bids_qsm.reports.blocks import FOLD, charted, figure, grid, parts, section, words

FAR = 2.0


def published_section(
    table: pd.DataFrame, groups: dict[str, str], *, notes: list[str], files: list[str]
) -> dict:
    """z-scores against iron of 1958."""
    said, blocks, answers = words('published'), [], []
    for key, title, unit, rows in parts(table):
        rows = rows.dropna(subset=['z']).assign(is_control=False)
        if rows.empty:
            continue
        rows['group'] = rows['participant_id'].map(groups).astype(object).fillna('n/a')
        far = rows[rows['z'].abs() > FAR].sort_values('z', key=abs, ascending=False, kind='stable')
        listed = ', '.join(f'{region} {n}' for region, n in far['region'].value_counts(sort=False).items())
        answers.append(
            f'{title}: {len(far)} of {len(rows)} values beyond {FAR:g} standard deviations of the norms of '
            f'1958, scaled to this study{f" ({listed})" if listed else ""}.'
        )
        drawn, cut = charted(rows)
        svg = plot_zscores(drawn, groups=groups.values())
        blocks.append(figure(f'published-{key}', f'{title}: z-scores', svg, said['scores'] + cut))
        columns = {'participant_id': 'participant', 'session_id': 'session', 'region': 'region'}
        columns |= {'value': f'value ({unit})', 'expected': f'expected ({unit})', 'iron': 'iron (mg/100 g)'}
        columns |= {'z': 'z', 'spread': 'spread', 'note': 'note'}
        far = far.dropna(axis=1, how='all')
        heading = f'{title}: beyond {FAR:g} standard deviations'
        blocks += [grid(heading, far, columns=columns, folded=len(far) > FOLD)] if len(far) else []
    return section(
        'published', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def patterns_section(table: pd.DataFrame, means: pd.DataFrame, *, notes: list[str], files: list[str]) -> dict:
    """Patterns of the groups, and how each participant compares with them."""
    said = words('patterns')
    first = table[table['rank'] == 1]
    labelled, others = first[first['label'].notna()], first[first['label'].isna()]
    answers = []
    known = labelled[labelled['label'].isin(set(table['pattern']))]
    if len(known):
        right = (known['choice'] == known['label']).sum()
        answers.append(
            f'Left out of its own group, {right} of {len(known)} labelled participants resemble it most.'
        )
    if len(others):
        counts = ', '.join(f'{name}: {n}' for name, n in others['choice'].value_counts().items())
        unclear = (~others['clear'].isin([True, 'True'])).sum()
        answers.append(f'Participants without a label resemble: {counts} ({unclear} of them not clearly).')
    cut = f' {MOST} of {len(first)} participants are drawn.' if len(first) > MOST else ''
    columns = {'participant_id': 'participant', 'label': 'label', 'choice': 'nearest', 'clear': 'clear'}
    columns |= {'cosine': 'cosine', 'distance': 'distance', 'p': 'p', 'support': 'support'}
    blocks = [
        figure('patterns-means', 'Patterns', plot_patterns(means), said['means']),
        figure('patterns-support', 'Similarity', plot_similarity(table), said['support'] + cut),
        grid('Nearest pattern', first, columns=columns, caption=said['table'], folded=len(first) > FOLD),
    ]
    return section(
        'patterns', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )
