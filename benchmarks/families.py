"""Compare the default chain with others on families of heads and scans that differ in what they assume.

python benchmarks/families.py [--families own "7 T" ...] [--seeds 201 202] [--chains default "lbv + tv" ...]
                              [--voxel 1.5] [--quick]

A chain other than 'default' is named by its background removal and inversion; its other steps are those of
the default. The brain that all are given is the true one, as masks are compared elsewhere. Rows go to
results/families.tsv as they come; --missing skips those that are there.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from chain import Chain
from conditions import Condition, Scan, scan
from metrics import centred, regional_means, score_chi, slow_error
from results import FOLDER, Table, defaults
from scipy import fft, ndimage

from bids_qsm.phantom import tissue
from bids_qsm.phantom.forward import dipole_field, field_of_head
from bids_qsm.phantom.head import make_head
from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

CHAINS = (
    'default',
    'levelled + tv',
    'vsharp + tv',
    'lbv + whnltv',
    'pdf + whnltv',
    'vsharp + whnltv',
)
SEEDS = (201, 202)
"""Of heads on which nothing was chosen."""
KEY = ('family', 'voxel', 'seed', 'chain')
SLOPE = 1e-4
"""Of susceptibility from back to front of white matter (ppm/mm), in the family with such a gradient."""


def random_field(shape, spacing, rng, *, power, longest=60.0):
    """Random field of unit variance, whose amplitude falls with the ``power`` of frequency.

    Wavelengths beyond ``longest`` mm are no stronger. ``spacing`` (mm) is one number, or that of each axis.
    """
    steps = np.broadcast_to(spacing, len(shape))
    axes = np.meshgrid(
        *(fft.fftfreq(n, h) for n, h in zip(shape, steps, strict=True)), indexing='ij', sparse=True
    )
    amplitude = np.maximum(np.sqrt(sum(k**2 for k in axes)), 1 / longest) ** -power
    amplitude[0, 0, 0] = 0
    found = fft.ifftn(fft.fftn(rng.standard_normal(shape)) * amplitude).real
    return (found / found.std()).astype(np.float32)


def independent(volume, put, rng):
    """Susceptibility and R2* vary each on its own, over all lengths."""
    solid = put['brain'] * (1 - put['csf'])
    for name, change in (('chi', 0.012), ('r2star', 0.15 * put['r2star'])):
        put[name] += change * solid * random_field(solid.shape, volume.spacing, rng, power=1.5)


def textured(volume, put, rng):
    """Susceptibility has a strong texture down to the voxel, which R2* does not follow."""
    solid = put['brain'] * (1 - put['csf'])
    coarse = random_field(solid.shape, volume.spacing, rng, power=1.0, longest=40.0)
    fine = random_field(solid.shape, volume.spacing, rng, power=0.0)
    put['chi'] += put['brain'] * (0.018 * coarse + 0.010 * fine)
    put['r2star'] *= 1 + 0.10 * solid * random_field(solid.shape, volume.spacing, rng, power=1.5)


def gradient(volume, put, _):
    """Susceptibility of white matter increases from back to front, and R2* does not."""
    y = volume.points(1)[:, None]
    put['chi'] += (SLOPE * (y - y.mean())).astype(np.float32) * put['white']


@dataclass(frozen=True)
class Family:
    """Heads of one kind under one scan.

    ``anatomy`` is a family of `make_head`; ``condition`` how the scan differs from a base scan, voxel size in
    units of the base's; ``change`` redraws tissue; ``plain``: scanned by `plain_scan`.
    """

    anatomy: str
    condition: dict = field(default_factory=dict)
    change: Callable | None = None
    plain: bool = False


FAMILIES = {
    'own': Family('atlas'),
    'SNR 20': Family('atlas', {'snr': 20.0}),
    '1 x 1 x 3 mm': Family('atlas', {'voxel_size': (2 / 3, 2 / 3, 2)}),
    '7 T': Family('surface', {'field_strength': 7.0, 'echo_times': (0.004, 0.008, 0.012, 0.016, 0.020)}),
    'wide ventricles': Family('wide'),
    'independent R2*': Family('moved', change=independent, plain=True),
    'gradient': Family('bent', change=gradient),
    'textured': Family('surface', change=textured, plain=True),
    '1 echo': Family('bent', {'echo_times': (0.020,)}),
    '1 echo, 7 T': Family(
        'wide', {'echo_times': (0.012,), 'field_strength': 7.0}, change=independent, plain=True
    ),
}


def plain_scan(head, condition, seed):
    """Scan a head by another simulator than `simulate`.

    Each voxel has the tissue of its centre, and its field by the plain dipole kernel; there is no coil, no
    shim, no dephasing within voxels and no k-space. The brain are the voxels that lie wholly in it.
    """
    rng = np.random.default_rng(seed)
    shape, affine = condition.protocol.shape, condition.protocol.affine
    grid = Grid.from_affine(shape, affine)
    part = head.sample(shape, affine, ('chi', 'brain', 'r2star', 'density', 'r1', 'white'))
    mask = part['brain'] > 0.99
    chi = part['chi'] * mask
    double = np.zeros([2 * n for n in shape], np.float32)
    inside = tuple(slice(n) for n in shape)
    double[inside] = chi
    local = convolve(double, dipole_kernel(double.shape, grid.voxel_size, grid.b0_dir))[inside]
    total = field_of_head(head, shape, affine) - dipole_field(chi, grid) + local
    r2star = tissue.scale_r2star(part['r2star'], condition.field_strength)
    times = np.array(condition.echo_times)
    rate = 1j * total / ppm_per_radian(condition.field_strength) - r2star
    signal = (part['density'] * (0.5 + 0.5 * part['r1']))[..., None] * np.exp(rate[..., None] * times)
    sigma = np.abs(signal[..., 0])[part['white'] > 0.9].mean() / condition.snr
    signal += sigma * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    data = {
        'magnitude': np.asfortranarray(500 * np.abs(signal), np.float32),
        'phase': np.asfortranarray(np.angle(signal), np.float32),
        'echo_times': list(condition.echo_times),
        'field_strength': condition.field_strength,
        'grid': grid,
    }
    nowhere = np.zeros(shape, bool)
    truth = {'chi': chi, 'mask': mask, 'local_field': local * mask, 'total_field': total}
    truth |= {'dseg': head.labels(shape, affine) * mask, 'veins': nowhere, 'stone': nowhere}
    return Scan(condition, seed, data, truth, affine)


def scan_of(name, seed, voxel):
    """One head of a family, scanned with voxels of ``voxel`` mm, and its true brain as the brain found."""
    family = FAMILIES[name]
    head = unchanged = make_head(seed, spacing=1.0 if voxel < 3 else 2.0, family=family.anatomy)
    if family.change:
        volume = replace(head.tissue, data=head.tissue.data.copy())
        family.change(volume, tissue.channels(volume.data), np.random.default_rng([seed, 77]))
        head = replace(head, tissue=volume)
    size = tuple(voxel * ratio for ratio in family.condition.get('voxel_size', (1, 1, 1)))
    condition = Condition(name, **{**family.condition, 'voxel_size': size})
    case = plain_scan(head, condition, seed) if family.plain else scan(condition, seed, head=head)
    case.data['brain'] = case.truth['mask']
    if family.change is gradient:
        with_it, without = (
            h.sample(case.grid.shape, case.affine, ('chi', 'white')) for h in (head, unchanged)
        )
        case.truth['gradient'] = with_it['chi'] - without['chi']
        case.truth['white'] = with_it['white'] > 0.9
    return case


def score(chi, mask, truth, voxel_size):
    """Scores of a map: NRMSE and HFEN (%), slow error and error of nuclei (ppb), slope; gradient kept (%)."""
    scores = score_chi(chi, mask, truth, voxel_size)
    found, true = centred(chi, mask, truth['chi'], truth['mask'])
    both = mask & truth['mask']
    means = regional_means(found, true, truth['dseg'], both)
    kept = np.nan
    if 'gradient' in truth:
        deep = ndimage.distance_transform_edt(truth['mask'], sampling=voxel_size) > 6
        where = both & deep & truth['white']
        rest = found - true + truth['gradient']
        kept = 100 * np.polyfit(truth['gradient'][where].astype(float), rest[where], 1)[0]
    return {
        'nrmse': scores['nrmse'],
        'slow_ppb': 1e3 * slow_error(found, true, truth['mask'], voxel_size),
        'hfen': scores['hfen'],
        'nuclei_ppb': 1e3 * float(np.sqrt(np.mean((means[1] - means[0]) ** 2))),
        'slope': scores['slope'],
        'kept': kept,
    }


def measure(case, names):
    """Rows of scores of the chains ``names``, which share the steps that they have in common."""
    first = Chain(case.data)
    steps = [step for step in first.steps if step not in ('reference', 'swi')]
    first.run(steps[: steps.index('background')])
    usual = tuple(defaults()[step] for step in ('background', 'inversion'))
    known = {}
    for name in names:
        background, inversion = usual if name == 'default' else name.split(' + ')
        if background not in known:
            known[background] = first.branch({'background': background}).run(['background'])
        chain = known[background].branch({'inversion': inversion})
        chain.run([step for step in steps if step not in chain.seconds])
        yield {'chain': name, **score(chain.data['chi'], chain.chi_mask, case.truth, case.grid.voxel_size)}


def main(words=None):
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--chains', nargs='+', default=CHAINS, help='"default", or "BACKGROUND + INVERSION"')
    parser.add_argument('--voxel', type=float, default=1.5, help='mm')
    parser.add_argument('--quick', action='store_true', help='one seed, voxels of 3 mm')
    parser.add_argument('--missing', action='store_true', help='only what has not been measured')
    parser.add_argument('--results', type=Path, default=FOLDER)
    arguments = parser.parse_args(words)
    voxel = 3.0 if arguments.quick else arguments.voxel
    table = Table(arguments.results / 'families.tsv', KEY)
    for seed in arguments.seeds[:1] if arguments.quick else arguments.seeds:
        for name in arguments.families:
            row = {'family': name, 'voxel': voxel, 'seed': seed}
            chains = [c for c in arguments.chains if not (arguments.missing and {**row, 'chain': c} in table)]
            for found in measure(scan_of(name, seed, voxel), chains) if chains else ():
                table.put({**row, **found})


if __name__ == '__main__':
    main()
