"""The log of a run, which other processes can read while the run goes on.

Each run has its own folder ``logs/<run>/``. ``events.jsonl`` holds one line of JSON per event, added by a
single write, so that in a killed run at most the last line is incomplete (:mod:`bids_qsm.execution.events`
says what a line holds); ``log.txt`` holds the events in
words, and ``run.json`` is the summary at the end.
"""

import json
import os
import re
import shlex
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import bids_qsm
from bids_qsm.derivatives.files import atomic_write
from bids_qsm.execution.events import read_event

BEAT = 60.0
"""Seconds between signs of life."""
SILENCE = 5 * BEAT
"""A run on another machine that is silent for so long (s) counts as stopped."""
EVENTS, LINES, SUMMARY, CONFIG = 'events.jsonl', 'log.txt', 'run.json', 'config.toml'
LOST = ', so nothing is known of that run.'
"""How a sentence on a log ends that says nothing of its run."""


class RunLog:
    """The log of this run in ``folder``, which exists; ``about`` holds more facts about the run.

    ``task`` is that of an array ('3/12'), ``sessions`` and ``participants`` are those that the run is
    restricted to.

    A log that cannot be written, as on a full disk, gives one warning and does not stop the run.
    """

    def __init__(self, folder: Path, **about):
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._torn, self._has_complained = set(), False
        self._ended = threading.Event()
        self.event(
            'run',
            **about,
            version=bids_qsm.__version__,
            command=shlex.join(sys.argv),
            host=socket.gethostname(),
            pid=os.getpid(),
            place=_place(),
            born=_born(os.getpid()),
        )
        self._beat = threading.Thread(target=self._keep_beating, daemon=True)
        self._beat.start()

    def event(self, event: str, **fields):
        """Add an event; fields that are None are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        record = {'time': round(time.time(), 3), 'event': event, **known}
        self._append(EVENTS, json.dumps(record, ensure_ascii=False, separators=(',', ':')))

    def line(self, text: str):
        """Add a line to ``log.txt``, with the time before it."""
        self._append(LINES, f'{datetime.now():%Y-%m-%d %H:%M:%S} {printable(text)}')

    def close(self, status: int):
        """End the log with the exit status of the run, and write ``run.json``.

        If an exception is being handled, the log names it.
        """
        self._ended.set()
        self._beat.join()
        error = sys.exc_info()[1]
        reason = None if error is None else f'{type(error).__name__}: {error}'.removesuffix(': ')
        self.event('close', status=status, reason=reason)
        self.line(f'ended with status {status}' + ('' if reason is None else f', {reason}'))
        try:
            _write(self.folder / SUMMARY, read_run(self.folder))
        except Exception as error:
            self._complain(SUMMARY, error)

    def _append(self, name: str, text: str):
        # names of files that are not UTF-8 have surrogates
        data = (text + '\n').encode(errors='backslashreplace')
        with self._lock:
            if name in self._torn:  # the last line is incomplete; start a new one
                data = b'\n' + data
            try:
                file = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    is_whole = os.write(file, data) == len(data)
                    (self._torn.discard if is_whole else self._torn.add)(name)
                finally:
                    os.close(file)
            except OSError as error:
                self._complain(name, error)

    def _complain(self, name: str, error: Exception):
        if not self._has_complained:
            self._has_complained = True
            _complain(self.folder / name, error)

    def _keep_beating(self):
        while not self._ended.wait(BEAT):
            self.event('alive', memory_gb=used_memory_gb())


def _complain(path: Path, error: Exception):
    _say(f'{path} cannot be written ({error}).')


def _say(text: str):
    with suppress(OSError):  # stderr may be a file on the full disk
        print(f'bids_qsm: {text}', file=sys.stderr)


def printable(text: str) -> str:
    """``text`` in one line; control characters, which names in a dataset may hold, become '?'."""
    return ''.join(sign if sign.isprintable() else '?' for sign in ' '.join(text.split()))


def used_memory_gb() -> float | None:
    """Memory of this process and its descendants (GB), shared pages once; None where unknown."""
    page = os.sysconf('SC_PAGE_SIZE')
    own, shared, waiting = 0, 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            resident, common = map(int, Path(f'/proc/{pid}/statm').read_text().split()[1:3])
            for task in os.listdir(f'/proc/{pid}/task'):
                waiting += map(int, Path(f'/proc/{pid}/task/{task}/children').read_text().split())
        except (OSError, ValueError):
            if pid == os.getpid():
                return None
            continue  # it has just ended
        own += resident - common
        shared = max(shared, common)
    return round((own + shared) * page / 1e9, 3)


def read_runs(logs: Path, damage: list[str], *, with_steps: bool = True) -> list[dict]:
    """All runs that have a folder in ``logs``, the oldest first, as :func:`read_run` reads them.

    Those whose log cannot be read are left out; ``damage`` gets a sentence on each damaged log.
    """
    found = [read_run(folder, with_steps=with_steps, damage=damage) for folder in run_folders(logs, damage)]
    return sorted((run for run in found if run), key=lambda run: (run['started'], run['id']))


def run_folders(logs: Path, damage: list[str]) -> list[Path]:
    """Folders of runs in ``logs``, the oldest first by their names; ``damage`` as of :func:`read_runs`."""
    try:
        with os.scandir(logs) as entries:
            folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        damage.append(f'{logs} cannot be read ({error.strerror}).')
        return []
    found = []
    for folder in folders:
        if os.path.lexists(folder / EVENTS):
            found.append(folder)
        elif (folder / CONFIG).exists():
            damage.append(f'{folder} has no {EVENTS}{LOST}')
    return found


def read_run(folder: Path, *, with_steps: bool = True, damage: list[str] | None = None) -> dict:
    """The run whose events are in ``folder``; {} if there are none yet.

    ``state`` of the run is running, stopped (killed; ``reason`` says how that is known), done or failed; that
    of one of its ``series`` or ``subjects`` (their anatomy) may be waiting as well. ``steps`` have seconds,
    cpu_seconds and peak_gb where these were measured. Times are seconds since 1970. ``is_partial`` is there,
    and True, where the line on the run as a whole is damaged: what the run is restricted to is not known.

    Lines that cannot be read are left out, and ``damage`` gets a sentence on them; without it, OSError where
    the file cannot be read.
    """
    path, run, n_damaged, line = Path(folder) / EVENTS, {}, 0, ''
    try:
        with path.open(encoding='utf-8', errors='replace') as stream:
            for line in stream:
                try:
                    kind, moment, event, is_sound = read_event(line)
                except ValueError:
                    # the last line of a killed run, or of one that is writing it, is incomplete
                    n_damaged += line.endswith('\n')
                    continue
                n_damaged += not is_sound
                if kind == 'run' or not run:
                    about = event if kind == 'run' else {}
                    if kind != 'run' or not is_sound:
                        about['is_partial'] = True
                    run = {'id': Path(folder).name, 'started': moment, **about, 'series': {}, 'subjects': {}}
                run['seen'] = moment
                if kind == 'end' and not with_steps:
                    event = {name: event[name] for name in _COUNTED if name in event}
                _FOLD.get(kind, _ignore)(run, moment, event)
    except OSError as error:
        if damage is None:
            raise
        damage.append(f'{path} cannot be read ({error.strerror}){LOST}')
        return {}
    if damage is not None and not run:
        damage.append(f'{path} {"has no line that can be read" if line else "is empty"}{LOST}')
    elif damage is not None and n_damaged:
        lines = '1 line of it is' if n_damaged == 1 else f'{n_damaged} lines of it are'
        damage.append(f'{path} is damaged: {lines} not known.')
    if run:
        _judge(run, Path(folder))
    return run


def _ignore(run: dict, moment: float, event: dict):
    del run, moment, event


def _plan(run: dict, moment: float, event: dict):
    del moment
    for name in event.pop('series'):
        run['series'].setdefault(name, {'state': 'waiting'})
    run.update(event)


def _alive(run: dict, moment: float, event: dict):
    del moment
    run['memory_gb'] = event.get('memory_gb')
    run['peak_gb'] = max(run['memory_gb'] or 0, run.get('peak_gb', 0))


def _work(run: dict, event: dict):
    """The entry of the series, or of the subject's anatomy, of an event."""
    key, part = ('series', 'series') if 'series' in event else ('subject', 'subjects')
    return run[part].setdefault(event.pop(key), {'state': 'waiting'})


