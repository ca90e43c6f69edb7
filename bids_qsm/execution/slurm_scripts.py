"""Scripts that run a dataset on a SLURM cluster: an array of tasks, and the group level after it."""

import hashlib
import math
import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Workflow

from bids_qsm.derivatives.files import atomic_write
from bids_qsm.errors import UserError, size_text
from bids_qsm.execution import estimates
from bids_qsm.execution.array_tasks import balanced_shares, subject_cost
from bids_qsm.execution.resources import MAIN_GB, MARGIN, WORKER_GB
from bids_qsm.layout import participants
from bids_qsm.plugins.methods import find_method

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.find import Plan
    from bids_qsm.layout.series import Series

MOST_TASKS = 100
CAUTION, START = 4, 600
"""A task asks for so many times its estimate, and for so many seconds to start in, as a limit kills.

Runs took .95 to 1.03 times their estimates in processor time, stages .7 to 1.7 (benchmarks/estimates.py).
Nodes may be half as fast, and others use their disks and memory; the first steps compile kernels."""


def write_scripts(
    options: 'Options',
    plan: 'Plan',
    graph_of: Callable[['Plan'], Workflow],
    *,
    tasks: int | None,
    asked_gb: float | None,
    image: str | None = None,
    venv: str | None = None,
    sbatch: str = '',
):
    """Write participant.sh, group.sh and submit.sh to slurm/ of the output; return what they ask for and why.

    ``graph_of`` makes the workflow of a plan. Whose share a participant is stays as it is, whatever is
    fetched or mended later. Raises UserError where the scripts could not run.
    """
    folder = options.output_dir / 'slurm'
    if re.search(r'["\\\n]', str(folder)):
        raise UserError(f'{folder} holds a quote, backslash or line break, which sbatch would not take.')
    program = _program(options, image, venv)
    if image:
        program[1:1] = _binds(options, plan)

    n_subjects = len({one.subject for one in plan.series})
    tasks = min(tasks or MOST_TASKS, n_subjects)
    labels = participants(options)
    costs = {label: subject_cost(options.bids_dir, label, options.session_label) for label in labels}
    shares = balanced_shares(costs, tasks)
    gb, needs = _memory(options, plan, graph_of)
    pace = estimates.pace_of_log(plan.series, options)
    seconds = _seconds(options, plan, shares, pace.times)
    task = Request(options.nprocs, asked_gb or gb, START + CAUTION * seconds, [f'--array=1-{tasks}'])
    if options.device == 'cuda':
        task.more.append('--gpus=1')
    group = _group(options, len(plan.series))
    _write_all(options, folder, program, task, group, shares, sbatch)
    first = max(plan.series, key=_size)
    basis = f' {pace.basis}' if pace.times > 1 else ''
    again = shlex.quote(str(folder / 'participant.sh'))
    return '\n'.join(
        [
            *plan.notes,
            *filter(None, [pace.note]),
            *(f'{one.name} is left out: {one.reason}' for one in plan.rejected),
            f'{n_subjects} participants with {len(plan.series)} series in {tasks} tasks; the largest is '
            f'{first.name}: {size_text(first.shape)} voxels, {len(first.echo_times)} echoes.',
            f'Each task asks for {task.said}: {"as --mem says" if asked_gb else needs}; the largest share '
            f'takes about {seconds / 60:.0f} minutes{basis}, of which the time is {CAUTION} times and '
            f'{START // 60} minutes.',
            f'The group level asks for {group.said}.',
            f'Templates are in {options.work_dir / "templates"}; the tasks need no network.',
            *([GPU_IMAGE] if image and options.device == 'cuda' else []),
            '',
            f'Submit:          bash {shlex.quote(str(folder / "submit.sh"))}',
            f'One task again:  sbatch --array={tasks} {again}',
            f'Messages:        {folder / "logs"}',
        ]
    )


@dataclass
class Request:
    """What a job asks for: CPUs, memory (GB), time (s), and more options of sbatch."""

    cpus: int
    gb: float
    seconds: float
    more: list = field(default_factory=list)

    @property
    def lines(self):
        """Options of sbatch; memory in steps of 100 MiB, half an hour or more in steps of ten minutes."""
        mebibytes = 100 * math.ceil(self.gb * 1e9 / 2**20 / 100)
        return [*self.more, f'--cpus-per-task={self.cpus}', f'--mem={mebibytes}M', f'--time={self._time}']

    @property
    def said(self):
        cpus = 'one CPU' if self.cpus == 1 else f'{self.cpus} CPUs'
        return f'{cpus}, {self.gb:.1f} GB and {self._time} (days-hours:minutes:seconds)'

    @property
    def _time(self):
        minutes = 10 * math.ceil(max(1800, self.seconds) / 600)
        return f'{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00'


