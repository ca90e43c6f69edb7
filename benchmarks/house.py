"""Count lines and modules of a checkout, and the files that name a method, a map, an application, an option.

python benchmarks/house.py [PATH] [--files]

PATH is the root of a checkout of any age (this one by default), so that two can be compared. A file names a
thing by an identifier, an attribute, a keyword, a word of a string, or a word of a template or list in data/.
Comments and docstrings do not count. The files that name an existing thing are about those that a new one of
its kind would touch, beside its tests. --files lists them.
"""

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

NUMERICS = ('recon', 'anatomy', 'biomarkers', 'cohort', 'phantom')
"""Rooms that compute; what they call their arrays is not the concern of the others."""
KINDS = {
    '(a) inversion method': {'medi': ('medi',), 'ndi': ('ndi',), 'rts': ('rts',), 'tgv': ('tgv',)},
    '(b) map': {
        'chi': ('chi', 'Chimap'),
        'r2star': ('r2star', 'R2star', 'R2starmap'),
        't2star': ('t2star', 'T2starmap'),
        's0': ('s0', 'S0map'),
        'swi': ('swi',),
        'minip': ('minip', 'minIP'),
    },
    '(c) application': {
        'candidates': ('candidates', 'candidate', 'group_candidates'),
        'lesions': ('lesions', 'lesion', 'group_lesions'),
    },
    '(d) input image': {'flair': ('flair', 'FLAIR')},
    '(e) option': {
        name: (name, f'--{name.replace("_", "-")}')
        for name in ('smoothing_mm', 'relative_to', 'study_template', 'stop_on_first_crash')
    },
}
"""Kind of thing -> things of the kind that there are -> words that name each."""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('path', nargs='?', type=Path, default=Path(__file__).parent.parent)
    parser.add_argument('--files', action='store_true', help='list the files that name each thing')
    given = parser.parse_args()
    files = sources(given.path)
    print(f'{sum(len(text.splitlines()) for text in files.values())} lines in {len(files)} source files')
    print_rooms(files)
    trees = {name: ast.parse(text) for name, text in files.items()}
    print_largest(files, trees)
    print(f'\n{count_options(trees)} fields of Options')
    words = {name: words_of(tree) for name, tree in trees.items()}
    for path in sorted((given.path / 'bids_qsm' / 'data').glob('*.[yhj]*')):
        words[f'data/{path.name}'] = set(re.findall(r'\w+', path.read_text(encoding='utf-8')))
    print_named(words, list_files=given.files)


def sources(root):
    """Path, relative to the package, -> text of each source file of bids_qsm/ and workflows/."""
    package = root / 'bids_qsm'
    inside = [p for p in package.rglob('*.py') if not p.is_relative_to(package / 'workflows')]
    files = {p.relative_to(package).as_posix(): p for p in inside}
    files |= {p.relative_to(root).as_posix(): p for p in (root / 'workflows').glob('*.py')}
    return {name: files[name].read_text(encoding='utf-8') for name in sorted(files)}


def room_of(name):
    return name.partition('/')[0] if '/' in name else '(top of the package)'


def print_rooms(files):
    lines, modules = Counter(), Counter()
    for name, text in files.items():
        lines[room_of(name)] += len(text.splitlines())
        modules[room_of(name)] += not name.endswith('__init__.py')
    print('\n| room | modules | lines |\n|---|---:|---:|')
    for room, n in lines.most_common():
        print(f'| {room} | {modules[room]} | {n} |')
    loose = [n for n in files if '/' not in n and n not in ('__init__.py', '__main__.py')]
    print(f'\n{len(loose)} loose modules at the top of the package: {", ".join(loose)}')


def print_largest(files, trees):
    sizes = Counter({name: len(text.splitlines()) for name, text in files.items()})
    functions = Counter()
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                functions[f'{node.name} in {name}'] = node.end_lineno - node.lineno + 1
    builders = Counter({name: n for name, n in functions.items() if name.startswith('init_')})
    for title, found in (('modules', sizes), ('functions', functions), ('builders of graphs', builders)):
        listed = ', '.join(f'{name} ({n})' for name, n in found.most_common(8))
        print(f'\nLargest {title} (lines): {listed}')


def count_options(trees):
    """Annotated fields of the dataclass Options."""
    for tree in trees.values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == 'Options':
                return sum(isinstance(field, ast.AnnAssign) for field in node.body)
    return 0


def words_of(tree):
    """What a file names: identifiers, attributes, keywords, arguments, and the words of its strings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words.update(re.findall(r'\w+', node.value), re.findall(r'--[\w-]+', node.value))
        for field in ('id', 'attr', 'arg', 'name', 'asname', 'module'):
            value = getattr(node, field, None)
            if isinstance(value, str):
                words.update(value.split('.'))
    return words


def print_named(words, *, list_files):
    print('\n| kind | thing | files that name it | of these, outside ' + ', '.join(NUMERICS) + ' |')
    print('|---|---|---:|---:|')
    listed = []
    for kind, things in KINDS.items():
        for thing, names in things.items():
            found = [file for file in words if words[file] & set(names)]
            outside = [file for file in found if room_of(file) not in NUMERICS]
            print(f'| {kind} | {thing} | {len(found)} | {len(outside)} |')
            listed.append(f'{thing}: {", ".join(found)}')
    if list_files:
        print('', *listed, sep='\n')


if __name__ == '__main__':
    main()
