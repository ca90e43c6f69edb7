"""Seconds, FFT pairs and peak memory of every registered method, of the default chain, and of FFT engines.

python benchmarks/speed.py [--quick] [--parts methods chain fft] [--methods tkd tv ...] [--threads 1 2]

Each method runs in a process of its own, after a tiny scan on which numba compiles. Rows go to results/*.tsv
as they come.
"""

import argparse
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import FOLDER, Table, write_machine

PARTS = ('methods', 'chain', 'fft')
VOXEL, SHAPE = 1.3, (160, 160, 128)
"""The scan of the table of methods: a whole head on the grid that peers were timed on."""
HELPERS = ('offset', 'quality', 'refine', 'minip')
"""Steps without a choice of method."""
NOT_TIMED = ('registration',)
FFT_SHAPES = ((256, 256, 160), (160, 192, 160))
"""The size of the field's tables, and the padded box of a 1 mm brain."""
ENOUGH = 2.0
"""Repeat what is quicker than this (s), and take the best."""


def prepare(folder, quick):
    """Simulate the scans and run the default chain on them; the data of every step go to ``folder``."""
    from chain import STEPS, Chain
    from conditions import Condition, scan

    scale = 3.0 if quick else 1.0
    train = (0.006, 0.012, 0.018, 0.024)
    fov = tuple(VOXEL * n for n in SHAPE)
    cases = {
        'tiny': Condition('tiny', (6.0,) * 3, echo_times=train),
        'scan': Condition('scan', (scale * VOXEL,) * 3, echo_times=train, fov=fov),
        'head': Condition('head', (scale,) * 3),
    }
    for name, condition in cases.items():
        data = scan(condition, 0, cache=folder).data
        if name == 'scan':
            data = Chain(data).run(STEPS).data
        (folder / f'{name}.pickle').write_bytes(pickle.dumps(data, protocol=5))


def load(folder, name):
    return pickle.loads((folder / f'{name}.pickle').read_bytes())


def fft_pair(shape, repeats=5):
    """CPU seconds of one float32 transform and its inverse, by the project's engine: the best of a few."""
    import numpy as np

    from bids_qsm.recon.fourier import irfft, rfft

    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return best(lambda: irfft(rfft(x), shape), repeats)[1]


def best(function, repeats):
    """Wall and CPU seconds, each the least of some calls: others may share the machine."""
    walls, processor = zip(*(timed(function) for _ in range(repeats)), strict=True)
    return min(walls), min(processor)


def timed(function):
    """Wall and CPU seconds of a call."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


class Memory:
    """Peak resident memory (bytes) above that at entry, by the kernel's own count."""

    def __enter__(self):
        Path('/proc/self/clear_refs').write_text('5')
        self._before = self._read('VmRSS')
        return self

    def __exit__(self, *_):
        self.peak = self._read('VmHWM') - self._before

    @staticmethod
    def _read(name):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(name + ':'):
                return 1024 * int(line.split()[1])
        raise RuntimeError(f'/proc/self/status has no {name}')


def watch_boxes():
    """List that will hold the number of voxels of each padded box that is made."""
    import numpy as np

    from bids_qsm.recon.fourier import Box

    sizes, around = [], Box.around

    def watched(*args, **kwargs):
        box = around(*args, **kwargs)
        sizes.append(int(np.prod(box.shape)))
        return box

    Box.around = watched
    return sizes


def measure_method(folder, step, method):
    """Seconds (wall and CPU), FFT pairs, and bytes a voxel of the padded grid, of one method."""
    import numpy as np
    from chain import STEPS, Chain

    from bids_qsm.recon.swi import minip

    choices = {} if step in HELPERS else {step: method}
    warm = Chain(load(folder, 'tiny'))
    warm.run(STEPS[: STEPS.index(step) if step in STEPS else len(STEPS)])
    chain = Chain(warm.data, choices)

    def run():
        if step == 'minip':
            minip(chain.data['swi'], chain.data['grid'])
        else:
            chain.run([step])

    run()
    chain.data = load(folder, 'scan')
    before = dict(chain.data)
    pair = fft_pair(chain.data['grid'].shape)
    sizes = watch_boxes()
    with Memory() as memory:
        times = [timed(run)]
    while sum(wall for wall, _ in times) < ENOUGH and len(times) < 5:
        chain.data = dict(before)
        times.append(timed(run))
    wall, cpu = (min(t) for t in zip(*times, strict=True))
    voxels = max(sizes, default=int(np.prod(chain.data['grid'].shape)))
    return {
        'seconds': wall,
        'cpu': cpu,
        'pairs': cpu / pair,
        'bytes_per_voxel': memory.peak / voxels,
    }


