"""Compute the same in two ways and compare every byte of what comes of it.

python benchmarks/reproducible.py [threads] [participant] [group] [--mm 2] [--folder FOLDER]

threads: each method of each registry, and the steps without a choice, with 1, 2 and 4 threads. participant: a
phantom from its raw images to tables and report, with registration. group: models, bootstrap, permutations
and a study template of a made-up cohort. The last two are done once with one process and once with two of two
threads each, in another folder, with another order of sets, locale, time zone and matplotlibrc.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import disturb  # noqa: E402

from bids_qsm.phantom.dataset import tiny  # noqa: E402
from tests.cohorts import write_cohort  # noqa: E402
from tests.group.test_images import write_maps  # noqa: E402

THREADS = (1, 2, 4)
# without the coercion Python takes the locale C for ASCII
ASCII = {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}
WAYS = (
    ('one', 1, {'PYTHONHASHSEED': '1', 'LC_ALL': 'C.UTF-8', 'TZ': 'UTC'}),
    ('twö, again', 2, {'PYTHONHASHSEED': '2', 'TZ': 'Asia/Tokyo', **ASCII}),
)
"""Names of the outputs, processes (and threads), and environments of two runs."""


def run_twice(root, command_of):
    """Run ``command_of(output, processes)`` in both ways; return the outputs."""
    outs = []
    for name, n, environment in WAYS:
        out = Path(root) / name / 'out'
        folder = out.parent / 'here'
        folder.mkdir(parents=True)
        (folder / 'matplotlibrc').write_text(f'font.size: {10 + 5 * n}\naxes.facecolor: red\n')
        ran = subprocess.run(
            command_of(out, str(n)),
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            encoding='utf-8',
            check=False,
            timeout=3600,
        )
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        outs.append(out)
    return outs


def compare(outs):
    """How many files two outputs have, and the names of those that differ."""
    return len(disturb.results(outs[0])), disturb.differences(*outs)


def compare_threads(numbers=THREADS, mm: float = 3.0):
    """How many results of steps there are, and the names of those that depend on the number of threads."""
    command = [sys.executable, '-m', 'tests.steps', ','.join(map(str, numbers)), str(mm)]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found = json.loads(ran.stdout)
    return len(found[0]), [name for name in found[0] if len({one[name] for one in found}) > 1]


def compare_participant(root):
    data = tiny(root / 'data')
    command = [sys.executable, '-m', 'bids_qsm', str(data)]
    options = ['participant', '--skip-bids-validation', '--candidates']
    return compare(
        run_twice(root, lambda out, n: [*command, str(out), *options, '--nprocs', n, '--omp-nthreads', n])
    )


def compare_group(root):
    def command(out, n):
        data = make_cohort(out)
        asked = ['--model', 'chi ~ group + age', '--correlate', 'dystonia:GP', 'parkinsonism:SN']
        asked += ['--voxelwise', 'permutation', '--study-template', '1', '--nprocs', n]
        return [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'group', *asked]

    return compare(run_twice(root, command))


def make_cohort(out, n=8):
    """Tables and maps of a cohort in the output ``out``; return its raw dataset."""
    data, _ = write_cohort(out.parent, n=n, repeated=1)
    rng = np.random.default_rng(0)
    for folder in sorted(out.glob('sub-*')):
        is_patient = int(folder.name[-1]) % 2 == 0
        for session in sorted(folder.glob('ses-*')):
            write_maps(out, f'{folder.name}_{session.name}', is_patient, rng)
    return data


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('what', nargs='*', default=['threads', 'participant', 'group'])
    parser.add_argument('--mm', type=float, default=2.0, help='voxels of the arrays for threads')
    parser.add_argument('--folder', type=Path, help='keep the outputs here')
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp())
    work = {
        'threads': lambda: compare_threads(mm=args.mm),
        'participant': lambda: compare_participant(folder / 'participant'),
        'group': lambda: compare_group(folder / 'group'),
    }
    rows = [(what, *work[what]()) for what in args.what]
    table = pd.DataFrame(rows, columns=['what', 'compared', 'different'])
    print(
        table.assign(
            which=table['different'].map(', '.join), different=table['different'].map(len)
        ).to_string()
    )
    return int(table['different'].map(len).any())


if __name__ == '__main__':
    sys.exit(main())
