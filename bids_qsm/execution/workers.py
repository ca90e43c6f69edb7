"""Processes that run Nipype's steps one at a time, and what each step took."""

import ctypes
import gc
import logging
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing import connection, util
from pathlib import Path
from traceback import format_exception

from numba.core.caching import NullCache
from numba.core.event import install_recorder

from bids_qsm.errors import UserError
from bids_qsm.threads import set_threads

_LONGEST = 70
"""Bytes, at most, of a folder below which the fork server's socket may lie; its own path has 32 more."""
_LOGGERS = ('nipype.workflow', 'nipype.interface', 'nipype.utils')


class Workers:
    """Worker processes, each started when it is first needed and kept until the end.

    They start from a fork server, as forking a process that holds threads is unsafe; it has imported what
    steps need, so that workers share that memory and start at once. Each has ``n_threads`` for its numerics.
    """

    def __init__(self, *, n_threads: int, log_level: str | int = 'WARNING'):
        self._setup = (os.getcwd(), n_threads, log_level)
        set_threads(n_threads)  # the fork server takes them over, and from it the workers
        _use_short_folder()
        self._context = multiprocessing.get_context('forkserver')
        self._context.set_forkserver_preload(['bids_qsm.workflows.base'])
        # workers end with whoever holds the other side, even where that is killed
        self._lifeline, self._hold = self._context.Pipe(duplex=False)
        self._idle, self._busy, self._most = [], {}, math.inf

    def start(self, task, node):
        """Run ``node`` in a free worker; :meth:`wait` tells of its end by ``task``."""
        while self._idle:
            worker = self._idle.pop()
            try:
                worker[1].send((node, False))
                break
            except OSError:  # it was killed while it was idle
                worker[1].close()
        else:
            worker = self._begin((node, False))
        self._busy[worker[1]] = (task, worker, node)

    def wait(self, timeout: float | None = None):
        """Wait for steps to end; return (task, reply) of each that did.

        A reply holds 'traceback' (lines, None where the step went well) and 'measured' (None where the
        process ended under it).
        """
        ended = []
        for pipe in connection.wait(list(self._busy), timeout):
            task, worker, node = self._busy.pop(pipe)
            try:
                reply = pipe.recv()
                if reply is None:  # it compiled kernels
                    pipe.close()
                    worker[0].join()
                    worker = self._begin((node, True))
                    self._busy[worker[1]] = (task, worker, node)
                    continue
                ended.append((task, reply))
                self._idle.append(worker)
            except (EOFError, OSError):
                pipe.close()
                worker[0].join()
                ended.append((task, {'traceback': _killed(worker[0].exitcode), 'measured': None}))
        self._trim()
        return ended

    def limit(self, n: int):
        """End workers beyond ``n`` in all: idle ones now, busy ones after their steps."""
        self._most = n
        self._trim()

    def _trim(self):
        while self._idle and len(self._idle) + len(self._busy) > self._most:
            process, pipe = self._idle.pop()
            pipe.close()
            process.join()

    def stop(self):
        """End all workers and whatever they are doing."""
        self.limit(0)
        for _, (process, pipe), _ in self._busy.values():
            process.terminate()
            process.join()
            pipe.close()
        self._busy = {}
        self._hold.close()
        self._lifeline.close()

    def _begin(self, work):
        """Give a new worker its first step."""
        worker = self._new()
        with suppress(OSError):  # one that ended as it began is a failure of the step, which wait meets
            worker[1].send(work)
        return worker

    def _new(self):
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._lifeline, *self._setup), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours


def _use_short_folder():
    """Have the fork server's socket in a folder of the system where TMPDIR is too long for one."""
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) <= _LONGEST:
        return
    try:
        for tempfile.tempdir in ('/tmp', '/var/tmp', '/dev/shm'):
            with suppress(OSError):
                util.get_temp_dir()  # it is made once and kept
                return
    finally:
        tempfile.tempdir = chosen
    raise UserError(f'TMPDIR is {chosen}, too long for a socket to lie there; set it to a shorter path.')


def _killed(code):
    how = f'signal {-code} ({signal.Signals(-code).name})' if code and code < 0 else f'status {code}'
    why = UserError(
        f'the process of this step ended with {how}, as when memory runs out or someone ends it; run again '
        'to go on from here, with a lower --nprocs if it was memory.'
    )
    return format_exception(why)


def _work(pipe, lifeline, directory, threads, level):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to all; the main process ends its workers
    os.chdir(directory)
    set_threads(threads)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    # Nipype's loggers have handlers of their own; a worker's messages would break the progress display
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(level)
    gc.freeze()  # looking through all that is imported after each step would take longer than many steps
    while True:
        try:
            node, is_again = pipe.recv()
        except EOFError:
            return
        node.overwrite = True if is_again else node.overwrite
        with install_recorder('numba:compile') as compiled:
            reply = _run(node)
        if not is_again and reply['traceback'] is None and any(map(_is_kept, compiled.buffer)):
            # what Numba has just compiled is not optimised quite like what it stores for all later runs, and
            # may round otherwise: the step is run again by a process that loads it
            pipe.send(None)
            return
        del node
        gc.collect()
        _give_back()
        pipe.send(reply)


def _is_kept(record):
    """Whether a kernel that was compiled is stored for later runs."""
    dispatcher = (record[1].data or {}).get('dispatcher')
    return not isinstance(getattr(dispatcher, '_cache', None), NullCache | None)


def _end_with(lifeline):
    """End this worker when the main process is gone, so that a killed run does not write on."""
    connection.wait([lifeline])
    os._exit(1)


def _run(node):
    set_threads(node.n_procs)  # of the worker's, which are those of the step that can use the most
    traceback, can_reset = None, _reset_peak()
    resident, started, cpu = _memory_gb('VmRSS'), time.monotonic(), sum(os.times()[:4])
    try:
        node.run()
    except Exception:
        traceback = format_exception(*sys.exc_info())
    peak = _memory_gb('VmHWM') if can_reset else None
    return {
        'traceback': traceback,
        'measured': {
            'seconds': time.monotonic() - started,
            'cpu_seconds': sum(os.times()[:4]) - cpu,
            'peak_gb': max(0.0, peak - resident) if can_reset else None,
            'resident_gb': peak,
        },
    }


def _reset_peak():
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:  # not every sandbox has it
        return False
    return True


def _memory_gb(key):
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


def _give_back():
    """Give freed memory back to the system, where the C library has a call for it (glibc), and to a GPU."""
    if 'torch' in sys.modules:
        with suppress(RuntimeError):
            sys.modules['torch'].cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
