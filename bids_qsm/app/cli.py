"""The command line: what the user types becomes Options, then a run."""

import argparse
import codecs
import errno
import locale
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.app.arguments import Parser, parse
from bids_qsm.app.methods import expanded
from bids_qsm.app.mistakes import is_command, no_level, require_level
from bids_qsm.app.options import Options
from bids_qsm.app.pages import address, explained
from bids_qsm.errors import UserError, plain
from bids_qsm.execution.array_tasks import scheduled_task
from bids_qsm.execution.numba_cache import use_kernels
from bids_qsm.execution.resources import available_cpus, available_memory_gb
from bids_qsm.threads import set_threads

if TYPE_CHECKING:
    from bids_qsm.layout import Plan

FIRST_STEPS = f"""\
bids_qsm makes maps of susceptibility (QSM), R2* and SWI, tables and reports from gradient-echo MRI.

  bids_qsm demo DATA                       simulate a small dataset, to try the rest
  bids_qsm import DICOM DATA               make a dataset from the files of a scanner
  bids_qsm check DATA                      what is wrong with your data, and what they allow
  bids_qsm DATA OUT participant --dry-run  what would be run, and about how long it takes
  bids_qsm DATA OUT participant            run it; the same command resumes it
  bids_qsm status OUT --watch              follow it from any terminal; q leaves, the run goes on
  bids_qsm DATA OUT group                  tables and statistics of all participants

bids_qsm --help lists all options, bids_qsm COMMAND --help those of a command.
DATA is a folder in BIDS, OUT a new folder. {address('running.md')}"""
"""What is said to who gives no argument."""

