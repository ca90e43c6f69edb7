"""DICOM to BIDS: plan, ask where needed, convert, write what is not there yet."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bids_qsm.dicom.convert import find_dcm2niix
from bids_qsm.dicom.dataset import Done, read_participants, write_dataset
from bids_qsm.dicom.headers import MOST_PROBLEMS, Found, read_folder
from bids_qsm.dicom.people import warnings_of
from bids_qsm.dicom.plan import make_rows
from bids_qsm.dicom.table import FOLDERS, SKIP, UNCLEAR, Row, Table, is_same_number, name_problem
from bids_qsm.entities import is_label
from bids_qsm.errors import UserError, plain
from bids_qsm.locks import alone_at


def run_import(
    dicom_dir: Path,
    bids_dir: Path,
    *,
    table: Path | None = None,
    subject: str | None = None,
    session: str | None = None,
    dry_run: bool = False,
    ask: Callable[[str], str] | None = None,
) -> int:
    """Import a folder of DICOM files into a BIDS dataset, and print what was done.

    Parameters
    ----------
    dicom_dir, bids_dir : Path
    table : Path, optional
        Table of names; beside the dataset unless given.
    subject, session : str, optional
        Labels where the folder holds one patient, or one study.
    dry_run : bool
        Only print the plan, and write the table.
    ask : callable, optional
        Asks a person; None where there is nobody to ask.

    Returns
    -------
    int
        1 where a series is unclear or could not be imported, else 0.

    Raises
    ------
    UserError
        Where nothing can be imported.
    """
    for flag, label in (('--participant-label', subject), ('--session-label', session)):
        if label is not None and not is_label(label):
            raise UserError(f'{flag} {label} is no label; use letters and digits only.')
    table = table or bids_dir.absolute().with_name(f'{bids_dir.absolute().name}_import.tsv')
    _require_places(dicom_dir, bids_dir, table)
    program = find_dcm2niix()
    with alone_at(table, bids_dir):
        return _import(dicom_dir, bids_dir, Table(table), (subject, session), program, dry_run, ask)


def _import(
    dicom_dir: Path,
    bids_dir: Path,
    table: Table,
    labels: tuple[str | None, str | None],
    program: str,
    dry_run: bool,
    ask: Callable[[str], str] | None,
) -> int:
    read_participants(bids_dir / 'participants.tsv')  # before anything is written
    found = read_folder(dicom_dir)
    known = table.rows
    rows = make_rows(found, known, *labels)
    _require_no_strangers(rows, known, bids_dir, table.path)
    if ask is not None:
        rows = _ask_all(rows, found, labels, ask, table)
    table.write(rows)
    print(describe(rows, found))
    for warning in (*warnings_of(rows, known), *_repeated(rows)):
        print(f'bids_qsm: {warning}')
    problems = list(found.problems)
    problems += [_unclear(row) for row in rows if row.found is not None and row.name == UNCLEAR]
    done = Done(0, 0, ())
    if not dry_run:
        done = write_dataset(rows, bids_dir, program)
    problems += done.problems
    for problem in problems[:MOST_PROBLEMS]:
        print(f'bids_qsm: {plain(problem)}')
    if len(problems) > MOST_PROBLEMS:
        print(f'bids_qsm: and {len(problems) - MOST_PROBLEMS} more problems.')
    if any(row.found is not None and row.name == UNCLEAR for row in rows):
        print(
            f'bids_qsm: decide in {plain(table.path)}: in place of {UNCLEAR} write a name, such as MEGRE or '
            f'run-2_MEGRE, or {SKIP}; then run the same command again.'
        )
    if dry_run:
        print(f'bids_qsm: nothing was converted; the names are in {plain(table.path)}, edit them there.')
    else:
        again = f', {done.kept} were there already' if done.kept else ''
        print(
            f'bids_qsm: {done.written} files written{again}. {plain(table.path)} links participants to '
            'patients: keep it out of what you share.'
        )
    return int(bool(problems))


def _require_places(dicom_dir: Path, bids_dir: Path, table: Path):
    if bids_dir.exists() and not bids_dir.is_dir():
        raise UserError(f'{bids_dir} is a file; give a folder for the dataset.')
    for place in (bids_dir, table):
        files = [folder for folder in place.absolute().parents if folder.is_file()]
        if files:
            raise UserError(f'{place} cannot be made, as {files[0]} is a file; choose another place.')
    inside = table.resolve()
    if inside.is_relative_to(bids_dir.resolve()):
        raise UserError(
            f'--table {table} lies in the dataset, but it names patients; choose a place outside of it.'
        )
    if bids_dir.resolve().is_relative_to(dicom_dir.resolve()):
        raise UserError(f'{bids_dir} lies in the folder of the DICOM files; choose a place outside of it.')
    if table.is_dir():
        raise UserError(f'--table {table} is a folder; give the name of a file.')


def _require_no_strangers(rows: Sequence[Row], known: Sequence[Row], bids_dir: Path, table: Path):
    """Raise UserError where a participant of the dataset may not be that of the table, or lacks a session."""
    there = sorted(path.name.removeprefix('sub-') for path in bids_dir.glob('sub-*'))
    told = {row.subject for row in known}
    for label, folder in itertools.product(sorted({row.subject for row in rows}), there):
        if label not in told and (label == folder or is_same_number(label, folder)):
            raise UserError(
                f'{bids_dir} has sub-{folder} already, but {table} does not say who that is; give the table '
                'of its import, or another --participant-label.'
            )
        if is_same_number(label, folder):
            raise UserError(
                f'{bids_dir} has sub-{folder}, but {table} has the participant {label}; spreadsheets drop '
                f'zeros at the start: write {folder} there.'
            )
    for label in sorted({row.subject for row in rows if row.session}):
        left = [bids_dir / f'sub-{label}' / name for name in dict.fromkeys(FOLDERS.values())]
        left = [folder for folder in left if folder.is_dir() and any(folder.iterdir())]
        if left:
            raise UserError(
                f'sub-{label} has sessions in {table}, but {left[0]} holds files without ses-, which would '
                'be there twice; remove them, or move them away.'
            )


def _ask_all(
    rows: list[Row],
    found: Found,
    labels: tuple[str | None, str | None],
    ask: Callable[[str], str],
    table: Table,
) -> list[Row]:
    """Ask for the name of each unclear series; an answer may settle others. Each is kept at once."""
    answers: dict[tuple[str, ...], str] = {}
    later: set[tuple[str, ...]] = set()
    while True:
        open_rows = [row for row in rows if row.found is not None and row.name == UNCLEAR]
        open_rows = [row for row in open_rows if row.key not in later]
        if not open_rows:
            return rows
        row = open_rows[0]
        about = plain(row.others['description'])
        try:
            answer = ask(f'{_unclear(row)}\n{about}: name ({SKIP}: leave out, Enter: later)? ').strip()
        except EOFError:
            print()
            return rows
        problem = name_problem(answer) if answer else None
        if problem:
            print(f'{plain(answer)!r} cannot be used: {problem}.')
        elif answer in ('', UNCLEAR):
            later.add(row.key)
        else:
            answers[row.key] = answer
            decided = [replace(one, name=answers.get(one.key, one.name), found=None) for one in rows]
            fixed = {one.key for one in table.rows if one.name != UNCLEAR} | set(answers)
            rows = make_rows(
                found,
                [one if one.key in fixed else replace(one, name=UNCLEAR) for one in decided],
                *labels,
            )
            table.write(rows)


def _unclear(row: Row) -> str:
    return f'sub-{row.subject}: {row.group.label} is unclear: {row.note}.'


def _repeated(rows: Sequence[Row]) -> list[str]:
    """Sentences on participants whose images share their SOP Instance UID with others."""
    sentences = []
    for subject in sorted({row.subject for row in rows}):
        own = [row.group for row in rows if row.subject == subject and row.found and row.name != SKIP]
        own = [group for group in own if group.repeated]
        if own:
            more = f' and {len(own) - 1} more series' if len(own) > 1 else ''
            sentences.append(
                f'sub-{subject}: {own[0].repeated} files of {own[0].label}{more} have SOP Instance UIDs that '
                'other images have too. They count as images of their own, as place, time, part, echo, '
                'number or patient differ; but archives keep one image of each UID: see that none is missing.'
            )
    return sentences


def describe(rows: Sequence[Row], found: Found) -> str:
    """The plan, by participant; without names, IDs and dates."""
    lines = [
        f'{found.n_files} DICOM images'
        + (f', {found.n_others} other files' if found.n_others else '')
        + (f', {found.n_unused} that cannot be used' if found.n_unused else '')
    ]
    by_session = defaultdict(list)
    for row in rows:
        if row.found is not None:
            by_session[row.subject, row.session].append(row)
    for (subject, session), own in sorted(by_session.items()):
        lines += ['', f'sub-{subject}' + (f' ses-{session}' if session else '')]
        acquisitions = defaultdict(list)
        for row in own:
            acquisitions[row.name if row.is_used else '', row.key if not row.is_used else None].append(row)
        for (name, _), some in sorted(acquisitions.items(), key=lambda item: (not item[0][0], item[0][0])):
            first = some[0]
            size = first.others['size']
            if name:
                times = sorted({time for row in some for time in row.group.echoes})
                series = ', '.join(row.group.label for row in some)
                echoes = ', '.join(f'{time:g}' for time in times)
                lines.append(f'  {name:<24} {series}; {echoes} ms; {size}')
            else:
                what = 'left out' if first.name == SKIP else 'unclear'
                lines.append(f'  {what:<24} {first.group.label}: {first.note or "as the table says"}')
    return '\n'.join(lines)
