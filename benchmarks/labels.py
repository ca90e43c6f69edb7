"""Score the labels of deep grey nuclei that lie elsewhere than a T1-weighted image shows.

python benchmarks/labels.py [--seeds 61 62 ...] [--nuclei-mm 3] [--voxel 1 1 1] [--tilt 0] [--snr 70]

Each head has its own warp, and nuclei that moved by up to --nuclei-mm, each its own way. Dice with the true
labels on the grid of the GRE: of the alignment by T1w alone, of every method of refinement, and of a
symmetric diffeomorphic registration of susceptibility by local correlation ('syn', a yardstick). The
alignment of GRE to T1w is the true one.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from chain import Chain
from metrics import dice

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import extract_brain
from bids_qsm.anatomy.contrast import prior_chi
from bids_qsm.anatomy.refine import REFINEMENT
from bids_qsm.anatomy.register import DEEP_GREY, REGISTER, syn
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.grid import Grid
from bids_qsm.templates.spaces import EMBEDDED, get_template

REGIONS = {
    'SN': ('SNc', 'SNr'),
    'RN': ('RN',),
    'STN': ('STN',),
    'GPe': ('GPe',),
    'GPi': ('GPi',),
    'Putamen': ('Putamen',),
    'Caudate': ('Caudate',),
    'Thalamus': ('Thalamus',),
}


class Target:
    """The embedded template: T1w, mask, built-in atlas, and the susceptibility that these let expect."""

    def __init__(self):
        found = get_template(EMBEDDED, Path(tempfile.gettempdir()) / 'bids_qsm_benchmarks')
        image = nib.load(found.t1w)
        self.affine = image.affine
        self.t1w = np.asanyarray(image.dataobj).astype(np.float32)
        self.mask = np.asanyarray(nib.load(found.mask).dataobj) > 0.5
        self.dseg, self.labels = nuclei_atlas(self.t1w.shape, self.affine)
        self.chi = prior_chi(self.t1w, self.affine, self.mask, self.dseg, self.affine, self.labels)


def yardstick(case, target):
    """Inverse displacement of a registration of susceptibility alone in the box of the deep grey matter."""
    low, high = np.asarray(DEEP_GREY)
    grid = np.eye(4)
    grid[:3, 3] = low
    shape = tuple((high - low).astype(int) + 1)
    fixed = resample(target.chi, target.affine, shape, grid, [])
    moving = resample(case['chi'] * case['mask'], case['chi_affine'], shape, grid, case['chi_chain'])
    return syn(fixed, moving, grid, iterations=(30, 15))[1]


def scan(seed, protocol, nuclei_mm, iron, target):
    """A head in T1w and GRE: what refinement asks for, true labels, and the transforms of GRE to template."""
    effects = {'GP': iron, 'SN': iron} if iron != 1 else None
    head = make_head(seed, nuclei_mm=nuclei_mm, effects=effects)
    image, image_affine = simulate_t1w(head, seed)
    image = correct_bias(image, image_affine)[0]
    parts = (target.t1w, target.affine, target.mask)
    brain, affine = extract_brain(image, image_affine, *parts)
    there, back = REGISTER['dipy'](image, image_affine, brain, *parts, affine)
    simulation = simulate(head, protocol, seed)
    shape = simulation.phase.shape[:3]
    chain = Chain(
        {
            'magnitude': np.asfortranarray(simulation.magnitude, np.float32),
            'phase': np.asfortranarray(simulation.phase, np.float32),
            'echo_times': list(protocol.echo_times),
            'field_strength': protocol.field_strength,
            'grid': Grid.from_affine(shape, simulation.affine),
            'brain': resample(brain, image_affine, shape, simulation.affine, []) > 0.5,
        }
    )
    chain.run([step for step in chain.steps if step != 'swi'])
    case = {
        'chi': chain.data['chi'].astype(np.float32),
        'chi_affine': simulation.affine,
        'mask': chain.chi_mask,
        'chi_chain': [there],
        'image': image,
        'image_affine': image_affine,
        'image_chain': [there],
    }
    return case, simulation.truth['dseg'], [back]


def scores(case, truth, to_template, target):
    """Dice by region and side, one dict a way of alignment."""
    data = {
        'template': target.t1w,
        'template_affine': target.affine,
        'template_chi': target.chi,
        'template_chi_affine': target.affine,
        'dseg': target.dseg,
        'dseg_affine': target.affine,
        'labels': target.labels,
    }
    ways = {'T1w': lambda: None, 'syn': lambda: yardstick(case, target)}
    ways |= {name: lambda f=function: f(**case, **data)[1] for name, function in REFINEMENT.items()}
    for way, function in ways.items():
        start = time.process_time()
        unrefine = function()
        seconds = time.process_time() - start
        chain = to_template if unrefine is None else [*to_template, unrefine]
        found = resample_labels(target.dseg, target.affine, truth.shape, case['chi_affine'], chain)
        for region, names in REGIONS.items():
            for side in 'LR':
                rows = target.labels['region'].isin(names) & (target.labels['hemisphere'] == side)
                wanted = target.labels.loc[rows, 'index']
                yield {
                    'way': way,
                    'region': region,
                    'side': side,
                    'dice': dice(np.isin(found, wanted), np.isin(truth, wanted)),
                    'seconds': seconds,
                }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[61, 62, 63])
    parser.add_argument('--nuclei-mm', type=float, default=3.0)
    parser.add_argument('--voxel', nargs=3, type=float, default=[1.0, 1.0, 1.0])
    parser.add_argument('--tilt', type=float, default=0.0, help='of the slab about x (degrees)')
    parser.add_argument('--snr', type=float, default=70.0)
    parser.add_argument('--iron', type=float, default=1.0, help='factor on SN and GP')
    parser.add_argument('--table', type=Path, help='write all rows here (TSV)')
    args = parser.parse_args()
    protocol = Protocol(voxel_size=tuple(args.voxel), rotation=(args.tilt, 0.0, 0.0), snr=args.snr)
    target = Target()
    rows = []
    for seed in args.seeds:
        scanned = scan(seed, protocol, args.nuclei_mm, args.iron, target)
        rows += [{'seed': seed, **row} for row in scores(*scanned, target)]
        print(f'seed {seed}', flush=True)
        table = pd.DataFrame(rows)
        if args.table:
            table.to_csv(args.table, sep='\t', index=False, float_format='%.4f')
        by = table.groupby(['region', 'way'], sort=False)['dice'].agg(['median', 'mean', 'min']).round(3)
        print(by.unstack('way').to_string(), flush=True)
        print('CPU seconds', table.groupby('way')['seconds'].mean().round(1).to_dict(), flush=True)


if __name__ == '__main__':
    main()
