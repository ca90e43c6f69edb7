"""Run graphs of Nipype nodes in worker processes, as many steps at a time as CPUs and memory allow.

Each worker is a pebble.ProcessPool of one process. A pool of several breaks where a worker is killed while it
is idle or holds the lock of their common pipe, and cannot shrink.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing import util
from pathlib import Path
from traceback import format_exception

from networkx import DiGraph
from nipype.pipeline.engine import Node
from nipype.pipeline.engine.utils import topological_sort
from nipype.pipeline.plugins.base import PluginBase
from nipype.pipeline.plugins.tools import report_crash
from numba.core.event import install_listener
from pebble import ProcessExpired, ProcessPool

from bids_qsm.errors import UserError
from bids_qsm.kernel_cache import Compiling
from bids_qsm.threads import end_with_main, set_threads

AHEAD = 2
"""Graphs in work beyond one a worker, at most: their steps fill gaps, and memory stays flat."""
_LONGEST = 70
"""Bytes, at most, of a folder below which the fork server's socket may lie; its own path has 32 more."""
_LOGGERS = ('nipype.workflow', 'nipype.interface', 'nipype.utils')


class PoolPlugin(PluginBase):
    """Run nodes in worker processes within ``n_procs`` CPUs, ``memory_gb``, and ``n_workers`` (one a CPU).

    A worker starts when it is first needed, from a fork server: forking a process with threads is unsafe, and
    workers share the memory of what the server has imported. Each has ``n_threads`` for its numerics. A node
    that fails, or whose worker is killed, stops only what depends on it. With ``is_cold`` the first node of a
    kind runs without others of its kind beside it, which would compile the same kernels.

    Before ``status_callback`` tells of a node's end, ``node.measured`` says what it took: seconds and
    cpu_seconds, without those of compiling kernels, peak_gb (above what the worker held before, compiling
    included) and resident_gb (in all), the last two None where the system does not tell; None for nodes whose
    earlier results are used, or whose worker was killed.
    """

    def __init__(self, plugin_args: dict):
        super().__init__(plugin_args)
        self.processors = plugin_args['n_procs']
        self.memory_gb = plugin_args['memory_gb']
        self.n_workers = plugin_args.get('n_workers', self.processors)
        n_threads = plugin_args.get('n_threads', 1)
        self._is_cold, self._compiled = plugin_args.get('is_cold', False), set()
        self._setup = (os.getcwd(), n_threads, plugin_args.get('log_level', 'WARNING'))
        self._context = _forking(n_threads)
        self._ready, self._running, self._idle = [], {}, []
        self._n_live, self._is_stopped = 0, False

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        self.stop()

    def stop(self):
        """End the workers and whatever they are doing."""
        _end(*self._idle, *(worker for _, worker, _ in self._running.values()))
        self._idle, self._running = [], {}

    def limit(self, *, workers: int, memory_gb: float):
        """Run at most ``workers`` steps at a time that share ``memory_gb``, from now on."""
        self.n_workers, self.memory_gb = workers, memory_gb
        self._trim()

    def run(self, graph: DiGraph, config: dict, updatehash: bool = False):  # noqa: ARG002
        """Run one graph, as Nipype asks for it; RuntimeError where a node failed."""
        (live,) = self.run_all([graph])
        if live.crashes:
            raise RuntimeError(f'{len(live.crashes)} steps failed; see {live.crashes[0]}')

    def run_all(self, graphs: Iterable[DiGraph]) -> Iterator['Live']:
        """Run ``graphs``, each taken when workers would lack work; yield each (see Live) at its end.

        With ``stop_on_first_crash`` the first failure ends everything.
        """
        graphs, has_more = enumerate(graphs), True
        while has_more or self._n_live:
            if has_more and self._lacks_work():
                number, graph = next(graphs, (None, None))
                has_more = graph is not None
                if has_more:
                    self._add(Live(graph, number))
            yield from self._submit()
            # while there is more to prepare, only look; what ended meanwhile goes first
            is_preparing = has_more and self._lacks_work()
            for future in futures.wait(self._running, 0 if is_preparing else None, 'FIRST_COMPLETED').done:
                yield from self._receive(future)
                if self._is_stopped:
                    return
            self._trim()

    def _lacks_work(self):
        return len(self._ready) < self.n_workers and self._n_live < self.n_workers + AHEAD

    def _add(self, live: 'Live'):
        self._n_live += 1
        for step in live.ready():
            insort(self._ready, step)

    def _submit(self):
        """Start what is ready and fits, the first graphs' longest chains first."""
        at = 0
        while at < len(self._ready):
            step = self._ready[at]
            if not self._fits(step.node):
                at += 1
                continue
            del self._ready[at]
            step.node.measured = None
            if _is_done(step.node):
                yield from self._finish(step, traceback=None, measured=None)
                at = 0  # what it lets begin may come first
            else:
                self._tell(step.node, 'start')
                self._start(step)

    def _fits(self, node: Node):
        """Whether a node may start beside those that run; alone, any may. One at a time has the GPU."""
        running = [step.node for step, *_ in self._running.values()]
        return not running or (
            len(running) < self.n_workers
            and not (_is_on_gpu(node) and any(map(_is_on_gpu, running)))
            and (self._has_kernels(node) or _kind(node) not in map(_kind, running))
            and sum(one.n_procs for one in running) + node.n_procs <= self.processors
            and sum(one.mem_gb for one in running) + node.mem_gb <= self.memory_gb
        )

    def _has_kernels(self, node: Node):
        return not self._is_cold or _kind(node) in self._compiled

    def _start(self, step: 'Step', is_again: bool = False):
        """Give ``step`` to an idle worker or a new one, which it is if the last was killed."""
        work = [pickle.dumps(step.node)]
        future = None
        while future is None and self._idle and not is_again:
            worker = self._idle.pop()
            with suppress(RuntimeError):  # it was killed while it was idle
                future = worker.schedule(_work, args=work)
        if future is None:
            worker = ProcessPool(1, context=self._context, initializer=_begin, initargs=self._setup)
            future = worker.schedule(_work, args=work)
        self._running[future] = step, worker, is_again

    def _receive(self, future: futures.Future):
        """Take what a worker says of its step; a new one takes it where that was killed before it began."""
        step, worker, is_again = self._running.pop(future)
        error = future.exception()
        if isinstance(error, futures.BrokenExecutor) and not is_again:
            _end(worker)
            self._start(step, is_again=True)
            return
        self._idle.append(worker)
        if error is None:
            yield from self._finish(step, **future.result())
        else:
            told = format_exception(_explained(error, 'the process of this step'))
            yield from self._finish(step, traceback=told, measured=None)

    def _trim(self):
        while self._idle and len(self._idle) + len(self._running) > self.n_workers:
            _end(self._idle.pop())

    def _finish(self, step: 'Step', *, traceback: list[str] | None, measured: dict | None):
        live, node = step.live, step.node
        node.measured = measured
        live.n_open -= 1
        if traceback is None:
            if measured:  # it was run
                self._compiled.add(_kind(node))
            self._tell(node, 'end')
            for after in live.ready(step):
                insort(self._ready, after)
        else:
            node._traceback = traceback
            live.crashes.append(report_crash(node, traceback=traceback))
            self._tell(node, 'exception')
            self._is_stopped = self.plugin_args.get('stop_on_first_crash', False)
        if not live.n_open or self._is_stopped:
            self._n_live -= 1
            yield live

    def _tell(self, node: Node, status: str):
        if self._status_callback:
            self._status_callback(node, status)


