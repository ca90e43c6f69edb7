"""Score the search for paramagnetic rims on boxes of known truth.

python benchmarks/rims.py [--conditions base ...] [--methods tv ...] [--seeds 101 ...] [--keep FOLDER]

A box of white matter (bids_qsm.phantom.rim_box) has lesions of all sorts, confluent ones and ones with a vein
at the edge, beside a ventricle and cortex. Its field goes through an inversion, and masks are off by up to a
voxel. Veins are found by `vein_tree` here, which needs no head.

- PR-AUC: area under precision against recall of the score, with classes weighted to 3 % of rims; of all
  lesions (those that could not be assessed come last), and of those assessed.
- false: lesions without a rim that were graded definite or probable, per 30 lesions (a scan).
- found: share of rims, of those assessed, that are graded at least possible.
- dice: of the image of rims above one half, and voxels a quarter of which is rim; of rims that were found.
- ratio: corrected contrast (of a rim of 1 mm) over true susceptibility times thickness; median and quartiles.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from results import kept
from scipy import ndimage

from bids_qsm.biomarkers.confluent import split_confluent
from bids_qsm.biomarkers.focal_brain import tissue_contrast
from bids_qsm.biomarkers.lesions import label_lesions
from bids_qsm.biomarkers.rim_response import field_noise, rim_response
from bids_qsm.biomarkers.rim_table import UNSEEN, is_unseen
from bids_qsm.biomarkers.rims import Rim, measure_rims, surroundings
from bids_qsm.biomarkers.vesselness import vein_tree, vesselness
from bids_qsm.phantom.rim_box import make_box, outline
from bids_qsm.phantom.rims import RimLesion, draw_one, neighbour
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call

CONDITIONS = {
    'base': {},
    'noise 1 ppb': {'noise': 0.001},
    'noise 6 ppb': {'noise': 0.006},
    '0.7 mm': {'voxel_size': (0.7, 0.7, 0.7), 'shape': (96, 96, 80), 'noise': 0.004},
    '1 x 1 x 2 mm': {'voxel_size': (1.0, 1.0, 2.0), 'shape': (72, 72, 32), 'noise': 0.002},
}
"""Parameters of `make_box`; voxels are 1 mm and noise 3 ppb unless they say otherwise."""
METHODS = ('tv', 'tkd', 'whnltv')
"""Nothing was chosen on maps of whnltv."""
SEEDS = tuple(range(101, 107))
"""Of boxes on which nothing was chosen; seeds 1 to 8 served for that, with tv and tkd."""
PREVALENCE = 0.03
A_SCAN = 30
"""Lesions of a scan, for false ones a scan."""
RADIANS_PER_PPM = 16.0
"""Phase (rad) of 1 ppm at 3 T and 20 ms."""
LIKELY = ('definite', 'probable')


def inverted(box, method):
    """Susceptibility (ppm) of a box by a method of the registry, relative to its white matter."""
    data = {
        'field': box.field,
        'mask': np.ones(box.field.shape, bool),
        'noise': np.full(box.field.shape, box.noise, np.float32),
        'grid': box.grid,
        'radians_per_ppm': RADIANS_PER_PPM,
    }
    chi = call(INVERSION[method], data, {})
    return (chi - np.median(chi[box.tissue & ~box.drawn])).astype(np.float32)


def score(box, chi, method, seed=0):
    """One row a lesion: what was measured, and the truth."""
    mask = np.ones(chi.shape, bool)
    parts, _ = split_confluent(label_lesions(box.drawn), box.grid.voxel_size)
    contrast, spread = tissue_contrast(chi, mask, box.grid)
    veins = vein_tree(vesselness(chi, mask, box.grid), contrast / spread, mask, box.grid)
    around = surroundings(chi, mask, parts, box.grid, veins=veins)
    noise = field_noise(box.field, around.plain)
    rows = []
    for rim in measure_rims(chi, around, mask, box.grid):
        owners = np.bincount(box.owner[parts == rim.number], minlength=len(box.lesions) + 1)
        true = box.lesions[owners[1:].argmax()]
        row = {
            'seed': seed,
            'sort': true.sort,
            'is_rim': true.rim > 0,
            'thickness': true.thickness,
            'rim': true.rim,
            'radius': true.radius,
            'true_share': true.completeness,
            'reason': getattr(rim, 'reason', ''),
            'score': -1.0,
        }
        if isinstance(rim, Rim):
            more = (box.grid, INVERSION[method], {}, noise, RADIANS_PER_PPM)
            response = rim_response(rim.frame, rim.seen, *more)
            if is_unseen(rim, response):
                rows.append(row | {'reason': UNSEEN})
                continue
            row |= {
                'grade': rim.grade,
                'score': rim.score,
                'share': rim.completeness,
                'contrast': rim.contrast,
            }
        if isinstance(rim, Rim) and true.rim and rim.grade != 'no':
            there = true.rim_shares(box.field.shape, box.affine)[rim.box] >= 0.25
            found = rim.probability > 0.5
            row['dice'] = 2 * (there & found).sum() / max(there.sum() + found.sum(), 1)
            row['corrected'] = rim.contrast / response
            row['ratio'] = row['corrected'] / (true.rim * true.thickness)
        rows.append(row)
    return pd.DataFrame(rows)


def pr_auc(is_rim, scores):
    """Average precision, with the two classes weighted to the prevalence; ties count as one threshold.

    >>> float(pr_auc(np.array([True, False, True, False]), np.array([4.0, 1.0, 3.0, 2.0])))
    1.0
    """
    order = np.argsort(-scores, kind='stable')
    true, scores = np.asarray(is_rim, bool)[order], np.asarray(scores)[order]
    if true.all() or not true.any():
        return np.nan
    weight = np.where(true, PREVALENCE / true.sum(), (1 - PREVALENCE) / (~true).sum())
    hits, false = np.cumsum(weight * true), np.cumsum(weight * ~true)
    last = np.r_[scores[1:] != scores[:-1], True]
    hits, false = hits[last], false[last]
    return np.sum(np.diff(np.r_[0, hits / PREVALENCE]) * hits / (hits + false))


def summary(rows):
    """Figures of some lesions, see above."""
    done = rows[rows['reason'] == '']
    rims, plain = done[done['is_rim']], done[~done['is_rim']]
    low, middle, high = rims['ratio'].quantile([0.25, 0.5, 0.75])
    false = plain['grade'].isin(LIKELY).sum() / max((~rows['is_rim']).sum(), 1)
    return {
        'lesions': len(rows),
        'rims': int(rows['is_rim'].sum()),
        'assessed': f'{len(done) / len(rows):.2f}',
        'PR-AUC': f'{pr_auc(rows["is_rim"], rows["score"]):.2f}',
        'assessed PR-AUC': f'{pr_auc(done["is_rim"], done["score"]):.2f}',
        'false': f'{A_SCAN * (1 - PREVALENCE) * false:.2f}',
        'found': f'{(rims["grade"] != "no").mean():.2f}',
        'likely': f'{rims["grade"].isin(LIKELY).mean():.2f}',
        'dice': f'{rims["dice"].mean():.2f}',
        'ratio': f'{middle:.2f} ({low:.2f} to {high:.2f})',
    }


def monotone(method, seeds=(201, 202, 203, 204), shares=(0.4, 0.55, 0.7, 0.85, 1.0)):
    """Found against true completeness of the same lesions: correlation over all, and the values."""
    rows = []
    for seed in seeds:
        one = draw_one(np.random.default_rng([seed, 3]), 'rim')
        for share in shares:
            lesion = RimLesion(
                (0.3, -0.2, 0.1), 4.0 + seed % 4, 0.02, 0.06, ratios=one.ratios, turn=one.turn,
                thickness=1.0, completeness=share, gaps=one.gaps,
            )  # fmt: skip
            box = make_box(seed, shape=(48, 48, 48), lesions=(lesion,))
            found = score(box, inverted(box, method), method).iloc[0]
            rows.append({'seed': seed, 'true': share, 'found': found.get('share', np.nan)})
    rows = pd.DataFrame(rows)
    return rows['true'].corr(rows['found']), rows.pivot(index='seed', columns='true', values='found')


def pairs(voxel_size, seeds=range(1000, 1060)):
    """True and found lesions of boxes with pairs that grew together and single ones, without a field."""
    true = found = 0
    for seed in seeds:
        rng = np.random.default_rng([seed, 5])
        lesions = [draw_one(rng, 'plain')]
        if rng.random() < 0.5:
            lesions.append(neighbour(rng, lesions[0], 'plain'))
        drawn = outline(rng, lesions, voxel_size)
        if ndimage.label(drawn, np.ones((3, 3, 3)))[1] == 1:
            true += len(lesions)
            found += int(split_confluent(drawn.astype(int), voxel_size)[0].max())
    return true, found


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--conditions', nargs='+', default=['base'], choices=list(CONDITIONS))
    parser.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS)
    parser.add_argument('--seeds', nargs='+', type=int, default=SEEDS)
    parser.add_argument('--keep', type=Path, help='keep boxes and maps in this folder')
    parser.add_argument('--lesions', type=Path, help='write one row a lesion to this file (TSV)')
    args = parser.parse_args(words)
    results, everything = [], []
    for condition in args.conditions:
        for method in args.methods:
            rows = []
            for seed in args.seeds:
                name = f'{condition}_{seed}'
                box = kept(args.keep, name, partial(make_box, seed, **CONDITIONS[condition]))
                chi = kept(args.keep, f'{name}_{method}', partial(inverted, box, method))
                rows.append(score(box, chi, method, seed))
            rows = pd.concat(rows).assign(condition=condition, method=method)
            everything.append(rows)
            results.append({'condition': condition, 'method': method, **summary(rows)})
            print(results[-1], flush=True)
            if args.lesions:
                pd.concat(everything).to_csv(args.lesions, sep='\t', index=False)
    print(pd.DataFrame(results).to_string(index=False))
    everything = pd.concat(everything)
    rims = everything[everything['is_rim'] & (everything['reason'] == '')]
    for name, edges in (('thickness', (0.5, 1, 1.5, 2)), ('rim', (0.02, 0.04, 0.07, 0.1))):
        groups = rims.groupby(['condition', 'method', pd.cut(rims[name], edges)], observed=True)
        table = groups.agg(
            n=('rim', 'size'),
            found=('grade', lambda g: (g != 'no').mean()),
            likely=('grade', lambda g: g.isin(LIKELY).mean()),
            dice=('dice', 'mean'),
            ratio=('ratio', 'median'),
        )
        print(f'\nby {name} of the rim\n{table.round(2).to_string()}')
    for voxel in ((1, 1, 1), (0.7, 0.7, 0.7), (1, 1, 2)):
        true, found = pairs(voxel)
        print(f'confluent, voxels of {voxel} mm: {found} lesions found of {true}')
    correlation, table = monotone(args.methods[0])
    print(f'completeness: r = {correlation:.3f}\n{table.round(2).to_string()}')
    return everything


if __name__ == '__main__':
    main()
