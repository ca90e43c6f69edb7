"""Two runs never share a participant's part of a folder, nor imports a table; a killed one leaves no lock."""

import errno
import fcntl
import subprocess
import sys

import pytest

from bids_qsm.errors import UserError
from bids_qsm.locks import alone_at, locked

HOLD = """
import sys
from pathlib import Path
from bids_qsm.locks import locked
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
    monkeypatch.setattr(fcntl, 'flock', refuse)
    with locked([tmp_path / 'lock'], ['01', '02']):
        assert capsys.readouterr().err.count('has no locks') == 1
    with alone_at(tmp_path / 'table.tsv'):
        assert 'has no locks (No locks available), so nothing keeps two imports' in capsys.readouterr().err


def test_one_import_a_table(tmp_path):
    table = tmp_path / 'table.tsv'
    with (
        alone_at(table, tmp_path / 'bids'),
        pytest.raises(
            UserError, match=r'another import writes .*table.tsv and holds .*\.table.tsv.lock; wait'
        ),
        alone_at(table),
    ):
        pass
    with alone_at(table):
        pass


def test_a_disk_that_fails_is_not_one_without_locks(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(fcntl, 'lockf', fail)
    monkeypatch.setattr(fcntl, 'flock', fail)
    with pytest.raises(UserError, match=r'table.tsv.lock cannot be locked \(Input/output error\)'):
        alone_at(tmp_path / 'table.tsv').__enter__()
    with pytest.raises(OSError, match='Input/output'):
        locked([tmp_path / 'lock'], ['01']).__enter__()


@pytest.mark.parametrize('code', [errno.EPERM, errno.EACCES, errno.ESTALE])
def test_a_lock_that_is_refused_is_not_one_that_another_import_holds(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, 'refused')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with pytest.raises(UserError, match=r'table.tsv.lock cannot be locked \(refused\); choose another place'):
        alone_at(tmp_path / 'table.tsv').__enter__()


@pytest.mark.parametrize(
    ('code', 'error', 'words'),
    [(errno.EACCES, UserError, 'is being run by another process'), (errno.EPERM, PermissionError, 'refused')],
)
def test_of_posix_one_error_means_that_a_lock_is_held(code, error, words, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, 'refused')

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    with pytest.raises(error, match=words):
        locked([tmp_path / 'lock'], ['01']).__enter__()


def test_a_lock_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / '.table.tsv.lock').mkdir()
    with pytest.raises(UserError, match=r'table.tsv.lock cannot be written \(Is a directory\)'):
        alone_at(tmp_path / 'table.tsv').__enter__()
