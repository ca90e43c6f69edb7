"""How much the pipeline itself adds to the scatter of a person's values from scan to scan.

python benchmarks/repeats.py [--folder FOLDER] [--seeds 601 602] [--families moved bent] [--voxel 1.5]

The same head is scanned again: with new noise, coils and shim and nothing else; and turned by 10 degrees.
Each scan has a T1w image of its own and goes through the whole command line, labels included. The
within-subject standard deviation (SDw, ppb) of each region is that of its means in the tables; beside it that
of means over the true labels, which leaves out what the labels do. Without a folder only the reconstruction
is run, and there are means over the true labels alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan
from endtoend import load

from bids_qsm.anatomy import atlas
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head

TURNS = {
    '1': (0, 0, 0), '2': (0, 0, 0), '3': (0, 0, 0),
    '4': (10, 0, 0), '5': (-10, 0, 0), '6': (0, 10, 0),
}  # fmt: skip
"""Degrees about x, y and z by session."""
KINDS = {'new noise': ('1', '2', '3'), 'turned by 10 degrees': ('1', '4', '5', '6')}


def values(data, out, seed):
    """Mean susceptibility (ppb) by session and region: of the tables, and over the true labels."""
    rows = []
    for session in TURNS:
        stem = f'sub-{seed}/ses-{session}/anat/sub-{seed}_ses-{session}'
        table = pd.read_csv(out / f'{stem}_seg-nuclei_desc-regions_stats.tsv', sep='\t')
        found = table[table['map'] == 'chi'].set_index('index')['mean']
        chi, mask = load(out / f'{stem}_Chimap.nii.gz'), load(out / f'{stem}_desc-brain_mask.nii.gz') > 0
        truth = load(data / 'derivatives' / 'truth' / f'{stem}_seg-nuclei_dseg.nii.gz')
        for index, mean in found.items():
            inside = mask & (truth == index)
            true = chi[inside].mean(dtype=float) if inside.any() else np.nan
            rows.append((seed, session, index, 1e3 * mean, 1e3 * true))
    found = pd.DataFrame(rows, columns=['seed', 'session', 'index', 'table', 'true labels'])
    return found.merge(table[table['map'] == 'chi'][['index', 'region', 'hemisphere']], on='index')


def reconstructed(seed, family, voxel, snr):
    """Mean susceptibility (ppb) over the true labels, by session and region, without the command line."""
    head, rows = make_head(seed, spacing=1.0, family=family), []
    labels = atlas.labels().set_index('index')
    for number, (session, turn) in enumerate(TURNS.items()):
        condition = Condition('repeat', (voxel,) * 3, snr=snr, tilt=0.0)
        case = scan(condition, seed + 1000 * (number + 1), head=head.moved(turn, (0, 0, 0)))
        one = Chain(case.data)
        one.run([step for step in one.steps if step != 'swi'])
        chi = one.data['chi'] - np.float32(one.data['offset'])
        for index, row in labels.iterrows():
            inside = one.chi_mask & (case.truth['dseg'] == index)
            mean = 1e3 * chi[inside].mean(dtype=float) if inside.sum() * voxel**3 > 30 else np.nan
            rows.append((seed, session, index, mean, row['region'], row['hemisphere']))
    return pd.DataFrame(rows, columns=['seed', 'session', 'index', 'true labels', 'region', 'hemisphere'])


def within(found):
    """SDw by kind of repeat and region, pooled over heads and sides."""
    rows = []
    for kind, sessions in KINDS.items():
        part = found[found['session'].isin(sessions)]
        named = [name for name in ('table', 'true labels') if name in part]
        variance = part.groupby(['seed', 'index', 'region'])[named].var()
        table = np.sqrt(variance.groupby('region').mean())
        table.loc['all'] = np.sqrt(variance.mean())
        rows.append(table.assign(repeat=kind).set_index('repeat', append=True))
    return pd.concat(rows).unstack('repeat')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', type=Path, help='for datasets and outputs, which are kept')
    parser.add_argument('--seeds', nargs='+', type=int, default=[601, 602])
    parser.add_argument('--families', nargs='+', default=['moved', 'bent'], help='one a seed')
    parser.add_argument('--voxel', type=float, default=1.5)
    parser.add_argument('--snr', type=float, default=70)
    args = parser.parse_args()
    protocol = Protocol((args.voxel,) * 3, rotation=(12, 0, 0), snr=args.snr)
    tables = []
    for seed, family in zip(args.seeds, args.families, strict=True):
        if args.folder is None:
            tables.append(reconstructed(seed, family, args.voxel, args.snr))
            continue
        data, out = args.folder / family / str(seed), args.folder / family / f'{seed}_out'
        if not data.exists():
            visits = [
                Visit(str(seed), session, seed, protocol, turned=turn) for session, turn in TURNS.items()
            ]
            write_dataset(data, visits, family=family, seed=seed)
        command = [sys.executable, '-m', 'bids_qsm', str(data), str(out), 'participant']
        subprocess.run(
            [*command, '--skip-bids-validation', '--work-dir', str(args.folder / 'work')], check=True
        )
        tables.append(values(data, out, seed))
    table = within(pd.concat(tables))
    print(table.round(2).to_string())


if __name__ == '__main__':
    main()
