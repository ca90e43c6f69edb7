"""Gather the tables of all subjects and join them with participants, sessions and scans."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from bids_qsm.applications import applications
from bids_qsm.applications.contract import Application, Table
from bids_qsm.cohort import tables as cohort
from bids_qsm.cohort.observations import some
from bids_qsm.cohort.spelling import spell
from bids_qsm.derivatives.files import atomic_write, write_json
from bids_qsm.derivatives.tables import Expected, read_input, read_many, write_parquet, write_table
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.reports.html import read_json

_TIDY = Expected(('region', 'hemisphere', 'map', 'mean'), numbers=('mean',))
LONG = 10_000
"""Rows from which a table is written as Parquet too."""


@dataclass
class Tables:
    """Tables of one kind; each pass reads them anew, so that not all of thousands are held at a time."""

    paths: list[Path] = field(default_factory=list)
    entities: list[dict[str, str]] = field(default_factory=list)
    """Of the series."""
    expected: Expected = field(default_factory=Expected)
    output_dir: Path = Path()
    """Output dataset, which the names of files in ``damage`` begin at."""
    damage: list[str] = field(default_factory=list)
    """A sentence on each table or dictionary that is damaged, and is left out."""

    def leave_out(self, reason: object):
        """Add a sentence to ``damage``, once."""
        text = str(reason).replace(f'{self.output_dir}/', '')
        if text not in self.damage:
            self.damage.append(text)

    def dictionary(self) -> dict:
        """Data dictionary of the first table that has one."""
        for path in self.paths:
            try:
                described = read_json(path.with_suffix('.json'), {})
            except UserError as error:
                self.leave_out(error)
                continue
            if own := {key: value for key, value in described.items() if isinstance(value, dict)}:
                return own
        return {}

    def __iter__(self) -> Iterator[tuple[Path, dict[str, str], pd.DataFrame]]:
        tables = read_many(self.paths, self.expected)
        for path, entities, table in zip(self.paths, self.entities, tables, strict=True):
            if isinstance(table, UserError):
                self.leave_out(table)
            else:
                yield path, entities, table

    def __len__(self) -> int:
        return len(self.paths)


def find_tables(
    output_dir: str | Path, *, subjects: Sequence[str] = (), sessions: Sequence[str] = ()
) -> dict[str, Tables]:
    """Key of each table of an application -> its files, of the subjects and sessions given or of all."""
    found = {
        app.key(table): Tables(expected=_expected(table), output_dir=Path(output_dir))
        for app in applications()
        for table in app.tables
    }
    # * alone would match temporary files of a killed run, whose names begin with a dot
    for path in sorted(Path(output_dir).glob('sub-*/**/sub-*_stats.tsv')):
        entities = entities_of(path)
        if (subjects and entities.get('sub') not in subjects) or (
            sessions and entities.get('ses') not in sessions
        ):
            continue
        for app in applications():
            table = app.wrote(entities)
            if table is not None:
                one = found[app.key(table)]
                one.paths.append(path)
                one.entities.append({key: v for key, v in entities.items() if key not in ('desc', 'label')})
    return found


def _expected(table: Table) -> Expected:
    """What a file of a table must hold: numbers where a column has a unit."""
    if table.suffix != 'stats':
        return Expected()
    numbers = tuple(name for name, about in table.described().items() if about.get('Units'))
    if table.cohort == 'tidy':
        return replace(_TIDY, numbers=numbers)
    return Expected(any_of=table.shown, numbers=numbers)


def collect_tables(tables: dict[str, Tables], output_dir: str | Path, bids_dir: str | Path):
    """Write one long table of all series of the dataset, and its data dictionary.

    Parameters
    ----------
    tables
        Those of regions and of other applications, see `find_tables`.
    output_dir
        Output dataset, where the long table is written.
    bids_dir
        Dataset; its participants.tsv, sessions.tsv and scans.tsv are joined if they exist.

    Returns
    -------
    long : DataFrame
        As in ``output_dir/group_regions.tsv``.
    notes : dict of str to list of str
        Rows that did not match: ``tables`` for participants.tsv, ``sessions`` for sessions.tsv and scans.tsv.

    Raises
    ------
    UserError
        No table was found, one is of an older version, or a table of ``bids_dir`` cannot be read.
    """
    out, bids_dir = Path(output_dir), Path(bids_dir)
    columns, about_maps = {}, []
    # the tables of regions first: their dictionary describes the columns that all tables share
    for app, one in _joining():
        if found := tables[app.key(one)]:
            own = found.dictionary()
            columns = columns or own
            if one.cohort == 'tidy':  # what it has beside the columns of regions
                about_maps.append(own.get('map', {}).get('Description'))
                columns = {**own, **columns}
    if not any(tables[app.key(one)] for app, one in _joining()):
        raise UserError(
            f'{out} has no tables of regions (sub-*/**/*_seg-*_stats.tsv) of what was asked for; run the '
            'participant level first.'
        )
    long = cohort.gather(_rows(tables))
    damage = [text for one in tables.values() for text in one.damage]
    if long.empty and damage:
        raise UserError(f'No table of regions in {out} can be read: {damage[-1]}')
    if any(about_maps):  # each application has maps of its own
        columns['map'] = {
            **columns.get('map', {}),
            'Description': ' '.join(dict.fromkeys(filter(None, about_maps))),
        }
    long, notes, more = join_people(long, bids_dir)
    columns = cohort.dictionary(long.columns, columns, more)
    if 'n_voxels' in long:  # rows of events have none
        long['n_voxels'] = long['n_voxels'].astype('Int64')
    notes['tables'] += [f'Left out: {text}' for text in damage]
    save_table(out / 'group_regions.tsv', long, columns)
    return long, notes


def _joining() -> list[tuple[Application, Table]]:
    """Tables whose rows join the statistics, those of regions first."""
    ordered = sorted(applications(), key=lambda one: one.scope != 'labels')
    return [(app, one) for app in ordered for one in app.tables if one.cohort]


def _rows(tables: dict[str, Tables]) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Entities and tidy rows of each table."""
    for app, one in _joining():
        for path, entities, table in tables[app.key(one)]:
            _check_version(path, table)
            if one.cohort == 'tidy':
                yield entities, table
                continue
            try:
                rows = one.cohort(table)
            except (TypeError, ValueError) as error:  # of text in a column of numbers without a unit
                again = 'run the participant level again for this participant.'
                tables[app.key(one)].leave_out(f'{path} cannot be summed up ({error}); {again}')
                continue
            yield entities, rows


