"""Locks that keep two runs from the same participant of an output or working folder."""

import errno
import fcntl
import hashlib
import sys
from contextlib import ExitStack, contextmanager

from bids_qsm.errors import UserError

_HAS_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(paths, subjects):
    """Hold the subjects in the lock files ``paths``: two runs of one would spoil each other's files.

    The lock ends with the process, however it ends. UserError where another process holds one of them; where
    the filesystem has no locks, as on some clusters, that is said and the run goes on.
    """
    with ExitStack() as stack:
        for path in paths:
            # one file for all, as the files that a process may open are few; each subject has a byte of it
            _lock(stack.enter_context(path.open('ab')), path, sorted(subjects))
        yield


def _lock(stream, path, subjects):
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


def _place(subject):
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], 'big')
