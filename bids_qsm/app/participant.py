"""From options and plan to a finished output dataset: the run, its records, the reports."""

import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from nipype.pipeline.engine import Workflow

import bids_qsm
from bids_qsm.anatomy.hdbet import require_hdbet
from bids_qsm.app.methods import Method
from bids_qsm.app.options import Options
from bids_qsm.app.pages import OF_SERIES, OF_STEP, address
from bids_qsm.app.refusals import has_to_try, without_refused
from bids_qsm.applications import applications
from bids_qsm.derivatives.files import (
    atomic_write,
    remove_partial,
    write_bidsignore,
    write_common,
    write_dataset_description,
    write_json,
)
from bids_qsm.errors import UserError
from bids_qsm.execution.array_tasks import own_share, parse_task
from bids_qsm.execution.disk_space import require_space
from bids_qsm.execution.pool import in_worker
from bids_qsm.execution.run_log import RunLog, printable, write_merged
from bids_qsm.execution.subjects import run_subjects, step_threads, subject_plans
from bids_qsm.interfaces.device import require_device
from bids_qsm.layout import Plan, find_series, participants
from bids_qsm.layout.dataset import require_dataset
from bids_qsm.layout.inputs import chosen
from bids_qsm.locks import locked
from bids_qsm.plugins.check import require_sound
from bids_qsm.plugins.methods import find_method
from bids_qsm.plugins.sandbox import Machine, require_onnx
from bids_qsm.reports.html import LEVELS, read_findings, read_run
from bids_qsm.reports.subject import build_subject_report, methods_text
from bids_qsm.templates.atlases import Atlas, get_atlas, space_needed
from bids_qsm.templates.spaces import Template, get_template, get_white_matter, require_known
from bids_qsm.workflows.base import init_bids_qsm_wf

PACKAGES = (
    'numpy',
    'scipy',
    'numba',
    'nibabel',
    'nipype',
    'pybids',
    'dipy',
    'nilearn',
    'pandas',
)
Resources = tuple[list[Template], Atlas]
LISTED = 20
"""Reports and warnings, at most, that are listed one by one."""


def make_plan(options: Options) -> Plan:
    """What to run of the dataset, or of an array task's share of it.

    UserError where the input is wrong or the disks have too little space for the outputs.
    """
    plan = find_share(options)
    if not options.reports_only:
        require_space(plan.series, options)
    return plan


def find_share(options: Options) -> Plan:
    """The series of the dataset, or of an array task's share of it; UserError where the input is wrong."""
    if not options.array_task:
        return find_series(options)
    require_dataset(options.bids_dir)
    everyone = participants(options)
    own = own_participants(options, everyone)
    task, count = parse_task(options.array_task)
    plan = find_series(options, own)
    note = f'task {task} of {count}: {len(own)} of {len(everyone)} participants.'
    return replace(plan, notes=(note, *plan.notes))