OF_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 'free space'),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), 'get the right to it'),
}
"""What the user can do about errors of the disk."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when all is done, 1 if a subject failed, 2 for wrong use or input."""
    if argv is None:
        _write_utf8()
        if threading.current_thread() is threading.main_thread():
            # a job that its cluster ends closes its log and removes its files, as after Ctrl-C
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    argv = sys.argv[1:] if argv is None else list(argv)
    verbose = sum(len(a) - 1 for a in argv if re.fullmatch('-v+', a)) + argv.count('--verbose')
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # a terminal may not know UTF-8
            stream.reconfigure(errors='backslashreplace')
    try:
        use_kernels()
        if not argv:
            print(FIRST_STEPS, file=sys.stderr)
            return 2
        if is_command(argv, COMMANDS):
            return COMMANDS[argv[0]](argv[1:])
        return _run(argv)
    except UserError as error:
        _report(explained(error), verbose)
        return 2
    except KeyboardInterrupt:
        print('bids_qsm: interrupted; the same command resumes the run.', file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in "bids_qsm status OUT | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_DISK:
            where = error.filename or 'the output or the working folder'
            _report(f'{where}: {error.strerror}; {OF_DISK[error.errno]}, or choose another folder.', verbose)
            return 2
        _report(f'unexpected {type(error).__name__}: {error} (-vv shows where)', verbose)
        return 1


def _write_utf8():
    """Start again in Python's UTF-8 mode where the locale has another encoding; outputs are always UTF-8."""
    if codecs.lookup(locale.getencoding()).name != 'utf-8' and os.environ.get('PYTHONUTF8') != '1':
        os.environ['PYTHONUTF8'] = '1'  # for the workers too
        os.execv(sys.executable, [sys.executable, '-X', 'utf8', *sys.orig_argv[1:]])


def _report(message: str, verbose: int):
    if verbose >= 2:
        traceback.print_exc()
    with suppress(OSError):  # stderr may be a file on the full disk
        print(f'bids_qsm: error: {plain(message)}', file=sys.stderr)


def _run(argv: list[str]):
    settings = parse(argv)
    require_level(settings, COMMANDS)
    set_threads(_threads(settings))
    options = Options.from_settings(settings | _own_task(settings))
    if options.level == 'group':
        from bids_qsm.execution.run_log import write_merged
        from bids_qsm.group.analyse import run_group

        write_merged(options.output_dir / 'logs')  # tasks of an array do not write it
        return run_group(options)
    from bids_qsm.app import participant

    plan = participant.make_plan(options)
    if options.dry_run:
        from bids_qsm.app.plan_tree import show_plan

        show_plan(options, plan)
        return _status_of(plan)
    if options.array_task and not plan.series and not _status_of(plan):
        print(f'bids_qsm: {plan.notes[0]} There is nothing to run.', file=sys.stderr)
        if not (options.boilerplate_only or options.reports_only):
            participant.log_nothing(options, plan)
        return 0
    if not options.array_task:  # a task records what is wrong with its participants
        participant.require_series(options, plan)
    if options.boilerplate_only:
        print(participant.boilerplate(options, plan))
        return 0
    skipped = [f'{one.name} is skipped: {one.reason}' for one in plan.rejected if not one.is_error]
    for note in (*plan.notes, *skipped):
        print(f'bids_qsm: {note}', file=sys.stderr)
    return max(participant.run_participant(options, plan), _status_of(plan))


def _own_task(settings: dict):
    """The setting array_task from the scheduler, unless the settings say whom to run."""
    said = ('array_task', 'participant_label', 'session_label')
    if settings.get('level') != 'participant' or any(settings.get(name) for name in said):
        return {}
    task = scheduled_task(os.environ)
    if not task:
        return {}
    print(
        f'bids_qsm: running share {task}, as the scheduler says. Where its array is only a part of a larger '
        'one these are other shares than there: stop it and give --array-task I/N.',
        file=sys.stderr,
    )
    return {'array_task': task}


def _status_of(plan: 'Plan'):
    return int(any(one.is_error for one in plan.rejected))


def _threads(settings: dict):
    """Threads of a step; found before Options are built, as that imports the numerics."""
    threads, cpus = settings.get('omp_nthreads'), settings.get('nprocs')
    if _is_count(threads):
        return threads
    return min(cpus if _is_count(cpus) else available_cpus(), 8)


def _is_count(n: object):
    return isinstance(n, int) and n > 0


def _parsed(parser: argparse.ArgumentParser, argv: list[str]):
    """Arguments of another command; -v, which `main` has read, may stand anywhere."""
    return parser.parse_args(_without_verbose(argv))


def _without_verbose(argv: list[str]):
    return [a for a in argv if a != '--verbose' and not re.fullmatch('-v+', a)]


def _demo_parser():
    parser = Parser('bids_qsm demo', description='Simulate the demo dataset.')
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to write it to')
    return parser


def _demo(argv: list[str]):
    out = _parsed(_demo_parser(), argv).out
    if out.exists():
        raise UserError(f'{out} is there already; delete it or choose another folder.')
    threads = min(available_cpus(), 4)
    set_threads(threads)
    from bids_qsm.phantom.dataset import demo

    # renamed at the end, so that OUT is never incomplete
    partial = out.with_name(f'.{out.name}-partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        demo(partial, nprocs=min(threads, 2))
        partial.replace(out)
    except KeyboardInterrupt:
        print('bids_qsm: interrupted; nothing was written.', file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f'Demo dataset: {out}')
    return 0


def _slurm_parser():
    parser = Parser(
        'bids_qsm slurm',
        usage='bids_qsm slurm bids_dir output_dir [options of this command] [options of bids_qsm]',
        description='Write the scripts of a SLURM array of the participant level, and of the group level '
        'after it, to output_dir/slurm; say what they ask for.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('--tasks', type=int, metavar='N', help='tasks of the array (one a participant, at most 100)')
    add('--cpus', type=int, default=4, metavar='N', help='CPUs of a task (%(default)s)')
    add('--image', metavar='FILE', help='Apptainer image to run (this Python)')
    add('--venv', metavar='PATH', help='Python environment to run (this Python)')
    add(
        '--sbatch',
        default='',
        metavar='OPTIONS',
        help='more options of sbatch, "--partition=long --time=2-0"',
    )
    return parser


def _slurm(argv: list[str]):
    # argparse takes a value that begins with a dash for an option
    argv = re.sub('\0--sbatch\0', '\0--sbatch=', '\0'.join(['', *argv])).split('\0')[1:]
    own, others = _slurm_parser().parse_known_args(argv)
    settings = parse(others, not_from_file=('level',))
    if 'level' in settings:
        raise no_level('slurm', settings['level'])
    set_threads(1)
    from bids_qsm.app.slurm import write_array

    print(write_array(settings, **vars(own)))
    return 0


def _status_parser():
    parser = Parser(
        'bids_qsm status',
        description='Say what is done, failed, running, stopped or not started; 1 where something failed, '
        'was stopped or left no log.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('out', metavar='OUT', help='output folder')
    add('--json', dest='as_json', action='store_true', help='print JSON')
    add('--watch', action='store_true', help='show it until no run goes on; q leaves, the run goes on')
    return parser


def _status(argv: list[str]):
    given = _parsed(_status_parser(), argv)
    from bids_qsm.execution.status import show_status

    return show_status(**vars(given))


def _fetch_parser():
    parser = Parser(
        'bids_qsm fetch',
        description='Download templates and atlases to their caches, for runs without network.',
    )
    parser.add_argument('names', metavar='SPACE|ATLAS', nargs='+', help='as MNI152NLin2009cAsym CIT168')
    return parser


def _fetch(argv: list[str]):
    names = _parsed(_fetch_parser(), argv).names
    from bids_qsm.app.fetch import fetch

    for name in names:
        print(f'{name}: {fetch(name) or "built in"}')
    return 0


def _check_parser():
    parser = Parser(
        'bids_qsm check',
        usage='bids_qsm check bids_dir [options of this command] [options of bids_qsm]',
        description='Say of each series what is wrong with it, how it compares to the consensus on QSM, and '
        'which applications it allows; 1 where the participant level would refuse one.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('--json', dest='as_json', action='store_true', help='print JSON')
    add('--tsv', type=Path, metavar='FILE', help='also write the checks of all series to a table')
    add('--headers', action='store_true', help='read sidecars and headers alone')
    return parser


def _check(argv: list[str]):
    own, others = _check_parser().parse_known_args(_without_verbose(argv))
    # the configuration of a run names its level and its output folder
    settings = parse(others, not_from_file=('output_dir', 'level'))
    if 'bids_dir' not in settings or 'output_dir' in settings:
        raise UserError('give one dataset: bids_qsm check bids_dir [options].')
    set_threads(_threads(settings))
    from bids_qsm.app.check import run_check

    return run_check(settings, **vars(own))


def _plugin_parser():
    parser = Parser(
        'bids_qsm plugin',
        usage='bids_qsm plugin check DIR',
        description='Check a plug-in: manifest, files, model and golden output; say what is wrong, or how '
        'exact its tiles are, its time and its memory. 1 where there is a fault. ' + address('plugins.md'),
    )
    parser.add_argument('action', choices=('check',), help='what to do')
    parser.add_argument('folder', metavar='DIR', type=Path, help='folder with manifest.json and the model')
    return parser


def _plugin(argv: list[str]):
    folder = _parsed(_plugin_parser(), argv).folder
    set_threads(min(available_cpus(), 8))
    from bids_qsm.plugins.check import check_plugin
    from bids_qsm.plugins.sandbox import require_onnx

    require_onnx('bids_qsm plugin check')
    report = check_plugin(
        expanded(folder, 'DIR'), threads=min(available_cpus(), 8), most_gb=available_memory_gb()
    )
    print(report)
    return int(bool(report.faults))


def _import_parser():
    parser = Parser(
        'bids_qsm import',
        usage='bids_qsm import dicom_dir bids_dir [options]',
        description='Convert the gradient echoes, T1w, FLAIR and BOLD runs of a folder of DICOM files to '
        'BIDS. A table beside bids_dir says who and what each series is: edit it and run the same command '
        'again. 1 where a series is unclear or cannot be imported. ' + address('dicom.md'),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('dicom_dir', type=Path, help='folder with the DICOM files, of one or many patients')
    add('bids_dir', type=Path, help='dataset to write or to add to; nothing in it is overwritten')
    add('--participant-label', metavar='LABEL', help='label of the participant (the next free number)')
    add('--session-label', metavar='LABEL', help='label of the session (numbers, of several studies)')
    add('--table', type=Path, metavar='FILE', help='table of the names (BIDS_DIR_import.tsv beside bids_dir)')
    add('--dry-run', action='store_true', help='write the table and show the plan; convert nothing')
    return parser


def _import(argv: list[str]):
    given = _parsed(_import_parser(), argv)
    from bids_qsm.dicom.headers import require_packages
    from bids_qsm.dicom.importing import run_import

    require_packages('bids_qsm import', 'pydicom')
    is_seen = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    return run_import(
        expanded(given.dicom_dir, 'dicom_dir'),
        expanded(given.bids_dir, 'bids_dir'),
        table=given.table and expanded(given.table, '--table'),
        subject=_label(given.participant_label, 'sub-'),
        session=_label(given.session_label, 'ses-'),
        dry_run=given.dry_run,
        ask=input if is_seen else None,
    )


def _export_parser():
    parser = Parser(
        'bids_qsm export',
        usage='bids_qsm export output_dir dicom_dir dest [options]',
        description='Write susceptibility maps and SWI as DICOM, into the study of the DICOM files that they '
        'come from: classic images for any viewer, and a parametric map in ppm. ' + address('dicom.md'),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('output_dir', type=Path, help='output of the participant level')
    add('dicom_dir', type=Path, help='folder with the DICOM files that were imported')
    add('dest', type=Path, help='folder to write to')
    add(
        '--table',
        type=Path,
        metavar='FILE',
        help='table that bids_qsm import wrote; needed for several patients, and maps of other voxels',
    )
    add('--participant-label', metavar='LABEL', nargs='+', default=[], help='participants (all)')
    return parser


def _export(argv: list[str]):
    given = _parsed(_export_parser(), argv)
    from bids_qsm.dicom.exporting import run_export
    from bids_qsm.dicom.headers import require_packages

    require_packages('bids_qsm export', 'pydicom', 'highdicom')
    return run_export(
        expanded(given.output_dir, 'output_dir'),
        expanded(given.dicom_dir, 'dicom_dir'),
        expanded(given.dest, 'dest'),
        table=given.table and expanded(given.table, '--table'),
        participants=[_label(label, 'sub-') for label in given.participant_label],
    )


def _label(label: str | None, key: str):
    return label and label.removeprefix(key)


def _completion_parser():
    parser = Parser(
        'bids_qsm completion',
        description='Print the script that lets a shell complete commands and options. '
        + address('running.md#completion-in-the-shell'),
    )
    parser.add_argument('shell', choices=('bash', 'zsh', 'fish'), help='the shell')
    return parser


def _completion(argv: list[str]):
    shell = _parsed(_completion_parser(), argv).shell
    from bids_qsm.app.completion import script

    print(script(shell, {name: make() for name, make in PARSERS.items()}))
    return 0


COMMANDS = {
    'check': _check,
    'completion': _completion,
    'demo': _demo,
    'export': _export,
    'fetch': _fetch,
    'import': _import,
    'plugin': _plugin,
    'slurm': _slurm,
    'status': _status,
}
"""Other commands by their first word; with a level, it is the name of a folder where there is one."""

PARSERS = {
    'check': _check_parser,
    'completion': _completion_parser,
    'demo': _demo_parser,
    'export': _export_parser,
    'fetch': _fetch_parser,
    'import': _import_parser,
    'plugin': _plugin_parser,
    'slurm': _slurm_parser,
    'status': _status_parser,
}
"""Their parsers, for completion."""
