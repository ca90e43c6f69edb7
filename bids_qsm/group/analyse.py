"""The group level: statistics, images of the cohort, and the report."""

import ctypes
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import bids_qsm
from bids_qsm.applications import applications
from bids_qsm.cohort import tables as cohort
from bids_qsm.derivatives.files import atomic_write, write_json
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.group.collect import collect_application, collect_tables, find_tables, save_table
from bids_qsm.group.dictionaries import dictionaries
from bids_qsm.group.harmonise import find_harmonised
from bids_qsm.group.patterns import find_patterns
from bids_qsm.group.stages import find_stages
from bids_qsm.reports.citations import methods_text
from bids_qsm.reports.cohort import RECORD, build_cohort_report
from bids_qsm.reports.html import read_json

if TYPE_CHECKING:
    from bids_qsm.app.options import Options

FILES = {
    'model': 'group/model.tsv',
    'residuals': 'group/residuals.tsv',
    'correlation': 'group/correlation.tsv',
    'difference': 'group/correlation_difference.tsv',
    'change': 'group/change.tsv',
    'change_summary': 'group/change_summary.tsv',
    'normative': 'group/zscore.tsv',
    'published': 'group/zscore_iron1958.tsv',
    'patterns': 'group/patterns.tsv',
    'pattern_means': 'group/pattern_means.tsv',
    'stages': 'group/stages.tsv',
    'stage_constants': 'group/stage_constants.tsv',
    'harmonised': 'group/regions_combat.tsv',
    'sites': 'group/site_effects.tsv',
    'repeatability': 'group/repeatability.tsv',
    'slopes': 'group/slope.tsv',
    'samples': 'group/sample_size.tsv',
    'classification': 'group/classification.tsv',
    'classification_predictions': 'group/classification_predictions.tsv',
    'classification_coefficients': 'group/classification_coefficients.tsv',
    'classification_curves': 'group/classification_curves.tsv',
}
"""Tables beside ``group_regions.tsv`` and those of applications, each with a dictionary (JSON).

None has the suffix of another table of the dataset: BIDS lets a dictionary without entities describe all
tables of its suffix in its folder and below.
"""
METHODS = 'group/classification_methods.txt'
"""Methods and results of the classification, in the order of TRIPOD+AI."""
_ASKED: tuple[str, ...] = ('model', 'correlate', 'controls', 'statistic', 'relative_to', 'voxelwise')
_ASKED += ('smoothing_mm', 'study_template', 'classify', 'units', 'norms', 'patterns', 'stages', 'harmonise')


def run_group(options: 'Options') -> int:
    """Gather the tables of all subjects, run the analyses, and write the report of the cohort.

    Returns the exit status. Raises UserError if there is no table, or if an option names a column, map or
    region that does not exist.
    """
    out, started = options.output_dir, datetime.now(UTC)
    if options.voxelwise != 'no' and not options.model:
        raise UserError(
            '--voxelwise tests a model in each voxel; give it by --model, as "chi ~ group + age".'
        )
    tables = find_tables(out, subjects=options.participant_label, sessions=options.session_label)
    long, said = collect_tables(tables, out, options.bids_dir)
    _return_memory()
    _check_statistic(long, options.statistic)
    notes = defaultdict(list, said)
    events = {app.key(one): (app, one) for app in applications() for one in app.tables_of_events}
    found = {key: collect_application(*pair, tables[key], notes) for key, pair in events.items()}
    notes['tables'] += mixed_versions(out, [one for kind in tables.values() for one in kind.entities])
    asked = {name: getattr(options, name) for name in _ASKED} | _named_columns(options, long)
    asked['controls'] = options.controls or find_controls(long)
    asked['site'] = options.harmonise or _site_column(long)
    values = None
    if options.harmonise:
        described = read_json(out / 'group_regions.json', {})
        values, more = find_harmonised(long, asked, notes, described)
        found |= more
        if options.voxelwise != 'no' or options.study_template:
            notes['sites'].append('Images are as they are: ComBat is for the values of regions alone.')
    found |= analyse(long, asked, notes, values=values)
    if options.stages:
        found |= find_stages(long, asked, options.output_dir, notes, values=values)
    methods = _classify(options, long, {key: found[key][0] for key in events}, asked, found, notes)
    pictures = _pictures(long, options, asked['controls'] or '')
    names = {**FILES, **{key: f'group_{key}.tsv' for key in events}}
    files = _write(out, found, names)
    # the page reads the tables that it needs, and those of thousands of participants are large
    found.clear()
    del long, values
    _return_memory()
    run = {
        'version': bids_qsm.__version__,
        'command': options.to_command(participants=options.participant_label),
        'called': shlex.join(sys.argv),
        'started': started.isoformat(timespec='seconds'),
    }
    record = {'run': run, 'asked': asked, 'files': files, 'notes': dict(notes), 'methods': methods}
    write_json(out / RECORD, record)
    page = build_cohort_report(out, pictures=pictures)
    for path in ('group_regions.tsv', *files.values()):
        print(f'Cohort table:  {out / path}')
    print(f'Cohort report: {page}')
    return 0