_COUNTED = ('series', 'subject', 'step', 'n_done')


def _add(run: dict, moment: float, event: dict):
    del moment
    _work(run, event).update(event)


def _start(run: dict, moment: float, event: dict):
    work = _work(run, event)
    work.setdefault('started', moment)
    if work['state'] == 'waiting':
        work['state'] = 'running'
    work.setdefault('running', {})[event['step']] = moment


def _end(run: dict, moment: float, event: dict):
    work = _work(run, event)
    work.setdefault('started', moment)
    work['n_done'] = event.pop('n_done', 0)
    step = event.pop('step')
    work.get('running', {}).pop(step, None)
    if event:
        work.setdefault('steps', {})[sys.intern(step)] = event


def _failed(run: dict, moment: float, event: dict):
    work = _work(run, event)
    work.setdefault('started', moment)
    work.get('running', {}).pop(event['step'], None)
    work['state'] = 'failed'
    work.setdefault('failures', []).append(event)


def _done(run: dict, moment: float, event: dict):
    work = _work(run, event)
    work.setdefault('started', moment)
    work['ended'] = moment
    work['state'] = 'done'
    work.update(event)


def _close(run: dict, moment: float, event: dict):
    run['ended'] = moment
    run.update(event)


_FOLD = {
    'plan': _plan,
    'alive': _alive,
    'add': _add,
    'start': _start,
    'end': _end,
    'failed': _failed,
    'done': _done,
    'close': _close,
}


