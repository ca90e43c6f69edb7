"""The table that says which participant, session and name each series gets: written, edited by hand, read."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bids_qsm.derivatives.files import atomic_write
from bids_qsm.dicom.headers import Group
from bids_qsm.entities import NUMBERED, in_order, is_label, is_number
from bids_qsm.errors import UserError, plain, size_text

SKIP, UNCLEAR = 'skip', '?'
"""Names of series that are left out, and of those that a person has to decide on."""
FOLDERS = {
    **dict.fromkeys(('MEGRE', 'T2starw', 'T1w', 'T2w', 'FLAIR', 'MESE', 'CT'), 'anat'),
    'bold': 'func',
    'dwi': 'dwi',
}
"""Suffixes that series can get, and their folders."""
COMPLEX = ('MEGRE', 'T2starw')
"""Suffixes whose images come as magnitude and phase, or real and imaginary."""
_ENTITIES = ('task', 'acq', 'ce', 'rec', 'dir', 'run', 'flip', 'inv', 'mt', 'part')
_EDITED = ('subject', 'session', 'name')
_READ = ('series_uid', 'part', *_EDITED, 'note')
_NEEDED = (*_EDITED, 'part', 'series_uid', 'person', 'study_uid', 'patient_id', 'series_number')
_COLUMNS = (
    *_EDITED,
    *('note', 'series_number', 'part', 'echo_times_ms', 'size', 'description', 'protocol'),
    *('date', 'patient_id', 'person', 'study_uid', 'series_uid'),
)
_LONGEST = 200
"""Letters of free texts that are kept."""


@dataclass
class Row:
    """A line of the table; ``found`` is None where the folder has no such series."""

    series_uid: str
    part: str
    subject: str
    session: str = ''
    name: str = UNCLEAR
    note: str = ''
    others: dict[str, str] = field(default_factory=dict)
    """Further columns: who it is, and what only informs."""
    found: Group | None = None

    @property
    def group(self) -> Group:
        """Images of the series, where they are there; of the part that the name states, if it does."""
        assert self.found is not None
        stated = re.search('part-([a-z]+)', self.name)
        return replace(self.found, part=stated[1]) if stated else self.found

    @property
    def key(self) -> tuple[str, ...]:
        """That of the group, whether it is found or not."""
        return self.series_uid, self.part, self.others['person'], self.others['study_uid']

    @property
    def is_used(self) -> bool:
        return self.name not in (SKIP, UNCLEAR)

    @property
    def suffix(self) -> str:
        return self.name.rpartition('_')[2]

    @property
    def entities(self) -> dict[str, str]:
        """Those of the name, and the participant and session."""
        own = {'sub': self.subject, 'ses': self.session} if self.session else {'sub': self.subject}
        words = [word for word in self.name.split('_')[:-1] if not word.startswith('part-')]
        return dict(in_order({**own, **dict(word.split('-', 1) for word in words)}))

    @property
    def stem(self) -> tuple[tuple[tuple[str, str], ...], str]:
        """What rows have in common that make one acquisition."""
        return tuple(self.entities.items()), self.suffix


def about(group: Group) -> dict[str, str]:
    """Cells of a group that only inform, by column."""
    return {
        'series_number': str(group.series_number),
        'echo_times_ms': ', '.join(f'{time:g}' for time in sorted(group.echoes)),
        'size': size_text(group.size),
        'description': group.text('SeriesDescription')[:_LONGEST],
        'protocol': group.text('ProtocolName')[:_LONGEST],
        'date': group.text('StudyDate'),
        'patient_id': group.text('PatientID')[:_LONGEST],
        'person': group.code,
        'study_uid': group.study,
    }


def name_problem(name: str) -> str | None:
    """Why a series cannot have a name, in a few words.

    >>> name_problem('acq-x_run-1_MEGRE'), name_problem('skip'), name_problem('bold')
    (None, None, 'a bold needs a task-')
    """
    if name in (SKIP, UNCLEAR):
        return None
    *words, suffix = name.split('_')
    if suffix not in FOLDERS:
        return f'the last word of a name must be one of {", ".join(FOLDERS)}'
    keys = []
    for word in words:
        key, _, value = word.partition('-')
        if key not in _ENTITIES or not (is_number(value) if key in NUMBERED else is_label(value)):
            return f'{word!r} is none of {", ".join(f"{key}-" for key in _ENTITIES)} with a label'
        keys.append(key)
        if key == 'part' and value not in ('mag', 'phase', 'real', 'imag'):
            return 'a part is mag, phase, real or imag'
    if len(set(keys)) < len(keys):
        return 'an entity stands there twice'
    if suffix == 'bold' and 'task' not in keys:
        return 'a bold needs a task-'
    return None


class Table:
    """The table of an import: read once, and written only where nobody else wrote it meanwhile."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = read_rows(path)
        self._raw = path.read_bytes() if path.is_file() else None

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows; UserError where the file was changed since."""
        if (self.path.read_bytes() if self.path.is_file() else None) != self._raw:
            raise UserError(f'{self.path} was changed while the import ran; run the same command again.')
        write_rows(self.path, rows)
        self._raw = self.path.read_bytes()


def read_rows(path: Path) -> list[Row]:
    """Rows of the table; none where it is not there. UserError where it cannot be used."""
    if not path.exists():
        return []
    rows, seen, spellings = [], {}, {}
    for n, line in _lines(path):
        cells = {key: re.sub("^'(?=[=+@-])", '', value.strip()) for key, value in line.items()}
        uid, part, subject, session, name, note = (cells.pop(key, '') for key in _READ)
        row = Row(uid, part, subject, session, name, note, cells)
        where = f'line {n} of {path}'
        row.subject, row.session = row.subject.removeprefix('sub-'), row.session.removeprefix('ses-')
        row.name = row.name or UNCLEAR
        if not is_label(row.subject):
            raise UserError(f'{where}: the subject {row.subject!r} is no label of letters and digits.')
        if row.session and not is_label(row.session):
            raise UserError(f'{where}: the session {row.session!r} is no label of letters and digits.')
        problem = name_problem(row.name)
        if problem:
            raise UserError(f'{where}: the name {row.name!r} cannot be used: {problem}.')
        if row.key in seen:
            raise UserError(f'{where}: its series is also in line {seen[row.key]}; remove one of them.')
        seen[row.key] = n
        for what, label, owner in (('subject', row.subject, ''), ('session', row.session, row.subject)):
            other = spellings.setdefault((what, label.lstrip('0'), owner), label)
            if is_same_number(label, other):
                raise UserError(
                    f'{where}: the {what} {label!r} is {other!r} in another line; spreadsheets drop '
                    'zeros at the start: write one of them everywhere, and keep that column as text.'
                )
        rows.append(row)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of the table with their numbers, cells by column; UserError where they are none."""
    save = 'save it as a text in UTF-8 with tabs between its cells, or move it away'
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeError) as error:
        raise UserError(f'the table {path} cannot be read ({error}); {save}.') from None
    # a spreadsheet may have written commas
    delimiter = '\t' if '\t' in text.partition('\n')[0] else ','
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restval='', strict=True)
    last = 1
    try:
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f'the table {path} has no column {missing[0]!r}; {save}.')
        for line in reader:
            # a quotation mark at the start of a cell takes all up to the next
            if None in line or any('\n' in value for value in line.values()):
                raise csv.Error('cells beyond the last column, or of several lines')
            last = reader.line_num
            yield last, line
    except csv.Error as error:
        raise UserError(
            f'the table {path} cannot be read after line {last} ({error}); remove quotation marks and tabs '
            'that were written into its cells.'
        ) from None


