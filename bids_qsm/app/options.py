"""What a run is asked to do: frozen Options, built from the command line and a TOML file."""

import json
import shlex
import tomllib
from dataclasses import dataclass, fields
from dataclasses import field as option
from pathlib import Path

from bids_qsm.app.methods import STEPS, Method, registries
from bids_qsm.errors import UserError
from bids_qsm.execution.array_tasks import parse_task
from bids_qsm.execution.resources import available_cpus, available_memory_gb, total_memory_gb

CHOICES = {
    'level': ('participant', 'group'),
    'phase_sign': ('auto', 'positive', 'negative'),
    'slice_flip': ('auto', 'yes', 'no'),
    'bipolar': ('auto', 'yes', 'no'),
    'device': ('cpu', 'cuda'),
    'statistic': ('mean', 'median', 'mean_positive', 'mean_pv'),
    'voxelwise': ('no', 'fdr', 'permutation'),
}

OF_LEVEL = {
    'participant': (
        'array_task',
        'dry_run',
        'boilerplate_only',
        'reports_only',
        'candidates',
        'chi_template',
        'bids_database_dir',
    ),
    'group': (
        'model',
        'correlate',
        'controls',
        'relative_to',
        'statistic',
        'voxelwise',
        'smoothing_mm',
        'study_template',
    ),
}
"""Settings that mean nothing at the other level; a configuration file may hold those of both."""
WITHOUT_EFFECT = (
    *('bids_dir', 'output_dir', 'level', 'participant_label', 'array_task', 'shares', 'work_dir'),
    *('use_plugin', 'nprocs', 'omp_nthreads', 'mem_gb', 'skip_bids_validation', 'reports_only'),
    *('boilerplate_only', 'dry_run', 'stop_on_first_crash', 'verbose', 'bids_database_dir'),
)
"""Settings that say where and how to compute, and change no result of a participant."""


