"""BOLD runs of a participant: those that fMRIPrep prepared, and raw ones, with all that goes with each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.entities import OF_SERIES, entities_of, in_order, join_entities
from bids_qsm.errors import UserError
from bids_qsm.layout import checks
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.layout.index import EXTENSIONS, Index

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.ancillary import Anatomy
    from bids_qsm.layout.series import Series

NATIVE = ('boldref', 'scanner')
"""What fMRIPrep calls the space of a run itself: from 23.1 on, and before."""
FEWEST_FRAMES = 20
"""Frames that statistics of a run need."""


def find_runs(
    subject: str, anatomy: 'Anatomy', options: 'Options', index: Index
) -> tuple[list[BoldRun], list[str]]:
    """BOLD runs of a participant, in the order of their names, and what to say of those left out.

    Of a run that fMRIPrep wrote in several spaces one is used: its own, that of the T1w image, or that of a
    template to which there is a transform, in this order. A raw run counts where fMRIPrep has none of it.
    """
    found: dict[str, BoldRun] = {}
    notes: list[str] = []
    for name, root in options.derivatives:
        if root.is_relative_to(options.output_dir):
            continue
        files = index.files(root).of(subject, datatype='func', suffix='bold', extension=[*EXTENSIONS])
        prepared: dict[str, list[Path]] = {}
        for path in files:
            if entities_of(path).get('desc') == 'preproc' and 'echo' not in entities_of(path):
                prepared.setdefault(join_entities(_own(path)), []).append(path)
        if prepared and not _shares_anatomy(subject, root, anatomy, index):
            used = anatomy.image.name if anatomy.image else 'that of the series'
            notes.append(
                f'The BOLD runs of the derivatives {name} are left out: they are aligned to its own '
                f'T1w image, but the anatomical image in use is {used}; '
                f'give {name} first by -d.'
            )
            continue
        for run, paths in prepared.items():
            if run in found:
                notes.append(f'{run} is in more than one of the derivatives; that of {name} is not used.')
                continue
            chosen = _choose(paths, anatomy)
            if chosen is None:
                spaces = ', '.join(sorted(entities_of(path).get('space', 'its own') for path in paths))
                notes.append(
                    f'{run} of the derivatives {name} is left out: there is no transform between the T1w '
                    f'image and its space ({spaces}); run fMRIPrep with --output-spaces func or T1w.'
                )
                continue
            found[run] = _prepared(chosen, root, name, anatomy, options, index)
            if not found[run].has_fieldmap:
                notes.append(
                    f'{run}: fMRIPrep used no field map, so that veins are out of place where the run is '
                    'distorted, as above the sinuses and ears.'
                )
    for path in _raw(subject, options, index):
        run = join_entities(_own(path))
        if run not in found and anatomy.image is not None:
            found[run] = _raw_run(path, index)
            notes.append(
                f'{path.name} was not prepared by fMRIPrep: it is aligned here, rigidly and without a '
                'correction of its distortion, and only maps of its veins are made, no regressors.'
            )
    return [found[run] for run in sorted(found)], notes


def runs_of_series(runs: Sequence[BoldRun], one: 'Series', series: Sequence['Series']) -> list[BoldRun]:
    """Runs whose veins those of a series are: each run goes to one series, the first of its session.

    Runs of a session without a series go to the first of all: veins stay where they are.
    """
    first = {}
    for other in series:
        first.setdefault(other.session, other)
    return [run for run in runs if first.get(run.session, series[0]) is one]


def _own(path: Path) -> tuple[tuple[str, str], ...]:
    """Entities of a run, without those of how it was processed."""
    return in_order({key: value for key, value in entities_of(path).items() if key in OF_SERIES})


def _shares_anatomy(subject: str, root: Path, anatomy: 'Anatomy', index: Index) -> bool:
    """Whether the T1w image of a dataset is that in use, or lies in its place."""
    if anatomy.image is None:
        return False
    images = index.files(root).of(subject, datatype='anat', suffix='T1w', extension=[*EXTENSIONS])
    own = [path for path in images if 'space' not in entities_of(path)]
    return not own or any(path in anatomy.images or checks.lies_on(path, anatomy.image) for path in own)


def _choose(paths: list[Path], anatomy: 'Anatomy') -> Path | None:
    """Of a run in several spaces the one to use."""
    known = [space for space, _, _ in anatomy.template_xfm]

    def rank(path: Path):
        space = entities_of(path).get('space')
        if space is None:
            return 0 if _native_xfm(path) else None
        if space == 'T1w':
            return 1
        return 2 + known.index(space) if space in known and 'res' not in entities_of(path) else None

    ranked = [(rank(path), path) for path in paths]
    usable = sorted((number, path) for number, path in ranked if number is not None)
    return usable[0][1] if usable else None


def _native_xfm(path: Path) -> Path | None:
    """Transform of fMRIPrep that resamples the reference of a run onto the T1w image."""
    run = join_entities(_own(path))
    for space in NATIVE:
        for desc in ('_desc-coreg', ''):
            found = path.with_name(f'{run}_from-{space}_to-T1w_mode-image{desc}_xfm.txt')
            if found.is_file():
                return found
    return None


def _prepared(
    path: Path, root: Path, name: str, anatomy: 'Anatomy', options: 'Options', index: Index
) -> BoldRun:
    """A run of fMRIPrep; UserError where a file of it cannot be used."""
    labels, folder = entities_of(path), path.parent
    run, space = join_entities(_own(path)), labels.get('space', '')
    stem = f'{run}_space-{space}' if space else run
    problem = checks.image_problem(path, has_frames=True)
    if problem:
        raise UserError(f'in the derivatives {name}, {problem}')
    frames = checks.load_header(path).shape[3]
    if frames < FEWEST_FRAMES:
        raise UserError(
            f'{path} has {frames} frames; a run of {FEWEST_FRAMES} or more is needed: remove it, or leave '
            'out --fmri.'
        )

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
        events=_events(_own(path), options),
        start_time=checks.value_of(said.get('StartTime'), float) or 0.0,
        has_fieldmap=any(to not in ('T1w', 'T2w', 'anat') for to in others),
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
    time = checks.value_of(said.get('RepetitionTime'), float)
    if time is None:
        header = checks.load_header(path).header
        units = {'sec': 1.0, 'msec': 1e-3, 'usec': 1e-6}.get(header.get_xyzt_units()[1], 0.0)
        time = float(header.get_zooms()[3]) * units
    if not 0.1 <= time <= 20:
        raise UserError(f'{path} has no RepetitionTime between 0.1 and 20 s in its sidecar; add it.')
    return time


def _events(entities: tuple[tuple[str, str], ...], options: 'Options') -> Path | None:
    """Table of the events of a run by the inheritance principle, the nearest one."""
    own = set(entities)
    labels = dict(entities)
    folders = [options.bids_dir, options.bids_dir / f'sub-{labels["sub"]}']
    folders += [folders[-1] / f'ses-{labels["ses"]}'] if 'ses' in labels else []
    folders.append(folders[-1] / 'func')
    for folder in reversed(folders):
        fitting = [
            path
            for path in folder.glob('*_events.tsv')
            if set(entities_of(path).items()) <= own and 'task' in entities_of(path)
        ]
        if fitting:
            path = max(fitting, key=lambda path: (len(entities_of(path)), path.name))
            _require_events(path)
            return path
    return None


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
