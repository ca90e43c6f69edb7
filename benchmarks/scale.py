"""What a large run costs beyond computation, and whether memory stays flat: many tiny series on few CPUs.

python benchmarks/scale.py [--series 200] [--nprocs 2] [--reuse] [--work FOLDER]

The series are hard links to one 4 mm phantom with transforms and brain mask from earlier derivatives, and the
template is one of 4 mm, so that next to nothing is computed. Seconds are of the processor, as wall time tells
of what else the machine does: overhead is all that the main process and the workers take less what is spent
inside the interfaces. With --reuse each worker computes a step once and gives copies of its files to all
other series, which leaves the overhead alone. The run is done again at the end, when all results are there.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

SPACE = 'Coarse'
OPTIONS = ('--refinement', 'none', '--output-spaces', SPACE, '--skip-bids-validation')
METER = 'BIDS_QSM_METER'
"""Variable that names the folder of the meters; workers import this file too and then meter themselves."""
REUSE = 'BIDS_QSM_REUSE'
"""Variable that is set where a worker computes a step once and gives its files to all other series."""
PERSONAL = ('derivatives', 'findings')
"""Modules of interfaces whose results name the subject."""


def meter_workers():
    """Note after each step of this worker its processor seconds: in all, and inside interfaces."""
    from nipype.interfaces.base import BaseInterface

    from bids_qsm.execution import pool
    from bids_qsm.workflows import base  # noqa: F401 (defines the interfaces)

    inside, first = 0.0, {}

    def compute(run, self, runtime):
        step = re.sub(r'.*/sub_\w+?_wf/', '', runtime.cwd)
        if REUSE not in os.environ or self.__module__.rpartition('.')[2] in PERSONAL:
            return run(self, runtime)
        if step in first:
            made, results = first[step]
            for path in made.iterdir():
                if path.name[0] != '_' and not path.name.startswith('result_'):
                    shutil.copy(path, runtime.cwd)
            text = json.dumps(results).replace(json.dumps(str(made))[1:-1], json.dumps(runtime.cwd)[1:-1])
            self._results = json.loads(text)
            return runtime
        runtime = run(self, runtime)
        first[step] = Path(runtime.cwd), self._results
        return runtime

    def timed(run):
        def timed_run(self, runtime):
            nonlocal inside
            before = time.process_time()
            try:
                return compute(run, self, runtime)
            finally:
                inside += time.process_time() - before

        return timed_run

    waiting = [BaseInterface]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith('bids_qsm') and '_run_interface' in vars(kind):
            kind._run_interface = timed(kind._run_interface)

    work = pool._run

    def run(node):
        # before a step as well: what follows a step counts too
        _note(inside)
        try:
            return work(node)
        finally:
            _note(inside)

    pool._run = run


def _note(inside):
    path = Path(os.environ[METER]) / f'worker-{os.getpid()}.json'
    path.write_text(json.dumps([time.process_time(), inside]))


if METER in os.environ and __name__ == '__mp_main__':
    meter_workers()


def write_template(home):
    """A template of 4 mm in a TemplateFlow folder, made of the embedded one."""
    import nibabel as nib
    from nibabel.processing import resample_to_output

    from bids_qsm.templates.spaces import EMBEDDED, get_template

    fine = get_template(EMBEDDED, home)
    folder = home / f'tpl-{SPACE}'
    folder.mkdir(parents=True)
    for path, name, order in ((fine.t1w, 'T1w', 1), (fine.mask, 'desc-brain_mask', 0)):
        coarse = resample_to_output(nib.load(path), (4, 4, 4), order=order)
        coarse.set_data_dtype('float32' if order else 'uint8')
        coarse.to_filename(folder / f'tpl-{SPACE}_res-01_{name}.nii.gz')


def write_dataset(root, n):
    """``n`` subjects that share one phantom's files; return the dataset and its earlier derivatives."""
    import h5py
    import numpy as np

    from bids_qsm.phantom.dataset import Visit
    from bids_qsm.phantom.dataset import write_dataset as simulate
    from bids_qsm.phantom.gre import Protocol

    protocol = Protocol((4.0, 4.0, 4.0), echo_times=(0.004, 0.009, 0.014), rotation=(12, 0, 0))
    data = simulate(root / 'data', [Visit('001', None, 0, protocol, 4.0)], spacing=2.0)
    given = root / 'given'
    first = given / 'sub-001' / 'anat'
    first.mkdir(parents=True)
    truth = data / 'derivatives' / 'truth' / 'sub-001' / 'anat'
    mask_on_t1w(truth / 'sub-001_desc-brain_mask.nii.gz', data / 'sub-001' / 'anat', first)
    for way in (f'from-T1w_to-{SPACE}', f'from-{SPACE}_to-T1w'):
        with h5py.File(first / f'sub-001_{way}_mode-image_xfm.h5', 'w') as file:
            group = file.create_group('TransformGroup').create_group('0')
            group['TransformType'] = [b'AffineTransform_double_3_3']
            group['TransformParameters'] = np.r_[np.eye(3).ravel(), np.zeros(3)]
            group['TransformFixedParameters'] = np.zeros(3)
    for source in (data / 'sub-001' / 'anat', first):
        for path in list(source.iterdir()):
            for i in range(2, n + 1):
                target = Path(str(path).replace('sub-001', f'sub-{i:03d}'))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)
    (data / 'participants.tsv').write_text(
        '\n'.join(['participant_id', *(f'sub-{i:03d}' for i in range(1, n + 1))]) + '\n'
    )
    return data, given


