"""Time and memory that a run will take, estimated from the sizes of its images."""

import math
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bids_qsm.anatomy.nuclei import REFINEMENT
from bids_qsm.anatomy.register import REGISTER
from bids_qsm.errors import plain
from bids_qsm.execution.events import read_event
from bids_qsm.execution.progress import stage_of
from bids_qsm.execution.resources import MAIN_GB, WORKER_GB
from bids_qsm.execution.run_log import CONFIG, EVENTS, merge, read_run, run_folders
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.field import FIELD
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import Need, facts
from bids_qsm.recon.relaxation import R2STAR
from bids_qsm.recon.swi import SWI
from bids_qsm.recon.unwrap import UNWRAP
from bids_qsm.workflows.applications import memories_of
from bids_qsm.workflows.base import brain_by
from bids_qsm.workflows.field import mask_of
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.viewer import VIEWED, pack_need

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.series import Series

SECONDS = {
    # fixed, of a million voxels, of each of their echoes
    'phase': (0.7, 0.3, 0.25),
    'field': (0.1, 0.0, 0.25),
    'chi': (1.1, 3.7, 0.3),
    'labels': (9.8, 2.4, 0.1),
    'report': (8.0, 2.4, 0.0),
}
"""Processor seconds of a series by stage with the default methods.

Fitted to whole runs of 0.27 to 7.6 million voxels with 2 to 5 echoes, see benchmarks/estimates.py."""
BRAIN_SECONDS = (15.0, 0.8)
"""Of a participant's brain and alignment: fixed, and of a million voxels of the anatomical image."""
REGISTER_SECONDS = {'T1w': 38.0, 'magnitude': 5.0}
"""Of the registration of either with a template, as with `COUNTED`; a magnitude gets no finer step."""
COUNTED = ('template', 'dipy')
"""Brain and registration that the times above are of, where they are not given."""
APPLICATION_SECONDS = 60
"""A coarse guess at an application of a series, for time limits; it is not in what is said of a run."""
START_SECONDS = 20
"""Of reading the dataset and starting the workers."""
BUSY = 0.6
"""Part of its CPUs that a run of several series keeps busy."""
REGISTRIES = {
    'field': {'unwrap': UNWRAP, 'field': FIELD, 'r2star': R2STAR},
    'chi': {'background': BACKGROUND, 'inversion': INVERSION, 'reference': REFERENCE, 'swi': SWI},
    'labels': {'refinement': REFINEMENT},
}
TIMED = (
    *(step for steps in REGISTRIES.values() for step in steps),
    *('mask', 'start_from', 'echo_window', 'voxel_size', 'device', 'no_registration'),
)
"""Settings that earlier runs must share for their times to count."""
WHOLE = 0.95
"""Part of its steps that must have been measured for a series to count."""
ENOUGH = 50
"""Series that tell the pace: older runs are not read then."""
MOST_LOGS = 500
"""Logs of such series, at most, that are read."""
MOST_PACE = 50
"""A series that was so many times faster or slower than estimated has a damaged log."""


@dataclass(frozen=True)
class Cost:
    """Processor time (s) of a part of a run, and the memory (GB) of its largest step."""

    seconds: float
    gb: float

    def slowed(self, pace: float) -> 'Cost':
        """The same where all takes ``pace`` times as long."""
        return replace(self, seconds=pace * self.seconds)


def of_anatomy(one: 'Series', options: 'Options') -> Cost:
    """What the anatomy of a participant costs, whose first series is ``one``; nothing without regions."""
    if not one.has_regions:
        return Cost(0.0, 0.0)
    by, given = brain_by(one, options), {space for space, *_ in one.template_xfm}
    missing = len({*options.output_spaces} - given)
    needs: list[str | Need] = [
        'register_rigid',
        'carry_mask',
        'resample_anat',
        'resample_template',
        'flicker',
    ]
    needs += ['plot_anat', 'place_atlas', 'bias']
    needs += {'given': [], 'hdbet': ['hdbet']}.get(by, ['brain_extraction'])
    needs += [facts(find_method(REGISTER, options.registration.name)).memory] if missing else []
    fixed, voxel = BRAIN_SECONDS
    brain = fixed + voxel * 1e-6 * math.prod(one.anat_shape or one.shape)
    register = REGISTER_SECONDS['T1w' if one.anat_shape else 'magnitude']
    return Cost(brain * (0.4 if by == 'given' else 1) + register * missing, _gb(needs, one))


