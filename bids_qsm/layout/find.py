"""From a BIDS dataset to the series to run."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.entities import ENTITIES, entities_of, is_label, join_entities, suffix_of
from bids_qsm.errors import UserError, plain
from bids_qsm.layout import checks
from bids_qsm.layout.ancillary import find_ancillary
from bids_qsm.layout.bidsignore import BidsIgnore
from bids_qsm.layout.dataset import require_dataset, require_places
from bids_qsm.layout.index import Index
from bids_qsm.layout.inputs import chosen
from bids_qsm.layout.lookalikes import named_otherwise, other_half
from bids_qsm.layout.maps import with_maps
from bids_qsm.layout.people import read_participants
from bids_qsm.layout.protocol import common_protocol, without_protocol
from bids_qsm.layout.query_files import is_outside_bids
from bids_qsm.layout.series import BOLD, Rejected, Series, read_series, series_of
from bids_qsm.layout.validator import validate
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import needs

if TYPE_CHECKING:
    from bids_qsm.app.options import Options

SUFFIXES = ('MEGRE', 'T2starw', 'GRE', 'MPM', 'T1w')
"""Suffixes that a series may have; T1w only of a gradient echo with phase (a legacy name)."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    series: tuple[Series, ...]
    rejected: tuple[Rejected, ...]
    dataset_name: str
    notes: tuple[str, ...] = ()


def find_series(options: 'Options', own: tuple[str, ...] | None = None) -> Plan:
    """The series that ``options`` ask for, each checked; UserError where there is none to speak of.

    ``own`` are the participants to look at where others run the rest; what these lack others may have.
    """
    description = require_dataset(options.bids_dir)
    require_places(options.bids_dir, options.output_dir, options.work_dir)
    filters = _read_filters(options.bids_filter_file)
    everyone = participants(options)
    is_part = own is not None
    subjects = own if is_part else everyone
    for name, folder in options.derivatives:
        if not folder.is_dir():
            raise UserError(f'--derivatives {name}={folder}: {folder} is not a folder.')
    name = plain(description.get('Name') or options.bids_dir.name)
    if not subjects:
        return Plan((), (), name)
    index = Index(options.bids_dir, subjects, options.bids_database_dir)
    _require_sessions(index, options, is_part)
    notes = _odd_folders(options) if everyone[0] in subjects else ()  # once, of several parts

    is_bold = options.start_from == 'bold'
    suffixes, chosen = ((BOLD,), filters['bold']) if is_bold else (SUFFIXES, filters['megre'])
    groups, said = _of_one_folder(_groups(suffixes, chosen, index, options, is_part))
    notes += said
    runs = [] if is_bold else [*_groups((BOLD,), filters['bold'], index, options, is_part)]
    if runs:
        first, more = join_entities(runs[0][0]), f' and {len(runs) - 1} more' if len(runs) > 1 else ''
        notes += (
            f'{first}{more}: BOLD with phase is left alone; --start-from bold makes maps of it instead.',
        )

    series, rejected = [], _odd_names(index, suffixes, options)
    echoes_chosen = 'echo' in chosen
    protocol = {'echo_window': options.echo_window or '', 'voxel_size': options.voxel_size or ''}
    for (entities, suffix), files in sorted(groups.items()):
        found = read_series(entities, suffix, files, index.sidecar_problem, echoes_chosen)
        if isinstance(found, Series):
            found = common_protocol(found, **protocol)
        if isinstance(found, Rejected) and found.is_error:
            found = _with_hint(found, [path for path, _ in files], groups, index)
        (series if isinstance(found, Series) else rejected).append(found)
    series, doubles = _without_doubles(series)
    rejected += doubles
    in_pairs = {path for one in series for path in one.files}
    images = {
        suffix: [
            path
            for path in index.images((suffix,), filters[suffix.lower()], is_part=is_part)
            if path not in in_pairs and checks.part_of(path, index.metadata(path)) == 'mag'
        ]
        for suffix in ('T1w', 'FLAIR')
    }
    if options.mask.name == 'file' and '{' not in options.mask.as_dict['path'] and len(series) > 1:
        raise UserError(
            f'--mask {options.mask.as_dict["path"]} names one file for {len(series)} series; put {{series}} '
            'where their names stand.'
        )
    if 'r2star' in needs(find_method(INVERSION, options.inversion.name), optional=False):
        single = [one for one in series if len(one.echo_times) == 1]
        series = [one for one in series if len(one.echo_times) > 1]
        reason = f'--inversion {options.inversion.name} needs R2*, and so two echoes or more; choose another.'
        rejected += [Rejected(one.name, f'{one.files[0].name}: {reason}', True) for one in single]
    if is_bold:
        reason = '--start-from bold asks for a run with phase (part-phase_bold), and there is none; add it.'
        known = {one.subject for one in series} | {_subject_of(one) for one in rejected}
        rejected += [Rejected(f'sub-{one}', reason, True) for one in subjects if one not in known]
    else:
        series, rejected = with_maps(series, rejected, subjects, options, index)
        series = [without_protocol(one, **protocol) if one.given else one for one in series]
    series, failed = _with_ancillary(series, images, options, index)
    rejected += failed
    if not series and not rejected and not is_part:
        raise UserError(
            f'{options.bids_dir} has no series to run: nothing that was asked for has files named '
            f'*_part-mag_MEGRE and *_part-phase_MEGRE.{" " if runs else ""}{notes[-1] if runs else ""}'
            + ''.join(f' {note}' for note in _left_out(index) + _elsewhere(index, subjects)[:1])
        )
    notes += _left_out(index)
    notes += _elsewhere(
        index, set(subjects) - {entities_of(one.name).get('sub') for one in (*series, *rejected)}
    )
    if not options.skip_bids_validation:
        notes += validate(options.bids_dir, series, rejected, subjects)
    return Plan(tuple(series), tuple(sorted(rejected, key=lambda r: r.name)), name, notes)