def _write_all(
    options: 'Options',
    folder: Path,
    program: list[str],
    task: Request,
    group: Request,
    shares: list[list[str]],
    sbatch: str,
):
    (folder / 'logs').mkdir(parents=True, exist_ok=True)
    # the dataset has been validated, once for all tasks
    fixed = replace(options, skip_bids_validation=True, shares=tuple(map(' '.join, shares)))
    lines = fixed.to_toml().splitlines(keepends=True)
    text = ''.join(one for one in lines if not one.startswith(OWN))
    # tasks that wait keep theirs when the scripts are written again with other settings
    config = folder / f'config-{hashlib.sha256(text.encode()).hexdigest()[:8]}.toml'
    atomic_write(config, lambda p: p.write_text(text))
    run = shlex.join([*program, '--config', str(config)])
    again = f'# One task again: sbatch --array={len(shares)} {shlex.quote(str(folder / "participant.sh"))}'
    places = shlex.join([str(options.bids_dir), str(options.output_dir), 'group'])
    after = '# After the tasks, whether or not all succeeded.'
    for name, request, about, number, command in (
        ('participant', task, again, '%A_%a', f'{run} --array-task "$SLURM_ARRAY_TASK_ID/{len(shares)}"'),
        ('group', group, after, '%j', f'{run} {places}'),
    ):
        # sbatch takes % in names of files for its own
        log = f'{folder}/logs/'.replace('%', '%%') + f'{name}-{number}.log'
        asked = [
            *(f'--job-name=bids_qsm_{name}', *request.lines, f'--output="{log}"', '--open-mode=append'),
            *([sbatch] if sbatch else []),
        ]
        image = [IMAGE] if program[0] == 'run_image' else []
        _write(
            folder / f'{name}.sh',
            ['#!/bin/bash', *(f'#SBATCH {one}' for one in asked), about, *image, command],
        )
    _write(folder / 'submit.sh', [SUBMIT.format(folder=shlex.quote(str(folder)))])


OWN = ('nprocs =', 'mem_gb =')
"""Lines of a configuration that a job does without: it reads what SLURM granted."""

SUBMIT = """#!/bin/bash
# Submits the tasks, and the group level for when they have ended. Options are handed on to sbatch.
set -e
cd {folder}
tasks=$(sbatch --parsable "$@" participant.sh)
tasks=${{tasks%%;*}}
group=$(sbatch --parsable "$@" --dependency="afterany:$tasks" group.sh)
echo "participants: job $tasks, group: job ${{group%%;*}}"\
"""


def _size(series: 'Series'):
    return math.prod(series.shape) * len(series.files)


def _memory(options: 'Options', plan: 'Plan', graph_of: Callable):
    """Memory (GB) of a task whose CPUs run the largest steps that they can, and why."""
    # needs grow with the grid, with the echoes and coils, and with the T1w image
    sizes = (_size, lambda one: math.prod(one.shape), lambda one: math.prod(one.anat_shape or (0,)))
    chosen = {max(plan.series, key=size) for size in sizes}
    subjects = {one.subject for one in chosen}
    own = replace(plan, series=tuple(one for one in plan.series if one.subject in subjects))
    graph = graph_of(own)._create_flat_graph()
    nodes = [node for node in graph.nodes() if not isinstance(node.interface, IdentityInterface)]
    most = [0.0] * (options.nprocs + 1)  # of steps on so many CPUs
    for node in nodes:
        for cpus in range(options.nprocs, node.n_procs - 1, -1):
            most[cpus] = max(most[cpus], most[cpus - node.n_procs] + node.mem_gb)
    largest = max(nodes, key=lambda node: node.mem_gb)
    needs = (
        f'its largest step, {largest.name}, needs {largest.mem_gb:.2g} GB, all at a time {most[-1]:.2g} GB'
    )
    return (MAIN_GB + options.nprocs * WORKER_GB + most[-1]) / MARGIN, needs


def _seconds(options: 'Options', plan: 'Plan', shares: list[list[str]], pace: float = 1.0):
    """Time that the largest share is estimated to take (s), with a guess at its applications.

    A ``pace`` below 1 does not count, as a limit kills.
    """
    shared = [{*share} for share in shares]
    parts = ([one for one in plan.series if one.subject in share] for share in shared)
    return max(1.0, pace) * max(
        estimates.of_run(part, options).seconds + _of_applications(part) for part in parts
    )


def _of_applications(series: 'Iterable[Series]'):
    uses = sum(use.name != 'regions' for one in series for use in one.applications)
    return estimates.APPLICATION_SECONDS * uses