def is_same_number(one: str, other: str) -> bool:
    """Whether two labels differ by zeros at their start alone, as 01 and 1 do.

    >>> is_same_number('01', '1'), is_same_number('01', '01')
    (True, False)
    """
    return one != other and one.isdecimal() and other.isdecimal() and int(one) == int(other)


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{cell}" if cell.startswith(('=', '+', '-', '@')) else cell


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the table, with columns of the user's own, for its owner alone to read, unless it is so."""
    stream = io.StringIO()
    more = dict.fromkeys(key for row in rows for key in row.others if key and key not in _COLUMNS)
    columns = (*_COLUMNS, *more)
    writer = csv.DictWriter(stream, columns, delimiter='\t', lineterminator='\n')
    writer.writeheader()
    for row in rows:
        own = {key: getattr(row, key) for key in (*_EDITED, 'note', 'part', 'series_uid')}
        cells = {key: row.others.get(key, '') for key in columns} | own
        # tabs and ends of lines within a value would break the table
        writer.writerow(
            {key: _harmless(re.sub(r'\\[trn]', ' ', plain(value))) for key, value in cells.items()}
        )
    text = stream.getvalue()
    is_private = path.exists() and not path.stat().st_mode & 0o077
    if is_private and path.read_text(encoding='utf-8-sig') == text:
        return

    def write(temporary: Path):
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), 'w', encoding='utf-8') as file:
            file.write(text)

    atomic_write(path, write)
