"""Score the search for sinuses outside the brain mask on whole heads of known truth.

python benchmarks/sinuses.py [--seeds 11 12 13] [--keep FOLDER] [--results FOLDER]

A head is simulated (1 mm, 3 T, five echoes to 25 ms; seed 13 in slices of 2 mm), and the mask is made by the
default chain from the true brain mask. The template is reached by the pose of the head alone: what its warp
(a few mm) moves is the error of an alignment. Rows go to results/sinuses.tsv.

- dice, recall, precision: of voxels outside the mask that are sinus by half. precision_vein counts voxels of
  any vein as right.
- axis_recall: share of the true axis outside the mask, where it is 3 mm wide or more, with a centreline
  within 2.5 mm; axis_precision: share of the centrelines within 3 mm of a true axis.
- error: of the diameter (mm), median and standard deviation.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from chain import Chain
from results import FOLDER, Table, kept
from scipy.spatial import KDTree

from bids_qsm.biomarkers.veins_sinuses import find_sinuses
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.grid import Grid

KEY = ('sinus', 'seed')
SEEDS = (11, 12, 13)
"""Of heads on which nothing was chosen; seeds 1 and 2 served for that."""
THICK = 13
"""Seed of the head that is scanned in slices of 2 mm."""
WIDE = 3.0
"""Diameter (mm) from which a sinus is looked for."""
KINDS = {'superior_sagittal_sinus': 1, 'transverse_sinus': 2}


def acquire(seed):
    """Magnitude, mask and true veins of a head."""
    head = make_head(seed)
    size = (1.0, 1.0, 2.0 if seed == THICK else 1.0)
    protocol = Protocol(size, rotation=(6, 3, 0))
    scan = simulate(head, protocol, seed=seed)
    data = {
        'magnitude': np.asfortranarray(scan.magnitude, np.float32),
        'phase': np.asfortranarray(scan.phase, np.float32),
        'echo_times': list(protocol.echo_times),
        'field_strength': protocol.field_strength,
        'grid': Grid.from_affine(protocol.shape, scan.affine),
        'brain': scan.truth['mask'],
    }
    chain = Chain(data).run(('offset', 'quality', 'mask', 'unwrap', 'field', 'refine'))
    segments = head.vessels()
    counts = [len(s.points) for s in segments]
    return {
        'magnitude': data['magnitude'],
        'echo_times': np.array(protocol.echo_times),
        'mask': chain.data['mask'],
        'share': scan.truth['veins'],
        'affine': scan.affine,
        'pose': head.pose,
        'points': np.concatenate([s.points for s in segments]),
        'radius': np.concatenate([s.radius for s in segments]),
        'kind': np.repeat([_kind(s) for s in head.tree], counts),
    }


def _kind(segment):
    """Which sinus a vein of template space is: a value of KINDS, or 0."""
    if segment.kind == 'superior sagittal sinus':
        return 1
    _, y, z = segment.points.mean(0)
    # between the confluence and the sigmoid sinus
    return 2 * (segment.radius.max() > 1.5 and segment.kind == 'other vein' and y < -46 and -37 < z < -10)


def score(found, maps, name):
    """Scores of one sinus, see above."""
    mask, sides = maps['mask'], np.linalg.norm(maps['affine'][:3, :3], axis=0)
    inverse = np.linalg.inv(maps['affine'])
    places = (maps['points'] @ inverse[:3, :3].T + inverse[:3, 3]) * sides
    voxels = np.argwhere(maps['share'] >= 0.5)
    truth = np.zeros(mask.shape, bool)
    own = maps['kind'][KDTree(places).query(voxels * sides)[1]] == KINDS[name]
    truth[tuple(voxels[own].T)] = True
    mine = [one for one in found if one.name == name]
    share = np.zeros(mask.shape, np.float32)
    for one in mine:
        share[tuple(one.voxels.T)] = np.maximum(share[tuple(one.voxels.T)], one.share)
    given, truth = (share >= 0.5) & ~mask, truth & ~mask
    axis, radius = (maps[key][maps['kind'] == KINDS[name]] for key in ('points', 'radius'))
    axis = (axis @ inverse[:3, :3].T + inverse[:3, 3]) * sides
    at = np.clip(np.rint(axis / sides), 0, np.array(mask.shape) - 1).astype(int)
    outside = ~mask[tuple(at.T)] & (2 * radius >= WIDE)
    row = {
        'n_voxels': int(truth.sum()),
        'dice': 2 * (given & truth).sum() / max(given.sum() + truth.sum(), 1),
        'recall': (given & truth).sum() / truth.sum(),
        'precision': (given & truth).sum() / given.sum() if given.any() else np.nan,
        'precision_vein': (maps['share'][given] >= 0.5).mean() if given.any() else np.nan,
        'axis_recall': 0.0,
    }
    if mine:
        points = np.concatenate([one.points for one in mine])
        row['axis_recall'] = (KDTree(points).query(axis[outside])[0] < 2.5).mean()
        away, nearest = KDTree(axis).query(points)
        error = (np.concatenate([one.diameter_mm for one in mine]) - 2 * radius[nearest])[away < 3]
        row |= {'axis_precision': (away < 3).mean(), 'error': np.median(error), 'error_sd': np.std(error)}
    return row


def main(words=None):
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--keep', type=Path, help='folder for the scans, which take minutes')
    parser.add_argument('--results', type=Path, default=FOLDER)
    arguments = parser.parse_args(words)
    table = Table(arguments.results / 'sinuses.tsv', KEY)
    for seed in arguments.seeds:
        maps = kept(arguments.keep, f'sinuses_{seed}', partial(acquire, seed))
        grid = Grid.from_affine(maps['mask'].shape, maps['affine'])
        start = time.process_time()
        found = find_sinuses(
            np.asfortranarray(maps['magnitude']),
            maps['echo_times'],
            maps['mask'],
            maps['affine'],
            grid,
            [maps['pose']],
        )
        seconds = time.process_time() - start
        for name in KINDS:
            table.put({'sinus': name, 'seed': seed, 'seconds': seconds, **score(found, maps, name)})


if __name__ == '__main__':
    main()
