"""What limits are read, and how a graph is kept within them."""

import os

import pytest

from bids_qsm.errors import UserError
from bids_qsm.execution import resources as capacity
from bids_qsm.execution.resources import (
    MAIN_GB,
    WORKER_GB,
    available_cpus,
    available_memory_gb,
    plan_capacity,
    total_memory_gb,
)

GB = 1_000_000_000


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 100 GB and 16 CPUs without limits; give cgroup files as {path below its mount: text}."""
    for name in os.environ:
        if name.startswith('SLURM_'):
            monkeypatch.delenv(name)
    sizes = {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 100 * GB // 4096}
    monkeypatch.setattr(capacity.os, 'sysconf', sizes.get)
    monkeypatch.setattr(capacity.os, 'sched_getaffinity', lambda _: set(range(16)))
    find = capacity._cgroup_folders
    monkeypatch.setattr(capacity, '_cgroup_folders', lambda controller: find(controller, tmp_path / 'proc'))

    def make(cgroup, mountinfo, files):
        (tmp_path / 'proc').mkdir()
        (tmp_path / 'proc' / 'cgroup').write_text(cgroup)
        (tmp_path / 'proc' / 'mountinfo').write_text(mountinfo.format(tmp_path / 'fs'))
        for name, text in files.items():
            path = tmp_path / 'fs' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{text}\n')

    return make


V2 = '31 23 0:28 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n'
V1 = ''.join(
    f'3{i} 31 0:3{i} {root} {{0}}/{folder} rw shared:9 - cgroup cgroup rw,{flags}\n'
    for i, (root, folder, flags) in enumerate(
        [
            ('/docker/abc', 'memory', 'memory'),
            ('/docker/abc', 'cpu,cpuacct', 'cpu,cpuacct'),
            ('/', 'cpuset', 'cpuset'),
        ]
    )
)


@pytest.mark.parametrize(
    ('cgroup', 'mounts', 'files', 'total_gb', 'cpus'),
    [
        ('', '', {}, 100, 16),
        ('0::/\n', V2, {'memory.max': 'max', 'cpu.max': 'max 100000'}, 100, 16),
        ('0::/\n', V2, {'memory.max': 8 * GB, 'cpu.max': '250000 100000'}, 8, 2),
        ('0::/\n', V2, {'cpu.max': '50000 100000'}, 100, 1),
        # the limit stands on the slice of the user or job, not on the step itself
        (
            '0::/job_7/step_0/user\n',
            V2,
            {
                'job_7/memory.max': 6 * GB,
                'job_7/step_0/memory.max': 'max',
                'job_7/step_0/user/memory.max': 20 * GB,
                'job_7/step_0/cpu.max': '300000 100000',
                'other/memory.max': GB,
            },
            6,
            3,
        ),
        # version 1, in a container that sees only its own part of the hierarchy
        (
            '4:memory:/docker/abc/inner\n3:cpuacct,cpu:/docker/abc\n0::/docker/abc\n',
            V1,
            {
                'memory/memory.limit_in_bytes': 2**63 - 4096,
                'memory/inner/memory.limit_in_bytes': 4 * GB,
                'cpu,cpuacct/cpu.cfs_quota_us': 400000,
                'cpu,cpuacct/cpu.cfs_period_us': 100000,
            },
            4,
            4,
        ),
        ('3:cpu,cpuacct:/\n', V1, {'cpu,cpuacct/cpu.cfs_quota_us': -1}, 100, 16),
    ],
)
def test_limits_of_cgroups(machine, cgroup, mounts, files, total_gb, cpus):
    machine(cgroup, mounts, files)
    assert total_memory_gb() == pytest.approx(total_gb, rel=1e-6)
    assert available_memory_gb() == pytest.approx((0.9 if total_gb == 100 else 0.95) * total_gb, rel=1e-6)
    assert available_cpus() == cpus


@pytest.mark.parametrize(
    ('variables', 'memory_gb', 'cpus'),
    [
        ({'CPUS_PER_TASK': 3, 'CPUS_ON_NODE': 8, 'MEM_PER_NODE': 4000}, 0.95 * 4.194304, 3),
        ({'CPUS_ON_NODE': 8, 'MEM_PER_CPU': 1000}, 0.95 * 8.388608, 8),
        ({'CPUS_ON_NODE': 4, 'MEM_PER_GPU': 2000, 'GPUS_ON_NODE': 2}, 0.95 * 4.194304, 4),
        ({'MEM_PER_NODE': 0}, 90, 16),
        ({'CPUS_PER_TASK': 64, 'MEM_PER_NODE': 10**6}, 90, 16),
        ({'CPUS_PER_TASK': '', 'MEM_PER_NODE': 'all'}, 90, 16),
    ],
)
def test_what_slurm_granted(machine, monkeypatch, variables, memory_gb, cpus):
    machine('0::/\n', V2, {})
    for name, value in variables.items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    assert available_memory_gb() == pytest.approx(memory_gb, rel=1e-5)
    assert available_cpus() == cpus
    assert total_memory_gb() == pytest.approx(100)


def test_slurm_within_a_cgroup(machine, monkeypatch):
    machine('0::/\n', V2, {'memory.max': 3 * GB, 'cpu.max': '200000 100000'})
    monkeypatch.setenv('SLURM_MEM_PER_NODE', '8000')
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '4')
    assert (available_memory_gb(), available_cpus()) == (pytest.approx(2.85), 2)


def test_this_machine():
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
    assert 0 < available_memory_gb() < total_memory_gb()


def step(name, gb):
    return f'bids_qsm_wf.sub_01_wf.run_1_wf.{name}', gb


def test_workers_as_asked_for_where_memory_is_enough():
    plan = plan_capacity([step('fit', 2)] * 9, nprocs=4, mem_gb=32)
    assert (plan.workers, plan.note) == (4, None)
    assert plan.steps_gb == pytest.approx(32 - MAIN_GB - 4 * WORKER_GB)
    assert plan_capacity([step('fit', 2)], nprocs=4, mem_gb=32).workers == 1
    assert plan_capacity([], nprocs=4, mem_gb=32).workers == 4


@pytest.mark.parametrize('mem_gb', [3.9, 4, 5, 6.5, 8, 12, 20, 40])
@pytest.mark.parametrize('nprocs', [1, 2, 7, 64])
def test_fewer_workers_rather_than_no_run(nprocs, mem_gb):
    nodes = [step('small', 0.2)] * 60 + [step('middle', 1)] * 30 + [step('recon_wf.invert', 2.9)]
    plan = plan_capacity(nodes, nprocs=nprocs, mem_gb=mem_gb)
    assert 1 <= plan.workers <= nprocs
    assert plan.steps_gb >= 2.9 - 1e-9
    assert plan.steps_gb + MAIN_GB + plan.workers * WORKER_GB == pytest.approx(mem_gb)
    assert (plan.note is None) == (plan.workers == nprocs)
    if plan.note:
        assert plan.note.startswith(f'{plan.workers} steps at a time instead of {nprocs}')
        assert 'sub_01 run_1.recon.invert 2.9 GB' in plan.note


def test_what_fits_in_no_way_is_not_started():
    least = MAIN_GB + WORKER_GB + 6
    says = rf'sub_01 run_1.recon.invert needs 6 GB .*--mem is 4 GB; give --mem {least:g} or more'
    with pytest.raises(UserError, match=says):
        plan_capacity([step('recon_wf.invert', 6), step('fit', 1)], nprocs=8, mem_gb=4)
    assert plan_capacity([step('recon_wf.invert', 6)], nprocs=8, mem_gb=least).workers == 1
