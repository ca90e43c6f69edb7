"""Oximetry of the veins of simulated heads of known saturation.

python benchmarks/oximetry_heads.py [--parts sinus deep] [--seeds 6001 6002 6003] [--keep FOLDER]
    [--results FOLDER]

A block of a head (1 mm, 3 T, five echoes, signal 70 times the noise) is acquired from a grid four times as
fine and reconstructed by the default chain with the true brain mask. Veins are the true ones of at least
1.3 voxels and 6 mm, or with `own` in the column `veins` those that the segmentation finds. Rows go to
results/oximetry_heads.tsv: yv_error (points of a hundred) is the error of saturation, where haematocrit and
the level of the map are known; by_field and by_chi the errors (%) of the susceptibility difference of the two
methods that it comes from; z that of the one used, over its standard error.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from chain import Chain
from results import FOLDER, Table, kept
from scipy.spatial import KDTree

from bids_qsm.biomarkers import oxygen as ox
from bids_qsm.biomarkers.oximetry import measure_veins
from bids_qsm.biomarkers.oximetry_pieces import Scan
from bids_qsm.biomarkers.veins import Segment, Veins, find_veins
from bids_qsm.phantom.fine import acquire
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.magnitude import combine

PARTS = {
    'sinus': (('straight sinus',), (0, 0, 6), (44, 80, 60)),
    'deep': (('straight sinus', 'vein of Galen', 'internal cerebral vein'), (0, 0, 0), (48, 60, 48)),
}
"""Part -> veins that it lies about, how far off (mm), and its size (mm)."""
KEY = ('part', 'seed', 'veins', 'vein')
ECHOES = (0.005, 0.010, 0.015, 0.020, 0.025)
LENGTH, WIDTH = 6.0, 1.3
"""Least length (mm) and diameter (voxels) of true veins that are measured."""


def reconstruct(part, seed):
    """Maps of a block and its truth."""
    kinds, off, fov = PARTS[part]
    head = make_head(seed, family='surface')
    middle = np.concatenate([s.points for s in head.vessels() if s.kind in kinds]).mean(0)
    protocol = Protocol((1.0, 1.0, 1.0), fov=fov, echo_times=ECHOES, rotation=(9, 4, 0), snr=70)
    block = acquire(head, protocol, centre=tuple(np.round(middle + off)), seed=seed, factor=4)
    data = {
        'magnitude': np.asfortranarray(1000 * block.magnitude, np.float32),
        'phase': np.asfortranarray(block.phase, np.float32),
        'echo_times': list(ECHOES),
        'field_strength': protocol.field_strength,
        'grid': block.grid,
        'brain': block.truth['mask'],
    }
    chain = Chain(data).run()
    return {
        **{name: chain.data[name] for name in ('chi', 'local', 'magnitude', 'r2star', 'residual', 'swi')},
        'mask': chain.chi_mask,
        'dseg': head.labels(block.grid.shape, block.affine) * block.truth['mask'],
        'truth': block.truth,
        'segments': block.segments,
        'affine': block.affine,
        'grid': block.grid,
        'hematocrit': head.blood.hematocrit,
    }


def true_veins(maps):
    """Veins as a segmentation without error would give them."""
    grid, inverse = maps['grid'], np.linalg.inv(maps['affine'])
    share = maps['truth']['veins'].astype(np.float32)
    segments, points, owner, radii = [], [], [], []
    for number, one in enumerate(maps['segments'], 1):
        at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(one.points, axis=0), axis=1))]
        if at[-1] < 1:
            continue
        fine = np.arange(0, at[-1], 0.5)
        line = np.stack([np.interp(fine, at, axis) for axis in one.points.T], 1)
        radius = np.interp(fine, at, one.radius)
        direction = np.gradient(line, axis=0)
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        tilt = np.degrees(np.arccos(np.clip(np.abs(direction[:, 2]), 0, 1)))
        voxels = line @ inverse[:3, :3].T + inverse[:3, 3]
        points.append(voxels)
        owner.append(np.full(len(line), number))
        radii.append(radius)
        name = one.kind.replace(' ', '_')
        if at[-1] > LENGTH and np.median(2 * radius) >= WIDTH:
            segments.append(Segment(number, name, line, voxels, direction, 2 * radius, tilt, (0, 0)))
    numbers = np.zeros(grid.shape, np.int32)
    where = np.argwhere(share > 0.01)
    numbers[tuple(where.T)] = _nearest(np.concatenate(points), np.concatenate(radii), owner, where)
    labels = maps['truth']['vein_dseg']
    return Veins(share, share >= 0.5, labels, numbers, numbers, tuple(segments), np.nan, 'assumed')


def _nearest(points, radii, owner, where):
    """Vein whose wall each voxel is nearest to, of the eight nearest points."""
    distance, which = KDTree(points).query(where, k=8)
    best = (distance - radii[which]).argmin(1)
    return np.concatenate(owner)[which[np.arange(len(where)), best]]


def score(maps, veins, most):
    """One row a vein that was measured, and the reasons of the others."""
    scan = Scan(
        *(maps['local'], maps['chi'], combine(maps['magnitude']), maps['mask'], maps['grid'], ECHOES, 3.0),
        maps['r2star'],
        maps['residual'],
    )
    truth = maps['truth']
    tissue = maps['mask'] & (truth['veins'] < 0.01)
    level = float(np.median((maps['chi'] - truth['chi'])[tissue]))
    lines = [s for s in maps['segments'] if len(s.points) > 1]
    trees = [KDTree(s.points) for s in lines]
    rows, reasons = [], Counter()
    for one in measure_veins(scan, veins, most=most):
        if one.reason:
            reasons[one.segment.name, one.reason.split(':')[0]] += 1
            continue
        which = int(np.argmin([tree.query(one.segment.points)[0].mean() for tree in trees]))
        blood = lines[which]
        chi_t = one.reference - level
        true = blood.chi - chi_t
        off = ox.saturation(one.dchi, maps['hematocrit'], ox.Constants(), tissue=chi_t) - blood.oxygenation
        rows.append(
            {
                'vein': one.segment.number,
                'kind': blood.kind,
                'method': one.method,
                'length_mm': one.segment.length_mm,
                'diameter': 2 * float(np.median(blood.radius)) / maps['grid'].voxel_volume ** (1 / 3),
                'tilt': one.tilt,
                'n_pieces': one.n_pieces,
                'yv_error': 100 * off,
                'by_field': 100 * (one.by_field / true - 1),
                'by_chi': 100 * (one.by_chi / true - 1),
                'z': (one.dchi - true) / np.hypot(one.dchi_se, one.model_se),
            }
        )
    return rows, reasons


def main(words=None):
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[6001, 6002, 6003])
    parser.add_argument('--most', type=int, default=12, help='veins without a name to fit (12)')
    parser.add_argument('--keep', type=Path, help='folder for the maps, which take minutes')
    parser.add_argument('--results', type=Path, default=FOLDER)
    arguments = parser.parse_args(words)
    table = Table(arguments.results / 'oximetry_heads.tsv', KEY)
    for seed in arguments.seeds:
        for part in arguments.parts:
            maps = kept(arguments.keep, f'{part}_{seed}', partial(reconstruct, part, seed))
            images = (maps[name] for name in ('chi', 'swi', 'r2star', 'mask', 'dseg'))
            for kind, veins in (
                ('true', true_veins(maps)),
                ('own', find_veins(*images, maps['affine'], maps['grid'])),
            ):
                rows, reasons = score(maps, veins, arguments.most)
                for row in rows:
                    table.put({'part': part, 'seed': seed, 'veins': kind, **row})
                print(part, seed, kind, 'not usable:', dict(reasons))
    frame = table.frame
    frame['group'] = np.where(frame['diameter'] >= 4, 'wide', 'thin')
    used = frame.groupby(['part', 'veins', 'group'])
    print(
        used.agg(
            n=('yv_error', 'size'),
            yv=('yv_error', lambda x: x.abs().mean()),
            yv_bias=('yv_error', 'mean'),
            by_field=('by_field', 'mean'),
            by_chi=('by_chi', 'mean'),
            covered=('z', lambda z: (z.abs() < 1.96).mean()),
        )
    )


if __name__ == '__main__':
    main()
