"""A room imports only from rooms below it, the numerics see no files, and the command line starts quickly."""

import ast
import configparser
import sys
from functools import cache
from pathlib import Path

import pytest

import bids_qsm

PACKAGE = Path(bids_qsm.__file__).parent

ROOMS = (
    *('__main__', 'app', 'execution', 'group', 'layout', 'templates', 'reports', 'workflows', 'interfaces'),
    *('applications', 'dicom', 'derivatives', 'plotting', 'phantom', 'cohort', 'biomarkers', 'anatomy'),
    *('plugins', 'recon'),
)
"""From the roof to the cellar: a room may import itself and the rooms after it."""
GROUND = ('errors', 'threads', 'locks', 'kernel_cache', 'entities', 'data', '')
"""What everyone stands on."""
RANK = {**{room: rank for rank, room in enumerate(ROOMS)}, **dict.fromkeys(GROUND, len(ROOMS))}
NUMERICS = ('recon', 'anatomy', 'biomarkers')
FILES = ('nibabel', 'nipype', 'pathlib', 'shutil', 'tempfile', 'os', 'glob', 'io')
QUICK = {
    *('app.cli', 'app.arguments', 'app.options', 'app.methods', 'app.mistakes', 'app.pages', 'plugins'),
    *(
        'execution.resources',
        'execution.numba_cache',
        'execution.array_tasks',
        'applications',
        'threads',
        'errors',
        'entities',
    ),
}
"""Modules that the command line imports before it knows what to do."""


PATHS = [
    path.relative_to(PACKAGE)
    for path in sorted(PACKAGE.rglob('*.py')) + sorted((PACKAGE / 'workflows').glob('*.py'))
]
"""Every source file, relative to the package; workflows/ is reached through its link."""


@cache
def tree_of(path):
    return ast.parse((PACKAGE / path).read_text(), str(path))


def module_of(path):
    return '.'.join(path.with_suffix('').parts).removesuffix('__init__').removesuffix('.')


def room_of(module):
    return module.partition('.')[0]


def imported(nodes):
    """Absolute names of the modules that import statements among ``nodes`` name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or '')


def run_time(tree):
    """The nodes of a file that run, without what is imported for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            continue
        yield node
        yield from run_time(node)


def test_what_an_extra_brings_is_not_needed_to_start():
    """Only the process of a plug-in imports what reads models, and within a function."""
    extra = ('onnx', 'onnxruntime', 'bids_qsm.plugins.graphs', 'bids_qsm.plugins.worker', 'torch')
    extra += ('dcm2niix', 'pydicom', 'highdicom')
    found = [
        (str(path), name)
        for path in PATHS
        for name in imported(at_start(tree_of(path)))
        if name.startswith(extra) and str(path) != 'plugins/graphs.py'
    ]
    assert found == []


def at_start(tree):
    """The nodes of a file that run when it is imported: none of a function, or for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_start(node)


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_rooms_import_only_rooms_below(path):
    room = room_of(module_of(path))
    assert room in RANK, f'{path}: only app/ and __main__ lie loose; move it into a room'
    for name in imported(run_time(tree_of(path))):
        assert not name.startswith('.'), f'{path} has a relative import'
        if name.partition('.')[0] == 'bids_qsm':
            target = room_of(name.removeprefix('bids_qsm').removeprefix('.'))
            assert target in RANK, f'{path} imports {name}, which is in no room'
            assert RANK[target] >= RANK[room], f'{path} imports {name}, which is above it'


@pytest.mark.parametrize('path', [p for p in PATHS if room_of(module_of(p)) in NUMERICS], ids=str)
def test_numerics_see_no_files(path):
    tree = tree_of(path)
    roots = {name.partition('.')[0] for name in imported(ast.walk(tree))}
    assert not roots & set(FILES)
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert 'open' not in calls


@pytest.mark.parametrize('path', [p for p in PATHS if module_of(p) in QUICK], ids=str)
def test_command_line_imports_only_what_is_light(path):
    for name in imported(tree_of(path).body):
        root, _, rest = name.partition('.')
        if root == 'bids_qsm':
            assert rest in {*QUICK, ''}, f'{path} imports {name} at once'
        else:
            assert root in sys.stdlib_module_names, f'{path} imports {name} at once'


def test_templateflow_is_imported_lazily():
    """Importing it fails where HOME cannot be written and the cache is empty."""
    for path in PATHS:
        names = imported(tree_of(path).body)
        assert not any(name.startswith('templateflow') for name in names), path


def test_every_room_is_installed():
    setup = PACKAGE.parent / 'setup.cfg'
    if not setup.exists():
        pytest.skip('not a checkout')
    config = configparser.ConfigParser()
    config.read(setup)
    listed = set(config['options']['packages'].split())
    rooms = {'.'.join(('bids_qsm', *path.parent.parts)) for path in PATHS if path.name == '__init__.py'}
    assert rooms == listed
