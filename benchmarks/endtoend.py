"""Score the command line, from a BIDS dataset to labelled susceptibility, against a phantom's truth.

python benchmarks/accuracy.py --end-to-end --seeds 11 12 --voxel 1 --snr 70 [-- further options of bids_qsm]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from metrics import centred, coverage, dice, nrmse, regional_fit

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def groups(dseg, labels, names):
    """Mask of the regions ``names``."""
    return np.isin(dseg, labels.loc[labels['region'].isin(names), 'index'])


def score(data, out, seed):
    """Scores of the one series of subject ``seed``, name -> value."""
    stem = f'sub-{seed}/anat/sub-{seed}'
    truth = data / 'derivatives' / 'truth'
    chi, true_chi = load(out / f'{stem}_Chimap.nii.gz'), load(truth / f'{stem}_Chimap.nii.gz')
    mask = load(out / f'{stem}_desc-brain_mask.nii.gz') > 0
    true_mask = load(truth / f'{stem}_desc-brain_mask.nii.gz') > 0
    found, true_dseg = (
        load(out / f'{stem}_seg-nuclei_dseg.nii.gz'),
        load(truth / f'{stem}_seg-nuclei_dseg.nii.gz'),
    )
    labels = pd.read_csv(truth / f'{stem}_seg-nuclei_dseg.tsv', sep='\t')
    both = mask & true_mask
    chi, true_chi = centred(chi, mask, true_chi, true_mask)
    slope, intercept = regional_fit(chi, true_chi, true_dseg, both)
    overlap = {
        f'{name} Dice': dice(groups(found, labels, parts), groups(true_dseg, labels, parts))
        for name, parts in (('SN', ('SNc', 'SNr')), ('GP', ('GPe', 'GPi')))
    }
    errors = [
        abs(chi[both & (found == k)].mean() - true_chi[both & (true_dseg == k)].mean())
        for k in labels['index']
        if (both & (true_dseg == k)).sum() >= 50 and (both & (found == k)).any()
    ]
    return {
        'seed': seed,
        'NRMSE %': nrmse(chi, true_chi, true_mask),
        'deep-grey NRMSE %': nrmse(chi, true_chi, true_mask & (true_dseg > 0)),
        'slope': slope,
        'intercept ppb': 1e3 * intercept,
        'mask Dice': dice(mask, true_mask),
        'coverage': coverage(mask, true_mask),
        **overlap,
        'mean |error| of regions ppb': 1e3 * np.mean(errors),
    }


def main(words):
    parser = argparse.ArgumentParser(prog='accuracy.py --end-to-end', description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[11, 12])
    parser.add_argument('--voxel', nargs='+', type=float, default=[1.0])
    parser.add_argument('--snr', type=float, default=70)
    parser.add_argument('--field-strength', type=float, default=3.0)
    parser.add_argument('--echo-times', nargs='+', type=float, default=list(Protocol.echo_times))
    parser.add_argument('--rotation', nargs=3, type=float, default=[18, -4, 6])
    parser.add_argument('--folder', type=Path, help='keep dataset and output here')
    parser.add_argument('options', nargs='*', help='options of bids_qsm, after --')
    args = parser.parse_args(words)
    folder = args.folder or Path(tempfile.mkdtemp())
    voxel = tuple(args.voxel * 3)[:3] if len(args.voxel) == 1 else tuple(args.voxel)
    protocol = Protocol(
        voxel,
        echo_times=tuple(args.echo_times),
        field_strength=args.field_strength,
        rotation=tuple(args.rotation),
        snr=args.snr,
        phase_format='siemens',
    )
    data, out = folder / 'data', folder / 'out'
    if not data.exists():
        write_dataset(data, [Visit(str(seed), None, seed, protocol) for seed in args.seeds])
    command = [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'participant', '--skip-bids-validation']
    subprocess.run([*command, *args.options], check=True)
    table = pd.DataFrame([score(data, out, seed) for seed in args.seeds])
    print(table.to_string(index=False, float_format='%.3g'))
