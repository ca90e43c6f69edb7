"""Which series belong together, and what they are called."""

import itertools
import re
import unicodedata
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
    # numbers in the order of IDs or names would tell something of these
    for group in sorted(groups, key=lambda one: (one.order[:2], one.person, one.order)):
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
    others = sorted(used & {subject} - {label for code, label in subjects.items() if code in studies})
    if others:
        raise UserError(
            f'--participant-label {subject} was given, but in the table sub-{subject} is another patient; '
            'choose another label. If it is the same person, do that with --dry-run, and write '
            f'{subject} in its place in the table.'
        )
    labels = {}
    for code, own in studies.items():
        label = subjects.get(code, subject)
        if label is None:
            width = max(2, len(str(len(studies))))
            numbers = {int(one) for one in used if one.isdecimal()}
            label = next(f'{n:0{width}d}' for n in count(1) if n not in numbers)
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
                f'sub-{row.subject} has series with a session and series without one in the table. A new '
                f'study gets a session, so those before need one: write it, such as 1, in all lines of '
                f'sub-{row.subject}, in the column session; remove its files without ses-; then run again.'
            )


def warnings_of(rows: Sequence[Row], known: Sequence[Row]) -> list[str]:
    """Sentences on new series whose studies might be of several people."""
    old = {row.key for row in known}
    unsure = {row.others['person'] for row in rows if row.found is not None and not row.found.person[2]}
    studies = defaultdict(set)
    for row in rows:  # those of earlier imports too
        if row.others.get('person') in unsure:
            studies[row.subject].add(row.others.get('study_uid'))
    new = {row.subject for row in rows if row.key not in old}
    return [
        f'sub-{subject} has {len(own)} studies without a date of birth. Their ID and name are the same; if '
        'these are not of one person (such as ANON), write a subject for each in the table, remove what was '
        'written, and run again.'
        for subject, own in sorted(studies.items())
        if subject in new and len(own) > 1
    ]


def distinct_echoes(groups: Iterable[Group]) -> list[float]:
    """Echo times (ms) of groups, sorted; those that headers round are one."""
    times: list[float] = []
    for time in sorted({time for group in groups for time in group.echoes}):
        if not times or time - times[-1] > SAME_ECHO:
            times.append(time)
    return times


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
            if kind.is_by_text and any(
                {one.part, group.part} & {'phase', 'imag'} and kinds[one].is_by_text and _may_pair(one, group)
                for one in groups
                if one.part != group.part
            ):
                note = f'{kind.reason}, but it has phase; write MEGRE or T2starw if it is to be used, or skip'
                row.name, row.note = UNCLEAR, note
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


def _is_sure(one: Group, other: Group) -> bool:
    """Whether times or numbers of series tell that two groups, which may be together, are."""
    near = abs(one.series_number - other.series_number) == 1
    return one.series_uid == other.series_uid or _seconds_apart(one, other) is not None or near


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
        same = [unit[0] for unit in units if _may_pair(unit[0], pair[0])]
        if same and not any(_is_sure(one, pair[0]) for one in same):
            torn_complex += pair
        elif same:
            doubles += [(one, (SKIP, 'the same acquisition is there as magnitude and phase')) for one in pair]
        else:
            own, _ = _pairs(parts['mag'], pair[:1])
            units.append([*pair, *(mag for mag, _ in own)])
    notes += doubles
    used = {group for unit in units for group in unit} | {group for group, _ in doubles}
    torn = [group for group in (*torn, *torn_complex) if group not in used]
    for group in torn:
        fits = [one for one in groups if one is not group and _may_pair(one, group)]
        note = f'it fits {", ".join(one.label for one in fits)}'
        if all(_seconds_apart(one, group) is None for one in fits):
            note += ', but no times tell whether they were acquired together'
        note += '; write skip for all but one pair, or name runs (run-1_MEGRE)'
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
    if needs_phase:
        units, more = _without_corrected(units)
        notes += more
        units, more = _joined(units)
        notes += more
    return units, notes


def _without_corrected(units: list[Unit]) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """One unit of each acquisition that was saved with and without correction of distortion.

    The uncorrected one is kept: the correction interpolates over the jumps of the phase.
    """
    kept: list[Unit] = []
    doubtful: list[Unit] = []
    notes: list[tuple[Group, tuple]] = []
    for unit in sorted(units, key=lambda own: (len(own[0].geometry_words), own[0].order)):
        same = [
            other
            for other in kept
            if set(other[0].geometry_words) != set(unit[0].geometry_words)
            and {one.part for one in other} == {one.part for one in unit}
            and _may_pair(_uncorrected(other[0]), _uncorrected(unit[0]))
        ]
        if not same:
            kept.append(unit)
        elif _seconds_apart(same[0][0], unit[0]) is None:
            doubtful += [unit, *same]
            note = f'it may be {same[0][0].label}, corrected for distortion; write skip, or name runs'
            notes += [(group, (UNCLEAR, note)) for group in unit]
        else:
            note = f'the same acquisition as {same[0][0].label}, corrected for distortion'
            notes += [(group, (SKIP, note)) for group in unit]
    for unit in kept:
        if any(unit is other for other in doubtful):
            note = 'a series corrected for distortion may be the same; write a name (MEGRE) to use this one'
            notes += [(group, (UNCLEAR, note)) for group in unit]
    return [unit for unit in kept if not any(unit is other for other in doubtful)], notes


