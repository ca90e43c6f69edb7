"""Files in caches on disk: written whole, copied, checked."""

import filecmp
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from bids_qsm.derivatives.files import atomic_write
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read


def homes(variable, default, cache):
    """Where the files of a library may be: its variable's folder, else its default below HOME; and ours."""
    ours = Path(cache) / Path(default).name
    if os.environ.get(variable):
        return [Path(os.environ[variable]), ours]
    try:
        return [Path.home() / default, ours]
    except RuntimeError:  # neither HOME nor a known user
        return [ours]


def writable(homes):
    """The first that can be written, which a container's own folder cannot; else the last."""
    for home in homes[:-1]:
        if os.access(next(p for p in (home, *home.absolute().parents) if p.exists()), os.W_OK):
            return home
    return homes[-1]


def first_file(folder, names):
    """First file that is there and has content (TemplateFlow keeps empty stand-ins)."""
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_size:
            return path
    return None


def write_once(path, writer):
    """Write a file under its name once it is whole; keep one that is there and whole."""
    return path if is_whole(path) else atomic_write(path, writer)


def copy_whole(source, path):
    """Copy a file, whole or not at all; one that is there and equal keeps its date."""
    if path.is_file() and filecmp.cmp(source, path, shallow=False):
        return path
    return atomic_write(path, lambda p: shutil.copyfile(source, p))


def is_whole(path):
    if not path.name.endswith('.nii.gz'):
        return path.is_file() and path.stat().st_size > 0
    try:
        read(path)
    except UserError:
        return False
    return True


@contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def reason_of(error):
    """First words of what went wrong."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) < 100 else type(error).__name__
