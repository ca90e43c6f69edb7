"""A room imports only to its right, the numerics see no files, and the command line starts quickly."""

import ast
import configparser
import sys
from pathlib import Path

import pytest

import bids_qsm

PACKAGE = Path(bids_qsm.__file__).parent

# Each line holds the modules and rooms of one place in the order; a line may import itself and all below it.
ORDER = (
    ('__main__',),
    ('cli',),
    ('arguments',),
    (
        *('run', 'group', 'fetch', 'slurm', 'execution', 'nodejobs', 'locks', 'pool', 'workers'),
        *('progress', 'runlog', 'status'),
    ),
    ('options', 'methods', 'capacity', 'kernels'),
    ('layout', 'share'),
    ('templates',),
    (
        'reports',
        'cohort_report',
        'cohort_sections',
        'cohort_blocks',
        'cohort_images',
        'cohort_maps',
        'pages',
        'citations',
    ),
    ('workflows',),
    ('interfaces',),
    ('derivatives',),
    ('figures', 'mosaic', 'charts', 'cohort_charts'),
    ('phantom',),
    ('cohort',),
    ('biomarkers',),
    ('anatomy',),
    ('recon',),
    ('errors', 'threads', 'caches', 'data', ''),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
NUMERICS = ('recon', 'anatomy', 'biomarkers')
FILES = ('nibabel', 'nipype', 'pathlib', 'shutil', 'tempfile', 'os', 'glob', 'io')
QUICK = {
    'arguments',
    *('cli', 'options', 'methods', 'threads', 'capacity', 'kernels', 'share', 'errors'),
    *('__init__', '__main__'),
}


def sources():
    """(path relative to the package, tree) of every source file; workflows/ is reached through its link."""
    for path in sorted(PACKAGE.rglob('*.py')) + sorted((PACKAGE / 'workflows').glob('*.py')):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(), str(path))


TREES = dict(sources())


def room_of(path):
    return path.parts[0].removesuffix('.py').replace('__init__', '')


def imported(nodes):
    """Absolute names of the modules that import statements among ``nodes`` name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or '')
            if node.module == 'bids_qsm':
                yield from (f'bids_qsm.{alias.name}' for alias in node.names if alias.name != '__version__')


@pytest.mark.parametrize('path', TREES, ids=str)
def test_imports_go_to_the_right(path):
    room = room_of(path)
    assert room in RANK, f'{path}: give {room!r} a place in ORDER'
    for name in imported(ast.walk(TREES[path])):
        assert not name.startswith('.'), f'{path} has a relative import'
        if name.partition('.')[0] == 'bids_qsm':
            target = name.removeprefix('bids_qsm').removeprefix('.').partition('.')[0]
            assert target in RANK, f'{path} imports {name}, which has no place in ORDER'
            assert RANK[target] >= RANK[room], f'{path} imports {name}, which is to its left'


@pytest.mark.parametrize('path', [p for p in TREES if room_of(p) in NUMERICS], ids=str)
def test_numerics_see_no_files(path):
    tree = TREES[path]
    roots = {name.partition('.')[0] for name in imported(ast.walk(tree))}
    assert not roots & set(FILES)
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert 'open' not in calls


@pytest.mark.parametrize('path', [p for p in TREES if p.stem in QUICK and len(p.parts) == 1], ids=str)
def test_command_line_imports_only_what_is_light(path):
    for name in imported(TREES[path].body):
        root, _, rest = name.partition('.')
        if root == 'bids_qsm':
            assert rest.partition('.')[0] in {*QUICK, ''}, f'{path} imports {name} at once'
        else:
            assert root in sys.stdlib_module_names, f'{path} imports {name} at once'


def test_templateflow_is_imported_lazily():
    """Importing it fails where HOME cannot be written and the cache is empty."""
    for path, tree in TREES.items():
        assert not any(name.startswith('templateflow') for name in imported(tree.body)), path


def test_every_room_is_installed():
    setup = PACKAGE.parent / 'setup.cfg'
    if not setup.exists():
        pytest.skip('not a checkout')
    config = configparser.ConfigParser()
    config.read(setup)
    listed = set(config['options']['packages'].split())
    rooms = {'.'.join(('bids_qsm', *path.parent.parts)) for path in TREES if path.name == '__init__.py'}
    assert rooms == listed
