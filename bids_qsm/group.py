"""The group level: tables of all subjects gathered, joined and tested, images averaged, and the report."""

import shlex
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

import bids_qsm
from bids_qsm.cohort import tables as cohort
from bids_qsm.cohort_report import RECORD, build_cohort_report
from bids_qsm.derivatives import atomic_write, write_json
from bids_qsm.errors import UserError
from bids_qsm.pages import entities_of, read_json, read_table
from bids_qsm.runlog import write_merged

FILES = {
    'model': 'group/model_stats.tsv',
    'residuals': 'group/residuals.tsv',
    'correlation': 'group/correlation_stats.tsv',
    'difference': 'group/correlation_difference_stats.tsv',
    'change': 'group/change_stats.tsv',
    'change_summary': 'group/change_summary_stats.tsv',
    'normative': 'group/zscore_stats.tsv',
    'lesions': 'group_lesions.tsv',
    'candidates': 'group_candidates.tsv',
}
"""Tables of the group level beside ``group_stats.tsv``, each with a dictionary (JSON) of its columns."""

_ASKED = ('model', 'correlate', 'controls', 'statistic', 'relative_to', 'voxelwise', 'smoothing_mm')
_ASKED += ('study_template',)
_LABELS = ('participant_id', 'session_id', 'group', 'acq_time', 'filename')


def run_group(options) -> int:
    """Gather the tables of all subjects, test what was asked, and write the cohort's report.

    Returns the exit status. Raises UserError where there is no table, or what is asked names a column, map or
    region that does not exist.
    """
    out, started = options.output_dir, datetime.now(UTC)
    if options.voxelwise != 'no' and not options.model:
        raise UserError(
            '--voxelwise tests a model in each voxel; give it by --model, as "chi ~ group + age".'
        )
    write_merged(out / 'logs')  # the tasks of an array leave it to this level
    chosen = {'subjects': options.participant_label, 'sessions': options.session_label}
    long, said = collect_tables(out, options.bids_dir, **chosen)
    notes = defaultdict(list, said)
    found = {kind: collect_lesions(out, kind, notes, **chosen) for kind in ('lesions', 'candidates')}
    asked = {name: getattr(options, name) for name in _ASKED} | _named_columns(options, long)
    asked['controls'] = options.controls or find_controls(long)
    found |= analyse(long, asked, notes)
    pictures = _pictures(long, options, asked['controls'] or '')
    files = _write(out, found)
    run = {
        'version': bids_qsm.__version__,
        'command': options.to_command(participants=options.participant_label),
        'called': shlex.join(sys.argv),
        'started': started.isoformat(timespec='seconds'),
    }
    write_json(out / RECORD, {'run': run, 'asked': asked, 'files': files, 'notes': dict(notes)})
    page = build_cohort_report(out, pictures=pictures)
    for path in ('group_stats.tsv', *files.values()):
        print(f'Cohort table:  {out / path}')
    print(f'Cohort report: {page}')
    return 0


