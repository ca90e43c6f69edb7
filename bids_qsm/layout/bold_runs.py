"""BOLD runs of a participant: those that fMRIPrep prepared, and raw ones, with all that goes with each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.entities import acquired_entities, entities_of, in_order, join_entities, session_of, value_of
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.layout.index import EXTENSIONS, Index
from bids_qsm.layout.inputs import is_of_other_scan

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.ancillary import Anatomy
    from bids_qsm.layout.series import Series

NATIVE = ('boldref', 'scanner')
"""What fMRIPrep calls the space of a run itself: from 23.1 on, and before."""
FEWEST_FRAMES = 20
"""Frames that statistics of a run need."""


@dataclass
class Found:
    """BOLD runs of a participant, and what to say of them."""

    runs: dict[str, BoldRun] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Of runs that cannot be used."""
    left_out: set[str] = field(default_factory=set)
    """Names of runs that fMRIPrep prepared and that are not used."""


def find_runs(
    subject: str, anatomy: 'Anatomy', options: 'Options', index: Index
) -> tuple[list[BoldRun], list[str], list[str]]:
    """BOLD runs of a participant, in the order of their names, what to say of them, and what to warn of.

    Of a run that fMRIPrep wrote in several spaces one is used: its own, that of the T1w image, or that of a
    template to which there is a transform, in this order. A raw run counts where fMRIPrep has none of it.
    """
    found = Found()
    for name, root in options.derivatives:
        if not root.is_relative_to(options.output_dir):
            _find_prepared(found, subject, name, root, anatomy, options, index)
    for path in _raw(subject, options, index):
        run = join_entities(_own(path))
        if run in found.runs or run in found.left_out or anatomy.image is None:
            continue
        try:
            found.runs[run] = _raw_run(path, index)
        except UserError as error:
            found.warnings.append(_unusable(run, error))
            continue
        found.notes.append(
            f'{path.name} was not prepared by fMRIPrep: it is aligned here, rigidly and without a '
            'correction of its distortion, and only maps of its veins are made, no regressors.'
        )
    return [found.runs[run] for run in sorted(found.runs)], found.notes, found.warnings


def _find_prepared(
    found: Found,
    subject: str,
    name: str,
    root: Path,
    anatomy: 'Anatomy',
    options: 'Options',
    index: Index,
):
    """Add the runs of one dataset of fMRIPrep."""
    files = index.files(root).of(subject, datatype='func', suffix='bold', extension=[*EXTENSIONS])
    prepared: dict[str, list[Path]] = {}
    for path in files:
        labels = entities_of(path)
        if labels.get('desc') == 'preproc' and 'echo' not in labels and _is_asked(path, options):
            prepared.setdefault(join_entities(_own(path)), []).append(path)
    others = [run for run in prepared if not _shares_anatomy(run, subject, root, anatomy, index)]
    if others:
        used = anatomy.image.name if anatomy.image else 'that of the series'
        more = f' and {len(others) - 1} more' if len(others) > 1 else ''
        found.notes.append(
            f'{others[0]}{more} of the derivatives {name}: left out, as it is aligned to another T1w image, '
            f'but the anatomical image in use is {used}; give {name} first by -d, or choose '
            'the T1w image of its session by --bids-filter-file.'
        )
    for run, paths in prepared.items():
        if run in found.runs:
            found.notes.append(f'{run} is in more than one of the derivatives; that of {name} is not used.')
            continue
        found.left_out.add(run)
        if run in others:
            continue
        chosen = _choose(paths, anatomy)
        if chosen is None:
            spaces = ', '.join(sorted(entities_of(path).get('space', 'its own') for path in paths))
            found.notes.append(
                f'{run} of the derivatives {name} is left out: there is no transform between the T1w '
                f'image and its space ({spaces}); run fMRIPrep with --output-spaces func or T1w.'
            )
            continue
        try:
            found.runs[run] = _prepared(chosen, root, name, anatomy, index)
        except UserError as error:
            found.warnings.append(_unusable(run, error))
            continue
        if found.runs[run].has_fieldmap is False:
            found.notes.append(
                f'{run}: fMRIPrep used no field map, so that veins are out of place where the run is '
                'distorted, as above the sinuses and ears.'
            )


def _unusable(run: str, error: UserError) -> str:
    return f'The BOLD run {run} is left out: {error}'


def _is_asked(path: Path, options: 'Options') -> bool:
    """Whether a run is of a session that is run; others keep what an earlier run wrote of them."""
    return not options.session_label or session_of(path) in options.session_label


