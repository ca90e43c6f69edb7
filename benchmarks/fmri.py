"""Show what veins do to a BOLD run of known truth, and what excluding or regressing them changes.

python benchmarks/fmri.py [--seeds 2011 2012 ...] [--gain 5] [--veins truth|own] [--results FOLDER]

Each seed is a head with a run of a task and a run at rest, with the noise of the mean of four runs: with that
of one, few voxels of the patch are active, and the centre is off by 1.5 to 2 mm without any vein. Veins are
those of the head on a grid of 1 mm, as a perfect map of veins would have them, or those that `--veins` finds
in a gradient echo of the head at 3 T and 1 mm, after the default chain with the true brain mask. Rows go to
results/fmri.tsv: for all voxels, without the excluded ones, with regressors, and with both:

- off_mm: the distance of the centre of activation from that of the neural response. The centre is that of
  voxels with z > 5 in clusters of five or more, weighted by response
- moved_mm: the distance from the centre in the same run whose vein does not follow the task, in all voxels
- response: that in the core of the patch over that of the run whose vein does not follow the task
- false_%, anywhere_%: false correlations at rest: voxels of grey matter of other networks, 20 mm away or
  more, with p < 0.001, of seeds of 4 mm radius that have a vein in them (a true share above 0.1 in a voxel),
  and of seeds anywhere
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from chain import Chain
from results import FOLDER, Table
from scipy import ndimage, stats

from bids_qsm.applications.contract import Bold
from bids_qsm.applications.fmri import measure
from bids_qsm.biomarkers.vein_signal import cosines, drop, gather
from bids_qsm.biomarkers.veins import find_veins
from bids_qsm.phantom.bold import BoldProtocol, simulate_bold
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.grid import Grid

SHAPE = (168, 204, 150)
"""Of the grid of 1 mm that veins and tissue are given on."""
SEEDS_AT_REST = 60
TSNR = 160.0
"""As of the mean of four runs of a protocol with 80."""
SEEDS = (2011, 2012, 2013)
"""Of heads on which nothing was chosen; seeds 2001 to 2004 served for that."""
KEY = ('veins', 'gain', 'seed', 'way')
WAYS = ('all', 'excluded', 'regressed', 'both')


def one_millimetre():
    """Affine of the grid of 1 mm."""
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2
    return affine


def as_bold(run, grey, white, events):
    """What `measure` gets of a simulated run."""
    steady = run.data[..., run.protocol.unsteady :]
    frames = [run.data[..., t] for t in range(run.data.shape[3])]
    names = [f'non_steady_state_outlier{t:02d}' for t in range(run.protocol.unsteady)]
    marks = {name: np.arange(len(frames)) == t for t, name in enumerate(names)}
    affine = one_millimetre()
    return Bold(
        frames=frames,
        reference=steady.mean(-1),
        mask=run.truth['brain'] + run.truth['veins'] > 0.5,
        affine=run.affine,
        repetition_time=run.protocol.repetition_time,
        start_time=0.0,
        to_maps=[np.eye(4)],
        to_anat=[],
        grey=(grey, affine),
        white=(white, affine),
        confounds=pd.DataFrame(marks),
        events=events,
        is_raw=False,
        has_fieldmap=True,
    )


def fitted(series, task, basis):
    """Response and z of each series to a task beyond ``basis``."""
    design, left = drop(task[:, None].astype(float), basis), drop(series, basis)
    size = (design**2).sum()
    response = (design.T @ left)[0] / size
    freedom = len(series) - 2 - basis.shape[1]
    error = np.sqrt(np.square(left - design * response).sum(0) / freedom / size)
    t = response / np.maximum(error, 1e-12)
    return response, stats.norm.isf(np.maximum(stats.t.sf(t, freedom), 1e-300))


def activation(run, still, exclude, table):
    """Distances of the centre and share of the response, by way.

    ``still`` is the same run whose vein does not follow the task: what is seen there is neural, through the
    same voxels and noise.
    """
    skip = run.protocol.unsteady
    inside = run.truth['brain'] + run.truth['veins'] > 0.5
    series = gather([run.data[..., t] for t in range(run.data.shape[3])], inside)[skip:]
    percent = series / series.mean(0) - 1
    slow = cosines(len(series), run.protocol.repetition_time)
    true = gather([still.data[..., t] for t in range(still.data.shape[3])], inside)[skip:]
    true, z_true = fitted(true / true.mean(0) - 1, run.task[skip:], slow)
    found = table.filter(like='comp_cor').to_numpy()[skip:]
    points = np.argwhere(inside) @ run.affine[:3, :3].T + run.affine[:3, 3]
    kept, own = ~exclude[inside], run.truth['neural'][inside]
    out = {}
    for way in WAYS:
        basis = np.c_[slow, found] if way in ('regressed', 'both') else slow
        response, z = fitted(percent, run.task[skip:], basis)
        use = kept if way in ('excluded', 'both') else np.ones_like(kept)
        centre, count = middle(response, (z > 5) & use, inside, points)
        core = own > 0.3
        out[way] = {
            'off_mm': np.linalg.norm(centre - run.centre),
            'moved_mm': np.linalg.norm(centre - middle(true, z_true > 5, inside, points)[0]),
            'response': response[core & use].mean() / true[core].mean(),
            'active': count,
        }
    return out


def middle(response, active, inside, points):
    """Centre (mm) of active voxels in clusters, weighted by their response, and their number."""
    image = np.zeros(inside.shape, bool)
    image[inside] = active
    weight = response * of_clusters(image)[inside]
    return (points * weight[:, None]).sum(0) / max(weight.sum(), 1e-12), int((weight > 0).sum())


def of_clusters(active, least=5):
    """Voxels of a mask in clusters of ``least`` or more."""
    pieces, count = ndimage.label(active, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    return active & (sizes >= least)[pieces]


def false_correlations(run, exclude, table, rng, *, near_veins):
    """Share (%) of voxels that correlate with a seed of another network, by way."""
    skip = run.protocol.unsteady
    grey = run.truth['grey'] > 0.5
    series = gather([run.data[..., t] for t in range(run.data.shape[3])], grey)[skip:]
    slow = cosines(len(series), run.protocol.repetition_time)
    found = table.filter(like='comp_cor').to_numpy()[skip:]
    points = np.argwhere(grey) @ run.affine[:3, :3].T + run.affine[:3, 3]
    network, kept = run.truth['network'][grey], ~exclude[grey]
    venous = np.flatnonzero(run.truth['veins'][grey] > 0.1)
    chosen = rng.choice(venous if near_veins else len(points), SEEDS_AT_REST, replace=False)
    out = {}
    for way in WAYS:
        basis = np.c_[slow, found] if way in ('regressed', 'both') else slow
        use = kept if way in ('excluded', 'both') else np.ones_like(kept)
        left = drop(series, basis)
        left /= np.maximum(np.linalg.norm(left, axis=0), 1e-12)
        freedom = len(series) - 2 - basis.shape[1]
        t = stats.t.isf(0.0005, freedom)
        least = t / np.sqrt(freedom + t**2)
        shares = []
        for one in chosen:
            far = np.linalg.norm(points - points[one], axis=1)
            seed = (far <= 4) & (network == network[one]) & use
            others = (far > 20) & (network != network[one]) & use
            if not seed.any():
                continue
            course = left[:, seed].mean(1)
            course /= np.linalg.norm(course)
            shares.append((np.abs(course @ left[:, others]) > least).mean())
        out[way] = 100 * np.mean(shares)
    return out


def true_veins(head, _):
    """Share of veins on the grid of 1 mm, 1 where they are wide, as sinuses are, and the grid."""
    affine = one_millimetre()
    blood = head.sample(SHAPE, affine, ('blood',))['blood']
    wide = ndimage.binary_opening(blood > 0.5, np.ones((3, 3, 3)))
    return blood, ndimage.binary_dilation(wide).astype(np.int32), affine


def own_veins(head, seed):
    """The same as found in a gradient echo of the head, and their grid."""
    scan = simulate(head, Protocol(fov=tuple(map(float, SHAPE))), seed)
    grid = Grid.from_affine(scan.magnitude.shape[:3], scan.affine)
    data = {
        'magnitude': np.asfortranarray(1000 * scan.magnitude, np.float32),
        'phase': np.asfortranarray(scan.phase, np.float32),
        'echo_times': list(scan.protocol.echo_times),
        'field_strength': scan.protocol.field_strength,
        'grid': grid,
        'brain': scan.truth['mask'],
    }
    chain = Chain(data).run()
    maps = (chain.data[name] for name in ('chi', 'swi', 'r2star'))
    found = find_veins(*maps, chain.chi_mask, scan.truth['dseg'], scan.affine, grid)
    return found.share, found.labels, scan.affine


def score(seed, gain, find):
    """Rows of one head."""
    head, affine = make_head(seed), one_millimetre()
    part = head.sample(SHAPE, affine, ('brain', 'csf', 'white'))
    grey = np.clip(part['brain'] - part['csf'] - part['white'], 0, 1)
    share, labels, grid = find(head, seed)
    protocol = BoldProtocol(gain=gain, tsnr=TSNR)
    still = simulate_bold(head, replace(protocol, gain=0.0), seed)
    rows = []
    for kind, how in (('task', protocol), ('rest', replace(protocol, response=0.0))):
        run = simulate_bold(head, how, seed)
        bold = as_bold(run, grey, part['white'], run.events if kind == 'task' else None)
        _, exclude, _, _, confounds, quality, _ = measure(bold, share, labels, grid)
        table, facts = confounds[0], quality.iloc[0]
        if kind == 'task':
            found = activation(run, still, exclude, table)
            rows = [{'seed': seed, 'way': way, **row} for way, row in found.items()]
            said = {'gm_excluded': facts['gm_excluded'], 'r_task': facts['r_vein_task_max']}
        else:
            for name, near in (('false_%', True), ('anywhere_%', False)):
                rng = np.random.default_rng(seed)
                found = false_correlations(run, exclude, table, rng, near_veins=near)
                for row in rows:
                    row[name] = found[row['way']]
    return [{**row, **said} for row in rows]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--gain', type=float, default=5.0)
    parser.add_argument('--veins', choices=VEINS, default='truth')
    parser.add_argument('--results', type=Path, default=FOLDER)
    settings = parser.parse_args(argv)
    table = Table(settings.results / 'fmri.tsv', KEY)
    for seed in settings.seeds:
        for row in score(seed, settings.gain, VEINS[settings.veins]):
            table.put({'veins': settings.veins, 'gain': settings.gain, **row})
    return 0


VEINS = {'truth': true_veins, 'own': own_veins}


if __name__ == '__main__':
    sys.exit(main())