@dataclass(eq=False)
class Step:
    """A node of a graph in work; sorts by when it should run."""

    node: Node
    live: 'Live'
    rank: tuple[int, int, int]

    def __lt__(self, other: 'Step'):
        return self.rank < other.rank


class Live:
    """A graph in work: ``n_open`` steps are ready or running, and ``crashes`` are files about failed ones."""

    def __init__(self, graph: DiGraph, number: int):
        self.number, self.crashes, self.n_open = number, [], 0
        nodes = topological_sort(graph)[0]
        height = {}
        for node in reversed(nodes):
            height[node] = 1 + max((height[after] for after in graph.successors(node)), default=0)
        self._steps = {node: Step(node, self, (number, -height[node], i)) for i, node in enumerate(nodes)}
        self._sorter = TopologicalSorter({node: list(graph.predecessors(node)) for node in graph})
        self._sorter.prepare()

    def ready(self, done: Step | None = None) -> list[Step]:
        """Steps that may begin now that ``done`` is done."""
        if done:
            self._sorter.done(done.node)
        steps = [self._steps[node] for node in self._sorter.get_ready()]
        self.n_open += len(steps)
        return steps


def in_worker(function: Callable, *args: object, n_threads: int) -> futures.Future:
    """Future of what a function returns in a worker; what others of a pool need is imported meanwhile, too.

    Nothing waits for it but who asks for its result. UserError where the worker was killed.
    """
    context, setup = _forking(n_threads), (os.getcwd(), n_threads, 'WARNING')
    future = futures.Future()

    def work():
        try:
            with ProcessPool(1, context=context, initializer=_begin, initargs=setup) as worker:
                future.set_result(worker.schedule(function, args=args).result())
        except Exception as error:
            future.set_exception(_explained(error, 'a process beside the main one'))

    threading.Thread(target=work, daemon=True).start()  # a first worker takes seconds to start
    return future


