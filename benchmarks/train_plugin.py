"""Train two networks on random sources, and write them as plug-ins.

python benchmarks/train_plugin.py unrolled OUT_DIR [--minutes 21] [--seed 0]
python benchmarks/train_plugin.py unet OUT_DIR [--minutes 21] [--seed 0]

'unrolled' is the network inside damped descent on the fidelity, which starts from TV; 'unet' maps the local
field to susceptibility in one step. No head is used: susceptibility is drawn as `train_prior.draw_in` draws
it (sheets, ellipsoids, tubes, textures), in cubes of 32 to 64 voxels, with B0 along the third axis. The loss
is the logarithm of the error over that of TV, so that samples count alike whatever their noise. Networks have
no biases and get the noise of the field: of twice the field with twice the noise they make twice the
susceptibility. It needs PyTorch. Minutes are of one core that multiplies in bfloat16; OUT_DIR.pt has the
weights while it runs.
"""

import argparse
import hashlib
import io
import itertools
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from train_prior import draw_in

from bids_qsm.plugins.network import STARTS
from bids_qsm.recon.fourier import dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import tv
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, typical_noise

SIZES = {32: 4, 48: 2, 64: 1}
"""Voxels along each axis of a sample, and samples of a step."""
POOL = 48
"""Samples of each size that are kept; each third step draws a new one."""
VOXEL = (0.8, 2.3)
"""Voxel size (mm) of samples; of each the axes are alike."""
NOISES = (0.0004, 0.004)
UNTOLD, OUTSIDE = 0.2, 0.2
"""Share of samples whose field has errors that its noise does not tell, and fields from outside."""
ITERATIONS, DAMPING = 2, 0.05
GROWTH = {1: 0.0, ITERATIONS: 0.4}
"""Steps of descent, and the share of training after which there are so many."""
CHI_SD, FIELD_SD, NOISE_SD = 0.05, 0.02, 0.005
"""By which the images are divided (ppm)."""
MOST_NOISE = 0.05
"""Noise (ppm) beyond which networks see no more of it."""
RATE, EARLIER, FAINT = 2e-3, 0.1, 5e-4
"""Rate of learning, weight of the steps before the last, and errors (ppm) below which little is gained."""
HELD = 12
"""Samples on which it is measured."""


class Pyramid(nn.Module):
    """Convolutions on half the resolution and coarser ones, without biases; it begins with zeros.

    ``widths`` are channels of each level.
    """

    def __init__(self, channels, widths):
        super().__init__()
        self.enter = nn.Conv3d(channels, widths[0], 4, stride=2, padding=1, bias=False)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList([convolution(a, b) for a, b in pairs])
        self.up = nn.ModuleList([convolution(b, a) for a, b in pairs])
        self.mix = nn.ModuleList(
            [nn.ModuleList([convolution(a, a), convolution(a, a)]) for a in widths[: len(pairs)]]
        )
        self.leave = nn.ConvTranspose3d(widths[0], 1, 4, stride=2, padding=1, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, images):
        levels = [torch.relu(self.enter(images))]
        for down in self.down:
            levels.append(torch.relu(down(functional.avg_pool3d(levels[-1], 2))))
        found = levels.pop()
        for up, (first, second) in zip(reversed(self.up), reversed(self.mix), strict=True):
            found = levels.pop() + functional.interpolate(torch.relu(up(found)), scale_factor=2.0)
            found = found + torch.relu(second(torch.relu(first(found))))
        return self.leave(found)


def convolution(n_in, n_out):
    return nn.Conv3d(n_in, n_out, 3, padding=1, bias=False)


class UNet(nn.Module):
    """Susceptibility of field and noise."""

    channels, widths, reach, tile = ('field', 'noise'), (32, 32, 32), 40, 192

    def __init__(self):
        super().__init__()
        self.layers = Pyramid(len(self.channels), self.widths)

    def forward(self, images):
        field, noise = images.split(1, 1)
        return self.layers(torch.cat([field, noise.clamp(0, MOST_NOISE / NOISE_SD)], 1))


class Step(nn.Module):
    """A step of descent of a length that is learned, and a correction."""

    channels, widths, reach, tile = ('x', 'gradient', 'noise'), (32, 16), 18, 144

    def __init__(self):
        super().__init__()
        self.length = nn.Parameter(torch.tensor(0.0))
        self.layers = Pyramid(len(self.channels), self.widths)

    def forward(self, images):
        x, gradient, noise = images.split(1, 1)
        step = self.length * gradient
        x = x - step
        # voxels without signal have a noise beyond all that is seen in training
        return x + self.layers(torch.cat([x, 3 * step, noise.clamp(0, MOST_NOISE / NOISE_SD)], 1))