def runs_of_series(runs: Sequence[BoldRun], one: 'Series', series: Sequence['Series']) -> list[BoldRun]:
    """Runs whose veins those of a series are: each run goes to one series, the first of its session.

    Runs of a session without a series go to the first of all: veins stay where they are.
    """
    first = {}
    for other in series:
        first.setdefault(other.session, other)
    return [run for run in runs if first.get(run.session, series[0]) is one]


def notes_of_session(runs: Sequence[BoldRun], one: 'Series') -> list[str]:
    """What to say of the runs of a series that are of another session than it is."""
    others = [run.name for run in runs if one.session is not None and run.session not in (None, one.session)]
    return [f'{run}: its session has no map of veins; those of {one.name} are used.' for run in others]


def _own(path: Path) -> tuple[tuple[str, str], ...]:
    """Entities of a run, without those of how it was processed."""
    return in_order(acquired_entities(path))


def _shares_anatomy(run: str, subject: str, root: Path, anatomy: 'Anatomy', index: Index) -> bool:
    """Whether the T1w image that a run is aligned to is that in use, or lies in its place.

    Where a dataset has T1w images of several sessions, a run is aligned to that of its own session.
    """
    if anatomy.image is None:
        return False
    images = index.files(root).of(subject, datatype='anat', suffix='T1w', extension=[*EXTENSIONS])
    every = [path for path in images if 'space' not in entities_of(path)]
    sessions = {session_of(path) for path in every}
    own = [path for path in every if session_of(path) == session_of(Path(run))] or every
    return not own or any(
        path in anatomy.images
        or (checks.lies_on(path, anatomy.image) and not is_of_other_scan(path, anatomy.session, sessions))
        for path in own
    )


def _choose(paths: list[Path], anatomy: 'Anatomy') -> Path | None:
    """Of a run in several spaces the one to use."""
    known = [space for space, _, _ in anatomy.template_xfm]

    def rank(path: Path):
        space = entities_of(path).get('space')
        if space is None:
            return 0 if _native_xfm(path) else None
        if space == 'T1w':
            return 1
        return 2 + known.index(space) if space in known else None

    ranked = [(rank(path), 'res' in entities_of(path), path) for path in paths]
    usable = sorted(one for one in ranked if one[0] is not None)
    return usable[0][-1] if usable else None


def _native_xfm(path: Path) -> Path | None:
    """Transform of fMRIPrep that resamples the reference of a run onto the T1w image."""
    run = join_entities(_own(path))
    for space in NATIVE:
        for desc in ('_desc-coreg', ''):
            found = path.with_name(f'{run}_from-{space}_to-T1w_mode-image{desc}_xfm.txt')
            if found.is_file():
                return found
    return None


def _prepared(path: Path, root: Path, name: str, anatomy: 'Anatomy', index: Index) -> BoldRun:
    """A run of fMRIPrep; UserError where a file of it cannot be used."""
    labels, folder = entities_of(path), path.parent
    run, space = join_entities(_own(path)), labels.get('space', '')
    stem = path.name.partition('_desc-')[0]
    problem = checks.image_problem(path, has_frames=True)
    if problem:
        raise UserError(f'in the derivatives {name}, {problem}')
    frames = checks.load_header(path).shape[3]
    if frames < FEWEST_FRAMES:
        raise UserError(f'{path} has {frames} frames; a run of {FEWEST_FRAMES} or more is needed.')

    def beside(*ends: str) -> Path | None:
        there = (folder / f'{end}' for end in ends)
        return next((one for one in there if one.is_file()), None)

    mask = beside(f'{stem}_desc-brain_mask.nii.gz', f'{stem}_desc-brain_mask.nii')
    names = [f'{stem}_desc-coreg_boldref', f'{stem}_boldref']
    reference = beside(*(f'{one}{end}' for one in names for end in EXTENSIONS))
    for other in filter(None, (mask, reference)):
        problem = checks.image_problem(other) or checks.grid_problem(other, path)
        if problem:
            raise UserError(f'in the derivatives {name}, {problem}')
    confounds = beside(f'{run}_desc-confounds_timeseries.tsv')
    if confounds is not None:
        _require_rows(confounds, frames, path)
    said = index.metadata(path, root)
    if space == '':
        to_anat = ((_native_xfm(path), True),)
    elif space == 'T1w':
        to_anat = ()
    else:
        there = {one: to_template for one, to_template, _ in anatomy.template_xfm}
        to_anat = ((there[space], False),)
    xfms = folder.glob(f'{run}_from-boldref_to-*_mode-image*_xfm.txt')
    others = [entities_of(one)['to'] for one in xfms]
    tissue = {label: _tissue(run, label, root, index) for label in ('GM', 'WM')}
    return BoldRun(
        entities=_own(path),
        bold=path,
        shape=checks.load_header(path).shape,
        repetition_time=_repetition_time(path, said),
        space=space,
        to_anat=to_anat,
        reference=reference,
        mask=mask,
        grey=tissue['GM'],
        white=tissue['WM'],
        confounds=confounds,
        events=_events(_own(path), index),
        start_time=value_of(said.get('StartTime'), float) or 0.0,
        # before 23.1 fMRIPrep wrote no transform to the field map, whether or not it used one
        has_fieldmap=any(to not in ('T1w', 'T2w', 'anat') for to in others) if others else None,
    )


