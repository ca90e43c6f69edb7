"""The process pool keeps to its limits, goes on after failures, and says what each step took."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function, Select

from bids_qsm.errors import UserError
from bids_qsm.execution.pool import AHEAD, PoolPlugin, in_worker
from bids_qsm.execution.subjects import expanded
from bids_qsm.workflows.engine import Node, Workflow


def double(x):
    return 2 * x


def fail(x):
    raise ValueError(f'{x} is no good')


def die(x):  # noqa: ARG001
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def fill(x):
    """Hold 200 MB for a moment."""
    return len(bytearray(200_000_000)) * x


def step(function, name, **needs):
    return Node(Function(function=function, input_names=['x'], output_names=['y']), name=name, **needs)


def chain(base_dir, middle, name):
    """first -> middle -> last, named ``name``."""
    workflow = Workflow(name=name, base_dir=str(base_dir))
    steps = [step(double, 'first'), step(middle, 'middle'), step(double, 'last')]
    steps[0].inputs.x = 3
    for a, b in pairwise(steps):
        workflow.connect(a, 'y', b, 'x')
    return workflow


def beside(base_dir, n, **needs):
    """``n`` steps that wait for nothing."""
    workflow = Workflow(name='wf', base_dir=str(base_dir))
    for i in range(n):
        one = step(double, f'step{i}', **needs)
        one.inputs.x = i
        workflow.add_nodes([one])
    return workflow


def run(workflow, logs, **limits):
    """Run ``workflow``; return (node, status) of each event, and all nodes by name."""
    events, nodes = [], {}

    def note(node, status):
        events.append((node.fullname, status))
        nodes[node.fullname] = node

    workflow.config['execution'] = {'crashdump_dir': str(logs), 'crashfile_format': 'txt'}
    args = {'n_procs': 2, 'memory_gb': 2, **limits, 'status_callback': note}
    with PoolPlugin(args) as pool:
        try:
            workflow.run(plugin=pool)
        except RuntimeError:
            events.append(('run', 'failed'))
    return events, nodes


def ended(events, status='end'):
    return {name for name, what in events if what == status}


def most_at_once(events):
    running = peak = 0
    for _, status in events:
        running += 1 if status == 'start' else -1
        peak = max(peak, running)
    return peak


@pytest.fixture
def both(tmp_path):
    """A workflow of two chains, the first with ``middle`` in it."""

    def build(middle):
        workflow = Workflow(name='wf', base_dir=str(tmp_path / 'work'))
        workflow.add_nodes([chain(tmp_path, middle, 'bad'), chain(tmp_path, double, 'good')])
        return workflow

    return build


GOOD = {'wf.good.first', 'wf.good.middle', 'wf.good.last'}


@pytest.mark.parametrize(('middle', 'why'), [(fail, '6 is no good'), (die, 'signal 9 (SIGKILL)')])
def test_failure_stops_only_what_depends_on_it(both, tmp_path, middle, why):
    events, _ = run(both(middle), tmp_path / 'logs')
    assert ended(events) == {'wf.bad.first', *GOOD}
    assert ended(events, 'exception') == {'wf.bad.middle'}
    assert events[-1] == ('run', 'failed')
    (crash,) = (tmp_path / 'logs').glob('crash-*.txt')
    assert why in crash.read_text()


def test_second_run_repeats_nothing(both, tmp_path):
    run(both(double), tmp_path / 'logs')
    events, nodes = run(both(double), tmp_path / 'logs')
    assert [status for _, status in events] == ['end'] * 6, 'cached nodes report only their end'
    assert all(node.measured is None for node in nodes.values())


def test_result_that_cannot_be_read_is_made_again(both, tmp_path):
    run(both(double), tmp_path / 'logs')
    (broken,) = (tmp_path / 'work').rglob('good/first/result_first.pklz')
    broken.write_bytes(b'')
    events, _ = run(both(double), tmp_path / 'logs')
    assert 'wf.good.first' in ended(events, 'start')
    assert ended(events) == GOOD | {name.replace('good', 'bad') for name in GOOD}


def test_stop_on_first_crash(tmp_path):
    workflow = beside(tmp_path, 6)
    workflow.get_node('step0').inputs.function_str = 'def fail(x):\n    raise ValueError(x)\n'
    events, _ = run(workflow, tmp_path / 'logs', n_workers=1, stop_on_first_crash=True)
    assert ended(events, 'exception') == {'wf.step0'}
    assert len(ended(events)) < 5


@pytest.mark.parametrize(
    ('needs', 'limits'),
    [
        ({'mem_gb': 0.6}, {'memory_gb': 1}),
        ({'mem_gb': 3}, {'memory_gb': 1}),  # alone it may run
        ({'n_procs': 2}, {}),
        ({'n_procs': 4}, {}),
        ({}, {'n_workers': 1}),
    ],
    ids=str,
)
def test_limits_are_kept(tmp_path, needs, limits):
    events, _ = run(beside(tmp_path, 4, **needs), tmp_path / 'logs', **limits)
    assert len(ended(events)) == 4
    assert most_at_once(events) == 1


def test_steps_run_beside_each_other(tmp_path):
    events, _ = run(beside(tmp_path, 6, mem_gb=0.6), tmp_path / 'logs')
    assert most_at_once(events) == 2


def test_steps_are_measured(tmp_path):
    workflow = chain(tmp_path, fill, 'wf')
    _, nodes = run(workflow, tmp_path / 'logs')
    small, large = (nodes[f'wf.{name}'].measured for name in ('first', 'middle'))
    assert small['seconds'] > 0
    assert small['cpu_seconds'] >= 0
    if small['peak_gb'] is None:
        pytest.skip('the system does not tell the peak memory of a process')
    assert large['peak_gb'] > 0.15 > small['peak_gb']
    assert large['resident_gb'] > large['peak_gb']


def test_graphs_are_taken_when_it_is_their_turn(tmp_path):
    taken, over = [], []

    def graphs():
        for i in range(9):
            taken.append(len(over))
            workflow = chain(tmp_path, fail if i == 4 else double, f'wf{i}')
            workflow.config['execution'] = {'crashdump_dir': str(tmp_path), 'crashfile_format': 'txt'}
            yield expanded(workflow)

    with PoolPlugin({'n_procs': 2, 'memory_gb': 2}) as pool:
        for live in pool.run_all(graphs()):
            over.append(live.number)
            crashes = [live.number] if live.crashes else []
            assert crashes == [live.number] * (live.number == 4)
    assert sorted(over) == list(range(9))
    assert all(i - n_over < 2 + AHEAD for i, n_over in enumerate(taken))


def run_on(x, device):  # noqa: ARG001
    return x


def test_one_step_at_a_time_has_the_gpu(tmp_path):
    workflow = beside(tmp_path, 2)
    for i in range(3):
        one = Node(Function(function=run_on, input_names=['x', 'device'], output_names=['y']), f'gpu{i}')
        one.inputs.x, one.inputs.device = i, 'cuda'
        workflow.add_nodes([one])
    events, _ = run(workflow, tmp_path / 'logs', n_procs=4)
    assert len(ended(events)) == 5
    assert most_at_once([event for event in events if 'gpu' in event[0]]) == 1
    assert most_at_once(events) > 1


def test_steps_of_a_kind_wait_for_the_first_where_kernels_are_missing(tmp_path):
    workflow = beside(tmp_path, 3)
    for i in range(2):
        one = Node(Select(inlist=[1, 2], index=[i]), f'other{i}')
        workflow.add_nodes([one])
    events, _ = run(workflow, tmp_path / 'logs', n_procs=4, is_cold=True)
    assert len(ended(events)) == 5
    for kind in ('step', 'other'):
        first, after, *_ = [event for event in events if kind in event[0]]
        assert (first[1], after) == ('start', (first[0], 'end'))
    assert most_at_once(events) > 1


def test_a_limit_that_comes_while_workers_are_busy_holds_after_their_steps(tmp_path):
    with PoolPlugin({'n_procs': 3, 'memory_gb': 2}) as pool:
        for _ in pool.run_all(map(expanded, (beside(tmp_path / name, 3) for name in 'ab'))):
            pool.limit(workers=1, memory_gb=2)
        assert len(multiprocessing.active_children()) == 1
    assert not multiprocessing.active_children()


def test_a_worker_that_ends_as_it_begins_is_a_failure_of_the_step(tmp_path):
    with PoolPlugin({'n_procs': 1, 'memory_gb': 2}) as pool:
        pool._setup = (str(tmp_path / 'nowhere'), *pool._setup[1:])
        workflow = beside(tmp_path, 1)
        workflow.config['execution'] = {'crashdump_dir': str(tmp_path), 'crashfile_format': 'txt'}
        (live,) = pool.run_all([expanded(workflow)])
    (crash,) = live.crashes
    assert 'the process of this step ended before it began' in Path(crash).read_text()


FAR = """
import sys, tempfile
sys.path.insert(0, {root!r})
from tests.execution.test_pool import beside, ended, run
from pathlib import Path