@dataclass(frozen=True)
class Options:
    """Everything a run depends on beside the data; paths are absolute, labels without 'sub-' and 'ses-'.

    Raises UserError where a value is not one that the option takes.
    """

    bids_dir: Path
    output_dir: Path
    level: str
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    array_task: str | None = None
    shares: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    derivatives: tuple[tuple[str, Path], ...] = ()
    work_dir: Path | None = None
    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    use_plugin: Path | None = None
    output_spaces: tuple[str, ...] = ('MNI152NLin2009aSym',)
    atlas: str = 'nuclei'
    registration: Method = option(default=Method('dipy'))
    refinement: Method = option(default=Method('hybrid'))
    mask: Method = option(default=Method('combined'))
    unwrap: Method = option(default=Method('romeo'))
    field: Method = option(default=Method('linear'))
    background: Method = option(default=Method('levelled'))
    inversion: Method = option(default=Method('tv'))
    reference: Method = option(default=Method('csf'))
    r2star: Method = option(default=Method('arlo'))
    swi: Method = option(default=Method('clearswi'))
    phase_scaling: str = 'auto'
    phase_sign: str = 'auto'
    slice_flip: str = 'auto'
    bipolar: str = 'auto'
    device: str = 'cpu'
    chi_template: Path | None = None
    candidates: bool = False
    model: str | None = None
    correlate: tuple[str, ...] = ()
    controls: str | None = None
    statistic: str = 'mean'
    relative_to: str | None = None
    voxelwise: str = 'no'
    smoothing_mm: float = 3.0
    study_template: int = 0
    reports_only: bool = False
    boilerplate_only: bool = False
    stop_on_first_crash: bool = False
    dry_run: bool = False
    verbose: int = 0

    def __post_init__(self):
        for name in _PATHS:
            if getattr(self, name) is not None:
                self._set(name, Path(getattr(self, name)).expanduser().resolve())
        for name, prefix in (('participant_label', 'sub-'), ('session_label', 'ses-')):
            self._set(name, tuple(sorted({str(v).removeprefix(prefix) for v in getattr(self, name)})))
        self._set('derivatives', tuple((n, Path(p).expanduser().resolve()) for n, p in self.derivatives))
        for name in ('correlate', 'shares'):
            self._set(name, tuple(getattr(self, name)))
        self._set('output_spaces', tuple(dict.fromkeys(self.output_spaces)))
        atlas = Path(self.atlas).expanduser()
        if atlas.suffix and atlas.is_file():  # nodes run in folders of their own
            self._set('atlas', str(atlas.absolute()))
        if self.work_dir is None:
            self._set('work_dir', self.output_dir / 'work')
        if self.nprocs is None:
            self._set('nprocs', available_cpus())
        if self.mem_gb is None:
            self._set('mem_gb', available_memory_gb())
        self._check()

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _check(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f'{flag_of(name)} is {getattr(self, name)!r}; it must be one of: {", ".join(choices)}.'
                )
        if self.phase_scaling not in ('auto', 'radians', 'degrees') and not _is_range(self.phase_scaling):
            raise UserError(
                f'--phase-scaling is {self.phase_scaling!r}; it must be auto, radians, degrees, or LOW,HIGH: '
                'the values that stand for -pi and pi.'
            )
        for f in fields(self):
            text = _toml(getattr(self, f.name))
            if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):  # no record or report could name it
                raise UserError(f'{flag_of(f.name)} is {text}, which is not UTF-8; rename it.')
        if self.array_task is not None:
            parse_task(self.array_task)
        for name in ('nprocs', 'omp_nthreads'):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f'{flag_of(name)} is {getattr(self, name)}; it must be at least 1.')
        if (self.omp_nthreads or 1) > self.nprocs:
            raise UserError(
                f'--omp-nthreads is {self.omp_nthreads}, more than --nprocs ({self.nprocs}); lower it.'
            )
        total = total_memory_gb()
        if not 0 < self.mem_gb <= total:
            raise UserError(
                f'--mem is {self.mem_gb:g} GB, but this machine has {total:.0f} GB; 8 GB is 8, 8G or 8000M.'
            )
        names = [name for name, _ in self.derivatives]
        for name in names:
            if names.count(name) > 1 or name == 'raw' or not name.isidentifier():
                raise UserError(
                    f'--derivatives {name}=PATH: name each differently, in letters, digits and _, not raw.'
                )
        if not self.output_spaces:
            raise UserError('--output-spaces names no space; name at least one, such as MNI152NLin2009aSym.')
        for pair in self.correlate:
            column, _, region = pair.rpartition(':')
            if not (column and region):
                raise UserError(
                    f'--correlate {pair}: write COLUMN:REGION, such as dystonia:GP for the column '
                    'dystonia of participants.tsv with the region GP.'
                )
        if not 0 <= self.smoothing_mm <= 30:
            raise UserError(f'--smoothing is {self.smoothing_mm:g} mm; it must be between 0 and 30.')
        if not 0 <= self.study_template <= 5:
            raise UserError(
                f'--study-template is {self.study_template}; it is a number of rounds, 0 (none) to 5.'
            )
        for name in ('use_plugin', 'chi_template'):
            if getattr(self, name) is not None and not getattr(self, name).is_file():
                what = {'use_plugin': 'a Nipype plugin file', 'chi_template': 'a NIfTI image'}[name]
                raise UserError(
                    f'{flag_of(name)} is {getattr(self, name)}, which is not a file; give {what}.'
                )

    @classmethod
    def from_settings(cls, settings: dict):
        """Options from plain values: those of a TOML file, or the strings of the command line."""
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise UserError(f'there is no setting {key!r}; known are: {", ".join(known)}.')
        for key, what in (
            ('bids_dir', 'the dataset'),
            ('output_dir', 'the output folder'),
            ('level', 'the level'),
        ):
            if key not in settings:
                raise UserError(
                    f'{what} is missing; give: bids_qsm bids_dir output_dir {{participant,group}}.'
                )
        settings = {key: _checked_type(key, value) for key, value in settings.items()}
        chosen = {step: settings[step] for step in STEPS if isinstance(settings.get(step), str)}
        if chosen:
            known_methods = registries()
            for step, text in chosen.items():
                is_file = step == 'mask' and text.endswith(('.nii', '.nii.gz'))
                settings[step] = (
                    _mask_file(text)
                    if is_file
                    else Method.parse(text, known_methods[step], step=flag_of(step))
                )
        return cls(**settings)

    @classmethod
    def from_toml(cls, text: str, *, source: str = 'config', **overrides):
        """Options from TOML ``text``, as :meth:`to_toml` writes it; ``overrides`` win over it."""
        return cls.from_settings({**read_toml(text, source=source), **overrides})

    def to_toml(self) -> str:
        """These options as TOML, enough to run again; None is left out."""
        lines = ['# The settings of this run; give this file with --config to run it again.']
        tables = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == 'derivatives':
                tables = ['', '[derivatives]', *(f'{n} = {_toml(p)}' for n, p in value)] if value else []
            elif value is not None:
                lines.append(f'{f.name} = {_toml(value)}')
        return '\n'.join([*lines, *tables]) + '\n'

    def to_command(self, *, participants: tuple[str, ...]) -> str:
        """The command that gives the results of ``participants`` (empty: all) again, from whatever place.

        BIDS_DIR and OUTPUT_DIR stand for these folders, names for other paths; what changes no result is left
        out, so that equal results say the same.
        """
        words = ['bids_qsm', 'BIDS_DIR', 'OUTPUT_DIR', self.level]
        if participants:
            words += ['--participant-label', *participants]
        others = [name for level, names in OF_LEVEL.items() if level != self.level for name in names]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in (*WITHOUT_EFFECT, *others) or value == f.default:
                continue
            flag = flag_of(f.name)
            if f.name == 'derivatives':
                words += [flag, *(f'{name}={path.name}' for name, path in value)]
            elif isinstance(value, tuple):
                words += [flag, *value]
            else:
                # joined, as a value may begin with a dash
                words.append(flag if value is True else f'{flag}={_named(value)}')
        return shlex.join(words)