def collect_tables(output_dir, bids_dir, *, subjects=(), sessions=()):
    """Write one long table over all series of the dataset, and its data dictionary beside it.

    Parameters
    ----------
    output_dir
        Output dataset with ``sub-*/**/*_seg-*_stats.tsv``.
    bids_dir
        Dataset whose participants.tsv, sessions.tsv and scans.tsv are joined where they exist.
    subjects, sessions : sequence of str
        Labels of those wanted; all where empty.

    Returns
    -------
    long : DataFrame
        As in ``output_dir/group_stats.tsv``.
    notes : dict of str to list of str
        What did not match: ``tables`` of participants.tsv, ``sessions`` of sessions.tsv and scans.tsv.

    Raises
    ------
    UserError
        No table was found, or a table of ``bids_dir`` cannot be read.
    """
    out, bids_dir = Path(output_dir), Path(bids_dir)
    paths = _tables(out, 'sub-*_seg-*_stats.tsv', subjects, sessions)
    if not paths:
        raise UserError(
            f'{out} has no tables of regions (sub-*/**/*_seg-*_stats.tsv) of what was asked for; run the '
            'participant level first.'
        )
    long = cohort.gather((entities_of(path.name), read_table(path)) for path in paths)
    people = list(long['participant_id'].unique())
    file = bids_dir / 'participants.tsv'
    long, said = cohort.join_participants(long, _read_input(file) if file.exists() else None)
    notes = {'tables': said, 'sessions': []}
    visits = [
        (name, bids_dir / name / f'{name}_sessions.tsv')
        for name in people
        if (bids_dir / name / f'{name}_sessions.tsv').exists()
    ]
    if visits:
        stated = {name for name, _ in visits}
        found = [_read_input(path).assign(participant_id=name) for name, path in visits]
        # who has no file has stated nothing, rather than left a session out
        others = long.reindex(columns=['participant_id', 'session_id']).drop_duplicates().dropna()
        found.append(others[~others['participant_id'].isin(stated)])
        long, said = cohort.join_sessions(long, pd.concat(found, ignore_index=True))
        notes['sessions'] += said
    scans = [path for name in people for path in _scans_of(bids_dir / name)]
    if scans:
        found = pd.concat([_read_input(path) for path in scans], ignore_index=True)
        long, said = cohort.join_scans(long, found)
        notes['sessions'] += said
    described = [read_json(path.with_suffix('.json'), {}) for path in (file, *(p for _, p in visits[:1]))]
    more = {key: value for part in reversed(described) for key, value in part.items()}
    columns = cohort.dictionary(long.columns, _dictionary_of(paths[0]), more)
    if scans:
        columns['acq_time'] = {'Description': 'When the series was acquired, from scans.tsv or sessions.tsv.'}
    _save(out / 'group_stats.tsv', long, columns)
    return long, notes


def collect_lesions(output_dir, kind, notes, *, subjects=(), sessions=()):
    """Tables of lesions, or of candidates, of all series: the rows of all and their data dictionary."""
    label = kind.removesuffix('s')
    paths = _tables(Path(output_dir), f'sub-*_label-{label}_stats.tsv', subjects, sessions)
    if not paths:
        return pd.DataFrame(), {}
    series = [{k: v for k, v in entities_of(path.name).items() if k != 'label'} for path in paths]
    tables = [read_table(path) for path in paths]
    long = cohort.gather(zip(series, tables, strict=True))
    if kind == 'lesions':
        reasons = long['reason'].dropna().astype(str).value_counts()
        notes['lesions'] += [f'Rows without a measurement: {n}, as {r}.' for r, n in reasons.items()]
    else:
        full = sum(len(table) > 0 for table in tables)
        notes['lesions'].append(f'Candidates were looked for in {len(paths)} series and found in {full}.')
    return long, cohort.dictionary(long.columns, _dictionary_of(paths[0]), {})


def find_controls(long) -> str | None:
    """The level of the group that is called like controls, where there is one."""
    from bids_qsm.cohort.design import CONTROLS, reference_level

    group = cohort.group_column(long)
    levels = sorted(long[group].dropna().astype(str).unique()) if group else []
    found = reference_level(levels) if levels else ''
    return found if ''.join(filter(str.isalnum, found.lower())) in CONTROLS else None


def analyse(long, asked, notes) -> dict:
    """Tables of what was asked, each with its data dictionary; ``notes`` (by analysis) grow."""
    # scipy's share of the start is only paid where it is needed
    from bids_qsm.cohort import change, correlation, model, normative

    pairs = [tuple(pair.rpartition(':')[::2]) for pair in asked['correlate']]
    _check_pairs(long, pairs)
    if asked['relative_to']:
        long, said = cohort.relative_to(long, asked['relative_to'])
        notes['tables'] += said
    common, found = {'statistic': asked['statistic']}, {}
    if asked['model']:
        table, rest, notes['model'] = model.fit_models(
            long, asked['model'], controls=asked['controls'] or '', **common
        )
        found['model'] = table, model.dictionary()
        found['residuals'] = rest, _residual_columns(model.dictionary())
    if asked['correlate']:
        more = {**common, 'covariates': asked['covariates']}
        tables = []
        for column in dict.fromkeys(column for column, _ in pairs):
            table, said = correlation.correlate(long, column, **more)
            tables.append(table)
            notes['correlation'] += said
        found['correlation'] = pd.concat(tables, ignore_index=True), correlation.dictionary()
        regions = list(dict.fromkeys(region for _, region in pairs))
        against = [(c, region, other) for c, region in pairs for other in regions if (c, other) not in pairs]
        if against:
            table, said = correlation.compare_correlations(long, against, **more)
            found['difference'] = table, correlation.dictionary()
            notes['correlation'] += said
    if 'session_id' in long and (long.groupby('participant_id')['session_id'].nunique() > 1).any():
        table, notes['change'] = change.changes(long, **common)
        means, said = change.change_summary(table)
        notes['change'] += said
        found['change'], found['change_summary'] = (table, change.dictionary()), (means, change.dictionary())
    if asked['controls']:
        table, notes['normative'] = normative.normative(long, controls=asked['controls'], **common)
        found['normative'] = table, normative.dictionary()
    elif cohort.group_column(long):
        notes['normative'] = [
            'No group is called like controls; --controls names the one that z-scores refer to.'
        ]
    return found


