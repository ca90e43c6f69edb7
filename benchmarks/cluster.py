"""Run a dataset on a SLURM cluster, with a task killed and submitted again, and compare it with a local run.

python benchmarks/cluster.py FOLDER [--series 8] [--tasks 4] [-- further options of bids_qsm]

Needs sbatch, with a cluster behind it that sees FOLDER. Prints a table and leaves all in FOLDER: data and the
outputs of a local run, of an array of tasks with the group level after them, and of one master that submits
each step as a job by Nipype's SLURM plugin.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from compare_outputs import differences
from nibabel.processing import resample_from_to

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol

SPACE = 'MNI152NLin2009aSym'


def make_dataset(root, n):
    """Write ``n`` subjects of one coarse series each to ``root/data``, no two alike; return it.

    ``root/derivatives`` holds their brain masks and their alignment with the template, which would take far
    longer than all the rest.
    """
    data, derivatives = root / 'data', root / 'derivatives'
    visits = []
    for i in range(n):
        voxel, times = (4.0, 4.0, 4.0 + i % 2), (0.004, 0.009, 0.014)[: 2 + i % 2]
        visits.append(Visit(f'{i + 1:02}', None, 0, Protocol(voxel, echo_times=times), 4.0))
    write_dataset(data, visits, spacing=2.0)
    for visit in visits:
        folder = derivatives / visit.folder
        folder.mkdir(parents=True)
        t1w = nib.load(data / visit.folder / f'{visit.stem}_T1w.nii.gz')
        mask = nib.load(
            data / 'derivatives' / 'truth' / visit.folder / f'{visit.stem}_desc-brain_mask.nii.gz'
        )
        inside = np.asarray(resample_from_to(mask, t1w, order=0).dataobj, np.uint8)
        nib.Nifti1Image(inside, t1w.affine).to_filename(folder / f'{visit.stem}_desc-brain_mask.nii.gz')
        for a, b in (('T1w', SPACE), (SPACE, 'T1w')):
            write_identity(folder / f'{visit.stem}_from-{a}_to-{b}_mode-image_xfm.h5')
    return data


def write_identity(path):
    """An ITK composite that moves nothing: the heads lie near the template."""
    with h5py.File(path, 'w') as file:
        group = file.create_group('TransformGroup')
        group.create_group('0')['TransformType'] = [b'CompositeTransform_double_3_3']
        affine = group.create_group('1')
        affine['TransformType'] = [b'AffineTransform_double_3_3']
        affine['TransformParameters'] = np.r_[np.eye(3).ravel(), np.zeros(3)]
        affine['TransformFixedParameters'] = np.zeros(3)


def bids_qsm(*words):
    """Run the command line; its output, and an error where it fails."""
    ran = subprocess.run(
        [sys.executable, '-m', 'bids_qsm', *map(str, words)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f'bids_qsm {words[0]} ... ended with {ran.returncode}: {ran.stderr[-2000:]}')
    return ran.stdout


def ask(*words):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


def slurm(*words):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True).stdout.strip()


def wait_for(condition, what, *, seconds):
    """Wait until ``condition()`` holds; TimeoutError naming ``what`` otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f'{what}: not within {seconds} s')
        time.sleep(0.5)


def states(job):
    """State of each task of a job (or of the one job, as task 0) that the controller remembers."""
    found = {}
    # the controller forgets jobs some minutes after their end
    said = ask('scontrol', '--oneliner', 'show', 'job', job)
    for record in said.stdout.splitlines() if not said.returncode else ():
        fields = dict(word.split('=', 1) for word in record.split() if '=' in word)
        task = fields.get('ArrayTaskId', '0')
        if task.isdecimal():
            found[int(task)] = f'{fields["JobState"]} {fields["ExitCode"]}', fields['RunTime']
    return found


def wait_for_end(job, *, seconds):
    """Wait until no task of a job is queued or runs; the last state of each."""
    last = {}

    def is_over():
        last.update(states(job))
        said = ask('squeue', '--noheader', '--format=%i', f'--jobs={job}')
        if said.returncode and 'Invalid job id' not in said.stderr:
            return False  # a busy controller
        return not said.stdout.strip()

    wait_for(is_over, f'end of job {job}', seconds=seconds)
    return last | states(job)


