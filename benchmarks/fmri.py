"""Show what veins do to a BOLD run of known truth, and what excluding or regressing them changes.

python benchmarks/fmri.py [--seeds 2001 2002 ...] [--gain 5]

Each seed is a head with a run of a task and a run at rest. Veins are those of the head on a grid of 1 mm, as
a perfect map of veins would have them. Printed are, for all voxels, without the
excluded ones, with regressors, and with both:

- the distance (mm) of the centre of activation from that of the neural response: of voxels with z > 5 in
  clusters of five or more, weighted by response
- the response in the core of the patch over that which was put there
- false correlations at rest: voxels of grey matter of other networks, 20 mm away or more, with p < 0.001, of
  seeds of 4 mm radius that have a vein in them (a voxel with a true share above 0.1), and of seeds anywhere
"""

import argparse
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from bids_qsm.applications.contract import Bold
from bids_qsm.applications.fmri import measure
from bids_qsm.biomarkers.vein_signal import cosines, drop, gather
from bids_qsm.phantom.bold import BoldProtocol, simulate_bold
from bids_qsm.phantom.head import make_head

SHAPE = (168, 204, 150)
"""Of the grid of 1 mm that veins and tissue are given on."""
SEEDS_AT_REST = 60
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


def activation(run, exclude, table):
    """Distance of the centre and share of the response, by way."""
    skip = run.protocol.unsteady
    inside = run.truth['brain'] + run.truth['veins'] > 0.5
    series = gather([run.data[..., t] for t in range(run.data.shape[3])], inside)[skip:]
    percent = series / series.mean(0) - 1
    slow = cosines(len(series), run.protocol.repetition_time)
    found = table.filter(like='comp_cor').to_numpy()[skip:]
    points = np.argwhere(inside) @ run.affine[:3, :3].T + run.affine[:3, 3]
    kept, own = ~exclude[inside], run.truth['neural'][inside]
    out = {}
    for way in WAYS:
        basis = np.c_[slow, found] if way in ('regressed', 'both') else slow
        response, z = fitted(percent, run.task[skip:], basis)
        use = kept if way in ('excluded', 'both') else np.ones_like(kept)
        active = np.zeros(inside.shape, bool)
        active[inside] = (z > 5) & use
        weight = response * of_clusters(active)[inside]
        centre = (points * weight[:, None]).sum(0) / max(weight.sum(), 1e-12)
        core = (own > 0.3) & use
        put = run.protocol.response * own[core].mean()
        out[way] = (np.linalg.norm(centre - run.centre), response[core].mean() / put, int((weight > 0).sum()))
    return out


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


def true_veins(head, affine):
    """Share of veins on the grid of 1 mm, and 1 where they are wide, as sinuses are."""
    blood = head.sample(SHAPE, affine, ('blood',))['blood']
    wide = ndimage.binary_opening(blood > 0.5, np.ones((3, 3, 3)))
    return blood, ndimage.binary_dilation(wide).astype(np.int32)


def score(seed, gain, find):
    """Rows of one head."""
    head, affine = make_head(seed), one_millimetre()
    part = head.sample(SHAPE, affine, ('brain', 'csf', 'white'))
    grey = np.clip(part['brain'] - part['csf'] - part['white'], 0, 1)
    share, labels, grid = find(head, seed)
    protocol = BoldProtocol(gain=gain)
    rows = []
    for kind, how in (('task', protocol), ('rest', replace(protocol, response=0.0))):
        run = simulate_bold(head, how, seed)
        bold = as_bold(run, grey, part['white'], run.events if kind == 'task' else None)
        _, exclude, _, _, confounds, quality = measure(bold, share, labels, grid)
        table, facts = confounds[0], quality.iloc[0]
        if kind == 'task':
            for way, (far, response, n) in activation(run, exclude, table).items():
                rows.append({'seed': seed, 'way': way, 'off_mm': far, 'response': response, 'active': n})
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
    parser.add_argument('--seeds', type=int, nargs='+', default=[2001, 2002, 2003, 2004])
    parser.add_argument('--gain', type=float, default=5.0)
    settings = parser.parse_args(argv)

    def find(head, _):
        affine = one_millimetre()
        return (*true_veins(head, affine), affine)

    parts = []
    for seed in settings.seeds:
        parts.append(pd.DataFrame(score(seed, settings.gain, find)))
        print(parts[-1].round(3).to_string(index=False, header=len(parts) == 1), flush=True)
    rows = pd.concat(parts)
    print(
        rows.groupby('way', sort=False)[['off_mm', 'response', 'false_%', 'anywhere_%']]
        .agg(['mean', 'max'])
        .round(2)
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
