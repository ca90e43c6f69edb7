"""Iron and myelin of stages: bias, coverage, power and false effects of ``group --stages``.

python benchmarks/iron_myelin.py [--seeds 101 300] [--cases stages none ...]
python benchmarks/iron_myelin.py --chain OUT [--people 6] [--seeds 101 101]

Each cohort has 20 people at each of 4 stages, whose constants, healthy tissue and slopes differ from what
the analysis assumes, and are drawn anew for it (`bids_qsm.phantom.stages`). Tables of regions are drawn, not
images. The settings of the analysis were chosen on seeds 1 to 100.

Of each quantity, tissue and stage the table has the true change, the bias (in per cent of it), the scatter of
the estimate, the mean standard error, the share of 95 % intervals that hold the truth, and the share of tests
with p < .05 (power; false effects where nothing changes).

With --chain, heads of two stages are scanned and go through the command line, from images to the group level.
In the second stage four nuclei have more susceptibility, and R2* as the phantom ties it to that. What comes
out is compared with what the same statistics make of the true maps. OUT is kept, and goes on from where it
stopped.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bids_qsm.biomarkers.regions import region_table
from bids_qsm.cohort.stages import compare_stages
from bids_qsm.cohort.tables import gather, join_participants
from bids_qsm.phantom.cohort import PROTOCOL, REGIONS, normal
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.families import aged
from bids_qsm.phantom.stages import NULL, WHITE, Stages, draw_stages
from bids_qsm.recon.grid import Grid

CASES = {
    'stages': ('20 people a stage', Stages()),
    'none': ('stages that differ in nothing but age', NULL),
    'bent': ('slopes that change by up to 30 % over 20 mg/100 g', Stages(curvature=0.30)),
    'wide': ('constants as far off as their standard deviations say', Stages(spread=1.45)),
    'sites': ('two scanners', Stages(sites=2)),
    'few': ('10 people a stage', Stages(number=10)),
    'none-sites': ('two scanners, nothing but age differs', replace(NULL, sites=2)),
}


def score(case: str, seeds: Iterable[int]) -> pd.DataFrame:
    """Estimates of all cohorts of a case, with the truth; that of susceptibility and R2* where it is zero."""
    found = []
    for seed in seeds:
        cohort = CASES[case][1]
        drawn = draw_stages(cohort, seed)
        long, _ = join_participants(gather(drawn.tables), drawn.people)
        table, _, _ = compare_stages(long, 'stage', field_strength=3.0)
        truth = drawn.truth.assign(stage=drawn.truth['stage'].astype(str)).melt(
            ['region', 'stage'], var_name='map', value_name='truth'
        )
        table = table.merge(truth, how='left', on=['region', 'stage', 'map'])
        is_null = not any(cohort.iron)
        found.append(table.assign(seed=seed, truth=table['truth'].fillna(0) if is_null else table['truth']))
    return pd.concat(found, ignore_index=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a quantity, tissue and stage."""
    holds = (rows['ci_low'] <= rows['truth']) & (rows['truth'] <= rows['ci_high'])
    rows = rows.assign(
        tissue=np.where(rows['region'] == WHITE, 'white matter', 'grey nuclei'),
        error=rows['estimate'] - rows['truth'],
        holds=holds.where(rows['truth'].notna()).astype(float),
        found=(rows['p'] < 0.05).astype(float),
    )
    parts = rows.groupby(['map', 'tissue', 'stage'], sort=False)
    table = parts.agg(
        truth=('truth', 'mean'),
        bias=('error', 'mean'),
        rmse=('error', lambda e: np.sqrt(np.square(e).mean())),
        se=('se', 'mean'),
        coverage=('holds', 'mean'),
        found=('found', 'mean'),
    )
    table.insert(2, 'bias_pct', 100 * table['bias'] / table['truth'].where(table['truth'] != 0))
    return table


GAIN = dict.fromkeys(('GP', 'SN', 'Putamen', 'Caudate'), 0.022)
"""Susceptibility (ppm) that the second stage of --chain adds: that of some 4 mg/100 g."""
KEYS = ['region', 'map', 'stage']


