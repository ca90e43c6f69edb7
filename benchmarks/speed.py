"""Time and memory of the reconstruction, step by step: python benchmarks/speed.py [--size small]."""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numba
import numpy as np

from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.field import fit_field
from bids_qsm.recon.fourier import irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.phase import remove_offset
from bids_qsm.recon.reference import REFERENCE
from bids_qsm.recon.registry import call
from bids_qsm.recon.relaxation import fit_arlo
from bids_qsm.recon.swi import minip, swi
from bids_qsm.recon.unwrap import UNWRAP, voxel_quality

SIZES = {'small': (4.0, (176.0, 224.0, 176.0)), 'full': (1.0, (180.0, 224.0, 180.0))}


class Chain:
    """The default chain on one series; every step leaves its result in ``data``."""

    def __init__(self, simulation):
        grid = Grid.from_affine(simulation.phase.shape, simulation.affine)
        self.field_strength = simulation.protocol.field_strength
        self.data = {
            'magnitude': simulation.magnitude,
            'phase': simulation.phase,
            'echo_times': simulation.protocol.echo_times,
            'grid': grid,
            'brain': simulation.truth['mask'],
        }

    def step(self, registry):
        """Run the default, the first entry of a registry."""
        return call(next(iter(registry.values())), self.data, {})

    def offset(self):
        d = self.data
        names = ('phase', 'magnitude', 'brain', 'echo_times', 'grid')
        d['phase'], _ = remove_offset(*(d[n] for n in names))

    def quality(self):
        self.data['quality'] = voxel_quality(*(self.data[n] for n in ('phase', 'magnitude', 'echo_times')))

    def mask(self):
        self.data['mask'] = self.step(MASK)

    def unwrap(self):
        self.data['unwrapped'] = self.step(UNWRAP)

    def field(self):
        d = self.data
        names = ('unwrapped', 'magnitude', 'mask', 'echo_times')
        d['field'], d['noise'], _ = fit_field(*(d[n] for n in names), field_strength=self.field_strength)

    def background(self):
        self.data['field'], self.data['mask'] = self.step(BACKGROUND)

    def inversion(self):
        self.data['chi'] = self.step(INVERSION)

    def relaxation(self):
        d = self.data
        d['r2star'] = fit_arlo(d['magnitude'], d['mask'], d['echo_times'])[0]

    def reference(self):
        self.data['offset'] = self.step(REFERENCE)[0]

    def swi(self):
        d = self.data
        names = ('magnitude', 'unwrapped', 'mask', 'echo_times', 'grid')
        d['swi'] = swi(*(d[n] for n in names))
        d['minip'] = minip(d['swi'], d['grid'])


STEPS = (
    'offset',
    'quality',
    'mask',
    'unwrap',
    'field',
    'relaxation',
    'swi',
    'background',
    'inversion',
    'reference',
)


def fft_pair(shape, repeats=5):
    """Seconds of one float32 rfftn and irfftn of this shape: the best of a few."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        irfft(rfft(x), shape)
        times.append(time.perf_counter() - start)
    return min(times)


def peak_gib():
    """Peak resident memory of this process (GiB); Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(simulation):
    """Print a table of seconds, FFT pairs and peak memory per step; return the chain."""
    chain = Chain(simulation)
    shape = chain.data['grid'].shape
    pair = fft_pair(shape)
    print(f'{shape[0]} x {shape[1]} x {shape[2]}, {simulation.phase.shape[3]} echoes')
    print(f'{numba.get_num_threads()} threads, FFT pair {pair:.3f} s; memory before {peak_gib():.2f} GiB')
    print('| step | s | FFT pairs | peak GiB so far |\n|---|---|---|---|')
    total = 0.0
    for name in STEPS:
        start = time.perf_counter()
        getattr(chain, name)()
        seconds = time.perf_counter() - start
        total += seconds
        print(f'| {name} | {seconds:.2f} | {seconds / pair:.1f} | {peak_gib():.2f} |', flush=True)
    print(f'| total | {total:.2f} | {total / pair:.1f} | {peak_gib():.2f} |')
    return chain


def error(chain, truth):
    """NRMSE (%) of chi, demeaned inside its mask."""
    mask = chain.data['mask'] & truth['mask']
    chi, true = (v[mask] - v[mask].mean() for v in (chain.data['chi'], truth['chi']))
    return 100 * np.linalg.norm(chi - true) / np.linalg.norm(true)


def simulated(size, seed):
    """A tiny scan and one of ``size``, of the same head."""
    head = make_head(seed)
    voxel, fov = SIZES[size]
    protocol = Protocol(rotation=(10.0, 5.0, 0.0), fov=fov)
    tiny = replace(protocol, voxel_size=(6.0,) * 3)
    return simulate(head, tiny, seed), simulate(head, replace(protocol, voxel_size=(voxel,) * 3), seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', choices=SIZES, default='full')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    # the scans are made in a process of their own, whose memory does not count here
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        tiny, simulation = pool.submit(simulated, args.size, args.seed).result()
    # numba compiles on a tiny scan, so that the table holds work alone
    warm = Chain(tiny)
    for name in STEPS:
        getattr(warm, name)()
    chain = report(simulation)
    print(f'NRMSE of chi {error(chain, simulation.truth):.1f} %')


if __name__ == '__main__':
    main()
