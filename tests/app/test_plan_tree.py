"""--dry-run: a tree on a terminal, plain text elsewhere, with times and memory."""

import io
import os
import pty
import subprocess
import sys
from dataclasses import replace

from rich.console import Console

from bids_qsm.app import plan_tree
from bids_qsm.app.options import Options
from bids_qsm.layout.series import Use
from tests.skeletons import write_series, write_t1w


def options_of(data):
    return Options(
        bids_dir=data, output_dir=data.parent / 'out', level='participant', nprocs=2, mem_gb=1, work_dir=None
    )


def test_tree_has_participants_sessions_series_and_steps(data, find):
    write_series(data, sub='01', ses='a', entities='acq-x')
    write_series(data, sub='01', ses='b')
    write_t1w(data, sub='01', ses='a')
    write_series(data, sub='02', parts=('mag',))
    out = io.StringIO()
    Console(file=out, width=300, highlight=False).print(plan_tree.tree_of(options_of(data), find()))
    lines = out.getvalue().splitlines()
    assert lines[0] == 'Skeleton: 2 series to run, 1 not'
    assert 'from nothing with 2 CPUs and at least 1.' in lines[1]
    start = next(i for i, line in enumerate(lines) if line.startswith('├── sub-01'))
    drawn = [line.replace('│', ' ').rstrip() for line in lines[start:]]
    steps = [line.split()[1] for line in drawn if line.startswith('            ')]
    assert drawn[0].startswith('├── sub-01  92 s, 0.')
    assert drawn[1].startswith('    ├── anatomy  53 s')
    assert drawn[2] == '    ├── ses-a'
    assert drawn[3].startswith('        └── acq-x  ')
    for name in ('phase', 'field', 'chi', 'labels', 'report'):
        assert steps.count(name) == 2, name
    assert drawn[-3] == '└── not run'
    assert 'sub-02: error' in drawn[-2]


def test_applications_are_said_not_to_be_counted(data, find):
    write_series(data)
    plan = find()
    assert 'Not in the time' not in plan_tree.describe_plan(options_of(data), plan)
    (one,) = plan.series
    plan = replace(plan, series=(replace(one, applications=(*one.applications, Use('veins', (), ()))),))
    assert 'Not in the time: veins.' in plan_tree.describe_plan(options_of(data), plan)


def test_a_terminal_gets_the_tree(data):
    """In a process with a terminal of its own."""
    write_series(data)
    ours, theirs = pty.openpty()
    words = [str(data), str(data.parent / 'out'), 'participant', '--skip-bids-validation', '--dry-run']
    environ = {**os.environ, 'TERM': 'xterm', 'COLUMNS': '100', 'PYTHONUTF8': '1'}
    with subprocess.Popen(
        [sys.executable, '-m', 'bids_qsm', *words], stdout=theirs, stderr=theirs, env=environ
    ) as child:
        os.close(theirs)
        said = b''
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the end of a terminal
            pass
    os.close(ours)
    assert child.returncode == 0
    assert '└── ' in said.decode()
    assert 'sub-01' in said.decode()
