"""Whether the disks can hold what a run will write."""

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.errors import UserError
from bids_qsm.layout.dataset import existing_parent
from bids_qsm.workflows.base import node_name

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series


def require_space(series: Sequence['Series'], options: 'Options'):
    """Raise UserError where the disks cannot hold what the series will need."""
    voxels = [one.shape[0] * one.shape[1] * one.shape[2] for one in series]
    work = sum(4 * n * (6 * len(one.echo_times) + 30) for n, one in zip(voxels, series, strict=True))
    # maps in the template's space are as large whatever the series' grid
    output = sum(4 * n * 12 for n in voxels) + 1.5e8 * len(series)
    work += 5e8 * len({one.subject for one in series})
    problem = _space_problem(options, output, work)
    if problem and options.work_dir.is_dir():  # what an earlier run left is used again; counting takes long
        left = _left_of({one.subject for one in series}, options.work_dir)
        problem = _space_problem(options, output, max(work - left, 0))
    if problem:
        raise UserError(problem)


def _left_of(subjects: set[str], work_dir: Path):
    """Bytes that an earlier run left of these subjects; other tasks may share the folder."""
    left = 0
    for subject in subjects:
        for folder, _, names in os.walk(work_dir / 'bids_qsm_wf' / node_name(f'sub-{subject}')):
            for name in names:
                with suppress(OSError):
                    left += os.lstat(os.path.join(folder, name)).st_size
    return left


def _space_problem(options: 'Options', output: float, work: float):
    needs = defaultdict(float)
    for path, size in ((options.output_dir, output), (options.work_dir, work)):
        parent = existing_parent(path)
        needs[parent.stat().st_dev, parent] += size
    by_disk = defaultdict(float)
    for (disk, _), size in needs.items():
        by_disk[disk] += size
    for disk, parent in needs:
        free = shutil.disk_usage(parent).free
        if free < by_disk[disk]:
            return (
                f'{parent} has {free / 1e9:.1f} GB free, but about {by_disk[disk] / 1e9:.1f} GB are '
                'needed; free some, choose another --work-dir, or run fewer participants at a time.'
            )
    return None
