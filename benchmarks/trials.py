"""How well the trial statistics find what simulated trials were drawn with.

python benchmarks/trials.py [--first 1000] [--trials 200] [--only slopes false reliable power sizes]

Tables are simulated (`bids_qsm.phantom.trial`), not images: the error of one scan is given. Each part prints
a table: bias and coverage of slopes and of their differences, false changes of single participants, coverage
of the repeatability, and the power that trials of the sizes in the table of sample sizes have.
"""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort import change, mixed, power, repeatability, trial
from bids_qsm.cohort.random_slope import random_slope
from bids_qsm.cohort.tables import gather, join_participants, join_sessions
from bids_qsm.cohort.total import add_total
from bids_qsm.phantom.trial import TRIALS, Course, Trial, draw_trial

KEYS = ['map', 'region', 'arm']
QUIET = Trial(
    {'placebo': 20, 'active': 20},
    {
        name: Course(120.0, 20.0, 3.0, {'placebo': 0.0, 'active': 0.0}, 0.0, {'placebo': 0.0, 'active': 0.0})
        for name in ('a', 'b', 'c', 'd', 'e')
    },
    retests=10,
)
"""Nothing changes, and nobody differs in that."""


def drawn(of, seed):
    """The long table of a trial, with totals."""
    tables, people, sessions = draw_trial(of, seed)
    return add_total(join_sessions(join_participants(gather(tables), people)[0], sessions)[0])


def known_slopes(name, of, seeds):
    """Bias (ppb a year), coverage and rate of significance of slopes and differences, by region and arm."""
    rows = []
    for seed in seeds:
        long = drawn(of, seed)
        table, _ = trial.slopes(long[long['map'] != 'volume'])
        for row in table.to_dict('records'):
            true = of.truth(row['region'], row['arm'])[row['map']]
            none = of.truth(row['region'], row['reference'])[row['map']] if row['reference'] else np.nan
            apart = true - none
            inside = np.nan if np.isnan(none) else row['ci_low'] <= apart <= row['ci_high']
            rows.append(
                {
                    **{key: row[key] for key in KEYS},
                    'true': true, 'bias': row['slope'] - true,
                    'covered': row['slope_low'] <= true <= row['slope_high'],
                    'true difference': apart, 'bias of it': row['difference'] - apart, 'covered it': inside,
                    'p < .05': np.nan if np.isnan(none) else row['p'] < 0.05, 'settled': row['converged'],
                }
            )  # fmt: skip
    found = pd.DataFrame(rows).astype({'covered it': float, 'p < .05': float})
    print(f'\nSlopes, {name}, {len(seeds)} trials (chi: ppb a year; total: ppb ml a year)')
    print(found.groupby(KEYS, sort=False).mean().round(3).to_string())
    shares = found.groupby('map', sort=False)[['covered', 'covered it', 'settled']].mean()
    print(shares.round(4).to_string())


def false_changes(seeds):
    """Share of participants without change who are flagged, by what the repeatability comes from."""
    rows = []
    for seed in seeds:
        for retests in (10, 5, 3):
            table, _ = change.changes(drawn(replace(QUIET, retests=retests), seed))
            for name, part in table.groupby('map'):
                left = (part['p_fdr'] < 0.05).any()
                rows.append((2 * retests, name, part['beyond'].astype(float).mean(), left))
    found = pd.DataFrame(rows, columns=['retests', 'map', 'flagged', 'any after FDR'])
    print(f'\nFalse changes of single participants, {len(seeds)} trials of 40 people and 5 regions')
    print(found.groupby(['retests', 'map'], sort=False).agg(['mean', 'std']).round(4).to_string())


def reliable(seeds):
    """Coverage of SDw, ICC and bias of 20 people with a retest, in many regions."""
    regions = {f'r{i}': QUIET.regions['a'] for i in range(250)}
    of = replace(QUIET, visits=(0.0,), arms={'placebo': 20}, retests=20, regions=regions)
    icc, parts = 20.0**2 / (20.0**2 + of.sdw**2), []
    for seed in seeds:
        table, _ = repeatability.repeatability(drawn(of, seed).query('map == "chi"'))
        parts.append(
            {
                'SDw / true': (table['sdw'] / of.sdw).mean(),
                **{
                    f'{name} covered': (
                        (table[f'{name}_low'] <= true) & (true <= table[f'{name}_high'])
                    ).mean()
                    for name, true in (('sdw', of.sdw), ('icc_2_1', icc), ('icc_3_1', icc), ('bias', 0.0))
                },
            }
        )
    print(f'\nRepeatability, {250 * len(seeds)} regions of 20 people with a retest')
    print(pd.DataFrame(parts).mean().round(4).to_string())


