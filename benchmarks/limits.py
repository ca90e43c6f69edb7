"""Watch a whole run: threads that run at a time against --nprocs, memory of all processes against --mem.

python benchmarks/limits.py OUT [--nprocs 1 2] [--mem 6] [--data BIDS] [-- further options of bids_qsm]

Memory is the sum of the proportional set sizes of the process tree. Threads are those that the kernel has
running or waiting for a CPU, so that a busy machine hides none; a second's mean is taken, as the main process
wakes for moments while workers are busy.
"""

import argparse
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd

from bids_qsm.phantom.dataset import tiny

OVER = 0.25
"""Running threads beyond those asked for that count as none: the main process between two steps."""


def tree(root):
    """Process ``root`` and all that descend from it."""
    children = defaultdict(list)
    for path in Path('/proc').iterdir():
        if path.name.isdigit() and (fields := _stat(path)):
            children[int(fields[1])].append(int(path.name))
    found, left = [], [root]
    while left:
        one = left.pop()
        found.append(one)
        left += children[one]
    return found


def _stat(path):
    """State, parent and so on of a process or thread; empty where it has ended."""
    try:
        return (path / 'stat').read_text().rpartition(') ')[2].split()
    except OSError:
        return []


def running_threads(pids):
    """Threads of ``pids`` that run or wait for a CPU."""
    states = []
    for pid in pids:
        try:
            states += [_stat(path)[:1] for path in Path(f'/proc/{pid}/task').iterdir()]
        except OSError:
            continue
    return states.count(['R'])


def memory_gb(pids):
    """Memory (GB) of ``pids`` together, what they share counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith('Pss:')), 0)
    return total * 1024e-9


class Watch(threading.Thread):
    """Samples a process tree until `end`: (time, running threads) and memory (GB)."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.threads, self.gb = root, [], []
        self._ended = threading.Event()

    def run(self):
        number = 0
        while not self._ended.wait(0.05):
            pids = tree(self.root)
            self.threads.append((time.monotonic(), running_threads(pids)))
            if number % 10 == 0:
                self.gb.append(memory_gb(pids))
            number += 1

    def end(self):
        """Stop; return the largest mean of threads over a second, the overall mean, and the most memory."""
        self._ended.set()
        self.join()
        start = self.threads[0][0]
        seconds = defaultdict(list)
        for moment, count in self.threads:
            seconds[int(moment - start)].append(count)
        means = [sum(counts) / len(counts) for counts in seconds.values()]
        return max(means), sum(count for _, count in self.threads) / len(self.threads), max(self.gb)


def watch(command):
    """Run ``command``; return its exit status, seconds and what `Watch.end` says."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    sampler = Watch(process.pid)
    sampler.start()
    status = process.wait()
    return status, time.monotonic() - started, *sampler.end()


def main(argv=None):
    """Run and watch each number of CPUs; print the table; return 1 where a run took more than was allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder for the dataset and the results')
    parser.add_argument('--nprocs', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--mem', type=float, default=6, help='GB')
    parser.add_argument('--data', type=Path, help='dataset to run (that of tests)')
    args, more = parser.parse_known_args(argv)
    data = args.data or args.out / 'data'
    if not data.exists():
        tiny(data)
    rows = []
    for nprocs in args.nprocs:
        out = args.out / f'nprocs-{nprocs}'
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'participant']
        command += ['--nprocs', str(nprocs), '--mem', f'{args.mem:g}', '--skip-bids-validation', *more]
        status, seconds, threads, mean, gb = watch([part for part in command if part != '--'])
        rows.append(
            {
                'nprocs': nprocs,
                'status': status,
                'seconds': seconds,
                'threads (mean)': mean,
                'threads (busiest second)': threads,
                'memory (GB)': gb,
                '--mem (GB)': args.mem,
                'kept': status == 0 and mean <= nprocs + OVER and gb <= args.mem,
            }
        )
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f'{v:.2f}'))
    return int(not table['kept'].all())


if __name__ == '__main__':
    sys.exit(main())
