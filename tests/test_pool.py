"""The process pool goes on after a node fails and after a worker is killed."""

import os
import signal
from itertools import pairwise

import pytest
from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from bids_qsm.pool import PoolPlugin
from bids_qsm.progress import GraphProgress


def double(x):
    return 2 * x


def fail(x):
    raise ValueError(f'{x} is no good')


def die(x):  # noqa: ARG001
    os.kill(os.getpid(), signal.SIGKILL)


def chain(base_dir, middle, name):
    """first -> middle -> last, named ``name``."""
    workflow = Workflow(name=name, base_dir=str(base_dir))
    steps = [
        Node(Function(function=f, input_names=['x'], output_names=['y']), name=step)
        for step, f in (('first', double), ('middle', middle), ('last', double))
    ]
    steps[0].inputs.x = 3
    for a, b in pairwise(steps):
        workflow.connect(a, 'y', b, 'x')
    return workflow


def run(workflow, logs, **config):
    events = []
    workflow.config['execution'] = {
        'crashdump_dir': str(logs),
        'crashfile_format': 'txt',
        'poll_sleep_duration': '0.05',
        'stop_on_first_crash': 'false',
        **config,
    }
    args = {
        'n_procs': 2,
        'memory_gb': 2,
        'status_callback': lambda node, status: events.append((node.fullname, status)),
    }
    try:
        workflow.run(plugin=PoolPlugin(args), plugin_args=args)
    except RuntimeError:
        events.append(('run', 'failed'))
    return events


def finished(events):
    return {name.rpartition('.')[2] for name, status in events if status == 'end'}


@pytest.fixture
def both(tmp_path):
    """A workflow of two chains, the first with ``middle`` in it."""

    def build(middle):
        workflow = Workflow(name='wf', base_dir=str(tmp_path / 'work'))
        workflow.add_nodes([chain(tmp_path, middle, 'bad'), chain(tmp_path, double, 'good')])
        return workflow

    return build


def test_failure_stops_only_what_depends_on_it(both, tmp_path):
    events = run(both(fail), tmp_path / 'logs')
    done = {name for name, status in events if status == 'end'}
    assert done == {'wf.bad.first', 'wf.good.first', 'wf.good.middle', 'wf.good.last'}
    assert ('wf.bad.middle', 'exception') in events
    (crash,) = (tmp_path / 'logs').glob('crash-*.txt')
    assert '6 is no good' in crash.read_text()


def test_killed_worker_is_a_failure_and_not_a_hang(both, tmp_path):
    events = run(both(die), tmp_path / 'logs')
    assert ('wf.bad.middle', 'exception') in events
    assert ('run', 'failed') in events
    # whatever ran beside the killed worker may have gone down with it; a second run does the rest
    again = run(both(double), tmp_path / 'logs')
    assert {name for name, status in again if status == 'end'} >= {'wf.good.last', 'wf.bad.last'}


def test_second_run_repeats_nothing(both, tmp_path):
    run(both(double), tmp_path / 'logs')
    events = run(both(double), tmp_path / 'logs')
    assert [status for _, status in events] == ['end'] * 6, 'cached nodes report only their end'


def test_progress_counts_by_series(both, tmp_path, capsys):
    workflow = both(fail)
    names = [node.fullname for node in workflow._create_flat_graph().nodes()]
    with GraphProgress({'wf.bad': 'sub-1', 'wf.good': 'sub-2'}, names) as progress:
        for name, status in run(workflow, tmp_path / 'logs'):
            node = next((n for n in workflow._create_flat_graph().nodes() if n.fullname == name), None)
            if node is not None:
                progress.callback(node, status)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.endswith('sub-2 3/3 last done') for line in lines)
    assert any(line.endswith('sub-1 2/3 middle FAILED') for line in lines)
