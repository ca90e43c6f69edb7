"""Measure the memory and threads of every step and method against what its node declares.

python benchmarks/memory.py OUT [--cases small tall slab large] [--whole]

The reconstruction runs step by step in this process on a made-up head of each size, and the steps that have
a choice of methods again with each; --whole runs the graph of a whole simulated subject, for the anatomy,
labels and figures. The peak is what a step holds beyond what the process held before. Every
step is run on a coarse head first, for code and caches to be there.
"""

import argparse
import ctypes
import gc
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.app.methods import Method, registries
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph
from bids_qsm.layout import find_series
from bids_qsm.layout.series import Series
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.recon.registry import facts, needs, parameters
from bids_qsm.threads import set_threads
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.series import init_series_phase_wf, init_series_recon_wf

CASES = {
    'coarse': ((48, 56, 44), (4.0, 4.0, 4.0), 3),
    'single': ((96, 112, 88), (2.0, 2.0, 2.0), 1),
    'small': ((96, 112, 88), (2.0, 2.0, 2.0), 4),
    'tall': ((96, 112, 88), (2.0, 2.0, 2.0), 8),
    'slab': ((192, 208, 32), (1.0, 1.0, 2.0), 4),
    'large': ((144, 168, 128), (1.3, 1.3, 1.3), 5),
}
"""Voxels, voxel size (mm) and echoes."""
FEW = Method('dipy', (('whole_iterations', (3, 2, 2)), ('box_iterations', (2, 2))))
"""The memory of registration does not depend on the number of its iterations."""
STEPS = {
    'make_mask': 'mask',
    'unwrap_phase': 'unwrap',
    'fit': 'field',
    'remove': 'background',
    'invert': 'inversion',
    'relaxation': 'r2star',
    'refer': 'reference',
    'weigh': 'swi',
}
"""Nodes that have a choice of methods, and the option that makes it."""


def resident_gb(field='VmRSS'):
    """Memory of this process (GB); 'VmHWM' is the most since `reset`."""
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines[field].split()[0]) * 1024e-9


def reset():
    """Give free memory back to the system and forget the peak; return what is held (GB)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    return resident_gb()


def seconds_of_threads():
    """CPU seconds of each thread of this process."""
    found = {}
    for path in Path('/proc/self/task').iterdir():
        fields = (path / 'stat').read_text().rpartition(') ')[2].split()
        found[path.name] = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
    return found


class Measurement:
    """What one step takes, from here to `end`: memory (GB) and threads that share its work."""

    def __init__(self):
        self._seconds, self.before_gb = seconds_of_threads(), reset()

    def end(self):
        self.peak_gb = resident_gb('VmHWM') - self.before_gb
        spent = [t - self._seconds.get(name, 0) for name, t in seconds_of_threads().items()]
        # steps of some hundredths of a second cannot be told from the clock's ticks
        self.threads = sum(spent) / max(spent) if sum(spent) > 0.3 else float('nan')
        return self


class Meter:
    """A status callback that measures the nodes of a graph run one after another."""

    def __init__(self):
        self.found = []
        self._running = None

    def __call__(self, node, status):
        if status == 'start':
            cached = (Path(node.output_dir()) / f'result_{node.name}.pklz').exists()
            self._running = None if cached else Measurement()
        elif status == 'end' and self._running and not isinstance(node.interface, IdentityInterface):
            self.found.append((node, self._running.end()))


def make_head(folder, shape, voxel, n_echoes):
    """Write the images of an ellipsoidal head with a brain that fills it; return them as a Series."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    inside = (x / 0.9) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2 < 1
    field = 60 * (x * y + 0.5 * z**2 - 0.3 * y) + 15 * np.sin(9 * x) * np.sin(8 * y + 7 * z)  # Hz
    rate = 20 + 15 * np.cos(6 * x) * np.cos(5 * y) * np.cos(7 * z)
    affine = np.diag([*voxel, 1.0])
    times = tuple(0.004 * (i + 1) for i in range(n_echoes))
    files = {'magnitude': [], 'phase': []}
    for i, time in enumerate(times):
        signal = inside * 500 * np.exp(-time * rate + 1j * (2 * np.pi * time * field + 0.4))
        signal = signal + rng.normal(0, 8, shape) + 1j * rng.normal(0, 8, shape)
        for part, image in (('magnitude', abs(signal)), ('phase', np.angle(signal))):
            path = folder / f'echo-{i}_{part}.nii.gz'
            nib.Nifti1Image(image.astype(np.float32), affine).to_filename(path)
            files[part].append(path)
    nib.Nifti1Image(inside.astype(np.uint8), affine).to_filename(folder / 'brain.nii.gz')
    return Series(
        subject='01', session=None, entities=(('sub', '01'),), suffix='MEGRE', real=(), imag=(),
        magnitude=tuple(files['magnitude']), phase=tuple(files['phase']), echo_times=times,
        field_strength=3.0, manufacturer=None, repetition_time=None, flip_angle=None,
        shape=shape, voxel_size=voxel, b0_dir=(0.0, 0.0, 1.0),
    )  # fmt: skip