def _uncorrected(group: Group) -> Group:
    return replace(group, words=tuple(word for word in group.words if word not in CORRECTED))


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
    pairs = [(a, b) for a, b in edges if degree[a] == degree[b] == 1 and _is_sure(a, b)]
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


def _joined(units: list[Unit]) -> tuple[list[Unit], list[tuple[Group, tuple]]]:
    """Units of one echo each that were acquired together, as one: echoes may be series of their own.

    Where no times tell whether they were, they are unclear.
    """
    joined: list[Unit] = []
    doubtful: list[Unit] = []
    for unit in units:
        for other in joined:
            echoes = {time for one in other if one.part == unit[0].part for time in one.echoes}
            if (
                len(unit[0].echoes) == 1
                and not set(unit[0].echoes) & echoes
                and {one.part for one in unit} == {one.part for one in other}
                and _is_together(unit[0], other[0])
                and len(other[0].echoes) == 1
                and not _difference_but_echoes(unit[0], other[0])
            ):
                if _seconds_apart(unit[0], other[0]) is None and unit[0].series_uid != other[0].series_uid:
                    doubtful += [unit, other]
                    continue
                other += unit
                break
        else:
            joined.append(list(unit))
    doubted = {group for unit in doubtful for group in unit}
    note = (
        'other series differ from it in echo time alone, and no times tell whether they are echoes of one '
        'acquisition; give all one name (MEGRE) if they are, else a name each (run-1_T2starw)'
    )
    notes = [(group, (UNCLEAR, note)) for unit in joined for group in unit if group in doubted]
    return [unit for unit in joined if not doubted & set(unit)], notes


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
        suffix = ('MEGRE' if len(distinct_echoes(unit)) > 1 else 'T2starw') if kind == 'GRE' else kind
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
    """Whether a text holds a name, the ID or the date of birth of a patient, however it is written.

    >>> person = ('77', 'Müller-Mustermann^Erika', '19640812')
    >>> names_person('QSM for MUSTERMANN', person), names_person('QSM 77', person)
    (True, False)
    >>> names_person('QSM Mueller', person), names_person('QSM 12.8.64', person)
    (True, True)
    """
    forms = _without_accents(text)
    names = re.split(r'[\^=\s,]+', person[1])
    # a name with digits is a number of somebody
    for word in re.findall(r'[^\W\d_]+', ' '.join(name for name in names if not re.search(r'\d', name))):
        for name, form in itertools.product(_without_accents(word), forms):
            # short names are parts of many words
            if len(name) > 2 and name in form:
                return True
            if len(name) == 2 and re.search(rf'(?<![^\W\d_]){name}(?![^\W\d_])', form):
                return True
    bare = re.sub('[^0-9a-z]', '', text.casefold())
    for number in (person[0].casefold(), *(name.casefold() for name in names if re.search(r'\d', name))):
        own = re.sub('[^0-9a-z]', '', number)
        if (len(number) > 2 and number in text.casefold()) or (len(own) > 4 and own in bare):
            return True
    return _has_date(text, person[2])


def _without_accents(text: str) -> tuple[str, ...]:
    """A text in lower case, without accents; with umlauts as one letter, and as two."""
    lower = unicodedata.normalize('NFC', text).casefold().translate(_LETTERS)
    return tuple(
        ''.join(c for c in unicodedata.normalize('NFD', form) if not unicodedata.combining(c))
        for form in (lower, lower.translate(_UMLAUTS))
    )


_LETTERS = str.maketrans({'ø': 'o', 'æ': 'ae', 'ł': 'l', 'đ': 'd', 'ı': 'i', 'œ': 'oe'})
_UMLAUTS = str.maketrans({'ä': 'ae', 'ö': 'oe', 'ü': 'ue', 'å': 'aa'})
_MONTHS = ('jan', 'feb', 'mar|mär', 'apr', 'may|mai', 'jun', 'jul', 'aug', 'sep', 'oct|okt', 'nov', 'dec|dez')


def _has_date(text: str, day: str) -> bool:
    """Whether a text holds a date (YYYYMMDD), in any order, with two or four digits of the year."""
    if not re.fullmatch(r'\d{8}', day) or not 1 <= int(day[4:6]) <= 12:
        return bool(day) and day in text
    y, m, d = f'(?:{day[:2]})?{day[2:4]}', day[4:6], day[6:]
    short, between = (f'0?{int(m)}', f'0?{int(d)}'), '[^0-9a-z]+'
    month = f'(?:{_MONTHS[int(m) - 1]})[a-zä]*'
    orders = [
        *(''.join(parts) for parts in ((y, m, d), (d, m, y), (m, d, y))),
        *(between.join(parts) for parts in ((y, *short), (short[1], short[0], y), (*short, y))),
        *(
            '[^0-9a-z]*'.join(parts)
            for parts in ((short[1], month, y), (month, short[1], y), (y, month, short[1]))
        ),
    ]
    return any(re.search(rf'(?<!\d){order}(?!\d)', text.lower()) for order in orders)