def _return_memory():
    """Give back what large tables held, which the allocator keeps; of glibc alone."""
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if hasattr(library, 'malloc_trim'):
        library.malloc_trim(0)


def _classify(
    options: 'Options', long: pd.DataFrame, events: dict, asked: dict, found: dict, notes: dict
) -> list[str]:
    """Add the tables and notes of the classification, and return its methods text; empty where not asked."""
    file = options.output_dir / METHODS
    if not options.classify:
        file.unlink(missing_ok=True)
        return []
    # imported here, as it compiles
    from bids_qsm.group.classify import run_classify

    tables, said, text = run_classify(
        options.classify,
        options.units,
        long if not asked['relative_to'] else cohort.relative_to(long, asked['relative_to'])[0],
        events,
        options.bids_dir,
        statistic=options.statistic,
        controls=asked['controls'] or '',
        site=asked['harmonise'] or '',
        n_jobs=options.nprocs or 1,
    )
    found |= tables
    notes |= said
    atomic_write(file, lambda path: path.write_text(methods_text(text), encoding='utf-8'))
    return text


def mixed_versions(out: Path, entities: Iterable[Mapping[str, str]]) -> list[str]:
    """A warning where series were made by different versions, by the merged logs of runs.

    Those count that have a table: ``entities`` of the tables that are read.
    """
    read = defaultdict(list)
    for one in entities:
        read[one['sub']].append(one.items())
    merged = read_json(out / 'logs' / 'run.json', {})
    versions = {run['id']: run.get('version', 'unknown') for run in merged.get('runs', ())}
    found = defaultdict(list)
    for name, one in merged.get('series', {}).items():
        own = entities_of(name)
        if one['state'] == 'done' and any(own.items() <= table for table in read[own['sub']]):
            found[versions[one['run']]].append(name)
    if len(found) < 2:
        return []
    of_each = ', '.join(
        f'{len(names)} series by {one} (as {names[0]})' for one, names in sorted(found.items())
    )
    return [
        f'Versions of bids_qsm differ, and so may numbers: {of_each}. Run all participants with one version.'
    ]


def find_controls(long: pd.DataFrame) -> str | None:
    """The level of the group column with a usual name of controls, or None."""
    from bids_qsm.cohort.design import CONTROLS, reference_level

    group = cohort.group_column(long)
    # an arm without treatment is one of patients
    levels = sorted(long[group].dropna().astype(str).unique()) if group and group != 'arm' else []
    found = reference_level(levels) if levels else ''
    return found if ''.join(filter(str.isalnum, found.lower())) in CONTROLS else None


