"""Every registered method, and the steps without a choice, on small arrays: digests of what they return.

python -m tests.steps THREADS,... [MM] prints them as JSON, one set after the other with as many threads as a
worker would give a step, in voxels of so many mm.
"""

import hashlib
import json
import sys
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.util import find_spec

from bids_qsm.threads import set_threads

QUICK = {
    'background pdf': {'max_iterations': 20},
    'background resharp': {'max_iterations': 50},
    'inversion learned': {'max_iterations': 30},
    'inversion medi': {'max_iterations': 30},
    'inversion medi0': {'max_iterations': 30},
    'inversion tgv': {'max_iterations': 30},
    'inversion tv': {'max_iterations': 30},
    'inversion whnltv': {'max_iterations': 30},
}
"""Parameters of methods that take long: a few rounds of a loop depend on threads if many do."""
PACKAGES = {'registration greedy': 'picsl_greedy'}
"""What methods need beside the package itself."""


def registered():
    """'step method' of all that is registered and installed."""
    from bids_qsm.app.methods import registries

    found = [f'{step} {method}' for step, registry in registries().items() for method in registry]
    found.remove('refinement none')
    return [name for name in found if name not in PACKAGES or find_spec(PACKAGES[name])]


def scene(size):
    """What the reconstruction takes, by the names that the methods give it, in voxels of ``size`` mm."""
    import numpy as np

    from bids_qsm.recon.phase import wrap
    from bids_qsm.recon.units import ppm_per_radian
    from tests.recon.little_head import make

    head = make(step=size, fine=1)
    rng = np.random.default_rng(0)
    times, rate = (0.004, 0.009, 0.014, 0.019), 1 / ppm_per_radian(3.0)
    still = np.where(head.head, np.clip(head.total, -3, 3), 0).astype(np.float32)
    decay = np.where(head.ventricles, 3, np.where(head.nuclei, 35, 20)).astype(np.float32)
    clean = head.head[..., None] * np.exp(
        np.float32(times) * (1j * np.float32(rate) * still - decay)[..., None] + 0.4j
    )
    noise = rng.standard_normal((2, *clean.shape), np.float32) / 70
    signal = np.asfortranarray(clean + noise[0] + 1j * noise[1])
    phase = np.asfortranarray(np.angle(signal), np.float32)
    quality = np.clip(np.where(head.head, 0.85, 0.2) + 0.05 * noise[0, ..., 0] * 70, 0, 1)
    measured = head.local + head.noise * rng.standard_normal(head.grid.shape, np.float32)
    return {
        'grid': head.grid,
        'mask': head.brain,
        'brain': head.brain,
        'support': head.brain,
        'magnitude': np.asfortranarray(np.abs(signal), np.float32),
        'phase': phase,
        'unwrapped': np.asfortranarray(np.float32(times) * np.float32(rate) * still[..., None]),
        'echo_times': times,
        'field_strength': 3.0,
        'radians_per_ppm': rate * 0.02,
        'quality': quality.astype(np.float32),
        'field': measured.astype(np.float32),
        'total': (measured - head.local + head.total).astype(np.float32),
        'noise': head.noise,
        'r2star': np.where(head.brain, decay, 0),
        'chi': head.chi,
        'wrapped': wrap(phase),
    }


def jobs(size):
    """Name and function without arguments of every step."""
    data = scene(size)
    return [*_registered(data).items(), *_unnamed(data).items()]


def _registered(data):
    from bids_qsm.app.methods import registries
    from bids_qsm.recon.registry import call
    from tests.anatomy.test_nuclei import SHIFTS, found_in, susceptibility
    from tests.anatomy.test_register import register

    one_echo = data['magnitude'][..., 0]
    own = {'background': {'field': data['total']}, 'inversion': {'magnitude': one_echo}}
    found = {}
    for name in registered():
        step, method = name.split()
        if step == 'registration':
            found[name] = partial(register, method)
        elif step == 'refinement':
            found[name] = partial(found_in, susceptibility(SHIFTS, noise=0.015), method=method)
        else:
            data_of = {**data, **own.get(step, {})}
            found[name] = partial(call, registries()[step][method], data_of, QUICK.get(name, {}))
    return found


