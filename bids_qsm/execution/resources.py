"""CPUs and memory that this process may use, and the number of workers that fit."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bids_qsm.errors import UserError

MAIN_GB = 0.6
"""Memory of the main process, which holds the graphs, and of the server that forks the workers (GB)."""
WORKER_GB = 0.4
"""Memory that a worker keeps between steps: imports, compiled kernels, pages that are not returned (GB)."""
MARGIN = 0.95
"""Fraction of a limit to plan with, as other processes of the job, such as its shell, count too."""


@dataclass(frozen=True)
class Capacity:
    """Workers of a graph, memory that their running steps share (GB), and what the user should know."""

    workers: int
    steps_gb: float
    note: str | None


def plan_capacity(nodes: Iterable[tuple[str, float]], *, nprocs: int, mem_gb: float) -> Capacity:
    """Divide ``mem_gb`` among the main process, workers and steps; use fewer workers where needed.

    ``nodes`` are (full name, memory in GB) of each step. Raises UserError where even one worker
    could not run the largest.
    """
    nodes = list(nodes)
    if not nodes:
        return Capacity(nprocs, mem_gb, None)
    largest, needed = max(nodes, key=lambda node: node[1])
    least = MAIN_GB + WORKER_GB + needed
    if mem_gb < least:
        raise UserError(
            f'{_described(largest)} needs {needed:.2g} GB of memory, {least:.2g} GB with the program itself, '
            f'but --mem is {mem_gb:.3g} GB; give --mem {math.ceil(10 * least) / 10:g} or more.'
        )
    mean = sum(gb for _, gb in nodes) / len(nodes)
    most = min(nprocs, len(nodes))
    # idle workers keep memory that steps need: as many as can run mean steps, and as fit beside the largest
    busy, beside = (mem_gb - MAIN_GB) / (WORKER_GB + mean), (mem_gb - MAIN_GB - needed) / WORKER_GB
    workers = max(1, min(most, int(busy), int(beside)))
    note = None
    if workers < most:
        note = (
            f'{workers} steps at a time instead of {most}, to stay within --mem {mem_gb:.3g} GB: steps need '
            f'{mean:.2g} GB on average, {_described(largest)} {needed:.2g} GB, each worker {WORKER_GB:g} GB.'
        )
    return Capacity(workers, mem_gb - MAIN_GB - workers * WORKER_GB, note)


def _described(fullname: str):
    """A step as a user knows it: 'sub_01 recon.field.fit'."""
    parts = [part.removesuffix('_wf') for part in fullname.split('.')]
    at = next((i for i, part in enumerate(parts) if part.startswith('sub_')), None)
    return parts[-1] if at is None else f'{parts[at]} {".".join(parts[at + 1 :])}'.strip()


def available_cpus() -> int:
    """CPUs that this process may use: the minimum of affinity, cgroup quota and what SLURM granted."""
    granted = [len(os.sched_getaffinity(0))]
    for folder in _cgroup_folders('cpu'):
        quota = _cpu_quota(folder)
        if quota is not None:
            granted.append(max(1, int(quota)))
    slurm = _count('SLURM_CPUS_PER_TASK') or _count('SLURM_CPUS_ON_NODE')
    return min([*granted, *([slurm] if slurm else [])])


def total_memory_gb() -> float:
    """Largest memory that this process can have: that of the machine or the limit of its cgroups (GB)."""
    return min([os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, *_memory_limits_gb()])


def available_memory_gb() -> float:
    """Memory to plan with (GB): most of what SLURM granted, the cgroups allow, or the machine has."""
    machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    limits = [*_memory_limits_gb(), *_slurm_memory_gb()]
    return min([0.9 * machine, *(MARGIN * limit for limit in limits)])


def _slurm_memory_gb():
    """Memory that SLURM granted (GB); it gives MiB per node, CPU or GPU, and 0 for the whole node."""
    if mib := _count('SLURM_MEM_PER_NODE'):
        yield mib * 2**20 / 1e9
    if mib := _count('SLURM_MEM_PER_CPU'):
        yield mib * (_count('SLURM_CPUS_ON_NODE') or available_cpus()) * 2**20 / 1e9
    if mib := _count('SLURM_MEM_PER_GPU'):
        yield mib * (_count('SLURM_GPUS_ON_NODE') or 1) * 2**20 / 1e9


def _count(variable: str):
    value = os.environ.get(variable, '')
    return int(value) if value.isdecimal() else 0


def _memory_limits_gb():
    for folder in _cgroup_folders('memory'):
        for name in ('memory.max', 'memory.high', 'memory.limit_in_bytes'):
            limit = _read(folder / name)
            if limit.isdecimal() and int(limit) > 0:
                yield int(limit) / 1e9


def _cpu_quota(folder: Path):
    """CPUs that a cgroup may use, None without a quota."""
    quota, _, period = _read(folder / 'cpu.max').partition(' ')
    if not period:
        quota, period = (_read(folder / f'cpu.cfs_{name}_us') for name in ('quota', 'period'))
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return int(quota) / int(period)
    return None  # 'max', -1, or no such controller


def _read(path: Path):
    try:
        return path.read_text().strip()
    except OSError:
        return ''


def _cgroup_folders(controller: str, proc: str = '/proc/self'):
    """Folders of this process's cgroups (version 1 or 2) and their parents, which have limits too."""
    paths = {}
    for line in _read(Path(proc, 'cgroup')).splitlines():
        _, names, path = line.split(':', 2)
        paths['cgroup' if controller in names.split(',') else 'cgroup2' if not names else ''] = path
    found = []
    for line in _read(Path(proc, 'mountinfo')).splitlines():
        mount, _, system = line.partition(' - ')
        kind, _, flags = system.split(' ', 2)
        if kind not in paths or (kind == 'cgroup' and controller not in flags.split(' ')[-1].split(',')):
            continue
        _, _, _, root, point, *_ = mount.split(' ')
        # in a container the mount may start below the root of the hierarchy
        path = PurePosixPath(paths[kind])
        inside = path.relative_to(root) if path.is_relative_to(root) else path.relative_to('/')
        found += [Path(point), *(Path(point, parent) for parent in (inside, *inside.parents))]
    return list(dict.fromkeys(found))
