"""Score the separation of sources on heads of known sources and relaxivities that are not told.

python benchmarks/separation.py [--seeds 711 712 ...] [--relaxivities 137:1 323:1.24 ...] [--methods medi ...]
                                [--chain] [--fibres]

Maps are those of the head with noise (5 ppb, 1 /s) and a zero that is off by that of fluid; the local field
is that of the true susceptibility within the brain, with noise of .5 ppb; echoes decay by the true R2*, at an
SNR of 70. With --chain, all are those of a simulated scan of 5 echoes that went through the default chain,
with the true R2. Structural similarity (XSIM) and error of both sources by method: all of the registry with
their own relaxivities, the closed form told relaxivities and zero, and ours from R2* alone. With --fibres,
white matter depends on the angle of its fibres, by amounts that differ between heads; methods get directions
from a tensor of 2 mm, on a grid of its own and placed .5 mm and .5 degrees wrong; echoes then have the beat
of water in the sheath of fibres, with another amount of it than `hollowcylinder` expects.
"""

import argparse
import time
from functools import lru_cache

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan
from metrics import nrmse, xsim

from bids_qsm.anatomy import fibres as diffusion
from bids_qsm.applications.separation import CHI_ERROR, RATE_ERROR, SMOOTH_ERROR
from bids_qsm.biomarkers.separation.closed import closed
from bids_qsm.biomarkers.separation.hollowcylinder import beat
from bids_qsm.biomarkers.separation.methods import SEPARATION
from bids_qsm.biomarkers.separation.tissues import zones
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Lesion, make_head, rigid
from bids_qsm.phantom.sources import Relaxivity, add_sources
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import call

FAMILIES = ('atlas', 'moved', 'bent', 'wide')
RELAXIVITIES = ('114:1', '137:1', '275:.3', '323:1.24')
LESIONS = (
    Lesion((-24, -22, 30), 3.0, -0.4, kind='calcification'),
    Lesion((26, -40, 24), 2.5, 0.8, kind='microbleed'),
)
CHI_NOISE, RATE_NOISE = 0.005, 1.0
FIELD_NOISE, SNR = 0.0005, 70
SHEATH = 0.36
"""Diamagnetic susceptibility (ppm) by water in the sheath of fibres."""
FLUID = np.float32(0.019)
"""Susceptibility of fluid, which is the zero of the maps, against tissue without sources (ppm)."""


@lru_cache(maxsize=1)
def head_of(seed, family):
    """Head of a person, with a calcification and a microbleed."""
    return make_head(seed, spacing=1.0, family=family, lesions=LESIONS)


def case(seed, family, relaxivity, voxel, chain, with_fibres=False):
    """Maps that the methods get, and the truth on their grid."""
    para, _, ratio = relaxivity.partition(':')
    turned, more = 0.5 * (seed % 2), {}
    if with_fibres:
        draw = np.random.default_rng([seed, 21])
        turned = draw.uniform(0.3, 0.6)
        more = {'anisotropy': draw.uniform(0.010, 0.022), 'steep': draw.uniform(0.2, 0.6)}
    kernel = Relaxivity(float(para), float(para) * float(ratio), turned=turned, **more)
    head = head_of(seed, family)
    sources = add_sources(head, kernel, seed, with_fibres=with_fibres)
    condition = Condition('separation', (voxel,) * 3)
    shape, affine = condition.protocol.shape, condition.protocol.affine
    truth = sources.measured(condition.protocol) if chain else sources.sample(shape, affine)
    tissue = sources.head.sample(shape, affine, ('brain', 'csf', 'white', 'chi', 'density'))
    mask = tissue['brain'] > 0.5
    grid = Grid.from_affine(shape, affine)
    rng = np.random.default_rng(seed)
    if chain:
        one = Chain(scan(condition, seed, head=sources.head).data)
        one.run([step for step in one.steps if step != 'swi'])
        mask = mask & one.chi_mask & one.data['inner_mask']
        chi = one.data['chi'] - np.float32(one.data['offset'])
        r2star, r2 = one.data['r2star'], truth['r2']
        field, echoes = one.data['local'], one.data['magnitude']
    else:
        chi = tissue['chi'] - FLUID + CHI_NOISE * rng.standard_normal(shape)
        true = truth['r2'] + truth['r2prime']
        r2star, r2 = true + RATE_NOISE * rng.standard_normal(shape), truth['r2']
        field = field_of(tissue['chi'] * mask, grid) + FIELD_NOISE * rng.standard_normal(shape)
        times = np.array(condition.echo_times)
        echoes = tissue['density'][..., None] * np.exp(-true[..., None] * times)
        if with_fibres:
            fa, first, _ = sources.diffusion(shape, affine, noise=0.0)
            there = fa > 0.2
            water = -truth['dia'][there] / SHEATH
            echoes[there] *= np.abs(beat(water, times, 1 - first[there][:, 2] ** 2, 3.0))
        echoes = np.abs(
            echoes + echoes[tissue['white'] > 0.9, 0].mean() / SNR * rng.standard_normal(echoes.shape)
        )
    rate = (r2star - r2).astype(np.float32)
    data = {
        'chi': chi.astype(np.float32),
        'rate': rate,
        'r2prime': rate,
        'r2star': r2star.astype(np.float32),
        'field': (field * mask).astype(np.float32),
        'magnitude': combine(echoes.astype(np.float32)),
        'echoes': echoes.astype(np.float32),
        'echo_times': condition.echo_times,
        'mask': mask,
        'zone': zones(mask, mask & (tissue['white'] > 0.95), head.labels(shape, affine) > 0),
        'chi_noise': max(noise_level(chi[..., None], mask), CHI_ERROR) if chain else CHI_NOISE,
        'rate_noise': max(noise_level(rate[..., None], mask), RATE_ERROR) if chain else RATE_NOISE,
        'reversible': True,
        'smooth_error': SMOOTH_ERROR if chain else 0.0,
        'scale': 1.0,
        'grid': grid,
        **dict.fromkeys(('cosine', 'fa', 'of_fibres')),
    }
    if with_fibres:
        fibres = fibres_of(sources, seed, shape, affine)
        pair = fibres.squared_cosine((0, 0, 1)), fibres.fa
        data |= {'cosine': pair[0], 'fa': pair[1], 'of_fibres': pair}
    return data, truth, head.lesion_labels(shape, affine), kernel


