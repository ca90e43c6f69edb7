"""Time, memory and accuracy of plug-ins on simulated heads, by size of the head and of the tiles.

python benchmarks/plugins.py PLUGIN_DIR ... [--seeds 311 312] [--families moved bent] [--tiles 80 144]
                             [--sizes small whole coarse spheres noise]

The input is the true local field with noise of 0.002 ppm, of heads or of what shows whether a network invents
structure: spheres in an even brain, and noise alone. Tiles are cubes; one too small for the margin of a
plug-in is left out, and the largest is what the others are compared with. CPU time is that of all processes.
"""

import argparse
import itertools
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from metrics import centred, nrmse, regional_means
from scipy import ndimage

from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head
from bids_qsm.plugins.frame import frame_of
from bids_qsm.plugins.manifest import read_manifest
from bids_qsm.plugins.network import STARTS, Network, unrolled
from bids_qsm.plugins.sandbox import Machine
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call

SIZES = {
    'small': Protocol((1.0, 1.0, 1.0), (96.0, 112.0, 88.0)),
    'whole': Protocol(),
    'coarse': Protocol((1.5, 1.5, 1.5)),
    'oblique': Protocol((1.0, 1.0, 1.0), rotation=(20.0, 0.0, 0.0)),
}
"""Fields of view at 1 mm, a whole head at 1.5 mm, and one whose slices are tilted."""
PLAIN = ('spheres', 'noise')
CLASSICAL = {'tkd': ('tkd', {}), 'tv': ('tv', {}), 'tv, converged': ('tv', STARTS['tv'])}
SPHERES = {
    (-22.0, 8.0): (10.0, 0.1),
    (22.0, 8.0): (10.0, -0.05),
    (0.0, -24.0): (3.0, 0.2),
    (0.0, 26.0): (2.0, 0.05),
}
"""Centre in the middle plane (mm) -> radius (mm) and susceptibility (ppm); the small ones are as lesions."""
NOISE = 0.002


def scene(family, seed, protocol):
    """Data of an inversion, true susceptibility and labels."""
    head = make_head(seed, spacing=1.0, family=family)
    grid = Grid.from_affine(protocol.shape, protocol.affine)
    part = head.sample(grid.shape, protocol.affine, ('chi', 'brain'))
    mask = part['brain'] > 0.99
    chi = (part['chi'] * mask).astype(np.float32)
    return measured(chi, mask, grid, seed), chi, head.labels(grid.shape, protocol.affine) * mask


def plain_scene(seed, protocol, sources):
    """The same of an even brain with ``sources`` as `SPHERES`, which are its labels."""
    grid = Grid.from_affine(protocol.shape, protocol.affine)
    axes = [(np.arange(n) - n // 2) * h for n, h in zip(grid.shape, grid.voxel_size, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing='ij', sparse=True)
    mask = (
        sum((p / (0.47 * n * h)) ** 2 for p, n, h in zip((x, y, z), grid.shape, grid.voxel_size, strict=True))
        < 1
    )
    chi, dseg = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.int16)
    for number, ((a, b), (radius, value)) in enumerate(sources.items(), 1):
        inside = (x - a) ** 2 + (y - b) ** 2 + z**2 < radius**2
        chi[inside], dseg[inside] = value, number
    return measured(chi, mask, grid, seed), chi, dseg


def measured(chi, mask, grid, seed):
    """Data of an inversion: local field with noise."""
    box = Box.around(mask, grid, padding=100.0)
    field = box.uncrop(convolve(box.crop(chi), dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)))
    field = field + NOISE * np.random.default_rng(seed).standard_normal(grid.shape, np.float32)
    data = {'field': np.where(mask, field, 0), 'mask': mask, 'grid': grid, 'field_strength': 3.0}
    data['noise'] = np.full(grid.shape, NOISE, np.float32)
    return data


