"""Iron and myelin of stages: bias, coverage, power and false effects of ``group --stages``.

python benchmarks/iron_myelin.py [--seeds 301 500] [--cases stages none ...]
python benchmarks/iron_myelin.py --chain 10 [--seeds 101 101]

Each cohort has 20 people at each of 4 stages, whose constants, healthy tissue and slopes differ from what
the analysis assumes, and are drawn anew for it (`bids_qsm.phantom.stages`). Tables of regions are drawn, not
images. The settings of the analysis were chosen on seeds 1 to 100.

Of each quantity, tissue and stage the table has the true change, the bias (in per cent of it), the scatter of
the estimate, the mean standard error, the share of 95 % intervals that hold the truth, and the share of tests
with p < .05 (power; false effects where nothing changes).

With --chain, heads of two stages are scanned at 2 mm and go through the default chain; regions are the true
outlines. In the second stage four nuclei have 22 ppb more, and R2* as the phantom ties it to susceptibility,
which is not as the analysis assumes. What comes out is compared with what the same statistics make of the
true maps.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan

from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers.regions import region_table
from bids_qsm.cohort.stages import compare_stages
from bids_qsm.cohort.tables import gather, join_participants
from bids_qsm.phantom.cohort import REGIONS, normal
from bids_qsm.phantom.families import FAMILIES, aged
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.stages import NULL, WHITE, Stages, draw_stages

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
FAMILY = replace(FAMILIES['atlas'], ages=None, diseases=(('', 1.0),))
VARIES = 0.06
"""Relative standard deviation of the susceptibility of a nucleus between people."""
VOXEL = (2.0, 2.0, 2.0)


def scanned(seed: int, stage: int, rng: np.random.Generator) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """A person of a stage: traits, and tables of regions of the chain and of the truth, in true outlines."""
    age = rng.uniform(40, 65)
    factors = {
        region: aged(region, age) * (1 + VARIES * rng.standard_normal())
        + stage * GAIN.get(region, 0.0) / normal(region)
        for region in REGIONS
    }
    head = make_head(seed, variation=0.0, family=FAMILY).changed(factors)
    one = scan(Condition('stages', VOXEL), seed, head=head)
    chain = Chain(one.data)
    chain.run([step for step in chain.steps if step != 'swi'])
    grid, dseg = one.data['grid'], one.truth['dseg'].astype(int)
    labels = atlas.labels()
    white = head.sample(grid.shape, one.affine, ('white',))['white'] > 0.95
    found = {'chi': chain.data['chi'] - np.float32(chain.data['offset']), 'R2star': chain.data['r2star']}
    true = {'chi': one.truth['chi'], 'R2star': one.truth['r2star']}
    mask = chain.chi_mask & one.truth['mask']
    tables = [region_table(maps, dseg, labels, mask, grid, white_matter=white) for maps in (found, true)]
    return {'stage': stage, 'age': round(age, 1)}, *tables


def chain_of(seed: int, number: int) -> pd.DataFrame:
    """Changes after the chain beside those of the true maps."""
    rng = np.random.default_rng([seed, 58])
    people, tables = [], ([], [])
    for n in range(2 * number):
        traits, *both = scanned(1000 * seed + n, n % 2, rng)
        people.append({'participant_id': f'sub-{n:02d}', **traits})
        for kind, table in zip(tables, both, strict=True):
            kind.append(({'sub': f'{n:02d}', 'seg': 'nuclei'}, table))
        print(f'{n + 1} of {2 * number} heads', file=sys.stderr, flush=True)
    found = []
    for kind in tables:
        long, _ = join_participants(gather(kind), pd.DataFrame(people))
        table, constants, _ = compare_stages(long, 'stage', field_strength=3.0)
        found.append(table.set_index(['region', 'map'])[['estimate', 'ci_low', 'ci_high']])
        print(constants[['map', 'constant', 'literature', 'value', 'sd']].to_string())
    return found[0].join(found[1].add_suffix('_true'))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs=2, type=int, default=[301, 500])
    parser.add_argument('--cases', nargs='+', default=[*CASES], choices=[*CASES])
    parser.add_argument('--chain', type=int, default=0, metavar='PEOPLE', help='of each of two stages')
    options = parser.parse_args()
    if options.chain:
        print(chain_of(options.seeds[0], options.chain).round(4).to_string())
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