def write_heads(path: Path, seed: int, number: int) -> None:
    """Simulate ``number`` people of each of two stages."""
    rng = np.random.default_rng([seed, 58])
    visits, people = [], {}
    for n in range(2 * number):
        stage, age = n % 2, round(rng.uniform(40, 65), 1)
        factors = {
            region: (aged(region, age) * (1 + 0.06 * rng.standard_normal()))
            + stage * GAIN.get(region, 0.0) / normal(region)
            for region in REGIONS
        }
        visits.append(Visit(f'{n + 1:02d}', None, 1000 * seed + n, PROTOCOL, 2.0, factors))
        people[f'{n + 1:02d}'] = {'stage': stage, 'age': age, 'sex': 'FM'[n // 2 % 2]}
    write_dataset(path, visits, participants=people, seed=seed, variation=0.0)


def true_tables(data: Path) -> list[tuple[dict, pd.DataFrame]]:
    """Tables of regions of the true maps."""
    tables = []
    for folder in sorted((data / 'derivatives' / 'truth').glob('sub-*/anat')):
        stem = f'{folder}/{folder.parent.name}_'
        image = nib.load(f'{stem}Chimap.nii.gz')
        maps = {
            name: nib.load(f'{stem}{end}.nii.gz')
            for name, end in (('chi', 'Chimap'), ('R2star', 'R2starmap'))
        }
        dseg, mask = (nib.load(f'{stem}{end}.nii.gz') for end in ('seg-nuclei_dseg', 'desc-brain_mask'))
        table = region_table(
            {name: np.asarray(one.dataobj, np.float32) for name, one in maps.items()},
            np.asarray(dseg.dataobj).astype(int),
            pd.read_csv(f'{stem}seg-nuclei_dseg.tsv', sep='\t'),
            np.asarray(mask.dataobj) > 0,
            Grid.from_affine(image.shape, image.affine),
            reference='water',
            label_mm=0.0,
        )
        tables.append(({'sub': folder.parent.name[4:], 'seg': 'nuclei'}, table))
    return tables


def chain(root: Path, seed: int, number: int) -> pd.DataFrame:
    """Changes from the command line beside those of the true maps."""
    data, out = root / 'data', root / 'out'
    if not (data / 'participants.tsv').exists():
        write_heads(data, seed, number)
    common = ('--skip-bids-validation', '--nprocs', '1')
    asked = {'participant': ('--work-dir', root / 'work', '--ironmyelin'), 'group': ('--stages', 'stage')}
    for level, more in asked.items():
        words = [
            sys.executable,
            '-m',
            'bids_qsm',
            data,
            out,
            level,
            *(common if level == 'participant' else ()),
            *more,
        ]
        subprocess.run([*map(str, words)], check=True)
    people = pd.read_csv(data / 'participants.tsv', sep='\t')
    long, _ = join_participants(gather(true_tables(data)), people)
    true, _, _ = compare_stages(long, 'stage', field_strength=PROTOCOL.field_strength)
    found = pd.read_csv(out / 'group' / 'stages.tsv', sep='\t', dtype={'stage': str})
    columns = ['estimate', 'ci_low', 'ci_high']
    return found.set_index(KEYS)[columns].join(true.set_index(KEYS)[columns].add_suffix('_true'), how='inner')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs=2, type=int, default=[101, 300])
    parser.add_argument('--cases', nargs='+', default=[*CASES], choices=[*CASES])
    parser.add_argument('--chain', type=Path)
    parser.add_argument('--people', type=int, default=6)
    options = parser.parse_args()
    if options.chain:
        print(chain(options.chain, options.seeds[0], options.people).round(4).to_string())
        return
    seeds = range(options.seeds[0], options.seeds[1] + 1)
    for case in options.cases:
        rows = score(case, seeds)
        print(f'\n{case}: {CASES[case][0]}, {len(seeds)} cohorts\n')
        print(summary(rows).to_string(float_format=lambda value: f'{value:.4g}'))
        tissue = rows[rows['map'].isin(['iron', 'mvf'])]
        holds = (tissue['ci_low'] <= tissue['truth']) & (tissue['truth'] <= tissue['ci_high'])
        print('\ncoverage', holds.groupby(tissue['map']).mean().round(3).to_dict())
        print('p < .05', (rows['p'] < 0.05).groupby(rows['map']).mean().round(3).to_dict())
        sure = (rows['p_fdr'] < 0.05).groupby([rows['map'], rows['seed'], rows['stage']]).any()
        print('any region of a stage after correction', sure.groupby('map').mean().round(3).to_dict())


if __name__ == '__main__':
    main()
