"""From options and plan to a finished output dataset: the graph, its execution, its failures, the reports."""

import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import yaml
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.interfaces.utility import IdentityInterface

import bids_qsm
from bids_qsm.derivatives import atomic_write, write_bidsignore, write_dataset_description, write_json
from bids_qsm.errors import UserError
from bids_qsm.interfaces.device import require_device
from bids_qsm.pool import PoolPlugin
from bids_qsm.progress import GraphProgress
from bids_qsm.reports import build_subject_report, methods_text
from bids_qsm.templates import get_atlas, get_chi, get_template, get_white_matter
from bids_qsm.workflows.base import init_bids_qsm_wf, owners

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


def run_participant(options, plan) -> int:
    """Process every series of ``plan``; return the exit status (1 where something failed)."""
    out = options.output_dir
    failed_input = [one for one in plan.rejected if one.is_error]
    subjects = {s.subject for s in plan.series} | {_subject_of(one.name) for one in failed_input}
    if options.reports_only:
        failures = [f for subject in subjects for f in _read_failures(out, subject)]
    else:
        require_device(options.device)
        _prepare_output(options)
        started = datetime.now(UTC)
        # runs that share the output, such as array jobs, each have their own folder
        logs = out / 'logs' / f'{started:%Y%m%dT%H%M%SZ}-{socket.gethostname()}-{os.getpid()}'
        logs.mkdir(parents=True)
        atomic_write(logs / 'config.toml', lambda p: p.write_text(options.to_toml()))
        with _locked(options.work_dir, subjects):
            workflow, methods = build_graph(options, plan)
            _execute(workflow, options, plan, logs)
        failures = [
            {'subject': _subject_of(one.name), 'series': one.name, 'node': 'input', 'message': one.reason}
            for one in failed_input
        ] + read_crashes(logs, owners(workflow.name, plan, options.output_spaces))
        _write_provenance(out, subjects, started, methods, failures)
    pages = [build_subject_report(out, subject) for subject in sorted(subjects)]
    _summarise(out, pages, failures)
    return 1 if failures else 0


def _subject_of(name):
    return name.partition('_')[0].removeprefix('sub-')


@contextmanager
def _locked(work_dir, subjects):
    """Hold the subjects' part of the working folder: two runs in it would spoil each other's files."""
    with ExitStack() as stack:
        for subject in sorted(subjects):
            lock = stack.enter_context((work_dir / f'.lock-sub-{subject}').open('w'))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f'sub-{subject} is being run in {work_dir} by another process; wait for it, or choose '
                    'another --work-dir.'
                ) from None
        yield


def boilerplate(options, plan) -> str:
    """Methods text of what would be run, with references."""
    return methods_text(build_graph(options, plan)[1])


def build_graph(options, plan):
    """Resolve template and atlas and build the workflow; return it with its methods paragraphs."""
    cache = options.work_dir / 'templates'
    cache.mkdir(parents=True, exist_ok=True)
    templates = [get_template(name, cache) for name in options.output_spaces]
    atlas = get_atlas(options.atlas, cache)
    # the atlas goes with its own template; the built-in one is approximate in any
    templates.sort(key=lambda template: template.name != atlas.space)
    if atlas.space != templates[0].name and not atlas.approximate:
        raise UserError(
            f'The atlas {options.atlas} is in the space {atlas.space}, but --output-spaces asks for '
            f'{", ".join(options.output_spaces)}; ask for {atlas.space} or choose another atlas.'
        )
    chi = None
    if options.refinement.name != 'none':
        chi = get_chi(options.chi_template, templates[0], atlas, cache)
    elif options.chi_template is not None:
        raise UserError('--chi-template is what --refinement aligns to; leave it out with --refinement none.')
    templates[0] = replace(templates[0], white_matter=get_white_matter(templates[0], cache), chi=chi)
    workflow = init_bids_qsm_wf(
        options=options, plan=plan, templates=templates, atlas=atlas, omp_nthreads=_threads(options, plan)
    )
    return workflow, _methods(workflow)


