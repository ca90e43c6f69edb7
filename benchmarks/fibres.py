"""Susceptibility without what fibres add to the field, in heads whose bundles cross.

The anisotropy of a voxel is that of its bundles, and differs from place to place. Diffusion images of 30
directions show it: signals of bundles add up, with noise, on another grid, misaligned by .5 mm and .5
degrees. The correction gets the tensor that is fitted to them, or its anisotropy and first direction
alone. Run ``python benchmarks/fibres.py [--frames]``.
"""

import argparse
import time

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.diffusion import Gradients, fit_tensor
from bids_qsm.anatomy.fibres import carry, fibres_in_scanner, fibres_of
from bids_qsm.biomarkers.fibre_chi import better_axes, tensor_on, without_fibres
from bids_qsm.phantom.bundles import ACROSS, ALONG
from bids_qsm.phantom.diffusion import DiffusionProtocol, diffusion_images, shares_of
from bids_qsm.phantom.forward import dipole_field, moment_field
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head, rigid
from bids_qsm.phantom.sources import Relaxivity, add_sources
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.orientations.fibres import FibreModel, turns
from bids_qsm.recon.orientations.operators import COMPONENTS
from bids_qsm.recon.orientations.tensor import turned
from bids_qsm.recon.registry import call

FAMILIES = ('atlas', 'moved', 'wide', 'bent', 'surface')
SEEDS = 951, 952, 953, 954, 955
NOISE = 0.0015
"""Of the field (ppm)."""
REST = 0.002
"""Standard deviation (ppm) of what background removal leaves."""


def case(seed, family, voxel, *, anisotropy, microstructure):
    """What the correction gets, and the truth."""
    rng = np.random.default_rng([seed, 31])
    turn = rng.uniform(-15, 15, 3)
    head = make_head(seed, spacing=max(1.0, min(2.0, voxel)), family=family).moved(turn, (0, 0, 0))
    head = add_sources(head, Relaxivity(), seed, with_fibres=True)
    scan = Protocol((voxel,) * 3, fov=(192.0, 216.0, 168.0), rotation=tuple(rng.uniform(-8, 8, 3)))
    shape, affine = scan.shape, scan.affine
    grid = Grid.from_affine(shape, affine)
    tissue = head.head.sample(shape, affine, ('chi', 'brain', 'white', 'density', 'r2star'))
    mask = ndimage.binary_erosion(tissue['brain'] > 0.5, iterations=max(round(2 / voxel), 1))
    chi = np.where(tissue['brain'] > 0.5, tissue['chi'], 0).astype(np.float32)
    dyads, white = head.dyads(shape, affine)
    axes = affine[:3, :3] / voxel
    b0 = np.array([0, 0, 1.0])
    along = np.zeros((*shape, 3), np.float32)  # v (v.b), along the axes of the scanner
    for one, (i, j) in zip(dyads, COMPONENTS, strict=True):
        along[..., i] += one * b0[j]
        if i != j:
            along[..., j] += one * b0[i]
    square = along @ b0.astype(np.float32)
    place = 1 + 0.25 * _smooth(shape, 20 / voxel, rng), 1 + 0.25 * _smooth(shape, 20 / voxel, rng)
    moments = (along - white[..., None] * (b0 / 3).astype(np.float32)) @ axes.astype(np.float32)
    field = dipole_field(chi, grid)
    plain = field.copy()
    field += moment_field(anisotropy * place[0][..., None] * moments, grid)
    field += microstructure * place[1] * (white - square)
    edge = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask, iterations=2)
    outside = dipole_field(np.where(edge, _smooth(shape, 4 / voxel, rng), 0).astype(np.float32), grid)
    rest = REST / outside[mask].std() * outside + NOISE * rng.standard_normal(shape).astype(np.float32)
    wrong = rigid((0.3, -0.3, 0.3), (0.3, -0.3, 0.3))
    return {
        'grid': grid,
        'affine': affine,
        'mask': mask,
        'chi': chi,
        'field': ((field + rest) * mask).astype(np.float32),
        'plain': ((plain + rest) * mask).astype(np.float32),
        'fibres': {
            name: carry(fibres, fa, place, shape, affine, [wrong])
            for name, (fibres, fa, place) in measured(head, seed).items()
        },
        'white': mask & (white > 0.7),
        'labels': head.head.labels(shape, affine),
        'magnitude': tissue['density'],
        'r2star': tissue['r2star'],
    }


