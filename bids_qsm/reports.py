"""One self-contained HTML page a subject and one a cohort, made of what a run left in the output dataset."""

import re
from pathlib import Path

import pandas as pd
import yaml

from bids_qsm.charts import COHORT_REGIONS, MAP_NAMES, plot_distributions
from bids_qsm.citations import cite, methods_text
from bids_qsm.cohort import tables as cohort
from bids_qsm.derivatives import atomic_write, write_json
from bids_qsm.errors import UserError
from bids_qsm.pages import data_uri, entities_of, natural, packaged, read_json, read_table, render

__all__ = ['build_cohort_report', 'build_subject_report', 'collect_tables', 'methods_text']

_LOW_COVERAGE = 0.9
_LEVELS = ('error', 'warning')


def build_subject_report(output_dir, subject: str) -> Path:
    """Write the page of a subject from its figures, findings and tables, and the record of the run.

    Everything is embedded, so that the page can be read offline and sent on its own. A subject that
    failed gets a page too, with its failures first.

    Parameters
    ----------
    output_dir
        Output dataset with, in ``sub-<label>``, ``figures/<series>_desc-<kind>_<suffix>.{png,svg}``,
        ``figures/<series>_desc-findings.json`` and ``**/*_stats.tsv``, and ``logs/run.json``.
    subject
        Label, with or without ``sub-``.

    Returns
    -------
    ``output_dir/sub-<label>.html``
    """
    out, label = Path(output_dir), 'sub-' + str(subject).removeprefix('sub-')
    run = read_json(out / 'logs' / 'run.json', {})
    layout = yaml.safe_load(packaged('report.yml'))
    figures = _figures(out / label / 'figures')
    of_subject = {entry['kind'] for entry in layout['subject']}
    findings = {f['series']: f for f in _findings(out / label / 'figures')}
    names = {name for name, kind in figures if kind not in of_subject} | set(findings)
    series = []
    for name in sorted(names, key=natural):
        own = {kind: path for (n, kind), path in figures.items() if n == name and kind not in of_subject}
        series.append(
            {
                'name': name,
                'id': f'series-{name}',
                'figures': _reportlets(own, layout['series'], name),
                'facts': findings[name]['facts'] if name in findings else {},
                'findings': findings[name]['findings'] if name in findings else [],
                'tables': [],
            }
        )
    _attach_tables(series, sorted((out / label).rglob('*_stats.tsv')))
    anatomy = [
        figure
        for name in sorted({n for n, kind in figures if kind in of_subject}, key=natural)
        for figure in _reportlets(
            {kind: path for (n, kind), path in figures.items() if n == name and kind in of_subject},
            layout['subject'],
            name,
        )
    ]
    failures = [f for f in run.get('failures', []) if f['subject'].removeprefix('sub-') == label[4:]]
    alerts = _failure_alerts(failures) + _finding_alerts(series)
    methods, references = cite(run.get('methods', []))
    shown = [part for part in series if part['figures'] or part['tables']]
    contents = [
        {'id': 'attention', 'title': f'Needs attention ({len(alerts)})' if alerts else 'Needs attention'},
        {'id': 'summary', 'title': 'What was found and corrected'},
        *([{'id': 'anatomy', 'title': 'Anatomy', 'children': anatomy}] if anatomy else []),
        *({'id': p['id'], 'title': p['name'], 'children': _children(p)} for p in shown),
        {'id': 'methods', 'title': 'Methods'},
        {'id': 'run', 'title': 'Versions and command'},
    ]
    return render(
        'report.html', out / f'{label}.html',
        title=label, run=run, alerts=alerts, series=series, anatomy=anatomy, contents=contents,
        methods=methods, references=references,
    )  # fmt: skip


def collect_tables(output_dir, participants_tsv=None) -> Path:
    """Write one long table over all series of the dataset, and its data dictionary beside it.

    Parameters
    ----------
    output_dir
        Output dataset with ``sub-*/**/*_stats.tsv``.
    participants_tsv
        Joined by participant_id where the file exists; a participants.json beside it describes its columns.

    Returns
    -------
    ``output_dir/group_stats.tsv``; what did not match stands in ``logs/group.json``.

    Raises
    ------
    UserError
        No table was found.
    """
    out = Path(output_dir)
    paths = sorted(out.glob('sub-*/**/*_stats.tsv'))
    if not paths:
        raise UserError(
            f'{out} has no tables of regions (sub-*/**/*_stats.tsv); run the participant level first.'
        )
    participants, described = None, {}
    if participants_tsv is not None and Path(participants_tsv).exists():
        participants = read_table(participants_tsv, dtype={'participant_id': str, 'group': str})
        described = read_json(Path(participants_tsv).with_suffix('.json'), {})
    long, notes = cohort.join_participants(
        cohort.gather((entities_of(path.name), read_table(path)) for path in paths), participants
    )
    columns = read_json(paths[0].with_suffix('.json'), {})
    columns = {key: value for key, value in columns.items() if isinstance(value, dict)}
    write_json(out / 'group_stats.json', cohort.dictionary(long.columns, columns, described))
    write_json(out / 'logs' / 'group.json', {'tables': len(paths), 'notes': notes})
    return atomic_write(
        out / 'group_stats.tsv', lambda path: long.to_csv(path, sep='\t', index=False, na_rep='n/a')
    )


