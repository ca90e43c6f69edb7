"""Graphs that run: one a subject through the pool of workers, or batches of subjects by a Nipype plugin."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING

import yaml
from networkx import DiGraph
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.base import PluginBase

from bids_qsm.errors import UserError
from bids_qsm.execution.numba_cache import lacks_kernels
from bids_qsm.execution.pool import PoolPlugin
from bids_qsm.execution.progress import RunProgress
from bids_qsm.execution.resources import plan_capacity
from bids_qsm.execution.run_log import RunLog, last_error, read_crash
from bids_qsm.execution.step_jobs import SlurmPlugin, request_resources
from bids_qsm.workflows.base import owners
from bids_qsm.workflows.memory import Sizes

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.find import Plan

BATCH = 32
"""Subjects whose graphs a Nipype plugin is given at once; the next wait for the last of them."""
Build = Callable[['Plan'], tuple[Workflow, list[str]]]
Done = tuple[str, list[str], list[dict]]


def run_subjects(options: 'Options', plan: 'Plan', build: Build, log: RunLog) -> Iterator[Done]:
    """Run the series of ``plan``; yield (subject, methods, failures) of each subject at its end.

    ``build`` makes a workflow and its methods paragraphs of a plan. Graphs are made when it is their turn, so
    that memory does not grow with the dataset; a subject whose graph cannot be made fails alone. Raises
    UserError before anything starts where the largest graphs do not fit in memory.
    """
    _set_up_nipype(options, log.folder)
    titles = [one.name for one in plan.series]
    with RunProgress(titles, log, mem_gb=options.mem_gb, nprocs=options.nprocs) as progress:
        run = _run_by_plugin if options.use_plugin else _run_in_pool
        yield from run(options, plan, build, log, progress)


def step_threads(options: 'Options', plan: 'Plan') -> int:
    """Threads of a step: few, as several steps at a time beat one at a time with many."""
    # registration has one thread, and runs beside the reconstruction even where there is one series
    return options.omp_nthreads or max(1, min(8, options.nprocs // max(2, len(plan.series))))


def subject_plans(plan: 'Plan') -> dict[str, 'Plan']:
    """What to run of each subject, as a plan of its own."""
    parts = {}
    for one in plan.series:
        parts.setdefault(one.subject, []).append(one)
    return {subject: replace(plan, series=tuple(series)) for subject, series in parts.items()}


def _run_in_pool(
    options: 'Options', plan: 'Plan', build: Build, log: RunLog, progress: RunProgress
) -> Iterator[Done]:
    parts = subject_plans(plan)
    begun, refused, capacity = [], [], None
    for subject in _largest(parts) if len(parts) > 1 else ():  # what does not fit is best said at once
        try:
            graph = expanded(build(parts[subject])[0])
        except Exception:  # its own failure, when it is its turn
            continue
        _capacity(graph, options)

    def graphs():
        nonlocal capacity
        for subject, part in parts.items():
            try:
                workflow, methods = build(part)
                graph = expanded(workflow)
                own = _capacity(graph, options)
            except Exception as error:
                if len(parts) == 1:
                    raise
                refused.append((subject, [], _refusal(part, error, log)))
                if options.stop_on_first_crash:
                    return
                continue
            whose = owners(workflow.name, part, options.output_spaces)
            if capacity is None or own.workers < capacity.workers:
                capacity = own
                pool.limit(workers=own.workers, memory_gb=own.steps_gb)
                if own.note:
                    print(f'bids_qsm: {own.note}', file=sys.stderr)
                    log.line(own.note)
            begun.append((subject, methods, whose))
            _add(progress, graph, whose)
            yield graph

    args = {
        **_limits(options, progress.callback),
        'n_threads': step_threads(options, plan),
        'log_level': _log_level(options),
        'stop_on_first_crash': options.stop_on_first_crash,
        'is_cold': lacks_kernels(),
    }
    with PoolPlugin(args) as pool:
        for live in pool.run_all(graphs()):
            subject, methods, whose = begun[live.number]
            begun[live.number] = None
            yield subject, methods, read_crashes(live.crashes, whose)
            while refused:
                yield refused.pop()
    yield from refused


def _run_by_plugin(
    options: 'Options', plan: 'Plan', build: Build, log: RunLog, progress: RunProgress
) -> Iterator[Done]:
    parts = subject_plans(plan)
    subjects, seen, became = list(parts), set(), {}

    def note(node: Node, status: str):
        if status != 'start':
            became.setdefault(node.fullname, status)  # an 'end' may follow an 'exception'
        progress.callback(node, status)

    plugin, args = _plugin(options, note)
    for first in range(0, len(subjects), BATCH):
        batch = {}
        for subject in subjects[first : first + BATCH]:
            try:  # a page tells of its own subject's methods, whoever else is in the batch
                batch[subject] = build(parts[subject])[1]
            except Exception as error:
                if len(subjects) == 1:
                    raise
                yield subject, [], _refusal(parts[subject], error, log)
                if options.stop_on_first_crash:
                    return
        if not batch:
            continue
        part = replace(plan, series=tuple(one for subject in batch for one in parts[subject].series))
        workflow, _ = build(part)
        whose = owners(workflow.name, part, options.output_spaces)
        request_resources(workflow, plugin, args)
        graph, error = expanded(workflow), None
        _add(progress, graph, whose)
        became.clear()
        try:
            workflow.run(plugin=plugin, plugin_args=args)
        except Exception as raised:
            error = raised
        crashes = set(log.folder.glob('crash-*.txt')) - seen
        # node failures leave a crash file each and are listed from there; anything else is ours
        if error is not None and not crashes:
            raise error
        seen |= crashes
        failures = read_crashes(sorted(crashes), whose)
        if error is not None:
            left = {_owner(node.fullname, whose)[0] for node in graph if became.get(node.fullname) != 'end'}
            why = ': '.join(filter(None, last_error(str(error.__cause__ or error))))
            for subject in sorted(left - {one['subject'] for one in failures}):
                failures += _failed(parts[subject], 'plugin', f'not finished, as the batch ended: {why}', log)
        for subject, methods in batch.items():
            yield subject, methods, [one for one in failures if one['subject'] == subject]
        if error is not None and not any(one['subject'] in batch for one in failures):
            raise error
        if error is not None and options.stop_on_first_crash:
            return


def _largest(parts: dict[str, 'Plan']):
    """Subjects who have the largest of some kind of image, as such are likely to need most memory."""
    sizes = {subject: [Sizes.of(one) for one in part.series] for subject, part in parts.items()}
    names = [field.name for field in fields(Sizes)]
    return dict.fromkeys(
        max(parts, key=lambda subject: max(getattr(one, name) for one in sizes[subject])) for name in names
    )


def _refusal(part: 'Plan', error: Exception, log: RunLog):
    """Failures of a subject whose graph cannot be made, or does not fit."""
    if isinstance(error, UserError):
        return _failed(part, 'graph', str(error), log)
    for line in ''.join(format_exception(error)).splitlines():
        log.line(line)
    return _failed(part, 'graph', f'{type(error).__name__}: {error} (see log.txt)', log)


def _failed(part: 'Plan', step: str, message: str, log: RunLog):
    """Failures of all series of ``part``, also written to the log."""
    for one in part.series:
        log.event('failed', series=one.name, step=step, reason=message)
    return [_failure(one.subject, one.name, step, message) for one in part.series]


class _CollectPlugin(PluginBase):
    """Runs nothing."""

    def run(self, graph: DiGraph, config: dict, updatehash: bool = False):
        pass


def expanded(workflow: Workflow) -> DiGraph:
    """The graph of ``workflow`` as its nodes run: flat, each node with where its inputs come from."""
    return workflow.run(plugin=_CollectPlugin())


def _capacity(graph: DiGraph, options: 'Options'):
    nodes = [(node.fullname, node.mem_gb) for node in graph]
    return plan_capacity(nodes, nprocs=options.nprocs, mem_gb=options.mem_gb)


def _add(progress: RunProgress, graph: DiGraph, whose: dict):
    titles = {prefix: series or f'sub-{subject} anatomy' for prefix, (subject, series) in whose.items()}
    progress.add(titles, [node.fullname for node in graph])


def _limits(options: 'Options', callback: Callable):
    return {'n_procs': options.nprocs, 'memory_gb': options.mem_gb, 'status_callback': callback}


def _plugin(options: 'Options', callback: Callable):
    """The plugin of the user's file, by name or made, and its arguments."""
    try:
        chosen = yaml.safe_load(options.use_plugin.read_text())
        plugin, limits = chosen['plugin'], _limits(options, callback)
        args = {**limits, **chosen.get('plugin_args', {}), 'status_callback': callback}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f'{options.use_plugin} is not a Nipype plugin file: it must be YAML (or JSON) with "plugin" and, '
            'where needed, "plugin_args".'
        ) from error
    return SlurmPlugin(args) if plugin == 'SLURM' else plugin, args


