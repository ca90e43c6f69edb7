"""Iron and myelin of stages: bias, coverage, power and false effects of ``group --stages``.

python benchmarks/iron_myelin.py [--seeds 101 300] [--cases stages none ...]

Each cohort has 20 people at each of 4 stages, whose constants, healthy tissue and slopes differ from what
the analysis assumes, and are drawn anew for it (`bids_qsm.phantom.stages`). Tables of regions are drawn, not
images. The settings of the analysis were chosen on seeds 1 to 100.

Of each quantity, tissue and stage the table has the true change, the bias (in per cent of it), the scatter of
the estimate, the mean standard error, the share of 95 % intervals that hold the truth, and the share of tests
with p < .05 (power; false effects where nothing changes).
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from bids_qsm.cohort.stages import compare_stages
from bids_qsm.cohort.tables import gather, join_participants
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs=2, type=int, default=[101, 300])
    parser.add_argument('--cases', nargs='+', default=[*CASES], choices=[*CASES])
    options = parser.parse_args()
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