def measured(head, seed):
    """What a fit of diffusion images gives, in axes of the scanner: all of the tensor, or FA and V1."""
    protocol = DiffusionProtocol(directions=30)
    each = head.dyads_of_each(protocol.grid.shape, protocol.grid.affine)
    shares = [np.maximum(one[[0, 3, 5]].sum(0), 0) for one in each]
    tensors = [(ALONG - ACROSS) * one / np.maximum(w, 1e-6) for one, w in zip(each, shares, strict=True)]
    for one in tensors:
        one[[0, 3, 5]] += ACROSS
    bundles = list(zip(shares, tensors, strict=True))
    scan = diffusion_images(bundles, shares_of(head.head, sum(shares), protocol), protocol, seed)
    mask = head.head.sample(protocol.grid.shape, protocol.grid.affine, ('brain',))['brain'] > 0.3
    fa, tensor = np.zeros(mask.shape, np.float32), np.zeros((*mask.shape, 6), np.float32)
    fa[mask], tensor[mask] = fit_tensor(scan.images[mask], Gradients(scan.bvals, scan.bvecs))
    whole = fibres_of(tensor, fa, 'tensor')
    first = fibres_of(whole.vectors, fa, 'first direction')
    return {
        name: (fibres_in_scanner(one, scan.affine, 'fsl'), fa, scan.affine)
        for name, one in (('V1', first), ('tensor', whole))
    }


def _smooth(shape, sigma, rng):
    one = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma)
    return one / one.std()


def row_of(data, method):
    """Errors before and after, of white matter and of nuclei."""
    mask, grid = data['mask'], data['grid']
    noise = np.where(mask, NOISE, 0).astype(np.float32)
    more = {
        'mask': mask,
        'noise': noise,
        'magnitude': data['magnitude'],
        'r2star': data['r2star'],
        'grid': grid,
        'radians_per_ppm': 2 * np.pi * 42.577 * 3 * 0.02,
    }

    def invert(field):
        return call(INVERSION[method], {**more, 'field': field.astype(np.float32)}, {})

    def level(chi):
        return (chi - chi[mask].mean()) * mask

    before = invert(data['field'])
    maps = {'before': level(before), 'no fibres': level(invert(data['plain']))}
    for name, fibres in data['fibres'].items():
        start = time.process_time()
        tensor, share = tensor_on(fibres, mask, data['affine'], grid)
        fit = FibreModel(data['field'], noise, mask, share, grid).fit(tensor)
        fitted = time.process_time() - start
        found = without_fibres(before, data['field'], mask, tensor, share, fit, None, grid, invert=invert)
        maps[name] = level(found.chi)
    truth, white = level(data['chi']), data['white']
    row = {
        'anisotropy': fit.values[0],
        'sd': fit.sd[0],
        'microstructure': fit.values[1],
        'sd ': fit.sd[1],
        'evidence': fit.evidence,
        'fit, CPU s': fitted,
    }
    for name, chi in maps.items():
        error = (chi - truth)[white]
        row[f'white {name}, ppb'] = 1e3 * error.std()
    regions = [data['labels'] == n for n in np.unique(data['labels'][data['labels'] > 0])]
    regions = [one & mask for one in regions if (one & mask).sum() > 10]
    for name, chi in maps.items():
        errors = [1e3 * (chi - truth)[one].mean() for one in regions]
        row[f'nuclei {name}, ppb'] = float(np.mean(np.abs(errors)))
    return row


def frames_of(data, rng, count=20):
    """How many of some wrong frames are found, and whether the right one is refused."""
    mask, grid = data['mask'], data['grid']
    tensor, share = tensor_on(data['fibres']['tensor'], mask, data['affine'], grid)
    noise = np.where(mask, NOISE, 0).astype(np.float32)
    model = FibreModel(data['field'], noise, mask, share, grid)
    ways = list(turns())[:23]
    ways = [ways[n] for n in rng.choice(len(ways), count - 5, replace=False)]
    ways += [rigid(rng.choice([-1, 1], 3) * rng.uniform(8, 14, 3))[:3, :3] for _ in range(5)]
    found = 0
    for way in ways:
        wrong = turned(tensor, np.asarray(way, np.float32))
        found += better_axes(model, wrong, model.fit(wrong), np.eye(3)) is not None
    right = better_axes(model, tensor, model.fit(tensor), np.eye(3))
    return {'wrong found': f'{found} of {len(ways)}', 'right refused': right is not None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[951, 952, 953, 954, 955], help='one a family'
    )
    parser.add_argument('--voxel', type=float, default=2.0, help='mm')
    parser.add_argument('--method', default='whnltv')
    parser.add_argument('--frames', action='store_true', help='also try wrong frames')
    asked = parser.parse_args()
    rows = []
    for n, seed in enumerate(asked.seeds):
        draw = np.random.default_rng([seed, 32])
        true = {'anisotropy': draw.uniform(0.010, 0.022), 'microstructure': -draw.uniform(0.0, 0.02)}
        family = FAMILIES[n % len(FAMILIES)]
        data = case(seed, family, asked.voxel, **true)
        row = {'family': family, 'seed': seed, 'true a': true['anisotropy'], 'true m': true['microstructure']}
        row |= row_of(data, asked.method)
        if asked.frames:
            row |= frames_of(data, draw)
        rows.append(row)
        print(pd.DataFrame([row]).T.to_string(header=False, float_format='{:.4g}'.format), flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format='{:.4g}'.format))


if __name__ == '__main__':
    main()
