"""Files in caches on disk: written whole, copied, checked."""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_qsm.derivatives.files import atomic_write
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read


def homes(variable: str, default: str, cache: Path) -> list[Path]:
    """Folders that may hold the files of a library.

    The first is the one that the environment ``variable`` names, or ``default`` in the user's home. The
    second is ours, in ``cache``.
    """
    ours = cache / Path(default).name
    if os.environ.get(variable):
        return [Path(os.environ[variable]), ours]
    try:
        return [Path.home() / default, ours]
    except RuntimeError:  # neither HOME nor a known user
        return [ours]


def writable(homes: list[Path]) -> Path:
    """The first folder that can be written, else the last; a folder of a container image cannot."""
    for home in homes[:-1]:
        if os.access(next(p for p in (home, *home.absolute().parents) if p.exists()), os.W_OK):
            return home
    return homes[-1]


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first file that exists and is not empty; TemplateFlow keeps empty placeholders."""
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_size:
            return path
    return None


def write_once(path: Path, writer: Callable[[Path], object]) -> Path:
    """Write a file, unless it is there and whole; return its path."""
    return path if is_whole(path) else atomic_write(path, writer)


def copy_whole(source: str | Path, path: Path) -> Path:
    """Copy a file, whole or not at all; an equal file that is there keeps its date."""
    if path.is_file() and filecmp.cmp(source, path, shallow=False):
        return path
    return atomic_write(path, lambda p: shutil.copyfile(source, p))


def is_whole(path: Path) -> bool:
    """Whether a file exists and is not empty; a compressed image must also match its checksum."""
    if not path.name.endswith('.nii.gz'):
        return path.is_file() and path.stat().st_size > 0
    try:
        read(path)
    except UserError:
        return False
    return True


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or its type where that line is missing or long."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) < 100 else type(error).__name__
