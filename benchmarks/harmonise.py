"""What ComBat takes away of planted site effects, what it leaves of age and group, and its false positives.

python benchmarks/harmonise.py [--studies 150] [--people 40] [--seed 5000] [--classifier] [--travelling]

Each study has three sites of so many people, 12 regions of chi, and groups that are not spread alike: 80, 50
and 20 % are patients. One site is shifted by 5 ppb, and in another deviations are 1.2 times as large. Nothing
was chosen on these seeds. "left" is what is left of the planted effect: the harmonised values of a study less
those of the same study without planted effects; "error" is that of the estimated shift against the planted
one, root mean square over regions and studies, with the sampling of people. False positives are shares of
p < 0.05 of a group without an effect, in models of values as measured, of harmonised values, and of these
with the site as a factor, as the group level has it.

With --classifier: a label without an effect, of which 90, 50 and 10 % of the sites' people have one level,
and a shift of the first site. With --travelling: participants are scanned at three sites in one visit, whose
shifts are drawn; how often the 95 % interval of the standard deviation of a scan at any site holds it.
"""

import argparse
import contextlib
import io

import numpy as np
import pandas as pd

from bids_qsm.cohort.harmonise import harmonise
from bids_qsm.cohort.model import fit_models

REGIONS = ('SN', 'GP', 'RN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate', 'STN', 'GPi', 'GPe', 'SNc', 'SNr')
LEVEL = np.array([110, 130, 100, 45, 40, 15, 90, 80, 120, 135, 100, 105]) * 1e-3
SPREAD = np.array([20, 18, 16, 10, 8, 6, 20, 22, 18, 20, 22, 21]) * 1e-3
SLOPE, EFFECT = 4e-4, 0.02
"""Of age (ppm a year), and of the group in SN."""
SHIFT, SCALE = 5e-3, 1.2
SITES, SHARES = ('A', 'B', 'C'), (0.8, 0.5, 0.2)
MODEL = 'chi ~ group + age + sex'


