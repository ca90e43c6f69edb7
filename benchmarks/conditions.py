"""The scans that methods are compared on: digital heads under a grid of conditions."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import extract_brain
from bids_qsm.anatomy.transform import resample
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import Lesion, make_head
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.units import ppm_per_radian
from bids_qsm.templates.spaces import EMBEDDED, get_template

STONE = Lesion((-24, -22, 30), 3.0, -0.5, kind='calcification')
"""A calcification in the white matter of every head: the strong source that streaks come from."""
UNIFORM_PHASE = np.pi / np.sqrt(3)
"""Standard deviation (rad) of a phase that says nothing."""


@dataclass(frozen=True)
class Condition:
    """How a head is scanned; ``tilt`` (degrees) is about an oblique axis."""

    name: str
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    field_strength: float = 3.0
    snr: float = 70.0
    tilt: float = 10.0
    echo_times: tuple[float, ...] = (0.005, 0.010, 0.015, 0.020, 0.025)
    fov: tuple[float, float, float] = (180.0, 224.0, 180.0)

    @property
    def protocol(self):
        return Protocol(
            self.voxel_size,
            fov=self.fov,
            echo_times=self.echo_times,
            field_strength=self.field_strength,
            rotation=(0.9 * self.tilt, 0.4 * self.tilt, 0.0),
            snr=self.snr,
        )


def grid_of_conditions(voxel=1.0):
    """Name -> Condition: a base scan of ``voxel`` mm, and those that differ from it in one thing.

    The last, 'hard', differs in all.
    """
    base = Condition('base', (voxel,) * 3)
    ratios = {'voxel 0.7': (0.7, 0.7, 0.7), 'voxel 2': (2, 2, 2), 'voxel 1x1x2': (1, 1, 2)}
    train = (0.004, 0.008, 0.012, 0.016, 0.020, 0.024, 0.028, 0.032)
    changed = [
        *({'field_strength': b, 'name': f'{b:g} T'} for b in (1.5, 7.0)),
        *({'snr': s, 'name': f'SNR {s:g}'} for s in (20.0, 100.0)),
        *({'voxel_size': tuple(voxel * r for r in rs), 'name': n} for n, rs in ratios.items()),
        *({'tilt': t, 'name': f'tilt {t:g}'} for t in (0.0, 25.0)),
        {'echo_times': (0.020,), 'name': '1 echo'},
        {'echo_times': (0.006, 0.013, 0.020), 'name': '3 echoes'},
        {'echo_times': train, 'name': '8 echoes'},
        {
            'name': 'hard',
            'field_strength': 7.0,
            'snr': 20.0,
            'voxel_size': (voxel, voxel, 2 * voxel),
            'tilt': 25.0,
            'echo_times': (0.015,),
        },
    ]
    conditions = [base, *(replace(base, **change) for change in changed)]
    return {c.name: c for c in conditions}


@lru_cache(maxsize=1)
def head_of(seed, spacing):
    """Head of a person, with a calcification."""
    return make_head(seed, spacing=spacing, lesions=(STONE,))


@dataclass(frozen=True, eq=False)
class Scan:
    """One head under one condition: what the reconstruction gets by name in ``data``, and the truth.

    Beside what `simulate` gives, ``truth`` holds veins and stone (bool). ``affine`` is voxel to scanner.
    """

    condition: Condition
    seed: int
    data: dict
    truth: dict
    affine: np.ndarray

    @property
    def grid(self):
        return self.data['grid']

    @property
    def radians_per_ppm(self):
        """Phase (rad) that 1 ppm gives at each echo."""
        times = np.array(self.condition.echo_times)
        return times / ppm_per_radian(self.condition.field_strength)

    def measured(self):
        """The truth as steps late in the chain would get it: fields (ppm) with the noise of this scan.

        The noise follows from magnitude and echo times; where the signal is gone, phase is known to half a
        turn at least.
        """
        magnitude, truth = self.data['magnitude'], self.truth
        sigma = noise_level(magnitude, truth['mask'])
        scales = self.radians_per_ppm
        information = sum(
            (s * np.minimum(magnitude[..., e] / sigma, 1e4)) ** 2 + (s / UNIFORM_PHASE) ** 2
            for e, s in enumerate(scales)
        )
        noise = (1 / np.sqrt(information)).astype(np.float32)
        rng = np.random.default_rng([self.seed, 7])
        error = noise * rng.standard_normal(noise.shape, dtype=np.float32)
        mask = truth['mask']
        several = len(self.condition.echo_times) > 1
        return {
            'field': (truth['local_field'] + error) * mask,
            'total': (truth['total_field'] + error) * mask,
            'noise': noise * mask,
            'mask': mask,
            'grid': self.grid,
            'magnitude': combine(magnitude),
            'radians_per_ppm': float(np.sqrt(np.mean(scales**2))),
            'r2star': truth['r2star'].astype(np.float32) if several else None,
        }


def scan(condition, seed, *, head=None, cache=None):
    """Scan the head of a person; with ``cache`` (a folder) its brain mask is found on a T1w image too.

    ``head`` may be given, else it follows from ``seed``; ``stone`` of the truth is its first lesion.
    """
    spacing = 1.0 if min(condition.voxel_size) < 3 else 2.0
    head = head or head_of(seed, spacing)
    simulation = simulate(head, condition.protocol, seed)
    shape, affine = simulation.phase.shape[:3], simulation.affine
    truth = dict(simulation.truth)
    truth['veins'] = (head.sample(shape, affine, ('blood',))['blood'] > 0.5) & truth['mask']
    truth['stone'] = (truth['lesions'] == 1) & truth['mask']
    data = {
        # echoes last, columns first: as files are read
        'magnitude': np.asfortranarray(simulation.magnitude, np.float32),
        'phase': np.asfortranarray(simulation.phase, np.float32),
        'echo_times': list(condition.echo_times),
        'field_strength': condition.field_strength,
        'grid': Grid.from_affine(shape, affine),
        'brain': None if cache is None else _brain(head, seed, spacing, shape, affine, Path(cache)),
    }
    return Scan(condition, seed, data, truth, affine)


def _brain(head, seed, spacing, shape, affine, cache):
    """Brain mask from a T1-weighted image in the same pose, kept in ``cache`` for the next scan."""
    path = cache / f'brain_{seed}_{spacing:g}.nii.gz'
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        image, place = simulate_t1w(head, seed, voxel_size=(spacing,) * 3)
        template = get_template(EMBEDDED, cache)
        volumes = [nib.load(p) for p in (template.t1w, template.mask)]
        target, inside = (np.asanyarray(v.dataobj).astype(np.float32) for v in volumes)
        mask = extract_brain(
            correct_bias(image, place)[0], place, target, volumes[0].affine, inside > 0.5
        ).mask
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), place), path)
    image = nib.load(path)
    found = np.asanyarray(image.dataobj).astype(np.float32)
    return resample(found, image.affine, shape, affine, []) > 0.5