def _read_filters(path: Path | None) -> dict[str, dict]:
    filters = {'megre': {}, 'bold': {}, 't1w': {}, 'flair': {}}
    if path is None:
        return filters
    try:
        given = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'the BIDS filter file {path} cannot be read: {error}.') from None
    rule = (
        'it must map "megre", "bold", "t1w" or "flair" to entities, such as '
        '{"megre": {"acquisition": "highres"}}.'
    )
    if not isinstance(given, dict):
        raise UserError(f'the BIDS filter file {path} is no JSON object; {rule}')
    for key, entities in given.items():
        if key not in filters or not isinstance(entities, dict):
            raise UserError(f'the BIDS filter file {path} names {key!r}; {rule}')
        filters[key] = {ENTITIES.get(k, k): v for k, v in entities.items()}
    return filters


def participants(options: 'Options') -> tuple[str, ...]:
    """Labels of the participants that ``options`` name, all of the dataset where they name none."""
    labels = (p.name.removeprefix('sub-') for p in options.bids_dir.glob('sub-*') if p.is_dir())
    ignores = BidsIgnore(options.bids_dir)
    present = sorted(
        label for label in labels if is_label(label) and not ignores.whole(options.bids_dir / f'sub-{label}')
    )
    if not present:
        raise UserError(f'{options.bids_dir} holds no participant: no folder is named sub-<label>.')
    missing = [label for label in options.participant_label if label not in present]
    if missing:
        listed = ', '.join(present[:12]) + (', ...' if len(present) > 12 else '')
        raise UserError(f'{options.bids_dir} has no participant {missing[0]!r}; it has: {listed}.')
    return options.participant_label or tuple(present)


