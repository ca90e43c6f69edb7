"""Sections of the cohort page on repeated scans and on the arms of a trial."""

from collections.abc import Sequence

import pandas as pd

from bids_qsm.cohort import describe, total
from bids_qsm.cohort.repeatability import repeat_pairs
from bids_qsm.plotting.cohort_charts import p_text, plot_forest
from bids_qsm.plotting.trial_charts import plot_agreement, plot_slopes
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

_KINDS = {'sites': 'several sites', 'sessions': 'sessions of one visit', 'runs': 'runs of one session'}
_REPEATABILITY = {
    'region': 'region',
    'n_participants': 'n',
    'n_scans': 'scans',
    'sdw': 'SDw',
    'sdw_low': '95 % low',
}
_REPEATABILITY |= {'sdw_high': '95 % high', 'sd_between': 'between sites', 'sd_within': 'within a site'}
_REPEATABILITY |= {'detectable': 'detectable change', 'icc_2_1': 'ICC(2,1)'}
_REPEATABILITY |= {'icc_2_1_low': 'low', 'icc_2_1_high': 'high', 'icc_3_1': 'ICC(3,1)', 'bias': 'bias'}
_REPEATABILITY |= {'bias_low': 'bias low', 'bias_high': 'bias high', 'note': 'note'}
_TOTAL = {'region': 'region', 'arm': 'group', 'mean': 'mean χ', 'total': 'total χ', 'volume': 'volume'}
_TOTAL |= {'verdict': 'verdict'}
_APART = {
    'opposite': 'the mean and the total go opposite ways',
    'mean only': 'the mean changes, the total does not for certain',
    'total only': 'the total changes, the mean does not for certain',
}
_SIZES = {'region': 'region', 'design': 'design', 'visits': 'visits', 'years': 'years', 'what': 'effect'}
_SIZES |= {'delta': 'difference', 'sd': 'sd', 'at80': 'per arm, power 80 %', 'at90': 'per arm, power 90 %'}
_SIZES |= {'note': 'note'}


