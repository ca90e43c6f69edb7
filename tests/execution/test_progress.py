"""The display follows the events of the nodes, within the terminal."""

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from bids_qsm.execution import progress
from bids_qsm.execution.progress import CACHED, Pace, RunProgress, duration, screen, shorten
from bids_qsm.execution.run_log import RunLog, read_run

STEPS = ('series_phase_wf.condition', 'series_wf.recon_wf.field_wf.fit', 'series_MNI_save_wf.save')
MEASURED = {'seconds': 2.0, 'cpu_seconds': 1.5, 'peak_gb': 0.25, 'resident_gb': 0.5}


def graph(subject):
    """Groups and full names of the nodes of a subject with one series."""
    root = f'wf.sub_{subject}_wf'
    groups = {root: f'sub-{subject} anatomy'}
    groups |= {f'{root}.series{part}_wf': f'sub-{subject}' for part in ('', '_phase', '_MNI', '_MNI_save')}
    return groups, [f'{root}.{step}' for step in (*STEPS, 'anat_wf.bias')]


def node(name, measured=MEASURED):
    return SimpleNamespace(fullname=name, name=name.rpartition('.')[2], measured=measured)


def run(shown, name, status='end'):
    shown.callback(node(name), 'start')
    shown.callback(node(name), status)


@pytest.fixture
def log(tmp_path):
    log = RunLog(tmp_path)
    yield log
    log.close(0)


@pytest.fixture
def shown(log):
    with RunProgress(['sub-1', 'sub-2'], log, mem_gb=4, nprocs=2) as shown:
        shown.add(*graph(1))
        yield shown


def events(log, *kinds):
    lines = (log.folder / 'events.jsonl').read_text().splitlines()
    return [event for event in map(json.loads, lines) if event['event'] in kinds]


def test_lines_tell_series_step_seconds_and_memory(shown, log, capsys):
    run(shown, 'wf.sub_1_wf.series_wf.recon_wf.field_wf.fit')
    run(shown, 'wf.sub_1_wf.anat_wf.bias')
    lines = capsys.readouterr().err.splitlines()
    wanted = [
        'sub-1 1/3 recon_wf.field_wf.fit done 2.0 s 0.25 GB',
        'sub-1 anatomy 1/1 anat_wf.bias done 2.0 s 0.25 GB',
    ]
    assert [re.sub(r'^\[ +\d+ s\] ', '', line) for line in lines] == wanted
    assert [line[20:] for line in (log.folder / 'log.txt').read_text().splitlines()] == wanted
    first, _ = events(log, 'end')
    assert {key: first[key] for key in (*MEASURED, 'n_done')} == {**MEASURED, 'n_done': 1}


