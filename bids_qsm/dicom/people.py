"""Which participant and session each study of each person is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from bids_qsm.dicom.headers import Group
from bids_qsm.dicom.table import SKIP, Row, about
from bids_qsm.errors import UserError


def labels_of(
    groups: Sequence[Group], rows: Sequence[Row], subject: str | None, session: str | None
) -> dict[tuple[str, str], tuple[str, str]]:
    """Subject and session of each study of each person: those of the table, else the next free number."""
    studies: dict[str, list[str]] = defaultdict(list)
    # numbers in the order of IDs or names would tell something of these
    for group in sorted(groups, key=lambda one: (one.order[:2], one.person, one.order)):
        if group.study not in studies[group.code]:
            studies[group.code].append(group.study)
    if subject is not None:
        _require_one_person(groups, subject)
    persons = (
        list(studies.values()) if subject is None else [[one for own in studies.values() for one in own]]
    )
    if session is not None and any(len(own) > 1 for own in persons):
        raise UserError(
            f'--session-label {session} was given, but the folder holds several studies of a patient; leave '
            'it out, or give the folder of one of them.'
        )
    told = [replace(row, others=row.others if row.found is None else about(row.group)) for row in rows]
    known = {(row.others.get('person', ''), row.others.get('study_uid', '')): row for row in told}
    pairs = {*known, *((code, study) for code, own in studies.items() for study in own)}
    has_sessions = len({code for code, _ in pairs}) < len(pairs) or any(row.session for row in rows)
    has_sessions |= any(len(own) > 1 for own in persons)
    subjects = {code: row.subject for (code, _), row in known.items() if code}
    used = {row.subject for row in rows}
    others = sorted(used & {subject} - {label for code, label in subjects.items() if code in studies})
    if others:
        raise UserError(
            f'--participant-label {subject} was given, but in the table sub-{subject} is another patient; '
            'choose another label. If it is the same person, do that with --dry-run, and write '
            f'{subject} in its place in the table.'
        )
    labels: dict[tuple[str, str], tuple[str, str]] = {}
    for code, own in studies.items():
        label = subjects.get(code, subject)
        if label is None:
            width = max(2, len(str(len(studies))))
            numbers = {int(one) for one in used if one.isdecimal()}
            label = next(f'{n:0{width}d}' for n in count(1) if n not in numbers)
        used.add(label)
        sessions = {row.session for row in rows if row.subject == label}
        sessions |= {name for given, name in labels.values() if given == label}
        for study in own:
            row = known.get((code, study))
            name = row.session if row else session or ''
            if not name and row is None and has_sessions:
                name = next(number for n in count(1) if (number := str(n)) not in sessions)
            sessions.add(name)
            labels[code, study] = row.subject if row else label, name
    return labels


def _require_one_person(groups: Sequence[Group], subject: str):
    """Raise UserError where a label was given for what may not be one person."""
    people = {group.code if group.is_known else str(group.person) for group in groups}
    if len(people) > 1:
        raise UserError(
            f'--participant-label {subject} was given, but the folder holds {len(people)} patients; leave '
            'it out, or give the folder of one of them.'
        )
    sexes = {group.text('PatientSex') for group in groups} - {'', 'O'}
    if len(sexes) > 1:
        raise UserError(
            f'--participant-label {subject} was given, but the folder holds studies of a man and of a woman '
            'with one patient ID; leave it out, or give the folder of one of them.'
        )


def require_one_subject(rows: Sequence[Row]):
    """Raise UserError where the table gives a person two subjects, or studies of a subject one name."""
    persons: dict[str, Row] = {}
    subjects: dict[str, Row] = {}
    names: dict[tuple, Row] = {}
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
        other = names.setdefault(row.stem, row)
        if row.is_used and other.others.get('study_uid') != row.others.get('study_uid'):
            numbers = f'{other.others.get("series_number")} and {row.others.get("series_number")}'
            raise UserError(
                f'series {numbers} of sub-{row.subject} are of two studies, but have one name in the table; '
                'write a session for each study, such as 1 and 2.'
            )


def warnings_of(rows: Sequence[Row], known: Sequence[Row]) -> list[str]:
    """Sentences on new participants who may be one person, which their headers do not tell."""
    old = {row.key for row in known}
    unsure = {row.others['patient_id'] for row in rows if row.found is not None and not row.found.is_known}
    subjects: dict[str, set[str]] = defaultdict(set)
    for row in rows:  # those of earlier imports too
        if row.others.get('patient_id') in unsure and (row.found is None or not row.found.is_known):
            subjects[row.others['patient_id']].add(row.subject)
    new = {row.subject for row in rows if row.key not in old}
    return [
        f'{_listed(sorted(own))} may be one person: '
        + ('they have one patient ID, but no date of birth. ' if number else 'they have no patient ID. ')
        + 'They are kept apart. If they are one, write one subject and a session for each study in the '
        'table, remove what was written of them, and run again.'
        for number, own in sorted(subjects.items())
        if own & new and len(own) > 1
    ]


def _listed(labels: Sequence[str], most: int = 4) -> str:
    names = [f'sub-{label}' for label in labels]
    last = names[-1] if len(names) <= most else f'{len(names) - most} more'
    return f'{", ".join(names[: min(most, len(names) - 1)])} and {last}'
