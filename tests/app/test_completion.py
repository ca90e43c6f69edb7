"""A shell completes commands, options and their values with the script that is printed."""

import os
import pty
import select
import shutil
import subprocess
from contextlib import suppress

import pytest

from bids_qsm.app import cli, completion

WORDS = """
source "$1"
compopt() { :; }
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
    _shtab_bids_qsm
    echo "${COMPREPLY[*]}"
}
cd "$2"
complete_words bids_qsm ""
complete_words bids_qsm s
complete_words bids_qsm data out p
complete_words bids_qsm data out participant --inver
complete_words bids_qsm data out participant --inversion t
complete_words bids_qsm data out participant --bipolar ""
complete_words bids_qsm data out participant --config ma
complete_words bids_qsm status --w
complete_words bids_qsm check ma
complete_words bids_qsm check many --inversion t
"""


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """A function that writes the script for a shell, with few methods."""
    monkeypatch.setattr(
        completion, 'registries', lambda: {'inversion': {'tv': None, 'tkd': None, 'l2': None}}
    )

    def write(shell):
        assert cli.main(['completion', shell]) == 0
        path = tmp_path / shell
        path.write_text(capsys.readouterr().out)
        return path

    return write


def test_bash_completes(script, tmp_path):
    (tmp_path / 'many').mkdir()
    (tmp_path / 'made.toml').touch()
    run = ['bash', '-c', WORDS, 'bash', str(script('bash')), str(tmp_path)]
    ran = subprocess.run(run, capture_output=True, text=True, check=True)
    assert ran.stderr == ''
    assert ran.stdout.splitlines() == [
        ' '.join(cli.COMMANDS),
        'slurm status',
        'participant',
        '--inversion',
        'tv tkd',
        'auto yes no',
        'made.toml many',
        '--watch',
        'many',
        'tv tkd',
    ]


TYPED = {
    '': [*cli.COMMANDS, 'many/'],
    's': ['slurm', 'status'],
    'data out p': ['participant'],
    'data out participant --inver': ['--inversion'],
    'data out participant --inversion t': ['tkd', 'tv'],
    'data out participant --config ma': ['made.toml', 'many/'],
    '--bipolar ': ['auto', 'no', 'yes'],
    'status --w': ['--watch'],
    'check ma': ['many/'],
    'check many --inversion t': ['tkd', 'tv'],
}
KEYS = """
all() { _main_complete; compstate[insert]=all; compstate[list]= }
zle -C all complete-word all
bindkey '^I' all
report() { print -r -- "$BUFFER" >> ../said; BUFFER= }
zle -N report
bindkey '^G' report
PS1='ready> '
"""


@pytest.mark.skipif(not shutil.which('zsh'), reason='zsh is not installed')
@pytest.mark.parametrize('way', ['function', 'sourced'])
def test_zsh_completes(script, tmp_path, way):
    """In a zsh at a terminal of its own, where Tab puts in all that fits, and Ctrl-G writes the line down."""
    place = tmp_path / 'place'
    (place / 'many').mkdir(parents=True)
    (place / 'made.toml').touch()
    (tmp_path / 'functions').mkdir()
    path = script('zsh').rename(tmp_path / 'functions' / ('_bids_qsm' if way == 'function' else 'script'))
    after = f'source {path}' if way == 'sourced' else ''
    start = f'fpath=({path.parent} $fpath); autoload -Uz compinit; compinit -u -D; {after}'
    (tmp_path / '.zshrc').write_text(start + KEYS)
    ours, its = pty.openpty()
    own = {**os.environ, 'ZDOTDIR': str(tmp_path), 'TERM': 'dumb'}
    run = subprocess.Popen(
        ['zsh', '-d', '-i'], stdin=its, stdout=its, stderr=its, env=own, cwd=place, start_new_session=True
    )
    os.close(its)
    seen = b''
    with suppress(OSError):  # that is how the terminal of a process that has ended is read
        while select.select([ours], [], [], 30)[0]:
            had, seen = b'ready>' in seen, seen + os.read(ours, 4096)
            if not had and b'ready>' in seen:
                os.write(ours, b''.join(b'bids_qsm %s\t\x07' % words.encode() for words in TYPED) + b'\x04')
    os.close(ours)
    assert run.wait(10) == 0
    assert b'command not found' not in seen
    said = (tmp_path / 'said').read_text().splitlines()
    for (words, found), line in zip(TYPED.items(), said, strict=True):
        before = words.rpartition(' ')[0]
        assert line.removeprefix(f'bids_qsm {before}').split() == found, words


@pytest.mark.skipif(not shutil.which('zsh'), reason='zsh is not installed')
def test_zsh_without_completion_is_told_what_it_lacks(script):
    ran = subprocess.run(
        ['zsh', '-f', '-c', f'source {script("zsh")}'], capture_output=True, text=True, check=False
    )
    assert ran.stderr.startswith('bids_qsm: completion starts with "autoload -Uz compinit; compinit"')
    assert len(ran.stderr.splitlines()) == 1


def test_fish_reads_its_script(script):
    path = script('fish')
    assert all(f'-a {name} ' in path.read_text() for name in cli.COMMANDS)
    if shutil.which('fish'):
        said = f'source {path}; complete -C "bids_qsm data out participant --inversion t"'
        ran = subprocess.run(['fish', '-c', said], capture_output=True, text=True, check=True)
        assert [line.partition('\t')[0] for line in ran.stdout.splitlines()] == ['tv', 'tkd']


def test_every_command_can_be_completed():
    assert list(cli.PARSERS) == list(cli.COMMANDS)
