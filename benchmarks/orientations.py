"""Score COSMOS and the susceptibility tensor on simulated heads in several positions.

python benchmarks/orientations.py [cosmos chain tensor conditioning cost] [--seeds 1011 1012 1013] [--voxel 3]

Each position is simulated in its own pose on a grid four times as fine, with a slab that follows half of the
turn, or all. Fields are those of sources within the brain ('cosmos', 'tensor'), or those that the default
reconstruction makes of noisy echoes ('chain', on the coarser grid of the phantom). They go onto the grid of
the first position by the true transforms, by these with errors of .5 mm and .5 degrees ('misplaced'), or by
registration ('registered').
"""

import argparse
import time
from dataclasses import replace
from functools import lru_cache, partial
from unittest.mock import patch

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan
from memory import Measurement
from metrics import nrmse
from scipy import ndimage
from scipy.fft import next_fast_len

from bids_qsm.applications import cosmos as joint
from bids_qsm.applications import tensor as sti
from bids_qsm.biomarkers import positions as positions_module
from bids_qsm.biomarkers.positions import (
    Position,
    align,
    b0_in_world,
    on_first,
    positions_of,
    slow_error_of,
)
from bids_qsm.phantom.fibres import MIDDLE, Fibres
from bids_qsm.phantom.forward import dipole_field, field_of_fibres
from bids_qsm.phantom.gre import Protocol, crop_kspace
from bids_qsm.phantom.head import make_head, rigid
from bids_qsm.phantom.positions import head_turns
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.orientations.conditioning import conditioning
from bids_qsm.recon.orientations.cosmos import cosmos
from bids_qsm.recon.orientations.tensor import invariants, tensor
from bids_qsm.recon.registry import call
from bids_qsm.recon.units import ppm_per_radian
from bids_qsm.workflows.memory import MARGIN_MM, Sizes, need

FAMILIES = ('atlas', 'moved', 'bent')
NOISE = 0.0008
"""Noise (ppm) of the fields in white matter: that of five echoes at 3 T, 1 mm, and an SNR of 70."""
FIVE = [(0, 0, 0), (25, 0, 0), (-25, 0, 0), (0, 25, 0), (0, -25, 0)]

OF_COSMOS = (
    (True, 0.0, 'true', FIVE, 1.0),
    (True, 0.0, 'true', FIVE, 0.5),
    (True, 0.0, 'misplaced', FIVE, 0.5),
    (True, 0.0, 'registered', FIVE, 0.5),
    (True, NOISE, 'misplaced', head_turns(3), 0.5),
    (True, NOISE, 'misplaced', FIVE[:3], 0.5),
    (False, NOISE, 'misplaced', FIVE, 0.5),
)
"""Whether the head is isotropic, noise (ppm), transforms, turns and the share of them that slabs follow."""
OF_TENSOR = (
    (12, 'true', NOISE, 0.0),
    (12, 'true', 0.0, 0.0),
    (12, 'misplaced', NOISE, 0.0),
    (6, 'true', NOISE, 0.0),
    (6, 'misplaced', NOISE, 0.0),
    (6, 'true', NOISE, -0.02),
)
"""Number of positions, transforms, noise (ppm) and what microstructure adds, see `Fibres`."""
FINER = 4
"""Of the grid of the simulation."""
SPACING = 1.0
"""Of the lattice (mm) that heads are painted on."""


@lru_cache(maxsize=1)
def painted(seed):
    """Head of a person; families take turns."""
    return make_head(seed, spacing=SPACING, family=FAMILIES[seed % len(FAMILIES)])


def head_of(seed, isotropic, microstructure=0.0):
    """The same, with fibres unless it is isotropic."""
    head = painted(seed)
    return head if isotropic else replace(head, fibres=Fibres(seed, microstructure=microstructure))