SD = {'x': CHI_SD, 'gradient': CHI_SD, 'field': FIELD_SD, 'noise': NOISE_SD}


def sample(rng, size):
    """Susceptibility (ppm), what TV makes of it, local field, mask, noise and the weight of the fidelity."""
    step = float(np.exp(rng.uniform(*np.log(VOXEL))))
    while True:
        chi, mask, field, noise = draw_in(
            Grid((size,) * 3, (step,) * 3), rng, untold=UNTOLD, outside=OUTSIDE, noises=NOISES
        )
        if mask.any():
            weight = certainty(noise, mask, typical_noise(noise, field, mask))
            start = tv(field, mask, noise, Grid(field.shape), **STARTS['tv'])
            return [image.astype(np.float32) for image in (chi, start, field, mask, noise, weight)]


def batch(rng, pool, count):
    """Samples of the pool, mirrored and turned about B0, which leaves the dipole as it is."""
    parts = []
    for number in rng.integers(len(pool), size=count):
        flip = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 3))
        order = (1, 0, 2) if rng.random() < 0.5 else (0, 1, 2)
        parts.append([image[flip].transpose(order) for image in pool[number]])
    return [torch.from_numpy(np.stack(arrays)[:, None]) for arrays in zip(*parts, strict=True)]


def states(step, start, field, mask, noise, weight, *, iterations=ITERATIONS):
    """Susceptibility (ppm) after each step of the loop of bids_qsm/plugins/network.py.

    The gradient of a loss goes through the physics of all steps, so that each serves the last.
    """
    padded = tuple(n + int(PADDING) for n in field.shape[2:])
    dipole = torch.from_numpy(dipole_kernel(padded, (1, 1, 1), (0, 0, 1)))
    back = dipole / (dipole**2 + DAMPING)
    inner = (..., *(slice(n) for n in field.shape[2:]))

    def through(values, kernel):
        spectrum = kernel * torch.fft.rfftn(values, s=padded, dim=(2, 3, 4))
        return torch.fft.irfftn(spectrum, s=padded, dim=(2, 3, 4))[inner]

    x = start
    for _ in range(iterations):
        gradient = mask * through(weight * (through(x, dipole) - field), back)
        with torch.autocast('cpu', torch.bfloat16):
            images = torch.cat([x / CHI_SD, gradient / CHI_SD, noise / NOISE_SD], 1)
            x = mask * CHI_SD * step(images).float()
        yield x


def found(net, start, field, mask, noise, weight, *, iterations=ITERATIONS):
    """What is compared with the truth: the result of each step, the last one last."""
    if isinstance(net, Step):
        return list(states(net, start, field, mask, noise, weight, iterations=iterations))
    with torch.autocast('cpu', torch.bfloat16):
        return [mask * CHI_SD * net(torch.cat([field / FIELD_SD, noise / NOISE_SD], 1)).float()]


def error(chi_found, chi, mask):
    """Root mean square (ppm) of the error of each sample; the mean of susceptibility is left out."""
    axes = (1, 2, 3, 4)
    count = mask.sum(axes, keepdim=True)
    misfit = (chi_found - chi) * mask
    misfit = misfit - mask * misfit.sum(axes, keepdim=True) / count
    return torch.sqrt((misfit**2).sum(axes) / count.flatten() + FAINT**2)


def ratio(net, chi, *given, **how):
    """Logarithm of the error over that of TV, after each step, of each sample."""
    start, _, mask, *_ = given
    usual = error(start, chi, mask)
    return [torch.log(error(one, chi, mask) / usual) for one in found(net, *given, **how)]


def tensors(one):
    """A sample as a batch."""
    return [torch.from_numpy(image)[None, None] for image in one]


def measured(net, held, count):
    """Errors of samples over those of TV: their geometric mean."""
    with torch.no_grad():
        return np.exp(np.mean([float(ratio(net, *tensors(one), iterations=count)[-1]) for one in held]))