def _groups(
    suffixes: tuple[str, ...], filters: dict, index: Index, options: 'Options', is_part: bool
) -> dict[tuple, list[tuple[Path, dict]]]:
    """Images of each series, with their metadata, by (entities, suffix).

    A T1w without phase, or prepared by an inversion pulse, is an anatomical image, and a BOLD run without
    phase one like most others.
    """
    groups = defaultdict(list)
    for path in index.images(suffixes, filters, options.session_label, is_part=is_part):
        groups[series_of(path), suffix_of(path)].append((path, index.metadata(path)))
    return {key: files for key, files in groups.items() if _is_series(key[1], files)}


def _of_one_folder(groups: dict[tuple, list]) -> tuple[dict[tuple, list], tuple[str, ...]]:
    """The same, where each series has the files of one folder, and notes on what is left out for it.

    Images in swi/ are used where anat/ has none of their entities, of whatever suffix, or none with phase
    while these are whole.
    """
    kept, places, notes = {}, defaultdict(lambda: defaultdict(dict)), []
    for (entities, suffix), files in groups.items():
        for item in files:
            folder = item[0].parent.name
            places[entities][folder].setdefault(suffix, []).append(item)
    for entities, folders in places.items():
        swi = folders.pop('swi', {})
        anat = {suffix: files for own in folders.values() for suffix, files in own.items()}
        if not swi or not anat:
            kept |= {(entities, suffix): files for suffix, files in (swi or anat).items()}
            continue
        is_swi = any(map(_is_whole, swi.values())) and not any(map(_has_phase, anat.values()))
        used, other = (swi, anat) if is_swi else (anat, swi)
        kept |= {(entities, suffix): files for suffix, files in used.items()}
        first, lost = (next(iter(own.values()))[0][0] for own in (used, other))
        count = sum(map(len, other.values()))
        more = f' and {count - 1} more' if count > 1 else ''
        notes.append(
            plain(
                f'{lost.parent.name}/{lost.name}{more}: not used, as the images of these labels in '
                f'{first.parent.name}/ are, such as {first.name}; to use both, tell them apart by acq-.'
            )
        )
    return kept, tuple(notes)


def _is_whole(files: list[tuple[Path, dict]]) -> bool:
    return _has_phase(files) and bool({checks.part_of(*item) for item in files} & {'mag', 'real'})


def _is_series(suffix: str, files: list[tuple[Path, dict]]) -> bool:
    if suffix not in ('T1w', BOLD):
        return True
    return _has_phase(files) and not (suffix == 'T1w' and _is_prepared(files))


def _subject_of(one: Rejected) -> str:
    return entities_of(one.name)['sub']


def _odd_names(index: Index, suffixes: tuple[str, ...], options: 'Options') -> list[Rejected]:
    """Rejected for each subject with files or folders that cannot be used; a T1w image is only skipped."""
    odd, found = defaultdict(list), []
    for path, subject, suffix, problem in index.odd_names(suffixes, options.session_label):
        if suffix == 'T1w' and '_part-' not in path.name:
            found.append(Rejected(path.name.partition('.nii')[0], problem, False))
        else:
            odd[subject].append(problem)
    for subject, problems in odd.items():
        others = len(problems) - 1
        more = f' {others} more of its files or folders cannot be used.' if others else ''
        found.append(Rejected(f'sub-{subject}', f'{problems[0]}{more}', True))
    return found


def _odd_folders(options: 'Options') -> tuple[str, ...]:
    """Notes on folders that look like a participant's and are not."""
    if options.participant_label:
        return ()
    folders = [path.name for path in sorted(options.bids_dir.glob('sub-*')) if path.is_dir()]
    return tuple(
        f'The folder {plain(name)} is left out: its name is not sub- and a label of letters and digits.'
        for name in folders
        if not is_label(name.removeprefix('sub-'))
    )