def _judge(run: dict, folder: Path):
    """Find the state of the run and its series."""
    missing = [
        f for part in ('series', 'subjects') for one in run[part].values() for f in one.get('failures', ())
    ]
    if any('reason' not in failure for failure in missing):
        reasons = {}
        for path in sorted(folder.glob('crash-*.txt')):
            with suppress(OSError):
                reasons |= [read_crash(path)]
        for failure in missing:
            failure.setdefault('reason', reasons.get(failure.get('node'), 'unknown; it left no crash file'))
    death = None if 'ended' in run else _death(run)
    is_over = 'ended' in run or death is not None
    for name, series in run['series'].items():
        _judge_series(series, run['subjects'].get(name.partition('_')[0], {}), is_over)
    states = {one['state'] for one in run['series'].values()}
    if not is_over:
        run['state'] = 'running'
    elif death or states & {'stopped', 'waiting'} or (run.get('status') and 'failed' not in states):
        run['state'] = 'stopped'
        run['reason'] = death or run.get('reason', f'it ended with status {run.get("status")}')
    else:
        run['state'] = 'failed' if 'failed' in states else 'done'


def _judge_series(series: dict, anatomy: dict, is_over: bool):
    if anatomy.get('failures') and series['state'] != 'done':
        series['state'] = 'failed'
        series['failures'] = [*series.get('failures', ()), *anatomy['failures']]
    if series['state'] == 'waiting' and 'started' in anatomy:
        series['state'], series['started'] = 'running', anatomy['started']
    if series['state'] == 'running' and is_over:
        series['state'] = 'stopped'


def _death(run: dict):
    """Why a run that has not written its end counts as stopped; None while it runs."""
    if 'born' in run and run.get('place') and run['place'] == _place():
        if _born(run['pid']) == run['born']:
            return None
        return f'process {run["pid"]} is gone'
    if abs(time.time() - run['seen']) < SILENCE:
        return None
    seen = datetime.fromtimestamp(run['seen'])
    return f'no sign of life from {run.get("host", "it")} since {seen:%Y-%m-%d %H:%M}'


def _place():
    """Machine, boot and process namespace: process numbers are unique within it."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{socket.gethostname()} {boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return None


def _born(pid: int):
    """Start of a process in ticks since boot, as process numbers are used again."""
    try:
        state, *rest = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        # a zombie has ended
        return None if state in 'ZX' else int(rest[18])
    except (OSError, ValueError, IndexError):
        return None


def read_crash(path: str | Path) -> tuple[str, str]:
    """The full name of the node and the message of one of Nipype's crash files."""
    text = Path(path).read_text(errors='replace')
    node = re.search(r'^Node: (\S+)', text, re.MULTILINE)
    kind, message = last_error(text)
    if kind:
        message = f'{kind}: {message} (see {Path(path).name})'
    return (node[1] if node else ''), message


