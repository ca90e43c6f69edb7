"""Which participant and session each study of each person is."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

from bids_qsm.dicom.headers import Group
from bids_qsm.dicom.table import SKIP, Row
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
    known = {row.key[2:]: row for row in rows}
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
    for code, study in ((code, study) for code, own in studies.items() for study in own):
        _require_same('--participant-label', subject, subjects.get(code))
        row = known.get((code, study))
        _require_same('--session-label', session, row.session if row else None)
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


def _require_same(flag: str, given: str | None, there: str | None):
    if given is not None and there is not None and given != there:
        raise UserError(
            f'{flag} {given} was given, but the table has {there or "none"} for these files already; leave '
            'it out, or write the label in all their lines of the table.'
        )


def _require_one_person(groups: Sequence[Group], subject: str):
    """Raise UserError where a label was given for what may not be one person."""
    people = {group.person._replace(sex='').code('', '') for group in groups}
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
        other = persons.setdefault(row.others['person'], row)
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
        if row.is_used and other.others['study_uid'] != row.others['study_uid']:
            numbers = f'{other.others.get("series_number")} and {row.others.get("series_number")}'
            raise UserError(
                f'series {numbers} of sub-{row.subject} are of two studies, but have one name in the table; '
                'write a session for each study, such as 1 and 2.'
            )


def require_alike(rows: Sequence[Row]):
    """Raise UserError where rows of one subject are, by their headers, of two people beyond doubt."""
    for subject, own in _people(rows).items():
        found = [row.group for row in own if row.found is not None]
        for one, other in itertools.combinations(found, 2):
            common = one.person.agreeing(other.person)
            if {one.person.sex, other.person.sex} == {'M', 'F'}:
                why = 'a man and of a woman'
            elif one.is_known and other.is_known and len(common) < 2:
                why = f'two patients, who have {f"only the {common[0]}" if common else "nothing"} in common'
            else:
                continue
            first, second = sorted((one.series_number, other.series_number))
            raise UserError(
                f'series {first} and {second} are both sub-{subject} in the table, '
                f'but their headers are those of {why}; give each a subject of its own.'
            )


def _people(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """A row of each person that a subject is, by the headers."""
    people: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.name != SKIP:
            there = people[row.subject].setdefault(row.others['person'], row)
            if there.found is None:
                people[row.subject][row.others['person']] = row
    return {subject: list(own.values()) for subject, own in people.items()}


def warnings_of(rows: Sequence[Row], known: Sequence[Row]) -> list[str]:
    """Sentences on who was taken for one person, and on new participants who may be one."""
    old = {row.key for row in known}
    new = {row.subject for row in rows if row.key not in old}
    sentences = []
    for subject, own in sorted(_people(rows).items()):
        studies = {row.others['study_uid'] for row in rows if row.subject == subject and row.name != SKIP}
        if len(own) > 1:
            numbers = ', '.join(sorted({row.others['series_number'] for row in own}))
            sentences.append(
                f'sub-{subject} is {len(own)} patients by the headers (series {numbers}), whom the table or '
                '--participant-label takes for one.'
            )
        elif len(studies) > 1 and subject in new:
            sentences.append(
                f'sub-{subject} has {len(studies)} studies, whose ID, name, date of birth and sex agree.'
            )
    unsure = {row.others['patient_id'] for row in rows if row.found is not None and not row.found.is_known}
    subjects: dict[str, set[str]] = defaultdict(set)
    for row in rows:  # those of earlier imports too
        number, is_known = row.others['patient_id'], row.found is not None and row.found.is_known
        if number or ('' in unsure and not is_known):
            subjects[number].add(row.subject)
    return sentences + [
        f'{_listed(sorted(own))} may be one person: '
        + ('they have one patient ID, but their headers do not tell for sure. ' if number else '')
        + ('' if number else 'they have no patient ID. ')
        + 'They are kept apart. If they are one, write one subject and a session for each study in the '
        'table, remove what was written of them, and run again.'
        for number, own in sorted(subjects.items())
        if own & new and len(own) > 1
    ]


def _listed(labels: Sequence[str], most: int = 4) -> str:
    names = [f'sub-{label}' for label in labels]
    last = names[-1] if len(names) <= most else f'{len(names) - most} more'
    return f'{", ".join(names[: min(most, len(names) - 1)])} and {last}'