@lru_cache(maxsize=24)
def simulated(seed, isotropic, turn, voxel, follows=0.5, microstructure=0.0):
    """A position of a head, with the field of the sources within the brain, and its true susceptibility."""
    protocol = Protocol((voxel,) * 3, fov=(180.0, 220.0, 180.0), rotation=tuple(follows * np.array(turn)))
    here = head_of(seed, isotropic, microstructure).moved(turn, (0, 0, 0))
    shape, affine = protocol.shape, protocol.affine
    fine, place = finer(shape, affine)
    grid = Grid.from_affine(fine, place)
    part = here.sample(fine, place, ('chi', 'brain', 'density'))
    chi = part['chi'] * part['brain']
    field = dipole_field(chi, grid)
    if here.fibres is not None:
        field += field_of_fibres(here, fine, place)
    inside = crop_kspace(part['brain'], shape)
    mask = inside > 0.5
    field = crop_kspace(field, shape)
    chi = crop_kspace(chi, shape) * mask
    magnitude = crop_kspace(part['density'], shape)
    b0 = b0_in_world(Grid.from_affine(shape, affine), affine)
    return Position(f'{turn}', field * mask, mask, magnitude, affine, b0), chi


def finer(shape, affine):
    """Shape and affine of a grid that is `FINER` times as fine, with the same first voxel centre.

    With twice as fine a one, on which the phantom is scanned, voxels of slabs that differ sampled the painted
    head so differently that COSMOS of noise-free fields was 11 % off instead of 7.
    """
    fine = tuple(next_fast_len(FINER * n) for n in shape)
    result = affine.copy()
    result[:3, :3] *= np.array(shape) / fine
    return fine, result


def session(seed, isotropic, turns, voxel, noise, rng, **more):
    """Positions of a head with noise, and the true susceptibility in each."""
    parts = [simulated(seed, isotropic, tuple(turn), voxel, **more) for turn in turns]
    positions = []
    for one, _ in parts:
        error = noise * rng.standard_normal(one.field.shape, dtype=np.float32)
        positions.append(replace(one, field=one.field + error * one.mask))
    return positions, [chi for _, chi in parts]


def reconstructed(head, seed, turn, voxel, snr=70.0):
    """The same after the default reconstruction of five echoes; what that gives, and the truth."""
    condition = Condition('positions', (voxel,) * 3, tilt=0.0, fov=(180.0, 220.0, 180.0), snr=snr)
    protocol = replace(condition.protocol, rotation=tuple(0.5 * np.array(turn)))
    one = scan(_Turned(condition, protocol), seed, head=head.moved(turn, (0, 0, 0)))
    chain = Chain(one.data)
    chain.run([step for step in chain.steps if step not in ('swi', 'reference')])
    data, mask = chain.data, chain.chi_mask & chain.data['inner_mask']
    b0 = b0_in_world(data['grid'], one.affine)
    position = Position(f'{turn}', data['local'], mask, combine(data['magnitude']), one.affine, b0)
    return position, data, one.truth


class _Turned:
    """A condition with a protocol of its own."""

    def __init__(self, condition, protocol):
        self.condition, self.protocol = condition, protocol

    def __getattr__(self, name):
        return getattr(self.condition, name)


def transforms_of(turns, how, rng):
    """Transforms of points of the first position to those of each."""
    if how == 'registered':
        return None
    to_first = np.linalg.inv(rigid(turns[0]))
    found = []
    for n, turn in enumerate(turns):
        matrix = rigid(turn) @ to_first
        if how == 'misplaced' and n:
            turned, shifted = (rng.standard_normal(3) for _ in range(2))
            sizes = 0.5 / np.linalg.norm(turned), 0.5 / np.linalg.norm(shifted)
            matrix = rigid(turned * sizes[0], shifted * sizes[1]) @ matrix
        found.append(matrix)
    return found


def error(chi, truth, mask):
    """NRMSE (%) after the means over the mask are taken off."""
    found, true = chi - chi[mask].mean(), truth - truth[mask].mean()
    return nrmse(found, true, mask)