def _threads(options, plan):
    # several steps at a time with few threads each beat one at a time with many; registration has one thread,
    # and runs beside the reconstruction even where there is one series
    return options.omp_nthreads or max(1, min(8, options.nprocs // max(2, len(plan.series))))


def _methods(workflow):
    paragraphs = []
    for name in sorted(workflow.list_node_names()):
        parts = name.split('.')[:-1]
        for depth in range(1, len(parts) + 1):
            text = getattr(workflow.get_node('.'.join(parts[:depth])), '__desc__', None)
            if text and text not in paragraphs:
                paragraphs.append(text)
    return paragraphs


def _prepare_output(options):
    options.output_dir.mkdir(parents=True, exist_ok=True)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    write_dataset_description(options.output_dir, options)
    write_bidsignore(options.output_dir)


def _execute(workflow, options, plan, logs):
    workflow.config['execution'] = {
        'crashdump_dir': str(logs),
        'crashfile_format': 'txt',
        'hash_method': 'timestamp',
        'poll_sleep_duration': '0.1',
        'stop_on_first_crash': str(options.stop_on_first_crash).lower(),
        'check_version': 'false',
        'remove_unnecessary_outputs': 'false',
    }
    level = _log_level(options)
    nipype_config.update_config(
        {
            'logging': {
                'workflow_level': level,
                'interface_level': level,
                'utils_level': level,
                'log_to_file': 'false',
            },
            'execution': workflow.config['execution'],
        }
    )
    nipype_logging.update_logging(nipype_config)
    groups = {
        prefix: series or f'sub-{subject} anatomy'
        for prefix, (subject, series) in owners(workflow.name, plan, options.output_spaces).items()
    }
    graph = workflow._create_flat_graph()
    nodes = [n.fullname for n in graph.nodes() if not isinstance(n.interface, IdentityInterface)]
    with GraphProgress(groups, nodes) as progress:
        plugin, plugin_args = _plugin(options, _threads(options, plan), progress.callback)
        try:
            workflow.run(plugin=plugin, plugin_args=plugin_args)
        except BaseException as error:
            if isinstance(plugin, PoolPlugin):
                plugin.stop()
            # node failures leave a crash file each and are listed from there; anything else is ours
            if not isinstance(error, Exception) or not list(logs.glob('crash-*')):
                raise


def _log_level(options):
    return 'INFO' if options.verbose else 'CRITICAL'


def _plugin(options, threads, callback):
    limits = {'n_procs': options.nprocs, 'memory_gb': options.mem_gb, 'status_callback': callback}
    if options.use_plugin:
        try:
            chosen = yaml.safe_load(options.use_plugin.read_text())
            return chosen['plugin'], {**limits, **chosen.get('plugin_args', {})}
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(
                f'{options.use_plugin} is not a Nipype plugin file: it must be YAML (or JSON) with "plugin" '
                'and, where needed, "plugin_args".'
            ) from error
    args = {**limits, 'log_level': _log_level(options), 'n_threads': threads}
    return PoolPlugin(args), args


def read_crashes(logs, prefixes):
    """Failures of a run, from Nipype's crash files in ``logs``."""
    failures = []
    for path in sorted(logs.glob('crash-*.txt')):
        text = path.read_text()
        node = re.search(r'^Node: (\S+)', text, re.MULTILINE)
        fullname = node.group(1) if node else ''
        found = [p for p in prefixes if fullname.startswith(p + '.')]
        subject, series = prefixes[max(found, key=len)] if found else ('', None)
        errors = re.findall(r'^\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): (.+)$', text, re.MULTILINE)
        kind, message = errors[-1] if errors else ('', text.strip().splitlines()[-1])
        known = kind.endswith('UserError') or not kind
        failures.append(
            {
                'subject': subject,
                'series': series or f'sub-{subject}',
                'node': fullname.rpartition('_wf.')[2],
                'message': message if known else f'{kind.rpartition(".")[2]}: {message} (see {path.name})',
            }
        )
    return failures


def _write_provenance(out, subjects, started, methods, failures):
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    record = {
        'version': bids_qsm.__version__,
        'command': shlex.join(sys.argv),
        'started': started.isoformat(timespec='seconds'),
        'python': sys.version.split()[0],
        'packages': packages,
        'methods': methods,
    }
    for subject in subjects:
        own = [failure for failure in failures if failure['subject'] == subject]
        write_json(out / 'logs' / f'sub-{subject}.json', {**record, 'failures': own})


def _read_failures(out, subject):
    path = out / 'logs' / f'sub-{subject}.json'
    if not path.exists():
        raise UserError(f'{path} is missing: sub-{subject} has not been run into {out} yet; run it first.')
    return json.loads(path.read_text())['failures']


def _summarise(out, pages, failures):
    for page in pages:
        print(f'Report: {page}')
    print(f'Tables: {out}/sub-*/**/*_stats.tsv')
    if failures:
        print(f'{len(failures)} failed:', file=sys.stderr)
        for failure in failures:
            print(f'  {failure["series"]} ({failure["node"]}): {failure["message"]}', file=sys.stderr)
        free = shutil.disk_usage(out).free
        if free < 1e8:
            print(f'  The disk of {out} is full ({free / 1e6:.0f} MB left).', file=sys.stderr)