def planned_power(seeds, repeats):
    """Power that trials of the tabulated sizes have, when the figures are those of the population.

    The effect is a share of the change of the reference arm, so that numbers are neither tiny nor vast.
    """
    rows, error, true, move, level = [], 3.0, 3.0, 12.0, 15.0
    years = 1.5
    for visits, design in ((2, 'change'), (2, 'ancova'), (3, 'random slope'), (5, 'random slope')):
        t = np.linspace(0, years, visits)
        lever = np.sqrt(((t / years - 0.5) ** 2).sum())
        last = np.hypot(level, np.hypot(true * years, error))
        corr = level**2 / (np.hypot(level, error) * last)
        sd = {
            'change': np.sqrt(2 * error**2 + (true * years) ** 2),
            'ancova': last * np.sqrt(1 - corr**2),
            'random slope': np.hypot(true * years, error / lever),
        }[design]
        for effect in power.EFFECTS:
            for wanted in power.POWERS:
                delta = effect * move
                n = int(power.per_arm(delta, sd, wanted, covariates=int(design == 'ancova')))
                # t tests take no time
                hits, many = [], repeats if design == 'random slope' else 20 * repeats
                for k in range(many):
                    rng = np.random.default_rng(
                        [seeds[0], k, visits, round(100 * effect), round(10 * wanted)]
                    )
                    arm = np.repeat([0.0, 1.0], n)
                    slope = (move - delta * arm) / years + true * rng.standard_normal(2 * n)
                    y = 150 + level * rng.standard_normal(2 * n)[:, None] + slope[:, None] * t
                    y = y + error * rng.standard_normal(y.shape)
                    hits.append(_p_of(design, y, t, arm) < 0.05)
                rows.append(
                    (
                        design,
                        visits,
                        effect,
                        wanted,
                        n,
                        np.mean(hits),
                        np.sqrt(wanted * (1 - wanted) / many),
                    )
                )
    columns = ['design', 'visits', 'effect', 'planned', 'n per arm', 'simulated', 'Monte Carlo error']
    print('\nPower of trials of the tabulated size')
    print(pd.DataFrame(rows, columns=columns).round(4).to_string(index=False))


def _p_of(design, y, t, arm):
    """p value of the difference between arms, by the analysis of a design."""
    if design == 'change':
        return stats.ttest_ind(y[arm == 1, -1] - y[arm == 1, 0], y[arm == 0, -1] - y[arm == 0, 0]).pvalue
    if design == 'ancova':
        x = np.column_stack([np.ones(len(arm)), arm, y[:, 0]])
        beta, se, dof = mixed.least_squares(x, y[:, -1]).coefficient(1)
        return 2 * stats.t.sf(abs(beta) / se, dof)
    n, k = y.shape
    time, a, who = np.tile(t, n), np.repeat(arm, k), np.repeat(np.arange(n), k)
    fit = random_slope(np.column_stack([np.ones(n * k), a, time, a * time]), y.ravel(), who, time)
    return 2 * stats.t.sf(abs(fit.beta[3]) / np.sqrt(fit.cov[3, 3]), fit.dof)


def planned_sizes(seeds):
    """Sample sizes that studies give, beside those by the figures that the studies were drawn with."""
    of, rows = TRIALS['deferiprone'], []
    for seed in seeds:
        long = drawn(of, seed)
        table, _ = power.sample_sizes(
            trial.slopes(long[(long['map'] == 'chi') & (long['region'] == 'GP')])[0]
        )
        rows.append(
            table[(table['effect'] == 0.25) & (table['power'] == 0.8) & (table['effect_of'] == 'level')]
        )
    found, gp = pd.concat(rows), of.regions['GP']
    drift = gp.varies * of.visits[-1]
    true = {
        'change': np.hypot(drift, np.sqrt(2) * of.sdw), 'random slope': np.hypot(drift, np.sqrt(2) * of.sdw),
    }  # fmt: skip
    print('\nFigures of the study against those of the population (deferiprone, GP)')
    for design, part in found.groupby('design', sort=False):
        known = f'{true[design]:.1f}' if design in true else '-'
        print(
            f'{design}: sd {part["sd"].mean():.1f} +- {part["sd"].std():.1f} ppb (drawn with {known}), '
            f'part by error {part["sd_error"].mean():.2f} ppb, per arm {part["n_per_arm"].mean():.1f} '
            f'({part["n_low"].mean():.1f} to {part["n_high"].mean():.1f})'
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--first', type=int, default=1000, help='first seed')
    parser.add_argument('--trials', type=int, default=200)
    parser.add_argument('--repeats', type=int, default=1000, help='trials of each size, for power')
    parts = ('slopes', 'false', 'reliable', 'power', 'sizes')
    parser.add_argument('--only', nargs='+', choices=parts, default=parts)
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.trials)
    if 'slopes' in args.only:
        for name, of in TRIALS.items():
            known_slopes(name, of, seeds)
    if 'false' in args.only:
        false_changes(seeds)
    if 'reliable' in args.only:
        reliable(seeds[:4])
    if 'power' in args.only:
        planned_power(seeds, args.repeats)
    if 'sizes' in args.only:
        planned_sizes(seeds)


if __name__ == '__main__':
    main()
