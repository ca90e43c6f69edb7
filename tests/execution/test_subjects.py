"""Subjects are run one graph after another, each with its own failures, and only what fits is begun."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine.utils import topological_sort
from nipype.pipeline.plugins.linear import LinearPlugin

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.execution import subjects as execution
from bids_qsm.execution.run_log import RunLog, read_run
from bids_qsm.execution.subjects import read_crashes, run_subjects, step_threads, subject_plans
from bids_qsm.workflows.engine import Node, Workflow


@dataclass(frozen=True)
class Series:
    subject: str
    name: str
    shape: tuple = (2, 2, 2)
    voxel_size: tuple = (1.0, 1.0, 1.0)
    echo_times: tuple = (0.01,)
    coils: int = 1
    anat_shape: tuple | None = None


@dataclass(frozen=True)
class Plan:
    series: tuple


PLAN = Plan(
    (
        Series('01', 'sub-01_ses-1'),
        Series('01', 'sub-01_ses-2'),
        Series('02', 'sub-02'),
        Series('03', 'sub-03'),
    )
)


def touch(path):

    if Path(path).name == 'sub-02':
        raise ValueError('sub-02 is bad')
    Path(path).touch()
    return path


def build_in(folder, mem_gb=None):
    """A builder of graphs of one step a series, which makes a file of its name in ``folder``."""

    def build(part):
        workflow = Workflow(name='bids_qsm_wf', base_dir=str(folder / 'work'))
        for series in part.series:
            label = series.name.partition('_')[2].replace('-', '_') or 'series'
            subject = workflow.get_node(f'sub_{series.subject}_wf') or Workflow(f'sub_{series.subject}_wf')
            own = Workflow(f'{label}_wf')
            interface = Function(
                function=touch,
                input_names=['path'],
                output_names=['path'],
                imports=['from pathlib import Path'],
            )
            node = Node(interface, name='touch')
            node._mem_gb = (mem_gb or {}).get(series.subject, 0.1)
            node.inputs.path = str(folder / series.name)
            own.add_nodes([node])
            subject.add_nodes([own])
            workflow.add_nodes([] if subject in workflow._graph else [subject])
        return workflow, [f'Methods of {", ".join(series.name for series in part.series)}.']

    return build


@pytest.fixture
def run(tmp_path):
    """A function that runs PLAN and returns what run_subjects yields, sorted."""

    def run(build, **settings):
        options = Options(
            bids_dir=tmp_path,
            output_dir=tmp_path / 'out',
            level='participant',
            nprocs=2,
            mem_gb=4,
            **settings,
        )
        logs = tmp_path / 'logs'
        logs.mkdir()
        log = RunLog(logs)
        try:
            return sorted(run_subjects(options, PLAN, build, log))
        finally:
            log.close(0)

    return run


@pytest.mark.parametrize('plugin', [None, 'Linear'])
def test_each_subject_has_its_own_methods_and_failures(run, tmp_path, plugin, monkeypatch):
    monkeypatch.setattr(execution, 'BATCH', 1)
    settings = {}
    if plugin:
        settings['use_plugin'] = tmp_path / 'plugin.yml'
        settings['use_plugin'].write_text(f'plugin: {plugin}')
    done = run(build_in(tmp_path), **settings)
    assert [(subject, methods) for subject, methods, _ in done] == [
        ('01', ['Methods of sub-01_ses-1, sub-01_ses-2.']),
        ('02', ['Methods of sub-02.']),
        ('03', ['Methods of sub-03.']),
    ]
    assert [len(failures) for *_, failures in done] == [0, 1, 0]
    ((failure,),) = [failures for *_, failures in done if failures]
    assert failure['series'] == 'sub-02'
    assert 'sub-02 is bad' in failure['message']
    assert {path.name for path in tmp_path.glob('sub-*')} == {'sub-01_ses-1', 'sub-01_ses-2', 'sub-03'}
    lines = (tmp_path / 'logs' / 'log.txt').read_text()
    assert lines.count('FAILED') == 1
    assert '3 of 4 series done, 1 failed' in lines


def test_nothing_starts_where_something_does_not_fit(run, tmp_path, monkeypatch):
    larger = Plan((*PLAN.series[:-1], Series('03', 'sub-03', (9, 9, 9))))
    monkeypatch.setattr('tests.execution.test_subjects.PLAN', larger)
    with pytest.raises(UserError, match='--mem'):
        run(build_in(tmp_path, {'03': 50.0}))
    assert not list(tmp_path.glob('sub-*'))


def test_fewer_steps_at_a_time_are_said(run, tmp_path, capsys):
    run(build_in(tmp_path, {'01': 2.9}))
    assert '1 steps at a time instead of 2' in capsys.readouterr().err
    assert '1 steps at a time instead of 2' in (tmp_path / 'logs' / 'log.txt').read_text()


@pytest.mark.parametrize('larger', [{'anat_shape': (9, 9, 9)}, {'coils': 9}, {'voxel_size': (0.1, 1, 1)}])
def test_whatever_makes_a_subject_large_is_looked_at_first(run, tmp_path, monkeypatch, larger):
    series = (*PLAN.series[:-1], Series('03', 'sub-03', **larger))
    monkeypatch.setattr('tests.execution.test_subjects.PLAN', Plan(series))
    with pytest.raises(UserError, match='--mem'):
        run(build_in(tmp_path, {'03': 50.0}))
    assert not list(tmp_path.glob('sub-*'))


@pytest.mark.parametrize('plugin', [None, 'Linear'])
@pytest.mark.parametrize('why', ['memory', 'bug'])
def test_a_later_subject_that_cannot_begin_leaves_the_others_alone(run, tmp_path, plugin, why):
    def build(part):
        if why == 'bug' and any(series.subject == '03' for series in part.series):
            raise KeyError('no such thing')
        return whole(part)

    whole = build_in(tmp_path, {'03': 50.0})
    if plugin and why == 'memory':
        pytest.skip('plugins of Nipype look after memory themselves')
    settings = {}
    if plugin:
        settings['use_plugin'] = tmp_path / 'plugin.yml'
        settings['use_plugin'].write_text(f'plugin: {plugin}')
    done = {subject: failures for subject, _, failures in run(build, **settings)}
    assert [len(done[subject]) for subject in ('01', '02', '03')] == [0, 1, 1]
    (failure,) = done['03']
    assert (failure['series'], failure['node']) == ('sub-03', 'graph')
    assert ('--mem' if why == 'memory' else 'no such thing') in failure['message']
    assert {path.name for path in tmp_path.glob('sub-*')} == {'sub-01_ses-1', 'sub-01_ses-2'}
    assert read_run(tmp_path / 'logs')['series']['sub-03']['state'] == 'failed'


class Refusing(LinearPlugin):
    """Runs nothing more after sub-02, as where the scheduler refuses."""

    def run(self, graph, config, updatehash=False):
        nodes = topological_sort(graph)[0]
        at = next(i for i, node in enumerate(nodes) if 'sub_02' in node.fullname)
        with suppress(Exception):  # Nipype wraps what the step raised
            super().run(graph.subgraph(nodes[: at + 1]), config, updatehash)
        raise UserError('sbatch refused the step x: invalid partition')


@pytest.mark.parametrize('is_empty', [False, True])
def test_subjects_of_a_batch_that_were_not_run_have_failed(run, tmp_path, monkeypatch, is_empty):
    monkeypatch.setattr(execution, '_plugin', lambda _, note: (Refusing({'status_callback': note}), {}))
    (tmp_path / 'plugin.yml').touch()
    if is_empty:
        monkeypatch.setattr(execution, 'read_crash', lambda path: ('', f'{path} is empty'))
    done = {s: failures for s, _, failures in run(build_in(tmp_path), use_plugin=tmp_path / 'plugin.yml')}
    assert [len(done[subject]) for subject in ('01', '02', '03')] == [0, 1, 1]
    assert done['03'][0]['message'] == (
        'not finished, as the batch ended: sbatch refused the step x: invalid partition'
    )
    assert ('sub-02 is bad' in done['02'][0]['message']) != is_empty


def test_plans_by_subject():
    parts = subject_plans(PLAN)
    assert {subject: len(part.series) for subject, part in parts.items()} == {'01': 2, '02': 1, '03': 1}


def test_threads_of_a_step(tmp_path):
    def threads(n_series, **settings):
        options = Options(bids_dir=tmp_path, output_dir=tmp_path / 'out', level='participant', **settings)
        return step_threads(options, Plan(PLAN.series[:n_series]))

    assert [threads(n, nprocs=8) for n in (1, 2, 4)] == [4, 4, 2]
    assert threads(4, nprocs=1) == 1
    assert threads(4, nprocs=4, omp_nthreads=3) == 3


def test_crash_files_become_sentences(tmp_path):
    first, second = tmp_path / 'crash-1-x.txt', tmp_path / 'crash-2-x.txt'
    first.write_text(
        'Node: wf.sub_01_wf.ses_1_wf.recon_wf.mask\nWorking directory: x\n\n'
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n'
        'bids_qsm.errors.UserError: The mask is empty.\n'
    )
    second.write_text('Node: wf.sub_02_wf.anat_wf.bias\n\nTraceback\n\tMemoryError: too big\n')
    prefixes = {
        'wf.sub_01_wf': ('01', None),
        'wf.sub_01_wf.ses_1_wf': ('01', 'sub-01_ses-1'),
        'wf.sub_02_wf': ('02', None),
    }
    one, two = read_crashes([first, second], prefixes)
    assert one == {
        'subject': '01',
        'series': 'sub-01_ses-1',
        'node': 'mask',
        'message': 'The mask is empty.',
    }
    assert two['series'] == 'sub-02'
    assert two['message'] == 'MemoryError: too big (see crash-2-x.txt)'
