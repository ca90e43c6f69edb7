"""What goes with a subject's series: its T1w and FLAIR images, earlier derivatives, masks and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine

from bids_qsm.anatomy.no_head import why_no_head
from bids_qsm.entities import ENTITIES, entities_of, session_of, suffix_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.bold_runs import find_runs, notes_of_session, runs_of_series
from bids_qsm.layout.index import EXTENSIONS, Index
from bids_qsm.layout.inputs import (
    check_sessions,
    choose_flair,
    chosen,
    drawn_images,
    find_inputs,
    plan_applications,
    without_too_few,
)
from bids_qsm.layout.magnitude import coarse_magnitude
from bids_qsm.layout.protocol import lies_on_series
from bids_qsm.layout.query_files import is_input
from bids_qsm.layout.segmentations import OVERLAP, find_segmentations, overlap, place_segmentations
from bids_qsm.layout.series import Rejected, Series

if TYPE_CHECKING:
    from bids_qsm.app.methods import Method
    from bids_qsm.app.options import Options


@dataclass(frozen=True)
class Anatomy:
    t1w: Path | None
    t1w_preproc: Path | None
    brain_mask: Path | None
    template_xfm: tuple[tuple[str, Path, Path], ...]
    notes: tuple[str, ...]

    @property
    def image(self):
        return self.t1w_preproc or self.t1w

    @property
    def images(self):
        """Anatomical images in one scanner space, the one in use first."""
        own = self.t1w_preproc is None or session_of(self.t1w_preproc) in (None, session_of(self.t1w))
        return tuple(filter(None, (self.t1w_preproc, self.t1w if own else None)))

    @property
    def session(self):
        return session_of(self.t1w_preproc) or session_of(self.t1w)


def find_ancillary(
    series: Sequence[Series],
    t1w: list[Path],
    flair: list[Path],
    people: pd.DataFrame | None,
    options: 'Options',
    index: Index,
):
    """For each of ``series`` (all of one subject) what to set in it; UserError where a file is unusable.

    For a series whose maps are not where the T1w image is, that is a Rejected. ``people`` is the content of
    participants.tsv, where an application asks for it.
    """
    subject = series[0].subject
    labelled = find_segmentations(subject, options, index)
    used = {found.source for found in labelled}
    maps = [one.path for found in series for one in found.given]
    used |= {name for name, root in options.derivatives if any(path.is_relative_to(root) for path in maps)}
    anatomy = _find_anatomy(series, t1w, options.derivatives, index, used)
    scanned = _scanned(subject, index)
    elsewhere = {one.name: _why_elsewhere(one, anatomy, scanned['T1w']) for one in series}
    yield from ((one, Rejected(one.name, elsewhere[one.name], True)) for one in series if elsewhere[one.name])
    series = [one for one in series if not elsewhere[one.name]]
    if not series:
        return
    runs, of_runs, lost_runs = [], [], []
    if not options.no_registration and any(app.of_runs for app in chosen(options)):
        runs, of_runs, lost_runs = find_runs(subject, anatomy, options, index)
    found = find_inputs(subject, options, index)
    drawn = drawn_images(found)
    many = sum(not root.is_relative_to(options.output_dir) for _, root in options.derivatives) > 1
    no_heads = {one.name: _why_no_head(one, anatomy, options) for one in series}
    with_regions = [one for one in series if not (options.no_registration or no_heads[one.name])]
    planned, flairs = [], {}
    for one in with_regions:
        flairs[one.name] = choose_flair(one, flair, drawn, anatomy)
        own, is_first = runs_of_series(runs, one, with_regions), one is with_regions[0]
        uses, said = plan_applications(
            one, found, anatomy, flairs[one.name], series, scanned, people, own, options, index
        )
        planned.append((one, uses, [*said, *(of_runs if is_first else []), *notes_of_session(own, one)]))
    planned = without_too_few(planned)
    if refused := check_sessions(planned):
        yield from (
            (one, Rejected(one.name, refused[one.name], True)) for one in series if one.name in refused
        )
        series = [one for one in series if one.name not in refused]
        planned = without_too_few([found for found in planned if found[0].name not in refused])
    plans = {one.name: (uses, said) for one, uses, said in planned}
    for one in series:
        if one not in with_regions:
            reason = no_heads[one.name]
            yield (
                one,
                {
                    'mask': _find_mask(one, options.mask),
                    'has_regions': False,
                    'is_head': reason is None,
                    **_said_of_maps_alone(one, reason, options),
                },
            )
            continue
        uses, said = plans[one.name]
        segmentations, notes = place_segmentations(
            one, labelled, anatomy, series, scanned['T1w'], options.atlas, by_source=many
        )
        yield (
            one,
            {
                't1w': anatomy.t1w,
                't1w_preproc': anatomy.t1w_preproc,
                'anat_shape': checks.load_header(anatomy.image).shape[:3] if anatomy.image else None,
                'brain_mask': anatomy.brain_mask,
                'template_xfm': anatomy.template_xfm,
                'mask': _find_mask(one, options.mask),
                'flair': flairs[one.name],
                'applications': uses,
                'segmentations': segmentations,
                'warnings': (*one.warnings, *(lost_runs if one is with_regions[0] else [])),
                'notes': (*one.notes, *anatomy.notes, *said, *notes),
            },
        )


def _why_elsewhere(one: Series, anatomy: Anatomy, sessions: set[str]) -> str | None:
    """Why maps in the space of a T1w image (by their names) are not in that of the one in use."""
    if not one.in_t1w:
        return None
    path, image, session = one.given[0].path, anatomy.image, anatomy.session
    if image is None:
        return f'{path.name} is in the space of a T1w image, and there is none to use; add it.'
    # a T1w image without session is that of all sessions that have none of their own
    is_own = one.session == session or (session is None and one.session not in sessions)
    of_all = anatomy.t1w_preproc is not None and session_of(anatomy.t1w_preproc) is None
    is_own |= one.session is None and (of_all or len(sessions) < 2)
    if is_own and overlap(path, image) >= OVERLAP:
        return None
    which = f'is of session {one.session}' if one.session else 'names no session, of several with a T1w image'
    why = 'does not lie in it' if is_own else which
    return (
        f'{path.name} is named space-T1w, but {image.name} is the T1w image in use, and the map {why}; '
        'choose its T1w image by a BIDS filter file, or give the map in the space of the scanner.'
    )


def _why_no_head(one: Series, anatomy: Anatomy, options: 'Options') -> str | None:
    """Why a series shows no head; None where it may show one, and where a brain or its maps are given."""
    # without registration a mask of the user may be of anything
    of_brain = options.mask.name == 'file' and not options.no_registration
    if anatomy.image or anatomy.brain_mask or one.given or of_brain:
        return None
    return why_no_head(*coarse_magnitude(one))


def _said_of_maps_alone(one: Series, reason: str | None, options: 'Options') -> dict[str, tuple[str, ...]]:
    """Notes and warnings of a series that is not laid onto a template, as it is no head for a ``reason``."""
    said = f'{one.files[0].name} shows no head: {reason}.'
    if options.no_registration:
        asked = 'No template, no regions: --no-registration was asked for.'
        return {'notes': (*one.notes, asked, *([said] if reason else [])), 'warnings': ()}
    action = (
        'Regions and template space are left out, maps are made. If it is a head, give its T1w image, or a '
        'mask of its brain by --mask FILE.'
    )
    return {'notes': one.notes, 'warnings': (f'{said} {action}',)}


def _scanned(subject: str, index: Index):
    """Sessions that hold a T1w or FLAIR image, by suffix, whether or not they are asked for."""
    images = index.files(index.root).of(subject, datatype='anat', extension=[*EXTENSIONS])
    return {
        suffix: {session_of(path) for path in images if suffix_of(path) == suffix} - {None}
        for suffix in ('T1w', 'FLAIR')
    }


def _find_mask(one: Series, choice: 'Method'):
    """The file that ``--mask`` names for a series, its words in braces filled in; None for other masks."""
    if choice.name != 'file':
        return None
    pattern = choice.as_dict['path']
    words = {'series': one.name, **{ENTITIES.get(k, k): v for k, v in one.entities}}
    try:
        path = Path(pattern.format_map(words))
    except (KeyError, ValueError, IndexError):
        raise UserError(
            f'--mask {pattern}: {one.name} has no entity of that name; known words are: '
            f'{", ".join(f"{{{word}}}" for word in words)}.'
        ) from None
    if not path.is_file():
        raise UserError(f'the mask {path} of {one.name} is not there; add it, or choose another with --mask.')
    problem = checks.image_problem(path) or _mask_problem(path, one)
    if problem:
        raise UserError(f'the mask {problem}')
    return path


def _mask_problem(path: Path, one: Series):
    """Why a file is no mask of a series, on whose grid it need not lie."""
    inside = np.argwhere(np.asanyarray(checks.load_header(path).dataobj) > 0.5)
    if not len(inside):
        return f'{path.name} is empty: no voxel is above 0.5; draw it again, or choose another with --mask.'
    image = checks.load_header(one.files[0])
    points = apply_affine(checks.load_header(path).affine, inside)
    at = apply_affine(np.linalg.inv(image.affine), points)
    if not ((at > -0.5) & (at < np.array(image.shape) - 0.5)).all(1).any():
        return (
            f'{path.name} lies outside of {one.files[0].name}; mend its affine, '
            'or choose another with --mask.'
        )
    return None


def _find_anatomy(
    series: Sequence[Series],
    images: list[Path],
    derivatives: Sequence[tuple[str, Path]],
    index: Index,
    with_labels: set[str],
):
    """One anatomy for all series of a subject, whichever of them are run: of the first session and run."""
    notes = []

    def rank(path: Path):
        labels = entities_of(path)
        # contrast agent changes what tissue looks like
        return 'ce' in labels, labels.get('ses', ''), labels.get('run', '').zfill(4), path.name

    problems = {path: checks.image_problem(path) for path in sorted(images, key=rank)}
    notes += [f'A T1w image is not used: {problem}' for problem in problems.values() if problem]
    t1w = next((path for path, problem in problems.items() if not problem), None)
    if t1w and len(images) > 1:
        notes.append(f'There are {len(images)} T1w images; {t1w.name} is used.')
    session = session_of(t1w)
    for name, root in derivatives:
        files = list(index.files(root).of(series[0].subject, datatype='anat'))
        files.sort(key=lambda p: (session_of(p) not in (session, None), rank(p)))
        mask = _first(files, suffix='mask', desc='brain', space=None)
        preproc = _first(files, suffix='T1w', desc='preproc', space=None)
        transforms = _find_transforms(files)
        if not (mask or preproc or transforms):
            if name not in with_labels and not any(is_input(p) for p in files):
                notes.append(f'The derivatives {name} hold nothing for sub-{series[0].subject}.')
            continue
        base = preproc or t1w
        if base is None and mask and lies_on_series(mask, series[0]):
            # of the magnitude that is the anatomical image, such as another tool or an earlier run made
            used = f'The brain mask {mask.name} of the derivatives {name} is used.'
            return Anatomy(None, None, mask, (), (*notes, _no_t1w(images), used))
        if base is None:
            raise UserError(
                f'the derivatives {name} hold transforms or masks of sub-{series[0].subject}, but neither '
                'they nor the dataset hold the T1w image these belong to.'
            )
        for path in filter(None, (preproc, mask)):
            problem = checks.image_problem(path) or (
                checks.grid_problem(path, base) if path is mask else None
            )
            if problem:
                raise UserError(f'in the derivatives {name}, {problem}')
        notes += [
            f'{what} of the derivatives {name} is used.'
            for what, found in (('The brain mask', mask), ('The preprocessed T1w image', preproc))
            if found
        ]
        if transforms:
            spaces = ', '.join(space for space, _, _ in transforms)
            notes.append(f'Transforms of the derivatives {name} to these spaces can be used: {spaces}.')
        return Anatomy(t1w, preproc, mask, transforms, tuple(notes))
    if t1w is None:
        notes.append(_no_t1w(images))
    return Anatomy(t1w, None, None, (), tuple(notes))


def _no_t1w(images: list[Path]) -> str:
    unread = ' to use' if images else ''
    return f'There is no T1w image{unread}; the magnitude of the series itself is the anatomical image.'


def _first(files: list[Path], *, suffix: str, **wanted: str | None):
    for path in files:
        labels = entities_of(path)
        is_kind = path.name.endswith(('.nii', '.nii.gz')) and suffix_of(path) == suffix
        if is_kind and all(labels.get(key) == value for key, value in wanted.items()):
            return path
    return None


def _find_transforms(files: list[Path]):
    """(space, T1w-to-space, space-to-T1w) of each space that has both."""
    there, back = {}, {}
    for path in files:
        labels = entities_of(path)
        if suffix_of(path) == 'xfm' and path.suffix == '.h5' and labels.get('mode') == 'image':
            if labels.get('from') == 'T1w':
                there.setdefault(labels.get('to'), path)
            elif labels.get('to') == 'T1w':
                back.setdefault(labels.get('from'), path)
    return tuple((space, there[space], back[space]) for space in sorted(there) if space in back)
