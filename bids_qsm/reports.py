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
from bids_qsm.pages import data_uri, entities_of, natural, packaged, read_json, read_runs, read_table, render

__all__ = ['build_cohort_report', 'build_subject_report', 'collect_tables', 'methods_text']

_LOW_COVERAGE = 0.9
_LEVELS = ('error', 'warning')
_UNSETTLED = 'The data do not settle it'


def build_subject_report(output_dir, subject: str) -> Path:
    """Write the page of a subject from its figures, findings and tables, and the record of the run.

    Everything is embedded, so that the page can be read offline and sent on its own. A subject that
    failed gets a page too, with its failures first.

    Parameters
    ----------
    output_dir
        Output dataset with, in ``sub-<label>``, ``figures/<series>_desc-<kind>_<suffix>.{png,svg}``,
        ``figures/<series>_desc-findings.json`` and ``**/*_stats.tsv``, and ``logs/sub-<label>.json``.
    subject
        Label, with or without ``sub-``.

    Returns
    -------
    ``output_dir/sub-<label>.html``
    """
    out, label = Path(output_dir), 'sub-' + str(subject).removeprefix('sub-')
    run = read_json(out / 'logs' / f'{label}.json', {})
    layout = yaml.safe_load(packaged('report.yml'))
    figures = _figures(out / label / 'figures')
    findings = {f['series']: f for f in _findings(out / label / 'figures')}
    of_anatomy = {key: path for key, path in figures.items() if _of_subject(*key, layout, findings)}
    names = {name for name, kind in figures if (name, kind) not in of_anatomy} | set(findings)
    series = []
    for name in sorted(names, key=natural):
        own = {key[1]: path for key, path in figures.items() if key[0] == name and key not in of_anatomy}
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
        for kind in dict.fromkeys([*(e['kind'] for e in layout['subject']), *(k for _, k in of_anatomy)])
        for name in sorted({n for n, k in of_anatomy if k == kind}, key=natural)
        for figure in _reportlets({kind: of_anatomy[name, kind]}, layout['subject'], name)
    ]
    alerts = _failure_alerts(run.get('failures', [])) + _finding_alerts(series)
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
    """Write the page of the cohort from the long table, the findings of all series and the records of runs.

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
    run = read_runs(out)
    notes = read_json(out / 'logs' / 'group.json', {}).get('notes', [])
    findings = sorted(
        (f for directory in out.glob('sub-*/figures') for f in _findings(directory)),
        key=lambda f: natural(f['series']),
    )
    alerts = _failure_alerts(run.get('failures', []))
    alerts += [{'level': 'warning', 'where': 'Table', 'what': note, 'more': ''} for note in notes]
    alerts += _reference_alerts(long) + _common_alerts(findings)
    group = cohort.group_column(long)
    figures = []
    for atlas, name, rows in (
        (atlas, m, rows) for atlas, rows in cohort.by_atlas(long) for m in MAP_NAMES if m in set(rows['map'])
    ):
        regions = [r for r in COHORT_REGIONS if r in set(rows['region'])]
        title = f'{MAP_NAMES[name]} by region' + (' and group' if group else '') + _of_atlas(atlas)
        table = cohort.summary(rows, regions, map_name=name)
        figures.append(
            {
                'id': '-'.join(filter(None, ('map', name, atlas))),
                'title': title,
                'alt': f'{title}: box and points of the regional means of all series.',
                'caption': 'Each point is the mean of a region (both sides) in one series; boxes show the '
                'quartiles where there are four series or more.',
                'src': data_uri(plot_distributions(rows, map_name=name, group=group).encode(), '.svg'),
                'table': _summary(table, 3 if name == 'chi' else 1),
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


def _of_subject(name, kind, layout, findings):
    """Whether a figure shows the anatomy of the subject rather than one series."""
    if kind in {entry['kind'] for entry in layout['subject']}:
        return True
    # the one series of a subject may be named like the subject
    listed = kind in {entry['kind'] for entry in layout['series']} or name in findings
    return not listed and re.fullmatch('sub-[^_]+(_space-[^_]+)?', name) is not None


def _findings(directory):
    """Facts and findings of each series; what a finding leaves out is empty, what is unsettled a warning."""
    found = []
    for path in sorted(directory.glob('*_desc-findings.json')):
        content = read_json(path, {})
        blank = {'what': '', 'found': '', 'action': '', 'evidence': '', 'level': 'info'}
        found.append(
            {
                'series': path.name.removesuffix('_desc-findings.json'),
                'facts': content.get('facts', {}),
                'findings': [_weighed({**blank, **finding}) for finding in content.get('findings', [])],
            }
        )
    return found


def _weighed(finding):
    unsettled = any(finding[key].startswith(_UNSETTLED) for key in ('found', 'evidence'))
    return {**finding, 'level': 'warning'} if unsettled and finding['level'] not in _LEVELS else finding


def _reportlets(figures, entries, name):
    known = [entry for entry in entries if entry['kind'] in figures]
    listed = {entry['kind'] for entry in entries}
    others = [{'kind': k, 'title': k, 'caption': ''} for k in sorted(figures) if k not in listed]
    space = entities_of(name).get('space')
    of_space = f' ({space})' if space else ''
    return [
        {
            'id': f'{name}-{entry["kind"]}',
            'title': entry['title'] + of_space,
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


def _reference_alerts(long):
    """A warning for each atlas under which susceptibilities with different zeros stand."""
    alerts = []
    for atlas, rows in cohort.by_atlas(long):
        counts = cohort.references(rows)
        if len(counts) > 1:
            used = ', '.join(f'{name} ({n} series)' for name, n in counts.items())
            alerts.append(
                {
                    'level': 'warning',
                    'where': f'Reference of χ{_of_atlas(atlas)}',
                    'what': f'the series do not have the same zero: {used}.',
                    'more': 'Their values stand in one distribution, but are not comparable as they are.',
                }
            )
    return alerts


def _common_alerts(findings):
    """One alert for each check that warned, naming the series."""
    warned = {}
    for series in findings:
        for finding in series['findings']:
            if finding['level'] in _LEVELS:
                key = _LEVELS.index(finding['level']), finding['what']
                warned.setdefault(key, {})[series['series']] = None
    return [
        {
            'level': _LEVELS[level],
            'where': what,
            'what': f'{len(names)} of {len(findings)} series: {", ".join(names)}.',
            'more': 'What was found stands under Quality and on the page of the subject.',
        }
        for (level, what), names in sorted(warned.items())
    ]


def _of_atlas(atlas):
    return f', atlas {atlas}' if atlas else ''


def _quality(long, findings):
    """One row a series: its facts, the regions that lie least inside the mask, and its warnings."""
    names = cohort.series_columns(long)
    lowest_of, worst = cohort.lowest_coverage(long), {}
    several = lowest_of['atlas'].nunique() > 1
    for row in lowest_of.to_dict('records'):
        series = frozenset((c, str(row[c])) for c in names if pd.notna(row[c]))
        where = f'{row["region"]} {row["hemisphere"]}{_of_atlas(row["atlas"] if several else "")}'
        worst.setdefault(series, []).append(f'{100 * row["coverage"]:.0f} % ({where})')
    rows = []
    for found in findings:
        lowest = worst.get(frozenset(cohort.named(entities_of(found['series'])).items()), ['–'])
        warnings = [f'{f["what"]}: {f["found"]}' for f in found['findings'] if f['level'] in _LEVELS]
        rows.append(
            {
                'series': {'text': found['series'], 'href': f'{found["series"].partition("_")[0]}.html'},
                **found['facts'],
                'lowest coverage': '; '.join(lowest),
                'warnings': '; '.join(warnings) or 'none',
            }
        )
    facts = list(dict.fromkeys(k for f in findings for k in f['facts']))
    values = {k: [f['facts'].get(k, '–') for f in findings] for k in facts}
    same = {k: v[0] for k, v in values.items() if all(other == v[0] for other in v)}
    columns = ['series', *(k for k in facts if k not in same), 'lowest coverage', 'warnings']
    rows = [{c: r.get(c, '–') for c in columns} for r in rows]
    return {'columns': columns, 'numeric': [], 'rows': rows, 'same': same}


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
