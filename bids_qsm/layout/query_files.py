"""Which files an application asks for: by name, by a pattern of the user, by content."""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
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
    """Whether a file is one that a query asks for.

    >>> lesions = Query('lesions', 'lesion mask', ('mask',), datatype='', entities=(('label', 'lesion*'),))
    >>> fits(lesions, Path('sub-01_label-Lesion_mask.nii.gz'))
    True
    >>> fits(lesions, Path('sub-01_desc-brain_mask.nii.gz'))
    False
    """
    labels = entities_of(path)
    return (
        suffix_of(path) in query.suffix
        and query.datatype in ('', path.parent.name)
        and all(fnmatch(labels.get(key, '').lower(), pattern.lower()) for key, pattern in query.entities)
    )


def is_input(path: Path) -> bool:
    """Whether a file is an extra input of any application, and so no segmentation."""
    queries = (query for name in modules() for query in application(name).extra)
    return any(fits(query, path) for query in queries if query.is_image)


def is_named(query: Query, options: 'Options') -> bool:
    """Whether the user names the files of a query by an option."""
    return bool(query.option and getattr(options, query.option))


def named_files(pattern: str, subject: str, roots: Sequence[Path]) -> dict[Path, Path]:
    """Images of a participant that a glob pattern names, absolute or relative to one of ``roots``.

    They have sub-<label> in their name or in that of a folder.
    """
    found = {}
    for root in [Path('/')] if pattern.startswith('/') else roots:
        try:
            paths = sorted(root.glob(pattern.lstrip('/')))
        except (ValueError, OSError) as error:
            raise UserError(f'the pattern {pattern!r} cannot be used ({error}); mend it.') from None
        of_subject = re.compile(rf'sub-{re.escape(subject)}(?![0-9A-Za-z+])')
        found |= {
            path.resolve(): path
            for path in paths
            if path.name.endswith(EXTENSIONS) and any(of_subject.match(part) for part in path.parts)
        }
    return found


def is_outside_bids(path: Path) -> bool:
    """Whether BIDS has no name for a file that applications read, for its sidecar, or for their folder."""
    queries = [query for name in modules() for query in application(name).extra if query.outside_bids]
    if path.is_dir():
        return any(fits(query, one) for one in path.iterdir() for query in queries)
    return any(fits(query, path) for query in queries)


def image_problem(query: Query, path: Path) -> str | None:
    """Why an image cannot be used."""
    problem = checks.image_problem(path)
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
