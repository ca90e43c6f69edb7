"""Boxes of rim lesions and their maps by several inversions, for benchmarks/rims.py."""

import pickle
from pathlib import Path

import numpy as np

from bids_qsm.phantom.rim_box import make_box
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call

CONDITIONS = {
    'base': {},
    'noise 1 ppb': {'noise': 0.001},
    'noise 6 ppb': {'noise': 0.006},
    '0.7 mm': {'voxel_size': (0.7, 0.7, 0.7), 'shape': (96, 96, 80), 'noise': 0.004},
    '1 x 1 x 2 mm': {'voxel_size': (1.0, 1.0, 2.0), 'shape': (72, 72, 32), 'noise': 0.002},
}
"""Parameters of `make_box`; voxels are 1 mm and noise 3 ppb unless they say otherwise."""
RADIANS_PER_PPM = 16.0
"""Phase (rad) of 1 ppm at 3 T and 20 ms."""


def inverted(box, method):
    """Susceptibility (ppm) of a box by a method of the registry, relative to its white matter."""
    data = {
        'field': box.field,
        'mask': np.ones(box.field.shape, bool),
        'noise': np.full(box.field.shape, box.noise, np.float32),
        'grid': box.grid,
        'radians_per_ppm': RADIANS_PER_PPM,
    }
    chi = call(INVERSION[method], data, {})
    return chi - np.median(chi[box.tissue & ~box.drawn])


def box_of(condition: str, seed: int, methods, folder: Path):
    """A box, and method -> its map; kept in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f'{condition.replace(" ", "")}_{seed}'
    path = folder / f'{stem}.pickle'
    if path.exists():
        box = pickle.loads(path.read_bytes())
    else:
        box = make_box(seed, **CONDITIONS[condition])
        path.write_bytes(pickle.dumps(box))
    maps = {}
    for method in methods:
        path = folder / f'{stem}_{method}.npy'
        if not path.exists():
            np.save(path, inverted(box, method))
        maps[method] = np.load(path)
    return box, maps
