"""Score the search for microbleeds and calcifications on heads with foci of known place and moment.

python benchmarks/foci.py [--heads atlas:31 moved:33 ...] [--voxel 1.5] [--snr 70] [--keep FOLDER]

Each head has bleeds of 0.3 to 3 ppm, calcium of -0.1 to -2 ppm and mixed foci, 1 to 8 mm wide, a quarter each
at the edge of the brain, beside veins, beside iron-rich nuclei and elsewhere; heads of odd seeds have a large
one too. The brain mask is the true one; labels of nuclei are the true ones moved by 2 mm, and lobes are told
with the true pose but without the person's warp, as a registration might leave them. A focus is found where a
candidate that is not called a vein touches it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import CACHE
from foci_heads import condition_of, reconstructed
from scipy import ndimage

from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers.focal import find_candidates
from bids_qsm.biomarkers.mars import REGIONS, mars_regions
from bids_qsm.phantom.foci import PLACES
from bids_qsm.recon.grid import Grid

OFF_MM = 2.0
"""How far off the labels of nuclei are."""
NEAR_MM = 3.0
"""A candidate at the edge shows what is left within the mask: it may lie so far from its focus."""
LEVELS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
"""Confidence of the points of the FROC curve."""


def template_points(head, points):
    """Template coordinates of scanner points, with the warp of the person."""
    affine = np.eye(4)
    found = []
    for point in points:
        affine[:3, 3] = point
        found.append(head.to_template((1, 1, 1), affine).reshape(3))
    return np.array(found).reshape(-1, 3)


def score(head, foci, maps):
    """One row a focus, found or not; and one row a candidate, with the focus it touches (0: none)."""
    affine = maps['affine']
    size = np.sqrt((affine[:3, :3] ** 2).sum(0))
    dseg = np.roll(maps['dseg'], [round(OFF_MM / v / np.sqrt(3)) for v in size], (0, 1, 2))
    grid = Grid.from_affine(dseg.shape, affine)
    fields = (maps['localfield'], maps['field'], maps['magnitude'], maps['r2star'])
    found, table, _ = find_candidates(
        *(maps['chi'], *fields, maps['mask'], dseg, atlas.labels(), grid, affine, [head.pose]),
        confidence=min(LEVELS),
    )
    distance, at = ndimage.distance_transform_edt(maps['foci'] == 0, sampling=size, return_indices=True)
    nearest = maps['foci'][tuple(at)]
    touched = []
    for number, source in zip(table['candidate'], table['moment_from'], strict=True):
        reach = NEAR_MM if source == 'total field' else size.max() + 1e-3
        here = nearest[(found == number) & (distance <= reach)]
        touched.append(int(np.bincount(here).argmax()) if here.size else 0)
    table.insert(0, 'focus', touched)
    told = table[table['class'] != 'vein'].sort_values('confidence', ascending=False)
    told = told.drop_duplicates('focus').set_index('focus')
    regions = mars_regions(template_points(head, [f.centre for f in foci]))
    rows = []
    for number, (focus, region) in enumerate(zip(foci, regions, strict=True), 1):
        row = {'focus': number, 'kind': focus.kind, 'place': focus.place, 'diameter': 2 * focus.radius}
        row |= {'true_moment': focus.moment, 'region': region, 'found': number in told.index}
        columns = ('class', 'sign', 'moment', 'moment_se', 'confidence')
        row |= {name: told.loc[number, name] if row['found'] else np.nan for name in columns}
        right = 'paramagnetic' if focus.moment > 0 else 'diamagnetic'
        rows.append(row | {'right': row['sign'] == right, 'told': row['sign'] in SIGNED})
    return pd.DataFrame(rows), table


SIGNED = ('paramagnetic', 'diamagnetic')


def region_errors(foci, table, least):
    """By head and region: bleeds that were told less true ones of at least ``least`` mm or found."""
    bleeds = (
        (foci['true_moment'] > 0) & (foci['kind'] != 'large') & ((foci['diameter'] >= least) | foci['found'])
    )
    true = foci[bleeds].groupby(['seed', 'region']).size()
    told = table[(table['class'] == 'microbleed') & (table['confidence'] >= 0.4)]
    told = told.groupby(['seed', 'mars_region']).size()
    both = pd.MultiIndex.from_product([foci['seed'].unique(), REGIONS])
    return told.reindex(both, fill_value=0) - true.reindex(both, fill_value=0)


def report(foci, table, voxel):
    """Print what the issue asks for."""
    heads = foci['seed'].nunique()
    false = table[(table['focus'] == 0) & (table['class'] != 'vein')]
    big = foci[foci['diameter'] >= 2 * voxel]
    print(f'\nFROC, {len(big)} foci of at least 2 voxels ({2 * voxel:g} mm) in {heads} heads')
    for level in LEVELS:
        hit = (big['confidence'] >= level).mean()
        rate = (false['confidence'] >= level).sum() / heads
        print(f'  confidence {level:.2f}: sensitivity {hit:.3f}, false {rate:.2f} a head')
    foci = foci.assign(found=foci['found'] & (foci['confidence'] >= 0.4))
    big = foci[foci['diameter'] >= 2 * voxel]
    print('\nat the default of 0.40')
    inner = foci['diameter'].between(1, 2), foci['diameter'].between(2, 3), foci['diameter'].between(3, 5)
    groups = [
        *((f'at least 2 voxels: {place}', big[big['place'] == place]) for place in PLACES),
        *((f'at least 2 voxels: {kind}', rows) for kind, rows in big.groupby('kind')),
        ('at least 2 voxels: all', big),
        *zip(('1-2 mm', '2-3 mm', '3-5 mm'), (foci[one] for one in inner), strict=True),
        ('over 5 mm', foci[foci['diameter'] > 5]),
    ]
    for name, rows in groups:
        here = rows[rows['found']]
        print(
            f'  {name:34s} found {len(here):3d} of {len(rows):3d}   sign right {here["right"].sum():3d}, '
            f'indeterminate {(~here["told"]).sum()}'
        )
    here = foci[foci['found'] & (foci['diameter'] >= 2) & foci['told']]
    print(f'\nsign from 2 mm: {here["right"].sum()} of {len(here)} right')
    off = (here['moment'] - here['true_moment']) / here['moment_se']
    share = here['moment'] / here['true_moment']
    print(
        f'moment: median {share.median():.3f} of the truth, middle half {share.quantile(0.25):.3f} to '
        f'{share.quantile(0.75):.3f}; error over SE: median {off.abs().median():.2f}, '
        f'within 2 SE {(off.abs() < 2).mean():.2f}'
    )
    told = foci[foci['found']]
    print(f'indeterminate: {(told["class"] == "indeterminate").sum()} of {len(told)} found')
    errors = region_errors(foci, table, 2 * voxel)
    exact, near = (errors == 0).mean(), (errors.abs() <= 1).mean()
    print(f'counts by region and head: {exact:.2f} exact, {near:.2f} within 1')
    large = foci[foci['kind'] == 'large']
    print(f'large: {(large["class"] == "large focus").sum()} of {len(large)} in their class')


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--heads', nargs='+', default=['atlas:31', 'atlas:32', 'moved:33'])
    parser.add_argument('--voxel', type=float, default=1.5, help='size (mm)')
    parser.add_argument('--snr', type=float, default=70.0)
    parser.add_argument('--keep', type=Path, default=CACHE / 'foci', help='keep maps here (%(default)s)')
    args = parser.parse_args(words)
    condition = condition_of((args.voxel,) * 3, args.snr)
    results = []
    for name in args.heads:
        family, seed = name.split(':')
        head, foci, maps = reconstructed(int(seed), condition, family, args.keep)
        results.append(tuple(part.assign(seed=name) for part in score(head, foci, maps)))
        rows, table = results[-1]
        wrong = ((table['focus'] == 0) & (table['class'] != 'vein') & (table['confidence'] >= 0.4)).sum()
        print(f'{name}: found {rows["found"].sum()} of {len(rows)}, false {wrong}', flush=True)
    foci, table = (pd.concat(frames) for frames in zip(*results, strict=True))
    columns = ['seed', 'class', 'certainty', 'found_by', 'x', 'y', 'z', 'moment', 'moment_se', 'diameter_mm']
    columns += ['confidence', 'dist_edge_mm', 'dist_vein_mm', 'dist_nucleus_mm']
    print('\nfalse')
    print(table[(table['focus'] == 0) & (table['class'] != 'vein')][columns].to_string(index=False))
    print('\nmissed, of at least 2 voxels')
    missed = foci[~foci['found'] & (foci['diameter'] >= 2 * args.voxel)]
    print(missed[['seed', 'focus', 'kind', 'place', 'diameter', 'true_moment']].to_string(index=False))
    report(foci, table, args.voxel)
    return foci, table


if __name__ == '__main__':
    main(sys.argv[1:])