def run_array(data, out, options, *, tasks, killed):
    """Run the scripts that bids_qsm slurm writes, kill task ``killed``, submit it again; return a table.

    RuntimeError where the task was through before it was killed, which would show nothing.
    """
    print(bids_qsm('slurm', data, out, '--tasks', tasks, '--cpus', 1, *options))
    scripts = out / 'slurm'
    said = slurm('bash', scripts / 'submit.sh')
    print(said)
    array, group = re.findall(r'job (\d+)', said)
    log = scripts / 'logs' / f'participant-{array}_{killed}.log'
    wait_for(lambda: log.exists() and log.read_text().count('\n') > 20, log, seconds=3600)
    ask('scancel', '--signal=KILL', '--full', f'{array}_{killed}')
    ended = wait_for_end(array, seconds=7200)
    rows = [(f'task {n} of {tasks}', *state) for n, state in sorted(ended.items())]
    rows.append(('group, without what was killed', *wait_for_end(group, seconds=3600)[0]))
    missing = sorted(path.name for path in data.glob('sub-*') if not (out / f'{path.name}.html').exists())
    if ended[killed][0].startswith('COMPLETED') or not missing:
        raise RuntimeError(
            f'task {killed} was {ended[killed][0]} when it was to be killed; give more series.'
        )
    rows.append((f'reports missing after the kill: {" ".join(missing)}', str(len(missing)), ''))
    again = slurm('sbatch', '--parsable', f'--array={killed}', scripts / 'participant.sh')
    group = slurm('sbatch', '--parsable', f'--dependency=afterok:{again}', scripts / 'group.sh')
    rows.append((f'task {killed} submitted again alone', *wait_for_end(again, seconds=7200)[killed]))
    rows.append(('group', *wait_for_end(group, seconds=3600)[0]))
    return rows


def run_nodes(data, out, options):
    """Run each step as a job of its own."""
    plugin = Path(__file__).parent.parent / 'hpc' / 'nipype-slurm.yml'
    bids_qsm(data, out, 'participant', '--use-plugin', plugin, '--nprocs', 2, *options)
    bids_qsm(data, out, 'group', '--nprocs', 1, *options)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--series', type=int, default=8)
    parser.add_argument('--tasks', type=int, default=4)
    parser.add_argument('--nodes', action='store_true', help="also by Nipype's SLURM plugin, much slower")
    parser.add_argument('options', nargs='*', help='options of bids_qsm, after --')
    args = parser.parse_args(words)
    if min(args.tasks, args.series) < 2:
        parser.error('give two tasks and two series, or more: the second task is killed')
    folder = args.folder.absolute()
    data = folder / 'data'
    if not data.exists():
        make_dataset(folder, args.series)
    options = ['--skip-bids-validation', '-d', f'own={folder / "derivatives"}', *args.options]
    started = time.monotonic()
    bids_qsm(data, folder / 'local', 'participant', '--nprocs', 2, *options)
    bids_qsm(data, folder / 'local', 'group', '--nprocs', 2, *options)
    rows = [('local run, 2 CPUs, with group', 'done', f'{time.monotonic() - started:.0f} s')]
    rows += run_array(data, folder / 'array', options, tasks=args.tasks, killed=2)
    compared = ['array']
    if args.nodes:
        started = time.monotonic()
        run_nodes(data, folder / 'nodes', options)
        rows.append(('each step a job, with group', 'done', f'{time.monotonic() - started:.0f} s'))
        compared.append('nodes')
    bad = 0
    for name in compared:
        equal, unequal = differences(folder / 'local', folder / name)
        rows.append((f'{name}: files equal to those of the local run', f'{len(equal)}', ''))
        rows.append(
            (f'{name}: files that differ or lack', f'{len(unequal)}', ' '.join(map(str, unequal[:5])))
        )
        bad += len(unequal)
    print('| what | state | time |\n| --- | --- | --- |')
    for row in rows:
        print(f'| {" | ".join(row)} |')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
