"""The dataset as a whole, and the folders and disks that a run writes to."""

import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.layout.checks import read_json


def require_dataset(bids_dir: Path) -> dict:
    """Raise UserError where ``bids_dir`` is no readable BIDS dataset; return its description."""
    description = bids_dir / 'dataset_description.json'
    if not bids_dir.is_dir():
        raise UserError(f'{bids_dir} is not a folder; give the root of a BIDS dataset.')
    if not os.access(bids_dir, os.R_OK | os.X_OK):
        raise UserError(f'{bids_dir} cannot be read; change its permissions.')
    if not description.is_file():
        raise UserError(
            f'{bids_dir} is not a BIDS dataset: it has no dataset_description.json. {_instead(bids_dir)}'
        )
    content, problem = read_json(description)
    if problem:
        raise UserError(f'{bids_dir}: {problem}')
    return content


def _instead(folder: Path) -> str:
    """What to do with a folder that is no dataset, by what it holds."""
    if any(path.is_dir() for path in folder.glob('sub-*')):
        return 'Its folders look like one: write {"Name": "...", "BIDSVersion": "1.10.0"} into that file.'
    above = [other for other in (folder.parent, folder.parent.parent) if is_raw(other)]
    found = above[:1] or [other for other in _entries(folder) if is_raw(other)]
    if len(found) == 1:
        return f'{found[0]} has one: give that.'
    if found:
        names = ', '.join(str(other) for other in found[:NAMED]) + ', ...' * (len(found) > NAMED)
        return f'{len(found)} folders have one: give one of {names}.'
    for path in _files(folder):
        if _is_dicom(path):
            return f'It holds DICOM files: "bids_qsm import {folder} NEW_FOLDER" makes a dataset of them.'
        if path.name.endswith(('.nii', '.nii.gz')):
            return f'It holds NIfTI images, such as {path.name}: put them into folders and names of BIDS.'
    return 'Give the folder that holds sub-*, or make one from DICOM files by bids_qsm import.'


def is_raw(folder: Path) -> bool:
    """Whether a folder is a dataset with participants, and no derivative; False where it cannot be read."""
    try:
        description = folder / 'dataset_description.json'
        if not description.is_file():
            return False
        content, problem = read_json(description)
        is_made = not problem and content.get('DatasetType') == 'derivative'
        return not (problem or is_made) and any(path.is_dir() for path in folder.glob('sub-*'))
    except OSError:  # of another user
        return False


def _entries(folder: Path) -> list[Path]:
    return sorted(islice(folder.iterdir(), LOOKED_AT))


def _files(folder: Path) -> Iterator[Path]:
    """The first files in and below a folder; what cannot be read is passed over."""
    places = islice(os.walk(folder), LOOKED_AT)
    return islice((Path(place, name) for place, _, names in places for name in sorted(names)), LOOKED_AT)


def _is_dicom(path: Path) -> bool:
    try:
        if not path.is_file():  # to open a pipe would wait
            return False
        with path.open('rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return False


def require_places(bids_dir: Path, output_dir: Path, work_dir: Path):
    """Raise UserError where output or work cannot be written, or would lie among the input."""
    for flag, path in (('output folder', output_dir), ('working folder', work_dir)):
        inside = path.is_relative_to(bids_dir) and not path.is_relative_to(bids_dir / 'derivatives')
        if path == bids_dir or inside or path == bids_dir / 'derivatives':
            raise UserError(
                f'the {flag} {path} lies in the input dataset; choose one outside it, or derivatives/NAME.'
            )
    if work_dir == output_dir:
        raise UserError(f'{work_dir} is both output and working folder; give another --work-dir.')
    for path in (output_dir, work_dir):
        parent = existing_parent(path)
        if not parent.is_dir():
            raise UserError(f'{path} cannot be made: {parent} is a file.')
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            owner = ', or with Docker give -u "$(id -u):$(id -g)"' if 'BIDS_QSM_IMAGE' in os.environ else ''
            raise UserError(
                f'{path} cannot be written ({error.strerror}); choose another folder{owner}.'
            ) from None


def existing_parent(path: Path) -> Path:
    """The nearest of ``path`` and its parents that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


LOOKED_AT = 200
"""Files, and folders, at most, of a folder that is no dataset that are looked at."""
NAMED = 4
"""Datasets in it, at most, that are named."""
