"""Score the methods of each step, and whole chains, against digital heads of known truth.

python benchmarks/accuracy.py [--quick] [--parts inversion background ...] [--conditions base "7 T" ...]

Every method runs under the base condition for --method-seeds seeds, and in a chain for the first. For other
seeds and conditions the defaults run, and a few that they are measured by, unless --everywhere. Rows go to
results/accuracy.tsv as they come; --missing skips those that are there.
`--end-to-end` as the first word scores the command line instead, see endtoend.py.
"""

import argparse
import pickle
import sys
import tempfile
import time
import traceback
from functools import lru_cache
from pathlib import Path

import endtoend
import numpy as np
from chain import Chain
from conditions import grid_of_conditions, scan
from metrics import coverage, dice, nrmse, regional_fit, score_chi, score_field, wrong_wraps
from results import FOLDER, PICTURED, Table, write_machine
from scipy import ndimage

from bids_qsm.app.methods import registries
from bids_qsm.recon.registry import call, needs

CACHE = Path(tempfile.gettempdir()) / 'bids_qsm_benchmarks'
PARTS = ('inversion', 'background', 'chain', 'r2star', 'swi')
KEY = ('part', 'voxel', 'condition', 'seed', 'method')
YARDSTICKS = {'inversion': ('tkd',), 'background': ('vsharp', 'pdf'), 'r2star': (), 'swi': ()}
"""Methods that run under every condition beside the default."""
USUAL = {
    'usual: V-SHARP + RTS': {'background': 'vsharp', 'inversion': 'rts'},
    'usual: RESHARP + TV': {'background': 'resharp', 'inversion': 'tv'},
    'usual: PDF + MEDI': {'background': 'pdf', 'inversion': 'medi'},
    'usual: V-SHARP + TKD': {'background': 'vsharp', 'inversion': 'tkd'},
}
"""Chains in common use, with the mask, unwrapping and field of the default."""
CHOSEN = ('mask', 'unwrap', 'field', 'background', 'inversion')
"""Steps that are exchanged one at a time in the default chain."""
SKIPPED = ('reference', 'swi')
"""Steps that change nothing about susceptibility relative to its mean."""
WINDOW = 0.15
"""Grey values of the kept slices run from minus to plus this (ppm)."""


def first(registry):
    """Name of the default of a registry."""
    return next(iter(registry))


def methods_of(part, condition, known, everything):
    """Methods of a step, or chains, that run under a condition: name -> methods chosen in the chain."""
    if part == 'r2star' and len(condition.echo_times) < 2:
        return {}
    if part in YARDSTICKS:
        few = (first(known[part]), *YARDSTICKS[part])
        return {name: {} for name in known[part] if everything or name in few}
    chains = {'default': {}}
    if everything:
        for step in CHOSEN:
            chains |= {f'{step}: {name}': {step: name} for name in list(known[step])[1:]}
        chains |= {
            name: choices
            for name, choices in USUAL.items()
            if all(method in known[step] for step, method in choices.items())
        }
    return chains


def run_inversion(case, function):
    """Invert the true local field plus noise (one-step methods: the total field)."""
    data = case.measured()
    start = time.perf_counter()
    chi = call(function, data, {})
    seconds = time.perf_counter() - start
    scores = score_chi(chi, data['mask'], case.truth, case.grid.voxel_size)
    return chi, {'seconds': seconds, **scores}


def run_background(case, function, inversion):
    """Remove the background from the true total field plus noise; then invert."""
    data = case.measured()
    start = time.perf_counter()
    local, mask, *noise = call(function, {**data, 'field': data['total']}, {})
    data['noise'] = (noise or [data['noise']])[0]
    seconds = time.perf_counter() - start
    scores = score_field(local, mask, case.truth, case.grid.voxel_size)
    chi = call(inversion, {**data, 'field': local, 'mask': mask}, {})
    return chi, {'seconds': seconds, **scores, **score_chi(chi, mask, case.truth, case.grid.voxel_size)}