def of_stages(one: 'Series', options: 'Options') -> dict[str, Cost]:
    """What a series costs by stage, applications left out; a stage that it does without is absent.

    The memory of applications is known, see :func:`bids_qsm.workflows.applications.memories_of`.
    """
    megavoxels = 1e-6 * math.prod(one.shape)
    needs = _needs(one, options)
    times = {}
    for stage, (fixed, voxel, echo) in SECONDS.items():
        if not needs.get(stage):
            continue
        volumes = max(1, len(one.echo_times)) * one.coils * one.frames
        times[stage] = fixed + megavoxels * (voxel + echo * volumes)
    if 'chi' in times:  # how slow a method is, is known of the whole series
        slow = facts(find_method(INVERSION, options.inversion.name)).slow
        times['chi'] += (slow - 1) * sum(times.values())
    return {stage: Cost(seconds, _gb(needs[stage], one)) for stage, seconds in times.items()}


def not_counted(series: 'Iterable[Series]', options: 'Options') -> list[str]:
    """What these series ask for whose time is not in the estimates."""
    names, brain, engine = set(), '', ''
    for one in series:
        names |= {use.name for use in one.applications if use.name != 'regions'}
        if one.has_regions:
            brain = brain or ('HD-BET' if brain_by(one, options) == 'hdbet' else '')
            is_mapped = {*options.output_spaces} <= {space for space, *_ in one.template_xfm}
            if options.registration.name not in COUNTED and not is_mapped:
                engine = f'registration by {options.registration.name} (counted as by {COUNTED[1]})'
    if brain:
        brain += ' (counted as the brain by the template)'
    return [*filter(None, (brain, engine)), *sorted(names)]


def _needs(one: 'Series', options: 'Options') -> dict[str, list[str | Need]]:
    """What steps of each stage need, as `workflows.memory.need` takes it."""
    ports = set(one.given_ports)
    methods: dict[str, list[str | Need]] = {
        stage: [facts(find_method(own, getattr(options, step).name)).memory for step, own in steps.items()]
        for stage, steps in REGISTRIES.items()
        if stage != 'labels' or options.refinement.name != 'none'
    }
    phase = ['condition coils' if one.coils > 1 else 'condition', 'offset', 'quality', 'combine']
    phase += ['average_frames'] * (one.frames > 1) + ['coarsen'] * bool(one.resampled)
    mask, is_single = mask_of(one, options)[0], len(one.echo_times) == 1
    field: list[str | Need] = ['refine', *['strict'] * (mask == 'two_pass'), *['curvature'] * is_single]
    if mask != 'file':  # a series without its file makes no mask
        field.append(facts(find_method(MASK, mask)).memory)
    labels = ['resample_gre', 'carry_mask', *['read_segmentation'] * bool(one.segmentations)]
    return {
        'phase': ['read_maps'] if ports else [*phase],
        'field': [] if ports else [*methods['field'], *field],
        'chi': [] if ports and not ports & {'field', 'local_field'} else [*methods['chi'], 'level'],
        'labels': [*methods.get('labels', []), *labels] if one.has_regions else [],
        'report': ['plot', 'plot_phase', 'compare_regions', pack_need(len(VIEWED), 1)],
    }


def _gb(needs: Iterable[str | Need], one: 'Series') -> float:
    sizes = Sizes.of(one)
    return max(need(step, sizes) for step in needs)


def of_subject(series: 'list[Series]', options: 'Options') -> tuple[Cost, float]:
    """What a participant costs, without times of applications, and its time (s) with any number of CPUs."""
    anatomy = of_anatomy(series[0], options)
    own = [of_stages(one, options).values() for one in series]
    times = [sum(cost.seconds for cost in costs) for costs in own]
    gb = max(
        [anatomy.gb, *(cost.gb for costs in own for cost in costs), *memories_of(series, options).values()]
    )
    return Cost(anatomy.seconds + sum(times), gb), anatomy.seconds + max(times)


def of_run(series: 'Iterable[Series]', options: 'Options') -> Cost:
    """Time on the wall (s), and the least memory (GB) that the program needs with its largest step."""
    by_subject: dict[str, list[Series]] = {}
    for one in series:
        by_subject.setdefault(one.subject, []).append(one)
    found = [of_subject(own, options) for own in by_subject.values()]
    seconds = sum(cost.seconds for cost, _ in found) / max(1.0, BUSY * options.nprocs)
    longest = max((least for _, least in found), default=0.0)
    gb = max((cost.gb for cost, _ in found), default=0.0)
    return Cost(START_SECONDS + max(seconds, longest), MAIN_GB + WORKER_GB + gb)


