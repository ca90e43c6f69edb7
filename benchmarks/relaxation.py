"""Score R2, R2' and the size of sources on heads whose tissue, transmit field and pose are known.

python benchmarks/relaxation.py [--seeds 911 912 913] [--voxel 1.5] [--slices 1.25 1.25 2.5] [--rows ...]

A gradient-echo scan of five echoes goes through the default chain; a train of 12 spin echoes with a transmit
field of .7 to 1.1, on another grid and in a pose that is off by up to 3 degrees and 2 mm, is aligned to it by
its mean echo, as the application does. Tubes of .3 ppm with unchanged R2 (veins) and balls of .03 ppm with R2
up by 6 /s (fine iron) were put into white matter, nuclei and the rest; regions are the true ones. Rows:
'fitted' transmit field, 'given' map of it, '2D' slices (pulses whose angle falls off across the slice), and
these with profile=fitted.
"""

import argparse
import time
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
from chain import Chain
from conditions import Condition, scan
from scipy import ndimage, stats

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.register import rigid
from bids_qsm.applications.contract import Given
from bids_qsm.applications.r2prime import APPLICATION, measure
from bids_qsm.biomarkers.r2prime import place_field
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.sampling import near
from bids_qsm.phantom.sources import PARTS, Relaxivity, add_sources
from bids_qsm.phantom.spin_echo import SpinEchoes, simulate_spin_echoes
from bids_qsm.recon.magnitude import combine

FAMILIES = ('atlas', 'moved', 'bent', 'wide')
VEIN, DUST = 0.3, (0.03, 6.0)
"""Susceptibility of veins (ppm); that of fine iron and what it adds to R2 (1/s)."""
N_PLACES = 12
"""Veins at most in deep white matter, in nuclei and in the rest; as many places of fine iron."""
PROFILE = (0.35, 0.7, 0.9, 0.98, 1.0)
"""Angle across half a slice of 2D trains over that in its middle: between that of a Gauss and of a sinc."""
ROWS = ('fitted', 'given', '2D', '2D, profile fitted')


def planted(sources, seed):
    """The same head with veins and fine iron, and the share of each on its lattice."""
    rng = np.random.default_rng([seed, 55])
    volume = sources.volume
    tissue = sources.head.tissue
    data, parts = tissue.data.copy(), volume.data.copy()
    put, part = t.channels(data), dict(zip(PARTS, np.moveaxis(parts, -1, 0), strict=True))
    n = int(4 / volume.spacing)
    deep = ndimage.binary_erosion(put['white'] > 0.97, iterations=n)
    nuclei = _nuclei(sources.head)
    solid = ndimage.binary_erosion((put['brain'] > 0.99) & (put['csf'] < 0.02), iterations=2)
    rest = solid & ~nuclei & ~ndimage.binary_dilation(put['white'] > 0.97, iterations=1)
    shares, centres = np.zeros((2, *put['white'].shape), np.float32), []
    for there in (deep, ndimage.binary_erosion(nuclei, iterations=2), rest):
        at = volume.origin + volume.spacing * np.argwhere(there)
        chosen = 0
        for centre in at[rng.permutation(len(at))]:
            if any(np.linalg.norm(centre - other) < 14 for other in centres):
                continue
            box, points = near(volume, centre, (8.0, 8.0, 8.0))
            away = points - centre
            if chosen % 2 == 0:
                axis = rng.standard_normal(3)
                along = away @ (axis / np.linalg.norm(axis))
                beside = np.sqrt(np.maximum((away**2).sum(-1) - along**2, 0))
                wall = np.maximum(beside - rng.uniform(0.8, 2.0), np.abs(along) - 6)
            else:
                wall = np.linalg.norm(away, axis=-1) - rng.uniform(2.0, 4.0)
            share = shares[chosen % 2]
            share[box] = np.maximum(share[box], np.clip(0.5 - wall / volume.spacing, 0, 1))
            centres.append(centre)
            chosen += 1
            if chosen == 2 * N_PLACES:
                break
    vein, dust = shares
    added = vein * (VEIN - put['chi']) + dust * DUST[0]
    put['chi'] += added
    put['r2star'] += dust * (DUST[1] + 137 * DUST[0])
    part['para'] += added
    part['r2'] += dust * DUST[1]
    part['r2prime'] += dust * 137 * DUST[0]
    head = replace(sources.head, tissue=replace(tissue, data=data))
    # the shares travel as susceptibility does
    marks = [replace(tissue, data=_with_channel(data, 'chi', one)) for one in shares]
    bloodless = replace(head.veins, data=np.zeros_like(head.veins.data))
    heads = [replace(head, tissue=one, veins=bloodless) for one in marks]
    return replace(sources, head=head, volume=replace(volume, data=parts)), heads


