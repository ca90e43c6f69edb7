"""Train two small networks on random sources, and write them as plug-ins.

python benchmarks/train_plugin.py unet OUT_DIR [--minutes 8] [--seed 0]
python benchmarks/train_plugin.py unrolled OUT_DIR [--minutes 8] [--seed 0]

'unet' maps the local field to susceptibility, 'unrolled' is the network inside gradient descent on the
fidelity. No head is used: sources are ellipsoids, boxes, tubes and smooth fields inside a random brain. It
needs PyTorch.
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

SIZE = 32
"""Voxels (1 mm) along each axis of a sample, and of the part of it that is seen."""
POOL = 24
ITERATIONS, STEP = 5, 1.5
FIELD_SD, CHI_SD = 0.02, 0.05


class UNet(nn.Module):
    """Two levels of pooling; 23,000 weights."""

    def __init__(self, width=6):
        super().__init__()
        self.down = nn.ModuleList([block(2, width), block(width, 2 * width), block(2 * width, 2 * width)])
        self.up = nn.ModuleList([block(4 * width, width), block(2 * width, width)])
        self.last = nn.Conv3d(width, 1, 1)

    def forward(self, x):
        a = self.down[0](x)
        b = self.down[1](functional.max_pool3d(a, 2))
        c = self.down[2](functional.max_pool3d(b, 2))
        b = self.up[0](torch.cat([b, functional.interpolate(c, scale_factor=2.0)], 1))
        return self.last(self.up[1](torch.cat([a, functional.interpolate(b, scale_factor=2.0)], 1)))


class Step(nn.Module):
    """What follows each step of descent: a correction of three convolutions; 5,000 weights."""

    def __init__(self, width=12):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(2, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, 1, 3, padding=1),
        )

    def forward(self, x):
        return x[:, :1] + self.layers(x)


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
    chi = np.where(mask, chi - chi[mask].mean() if mask.any() else chi, 0)
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


def states(step, field, mask):
    """Susceptibility after each step of the loop of bids_qsm/plugins/network.py; ``field`` in ppm.

    Each is made of the one before it without its gradient: every step is trained on what it is given.
    """
    padded = (2 * SIZE,) * 3
    kernel = torch.from_numpy(dipole_kernel(padded, (1, 1, 1), (0, 0, 1)))

    def through(values):
        spectrum = kernel * torch.fft.rfftn(values, s=padded, dim=(2, 3, 4))
        return torch.fft.irfftn(spectrum, s=padded, dim=(2, 3, 4))[..., :SIZE, :SIZE, :SIZE]

    x = torch.zeros_like(field)
    for _ in range(ITERATIONS):
        with torch.no_grad():
            x = x - STEP * mask * through(mask * (through(x) - field))
        x = mask * CHI_SD * step(torch.cat([x / CHI_SD, mask], 1))
        yield x
        x = x.detach()


def found(kind, net, field, mask):
    """What is compared with the truth: the result, or that of each step."""
    if kind == 'unrolled':
        yield from states(net, field, mask)
    else:
        yield mask * CHI_SD * net(torch.cat([field / FIELD_SD, mask], 1))


def train(kind, seed, minutes):
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    pool = [sample(rng) for _ in range(POOL)]
    net = UNet() if kind == 'unet' else Step()
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    began, losses, rate = time.process_time(), [], 0.0
    while rate < 1:
        rate = min((time.process_time() - began) / (60 * minutes), 1.0)
        pool[len(losses) % POOL] = sample(rng) if len(losses) % 3 == 0 else pool[len(losses) % POOL]
        optimiser.param_groups[0]['lr'] = 4e-3 * (1 - rate) + 1e-5
        chi, field, mask = batch(rng, pool, 1)
        optimiser.zero_grad()
        for chi_found in found(kind, net, field, mask):
            # the mean of susceptibility has no field
            error = (chi_found - chi) * mask
            count = mask.sum((2, 3, 4), keepdim=True).clamp(min=1)
            error = error - mask * error.sum((2, 3, 4), keepdim=True) / count
            loss = (error**2).sum() / ((chi**2).sum() + 1e-6)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()) ** 0.5)
        if len(losses) % 20 == 0:
            print(
                f'{len(losses)} steps, NRMSE of the last twenty {100 * np.mean(losses[-20:]):.1f} %',
                flush=True,
            )
    count = sum(p.numel() for p in net.parameters())
    print(f'{kind}: {count} weights, {len(losses)} steps, NRMSE {100 * np.mean(losses[-100:]):.1f} %')
    return net.eval()


def export(net, channels):
    """The network as ONNX of any size."""
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

    first = 'field' if kind == 'unet' else 'x'
    chi, field, mask = sample(np.random.default_rng(99))
    image = field if kind == 'unet' else chi
    sd = FIELD_SD if kind == 'unet' else CHI_SD
    with torch.no_grad():
        given = torch.from_numpy(np.stack([image / sd, mask]).astype(np.float32))[None]
        golden = CHI_SD * net(given)[0, 0].numpy()
    reach, multiple = (28, 4) if kind == 'unet' else (3, 1)
    manifest = {
        'format': 1,
        'name': f'random-sources-{kind}',
        'version': '1.0',
        'licence': 'Apache-2.0',
        'citation': 'Trained by benchmarks/train_plugin.py of bids_qsm on random sources, no paper',
        'step': 'inversion',
        'model': hashed('model.onnx', export(net, 2)),
        'inputs': [
            {
                'tensor': 'image',
                'channels': [
                    {'data': first, 'unit': 'ppm', 'normalise': {'mean': 0, 'sd': sd}},
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
        'golden': {'data': {first: array('golden_image.npy', image), 'mask': array('golden_mask.npy', mask)}},
    }
    manifest['golden']['output'] = array('golden_output.npy', golden)
    if kind == 'unrolled':
        manifest['unrolled'] = {'iterations': ITERATIONS, 'step_size': STEP}
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