if __name__ == '__main__':
    events, _ = run(beside(Path({folder!r}), 1), {folder!r})
    print(ended(events), tempfile.gettempdir())
"""


def test_a_long_tmpdir_is_no_obstacle(tmp_path):
    far = tmp_path / ('x' * 104)
    far.mkdir()
    script = tmp_path / 'main.py'
    script.write_text(FAR.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path)))
    environ = {**os.environ, 'TMPDIR': str(far)}
    ran = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1].split() == ["{'wf.step0'}", str(far)]


@pytest.mark.parametrize('seconds', [0, 0.5])
def test_worker_that_was_killed_while_idle_is_replaced(tmp_path, seconds):
    def graphs():
        yield expanded(beside(tmp_path / 'one', 1))
        (process,) = multiprocessing.active_children()
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(seconds)  # pebble takes a moment to see it
        yield expanded(beside(tmp_path / 'two', 1))

    with PoolPlugin({'n_procs': 1, 'memory_gb': 2}) as pool:
        pool._lacks_work = lambda: not pool._n_live
        assert [live.crashes for live in pool.run_all(graphs())] == [[], []]


SLEEPER = """
import sys
sys.path.insert(0, {root!r})
from tests.execution.test_pool import beside, run
from pathlib import Path

if __name__ == '__main__':
    workflow = beside(Path({folder!r}), 2)
    for name in ('step0', 'step1'):
        workflow.get_node(name).inputs.function_str = '''
def sleep(x):
    import os, pathlib, time
    pathlib.Path({folder!r}, f'pid{{x}}').write_text(str(os.getpid()))
    time.sleep(600)
'''
    run(workflow, {folder!r})
"""


def test_workers_end_with_the_main_process(tmp_path):
    script = tmp_path / 'main.py'
    script.write_text(SLEEPER.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path)))
    main = subprocess.Popen([sys.executable, script])
    files = [tmp_path / 'pid0', tmp_path / 'pid1']
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), main)
    main.kill()
    main.wait()
    workers = [Path('/proc', file.read_text()) for file in files]
    wait_for(lambda: not any(is_alive(worker) for worker in workers))


def wait_for(condition, process=None):
    for _ in range(1200):
        if condition():
            return
        assert process is None or process.poll() is None
        time.sleep(0.1)
    raise AssertionError('it did not come')


def is_alive(folder):
    try:
        return (folder / 'stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


def halve(x):
    if x < 0:
        raise UserError('x is negative.')
    if x > 99:
        os.abort()
    return x / 2


def test_a_function_runs_in_a_worker():
    assert in_worker(halve, 4, n_threads=1).result() == 2
    with pytest.raises(UserError, match='x is negative'):
        in_worker(halve, -1, n_threads=1).result()
    with pytest.raises(UserError, match='a process beside the main one ended with signal 6'):
        in_worker(halve, 100, n_threads=1).result()
