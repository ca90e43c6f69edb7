"""Score the whole chain, from a BIDS dataset to labelled susceptibility, against a phantom's truth.

python benchmarks/accuracy.py --seeds 11 12 --voxel 1 --snr 70 [-- further options of bids_qsm]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from metrics import dice, nrmse, regional_fit

from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol

COLUMNS = (
    'seed',
    'NRMSE %',
    'deep-grey NRMSE %',
    'same, demeaned there %',
    'slope',
    'intercept ppb',
    'mask Dice',
    'coverage',
    'SN Dice',
    'GP Dice',
    'mean |error| of regions ppb',
)


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def groups(dseg, labels, names):
    """Mask of the regions ``names``."""
    return np.isin(dseg, labels.loc[labels['region'].isin(names), 'index'])


def score(data, out, seed):
    """Scores of the one series of subject ``seed``, in the order of COLUMNS."""
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
    deep = both & (true_dseg > 0)
    slope, intercept = regional_fit(chi, true_chi, true_dseg, both)
    overlap = [
        dice(groups(found, labels, names), groups(true_dseg, labels, names))
        for names in (('SNc', 'SNr'), ('GPe', 'GPi'))
    ]
    offset = chi[both].mean() - true_chi[both].mean()
    errors = [
        abs(chi[both & (found == k)].mean() - offset - true_chi[both & (true_dseg == k)].mean())
        for k in labels['index']
        if (both & (true_dseg == k)).sum() >= 50 and (both & (found == k)).any()
    ]
    return (
        seed,
        nrmse(chi, true_chi, both),
        nrmse(chi, true_chi, deep, demean_over=both),
        nrmse(chi, true_chi, deep),
        slope,
        1e3 * (intercept - offset),
        dice(mask, true_mask),
        both.sum() / true_mask.sum(),
        *overlap,
        1e3 * np.mean(errors),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[11, 12])
    parser.add_argument('--voxel', nargs='+', type=float, default=[1.0])
    parser.add_argument('--snr', type=float, default=70)
    parser.add_argument('--field-strength', type=float, default=3.0)
    parser.add_argument('--rotation', nargs=3, type=float, default=[18, -4, 6])
    parser.add_argument('--folder', type=Path, help='keep dataset and output here')
    parser.add_argument('options', nargs='*', help='options of bids_qsm, after --')
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    voxel = tuple(args.voxel * 3)[:3] if len(args.voxel) == 1 else tuple(args.voxel)
    protocol = Protocol(
        voxel,
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
    table = pd.DataFrame([score(data, out, seed) for seed in args.seeds], columns=COLUMNS)
    print(table.to_string(index=False, float_format='%.3g'))


if __name__ == '__main__':
    main()
