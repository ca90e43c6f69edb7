"""What a run writes down can be read at any time, whatever became of the run."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from bids_qsm.execution import run_log as runlog
from bids_qsm.execution.run_log import (
    RunLog,
    merge,
    printable,
    read_crash,
    read_run,
    read_runs,
    used_memory_gb,
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'logs' / 'run'
    path.mkdir(parents=True)
    return path


def fill(log, series=('sub-1', 'sub-2'), *, failed=()):
    """The events of a run of two steps a series."""
    log.event('plan', series=list(series), mem_gb=4, nprocs=2)
    for name in series:
        log.event('add', series=name, n_steps=2)
        log.event('start', series=name, step='fit')
        log.event('end', series=name, step='fit', seconds=2.0, peak_gb=0.5, n_done=1)
        log.event('start', series=name, step='save')
        if name in failed:
            log.event('failed', series=name, step='save', node=f'wf.{name}.save')
        else:
            log.event('end', series=name, step='save', seconds=1.0, n_done=2)
            log.event('done', series=name, n_cached=0)


def states(run):
    return {name: one['state'] for name, one in run['series'].items()}


def end_events(folder):
    """Make the log in ``folder`` one of a run on a machine that no one has heard of since long ago."""
    path = folder / runlog.EVENTS
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        event['time'] -= 10 * runlog.SILENCE
        if event['event'] == 'run':
            event |= {'place': 'node7 and its boot', 'host': 'node7'}
    path.write_text(''.join(json.dumps(event) + '\n' for event in events))


def test_run_that_ended_is_summed_up(folder):
    log = RunLog(folder, task='2/3')
    fill(log)
    assert read_run(folder)['state'] == 'running'
    log.close(0)
    run = json.loads((folder / 'run.json').read_text())
    assert (run['state'], run['status'], run['task'], run['pid']) == ('done', 0, '2/3', os.getpid())
    assert states(run) == {'sub-1': 'done', 'sub-2': 'done'}
    one = run['series']['sub-1']
    assert one['steps'] == {'fit': {'seconds': 2.0, 'peak_gb': 0.5}, 'save': {'seconds': 1.0}}
    assert (one['n_steps'], one['n_done'], one['running']) == (2, 2, {})
    assert run['started'] <= one['started'] <= one['ended'] <= run['ended']
    without = read_run(folder, with_steps=False)['series']['sub-1']
    assert without == {name: value for name, value in one.items() if name != 'steps'}


def test_failure_has_the_reason_of_its_crash_file(folder):
    (folder / 'crash-x.txt').write_text('Node: wf.sub-2.save\n\nTraceback:\n\tOSError: no space\n')
    log = RunLog(folder)
    fill(log, failed=['sub-2'])
    log.close(1)
    run = read_run(folder)
    assert run['state'] == 'failed'
    assert states(run) == {'sub-1': 'done', 'sub-2': 'failed'}
    (failure,) = run['series']['sub-2']['failures']
    assert (failure['step'], failure['reason']) == ('save', 'OSError: no space (see crash-x.txt)')


def test_failed_anatomy_fails_the_series_of_the_subject_alone(folder):
    log = RunLog(folder)
    log.event('plan', series=['sub-1_ses-1', 'sub-1_ses-2', 'sub-2'])
    log.event('start', subject='sub-1', step='bias')
    assert set(states(read_run(folder)).values()) == {'running', 'waiting'}
    log.event('failed', subject='sub-1', step='bias', reason='no brain')
    assert states(read_run(folder)) == {'sub-1_ses-1': 'failed', 'sub-1_ses-2': 'failed', 'sub-2': 'waiting'}


def test_killed_run_is_stopped_where_it_was(folder):
    code = (
        'import os, signal, sys; from bids_qsm.execution.run_log import RunLog; log = RunLog(sys.argv[1])\n'
        'log.event("plan", series=["sub-1"]); log.event("start", series="sub-1", step="fit")\n'
        'os.kill(os.getpid(), signal.SIGKILL)'
    )
    child = subprocess.Popen([sys.executable, '-c', code, str(folder)])
    # a zombie until it is waited for: dead all the same
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        run = read_run(folder)
        assert (run['state'], run['reason']) == ('stopped', f'process {child.pid} is gone')
        assert states(run) == {'sub-1': 'stopped'}
        assert list(run['series']['sub-1']['running']) == ['fit']
        child.wait()


def test_number_of_a_process_that_was_given_again_is_no_sign_of_life(folder):
    RunLog(folder).event('plan', series=['sub-1'])
    path = folder / runlog.EVENTS
    born = read_run(folder)['born']
    path.write_text(path.read_text().replace(f'"born":{born}', f'"born":{born - 1}'))
    assert read_run(folder)['state'] == 'stopped'


def test_run_on_another_machine_lives_by_its_signs(folder, monkeypatch):
    monkeypatch.setattr(runlog, 'BEAT', 0.01)
    log = RunLog(folder)
    log.event('plan', series=['sub-1'])
    path = folder / runlog.EVENTS
    place = read_run(folder)['place']
    deadline = time.monotonic() + 30
    while 'memory_gb' not in read_run(folder):
        assert time.monotonic() < deadline
    log.close(0)
    text = path.read_text()
    text = text[: text.index('"event":"close"')].rpartition('\n')[0] + '\n'
    path.write_text(text.replace(place, 'node7'))
    run = read_run(folder)
    assert run['state'] == 'running'
    assert 0.01 < run['memory_gb'] <= run['peak_gb'] < 100
    end_events(folder)
    run = read_run(folder)
    assert run['state'] == 'stopped'
    assert 'no sign of life from node7 since 20' in run['reason']


def test_torn_lines_are_passed_over(folder):
    log = RunLog(folder)
    fill(log)
    with (folder / runlog.EVENTS).open('ab') as stream:
        stream.write(
            b'"no event"\n[1]\n{"event":"end"}\n'
            b'{"time":1,"event":"start","step":"fit"}\n{"time":1,"event":"plan"}\n{"time":1,"event":"future"}\n\xff\n{"time":17'
        )
    assert states(read_run(folder)) == {'sub-1': 'done', 'sub-2': 'done'}


def test_log_without_a_beginning_is_no_run(folder):
    (folder / runlog.EVENTS).write_text('')
    assert read_run(folder) == {}
    assert read_runs(folder.parent, []) == []
    runlog.write_merged(folder.parent)
    assert not (folder.parent / 'run.json').exists()


def test_full_disk_is_said_once_and_does_not_stop_the_run(folder, monkeypatch, capsys):
    log = RunLog(folder)
    write = os.write

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'write', full)
    log.event('plan', series=['sub-1'])
    log.line('lost')
    monkeypatch.setattr(os, 'write', lambda file, data: write(file, data[:10]))
    log.event('plan', series=['sub-1'])
    monkeypatch.undo()
    log.event('plan', series=['sub-2'])
    assert list(read_run(folder)['series']) == ['sub-2']
    (said,) = capsys.readouterr().err.splitlines()
    assert 'events.jsonl cannot be written' in said
    assert 'No space left' in said
    log.close(0)


def test_torn_event_does_not_swallow_the_next_one(folder, monkeypatch):
    log = RunLog(folder)
    write = os.write
    monkeypatch.setattr(os, 'write', lambda file, data: write(file, data[:10]))
    log.event('plan', series=['sub-1'])
    monkeypatch.undo()
    log.line('the other file is whole')
    log.event('plan', series=['sub-2'])
    log.close(0)
    assert list(read_run(folder)['series']) == ['sub-2']


def test_complaint_that_cannot_be_printed_is_no_error(folder, monkeypatch):
    log = RunLog(folder)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'write', full)
    monkeypatch.setattr('builtins.print', full)
    log.event('plan', series=['sub-1'])
    log.close(0)


def test_common_log_that_cannot_be_written_is_said_and_no_error(folder, capsys):
    RunLog(folder).close(0)
    (folder.parent / 'run.json').mkdir()
    runlog.write_merged(folder.parent)
    (said,) = capsys.readouterr().err.splitlines()
    assert 'run.json cannot be written' in said


def interrupt(log):
    try:
        raise KeyboardInterrupt
    finally:
        log.close(1)


def test_run_that_an_exception_ends_says_so(folder):
    log = RunLog(folder)
    log.event('plan', series=['sub-1'])
    with pytest.raises(KeyboardInterrupt):
        interrupt(log)
    run = read_run(folder)
    assert (run['state'], run['reason'], states(run)) == (
        'stopped',
        'KeyboardInterrupt',
        {'sub-1': 'waiting'},
    )
    assert (folder / 'log.txt').read_text().endswith(' ended with status 1, KeyboardInterrupt\n')


def test_lines_are_printable_and_have_the_time(folder):
    log = RunLog(folder)
    log.line('sub-1\x1b[31m\nfit\udcff')
    log.close(0)
    first, _ = (folder / 'log.txt').read_text().splitlines()
    assert first[20:] == 'sub-1?[31m fit?'
    assert time.strptime(first[:19], '%Y-%m-%d %H:%M:%S')
    assert printable('a\tb\u202ec') == 'a b?c'


def test_newest_state_wins(folder):
    logs = folder.parent
    first = RunLog(folder)
    fill(first, ['sub-1', 'sub-2', 'sub-3'], failed=['sub-2', 'sub-3'])
    first.event('plan', series=['sub-4'])
    end_events(folder)
    again = logs / 'run2'
    again.mkdir()
    second = RunLog(again)
    second.event('plan', series=['sub-1', 'sub-2', 'sub-3', 'sub-4'])
    second.event('end', series='sub-3', step='fit', seconds=7.0)
    second.event('start', series='sub-3', step='save')
    merged = merge(read_runs(logs, []))
    # the second run lives, and is to repeat what failed
    assert {name: (one['state'], one['run']) for name, one in merged['series'].items()} == {
        'sub-1': ('done', 'run'),
        'sub-2': ('waiting', 'run2'),
        'sub-3': ('running', 'run2'),
        'sub-4': ('waiting', 'run2'),
    }
    assert merged['series']['sub-2']['steps'] == {'fit': {'seconds': 2.0, 'peak_gb': 0.5}}
    assert merged['series']['sub-3']['steps'] == {'fit': {'seconds': 7.0}}
    second.close(1)
    merged = merge(read_runs(logs, []))
    assert [one['state'] for one in merged['series'].values()] == ['done', 'failed', 'stopped', 'waiting']
    runlog.write_merged(logs)
    assert json.loads((logs / 'run.json').read_text()) == merged
    assert [run['id'] for run in merged['runs']] == ['run', 'run2']


def test_refused_input_is_forgotten_once_it_is_mended(folder):
    def begin(name, **about):
        path = folder.parent / name
        path.mkdir()
        return RunLog(path, **about)

    first = begin('run1')
    first.event('plan', series=['sub-2'])
    for name in ('sub-1', 'sub-3_ses-1'):
        first.event('failed', series=name, step='input', reason='odd names')
    second = begin('run2', sessions=['2'])
    second.event('plan', series=['sub-1_ses-2'])
    assert {'sub-1', 'sub-3_ses-1'} < set(merge(read_runs(folder.parent, []))['series'])
    third = begin('run3')
    third.event('plan', series=['sub-1_ses-2', 'sub-1_ses-1'])
    assert set(merge(read_runs(folder.parent, []))['series']) == {
        *('sub-1_ses-1', 'sub-1_ses-2', 'sub-2', 'sub-3_ses-1')
    }
    for log in (first, second, third):
        log.close(0)


@pytest.mark.parametrize('damage', ['field', 'line'])
def test_run_of_unknown_sessions_forgets_no_refused_input(folder, damage):
    log = RunLog(folder)
    log.event('failed', series='sub-1_ses-1', step='input', reason='odd names')
    log.close(1)
    again = folder.with_name('run2')
    again.mkdir()
    log = RunLog(again, sessions=['2'])
    log.event('plan', series=['sub-1_ses-2'])
    log.close(0)
    path = again / runlog.EVENTS
    text = path.read_text()
    path.write_text(text.replace('["2"]', '7') if damage == 'field' else text[20:])
    _, run = read_runs(folder.parent, [])
    assert run['is_partial']
    assert 'sub-1_ses-1' in merge(read_runs(folder.parent, []))['series']


def test_run_whose_damaged_end_has_no_status_is_not_done(folder):
    log = RunLog(folder)
    fill(log)
    log.close(1)
    assert read_run(folder)['state'] == 'stopped'
    path = folder / runlog.EVENTS
    path.write_text(path.read_text().replace('"status":1', '"status":"x"'))
    end_events(folder)
    assert read_run(folder)['state'] == 'stopped'


def test_dead_run_whose_birth_is_damaged_stops_after_the_silence(folder):
    RunLog(folder).event('plan', series=['sub-1'])
    path = folder / runlog.EVENTS
    events = [json.loads(line) for line in path.read_text().splitlines()]
    events[0] |= {'pid': 4194305, 'born': None}
    for back, state in ((0, 'running'), (2 * runlog.SILENCE, 'stopped')):
        lines = (json.dumps({**event, 'time': event['time'] - back}) for event in events)
        path.write_text(''.join(f'{line}\n' for line in lines))
        assert read_run(folder)['state'] == state


def test_logs_left_out_of_the_common_one_are_said(folder, capsys):
    RunLog(folder).close(0)
    lost, torn = folder.with_name('run2'), folder.with_name('run3')
    for path, text in ((lost, ''), (torn, (folder / runlog.EVENTS).read_text() + '{\n')):
        path.mkdir()
        (path / runlog.EVENTS).write_text(text)
    runlog.write_merged(folder.parent)
    assert [one['id'] for one in json.loads((folder.parent / 'run.json').read_text())['runs']] == [
        'run',
        'run3',
    ]
    said = capsys.readouterr().err
    assert f'bids_qsm: {lost}/events.jsonl is empty, so nothing is known of that run.\n' in said
    assert f'bids_qsm: {torn}/events.jsonl is damaged: 1 line of it is not known.\n' in said


def test_crash_file_of_any_content_gives_a_message(tmp_path):
    path = tmp_path / 'crash.txt'
    for text, wanted in (
        ('', ('', 'it is empty')),
        ('Node: a.b\nWorking directory: /x\nkilled', ('a.b', 'killed')),
        ('Node: a.b\nbids_qsm.errors.UserError: Mend it.\n', ('a.b', 'Mend it.')),
    ):
        path.write_text(text)
        assert read_crash(path) == wanted


def test_memory_counts_children():
    before = used_memory_gb()
    code = 'x = bytearray(200_000_000); print("ready", flush=True); input()'
    child = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == 'ready\n'
    during = used_memory_gb()
    child.communicate('\n')
    assert 0.19 < during - before < 0.3
