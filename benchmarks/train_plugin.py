"""Train two small networks on random sources, and write them as plug-ins.

python benchmarks/train_plugin.py unet OUT_DIR [--minutes 8] [--seed 0]
python benchmarks/train_plugin.py unrolled OUT_DIR [--minutes 8] [--seed 0]

'unet' maps the local field to susceptibility, 'unrolled' is the network inside gradient descent on the
fidelity, which starts from TKD. No head is used: sources are ellipsoids, boxes, tubes and smooth fields
inside a random brain. It needs PyTorch.
"""

import argparse
import hashlib
import io
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.direct import tkd

SIZE = 32
"""Voxels (1 mm) along each axis of a sample."""
POOL, BATCH = 24, 2
"""Samples that are kept, and those of a step: PyTorch convolves one alone several times slower."""
ITERATIONS, FIRST_LENGTH = 4, 2.0
FIELD_SD, CHI_SD = 0.02, 0.05
RATE, EARLIER, FAINT = 3e-3, 0.2, 0.005
"""Rate of learning, weight of the steps before the last, and susceptibility (ppm) below which errors count
less."""


class UNet(nn.Module):
    """Two levels of pooling; its last layer begins with zeros."""

    def __init__(self, width=16):
        super().__init__()
        self.down = nn.ModuleList([block(2, width), block(width, 2 * width), block(2 * width, 2 * width)])
        self.up = nn.ModuleList([block(4 * width, width), block(2 * width, width)])
        self.last = zeros(nn.Conv3d(width, 1, 1))

    def forward(self, x):
        a = self.down[0](x)
        b = self.down[1](functional.max_pool3d(a, 2))
        c = self.down[2](functional.max_pool3d(b, 2))
        b = self.up[0](torch.cat([b, functional.interpolate(c, scale_factor=2.0)], 1))
        return self.last(self.up[1](torch.cat([a, functional.interpolate(b, scale_factor=2.0)], 1)))


class Step(nn.Module):
    """A step of descent of a length that is learned, and a correction that begins with zeros.

    Channels are susceptibility and the gradient (both divided by CHI_SD), and the mask.
    """

    def __init__(self, width=16):
        super().__init__()
        self.length = nn.Parameter(torch.tensor(FIRST_LENGTH))
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.ReLU(),
            zeros(nn.Conv3d(width, 1, 1)),
        )

    def forward(self, given):
        step = self.length * given[:, 1:2]
        x = given[:, :1] - step
        return x + self.layers(torch.cat([x, step, given[:, 2:]], 1))


