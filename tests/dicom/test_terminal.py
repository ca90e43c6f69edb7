"""Questions on a real terminal, and none where there is no terminal."""

import os
import pty
import select
import signal
import sys

import pytest

from bids_qsm.app.cli import main
from bids_qsm.dicom.table import SKIP, UNCLEAR, read_rows
from tests.dicom.scanners import Scan, write_classic

PROMPT = 'Enter: later)? '


class Terminal:
    """A command at a pseudo-terminal of its own, whose Ctrl-C and Ctrl-D are those of a keyboard."""

    def __init__(self, *argv):
        self.said = ''
        self.pid, self.fd = pty.fork()
        if not self.pid:
            code = 99
            try:
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, 'r' if not n else 'w') for n in range(3))
                code = main(list(argv))
            finally:
                os._exit(code)

    def until(self, text=None):
        """Read until a text was said once more, or to the end."""
        start = len(self.said)
        while text is None or text not in self.said[start:]:
            if not select.select([self.fd], [], [], 60)[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f'waited in vain; said: {self.said}')
            try:
                new = os.read(self.fd, 4096)
            except OSError:  # of a terminal that nobody has open
                new = b''
            if not new:
                assert text is None, self.said
                return
            self.said += new.decode()

    def answer(self, keys):
        self.until(PROMPT)
        os.write(self.fd, keys.encode())

    def end(self):
        """Exit code."""
        self.until()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def places(tmp_path):
    """Folder of three magnitudes, any of which may go with the phase; and the dataset."""
    for number, part in ((4, 'mag'), (5, 'phase'), (6, 'mag'), (7, 'mag')):
        write_classic(tmp_path / 'dicom', Scan('Siemens', number, parts=(part,), echo_times=(9,)))
    return str(tmp_path / 'dicom'), str(tmp_path / 'bids')


def names(tmp_path):
    rows = read_rows(tmp_path / 'bids_import.tsv')
    return {row.others['series_number']: row.name for row in rows}


def test_answers_at_a_terminal_are_checked_and_decide(places, tmp_path):
    terminal = Terminal('import', *places)
    terminal.answer('magnitude\n')  # is no name
    terminal.answer('skip\n')
    terminal.answer('\n')  # later
    terminal.answer('\n')
    terminal.answer('skip\n')
    assert terminal.end() == 0
    assert 'cannot be used: the last word of a name must be one of' in terminal.said
    assert names(tmp_path) == {'4': SKIP, '5': 'T2starw', '6': 'T2starw', '7': SKIP}
    assert len([*(tmp_path / 'bids').rglob('*_T2starw.nii.gz')]) == 2


@pytest.mark.parametrize('is_dry', [True, False])
def test_ctrl_c_keeps_the_answers_and_imports_nothing(is_dry, places, tmp_path):
    terminal = Terminal('import', *places, *(['--dry-run'] if is_dry else []))
    terminal.answer('skip\n')
    terminal.answer('\x03')
    assert terminal.end() == 130
    assert 'Traceback' not in terminal.said
    assert names(tmp_path) == {'4': SKIP, '5': UNCLEAR, '6': UNCLEAR, '7': UNCLEAR}
    assert not (tmp_path / 'bids').exists()


@pytest.mark.parametrize('keys', ['\x04', '\n\n\n\n'])
def test_no_answer_leaves_series_unclear(keys, places, tmp_path):
    terminal = Terminal('import', *places)
    terminal.answer(keys)
    assert terminal.end() == 1
    assert 'decide in' in terminal.said
    assert 'Traceback' not in terminal.said
    assert set(names(tmp_path).values()) == {UNCLEAR}


def test_nobody_is_asked_without_a_terminal(places, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('builtins.input', None)
    assert main(['import', *places]) == 1
    assert f'decide in {tmp_path / "bids_import.tsv"}: in place of ? write a name' in capsys.readouterr().out
    assert set(names(tmp_path).values()) == {UNCLEAR}
