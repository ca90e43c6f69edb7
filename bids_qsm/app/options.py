"""What a run is asked to do: frozen Options, built from the command line and a TOML file."""

# ruff: noqa: RUF009
# option() is a dataclasses.field
import json
import math
import re
import shlex
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from bids_qsm.app.methods import Method, applications, expanded, registries
from bids_qsm.errors import UserError, nearest
from bids_qsm.execution.array_tasks import parse_task
from bids_qsm.execution.resources import available_cpus, available_memory_gb, total_memory_gb


@dataclass(frozen=True)
class Setting:
    """What the command line, TOML files and records need to know of an option beside its type and default."""

    help: str = ''  # without it the option has no flag
    group: str = ''  # heading in the help
    flag: str = ''  # if it is not the name of the field
    short: str = ''  # as '-d'
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None  # reads the word of the command line
    action: str | None = None  # of argparse, where the type is not enough
    level: str = ''  # the only level that uses it; a configuration file may hold options of both
    effect: bool = True  # whether the results of a participant depend on it
    unit: str = ''  # of a number, for messages
    choices: tuple[str, ...] = ()
    normal: Callable[[Any], Any] | None = None  # turns the value into the one that Options hold
    check: Callable[[Any], Any] | None = None  # raises ValueError with what the message says after the flag


def option(default: object = MISSING, help: str = '', **about: Any) -> Any:
    """A field of Options with its `Setting`; without a default it is a positional argument."""
    return field(default=default, metadata={'about': Setting(help, **about)})


_what = partial(option, group='what to run')
_how = partial(option, group='how to run it', effect=False)
_only = partial(_what, level='participant', effect=False)
_method = partial(option, group='methods and spaces')
_step = partial(_method, metavar='NAME[:param=value,...]')
_region = partial(option, group='regions and lesions', level='participant')
_cohort = partial(option, group='group level', level='group')


def _must(is_right: Callable[[Any], bool], sentence: str) -> Callable:
    """A check whose message is the flag and ``sentence``, in which {} stands for the value."""

    def check(value: object):
        if not is_right(value):
            raise ValueError(sentence.format(value))

    return check


_positive = _must(lambda n: n >= 1, 'is {}; it must be at least 1.')


def _labels(prefix: str) -> Callable:
    return lambda values: tuple(sorted({str(value).removeprefix(prefix) for value in values}))


def _named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition('=')
    return (name, path) if equals else (re.sub(r'\W', '_', Path(text).resolve().name), text)


def _check_names(derivatives: tuple[tuple[str, Path], ...]):
    names = [name for name, _ in derivatives]
    for name in names:
        if names.count(name) > 1 or name == 'raw' or not name.isidentifier():
            raise ValueError(f'{name}=PATH: name each differently, in letters, digits and _, not raw.')


def _gigabytes(text: str) -> float:
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?', text, re.IGNORECASE)
    if match is None:
        raise ArgumentTypeError(f'{text!r} is no size; write 8, 8G or 8000M')
    return float(match[1]) * {'K': 1e-6, 'M': 1e-3, 'G': 1, '': 1, 'T': 1e3}[match[2].upper()]


def _check_memory(gigabytes: float):
    total = total_memory_gb()
    if not 0 < gigabytes <= total:
        raise ValueError(f'is {gigabytes:g} GB, but this machine has {total:.0f} GB; 8 GB is 8, 8G or 8000M.')


def _atlas_path(atlas: str) -> str:
    path = Path(atlas).expanduser()
    # nodes run in folders of their own
    return str(path.absolute()) if path.suffix and path.is_file() else atlas


def _table_path(units: str) -> str:
    path = Path(units).expanduser()
    return str(path.absolute()) if path.suffix else units


def _is_scaling(text: str) -> bool:
    numbers = _numbers(text)
    return text in ('auto', 'radians', 'degrees') or (len(numbers) == 2 and numbers[0] < numbers[1])


def _are_rising(text: str) -> bool:
    numbers = _numbers(text)
    return len(numbers) == 2 and 0 <= numbers[0] < numbers[1] < math.inf


