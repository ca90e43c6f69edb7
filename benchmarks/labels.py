"""Score the labels of deep grey nuclei, and the regional means that they give, on families of heads.

python benchmarks/labels.py [--families surface moved ...] [--seeds 501 ...] [--protocol 3T 7T]
                            [--start none together apart] [--ways T1w segment] [--table labels.tsv]
                            [--picture labels.png]

Each head is of a family (bids_qsm.phantom.families) that its seed picks in turn unless --families says which.
Protocols: '3T' is 1 mm, five echoes, with a T1w; '7T' is 1 x 1 x 2 mm, one echo, SNR 30, without a T1w. Dice
is that with the true labels on the grid of the GRE. Errors of values (ppb) are those by the labels, against
the true label on the same map, and those of the whole chain, against the same statistic of the true map and
label; mean_pv is held against the tissue. The zero is that of white matter. With --start the atlas is brought
in shifted: 4 mm together, or 3 mm each nucleus its own way. The alignment of GRE to T1w is the true one.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from chain import Chain
from matplotlib import pyplot as plt
from metrics import dice
from scipy import ndimage

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import extract_brain
from bids_qsm.anatomy.nuclei import REFINEMENT
from bids_qsm.anatomy.register import REGISTER
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.biomarkers.regions import region_table
from bids_qsm.phantom.families import BODIES, FAMILIES
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.phantom.tissue import TISSUES
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.registry import call
from bids_qsm.templates.spaces import EMBEDDED, get_template

REGIONS = {
    'SN': ('SNc', 'SNr'),
    'RN': ('RN',),
    'STN': ('STN',),
    'GP': ('GPe', 'GPi'),
    'GPe': ('GPe',),
    'GPi': ('GPi',),
    'Putamen': ('Putamen',),
    'Caudate': ('Caudate',),
    'Thalamus': ('Thalamus',),
    'Dentate': ('Dentate',),
}
PROTOCOLS = {
    '3T': (Protocol(), True),
    '7T': (Protocol((1.0, 1.0, 2.0), echo_times=(0.012,), field_strength=7.0, snr=30.0), False),
}
"""Protocol, and whether there is a T1w."""
STARTS = ('none', 'together', 'apart')


class Target:
    """The embedded template: T1w, mask, and the built-in atlas."""

    def __init__(self):
        found = get_template(EMBEDDED, Path(tempfile.gettempdir()) / 'bids_qsm_benchmarks')
        image = nib.load(found.t1w)
        self.affine = image.affine
        self.t1w = np.asanyarray(image.dataobj).astype(np.float32)
        self.mask = np.asanyarray(nib.load(found.mask).dataobj) > 0.5
        self.dseg, self.labels = nuclei_atlas(self.t1w.shape, self.affine)

    def started(self, start, seed):
        """Labels of the atlas, shifted 4 mm together or 3 mm each nucleus its own way."""
        if start == 'none':
            return self.dseg
        rng = np.random.default_rng([seed, 77])
        found = np.zeros_like(self.dseg)
        bodies = list(BODIES.values()) if start == 'apart' else [tuple(self.labels['region'])]
        for regions in bodies:
            for side in 'LR' if start == 'apart' else [('L', 'R')]:
                step = rng.standard_normal(3)
                step *= (3.0 if start == 'apart' else 4.0) / np.linalg.norm(step)
                rows = self.labels['region'].isin(regions) & self.labels['hemisphere'].isin(list(side))
                part = np.where(np.isin(self.dseg, self.labels.loc[rows, 'index']), self.dseg, 0)
                moved = np.roll(part, np.rint(step).astype(int), (0, 1, 2))
                found = np.where(moved > 0, moved, found)
        return found


def scan(family, seed, protocol, target):
    """A head in T1w and GRE: what refinement asks for, and the truth."""
    settings, has_t1w = PROTOCOLS[protocol]
    head = make_head(seed, family=family)
    simulation = simulate(head, settings, seed)
    if has_t1w:
        image, image_affine = simulate_t1w(head, seed)
    else:
        image, image_affine = np.ascontiguousarray(simulation.magnitude[..., 0]), simulation.affine
    image = correct_bias(image, image_affine)[0]
    parts = (target.t1w, target.affine, target.mask)
    found = extract_brain(image, image_affine, *parts)
    brain, affine = found.mask, found.matrix
    there, back = REGISTER['dipy'](image, image_affine, brain, *parts, affine, same_contrast=has_t1w)
    shape = simulation.phase.shape[:3]
    chain = Chain(
        {
            'magnitude': np.asfortranarray(simulation.magnitude, np.float32),
            'phase': np.asfortranarray(simulation.phase, np.float32),
            'echo_times': list(settings.echo_times),
            'field_strength': settings.field_strength,
            'grid': Grid.from_affine(shape, simulation.affine),
            'brain': resample(brain, image_affine, shape, simulation.affine, []) > 0.5,
        }
    )
    chain.run([step for step in chain.steps if step != 'swi'])
    mask = chain.chi_mask
    truth = {'dseg': simulation.truth['dseg'], 'chi': simulation.truth['chi']}
    away = mask & ~ndimage.binary_dilation(truth['dseg'] > 0, iterations=3)
    white = ndimage.binary_erosion(away, iterations=4) & (np.abs(truth['chi'] - TISSUES['white'].chi) < 0.015)
    zero = np.median((chain.data['chi'] - truth['chi'])[white])
    return {
        'chi': np.where(mask, chain.data['chi'] - zero, 0).astype(np.float32),
        'chi_affine': simulation.affine,
        'mask': mask,
        'chi_chain': [there],
        'to_template': [back],
        'magnitude': combine(chain.data['magnitude']),
        'r2star': chain.data.get('r2star'),
        'field_strength': settings.field_strength,
    }, truth


def found_by(way, case, target, dseg):
    """Labels on the grid of the GRE, their table, and the shares of voxels (None without segmentation)."""
    if way == 'T1w':
        placed = resample_labels(
            dseg, target.affine, case['chi'].shape, case['chi_affine'], case['to_template']
        )
        return placed, target.labels, None
    data = {**case, 'dseg': dseg, 'dseg_affine': target.affine, 'labels': target.labels}
    data |= {'given': None, 'given_labels': None}
    found = call(REFINEMENT[way], data, {})
    return found.dseg, found.labels, found.shares


def values(case, chi, dseg, labels, shares=None, label_mm=0.4):
    """Table of regions of a map, by region and side."""
    grid = Grid.from_affine(chi.shape, case['chi_affine'])
    table = region_table(
        {'chi': chi}, dseg.astype(int), labels, case['mask'], grid, probseg=shares, label_mm=label_mm
    )
    return table.set_index(['region', 'hemisphere'])


def scores(case, truth, target, ways, start, seed):
    """Dice and errors of values (ppb) by region and side, a dict a way of alignment; and the last labels."""
    dseg = target.started(start, seed)
    same = values(case, case['chi'], truth['dseg'], target.labels)
    true = values(case, truth['chi'], truth['dseg'], target.labels, label_mm=0.0)
    scored = []
    for way in ways:
        begin = time.process_time()
        found, labels, shares = found_by(way, case, target, dseg)
        seconds = time.process_time() - begin
        own = values(case, case['chi'], found, labels, shares)
        for region, names in REGIONS.items():
            for side in 'LR':
                rows = target.labels['region'].isin(names) & (target.labels['hemisphere'] == side)
                mine, there = (np.isin(d, target.labels.loc[rows, 'index']) for d in (found, truth['dseg']))
                at = (region, side)
                error = own.at[at, 'mean'] - true.at[at, 'mean']
                row = {
                    'way': way,
                    'start': start,
                    'region': region,
                    'side': side,
                    'source': own.at[at, 'source'],
                    'dice': dice(mine, there),
                    'volume': mine.sum() / there.sum(),
                    'mean': 1e3 * same.at[at, 'mean'],
                    'error': 1e3 * (own.at[at, 'mean'] - same.at[at, 'mean']),
                    'weighted': 1e3 * (own.at[at, 'mean_weighted'] - same.at[at, 'mean']),
                    'of mean': 1e3 * error,
                    'of mean_pv': 1e3 * (own.at[at, 'mean_pv'] - true.at[at, 'mean_pv']),
                    'tissue': 1e3 * (own.at[at, 'mean'] - true.at[at, 'mean_pv']),
                    'covers': float(abs(error) < own.at[at, 'se']),
                    'seconds': seconds,
                }
                scored.append(row)
    return scored, found


def draw(path, heads):
    """Draw susceptibility with the true borders (green) and those found (red), a row a head."""
    figure, axes = plt.subplots(
        len(heads), 4, figsize=(10, 2.6 * len(heads)), squeeze=False, layout='constrained'
    )
    for row, (title, chi, truth, found) in zip(axes, heads, strict=True):
        heights = np.flatnonzero((truth > 0).any((0, 1)))
        shown = np.argwhere(truth > 0)
        low, high = np.maximum(shown.min(0) - 4, 0), shown.max(0) + 5
        row[0].set_title(title, fontsize=8, loc='left')
        for axis, share in zip(row, (0.12, 0.45, 0.58, 0.75), strict=True):
            part = (
                *(slice(a, b) for a, b in zip(low[:2], high[:2], strict=True)),
                int(np.quantile(heights, share)),
            )
            axis.imshow(chi[part].T, cmap='gray', origin='lower', vmin=-0.1, vmax=0.2)
            for labels, color in ((truth, 'lime'), (found, 'red')):
                for index in np.unique(labels[part])[1:]:
                    axis.contour((labels[part] == index).T, [0.5], colors=color, linewidths=0.6)
            axis.set_axis_off()
    figure.savefig(path, dpi=100, metadata={'Software': None})


def rms(errors):
    return np.sqrt(np.mean(np.square(errors)))


def report(table):
    """Print Dice (mean, worst), volume over the true one, and errors of values (ppb)."""
    for (protocol, start, way), rows in table.groupby(['protocol', 'start', 'way'], sort=False):
        by = rows.groupby('region', sort=False)
        found = pd.DataFrame(
            {
                'dice': by['dice'].mean(),
                'least': by['dice'].min(),
                'volume': by['volume'].mean(),
                'true label': by['mean'].mean(),
                'mean': by['error'].agg(rms),
                'bias': by['error'].mean(),
                'worst': by['error'].agg(lambda e: e.iloc[e.abs().argmax()]),
                'weighted': by['weighted'].agg(rms),
                '| mean': by['of mean'].agg(rms),
                'mean_pv': by['of mean_pv'].agg(rms),
                'mean as tissue': by['tissue'].agg(rms),
                'covers': by['covers'].mean(),
            }
        )
        heads, seconds = rows['seed'].nunique(), rows['seconds'].mean()
        print(f'\n{protocol}, start {start}, {way}: {heads} heads, {seconds:.0f} CPU s')
        print('errors in ppb: by the labels, against the true label | of the chain, against the true map')
        print(found.round(2).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--families', nargs='+', choices=FAMILIES, help='one a seed, in turn')
    parser.add_argument('--seeds', nargs='+', type=int, default=[61, 62, 63, 64])
    parser.add_argument('--protocol', nargs='+', choices=PROTOCOLS, default=['3T'])
    parser.add_argument('--start', nargs='+', choices=STARTS, default=['none'])
    parser.add_argument('--ways', nargs='+', choices=['T1w', *REFINEMENT], default=['T1w', 'segment'])
    parser.add_argument('--picture', type=Path, help='draw the labels of the last way here (PNG)')
    parser.add_argument('--table', type=Path, help='write all rows here (TSV)')
    args = parser.parse_args()
    target, rows, heads = Target(), [], []
    families = args.families or list(FAMILIES)
    for protocol in args.protocol:
        for n, seed in enumerate(args.seeds):
            family = families[n % len(families)]
            case, truth = scan(family, seed, protocol, target)
            about = {'protocol': protocol, 'family': family, 'seed': seed}
            for start in args.start:
                scored, found = scores(case, truth, target, args.ways, start, seed)
                rows += [{**about, **row} for row in scored]
                heads.append(
                    (f'{protocol}, {family} {seed}, start {start}', case['chi'], truth['dseg'], found)
                )
            print(f'{protocol}, seed {seed}, {family}: done', flush=True)
            if args.table:
                pd.DataFrame(rows).to_csv(args.table, sep='\t', index=False, float_format='%.4f')
    report(pd.DataFrame(rows))
    if args.picture:
        draw(args.picture, heads)


if __name__ == '__main__':
    main()
