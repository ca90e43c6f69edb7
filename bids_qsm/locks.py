"""Locks that keep two runs from the same participant of a folder, and two imports from the same table."""

import errno
import fcntl
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bids_qsm.errors import UserError, plain

_HAS_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of filesystems without locks, as on some clusters."""


@contextmanager
def locked(paths: Iterable[Path], subjects: Iterable[str]) -> Iterator[None]:
    """Lock the subjects in the files ``paths``, so that no other run writes the same files.

    The lock ends with the process. UserError where another process has locked a subject; a filesystem without
    locks gives a warning.
    """
    subjects = sorted(subjects)
    with ExitStack() as stack:
        for path in paths:
            # one file, as a process can open only so many; each subject locks one byte of it
            stream = stack.enter_context(path.open('ab'))
            for subject in subjects:
                try:
                    lacking = _take(fcntl.lockf, stream, 1, _place(subject))
                except BlockingIOError:
                    raise UserError(
                        f'sub-{subject} is being run by another process, which holds {path}; wait for it to '
                        'end.'
                    ) from None
                if lacking:
                    _warn(path, lacking, 'runs of the same participants')
                    break
        yield


def _place(subject: str) -> int:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], 'big')


@contextmanager
def alone_at(*paths: Path) -> Iterator[None]:
    """Keep other imports from files or folders; UserError where one is at work.

    The locks, files beside them, end with the process. A filesystem without locks gives a warning.
    """
    with ExitStack() as stack:
        for path in paths:
            lock = path.resolve().with_name(f'.{path.resolve().name}.lock')
            try:
                lock.parent.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(lock.open('ab'))
            except OSError as error:
                raise UserError(
                    f'{lock} cannot be written ({error.strerror}); choose another place.'
                ) from None
            try:
                lacking = _take(fcntl.flock, stream)
            except BlockingIOError:
                raise UserError(
                    f'another import writes {path} and holds {lock}; wait for it to end.'
                ) from None
            except OSError as error:
                raise UserError(
                    f'{lock} cannot be locked ({error.strerror}); choose another place.'
                ) from None
            if lacking:
                _warn(lock, lacking, 'imports')
        yield


def _warn(path: Path, lacking: str, what: str):
    print(
        f'bids_qsm: the filesystem of {plain(path.parent)} has no locks ({lacking}), so nothing keeps two '
        f'{what} apart; start only one at a time.',
        file=sys.stderr,
    )


def _take(lock: Callable[..., None], stream: object, *place: int) -> str:
    """Take a lock without waiting; why the filesystem has none, '' where it was taken.

    BlockingIOError where another process holds it.
    """
    try:
        lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, *place)
    except OSError as error:
        if lock is fcntl.lockf and error.errno == errno.EACCES:  # POSIX allows it for a lock that is held
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno not in _HAS_NONE:
            raise
        return error.strerror or 'without a reason'
    return ''