def last_error(traceback: str) -> tuple[str, str]:
    """The kind of the error that ``traceback`` ends with, '' for a UserError, and its message."""
    errors = re.findall(r'^\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): (.+)$', traceback, re.MULTILINE)
    if not errors:
        return '', (traceback.strip().splitlines() or ['it is empty'])[-1]
    kind, message = errors[-1]
    kind = kind.rpartition('.')[2]
    return ('' if kind == 'UserError' else kind), message


def merge(runs: list[dict]) -> dict:
    """The newest state of each series over ``runs`` (oldest first), with the ``run`` it is from.

    A series that the newest run has not begun keeps its state from earlier runs, unless it failed or was
    stopped and that run will repeat it. Refused input is dropped when a newer run of all sessions of the
    subject does not name it; where the sessions of a run are not known, it may be one of some. Steps are
    those of all runs.
    """
    series, subjects, refused = {}, {}, set()
    for run in runs:
        is_of_all = not (run.get('sessions') or run.get('is_partial'))
        seen = {name.partition('_')[0] for name in run['series']} if is_of_all else set()
        for name in [one for one in refused if one not in run['series'] and one.partition('_')[0] in seen]:
            del series[name]
            refused.discard(name)
        refused |= {name for name, one in run['series'].items() if _is_refused(one)}
        for name, one in run['series'].items():
            is_to_repeat = run['state'] == 'running' and series.get(name, {}).get('state') != 'done'
            if name not in series or one['state'] != 'waiting' or is_to_repeat:
                series[name] = _after(series.get(name, {}), one, run)
        for name, one in run['subjects'].items():
            if name not in subjects or 'started' in one:
                subjects[name] = _after(subjects.get(name, {}), one, run)
    about = [
        {k: v for k, v in run.items() if k not in ('series', 'subjects', 'place', 'born')} for run in runs
    ]
    return {'runs': about, 'series': dict(sorted(series.items())), 'subjects': dict(sorted(subjects.items()))}


def _after(older: dict, newer: dict, run: dict):
    # a resumed run does not measure the steps that it did not repeat
    steps = {**older.get('steps', {}), **newer.get('steps', {})}
    return {**newer, **({'steps': steps} if steps else {}), 'run': run['id']}


def _is_refused(series: dict):
    return any(failure['step'] == 'input' for failure in series.get('failures', ()))


def write_merged(logs: Path):
    """Write the state of all series over all runs in ``logs`` to ``logs/run.json``, if there are runs.

    A failure gives a warning only, as the results are complete without it, and so does each damaged log.
    """
    damage: list[str] = []
    try:
        if runs := read_runs(logs, damage):
            _write(Path(logs) / SUMMARY, merge(runs))
    except Exception as error:
        _complain(Path(logs) / SUMMARY, error)
    for said in damage:
        _say(said)


def _write(path: Path, content: dict):
    """Write a JSON file with one line per series, as there may be thousands."""
    return atomic_write(path, lambda temporary: _write_lines(temporary, content))


def _write_lines(path: Path, content: dict):
    with path.open('w', encoding='utf-8', errors='backslashreplace') as stream:
        lead = '{'
        for key, value in content.items():
            stream.write(f'{lead}\n{json.dumps(key)}: ')
            lead = ','
            if not isinstance(value, dict | list) or not value:
                stream.write(json.dumps(value, ensure_ascii=False))
                continue
            is_dict = isinstance(value, dict)
            mark = '{' if is_dict else '['
            for one in value:
                text = json.dumps(value[one] if is_dict else one, ensure_ascii=False)
                stream.write(f'{mark}\n{json.dumps(one) + ": " if is_dict else ""}{text}')
                mark = ','
            stream.write('\n}' if is_dict else '\n]')
        stream.write('\n}\n')
