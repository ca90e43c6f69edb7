"""z-scores of unseen controls, and patterns of raised nuclei in simulated patients.

python benchmarks/patterns.py [--first 2000] [--studies 20] [--controls 40]

Tables are simulated: susceptibility by age, with variation between people and an error of measurement. Each
study has controls, as many healthy people that the norm has not seen, and patients of each pattern.
"""

import argparse

import numpy as np
import pandas as pd

from bids_qsm.cohort.asymmetry import LESS, add_asymmetry
from bids_qsm.cohort.normative import normative
from bids_qsm.cohort.pattern import PATTERNS, patterns
from bids_qsm.phantom.cohort import normal
from bids_qsm.phantom.families import aged

REGIONS = ('SN', 'GP', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')
PATIENTS = 10


def study(seed, controls, *, rise=1.0, spread=0.25, between=0.1, sides=0.04, error=0.004):
    """A long table; patients rise by about ``rise`` times the pattern, each nucleus by a factor of its own.

    ``spread`` is the standard deviation of the logarithm of that factor.
    """
    rng = np.random.default_rng([seed, 43])
    kinds = (
        ['control'] * controls + ['unseen'] * controls + [name for name in PATTERNS for _ in range(PATIENTS)]
    )
    rows = []
    for n, kind in enumerate(kinds):
        age = rng.uniform(10, 70)
        for region in REGIONS:
            value = normal(region) * aged(region, age) * (1 + between * rng.standard_normal())
            weight = PATTERNS.get(kind, {}).get(region, 0.0)
            value *= 1 + rise * weight * np.exp(spread * rng.standard_normal())
            each = value * (1 + sides * rng.standard_normal(2)) + error * rng.standard_normal(2)
            for hemisphere, mean in (('L', each[0]), ('R', each[1]), ('both', each.mean())):
                rows.append((f'sub-{n:03d}', kind, age, region, hemisphere, mean))
    long = pd.DataFrame(rows, columns=['participant_id', 'group', 'age', 'region', 'hemisphere', 'mean'])
    return long.assign(map='chi', units='ppm', atlas='a', coverage=1.0, session_id='ses-1')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--first', type=int, default=2000, help='first seed')
    parser.add_argument('--studies', type=int, default=20)
    parser.add_argument('--controls', type=int, default=40)
    args = parser.parse_args()
    scores, chosen = [], []
    for seed in range(args.first, args.first + args.studies):
        for rise, spread in ((0.5, 0.25), (1.0, 0.25), (2.0, 0.1)):
            long = study(seed, args.controls, rise=rise, spread=spread)
            table, _ = normative(add_asymmetry(long), controls='control')
            of = long.drop_duplicates('participant_id').set_index('participant_id')['group']
            table['group'] = table['participant_id'].map(of)
            if spread < 0.2:
                scores.append(table[table['group'] == 'unseen'])
            found, _ = patterns(table)
            found['group'] = found['participant_id'].map(of)
            first = found[(found['rank'] == 1) | found['rank'].isna()]
            chosen.append(first.assign(rise=rise, spread=spread, right=first['pattern'] == first['group']))
    z = pd.concat(scores)
    z['kind'] = np.where(z['hemisphere'] == LESS, 'left less right', 'value')
    z = z[z['hemisphere'].isin(['both', LESS])]
    print('z of unseen controls')
    print(z.groupby(['kind', 'region'])['z'].agg(['mean', 'std']).unstack(0).round(3).to_string())
    print(z.groupby('kind')['z'].agg(['mean', 'std']).round(3).to_string())
    first = pd.concat(chosen)
    print('\nPattern of highest similarity: share that is right, and mean share in draws')
    ill = first[first['group'] != 'unseen']
    print(
        ill.groupby(['rise', 'spread', 'group'])[['right', 'share']]
        .mean()
        .unstack([0, 1])
        .round(3)
        .to_string()
    )
    print(ill.groupby(['rise', 'spread'])['right'].mean().round(3).to_string())
    healthy = first[first['group'] == 'unseen']
    print(f'healthy people with a raised nucleus: {(healthy["raised"] != "").mean():.3f}')
    wide = ill[(ill['rise'] == 1) & (ill['spread'] > 0.2)].reset_index()
    confused = pd.crosstab(wide['group'], wide['pattern'], normalize='index')
    print(confused.round(2).to_string())


if __name__ == '__main__':
    main()
