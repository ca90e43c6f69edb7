"""Time, memory and accuracy of plug-ins on simulated heads, by size of the head and of the tiles.

python benchmarks/plugins.py PLUGIN_DIR ... [--seeds 311 312] [--family moved] [--tiles 64 96 128]
                             [--sizes small whole coarse]

The input is the true local field with noise of 0.002 ppm. Tiles are cubes; one too small for the margin of a
plug-in is left out, and the largest is what the others are compared with. CPU time is that of all processes.
"""

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from metrics import centred, nrmse, regional_means

from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import make_head
from bids_qsm.plugins.frame import frame_of
from bids_qsm.plugins.manifest import read_manifest
from bids_qsm.plugins.network import Network, unrolled
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
CLASSICAL = ('tkd', 'tv')
NOISE = 0.002


def scene(family, seed, protocol):
    """Data of an inversion, true susceptibility and labels."""
    head = make_head(seed, spacing=1.0, family=family)
    grid = Grid.from_affine(protocol.shape, protocol.affine)
    part = head.sample(grid.shape, protocol.affine, ('chi', 'brain'))
    mask = part['brain'] > 0.99
    chi = (part['chi'] * mask).astype(np.float32)
    box = Box.around(mask, grid, padding=100.0)
    field = box.uncrop(convolve(box.crop(chi), dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)))
    field = field + NOISE * np.random.default_rng(seed).standard_normal(grid.shape, np.float32)
    data = {'field': np.where(mask, field, 0), 'mask': mask, 'grid': grid, 'field_strength': 3.0}
    data['noise'] = np.full(grid.shape, NOISE, np.float32)
    return data, chi, head.labels(grid.shape, protocol.affine) * mask


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
    found, true = centred(chi, mask, truth, mask)
    means = regional_means(found, true, dseg, mask)
    slope = np.polyfit(means[1], means[0], 1)[0]
    return f'{nrmse(found, true, mask):5.1f} | {slope:4.2f}'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('plugins', nargs='+', type=Path)
    parser.add_argument('--seeds', nargs='+', type=int, default=[311])
    parser.add_argument('--family', default='moved')
    parser.add_argument('--tiles', nargs='+', type=int, default=[80, 112, 160])
    parser.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
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
    for seed in args.seeds:
        for size in args.sizes:
            data, truth, dseg = scene(args.family, seed, SIZES[size])
            mask = data['mask']
            start = f'| {size}, {seed} | {1e-6 * mask.sum():.2f} M'
            for name in CLASSICAL:
                began = time.process_time()
                chi = call(INVERSION[name], data, {})
                took = time.process_time() - began
                print(
                    f'{start} | {name} | | | {took:.0f} | | | {scores(chi, truth, dseg, mask)} |', flush=True
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
                        f'{scores(chi, truth, dseg, mask)} |',
                        flush=True,
                    )


if __name__ == '__main__':
    main()