def zeros(layer):
    """A layer that gives 0 until it has learned something: training begins at plain descent."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def block(n_in, n_out):
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.Conv3d(n_out, n_out, 3, padding=1), nn.ReLU()
    )


def sample(rng):
    """Susceptibility (ppm), its local field with noise, and the mask, each (SIZE, SIZE, SIZE)."""
    shape = (SIZE,) * 3
    x, y, z = (axis - SIZE / 2 for axis in np.indices(shape).astype(np.float32))
    chi = np.zeros(shape, np.float32)
    for width, spread in ((6.0, 0.02), (2.0, 0.01), (0.8, 0.01)):
        texture = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode='wrap')
        chi += spread * rng.uniform(0.2, 1.5) * (texture / texture.std()).astype(np.float32)
    for _ in range(rng.integers(4, 14)):
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        centre, radii = rng.uniform(-14, 14, 3), rng.uniform(1.2, 8, 3)
        if rng.random() < 0.3:  # a vessel
            radii = np.array([rng.uniform(0.6, 1.5), rng.uniform(0.6, 1.5), rng.uniform(8, 40)])
        u, v, w = (np.tensordot(row, [x - centre[0], y - centre[1], z - centre[2]], 1) for row in rotation)
        if rng.random() < 0.25:
            inside = np.maximum.reduce([abs(u) / radii[0], abs(v) / radii[1], abs(w) / radii[2]])
        else:
            inside = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2)
        share = np.clip((1 - inside) * radii.min() + 0.5, 0, 1)
        chi += share.astype(np.float32) * rng.choice(
            [rng.normal(0, 0.06), rng.uniform(0, 0.2), rng.uniform(0, 0.4)]
        )
    # a brain larger than the sample, so that it sees rims of all directions
    ball = np.sqrt(sum((p - c) ** 2 for p, c in zip((x, y, z), rng.uniform(-12, 12, 3), strict=True)))
    rough = 3 * ndimage.gaussian_filter(rng.standard_normal(shape), 4).astype(np.float32) * 30
    mask = ball + rough < rng.uniform(16, 34)
    level = rng.normal(0, 0.02)  # the mask itself is a source
    chi = np.where(mask, chi - chi[mask].mean() + level if mask.any() else chi, 0)
    wide = np.pad(chi, SIZE // 2)
    kernel = dipole_kernel(wide.shape, (1, 1, 1), (0, 0, 1))
    middle = (slice(SIZE // 2, -(SIZE // 2)),) * 3
    field = convolve(wide, kernel)[middle]
    noise = 10 ** rng.uniform(-3.3, -2.0)
    field = np.where(mask, field + noise * rng.standard_normal(shape), 0)
    return chi.astype(np.float32), field.astype(np.float32), mask


def batch(rng, pool, count):
    """Samples of the pool, mirrored and turned about B0, which leaves the dipole as it is."""
    parts = []
    for number in rng.integers(len(pool), size=count):
        flip = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 3))
        order = (1, 0, 2) if rng.random() < 0.5 else (0, 1, 2)
        parts.append([image[flip].transpose(order) for image in pool[number]])
    return [
        torch.from_numpy(np.stack(arrays).astype(np.float32)[:, None]) for arrays in zip(*parts, strict=True)
    ]


def states(step, field, mask, start):
    """Susceptibility after each step of the loop of bids_qsm/plugins/network.py; all in ppm.

    The gradient of a loss goes through the physics of all steps, so that each serves the last.
    """
    padded = tuple(2 * n for n in field.shape[2:])
    kernel = torch.from_numpy(dipole_kernel(padded, (1, 1, 1), (0, 0, 1)))
    inner = (..., *(slice(n) for n in field.shape[2:]))

    def through(values):
        spectrum = kernel * torch.fft.rfftn(values, s=padded, dim=(2, 3, 4))
        return torch.fft.irfftn(spectrum, s=padded, dim=(2, 3, 4))[inner]

    x = start
    for _ in range(ITERATIONS):
        gradient = mask * through(mask * (through(x) - field))
        x = mask * CHI_SD * step(torch.cat([x / CHI_SD, gradient / CHI_SD, mask], 1))
        yield x


def found(kind, net, field, mask, start):
    """What is compared with the truth: the result of each step, the last one last."""
    if kind == 'unrolled':
        return list(states(net, field, mask, start))
    return [mask * CHI_SD * net(torch.cat([field / FIELD_SD, mask], 1))]


def error(chi_found, chi, mask):
    """Squared error relative to the truth, of each sample; the mean of susceptibility is left out."""
    count = mask.sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
    misfit = (chi_found - chi) * mask
    misfit = misfit - mask * misfit.sum((1, 2, 3, 4), keepdim=True) / count
    true = mask * (chi - (chi * mask).sum((1, 2, 3, 4), keepdim=True) / count)
    scale = (true**2).sum((1, 2, 3, 4)) + FAINT**2 * count.flatten()
    return (misfit**2).sum((1, 2, 3, 4)) / scale


def with_start(kind, images):
    """A sample with the map that the unrolled network starts from."""
    chi, field, mask = images
    start = tkd(field, mask, Grid(field.shape)) if kind == 'unrolled' else np.zeros_like(field)
    return chi, field, mask, start.astype(np.float32)


def train(kind, seed, minutes):
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    pool = [with_start(kind, sample(rng)) for _ in range(POOL)]
    net = UNet() if kind == 'unet' else Step()
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    began, losses, rate = time.process_time(), [], 0.0
    while rate < 1:
        rate = min((time.process_time() - began) / (60 * minutes), 1.0)
        if len(losses) % 3 == 0:
            pool[len(losses) // 3 % POOL] = with_start(kind, sample(rng))
        optimiser.param_groups[0]['lr'] = RATE * (1 - rate) + 1e-5
        chi, *given = batch(rng, pool, BATCH)
        optimiser.zero_grad()
        *others, last = [error(one, chi, given[1]).mean() for one in found(kind, net, *given)]
        loss = last + EARLIER * sum(others) / max(len(others), 1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(last.detach()) ** 0.5)
        if len(losses) % 25 == 0:
            print(
                f'{len(losses)} steps, {time.process_time() - began:.0f} s, NRMSE of the last 25 '
                f'{100 * np.mean(losses[-25:]):.1f} %',
                flush=True,
            )
    count = sum(p.numel() for p in net.parameters())
    print(f'{kind}: {count} weights, {len(losses)} steps, NRMSE {100 * np.mean(losses[-50:]):.1f} %')
    return net.eval()


def export(net, channels):
    """The network as ONNX of any size, of ``channels`` that go in."""
    stream, free = io.BytesIO(), {2: 'x', 3: 'y', 4: 'z'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the new exporter needs one more package
        torch.onnx.export(
            net,
            (torch.zeros(1, channels, 32, 32, 32),),
            stream,
            input_names=['image'],
            output_names=['chi'],
            dynamic_axes={'image': free, 'chi': free},
            opset_version=18,
            dynamo=False,
        )
    return stream.getvalue()


def write(kind, net, folder, memory):
    """Write the plug-in, with what the network makes of a sample of its own as golden data."""
    folder.mkdir(parents=True, exist_ok=True)

    def hashed(name, content):
        (folder / name).write_bytes(content)
        return {'file': name, 'sha256': hashlib.sha256(content).hexdigest()}

    def array(name, values):
        stream = io.BytesIO()
        np.save(stream, values.astype(np.float32))
        return hashed(name, stream.getvalue())

    chi, field, mask = sample(np.random.default_rng(99))
    # any images will do: the network of the unrolled one sees no physics
    images = {'field': field} if kind == 'unet' else {'x': chi, 'gradient': field}
    sd = FIELD_SD if kind == 'unet' else CHI_SD
    with torch.no_grad():
        given = np.stack([*(image / sd for image in images.values()), mask]).astype(np.float32)
        golden = CHI_SD * net(torch.from_numpy(given)[None])[0, 0].numpy()
    reach, multiple = (28, 4) if kind == 'unet' else (2, 1)
    manifest = {
        'format': 1,
        'name': f'random-sources-{kind}',
        'version': '1.0',
        'licence': 'Apache-2.0',
        'citation': 'Trained by benchmarks/train_plugin.py of bids_qsm on random sources, no paper',
        'step': 'inversion',
        'model': hashed('model.onnx', export(net, len(given))),
        'inputs': [
            {
                'tensor': 'image',
                'channels': [
                    *({'data': name, 'unit': 'ppm', 'normalise': {'mean': 0, 'sd': sd}} for name in images),
                    {'data': 'mask'},
                ],
            }
        ],
        'output': {'tensor': 'chi', 'unit': 'ppm', 'scale': {'mean': 0, 'sd': CHI_SD}},
        'axes': 'XYZ',
        'voxel_size': {'policy': 'resample', 'mm': [1, 1, 1]},
        'b0': 'axial',
        'tile': {'size': [96, 96, 96], 'margin': reach, 'blend': 4, 'multiple': multiple},
        'memory': memory,
        'training': {
            'field_strength': [1.5, 7],
            'voxel_size': [0.9, 1.1],
            'field': [-0.3, 0.3],
            'residual': 0.6,
        },
        'golden': {
            'data': {
                name: array(f'golden_{name}.npy', image) for name, image in {**images, 'mask': mask}.items()
            }
        },
    }
    manifest['golden']['output'] = array('golden_output.npy', golden)
    if kind == 'unrolled':
        manifest['unrolled'] = {'iterations': ITERATIONS, 'step_size': FIRST_LENGTH, 'start': 'tkd'}
    (folder / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=('unet', 'unrolled'))
    parser.add_argument('out', type=Path)
    parser.add_argument('--minutes', type=float, default=8.0, help='of the CPU (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='%(default)s')
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = train(args.kind, args.seed, args.minutes)
    write(args.kind, net, args.out, 600)


if __name__ == '__main__':
    main()