def build_cohort_report(output_dir) -> Path:
    """Write the page of the cohort from the long table, the findings of all series and the record of the run.

    Returns
    -------
    ``output_dir/group.html``

    Raises
    ------
    UserError
        There is no ``group_stats.tsv`` yet (see `collect_tables`).
    """
    out = Path(output_dir)
    if not (out / 'group_stats.tsv').exists():
        raise UserError(f'{out} has no group_stats.tsv; run the group level to write it.')
    text = dict.fromkeys((*cohort.ENTITY_COLUMNS.values(), 'group', 'participant_group'), str)
    long = read_table(out / 'group_stats.tsv', dtype=text)
    run = read_json(out / 'logs' / 'run.json', {})
    notes = read_json(out / 'logs' / 'group.json', {}).get('notes', [])
    findings = sorted(
        (f for directory in out.glob('sub-*/figures') for f in _findings(directory)),
        key=lambda f: natural(f['series']),
    )
    alerts = _failure_alerts(run.get('failures', []))
    alerts += [{'level': 'warning', 'where': 'Table', 'what': note, 'more': ''} for note in notes]
    group = cohort.group_column(long)
    regions = [r for r in COHORT_REGIONS if r in set(long['region'])]
    figures = []
    for name in (m for m in MAP_NAMES if m in set(long['map'])):
        title = f'{MAP_NAMES[name]} by region' + (' and group' if group else '')
        figures.append(
            {
                'id': f'map-{name}',
                'title': title,
                'alt': f'{title}: box and points of the regional means of all series.',
                'caption': 'Each point is the mean of a region (both sides) in one series; boxes show the '
                'quartiles where there are four series or more.',
                'src': data_uri(plot_distributions(long, map_name=name, group=group).encode(), '.svg'),
                'table': _summary(cohort.summary(long, regions, map_name=name), 3 if name == 'chi' else 1),
            }
        )
    contents = [
        {'id': 'attention', 'title': f'Needs attention ({len(alerts)})' if alerts else 'Needs attention'},
        {'id': 'counts', 'title': 'Participants'},
        {'id': 'distributions', 'title': 'Distributions', 'children': figures},
        {'id': 'quality', 'title': 'Quality'},
        {'id': 'run', 'title': 'Versions and command'},
    ]
    return render(
        'cohort.html', out / 'group.html',
        title='Cohort', run=run, alerts=alerts, contents=contents, figures=figures,
        counts=_grid(cohort.counts(long)), quality=_quality(long, findings),
    )  # fmt: skip


def _figures(directory):
    """(series, kind) -> path of a figure; charts and flickers are SVG, mosaics PNG."""
    found = {}
    for path in sorted(directory.glob('*_desc-*')):
        match = re.fullmatch(r'(.+)_desc-([a-zA-Z0-9]+)(?:_\w+)?\.(png|svg)', path.name)
        if match:
            found[match.group(1), match.group(2)] = path
    return found


def _findings(directory):
    """Facts and findings of each series; what a finding leaves out is empty."""
    found = []
    for path in sorted(directory.glob('*_desc-findings.json')):
        content = read_json(path, {})
        blank = {'what': '', 'found': '', 'action': '', 'evidence': '', 'level': 'info'}
        found.append(
            {
                'series': path.name.removesuffix('_desc-findings.json'),
                'facts': content.get('facts', {}),
                'findings': [{**blank, **finding} for finding in content.get('findings', [])],
            }
        )
    return found


def _reportlets(figures, entries, name):
    known = [entry for entry in entries if entry['kind'] in figures]
    listed = {entry['kind'] for entry in entries}
    others = [{'kind': k, 'title': k, 'caption': ''} for k in sorted(figures) if k not in listed]
    return [
        {
            'id': f'{name}-{entry["kind"]}',
            'title': entry['title'],
            'caption': entry['caption'],
            'alt': f'{entry["title"]} of {name}. {entry["caption"]}',
            'src': data_uri(figures[entry['kind']].read_bytes(), figures[entry['kind']].suffix),
            'chart': entry['kind'] == 'regions',
        }
        for entry in known + others
    ]


def _children(part):
    tables = [{'id': table['id'], 'title': 'Table of regions'} for table in part['tables']]
    return part['figures'] + tables


def _attach_tables(series, paths):
    """Give each table to the series whose entities it has; where several fit, to the one that has most."""
    for path in paths:
        entities = entities_of(path.name).items()
        fitting = [part for part in series if entities_of(part['name']).items() <= entities]
        if fitting:
            part = max(fitting, key=lambda p: len(entities_of(p['name'])))
        else:
            name = path.name.removesuffix('_stats.tsv')
            part = {'name': name, 'id': f'series-{name}', 'figures': [], 'facts': {}, 'findings': []}
            part['tables'] = []
            series.append(part)
        part['tables'].append(_region_table(read_table(path), path.name))


