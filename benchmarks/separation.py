"""Score the separation of sources on heads of known sources and relaxivities that are not told.

python benchmarks/separation.py [--seeds 711 712 ...] [--relaxivities 137:1 323:1.24 ...] [--chain]

Maps are those of the head with noise (5 ppb, 1 /s) and a zero that is off by that of fluid; with --chain,
those of a simulated scan of 5 echoes that went through the default chain, less the true R2. Structural
similarity (XSIM) of both sources by method: the closed form with 137 /s/ppm, that with the true relaxivities
and zero, and ours from R2' and from R2* alone.
"""

import argparse
import time
from functools import lru_cache

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan
from metrics import xsim

from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.posterior import separate
from bids_qsm.biomarkers.separation.tissues import zones
from bids_qsm.phantom.head import Lesion, make_head
from bids_qsm.phantom.sources import Relaxivity, add_sources

FAMILIES = ('atlas', 'moved', 'bent', 'wide')
RELAXIVITIES = ('114:1', '137:1', '275:.3', '323:1.24')
LESIONS = (
    Lesion((-24, -22, 30), 3.0, -0.4, kind='calcification'),
    Lesion((26, -40, 24), 2.5, 0.8, kind='microbleed'),
)
CHI_NOISE, RATE_NOISE = 0.005, 1.0


@lru_cache(maxsize=1)
def head_of(seed, family):
    """Head of a person, with a calcification and a microbleed."""
    return make_head(seed, spacing=1.0, family=family, lesions=LESIONS)


def case(seed, family, relaxivity, voxel, chain):
    """Maps that the methods get, and the truth on their grid."""
    para, _, ratio = relaxivity.partition(':')
    kernel = Relaxivity(float(para), float(para) * float(ratio), turned=0.5 * (seed % 2))
    head = head_of(seed, family)
    sources = add_sources(head, kernel, seed)
    condition = Condition('separation', (voxel,) * 3)
    shape, affine = condition.protocol.shape, condition.protocol.affine
    truth = sources.measured(condition.protocol) if chain else sources.sample(shape, affine)
    tissue = sources.head.sample(shape, affine, ('brain', 'csf', 'white', 'chi'))
    mask = tissue['brain'] > 0.5
    rng = np.random.default_rng(seed)
    if chain:
        one = Chain(scan(condition, seed, head=sources.head).data)
        one.run([step for step in one.steps if step != 'swi'])
        mask = mask & one.chi_mask
        chi = one.data['chi'] - np.float32(one.data['offset'])
        r2star, r2 = one.data['r2star'], truth['r2']
    else:
        chi = tissue['chi'] - 0.019 + CHI_NOISE * rng.standard_normal(shape)
        r2star = truth['r2'] + truth['r2prime'] + RATE_NOISE * rng.standard_normal(shape)
        r2 = truth['r2']
    zone = zones(mask, mask & (tissue['white'] > 0.95), head.labels(shape, affine) > 0)
    lesions = head.lesion_labels(shape, affine)
    maps = {'chi': chi.astype(np.float32), 'r2star': r2star.astype(np.float32), 'r2': r2}
    return maps, mask, zone, truth, lesions, kernel


def score(name, para, dia, mask, truth, lesions, **more):
    """Row of the table."""
    true = truth['para'], truth['dia']
    row = {'method': name}
    row |= {
        f'XSIM {which}': xsim(found * mask, one * mask, mask)
        for which, found, one in zip(('+', '-'), (para, dia), true, strict=True)
    }
    inside = mask & (lesions == 1)
    row['calcium in +, ppb'] = 1e3 * (para - true[0])[inside].mean() if inside.any() else np.nan
    inside = mask & (lesions == 2)
    row['iron in -, ppb'] = 1e3 * (dia - true[1])[inside].mean() if inside.any() else np.nan
    return row | more


def methods(maps, mask, zone, truth, lesions, kernel, voxel):
    """Rows of all methods."""
    chi, rate = maps['chi'], maps['r2star'] - maps['r2']
    yield score('closed, 137', *closed(chi, rate, 137.0, 137.0), mask, truth, lesions)
    told = closed(chi + np.float32(0.019), rate, kernel.para, kernel.dia)
    yield score('closed, told', *told, mask, truth, lesions)
    for name, one, reversible in (('ours', rate, True), ('ours, R2* only', maps['r2star'], False)):
        start = time.process_time()
        found = separate(
            chi,
            one,
            mask,
            zone,
            chi_noise=CHI_NOISE,
            rate_noise=RATE_NOISE,
            voxel_size=(voxel,) * 3,
            reversible=reversible,
        )
        seconds = time.process_time() - start
        inside = mask & found.fits
        apart = [
            np.abs(f - t)[inside] < s[inside]
            for f, t, s in (
                (found.para, truth['para'], found.para_sd),
                (found.dia, truth['dia'], found.dia_sd),
            )
        ]
        fitted = found.calibration
        more = {
            'in 1 SD +': apart[0].mean(),
            'in 1 SD -': apart[1].mean(),
            'D+ / true': fitted.para / kernel.para,
            'D- / true': fitted.dia / kernel.dia,
            'fits': found.fits[mask].mean(),
            'CPU s': seconds,
        }
        yield score(name, found.para, found.dia, mask, truth, lesions, **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[711, 712, 713, 714], help='one a family')
    parser.add_argument('--relaxivities', nargs='+', default=RELAXIVITIES, help='D+ and D-/D+')
    parser.add_argument('--voxel', type=float, default=1.5)
    parser.add_argument('--chain', action='store_true')
    args = parser.parse_args()
    rows = []
    for seed, family in zip(args.seeds, FAMILIES, strict=False):
        for relaxivity in args.relaxivities:
            parts = case(seed, family, relaxivity, args.voxel, args.chain)
            for row in methods(*parts, args.voxel):
                rows.append({'family': family, 'seed': seed, 'relaxivity': relaxivity, **row})
                print('\t'.join(f'{v:.3g}' if isinstance(v, float) else str(v) for v in rows[-1].values()))
    table = pd.DataFrame(rows)
    numbers = table.columns[4:]
    print(table.groupby('method', sort=False)[[*numbers]].mean().round(3).to_string())
    print('Least of all cases')
    print(table.groupby('method', sort=False)[['XSIM +', 'XSIM -']].min().round(3).to_string())


if __name__ == '__main__':
    main()
