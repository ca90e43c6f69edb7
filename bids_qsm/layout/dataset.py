"""The dataset as a whole, and the folders and disks that a run writes to."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from bids_qsm.entities import entities_of, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.layout.checks import read_json
from bids_qsm.layout.query_files import is_outside_bids
from bids_qsm.layout.series import Rejected, Series


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
_FORGIVEN = ('ENTITY_NOT_IN_RULE', 'FILENAME_MISMATCH', 'SIDECAR_KEY_REQUIRED')
"""Errors of names and sidecars that do not matter in images of single coils, and in _MPM images."""

_SWI = '/swi/'
"""Folder that BIDS proposal 4 has, and the standard not."""


def validate(
    bids_dir: Path, series: list[Series], rejected: list[Rejected], subjects: Sequence[str]
) -> tuple[str, ...]:
    """Run the BIDS validator and return notes; UserError for errors of the dataset or ``subjects``.

    Those of the ``rejected`` do not count. Errors of images that ``series`` use always do, even where another
    series of such a name is rejected.
    """
    tool = 'bids-validator-deno'
    command = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if command is None:
        return (
            'bids-validator-deno is not installed, so the dataset was checked only as far as it is used.',
        )
    arguments = [str(bids_dir), '--format', 'json', '--ignoreWarnings']
    ran = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    try:
        issues = json.loads(ran.stdout)['issues']['issues']
    except (ValueError, KeyError):
        raise UserError(
            f'bids-validator-deno failed on {bids_dir} ({ran.stderr.strip()[-200:] or "no output"}); '
            '--skip-bids-validation runs without it.'
        ) from None
    names = {one.name for one in rejected}
    known = tuple(f'{name}{end}' for name in names for end in '_.')
    used = {
        path.name.partition('.')[0] for one in series for path in (*one.files, one.t1w, one.flair) if path
    }
    errors, forgiven = [], set()
    for issue in issues:
        location = issue.get('location', '')
        name, owner = Path(location).name, _owner(location)
        if issue.get('code') == 'NOT_INCLUDED' and is_outside_bids(bids_dir / location.lstrip('/')):
            continue
        if issue.get('code') in ('NOT_INCLUDED', *_FORGIVEN) and _SWI in location:
            forgiven.add(name.partition('.')[0])
            continue
        if issue.get('code') in _FORGIVEN and ('coil' in entities_of(name) or suffix_of(name) == 'MPM'):
            forgiven.add(name.partition('.')[0])
            continue
        is_known = name.startswith(known) or f'sub-{owner}' in names
        is_counted = not is_known or name.partition('.')[0] in used
        if issue.get('severity') == 'error' and is_counted and owner in (None, *subjects):
            errors.append(issue)
    if errors:
        first = errors[0]
        what = ' '.join(str(first[key]) for key in ('code', 'subCode', 'issueMessage') if first.get(key))
        raise UserError(
            f'{bids_dir} is not valid BIDS: {len(errors)} errors, the first {what} in '
            f'{first.get("location")}; mend them (bids-validator-deno lists all) or give '
            '--skip-bids-validation.'
        )
    if not forgiven:
        return ()
    return (
        f'{len(forgiven)} images of single receive coils, of MPM, or in swi/ are not valid BIDS by '
        f'their names or sidecars, such as {min(forgiven)}; they are used as far as they can be.',
    )


def _owner(location: str) -> str | None:
    """Subject in whose folder a file lies, None for files of the whole dataset."""
    found = re.match(r'/?sub-([^/]+)/', location)
    return found and found[1]
