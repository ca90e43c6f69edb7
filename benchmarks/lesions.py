"""Score the table of lesions on heads of known truth.

python benchmarks/lesions.py [--seeds 1001 1002 ...] [--voxel 1 1 2] [--snr 70] [--keep FOLDER]

Lesions of all sorts are scattered in each head, drawn on a grid of 1 mm as on a T1w image, and carried to the
tilted GRE; maps are those of the default chain. The search for what nobody has drawn is scored by foci.py.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import CACHE
from chain import Chain
from conditions import grid_of_conditions, scan

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.transform import resample_labels
from bids_qsm.biomarkers.lesions import Drawn, lesion_table
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.lesions import scatter

NUMBERS = {'rims': 3, 'lesions': 2, 'calcifications': 4, 'microbleeds': 8}
"""Lesions of each sort in a head."""


def reconstruct(condition, seed, keep, cache):
    """Head with lesions; its maps, the truth on their grid, and their affine."""
    # finer than 3 mm, as `scan` draws it
    head = make_head(seed, spacing=1.0 if min(condition.voxel_size) < 3 else 2.0)
    head = head.changed({}, scatter(seed, head, **NUMBERS))
    name = '_'.join(f'{v:g}' for v in (seed, *condition.voxel_size, condition.snr))
    path = None if keep is None else keep / f'lesions_{name}.npz'
    drawn = np.array([(*lesion.centre, lesion.radius, lesion.chi, lesion.rim) for lesion in head.lesions])
    if path is not None and path.exists():
        kept = dict(np.load(path))
        # maps of another version of the head are of no use
        if np.array_equal(kept['drawn'], drawn):
            return head, kept
    case = scan(condition, seed, head=head, cache=cache)
    chain = Chain(case.data)
    chain.run([step for step in chain.steps if step != 'swi'])
    kept = {
        'chi': chain.data['chi'] - np.float32(chain.data['offset']),
        'r2star': chain.data['r2star'],
        'mask': chain.chi_mask,
        'affine': case.affine,
        'true_chi': case.truth['chi'],
        'lesions': case.truth['lesions'].astype(np.int32),
        'dseg': case.truth['dseg'].astype(np.int32),
        'drawn': drawn,
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **kept)
    return head, kept


def sort_of(lesion):
    """What a lesion is called in the tables."""
    return 'rim' if lesion.rim else lesion.kind


def score_table(head, maps, seed):
    """One row a lesion: what the table says, and the truth."""
    drawn_affine = np.diag([1.0, 1, 1, 1])
    shape = (192, 240, 208)
    drawn_affine[:3, 3] = (0, 0, -16) - (np.array(shape) - 1) / 2
    drawn = head.lesion_labels(shape, drawn_affine).astype(np.int32)
    chi, affine = maps['chi'], maps['affine']
    placed = resample_labels(drawn, drawn_affine, chi.shape, affine, []).astype(np.int32)
    lesions = [Drawn('phantom', drawn, drawn_affine, placed)]
    more = (lesions, maps['dseg'], atlas.labels(), affine)
    table = lesion_table(chi, maps['r2star'], maps['mask'], *more)
    table = table.set_index('lesion').reindex(range(1, len(head.lesions) + 1))
    true = lesion_table(maps['true_chi'], None, maps['true_chi'] != 0, *more)
    rows = table.reset_index()[['lesion', 'reason', 'volume_mm3', 'contrast', 'contrast_z', 'sign']]
    rows.insert(0, 'seed', seed)
    rows.insert(1, 'sort', [sort_of(lesion) for lesion in head.lesions])
    rows['true_contrast'] = true.set_index('lesion')['contrast'].reindex(rows['lesion']).to_numpy()
    expected = np.where(rows['true_contrast'] > 0, 'paramagnetic', 'diamagnetic')
    rows['right'] = rows['sign'].to_numpy() == expected
    return rows


def summarise(signs):
    """Print what the issue asks for."""
    print('\nlesion table: sign right, contrast against truth (ppm)')
    for sort, rows in [*signs.groupby('sort'), ('all', signs)]:
        error = (rows['contrast'] - rows['true_contrast']).abs().median()
        slope = (
            np.polyfit(rows['true_contrast'], rows['contrast'].fillna(0), 1)[0] if len(rows) > 2 else np.nan
        )
        print(
            f'  {sort:14s} {rows["right"].sum():3d} of {len(rows):3d} ({100 * rows["right"].mean():.0f} %)'
            f'   median error {error:.3f}   slope {slope:.2f}'
        )


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[1001, 1002, 1003, 1004, 1005])
    parser.add_argument('--voxel', nargs=3, type=float, default=(1.0, 1.0, 1.0), help='size (mm)')
    parser.add_argument('--snr', type=float, default=70.0)
    parser.add_argument('--keep', type=Path, help='keep the maps in this folder, and take them from it')
    parser.add_argument('--cache', type=Path, default=CACHE, help='keep brain masks here (%(default)s)')
    args = parser.parse_args(words)
    condition = replace(grid_of_conditions()['base'], voxel_size=tuple(args.voxel), snr=args.snr)
    results = []
    for seed in args.seeds:
        head, maps = reconstruct(condition, seed, args.keep, args.cache)
        results.append(score_table(head, maps, seed))
        print(f'{seed}: sign right {results[-1]["right"].sum()} of {len(results[-1])}', flush=True)
    signs = pd.concat(results)
    wrong = signs[~signs['right']]
    print(f'\nlesions without the right sign: {len(wrong)}')
    if len(wrong):
        print(wrong.dropna(axis=1, how='all').to_string(index=False, float_format='{:.3g}'.format))
    summarise(signs)
    return signs


if __name__ == '__main__':
    main(sys.argv[1:])
