"""What the benchmarks of memory and threads read is what a process took."""

import sys
from pathlib import Path

import numpy as np
import pytest

BURN = """
import hashlib, time
end = time.monotonic() + 2
while time.monotonic() < end:
    hashlib.sha256(bytes(1_000_000))
"""


@pytest.fixture(scope='module')
def bench():
    folder = str(Path(__file__).parents[2] / 'benchmarks')
    sys.path.insert(0, folder)
    import limits
    import memory

    yield {'limits': limits, 'memory': memory}
    sys.path.remove(folder)


def test_watch_sees_threads_and_memory_of_children(bench):
    hold = f'x = bytearray(b"1") * 300_000_000\n{BURN}'
    start = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {hold!r}])'
    status, _, most, mean, gb = bench['limits'].watch([sys.executable, '-c', start])
    assert status == 0
    assert 0 < mean <= most
    assert gb > 0.3


def test_measurement_is_the_peak_above_what_was_held(bench):
    held = np.ones(20_000_000)
    measured = bench['memory'].Measurement()
    passing = np.ones(30_000_000)
    del passing
    assert measured.end().peak_gb > 0.2
    assert measured.before_gb > 1e-9 * held.nbytes