def singles(positions, truths):
    """Least NRMSE (%), two voxels and more inside the mask, of the default inversion of one position."""
    found = []
    for one, truth in zip(positions, truths, strict=True):
        data = {
            'field': one.field,
            'mask': one.mask,
            'noise': one.noise,
            'grid': Grid.from_affine(truth.shape, one.affine),
            'magnitude': one.magnitude,
            'radians_per_ppm': 1 / ppm_per_radian(3.0, 0.0166),
            'r2star': None,
        }
        name = next(iter(INVERSION))
        chi = call(INVERSION[name], data, {})
        found.append(error(chi, truth, ndimage.binary_erosion(one.mask, iterations=2)))
    return min(found)


def row_of_cosmos(seed, voxel, isotropic, noise, how, turns, follows):
    """COSMOS of a head in several positions."""
    rng = np.random.default_rng([seed, 1])
    positions, truths = session(seed, isotropic, turns, voxel, noise, rng, follows=follows)
    truth = truths[0]
    start = time.process_time()
    aligned = align(positions, transforms_of(turns, how, rng))
    grid = Grid.from_affine(truth.shape, positions[0].affine)
    chi, sd, excess = cosmos(*aligned.data, grid, slabs=aligned.slabs)
    seconds = time.process_time() - start
    mask = positions[0].mask & (sd > 0)
    inner = ndimage.binary_erosion(mask, iterations=2)
    # what the scans of all positions, each with the voxels of its own slab, have of the truth in common
    alike = np.mean(on_first(truths, positions, aligned), 0)
    return {
        'seed': seed,
        'head': 'isotropic' if isotropic else 'fibres',
        'noise ppb': 1e3 * noise,
        'transforms': how,
        'slab follows': follows,
        'N': len(turns),
        'NRMSE %': error(chi, truth, mask),
        'inner': error(chi, truth, inner),
        'alike': error(chi, alike, inner),
        'best single': singles(positions, truths) if len(turns) == 3 and noise else np.nan,
        'z': spread_of(chi - truth, sd, inner),
        'z alike': spread_of(chi - alike, sd, inner),
        'z rim': spread_of(chi - alike, sd, mask & ~inner),
        'excess': np.median(excess[mask]),
        'CPU s': seconds,
    }


def spread_of(difference, sd, mask):
    """Root mean square of errors over their standard deviations."""
    wrong = difference[mask] - difference[mask].mean()
    return np.sqrt(np.mean((wrong / sd[mask]) ** 2))


def rows_of_chain(seed, voxel):
    """Three positions through the default reconstruction, against susceptibility of each."""
    for isotropic in (True, False):
        head, turns = head_of(seed, isotropic), head_turns(3)
        parts = [reconstructed(head, seed + 7 * n, turn, voxel) for n, turn in enumerate(turns)]
        positions = [one for one, *_ in parts]
        data, truth = parts[0][1], parts[0][2]
        aligned = align(positions)
        chi, sd, excess = cosmos(*aligned.data, data['grid'], slabs=aligned.slabs)
        raw = chi
        chi = chi - slow_error_of(chi, sd > 0, data['r2star'], data['grid'], aligned.directions[0])
        row = {'seed': seed, 'head': 'isotropic' if isotropic else 'fibres'}
        for depth in (0, 2):
            scores = []
            for position, own, true in parts:
                mask = eroded(position.mask & true['mask'], depth)
                scores.append(error(own['chi'], true['chi'], mask))
            mask = eroded(positions[0].mask & truth['mask'] & (sd > 0), depth)
            row[f'singles, {depth} in'] = ' '.join(f'{one:.0f}' for one in scores)
            row[f'COSMOS, {depth} in'] = error(chi, truth['chi'], mask)
            row[f'not levelled, {depth} in'] = error(raw, truth['chi'], mask)
        yield row | {'z': spread_of(chi - truth['chi'], sd, mask), 'excess': np.median(excess[mask])}


