"""Score the search for veins on blocks of heads of known truth.

python benchmarks/veins.py [--scans "3 T deep" ...] [--seeds 11 12 ...] [--keep FOLDER] [--results FOLDER]

A block is acquired from a grid four times as fine as its voxels (bids_qsm.phantom.fine), and reconstructed by
the default chain with the true brain mask. Diameters are true ones, in voxels. Rows go to results/veins.tsv.

- recall: share of true centrelines inside the maps that the mask of veins reaches, to within their radius or
  one voxel.
- precision: share of the voxels of the mask within one voxel of the wall of a true vein of any size.
- dice, cldice: of veins of at least 1.5 voxels against true voxels that are vein by half; of the mask count
  the voxels at these veins, and those at no vein that were given such a diameter. n_wide is the number of
  true voxels.
- leak: share of the volume of deep nuclei in the mask that is not vein.
- error: of the diameter (voxels), of points next to a true centreline: median and standard deviation.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from chain import Chain
from results import FOLDER, Table, kept
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from bids_qsm.biomarkers.veins import find_veins
from bids_qsm.phantom.fine import acquire
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.grid import Grid

BANDS = ((0.5, 1.0), (1.0, 2.0), (2.0, 20.0))
"""Diameters (voxels) that recall and errors are given for."""
WIDE = 1.5
"""Diameter (voxels) from which voxels are compared."""
CENTRES = {'deep': (0.0, -25.0, 12.0), 'cortex': (32.0, -15.0, 45.0)}
"""Middle of a block (scanner, mm)."""
KEY = ('scan', 'seed')
SEEDS = (11, 12, 13)
"""Of heads on which nothing was chosen; seeds 1 to 3 served for that."""


@dataclass(frozen=True)
class Scan:
    """How a block is scanned, and which part of the head it holds."""

    part: str
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    field_strength: float = 3.0
    snr: float = 70.0
    echo_times: tuple[float, ...] = (0.005, 0.010, 0.015, 0.020, 0.025)
    count: tuple[int, int, int] = (76, 84, 60)

    @property
    def protocol(self):
        fov = tuple(n * v for n, v in zip(self.count, self.voxel_size, strict=True))
        return Protocol(
            self.voxel_size,
            fov=fov,
            echo_times=self.echo_times,
            field_strength=self.field_strength,
            rotation=(9, 4, 0),
            snr=self.snr,
        )


_FAST = (0.004, 0.008, 0.012, 0.016, 0.020)
SCANS = {
    '3 T deep': Scan('deep'),
    '3 T cortex': Scan('cortex'),
    '3 T deep, SNR 30': Scan('deep', snr=30.0),
    '3 T cortex, 0.8 x 0.8 x 1.6 mm': Scan('cortex', (0.8, 0.8, 1.6), snr=50.0, count=(76, 84, 36)),
    '7 T deep, 0.7 mm': Scan('deep', (0.7, 0.7, 0.7), 7.0, 50.0, _FAST),
}


def reconstruct(scan, seed):
    """Maps of a block by the default chain, and its truth."""
    head = make_head(seed, family='surface')
    block = acquire(head, scan.protocol, centre=CENTRES[scan.part], seed=seed, factor=4)
    data = {
        'magnitude': np.asfortranarray(1000 * block.magnitude, np.float32),
        'phase': np.asfortranarray(block.phase, np.float32),
        'echo_times': list(scan.echo_times),
        'field_strength': scan.field_strength,
        'grid': block.grid,
        'brain': block.truth['mask'],
    }
    chain = Chain(data).run()
    segments = [s for s in block.segments if len(s.points) > 1]
    return {
        **{name: chain.data[name] for name in ('chi', 'swi', 'r2star')},
        'mask': chain.chi_mask,
        'dseg': head.labels(block.grid.shape, block.affine) * block.truth['mask'],
        'share': block.truth['veins'],
        'affine': block.affine,
        'points': np.concatenate([s.points for s in segments]),
        'radius': np.concatenate([s.radius for s in segments]),
        'who': np.concatenate([np.full(len(s.points), n) for n, s in enumerate(segments)]),
    }


def score(found, maps, grid):
    """Scores of veins against the truth, see above."""
    sides, side = np.array(grid.voxel_size), grid.voxel_volume ** (1 / 3)
    points, radius = _centrelines(maps, side)
    at = np.rint(points / sides).astype(int)
    inside = np.all((at >= 0) & (at < np.array(grid.shape)), 1)
    inside[inside] = maps['mask'][tuple(at[inside].T)]
    points, radius, at = points[inside], radius[inside], at[inside]
    wide = 2 * radius / side
    tree = KDTree(points)
    mask = found.mask
    gap = ndimage.distance_transform_edt(~mask, sampling=sides) if mask.any() else np.full(mask.shape, np.inf)
    reached = gap[tuple(at.T)] <= np.maximum(radius, side) + 1e-3
    row = {'n_segments': len(found.segments), 'blood_chi': found.blood_chi, 'blood_from': found.blood_from}

    voxels = np.argwhere(mask | (maps['share'] >= 0.5))
    distance, nearest = tree.query(voxels * sides)
    own, wall = (np.zeros(mask.shape) for _ in range(2))
    own[tuple(voxels.T)], wall[tuple(voxels.T)] = wide[nearest], distance - radius[nearest]
    diameter = np.zeros(len(found.segments) + 1)
    for one in found.segments:
        diameter[one.number] = np.median(one.diameter_mm) / side
    near = wall <= side
    truth = (maps['share'] >= 0.5) & maps['mask'] & (own >= WIDE)
    given = mask & np.where(near, own >= WIDE, diameter[found.numbers] >= WIDE)
    row['n_wide'] = int(truth.sum())
    lines = skeletonize(given), skeletonize(truth)
    exact, complete = (
        (lines[0] & truth).sum() / max(lines[0].sum(), 1),
        (lines[1] & mask).sum() / lines[1].sum(),
    )
    row['dice'] = 2 * (given & truth).sum() / (given.sum() + truth.sum())
    row['cldice'] = 2 * exact * complete / max(exact + complete, 1e-9)
    row['precision'] = near[mask].mean() if mask.any() else np.nan
    nuclei = maps['dseg'] > 0
    row['leak'] = (mask & nuclei & (maps['share'] < 0.1)).sum() / max(nuclei.sum(), 1)
    if found.segments:
        traced = np.concatenate([s.voxels for s in found.segments]) * sides
        sizes = np.concatenate([s.diameter_mm for s in found.segments]) / side
        distance, nearest = tree.query(traced)
        beside = distance <= side + radius[nearest]
        true, error = wide[nearest][beside], (sizes - wide[nearest])[beside]
        row['off_axis'] = np.median(distance[beside]) / side
    for low, high in BANDS:
        band = (wide >= low) & (wide < high)
        name = f'{low:g}' if high >= 20 else f'{low:g}_{high:g}'
        row[f'recall_{name}'] = reached[band].mean() if band.any() else np.nan
        if found.segments and ((true >= low) & (true < high)).any():
            those = error[(true >= low) & (true < high)]
            row[f'error_{name}'], row[f'error_sd_{name}'] = np.median(those), np.std(those)
    return row


def _centrelines(maps, side):
    """Points (mm along the voxel axes) a third of a voxel apart on true veins, and radii (mm)."""
    inverse = np.linalg.inv(maps['affine'])
    sides = np.sqrt((maps['affine'][:3, :3] ** 2).sum(0))
    places = (maps['points'] @ inverse[:3, :3].T + inverse[:3, 3]) * sides
    points, radii = [], []
    for who in np.unique(maps['who']):
        mine = maps['who'] == who
        line, radius = places[mine], maps['radius'][mine]
        along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
        fine = np.arange(0, along[-1], side / 3)
        points.append(np.stack([np.interp(fine, along, axis) for axis in line.T], 1))
        radii.append(np.interp(fine, along, radius))
    return np.concatenate(points), np.concatenate(radii)


def main(words=None):
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--scans', nargs='+', choices=SCANS, default=list(SCANS))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--keep', type=Path, help='folder for the maps, which take minutes')
    parser.add_argument('--results', type=Path, default=FOLDER)
    arguments = parser.parse_args(words)
    table = Table(arguments.results / 'veins.tsv', KEY)
    for seed in arguments.seeds:
        for name in arguments.scans:
            maps = kept(arguments.keep, f'veins_{name}_{seed}', partial(reconstruct, SCANS[name], seed))
            grid = Grid.from_affine(maps['chi'].shape, maps['affine'])
            start = time.process_time()
            images = (maps[key] for key in ('chi', 'swi', 'r2star', 'mask', 'dseg'))
            found = find_veins(*images, maps['affine'], grid)
            seconds = time.process_time() - start
            table.put({'scan': name, 'seed': seed, 'seconds': seconds, **score(found, maps, grid)})


if __name__ == '__main__':
    main()
