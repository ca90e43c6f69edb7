"""Kernels are run as they are stored, also by the process that meets them first."""

import json
import os
import signal
import subprocess
import sys

import numba
import pytest
from numba.core.caching import IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

from bids_qsm import kernel_cache
from bids_qsm.errors import UserError

KERNELS = """
import json, sys, time
import numba
from numba.core.event import install_listener, install_recorder
from bids_qsm.kernel_cache import Compiling, use_stored_kernels

@numba.njit(cache=True, fastmath=True)
def inner(x):
    return 2 * x

@numba.njit(cache=True)
def outer(x):
    return inner(x) + 1

@numba.njit(cache=True)
def plain(x):
    return x - 1

@numba.njit(cache=True, fastmath=True)
def wrong(x):
    return x.nothing

if __name__ == '__main__':
    use_stored_kernels()
    with install_listener('numba:compile', compiling := Compiling()):
        values = outer(3), plain(3)
    try:
        wrong(3)
    except numba.TypingError as error:
        said = str(error)
    stats = [kernel.stats for kernel in (inner, outer, plain)]
    hits, misses = [sum(s.cache_hits.values()) for s in stats], [sum(s.cache_misses.values()) for s in stats]
    print(json.dumps([values, hits, misses, compiling.seconds, compiling.cpu_seconds, 'nothing' in said]))
"""


@pytest.fixture
def first_and_second(tmp_path):
    """What the script tells of itself where nothing is stored, and where its first run stored all."""
    script = tmp_path / 'kernels_of_a_test.py'
    script.write_text(KERNELS)
    ran = [
        subprocess.run([sys.executable, script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    return [json.loads(one.stdout) for one in ran]


def test_a_kernel_that_may_round_otherwise_is_loaded_by_the_process_that_meets_it_first(first_and_second):
    """Also where only a kernel that it calls may; a kernel that cannot is compiled here."""
    first, second = first_and_second
    *_, seconds, cpu_seconds, _ = first
    assert min(seconds, cpu_seconds) > 0
    assert first == [[7, 2], [0, 1, 0], [0, 0, 1], seconds, cpu_seconds, True]
    assert second == [[7, 2], [0, 1, 1], [0, 0, 0], 0.0, 0.0, True]


def test_a_process_that_is_killed_while_it_compiles_is_told_of(monkeypatch, tmp_path):
    """Its parent does not go on with code of its own, which may round otherwise than what is stored later."""
    kernel = numba.njit(fastmath=True)(add_one)
    monkeypatch.setenv('NUMBA_CACHE_DIR', str(tmp_path))
    kernel.enable_caching()
    monkeypatch.setattr(Dispatcher, 'compile', kernel_cache._store_and_compile)
    monkeypatch.setattr(kernel_cache, '_compile', lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match='that compiled add_one ended with SIGKILL'):
        kernel(1)


def add_one(x):
    return x + 1


@pytest.mark.parametrize('suffix', ['nbi', 'nbc'])
@pytest.mark.parametrize('keep', [0, 20])
def test_damaged_kernels_are_compiled_again(tmp_path, suffix, keep):
    kernel_cache.use_stored_kernels()
    cache = IndexDataCacheFile(str(tmp_path), 'kernel', ('source', 1))
    cache.save('key', 'code' * 20)
    assert cache.load('key') == 'code' * 20
    (path,) = tmp_path.glob(f'*.{suffix}')
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.load('key') is None
    cache.save('key', 'compiled')
    assert cache.load('key') == 'compiled'