def measure_chain(folder):
    """Seconds and peak GiB of each step of the default chain on a 1 mm head."""
    from chain import Chain

    Chain(load(folder, 'tiny')).run()
    chain = Chain(load(folder, 'head'))
    pair = fft_pair(chain.data['grid'].shape)
    rows = []
    for step in chain.steps:
        with Memory() as memory:
            seconds, cpu = timed(lambda step=step: chain.run([step]))
        rows.append(
            {
                'step': step,
                'method': str(chain.methods[step]) if step in chain.methods else '',
                'seconds': seconds,
                'cpu': cpu,
                'pairs': cpu / pair,
                'peak_gib': memory.peak / 2**30,
            }
        )
    return rows


def measure_fft(threads):
    """Milliseconds of a transform and its inverse by engine and shape: CPU of one thread, wall of more."""
    import numpy as np
    import scipy.fft

    rows = []
    for shape in FFT_SHAPES:
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

        def with_scipy(x=x, shape=shape):
            scipy.fft.irfftn(scipy.fft.rfftn(x, workers=threads), s=shape, workers=threads, overwrite_x=True)

        engines = {'scipy.fft': with_scipy}
        if importlib.util.find_spec('pyfftw'):
            import pyfftw

            real = pyfftw.empty_aligned(shape, 'float32')
            half = pyfftw.empty_aligned((*shape[:2], shape[2] // 2 + 1), 'complex64')
            options = {'axes': (0, 1, 2), 'threads': threads}
            forward = pyfftw.FFTW(real, half, flags=('FFTW_MEASURE',), **options)
            backward = pyfftw.FFTW(
                half,
                real,
                direction='FFTW_BACKWARD',
                flags=('FFTW_MEASURE', 'FFTW_DESTROY_INPUT'),
                **options,
            )
            real[...] = x
            engines['pyFFTW'] = lambda forward=forward, backward=backward: (forward(), backward())
        if importlib.util.find_spec('ducc0'):
            import ducc0

            def with_ducc(x=x, shape=shape):
                spectrum = ducc0.fft.r2c(x, nthreads=threads)
                ducc0.fft.c2r(spectrum, lastsize=shape[2], forward=False, inorm=2, nthreads=threads)

            engines['ducc0'] = with_ducc
        for engine, function in engines.items():
            wall, cpu = best(function, 7)
            seconds = cpu if threads == 1 else wall
            rows.append({'engine': engine, 'shape': 'x'.join(map(str, shape)), 'ms': 1e3 * seconds})
    return rows


def in_process(folder, threads, *words):
    """What ``--measure words`` prints, from a fresh process with so many threads."""
    names = ('NUMBA_NUM_THREADS', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
    command = [sys.executable, __file__, '--folder', str(folder), '--measure', *words]
    done = subprocess.run(
        command, env={**os.environ, **dict.fromkeys(names, str(threads))}, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f'ended with {done.returncode}']
        return {'error': said[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder, words):
    """Print the measurement that ``words`` name as JSON."""
    if words[0] == 'fft':
        found = measure_fft(int(words[1]))
    elif words[0] == 'chain':
        found = measure_chain(folder)
    else:
        found = measure_method(folder, *words)
    print(json.dumps(found))


def tables(folder, results, parts, threads, wanted, missing):
    """Measure and write the tables."""
    from bids_qsm.app.methods import registries

    if 'methods' in parts:
        table = Table(results / 'speed.tsv', ('step', 'method', 'threads'))
        cases = [(step, step) for step in HELPERS]
        known = registries()
        cases += [(step, name) for step, names in known.items() if step not in NOT_TIMED for name in names]
        for step, name in cases:
            for n in threads:
                key = {'step': step, 'method': name, 'threads': n}
                if (not wanted or name in wanted) and not (missing and key in table):
                    table.put({**key, **in_process(folder, n, step, name)})
    if 'chain' in parts:
        table = Table(results / 'speed_chain.tsv', ('step', 'threads'))
        for n in threads:
            found = in_process(folder, n, 'chain')
            if isinstance(found, dict):
                raise RuntimeError(found['error'])
            for row in found:
                table.put({'threads': n, **row})
    if 'fft' in parts:
        table = Table(results / 'speed_fft.tsv', ('engine', 'shape', 'threads'))
        for n in threads:
            for row in in_process(folder, n, 'fft', str(n)):
                table.put({'threads': n, **row})


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--methods', nargs='+', help='only these', metavar='NAME')
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--quick', action='store_true', help='a third of the size along each axis')
    parser.add_argument('--missing', action='store_true', help='skip methods that are in the results')
    parser.add_argument('--results', type=Path, default=FOLDER)
    parser.add_argument('--folder', type=Path, help='keep the scans here for the next time')
    parser.add_argument('--measure', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.measure:
        measure(args.folder, args.measure)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / 'head.pickle').exists() and set(args.parts) != {'fft'}:
            # in a process of its own, so that its memory is free again
            from concurrent.futures import ProcessPoolExecutor
            from multiprocessing import get_context

            with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                pool.submit(prepare, folder, args.quick).result()
        write_machine(args.results)
        tables(folder, args.results, args.parts, args.threads, args.methods, args.missing)


if __name__ == '__main__':
    main()
