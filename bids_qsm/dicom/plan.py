"""Which series belong together, and what they are called."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from bids_qsm.dicom.classify import Kind, kind_of, kind_without_phase
from bids_qsm.dicom.headers import CORRECTED, NEAR, Found, Group
from bids_qsm.dicom.table import SKIP, UNCLEAR, Row
from bids_qsm.errors import UserError

TOGETHER = 1.0
"""Parts of one acquisition start within so many seconds."""

SAME_ECHO = 0.0015
"""Echo times that differ by less (ms) are the same: headers round them."""

Unit = list[Group]
"""Groups of one acquisition."""


def make_rows(found: Found, known: Sequence[Row], subject: str | None, session: str | None) -> list[Row]:
    """The rows of the table for what was found, those that are known first.

    Parameters
    ----------
    found : Found
    known : sequence of Row
        Rows of the table; a name that is decided there is kept.
    subject, session : str, optional
        Labels that the user gave.

    Raises
    ------
    UserError
        Where one label was given for several patients or studies, or the table contradicts itself.
    """
    groups = {(group.series_uid, group.part or 'unknown'): group for group in found.groups}
    rows = [replace(row, found=groups.get(row.key)) for row in known]
    labels = _labels(found.groups, rows, subject, session)
    there = {row.key for row in rows}
    for key, group in groups.items():
        if key not in there:
            rows.append(Row(*key, *labels[group.code, group.study], found=group))
    for row in rows:
        if row.found is not None:
            row.others = _about(row.group)
    _require_one_subject(rows)
    undecided = [row for row in rows if row.name == UNCLEAR and row.found is not None]
    taken = {row.stem for row in rows if row.is_used}
    _decide(undecided, taken)
    return rows


def _about(group: Group) -> dict[str, str]:
    return {
        'series_number': str(group.series_number),
        'echo_times_ms': ', '.join(f'{time:g}' for time in sorted(group.echoes)),
        'size': ' x '.join(map(str, group.size)),
        'description': group.text('SeriesDescription'),
        'protocol': group.text('ProtocolName'),
        'date': group.text('StudyDate'),
        'patient_id': group.text('PatientID'),
        'person': group.code,
        'study_uid': group.study,
    }


def _labels(
    groups: Sequence[Group], rows: Sequence[Row], subject: str | None, session: str | None
) -> dict[tuple[str, str], tuple[str, str]]:
    """Subject and session of each study of each person: those of the table, else the next free number."""
    studies: dict[str, list[str]] = defaultdict(list)
    for group in sorted(groups, key=lambda one: (one.person, one.order)):
        if group.study not in studies[group.code]:
            studies[group.code].append(group.study)
    if subject is not None and len(studies) > 1:
        raise UserError(
            f'--participant-label {subject} was given, but the folder holds {len(studies)} patients; leave '
            'it out, or give the folder of one of them.'
        )
    if session is not None and any(len(own) > 1 for own in studies.values()):
        raise UserError(
            f'--session-label {session} was given, but the folder holds several studies of a patient; leave '
            'it out, or give the folder of one of them.'
        )
    told = [replace(row, others=row.others if row.found is None else _about(row.group)) for row in rows]
    known = {(row.others.get('person', ''), row.others.get('study_uid', '')): row for row in told}
    pairs = {*known, *((code, study) for code, own in studies.items() for study in own)}
    has_sessions = len({code for code, _ in pairs}) < len(pairs) or any(row.session for row in rows)
    subjects = {code: row.subject for (code, _), row in known.items() if code}
    used = {row.subject for row in rows}
    labels = {}
    for code, own in studies.items():
        label = subjects.get(code, subject)
        if label is None:
            width = max(2, len(str(len(studies))))
            label = next(name for n in count(1) if (name := f'{n:0{width}d}') not in used)
        used.add(label)
        sessions = {row.session for row in rows if row.subject == label}
        for study in own:
            row = known.get((code, study))
            name = row.session if row else session or ''
            if not name and row is None and has_sessions:
                name = next(number for n in count(1) if (number := str(n)) not in sessions)
            sessions.add(name)
            labels[code, study] = row.subject if row else label, name
    return labels


def _require_one_subject(rows: Sequence[Row]):
    persons: dict[str, Row] = {}
    subjects: dict[str, Row] = {}
    for row in rows:
        if row.name == SKIP:
            continue
        other = persons.setdefault(row.others.get('person') or row.series_uid, row)
        if other.subject != row.subject:
            numbers = f'{other.others.get("series_number")} and {row.others.get("series_number")}'
            raise UserError(
                f'the table gives the images of one patient to sub-{other.subject} and to sub-{row.subject} '
                f'(series {numbers}); give them one subject.'
            )
        other = subjects.setdefault(row.subject, row)
        if bool(other.session) != bool(row.session):
            raise UserError(
                f'sub-{row.subject} has series with a session and series without one in the table; give '
                'each a session.'
            )


def _decide(rows: list[Row], taken: set[tuple]):
    """Give each row its name and a note; names that are ``taken`` are not given again."""
    by_group = {row.group: row for row in rows}
    kinds = {row.group: _kind(row) for row in rows}
    units: list[tuple[Unit, str]] = []
    by_study = defaultdict(list)
    for row in rows:
        by_study[row.group.study, row.subject, row.session].append(row.group)
    for groups in by_study.values():
        whole = []
        for group in groups:
            row, kind = by_group[group], kinds[group]
            row.name, row.note = (SKIP, kind.reason) if not kind.suffix else (UNCLEAR, '')
            problem = _defect(group, kind) if kind.suffix else ''
            if problem:
                is_wanted = kind.suffix == 'GRE' and any(_is_half(one, group) for one in groups)
                row.name, row.note = UNCLEAR if is_wanted else SKIP, problem
            elif kind.suffix:
                whole.append(group)
        for suffix in ('GRE', 'bold'):
            own = [group for group in whole if kinds[group].suffix == suffix]
            found, notes = _units(own, needs_phase=suffix == 'GRE')
            for group, (name, note) in notes:
                by_group[group].name, by_group[group].note = name, note
            units += [(unit, suffix) for unit in found]
        for group in whole:  # magnitudes that no phase goes with
            row = by_group[group]
            if kinds[group].suffix == 'GRE' and row.note == _ALONE:
                kind = kind_without_phase(group)
                kinds[group] = kind
                row.name, row.note = SKIP, kind.reason
        for suffix in ('T1w', 'FLAIR'):
            own = [group for group in whole if kinds[group].suffix == suffix]
            for group in _without_copies(own, by_group):
                units.append(([group], suffix))
    _name(units, by_group, taken)


def _kind(row: Row) -> Kind:
    kind = kind_of(row.group, row.group.volumes)
    # which part it is, is asked for
    return Kind('GRE') if row.group.part is None and kind.suffix else kind


def _defect(group: Group, kind: Kind) -> str:
    """Why images cannot be one volume for each echo, '' where they can."""
    if group.part is None:
        return (
            'its header does not tell for sure whether it is magnitude or phase; write part-mag_MEGRE or '
            'part-phase_MEGRE'
        )
    if 'MOSAIC' in group.words:
        return '' if kind.suffix == 'bold' else 'it holds mosaics'
    if len(group.places) < 2:
        return 'it has a single slice'
    if not group.is_even or group.volumes == 0:
        return 'slices are missing; copy the series again'
    if kind.suffix != 'bold' and group.volumes > 1:
        what = 'repetitions, receive coils, or echoes whose times the header does not tell'
        return f'it holds {group.volumes} images of each slice ({what})'
    return ''


def _is_half(one: Group, other: Group) -> bool:
    """Whether an image of a protocol shows more than magnitudes, so that a map could be made."""
    return one.part != 'mag' and one.text('ProtocolName') == other.text('ProtocolName')


def difference(one: Group, other: Group) -> str:
    """What tells that two groups are not parts of one acquisition, in words; '' for nothing."""
    if one.study != other.study:
        return 'they are of two studies'
    if set(one.geometry_words) != set(other.geometry_words):
        return f'only one is corrected for distortion ({" or ".join(CORRECTED[:2])})'
    frames = one.text('FrameOfReferenceUID'), other.text('FrameOfReferenceUID')
    if one.size != other.size or frames[0] != frames[1]:
        return 'they differ in size or in their frame of reference'
    places = zip(
        (one.facts['ImageOrientationPatient'], one.facts['PixelSpacing']),
        (other.facts['ImageOrientationPatient'], other.facts['PixelSpacing']),
        strict=True,
    )
    near = all(np.allclose(np.asarray(a, float), np.asarray(b, float), atol=1e-3) for a, b in places)
    if not near or np.abs(one.corners - other.corners).max() > 2 * NEAR:
        return 'they differ in place'
    times = sorted(one.echoes), sorted(other.echoes)
    if len(times[0]) != len(times[1]) or not np.allclose(*times, rtol=0, atol=SAME_ECHO):
        said = ' and '.join(', '.join(f'{time:g}' for time in some) for some in times)
        return f'their echo times differ ({said} ms)'
    for key in ('RepetitionTime', 'FlipAngle', 'MagneticFieldStrength'):
        ours, theirs = one.number(key), other.number(key)
        if ours is not None and theirs is not None and abs(ours - theirs) > 1e-3 * abs(ours):
            return f'they differ in {key}'
    return ''


def _is_together(one: Group, other: Group) -> bool:
    """Whether nothing of names and times says that two groups are of two acquisitions."""
    if one.series_uid == other.series_uid:
        return True
    if one.text('ProtocolName') != other.text('ProtocolName'):
        return False
    apart = _seconds_apart(one, other)
    return apart is None or apart <= TOGETHER


def _seconds_apart(one: Group, other: Group) -> float | None:
    """Between the starts of two acquisitions; None where one is not known."""
    times = one.time, other.time
    return None if times[0] is None or times[1] is None else abs(times[0] - times[1])


def _may_pair(one: Group, other: Group) -> bool:
    return not difference(one, other) and _is_together(one, other)


_ALONE = 'alone'


def _units(groups: Sequence[Group], *, needs_phase: bool) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """Acquisitions, and what becomes of groups that are in none: name and note."""
    parts = defaultdict(list)
    for group in groups:
        parts[group.part].append(group)
    notes: list[tuple[Group, tuple]] = []
    pairs, torn = _pairs(parts['mag'], parts['phase'])
    complex_pairs, torn_complex = _pairs(parts['real'], parts['imag'])
    # the same acquisition may be there in both ways
    units, doubles = [list(pair) for pair in pairs], []
    for pair in complex_pairs:
        if any(_may_pair(unit[0], pair[0]) for unit in units):
            doubles += [(one, (SKIP, 'the same acquisition is there as magnitude and phase')) for one in pair]
        else:
            own, _ = _pairs(parts['mag'], pair[:1])
            units.append([*pair, *(mag for mag, _ in own)])
    notes += doubles
    used = {group for unit in units for group in unit} | {group for group, _ in doubles}
    torn = [group for group in (*torn, *torn_complex) if group not in used]
    for group in torn:
        listed = ', '.join(one.label for one in groups if one is not group and _may_pair(one, group))
        note = f'it fits {listed}; write skip for all but one pair, or name runs (run-1_MEGRE)'
        notes.append((group, (UNCLEAR, note)))
    used |= set(torn)
    for group in groups:
        if group in used:
            continue
        if group.part == 'mag':
            if needs_phase:
                notes.append((group, (SKIP, _ALONE)))
            else:
                units.append([group])
        else:
            notes.append((group, _lonely(group, groups)))
    return (_joined(units) if needs_phase else units), notes


def _pairs(first: Sequence[Group], second: Sequence[Group]) -> tuple[list[tuple[Group, Group]], list[Group]]:
    """Pairs of two parts of one acquisition that are beyond doubt, and the groups that are in doubt."""
    edges = [(a, b) for a in first for b in second if _may_pair(a, b)]
    same = [(a, b) for a, b in edges if a.series_uid == b.series_uid]
    settled = {one for pair in same for one in pair}
    edges = same + [(a, b) for a, b in edges if not {a, b} & settled]
    degree = defaultdict(int)
    for pair in edges:
        for one in pair:
            degree[one] += 1
    pairs = [(a, b) for a, b in edges if degree[a] == degree[b] == 1]
    sure = {one for pair in pairs for one in pair}
    doubtful = {one: one for pair in edges for one in pair if one not in sure}
    return pairs, list(doubtful.values())


def _lonely(group: Group, groups: Iterable[Group]) -> tuple[str, str]:
    """Name and note of a phase, a real or an imaginary part without its other half."""
    other = {'phase': 'mag', 'real': 'imag', 'imag': 'real'}[group.part or 'phase']
    near = [one for one in groups if one.part == other and one.study == group.study]
    same = [one for one in near if one.text('ProtocolName') == group.text('ProtocolName')]
    for one in same:
        if group.part == 'phase' and set(group.echoes) < set(one.echoes) and len(group.echoes) == 1:
            return SKIP, f'a phase difference of a field map, with {one.label}: it is not used'
    if not near:
        what = 'magnitude' if other == 'mag' else f'{other} part'
        return UNCLEAR, f'there is no {what} beside it; write skip to leave it out'
    one = min(same or near, key=lambda one: abs(one.series_number - group.series_number))
    why = difference(one, group)
    if not why and one.text('ProtocolName') != group.text('ProtocolName'):
        why = 'they are of two protocols'
    apart = _seconds_apart(one, group)
    if not why and (apart is None or apart <= TOGETHER):
        why = 'that has its other half already'
    why = why or f'they were acquired {apart:.0f} s apart'
    mend = 'give both one name if they belong together, or write skip'
    return UNCLEAR, f'the nearest is {one.label}, but {why}; {mend}'


def _joined(units: list[Unit]) -> list[Unit]:
    """Units of one echo each that were acquired together, as one: echoes may be series of their own."""
    joined: list[Unit] = []
    for unit in units:
        for other in joined:
            echoes = {time for one in other if one.part == unit[0].part for time in one.echoes}
            if (
                len(unit[0].echoes) == 1
                and not set(unit[0].echoes) & echoes
                and {one.part for one in unit} == {one.part for one in other}
                and None not in (unit[0].time, other[0].time)
                and _is_together(unit[0], other[0])
                and len(other[0].echoes) == 1
                and not _difference_but_echoes(unit[0], other[0])
            ):
                other += unit
                break
        else:
            joined.append(list(unit))
    return joined


def _difference_but_echoes(one: Group, other: Group) -> str:
    alike = replace(other, echoes={next(iter(one.echoes)): next(iter(other.echoes.values()))})
    return difference(one, alike)


def _without_copies(groups: list[Group], by_group: dict[Group, Row]) -> list[Group]:
    """Without further images of the same acquisition: the normalised, or the first, is kept."""
    kept: list[Group] = []
    for group in sorted(groups, key=lambda one: ('NORM' not in one.words, one.order)):
        apart = [(_seconds_apart(one, group), one) for one in kept]
        same = [one for seconds, one in apart if seconds is not None and seconds < TOGETHER]
        if same:
            row = by_group[group]
            row.name, row.note = SKIP, f'the same acquisition as {same[0].label}'
        else:
            kept.append(group)
    return kept


def label_of(text: str) -> str:
    """A label made of a text.

    >>> label_of('QSM_gre 3D (1mm)')
    'QSMgre3D1mm'
    """
    return re.sub('[^0-9A-Za-z]', '', text)[:30]


def _name(units: list[tuple[Unit, str]], by_group: dict[Group, Row], taken: set[tuple]):
    """Names of the units; acq- where a session has several protocols of a kind, run- where one recurs."""
    named = []
    for unit, kind in units:
        row = by_group[unit[0]]
        times = {time for group in unit for time in group.echoes}
        suffix = ('MEGRE' if len(times) > 1 else 'T2starw') if kind == 'GRE' else kind
        task = f'task-{_task(unit[0])}_' if kind == 'bold' else ''
        named.append((unit, row, task, suffix, _protocol(unit[0])))
    several = defaultdict(set)
    for _, row, task, suffix, protocol in named:
        several[row.subject, row.session, task, suffix].add(protocol)
    with_acq = {(task, suffix) for (_, _, task, suffix), own in several.items() if len(own) > 1}
    runs = defaultdict(list)
    for unit, row, task, suffix, protocol in named:
        acq = f'acq-{protocol}_' if (task, suffix) in with_acq else ''
        runs[row.subject, row.session, f'{task}{acq}', suffix].append((unit, row))
    for (_, _, start, suffix), own in sorted(runs.items(), key=lambda item: item[0]):
        own.sort(key=lambda pair: (pair[0][0].order[:3], pair[0][0].time or 0, pair[0][0].series_number))
        numbers = count(1)
        for unit, row in own:
            name = f'{start}{suffix}'
            if len(own) > 1 or replace(row, name=name).stem in taken:
                name = next(
                    tried
                    for n in numbers
                    if replace(row, name=(tried := f'{start}run-{n}_{suffix}')).stem not in taken
                )
            for group in unit:
                by_group[group].name, by_group[group].note = name, ''


def _protocol(group: Group) -> str:
    """Label of the protocol; without its name where that tells who the patient is."""
    text = group.text('ProtocolName') or group.text('SeriesDescription')
    label = label_of(text)
    return label if label and not names_person(text, group.person) else f'series{group.series_number}'


def _task(group: Group) -> str:
    text = group.text('ProtocolName') or group.text('SeriesDescription')
    found = re.search('task[-_]?([0-9A-Za-z]+)', text)
    if names_person(text, group.person):
        return f'series{group.series_number}'
    if found:
        return found[1]
    return 'rest' if re.search('rest', text, re.IGNORECASE) else label_of(text) or 'unknown'


def names_person(text: str, person: Sequence[str]) -> bool:
    """Whether a text holds a name, the ID or the date of birth of a patient.

    >>> person = ('77', 'Mustermann^Erika', '19640812')
    >>> names_person('QSM for Mustermann', person), names_person('QSM 77', person)
    (True, False)
    """
    words = [*re.split(r'[\^=\s,]+', person[1]), person[0], person[2]]
    return any(len(word) > 2 and word.lower() in text.lower() for word in words)