def _are_sizes(text: str) -> bool:
    sizes = _numbers(text)
    return len(sizes) in (1, 3) and all(0.1 <= size <= 20 for size in sizes)


def _numbers(text: str) -> list[float]:
    """Numbers between commas, none where a part is none."""
    try:
        return [float(part) for part in text.split(',')]
    except ValueError:
        return []


def _check_pairs(pairs: tuple[str, ...]):
    for pair in pairs:
        column, _, region = pair.rpartition(':')
        if not (column and region):
            raise ValueError(
                f'{pair}: write COLUMN:REGION, such as dystonia:GP for the column dystonia of '
                'participants.tsv with the region GP.'
            )


@dataclass(frozen=True)
class Options:
    """Everything a run depends on, except the data; paths are absolute, labels without 'sub-' and 'ses-'.

    Raises UserError where an option cannot have the value that it is given.
    """

    bids_dir: Path = option(help='root of the BIDS dataset', effect=False)
    output_dir: Path = option(help='output folder', effect=False)
    level: str = option(
        help='each participant, or all that were run', choices=('participant', 'group'), effect=False
    )
    participant_label: tuple[str, ...] = _what(
        (),
        'participants to run, with or without "sub-"',
        metavar='LABEL',
        normal=_labels('sub-'),
        effect=False,
    )
    session_label: tuple[str, ...] = _what(
        (), 'sessions to run, with or without "ses-"', metavar='LABEL', normal=_labels('ses-')
    )
    array_task: str | None = _only(
        None,
        'run share I of N of the participants (from a SLURM or SGE array 1-N, unless labels are given)',
        metavar='I/N',
        check=parse_task,
    )
    shares: tuple[str, ...] = option((), effect=False)
    bids_filter_file: Path | None = _what(
        None, 'JSON that maps "megre", "bold", "t1w" and "flair" to BIDS entities to select', metavar='FILE'
    )
    bids_database_dir: Path | None = _what(
        None,
        "folder for pybids' index of the dataset, reused by later runs (for large datasets)",
        metavar='PATH',
        level='participant',
        effect=False,
    )
    skip_bids_validation: bool = _what(False, 'do not run the BIDS validator', effect=False)
    derivatives: tuple[tuple[str, Path], ...] = _what(
        (),
        'earlier derivatives to use (fMRIPrep, sMRIPrep: brain mask and transforms; any: lesion masks)',
        short='-d',
        metavar='NAME=PATH',
        parse=_named_path,
        action='extend',
        check=_check_names,
    )
    start_from: str = _what(
        'auto',
        'map of another tool to start from, even where there is phase; without phase, auto takes the map '
        'nearest to susceptibility. Or bold: BOLD runs with phase instead of the images in anat/',
        choices=('auto', 'chi', 'local_field', 'field', 'r2star', 'bold'),
    )
    work_dir: Path | None = _how(
        None, 'working folder; a stopped run resumes from it (output_dir/work)', short='-w', metavar='PATH'
    )
    nprocs: int | None = _how(
        None, 'CPUs of the run (all of the machine, or those SLURM granted)', metavar='N', check=_positive
    )
    omp_nthreads: int | None = _how(
        None, 'CPUs of one step (found from nprocs)', metavar='N', check=_positive
    )
    mem_gb: float | None = _how(
        None,
        'memory: 8 or 8G, 8000M (90 %% of the machine, or what SLURM granted)',
        flag='mem',
        metavar='SIZE',
        unit='GB',
        parse=_gigabytes,
        check=_check_memory,
    )
    use_plugin: Path | None = _how(
        None,
        'YAML or JSON file that chooses a Nipype plugin',
        metavar='FILE',
        check=_must(Path.is_file, 'is {}, which is not a file; give a Nipype plugin file.'),
    )
    output_spaces: tuple[str, ...] = _method(
        ('MNI152NLin2009aSym',),
        'templates to bring the maps to',
        metavar='SPACE',
        normal=lambda names: tuple(dict.fromkeys(names)),
        check=_must(bool, 'names no space; name at least one, such as MNI152NLin2009aSym.'),
    )
    atlas: str = _method(
        'nuclei',
        'regions: a name, or a dseg or probseg with its TSV',
        metavar='NAME|FILE',
        normal=_atlas_path,
    )
    registration: Method = _step(Method('dipy'), 'method, see below')
    no_registration: bool = _method(
        False,
        'make maps alone, without template and regions, as of a phantom or a crop',
        level='participant',
    )
    refinement: Method = _step(Method('segment'), 'method, see below')
    mask: Method = _step(
        Method('combined'), 'method, see below, or files such as /masks/{series}_mask.nii.gz'
    )
    unwrap: Method = _step(Method('romeo'), 'method, see below')
    field: Method = _step(Method('linear'), 'method, see below')
    background: Method = _step(Method('levelled'), 'method, see below')
    inversion: Method = _step(Method('whnltv'), 'method, see below')
    reference: Method = _step(Method('csf'), 'method, see below')
    r2star: Method = _step(Method('arlo'), 'method, see below')
    swi: Method = _step(Method('clearswi'), 'method, see below')
    echo_window: str | None = _method(
        None,
        'use echoes at these times alone (ms), so that scanners agree, as 3,25',
        metavar='LOW,HIGH',
        level='participant',
        check=_must(_are_rising, 'is {!r}; it must be two rising echo times in ms, as 3,25.'),
    )
    voxel_size: str | None = _method(
        None,
        'bring the complex images to larger voxels (mm) first, so that scanners agree, as 1 or 0.8,0.8,2',
        metavar='MM|X,Y,Z',
        level='participant',
        check=_must(_are_sizes, 'is {!r}; it must be one size in mm or three, from 0.1 to 20.'),
    )
    phase_scaling: str = _method(
        'auto',
        'unit of phase, or the values of -pi and pi as in --phase-scaling=-4096,4094',
        metavar='auto|radians|degrees|LOW,HIGH',
        check=_must(
            _is_scaling,
            'is {!r}; it must be auto, radians, degrees, or LOW,HIGH: the values that stand for -pi and pi.',
        ),
    )
    phase_sign: str = _method(
        'auto', 'sign of phase in a positive field', choices=('auto', 'positive', 'negative')
    )
    slice_flip: str = _method(
        'auto', 'whether every second slice is negated (GE)', choices=('auto', 'yes', 'no')
    )
    bipolar: str = _method(
        'auto', 'whether the readout alternates in direction between echoes', choices=('auto', 'yes', 'no')
    )
    filtered_phase: str = _method(
        'stop', 'what to do with phase that was high-pass filtered, as for SWI', choices=('stop', 'accept')
    )
    device: str = _how(
        'cpu', 'device that computes background removal and inversion', choices=('cpu', 'cuda'), effect=True
    )
    applications: tuple[Method, ...] = _region(())
    ct: str | None = _region(
        None,
        'CT images (for --candidates): a pattern relative to the dataset or to a folder of -d, such as '
        '"sub-*/ct/*_ct.nii.gz"',
        metavar='PATTERN',
    )
    model: str | None = _cohort(None, 'model of each region, as "chi ~ group + age + sex"', metavar='FORMULA')
    correlate: tuple[str, ...] = _cohort(
        (),
        'columns of participants.tsv to correlate with regions, as dystonia:GP parkinsonism:SN; what --model '
        'has on its right side are covariates',
        metavar='COLUMN:REGION',
        check=_check_pairs,
    )
    controls: str | None = _cohort(
        None, 'value of the column group that names controls (found)', metavar='LABEL'
    )
    norms: str = _cohort(
        'own',
        'z-scores against own controls; iron1958: also against iron post mortem, scaled to the study',
        choices=('own', 'iron1958'),
    )
    patterns: str | None = _cohort(
        None,
        'compare z-scores with the groups of this column of participants.tsv, or with the patterns of a TSV',
        metavar='COLUMN|FILE',
        normal=_table_path,
    )
    stages: str | None = _cohort(
        None,
        'compare iron and myelin of the stages of a disease, a column of participants.tsv, with the first, '
        'whose people are healthy',
        metavar='COLUMN',
    )
    classify: str | None = _cohort(
        None,
        'tell two labels apart without and with QSM features, as "group ~ age + sex | chi_GP + chi_SN"',
        metavar='FORMULA',
    )
    units: str = _cohort(
        'participants',
        'rows of --classify: participants, a table of the participant level such as lesions, or a TSV',
        metavar='NAME|FILE',
        normal=_table_path,
    )
    statistic: str = _cohort(
        'mean',
        'column of the tables to test',
        choices=('mean', 'mean_weighted', 'median', 'mean_positive', 'mean_pv', 'core_mean', 'core_median'),
    )
    relative_to: str | None = _cohort(
        None,
        'subtract the mean of this region from susceptibility first, as CSF, Brain, "White matter"',
        metavar='REGION',
    )
    harmonise: str | None = _cohort(
        None,
        'take shift and scale of sites away (ComBat), a column of participants.tsv or sessions.tsv, such as '
        'site; what --model has on its right side is kept, or group, age and sex',
        metavar='COLUMN',
    )
    voxelwise: str = _cohort(
        'no',
        'test the model in each voxel of the template, with this threshold',
        choices=('no', 'fdr', 'permutation'),
    )
    smoothing_mm: float = _cohort(
        3.0,
        'full width at half maximum within tissue for --voxelwise',
        flag='smoothing',
        metavar='MM',
        unit='mm',
        check=_must(lambda mm: 0 <= mm <= 30, 'is {:g} mm; it must be between 0 and 30.'),
    )
    study_template: int = _cohort(
        0,
        'average the cohort to a template of its own, in N rounds (0: none)',
        metavar='N',
        check=_must(lambda n: 0 <= n <= 5, 'is {}; it is a number of rounds, 0 (none) to 5.'),
    )
    reports_only: bool = _only(False, 'only write the reports again')
    boilerplate_only: bool = _only(False, 'only print the methods text')
    stop_on_first_crash: bool = _how(False, 'stop everything when a step fails')
    dry_run: bool = _only(False, 'only print what would be run, and why other series are skipped')
    verbose: int = _how(0, 'say more; -vv also shows where errors come from', short='-v', action='count')

    def __post_init__(self):
        for f in fields(self):
            if getattr(self, f.name) is not None:
                self._set(f.name, _normal(f, getattr(self, f.name)))
        if self.work_dir is None:
            self._set('work_dir', self.output_dir / 'work')
        if self.nprocs is None:
            self._set('nprocs', available_cpus())
        if self.mem_gb is None:
            self._set('mem_gb', available_memory_gb())
        for f in fields(self):
            if getattr(self, f.name) is not None:
                _check(f, getattr(self, f.name))
        if self.level == 'participant':
            for option, name in self.plugins.items():
                _check_plugin(option, name)
        if self.no_registration and self.mask.name == 'hdbet':
            raise UserError(
                '--mask hdbet finds the brain of the anatomical image, which --no-registration does without; '
                'leave one of them out.'
            )
        if (self.omp_nthreads or 1) > self.nprocs:
            raise UserError(
                f'--omp-nthreads is {self.omp_nthreads}, more than --nprocs ({self.nprocs}); lower it.'
            )

    @property
    def plugins(self) -> dict[str, str]:
        """Option, such as 'inversion' or 'separation:method' -> plug-in that it names."""
        steps = {step: getattr(self, step) for step in STEPS}
        found = {step: method.name for step, method in steps.items() if method.is_plugin}
        of_applications = ((one.name, *pair) for one in self.applications for pair in one.plugins.items())
        return found | {f'{name}:{key}': value for name, key, value in of_applications}

    def _set(self, name: str, value: object):
        object.__setattr__(self, name, value)

    @classmethod
    def from_settings(cls, settings: dict):
        """Options from plain values: those of a TOML file, or the strings of the command line."""
        settings = _of_this_version(settings)
        for key in settings:
            if key not in SETTINGS:
                raise UserError(f'there is no setting {key!r}; known are: {", ".join(SETTINGS)}.')
        needed = {'bids_dir': 'the dataset', 'output_dir': 'the output folder', 'level': 'the level'}
        for key, what in needed.items():
            if key not in settings:
                raise UserError(
                    f'{what} is missing; give: bids_qsm bids_dir output_dir {{participant,group}}.'
                )
        for key, value in settings.items():
            _check_type(SETTINGS[key], value)
        chosen = {step: settings[step] for step in STEPS if isinstance(settings.get(step), str)}
        known = registries() if chosen else {}
        for step, text in chosen.items():
            is_file = step == 'mask' and text.endswith(('.nii', '.nii.gz'))
            settings[step] = (
                _mask_file(text) if is_file else Method.parse(text, known[step], step=flag_of(step))
            )
        if 'applications' in settings:
            settings['applications'] = tuple(
                Method.parse(str(text), applications(), step='--applications')
                for text in settings['applications']
            )
        return cls(**settings)

    @classmethod
    def from_toml(cls, text: str, *, source: str = 'config', **overrides: object):
        """Options from TOML ``text``, as :meth:`to_toml` writes it; ``overrides`` win over it."""
        return cls.from_settings({**read_toml(text, source=source), **overrides})

    def to_toml(self) -> str:
        """These options as TOML, enough to run again; None is left out."""
        lines = ['# The settings of this run; give this file with --config to run it again.']
        tables = []
        for f in fields(self):
            value = getattr(self, f.name)
            if kind_of(f) == NAMED_PATHS:
                tables += ['', f'[{f.name}]', *(f'{n} = {_toml(p)}' for n, p in value)] if value else []
            elif value is not None:
                lines.append(f'{f.name} = {_toml(value)}')
        return '\n'.join([*lines, *tables]) + '\n'

    def to_command(self, *, participants: tuple[str, ...]) -> str:
        """The command that gives the results of ``participants`` (empty: all) again, from any folder.

        BIDS_DIR and OUTPUT_DIR stand for these folders, names for other paths. Options that change no result
        are left out, so that equal results have equal commands.
        """
        words = ['bids_qsm', 'BIDS_DIR', 'OUTPUT_DIR', self.level]
        if participants:
            words += ['--participant-label', *participants]
        for f in fields(self):
            value, flag, about = getattr(self, f.name), flag_of(f.name), f.metadata['about']
            if not about.effect or about.level not in ('', self.level) or value == f.default:
                continue
            if kind_of(f) == NAMED_PATHS:
                words += [flag, *(f'{name}={path.name}' for name, path in value)]
            elif kind_of(f) == METHODS:
                words += [f'--{method.label}' for method in value]
            elif isinstance(value, tuple):
                words += [flag, *value]
            else:
                # joined, as a value may begin with a dash
                words.append(flag if value is True else f'{flag}={_named(value)}')
        return shlex.join(words)


