"""Score the alignment of CT, the classes of foci in it, and what is refused, on heads of known truth.

python benchmarks/ct.py [--seeds 401 402 ...] [--voxel 1.5]

Each head is scanned by gradient echo, T1w and four CTs of random pose (up to 10 mm and 10 degrees on each
axis), whose coordinates have another origin: slices of 1 mm, of 5 mm, of 5 mm with a tilted gantry, and a
field of view of 80 mm. Bleeds and calcifications are marked by the truth, as this is about CT. Some calcium
is in the CT alone.
"""

import argparse
import sys
import time

import numpy as np
import pandas as pd

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.align import matrix_of
from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.register import rigid
from bids_qsm.anatomy.transform import Displacement, apply_affine
from bids_qsm.biomarkers.ct import (
    WINDOW,
    Tomogram,
    alignment_problem,
    bone_share,
    hounsfield_problem,
    second_alignment,
    seen_share,
)
from bids_qsm.biomarkers.ct_foci import find_dense, list_calcium, measure_foci
from bids_qsm.biomarkers.localisation import Places
from bids_qsm.phantom import ct as phantom
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.lesions import Lesion, scatter
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.magnitude import combine

SEEDS = (401, 402)
"""Of heads on which nothing was chosen."""
NUMBERS = {'calcifications': 6, 'microbleeds': 6}
USUAL = {
    'pineal': (0.0, -30.0, 1.0),
    'choroid plexus': (24.0, -40.0, 8.0),
    'falx': (0.0, 20.0, 52.0),
}
"""Where calcium is usual (mm, template space)."""
WRONG = (3.0, 6.0, 15.0)
"""Wrong alignments (mm, mean over the brain) that are to be detected."""


def scans(rng):
    """Name -> how it is scanned."""

    def pose():
        return {
            'rotation': tuple(rng.uniform(-10, 10, 3)),
            'shift': tuple(rng.uniform(-10, 10, 3)),
            'origin': tuple(rng.uniform(-100, 100, 3)),
            'noise': float(rng.uniform(4, 8)),
        }

    thick, low = (0.9, 0.9, 5.0), {'fov': (220.0, 240.0, 150.0), 'centre': (0.0, -8.0, 5.0)}
    return {
        '1 mm': phantom.Tomogram(**pose()),
        '5 mm': phantom.Tomogram(thick, **low, **pose()),
        '5 mm, gantry 18 degrees': phantom.Tomogram(thick, tilt=18.0, **low, **pose()),
        '2.5 mm, 80 mm of the head': phantom.Tomogram(
            (0.7, 0.7, 2.5), fov=(180.0, 180.0, 80.0), centre=(0.0, -8.0, 15.0), **pose()
        ),
    }


def distances(found, true, points):
    """Distance (mm) of each point between two transforms."""
    return np.linalg.norm(apply_affine(found, points) - apply_affine(true, points), axis=1)


def off_by(true, size, points, rng):
    """A transform that is wrong by ``size`` mm in the mean over points."""
    step = rng.standard_normal(6)
    for _ in range(20):
        wrong = true @ matrix_of(step, points.mean(0))
        step *= size / distances(wrong, true, points).mean()
    return wrong