def _log_level(options: 'Options'):
    return 'INFO' if options.verbose else 'CRITICAL'


def _set_up_nipype(options: 'Options', logs: Path):
    level = _log_level(options)
    nipype_config.update_config(
        {
            'logging': {
                'workflow_level': level,
                'interface_level': level,
                'utils_level': level,
                'log_to_file': 'false',
            },
            'execution': {
                'crashdump_dir': str(logs),
                'crashfile_format': 'txt',
                # tasks of an array share the working folder, and reports of nodes are for people who debug
                'create_report': 'false',
                'hash_method': 'timestamp',
                'poll_sleep_duration': '0.1',
                'stop_on_first_crash': str(options.stop_on_first_crash).lower(),
                'check_version': 'false',
                'remove_unnecessary_outputs': 'false',
            },
        }
    )
    nipype_logging.update_logging(nipype_config)


def read_crashes(paths: Iterable[Path], prefixes: dict) -> list[dict]:
    """Failures of a run: what Nipype's crash files say, and whose they are by ``prefixes`` (see owners)."""
    failures = []
    for path in paths:
        fullname, message = read_crash(path)
        subject, series = _owner(fullname, prefixes)
        step = fullname.rpartition('_wf.')[2]
        failures.append(_failure(subject, series or f'sub-{subject}', step, message))
    return failures


def _failure(subject: str, series: str, step: str, message: str):
    return {'subject': subject, 'series': series, 'node': step, 'message': message}


def _owner(fullname: str, prefixes: dict) -> tuple[str, str | None]:
    parts = fullname.split('.')
    parents = ('.'.join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    return next((prefixes[name] for name in parents if name in prefixes), ('', None))
