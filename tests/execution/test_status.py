"""The state of an output folder is told from the logs of its runs alone."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from bids_qsm.app import cli
from bids_qsm.errors import UserError
from bids_qsm.execution import run_log, watch
from bids_qsm.execution.run_log import EVENTS, SILENCE, RunLog
from bids_qsm.execution.status import describe, read_status, show_status


@pytest.fixture
def begin(tmp_path):
    """A function that begins the log of a run; those not closed are, at the end."""
    logs = []

    def make(name, **about):
        folder = tmp_path / 'logs' / name
        folder.mkdir(parents=True)
        logs.append(RunLog(folder, **about))
        return logs[-1]

    yield make
    for log in logs:
        if not log._ended.is_set():
            log.close(1)


def finish(log, out, *names):
    for name in names:
        log.event('start', series=name, step='fit')
        log.event('end', series=name, step='fit', n_done=1)
        log.event('done', series=name)
        (out / f'{name.partition("_")[0]}.html').touch()


def kill(log):
    """Let a run seem to be of a process that is gone."""
    path = log.folder / EVENTS
    path.write_text(path.read_text().replace(f'"pid":{os.getpid()},', '"pid":4194305,'))


def test_every_state_is_told(begin, tmp_path):
    names = [f'sub-{i}' for i in range(1, 17)]
    first = begin('run1', task='1/3')
    first.event('plan', series=names[:2], mem_gb=4, nprocs=2)
    finish(first, tmp_path, 'sub-1')
    first.event('add', subject='sub-2', n_steps=3)
    first.event('add', series='sub-2', n_steps=5)
    first.event('end', subject='sub-2', step='bias', n_done=1)
    first.event('start', series='sub-2', step='recon_wf.fit')
    kill(first)
    second = begin('run2', task='2/3')
    second.event('plan', series=names[2:], mem_gb=4, nprocs=2)
    second.event('failed', series='sub-5', step='input', reason='the phase is\nconstant\x1b[31m')
    second.event('start', series='sub-3', step='recon_wf.fit')
    second.event('alive', memory_gb=1.234)
    state = read_status(tmp_path)
    assert state['counts'] == {'failed': 1, 'stopped': 1, 'running': 1, 'waiting': 12, 'done': 1}
    assert state['missing_tasks'] == ['3/3']
    lines = describe(state).splitlines()
    assert lines[0] == (f'{tmp_path}: 16 series: 1 failed, 1 stopped, 1 running, 12 not started, 1 done')
    assert lines[2:4] == ['Failed', '  sub-5  input: the phase is constant?[31m']
    assert lines[5:7] == ['Stopped', '  sub-2  1 of 8 steps, at recon_wf.fit: process 4194305 is gone']
    assert lines[8:10] == ['Running', '  sub-3  0 of 0 steps, fit for 0 s']
    assert lines[11] == 'Not started'
    assert lines[12].endswith(' and 2 more')
    assert lines[14] == 'Runs'
    assert lines[15].startswith('  run1, task 1/3: stopped at 20')
    assert lines[16:] == ['  run2, task 2/3: running for 0 s, 1.2 of 4.0 GB', '  no log yet of tasks 3/3']


def test_repeated_run_hides_the_one_that_was_stopped(begin, tmp_path):
    first = begin('run1')
    first.event('plan', series=['sub-1', 'sub-2'])
    finish(first, tmp_path, 'sub-1')
    first.event('start', series='sub-2', step='fit')
    kill(first)
    assert show_status(tmp_path) == 1
    second = begin('run2')
    second.event('plan', series=['sub-1', 'sub-2'])
    second.event('done', series='sub-1')
    finish(second, tmp_path, 'sub-2')
    second.close(0)
    assert show_status(tmp_path) == 0
    assert describe(read_status(tmp_path)).splitlines()[1:] == ['', 'Runs', '  2 ended']


def test_series_is_done_with_its_report(begin, tmp_path):
    log = begin('run')
    log.event('plan', series=['sub-1_ses-1'])
    finish(log, tmp_path, 'sub-1_ses-1')
    (tmp_path / 'sub-1.html').unlink()
    assert read_status(tmp_path)['counts']['running'] == 1
    kill(log)
    assert read_status(tmp_path)['counts']['stopped'] == 1


def test_run_that_ended_before_its_first_step_is_no_success(begin, tmp_path):
    log = begin('run')
    log.event('plan', series=['sub-1'])
    with pytest.raises(UserError):
        give_up(log)
    assert show_status(tmp_path) == 1
    assert (
        describe(read_status(tmp_path))
        .splitlines()[-1]
        .endswith('UserError: too little memory; the same command resumes it')
    )


def give_up(log):
    try:
        raise UserError('too little memory')
    finally:
        log.close(1)


def test_lost_task_is_not_done_until_all_has_been_run(begin, tmp_path):
    def finished(name, *titles, **about):
        log = begin(name, **about)
        log.event('plan', series=titles)
        finish(log, tmp_path, *titles)
        log.close(0)
        return show_status(tmp_path)

    assert finished('run1', 'sub-1', task='1/3') == 1
    assert finished('run2', task='3/3') == 1, 'it has nothing to run, but it is not lost'
    assert read_status(tmp_path)['missing_tasks'] == ['2/3']
    assert finished('run3', 'sub-1', participants=['1']) == 1
    assert finished('run4', 'sub-1', 'sub-2') == 0
    assert finished('run5', 'sub-1', task='1/3') == 0


def test_watch_looks_again_until_nothing_runs(begin, tmp_path, monkeypatch, capsys):
    log = begin('run')
    log.event('plan', series=['sub-1'])

    def sleep(seconds):
        assert seconds >= watch.EVERY
        finish(log, tmp_path, 'sub-1')
        log.close(0)

    monkeypatch.setattr(watch.time, 'sleep', sleep)
    assert show_status(tmp_path, watch=True) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f'{tmp_path}: 1 series: 1 done\n')
    assert re.fullmatch(r'\d\d:\d\d:\d\d 0 of 1 series done, 1 not started, running for 0 s\n', said.err)


def begun(log, out):
    """A run of four series: one is done with a warning, one has failed, one runs, one waits."""
    log.event('plan', series=[f'sub-{i}' for i in range(1, 5)], mem_gb=4, nprocs=2)
    finish(log, out, 'sub-1')
    figures = out / 'sub-1' / 'figures'
    figures.mkdir(parents=True)
    finding = {'what': 'Slices', 'found': 'Out of order.', 'level': 'warning'}
    (figures / 'sub-1_desc-findings.json').write_text(json.dumps({'findings': [finding], 'facts': {}}))
    log.event('failed', series='sub-2', step='input', reason='no\x1b[31m phase')
    log.event('add', subject='sub-3', n_steps=3)
    log.event('add', series='sub-3', n_steps=7)
    log.event('start', series='sub-3', step='recon_wf.fit')


def test_the_screen_tells_what_counts(begin, tmp_path):
    begun(begin('run'), tmp_path)
    console = Console(width=90, height=24, file=io.StringIO())
    lines = [line.plain for line in watch._lines(tmp_path, read_status(tmp_path), console)]
    text = '\n'.join(lines)
    assert '1 of 4 series done, 1 failed, 1 running, 1 not started\nrunning for 0 s' in text
    assert re.search(r'sub-3 +[░.]{20} 0 of 10 steps  fit 0 s', text)
    assert 'sub-2: input: no?[31m phase' in text
    assert 'sub-1, Slices: Out of order.' in text
    assert lines[-1] == '1 run; q leaves, the work goes on'
    low = Console(width=30, height=6, file=io.StringIO())
    short = watch._lines(tmp_path, read_status(tmp_path), low)
    assert len(short) < 6
    assert max(len(line.plain) for line in short) < 30


def test_time_left_is_that_of_series_like_those_done():
    ended = {'state': 'done', 'started': 0.0, 'ended': 100.0, 'run': 'r'}
    runs = [{'id': 'r', 'state': 'running'}]
    now = {'sub-2': {'state': 'running', 'started': 100.0, 'n_done': 5, 'n_steps': 10, 'run': 'r'}}
    waiting = {f'sub-{i}': {'state': 'waiting', 'run': 'r'} for i in range(3, 6)}

    def left(**series):
        return watch.seconds_left({'runs': runs, 'series': series, 'subjects': {}}, 150.0)

    assert left(**now) == 50, 'half of its steps took 50 s'
    assert left(**now, **waiting) == 50 + 3 * 100
    assert left(**{'sub-1': ended}, **waiting) == 300
    assert left(**waiting) is None
    assert left(**{'sub-1': ended}) is None


@pytest.fixture
def view(tmp_path):
    """A function that starts the view on a terminal of its own: the process and both ends."""
    ends, children = [], []

    def start(*words):
        ours, theirs = pty.openpty()
        ends.extend((ours, theirs))
        child = subprocess.Popen(
            words or [sys.executable, '-m', 'bids_qsm', 'status', str(tmp_path), '--watch'],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, 'TERM': 'xterm', 'PYTHONUTF8': '1'},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        children.append(child)
        return child, ours, theirs

    yield start
    for end in ends:
        os.close(end)
    for child in children:
        child.kill()
        child.wait()


@pytest.fixture
def view_below(tmp_path, view):
    """A function that starts the view as the child of a process on its terminal, by more arguments of Popen.

    Returns the process, both ends of the terminal, the number of the child, the settings that the terminal
    had, and what was shown.
    """

    def start(more, before='', until='the work goes on'):
        command = [sys.executable, '-m', 'bids_qsm', 'status', str(tmp_path), '--watch']
        parent = (
            'import os, signal, subprocess, sys\n'
            f'{before}\n'
            f'child = subprocess.Popen({command!r}, process_group=0, {more})\n'
            'print("child", child.pid, flush=True)\n'
            'sys.exit(child.wait())\n'
        )
        shell, ours, theirs = view(sys.executable, '-c', parent)
        settings = termios.tcgetattr(theirs)
        seen = read_until(ours, until)
        return shell, ours, theirs, int(re.search(r'child (\d+)', seen)[1]), settings, seen

    return start


def is_stopped(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError('it did not happen')


def test_the_view_is_left_and_entered_again_while_the_run_goes_on(begin, tmp_path, view):
    """By keys that come together, by Ctrl-C, and as the terminal is closed."""
    begun(begin('run'), tmp_path)
    for leave in (b'xq', b'\x03', signal.SIGHUP):
        child, ours, theirs = view()
        before = termios.tcgetattr(theirs)
        seen = read_until(ours, 'the work goes on')
        assert '1 of 4 series done' in seen
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON, 'keys come at once'
        if isinstance(leave, bytes):
            os.write(ours, leave)
        else:
            os.kill(child.pid, leave)
        assert 'Failed' in read_until(ours, 'Not started')
        assert child.wait(60) == 1, 'a series has failed'
        assert termios.tcgetattr(theirs) == before
        assert read_status(tmp_path)['runs'][0]['state'] == 'running'


def test_a_view_that_is_stopped_gives_the_terminal_back(begin, tmp_path, view_below):
    """Under a parent in its session, as the system stops no process whose group has none."""
    begun(begin('run'), tmp_path)
    shell, ours, theirs, child, before, seen = view_below(
        'preexec_fn=lambda: (os.tcsetpgrp(0, os.getpid()), signal.signal(signal.SIGTTOU, signal.SIG_DFL))',
        before='signal.signal(signal.SIGTTOU, signal.SIG_IGN)',
    )
    assert '\x1b[?1049h' in seen
    os.write(ours, b'\x1a')
    wait_until(lambda: is_stopped(child))
    assert termios.tcgetattr(theirs) == before
    assert read_until(ours, '\x1b[?25h')
    os.kill(child, signal.SIGCONT)
    assert '\x1b[?1049h' in read_until(ours, 'the work goes on')
    wait_until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON)
    os.write(ours, b'q')
    assert read_until(ours, 'Not started')
    assert shell.wait(60) == 1
    assert termios.tcgetattr(theirs) == before


def test_a_view_in_the_background_leaves_the_keys_alone(begin, tmp_path, view_below):
    """Into a file, which gets no control characters even if colours are asked for."""
    begun(begin('run'), tmp_path)
    log = tmp_path / 'log'
    shell, ours, theirs, child, before, _ = view_below(
        f'stdout=open({str(log)!r}, "w"), env={{**os.environ, "FORCE_COLOR": "1"}}', until='series done'
    )
    os.write(ours, b'q\n')
    time.sleep(0.3)
    assert not is_stopped(child)
    assert shell.poll() is None, 'keys are for who is in front'
    assert termios.tcgetattr(theirs) == before
    os.kill(child, signal.SIGINT)
    assert shell.wait(60) == 1
    assert 'Failed' in log.read_text()
    assert '\x1b' not in log.read_text()


def read_until(terminal, words):
    seen, end = b'', time.monotonic() + 120
    while words.encode() not in seen:
        assert time.monotonic() < end, seen[-2000:]
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 65536)
    return seen.decode(errors='replace')


def test_command_prints_json(begin, tmp_path, capsys):
    log = begin('run')
    log.event('plan', series=['sub-1'])
    log.event('failed', series='sub-1', step='input', reason='no phase')
    log.close(1)
    assert cli.main(['status', str(tmp_path), '--json']) == 1
    state = json.loads(capsys.readouterr().out)
    assert state['series']['sub-1']['failures'] == [{'step': 'input', 'reason': 'no phase'}]
    assert state['runs'][0]['state'] == 'failed'


def test_folder_without_a_run_is_said(tmp_path, capsys):
    assert cli.main(['status', str(tmp_path / 'nowhere')]) == 2
    assert 'there is no folder' in capsys.readouterr().err
    (tmp_path / 'slurm').mkdir()
    (tmp_path / 'slurm' / 'participant.sh').touch()
    assert cli.main(['status', str(tmp_path)]) == 2
    assert 'no task of ' in capsys.readouterr().err


def test_reader_that_has_read_enough_is_no_error(begin, tmp_path):
    log = begin('run')
    log.event('plan', series=[f'sub-{i}' for i in range(20000)])
    command = [sys.executable, '-m', 'bids_qsm', 'status', str(tmp_path), '--json']
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == '{\n'
    child.stdout.close()
    assert child.stderr.read() == ''
    assert child.wait() == 1
    child.stderr.close()


def test_group_level_merges_the_logs_of_tasks(begin, tmp_path):
    log = begin('run')
    log.event('plan', series=['sub-1'])
    log.event('alive', memory_gb=1.0)
    describe(read_status(tmp_path))  # the plan of an older version, or of a full disk, has no memory
    (tmp_path / 'data').mkdir()
    assert cli.main([str(tmp_path / 'data'), str(tmp_path), 'group']) == 2  # there is no table
    assert list(json.loads((tmp_path / 'logs' / 'run.json').read_text())['series']) == ['sub-1']


WHOLE = [
    {'event': 'run', 'task': '2/3', 'sessions': ['1'], 'participants': ['1']},
    {'event': 'plan', 'series': ['sub-1', 'sub-2', 'sub-3'], 'mem_gb': 4.0, 'nprocs': 2},
    {'event': 'add', 'subject': 'sub-1', 'n_steps': 1},
    {'event': 'add', 'series': 'sub-1', 'n_steps': 2},
    {'event': 'end', 'subject': 'sub-1', 'step': 'bias', 'n_done': 1, 'seconds': 1.0},
    {'event': 'start', 'series': 'sub-1', 'step': 'fit'},
    {'event': 'end', 'series': 'sub-1', 'step': 'fit', 'n_done': 2, 'seconds': 1.0},
    {'event': 'done', 'series': 'sub-1'},
    {'event': 'failed', 'series': 'sub-2', 'step': 'input', 'reason': 'no phase'},
    {'event': 'alive', 'memory_gb': 1.0},
    {'event': 'start', 'series': 'sub-3', 'step': 'fit'},
]
"""A run that has not ended, less the process and when."""


def write_events(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVENTS).write_text('\n'.join(lines) + '\n')


def damaged_logs(began, pid):
    """Lines of logs of a process of this machine, each of one log damaged in one place."""
    process = {'host': 'node', 'pid': pid, 'place': run_log._place(), 'born': run_log._born(os.getpid())}
    events = [WHOLE[0] | process, *WHOLE[1:]]
    whole = [json.dumps({'time': began + n, **event}) for n, event in enumerate(events)]
    for n, line in enumerate(whole):
        event = json.loads(line)
        spoilt = [line[: len(line) // 2], '\0' * 64, '[' * 100_000, '7', '{}']
        for key in event:
            spoilt += [
                json.dumps({**event, key: value}) for value in ([{}], {'a': 1}, '\0', -1e300, 10**400, None)
            ]
        for other in spoilt:
            yield [*whole[:n], other, *whole[n + 1 :]]
        for key in event:
            yield [*whole[:n], json.dumps({k: v for k, v in event.items() if k != key}), *whole[n + 1 :]]


def test_of_a_damaged_log_is_told_what_can_be_read(tmp_path):
    """In words, as JSON and on the screen, whatever a line holds, while the run goes on and once it is dead.

    Nothing that is damaged lets it run for ever, or hides a task that never ran.
    """
    console, said = Console(width=80, height=24, file=io.StringIO()), set()
    now = time.time()
    first = {'time': now - 4 * SILENCE, 'event': 'run', 'host': 'node', 'pid': 4194305, 'task': '1/3'}
    write_events(tmp_path / 'logs' / 'before', [json.dumps(first)])
    logs = [('running', lines) for lines in damaged_logs(now, os.getpid())]
    logs += [('stopped', lines) for lines in damaged_logs(now - 2 * SILENCE, 4194305)]
    for wanted, lines in logs:
        write_events(tmp_path / 'logs' / 'run', lines)
        state = read_status(tmp_path)
        (run,) = (run for run in state['runs'] if run['id'] == 'run')
        assert run['state'] == wanted, lines
        assert '3/3' in state['missing_tasks'], lines
        assert watch._lines(tmp_path, state, console)
        json.dumps(state)
        text = describe(state)
        assert text.startswith(f'{tmp_path}: ')
        assert 'sub-1' in state['series']
        said |= {line.rpartition(EVENTS)[2] for line in state['damage']}
        assert ('Damaged logs' in text) == bool(state['damage'])
    assert said == {' is damaged: 1 line of it is not known.'}


@pytest.mark.parametrize('damage', ['field', 'line'])
def test_damaged_log_of_a_task_is_not_one_of_everything(begin, tmp_path, capsys, damage):
    for name, series in (('run1', 'sub-1'), ('run2', 'sub-2')):
        log = begin(name, task=f'{series[-1]}/3')
        log.event('plan', series=[series])
        finish(log, tmp_path, series)
        log.close(0)
    path = log.folder / EVENTS
    text = path.read_text()
    path.write_text(text.replace('"2/3"', '"?/3"') if damage == 'field' else text[20:])
    assert cli.main(['status', str(tmp_path)]) == 1
    assert 'no log yet of tasks 2/3, 3/3' in capsys.readouterr().out


def test_logs_that_cannot_be_read_are_named_beside_the_others(begin, tmp_path, monkeypatch, capsys):
    begin('run1').event('plan', series=['sub-1'])
    logs = tmp_path / 'logs'
    write_events(logs / 'run2', [])
    (logs / 'run2' / EVENTS).write_text('')
    (logs / 'run3').mkdir()
    (logs / 'run3' / 'config.toml').touch()
    (logs / 'run4' / EVENTS).mkdir(parents=True)
    write_events(logs / 'run5', ['{}'])
    write_events(logs / 'run6', ['{'])
    opened = Path.open

    def refuse(path, *given, **more):
        if path.parent.name == 'run5':
            raise PermissionError(13, 'Permission denied')
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, 'open', refuse)
    assert [run['id'] for run in read_status(tmp_path)['runs']] == ['run1']
    assert cli.main(['status', str(tmp_path)]) == 1, 'nothing is known of some'
    text = capsys.readouterr().out
    assert 'run2/events.jsonl is empty, so nothing is known of that run.' in text
    assert 'run3 has no events.jsonl' in text
    assert 'run4/events.jsonl cannot be read (Is a directory)' in text
    assert 'run5/events.jsonl cannot be read (Permission denied)' in text
    assert 'run6/events.jsonl has no line that can be read' in text
    for other in (logs / 'run1').iterdir():
        other.unlink()
    assert cli.main(['status', str(tmp_path)]) == 2
    assert 'There is no other log; run the same command again.' in capsys.readouterr().err