_PATHS = ('bids_dir', 'output_dir', 'bids_filter_file', 'bids_database_dir', 'work_dir', 'use_plugin')
_PATHS += ('chi_template',)
_TYPES = {
    **dict.fromkeys(
        (*_PATHS, *CHOICES, 'array_task', 'atlas', 'phase_scaling', 'model', 'controls', 'relative_to'),
        ((str, Path), 'text'),
    ),
    **dict.fromkeys(STEPS, ((str, Method), 'text such as "tv:strength=0.04"')),
    **dict.fromkeys(
        ('participant_label', 'session_label', 'shares', 'output_spaces', 'correlate'),
        ((list, tuple), 'a list of texts'),
    ),
    **dict.fromkeys(
        (
            *('skip_bids_validation', 'reports_only', 'boilerplate_only', 'stop_on_first_crash', 'dry_run'),
            'candidates',
        ),
        ((bool,), 'true or false'),
    ),
    **dict.fromkeys(('nprocs', 'omp_nthreads', 'verbose', 'study_template'), ((int,), 'a whole number')),
    'mem_gb': ((int, float), 'a number (GB)'),
    'smoothing_mm': ((int, float), 'a number (mm)'),
    'derivatives': ((list, tuple, dict), 'a table of name = path'),
}


def read_toml(text: str, *, source: str) -> dict:
    """Settings of a TOML file; UserError naming ``source`` where it is no TOML or a setting is unknown."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f'{source} is not valid TOML: {error}.') from None
    unknown = [key for key in settings if key not in _TYPES]
    if unknown:
        raise UserError(f'{source} names {unknown[0]!r}; known settings are: {", ".join(_TYPES)}.')
    return settings


def _checked_type(key, value):
    kinds, name = _TYPES[key]
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if isinstance(value, list | tuple) and key != 'derivatives':
        wrong |= not all(isinstance(item, str) for item in value)
    if wrong:
        raise UserError(f'{flag_of(key)} must be {name}, not {value!r}.')
    if isinstance(value, dict):
        return tuple(value.items())
    return value


def _mask_file(text):
    """The choice of masks from files; {series} and other words in braces are filled in for each series."""
    path = Path(text.removeprefix('file:path=')).expanduser().resolve()
    return Method('file', (('path', str(path)),))


def _named(value):
    """A value as on the command line, files by their names."""
    if isinstance(value, Method) and value.name == 'file':
        value = Path(value.as_dict['path'])
    is_file = isinstance(value, Path) or (isinstance(value, str) and value.startswith('/'))
    return Path(value).name if is_file else str(value)


def _is_range(text):
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError:
        return False
    return low < high


def flag_of(name):
    """The flag of a setting on the command line."""
    short = {'mem_gb': 'mem', 'smoothing_mm': 'smoothing'}
    return '--' + short.get(name, name).replace('_', '-')


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f'[{", ".join(_toml(item) for item in value)}]'
    # a JSON string is a TOML basic string but for DEL, which TOML wants escaped
    return json.dumps(str(value), ensure_ascii=False).replace('\x7f', '\\u007f')