def _require_sessions(index: Index, options: 'Options', is_part: bool):
    present = sorted(index.sessions)
    missing = [label for label in options.session_label if label not in present]
    for _, root in options.derivatives:  # series may start from maps there
        missing = [label for label in missing if not any(root.glob(f'sub-*/ses-{label}'))]
    if is_part:  # another participant may have it
        missing = [label for label in missing if not any(options.bids_dir.glob(f'sub-*/ses-{label}'))]
    if missing:
        listed = ', '.join(present) or 'none'
        raise UserError(f'{options.bids_dir} has no session {missing[0]!r}; its sessions: {listed}.')


def _has_phase(files: list[tuple[Path, dict]]) -> bool:
    return any(checks.part_of(path, metadata) in ('phase', 'imag') for path, metadata in files)


def _is_prepared(files: list[tuple[Path, dict]]) -> bool:
    """Whether an inversion pulse goes before the echo, as in MPRAGE: its phase tells little of the field."""
    return any(checks.is_inversion_recovery(metadata) for _, metadata in files)


def _with_hint(one: Rejected, files: list[Path], groups: dict[tuple, list], index: Index) -> Rejected:
    """The same, with a word on images that may be the part that is missing."""
    parts = {entities_of(path).get('part', 'mag') for path in files}
    lacking = [part for part in ('mag', 'phase') if part not in parts]
    if len(lacking) != 1 or 'imag' in parts:
        return one
    first = files[0]
    labels = entities_of(first)
    others = [
        path
        for paths in groups.values()
        for path, _ in paths
        if path not in files and all(entities_of(path).get(k) == labels.get(k) for k in ('sub', 'ses'))
    ]
    hint = other_half(files, others, tuple(lacking))
    if not hint and lacking == ['phase']:
        hint = named_otherwise(first.parent.parent, index.ignores, first)
    return replace(one, reason=f'{one.reason} {hint}') if hint else one


def _left_out(index: Index) -> tuple[str, ...]:
    paths = [path for path in index.left_out if not is_outside_bids(path)]
    more = f'{len(paths)} images are' if len(paths) > 1 else 'An image is'
    return (f'{more} left out by .bidsignore, such as {plain(paths[0].name)}.',) if paths else ()


def _elsewhere(index: Index, subjects: Iterable[str]) -> tuple[str, ...]:
    """Notes on participants without a series who have images of that kind under other names."""
    notes = []
    for subject in sorted(subjects):
        top = index.root / f'sub-{subject}'
        try:
            folders = [top, *sorted(path for path in top.glob('ses-*') if path.is_dir())]
        except OSError:
            continue
        hint = next(filter(None, (named_otherwise(folder, index.ignores) for folder in folders)), '')
        if hint:
            notes.append(plain(f'sub-{subject} has no series: {hint}'))
    return tuple(notes)


def _without_doubles(series: list[Series]) -> tuple[list[Series], list[Rejected]]:
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


def _with_ancillary(
    series: list[Series], images: dict[str, list[Path]], options: 'Options', index: Index
) -> tuple[list[Series], list[Rejected]]:
    done, failed = [], []
    asked = any('participant' in app.arguments for app in chosen(options))
    people = read_participants(options.bids_dir) if asked else None
    by_subject = {'series': defaultdict(list), 'T1w': defaultdict(list), 'FLAIR': defaultdict(list)}
    for one in series:
        by_subject['series'][one.subject].append(one)
    for suffix, paths in images.items():
        for path in paths:
            by_subject[suffix][entities_of(path)['sub']].append(path)
    for subject, own in sorted(by_subject['series'].items()):
        t1w, flair = by_subject['T1w'][subject], by_subject['FLAIR'][subject]
        try:
            for one, extra in find_ancillary(own, t1w, flair, people, options, index):
                if isinstance(extra, Rejected):
                    failed.append(extra)
                else:
                    done.append(replace(one, **{**extra, 'notes': tuple(map(plain, extra['notes']))}))
        except UserError as error:  # concerns the subject as a whole
            known = {one.name for one in failed}
            failed += [Rejected(one.name, str(error), True) for one in own if one.name not in known]
    return done, failed