def _tissue(run: str, label: str, root: Path, index: Index) -> Path | None:
    """Probability of a tissue in the space of the T1w image, of the session of a run where there is one."""
    labels = entities_of(run)
    files = index.files(root).of(labels['sub'], datatype='anat', suffix='probseg', extension=[*EXTENSIONS])
    own = [path for path in files if entities_of(path).get('label') == label]
    own = [path for path in own if 'space' not in entities_of(path)]
    own.sort(key=lambda path: entities_of(path).get('ses') != labels.get('ses'))
    return next(iter(own), None)


def _require_rows(confounds: Path, frames: int, bold: Path):
    """Raise UserError where a table of confounds is none of a run."""
    try:
        with confounds.open(encoding='utf-8-sig') as stream:
            rows = sum(1 for line in stream if line.strip()) - 1
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{confounds} cannot be read ({error}); run fMRIPrep again.') from None
    if rows != frames:
        raise UserError(
            f'{confounds} has {rows} rows, but {bold.name} has {frames} frames; run fMRIPrep again for it.'
        )


def _repetition_time(path: Path, said: dict) -> float:
    """Repetition time (s) by the sidecar, else by the header; UserError where neither has it."""
    time = value_of(said.get('RepetitionTime'), float)
    if time is None:
        header = checks.load_header(path).header
        units = {'sec': 1.0, 'msec': 1e-3, 'usec': 1e-6}.get(header.get_xyzt_units()[1], 0.0)
        time = float(header.get_zooms()[3]) * units
    if not 0.1 <= time <= 20:
        raise UserError(f'{path} has no RepetitionTime between 0.1 and 20 s in its sidecar; add it.')
    return time


def _events(entities: tuple[tuple[str, str], ...], index: Index) -> Path | None:
    """Table of the events of a run by the inheritance principle, the nearest one."""
    labels = dict(entities)
    folder = index.root / f'sub-{labels["sub"]}' / (f'ses-{labels["ses"]}' if 'ses' in labels else '')
    tables = index.inherited(folder / 'func' / f'{join_entities(entities)}_events.tsv', '.tsv')
    table = next((path for path in reversed(tables) if 'task' in entities_of(path)), None)
    if table is not None:
        _require_events(table)
    return table


def _require_events(path: Path):
    """Raise UserError where a table is none of events."""
    try:
        with path.open(encoding='utf-8-sig') as stream:
            columns = stream.readline().rstrip('\r\n').split('\t')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}); write it again.') from None
    lacking = [name for name in ('onset', 'duration') if name not in columns]
    if lacking:
        raise UserError(f'{path} has no column {lacking[0]!r}; add it, or remove the table.')


def _raw(subject: str, options: 'Options', index: Index) -> list[Path]:
    """Raw runs: magnitudes, of several echoes the first."""
    files = index.files(options.bids_dir).of(subject, datatype='func', suffix='bold', extension=[*EXTENSIONS])
    magnitudes = [path for path in files if entities_of(path).get('part', 'mag') == 'mag']
    magnitudes = [path for path in magnitudes if _is_asked(path, options)]
    return [path for path in magnitudes if int(entities_of(path).get('echo', 1)) == 1]


def _raw_run(path: Path, index: Index) -> BoldRun:
    problem = checks.image_problem(path, has_frames=True) or index.sidecar_problem(path)
    if problem:
        raise UserError(problem)
    return BoldRun(
        entities=_own(path),
        bold=path,
        shape=checks.load_header(path).shape,
        repetition_time=_repetition_time(path, index.metadata(path)),
        is_raw=True,
    )
