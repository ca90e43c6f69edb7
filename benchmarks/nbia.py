"""Nigra, pallidum, norms of iron and subtype patterns, on phantoms and made-up cohorts of known truth.

python benchmarks/nbia.py [nigrosome] [voxels] [heads] [pallidum] [cohort] [--seeds 101 140] [--keep FOLDER]

nigrosome: midbrains in a box (dipole field, noise, default inversion) of .5 x .5 x 1 mm, in which the lens of
  nigrosome-1 is present on both sides, gone on one or both, or thinned on one. Labels are off by .3 mm.
voxels: the same at other voxel sizes, which is where the limit of the application comes from.
heads: the same in blocks of whole heads, with their veins and neighbours.
pallidum: cores in a ring, and uniform, calcified and streaked pallida, at 1 mm.
cohort: z of unseen controls against own controls and against the norms of 1958; subtypes.

Constants were chosen on seeds 1 to 24 (nigra) and 1 to 8 (pallidum) of the family `surface`.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.oximetry import scan_of
from benchmarks.results import kept
from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers import nigrosome
from bids_qsm.biomarkers.nigra import nigra_table
from bids_qsm.biomarkers.nigra_frame import nigrae
from bids_qsm.biomarkers.pallidum import find_eye
from bids_qsm.phantom.fine import acquire
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.nigrosome import draw_midbrain
from bids_qsm.phantom.nuclei_bed import labels_of
from bids_qsm.phantom.pallidum import KINDS, draw_pallidum
from bids_qsm.recon.grid import Grid

LOST = ({}, {'L': 1.0}, {'R': 1.0}, {'L': 1.0, 'R': 1.0}, {'L': 0.5}, {'R': 0.5})
"""Share of the lens that is lost, by side."""
USUAL = (0.5, 0.5, 1.0)
VOXELS = (
    (0.5, 0.5, 1.0),
    (0.7, 0.7, 0.7),
    (0.7, 0.7, 1.0),
    (0.8, 0.8, 0.8),
    (0.5, 0.5, 2.0),
    (1.0, 1.0, 1.0),
)
ECHOES = (0.006, 0.012, 0.018, 0.024, 0.030)
SNR = 140.0
"""Of 1 mm^3; that of a voxel goes with its volume."""
OFF_MM = {'SN': 0.3, 'GP': 0.4}


def box(bed, voxel, fov, centre, seed, off_mm):
    """Maps of a bed of nuclei by the default methods, and labels that are off."""
    snr = SNR * float(np.prod(voxel)) if max(voxel) <= 1 and min(voxel) < 1 else 70.0
    protocol = Protocol(voxel_size=voxel, fov=fov, echo_times=ECHOES, snr=snr, rotation=(10.0, 0.0, 0.0))
    factor = 3 if np.prod(voxel) < 0.6 else 4
    block = acquire(bed, protocol, centre=centre, seed=seed, factor=factor)
    scan = scan_of(block)
    rng = np.random.default_rng([seed, 5])
    dseg, _ = labels_of(bed, block.grid.shape, block.affine, off_mm=off_mm, rng=rng)
    return {'chi': scan.chi, 'r2star': scan.r2star, 'dseg': dseg, 'affine': block.affine}


def midbrain(seed, voxel, family):
    """Maps of a midbrain; the scene goes with the seed."""
    bed = draw_midbrain(seed, LOST[seed % len(LOST)], family=family)
    return box(bed, voxel, (36.0, 32.0, 26.0), (0, -18, -12), seed, OFF_MM['SN'])


def score_nigrosomes(maps, seed, lost):
    """One row a side: what was found, and the truth."""
    affine, chi = maps['affine'], maps['chi']
    grid = Grid.from_affine(chi.shape, affine)
    found, why = nigrae(maps['dseg'], atlas.labels(), np.ones(chi.shape, bool), affine)
    limit, nigrosome.LARGEST_MM = nigrosome.LARGEST_MM, (9.0, 9.0)
    try:
        sides = nigrosome.find_nigrosomes(chi, found, grid, affine) if found else {}
        _, table = nigra_table(chi, np.ones(chi.shape, bool), maps['dseg'], atlas.labels(), grid, affine, '')
    finally:
        nigrosome.LARGEST_MM = limit
    weaker = table['n1_weaker_side'].iloc[0]
    rows = [
        {
            'seed': seed,
            'side': side,
            'lost': lost.get(side, 0.0),
            'contrast': 1e3 * one.contrast,
            'se': 1e3 * one.contrast_se,
            'volume': one.volume,
            'score': one.visible,
            'finding': one.finding,
            'weaker': weaker,
        }
        for side, one in sides.items()
    ]
    return rows or [{'seed': seed, 'side': s, 'lost': lost.get(s, 0.0), 'finding': why} for s in 'LR']


def say_nigrosomes(table, title):
    """Print sensitivity, false findings and sides."""
    there, gone = (table[table['lost'] == share] for share in (0.0, 1.0))
    half = table[table['lost'] == 0.5]
    wide = table.pivot(index='seed', columns='side', values='score')
    lost = table.pivot(index='seed', columns='side', values='lost')
    one = lost[(lost['L'] == 1) != (lost['R'] == 1)]
    right = [(wide.loc[s, 'L'] < wide.loc[s, 'R']) == (lost.loc[s, 'L'] == 1) for s in one.index]
    said = table.drop_duplicates('seed').set_index('seed')['weaker']
    named = [said[s] == ('L' if lost.loc[s, 'L'] == 1 else 'R') for s in one.index]
    pairs = there['score'].to_numpy()[:, None] > gone['score'].to_numpy()[None]
    print(
        f'{title:20s} seen {np.mean(there["finding"] == "seen"):.3f} of {len(there)}, '
        f'false {np.mean(gone["finding"] == "seen"):.3f} of {len(gone)}, AUC {pairs.mean():.3f}, half seen '
        f'{np.mean(half["finding"] == "seen"):.2f} of {len(half)}; weaker side {np.mean(right):.3f}, named '
        f'{np.mean(named):.3f} of {len(right)}; contrast {there["contrast"].mean():.0f} (half '
        f'{half["contrast"].mean():.0f}, gone {gone["contrast"].mean():.0f}) ppb, volume '
        f'{there["volume"].mean():.1f} mm3',
        flush=True,
    )


def run_nigrosomes(seeds, keep, voxel=USUAL, family='surface'):
    """Table of all seeds at a voxel size."""
    rows = []
    for seed in seeds:
        name = f'midbrain_{seed}_{family}_' + '_'.join(f'{v:g}' for v in voxel)
        maps = kept(keep, name, partial(midbrain, seed, voxel, family))
        rows += score_nigrosomes(maps, seed, LOST[seed % len(LOST)])
    return pd.DataFrame(rows)


def pallidum(seed, kind):
    """Maps of a pallidum at 1 mm."""
    bed = draw_pallidum(seed, kind)
    return box(bed, (1.0, 1.0, 1.0), (84.0, 56.0, 40.0), (0, 0, -2), seed, OFF_MM['GP'])


def run_pallida(seeds, keep):
    """One row a side of each kind."""
    rows = []
    for seed in seeds:
        for kind in KINDS:
            maps = kept(keep, f'pallidum_{seed}_{kind}', partial(pallidum, seed, kind))
            chi = maps['chi']
            grid, mask = Grid.from_affine(chi.shape, maps['affine']), np.ones(chi.shape, bool)
            data = (maps['dseg'], atlas.labels(), mask, grid, maps['affine'])
            for side in 'LR':
                for name, r2star in (('with R2*', maps['r2star']), ('chi alone', None)):
                    eye = find_eye(chi, r2star, *data, side)
                    rows.append((seed, kind, side, name, eye.score, eye.finding))
    return pd.DataFrame(rows, columns=['seed', 'kind', 'side', 'with', 'score', 'finding'])


def say_pallida(table):
    """Print how often each kind is called the sign."""
    table = table.assign(called=table['finding'] == 'core inside a ring')
    for (kind, name), rows in table.groupby(['kind', 'with'], sort=False):
        low, high = rows['score'].min(), rows['score'].max()
        print(
            f'{kind:11s} {name:10s} called core in a ring {rows["called"].mean():.3f} of {len(rows)}; score '
            f'{rows["score"].mean():.2f} ({low:.2f} to {high:.2f})'
        )


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', default=['nigrosome', 'voxels', 'pallidum', 'cohort'])
    parser.add_argument('--seeds', nargs=2, type=int, default=(101, 140), help='first and last')
    parser.add_argument('--family', default='surface', help='of the shapes of the nuclei')
    parser.add_argument('--keep', type=Path, help='keep the maps in this folder, and take them from it')
    args = parser.parse_args(words)
    seeds = range(args.seeds[0], args.seeds[1] + 1)
    if 'nigrosome' in args.parts:
        table = run_nigrosomes(seeds, args.keep, family=args.family)
        say_nigrosomes(table, f'.5 x .5 x 1, {args.family}')
        print(table.sort_values(['lost', 'score']).to_string(index=False, float_format='{:.2f}'.format))
    if 'voxels' in args.parts:
        for voxel in VOXELS[1:]:
            say_nigrosomes(run_nigrosomes(seeds, args.keep, voxel), ' x '.join(f'{v:g}' for v in voxel))
    if 'pallidum' in args.parts:
        say_pallida(run_pallida(seeds, args.keep))


if __name__ == '__main__':
    main(sys.argv[1:])