def _check_pairs(long, pairs):
    """Raise UserError where a correlation names a column or a region that no table has."""
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


def _named_columns(options, long):
    """Covariates of the correlations, and the columns that model and correlations name."""
    columns, covariates = [], []
    if options.model:
        from bids_qsm.cohort.formula import name, parse_model

        formula = parse_model(options.model)
        columns = formula.columns
        covariates = [name(term) for term in formula.terms]
    columns += [pair.rpartition(':')[0] for pair in options.correlate]
    return {'covariates': covariates, 'columns': [c for c in dict.fromkeys(columns) if c in long]}


def _pictures(long, options, controls):
    """What the images of the cohort give the report, where they were asked for."""
    pictures = []
    if options.voxelwise != 'no':
        from bids_qsm.cohort_images import run_voxelwise

        pictures.append(
            run_voxelwise(
                options.output_dir,
                long,
                options.model,
                method=options.voxelwise,
                smoothing_mm=options.smoothing_mm,
                controls=controls,
                relative_to=options.relative_to or '',
            )
        )
    if options.study_template:
        from bids_qsm.cohort_images import run_study_template

        template = run_study_template(
            options.output_dir, iterations=options.study_template, table=long, n_jobs=options.nprocs
        )
        if options.relative_to:
            template['notes'].append('The maps were averaged as they are; --relative-to does not shift them.')
        pictures.append(template)
    return pictures


def _tables(out, pattern, subjects, sessions):
    # * alone would match what a killed run left half-written, whose names begin with a dot
    paths = sorted(out.glob(f'sub-*/**/{pattern}'))
    wanted = [(entities_of(path.name), path) for path in paths]
    return [
        path
        for entities, path in wanted
        if (not subjects or entities.get('sub') in subjects)
        and (not sessions or entities.get('ses') in sessions)
    ]


def _scans_of(folder):
    return sorted([*folder.glob('sub-*_scans.tsv'), *folder.glob('ses-*/sub-*_scans.tsv')])


def _read_input(path):
    try:
        table = read_table(path, dtype=dict.fromkeys(_LABELS, str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} is no table of tab-separated values ({reason}); mend it.') from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for names of the rows
        raise UserError(f'{path} is no table: its rows have more values than there are columns; mend it.')
    return table


def _dictionary_of(path):
    described = read_json(path.with_suffix('.json'), {})
    return {key: value for key, value in described.items() if isinstance(value, dict)}


def _residual_columns(described):
    own = {
        'participant_id': 'Label of the participant.',
        'session_id': 'Label of the session.',
        'fitted': "Value that the fixed effects of the model predict, without the participant's intercept.",
        'residual': "Measured value less fitted; of a mixed model the participant's intercept is in it.",
        'units': 'Unit of the values.',
    }
    return {**described, **{key: {'Description': text} for key, text in own.items()}}


def _write(out, found):
    """Write the tables that were found and remove those that an earlier run left; return their paths."""
    files = {}
    for kind, name in FILES.items():
        table, described = found.get(kind, (pd.DataFrame(), {}))
        if len(table.columns):
            _save(out / name, table, {column: described[column] for column in table})
            files[kind] = name
        else:
            (out / name).unlink(missing_ok=True)
            (out / name).with_suffix('.json').unlink(missing_ok=True)
    return files


def _save(path, table, described):
    write_json(path.with_suffix('.json'), described)
    atomic_write(path, lambda p: table.to_csv(p, sep='\t', index=False, na_rep='n/a'))
