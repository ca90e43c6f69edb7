"""Putting one malformed dataset through the command line, and saying what became of it."""

import io
import os
import re
import resource
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np

from bids_qsm.app import cli, plan_tree
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph
from bids_qsm.errors import UserError
from bids_qsm.interfaces.phase import ConditionPhase

_BUILT = set()
SECONDS = 20
"""Of CPU time after which a case hangs; ten times as long where it only waits."""
_CACHES = r'/__pycache__$|\.(nbc|nbi|pyc)[^/]*$|^/dev/null$|/:memory:$'
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate')
_CHANGES += ('os.chmod', 'os.utime', 'os.chown', 'sqlite3.connect')


class Lost(AssertionError):
    """Neither a clear message nor a right result."""


class _Hang(BaseException):
    pass


@dataclass(frozen=True)
class Outcome:
    """What became of a dataset: 'message' (why, all of them) or 'result' (of how many series)."""

    kind: str
    messages: tuple[str, ...]
    run: tuple[str, ...]


class Writes:
    """What this process wrote or changed where it should not, told by its audit events."""

    def __init__(self):
        self.allowed, self.found, self.others = None, [], set()
        sys.addaudithook(self._hear)  # never taken off again

    @contextmanager
    def only_in(self, *folders):
        """Collect in ``found`` what is written anywhere but in ``folders``."""
        # threads that other tests have left, such as one that beats in a log
        self.others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self.found, self.allowed = [], tuple(os.path.realpath(folder) for folder in folders)
        try:
            yield
        finally:
            self.allowed = None

    def _hear(self, event, args):
        if self.allowed is None or (event != 'open' and event not in _CHANGES):
            return
        if threading.get_ident() in self.others:
            return
        if event == 'open':
            path, mode, flags = args
            writes = set('wax+') & set(mode) if isinstance(mode, str) else flags & _WRITING
            # a folder is only opened like this for a file that has no name
            if not writes or isinstance(path, int) or os.path.isdir(path):
                return
        for path in args[:2] if event in ('os.rename', 'os.link', 'os.symlink') else args[:1]:
            if isinstance(path, str | bytes | os.PathLike):
                name = os.path.abspath(os.fsdecode(path))
                place = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
                own = any(place == root or place.startswith(root + '/') for root in self.allowed)
                if not own and not re.search(_CACHES, place):
                    self.found.append(f'{event} {name}')


@contextmanager
def time_limit(seconds):
    """Raise Lost where the body takes longer, whatever it catches."""

    def stop(*_):
        raise _Hang

    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, 10 * seconds),
    )
    before = [(kind, signal.signal(kind, stop)) for kind, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    except _Hang:
        raise Lost(f'it hung for {seconds} s') from None
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0)
        for kind, handler in before:
            signal.signal(kind, handler)


