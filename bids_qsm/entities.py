"""BIDS entities: their order, their names, how file names are taken apart and put together; and values of
sidecars.
"""

import math
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

ENTITIES = {
    'tpl': 'template',
    'sub': 'subject',
    'ses': 'session',
    'sample': 'sample',
    'task': 'task',
    'acq': 'acquisition',
    'ce': 'ceagent',
    'trc': 'tracer',
    'stain': 'staining',
    'rec': 'reconstruction',
    'dir': 'direction',
    'run': 'run',
    'mod': 'modality',
    'coil': 'coil',
    'echo': 'echo',
    'flip': 'flip',
    'inv': 'inv',
    'mt': 'mt',
    'part': 'part',
    'proc': 'proc',
    'hemi': 'hemi',
    'space': 'space',
    'split': 'split',
    'recording': 'recording',
    'chunk': 'chunk',
    'from': 'from',
    'to': 'to',
    'mode': 'mode',
    'atlas': 'atlas',
    'seg': 'segmentation',
    'res': 'res',
    'den': 'den',
    'label': 'label',
    'desc': 'desc',
}
"""Entities in the order in which names have them, and the long names that pybids and filter files use.

``coil`` is not BIDS: converters such as that of QSMxT number uncombined receive coils by it.
"""

NUMBERED = ('run', 'coil', 'echo', 'inv', 'flip')
"""Entities whose value is a whole number."""

OF_SERIES = ('sub', 'ses', 'task', 'acq', 'ce', 'rec', 'dir', 'run', 'flip', 'inv', 'mt', 'chunk')
"""Entities that tell series apart and that the names of outputs keep."""


def entities_of(path: PurePath | str) -> dict[str, str]:
    """Entities of a file name, or of its path, in the order in which it has them.

    >>> entities_of('sub-01_acq-x_echo-1_MEGRE.nii.gz')
    {'sub': '01', 'acq': 'x', 'echo': '1'}
    """
    words = PurePath(path).name.partition('.')[0].split('_')
    return dict(word.split('-', 1) for word in words if '-' in word)


def acquired_entities(path: PurePath | str) -> dict[str, str]:
    """Entities of a file name that say what was acquired, without those of how it was processed.

    >>> acquired_entities('sub-01_run-1_space-T1w_desc-preproc_bold.nii.gz')
    {'sub': '01', 'run': '1'}
    """
    return {key: value for key, value in entities_of(path).items() if key in OF_SERIES}


def entity_set(path: PurePath | str) -> set[tuple[str, str | int]]:
    """Entities of a file name to compare with those of another: leading zeros of numbers do not matter.

    >>> entity_set('run-1_MEGRE.json') <= entity_set('sub-01_run-01_MEGRE.nii')
    True
    """
    return {
        (key, int(value) if key in NUMBERED and is_number(value) else value)
        for key, value in entities_of(path).items()
    }


def suffix_of(path: PurePath | str) -> str:
    """Suffix of a file name: its last word before the extension.

    >>> suffix_of('sub-01_echo-1_MEGRE.nii.gz')
    'MEGRE'
    """
    return PurePath(path).name.partition('.')[0].rpartition('_')[2]


def join_entities(entities: Iterable[tuple[str, str]]) -> str:
    """A name of entities.

    >>> join_entities([('sub', '01'), ('ses', '1'), ('acq', 'x')])
    'sub-01_ses-1_acq-x'
    """
    return '_'.join(f'{key}-{value}' for key, value in entities)


def in_order(entities: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Entities in the order of BIDS, those that it does not know last.

    >>> in_order({'sub': '01', 'run': '1', 'acq': 'x'})
    (('sub', '01'), ('acq', 'x'), ('run', '1'))
    """
    known = list(ENTITIES)
    return tuple(sorted(entities.items(), key=lambda item: (*known, item[0]).index(item[0])))


def session_of(path: PurePath | None) -> str | None:
    """Session in a file name; None where there is no file, or none in its name."""
    return entities_of(path).get('ses') if path else None


def is_label(text: str) -> bool:
    """Whether a text can be the label of an entity.

    >>> is_label('01'), is_label('a b'), is_label('..')
    (True, False, False)
    """
    return re.fullmatch('[0-9A-Za-z+]{1,100}', text) is not None


def is_number(text: str) -> bool:
    """Whether a text can be the index of a numbered entity.

    >>> is_number('01'), is_number('1.5')
    (True, False)
    """
    return re.fullmatch('[0-9]{1,9}', text) is not None


def value_of(value: Any, kind: type) -> Any:
    """A value of a sidecar as a text, or as a number above 0; None where it is neither.

    >>> value_of(3, float), value_of('3', float), value_of(-1, float), value_of(['GE'], str)
    (3.0, None, None, None)
    """
    if kind is str:
        return value if isinstance(value, str) and value.isprintable() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 < number < math.inf else None