def cpu():
    """CPU time (s) of this process and of those that ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def run(manifest, data):
    """Susceptibility, CPU time (s), memory that the process of the network held (GB), and tiles."""
    model, began = manifest.read_model(), cpu()
    frame = frame_of(manifest, data['grid'], data['mask'], manifest.tile.margin)
    inside = frame.mask_into(data['mask'])
    network = Network(manifest, model, frame.grid, inside, 3.0, Machine())
    images = {name: frame.into(data[name], data['mask']) for name in ('field', 'noise')}
    found = unrolled(network, images) if manifest.unrolled else network(images)
    chi = frame.out(found * inside, inside, data['mask'])
    return chi, cpu() - began, 1e-9 * network.held, len(network.numbers)


def scores(chi, truth, dseg, mask):
    """NRMSE (%), and the slope of the means of regions."""
    found, true = centred(chi, mask, truth, mask)
    means = regional_means(found, true, dseg, mask)
    slope = np.polyfit(means[1], means[0], 1)[0]
    return f'{nrmse(found, true, mask):5.1f} | {slope:4.2f}'


def plain_scores(chi, truth, dseg, mask):
    """Standard deviation where nothing is (ppb), and the share of the height of each sphere (%)."""
    even = mask & ~ndimage.binary_dilation(dseg > 0, iterations=2)
    level = chi[even].mean(dtype=float)
    shares = [
        100 * (chi[dseg == n].mean(dtype=float) - level) / truth[dseg == n].mean(dtype=float)
        for n in np.unique(dseg[dseg > 0])
    ]
    return f'{1e3 * chi[even].std(dtype=float):.2f} ppb | {", ".join(f"{share:.0f}" for share in shares)}'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('plugins', nargs='+', type=Path)
    parser.add_argument('--seeds', nargs='+', type=int, default=[311])
    parser.add_argument('--families', nargs='+', default=['moved'])
    parser.add_argument('--tiles', nargs='+', type=int, default=[144])
    parser.add_argument('--sizes', nargs='+', choices=(*SIZES, *PLAIN), default=['small'])
    args = parser.parse_args()
    columns = (
        'head',
        'voxels',
        'method',
        'tile',
        'tiles',
        'CPU s',
        'process GB',
        'seams',
        'NRMSE %',
        'slope',
    )
    print(f'| {" | ".join(columns)} |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    for family, seed in itertools.product(args.families, args.seeds):
        for size in args.sizes:
            score = plain_scores if size in PLAIN else scores
            if size in PLAIN:
                data, truth, dseg = plain_scene(seed, SIZES['small'], SPHERES if size == 'spheres' else {})
            else:
                data, truth, dseg = scene(family, seed, SIZES[size])
            mask = data['mask']
            start = f'| {size}, {seed if size in PLAIN else f"{family} {seed}"} | {1e-6 * mask.sum():.2f} M'
            for name, (method, parameters) in CLASSICAL.items():
                began = time.process_time()
                chi = call(INVERSION[method], data, parameters)
                took = time.process_time() - began
                print(
                    f'{start} | {name} | | | {took:.0f} | | | {score(chi, truth, dseg, mask)} |', flush=True
                )
            for folder in args.plugins:
                whole, manifest = None, read_manifest(folder)
                tile = manifest.tile
                for side in sorted(args.tiles, reverse=True):
                    if side % tile.multiple or side < 2 * tile.margin + tile.blend + tile.multiple:
                        continue
                    one = replace(manifest, tile=replace(tile, size=(side,) * 3))
                    chi, took, held, count = run(one, data)
                    whole = chi if whole is None else whole
                    off = np.abs(chi - whole).max() / np.abs(whole).max()
                    print(
                        f'{start} | {manifest.name} | {side} | {count} | {took:.0f} | '
                        f'{held:.2f} | {off:.0e} | '
                        f'{score(chi, truth, dseg, mask)} |',
                        flush=True,
                    )


if __name__ == '__main__':
    main()
