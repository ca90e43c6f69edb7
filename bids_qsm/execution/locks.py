"""Locks that keep two runs from the same participant of an output or working folder."""

import errno
import fcntl
import hashlib
import sys
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from bids_qsm.errors import UserError

_HAS_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(paths: Iterable[Path], subjects: Iterable[str]):
    """Lock the subjects in the files ``paths``, so that no other run writes the same files.

    The lock ends with the process. UserError where another process has locked a subject; a filesystem without
    locks, as on some clusters, gives a warning.
    """
    with ExitStack() as stack:
        for path in paths:
            # one file, as a process can open only so many; each subject locks one byte of it
            _lock(stack.enter_context(path.open('ab')), path, sorted(subjects))
        yield


def _lock(stream: BinaryIO, path: Path, subjects: Iterable[str]):
    for subject in subjects:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(subject))
        except (BlockingIOError, PermissionError):
            raise UserError(
                f'sub-{subject} is being run by another process, which holds {path}; wait for it to end.'
            ) from None
        except OSError as error:
            if error.errno not in _HAS_NONE:
                raise
            print(
                f'bids_qsm: the filesystem of {path.parent} has no locks, so nothing keeps two runs of the '
                'same participants apart; start only one at a time.',
                file=sys.stderr,
            )
            return


def _place(subject: str):
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], 'big')