def _unnamed(data):
    """Steps that have one method, or that come along with others."""
    import numpy as np

    from bids_qsm.anatomy.bias import correct_bias
    from bids_qsm.anatomy.brainmask import extract_brain
    from bids_qsm.biomarkers.regions import region_table
    from bids_qsm.recon.conditioning import condition
    from bids_qsm.recon.conjugate import dot
    from bids_qsm.recon.fused_kernels import change
    from bids_qsm.recon.grid import Grid
    from bids_qsm.recon.phase import combine_coils, remove_offset
    from bids_qsm.recon.unwrap import voxel_quality
    from tests.anatomy import brains, nuclei
    from tests.biomarkers.test_focal import Brain

    magnitude, phase, times, grid = (data[k] for k in ('magnitude', 'phase', 'echo_times', 'grid'))
    head, affine, _ = brains.person([brains.pose((6, -4, 5), (4, -6, 8), 1.04)])
    template = (*brains.template(), brains.template_affine())
    small = np.diag([0.5, 0.5, 0.5, 1.0])  # a brain of fewer voxels on the grid on which it is sought
    bleeding = Brain((1.0, 1.0, 1.0))
    bleeding.source((0, 10, 2), 2.0, 0.5)
    chi, dseg = nuclei.susceptibility(nuclei.STAY, noise=0.01), nuclei.dseg(nuclei.STAY)
    everywhere = np.ones(chi.shape, bool)
    return {
        'sums': lambda: (dot(data['total'], data['noise']), change(data['total'], data['noise'])),
        'condition': lambda: condition(magnitude.copy(), phase.copy(), times, grid),
        'coils': lambda: combine_coils(magnitude[..., None], phase[..., None], times, grid),
        'offset': lambda: remove_offset(phase, magnitude, None, times, grid),
        'quality': lambda: voxel_quality(phase, magnitude, times),
        'bias': lambda: correct_bias(head, affine),
        'brain': lambda: extract_brain(head, small @ affine, template[0], small @ template[2], template[1]),
        'candidates': bleeding.find,
        'regions': lambda: region_table(
            {'chi': chi}, dseg, nuclei.LABELS, everywhere, Grid(chi.shape, (1.0, 1.0, 1.0))
        ),
    }


def digest(found):
    """SHA-256 of arrays however nested, of their types and of whatever stands beside them."""
    import numpy as np
    import pandas as pd

    if isinstance(found, dict):
        text = [(key, digest(value)) for key, value in found.items()]
    elif isinstance(found, tuple | list):
        text = [digest(value) for value in found]
    elif is_dataclass(found):
        text = [(field.name, digest(getattr(found, field.name))) for field in fields(found)]
    elif isinstance(found, pd.DataFrame):
        text = found.to_csv()
    elif isinstance(found, np.ndarray):
        text = (found.dtype.str, found.shape, hashlib.sha256(found.tobytes()).hexdigest())
    else:
        text = found
    return hashlib.sha256(repr(text).encode()).hexdigest()


def main(threads, size='3'):
    numbers = [int(n) for n in threads.split(',')]
    set_threads(max(numbers))  # the limit of the process, as a worker has it
    from numba import get_num_threads

    found = [{} for _ in numbers]
    # one process, and so the same machine code: what Numba has just compiled may round otherwise than what it
    # stores for all later runs
    for name, job in jobs(float(size)):
        for n, digests in zip(numbers, found, strict=True):
            set_threads(n)
            assert get_num_threads() == n
            digests[name] = digest(job())
    print(json.dumps(found))


if __name__ == '__main__':
    main(*sys.argv[1:])