def _group(options: 'Options', n_series: int):
    """What the group level asks for: the tables are small, maps are read one by one but tested together."""
    is_voxelwise, is_averaged = options.voxelwise != 'no', options.study_template > 0
    gb = 4 + 0.02 * n_series * is_voxelwise + 8 * is_averaged
    seconds = 600 + n_series * (2 + 60 * is_voxelwise + 300 * options.study_template)
    return Request(options.nprocs, gb, START + CAUTION * seconds)


def _program(options: 'Options', image: str | None, venv: str | None):
    """Words that start bids_qsm on a node."""
    if image and venv:
        raise UserError('--image and --venv are two ways to start bids_qsm; give one.')
    if venv:
        python = Path(venv).expanduser().absolute() / 'bin' / 'python'
        if not python.exists():
            raise UserError(f'--venv {venv} is no Python environment: there is no {python}.')
        return [str(python), '-m', 'bids_qsm']
    if not image:
        return [sys.executable, '-m', 'bids_qsm']
    image = Path(image).expanduser().absolute()
    if not image.is_file():
        raise UserError(f'--image {image} is not a file; give an Apptainer image (.sif).')
    gpu = ['--nv'] if options.device == 'cuda' else []
    return ['run_image', *gpu, str(image)]


def _binds(options: 'Options', plan: 'Plan'):
    """Options of Apptainer that give an image what it reads and writes."""
    folders = {options.bids_dir: 'ro', **{path: 'ro' for _, path in options.derivatives}}
    files = (options.bids_filter_file, options.mask.as_dict.get('path'))
    atlas = [options.atlas] if Path(options.atlas).is_absolute() else []
    for path in (Path(file) for file in (*files, *atlas) if file):
        fixed = [part for part in path.parents if '{' not in str(part)]
        folders.setdefault(fixed[0], 'ro')
    folders |= {find_method({}, name).manifest.folder: 'ro' for name in options.plugins.values()}
    folders |= {options.output_dir: 'rw', options.work_dir: 'rw'}
    if options.bids_database_dir:
        folders[options.bids_database_dir] = 'rw'
    read = [*(path for one in plan.series for path in _files(one)), *map(Path, atlas)]
    for path in _linked(read, folders):
        folders.setdefault(path, 'ro')
    binds = []
    for path, mode in sorted(folders.items()):
        if re.search('[:,]', str(path)):
            raise UserError(f'{path} holds a colon or comma, which Apptainer cannot bind; rename or link it.')
        binds += ['--bind', f'{path}:{path}:{mode}']
    return binds


def _linked(files: Iterable[Path], folders: Collection[Path]):
    """Folders outside of ``folders`` that links on the way to ``files``, or beside them, lead to."""
    todo = list(files)
    places = {folder for path in {path.parent for path in files} for folder in (path, *path.parents)}
    for place in places:
        if _is_below(place, folders):  # sidecars may be links as well
            todo += [Path(entry.path) for entry in os.scandir(place) if entry.is_symlink()]
    seen, found = set(), set()
    while todo:
        for part in (path := todo.pop(), *path.parents):
            if part in seen:
                break
            seen.add(part)
            if part.is_symlink():
                target = Path(os.path.normpath(part.parent.resolve() / os.readlink(part)))
                todo.append(target)
                found.add(target if target.is_dir() else target.parent)
    groups = defaultdict(list)
    for path in found:
        if path.is_dir() and not _is_below(path, folders):
            groups[path.parts[:3]].append(path)
    return [Path(os.path.commonpath(paths)) for paths in groups.values()]


def _is_below(path: Path, folders: Iterable[Path]):
    return any(path.is_relative_to(folder) for folder in folders)


def _files(series: 'Series'):
    more = (series.t1w, series.t1w_preproc, series.brain_mask, series.mask, series.flair)
    transforms = (path for _, *paths in series.template_xfm for path in paths)
    labels = (path for one in series.segmentations for path in (one.dseg, one.table))
    return [
        path
        for path in (*series.files, *more, *transforms, *(one.path for one in series.inputs), *labels)
        if path
    ]


IMAGE = """run_image() {
  local name given=()
  for name in SLURM_{CPUS_PER_TASK,CPUS_ON_NODE,MEM_PER_NODE,MEM_PER_CPU} CUDA_VISIBLE_DEVICES; do
    [ -z "${!name}" ] || given+=(--env "$name=${!name}")
  done
  "$(command -v apptainer || command -v singularity)" run --cleanenv "${given[@]}" "$@"
}"""
GPU_IMAGE = '--device cuda needs PyTorch in the image; that of bids_qsm.def has none.'


def _write(path: Path, lines: list[str]):
    atomic_write(path, lambda p: p.write_text('\n'.join(lines) + '\n'))
    path.chmod(0o755)