@lru_cache(maxsize=1)
def default_chain(case):
    """The default chain of a scan, run up to its susceptibility."""
    chain = Chain(case.data)
    return chain.run([step for step in chain.steps if step not in SKIPPED])


def run_chain(case, choices):
    """Phase to susceptibility in one's own mask."""
    chain = default_chain(case)
    if choices:
        chain = chain.branch(choices)
        chain.run([step for step in chain.steps if step not in chain.seconds and step not in SKIPPED])
    data, truth = chain.data, case.truth
    mask, both = data['mask'], data['mask'] & truth['mask']
    wraps = wrong_wraps(data['unwrapped'], truth['total_field'], both, case.radians_per_ppm)
    error = (data['total'] - truth['total_field'])[both]
    scores = {
        'mask_dice': dice(mask, truth['mask']),
        'mask_coverage': coverage(mask, truth['mask']),
        'wraps_mean': float(np.mean(wraps)),
        'wraps_last': float(wraps[-1]),
        'total_ppb': 1e3 * float(np.sqrt(np.mean((error - np.median(error)) ** 2, dtype=float))),
    }
    seconds = sum(chain.seconds.values())
    return data['chi'], {
        'seconds': seconds,
        **scores,
        **score_chi(data['chi'], chain.chi_mask, truth, case.grid.voxel_size),
    }


def run_r2star(case, function):
    """R2* from the measured magnitude, in the true mask and with the true field."""
    truth = case.truth
    rate = call(function, {**case.data, 'mask': truth['mask'], 'field': truth['total_field']}, {})[0]
    true, mask = truth['r2star'], truth['mask']
    slope, intercept = regional_fit(rate, true, truth['dseg'], mask)
    error = (rate - true)[mask]
    return None, {
        'nrmse': nrmse(rate, true, mask),
        'median_error': float(np.median(error)),
        'outliers': 100 * float(np.mean(np.abs(error) > 20)),
        'deep_grey': nrmse(rate, true, mask & (truth['dseg'] > 0)),
        'slope': slope,
        'intercept': intercept,
    }


def run_swi(case, function):
    """How dark veins are against the tissue around them, from the true phase and susceptibility."""
    truth, mask = case.truth, case.truth['mask']
    phase = case.radians_per_ppm.astype(np.float32) * truth['total_field'][..., None]
    image = call(function, {**case.data, 'unwrapped': phase, 'mask': mask, 'chi': truth['chi']}, {})
    veins = truth['veins']
    size = case.grid.voxel_size
    near = mask & ~veins & (ndimage.distance_transform_edt(~veins, sampling=size) <= max(4, *size))
    tissue = image[near]
    contrast = 1 - float(image[veins].mean() / tissue.mean())
    return None, {'contrast': contrast, 'contrast_to_noise': contrast * float(tissue.mean() / tissue.std())}


def run(part, case, name, choice, known):
    """Map (or None) and scores of one method or chain."""
    if part == 'r2star':
        return run_r2star(case, known['r2star'][name])
    if part == 'swi':
        return run_swi(case, known['swi'][name])
    if part == 'inversion':
        return run_inversion(case, known['inversion'][name])
    if part == 'background':
        return run_background(case, known['background'][name], known['inversion'][default_inversion(known)])
    return run_chain(case, choice)


def default_inversion(known):
    """The inversion of local fields that background methods are scored with: the default, or the next."""
    return next(name for name, function in known['inversion'].items() if 'total' not in needs(function))


def keep_slice(images, name, chi, truth):
    """Keep an axial and a sagittal slice through the basal ganglia as grey values."""
    where = np.argwhere(truth['dseg'] > 0).mean(0).round().astype(int)
    chi = chi - chi[truth['mask']].mean(dtype=float)
    grey = np.clip((chi / WINDOW + 1) * 127.5, 0, 255) * truth['mask']
    images[name] = grey[:, :, where[2]].astype(np.uint8)
    images[f'{name}|sagittal'] = grey[where[0] - int(0.06 * grey.shape[0])].astype(np.uint8)