def eroded(mask, times):
    """Mask without its outermost layers."""
    return ndimage.binary_erosion(mask, iterations=times) if times else mask


def row_of_tensor(seed, voxel, n, how, noise, microstructure=0.0):
    """The tensor from ``n`` positions."""
    rng = np.random.default_rng([seed, 3])
    head, turns = head_of(seed, False, microstructure), head_turns(n)
    positions, (truth, *_) = session(seed, False, turns, voxel, noise, rng, microstructure=microstructure)
    affine = positions[0].affine
    aligned = align(positions, transforms_of(turns, how, rng), is_filtered=False)
    grid = Grid.from_affine(truth.shape, affine)
    fractions, vectors = head.moved(turns[0], (0, 0, 0)).fibre_maps(truth.shape, affine)
    start = time.process_time()
    components = tensor(*aligned.data, fractions > 0.15, grid)
    seconds = time.process_time() - start
    mean, anisotropy, direction = invariants(components)
    mask, sure = positions[0].mask & (mean != 0), fractions > 0.3
    cosine = np.abs((direction[sure] * vectors[sure]).sum(-1))
    angle = np.degrees(np.arccos(np.minimum(cosine, 1)))
    true = head.fibres.anisotropy * fractions / MIDDLE
    return {
        'seed': seed,
        'N': n,
        'noise ppb': 1e3 * noise,
        'transforms': how,
        'microstructure': microstructure,
        'condition': conditioning(aligned.directions).tensor,
        'MSA bias %': 100 * (anisotropy[sure].mean() / true[sure].mean() - 1),
        'angle': np.median(angle),
        '< 15 deg %': 100 * np.mean(angle < 15),
        'MMS NRMSE %': error(mean, truth, mask),
        'MMS bias of white ppb': 1e3 * ((mean - truth)[sure].mean() - (mean - truth)[mask & ~sure].mean()),
        'CPU s': seconds,
    }


def rows_of_conditioning():
    """Sets of positions: coverage, noise gain, condition of the tensor, and what is said."""
    sets = {
        '0, 60, 120 about x': [(0, 0, 0), (60, 0, 0), (120, 0, 0)],
        '0, +-25 about x': FIVE[:3],
        '0, 15x, 15y': head_turns(3, reach=15),
        '0, 25x, 25y': head_turns(3),
        '0, +-25x, +-25y': FIVE,
        '6 positions, 25': head_turns(6),
        '12 positions, 25': head_turns(12),
        '12 positions, 40': head_turns(12, reach=40),
    }
    for name, turns in sets.items():
        found = conditioning([rigid(one)[2, :3] for one in turns])
        said = 'regularised' if found.is_weak else ''
        yield {
            'positions': name,
            'coverage': found.coverage,
            'gain': found.noise_gain,
            'tensor': found.tensor,
            'said': said,
        }