def train(net, seed, minutes, folder):
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    held = [sample(np.random.default_rng([seed, 8, n]), 48) for n in range(HELD)]
    pool = {size: [sample(rng, size) for _ in range(2)] for size in SIZES}
    net.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.Adam(net.parameters(), RATE, betas=(0.9, 0.98))
    began, losses, done = time.process_time(), [], 0.0
    while done < 1:
        done = min((time.process_time() - began) / (60 * minutes), 1.0)
        size = int(rng.choice(list(SIZES)))
        count = max(n for n, since in GROWTH.items() if done >= since)
        if len(losses) % 3 == 0:
            pool[size] = [*pool[size][-POOL + 1 :], sample(rng, size)]
        warm = min(1, len(losses) / 20 + 0.05)
        optimiser.param_groups[0]['lr'] = RATE * warm * (0.51 + 0.49 * np.cos(np.pi * done))
        optimiser.zero_grad()
        *others, last = [
            one.mean() for one in ratio(net, *batch(rng, pool[size], SIZES[size]), iterations=count)
        ]
        loss = last + EARLIER * sum(others) / max(len(others), 1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(last.detach()))
        if len(losses) % 100 == 0 or done == 1:
            print(
                f'{len(losses)} steps, {time.process_time() - began:.0f} s, error over that of TV '
                f'{np.exp(np.mean(losses[-100:])):.3f}, held out {measured(net, held, count):.3f}',
                flush=True,
            )
            torch.save(net.state_dict(), folder.with_suffix('.pt'))
    print(f'{sum(p.numel() for p in net.parameters())} weights')
    return net.eval()


def export(net):
    """The network as ONNX of any size."""
    stream, free = io.BytesIO(), {2: 'x', 3: 'y', 4: 'z'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the new exporter needs one more package
        torch.onnx.export(
            net,
            (torch.zeros(1, len(net.channels), 32, 32, 32),),
            stream,
            input_names=['image'],
            output_names=['chi'],
            dynamic_axes={'image': free, 'chi': free},
            opset_version=18,
            dynamo=False,
        )
    return stream.getvalue()


def write(net, folder):
    """Write the plug-in, with what the network makes of a sample of its own as golden data."""

    def hashed(name, content):
        (folder / name).write_bytes(content)
        return {'file': name, 'sha256': hashlib.sha256(content).hexdigest()}

    def array(name, values):
        stream = io.BytesIO()
        np.save(stream, values)
        return hashed(name, stream.getvalue())

    chi, _, field, _, noise, _ = sample(np.random.default_rng(99), 32)
    # any images will do: the network of the unrolled one sees no physics
    known = {'field': field, 'noise': noise, 'x': chi, 'gradient': field}
    with torch.no_grad():
        given = np.stack([known[name] / np.float32(SD[name]) for name in net.channels])
        golden = CHI_SD * net(torch.from_numpy(given)[None])[0, 0].numpy()
    files = {name: array(f'golden_{name}.npy', known[name]) for name in net.channels}
    kind = 'unrolled' if isinstance(net, Step) else 'unet'
    manifest = {
        'format': 1,
        'name': f'random-sources-{kind}',
        'version': '2.0',
        'licence': 'Apache-2.0',
        'citation': 'Trained by benchmarks/train_plugin.py of bids_qsm on random sources, no paper',
        'step': 'inversion',
        'model': hashed('model.onnx', export(net)),
        'inputs': [
            {
                'tensor': 'image',
                'channels': [
                    {'data': name, 'unit': 'ppm', 'normalise': {'mean': 0, 'sd': SD[name]}}
                    for name in net.channels
                ],
            }
        ],
        'output': {'tensor': 'chi', 'unit': 'ppm', 'scale': {'mean': 0, 'sd': CHI_SD}},
        'axes': 'XYZ',
        'voxel_size': {'policy': 'any'},
        'b0': 'axial',
        'tile': {'size': [net.tile] * 3, 'margin': net.reach, 'blend': 4, 'multiple': 2 ** len(net.widths)},
        'memory': 250,
        'training': {
            'field_strength': [1.5, 7],
            'voxel_size': list(VOXEL),
            'field': [-0.3, 0.3],
            'residual': 0.6,
        },
        'golden': {'data': files, 'output': array('golden_output.npy', golden)},
    }
    if kind == 'unrolled':
        manifest['unrolled'] = {
            'iterations': ITERATIONS,
            'step_size': 1.0,
            'damping': DAMPING,
            'start': 'tv',
            'weights': 'noise',
        }
    (folder / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=('unrolled', 'unet'))
    parser.add_argument('out', type=Path)
    parser.add_argument('--minutes', type=float, default=21.0, help='of the CPU (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='%(default)s')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    net = train(Step() if args.kind == 'unrolled' else UNet(), args.seed, args.minutes, args.out)
    write(net, args.out)


if __name__ == '__main__':
    main()