SETTINGS: dict[str, Field] = {f.name: f for f in fields(Options)}
STEPS = tuple(name for name, f in SETTINGS.items() if f.type is Method)
"""The steps whose method the user chooses."""

TEXTS, METHODS = tuple[str, ...], tuple[Method, ...]
NAMED_PATHS = tuple[tuple[str, Path], ...]
_KINDS = {
    **dict.fromkeys((str, Path), ((str, Path), 'text')),
    Method: ((str, Method), 'text such as "tv:strength=0.04"'),
    **dict.fromkeys((TEXTS, METHODS), ((list, tuple), 'a list of texts')),
    bool: ((bool,), 'true or false'),
    int: ((int,), 'a whole number'),
    float: ((int, float), 'a number'),
    NAMED_PATHS: ((list, tuple, dict), 'a table of name = path'),
}
"""What a plain value may be for each type of option, and the name of that in messages."""


def kind_of(f: Field) -> Any:
    """Type of an option, without None."""
    return get_args(f.type)[0] if isinstance(f.type, UnionType) else f.type


def flag_of(name: str) -> str:
    """The flag of a setting on the command line."""
    return '--' + (SETTINGS[name].metadata['about'].flag or name.replace('_', '-'))


def read_toml(text: str, *, source: str) -> dict:
    """Settings of a TOML file; UserError naming ``source`` where it is not TOML or a setting is unknown."""
    try:
        settings = _of_this_version(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f'{source} is not valid TOML: {error}.') from None
    unknown = [key for key in settings if key not in SETTINGS]
    if unknown:
        raise UserError(
            f'{source} names {unknown[0]!r}; known settings are: {", ".join(SETTINGS)}.'
            f'{nearest(unknown[0], SETTINGS)}'
        )
    return settings


