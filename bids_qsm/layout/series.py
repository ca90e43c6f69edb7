"""One gradient-echo acquisition: its files, checked, and what their headers say."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from bids_qsm.entities import OF_SERIES, entities_of, in_order, join_entities, value_of
from bids_qsm.errors import plain
from bids_qsm.interfaces.io import grid_of
from bids_qsm.layout import checks
from bids_qsm.layout.bold_run import BoldRun
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.resolution import coarser_shape


@dataclass(frozen=True)
class Segmentation:
    """Labels of one subject, made on an image of theirs: a further atlas."""

    name: str
    """Letters and digits; differs from that of the atlas and of the series' other segmentations."""
    dseg: Path
    """NIfTI, or the .mgz of FreeSurfer."""
    table: Path | None
    """BIDS label table (TSV with index and name), None where the labels are those of ``names``."""
    on: str
    """Image whose scanner space the labels are in: 'anat' (T1w) or 'gre' (the grid of the series)."""
    names: str = 'bids'
    """What labels mean that no table names: 'freesurfer' or 'bids' (the tissue classes of BIDS)."""


@dataclass(frozen=True)
class Tables:
    """Tables of the gradients of diffusion images."""

    bval: Path
    bvec: Path
    shape: tuple[int, ...]
    """Of the images that are used: those of one shell, and those without diffusion weighting."""
    directions: int
    """Of the shell."""


@dataclass(frozen=True)
class Input:
    """A file that an application reads beside the maps."""

    query: str
    path: Path
    space: str
    """Image whose scanner space it is in: 'gre', 'anat', 'flair', 'own' (aligned by itself), 'beside' (as
    the input that it belongs to); or 'table'."""
    echo_time: float | None = None
    """Of an echo of a train (s)."""
    gradients: Tables | None = None
    """Of diffusion images."""


@dataclass(frozen=True)
class Use:
    """An application that runs for a series, with the parameters that the user set, and its files."""

    name: str
    params: tuple[tuple[str, object], ...]
    inputs: tuple[Input, ...]
    participant: tuple[tuple[str, str | float | None], ...] = ()
    """Columns and values of participants.tsv and sessions.tsv, where the application asks for them."""
    runs: tuple[BoldRun, ...] = ()
    """BOLD runs that an application of the scope 'run' runs on."""


@dataclass(frozen=True)
class GivenMap:
    """A map that another tool made, or a mask of it."""

    port: str
    """'chi', 'local_field' and 'field' (the total field), all ppm; 'r2star' (1/s); 'mask'."""
    path: Path
    factor: float = 1.0
    """What the values are multiplied by to get ppm or 1/s."""
    reference: str = ''
    """Region whose susceptibility is zero, where the sidecar of ``chi`` says it."""


