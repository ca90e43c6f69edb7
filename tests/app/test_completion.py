"""A shell completes commands, options and their values with the script that is printed."""

import shutil
import subprocess

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


def test_fish_reads_its_script(script):
    path = script('fish')
    assert all(f'-a {name} ' in path.read_text() for name in cli.COMMANDS)
    if shutil.which('fish'):
        said = f'source {path}; complete -C "bids_qsm data out participant --inversion t"'
        ran = subprocess.run(['fish', '-c', said], capture_output=True, text=True, check=True)
        assert [line.partition('\t')[0] for line in ran.stdout.splitlines()] == ['tv', 'tkd']


def test_every_command_can_be_completed():
    assert list(cli.PARSERS) == list(cli.COMMANDS)
