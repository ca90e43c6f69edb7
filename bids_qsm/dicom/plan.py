"""The rows of the table for what a folder holds: who, and what each series is called."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from bids_qsm.dicom.classify import Kind, kind_of, kind_without_phase
from bids_qsm.dicom.headers import Found, Group
from bids_qsm.dicom.names import name_units
from bids_qsm.dicom.pairs import ALONE, Unit, find_units, may_pair, without_copies
from bids_qsm.dicom.people import labels_of, require_alike, require_one_subject
from bids_qsm.dicom.table import COMPLEX, SKIP, UNCLEAR, Row, about


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
    groups = {group.key: group for group in found.groups}
    rows = [replace(row, found=groups.get(row.key)) for row in known]
    labels = labels_of(found.groups, rows, subject, session)
    there = {row.key for row in rows}
    for key, group in groups.items():
        if key not in there:
            own = labels[group.code, group.study]
            rows.append(Row(key[0], key[1], *own, others=about(group), found=group))
    for row in rows:
        if row.found is not None:  # columns of the user's own stay
            row.others = {**row.others, **about(row.group)}
    require_one_subject(rows)
    require_alike(rows)
    undecided = [row for row in rows if row.name == UNCLEAR and row.found is not None]
    _decide(undecided, [row for row in rows if row.is_used])
    return rows


def _decide(rows: list[Row], named: list[Row]):
    """Give each row its name and a note; names of ``named`` rows only where it is the other half of one."""
    taken = {row.stem for row in named}
    halves = _halves(named)
    by_group = {row.group: row for row in rows}
    kinds = {row.group: _kind(row) for row in rows}
    units: list[tuple[Unit, str]] = []
    by_study = defaultdict(list)
    for row in rows:
        by_study[_place(row)].append(row.group)
    for place, groups in by_study.items():
        whole = []
        for group in groups:
            row, kind = by_group[group], kinds[group]
            row.name, row.note = (SKIP, kind.reason) if not kind.suffix else (UNCLEAR, '')
            if kind.is_by_text and any(
                {one.part, group.part} & {'phase', 'imag'} and kinds[one].is_by_text and may_pair(one, group)
                for one in groups
                if one.part != group.part
            ):
                note = f'{kind.reason}, but it has phase; write MEGRE or T2starw if it is to be used, or skip'
                row.name, row.note = UNCLEAR, note
            problem = _defect(group, kind) if kind.suffix else ''
            if problem:
                # scouts have a single slice
                is_wanted = len(group.places) > 1 and not group.is_mosaic
                if kind.suffix == 'GRE':
                    is_wanted = any(_is_half(one, group) for one in groups)
                row.name, row.note = UNCLEAR if is_wanted else SKIP, problem
            elif kind.suffix:
                whole.append(group)
        for suffix in ('GRE', 'bold'):
            own = [group for group in whole if kinds[group].suffix == suffix]
            if suffix == 'GRE':
                own += [group for group, row in halves.items() if _place(row) == place]
                own.sort(key=lambda one: one.order)
            found, notes = find_units(own, needs_phase=suffix == 'GRE')
            for group, (name, note) in notes:
                if group not in halves:
                    by_group[group].name, by_group[group].note = name, note
            for unit in found:
                if not set(unit) & set(halves):
                    units.append((unit, suffix))
                    continue
                for group in set(unit) - set(halves):
                    by_group[group].name, by_group[group].note = _name_as_half(group, unit, halves)
        for group in whole:  # magnitudes that no phase goes with
            row = by_group[group]
            if kinds[group].suffix == 'GRE' and row.note == ALONE:
                kind = kind_without_phase(group)
                kinds[group] = kind
                row.name, row.note = SKIP, kind.reason
        for suffix in ('T1w', 'FLAIR'):
            own = [group for group in whole if kinds[group].suffix == suffix]
            for group in without_copies(own, by_group):
                units.append(([group], suffix))
    name_units(units, by_group, taken)


def _place(row: Row) -> tuple[str, str, str]:
    return row.others['study_uid'], row.subject, row.session


def _halves(named: list[Row]) -> dict[Group, Row]:
    """Series that a person named, but not their other half."""
    by_stem = defaultdict(list)
    for row in named:
        by_stem[row.stem].append(row)
    return {
        row.group: row
        for (_, suffix), own in by_stem.items()
        for row in own
        if suffix in COMPLEX and row.found is not None and len({one.part for one in own}) == 1
    }


def _name_as_half(group: Group, unit: Unit, halves: dict[Group, Row]) -> tuple[str, str]:
    """Name and note of a group that is in one unit with named ones."""
    own = [one for one in unit if one in halves]
    fits = [one for one in own if may_pair(one, group)] or own
    names = {re.sub('part-[a-z]+_', '', halves[one].name) for one in fits}
    if len(names) == 1:
        return names.pop(), ''
    listed = ', '.join(one.label for one in fits)
    return UNCLEAR, f'it fits {listed}, which have several names; give it one of them, or write skip'


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
    if group.clash:
        return group.clash
    if group.is_mosaic:
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
