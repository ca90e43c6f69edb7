"""Nigra, pallidum, norms of iron and subtype patterns, on phantoms and made-up cohorts of known truth.

python benchmarks/nbia.py [PART ...] [--seeds 101 140] [--keep FOLDER], where a PART is

nigrosome: midbrains in a box (dipole field, noise, default inversion) of .5 x .5 x 1 mm, in which the lens of
  nigrosome-1 is present on both sides, gone on one or both, or thinned on one. Labels are off by .3 mm.
voxels: the same at other voxel sizes, which is where the limit of the application comes from.
heads: the same in blocks of whole heads, with their veins and neighbours.
pallidum: cores in a ring, and uniform, calcified and streaked pallida, and such of little iron, at 1 mm.
noise: uniform pallida of little iron, of white noise.
cohort: z of people who were held out, against own controls and against the norms of 1958; subtypes.

Constants were chosen on seeds 1 to 24 (nigra) and 1 to 4 and 101 to 103 (pallidum; its limit of noise on 20
sides of noise in the pallidum of the tests) of the family `surface`, and 1 to 30 (patterns).
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from oximetry import scan_of
from results import kept

from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers import nigrosome
from bids_qsm.biomarkers.iron import ADULTS, REGIONS, expected_iron
from bids_qsm.biomarkers.nigra import nigra_table
from bids_qsm.biomarkers.nigra_frame import nigrae, nucleus_voxels
from bids_qsm.biomarkers.pallidum import find_eye
from bids_qsm.cohort.normative import normative
from bids_qsm.cohort.patterns import NONE, similarity
from bids_qsm.cohort.patterns import REGIONS as PATTERN
from bids_qsm.cohort.published_norms import published_norms
from bids_qsm.cohort.tables import gather, join_participants
from bids_qsm.phantom.fine import acquire
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.nigrosome import draw_midbrain, with_nigrosomes
from bids_qsm.phantom.nuclei_bed import labels_of
from bids_qsm.phantom.pallidum import KINDS, draw_pallidum
from bids_qsm.recon.grid import Grid

LOST = ({}, {'L': 1.0}, {'R': 1.0}, {'L': 1.0, 'R': 1.0}, {'L': 0.5}, {'R': 0.5})
"""Share of the lens that is lost, by side."""
USUAL = (0.5, 0.5, 1.0)
VOXELS = (
    (0.5, 0.5, 1.0),
    (0.7, 0.7, 0.7),
    (0.7, 0.7, 1.0),
    (0.8, 0.8, 0.8),
    (0.5, 0.5, 2.0),
    (1.0, 1.0, 1.0),
)
ECHOES = (0.006, 0.012, 0.018, 0.024, 0.030)
SNR = 140.0
"""Of 1 mm^3; that of a voxel goes with its volume."""
OFF_MM = {'SN': 0.3, 'GP': 0.4}


def box(bed, voxel, fov, centre, seed, off_mm):
    """Maps of a bed of nuclei by the default methods, and labels that are off."""
    snr = SNR * float(np.prod(voxel)) if max(voxel) <= 1 and min(voxel) < 1 else 70.0
    protocol = Protocol(voxel_size=voxel, fov=fov, echo_times=ECHOES, snr=snr, rotation=(10.0, 0.0, 0.0))
    factor = 3 if np.prod(voxel) < 0.6 else 4
    block = acquire(bed, protocol, centre=centre, seed=seed, factor=factor)
    scan = scan_of(block)
    rng = np.random.default_rng([seed, 5])
    dseg, _ = labels_of(bed, block.grid.shape, block.affine, off_mm=off_mm, rng=rng)
    return {'chi': scan.chi, 'r2star': scan.r2star, 'dseg': dseg, 'affine': block.affine}


def midbrain(seed, voxel, family):
    """Maps of a midbrain; the scene goes with the seed."""
    bed = draw_midbrain(seed, LOST[seed % len(LOST)], family=family)
    return box(bed, voxel, (36.0, 32.0, 26.0), (0, -18, -12), seed, OFF_MM['SN'])


def head_block(seed, voxel=USUAL):
    """Maps of the midbrain of a whole head, with its veins; labels are off by .3 mm along each axis."""
    head = with_nigrosomes(make_head(seed, family='surface'), LOST[seed % len(LOST)], seed)
    snr = SNR * float(np.prod(voxel))
    protocol = Protocol(voxel_size=voxel, fov=(36.0, 32.0, 26.0), echo_times=ECHOES, snr=snr)
    centre = head.to_scanner(np.array([[0.0, -18.0, -12.0]]))[0]
    block = acquire(head, protocol, centre=centre, seed=seed, factor=3)
    scan = scan_of(block)
    off = block.affine.copy()
    off[:3, 3] += OFF_MM['SN'] * np.random.default_rng([seed, 5]).standard_normal(3)
    dseg = head.labels(block.grid.shape, off).astype(np.int32)
    return {'chi': scan.chi, 'r2star': scan.r2star, 'dseg': dseg, 'affine': block.affine}


def score_nigrosomes(maps, seed, lost):
    """One row a side: what was found, and the truth."""
    affine, chi = maps['affine'], maps['chi']
    grid = Grid.from_affine(chi.shape, affine)
    found, why = nigrae(maps['dseg'], atlas.labels(), np.ones(chi.shape, bool), affine)
    limit, nigrosome.LARGEST_MM = nigrosome.LARGEST_MM, (9.0, 9.0)
    try:
        sides = nigrosome.find_nigrosomes(chi, found, grid, affine) if found else {}
        _, table = nigra_table(chi, np.ones(chi.shape, bool), maps['dseg'], atlas.labels(), grid, affine, '')
    finally:
        nigrosome.LARGEST_MM = limit
    weaker = table['n1_weaker_side'].iloc[0]
    rows = [
        {
            'seed': seed,
            'side': side,
            'lost': lost.get(side, 0.0),
            'contrast': 1e3 * one.contrast,
            'se': 1e3 * one.contrast_se,
            'volume': one.volume,
            'score': one.visible,
            'finding': one.finding,
            'weaker': weaker,
        }
        for side, one in sides.items()
    ]
    return rows or [{'seed': seed, 'side': s, 'lost': lost.get(s, 0.0), 'finding': why} for s in 'LR']


def say_nigrosomes(table, title):
    """Print sensitivity, false findings and sides."""
    there, gone = (table[table['lost'] == share] for share in (0.0, 1.0))
    half = table[table['lost'] == 0.5]
    wide = table.pivot(index='seed', columns='side', values='score')
    lost = table.pivot(index='seed', columns='side', values='lost')
    one = lost[(lost['L'] == 1) != (lost['R'] == 1)]
    right = [(wide.loc[s, 'L'] < wide.loc[s, 'R']) == (lost.loc[s, 'L'] == 1) for s in one.index]
    said = table.drop_duplicates('seed').set_index('seed')['weaker']
    named = [said[s] == ('L' if lost.loc[s, 'L'] == 1 else 'R') for s in one.index]
    pairs = there['score'].to_numpy()[:, None] > gone['score'].to_numpy()[None]
    print(
        f'{title:20s} seen {np.mean(there["finding"] == "seen"):.3f} of {len(there)}, '
        f'false {np.mean(gone["finding"] == "seen"):.3f} of {len(gone)}, AUC {pairs.mean():.3f}, half seen '
        f'{np.mean(half["finding"] == "seen"):.2f} of {len(half)}; weaker side {np.mean(right):.3f}, named '
        f'{np.mean(named):.3f} of {len(right)}; contrast {there["contrast"].mean():.0f} (half '
        f'{half["contrast"].mean():.0f}, gone {gone["contrast"].mean():.0f}) ppb, volume '
        f'{there["volume"].mean():.1f} mm3',
        flush=True,
    )


def run_nigrosomes(seeds, keep, voxel=USUAL, family='surface'):
    """Table of all seeds at a voxel size; the family 'head' is that of blocks of heads."""
    rows = []
    for seed in seeds:
        name = f'midbrain_{seed}_{family}_' + '_'.join(f'{v:g}' for v in voxel)
        make = partial(head_block, seed) if family == 'head' else partial(midbrain, seed, voxel, family)
        maps = kept(keep, name, make)
        rows += score_nigrosomes(maps, seed, LOST[seed % len(LOST)])
    return pd.DataFrame(rows)


def pallidum(seed, kind):
    """Maps of a pallidum at 1 mm."""
    bed = draw_pallidum(seed, kind)
    return box(bed, (1.0, 1.0, 1.0), (84.0, 56.0, 40.0), (0, 0, -2), seed, OFF_MM['GP'])


def run_pallida(seeds, keep):
    """One row a side of each kind."""
    rows = []
    for seed in seeds:
        for kind in KINDS:
            maps = kept(keep, f'pallidum_{seed}_{kind}', partial(pallidum, seed, kind))
            chi = maps['chi']
            grid, mask = Grid.from_affine(chi.shape, maps['affine']), np.ones(chi.shape, bool)
            data = (maps['dseg'], atlas.labels(), mask, grid, maps['affine'])
            for side in 'LR':
                for name, r2star in (('with R2*', maps['r2star']), ('chi alone', None)):
                    eye = find_eye(chi, r2star, *data, side)
                    rows.append((seed, kind, side, name, eye.score, eye.finding))
    return pd.DataFrame(rows, columns=['seed', 'kind', 'side', 'with', 'score', 'finding'])


def say_pallida(table):
    """Print how often each kind is called the sign."""
    table = table.assign(called=table['finding'] == 'core inside a ring')
    for (kind, name), rows in table.groupby(['kind', 'with'], sort=False):
        low, high = rows['score'].min(), rows['score'].max()
        print(
            f'{kind:11s} {name:10s} called core in a ring {rows["called"].mean():.3f} of {len(rows)}; score '
            f'{rows["score"].mean():.2f} ({low:.2f} to {high:.2f}); not assessable '
            f'{np.mean(rows["finding"] == "not assessable"):.3f}'
        )


def say_noise(seeds):
    """Print how often white noise alone is called the sign, in uniform pallida without an inversion."""
    shape, affine, mask = (84, 56, 40), np.eye(4), np.ones((84, 56, 40), bool)
    affine[:3, 3] = -(np.array(shape) - 1) / 2 + (0, 0, -2)
    found = []
    for seed in seeds:
        dseg, labels = labels_of(draw_pallidum(seed, 'normal'), shape, affine)
        whole = {side: nucleus_voxels(dseg, labels, 'GP', side, np.ones(3)) for side in 'LR'}
        noise = np.random.default_rng([seed, 46]).standard_normal(shape)
        for iron, sd in ((0.02, 0.008), (0.06, 0.008), (0.06, 0.02), (0.1, 0.03)):
            chi = (iron * (whole['L'] | whole['R']) + sd * noise).astype(np.float32)
            for side in 'LR':
                eye = find_eye(chi, None, dseg, labels, mask, Grid(shape), affine, side)
                found.append((f'{1e3 * iron:.0f} ppb, noise {1e3 * sd:.0f} ppb', eye.finding))
    for name, rows in pd.DataFrame(found, columns=['map', 'finding']).groupby('map'):
        print(f'uniform pallida of {name}: {rows["finding"].value_counts().to_dict()}')


def study_of_iron(seed, *, people=80, spread='published', sick=(), lack=0.0):
    """Long table of a study whose susceptibility follows iron of 1958; controls first, then patients.

    ``spread`` between people is that of 1958, or a share of the iron; ``lack`` (ppm) is how far regions
    lie off the line; in patients the regions ``sick`` have three times the iron.
    """
    rng = np.random.default_rng([seed, 44])
    offset, slope = rng.normal(-0.01, 0.01), rng.uniform(0.007, 0.011)
    off = {region: rng.normal(0, lack) for region in REGIONS}
    tables, known = [], []
    for i in range(people):
        age = rng.uniform(30, 75)
        ill = i >= people // 2 and bool(sick)
        frame = []
        for region in REGIONS:
            usual = float(expected_iron(region, 60.0))
            sd = 0.15 * usual if spread != 'published' else ADULTS.get(region, (0, 0.16 * usual))[1]
            iron = float(expected_iron(region, age)) + sd * rng.standard_normal()
            iron *= 3 if ill and region in sick else 1
            mean = offset + slope * iron + off[region] + 0.004 * rng.standard_normal()
            frame.append({'region': region, 'mean': mean})
        frame = pd.DataFrame(frame).assign(hemisphere='both', map='chi', units='ppm', coverage=1.0)
        tables.append(({'sub': f'{i:03d}', 'seg': 'a'}, frame))
        known.append((f'sub-{i:03d}', 'patient' if ill else 'control', round(age, 1)))
    known = pd.DataFrame(known, columns=['participant_id', 'group', 'age'])
    return join_participants(gather(tables), known)[0]


def say_norms(seeds):
    """Print mean and standard deviation of z of healthy people that the norms had not seen.

    Every other person is held out: line, spread and curves are those of the others.
    """
    scenes = {
        'people as of 1958': {},
        'people as in life (15 %)': {'spread': 'life'},
        'and regions 10 ppb off the line': {'spread': 'life', 'lack': 0.01},
        'half with three times GP and SN': {'spread': 'life', 'sick': ('GP', 'SN')},
    }
    for name, scene in scenes.items():
        found = {'iron of 1958': [], 'own controls': []}
        for seed in seeds:
            long = study_of_iron(seed, **scene)
            well = long['group'] == 'control'
            fitted = long['participant_id'].isin(long['participant_id'].unique()[::2])
            held = set(long.loc[well & ~fitted, 'participant_id'])
            for norm, scores, base in (
                ('iron of 1958', published_norms, fitted),
                ('own controls', normative, fitted & well),
            ):
                table, _ = scores(long.assign(group=np.where(base, 'fitted', 'held')), controls='fitted')
                found[norm].append(table[table['participant_id'].isin(held)])
        for norm, tables in found.items():
            z = pd.concat(tables)['z']
            print(f'{norm:13s} {name:33s} z held out: mean {z.mean():+.2f}, SD {z.std():.2f} (n {z.count()})')


SUBTYPES = {
    'a': {'SN': 6, 'GP': 8},
    'b': {'SN': 9, 'GP': 4, 'STN': 4},
    'c': {'GP': 4, 'Putamen': 5, 'Caudate': 4, 'Dentate': 5, 'Thalamus': 3, 'SN': 2},
    'd': {'Dentate': 4, 'Thalamus': 3, 'Caudate': 3},
}
"""Mean z of made-up subtypes; not those of any disease."""


def study_of_subtypes(seed, *, each=8, controls=20, others=10):
    """z-scores and labels: labelled and unlabelled people of each subtype, controls, and people of none."""
    rng = np.random.default_rng([seed, 45])
    rows, labels = [], {}

    def add(name, mean, label):
        labels[name] = label
        z = mean + rng.standard_normal(len(PATTERN))
        cells = zip(PATTERN, z, strict=True)
        rows.extend({'participant_id': name, 'region': r, 'z': v} for r, v in cells)

    for i in range(controls):
        add(f'n{i}', np.zeros(len(PATTERN)), 'control')
    for name, shape in SUBTYPES.items():
        mean = np.array([shape.get(r, 0) for r in PATTERN], float)
        for i in range(each + 3):
            own = np.exp(0.35 * rng.standard_normal() + 0.2 * rng.standard_normal(len(PATTERN)))
            add(f'{name}{i}', mean * own, name if i < each else np.nan)
    for i in range(others):
        mean = np.zeros(len(PATTERN))
        mean[rng.choice(len(PATTERN), 3, replace=False)] = rng.uniform(4, 8, 3) * rng.choice([1, 1, -1], 3)
        add(f'x{i}', mean, np.nan)
    return pd.DataFrame(rows).assign(map='chi', hemisphere='both'), pd.Series(labels)


def say_patterns(seeds):
    """Print how often the first choice is right."""
    found = []
    for seed in seeds:
        z, labels = study_of_subtypes(seed)
        table, _, _ = similarity(z, labels, controls=['control'], seed=seed)
        found.append(table[table['rank'] == 1])
    first = pd.concat(found)
    truth = first['participant_id'].str[0]
    known = first['label'].notna()
    ill = truth.isin(list(SUBTYPES))
    print(
        f'patterns: nearest right in {np.mean((first["pattern"] == truth)[ill & known]):.3f} of labelled '
        f'(left out), {np.mean((first["pattern"] == truth)[ill & ~known]):.3f} of unlabelled; choice in '
        f'{np.mean((first["choice"] == truth)[ill & ~known]):.3f} of unlabelled; none in '
        f'{np.mean((first["choice"] == NONE)[truth == "x"]):.3f} of those of no subtype; controls '
        f'{np.mean((first["choice"] == "control")[truth == "n"]):.3f}'
    )


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', default=['nigrosome', 'voxels', 'pallidum', 'cohort'])
    parser.add_argument('--seeds', nargs=2, type=int, default=(101, 140), help='first and last')
    parser.add_argument('--family', default='surface', help='of the shapes of the nuclei')
    parser.add_argument('--keep', type=Path, help='keep the maps in this folder, and take them from it')
    args = parser.parse_args(words)
    seeds = range(args.seeds[0], args.seeds[1] + 1)
    if 'nigrosome' in args.parts:
        table = run_nigrosomes(seeds, args.keep, family=args.family)
        say_nigrosomes(table, f'.5 x .5 x 1, {args.family}')
        print(table.sort_values(['lost', 'score']).to_string(index=False, float_format='{:.2f}'.format))
    if 'voxels' in args.parts:
        for voxel in VOXELS[1:]:
            say_nigrosomes(run_nigrosomes(seeds, args.keep, voxel), ' x '.join(f'{v:g}' for v in voxel))
    if 'heads' in args.parts:
        say_nigrosomes(run_nigrosomes(seeds, args.keep, family='head'), 'blocks of heads')
    if 'pallidum' in args.parts:
        say_pallida(run_pallida(seeds, args.keep))
    if 'noise' in args.parts:
        say_noise(seeds)
    if 'cohort' in args.parts:
        say_norms(seeds)
        say_patterns(seeds)


if __name__ == '__main__':
    main(sys.argv[1:])
