"""Array jobs: which task this is, and the participants that are its share."""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from bids_qsm.errors import UserError

ANATOMY_BYTES = 1e8
"""Cost of a participant in addition to its series: alignment with the template, tables, report."""

_SERIES = re.compile(r'_(MEGRE|T2starw|GRE|MPM)\.nii(\.gz)?$|_part-\w+_T1w\.nii(\.gz)?$')
_ANNEX_KEY = re.compile(r'[A-Z0-9_]+(?:-[a-z]\d+)*?-s(\d+)-')
"""Target of a git-annex link, as MD5E-s2048--...nii.gz; it holds the size of a file that is not there."""
_GIVE = 'give --array-task I/N, task I of N (1/1 runs everything).'


def parse_task(text: str) -> tuple[int, int]:
    """(I, N) of 'I/N'; UserError where I is not one of 1 to N.

    >>> parse_task('3/12')
    (3, 12)
    """
    found = re.fullmatch(r'(\d{1,9})/(\d{1,9})', text, re.ASCII)
    task, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= task <= count:
        raise UserError(f'--array-task is {text!r}; it must be I/N, the task and their number, such as 3/12.')
    return task, count


def scheduled_task(environ: Mapping[str, str]) -> str | None:
    """The task as 'I/N' that SLURM, SGE or PBS give in ``environ``; None outside of an array.

    UserError where they do not tell the share, as when a part of an array is submitted again.
    """
    for scheduler, (task, first, last, step) in _ARRAYS.items():
        index = environ.get(task, 'undefined')
        if index == 'undefined':
            continue
        numbers = [environ.get(name, '') for name in (first, last, step)]
        if not all(number.isdecimal() for number in (index, *numbers)):
            raise UserError(f'{scheduler} gives {task}={index} but not how many tasks there are; {_GIVE}')
        low, high, step = map(int, numbers)
        count = high - low + 1
        has_gaps = scheduler == 'SLURM' and environ.get('SLURM_ARRAY_TASK_COUNT') != str(count)
        if low > 1 or step != 1 or count < 2 or has_gaps:
            raise UserError(
                f'the array of {scheduler} is not 1 to N, so the share of task {index} is unknown (a part of '
                f'an array that is submitted again?); {_GIVE}'
            )
        return f'{int(index) - low + 1}/{count}'
    return None


_ARRAYS = {
    'SLURM': (
        'SLURM_ARRAY_TASK_ID',
        'SLURM_ARRAY_TASK_MIN',
        'SLURM_ARRAY_TASK_MAX',
        'SLURM_ARRAY_TASK_STEP',
    ),
    'SGE': ('SGE_TASK_ID', 'SGE_TASK_FIRST', 'SGE_TASK_LAST', 'SGE_TASK_STEPSIZE'),
    # PBS Pro and Torque do not tell the number of tasks
    'PBS': ('PBS_ARRAY_INDEX', '', '', ''),
    'Torque': ('PBS_ARRAYID', '', '', ''),
}


def own_share(
    bids_dir: Path,
    subjects: Iterable[str],
    sessions: tuple[str, ...],
    task: str,
    shares: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """The participants among ``subjects`` that ``task`` ('I/N') runs; each is in one share.

    ``shares`` are the participants of each task, as one text of labels; without them they are found from the
    sizes of the files. Raises UserError where they are those of another number of tasks, or name somebody
    who is no longer there.
    """
    mine, count = parse_task(task)
    if shares:
        if len(shares) != count:
            raise UserError(f'--array-task is {task!r}, but the setting shares holds {len(shares)}.')
        own = shares[mine - 1].split()
        gone = [label for label in own if not (bids_dir / f'sub-{label}').is_dir()]
        if gone:
            raise UserError(
                f'task {task} is to run participant {gone[0]!r}, whom {bids_dir} no longer has; write the '
                'scripts again.'
            )
        return tuple(label for label in subjects if label in own)
    costs = {subject: subject_cost(bids_dir, subject, sessions) for subject in subjects}
    return balanced_shares(costs, count)[mine - 1]


def balanced_shares(costs: dict[str, float], count: int) -> list[tuple[str, ...]]:
    """Divide the keys of ``costs`` into ``count`` shares of about equal cost, the same on every machine.

    >>> balanced_shares({'01': 5, '02': 2, '03': 3, '04': 0}, 2)
    [('01', '04'), ('02', '03')]
    """
    shares = [[0.0, 0, number] for number in range(count)]
    members = [[] for _ in range(count)]
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        least = min(shares)
        least[0] += costs[name]
        least[1] += 1
        members[least[2]].append(name)
    return [tuple(sorted(names)) for names in members]


def subject_cost(bids_dir: Path, subject: str, sessions: tuple[str, ...]) -> float:
    """Cost of running a participant, in bytes of gradient-echo series; 0 where there is none.

    It only lists folders, as every task of an array does this for the whole dataset.
    """
    root = bids_dir / f'sub-{subject}'
    folders = [root, *(path for path in _entries(root) if path.name.startswith('ses-'))]
    if sessions:
        folders = [folder for folder in folders if folder.name.removeprefix('ses-') in sessions]
    sizes = [
        _size(path)
        for folder in folders
        for kind in ('anat', 'swi')
        for path in _entries(folder, kind)
        if _SERIES.search(path.name)
    ]
    return sum(sizes) + ANATOMY_BYTES if sizes else 0.0


def _entries(folder: str | Path, *below):
    try:
        return list(os.scandir(Path(folder, *below)))
    except OSError:  # reported when the share is read
        return []


def _size(entry: os.DirEntry):
    try:
        return entry.stat().st_size
    except OSError:  # a broken link, reported when the series is read
        with suppress(OSError):
            key = _ANNEX_KEY.match(os.path.basename(os.readlink(entry.path)))
            return int(key[1]) if key else 0
        return 0