def join_people(long: pd.DataFrame, bids_dir: Path) -> tuple[pd.DataFrame, dict[str, list[str]], dict]:
    """Add the columns of participants.tsv, sessions.tsv and scans.tsv of a dataset, where they exist.

    Columns that the table has itself stay as they are.

    Returns
    -------
    long : DataFrame
        All rows in their order.
    notes : dict of list of str
        As of `collect_tables`.
    described : dict
        Data dictionary of the columns.
    """
    people, own = list(long['participant_id'].unique()), set(long)
    file = bids_dir / 'participants.tsv'
    long, said = cohort.join_participants(long, read_input(file) if file.exists() else None)
    notes = {'tables': said, 'sessions': []}
    visits = [
        (name, bids_dir / name / f'{name}_sessions.tsv')
        for name in people
        if (bids_dir / name / f'{name}_sessions.tsv').exists()
    ]
    if visits:
        stated = {name for name, _ in visits}
        found = [read_input(path).assign(participant_id=name) for name, path in visits]
        # participants without a file are not missing sessions
        others = long.reindex(columns=['participant_id', 'session_id']).drop_duplicates().dropna()
        found.append(others[~others['participant_id'].isin(stated)])
        known = pd.concat(found, ignore_index=True)
        # what the table says itself is of its rows; measures are renamed by the join
        kept = [c for c in known if c in own and c not in (*cohort.MEASURES, *cohort.ENTITY_COLUMNS.values())]
        if kept:
            notes['sessions'].append(
                f'Columns of sessions.tsv that the table has itself: {some(kept)}; its own count.'
            )
        long, said = cohort.join_sessions(long, known.drop(columns=kept))
        notes['sessions'] += said
    scans = [path for name in people for path in _scans_of(bids_dir / name)] if 'acq_time' not in own else []
    if scans:
        found = pd.concat([read_input(path) for path in scans], ignore_index=True)
        long, said = cohort.join_scans(long, found)
        notes['sessions'] += said
    long, said = spell(long)
    notes['tables'] += said
    described = [read_json(path.with_suffix('.json'), {}) for path in (file, *(p for _, p in visits[:1]))]
    more = {key: value for part in reversed(described) for key, value in part.items()}
    if scans:
        more['acq_time'] = {'Description': 'When the series was acquired, from scans.tsv or sessions.tsv.'}
    return long, notes, more


def _check_version(path: Path, table: pd.DataFrame):
    """Raise UserError for a table of regions whose mean is of the core, which may not join whole regions."""
    if 'core' in table and 'core_mean' not in table:
        raise UserError(
            f'{path} was written by an older version of bids_qsm, whose means leave out the rim of each '
            'region; run the participant level again for this participant.'
        )


def collect_application(
    app: Application, one: Table, found: Tables, notes: dict[str, list[str]]
) -> tuple[pd.DataFrame, dict]:
    """Rows of the tables ``found`` of one kind over all series, and their data dictionary."""
    if not found:
        return pd.DataFrame(), {}
    counts = []

    def rows():
        for _, entities, table in found:
            counts.append(len(table) > 0)
            yield entities, table

    long = cohort.gather(rows())
    if 'reason' in long:
        reasons = long['reason'].dropna().astype(str).value_counts()
        notes[app.key(one)] += [f'Rows without a measurement: {n}, as {r}.' for r, n in reasons.items()]
    full = sum(counts)
    said = [f'Left out: {text}' for text in found.damage]
    notes['tables'] += [text for text in said if text not in notes['tables']]
    notes[app.key(one)].append(
        f'{one.title or app.title}: {len(found)} series have a table, {full} of them with rows.'
    )
    return long, cohort.dictionary(long.columns, found.dictionary(), {})


def _scans_of(folder: Path):
    return sorted([*folder.glob('sub-*_scans.tsv'), *folder.glob('ses-*/sub-*_scans.tsv')])


def save_table(path: Path, table: pd.DataFrame, described: dict):
    """Write a table and its dictionary; a long one as Parquet too, where pyarrow is installed."""
    other = path.with_suffix('.parquet')
    # first, as it would be read instead of a newer table if the run ended in between
    other.unlink(missing_ok=True)
    write_json(path.with_suffix('.json'), described)
    atomic_write(path, lambda p: write_table(table, p))
    if len(table) >= LONG and find_spec('pyarrow'):
        atomic_write(other, lambda p: write_parquet(table, p))