def score_head(seed, voxel):
    """Rows of alignments, of wrong alignments, of foci and of pieces of calcium in one head."""
    rng = np.random.default_rng([seed, 30])
    head = make_head(seed)
    head = head.changed({}, scatter(seed, head, **NUMBERS))
    protocol = Protocol((voxel,) * 3, echo_times=(0.005, 0.015), rotation=(12.0, 3.0, 0.0))
    gre = simulate(head, protocol, seed)
    magnitude, mask, affine = combine(gre.magnitude), gre.truth['mask'], gre.affine
    t1w, t1w_affine = simulate_t1w(head, seed)
    t1w = correct_bias(t1w, t1w_affine)[0]
    brain = head.sample(t1w.shape, t1w_affine, ('brain',))['brain'] > 0.5
    fixed = {
        'T1w': (t1w, t1w_affine, brain),
        'magnitude': (correct_bias(magnitude, affine)[0], affine, mask),
    }
    alone = [Lesion(place, 2.0, kind='calcification') for place in USUAL.values()]
    alone += [Lesion((sign * 30.0, y, 32.0), 2.0, kind='calcification') for sign, y in ((1, -10), (-1, 15))]
    labels, dseg = gre.truth['lesions'].astype(np.int32), gre.truth['dseg'].astype(np.int32)
    places = Places(dseg, atlas.labels(), affine, [head.pose, warp_of(head)])
    points = apply_affine(affine, np.argwhere(mask)[::50])
    aligned, wrong, foci, pieces = [], [], [], []
    for name, scan in scans(rng).items():
        image, ct_affine, true, added = phantom.simulate_ct(head, seed, scan, alone=alone)
        problem = hounsfield_problem(image, 'sub-01_ct.nii.gz')
        whole = Tomogram(image.astype(np.float32), ct_affine, true)
        moving = np.clip(whole.hu, *WINDOW) - np.float32(WINDOW[0])
        for by, (still, still_affine, where) in fixed.items():
            start = time.perf_counter()
            found = rigid(moving, ct_affine, still, still_affine, where)
            took = time.perf_counter() - start
            error = distances(found, true, points)
            said, distance = judge(whole, found, magnitude, mask, affine)
            aligned.append((seed, name, by, error.mean(), error.max(), distance, said, problem, took))
            if by == 'T1w':
                best = found
        for size in WRONG if name == '5 mm' else ():
            moved = off_by(true, size, points, rng)
            said, distance = judge(whole, moved, magnitude, mask, affine)
            wrong.append((seed, name, size, distance, said is not None))
        placed = Tomogram(whole.hu, ct_affine, best).around(mask, affine)
        dense = find_dense(placed, placed.holds(mask, affine))
        table = measure_foci(labels, affine, mask, placed, dense)
        table.insert(0, 'scan', name)
        table.insert(0, 'seed', seed)
        table['kind'] = [head.lesions[n - 1].kind for n in table['focus']]
        table['radius'] = [head.lesions[n - 1].radius for n in table['focus']]
        table['added'] = [added[n - 1] for n in table['focus']]
        foci.append(table)
        pieces += score_pieces(seed, name, head, placed, dense, labels, affine, places, alone)
    frames = (
        (aligned, ('seed', 'scan', 'by', 'mean', 'largest', 'second', 'said', 'problem', 'seconds')),
        (wrong, ('seed', 'scan', 'off', 'second', 'detected')),
        (pieces, ('seed', 'scan', 'what', 'seen', 'found', 'place', 'candidate')),
    )
    first, second, third = (pd.DataFrame(rows, columns=names) for rows, names in frames)
    return first, second, pd.concat(foci), third


def warp_of(head):
    """The warp of a head, which takes points to the template after its pose."""
    affine = np.diag([head.warp.spacing] * 3 + [1.0])
    affine[:3, 3] = head.warp.origin
    return Displacement(head.warp.nodes.astype(np.float32), affine)


def judge(whole, to_ct, magnitude, mask, affine):
    """What is said of an alignment, and its second distance."""
    seen = seen_share(Tomogram(whole.hu, whole.affine, to_ct), mask, affine)
    placed = Tomogram(whole.hu, whole.affine, to_ct).around(mask, affine)
    distance = second_alignment(placed, magnitude, mask, affine)
    return alignment_problem(seen, distance, bone_share(placed, mask, affine)), distance


def score_pieces(seed, name, head, placed, dense, labels, affine, places, alone):
    """One row a calcification of the CT alone, found or not, and one a piece that is none."""
    table = list_calcium(placed, dense, labels, affine, places)
    at = table[['x', 'y', 'z']].to_numpy(float)
    rows, taken = [], set()
    for lesion, what in zip(alone, [*USUAL, *['n/a'] * (len(alone) - len(USUAL))], strict=True):
        centre = head.to_scanner(np.array([lesion.centre]))
        voxel = np.rint(apply_affine(np.linalg.inv(placed.affine) @ placed.to_ct, centre))[0]
        seen = bool(((voxel >= 1) & (voxel < np.array(placed.hu.shape) - 1)).all())
        near = np.flatnonzero(np.linalg.norm(at - centre, axis=1) < 5) if len(at) else []
        taken |= set(near)
        place = table['physiological'][near[0]] if len(near) else ''
        candidate = table['candidate'][near[0]] if len(near) else np.nan
        rows.append((seed, name, what, seen, len(near) > 0, place, candidate))
    for n in range(len(table)):
        if n not in taken and np.isnan(table['candidate'][n]):
            rows.append((seed, name, 'nothing', True, True, table['physiological'][n], np.nan))
    return rows