def _of_this_version(settings: dict) -> dict:
    """Settings, where those of an older version have candidates = true or false."""
    settings = dict(settings)
    candidates = settings.pop('candidates', False)
    if not isinstance(candidates, bool):
        raise UserError(f'candidates must be true or false, not {candidates!r}.')
    if candidates:
        settings['applications'] = [*settings.get('applications', ()), 'candidates']
    return settings


def _check_type(f: Field, value: object):
    kind = kind_of(f)
    kinds, name = _KINDS[kind]
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool)
    if kind in (TEXTS, METHODS) and not wrong:
        wrong = not all(isinstance(item, str if kind == TEXTS else str | Method) for item in value)
    if wrong:
        unit = f.metadata['about'].unit
        raise UserError(f'{flag_of(f.name)} must be {name}{unit and f" ({unit})"}, not {value!r}.')


def _normal(f: Field, value: Any) -> Any:
    """A value as Options hold it."""
    kind, normal = kind_of(f), f.metadata['about'].normal
    if kind is Path:
        return expanded(value, flag_of(f.name))
    if kind == NAMED_PATHS:
        pairs = value.items() if isinstance(value, dict) else value
        return tuple((name, expanded(path, flag_of(f.name))) for name, path in pairs)
    if kind == METHODS:
        return tuple({method.name: method for method in value}.values())
    try:
        return normal(value) if normal else tuple(value) if kind == TEXTS else value
    except RuntimeError:  # ~name is nobody here
        raise UserError(f'{flag_of(f.name)}: {value} cannot be found; give its whole path.') from None