def _region_table(table, name):
    """Rows of regions; columns of maps and sides, mean and standard deviation as text."""
    maps = [m for m in MAP_NAMES if m in set(table['map'])]
    sides = [s for s in ('L', 'R', 'both') if s in set(table['hemisphere'])]
    sides += sorted(set(table['hemisphere'].dropna()) - set(sides))
    rows = []
    for region, part in table.groupby('region', sort=False):
        cells = []
        for m in maps:
            digits = 3 if m == 'chi' else 1
            for side in sides:
                found = part[(part['map'] == m) & (part['hemisphere'] == side)]
                value = found.iloc[0] if len(found) else None
                missing = value is None or pd.isna(value['mean'])
                cells.append('–' if missing else f'{value["mean"]:.{digits}f} ± {value["sd"]:.{digits}f}')
        first = part[part['map'] == maps[0]] if maps else part
        whole = first[first['hemisphere'] == 'both']
        volume = whole['volume_mm3'].max() if len(whole) else first['volume_mm3'].sum()
        coverage = pd.to_numeric(first['coverage'], errors='coerce').min()
        rows.append(
            {
                'region': region,
                'cells': cells,
                'volume': '–' if pd.isna(volume) else f'{volume:.0f}',
                'coverage': '–' if pd.isna(coverage) else f'{100 * coverage:.0f} %',
                'low': bool(coverage < _LOW_COVERAGE),
            }
        )
    units = {m: _first(table.loc[table['map'] == m, 'units']) for m in maps}
    reference = _first(table.loc[table['map'] == 'chi', 'reference'])
    return {
        'id': f'table-{name}',
        'file': name,
        'maps': [f'{MAP_NAMES[m]} ({units[m]})' for m in maps],
        'sides': sides,
        'rows': rows,
        'note': f'Reference of χ: {reference}.' if reference else '',
    }


def _first(values):
    values = values.dropna()
    return str(values.iloc[0]) if len(values) else ''


def _failure_alerts(failures):
    return [
        {
            'level': 'error',
            'where': f'{failure.get("series") or failure["subject"] or "The run"} failed',
            'what': failure['message'],
            'more': f'Step: {failure["node"]}' if failure.get('node') else '',
        }
        for failure in failures
    ]


def _finding_alerts(series):
    return [
        {
            'level': finding['level'],
            'where': f'{part["name"]}, {finding["what"]}',
            'what': finding['found'],
            'more': '; '.join(filter(None, (finding['action'], finding['evidence']))),
        }
        for level in _LEVELS
        for part in series
        for finding in part['findings']
        if finding['level'] == level
    ] + [
        {
            'level': 'warning',
            'where': f'{part["name"]}, coverage',
            'what': 'less than 90 % inside the mask and the field of view: '
            + ', '.join(f'{row["region"]} ({row["coverage"]})' for row in table['rows'] if row['low'])
            + '.',
            'more': 'Their values speak for the part that was measured.',
        }
        for part in series
        for table in part['tables']
        if any(row['low'] for row in table['rows'])
    ]


def _quality(long, findings):
    """One row a series: its facts, the region that lies least inside the mask, and its warnings."""
    names = cohort.series_columns(long)
    worst = {
        frozenset((c, str(row[c])) for c in names if pd.notna(row[c])): row
        for row in cohort.lowest_coverage(long).to_dict('records')
    }
    rows = []
    for found in findings:
        row = worst.get(frozenset(cohort.named(entities_of(found['series'])).items()))
        lowest = f'{100 * row["coverage"]:.0f} % ({row["region"]} {row["hemisphere"]})' if row else '–'
        warnings = [f['found'] for f in found['findings'] if f['level'] in _LEVELS]
        rows.append(
            {
                'series': {'text': found['series'], 'href': f'{found["series"].partition("_")[0]}.html'},
                **found['facts'],
                'lowest coverage': lowest,
                'warnings': '; '.join(warnings) or 'none',
            }
        )
    facts = list(dict.fromkeys(k for f in findings for k in f['facts']))
    columns = ['series', *facts, 'lowest coverage', 'warnings']
    return {'columns': columns, 'numeric': [], 'rows': [{c: r.get(c, '–') for c in columns} for r in rows]}


def _summary(table, digits):
    """Regions by groups: mean and standard deviation over series, and how many series."""
    groups = list(dict.fromkeys(table['group']))
    columns = {group: f'{group}: mean ± sd (series)' for group in groups}
    rows = {region: dict.fromkeys(['region', *columns.values()], '–') for region in table['region']}
    for row in table.to_dict('records'):
        spread = '' if pd.isna(row['sd']) else f' ± {row["sd"]:.{digits}f}'
        text = f'{row["mean"]:.{digits}f}{spread} ({row["series"]})' if row['series'] else '–'
        rows[row['region']] |= {'region': row['region'], columns[row['group']]: text}
    names = list(columns.values())
    return {'columns': ['region', *names], 'numeric': names, 'rows': list(rows.values())}


def _grid(table):
    numeric = [c for c in table if pd.api.types.is_numeric_dtype(table[c])]
    return {'columns': list(table), 'numeric': numeric, 'rows': table.to_dict('records')}