def score_refusals(seed):
    """What is said of images that are no CT in Hounsfield units."""
    head = make_head(seed, spacing=2.0)
    image = phantom.simulate_ct(head, seed, phantom.Tomogram((1.5, 1.5, 5.0)))[0].astype(np.float32)
    t1w = simulate_t1w(head, seed, voxel_size=(2.0, 2.0, 2.0))[0]
    scaled = 255 * (image + 1024) / 4095
    fakes = {
        'a CT': image,
        'T1w': t1w,
        'T1w of 0 to 4095': 4095 * t1w / t1w.max(),
        'rescaled to 0 to 255': np.rint(scaled),
        'intercept not applied': image + 1024,
        'window of 0 to 80': np.clip(image, 0, 80),
        'skull stripped, 0 around': np.where((image > -20) & (image < 100), image, 0),
        'head cut out, 0 around': np.where(image > -500, image, 0),
    }
    return {name: hounsfield_problem(data, 'sub-01_ct.nii.gz') for name, data in fakes.items()}


def summarise(aligned, wrong, foci, pieces):
    """Print what the issue asks for."""
    print('\nerror of the alignment over the brain (mm): mean, largest; most over heads')
    for (name, by), rows in aligned.groupby(['scan', 'by'], sort=False):
        print(
            f'  {name:27s} by {by:9s} mean {rows["mean"].max():.2f}  largest {rows["largest"].max():.2f}  '
            f'second alignment {rows["second"].max():.2f}  refused {rows["said"].notna().sum()} of '
            f'{len(rows)}  {rows["seconds"].mean():.0f} s'
        )
    print('\nwrong alignments detected')
    for size, rows in wrong.groupby('off'):
        print(f'  {size:4.0f} mm: {rows["detected"].sum()} of {len(rows)}')
    print('\nclasses of foci in the field of view')
    seen = foci[foci['ct_class'] != 'n/a']
    print(pd.crosstab([seen['scan'], seen['kind']], seen['ct_class']).to_string())
    lost = seen[(seen['kind'] == 'calcification') & (seen['ct_class'] != 'calcified')]
    print(f'\ncalcifications that are not called so: {len(lost)}')
    columns = ['seed', 'scan', 'radius', 'added', 'hu_max', 'hu_limit', 'ct_class', 'reason']
    print(lost[columns].round(1).to_string(index=False) if len(lost) else '')
    alone = pieces[(pieces['what'] != 'nothing') & pieces['seen']]
    print('\ncalcium in CT alone: found, and place told')
    for (name, what), rows in alone.groupby(['scan', 'what'], sort=False):
        told = (rows['place'] == rows['what']).sum()
        print(f'  {name:27s} {what:20s} found {rows["found"].sum()} of {len(rows)}, place right {told}')
    false = pieces[pieces['what'] == 'nothing']
    print(f'pieces that are no calcium: {len(false)} in {len(aligned) // 2} CTs')


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS))
    parser.add_argument('--voxel', type=float, default=1.5, help='size of the gradient-echo voxels (mm)')
    args = parser.parse_args(words)
    for name, said in score_refusals(args.seeds[0]).items():
        print(f'{name}: {said or "taken"}')
    found = []
    for seed in args.seeds:
        found.append(score_head(seed, args.voxel))
        print(found[-1][0].drop(columns=['problem']).round(2).to_string(index=False), flush=True)
    summarise(*(pd.concat(rows, ignore_index=True) for rows in zip(*found, strict=True)))


if __name__ == '__main__':
    main(sys.argv[1:])