def study(seed, *, planted=True, effect=EFFECT, people=40, shares=SHARES):
    """The long table of one study."""
    rng = np.random.default_rng(seed)
    frames = []
    for i, (site, share) in enumerate(zip(SITES, shares, strict=True)):
        for j in range(people):
            age, patient = rng.uniform(25, 75), j < share * people
            common = rng.normal()
            centre = LEVEL + SLOPE * (age - 50)
            centre[0] += effect * patient
            away = SPREAD * (0.5 * common + np.sqrt(0.75) * rng.normal(size=len(REGIONS)))
            if planted:
                away = away * (SCALE if i == 2 else 1) + SHIFT * (i == 1)
            frames.append(
                pd.DataFrame(
                    {
                        'participant_id': f'sub-{site}{j:02d}', 'site': site, 'age': round(age, 1),
                        'group': 'patient' if patient else 'control', 'sex': rng.choice(['F', 'M']),
                        'region': REGIONS, 'hemisphere': 'both', 'map': 'chi', 'units': 'ppm',
                        'mean': centre + away,
                    }
                )
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def by_region(long):
    wide = long.pivot(index='participant_id', columns='region', values='mean')[list(REGIONS)]
    known = long.drop_duplicates('participant_id').set_index('participant_id').loc[wide.index]
    return wide.to_numpy(), known


def fitted(values, known):
    """Coefficients of sites B and C against A, age, sex and group, and standard deviation of each site."""
    one_hot = [(known['site'] == s).to_numpy(float) for s in SITES[1:]]
    x = np.column_stack(
        [
            np.ones(len(known)),
            *one_hot,
            known['age'],
            known['sex'] == 'M',
            known['group'] == 'patient',
        ]
    ).astype(float)
    beta = np.linalg.lstsq(x, values, rcond=None)[0]
    rest = values - x @ beta
    return beta, np.array([rest[(known['site'] == s).to_numpy()].std(0, ddof=1) for s in SITES])


def recovery(studies, seed, people):
    """Planted effects before and after, age slope and group effect, over studies."""
    rows = []
    for number in range(studies):
        raw, clean = (study(seed + number, planted=planted, people=people) for planted in (True, False))
        (y, known), (y0, _) = by_region(raw), by_region(clean)
        h, h0 = (by_region(harmonise(one, 'site').long)[0] for one in (raw, clean))
        before, sd_before = fitted(y, known)
        after, sd_after = fitted(h, known)
        base, sd_base = fitted(y0, known)
        same, sd_same = fitted(h0, known)
        rows.append(
            {
                'shift, mean of regions': (before - base)[1].mean(),
                'shift, mean of regions left': (after - same)[1].mean(),
                'shift, each region': np.abs(before - base)[1].mean(),
                'shift, each region left': np.abs(after - same)[1].mean(),
                'error': ((before[1] - SHIFT) ** 2).mean(),
                'error after': ((before[1] - after[1] - SHIFT) ** 2).mean(),
                'log scale': (np.log(sd_before[2] / sd_before[0]) - np.log(sd_base[2] / sd_base[0])).mean(),
                'log scale left': (
                    np.log(sd_after[2] / sd_after[0]) - np.log(sd_same[2] / sd_same[0])
                ).mean(),
                'age': base[3].mean(),
                'age after': after[3].mean(),
                'group': base[5, 0],
                'group after': after[5, 0],
            }
        )
    return pd.DataFrame(rows).mean()


def false_positives(studies, seed, people, *, planted, shares):
    """Shares of p < 0.05 of a group without an effect: with the site in the model, and without."""
    found = []
    for number in range(studies):
        long = study(seed + number, planted=planted, effect=0.0, people=people, shares=shares)
        values = harmonise(long, 'site').long
        tables = [fit_models(long, MODEL)[0], fit_models(values, MODEL)[0]]
        tables.append(fit_models(values, MODEL, nuisance='site')[0])
        found.append([(t.loc[t['term'] == 'group', 'p'] < 0.05).mean() for t in tables])
    return np.mean(found, 0), np.std(found, 0) / np.sqrt(studies)


def oracle(seed):
    """Largest difference from neuroCombat (ppm), where it is installed."""
    try:
        from neuroCombat import neuroCombat
    except ImportError:
        return np.nan
    values, known = by_region(study(seed))
    covariates = known[['site', 'group', 'sex', 'age']].reset_index(drop=True)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = neuroCombat(values.T.copy(), covariates, 'site', ['group', 'sex'], ['age'])['data'].T
    ours, _ = by_region(harmonise(study(seed), 'site').long)
    return np.abs(theirs - ours).max()


def classifier(studies, seed):
    """Mean AUC of a label that means nothing, where sites differ in its share, and share of p <= 0.05."""
    from bids_qsm.cohort.classify import classify
    from bids_qsm.cohort.units import by_participant, make_units

    found = {'raw': [], 'harmonised in folds': []}
    for number in range(studies):
        long = study(seed + number, effect=0.0, shares=(0.9, 0.5, 0.1))
        long.loc[long['site'] == 'A', 'mean'] += 0.02
        table, _ = by_participant(long, 'group')
        formula = f'group ~ age | {" + ".join(f"chi_{r}" for r in REGIONS[:4])}'
        for name, site in (('raw', ''), ('harmonised in folds', 'site')):
            features = [c for c in table if c.startswith('chi_')]
            units, *_ = make_units(table, formula, site=site, of_site=features)
            done = classify(units, repeats=2, permutations=39, n_boot=10).performance
            own = done[(done['model'] == 'base + QSM') & (done['measure'] == 'auc')].iloc[0]
            found[name].append((own['estimate'], own['p'] < 0.05 + 1e-9))
    return {name: (np.mean(one, 0), np.std(one, 0) / np.sqrt(studies)) for name, one in found.items()}


def travelling(studies, seed, people=24, between=3e-3, within=2e-3):
    """Share of intervals of the deviation of a scan at any site that hold it, and degrees of freedom."""
    from bids_qsm.cohort.repeatability import repeatability

    rng, regions = np.random.default_rng(seed), [f'R{number}' for number in range(studies)]
    own = rng.normal(0.1, 0.02, (people, studies))
    frames = [
        pd.DataFrame(
            {
                'participant_id': f'sub-{person:02d}', 'session_id': f'ses-{site}', 'site': site, 'visit': 1,
                'region': regions, 'hemisphere': 'both', 'map': 'chi', 'units': 'ppm',
                'mean': own[person] + shift + within * rng.normal(size=studies),
            }
        )
        for site, shift in zip(SITES, between * rng.normal(size=(len(SITES), studies)), strict=True)
        for person in range(people)
    ]  # fmt: skip
    table = repeatability(pd.concat(frames, ignore_index=True), site='site')[0]
    truth = 1e3 * np.hypot(between, within)
    return ((table['sdw_low'] < truth) & (truth < table['sdw_high'])).mean(), table['dof'].mean()


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--studies', type=int, default=150)
    parser.add_argument('--people', type=int, default=40, help='of each site')
    parser.add_argument('--seed', type=int, default=5000)
    parser.add_argument('--classifier', action='store_true', help='also the AUC of a label without an effect')
    parser.add_argument('--travelling', action='store_true', help='also intervals over sites')
    args = parser.parse_args(words)
    print(f'difference from neuroCombat 0.2.12: {oracle(args.seed):.1g} ppm')
    r = recovery(args.studies, args.seed, args.people)
    print('planted\tbefore\tleft\treduced')
    for name, unit in (('shift, mean of regions', 1e3), ('shift, each region', 1e3), ('log scale', 1)):
        before, left = r[name] * unit, r[f'{name} left'] * unit
        print(f'{name}\t{before:.3f}\t{left:.3f}\t{1 - abs(left / before):.1%}', flush=True)
    raw, eb = 1e3 * np.sqrt(r[['error', 'error after']])
    print(f'error of the shift of a region (ppb)\tleast squares {raw:.2f}\tempirical Bayes {eb:.2f}')
    for name in ('age', 'group'):
        before, after = 1e3 * r[name], 1e3 * r[f'{name} after']
        print(f'{name} (ppb)\t{before:.4f}\t{after:.4f}\tchanged {after / before - 1:+.1%}')
    print('false positives\traw\tharmonised\tharmonised, site in the model', flush=True)
    for planted in (True, False):
        for shares in (SHARES, (0.5, 0.5, 0.5)):
            rate, se = false_positives(args.studies, args.seed, args.people, planted=planted, shares=shares)
            named = f'{"planted" if planted else "no site effect"}, patients {shares}'
            print(named, *(f'{a:.3f} ± {b:.3f}' for a, b in zip(rate, se, strict=True)), sep='\t', flush=True)
    if args.classifier:
        for name, (mean, se) in classifier(args.studies, args.seed).items():
            told = (f'{a:.3f} ± {b:.3f}' for a, b in zip(mean, se, strict=True))
            print(f'label without an effect, {name}: AUC, p <= 0.05', *told, sep='\t', flush=True)
    if args.travelling:
        held, dof = travelling(10 * args.studies, args.seed)
        print(f'intervals over sites that hold the truth\t{held:.3f}\tdegrees of freedom {dof:.1f}')


if __name__ == '__main__':
    main()