def _forking(n_threads: int):
    """Where workers are forked from a process that starts with the first of them and inherits the threads."""
    set_threads(n_threads)
    _use_short_folder()
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['bids_qsm.workflows.base', __name__])
    return context


def _is_on_gpu(node: Node):
    return getattr(node.inputs, 'device', 'cpu') != 'cpu'


def _kind(node: Node):
    """What the kernels of a step depend on."""
    return type(node.interface), getattr(node.inputs, 'method', None)


def _is_done(node: Node):
    """Whether an earlier run left the node's results, made from the same input."""
    if node.overwrite or (node.overwrite is None and node.interface.always_run):
        return False
    try:
        return all(node.is_cached())
    except Exception:
        # such as an unreadable file; the step itself meets it too, and is the one to tell
        return False


def _end(*workers: ProcessPool):
    for worker in workers:
        worker.stop()
    for worker in workers:  # all at once, as each takes a moment
        worker.join()


def _explained(error: Exception, who: str):
    """What to tell of ``who`` where it was killed, and could not say it; other errors stay as they are."""
    if isinstance(error, futures.BrokenExecutor):
        how = 'before it began'
    elif isinstance(error, ProcessExpired):
        code = error.exitcode
        how = f'with signal {-code} ({signal.Signals(-code).name})' if code < 0 else f'with status {code}'
    else:
        return error
    return UserError(
        f'{who} ended {how}, as when memory runs out or someone ends it; run again '
        'to go on from here, with a lower --nprocs if it was memory.'
    )


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


# -- in a worker ----------------------------------------------------------------------------------------


def _begin(directory: str, threads: int, level: str | int):
    """Set up a worker; pebble has it ignore SIGINT, which goes to all processes of a terminal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # an idle worker ends in order when its pipe is closed
    end_with_main()
    os.chdir(directory)
    set_threads(threads)
    # Nipype's loggers have handlers of their own; a worker's messages would break the progress display
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(level)
    gc.freeze()  # looking through all that is imported after each step would take longer than many steps


def _work(pickled: bytes):
    """Run a node; its traceback, if it failed, and what it took."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends a step at once, even in compiled code
    node = pickle.loads(pickled)
    reply = _run(node)
    del node
    gc.collect()
    _give_back()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return reply


def _run(node: Node):
    set_threads(node.n_procs)  # of the worker's, which are those of the step that can use the most
    traceback, can_reset = None, _reset_peak()
    resident, started, cpu = _memory_gb('VmRSS'), time.monotonic(), sum(os.times()[:4])
    try:
        with install_listener('numba:compile', compiling := Compiling()):
            node.run()
    except Exception:
        traceback = format_exception(*sys.exc_info())
    peak = _memory_gb('VmHWM') if can_reset else None
    return {
        'traceback': traceback,
        'measured': {
            'seconds': time.monotonic() - started - compiling.seconds,
            'cpu_seconds': sum(os.times()[:4]) - cpu - compiling.cpu_seconds,
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


def _memory_gb(key: str):
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
