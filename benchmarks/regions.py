"""Score the regional means of the table of regions on heads of known truth.

python benchmarks/regions.py [--seeds 1101 1102 ...] [--voxel 1 1 1 --voxel 1 1 2] [--labels true T1w segment]
                             [--out regions.tsv]

The truth of a region is the mean of what its nuclei were filled with, free of partial volume; its error is
taken against a region of reference, whose truth is the mean of the true map over the same voxels. Maps are
those of the default chain. Labels are the true ones ('true'), or those of the atlas carried over by the
alignment of a T1w image of 1 mm in the same pose ('T1w'), or nuclei segmented in the maps from there
('segment'). Only these give weighted means.
"""

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from accuracy import CACHE
from chain import Chain
from conditions import Condition, head_of, scan

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.nuclei import segment
from bids_qsm.anatomy.register import dipy
from bids_qsm.anatomy.segmentation import white_matter
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.biomarkers.reference import REFERENCES
from bids_qsm.biomarkers.regions import COMPOSITES, region_table
from bids_qsm.phantom import tissue
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.magnitude import combine
from bids_qsm.templates.spaces import EMBEDDED, get_template

NUCLEI = ('SN', 'GP', 'RN', 'Putamen', 'Caudate')
"""Regions that count."""
SEEDS = (1101, 1102, 1103)
VOXELS = ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0))
LABELS = ('true', 'T1w', 'segment')
VALUES = ('mean', 'mean_weighted', 'median', 'core_mean', 'mean_pv')
ERRORS = {'mean': 'se', 'mean_weighted': 'se_weighted', 'core_mean': 'core_se', 'mean_pv': 'se_pv'}


def true_values(head):
    """Mean susceptibility (ppm) of each region of a head, as its nuclei were filled."""
    total = {}
    for nucleus in head.nuclei:
        # texture goes with the strength that the region commonly has
        chi = nucleus.chi + abs(tissue.NUCLEI[nucleus.region].chi) * (nucleus.grain - 1)
        sums = np.array([(nucleus.amount * chi).sum(), nucleus.amount.sum()])
        total[nucleus.region] = total.get(nucleus.region, 0) + sums
    for name, parts in COMPOSITES.items():
        total[name] = sum(total[part] for part in parts)
    return {region: value / amount for region, (value, amount) in total.items()}


class Alignment:
    """Alignment of a head's T1w image (1 mm) with the template, in the pose of the series."""

    def __init__(self, head, seed, cache):
        self.template = get_template(EMBEDDED, Path(cache))
        volumes = [nib.load(path) for path in (self.template.t1w, self.template.mask)]
        self.affine = volumes[0].affine
        self.t1w, inside = (np.asanyarray(v.dataobj).astype(np.float32) for v in volumes)
        self.inside = inside > 0.5
        self.dseg, self.labels = atlas.nuclei_atlas(self.t1w.shape, self.affine)
        image, self.place = simulate_t1w(head, seed)
        self.image = correct_bias(image, self.place)[0]
        brain = head.sample(image.shape, self.place, ('brain',))['brain'] > 0.5
        self.there, self.back = dipy(self.image, self.place, brain, self.t1w, self.affine, self.inside)

    def segmented(self, chi, affine, mask, **maps):
        """Nuclei in the maps: labels, their table and the shares of voxels; and where they moved."""
        return segment(
            chi, affine, mask, [self.there], [self.back], self.dseg, self.affine, self.labels, **maps
        )


@lru_cache(maxsize=1)
def _alignment(seed, cache):
    return Alignment(head_of(seed, 1.0), seed, cache)


def errors(table, truth):
    """Errors (ppb) of each region and value, against each region of reference."""
    rows = table[table['hemisphere'] == 'both'].set_index(['map', 'region'])
    found, true = rows.loc['chi'], rows.loc['truth']
    for reference in REFERENCES:
        zero = found['mean'][reference] - true['mean'][reference]
        if np.isnan(zero):
            continue
        for value in VALUES:
            for region in truth:
                if region in found.index and np.isfinite(found[value][region]):
                    yield {
                        'reference': reference,
                        'region': region,
                        'value': value,
                        'truth': 1000 * truth[region],
                        'error': 1000 * (found[value][region] - zero - truth[region]),
                        'se': 1000 * found[ERRORS[value]][region] if value in ERRORS else np.nan,
                    }


def measure(seed, voxel, labels, cache):
    """Errors of one head at one voxel size, a row a region, value and reference."""
    case = scan(Condition('regions', voxel), seed, cache=cache)
    chain = Chain(case.data)
    chain.run([step for step in chain.steps if step != 'swi'])
    data, mask = chain.data, chain.chi_mask
    chi = np.where(mask, data['chi'] - data['offset'], 0).astype(np.float32)
    maps = {'chi': chi, 'R2star': data['r2star'], 'truth': case.truth['chi'].astype(np.float32)}
    head = head_of(seed, 1.0)
    truth = true_values(head)
    aligned = _alignment(seed, cache) if set(labels) - {'true'} else None
    for kind in labels:
        dseg, named, shares, white = case.truth['dseg'], atlas.labels(), None, None
        if kind != 'true':
            # of points of the series to those of the template
            back = [aligned.back]
            if kind == 'segment':
                found = aligned.segmented(
                    chi,
                    case.affine,
                    mask,
                    magnitude=combine(data['magnitude']),
                    r2star=data['r2star'],
                    field_strength=case.condition.field_strength,
                )
                dseg, named, shares = found.dseg, found.labels, found.shares
                back.append(found.unrefine)
            else:
                dseg = resample_labels(aligned.dseg, aligned.affine, chi.shape, case.affine, back)
            deep = white_matter(aligned.t1w, aligned.inside, aligned.affine)
            white = resample(deep, aligned.affine, chi.shape, case.affine, back) > 0.5
        table = region_table(maps, dseg, named, mask, case.grid, probseg=shares, white_matter=white)
        for row in errors(table, truth):
            yield {'seed': seed, 'voxel': 'x'.join(f'{v:g}' for v in voxel), 'labels': kind, **row}


def report(rows):
    """Print the median absolute error over heads, by region and over those that count."""
    keys = ['reference', 'voxel', 'labels', 'value']
    rows = rows[rows['region'].isin(NUCLEI)].assign(size=rows['error'].abs())
    table = rows.pivot_table('size', keys, 'region', 'median')[list(NUCLEI)]
    table['all five'] = rows.groupby(keys)['size'].median()
    table['bias'] = rows.groupby(keys)['error'].median()
    table['error/se'] = (rows['size'] / rows['se']).groupby([rows[k] for k in keys]).median()
    print(f'Absolute error of regional means (ppb), median over {rows["seed"].nunique()} heads')
    print(table.round(1).to_string())


def main(argv=None):
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--voxel', type=float, nargs=3, action='append', help='mm; may be repeated')
    parser.add_argument('--labels', nargs='+', choices=LABELS, default=LABELS)
    parser.add_argument('--cache', type=Path, default=CACHE)
    parser.add_argument('--out', type=Path, help='keep the errors of every region here (TSV)')
    arguments = parser.parse_args(argv)
    rows = []
    for seed in arguments.seeds:
        for voxel in [tuple(v) for v in arguments.voxel or VOXELS]:
            rows += measure(seed, voxel, arguments.labels, arguments.cache)
            print(f'seed {seed}, {voxel} mm: done', file=sys.stderr, flush=True)
            if arguments.out:
                pd.DataFrame(rows).to_csv(arguments.out, sep='\t', index=False, float_format='%.4g')
    report(pd.DataFrame(rows))


if __name__ == '__main__':
    main()
