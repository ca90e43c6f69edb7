"""Pages that follow from the code: a line ``<!-- reference: NAME -->`` of a page becomes a part of it.

Options come from `Options`, files and columns from `PRODUCTS` and the applications, methods from the
registries. Nothing of this is written by hand.
"""

import contextlib
import io
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field
from pathlib import Path

from api import rendered
from sphinx.application import Sphinx

from bids_qsm.anatomy.segmentation import COLUMNS as LABELS
from bids_qsm.app.cli import COMMANDS
from bids_qsm.app.methods import Method, registries
from bids_qsm.app.options import METHODS, NAMED_PATHS, SETTINGS, STEPS, TEXTS, flag_of, kind_of
from bids_qsm.applications import about, applications
from bids_qsm.applications.contract import Application, Query, Table
from bids_qsm.biomarkers.region_columns import dictionary as region_dictionary
from bids_qsm.biomarkers.regions import QUALITY
from bids_qsm.cohort.tables import DESCRIPTIONS
from bids_qsm.cohort.voxelwise import COLUMNS as CLUSTERS
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.group.analyse import FILES
from bids_qsm.group.dictionaries import dictionaries
from bids_qsm.plugins.methods import STEPS_OF
from bids_qsm.recon.registry import needs, parameters
from bids_qsm.reports.citations import bibliography, cite

ADVICE = tomllib.loads(Path(__file__).with_name('advice.toml').read_text(encoding='utf-8'))
MARK = re.compile(r'^<!-- reference: (\w+) -->$', re.MULTILINE)
GROUP_TABLES = {
    'model': ('--model', 'a region and term of the model'),
    'residuals': ('--model', 'a region and series, or session where runs were averaged'),
    'correlation': ('--correlate', 'a region and score'),
    'difference': ('--correlate', 'a score and two regions; with pairs of two regions or more'),
    'change': (
        'two sessions of a participant',
        'a participant, region and acquisition: the last visit at which the region was measured, less the '
        'first',
    ),
    'change_summary': ('two sessions of a participant', 'a region and group'),
    'normative': ('controls, found or by --controls', 'a session and region'),
    'published': ('--norms iron1958', 'a session and region'),
    'patterns': ('--patterns', 'a participant and pattern'),
    'pattern_means': ('--patterns', 'a pattern and region'),
    'stages': ('--stages', 'a region, quantity and stage'),
    'stage_constants': ('--stages', 'a constant'),
    'harmonised': (
        '--harmonise',
        'as in group_regions.tsv, without lesions. Of the statistics of a region only the harmonised one is '
        'kept, with its standard error where it has one, and its value before; all other columns of the '
        'series and the participant are kept',
    ),
    'sites': ('--harmonise', 'a region, map and site'),
    'repeatability': ('scans of one visit that repeat', 'a region and kind of repeat'),
    'slopes': ('sessions of known time', 'a region and arm'),
    'samples': ('slopes', 'a map, region (both sides together), design, effect_of, effect and power'),
    'classification': ('--classify', 'a model and measure'),
    'classification_predictions': ('--classify', 'a unit, with the columns that name it, such as lesion'),
    'classification_coefficients': ('--classify', 'a feature of a model'),
    'classification_curves': ('--classify', 'a point of a curve'),
}
"""Key of a table of the group level -> what asks for it, and what a row is."""


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = [list(head), ['---'] * len(list(head)), *rows]
    return '\n'.join('| ' + ' | '.join(_cell(word) for word in line) + ' |' for line in lines)


