"""Which files an application asks for: by name, by a pattern of the user, by content."""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from bids_qsm.applications import application, modules
from bids_qsm.applications.contract import Query
from bids_qsm.entities import entities_of, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read, without_frames
from bids_qsm.layout import checks
from bids_qsm.layout.index import EXTENSIONS

if TYPE_CHECKING:
    from bids_qsm.app.options import Options


def fits(query: Query, path: Path) -> bool:
    """Whether a file is one that a query asks for; case does not matter.

    >>> lesions = Query('lesions', 'lesion mask', ('mask',), datatype='', entities=(('label', 'lesion*'),))
    >>> fits(lesions, Path('sub-01_label-Lesion_mask.nii.gz'))
    True
    >>> fits(lesions, Path('sub-01_desc-brain_mask.nii.gz'))
    False
    """
    labels, suffix = entities_of(path), suffix_of(path).lower()
    folders = query.datatype
    if isinstance(folders, str):
        folders = (folders,) * len(query.suffix)
    pairs = zip(query.suffix, folders, strict=True)
    if not any(suffix == one.lower() and folder in ('', path.parent.name) for one, folder in pairs):
        return False
    stem = path.name.partition('.')[0].lower()
    if query.names and not any(fnmatch(stem, pattern.lower()) for pattern in query.names):
        return False
    return all(fnmatch(labels.get(key, '').lower(), pattern.lower()) for key, pattern in query.entities)


def is_input(path: Path) -> bool:
    """Whether a file is an extra input of any application, and so no segmentation."""
    queries = (query for name in modules() for query in application(name).extra)
    return any(fits(query, path) for query in queries if query.is_image)


def is_named(query: Query, options: 'Options') -> bool:
    """Whether the user names the files of a query by an option."""
    return bool(query.option and getattr(options, query.option))


def named_files(pattern: str, subject: str, roots: Sequence[Path]) -> dict[Path, Path]:
    """Images of a participant that a glob pattern names, absolute or relative to one of ``roots``.

    They have sub-<label> in their name or else in the nearest folder, see `below`.
    """
    found = {}
    for folder, rest in _bases(pattern, roots):
        try:
            paths = sorted(folder.glob(rest))
        except (ValueError, OSError) as error:
            raise UserError(f'the pattern {pattern!r} cannot be used ({error}); mend it.') from None
        found |= {
            path.resolve(): path
            for path in paths
            if path.name.endswith(EXTENSIONS) and label_in(path.relative_to(folder), 'sub') == subject
        }
    return found


def below(path: Path, pattern: str, roots: Sequence[Path]) -> Path:
    """Part of a path of `named_files` that tells whose it is: below its root.

    Of an absolute pattern, this begins with its first wildcard, as folders above it may have the name of
    anybody; without a wildcard it is the whole path.
    """
    folder = next(folder for folder, _ in _bases(pattern, roots) if path.is_relative_to(folder))
    return path.relative_to(folder)


def _bases(pattern: str, roots: Sequence[Path]) -> list[tuple[Path, str]]:
    """Folders to search, and the pattern within them."""
    if not pattern.startswith('/'):
        return [(root, pattern) for root in roots]
    parts = PurePath(pattern).parts
    fixed = next((n for n, part in enumerate(parts) if re.search(r'[*?[]', part)), 1)
    return [(Path(*parts[:fixed]), '/'.join(parts[fixed:]))]


def label_in(path: PurePath, key: str) -> str | None:
    """Label of an entity in a file name or, where that has none, in the nearest folder that has one.

    >>> path = PurePath('sub-01/ses-a/sub-02_ct.nii')
    >>> label_in(path, 'sub'), label_in(path, 'ses'), label_in(path, 'run')
    ('02', 'a', None)
    """
    found = (re.search(rf'(?:^|_){key}-([0-9A-Za-z+]+)', part) for part in reversed(path.parts))
    return next((one[1] for one in found if one), None)


def is_outside_bids(path: Path) -> bool:
    """Whether BIDS has no name for a file that applications read, for its sidecar, or for their folder."""
    queries = [query for name in modules() for query in application(name).extra if query.outside_bids]
    if path.is_dir():
        return any(fits(query, one) for one in path.iterdir() for query in queries)
    return any(fits(query, path) for query in queries)


def image_problem(query: Query, path: Path) -> str | None:
    """Why an image cannot be used."""
    problem = checks.image_problem(
        path, may_shear=query.sheared, of_vectors=bool(query.beside), has_frames=query.gradients
    )
    if problem or query.problem is None:
        return problem
    state = path.stat()
    return _content_problem(query, path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _content_problem(query: Query, path: Path, *state: int) -> str | None:
    """Why the content of an image cannot be used; it is read once for all series."""
    del state
    try:
        return query.problem(without_frames(read(path)[0]), path.name)
    except UserError as error:
        return str(error)
