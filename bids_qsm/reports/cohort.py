"""The HTML report of a cohort, from the output of the runs and of the group level."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from bids_qsm.applications import applications
from bids_qsm.cohort import describe
from bids_qsm.cohort import tables as cohort
from bids_qsm.cohort.observations import as_text
from bids_qsm.cohort.total import add_total
from bids_qsm.derivatives.products import SYMBOLS
from bids_qsm.derivatives.tables import read_parquet, read_table
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.plotting.region_charts import COHORT_REGIONS, only, plot_distributions
from bids_qsm.reports.blocks import cell, charted, figure, grid, in_order, section
from bids_qsm.reports.classification_section import classification_section
from bids_qsm.reports.cohort_sections import (
    application_section,
    change_section,
    correlation_section,
    model_section,
    normative_section,
)
from bids_qsm.reports.html import (
    LEVELS,
    alert,
    damage_alerts,
    failure_alerts,
    natural,
    read_findings,
    read_json,
    read_runs,
    render,
)
from bids_qsm.reports.pattern_section import patterns_section, published_section
from bids_qsm.reports.points import distribution_points
from bids_qsm.reports.site_section import sites_section
from bids_qsm.reports.stage_section import stages_section
from bids_qsm.reports.trial_sections import repeatability_section, slopes_section

RECORD = 'logs/group.json'
"""Options, files and notes of the group level, in the output dataset."""

_MOST_ANSWERS = 6
_FOLD = 40  # rows of a table that is shown when asked for
_TEXT = (*cohort.ENTITY_COLUMNS.values(), 'group', 'participant_group', 'source', 'reason', 'note', 'level')
_TEXT += ('session_from', 'session_to', 'arm', 'reference', 'direction', 'label', 'pattern', 'choice')
_DISTRIBUTION = (
    'Each point is {statistic} of a region (both sides) in one series; boxes show the quartiles of four '
    'series or more. Table: mean ± standard deviation over series (number of series).'
)


def build_cohort_report(output_dir: str | Path, *, pictures: Sequence[dict] = ()) -> Path:
    """Write the report of the cohort from the tables of the group level, the findings and the run records.

    Parameters
    ----------
    output_dir
        Output dataset with ``group_regions.tsv`` and ``logs/group.json`` (see `bids_qsm.group.analyse`).
    pictures : sequence of dict
        Sections of images: title, figures (pairs of caption and bytes of a PNG or SVG file), tables (pairs of
        caption and DataFrame), notes.

    Returns
    -------
    ``output_dir/group.html``

    Raises
    ------
    UserError
        There is no ``group_regions.tsv`` yet.
    """
    out = Path(output_dir)
    if not (out / 'group_regions.tsv').exists():
        raise UserError(f'{out} has no group_regions.tsv; run the group level to write it.')
    long = _read(out / 'group_regions.tsv')
    record = {'asked': {}, 'notes': {}, 'files': {}, 'methods': [], **read_json(out / RECORD, {})}
    asked = {'statistic': 'mean', 'correlate': [], 'covariates': [], **record['asked']}
    if asked.get('relative_to'):
        long, _ = cohort.relative_to(long, asked['relative_to'])
    long = cohort.of_statistic(long, asked['statistic'])
    damage: list[str] = []
    run = {**read_runs(out, damage), **record.get('run', {})}
    findings = sorted(
        (f for directory in out.glob('sub-*/figures') for f in read_findings(directory, damage)),
        key=lambda f: natural(f['series']),
    )
    alerts = failure_alerts(run.get('failures', [])) + damage_alerts(out, damage)
    alerts += [alert('warning', 'Table', note) for note in record['notes'].get('tables', [])]
    alerts += [alert('warning', 'Classifier', note) for note in record['notes'].get('leaks', [])]
    alerts += _reference_alerts(long) + _common_alerts(findings)
    alerts += [alert('info', 'Sessions', note) for note in record['notes'].get('sessions', [])]
    pressing = sum(one['level'] in LEVELS for one in alerts)
    group = cohort.group_column(long)
    pages = {path.stem for path in out.glob('sub-*.html')}
    distributions = _distributions(long, group, asked['statistic'], pages)
    sections = _sections(out, record, asked, long, group) + _picture_sections(pictures)
    quality, same = _quality(long, findings)
    contents = [
        {'id': 'attention', 'title': 'Needs attention' + (f' ({pressing})' if pressing else '')},
        {'id': 'short', 'title': 'In short'},
        {'id': 'counts', 'title': 'Participants'},
        {
            'id': 'distributions',
            'title': 'Distributions',
            'children': [part for part in distributions if part['kind'] == 'figure'],
        },
        *sections,
        {'id': 'quality', 'title': 'Quality'},
        {'id': 'run', 'title': 'Versions and command'},
    ]
    return render(
        'cohort.html', out / 'group.html',
        title='Cohort', run=run, alerts=alerts, contents=contents, asked=_asked(asked), sections=sections,
        counts=grid('', cohort.counts(long))['table'], characteristics=_characteristics(long, asked),
        distributions=distributions, quality=quality, same=same, most_answers=_MOST_ANSWERS,
        scripts=['cohort.js'],
    )  # fmt: skip


def _read(path: Path):
    if not path.with_suffix('.parquet').exists() or not find_spec('pyarrow'):
        return read_table(path, dtype=dict.fromkeys(_TEXT, str))
    table = read_parquet(path.with_suffix('.parquet'))
    texts = [c for c in _TEXT if c in table and pd.api.types.is_numeric_dtype(table[c])]
    return table.assign(**{c: as_text(table[c]) for c in texts})


def _asked(asked: dict):
    """Options of the group level, as labels and values."""
    labels = {
        'Model': asked.get('model'),
        'Correlations': ', '.join(asked['correlate']),
        'Classifier': asked.get('classify'),
        'Controls': asked.get('controls'),
        'Stages': asked.get('stages'),
        'Sites harmonised': asked.get('harmonise'),
        'Norms': asked.get('norms') if asked.get('norms') != 'own' else None,
        'Patterns': asked.get('patterns'),
        'Value of a region': asked['statistic'],
        'χ relative to': asked.get('relative_to'),
    }
    return {label: value for label, value in labels.items() if value}


def _characteristics(long: pd.DataFrame, asked: dict):
    """Age and the other columns that the analyses use, by group."""
    columns = dict.fromkeys(['age', 'sex', *asked.get('columns', [])])
    table = describe.characteristics(long, columns)
    if table.empty:
        return []
    rows = []
    for row in table.sort_values('column', key=lambda c: c.map(list(columns).index)).to_dict('records'):
        mean, sd, lowest, highest = (cell('', row[key]) for key in ('mean', 'sd', 'lowest', 'highest'))
        known = pd.notna(row['mean'])
        rows.append(
            {
                **{key: row[key] for key in ('column', 'group', 'n')},
                'mean ± sd': f'{mean} ± {sd}' if known else '–',
                'range': f'{lowest} to {highest}' if known else '–',
                'counts': row['levels'],
            }
        )
    caption = 'Each participant counts once, by the first series.'
    return [grid('Who they are', pd.DataFrame(rows), caption=caption)]


def _distributions(long: pd.DataFrame, group: str | None, statistic: str, pages: set[str]):
    blocks = []
    # maps of regions before counts of lesions, which have no atlas
    for atlas, all_maps in sorted(cohort.by_atlas(long), key=lambda one: not one[0]):
        there = dict.fromkeys([*SYMBOLS, *sorted(set(all_maps['map']))])
        for name in (m for m in there if m in set(all_maps['map'])):
            rows = all_maps[all_maps['map'] == name]
            regions = in_order(rows['region'])
            known = [r for r in COHORT_REGIONS if r in regions]
            drawn, cut = charted(rows, known, len(known)) if known else charted(rows)
            shown = in_order(drawn['region'])
            symbol = SYMBOLS.get(name, name)
            title = f'{symbol} by region' + (' and group' if group else '') + _of_atlas(atlas)
            drawn_as = {'map_name': name, 'symbol': symbol, 'group': group, 'statistic': statistic}
            svg = plot_distributions(rows, regions=shown, **drawn_as)
            key = '-'.join(filter(None, ('map', name, atlas)))
            caption = _DISTRIBUTION.format(statistic=f'the {statistic}') + cut
            points = distribution_points(rows, regions=shown, pages=pages, **drawn_as)
            blocks.append({**figure(key, title, svg, caption), 'points': points})
            table = cohort.summary(rows.assign(mean=rows[statistic]), regions, map_name=name)
            frame = _summary(table, 3 if only(rows, 'units') == 'ppm' else 1)
            blocks.append(grid('', frame, folded=len(frame) > _FOLD))
    return blocks


def _sections(out: Path, record: dict, asked: dict, long: pd.DataFrame, group: str | None):
    """One section for each analysis in the record."""
    files, notes = record['files'], record['notes']

    def read(kind: str):
        return _read(out / files[kind]) if kind in files else pd.DataFrame()

    def named(*kinds: str):
        return {'notes': notes.get(kinds[0], []), 'files': [files[kind] for kind in kinds if kind in files]}

    people = long.drop_duplicates('participant_id').set_index('participant_id')
    groups = people[group].dropna().to_dict() if group else dict.fromkeys(people.index, 'all')
    sections, measured = [], long
    if 'sites' in files:
        long = read('harmonised')
        of_sites = {'site': asked['harmonise'], 'statistic': asked['statistic']}
        sections.append(sites_section(read('sites'), long, **of_sites, **named('sites', 'harmonised')))
    if 'model' in files:
        sections.append(
            model_section(read('model'), read('residuals'), asked['model'], **named('model', 'residuals'))
        )
    if 'correlation' in files:
        sections.append(
            correlation_section(
                read('correlation'),
                read('difference'),
                long,
                asked=[tuple(pair.rpartition(':')[::2]) for pair in asked['correlate']],
                covariates=asked['covariates'],
                statistic=asked['statistic'],
                groups=groups,
                **named('correlation', 'difference'),
            )
        )
    if 'stages' in files:
        both = read('stages'), read('stage_constants')
        sections.append(stages_section(*both, asked['stages'], **named('stages', 'stage_constants')))
    whole, of = add_total(long), {'statistic': asked['statistic']}
    if 'repeatability' in files:
        repeated = add_total(measured)
        sections.append(
            repeatability_section(
                read('repeatability'),
                repeated,
                site=asked.get('site') or '',
                **of,
                **named('repeatability'),
            )
        )
    if 'change' in files:
        tables = read('change'), read('change_summary')
        more = {**of, **named('change', 'change_summary'), 'with_total': 'slopes' not in files}
        sections.append(change_section(*tables, whole, groups, **more))
    if 'slopes' in files:
        tables = read('slopes'), read('samples')
        sections.append(slopes_section(*tables, whole, **of, **named('slopes', 'samples')))
    if 'normative' in files:
        sections.append(normative_section(read('normative'), groups, **named('normative')))
    if 'published' in files:
        sections.append(published_section(read('published'), groups, **named('published')))
    if 'patterns' in files:
        both = read('patterns'), read('pattern_means')
        sections.append(patterns_section(*both, **named('patterns', 'pattern_means')))
    if 'classification' in files:
        kinds = [kind for kind in files if kind.startswith('classification')]
        sections.append(
            classification_section(
                *(read(f'classification{part}') for part in ('', '_coefficients', '_curves')),
                formula=asked['classify'],
                methods=record['methods'],
                **named(*kinds),
            )
        )
    for app in applications():
        for key, table in ((app.key(one), one) for one in app.tables_of_events):
            if key in files:
                sections.append(application_section(app, table, read(key), **named(key)))
    done = {part['id'] for part in sections} | {'tables', 'sessions', 'leaks'}
    # analyses that failed are listed too
    return sections + [
        section(key, question='This could not be done.', notes=said)
        for key, said in notes.items()
        if key not in done and said
    ]


def _picture_sections(pictures: Sequence[dict]):
    sections = []
    for number, part in enumerate(pictures):
        key, title, several = f'images-{number}', part['title'], len(part['figures']) > 1
        figures = [
            figure(f'{key}-{i}', f'{title} ({i + 1})' if several else title, content, caption)
            for i, (caption, content) in enumerate(part['figures'])
        ]
        tables = [grid(caption, table, folded=len(table) > 15) for caption, table in part['tables']]
        sections.append(section(key, title=title, blocks=figures + tables, notes=part['notes']))
    return sections


def _reference_alerts(long: pd.DataFrame):
    """A warning for each atlas whose series have different reference regions."""
    alerts = []
    for atlas, rows in cohort.by_atlas(long):
        counts = cohort.references(rows)
        if len(counts) > 1:
            used = ', '.join(f'{name} ({n} series)' for name, n in counts.items())
            what = f'the series do not have the same zero: {used}.'
            more = 'Their values cannot be compared directly; --relative-to gives them one zero.'
            alerts.append(alert('warning', f'Reference of χ{_of_atlas(atlas)}', what, more))
    return alerts


def _common_alerts(findings: list[dict]):
    """One alert for each check that raised a warning, with the series concerned."""
    warned = {}
    for series in findings:
        for finding in series['findings']:
            if finding['level'] in LEVELS:
                key = LEVELS.index(finding['level']), finding['what']
                warned.setdefault(key, {})[series['series']] = None
    alerts = []
    for (level, what), names in sorted(warned.items()):
        listed = ', '.join(list(names)[:12]) + (f' and {len(names) - 12} more' if len(names) > 12 else '')
        said = f'{len(names)} of {len(findings)} series: {listed}.'
        alerts.append(alert(LEVELS[level], what, said, 'Details: Quality, and the page of the subject.'))
    return alerts


def _of_atlas(atlas: str):
    return f', atlas {atlas}' if atlas else ''


def _quality(long: pd.DataFrame, findings: list[dict]):
    """A table with one row a series (facts, lowest coverage, warnings), and facts common to all series."""
    names = cohort.series_columns(long)
    lowest_of, worst = cohort.lowest_coverage(long), {}
    several = lowest_of['atlas'].nunique() > 1
    for row in lowest_of.to_dict('records'):
        series = frozenset((c, str(row[c])) for c in names if pd.notna(row[c]))
        where = f'{row["region"]} {row["hemisphere"]}{_of_atlas(row["atlas"] if several else "")}'
        worst.setdefault(series, []).append(f'{100 * row["coverage"]:.0f} % ({where})')
    facts = list(dict.fromkeys(k for f in findings for k in f['facts']))
    values = {k: [f['facts'].get(k, '–') for f in findings] for k in facts}
    same = {k: v[0] for k, v in values.items() if all(other == v[0] for other in v)}
    rows = []
    for found in findings:
        lowest = worst.get(frozenset(cohort.named(entities_of(found['series'])).items()), ['–'])
        warnings = [f'{f["what"]}: {f["found"]}' for f in found['findings'] if f['level'] in LEVELS]
        rows.append(
            {
                'series': {'text': found['series'], 'href': f'{found["series"].partition("_")[0]}.html'},
                **{k: str(found['facts'].get(k, '–')) for k in facts if k not in same},
                'lowest coverage': '; '.join(lowest),
                'warnings': '; '.join(warnings) or 'none',
            }
        )
    # series with warnings first, so that they stay on the page where the table is cut
    rows.sort(key=lambda row: row['warnings'] == 'none')
    caption = (
        'Lowest coverage: the region with the smallest share inside the mask and the field of view. Names '
        'link to the page of the subject.'
    )
    title = 'All series, those with warnings first'
    return grid(title, pd.DataFrame(rows), caption=caption, folded=len(rows) > _FOLD), same


def _summary(table: pd.DataFrame, digits: int):
    """Regions by groups: mean and standard deviation over series, and the number of series."""
    groups = list(dict.fromkeys(table['group']))
    columns = {group: f'{group}: mean ± sd (series)' for group in groups}
    rows = {region: dict.fromkeys(['region', *columns.values()], '–') for region in table['region']}
    for row in table.to_dict('records'):
        spread = '' if pd.isna(row['sd']) else f' ± {row["sd"]:.{digits}f}'
        text = f'{row["mean"]:.{digits}f}{spread} ({row["series"]})' if row['series'] else '–'
        rows[row['region']] |= {'region': row['region'], columns[row['group']]: text}
    return pd.DataFrame(rows.values(), columns=['region', *columns.values()])
