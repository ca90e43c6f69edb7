"""What acquisitions are called."""

import re
from collections import defaultdict
from dataclasses import replace
from itertools import count

from bids_qsm.dicom.headers import Group
from bids_qsm.dicom.pairs import Unit, distinct_echoes
from bids_qsm.dicom.privacy import names_person
from bids_qsm.dicom.table import Row


def label_of(text: str) -> str:
    """A label made of a text.

    >>> label_of('QSM_gre 3D (1mm)')
    'QSMgre3D1mm'
    """
    return re.sub('[^0-9A-Za-z]', '', text)[:30]


def name_units(units: list[tuple[Unit, str]], by_group: dict[Group, Row], taken: set[tuple]):
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
        return label_of(found[1])
    return 'rest' if re.search('rest', text, re.IGNORECASE) else label_of(text) or 'unknown'