def run(workflow, folder):
    """Run a workflow here, one step after another; (node, Measurement) of each step."""
    workflow.base_dir = str(folder)
    workflow.config['execution'] = {'crashdump_dir': str(folder), 'create_report': 'false'}
    meter = Meter()
    workflow.run(plugin='Linear', plugin_args={'status_callback': meter})
    return meter.found


def measure_recon(folder, case, threads):
    """Rows of the reconstruction of a case, of each of its steps with each method."""
    shape, voxel, n_echoes = CASES[case]
    series = make_head(folder, shape, voxel, n_echoes)
    options = Options(
        bids_dir=folder,
        output_dir=folder / 'out',
        level='participant',
        # two passes take twice the time, and need the memory of one
        mask=Method('two_pass' if case in ('coarse', 'small') else 'combined'),
        inversion=Method('tv', (('max_iterations', 2),)),
    )
    chain = pe.Workflow(name=case)
    phase_wf = init_series_phase_wf(series=series, options=options, omp_nthreads=threads, name='phase_wf')
    recon_wf = init_series_recon_wf(series, options, threads)
    recon_wf.inputs.inputnode.brain = str(folder / 'brain.nii.gz')
    ports = ('magnitude', 'phase', 'combined', 'quality')
    chain.connect([(phase_wf, recon_wf, [(f'outputnode.{p}', f'inputnode.{p}') for p in ports])])
    found = run(chain, folder)
    nodes = {node.name: node for node, _ in found if 'strict_wf' not in node.fullname}
    for node, measured in found:
        method = getattr(node.interface.inputs, 'method', '') if node.name in STEPS else ''
        yield _row(case, node.name, method, node, node.mem_gb, measured)
    sizes = Sizes.of(series)
    for name, step in STEPS.items():
        for method, function in registries()[step].items() if name in nodes else ():
            node = nodes[name]
            if method == node.interface.inputs.method:
                continue
            chosen = {'method': method, 'params': {}}
            if 'max_iterations' in parameters(function):
                chosen['params'] = {'max_iterations': 2}
            if 'total' in needs(function):
                chosen['field'] = nodes['fit'].result.outputs.field
            if step == 'swi' and 'chi' in needs(function):
                chosen['chi'] = nodes['refer'].result.outputs.chi
            interface = type(node.interface)(**{**node.interface.inputs.get_traitsfree(), **chosen})
            cwd = folder / f'{name}-{method}'
            cwd.mkdir()
            measured = Measurement()
            interface.run(cwd=str(cwd))
            yield _row(case, name, method, node, need(facts(function).memory, sizes), measured.end())


def measure_whole(folder, threads):
    """Rows of all steps of a subject with a coarse series and a T1w image of 1 mm."""
    protocol = Protocol((4.0, 4.0, 4.0), (192, 224, 176), (0.005, 0.01, 0.015))
    data = folder / 'data'
    if not data.exists():
        write_dataset(folder / 'part', [Visit('01', None, 1, protocol, 1.0)], spacing=2.0)
        (folder / 'part').rename(data)
    options = Options(
        bids_dir=data, output_dir=folder / 'out', level='participant', skip_bids_validation=True,
        registration=FEW, applications=(Method('candidates'),), nprocs=threads, omp_nthreads=threads,
    )  # fmt: skip
    options.work_dir.mkdir(parents=True, exist_ok=True)
    workflow, _ = build_graph(options, find_series(options))
    for node, measured in run(workflow, folder):
        yield _row('whole', node.fullname.partition('_wf.')[2], '', node, node.mem_gb, measured)


def _row(case, step, method, node, declared, measured):
    return {
        'case': case,
        'step': step,
        'method': method,
        'peak_gb': measured.peak_gb,
        'declared_gb': declared,
        'ratio': declared / measured.peak_gb,
        'threads': measured.threads,
        'n_procs': node.n_procs,
        'before_gb': measured.before_gb,
    }


def main(argv=None):
    """Measure the cases asked for and print the table; return 1 where a step takes more than it declares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder for the dataset of --whole and the table, memory.tsv')
    parser.add_argument('--cases', nargs='*', choices=CASES, default=[c for c in CASES if c != 'coarse'])
    parser.add_argument('--whole', action='store_true', help='also measure the graph of a whole subject')
    parser.add_argument('--threads', type=int, default=2, help='of a step that can use several')
    args = parser.parse_args(argv)
    set_threads(args.threads)
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []

    def keep(found):
        for row in found:
            rows.append(row)
            pd.DataFrame(rows).to_csv(folder / 'memory.tsv', sep='\t', index=False, float_format='%.4f')

    for case in dict.fromkeys(['coarse', *args.cases]):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            keep(measure_recon(Path(work), case, args.threads))
    if args.whole:
        keep(measure_whole(folder, args.threads))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f'{v:.3f}', na_rep=''))
    return int((table['ratio'] < 1).any())


if __name__ == '__main__':
    sys.exit(main())