def repeatability_section(
    table: pd.DataFrame, long: pd.DataFrame, *, site: str, statistic: str, notes: list[str], files: list[str]
) -> dict:
    """Agreement of repeated scans. ``long`` has the totals."""
    said, blocks, answers = words('repeatability'), [], []
    for kind, of_kind in table.groupby('repeats', sort=False):
        pairs = repeat_pairs(long, kind=kind, site=site, statistic=statistic)
        for key, title, unit, rows in parts(of_kind):
            answers += _repeats_in_words(title, unit, _KINDS[kind], rows)
            drawn, cut = charted(rows.dropna(subset=['bias']), rows['region'], PANELS)
            own = pairs[(pairs['map'] == rows['map'].iloc[0]) & pairs['hemisphere'].isin(['both', ''])]
            own = own[own['atlas'] == str(rows['atlas'].fillna('').iloc[0])]
            own = by_region(own[own['region'].isin(drawn['region'])], rows['region'])
            heading = f'{title}, {_KINDS[kind]}'
            if len(own) and rows['map'].iloc[0] != total.VOLUME:
                svg = plot_agreement(own, drawn, unit=unit)
                blocks.append(figure(f'repeat-{kind}-{key}', heading, svg, said['agreement'] + cut))
            caption = said['table'].format(unit=unit) + (' ' + said['sites'] if kind == 'sites' else '')
            rows = rows.dropna(axis=1, how='all')
            blocks.append(
                grid(heading, rows, columns=_REPEATABILITY, caption=caption, folded=len(rows) > FOLD)
            )
    return section(
        'repeatability', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def _repeats_in_words(title: str, unit: str, kind: str, rows: pd.DataFrame):
    rows = rows[(rows['sdw'] > 0) & (rows['map'] != total.VOLUME)]
    if rows.empty:
        return []
    best, worst = rows.loc[rows['sdw'].idxmin()], rows.loc[rows['sdw'].idxmax()]
    answers = [
        f'{title}, {kind}: SDw {best["sdw"]:.2g} ({best["region"]}) to {worst["sdw"]:.2g} {unit} '
        f'({worst["region"]}) in {rows["n_participants"].max():.0f} participants; the smallest change of one '
        f'person that two scans can tell from error is {best["detectable"]:.2g} to '
        f'{worst["detectable"]:.2g} {unit}.'
    ]
    both = rows[rows['sd_between'].notna()] if 'sd_between' in rows else rows[:0]
    if len(both):
        answers.append(
            f'{title}: the standard deviation (median over regions) is {both["sdw"].median():.3g} {unit} '
            f'across sites and {both["sd_within"].median():.3g} {unit} within a site, so that '
            f'{both["sd_between"].median():.3g} {unit} are between sites.'
        )
    shifted = rows[(rows['bias_low'] > 0) | (rows['bias_high'] < 0)]
    if len(shifted):
        listed = ', '.join(f'{r["region"]} {signed(r["bias"])}' for r in shifted.to_dict('records'))
        answers.append(
            f'{title}: second scans differ from first ones ({listed} {unit}); of {len(rows)} regions, '
            f'{ALPHA * len(rows):.2g} would by chance.'
        )
    return answers


def slopes_section(
    table: pd.DataFrame,
    samples: pd.DataFrame,
    long: pd.DataFrame,
    *,
    statistic: str,
    notes: list[str],
    files: list[str],
) -> dict:
    """Change a year by arm, mean beside total, and sample sizes. ``long`` has the totals."""
    said, blocks, answers = words('slopes'), [], []
    arms = list(dict.fromkeys(table['arm']))
    for key, title, unit, rows in parts(table):
        if rows['map'].iloc[0] == total.VOLUME:
            continue
        compared = rows.dropna(subset=['difference'])
        answers += _slopes_in_words(title, unit, compared)
        sure = compared.loc[compared['p_fdr'] < ALPHA, 'region']
        if len(compared):  # the courses of one arm are among the changes
            drawn, cut = charted(rows, sure, PANELS)
            svg = _courses(long, drawn, arms, statistic, title, unit.removesuffix(' per year'))
            if svg:
                blocks.append(figure(f'slopes-{key}', f'{title} over time', svg, said['courses'] + cut))
            own, cut = charted_whole(compared, sure)
            own = own.assign(label=own['region'], estimate=own['difference'], n=own['n_participants'])
            by = 'arm' if own['arm'].nunique() > 1 else None
            reference = own['reference'].iloc[0]
            against = '' if by else f'{own["arm"].iloc[0]} less '
            svg = plot_forest(
                own, xlabel=f'slope of {title}, {against}{"less " if by else ""}{reference} ({unit})',
                by=by, groups=arms,
            )  # fmt: skip
            heading = f'{title}: difference of slopes from {reference}'
            blocks.append(figure(f'slopes-difference-{key}', heading, svg, said['difference'] + cut))
    more, words_of_total = total_beside_mean(table, 'arm', 'slope', per=' a year')
    blocks += more
    answers += words_of_total
    for _, title, unit, rows in parts(samples):
        sizes = _sizes(rows)
        caption = said['samples'].format(unit=unit)
        blocks.append(grid(f'{title}: sizes of trials', sizes, columns=_SIZES, caption=caption, folded=True))
        if (rows['map'] == 'chi').all():
            answers += _sizes_in_words(title, rows)
    return section(
        'slopes', question=said['question'], answers=answers, blocks=blocks, notes=notes, files=files
    )


def _courses(
    long: pd.DataFrame,
    rows: pd.DataFrame,
    arms: Sequence[str],
    statistic: str,
    title: str,
    unit: str,
):
    """Chart of all participants and the lines of arms; empty where a time is not known."""
    regions, first = list(dict.fromkeys(rows['region'])), rows.iloc[0]
    atlas = first['atlas'] if isinstance(first['atlas'], str) else ''
    long = long[long['atlas'] == atlas] if atlas and 'atlas' in long else long
    visits = describe.courses(long, first['map'], regions, statistic=statistic)
    who = long.dropna(subset=['arm']).drop_duplicates('participant_id').set_index('participant_id')['arm']
    visits = visits[visits['timed']].assign(group=visits['participant_id'].map(who))
    visits = by_region(visits[visits['group'].isin(arms)], regions)
    if visits.empty:
        return ''
    visits['y'] *= 1e3 if unit == 'ppb' else 1
    known = rows['difference'].notna()
    text = rows['difference'].map(signed) + ' ' + unit + ' per year'
    lines = rows.assign(group=rows['arm'], text=text.where(known & (rows['arm'].nunique() == 2), ''))
    return plot_slopes(visits, lines, ylabel=f'{title} ({unit})', groups=arms)


def _slopes_in_words(title: str, unit: str, rows: pd.DataFrame):
    answers = []
    for arm, one in rows.groupby('arm', sort=False):
        reference = one['reference'].iloc[0]
        sure = one[one['p_fdr'] < ALPHA].sort_values('p_fdr')
        listed = '; '.join(
            f'{r["region"]} {signed(r["difference"])} {unit} ({signed(r["ci_low"])} to '
            f'{signed(r["ci_high"])}, p (FDR) {_p(r["p_fdr"])})'
            for r in sure.to_dict('records')
        )
        found = f'change over time differs in {len(sure)} of {len(one)} regions after correction'
        answers.append(f'{title}, {arm} against {reference}: {found}{": " if len(sure) else ""}{listed}.')
    return answers


def _p(p: float):
    text = p_text(p)
    return text if text.startswith('<') else f'= {text}'


def total_beside_mean(table: pd.DataFrame, by: str, estimate: str, *, per: str = ''):
    """Tables and sentences that set the change of the mean beside that of the total; by group or arm."""
    whole = table[table['hemisphere'].fillna('both').isin(['both', ''])]
    low, high = ('ci_low', 'ci_high') if estimate == 'mean' else (f'{estimate}_low', f'{estimate}_high')
    found = total.disagreement(whole, by, estimate, low, high).rename(columns={by: 'arm'})
    if found.empty:
        return [], []
    found['group'] = found['arm']
    if (whole.loc[whole['map'] == 'chi', 'units'] == 'ppm').any():  # ppb beside ppb ml
        found[['mean', 'mean_low', 'mean_high']] *= 1e3
    answers = []
    for row in found[found['verdict'].isin(_APART)].to_dict('records'):
        of = '' if row['group'] == 'all' else f', {row["group"]}'
        answers.append(
            f'{row["region"]}{of}: {_APART[row["verdict"]]} (mean {_interval(row, "mean")} ppb{per}, total '
            f'{_interval(row, "total")} ppb ml{per}, volume {_interval(row, "volume")} ml{per}).'
        )
    shown = found.assign(
        **{
            name: [_interval(row, name) for row in found.to_dict('records')]
            for name in ('mean', 'total', 'volume')
        }
    )
    said = words('slopes')['total']
    return [grid('Mean beside total', shown, columns=_TOTAL, caption=said)], answers


def _interval(row: dict, name: str):
    if pd.isna(row[name]):
        return '–'
    return f'{signed(row[name])} ({signed(row[f"{name}_low"])} to {signed(row[f"{name}_high"])})'


def _sizes(rows: pd.DataFrame):
    """Sample sizes with both powers in one row."""
    rows = rows.assign(
        what=[
            f'{100 * effect:.0f} % of {of}'
            for effect, of in zip(rows['effect'], rows['effect_of'], strict=True)
        ]
    )
    text = [
        '–' if pd.isna(n) else f'{n:.0f} ({_whole(low)} to {_whole(high)})'
        for n, low, high in zip(rows['n_per_arm'], rows['n_low'], rows['n_high'], strict=True)
    ]
    rows = rows.assign(text=text)
    keys = ['region', 'design', 'what']
    at90 = rows[rows['power'] == 0.9].set_index(keys)['text']
    found = rows[rows['power'] == 0.8].set_index(keys)
    return found.assign(at80=found['text'], at90=at90).reset_index()


def _whole(n: float):
    return '–' if pd.isna(n) else f'{n:.0f}'


def _sizes_in_words(title: str, rows: pd.DataFrame):
    own = rows[(rows['effect'] == 0.25) & (rows['power'] == 0.8) & (rows['design'] == 'change')]
    answers = []
    for of, what in (('level', 'takes away 25 % of the level'), ('change', 'prevents 25 % of the change')):
        known = own[own['effect_of'] == of].dropna(subset=['n_per_arm'])
        listed = ', '.join(
            f'{r["region"]} {r["n_per_arm"]:.0f} ({_whole(r["n_low"])} to {_whole(r["n_high"])})'
            for r in known.head(6).to_dict('records')
        )
        if listed:
            answers.append(
                f'{title}: participants per arm to show, with power 80 %, that a treatment {what} in '
                f'{known["years"].iloc[0]:.2g} years: {listed}.'
            )
    return answers