def _site_column(long: pd.DataFrame) -> str:
    """The column that tells repeats at one site from those at several, see `repeatability.site_column`."""
    # imported here, as scipy is slow to import
    from bids_qsm.cohort.repeatability import site_column

    return site_column(long)


def analyse(
    long: pd.DataFrame, asked: dict, notes: dict[str, list[str]], *, values: pd.DataFrame | None = None
) -> dict:
    """Tables of the analyses, each with its data dictionary; ``notes`` (by analysis) are extended.

    ``values`` are the harmonised ones, from `find_harmonised`; repeatability is of those measured.
    """
    # imported here, as scipy is slow to import
    from bids_qsm.cohort import (
        change,
        correlation,
        model,
        normative,
        power,
        published_norms,
        repeatability,
        trial,
    )
    from bids_qsm.cohort.asymmetry import add_asymmetry
    from bids_qsm.cohort.total import add_total

    described = dictionaries()
    pairs = [tuple(pair.rpartition(':')[::2]) for pair in asked['correlate']]
    _check_pairs(long, pairs)
    if asked['relative_to']:
        long, said = cohort.relative_to(long, asked['relative_to'])
        notes['tables'] += said
    long = cohort.of_statistic(long, asked['statistic'])
    common, found, measured = {'statistic': asked['statistic']}, {}, add_total(long)
    site, place = asked.get('harmonise') or '', asked.get('site') or ''
    whole, long = (measured, long) if values is None else (add_total(values), values)
    if asked['model']:
        table, rest, notes['model'] = model.fit_models(
            whole, asked['model'], controls=asked['controls'] or '', nuisance=site, **common
        )
        found['model'] = table, described['model']
        found['residuals'] = rest, described['residuals']
    if asked['correlate']:
        more = {**common, 'covariates': asked['covariates']}
        tables = []
        for column in dict.fromkeys(column for column, _ in pairs):
            table, said = correlation.correlate(long, column, **more)
            tables.append(table)
            notes['correlation'] += said
        found['correlation'] = pd.concat(tables, ignore_index=True), described['correlation']
        regions = list(dict.fromkeys(region for _, region in pairs))
        against = [(c, region, other) for c, region in pairs for other in regions if (c, other) not in pairs]
        if against:
            table, said = correlation.compare_correlations(long, against, **more)
            found['difference'] = table, described['difference']
            notes['correlation'] += said
    table, said = repeatability.repeatability(measured, site=place, **common)
    if len(table):
        found['repeatability'], notes['repeatability'] = (table, described['repeatability']), said
    if 'session_id' in long and (long.groupby('participant_id')['session_id'].nunique() > 1).any():
        table, notes['change'] = change.changes(whole, site=place, **common)
        means, said = change.change_summary(table)
        notes['change'] += said
        found['change'] = table, described['change']
        found['change_summary'] = means, described['change_summary']
        table, said = trial.slopes(whole, controls=asked['controls'] or '', site=place, **common)
        if len(table):
            sizes, more = power.sample_sizes(table)
            found['slopes'], notes['slopes'] = (table, described['slopes']), said + more
            found['samples'] = sizes, described['samples']
        elif 'arm' in long:
            notes['slopes'] = said
    known = '' if _is_arm(long, asked['controls'] or '') else asked['controls'] or ''
    if asked['controls'] and not known:
        notes['normative'] = [
            f'{asked["controls"]} of --controls is an arm: it is the reference of slopes, and there are no '
            'z-scores, as people of an arm are no controls.'
        ]
    elif known:
        both = add_asymmetry(long)
        table, notes['normative'] = normative.normative(both, controls=known, **common)
        found['normative'] = table, described['normative']
    elif cohort.group_column(long) not in (None, 'arm'):
        notes['normative'] = [
            'No group is called like controls; --controls names the one that z-scores refer to.'
        ]
    if asked.get('norms') == 'iron1958':
        table, notes['published'] = published_norms.published_norms(long, controls=known, **common)
        if len(table):
            found['published'] = table, described['published']
    if asked.get('patterns'):
        found |= find_patterns(long, asked['patterns'], found, known, notes)
    return found


