"""Score the central vein sign on lesions whose veins are known, by width of the vein and by voxels.

python benchmarks/central_vein.py [--voxels "1 mm" ...] [--seeds 101 102 ...] [--keep FOLDER]
    [--results FOLDER]

Each scene is a block of white matter of about 44 mm (0.5 mm: 32 mm) with up to 12 lesions and 17 veins
(bids_qsm.phantom.central_veins), tilted by up to 15 degrees about each axis, acquired from a grid 3 to 6
times as fine (3 T, five echoes, more signal over noise in larger voxels) and reconstructed by the default
methods. Masks are off by up to half a millimetre along each axis. Veins are those of the application `veins`.
Lesions in voxels that the application calls too large are assessed all the same, to show why it does not.
Rows go to results/central_vein.tsv.

Tables: of lesions with a central vein the share called yes, by width; of others the share called yes; what
was excluded; and for each scene, taken as one person, the share of lesions with the sign less the true one.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from oximetry import ECHOES, scan_of
from results import FOLDER, Table, kept

from bids_qsm.biomarkers import central_vein as cv
from bids_qsm.biomarkers.veins import find_veins
from bids_qsm.biomarkers.veins_table import line_table
from bids_qsm.phantom.central_veins import draw_sites, scene
from bids_qsm.phantom.fine import acquire
from bids_qsm.phantom.gre import Protocol
from bids_qsm.recon.grid import Grid

VOXELS = {
    '0.5 mm': ((0.5, 0.5, 0.5), 35, 3, 32),
    '0.7 mm': ((0.7, 0.7, 0.7), 50, 4, 36.4),
    '1 mm': ((1.0, 1.0, 1.0), 70, 5, 44),
    '1 x 1 x 2 mm': ((1.0, 1.0, 2.0), 90, 5, 44),
    '0.7 x 0.7 x 2 mm': ((0.7, 0.7, 2.0), 70, 4, 44),
    '1.5 mm': ((1.5, 1.5, 1.5), 120, 6, 48),
    '1 x 1 x 3 mm': ((1.0, 1.0, 3.0), 110, 5, 42),
    '2 mm': ((2.0, 2.0, 2.0), 150, 6, 48),
}
"""Name -> sides (mm), signal over noise, fine voxels along a side, and side of the block (mm)."""
SEEDS = tuple(range(101, 109))
"""Scenes on which nothing was chosen; seeds 1 to 6 served for that."""
KEY = ('voxels', 'seed', 'label')
ASSESSED = ('central', 'off-centre', 'edge', 'none')


def reconstruct(name, seed):
    """Maps of a scene, its veins as they were found, and its lesions."""
    voxel, snr, factor, side = VOXELS[name]
    fov = 3 * (side,)
    rotation = tuple(np.random.default_rng(seed).uniform(-15, 15, 3))
    protocol = Protocol(voxel, fov=fov, echo_times=ECHOES, rotation=rotation, snr=snr)
    sites, bed = scene(seed, fov)
    lesions = [one for site in sites for one in site.lesions]
    block = acquire(bed, protocol, seed=seed, factor=factor, lesions=lesions)
    scan = scan_of(block)
    veins = find_veins(scan.chi, None, scan.r2star, scan.mask, None, block.affine, scan.grid)
    return {
        'chi': scan.chi,
        'mask': scan.mask,
        'lines': line_table(veins.segments),
        'labels': draw_sites(sites, scan.grid.shape, block.affine),
        'affine': block.affine,
        'sites': sites,
    }


def assess(maps):
    """One row a lesion: what was said of it, and the truth."""
    grid = Grid.from_affine(maps['chi'].shape, maps['affine'])
    lines = cv.Lines.from_table(maps['lines'], maps['affine'])
    table, _ = cv.central_veins(maps['chi'], maps['mask'], maps['labels'], lines, maps['mask'], grid)
    sites = [maps['sites'][n - 1] for n in table['label']]
    truth = {
        'kind': [s.kind for s in sites],
        'width': [s.width for s in sites],
        'tilt': [s.tilt for s in sites],
        'radius': [s.lesions[0].radius for s in sites],
    }
    return table.assign(**truth)


def summarise(table):
    """Print what the docstring says."""
    for name, rows in table.groupby('voxels', sort=False):
        assessed = rows[rows['kind'].isin(ASSESSED)]
        central = assessed[assessed['kind'] == 'central']
        others = assessed[assessed['kind'] != 'central']
        right = ((assessed['cvs'] == 'yes') == (assessed['kind'] == 'central')) & (
            assessed['cvs'] != 'excluded'
        )
        print(f'\n{name}: right {right.sum()} of {len(assessed)} ({right.mean():.3f})')
        for title, part, by in (('yes, central vein', central, 'width'), ('yes, others', others, 'kind')):
            told = part.groupby(by)['cvs'].agg([lambda c: (c == 'yes').sum(), 'size'])
            text = '  '.join(f'{key}: {yes} of {n}' for key, (yes, n) in told.iterrows())
            print(f'  {title}: {(part["cvs"] == "yes").mean():.3f}   {text}')
        odd = rows[~rows['kind'].isin(ASSESSED)]
        told = odd.groupby('kind')['cvs'].agg([lambda c: (c == 'excluded').sum(), 'size'])
        print('  excluded:', '  '.join(f'{key}: {out} of {n}' for key, (out, n) in told.iterrows()))
        print(f'  wrongly excluded: {(assessed["cvs"] == "excluded").sum()} of {len(assessed)}')
        bias = [
            (p['cvs'] == 'yes').sum() / max((p['cvs'] != 'excluded').sum(), 1)
            - (a['kind'] == 'central').mean()
            for (_, p), (_, a) in zip(rows.groupby('seed'), assessed.groupby('seed'), strict=True)
        ]
        print(f'  share of a person less the truth: mean {np.mean(bias):+.3f}, sd {np.std(bias, ddof=1):.3f}')
        yes, no = (assessed.loc[assessed['kind'] == kind, 'p'].median() for kind in ('central', 'off-centre'))
        print(f'  median p: central {yes:.3f}, off centre {no:.3f}')


def main(words=None):
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--voxels', nargs='+', choices=VOXELS, default=list(VOXELS))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--keep', type=Path, help='folder for the maps, which take minutes')
    parser.add_argument('--results', type=Path, default=FOLDER)
    arguments = parser.parse_args(words)
    cv.LARGEST_MM = cv.LONGEST_MM = np.inf
    table = Table(arguments.results / 'central_vein.tsv', KEY)
    for seed in arguments.seeds:
        for name in arguments.voxels:
            maps = kept(arguments.keep, f'central_vein_{name}_{seed}', partial(reconstruct, name, seed))
            for row in assess(maps).to_dict('records'):
                table.put({'voxels': name, 'seed': seed, **row})
    frame = table.frame
    summarise(frame[frame['voxels'].isin(arguments.voxels) & frame['seed'].isin(arguments.seeds)])


if __name__ == '__main__':
    main()
