"""BIDS file names: entities in their order."""

import re
from pathlib import Path

LONG_NAMES = {
    'sub': 'subject',
    'ses': 'session',
    'acq': 'acquisition',
    'ce': 'ceagent',
    'rec': 'reconstruction',
    'dir': 'direction',
    'trc': 'tracer',
    'stain': 'staining',
    'mod': 'modality',
    'seg': 'segmentation',
}
"""Entities that BIDS filter files call by another name than the file does."""

NUMBERED = ('echo', 'run', 'inv', 'flip')
"""Entities whose value is a whole number."""


def entities_of(path: Path) -> tuple[tuple[str, str], ...]:
    """Entities of a file name in their order.

    >>> entities_of(Path('sub-01_acq-x_echo-1_MEGRE.nii.gz'))
    (('sub', '01'), ('acq', 'x'), ('echo', '1'))
    """
    words = path.name.partition('.')[0].split('_')
    return tuple(tuple(word.split('-', 1)) for word in words if '-' in word)


def entity_set(path: Path) -> set:
    """Entities of a file name to compare with those of another: leading zeros of numbers do not matter.

    >>> entity_set(Path('run-1_MEGRE.json')) <= entity_set(Path('sub-01_run-01_MEGRE.nii'))
    True
    """
    return {
        (key, int(value) if key in NUMBERED and re.fullmatch('[0-9]{1,9}', value) else value)
        for key, value in entities_of(path)
    }


def suffix_of(path: Path) -> str:
    """Suffix of a file name: its last word before the extension."""
    return path.name.partition('.')[0].rpartition('_')[2]


def join_entities(entities) -> str:
    """'sub-01_ses-1_acq-x' of (('sub', '01'), ('ses', '1'), ('acq', 'x'))."""
    return '_'.join(f'{key}-{value}' for key, value in entities)


def session_of(path: Path | None) -> str | None:
    """Session in a file name; None where there is no file, or none in its name."""
    return dict(entities_of(path)).get('ses') if path else None