def whole_session(n, voxel=1.0, extent=(176, 224, 176), brain=(150, 190, 150)):
    """Arguments of the applications: ``n`` positions of a brain (mm) whose fields are noise.

    The transforms of points of the first position to those of each come with them.
    """
    rng, turns = np.random.default_rng(0), head_turns(n)
    shape = tuple(round(m / voxel) for m in extent)
    axes = [
        (2 * voxel / inner * (np.arange(m) - (m - 1) / 2)).astype(np.float32)
        for m, inner in zip(shape, brain, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    radius = x**2 + y**2 + z**2
    mask, white = radius < 1, radius < 0.5
    affines = []
    for turn in turns:
        affine = rigid(0.5 * np.array(turn))
        affine[:3, :3] *= voxel
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
        affines.append(affine)

    def noise(level):
        return mask * np.float32(level) * rng.standard_normal(shape, dtype=np.float32)

    return {
        'localfield': [noise(NOISE) for _ in turns],
        'mask': [mask.copy() for _ in turns],
        'magnitude': [mask * np.float32(100) for _ in turns],
        'chi': [noise(0.02) for _ in turns],
        'affine': affines,
        'grid': [Grid.from_affine(shape, affine) for affine in affines],
        'entities': [{'sub': '01', 'acq': f'pos{k}'} for k in range(n)],
        'dseg': [white.astype(np.int16) for _ in turns],
        'labels': [pd.DataFrame({'index': [1], 'region': ['White'], 'hemisphere': ['both']})] * n,
        'white_matter': [white.copy() for _ in turns],
        'r2star': [20 + noise(5) for _ in turns],
        'levelled': [True] * n,
        'orientations': [None] * n,
        'tissue': [None] * n,
    }, [rigid(turn) for turn in turns]


def rows_of_cost(voxel, n=6, iterations=2):
    """CPU time and memory of both applications on ``n`` positions, but for registration."""
    data, transforms = whole_session(n, voxel)
    images = 1e-9 * sum(one.nbytes for many in data.values() for one in many if isinstance(one, np.ndarray))
    for app, name in ((joint, 'cosmos'), (sti, 'tensor')):
        seconds, peaks = [], []
        for times in (1, 1 + iterations):
            solve = partial(getattr(app, name), tolerance=0, max_iterations=times)
            found, held = iter(transforms[1:]), Measurement()
            start = time.process_time()
            with (
                patch.object(app, name, solve),
                patch.object(positions_module, 'register', lambda *_, found=found: next(found)),
            ):
                app.measure(*[data[argument] for argument in app.APPLICATION.arguments])
            seconds.append(time.process_time() - start)
            peaks.append(held.end().peak_gb)
        each = (seconds[1] - seconds[0]) / iterations
        yield {
            'application': name,
            'N': n,
            'CPU s of one iteration': each,
            'of the rest': seconds[0] - each,
            'peak GB, with the images': max(peaks) + images,
            'GB that its node declares': n * need(app.APPLICATION.memory, sizes_of(data['grid'][0])),
        }
    parts = positions_of(
        [str(k) for k in range(2)],
        *(data[key][:2] for key in ('localfield', 'mask', 'magnitude', 'affine', 'grid')),
    )
    for is_filtered in (True, False):
        start, held = time.process_time(), Measurement()
        align(parts, transforms[:2], is_filtered=is_filtered)
        yield {
            'application': f'resampling of a position, {"by sinc" if is_filtered else "by splines"}',
            'N': 1,
            'of the rest': time.process_time() - start,
            'peak GB, with the images': held.end().peak_gb,
        }


def sizes_of(grid):
    """Sizes of the images of a series of one echo on a grid."""
    volume = 4e-9 * np.prod(grid.shape)
    padded = 4e-9 * np.prod(
        [n + np.ceil(MARGIN_MM / v) for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    )
    return Sizes(volume=volume, padded=padded, echoes=volume, stored=volume, anat=volume)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', default=['conditioning', 'cosmos', 'chain', 'tensor'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[1011, 1012, 1013])
    parser.add_argument('--voxel', type=float, default=3.0)
    options = parser.parse_args()
    for part in options.parts:
        if part == 'conditioning':
            rows = list(rows_of_conditioning())
        elif part == 'cost':
            rows = list(rows_of_cost(options.voxel))
        else:
            rows = []
            for seed in options.seeds:
                if part == 'tensor':
                    found = (row_of_tensor(seed, options.voxel, *one) for one in OF_TENSOR)
                elif part == 'cosmos':
                    found = (row_of_cosmos(seed, options.voxel, *one) for one in OF_COSMOS)
                else:
                    found = rows_of_chain(seed, options.voxel)
                for row in found:
                    print(row, flush=True)
                    rows.append(row)
        print(f'\n{part}')
        print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == '__main__':
    main()
