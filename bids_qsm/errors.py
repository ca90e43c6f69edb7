def plain(text: object) -> str:
    r"""Escape characters that cannot be printed, so that a text has one line and cannot control a terminal.

    >>> plain('a\x1b[2J\n')
    'a\\x1b[2J\\n'
    """
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(text))


class UserError(Exception):
    """An error that the user can fix: one sentence that names the file, the problem and what to do."""

    def __init__(self, message: object):
        # file names may contain control characters
        super().__init__(plain(message))
