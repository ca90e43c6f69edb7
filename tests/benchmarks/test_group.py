"""The benchmark of the group level measures what it says, on six subjects."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'group_speed.py'


def test_parts_are_measured():
    words = [
        sys.executable,
        str(SCRIPT),
        '--subjects',
        '6',
        '--sessions',
        '1',
        '--parts',
        'gather',
        'command',
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    head, *lines = (line.split('\t') for line in done.stdout.splitlines())
    assert head == ['part', 'rows', 'wall', 'seconds', 'peak_mb']
    found = {line[0]: dict(zip(head[1:], map(float, line[1:]), strict=True)) for line in lines}
    assert set(found) == {'gather', 'command'}
    # 17 regions, 3 hemispheres, 2 maps
    assert {part['rows'] for part in found.values()} == {6 * 102}
    assert found['command']['wall'] > 0.5
    assert found['command']['seconds'] > 0.5
    assert found['command']['peak_mb'] > 50
