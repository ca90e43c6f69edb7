"""Segmentations of a subject in earlier derivatives: BIDS label images, FreeSurfer and FastSurfer folders."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from bids_qsm.entities import OF_SERIES, entities_of, session_of, suffix_of
from bids_qsm.layout import checks
from bids_qsm.layout.index import EXTENSIONS, Index
from bids_qsm.layout.inputs import GRADIENT_ECHOES, OWN_SPACES, is_of_other, is_of_other_scan
from bids_qsm.layout.query_files import is_input
from bids_qsm.layout.series import Segmentation, Series, series_of

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.ancillary import Anatomy

FREESURFER = {
    'aseg.mgz': 'aseg',
    'aparc+aseg.mgz': 'aparcaseg',
    'aparc.DKTatlas+aseg.deep.mgz': 'aparcDKTaseg',
}
"""Files of a FreeSurfer or FastSurfer folder mri/ -> name of the segmentation."""

_DERIVED = ('aseg', 'aparcaseg', 'aparcDKTaseg')
_INPUTS = ('rawavg.mgz', 'orig/001.mgz')
OVERLAP = 0.95
"""Least `overlap` of images that are in one place."""


@dataclass(frozen=True)
class Found:
    """A label image of a subject, the derivatives (name) that it comes from, and what names its labels."""

    source: str
    name: str
    dseg: Path
    table: Path | None
    names: str
    scanned: Path | None = None
    """The image that FreeSurfer was given, where its folder holds one that can be read."""
    meant: tuple[Path, ...] = ()
    """Images of the dataset that space- may mean, whether or not they are asked for, one of each series."""

    @property
    def is_freesurfer(self):
        return self.dseg.suffix == '.mgz'


def find_segmentations(subject: str, options: 'Options', index: Index) -> list[Found]:
    """Label images of a subject in the derivatives given, those in the space of a template left out."""
    found = []
    for source, root in options.derivatives:
        if root.is_relative_to(options.output_dir):
            continue
        for path in index.files(root).of(subject, datatype='anat'):
            if not path.name.endswith(('_dseg.nii', '_dseg.nii.gz')):
                continue
            labels = entities_of(path)
            wanted = labels.get('space', 'T1w') in ('T1w', *OWN_SPACES)
            if not wanted or is_input(path):
                continue
            name = next((labels[k] for k in ('seg', 'atlas', 'desc') if k in labels), 'dseg')
            names = 'freesurfer' if labels.get('desc') in _DERIVED else 'bids'
            tables = index.inherited(path, '.tsv', root)
            table, meant = next(reversed(tables), None), _meant(path, subject, index)
            found.append(Found(source, _plain(name), path, table, names, meant=meant))
        folders = [root / f'sub-{subject}', *sorted(root.glob(f'sub-{subject}_ses-*'))]
        for folder in folders:
            if '.long.' in folder.name:  # in the space of the subject's own template
                continue
            mri = folder / 'mri'
            inputs = (mri / name for name in _INPUTS if (mri / name).is_file())
            scanned = next((path for path in inputs if checks.image_problem(path) is None), None)
            found += [
                Found(source, name, mri / file, None, 'freesurfer', scanned)
                for file, name in FREESURFER.items()
                if (mri / file).is_file()
            ]
    return found


def _meant(path: Path, subject: str, index: Index) -> tuple[Path, ...]:
    """Gradient echoes, one file of each, that labels in the space of one may be of: no entity differs."""
    labels = entities_of(path)
    if labels.get('space') not in GRADIENT_ECHOES:
        return ()
    files = index.files(index.root)
    images = {}
    for image in files.of(subject, with_ignored=True, suffix=labels['space'], extension=[*EXTENSIONS]):
        own = dict(series_of(image))
        if all(labels[k] == own.get(k) for k in OF_SERIES if k in labels):
            images.setdefault(_scan_of(image), image)
    return tuple(images.values())


def _scan_of(image: Path) -> tuple:
    return image.parent, suffix_of(image), series_of(image)


def _plain(name: str):
    return re.sub('[^0-9A-Za-z]', '', name) or 'dseg'


def place_segmentations(
    one: Series,
    labelled: list[Found],
    anatomy: 'Anatomy',
    series: Sequence[Series],
    sessions: set[str],
    atlas: str,
    *,
    by_source: bool,
):
    """Segmentations that concern a series, each with a name of its own, and notes on those left out.

    Parameters
    ----------
    one, series : Series
        The series, and all of its subject.
    labelled : list of Found
    anatomy
        The subject's anatomical image: ``image`` (path or None), its ``session``, and all ``images`` in its
        scanner space.
    sessions : set of str
        Sessions that have a T1w image.
    atlas : str
        As given by --atlas; segmentations do not take its name.
    by_source : bool
        Whether names tell the derivatives that segmentations come from. This must not depend on what one
        subject has: a name means one source in all of a cohort.
    """
    placed, notes = [], []
    taken, seen = {_atlas_name(atlas).lower()}, set()
    for found in labelled:
        on, note = _place(found, one, anatomy, series, sessions)
        if note:
            notes.append(f'The segmentation {found.dseg.name} of the derivatives {found.source} {note}')
        if on is None:
            continue
        if (found.source, found.name.lower()) in seen:
            notes.append(
                f'The derivatives {found.source} hold more than one segmentation {found.name} of '
                f'{one.name}; {found.dseg.name} is not used.'
            )
            continue
        seen.add((found.source, found.name.lower()))
        problem = _table_problem(found)
        if problem:
            notes.append(f'The segmentation {found.dseg.name} is not used: {problem}')
            continue
        longer = found.name + _plain(found.source)
        names = (*(() if by_source else (found.name,)), longer)
        names += tuple(f'{longer}{n}' for n in range(2, len(labelled) + 3))
        name = next(n for n in names if n.lower() not in taken)
        taken.add(name.lower())
        placed.append(Segmentation(name, found.dseg, found.table, on, found.names))
    return tuple(placed), tuple(notes)


def _atlas_name(atlas: str):
    if not re.search(r'\.nii(\.gz)?$', atlas):
        return atlas
    labels = entities_of(atlas)
    return _plain(labels.get('atlas') or labels.get('seg') or Path(atlas).name.partition('.')[0])


def _place(found: Found, one: Series, anatomy: 'Anatomy', series: Sequence[Series], sessions: set[str]):
    """Space that a segmentation is in ('anat', 'gre' or None), and why it is not used, if worth it."""
    path, image, session = found.dseg, anatomy.image, session_of(found.dseg)
    problem = checks.image_problem(path)
    if problem:
        return None, f'is not used: {problem}'
    if found.is_freesurfer:
        session = session_of(path.parent.parent)
        if image is None:
            return None, 'is that of a T1w image, and there is none; it is not used.'
        if session not in (None, anatomy.session):
            return None, _elsewhere(session, image)
        if found.scanned is not None and overlap(found.scanned, image) < OVERLAP:
            return None, (
                f'was made from an image elsewhere in the scanner than {image.name}; it is not used.'
            )
        return 'anat', None
    space = entities_of(path).get('space')
    own = space in OWN_SPACES and not is_of_other(path, one) and checks.same_grid(path, one.files[0])
    scan = _scan_of(one.files[0])
    if space in GRADIENT_ECHOES:
        # a protocol gives many images one grid, but the head moves between them
        others = [image for image in found.meant if _scan_of(image) != scan]
        own = own and not one.in_t1w and not any(_has_grid(image, path) for image in others)
    alike = any(checks.same_grid(path, other) for other in anatomy.images)
    if own and space is not None:
        return 'gre', None
    if alike and not is_of_other_scan(path, anatomy.session, sessions):
        return 'anat', None
    if own:
        return 'gre', None
    is_of_this = not one.in_t1w and scan in map(_scan_of, found.meant)
    if is_of_this and len(found.meant) > 1:
        names = ' or '.join(sorted(image.name for image in found.meant)[:2])
        return None, f'may be of {names} and is not used; give it the ses-, acq- or run- of its image.'
    if is_of_this and overlap(path, one.files[0]) > 0.5:
        return 'gre', None  # on a grid of its own, as of a tool that resamples to 1 mm
    if alike:
        return None, _elsewhere(session, image)
    if space == 'T1w' and image is not None:
        if session in (None, anatomy.session):
            return 'anat', None
        return None, _elsewhere(session, image)
    if is_of_other(path, one) or any(checks.same_grid(path, other.files[0]) for other in series):
        return None, None
    return None, (
        'lies neither on the grid of the series nor on that of the T1w image and is not used; if it is in '
        'the space of the T1w image, name it space-T1w.'
    )


def _has_grid(image: Path, path: Path) -> bool:
    return checks.image_problem(image) is None and checks.same_grid(image, path)


def _elsewhere(session: str | None, image: Path):
    return f'is of session {session}, but {image.name} is the T1w image in use; it is not used.'


def overlap(first: Path, second: Path) -> float:
    """Share of the smaller of two images that lies in the other, by their boxes in the scanner.

    It is 1 where one was cut out of the other, whatever the distance between their centres.
    """
    boxes = []
    for path in (first, second):
        image = checks.load_header(path)
        corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in image.shape[:3])), -1).reshape(-1, 3)
        corners = nib.affines.apply_affine(image.affine, corners)
        boxes.append((corners.min(0), corners.max(0)))
    (low, high), (other_low, other_high) = boxes
    common = np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0)
    return float(common.prod() / min((high - low).prod(), (other_high - other_low).prod()))


def _table_problem(found: Found) -> str | None:
    """Why a label table cannot be used."""
    if found.table is None:
        return None
    try:
        with found.table.open(newline='', encoding='utf-8-sig') as file:
            rows = list(csv.DictReader(file, delimiter='\t'))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return f'the label table {found.table} cannot be read ({error}); write it again.'
    lacking = [c for c in ('index', 'name') if not rows or c not in rows[0]]
    if lacking:
        return f'the label table {found.table} has no column {lacking[0]!r}; it needs index and name.'
    if not all(re.fullmatch(r'\s*\d+\s*', row['index'] or '') for row in rows):
        return f'the label table {found.table} holds an index that is not a whole number.'
    return None