def _is_arm(long: pd.DataFrame, label: str):
    """Whether a label is one of the arms and of no group."""
    group = cohort.group_column(long)

    def names(column: str | None):
        return set(long[column].dropna().astype(str)) if column in long else set()

    return label in names('arm') and (group == 'arm' or label not in names(group))


def _check_statistic(long: pd.DataFrame, statistic: str):
    """Raise UserError if no table has the statistic that is asked for."""
    if statistic not in long or (statistic != 'mean' and long[statistic].isna().all()):
        there = [c for c in (*cohort.VALUES, 'mean_positive') if c in long and long[c].notna().any()]
        why = ' (it needs --refinement segment)' if statistic == 'mean_weighted' else ''
        raise UserError(f'--statistic {statistic}: no table has it{why}; there are {", ".join(there)}.')


def _check_pairs(long: pd.DataFrame, pairs: Sequence[tuple[str, str]]):
    """Raise UserError if a correlation names a column or a region that no table has."""
    regions = list(dict.fromkeys(long['region'].dropna().astype(str)))
    labels = {*cohort.ENTITY_COLUMNS.values(), *cohort.MEASURES}
    columns = [c for c in long if c not in labels]
    for column, region in pairs:
        if region not in regions:
            raise UserError(
                f'--correlate {column}:{region}: no table has the region {region!r}; there are '
                f'{", ".join(regions)}.'
            )
        if column not in columns:
            known = f'there are {", ".join(columns)}' if columns else 'nothing is known of the participants'
            raise UserError(
                f'--correlate {column}:{region}: participants.tsv and sessions.tsv have no column {column!r} '
                f'that could be used; {known}.'
            )


def _named_columns(options: 'Options', long: pd.DataFrame):
    """Covariates of the correlations, and the columns of model and correlations."""
    from bids_qsm.cohort.formula import Formula, name, parse_model, with_factor

    columns, formula = [], Formula('', ())
    if options.model:
        formula = parse_model(options.model)
        columns = formula.columns
    if options.harmonise:
        # shifts of sites were estimated: their degrees of freedom count
        formula = with_factor(formula, options.harmonise)
    covariates = [name(term) for term in formula.terms]
    columns += [pair.rpartition(':')[0] for pair in options.correlate]
    return {'covariates': covariates, 'columns': [c for c in dict.fromkeys(columns) if c in long]}


def _pictures(long: pd.DataFrame, options: 'Options', controls: str):
    """Sections of the report on images, if any were asked for."""
    pictures = []
    if options.voxelwise != 'no':
        from bids_qsm.group.images import run_voxelwise

        pictures.append(
            run_voxelwise(
                options.output_dir,
                long,
                options.model or '',
                method=options.voxelwise,
                smoothing_mm=options.smoothing_mm,
                controls=controls,
                relative_to=options.relative_to or '',
            )
        )
    if options.study_template:
        from bids_qsm.group.images import run_study_template

        template = run_study_template(
            options.output_dir, iterations=options.study_template, table=long, n_jobs=options.nprocs or 1
        )
        if options.relative_to:
            template['notes'].append('The maps were averaged as they are; --relative-to does not shift them.')
        pictures.append(template)
    return pictures


def _write(out: Path, found: dict[str, tuple[pd.DataFrame, dict]], names: dict[str, str]):
    """Write the tables, and remove those of an earlier run; return their paths."""
    files = {}
    for kind, name in names.items():
        table, described = found.get(kind, (pd.DataFrame(), {}))
        if len(table.columns):
            save_table(out / name, table, {column: described[column] for column in table})
            files[kind] = name
        else:
            (out / name).unlink(missing_ok=True)
            for extension in ('.json', '.parquet'):
                (out / name).with_suffix(extension).unlink(missing_ok=True)
    return files