@dataclass(frozen=True)
class Series:
    """One gradient-echo acquisition: files by echo time, what their headers say, and what goes with it.

    A series that starts from maps of another tool has these in ``given``. It has no phase and no echo times,
    a magnitude only where one lies on the grid of the maps, and a field strength only where it is known.
    """

    subject: str
    session: str | None
    entities: tuple[tuple[str, str], ...]
    suffix: str
    magnitude: tuple[Path, ...]
    phase: tuple[Path, ...]
    real: tuple[Path, ...]
    imag: tuple[Path, ...]
    echo_times: tuple[float, ...]
    field_strength: float | None
    manufacturer: str | None
    repetition_time: float | None
    flip_angle: float | None
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    b0_dir: tuple[float, float, float]
    frames: int = 1
    """Volumes of each file, which are averaged; several in BOLD runs."""
    coils: int = 1
    """Receive coils stored one by one; files are then sorted by echo time, each with its coils in turn."""
    resampled: tuple[float, float, float] | None = None
    """Voxel size (mm) that the complex images are brought to; None where they stay as acquired."""
    echo_window: tuple[float, float] | None = None
    """First and last time (s) of the window that the echoes were chosen by."""
    t1w: Path | None = None
    t1w_preproc: Path | None = None
    anat_shape: tuple[int, int, int] | None = None
    """Of the T1w image in use; None where there is none."""
    brain_mask: Path | None = None
    """Brain of the anatomical image, from earlier derivatives."""
    template_xfm: tuple[tuple[str, Path, Path], ...] = ()
    """(space, image-to-template, template-to-image) of transforms that earlier derivatives hold."""
    mask: Path | None = None
    """Mask of the user for this series, on its grid or another in the same scanner space."""
    flair: Path | None = None
    """FLAIR image, which goes with inputs drawn on it."""
    applications: tuple[Use, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()
    given: tuple[GivenMap, ...] = ()
    is_whole: bool = False
    """Whether the given maps are not masked to the brain."""
    in_t1w: bool = False
    """Whether the given maps are in the space of the T1w image already."""
    sidecar: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Content of the sidecars of the first echo: of the magnitude before the phase, but the unit of phase."""
    filtered: str = ''
    """What the sidecar or the folder says of high-pass filtering, '' for nothing."""
    is_head: bool = True
    """False for a crop or a phantom."""
    has_regions: bool = True
    """Whether it is laid onto a template, for labels and maps in its space."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return join_entities(self.entities)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.magnitude + self.phase + self.real + self.imag + tuple(one.path for one in self.given)

    @property
    def resampled_shape(self) -> tuple[int, ...]:
        """Shape of the maps."""
        return coarser_shape(Grid(self.shape, self.voxel_size), self.resampled or self.voxel_size)

    @property
    def given_ports(self) -> tuple[str, ...]:
        """What the given maps show; empty for a series with phase."""
        return tuple(one.port for one in self.given)

    @property
    def maps(self) -> tuple[str, ...]:
        """Of susceptibility ('chi') and R2* ('r2star'), those that the series has in the end."""
        ports = self.given_ports
        has = {
            'chi': not ports or bool({'chi', 'local_field', 'field'} & set(ports)),
            'r2star': 'r2star' in ports or len(self.echo_times) > 1,
        }
        return tuple(port for port, there in has.items() if there)

    @property
    def anat_mask(self) -> Path | None:
        """Brain of the anatomical image that was given: of the T1w or, where there is none, of the series."""
        of_series = None if self.t1w_preproc or self.t1w else self.mask
        return of_series or self.brain_mask

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Files that applications read beside the maps."""
        return tuple(one for use in self.applications for one in use.inputs)


@dataclass(frozen=True)
class Rejected:
    """A series that is not run, and why; not an error where there was nothing to run."""

    name: str
    reason: str
    is_error: bool

    def __post_init__(self):
        # names of files, and values of sidecars, may hold anything
        object.__setattr__(self, 'name', plain(self.name))
        object.__setattr__(self, 'reason', plain(self.reason))


def read_series(
    entities: tuple[tuple[str, str], ...],
    suffix: str,
    files: list[tuple[Path, dict]],
    sidecar_problem: Callable[[Path], str | None],
    echoes_chosen: bool,
) -> Series | Rejected:
    """Check the files that share ``entities``: a Series, or Rejected with the first thing that is wrong.

    ``files`` are pairs of path and metadata, ``sidecar_problem`` says why
    one of the sidecars of an image cannot be read.
    """
    name = join_entities(entities)
    roles = {path: checks.part_of(path, metadata) for path, metadata in files}
    if suffix != 'MEGRE' and not {'phase', 'imag'} & {*roles.values()}:
        # of others than MEGRE, and of images of a task, nobody expects phase
        alone = sorted(roles)
        if suffix == 'MPM' or len(alone) == 1 or 'task' in dict(entities):
            reason = f'{alone[0].name} is a magnitude without phase, so there is nothing to run.'
            return Rejected(name, reason, False)
    unnamed = [f'{key}-{value}' for key, value in entities if key not in OF_SERIES]
    if unnamed:
        reason = f'{files[0][0].name}: names of outputs have no place for {unnamed[0]}; rename it, as acq-.'
        return Rejected(name, reason, True)
    notes, parts, metadata = [], defaultdict(dict), dict(files)
    paths = sorted(metadata)
    if len({_coil_of(path) is None for path in paths}) == 2:
        notes.append('Images of single receive coils are left out, as there are also combined ones.')
        paths = [path for path in paths if _coil_of(path) is None]
    for path in paths:
        labels = entities_of(path)
        part, key = roles[path], (int(labels.get('echo', 1)), _coil_of(path) or 0)
        if key in parts[part]:
            reason = f'{path.name} and {parts[part][key].name} are the same part of echo {key[0]}.'
            return Rejected(name, reason, True)
        parts[part][key] = path

    pair = ('mag', 'phase') if parts['phase'] or not parts['imag'] else ('real', 'imag')
    if parts['phase'] and parts['imag']:
        notes.append(
            'Both magnitude/phase and real/imaginary images are there; magnitude and phase are used.'
        )
    if pair == ('mag', 'phase') and not parts['phase']:
        first = next(iter((parts['mag'] or parts['real']).values())).name
        return Rejected(name, f'{first} has no phase: no part-phase (or part-imag) file goes with it.', True)
    first, second = (dict(sorted(parts[part].items())) for part in pair)
    told = [{checks.told_part(metadata[path]) for path in side.values()} for side in (first, second)]
    if told == [{pair[1]}, {pair[0]}]:
        reason = (
            f'{next(iter(first.values())).name} and its part-{pair[1]} are each named as the other, as '
            'ImageType in their sidecars says; swap their names.'
        )
        return Rejected(name, reason, True)
    problem = _echo_problem(first, second, pair, echoes_chosen)
    if problem:
        return Rejected(name, problem, True)

    echoes = list(first)
    everything = [*first.values(), *second.values()]
    for path in everything:
        problem = sidecar_problem(path) or checks.image_problem(path, has_frames=suffix == BOLD)
        if problem:
            return Rejected(name, problem, True)
    for path in everything[1:]:
        problem = checks.grid_problem(everything[0], path)
        if problem:
            return Rejected(name, problem, True)
    for path in everything:
        time = metadata[path].get('EchoTime')
        problem = time is not None and checks.echo_time_problem([path.name], [time])
        if problem:
            return Rejected(name, problem, True)
    read = {echo: {**metadata[second[echo]], **metadata[first[echo]]} for echo in echoes}
    times = [read[echo].get('EchoTime') for echo in echoes]
    is_uncombined = dict(entities).get('rec') == _UNCOMBINED
    coils, problem = _coils(first, times, is_uncombined)
    if problem:
        return Rejected(name, problem, True)
    for echo in echoes:
        ours, theirs = (metadata[side[echo]].get('EchoTime') for side in (first, second))
        if None not in (ours, theirs) and abs(ours - theirs) > 1e-6:
            reason = (
                f'{first[echo].name} and {second[echo].name} differ in EchoTime ({ours:g} and {theirs:g} s).'
            )
            return Rejected(name, reason, True)
    head = read[echoes[0]]
    strength, problem, said = checks.field_strength(first[echoes[0]].name, head)
    if problem:
        return Rejected(name, problem, True)
    notes += filter(None, [said])

    order = sorted(range(len(echoes)), key=lambda i: round(times[i], 7))
    if coils > 1:
        notes.append(f'The images of {coils} receive coils were stored one by one; they are combined.')
    elif order != list(range(len(echoes))):
        notes.append('The files were not numbered in the order of their echo times; they are sorted.')
    image = checks.load_header(everything[0])
    notes += filter(None, [checks.orientation_note(everything[0])])
    told, odd = {}, []
    for key, kind in (('Manufacturer', str), ('RepetitionTime', float), ('FlipAngle', float)):
        told[key] = value_of(head.get(key), kind)
        if told[key] is None and head.get(key) is not None:
            odd.append(f'The {key} {str(head[key])[:60]!r} is left out: it is none.')
    notes += odd
    if head.get('MRAcquisitionType') == '2D':
        notes.append('The acquisition is 2D; phase may jump between slices.')
    frames = image.shape[3] if suffix == BOLD else 1
    if frames > 1:
        notes.append(
            f'The series is the mean of the {frames} frames of an echo-planar run. Its geometric distortion '
            'is not corrected: near air, as above the sinuses and ears, maps and regions are out of place.'
        )
    grid = grid_of(image)
    ordered = {
        part: tuple(side[echoes[i]] for i in order) for part, side in zip(pair, (first, second), strict=True)
    }
    labels = dict(entities)
    return Series(
        subject=labels['sub'],
        session=labels.get('ses'),
        entities=entities,
        suffix=suffix,
        **{port: ordered.get(part, ()) for port, part in _PORTS},
        echo_times=tuple(float(times[i]) for i in order[::coils]),
        frames=frames,
        coils=coils,
        sidecar={**head, 'Units': metadata[second[echoes[0]]].get('Units')},
        filtered=_filtering(second[echoes[0]], metadata[second[echoes[0]]]),
        field_strength=strength,
        manufacturer=told['Manufacturer'],
        repetition_time=told['RepetitionTime'],
        flip_angle=told['FlipAngle'],
        shape=grid.shape,
        voxel_size=grid.voxel_size,
        b0_dir=grid.b0_dir,
        notes=tuple(notes),
    )


BOLD = 'bold'
"""Suffix of runs of frames."""


def _filtering(path: Path, metadata: dict) -> str:
    """What says of a phase image that it is high-pass filtered, '' for nothing.

    >>> _filtering(Path('anat/sub-01_phase.nii'), {'ImageType': ['ORIGINAL', 'PRIMARY', 'P', 'SWI']})
    'ImageType SWI in the sidecar'
    >>> _filtering(Path('swi/sub-01_phase.nii'), {})
    'the folder swi/'
    """
    said = [word for word in checks.image_types(metadata) if word in _FILTERED]
    if said:
        return f'ImageType {said[0]} in the sidecar'
    return 'the folder swi/' if path.parent.name == 'swi' else ''


_FILTERED = ('SWI', 'FILTERED', 'HOMODYNE', 'HPF', 'HIGHPASS')
_UNCOMBINED = 'uncombined'
_PORTS = (('magnitude', 'mag'), ('phase', 'phase'), ('real', 'real'), ('imag', 'imag'))


def series_of(path: Path) -> tuple[tuple[str, str], ...]:
    """Entities of the series that an image belongs to; coils that are stored one by one are one series.

    >>> series_of(Path('sub-01_rec-uncombined_coil-02_echo-1_part-mag_MEGRE.nii.gz'))
    (('sub', '01'), ('rec', 'uncombined'))
    """
    entities = {k: v for k, v in entities_of(path).items() if k not in ('echo', 'part', 'coil')}
    if re.fullmatch(f'{_UNCOMBINED}[0-9]+', entities.get('rec', '')):
        entities['rec'] = _UNCOMBINED
    return in_order(entities)  # files may have them in any order


def _coil_of(path: Path) -> int | None:
    """Number of the receive coil: that of coil-<number> or rec-uncombined<number>."""
    labels = entities_of(path)
    found = re.fullmatch(f'{_UNCOMBINED}([0-9]{{1,9}})', labels.get('rec', ''))
    number = labels.get('coil', found and found[1])
    return None if number is None else int(number)


def _coils(images: dict, times: list, is_uncombined: bool) -> tuple[int, str | None]:
    """Number of receive coils stored one by one, and what is wrong with the echo times of the images.

    ``images`` are sorted, (echo, coil) -> file. Where names tell no coils, echo times that recur do.
    """
    names = [path.name for path in images.values()]
    coils = len({coil for _, coil in images})
    if coils == 1:
        fewest = 2 if is_uncombined else checks.FEWEST_COILS
        problem = checks.echo_time_problem(names, times, fewest)
        return (1 if problem else checks.coil_count(times, fewest)), problem
    for coil in range(coils):
        problem = checks.echo_time_problem(names[coil::coils], times[coil::coils])
        if problem:
            return coils, problem
    for name, time, wanted in zip(names, times, np.repeat(times[::coils], coils), strict=True):
        if abs(time - wanted) > 1e-6:
            return coils, f'{name} and other coils of its echo differ in EchoTime; correct their sidecars.'
    if len(names) == coils:
        return coils, (
            f'{names[0]} and other coils have a single echo, from which the phase of coils is not known; '
            'give images that the scanner combined.'
        )
    return coils, None


def _echo_problem(first: dict, second: dict, pair: tuple[str, str], echoes_chosen: bool) -> str | None:
    """Why the images of the two parts, (echo, coil) -> file, are not those of one whole acquisition."""
    words = {'mag': 'magnitude', 'real': 'real part', 'imag': 'imaginary part'}
    for have, lack, part in ((first, second, pair[1]), (second, first, pair[0])):
        alone = sorted(set(have) - set(lack))
        if alone:
            return (
                f'{have[alone[0]].name} has no {words.get(part, part)}: part-{part} of its echo is missing.'
            )
    numbers = sorted({echo for echo, _ in first})
    for coil in sorted({coil for _, coil in first}):
        lacking = [echo for echo in numbers if (echo, coil) not in first]
        if lacking:
            other = next(path for (_, own), path in first.items() if own == coil)
            return f'{other.name}: coil {coil} has no echo {lacking[0]}, but other coils have it.'
    gaps = [a + 1 for a, b in pairwise([0, *numbers]) if b != a + 1]
    if gaps and not echoes_chosen:
        last = first[max(first)]
        return (
            f'echo {gaps[0]} is missing before {last.name}; add it, or choose echoes by a BIDS filter file.'
        )
    return None