def test_the_log_of_a_job_has_no_control_characters(log, capsys, monkeypatch):
    """Also where the environment asks for colours, which a job inherits."""
    for name in ('FORCE_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'SLURM_JOB_ID'):
        monkeypatch.setenv(name, '1')
    with RunProgress(['sub-1', 'sub-2'], log, mem_gb=4, nprocs=2) as shown:
        shown.add(*graph(1))
        run(shown, 'wf.sub_1_wf.anat_wf.bias')
        run(shown, 'wf.sub_1_wf.series_wf.recon_wf.field_wf.fit', 'exception')
    said = capsys.readouterr()
    assert said.out == ''
    lines = said.err.splitlines()
    assert len(lines) == 3, 'a line for each step, and one for the run'
    assert all(line.isprintable() for line in lines)
    assert '0 of 2 series done, 1 failed' in lines[-1]


def test_series_is_done_with_its_anatomy(shown, log, capsys):
    for name in graph(1)[1][:-1]:
        run(shown, name)
    assert not events(log, 'done')
    run(shown, 'wf.sub_1_wf.anat_wf.bias')
    assert [event.get('series', event.get('subject')) for event in events(log, 'done')] == ['sub-1', 'sub-1']
    assert re.search(r'sub-1 done; 1 of 2 series done in 0 s, \d\.\d of 4\.0 GB', capsys.readouterr().err)
    assert read_run(log.folder)['series']['sub-1']['state'] == 'done'
    # nothing is kept of what is through, as there may be thousands
    assert not shown._works
    assert not shown._nodes


def test_failure_loses_the_series_once(shown, log, capsys):
    name = 'wf.sub_1_wf.series_wf.recon_wf.field_wf.fit'
    shown.callback(node(name), 'start')
    failed = node(name)
    failed._traceback = ['Traceback\n', 'bids_qsm.errors.UserError: The phase is constant.\n']
    shown.callback(failed, 'exception')
    # Nipype ends a step of the main process after its exception too
    shown.callback(node(name), 'end')
    run(shown, 'wf.sub_1_wf.anat_wf.bias', 'exception')
    said = [line.partition('] ')[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        'sub-1 recon_wf.field_wf.fit FAILED The phase is constant.',
        'sub-1 anatomy anat_wf.bias FAILED',
    ]
    assert [event['node'] for event in events(log, 'failed')] == [name, 'wf.sub_1_wf.anat_wf.bias']
    assert '0 of 2 series done, 1 failed in 0 s' in shown._summary()


def test_steps_of_earlier_runs_are_counted_and_not_told(shown, log, capsys):
    for name in graph(1)[1]:
        shown.callback(node(name, None), 'end')
    assert not events(log, 'end')
    assert [event['n_cached'] for event in events(log, 'done')] == [1, 3]
    (line,) = capsys.readouterr().err.splitlines()
    assert 'sub-1 done (3 of 3 steps from before);' in line


def test_plugin_that_measures_nothing_is_measured_from_here(shown, log):
    name = 'wf.sub_1_wf.anat_wf.bias'
    shown.callback(node(name, None), 'start')
    time.sleep(1.2 * CACHED)
    shown.callback(node(name, None), 'end')
    (event,) = events(log, 'end')
    assert event['seconds'] > CACHED
    assert 'peak_gb' not in event


def test_terminal_that_takes_nothing_is_no_error(shown, log, monkeypatch):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', Full())
        run(shown, 'wf.sub_1_wf.series_wf.recon_wf.field_wf.fit')
    run(shown, 'wf.sub_1_wf.anat_wf.bias')
    assert len(events(log, 'end')) == 2


def test_nodes_that_no_one_knows_are_passed_over(shown, log):
    run(shown, 'wf.sub_1_wf.series_wf.mapflow_part')
    assert not events(log, 'start', 'end')


def test_stages_are_named_by_their_steps(shown):
    assert shown._works['sub-1'].left == {
        'phase_wf.condition': 'phase',
        'recon_wf.field_wf.fit': 'field',
        'MNI_save_wf.save': 'report',
    }
    assert shown._works['sub-1 anatomy'].left == {'anat_wf.bias': 'anatomy'}


def test_rows_are_the_series_in_work(shown):
    assert shown._rows() == []
    shown.callback(node('wf.sub_1_wf.anat_wf.bias'), 'start')
    ((name, stages, steps),) = shown._rows()
    assert (name, steps) == ('sub-1', ['bias 0 s'])
    assert stages == {
        'phase': (0, 1, False),
        'anatomy': (0, 1, False),
        'field': (0, 1, False),
        'chi': (0, 0, False),
        'labels': (0, 0, False),
        'report': (0, 1, False),
    }
    shown.callback(node('wf.sub_1_wf.anat_wf.bias'), 'exception')
    # what is lost is no longer shown once nothing of it runs
    assert shown._rows() == []
    shown.callback(node('wf.sub_1_wf.series_phase_wf.condition'), 'start')
    ((_, stages, _),) = shown._rows()
    assert stages['anatomy'] == (1, 1, True)


def test_time_left_follows_from_what_was_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    pace, names = Pace(2), ['sub-1', 'sub-2']
    for title in names:
        for step in ('fit', 'save'):
            pace.add(title, step)
    works = {
        title: SimpleNamespace(left={'fit': '', 'save': ''}, running={}, failed=set()) for title in names
    }
    assert pace.left(works, (), ()) is None
    now[0] = 10.0
    pace.end('sub-1', 'fit', 10.0)
    del works['sub-1'].left['fit']
    assert pace.left(works, (), ()) is None, 'no one knows how long saving takes'
    now[0] = 12.0
    pace.end('sub-1', 'save', 2.0)
    del works['sub-1']
    # one after the other, as so far
    assert pace.left(works, (), ()) == pytest.approx(12.0)
    works['sub-2'].running['fit'] = 8.0
    assert pace.left(works, (), ()) == pytest.approx(8.0)
    assert pace.left(works, (), {'sub-3', 'sub-4'}) == pytest.approx(8.0 + 24.0)
    assert pace.left(works, {'sub-2'}, ()) == 0


@pytest.mark.parametrize('size', [(40, 5), (76, 24), (200, 60)])
@pytest.mark.parametrize('encoding', ['utf-8', 'ascii'])
def test_screen_fits_the_terminal(size, encoding):
    class File:
        lines = ''

        def write(self, text):
            self.lines += text

        def flush(self):
            pass

    file = File()
    file.encoding = encoding
    console = Console(file=file, width=size[0], height=size[1], color_system=None)
    stages = dict.fromkeys(progress.COLUMNS, (1, 2, False)) | {'chi': (2, 2, False), 'labels': (0, 3, True)}
    rows = [(f'sub-{i:02}_acq-{"x" * 40}', stages, ['register 12 s', 'fit\x1b[2J 3 s']) for i in range(30)]
    console.print(screen('2 of 30 series done', rows, console))
    lines = file.lines.splitlines()
    assert max(map(len, lines)) < size[0]
    assert len(lines) < size[1]
    assert '\x1b' not in file.lines
    n_shown = sum(line.startswith('sub-') for line in lines)
    assert n_shown == min(30, max(size[1] - 4, 0))
    if n_shown < 30:
        assert lines[-1] == f'and {30 - n_shown} more begun'
    if encoding == 'ascii':
        assert file.lines.isascii()


def test_terminal_shows_rows_while_the_run_goes_on(tmp_path):
    code = (
        'import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n'
        'from tests.execution.test_progress import *\n'
        'log = RunLog(sys.argv[1])\n'
        'with RunProgress(["sub-1"], log, mem_gb=4, nprocs=2) as shown:\n'
        '    groups, names = graph(1)\n'
        '    shown.add(groups, names)\n'
        '    shown.callback(node(names[0]), "start"); time.sleep(1.5)\n'
        '    print("said by others", flush=True)\n'
        '    for name in names: run(shown, name)\n'
        'log.close(0)\n'
    )
    ours, theirs = pty.openpty()
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    child = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path), root],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '100', 'LINES': '20', 'PYTHONIOENCODING': 'utf-8'},
    )
    os.close(theirs)
    deadline = threading.Timer(60, child.kill)
    deadline.start()
    said = b''
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    deadline.cancel()
    said = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', said.decode())
    assert child.wait() == 0, said
    assert re.search(r'0 of 1 series done in \d s, \d\.\d of 4\.0 GB *\r\n +phase +anatomy +field', said)
    assert re.search(r'sub-1 ░{7} ░{7} ░{7} █{7} █{7} ░{7} condition 1 s', said)
    assert 'said by others' in said
    assert re.search(r'\[ +\d s\] sub-1 done; 1 of 1 series done in', said)
    # steps are told in the log alone
    assert 'fit done' not in said
    assert 'fit done' in (tmp_path / 'log.txt').read_text()


def test_words():
    assert shorten('sub-01', 6) == 'sub-01'
    assert len(shorten('sub-01_ses-2_acq-x', 9)) == 9
    assert [duration(s) for s in (0, 99.4, 100, 5960, 6000, 200000)] == [
        '0 s',
        '99 s',
        '2 min',
        '99 min',
        '1 h 40 min',
        '2 d 07 h',
    ]