def _cell(word: object) -> str:
    return str(word).replace('|', r'\|').replace('\n', ' ')


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to format."""
    return re.sub(r'([*_<>$\[\]])', r'\\\1', text)


def _parameters(function: Callable) -> list[str]:
    """Parameters of a method or an application with their defaults, as the command line takes them."""
    return [f'`{str(Method("", (pair,)))[1:]}`' for pair in parameters(function).items()]


def options() -> str:
    """Every option by its heading in the help, with its default, its key in a TOML file and its level."""
    groups: dict[str, list[str]] = {}
    for field in SETTINGS.values():
        setting = field.metadata['about']
        if setting.help and kind_of(field) != METHODS:
            groups.setdefault(setting.group or 'folders and level', []).append(_option(field))
    return '\n\n'.join(f'## {title.capitalize()}\n\n' + '\n\n'.join(parts) for title, parts in groups.items())


def _option(field: Field) -> str:
    setting, kind = field.metadata['about'], kind_of(field)
    is_word = field.default is MISSING
    flag = field.name if is_word else flag_of(field.name)
    value = f'{{{",".join(setting.choices)}}}' if setting.choices else setting.metavar
    if kind is bool or setting.action == 'count' or (is_word and not setting.choices):
        value = None
    elif not value:
        value = field.name.upper()
    if kind in (TEXTS, NAMED_PATHS):
        value = f'{value} [{value} ...]'
    forms = ', '.join(
        f'`{one} {value}`' if value else f'`{one}`' for one in filter(None, (setting.short, flag))
    )
    facts = []
    if not is_word:
        facts.append(f'Default: {_default(field)}.')
    if setting.unit:
        facts.append(f'Unit: {setting.unit}.')
    if setting.level:
        facts.append(f'Level: {setting.level}.')
    if not is_word:
        facts.append(f'Key in a configuration file: `{field.name}`.')
    if field.name in STEPS:
        known = ', '.join(f'[{name}](#{field.name}-{name})' for name in registries()[field.name])
        facts.append(f'Methods: {known}.')
    help = setting.help.replace('%%', '%')
    if field.name in STEPS:
        help = help.replace('method, see below', 'method of this step', 1)
    return '\n\n'.join(
        (f'### {flag}', f'{forms}: {_plain(help)}.', f'*When:* {ADVICE["when"][field.name]}', ' '.join(facts))
    )


def _default(field: Field) -> str:
    """What happens without an option; KeyError where nothing says it."""
    if kind_of(field) is bool:
        return 'off'
    if field.default in (None, ()):
        return ADVICE['default'][field.name]
    default = ' '.join(map(str, field.default)) if kind_of(field) == TEXTS else str(field.default)
    return f'`{default.removesuffix(".0")}`'


def flags() -> str:
    """The flags of applications with their parameters."""
    rows = []
    for one in applications():
        if one.asked or parameters(one.measure):
            params = ', '.join(_parameters(one.measure))
            rows.append((f'[`--{one.name}`](#app-{one.name})', _plain(about(one.name)), params))
    return table(('flag', 'what it does', 'parameters and defaults'), rows)


def commands() -> str:
    """The help of every other command."""
    parts = []
    for name, command in COMMANDS.items():
        said = io.StringIO()
        os.environ['COLUMNS'] = '100'
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            command(['--help'])
        parts.append(f'## bids_qsm {name}\n\n```text\n{said.getvalue().rstrip()}\n```')
    return '\n\n'.join(parts)


def algorithms() -> str:
    """Every method of every step: what it does, its equations, parameters, data and citations."""
    parts = []
    for step, registry in registries().items():
        field = SETTINGS[step]
        plugged = ', or `onnx:DIR` ([plug-ins](plugins.md))' if step in STEPS_OF else ''
        intro = f'`{flag_of(step)} NAME[:param=value,...]`, by default `{field.default}`{plugged}.'
        parts.append(f'## {step}\n\n{intro}')
        for name, function in registry.items():
            parts.append(_algorithm(step, name, function))
    return '\n\n'.join(parts)


def _algorithm(step: str, name: str, function: Callable) -> str:
    lines = [f'({step}-{name})=', f'### {name}', '', '```{eval-rst}', rendered(function.__doc__ or '')]
    lines += ['```', '', f'Data: {", ".join(f"`{one}`" for one in needs(function)) or "none"}.']
    defaults = _parameters(function)
    if defaults:
        lines.append(f'Parameters: {", ".join(defaults)}.')
    facts = getattr(function, 'facts', None)
    if facts is not None:
        lines += ['', _cited(f'Methods text: {facts.prose}.')]
    return '\n'.join(lines)


def _cited(text: str) -> str:
    """Text with its references below."""
    (text,), references = cite([text])
    listed = [f'{n}. {_reference(one)}' for n, one in enumerate(references, 1)]
    return '\n'.join([_plain(text), '', *listed])


def _reference(one: Mapping[str, str]) -> str:
    return f'{_plain(one["text"])} [doi:{one["doi"]}](https://doi.org/{one["doi"]})'


def apps() -> str:
    """Every application: question, flag, inputs, methods text, files and columns."""
    return '\n\n'.join(_application(one) for one in applications())


def _application(one: Application) -> str:
    params = _parameters(one.measure)
    how = f'`--{one.name}`' if one.asked else 'Always runs where its inputs are there'
    lines = [f'(app-{one.name})=', f'## {one.title}', '', f'{_plain(about(one.name))} {how}.', '']
    if params:
        lines += [f'Parameters: {", ".join(params)}; as `--{one.name}:{params[0][1:]}.', '']
    scopes = {
        'series': 'each series',
        'labels': 'the atlas and each segmentation of the participant',
        'subject': 'all series of a session together',
        'run': 'each BOLD run of the session',
    }
    lines += [f'Runs once for {scopes[one.scope]}.', '']
    if one.uses:
        lines += [
            'Uses ' + ', '.join(f'[{name}](#app-{name})' for name in one.uses) + ', which then runs too.',
            '',
        ]
    if one.extra:
        rows = [
            (query.title, _pattern(query), 'optional' if query.optional else 'needed') for query in one.extra
        ]
        lines += [table(('further input', 'last part of the name', ''), rows), '']
    if one.method:
        lines += [_cited(one.method), '']
    return '\n'.join([*lines, _files_of(one)])


def _pattern(query: Query) -> str:
    ends = query.names or tuple(f'*_{suffix}' for suffix in query.suffix)
    extension = '.nii[.gz]' if query.is_image else query.extension
    return ', '.join(f'`{end}{extension}`' for end in ends)


def _files_of(one: Application) -> str:
    lines = []
    if one.images:
        rows = [(f'`{_name(image.place)}.nii.gz`', _plain(image.about), image.units) for image in one.images]
        lines += [table(('image', 'content', 'unit'), rows), '']
    for document in one.documents:
        lines += [f'Document: `*_desc-{document.desc}_{document.suffix}.json`.', '']
    for each in one.tables:
        name = _name({'suffix': each.suffix, **_entities(one, each)})
        lines += [
            f'Table `{name}.tsv`, described by the `.json` beside it:',
            '',
            _columns(each.described()),
            '',
        ]
    return '\n'.join(lines)


def _entities(one: Application, each: Table) -> dict[str, str]:
    seg = {'seg': '<atlas>'} if one.scope == 'labels' else {}
    return {**seg, **one.entities_of(each)}


def _name(place: Mapping[str, str]) -> str:
    order = ('seg', 'label', 'desc')
    words = [f'_{key}-{place[key]}' for key in order if key in place]
    return '*' + ''.join(words) + f'_{place["suffix"]}'


def _columns(described: Mapping[str, Mapping]) -> str:
    rows = []
    for column, one in described.items():
        levels = '; '.join(f'{key}: {value}' for key, value in one.get('Levels', {}).items())
        text = ' '.join(filter(None, (one.get('Description', ''), levels)))
        rows.append((f'`{column}`', _plain(text), _plain(one.get('Units', ''))))
    return table(('column', 'content', 'unit'), rows)


def maps() -> str:
    """Every map of a series."""
    rows = []
    for one in PRODUCTS.values():
        if one.suffix:
            spaces = f'`*_{one.suffix}.nii.gz`' + (
                f', `*_space-<template>_{one.suffix}.nii.gz`' if one.in_template else ''
            )
            rows.append(
                (
                    spaces,
                    _plain(one.about),
                    one.units,
                    f'[{one.step}](algorithms.md#{one.step})' if one.step else '',
                )
            )
    shown = [
        (one.look.title, _plain(one.caption)) for one in PRODUCTS.values() if one.look and not one.suffix
    ]
    return '\n\n'.join((
        table(('file', 'content', 'unit', 'step'), rows),
        'Only in the report:',
        table(('figure', 'content'), shown),
    ))  # fmt: skip


def regions() -> str:
    """Columns of the table of regions."""
    return _columns(region_dictionary())


def labels() -> str:
    """Columns of the table beside an image of labels."""
    described = region_dictionary()
    own = {'index': 'Value of the label in the image.', 'name': 'Name of the label, with its side.'}
    known = {column: {'Description': text} for column, text in own.items()}
    return _columns({column: (described | known)[column] for column in (*LABELS, *QUALITY)})


def group_regions() -> str:
    """Columns that the table of regions of all participants has before those of each."""
    return _columns({name: {'Description': text} for name, text in DESCRIPTIONS.items()})


def group_tables() -> str:
    """Every table of the group level: what asks for it, and its columns."""
    parts = []
    for key, described in dictionaries().items():
        asked, row = GROUP_TABLES[key]
        made = f'Asked for by `{asked}`' if asked.startswith('--') else f'Made where there are {asked}'
        name = FILES[key].rpartition('/')[2]
        parts.append(f'### {name}\n\n{made}. One row: {row}.\n\n{_columns(described)}')
    return '\n\n'.join(parts)


def group_events() -> str:
    """Tables of all participants that applications make, with a link to their columns."""
    rows = [
        (f'`group_{one.key(each)}.tsv`', f'[{one.title}](#app-{one.name})')
        for one in applications()
        for each in one.tables_of_events
    ]
    return table(('table', 'columns of'), rows)


def clusters() -> str:
    """Columns of the clusters of a test in each voxel."""
    return _columns(CLUSTERS)


def bibliography_list() -> str:
    """All papers that methods texts cite."""
    _, references = cite([f'[@{key}]' for key in bibliography()])
    return '\n'.join(
        f'- {_reference(one)}' for one in sorted(references, key=lambda one: one['text'].casefold())
    )


PARTS = {
    'options': options,
    'flags': flags,
    'commands': commands,
    'algorithms': algorithms,
    'applications': apps,
    'maps': maps,
    'regions': regions,
    'labels': labels,
    'group_regions': group_regions,
    'group_tables': group_tables,
    'group_events': group_events,
    'clusters': clusters,
    'bibliography': bibliography_list,
}
MOVED = {
    '](../CONTRIBUTING.md': '](contributing.md',
    '](../hpc/README.md': '](clusters.md',
    '](../CHANGES.md': '](changes.md',
}
"""Files beside docs/ that are pages of the site."""


def fill(app: Sphinx, name: str, source: list[str]):
    del app, name
    text = MARK.sub(lambda match: PARTS[match[1]](), source[0])
    for old, new in MOVED.items():
        text = text.replace(old, new)
    source[0] = text


def setup(app: Sphinx) -> dict:
    app.connect('source-read', fill)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
