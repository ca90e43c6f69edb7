"""From a BIDS dataset to the series to run."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.ancillary import find_ancillary
from bids_qsm.layout.dataset import require_dataset, require_places, require_space, validate
from bids_qsm.layout.names import LONG_NAMES, entities_of, suffix_of
from bids_qsm.layout.series import Rejected, Series, read_series

SUFFIXES = ('MEGRE', 'T2starw', 'GRE', 'T1w')
"""Suffixes that a series may have; T1w only where there is phase beside it (a legacy name)."""

NEED_DECAY = ('medi0',)
"""Methods of inversion that find fluid by its R2*."""

_SKIPPED = r'/(derivatives|code|sourcedata|stimuli|models|func|dwi|perf|pet|eeg|ieeg|meg|nirs|micr|beh)(/|$)'


@dataclass(frozen=True)
class Plan:
    """What to run."""

    series: tuple[Series, ...]
    rejected: tuple[Rejected, ...]
    dataset_name: str
    notes: tuple[str, ...] = ()


def find_series(options) -> Plan:
    """The series that ``options`` ask for, each checked; UserError where there is none to speak of."""
    description = require_dataset(options.bids_dir)
    require_places(options.bids_dir, options.output_dir, options.work_dir)
    filters = _read_filters(options.bids_filter_file)
    subjects = _subjects(options)
    for name, folder in options.derivatives:
        if not folder.is_dir():
            raise UserError(f'--derivatives {name}={folder}: {folder} is not a folder.')
    bad_sidecars = _bad_sidecars(options.bids_dir, subjects)
    layout = _index(options.bids_dir, subjects, bad_sidecars)
    _require_sessions(layout, options)

    groups = defaultdict(list)
    for file in _query(layout, filters['megre'], options.session_label, suffix=list(SUFFIXES)):
        path = Path(file.path)
        entities = tuple((k, v) for k, v in entities_of(path) if k not in ('echo', 'part'))
        groups[entities, suffix_of(path)].append((path, file.get_metadata()))
    is_t1w = [key for key, files in groups.items() if key[1] == 'T1w' and not _has_phase(files)]
    for key in is_t1w:
        del groups[key]

    series, rejected = [], []
    echoes_chosen = 'echo' in filters['megre']
    for (entities, suffix), files in sorted(groups.items()):
        found = read_series(entities, suffix, files, bad_sidecars, echoes_chosen)
        (series if isinstance(found, Series) else rejected).append(found)
    series, doubles = _without_doubles(series)
    rejected += doubles
    in_pairs = {path for one in series for path in one.files}
    images = {
        suffix: [
            path
            for path in (Path(f.path) for f in _query(layout, filters[suffix.lower()], (), suffix=suffix))
            if path not in in_pairs and dict(entities_of(path)).get('part', 'mag') == 'mag'
        ]
        for suffix in ('T1w', 'FLAIR')
    }
    if options.mask.name == 'file' and '{' not in options.mask.as_dict['path'] and len(series) > 1:
        raise UserError(
            f'--mask {options.mask.as_dict["path"]} names one file for {len(series)} series; put {{series}} '
            'where their names stand.'
        )
    if options.inversion.name in NEED_DECAY:
        single = [one for one in series if len(one.echo_times) == 1]
        series = [one for one in series if len(one.echo_times) > 1]
        reason = f'--inversion {options.inversion.name} needs R2*, and so two echoes or more; choose another.'
        rejected += [Rejected(one.name, f'{one.files[0].name}: {reason}', True) for one in single]
    series, failed = _with_ancillary(series, images, options)
    rejected += failed
    if not series and not rejected:
        raise UserError(
            f'{options.bids_dir} has no series to run: nothing that was asked for has files named '
            '*_part-mag_MEGRE and *_part-phase_MEGRE.'
        )
    notes = ()
    if not options.skip_bids_validation:
        notes = validate(options.bids_dir, rejected, subjects)
    if not options.reports_only:
        require_space(series, options)
    name = str(description.get('Name') or options.bids_dir.name)
    return Plan(tuple(series), tuple(sorted(rejected, key=lambda r: r.name)), name, notes)


def _read_filters(path):
    filters = {'megre': {}, 't1w': {}, 'flair': {}}
    if path is None:
        return filters
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'the BIDS filter file {path} cannot be read: {error}.') from None
    rule = 'it must map "megre", "t1w" or "flair" to entities, such as {"megre": {"acquisition": "highres"}}.'
    if not isinstance(given, dict):
        raise UserError(f'the BIDS filter file {path} is no JSON object; {rule}')
    for key, entities in given.items():
        if key not in filters or not isinstance(entities, dict):
            raise UserError(f'the BIDS filter file {path} names {key!r}; {rule}')
        filters[key] = {LONG_NAMES.get(k, k): v for k, v in entities.items()}
    return filters


def _subjects(options):
    present = sorted(p.name.removeprefix('sub-') for p in options.bids_dir.glob('sub-*') if p.is_dir())
    if not present:
        raise UserError(f'{options.bids_dir} holds no participant: no folder is named sub-<label>.')
    missing = [label for label in options.participant_label if label not in present]
    if missing:
        listed = ', '.join(present[:12]) + (', ...' if len(present) > 12 else '')
        raise UserError(f'{options.bids_dir} has no participant {missing[0]!r}; it has: {listed}.')
    return options.participant_label or tuple(present)


def _bad_sidecars(bids_dir, subjects):
    """Sidecars that cannot be read, each with what is wrong; pybids would fail on the first for all."""
    places = [bids_dir.glob('*.json')]
    for subject in subjects:
        places += [
            bids_dir.glob(f'sub-{subject}/{deep}*.json') for deep in ('', 'anat/', 'ses-*/', 'ses-*/anat/')
        ]
    problems = ((path, checks.json_problem(path)) for place in places for path in place)
    return {path: problem for path, problem in problems if problem}


def _index(bids_dir, subjects, bad_sidecars):
    from bids import BIDSLayout, BIDSLayoutIndexer

    chosen = '|'.join(re.escape(s) for s in subjects)
    skip = [
        re.compile(_SKIPPED),
        re.compile(r'/\.'),
        re.compile(rf'^/sub-(?!({chosen})(/|$))'),
    ]
    skip += [re.compile(f'^{re.escape("/" + str(path.relative_to(bids_dir)))}$') for path in bad_sidecars]
    indexer = BIDSLayoutIndexer(validate=False, ignore=skip)
    return BIDSLayout(bids_dir, validate=False, indexer=indexer)


def _require_sessions(layout, options):
    present = layout.get_sessions()
    missing = [label for label in options.session_label if label not in present]
    if missing:
        listed = ', '.join(present) or 'none'
        raise UserError(f'{options.bids_dir} has no session {missing[0]!r}; its sessions: {listed}.')


def _query(layout, filters, sessions, *, suffix):
    from bids.layout import Query

    wanted = {'suffix': suffix, 'extension': ['.nii', '.nii.gz'], 'datatype': 'anat'}
    if sessions:
        wanted['session'] = list(sessions)
    special = {None: Query.NONE, '*': Query.REQUIRED}
    asked = {k: v if isinstance(v, list) else special.get(v, v) for k, v in filters.items()}
    known = layout.get_entities(metadata=False)
    asked = {k: v for k, v in asked.items() if v is not Query.NONE or k in known}
    try:
        return layout.get(**{**wanted, **asked}, invalid_filters='error')
    except ValueError as error:
        raise UserError(f'the BIDS filter file does not fit the dataset: {_sentence(error)}.') from None


def _sentence(error):
    return re.sub(r'\s+', ' ', str(error)).partition('. ')[0].rstrip('.')


def _has_phase(files):
    return any(dict(entities_of(path)).get('part') in ('phase', 'imag') for path, _ in files)


def _without_doubles(series):
    """Keep one series a name, the first by SUFFIXES, since outputs carry no suffix of the input."""
    kept, doubles = {}, []
    for one in sorted(series, key=lambda s: (*SUFFIXES, s.suffix).index(s.suffix)):
        if one.name in kept:
            reason = (
                f'{one.files[0].name} would be written under the names of {kept[one.name].files[0].name}; '
                'tell them apart by an acq- entity, or choose one by a BIDS filter file.'
            )
            doubles.append(Rejected(one.name, reason, True))
        else:
            kept[one.name] = one
    return sorted(kept.values(), key=lambda s: s.name), doubles


def _with_ancillary(series, images, options):
    done, failed = [], []
    for subject in sorted({one.subject for one in series}):
        own = [one for one in series if one.subject == subject]
        t1w, flair = (
            [path for path in images[suffix] if dict(entities_of(path))['sub'] == subject]
            for suffix in ('T1w', 'FLAIR')
        )
        try:
            done += [replace(one, **extra) for one, extra in find_ancillary(own, t1w, flair, options)]
        except UserError as error:  # concerns the subject as a whole
            failed += [Rejected(one.name, str(error), True) for one in own]
    return done, failed
