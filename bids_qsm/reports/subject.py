"""The HTML report of a subject, from the output of a run."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bids_qsm.applications import applications
from bids_qsm.applications.contract import Application, Table
from bids_qsm.biomarkers.reference import REFERENCES
from bids_qsm.biomarkers.regions import TOO_SMALL
from bids_qsm.derivatives.products import PRODUCTS, SYMBOLS
from bids_qsm.derivatives.tables import Expected, read_output
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.reports.blocks import grid
from bids_qsm.reports.citations import cite, methods_text
from bids_qsm.reports.html import (
    LEVELS,
    alert,
    damage_alerts,
    data_uri,
    failure_alerts,
    natural,
    packaged,
    read_findings,
    read_json,
    read_run,
    render,
)
from bids_qsm.reports.viewer import build_viewer

__all__ = ['build_subject_report', 'methods_text']

_LOW_COVERAGE = 0.9
_NUMBERS = ('volume_mm3', 'coverage', 'mean', 'sd')
_REGIONS = Expected(
    ('region', 'hemisphere', 'map', 'units', 'reference', *_NUMBERS), numbers=(*_NUMBERS, 'confidence')
)
_ENDS = {'png': b'IEND\xaeB`\x82', 'svg': b'</svg>'}
"""How a whole figure ends."""
_LEFT_OUT = 'The viewer leaves it out. All else on this page stands.'


def build_subject_report(output_dir: str | Path, subject: str, troubles: list[str] | None = None) -> Path:
    """Write the report of a subject from its figures, findings and tables, and the record of the run.

    The page is self-contained. A subject that failed gets a page too, with its failures first. Damaged files
    are left out, and named on the page.

    Parameters
    ----------
    output_dir
        Output dataset with, in ``sub-<label>``, ``figures/<series>_desc-<kind>_<suffix>.{png,svg}``,
        ``figures/<series>_desc-findings.json`` and ``**/*_stats.tsv``, and ``logs/sub-<label>.json``.
    subject
        Label, with or without ``sub-``.
    troubles
        A sentence on each damaged file is added to it.

    Returns
    -------
    ``output_dir/sub-<label>.html``
    """
    out, label = Path(output_dir), 'sub-' + str(subject).removeprefix('sub-')
    damage: list[str] = []
    run = read_run(out / 'logs' / f'{label}.json', damage)
    layout = page_layout()
    figures = _figures(out / label / 'figures', damage)
    findings = {f['series']: f for f in read_findings(out / label / 'figures', damage)}
    of_anatomy = {
        (name, kind): path
        for (name, kind), path in figures.items()
        if _of_subject(name, kind, layout, findings)
    }
    names = {name for name, kind in figures if (name, kind) not in of_anatomy} | set(findings)
    series = []
    for name in sorted(names, key=natural):
        own = {key[1]: path for key, path in figures.items() if key[0] == name and key not in of_anatomy}
        found = {key: findings[name][key] for key in ('facts', 'findings') if name in findings}
        series.append(_part(name, figures=_reportlets(own, layout['series'], name), **found))
    packed = [part['name'] for part in series]
    _attach_tables(series, sorted((out / label).rglob('sub-*_stats.tsv')), damage)
    placed = sum(bool(at) for part in series for one in part['lists'] for at in one['at'] or ())
    viewer, spoilt = build_viewer(out / label, packed, placed)
    if viewer is not None:
        _attach_places(series, viewer['places'])
    anatomy = [
        figure
        for kind in dict.fromkeys([*(e['kind'] for e in layout['subject']), *(k for _, k in of_anatomy)])
        for name in sorted({n for n, k in of_anatomy if k == kind}, key=natural)
        for figure in _reportlets({kind: of_anatomy[name, kind]}, layout['subject'], name)
    ]
    alerts = failure_alerts(run.get('failures', [])) + _finding_alerts(series)
    alerts += [alert('warning', f'{name}, viewer', text, _LEFT_OUT) for name, text in spoilt]
    alerts += damage_alerts(out, damage)
    if troubles is not None:
        troubles += [*damage, *(f'{name}: {text}' for name, text in spoilt)]
    methods, references = cite(run.get('methods', []))
    shown = [part for part in series if part['figures'] or part['tables'] or part['lists']]
    contents = [
        {'id': 'attention', 'title': f'Needs attention ({len(alerts)})' if alerts else 'Needs attention'},
        {'id': 'summary', 'title': 'What was found and corrected'},
        *([{'id': 'viewer', 'title': 'Viewer of the images'}] if viewer else []),
        *([{'id': 'anatomy', 'title': 'Anatomy', 'children': anatomy}] if anatomy else []),
        *(
            {
                'id': part['id'],
                'title': part['name'],
                'children': [
                    *part['figures'],
                    *({'id': table['id'], 'title': 'Table of regions'} for table in part['tables']),
                    *part['lists'],
                ],
            }
            for part in shown
        ),
        {'id': 'methods', 'title': 'Methods'},
        {'id': 'run', 'title': 'Versions and command'},
    ]
    return render(
        'report.html', out / f'{label}.html',
        title=label, run=run, alerts=alerts, series=series, anatomy=anatomy, contents=contents,
        methods=methods, references=references, viewer=viewer, scripts=['viewer.js'] if viewer else [],
    )  # fmt: skip


def _part(name: str, **content: Any) -> dict:
    """A series of the page."""
    empty = {'figures': [], 'facts': {}, 'findings': [], 'tables': [], 'lists': [], 'warnings': []}
    return {'name': name, 'id': f'series-{name}', **empty, **content}


def page_layout() -> dict[str, list[dict]]:
    """Figures of the page in their order, with title and caption: of the anatomy, and of each series.

    Maps are listed in PRODUCTS, applications declare their figures, data/report.yml has the others.
    """
    others = yaml.safe_load(packaged('report.yml'))
    series = [
        {'kind': port, 'title': one.look.title, 'caption': one.caption}
        for port, one in PRODUCTS.items()
        if one.look is not None
    ]
    of_applications = [
        {'kind': figure.name, 'title': figure.title, 'caption': figure.caption, 'after': figure.after}
        for app in applications()
        for figure in app.figures
    ]
    for entry in (*others['series'], *of_applications):
        kinds = [one['kind'] for one in series]
        after = entry.get('after')
        series.insert(kinds.index(after) + 1 if after in kinds else len(series), entry)
    return {'subject': others['subject'], 'series': series}


def _figures(directory: Path, damage: list[str]):
    """(series, kind) -> path of a figure, SVG or PNG. Those that are cut short are named in ``damage``."""
    found = {}
    for path in sorted(directory.glob('sub-*_desc-*')):
        match = re.fullmatch(r'(.+)_desc-([a-zA-Z0-9]+)(?:_\w+)?\.(png|svg)', path.name)
        if not match:
            continue
        if path.read_bytes().rstrip().endswith(_ENDS[match.group(3)]):
            found[match.group(1), match.group(2)] = path
        else:
            damage.append(f'{path} is cut short; run the participant level again.')
    return found


def _of_subject(name: str, kind: str, layout: dict[str, list[dict]], findings: dict[str, dict]):
    """Whether a figure shows the anatomy of the subject and not a series."""
    if kind in {entry['kind'] for entry in layout['subject']}:
        return True
    # a single series may be named like the subject
    listed = kind in {entry['kind'] for entry in layout['series']} or name in findings
    return not listed and re.fullmatch('sub-[^_]+(_space-[^_]+)?', name) is not None


def _reportlets(figures: dict[str, Path], entries: list[dict], name: str):
    known = [entry for entry in entries if entry['kind'] in figures]
    listed = {entry['kind'] for entry in entries}
    others = [_unlisted(kind) for kind in sorted(figures) if kind not in listed]
    space = entities_of(name).get('space')
    of_space = f' ({space})' if space else ''
    return [
        {
            'id': f'{name}-{entry["kind"]}',
            'title': entry['title'] + of_space,
            'caption': entry['caption'],
            'alt': f'{entry["title"]} of {name}. {entry["caption"]}',
            **_source(figures[entry['kind']]),
            'chart': figures[entry['kind']].suffix == '.svg',
        }
        for entry in known + others
    ]


def _source(path: Path):
    """A figure as a data URI; of two images that take turns each, as the page must be able to stop them."""
    content = path.read_bytes()
    turns = re.findall(r'href="(data:image/png;base64,[A-Za-z0-9+/=]+)"', content.decode('latin-1'))
    if path.suffix == '.svg' and len(turns) == 2 and b'class="moving"' in content:
        return {'src': turns[0], 'second': turns[1]}
    return {'src': data_uri(content, path.suffix), 'second': ''}


def _unlisted(kind: str):
    """Title and caption of a figure with a number in its name, or of another version of bids_qsm."""
    named = re.fullmatch(r'([a-zA-Z]+)\d+2anat', kind)
    titles = {f'{app.name}{query.name}': query.title for app in applications() for query in app.own}
    titles['bold'] = 'BOLD run'
    if not named or named[1] not in titles:
        return {'kind': kind, 'title': kind, 'caption': ''}
    title = titles[named[1]]
    return {
        'kind': kind,
        'title': f'{title[0].upper()}{title[1:]} and anatomical image',
        'caption': 'The two images alternate on one grid. Cortex and ventricles should not move.',
    }


def _attach_tables(series: list[dict], paths: Iterable[Path], damage: list[str]):
    """Add each table to the series that shares most of its entities, and what is damaged to ``damage``."""
    for path in paths:
        owner = _owner(path)
        try:
            table = read_output(path, _REGIONS if owner is None else Expected(any_of=owner[1].shown))
        except UserError as error:
            damage.append(str(error))
            continue
        described = _described(path.with_suffix('.json'), damage)
        entities = entities_of(path).items()
        fitting = [part for part in series if entities_of(part['name']).items() <= entities]
        if fitting:
            part = max(fitting, key=lambda p: len(entities_of(p['name'])))
        else:
            name = re.sub(r'(_(label|desc)-\w+?)?_stats\.tsv$', '', path.name)
            part = _part(name)
            series.append(part)
        if owner is not None:
            part['lists'].append(_list(path.name, table, described, *owner))
            part['warnings'] += _warnings(path.name, table, owner[0])
            constants = _constants(described, owner[0], part['name'])
            if constants and constants['id'] not in [one['id'] for one in part['lists']]:
                part['lists'].append(constants)
        else:
            labels = _described(path.with_name(path.name.replace('_stats.tsv', '_dseg.json')), damage)
            # cortical labels of the subject extend beyond the mask
            own = bool(labels) and 'Atlas' not in labels
            part['tables'].append(_region_table(table, path.name, check_coverage=not own))


def _described(path: Path, damage: list[str]) -> dict:
    """What a JSON file says; nothing where it is damaged, of which a sentence is added to ``damage``."""
    try:
        return read_json(path, {})
    except UserError as error:
        damage.append(str(error))
        return {}


def _attach_places(series: list[dict], places: dict[str, dict[str, dict]]):
    """Say where in the image the rows of tables are: regions by their labels, and what has coordinates."""
    for part in series:
        if part['name'] not in places:
            continue
        for table in part['tables']:
            known = places[part['name']].get(table['file'].replace('_stats.tsv', '_dseg'), {})
            for row in table['rows']:
                row['places'] = {side: at for (region, side), at in known.items() if region == row['region']}
        for one in part['lists']:
            if one['at'] is not None:
                one['table']['places'] = [{'': at} if at else {} for at in one['at']]


def _coordinates(table: pd.DataFrame):
    """Place of each row as 'x y z', empty where it has none; None without such columns."""
    if not {'x', 'y', 'z'} <= set(table):
        return None
    found = table[['x', 'y', 'z']].apply(pd.to_numeric, errors='coerce')
    return ['' if any(map(pd.isna, at)) else '{:.2f} {:.2f} {:.2f}'.format(*at) for at in found.to_numpy()]


def _owner(path: Path):
    """The application that wrote a table, and its kind; None for the tables of regions."""
    wrote = ((app, app.wrote(entities_of(path))) for app in applications())
    return next(((app, one) for app, one in wrote if one is not None and app.entities_of(one)), None)


def _warnings(file: str, table: pd.DataFrame, app: Application):
    """Alerts of a table of an application: what its column ``warning`` holds."""
    told = table['warning'].dropna().unique() if 'warning' in table else []
    name = re.sub(r'(_(label|desc)-\w+?)?_stats\.tsv$', '', file)
    return [alert('warning', f'{name}, {app.title}', str(text), '') for text in told]


def _list(file: str, table: pd.DataFrame, described: dict, app: Application, one: Table):
    """The table of an application, with the columns for readers of the images, and their units."""
    about = {c: text for c, text in described.items() if isinstance(text, dict)}
    units = {c: about.get(c, {}).get('Units') for c in one.shown or table}
    columns = {c: f'{c} ({unit})' if unit else c for c, unit in units.items()}
    caption = f'{one.caption} All columns, with descriptions: {file}' if len(table) else 'None.'
    title = one.title or app.title
    return {
        **grid(title, table, columns=columns, caption=caption),
        'id': f'list-{file}',
        'at': _coordinates(table),
    }


def _constants(described: dict, app: Application, series: str):
    """Table of the constants that an application says it used; None where it states none."""
    stated = described.get('Constants')
    if not stated or not isinstance(stated, dict):
        return None
    rows = [{'constant': name, **(v if isinstance(v, dict) else {'value': v})} for name, v in stated.items()]
    table = grid(f'{app.title}: constants and assumptions', pd.DataFrame(rows, dtype=object))
    return {**table, 'id': f'constants-{series}-{app.name}', 'at': None}


def _region_table(table: pd.DataFrame, name: str, *, check_coverage: bool = True):
    """One row a region, one column a map and side: mean and standard deviation as text.

    Nuclei that were segmented have their outline and its confidence beside them.
    """
    maps = [m for m in SYMBOLS if m in set(table['map'])]
    sides = [s for s in ('L', 'R', 'both') if s in set(table['hemisphere'])]
    sides += sorted(set(table['hemisphere'].dropna()) - set(sides))
    rows, notes, found = [], [], {}
    # a lookup, as a selection of the table for each cell takes seconds with a segmentation of the whole brain
    for *place, mean, sd in table[['region', 'map', 'hemisphere', 'mean', 'sd']].itertuples(index=False):
        digits = 3 if place[1] == 'chi' else 1
        spread = '' if pd.isna(sd) else f' ± {sd:.{digits}f}'
        text = '–' if pd.isna(mean) else f'{mean:.{digits}f}{spread}'
        found.setdefault(tuple(place), text)
    for region, part in table.groupby('region', sort=False):
        cells = [found.get((region, m, side), '–') for m in maps for side in sides]
        first = part[part['map'] == maps[0]] if maps else part
        whole = first[first['hemisphere'] == 'both']
        volume = whole['volume_mm3'].max() if len(whole) else first['volume_mm3'].sum()
        coverage = pd.to_numeric(first['coverage'], errors='coerce').min()
        # a reference region that was not found has no coverage; its note says why
        if region in REFERENCES and 'core' in first and (first['core'] == 'none').all():
            coverage = float('nan')
            notes += [f'{region}: {note}.' for note in first.get('note', pd.Series()).dropna().unique()]
        elif 'note' in first and (small := first['note'] == TOO_SMALL).any():
            sides_there = first[~small & (first['hemisphere'] != 'both')]
            coverage = pd.to_numeric(sides_there['coverage'], errors='coerce').min()
            notes.append(f'{region}: {TOO_SMALL} on a side.')
        rows.append(
            {
                'region': region,
                'cells': cells,
                'volume': '–' if pd.isna(volume) else f'{volume:.0f}',
                'coverage': '–' if pd.isna(coverage) else f'{100 * coverage:.0f} %',
                'low': check_coverage and bool(coverage < _LOW_COVERAGE),
                'places': {},
                **_outline(first),
            }
        )
    units = {m: _first(table.loc[table['map'] == m, 'units']) for m in maps}
    reference = _first(table.loc[table['map'] == 'chi', 'reference'])
    outlined = any(row['outline'] for row in rows)
    if any(row['prior'] for row in rows):
        notes.append(
            'Regions with the outline of the atlas were not made out in the maps, or not looked for.'
        )
    return {
        'id': f'table-{name}',
        'outlined': outlined,
        'file': name,
        'maps': [f'{SYMBOLS[m]} ({units[m]})' for m in maps],
        'sides': sides,
        'rows': rows,
        'note': ' '.join([f'Reference of χ: {reference}.'] * bool(reference) + notes),
    }


def _outline(rows: pd.DataFrame):
    """Whose outline the sides of a region have, with its confidence, and whether one is of the atlas."""
    sources = rows.get('source', pd.Series(dtype=object)).dropna()
    sides = rows.loc[sources.index].set_index('hemisphere')
    if len(sides) > 1:
        sides = sides.drop('both', errors='ignore')
    said = {'own': 'own', 'prior': 'atlas', 'mixed': 'own and atlas'}
    sides = sides[~sides.index.duplicated()]
    texts = [
        f'{side} {said.get(row["source"], row["source"])}'
        + (f' {row["confidence"]:.2f}' if row['source'] == 'own' and 'confidence' in row else '')
        for side, row in sides.to_dict('index').items()
    ]
    return {'outline': ', '.join(texts), 'prior': bool((sources != 'own').any())}


def _first(values: pd.Series):
    values = values.dropna()
    return str(values.iloc[0]) if len(values) else ''


def _finding_alerts(series: list[dict]):
    alerts = [one for part in series for one in part['warnings']]
    for part in series:
        for finding in part['findings']:
            if finding['level'] in LEVELS:
                where = f'{part["name"]}, {finding["what"]}'
                more = '; '.join(filter(None, (finding['action'], finding['evidence'])))
                alerts.append(alert(finding['level'], where, finding['found'], more))
    alerts.sort(key=lambda one: LEVELS.index(one['level']))
    for part in series:
        for table in part['tables']:
            low = ', '.join(f'{row["region"]} ({row["coverage"]})' for row in table['rows'] if row['low'])
            if low:
                what = f'less than 90 % inside the mask and the field of view: {low}.'
                more = 'Their values describe only the part that was measured.'
                alerts.append(alert('warning', f'{part["name"]}, coverage', what, more))
    return alerts