def _nuclei(head):
    """Lattice points of large nuclei."""
    volume = head.tissue
    found = np.zeros(volume.data.shape[:3], bool)
    for one in head.nuclei:
        if one.region in ('Putamen', 'Caudate', 'Thalamus', 'GPe', 'GPi'):
            first = np.round((one.origin - volume.origin) / volume.spacing).astype(int)
            box = tuple(slice(a, a + m) for a, m in zip(first, one.amount.shape, strict=True))
            found[box] |= one.amount > 0.9
    return found


def _with_channel(data, name, values):
    out = np.zeros_like(data)
    t.channels(out)[name][:] = values
    return out


@lru_cache(maxsize=1)
def gradient_echoes(seed, family, voxel):
    """The head, its scan after the default chain, and the truth on the grid of the maps."""
    sources = add_sources(make_head(seed, spacing=1.0, family=family), Relaxivity(), seed)
    sources, marks = planted(sources, seed)
    condition = Condition('relaxation', (voxel,) * 3)
    shape, affine = condition.protocol.shape, condition.protocol.affine
    chain = Chain(scan(condition, seed, head=sources.head).data)
    chain.run([step for step in chain.steps if step != 'swi'])
    places = [one.sample(shape, affine, ('chi',))['chi'] for one in marks]
    truth = {
        **sources.measured(condition.protocol),
        **sources.head.sample(shape, affine, ('brain', 'csf', 'white', 'blood')),
        'vein': places[0],
        'dust': places[1],
        'dseg': sources.head.labels(shape, affine).astype(np.int32),
    }
    return sources, chain, affine, truth


def case(seed, family, voxel, slices, row):
    """What the application gets of one head, and the truth on the grid of its maps."""
    sources, chain, affine, truth = gradient_echoes(seed, family, voxel)
    data = chain.data
    rng = np.random.default_rng([seed, 56])
    turn, shift = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)
    protocol = SpinEchoes(tuple(slices), profile=PROFILE if row.startswith('2D') else (1.0,))
    echoes = simulate_spin_echoes(
        sources,
        seed,
        protocol,
        rotation=3 * turn / np.linalg.norm(turn),
        translation=2 * shift / np.linalg.norm(shift),
    )
    magnitude = correct_bias(combine(data['magnitude']), affine, deep_mm=0.0)[0]
    mean = correct_bias(echoes.magnitude.mean(-1), echoes.affine)[0]
    to_train = rigid(mean, echoes.affine, magnitude, affine, data['mask'])
    transforms = {'to_maps': [np.linalg.inv(to_train)], 'from_maps': [to_train]}
    times = tuple((1 + np.arange(protocol.train.n)) * protocol.train.spacing)
    mese = Given(
        'MESE', echoes.magnitude, echoes.magnitude, echoes.affine, magnitude, **transforms, echo_times=times
    )
    tb1 = None
    if row == 'given':
        # the maps know it by the coordinates of the scanner alone
        tb1 = Given('TB1map', echoes.b1, echoes.b1, echoes.affine, magnitude, [], [])
    given = {
        'chi': np.where(data['mask'] & chain.chi_mask, data['chi'] - np.float32(data['offset']), 0),
        'r2star': data['r2star'],
        'field': data['total'],
        'echoes': data['magnitude'],
        'mask': data['mask'] & chain.chi_mask & data['inner_mask'],
        'mese': mese,
        'given_r2': None,
        'given_r2prime': None,
        'tb1': tb1,
        'white_matter': truth['white'] > 0.95,
        'dseg': truth['dseg'],
        'labels': atlas.labels(),
        'grid': data['grid'],
        'affine': affine,
        'echo_times': data['echo_times'],
        'field_strength': data['field_strength'],
    }
    return given, {**truth, 'b1': _transmit_there(echoes, given)}


def _transmit_there(echoes, given):
    one = given['mese']
    return place_field(echoes.b1, one.affine, given['mask'].shape, given['affine'], one.from_maps)


