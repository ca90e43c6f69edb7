def plain(text: object) -> str:
    r"""Text of one line in which nothing acts on a terminal: what cannot be printed is escaped.

    >>> plain('a\x1b[2J\n')
    'a\\x1b[2J\\n'
    """
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(text))


class UserError(Exception):
    """Something the user can mend: one clear sentence that names the file, what is wrong and what to do."""

    def __init__(self, message: object):
        # names of files may hold anything
        super().__init__(plain(message))