def own_participants(options: Options, everyone: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of ``everyone`` that the options name, or of an array task's share of them."""
    if not options.array_task:
        return everyone
    return own_share(options.bids_dir, everyone, options.session_label, options.array_task, options.shares)


def require_series(options: Options, plan: Plan):
    """Raise UserError where there is nothing to run."""
    if not plan.series:
        reasons = ' '.join(f'{one.name}: {one.reason}' for one in plan.rejected[:3])
        raise UserError(f'{options.bids_dir} has no series that can be run. {reasons}')


def run_participant(options: Options, plan: Plan) -> int:
    """Process every series of ``plan``; return the exit status (1 where something failed)."""
    if not options.reports_only:
        require_methods(options)
        find = partial(find_resources, options)
        if has_to_try(options, plan) and not options.use_plugin:
            # both take some seconds in a first run, which computes the atlas and compiles what reads phase
            find = in_worker(find_resources, options, n_threads=step_threads(options, plan)).result
        plan = without_refused(options, plan)
    rejected = {}
    for one in plan.rejected:
        if one.is_error:
            subject = one.name.partition('_')[0].removeprefix('sub-')
            failure = {'subject': subject, 'series': one.name, 'node': 'input', 'message': one.reason}
            rejected.setdefault(subject, []).append(failure)
    subjects = sorted({one.subject for one in plan.series} | set(rejected))
    out = options.output_dir
    damage: list[str] = []
    if options.reports_only:
        failures = [failure for subject in subjects for failure in _read_failures(out, subject)]
        for subject in subjects:
            build_subject_report(out, subject, damage)
    else:
        failures = _run(options, plan, find, subjects, rejected, damage)
    _summarise(out, subjects, failures, {one.name for one in plan.series}, damage)
    return 1 if failures else 0


def require_methods(options: Options):
    """Raise UserError where a device, program, plug-in, template or atlas asked for cannot be used here.

    A plug-in cannot that gives another than its golden output. Nothing is downloaded: whether what is in no
    cache can be had is not known.
    """
    cache = options.work_dir / 'templates'
    for name in options.output_spaces:
        require_known(name, cache)
    _require_space(space_needed(options.atlas, cache), options)
    require_device(options.device)
    if options.mask.name == 'hdbet':
        require_hdbet()
    machine = Machine(options.device, most_gb=options.mem_gb)
    for option, name in options.plugins.items():
        # applications compute on the CPU
        own = replace(machine, device='cpu') if ':' in option else machine
        require_onnx(f'--{option} {Method(name).label}', own)
        require_sound(find_method({}, name).manifest, own)


def _run(
    options: Options,
    plan: Plan,
    find: Callable[[], Resources],
    subjects: list[str],
    rejected: dict[str, list[dict]],
    damage: list[str],
):
    """Run everything; write the record and the report of each subject as it ends. Return the failures.

    ``find`` returns the templates and the atlas. A sentence on each damaged file that a report leaves out is
    added to ``damage``.
    """
    _prepare_output(options)
    out, started = options.output_dir, datetime.now(UTC)
    log = _begin_log(options, plan, started)
    failures, status = [], 1
    for failure in chain.from_iterable(rejected.values()):
        log.event('failed', series=failure['series'], step='input', reason=failure['message'])
    try:
        with locked([out / 'logs' / 'lock', options.work_dir / '.lock'], subjects):
            resources, threads = find(), step_threads(options, plan)
            running = run_subjects(options, plan, lambda part: _build(options, part, resources, threads), log)
            not_run = ((subject, [], []) for subject in sorted(set(rejected) - set(subject_plans(plan))))
            with closing(running):
                for subject, methods, own in chain(running, not_run):
                    own = sorted(own, key=lambda one: (one['series'], one['node']))
                    own = rejected.get(subject, []) + own
                    remove_partial(out, subject)
                    kept = _failures_of_others(options, plan, subject, damage)
                    _write_provenance(options, subject, started, methods, kept + own)
                    build_subject_report(out, subject, damage)
                    failures += own
        status = 1 if failures else 0
    finally:
        log.close(status)
        # it reads all logs; for jobs by task or label the group level writes it
        if not (options.array_task or options.participant_label):
            write_merged(out / 'logs')
    return failures


def log_nothing(options: Options, plan: Plan):
    """Write the log of a task that has nothing to run, so that its log does not count as missing."""
    _prepare_output(options)
    _begin_log(options, plan, datetime.now(UTC)).close(0)


def _begin_log(options: Options, plan: Plan, started: datetime):
    # each run has its own folder; host name and process number may be the same in several containers
    name = f'{started:%Y%m%dT%H%M%SZ}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}'
    logs = options.output_dir / 'logs' / name
    logs.mkdir(parents=True)
    part = {'sessions': list(options.session_label), 'participants': list(options.participant_label)}
    log = RunLog(logs, task=options.array_task, **{key: labels or None for key, labels in part.items()})
    # after the first event: a folder with a configuration and no events is that of a lost log
    atomic_write(logs / 'config.toml', lambda p: p.write_text(options.to_toml()))
    titles = [one.name for one in plan.series]
    log.event('plan', series=titles, mem_gb=round(options.mem_gb, 3), nprocs=options.nprocs)
    return log


def boilerplate(options: Options, plan: Plan) -> str:
    """Methods text of what would be run, with references."""
    resources = find_resources(options)
    built = (_build(options, part, resources, 1)[1] for part in subject_plans(plan).values())
    return methods_text(list(dict.fromkeys(chain.from_iterable(built))))


def build_graph(options: Options, plan: Plan, resources: Resources | None = None):
    """Build the workflow; return it with its methods paragraphs. ``resources`` are found unless given."""
    return _build(options, plan, resources or find_resources(options), step_threads(options, plan))


def _build(options: Options, plan: Plan, resources: Resources, threads: int):
    templates, atlas = resources
    workflow = init_bids_qsm_wf(
        options=options, plan=plan, templates=templates, atlas=atlas, omp_nthreads=threads
    )
    return workflow, _methods(workflow)


def find_resources(options: Options):
    """Templates and atlas that the options name, from the caches or the network."""
    cache = options.work_dir / 'templates'
    cache.mkdir(parents=True, exist_ok=True)
    templates = [get_template(name, cache) for name in options.output_spaces]
    atlas = get_atlas(options.atlas, cache)
    # the template of the atlas comes first
    templates.sort(key=lambda template: template.name != atlas.space)
    _require_space(atlas.needed, options)
    templates[0] = replace(templates[0], white_matter=get_white_matter(templates[0], cache))
    return templates, atlas


def _require_space(space: str, options: Options):
    """Raise UserError where the regions of the atlas are in a ``space`` that is not asked for; '' is any."""
    if space and space not in options.output_spaces:
        raise UserError(
            f'The atlas {options.atlas} is in the space {space}, but --output-spaces asks for '
            f'{", ".join(options.output_spaces)}; ask for {space} or choose another atlas.'
        )


def _methods(workflow: Workflow):
    paragraphs = []
    for name in sorted(workflow.list_node_names()):
        parts = name.split('.')[:-1]
        for depth in range(1, len(parts) + 1):
            text = getattr(workflow.get_node('.'.join(parts[:depth])), '__desc__', None)
            if text and text not in paragraphs:
                paragraphs.append(text)
    return paragraphs


def _prepare_output(options: Options):
    options.output_dir.mkdir(parents=True, exist_ok=True)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    write_dataset_description(options.output_dir, options)
    every = applications()
    suffixes = (image.suffix for app in every for image in app.images)
    write_bidsignore(options.output_dir, suffixes, (name for app in every for name, _ in app.files))
    for name, text in (file for app in chosen(options) for file in app.files):
        write_common(options.output_dir / name, text)


def _write_provenance(
    options: Options, subject: str, started: datetime, methods: list[str], failures: list[dict]
):
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    record = {
        'version': bids_qsm.__version__,
        'command': options.to_command(participants=(subject,)),
        'called': shlex.join(sys.argv),
        'started': started.isoformat(timespec='seconds'),
        'python': sys.version.split()[0],
        'packages': packages,
        'methods': methods,
        'failures': failures,
    }
    write_json(options.output_dir / 'logs' / f'sub-{subject}.json', record)


def _failures_of_others(options: Options, plan: Plan, subject: str, damage: list[str]):
    """Recorded failures of series that this run, of some sessions or some files, does not process.

    A sentence on a damaged record is added to ``damage``.
    """
    if not (options.session_label or options.bids_filter_file):
        return []
    # failures of the anatomy have the name of the subject and concern all series
    named = {f'sub-{subject}', *(one.name for one in (*plan.series, *plan.rejected))}
    run = read_run(options.output_dir / 'logs' / f'sub-{subject}.json', damage)
    return [one for one in run.get('failures', []) if one.get('series') not in named]


def _read_failures(out: Path, subject: str):
    path = out / 'logs' / f'sub-{subject}.json'
    if not path.exists():
        raise UserError(f'{path} is missing: sub-{subject} has not been run into {out} yet; run it first.')
    # the report names a damaged one
    failures = read_run(path, []).get('failures', [])
    return [{'series': f'sub-{subject}', 'node': '', **one} for one in failures]


def _summarise(out: Path, subjects: list[str], failures: list[dict], series: set[str], damage: list[str]):
    pages = [out / f'sub-{subject}.html' for subject in subjects]
    if len(pages) > LISTED:
        print(f'Reports: {out}/sub-*.html ({len(pages)})')
    else:
        for page in pages:
            print(f'Report: {page}')
    print(f'Tables: {out}/sub-*/**/*_stats.tsv')
    warnings = damage + [
        f'{found["series"]}, {one["what"]}: {one["found"]} {one["evidence"]}'
        for subject in subjects
        for found in read_findings(out / f'sub-{subject}' / 'figures', [])
        if found['series'] in series
        for one in found['findings']
        if one['level'] in LEVELS
    ]
    if warnings:
        more = f' (the first {LISTED})' if len(warnings) > LISTED else ''
        print(f'{len(warnings)} warnings{more}:', file=sys.stderr)
        for warning in warnings[:LISTED]:
            print(f'  {printable(warning)}', file=sys.stderr)
    if failures:
        print(f'{len(failures)} failed:', file=sys.stderr)
        for failure in failures:
            print(f'  {failure["series"]} ({failure["node"]}): {failure["message"]}', file=sys.stderr)
        pages = {OF_SERIES if one['node'] == 'input' else OF_STEP for one in failures}
        print(f'  {" ".join(map(address, sorted(pages)))}', file=sys.stderr)
        free = shutil.disk_usage(out).free
        if free < 1e8:
            print(f'  The disk of {out} is full ({free / 1e6:.0f} MB left).', file=sys.stderr)