def scanned(condition, seed, args):
    """The scan of a head, from the cache where it is kept there."""
    path = args.cache / f'{condition.name}_{args.voxel:g}_{seed}.pickle'.replace(' ', '-')
    if args.keep_scans and path.exists():
        return pickle.loads(path.read_bytes())
    case = scan(condition, seed, cache=args.cache if args.keep_scans or 'chain' in args.parts else None)
    if args.keep_scans:
        path.write_bytes(pickle.dumps(case, protocol=5))
    return case


def parse(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--conditions', nargs='+', help='names, all unless given', metavar='NAME')
    parser.add_argument('--methods', nargs='+', help='only these methods or chains', metavar='NAME')
    parser.add_argument('--everywhere', action='store_true', help='all methods under all conditions')
    parser.add_argument('--voxel', type=float, default=1.0, help='of the base condition (mm)')
    parser.add_argument('--quick', action='store_true', help='the same at 3 mm, one seed')
    parser.add_argument('--seeds', nargs='+', type=int, default=[101, 102, 103, 104, 105])
    parser.add_argument('--method-seeds', type=int, default=2, help='seeds of methods other than the default')
    parser.add_argument('--other-seeds', type=int, default=1, help='seeds of conditions other than base')
    parser.add_argument('--missing', action='store_true', help='skip what is in the results')
    parser.add_argument('--results', type=Path, default=FOLDER)
    parser.add_argument(
        '--cache', type=Path, default=CACHE, help='keep brain masks of the heads here (%(default)s)'
    )
    parser.add_argument('--keep-scans', action='store_true', help='keep the scans there too (.5 GB each)')
    args = parser.parse_args(words)
    if args.quick:
        args.voxel, args.seeds = 3.0, args.seeds[:1]
    known = grid_of_conditions(args.voxel)
    for name in args.conditions or ():
        if name not in known:
            parser.error(f'no condition {name!r}; known are: {", ".join(known)}')
    return args


def main(words=None):
    words = sys.argv[1:] if words is None else words
    if '--end-to-end' in words[:1]:
        endtoend.main(words[1:])
        return
    args = parse(words)
    known = registries()
    conditions = grid_of_conditions(args.voxel)
    table = Table(args.results / 'accuracy.tsv', KEY)
    write_machine(args.results)
    pictures = {picture.format(inversion=first(known['inversion'])) for picture, _ in PICTURED}
    images = {}
    plan = [
        (condition, seed)
        for condition in args.conditions or conditions
        for seed in (args.seeds if condition == 'base' else args.seeds[: args.other_seeds])
    ]
    # a head is made once and scanned under all its conditions
    for condition, seed in sorted(plan, key=lambda p: args.seeds.index(p[1])):
        rows = []
        for part in args.parts:
            several = args.seeds[: 1 if part == 'chain' else args.method_seeds]
            everything = args.everywhere or (condition == 'base' and seed in several)
            for name, choice in methods_of(part, conditions[condition], known, everything).items():
                key = dict(zip(KEY, (part, args.voxel, condition, seed, name), strict=True))
                wanted = not args.methods or name in args.methods
                if wanted and not (args.missing and key in table):
                    rows.append((key, choice))
        if not rows:
            continue
        case = scanned(conditions[condition], seed, args)
        pictured = condition == 'base' and seed == args.seeds[0]
        if pictured:
            keep_slice(images, 'truth', case.truth['chi'] * case.truth['mask'], case.truth)
        for key, choice in rows:
            try:
                chi, scores = run(key['part'], case, key['method'], choice, known)
            except Exception as error:  # one method must not end the benchmark; the table names the error
                traceback.print_exc()
                table.put({**key, 'error': f'{type(error).__name__}: {error}'.split('\n')[0]})
                continue
            table.put({**key, **scores})
            picture = f'{key["part"]}|{key["method"]}'
            if pictured and picture in pictures:
                keep_slice(images, picture, chi, case.truth)
    if 'truth' in images:
        path = args.results / 'slices.npz'
        kept = dict(np.load(path)) if path.exists() else {}
        np.savez_compressed(path, **{**kept, **images})


if __name__ == '__main__':
    main()
