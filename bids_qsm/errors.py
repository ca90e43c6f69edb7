from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral


def plain(text: object) -> str:
    r"""Escape characters that cannot be printed, so that a text has one line and cannot control a terminal.

    >>> plain('a\x1b[2J\n')
    'a\\x1b[2J\\n'
    """
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(text))


def size_text(sides: Iterable[float]) -> str:
    """Shape or voxel size as a text: integers in full, other numbers with four digits.

    >>> size_text((1024, 9, 7)), size_text((0.9375, 0.85938, 2.0))
    ('1024 x 9 x 7', '0.9375 x 0.8594 x 2')
    """
    return ' x '.join(str(side) if isinstance(side, Integral) else f'{side:.4g}' for side in sides)


class UserError(Exception):
    """An error that the user can fix: one sentence that names the file, the problem and what to do."""

    def __init__(self, message: object):
        # file names may contain control characters
        super().__init__(plain(message))


def nearest(word: str, known: Iterable[str]) -> str:
    """A question that names what ``word`` may be a slip of, empty where nothing is near.

    >>> nearest('statsu', ['status', 'slurm'])
    ' Did you mean status?'
    >>> nearest('x', ['status'])
    ''
    """
    found = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f' Did you mean {found[0]}?' if found else ''