def _check(f: Field, value: object):
    flag, about, text = flag_of(f.name), f.metadata['about'], _toml(value)
    if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):  # no record or report could name it
        raise UserError(f'{flag} is {text}, which is not UTF-8; rename it.')
    if about.choices and value not in about.choices:
        raise UserError(
            f'{flag} is {value!r}; it must be one of: {", ".join(about.choices)}.'
            f'{nearest(str(value), about.choices)}'
        )
    try:
        if about.check:
            about.check(value)
    except ValueError as error:
        raise UserError(f'{flag} {error}') from None


def _check_plugin(option: str, name: str):
    # imports the numerics, which plug-ins alone need here
    from bids_qsm.plugins.methods import check_step

    check_step(option, name)


def _mask_file(text: str) -> Method:
    """Masks from files; {series} and other words in braces are filled in for each series."""
    path = expanded(text.removeprefix('file:path='), '--mask')
    return Method('file', (('path', str(path)),))


def _named(value: object) -> str:
    """A value as on the command line, files by their names."""
    if isinstance(value, Method):
        value = Path(value.as_dict['path']) if value.name == 'file' else value.label
    is_file = isinstance(value, Path) or (isinstance(value, str) and value.startswith('/'))
    return Path(value).name if is_file else str(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f'[{", ".join(_toml(item) for item in value)}]'
    # a JSON string is a TOML basic string but for DEL, which TOML wants escaped
    return json.dumps(str(value), ensure_ascii=False).replace('\x7f', '\\u007f')