@dataclass(frozen=True)
class Pace:
    """How many ``times`` the estimate the steps of ``n_series`` series took in earlier runs on ``hosts``.

    ``note`` tells of logs that are damaged.
    """

    times: float = 1.0
    n_series: int = 0
    hosts: tuple[str, ...] = ()
    note: str = ''

    @property
    def basis(self) -> str:
        """What was counted, in words; '' where nothing was."""
        if not self.n_series:
            return ''
        where = ' and '.join(self.hosts) if len(self.hosts) <= 2 else f'{len(self.hosts)} machines'
        return (
            f'by the processor time that {self.n_series} series took in earlier runs into this folder with '
            f'these methods{f" on {where}" if where else ""}'
        )


def pace_of_log(series: 'Sequence[Series]', options: 'Options') -> Pace:
    """The pace of earlier runs into the output folder with the same methods and voxels.

    The median over series that are done and of which these runs measured all steps; the newest that suffice.
    """
    names, damage = frozenset(one.name for one in series), []
    earlier = islice(_earlier(names, options, damage), MOST_LOGS)
    runs, ratios, hosts = [], [], set()
    while len(ratios) < ENOUGH and (more := list(islice(earlier, ENOUGH))):
        runs += more
        done = merge(sorted(runs, key=lambda run: run['started']))['series']
        host_of = {run['id']: run.get('host') for run in runs}
        ended = [one for one in series if done.get(one.name, {}).get('state') == 'done']
        found = {one.name: _ratio(done[one.name], of_stages(one, options)) for one in ended}
        ratios = [ratio for ratio in found.values() if ratio is not None]
        hosts = {host_of[done[name]['run']] for name, ratio in found.items() if ratio is not None}
    note = ''
    if damage:
        logs = f'{len(damage)} {"log" if len(damage) == 1 else "logs"} of earlier runs'
        note = (
            f'{logs} in {options.output_dir / "logs"} {"is" if len(damage) == 1 else "are"} damaged; what '
            'cannot be read did not count for the times.'
        )
    named = tuple(sorted(plain(host) for host in hosts if host))
    return Pace(median(ratios), len(ratios), named, note) if ratios else Pace(note=note)


def _earlier(names: frozenset[str], options: 'Options', damage: list[str]) -> Iterator[dict]:
    """Runs of series of these ``names`` whose times are those of these options, the newest first.

    ``damage`` gets a sentence on each log that is damaged.
    """
    own = _timed(options.to_toml())
    for folder in reversed(run_folders(options.output_dir / 'logs', damage)):
        config = folder / CONFIG
        try:
            is_like = (
                config.is_file() and _plans(folder / EVENTS, names) and _timed(config.read_text()) == own
            )
        except (OSError, ValueError) as error:  # damaged, or of another program
            damage.append(f'{folder} cannot be read ({error}).')
            continue
        if is_like and (run := read_run(folder, damage=damage)):
            yield run


def _plans(events: Path, names: frozenset[str]) -> bool:
    """Whether a run is one of series of these ``names``, or does not say of which."""
    with events.open(encoding='utf-8', errors='replace') as stream:
        for line in stream:
            if '"plan"' in line:
                with suppress(ValueError):
                    kind, _, about, _ = read_event(line)
                    if kind == 'plan':
                        return not names.isdisjoint(about['series'])
    return True


def _timed(text: str) -> list:
    """The values of a configuration that the time of a series depends on."""
    settings = tomllib.loads(text)
    return [settings.get(name) for name in TIMED]


def _ratio(entry: dict, costs: dict[str, Cost]) -> float | None:
    """What the steps of a series took, by what they were estimated to; None where that is not known."""
    steps, n_steps = entry.get('steps'), entry.get('n_steps')
    if entry.get('state') != 'done' or not isinstance(steps, dict) or not isinstance(n_steps, int):
        return None
    seconds = {step: _seconds(measured) for step, measured in steps.items()}
    known = {step: took for step, took in seconds.items() if took is not None}
    # a run that continued another one's work measured only what was left
    if len(known) < WHOLE * n_steps:
        return None
    took = sum(own for step, own in known.items() if stage_of(step) in costs and not is_application(step))
    ratio = took / sum(cost.seconds for cost in costs.values())
    return ratio if 1 / MOST_PACE < ratio < MOST_PACE else None


def _seconds(measured: object) -> float | None:
    """Processor seconds of a step, those on the wall where a system does not tell; None where neither is."""
    for name in ('cpu_seconds', 'seconds'):
        value = measured.get(name) if isinstance(measured, dict) else None
        if isinstance(value, int | float) and 0 <= value < math.inf:
            return value
    return None


def is_application(step: str) -> bool:
    """Whether a step belongs to an application, whose time is not estimated; regions always are."""
    return step.startswith('applications_wf.') and not step.endswith('.regions')
