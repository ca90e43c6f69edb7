"""The BIDS validator: which of the errors that it finds refuse a dataset."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from bids_qsm.entities import entities_of, suffix_of
from bids_qsm.errors import UserError, plain
from bids_qsm.layout.query_files import is_outside_bids
from bids_qsm.layout.series import Rejected, Series

TOOL = 'bids-validator-deno'

HARMLESS = {
    r'(SIDECAR_KEY_REQUIRED Units|PHASE_UNITS) .*_part-phase_.*': 'the unit of phase is found from its '
    'values',
    r'SIDECAR_KEY_REQUIRED .*': 'what the maps need of a sidecar, such as EchoTime, is asked for by itself',
    r'JSON_KEY_REQUIRED (Name|BIDSVersion) /dataset_description\.json': 'it describes the dataset alone',
    r'\S+( \S+)? /(README|CHANGES|LICENSE|CITATION)(\.\w+)?': 'it describes the dataset alone',
    r'TSV_VALUE_INCORRECT_TYPE .*/participants\.tsv': 'each value that is used is checked where it is read',
    r'PARTICIPANT_ID_MISMATCH .*/participants\.tsv': 'who is missing there has no age or group there',
    r'\S+( \S+)? /(sub-[^/]+)(/(ses-[^/]+))?/\2(?(4)_\4)_scans\.tsv': 'maps do not use it, and the group '
    'level leaves out times that it cannot read',
}
"""Errors that cannot make results wrong, as patterns of code and place, and why."""

UNUSED = r'/sub-[^/]+/(ses-[^/]+/)?(beh|eeg|emg|ieeg|meg|micr|motion|mrs|nirs|pet)/.*'
"""Where errors of files that no series uses cannot make results wrong; the rest may be a series' own."""

_FORGIVEN = ('ENTITY_NOT_IN_RULE', 'FILENAME_MISMATCH', 'SIDECAR_KEY_REQUIRED')
"""Errors of names and sidecars that do not matter in images of single coils, and in _MPM images."""

_SWI = '/swi/'
"""Folder that BIDS proposal 4 has, and the standard not."""


def validate(
    bids_dir: Path, series: list[Series], rejected: list[Rejected], subjects: Sequence[str]
) -> tuple[str, ...]:
    """Run the BIDS validator and return notes; UserError for errors of the dataset or ``subjects``.

    Those of the ``rejected`` do not count. Errors of images that ``series`` use always do, even where another
    series of such a name is rejected. Those that are `HARMLESS` give a note.
    """
    issues = _run(bids_dir)
    if issues is None:
        return (f'{TOOL} is not installed, so the dataset was checked only as far as it is used.',)
    names = {one.name for one in rejected}
    known = tuple(f'{name}{end}' for name in names for end in '_.')
    used = {path.name.partition('.')[0] for one in series for path in _paths(one)}
    errors, forgiven, harmless = [], set(), {}
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
        is_used = name.partition('.')[0] in used
        is_counted = not is_known or is_used
        if issue.get('severity') != 'error' or not is_counted or owner not in (None, *subjects):
            continue
        if why := _why_harmless(issue, is_used=is_used):
            harmless.setdefault(why, []).append(issue)
        else:
            errors.append(issue)
    if errors:
        more = str(errors[0].get('issueMessage') or '').partition('\n')[0]
        raise UserError(
            f'{bids_dir} is not valid BIDS: {_count(errors)}, the first '
            f'{" ".join(filter(None, (_what(errors[0]), more)))} in {errors[0].get("location")}; mend them '
            f'({TOOL} lists all) or give --skip-bids-validation.'
        )
    notes = [
        f'The dataset is not valid BIDS: {_count(own)}, the first {_what(own[0])} in '
        f'{own[0].get("location")}. It is run all the same, as {why}; {TOOL} lists all.'
        for why, own in harmless.items()
    ]
    if forgiven:
        notes.append(
            f'{len(forgiven)} images of single receive coils, of MPM, or in swi/ are not valid BIDS by '
            f'their names or sidecars, such as {min(forgiven)}; they are used as far as they can be.'
        )
    return tuple(map(plain, notes))


def _run(bids_dir: Path) -> list[dict] | None:
    """What the validator finds, None where it is not installed; UserError where it fails."""
    command = shutil.which(TOOL, path=str(Path(sys.executable).parent)) or shutil.which(TOOL)
    if command is None:
        return None
    arguments = [str(bids_dir), '--format', 'json', '--ignoreWarnings']
    ran = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    try:
        return json.loads(ran.stdout)['issues']['issues']
    except (ValueError, KeyError):
        raise UserError(
            f'{TOOL} failed on {bids_dir} ({ran.stderr.strip()[-200:] or "no output"}); '
            '--skip-bids-validation runs without it.'
        ) from None


def _paths(part: object) -> Iterator[Path]:
    """All files that a series, or a part of one, names: images, masks, tables, inputs of applications."""
    if isinstance(part, Path):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _paths(one)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _paths(getattr(part, field.name))


def _why_harmless(issue: dict, *, is_used: bool) -> str:
    """Why an error does not refuse the dataset, '' where it does."""
    if not is_used and re.fullmatch(UNUSED, issue.get('location', '')):
        return 'no series uses it'
    told = f'{_what(issue)} {issue.get("location", "")}'
    return next((why for pattern, why in HARMLESS.items() if re.fullmatch(pattern, told)), '')


def _what(issue: dict) -> str:
    return ' '.join(str(issue[key]) for key in ('code', 'subCode') if issue.get(key))


def _count(issues: list[dict]) -> str:
    return f'{len(issues)} {"error" if len(issues) == 1 else "errors"}'


def _owner(location: str) -> str | None:
    """Subject in whose folder a file lies, None for files of the whole dataset."""
    found = re.match(r'/?sub-([^/]+)/', location)
    return found and found[1]
