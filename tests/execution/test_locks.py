"""Two runs never share a participant's part of the working folder, and a killed one leaves no lock."""

import errno
import fcntl
import subprocess
import sys

import pytest

from bids_qsm.errors import UserError
from bids_qsm.execution.locks import locked

HOLD = """
import sys
from pathlib import Path
from bids_qsm.execution.locks import locked
with locked([Path(sys.argv[1], 'lock')], sys.argv[2:]):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds participants 01 and 02."""
    command = [sys.executable, '-c', HOLD, str(tmp_path), '01', '02']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'held\n'
        yield process
        process.kill()


def test_one_run_a_participant(tmp_path, other):
    lock, own = tmp_path / 'lock', tmp_path / 'own'
    with locked([lock], ['03']):
        pass
    with (
        pytest.raises(UserError, match=r'sub-02 is being run by another process, which holds .*lock; wait'),
        locked([own, lock], ['03', '02']),  # a working folder of its own is not enough
    ):
        pass
    other.kill()
    other.wait()
    with locked([own, lock], ['01', '02', '03']):
        pass


def test_thousands_of_participants(tmp_path):
    with locked([tmp_path / 'lock'], [f'{i:05d}' for i in range(5_000)]):
        assert len(list(tmp_path.iterdir())) == 1


def test_filesystem_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    with locked([tmp_path / 'lock'], ['01', '02']):
        assert capsys.readouterr().err.count('has no locks') == 1
