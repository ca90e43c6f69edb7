"""Score the search for superficial siderosis on heads of known truth.

python benchmarks/siderosis.py [--seeds 503 504 ...] [--voxel 1.5] [--keep FOLDER]

Sheets of 5 to 12 mm radius are painted on the cortex of the convexity; all veins and the falx are there too.
Maps are those of the default chain with the true brain mask. The pose and warp of the head stand in for
registration. A sheet is found where a piece lies on it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan

from bids_qsm.anatomy.transform import Displacement
from bids_qsm.biomarkers.siderosis import convexity, find_sheets
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.siderosis import add_sheets, scatter_sheets, sheet_share
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

SEEDS = (503, 504)
"""Of heads on which nothing was chosen."""
SHARE = 0.1
"""Least share of a sheet in a voxel that belongs to it."""


def reconstruct(seed, voxel, count, keep):
    """Maps of a head with sheets, the truth, and what takes points to the template."""
    path = None if keep is None else keep / f'siderosis_{seed}_{voxel:g}_{count}.npz'
    if path is not None and path.exists():
        return dict(np.load(path))
    head = make_head(seed)
    sheets = scatter_sheets(seed, head, count)
    head = add_sheets(head, sheets)
    case = scan(Condition('siderosis', (voxel,) * 3), seed, head=head)
    case.data['brain'] = case.truth['mask']
    chain = Chain(case.data)
    chain.run([step for step in chain.steps if step != 'swi'])
    share, owner = sheet_share(head, sheets, chain.data['chi'].shape, case.affine)
    warp = np.diag([head.warp.spacing] * 3 + [1.0])
    warp[:3, 3] = head.warp.origin
    found = {
        'chi': chain.data['chi'] - np.float32(chain.data['offset']),
        'r2star': chain.data['r2star'],
        'mask': chain.chi_mask,
        'affine': case.affine,
        'share': share,
        'owner': owner,
        'thickness': np.array([sheet.thickness for sheet in sheets]),
        'pose': head.pose,
        'warp': head.warp.nodes,
        'warp_affine': warp,
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **found)
    return found


def score(maps, seed):
    """One row a sheet, found or not; one a piece, right or false."""
    mask, affine, owner = maps['mask'], maps['affine'], maps['owner'] * (maps['share'] > SHARE)
    grid = Grid.from_affine(mask.shape, affine)
    to_template = [maps['pose'], Displacement(maps['warp'].astype(np.float32), maps['warp_affine'])]
    found = find_sheets(maps['chi'], maps['r2star'], mask, grid, affine, to_template)
    zone, _ = convexity(mask, affine, to_template)
    deep = depth(mask, grid.voxel_size, 20.0)
    pieces = found.table.copy()
    pieces['sheet'] = [_most(owner[found.labels == n]) for n in pieces['piece']]
    pieces.insert(0, 'seed', seed)
    rows = []
    for n, thickness in enumerate(maps['thickness'], 1):
        here = owner == n
        volume = float(maps['share'][maps['owner'] == n].sum() * grid.voxel_volume)
        own = pieces[pieces['sheet'] == n]
        rows.append(
            {
                'seed': seed,
                'sheet': n,
                'area_mm2': volume / thickness,
                'searched': float(zone[here].mean()) if here.any() else 0.0,
                'depth_mm': float(np.median(deep[here])) if here.any() else np.nan,
                'found': len(own) > 0,
                'definite': bool((own['certainty'] == 'definite').any()),
                'found_mm2': own['area_mm2'].sum(),
            }
        )
    columns = ['seed', 'sheet', 'area_mm2', 'searched', 'depth_mm', 'found', 'definite', 'found_mm2']
    return pd.DataFrame(rows, columns=columns), pieces


def _most(owners):
    """The sheet that most voxels of a piece belong to; 0 where that is less than a tenth of them."""
    counts = np.bincount(owners, minlength=2)
    counts[0] = 0
    return int(counts.argmax()) if counts.max() >= 0.1 * owners.size else 0


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS))
    parser.add_argument('--voxel', type=float, default=1.5, help='side (mm)')
    parser.add_argument('--count', type=int, default=4, help='sheets in a head')
    parser.add_argument('--keep', type=Path, help='keep the maps in this folder, and take them from it')
    args = parser.parse_args(words)
    results = []
    for seed in args.seeds:
        results.append(score(reconstruct(seed, args.voxel, args.count, args.keep), seed))
        for frame in results[-1]:
            print(frame.round(2).to_string(index=False), flush=True)
    sheets, pieces = (pd.concat(frames) for frames in zip(*results, strict=True))
    heads = len(args.seeds)
    print(f'\nsheets: found {sheets["found"].sum()} of {len(sheets)}, definite {sheets["definite"].sum()}')
    false = pieces[pieces['sheet'] == 0]
    for certainty in ('definite', 'possible'):
        number = (false['certainty'] == certainty).sum()
        print(f'false pieces a head, {certainty}: {number / heads:.2f}')
    return sheets, pieces


if __name__ == '__main__':
    main(sys.argv[1:])
