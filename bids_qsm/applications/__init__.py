"""Applications: what chi is asked, one file an answer.

Each module of this folder but `contract` and `dwi` holds one `Application` called APPLICATION, and its name
is the module's. A package
of its own joins by an entry point of the group ``bids_qsm.applications``.
"""

import ast
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bids_qsm.applications.contract import Application

_NONE = ('__init__', 'contract', 'dwi')


@cache
def modules() -> dict[str, str]:
    """Name of each application -> its module; nothing is imported, as the command line reads it."""
    own = {path.stem for path in Path(__file__).parent.glob('*.py')} - {*_NONE}
    others = {entry.name: entry.module for entry in entry_points(group='bids_qsm.applications')}
    return dict(sorted({**others, **{name: f'{__name__}.{name}' for name in own}}.items()))


@cache
def about(name: str) -> str:
    """First line of the docstring of an application, which is the help of its flag."""
    spec = find_spec(modules()[name])
    source = Path(spec.origin).read_text(encoding='utf-8') if spec and spec.origin else ''
    return (ast.get_docstring(ast.parse(source)) or name).partition('\n')[0]


def application(name: str, users: tuple[str, ...] = ()) -> 'Application':
    """The Application of a name, which ``users`` use in turn; ValueError where one it uses does not fit."""
    found = import_module(modules()[name]).APPLICATION
    for other in found.uses:
        if other not in modules():
            raise ValueError(f'{name} uses {other}, and there is no such application')
        if other in (*users, name):
            raise ValueError(f'applications use each other in a circle: {", ".join((*users, name, other))}')
        found.require(application(other, (*users, name)))
    return found


def applications() -> 'list[Application]':
    """All applications, in the order of their names."""
    return [application(name) for name in modules()]