@contextmanager
def memory_limit(gigabytes):
    """Let the body have so much more address space than there is in use."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 1e9), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def said_by(arguments):
    """(exit status, what was printed, what was said to stderr) of the command line, both in strict UTF-8."""
    streams = [io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        status = cli.main([str(a) for a in arguments])
    return status, *(stream.buffer.getvalue().decode() for stream in streams)


def put_through(root, writes, *options, templates, all_of_dataset=False, must_run=False) -> Outcome:
    """Run what is in ``root`` (see `tests.malformed`) as far as its images are loaded.

    Parameters
    ----------
    root : Path
    writes : Writes
    options : str
        More arguments.
    templates : Path
        Working folder of other runs, so that templates are made once.
    all_of_dataset : bool
        Whether what is wrong may concern the whole dataset; otherwise subject 02 must be run.
    must_run : bool
        Whether nothing is wrong.

    Raises
    ------
    Lost
        There was a traceback, a hang, something written where it should not be, or no clear message.
    """
    data, plans = root / 'data', []
    arguments = [data, root / 'out', 'participant', '--skip-bids-validation', '--dry-run', *options]
    describe, before = plan_tree.describe_plan, _state(root)

    def keep(options, plan):
        plans.append(plan)
        return describe(options, plan)

    with (
        time_limit(SECONDS),
        memory_limit(4),
        writes.only_in(),
        mock.patch.object(plan_tree, 'describe_plan', keep),
    ):
        status, out, err = said_by(arguments)
    _require(not writes.found, f'it wrote {writes.found}')
    _require(_state(root) == before, 'it changed its input')
    _require_plain(out + err)
    if status == 2:
        _require(all_of_dataset, f'the other subject was not run: {err}')
        errors = [line for line in err.splitlines() if line.startswith('bids_qsm: error: ')]
        _require(len(errors) == 1 and 'error: unexpected' not in errors[0], f'no clear message: {err!r}')
        return Outcome('message', (_clear(errors[0]),), ())
    _require(status in (0, 1) and len(plans) == 1, f'status {status}: {err!r}')
    plan = plans[0]
    wrong = tuple(_clear(one.reason) for one in plan.rejected)
    _require(status == any(one.is_error for one in plan.rejected), f'status {status} says otherwise')
    names = [one.name for one in plan.series]
    _require(all_of_dataset or 'sub-02' in names, f'the other subject was not run: {wrong}')
    with time_limit(SECONDS), memory_limit(4), writes.only_in(root / 'out', root / 'load', templates):
        failed = _load(root, plan, templates, options)
    _require(not writes.found, f'it wrote {writes.found}')
    run = tuple(name for name in names if name not in failed)
    _require(all_of_dataset or 'sub-02' in run, f'the other subject failed: {failed}')
    _require(not must_run or {'sub-01', 'sub-02'} <= {*run}, f'what is sound was not run: {wrong} {failed}')
    messages = (*wrong, *failed.values())
    return Outcome('message' if messages else 'result', messages, run)


def _load(root, plan, templates, options):
    """Build the graph and load what it starts from: messages of the series that this is impossible for."""
    # the other subject is sound unless all of the dataset is odd
    plan = replace(plan, series=tuple(s for s in plan.series if s.subject != '02') or plan.series)
    if not plan.series:
        return {}
    asked = repr((plan.series, options)).replace(str(root), '')
    if asked not in _BUILT:
        settings = cli.parse([str(root / 'data'), str(root / 'out'), 'participant', *options])
        build_graph(Options.from_settings({**settings, 'work_dir': str(templates)}), plan)
        _BUILT.add(asked)
    failed, folder = {}, root / 'load'
    folder.mkdir()
    for one in plan.series:
        parts = {'magnitude': one.magnitude, 'phase': one.phase, 'real': one.real, 'imag': one.imag}
        inputs = {part: [str(path) for path in files] for part, files in parts.items() if files}
        try:
            condition = ConditionPhase(echo_times=list(one.echo_times), coils=one.coils, **inputs)
            condition.inputs.manufacturer = one.manufacturer or ''
            results = condition.run(cwd=str(folder)).outputs
        except UserError as error:
            failed[one.name] = _clear(str(error))
            continue
        for path in (results.magnitude, results.phase):
            image = nib.load(path)
            _require(image.shape == (*one.shape, len(one.echo_times)), f'{one.name} is of size {image.shape}')
            _require(np.isfinite(image.get_fdata()).all(), f'{one.name}: {Path(path).name} is not finite')
    return failed


def _require(fine, why):
    if not fine:
        raise Lost(why)


def _require_plain(text):
    odd = sorted(set(re.findall(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]', text)))
    _require(not odd, f'control characters {odd} reach the terminal')
    _require('Traceback' not in text, f'a traceback: {text[-600:]}')


def _clear(message):
    """The message, where it is one: a sentence of one line that is neither empty nor endless."""
    words = message.removeprefix('bids_qsm: error: ')
    sound = 15 < len(words) < 1500 and len(words.splitlines()) == 1 and words.rstrip().endswith(('.', ';'))
    _require(sound and not words.startswith('unexpected'), f'no clear message: {message!r}')
    return words


def _state(root):
    """What is in a folder: kind, size and time of each entry."""
    found = {}
    for folder, folders, files in os.walk(root):
        if folder.startswith(str(root / 'load')):
            continue
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def fresh(sound):
    """A copy of the sound dataset in a new folder, the name of which is not plain."""
    import shutil

    root = Path(tempfile.mkdtemp(prefix='a b é ')) / 'fall'
    shutil.copytree(sound, root)
    return root
