"""The API pages: one for each room, written from the sources before the site is read.

The sources are parsed and not imported, which is quicker and needs none of the extras.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from numpydoc.docscrape_sphinx import SphinxDocString
from sphinx import addnodes
from sphinx.application import Sphinx

PACKAGE = Path(__file__).parents[2] / 'bids_qsm'
GROUND = 'ground'
"""The page of what lies loose in the package."""


def rooms() -> dict[str, list[Path]]:
    """Room -> its files."""
    found = {}
    for folder in sorted(path.parent for path in PACKAGE.glob('*/__init__.py')):
        if folder.name != 'data':
            found[folder.name] = sorted(folder.rglob('*.py'))
    found[GROUND] = sorted(PACKAGE.glob('[a-z]*.py'))
    return found


def module_of(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts).removesuffix('.__init__')


def rendered(docstring: str) -> str:
    """reStructuredText of a docstring; sections as numpydoc lays them out.

    References become a list: footnotes of several docstrings would clash on a page.
    """
    text = inspect.cleandoc(docstring)
    if re.search(r'^-{4,}$', text, re.MULTILINE):
        settings = {'use_plots': False, 'show_class_members': False, 'class_members_toctree': False}
        text = str(SphinxDocString(text, config=settings)).strip()
    text = re.sub(r'^( *)\.\. (\[\d+\]) ', r'\1*  \2 ', text, flags=re.MULTILINE)
    return re.sub(r'(\[\d+\])_', r'\1', text)


def indented(text: str, by: int) -> list[str]:
    return [' ' * by + line if line else '' for line in text.splitlines()]


def described(body: list[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """Name, value and docstring of each constant or field that has one; the string stands below it."""
    for node, after in pairwise(body):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, 'targets', [])
        is_text = isinstance(after, ast.Expr) and isinstance(getattr(after.value, 'value', None), str)
        if is_text and len(targets) == 1 and isinstance(targets[0], ast.Name):
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ''
            yield targets[0].id, kind, after.value.value


def public(name: str) -> bool:
    return not name.startswith('_')


def arguments(node: ast.FunctionDef, *, bound: bool) -> str:
    """What stands between the brackets of a signature."""
    given = node.args
    if bound and given.args:
        given.args = given.args[1:]
    shown = ast.unparse(given)
    returned = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    return f'({shown}){returned}'


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(one) in ('property', 'cached_property') for one in node.decorator_list)


def function(node: ast.FunctionDef, *, of_class: bool, by: int) -> list[str]:
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or not public(node.name):
        return []
    static = any(ast.unparse(one) == 'staticmethod' for one in node.decorator_list)
    if of_class and is_property(node):
        head = [f'.. py:property:: {node.name}']
    else:
        kind = 'method' if of_class else 'function'
        head = [f'.. py:{kind}:: {node.name}{arguments(node, bound=of_class and not static)}']
    return [*indented('\n'.join([*head, '', *indented(rendered(docstring), 3), '']), by), '']


def class_(node: ast.ClassDef) -> list[str]:
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or not public(node.name):
        return []
    lines = [f'.. py:class:: {node.name}', '', *indented(rendered(docstring), 3), '']
    for name, kind, text in described(node.body):
        if public(name):
            lines += [f'   .. py:attribute:: {name}', *([f'      :type: {kind}'] if kind else []), '']
            lines += [*indented(rendered(text), 6), '']
    for one in node.body:
        if isinstance(one, ast.FunctionDef):
            lines += function(one, of_class=True, by=3)
    return lines


def module(path: Path) -> list[str]:
    """A section for a module; nothing where it says nothing."""
    tree, name = ast.parse(path.read_text(encoding='utf-8')), module_of(path)
    lines = []
    for constant, kind, text in described(tree.body):
        if public(constant):
            lines += [f'.. py:data:: {constant}', *([f'   :type: {kind}'] if kind else []), '']
            lines += [*indented(rendered(text), 3), '']
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            lines += function(node, of_class=False, by=0)
        elif isinstance(node, ast.ClassDef):
            lines += class_(node)
    docstring = ast.get_docstring(tree, clean=False)
    if not lines and not docstring:
        return []
    title = name.removeprefix('bids_qsm.')
    about = [rendered(docstring), ''] if docstring else []
    return [title, '-' * len(title), '', f'.. py:module:: {name}', '', *about, *lines]


def page(room: str, paths: list[Path]) -> str:
    """reStructuredText of a room."""
    sections = [line for path in paths for line in module(path)]
    return '\n'.join([room, '=' * len(room), '', *sections]) + '\n'


def write(app: Sphinx):
    folder = Path(app.srcdir, 'api')
    folder.mkdir(exist_ok=True)
    for left in {path.stem for path in folder.glob('*.rst')} - rooms().keys():
        (folder / f'{left}.rst').unlink()
    for room, paths in rooms().items():
        target, text = folder / f'{room}.rst', page(room, paths)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def unlink(app: Sphinx, tree: nodes.document):
    """Take the links out of signatures, where a short name may stand for several classes."""
    del app
    for signature in list(tree.findall(addnodes.desc_signature)):
        for link in list(signature.findall(addnodes.pending_xref)):
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict:
    app.connect('doctree-read', unlink)
    app.connect('builder-inited', write)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