def rows_of(given, truth, row='fitted'):
    """Table of biases by tissue, and scores of the classes."""
    start = time.perf_counter()
    params = {'profile': 'fitted' if row.endswith('profile fitted') else 'none'}
    found = dict(zip(APPLICATION.gives, measure(*given.values(), **params), strict=True))
    seconds = time.perf_counter() - start
    mask = given['mask'] & (found['r2'] > 0)
    plain = mask & (truth['blood'] < 0.01) & (truth['vein'] + truth['dust'] < 0.01)
    within = plain & (truth['b1'] >= 0.75)
    dseg, labels = given['dseg'], given['labels']
    grey = truth['brain'] - truth['csf'] - truth['white']
    tissues = {'white': truth['white'] > 0.95, 'cortex': (grey > 0.95) & (dseg == 0)}
    for name, part in labels.groupby('region'):
        tissues[name] = ndimage.binary_erosion(np.isin(dseg, part['index'])) & (grey > 0.95)
    rows = []
    for name, there in tissues.items():
        where = there & within
        if where.sum() < 20:
            continue
        true, rate = truth['r2'][where].mean(), found['r2'][where].mean()
        reversible = truth['r2prime'][where].mean()
        rows.append(
            {
                'tissue': name,
                'n': int(where.sum()),
                'R2': true,
                'R2 bias %': 100 * (rate / true - 1),
                "R2'": reversible,
                "R2' bias": found['r2prime'][where].mean() - reversible,
                'false %': 100 * (found['scale'][there & plain] > 0).mean(),
            }
        )
    vein, dust = mask & (truth['vein'] > 0.5), mask & (truth['dust'] > 0.5)
    home = plain & tissues['white']
    nuclei = plain & (dseg > 0) & (grey > 0.95)
    large, small = found['macroscopic'], found['microscopic']
    z = found['z']
    scores = {
        'AUC veins/dust': auc((large - small)[vein], (large - small)[dust]),
        'AUC z veins/dust': auc(-z[vein], -z[dust]),
        'AUC veins/tissue': auc(large[vein], large[home]),
        'AUC dust/tissue': auc(small[dust], small[home]),
        **_called(found['scale'], vein, dust, dseg > 0, given['white_matter']),
        'false %': 100 * (found['scale'][home | nuclei] > 0).mean(),
        'false nuclei %': 100 * (found['scale'][nuclei] > 0).mean(),
        'seconds': seconds,
    }
    sd = found['r2'][tissues['white'] & within] - truth['r2'][tissues['white'] & within]
    scores['SD of R2 / stated'] = sd.std() / found['r2sd'][tissues['white'] & within].mean()
    return pd.DataFrame(rows), scores, found


def _called(scale, vein, dust, nuclei, white):
    """Share (%) of veins and fine iron that get their class, by place, and of those that get another."""
    done = {}
    for kind, there, number in (('veins', vein, 1), ('dust', dust, 2)):
        for place, part in (('white', white), ('nuclei', nuclei), ('rest', ~white & ~nuclei)):
            done[f'{kind} called, {place} %'] = 100 * (scale[there & part] == number).mean()
        done[f'{kind} called %'] = 100 * (scale[there] == number).mean()
        done[f'{kind} called else %'] = 100 * ((scale[there] > 0) & (scale[there] != number)).mean()
    return done


def auc(high, low):
    """Probability that a value of ``high`` exceeds one of ``low``."""
    if not (high.size and low.size):
        return np.nan
    return stats.mannwhitneyu(high, low).statistic / (high.size * low.size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[911, 912, 913], help='one a family')
    parser.add_argument('--voxel', type=float, default=1.5)
    parser.add_argument(
        '--slices', nargs=3, type=float, default=(1.25, 1.25, 2.5), help='voxel of spin echoes'
    )
    parser.add_argument('--rows', nargs='+', default=[*ROWS], choices=ROWS)
    args = parser.parse_args()
    every = []
    for seed, family in zip(args.seeds, FAMILIES, strict=False):
        for row in args.rows:
            table, scores, _ = rows_of(*case(seed, family, args.voxel, args.slices, row), row)
            print(f'\nseed {seed}, {family}, {row}\n{table.round(2).to_string(index=False)}', flush=True)
            every.append({'seed': seed, 'family': family, 'row': row, **scores})
    print(pd.DataFrame(every).round(3).T.to_string())


if __name__ == '__main__':
    main()
