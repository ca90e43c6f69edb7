"""Whether the classifier of the group level keeps what it promises, on cohorts with a known population AUC.

python benchmarks/classify.py [OUT] [--cohorts N] [--only null useless coverage power leaks]

Null: labels that no feature knows; how often p of an AUC is at most .05. Useless: base features tell the
label and QSM features know nothing; how often p of the difference is at most .05, and by the test that swaps
the scores of the two models (benchmarks/swap.py), which is not used for that. Coverage: how often the 95 %
interval holds the AUC, in the population, of the models that were trained (mean over their folds), and its
mean over cohorts; for the sensitivity at .9 specificity and the differences the same. Power: how often a
known difference is found, against what was planned from the difference and its standard error: for scores
that are given (DeLong), and by the scatter of the estimate over the cohorts. Leaks: how often a planted leak
is named, and how often a clean table is.

Seeds are 0 to N - 1; choices were made on seeds from 100000. The analysis is that of --classify with fewer
repeats (5), resamples (60) and permutations (99).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from results import FOLDER
from scipy import special, stats
from swap import swap_test

from bids_qsm.cohort.classify import classify, split
from bids_qsm.cohort.performance import Predictions
from bids_qsm.cohort.ridge import PENALTIES, nested
from bids_qsm.cohort.units import make_units
from bids_qsm.phantom.classes import Population

WORKED = Population()
NOTHING = Population(base=(0.0, 0.0), qsm=(0.0, 0.0, 0.0))
USELESS = Population(base=(0.7, 0.3), qsm=(0.0, 0.0))
STRONG = Population(base=(1.2, 0.6), qsm=(1.0, 0.0, 0.0))
DIFFERENT = Population(base=(0.7, 0.3), qsm=(1.0, 0.0))
LESIONS = {'units': 6, 'mixed': True}
NULLS = {
    '20 + 20 participants': (NOTHING, (20, 20), {}),
    '15 + 15, 6 lesions each, labels of participants': (replace(NOTHING, shared=0.5), (15, 15), {'units': 6}),
    '24, 6 lesions each, labels of lesions': (replace(NOTHING, shared=0.5), (12, 12), LESIONS),
}
UNHELPED = {
    '60 + 60 participants': (USELESS, (60, 60), {}),
    '20 + 20 participants': (USELESS, (20, 20), {}),
}
COVERED = {
    '30 + 30 participants': (WORKED, (30, 30), {}),
    '12 + 12 participants': (WORKED, (12, 12), {}),
    '45 + 15 participants, AUC .8': (STRONG, (45, 15), {}),
    '15 + 15, 6 lesions each, labels of participants': (replace(WORKED, shared=0.5), (15, 15), {'units': 6}),
    '30, 6 lesions each, labels of lesions': (replace(WORKED, shared=0.4), (15, 15), LESIONS),
}


def units_of(population, table):
    base, qsm = population.names
    return make_units(table, f'label ~ {" + ".join(base)} | {" + ".join(qsm)}')


def analysed(population, people, how, seed, **settings):
    units, *_ = units_of(population, population.draw(seed, people=people, **how))
    return classify(units, seed=seed, **settings)


def of(result, model, measure='auc'):
    rows = result.performance
    return rows[(rows['model'] == model) & (rows['measure'] == measure)].iloc[0]


def null(name, population, people, how, cohorts):
    rejected = []
    for seed in range(cohorts):
        table = population.draw(seed, people=people, **how)
        units, *_ = make_units(table, 'label ~ base_0 + base_1')
        found = classify(units, seed=seed, repeats=2, permutations=99, n_boot=10)
        rejected.append(of(found, 'base')['p'] <= 0.05)
    return [('null', name, 'p <= .05', cohorts, np.mean(rejected))]


def coverage(name, population, people, how, cohorts):
    rows = []
    for seed in range(cohorts):
        found = analysed(population, people, how, seed, repeats=5, permutations=0, n_boot=60)
        for measure, of_models in (('auc', population.auc), ('sensitivity', population.sensitivity)):
            truth = {m: of_models(b[:, 1:]).mean() for m, b in found.models.items()}
            truth['difference'] = truth['base + QSM'] - truth['base']
            for model, true in truth.items():
                one = of(found, model, measure)
                name_of = model if measure == 'auc' else f'{model}, {measure}'
                rows.append((name_of, true, one['estimate'], one['ci_low'], one['ci_high']))
    table = pd.DataFrame(rows, columns=['model', 'true', 'found', 'low', 'high'])
    told = []
    for model, part in table.groupby('model', sort=False):
        mean, has = part['true'].mean(), part['low'].notna()
        for what, value in (
            ('mean AUC in the population' if 'sens' not in model else 'mean in the population', mean),
            ('mean estimate', part['found'].mean()),
            ('with an interval', has.mean()),
            (
                'interval holds that of its models',
                part['true'].between(part['low'], part['high'])[has].mean(),
            ),
            ('interval holds the mean', ((part['low'] <= mean) & (part['high'] >= mean))[has].mean()),
        ):
            told.append(('coverage', name, f'{model}: {what}', cohorts, value))
    return told


def useless(name, population, people, how, cohorts):
    rows = []
    for seed in range(cohorts):
        found, swapped = compared(population, people, how, seed)
        one = of(found, 'difference')
        rows.append(
            (one['p'] <= 0.05, one['p'] <= 0.05 and one['estimate'] > 0, swapped <= 0.05, one['estimate'])
        )
    told = ('p <= .05', 'p <= .05, QSM better', 'p of swaps <= .05', 'mean difference')
    return [
        ('useless', name, what, cohorts, np.mean(c))
        for what, c in zip(told, zip(*rows, strict=True), strict=True)
    ]


def compared(population, people, how, seed):
    """Analysis of a cohort of one unit each, whose difference needs no bootstrap, and p of the swap test."""
    units, *_ = units_of(population, population.draw(seed, people=people, **how))
    found = classify(units, seed=seed, repeats=5, permutations=0, n_boot=3)
    splits = [split(units.y, units.person, np.random.default_rng([seed, 1, r])) for r in range(5)]
    outer, ones = np.array([fold for fold, _ in splits]), np.ones(len(units.y))
    predicted = []
    for columns in units.models.values():
        x = np.ascontiguousarray(units.x[columns].to_numpy(float))
        logit = np.array([nested(x, units.y, ones, inner, PENALTIES)[0] for _, inner in splits])
        predicted.append(Predictions(logit, outer, units.y, units.person))
    return found, swap_test(*predicted, swaps=999, seed=seed)


def planned(population, people, difference):
    """Power of a two-sided z test of a difference of AUCs of scores that are given."""
    rng = np.random.default_rng(99)
    n, p = 3000, len(population.base) + len(population.qsm)
    t = population.draw(int(rng.integers(2**31)), people=(n, n))
    x = t.drop(columns=['participant_id', 'label']).to_numpy()
    scores = [x[:, :q] @ population.best(q) for q in (len(population.base), p)]
    variance = 0
    for own, other in ((slice(n, None), slice(0, n)), (slice(0, n), slice(n, None))):
        place = [stats.rankdata(np.r_[s[other], s[own]])[n:] - stats.rankdata(s[own]) for s in scores]
        variance += np.var((place[1] - place[0]) / n) / people[1 if own.start else 0]
    return special.ndtr(difference / np.sqrt(variance) - 1.96)


def power(cohorts, people=(60, 60), population=DIFFERENT):
    rows, gains = [], []
    for seed in range(cohorts):
        found, swapped = compared(population, people, {}, seed)
        one = of(found, 'difference')
        gains.append(
            np.subtract(*(population.auc(found.models[m][:, 1:]).mean() for m in ('base + QSM', 'base')))
        )
        rows.append(
            (one['p'] < 0.05 and one['estimate'] > 0, swapped < 0.05 and one['estimate'] > 0, one['estimate'])
        )
    estimates = [row[-1] for row in rows]
    scattered = special.ndtr(np.mean(gains) / np.std(estimates, ddof=1) - 1.96)
    p = len(population.base) + len(population.qsm)
    best = [float(population.auc(population.best(q))) for q in (len(population.base), p)]
    name = f'{people[0]} + {people[1]} participants'
    return [
        ('power', name, 'largest AUC, base', cohorts, best[0]),
        ('power', name, 'largest AUC, base + QSM', cohorts, best[1]),
        ('power', name, 'difference of the models trained', cohorts, np.mean(gains)),
        (
            'power',
            name,
            'planned, difference of the largest AUCs',
            cohorts,
            planned(population, people, best[1] - best[0]),
        ),
        (
            'power',
            name,
            'planned, difference of the models trained',
            cohorts,
            planned(population, people, np.mean(gains)),
        ),
        ('power', name, 'planned, scatter of the estimate', cohorts, scattered),
        ('power', name, 'found', cohorts, np.mean([row[0] for row in rows])),
        ('power', name, 'found by swaps', cohorts, np.mean([row[1] for row in rows])),
    ]


def planted(table, seed):
    """Leak -> (table with it, a word that its warning must hold)."""
    rng = np.random.default_rng([seed, 5])
    is_patient = table['label'] == 'patient'
    twin = table.iloc[[3, 40]].assign(participant_id=['sub-901', 'sub-902'])
    site = np.where(rng.random(len(table)) < np.where(is_patient, 0.85, 0.15), 'A', 'B')
    return {
        'the same person under two names': (pd.concat([table, twin], ignore_index=True), 'taken for one'),
        'a feature made from the label': (
            table.assign(qsm_1=is_patient + 0.4 * rng.random(len(table))),
            'without an error',
        ),
        'a feature that only patients have': (
            table.assign(
                qsm_1=np.where(is_patient & (rng.random(len(table)) < 0.7), rng.exponential(5, len(table)), 0)
            ),
            'in all units of one label',
        ),
        'gaps that tell the label': (
            table.assign(qsm_1=table['qsm_1'].where(~is_patient | (rng.random(len(table)) > 0.6))),
            'missing much more often',
        ),
        'a site that tells the label': (table.assign(site=site), 'site tells the label'),
    }


def leaks(cohorts, people=(30, 30)):
    caught, clean = {}, []
    for seed in range(cohorts):
        table = WORKED.draw(seed, people=people)
        sites = np.random.default_rng([seed, 6]).choice(['A', 'B', 'C'], len(table))
        clean.append(bool(units_of(WORKED, table.assign(site=sites))[2]))
        for name, (one, word) in planted(table, seed).items():
            caught.setdefault(name, []).append(any(word in note for note in units_of(WORKED, one)[2]))
    told = [('leaks', name, 'named', cohorts, np.mean(found)) for name, found in caught.items()]
    return [*told, ('leaks', 'a clean table with three sites', 'named', cohorts, np.mean(clean))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('out', nargs='?', type=Path, default=FOLDER / 'classify.tsv')
    parser.add_argument('--cohorts', type=int, default=200)
    kinds = ('leaks', 'null', 'useless', 'coverage', 'power')
    parser.add_argument('--only', nargs='+', choices=kinds, default=kinds)
    args = parser.parse_args()
    columns = ['kind', 'cohort', 'what', 'cohorts', 'value']
    table = pd.read_csv(args.out, sep='\t') if args.out.exists() else pd.DataFrame(columns=columns)
    jobs = {
        'leaks': [lambda: leaks(args.cohorts)],
        'null': [lambda k=k: null(k, *NULLS[k], args.cohorts) for k in NULLS],
        'useless': [lambda k=k: useless(k, *UNHELPED[k], args.cohorts) for k in UNHELPED],
        'coverage': [lambda k=k: coverage(k, *COVERED[k], args.cohorts) for k in COVERED],
        'power': [lambda: power(args.cohorts)],
    }
    for kind in args.only:
        for job in jobs[kind]:
            start = time.process_time()
            rows = pd.DataFrame(job(), columns=columns)
            keys = ['kind', 'cohort', 'what']
            table = (
                pd.concat([table, rows])
                .drop_duplicates(keys, keep='last')
                .sort_values(keys[:2], kind='stable')
            )
            args.out.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(args.out, sep='\t', index=False, float_format='%.4f')
            print(f'{rows.to_string(index=False)}\n{time.process_time() - start:.0f} s CPU', flush=True)


if __name__ == '__main__':
    main()