def mask_on_t1w(mask, raw, folder):
    """Write the true ``mask``, which is on the grid of the series, on that of the T1w image."""
    import nibabel as nib
    from nibabel.processing import resample_from_to

    t1w = nib.load(next(raw.glob('*_T1w.nii.gz')))
    there = resample_from_to(nib.load(mask), t1w, order=0)
    there.set_data_dtype('uint8')
    there.to_filename(folder / 'sub-001_desc-brain_mask.nii.gz')


def measured_run(arguments, meter):
    """Run the command line in this process; return its figures, and memory after each subject."""
    from bids_qsm.app import participant as run
    from bids_qsm.app.cli import main
    from bids_qsm.layout import find

    # it counts on grids of 1 mm; these series take a hundredth of that
    find.require_space = lambda *_: None

    for old in meter.glob('*'):
        old.unlink()
    samples, record = [], run._write_provenance

    def sample(*args):
        record(*args)
        samples.append((time.process_time(), *memory_gb()))

    run._write_provenance = sample
    started, cpu = time.monotonic(), time.process_time()
    try:
        status = main(arguments)
    finally:
        run._write_provenance = record
    if status:
        sys.exit(f'the run failed with status {status}')
    workers = [json.loads(path.read_text()) for path in meter.glob('worker-*.json')]
    return {
        'wall': time.monotonic() - started,
        'main': time.process_time() - cpu,
        'workers': sum(all_ for all_, _ in workers),
        'inside': sum(inside for _, inside in workers),
    }, samples


def memory_gb():
    """Resident memory of this process, and proportional memory of it and all its descendants (GB)."""
    children = {}
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            parent = int(path.read_text().rpartition(')')[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    waiting, total = [os.getpid()], 0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        total += _kilobytes(pid, 'smaps_rollup', 'Pss:')
    return _kilobytes(os.getpid(), 'status', 'VmRSS:') / 1e6, total / 1e6


def _kilobytes(pid, file, key):
    try:
        lines = Path(f'/proc/{pid}/{file}').read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def report(title, figures, samples, n, nprocs):
    """Print the overhead of a run and its memory along the way."""
    outside = figures['workers'] - figures['inside']
    print(f'\n{title}: {n} series, {nprocs} CPUs')
    print(f'{"wall":>10} {"main":>10} {"workers":>10} {"inside":>10} {"overhead":>10}  (s a series)')
    values = [
        figures['wall'],
        figures['main'],
        figures['workers'],
        figures['inside'],
        figures['main'] + outside,
    ]
    print(' '.join(f'{value / n:10.3f}' for value in values))
    print(f'{"series":>10} {"main GB":>10} {"all GB":>10}')
    marks = sorted({0, *(round(len(samples) * k / 8) - 1 for k in range(1, 9))} - {-1})
    for mark in marks:
        _, own, total = samples[mark]
        print(f'{mark + 1:10d} {own:10.3f} {total:10.3f}')


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--series', type=int, default=200)
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument('--work', type=Path, help='folder to work in (a temporary one)')
    parser.add_argument('--reuse', action='store_true', help='compute one series, for all')
    args = parser.parse_args(argv)
    if args.reuse:
        os.environ[REUSE] = '1'
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        root = Path(folder)
        meter = root / 'meter'
        meter.mkdir()
        os.environ.update({METER: str(meter), 'TEMPLATEFLOW_HOME': str(root / 'templates')})
        write_template(root / 'templates')
        data, given = write_dataset(root, args.series)
        arguments = [str(data), str(root / 'out'), 'participant', '-d', f'given={given}', *OPTIONS]
        arguments += ['--nprocs', str(args.nprocs)]
        for title in ('first run', 'run again, all results there'):
            report(title, *measured_run(arguments, meter), args.series, args.nprocs)


if __name__ == '__main__':
    main()
