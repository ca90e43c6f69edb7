"""Compiled kernels as Numba stores them: damaged ones are compiled again, and new ones by a child process.

A process that compiles a kernel holds several optimised copies of its inner functions, and may run another
than it stores; with ``fastmath`` these round otherwise. So such a kernel is only run where it was loaded, and
the first run of an installation gives the same files as all later ones.
"""

import ctypes
import os
import signal
import time
import warnings
from inspect import getclosurevars
from typing import Any

from numba.core.caching import IndexDataCacheFile, NullCache
from numba.core.dispatcher import Dispatcher
from numba.core.event import Event, Listener, trigger_event
from numba.core.sigutils import normalize_signature

from bids_qsm.errors import UserError

_load, _compile = IndexDataCacheFile.load, Dispatcher.compile


def use_stored_kernels():
    """Let this process, from now on, run kernels as they are stored."""
    IndexDataCacheFile.load = _load_or_flush
    Dispatcher.compile = _store_and_compile


class Compiling(Listener):
    """``seconds`` and ``cpu_seconds`` that compiling took; listens to the event ``numba:compile``."""

    def __init__(self):
        self.seconds = self.cpu_seconds = 0.0
        self._depth = 0

    def on_start(self, event: Event):  # noqa: ARG002
        """Begin to count, if this is not within another kernel."""
        if not self._depth:
            self._add(-1)
        self._depth += 1

    def on_end(self, event: Event):  # noqa: ARG002
        """Stop counting, if this is the outermost kernel."""
        self._depth -= 1
        if not self._depth:
            self._add(1)

    def _add(self, sign: int):
        self.seconds += sign * time.monotonic()
        self.cpu_seconds += sign * sum(os.times()[:4])


def _load_or_flush(cache: IndexDataCacheFile, key: tuple):
    try:
        return _load(cache, key)
    except Exception:  # pickle raises many kinds for damaged files, as after a power failure
        cache.flush()
        return None


def _store_and_compile(kernel: Dispatcher, signature: Any):
    """Have a child compile and store a kernel that may round otherwise; a kernel that is wrong fails here."""
    arguments, result = normalize_signature(signature)
    is_new = tuple(arguments) not in kernel.overloads
    if is_new and _is_stored_fast(kernel) and _is_missing(kernel, signature):
        with trigger_event('numba:compile', {'dispatcher': kernel, 'args': arguments, 'return_type': result}):
            _store(kernel, signature)
    return _compile(kernel, signature)


def _store(kernel: Dispatcher, signature: Any):
    parent = os.getpid()
    with warnings.catch_warnings():  # of processes with threads: the child runs none, it only compiles
        warnings.simplefilter('ignore', DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            _end_with(parent)
            Dispatcher.compile = _compile  # for what it calls, too
            _compile(kernel, signature)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise UserError(
            f'the process that compiled {kernel.py_func.__name__} ended with {name}, as when memory runs out '
            'or someone ends it; run again to go on from here, with a lower --nprocs if it was memory.'
        )


def _end_with(parent: int):
    """Have the system end this process with its parent, where it can (Linux): an ended run has ended."""
    set_option = getattr(ctypes.CDLL(None), 'prctl', None)
    if set_option is not None:
        set_option(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _is_stored_fast(kernel: Dispatcher):
    return not isinstance(kernel._cache, NullCache) and _is_fast(kernel, set())


def _is_fast(kernel: Dispatcher, seen: set[int]):
    """Whether a kernel, or one that it calls by its plain name, has ``fastmath``."""
    seen.add(id(kernel))
    if kernel.targetoptions.get('fastmath'):
        return True
    names = getclosurevars(kernel.py_func)
    others = (*names.globals.values(), *names.nonlocals.values())
    return any(_is_fast(one, seen) for one in others if isinstance(one, Dispatcher) and id(one) not in seen)


def _is_missing(kernel: Dispatcher, signature: Any):
    kernel.targetctx.refresh()
    key = kernel._cache._index_key(signature, kernel.targetctx.codegen())
    return _load_or_flush(kernel._cache._cache_file, key) is None
