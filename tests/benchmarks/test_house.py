"""The counts of the code are of what is there."""

import ast
import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from bids_qsm.app.options import Options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def house():
    spec = importlib.util.spec_from_file_location('house', ROOT / 'benchmarks' / 'house.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_words_are_those_of_the_code(house):
    tree = ast.parse('"""No word."""\nfrom a.b import c as d\nx.e(f=\'g/h --i-j\')  # no word\n')
    assert house.words_of(tree) == {*'abcdxefghij', '--i-j'}


def test_this_checkout_is_counted(house, capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['house.py', str(ROOT), '--files'])
    house.main()
    said = capsys.readouterr().out
    assert f'{len(fields(Options))} fields of Options' in said
    assert '\nmedi: ' in said
    assert 'recon/inversion/medi.py' in said
    assert '| 0 | 0 |\n| (e)' not in said
