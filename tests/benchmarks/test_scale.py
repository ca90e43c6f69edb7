"""The benchmark of large runs finds its overhead, on two tiny series."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'scale.py'


def test_overhead_and_memory_are_measured(tmp_path):
    words = [sys.executable, str(SCRIPT), '--series', '2', '--nprocs', '1', '--reuse']
    words += ['--work', str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tables = re.findall(r'^ +wall +main +workers +inside +overhead .*\n(.*)$', done.stdout, re.MULTILINE)
    assert len(tables) == 2
    (_, main, workers, inside, overhead), again = (list(map(float, row.split())) for row in tables)
    assert 0 < inside < workers
    assert abs(main + workers - inside - overhead) < 0.01
    # what is there is not computed again
    assert again[3] < inside
    memory = [row.split() for row in re.findall(r'^ +\d+ +[\d.]+ +[\d.]+$', done.stdout, re.MULTILINE)]
    assert [row[0] for row in memory] == ['1', '2'] * 2
    assert all(0 < float(own) < float(total) for _, own, total in memory)