def fibres_of(sources, seed, shape, affine):
    """Fibres on the grid of the maps, from a scan of 2 mm in another slab."""
    other = Protocol((2.0, 2.0, 2.0), fov=(192.0, 224.0, 176.0), rotation=(-6.0, 3.0, 8.0), radiological=True)
    fa, first, _ = sources.diffusion(other.shape, other.affine, noise=0.05, seed=seed)
    wrong = rigid((0.3, -0.3, 0.3), (0.3, -0.3, 0.3))
    found = diffusion.fibres_of(first, fa, 'V1')
    return diffusion.carry(found, fa, other.affine, shape, affine, [wrong])


def field_of(chi, grid):
    """Field of susceptibility (ppm), zero-padded."""
    box = Box.around(chi != 0, grid, padding=60.0)
    kernel = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    return box.uncrop(convolve(box.crop(chi.astype(np.float32)), kernel))


def score(name, para, dia, mask, truth, lesions, **more):
    """Row of the table."""
    row = {'method': name}
    for sign, found, true in (('+', para, truth['para']), ('-', dia, truth['dia'])):
        row[f'XSIM {sign}'] = xsim(found * mask, true * mask, mask)
        row[f'NRMSE {sign}'] = nrmse(found, true, mask)
    inside = mask & (lesions == 1)
    row['calcium in +, ppb'] = 1e3 * (para - truth['para'])[inside].mean() if inside.any() else np.nan
    inside = mask & (lesions == 2)
    row['iron in -, ppb'] = 1e3 * (dia - truth['dia'])[inside].mean() if inside.any() else np.nan
    return row | more


def rows_of(names, data, truth, lesions, kernel):
    """Rows of all methods."""
    mask = data['mask']
    if 'closed' in names:
        told = closed(data['chi'] + FLUID, data['rate'], kernel.para, kernel.dia)
        yield score('closed, told', *told, mask, truth, lesions)
    for name in names:
        if name == 'hollowcylinder' and data['fa'] is None:
            continue
        yield _row(name, SEPARATION[name], data, truth, lesions, kernel)
    if 'posterior' in names and data['fa'] is not None:
        without = data | {'cosine': None, 'fa': None}
        yield _row('posterior, no fibres', SEPARATION['posterior'], without, truth, lesions, kernel)
    if 'posterior' in names:
        alone = data | {'rate': data['r2star'], 'reversible': False}
        yield _row('posterior, R2* only', SEPARATION['posterior'], alone, truth, lesions, kernel)


def _row(name, function, data, truth, lesions, kernel):
    mask = data['mask']
    start = time.process_time()
    found = call(function, data, {})
    more = {'CPU s': time.process_time() - start, 'fits': found.fits[mask].mean()}
    if function is SEPARATION['posterior']:
        inside, fitted = mask & found.fits, found.calibration
        for sign, part, sd, true in (
            ('+', found.para, found.para_sd, truth['para']),
            ('-', found.dia, found.dia_sd, truth['dia']),
        ):
            more[f'in 1 SD {sign}'] = (np.abs(part - true) < sd)[inside].mean()
        more |= {'D+ / true': fitted.para / kernel.para, 'D- / true': fitted.dia / kernel.dia}
    if data['of_fibres'] is not None:
        more['by angle, ppb'] = by_angle(found.dia - truth['dia'], mask & found.fits, *data['of_fibres'])
    return score(name, found.para, found.dia, mask, truth, lesions, **more)


def by_angle(error, mask, cosine, fa):
    """Mean error (ppb) where fibres lie across B0, less that where they lie along it."""
    across, along = (mask & (fa > 0.45) & one for one in (cosine < 0.2, cosine > 0.8))
    return 1e3 * (error[across].mean() - error[along].mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[711, 712, 713, 714], help='one a family')
    parser.add_argument('--relaxivities', nargs='+', default=RELAXIVITIES, help='D+ and D-/D+')
    parser.add_argument('--voxel', type=float, default=1.5)
    parser.add_argument('--methods', nargs='+', default=[*SEPARATION], choices=[*SEPARATION])
    parser.add_argument('--chain', action='store_true')
    parser.add_argument('--fibres', action='store_true')
    args = parser.parse_args()
    rows = []
    for seed, family in zip(args.seeds, FAMILIES, strict=False):
        for relaxivity in args.relaxivities:
            parts = case(seed, family, relaxivity, args.voxel, args.chain, args.fibres)
            for row in rows_of(args.methods, *parts):
                rows.append({'family': family, 'seed': seed, 'relaxivity': relaxivity, **row})
                print('\t'.join(f'{v:.3g}' if isinstance(v, float) else str(v) for v in rows[-1].values()))
    table = pd.DataFrame(rows)
    numbers = table.columns[4:]
    print(table.groupby('method', sort=False)[[*numbers]].mean().round(3).to_string())
    print('Least of all cases')
    print(table.groupby('method', sort=False)[['XSIM +', 'XSIM -']].min().round(3).to_string())


if __name__ == '__main__':
    main()
