"""Train the network that weights total variation in the inversion `learned`, on drawn susceptibility.

python benchmarks/train_prior.py OUT [--steps 360] [--heads 120] [--seed 0]

OUT is learned_weights.npz of bids_qsm.data. Susceptibility is drawn in boxes of 26 voxels: sheets and islands
(level sets of random fields), ellipsoids, tubes, textures and slow changes, of random contrast, voxel size
and shape and direction of B0. No head of bids_qsm.phantom is seen. The field gets noise, errors that its
noise map does not tell (up to six times the noise) and what sources outside leave. Training reduces the error
after some iterations with the weights of the network, over that with the weights of `whnltv`, by Adam through
the iteration, which starts from the converged state of `whnltv`. It needs PyTorch, and about three minutes of
one core.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from families import random_field
from scipy import ndimage
from torch import fft, nn

from bids_qsm.recon.fourier import convolve, dipole_kernel, gradient_energy
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import harmonic
from bids_qsm.recon.inversion.fidelity import RELAX
from bids_qsm.recon.inversion.learned import FEATURES, LARGEST, features
from bids_qsm.recon.inversion.splitting import DATA_PENALTY
from bids_qsm.recon.solvers import total_variation

SIZE = 26
FINE = 2
HELD = 10
HIDDEN = 24
ITERATIONS = 14


def draw_chi(shape, voxel_size, rng):
    """Susceptibility (ppm) in voxels."""
    fine = tuple(n * FINE for n in shape)
    step = np.array(voxel_size) / FINE
    axes = [((np.arange(n) + 0.5) * h).astype(np.float32) for n, h in zip(fine, step, strict=True)]
    chi = np.zeros(fine, np.float32)
    for _ in range(rng.integers(0, 4)):
        level = random_field(fine, step, rng, power=rng.uniform(2, 3.5), longest=rng.uniform(8, 40))
        sheet, middle, width = rng.random() < 0.5, 0.7 * rng.normal(), rng.uniform(0.05, 0.6)
        chi += np.float32(0.03 * rng.normal()) * (abs(level - middle) < width if sheet else level > middle)
    for _ in range(rng.integers(0, 18)):
        add_ellipsoid(chi, axes, rng)
    texture = random_field(fine, step, rng, power=rng.uniform(0.3, 2.2), longest=rng.uniform(8, 60))
    chi += np.float32(rng.choice([0, 0.002, 0.005, 0.01, 0.02]) * rng.uniform(0.5, 1.5)) * texture
    chi += np.float32(rng.uniform(0, 0.015)) * random_field(fine, step, rng, power=3.0, longest=60.0)
    chi = chi.reshape([k for n in shape for k in (n, FINE)]).mean((1, 3, 5))
    veins = draw_tubes(shape, np.array(voxel_size), rng)
    return np.clip(chi * (1 - veins) + veins * rng.uniform(0.15, 0.5), -0.6, 1).astype(np.float32)


def add_ellipsoid(chi, axes, rng):
    """Add or paste one ellipsoid, even or peaked."""
    radii = np.clip(np.exp(rng.uniform(np.log(1.2), np.log(14)) + 0.4 * rng.standard_normal(3)), 0.8, 25)
    centre = [rng.uniform(0, a[-1]) for a in axes]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    reach = radii.max()
    box = tuple(slice(*np.searchsorted(a, [c - reach, c + reach])) for a, c in zip(axes, centre, strict=True))
    points = np.meshgrid(
        *(a[s] - np.float32(c) for a, s, c in zip(axes, box, centre, strict=True)), indexing='ij', sparse=True
    )
    square = sum(
        (sum(t * p for t, p in zip(row, points, strict=True)) / np.float32(r)) ** 2
        for row, r in zip(turn, radii, strict=True)
    )
    shape = (square <= 1) if rng.random() < 0.7 else np.clip(1.5 * (1 - square), 0, 1)
    height = 0.06 * rng.normal() if rng.random() < 0.85 else 0.08 * rng.standard_t(2)
    height = np.clip(height, -0.15, 0.2) if reach > 6 else np.clip(height, -0.4, 0.8)
    if rng.random() < 0.5:
        chi[box] *= 1 - shape
    chi[box] += np.float32(height) * shape


def draw_tubes(shape, voxel_size, rng):
    """Share of each voxel that curved tubes fill."""
    filled = np.zeros(shape, np.float32)
    for _ in range(rng.integers(0, 20)):
        radius, step = np.exp(rng.uniform(np.log(0.2), np.log(1.6))), 0.4 * min(1, *voxel_size)
        n = int(rng.uniform(8, 70) / step)
        way = rng.standard_normal(3)
        way = way / np.linalg.norm(way) + np.cumsum(
            rng.standard_normal((n, 3)) * np.sqrt(step) * rng.uniform(0.03, 0.25), 0
        )
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        path = rng.uniform(0, 1, 3) * shape * voxel_size + np.cumsum(way * step, 0)
        m = int(np.clip(32 * (radius / min(voxel_size)) ** 2, 1, 40))
        aside = rng.standard_normal((n, m, 3))
        aside -= (aside * way[:, None]).sum(-1, keepdims=True) * way[:, None]
        aside *= radius * np.sqrt(rng.random((n, m, 1))) / np.linalg.norm(aside, axis=-1, keepdims=True)
        at = ((path[:, None] + aside) / voxel_size).reshape(-1, 3).astype(int)
        at = at[((at >= 0) & (at < shape)).all(1)]
        counts = np.bincount(np.ravel_multi_index(at.T, shape), minlength=filled.size).reshape(shape)
        share = counts * np.pi * radius**2 * step / m / np.prod(voxel_size)
        filled = np.maximum(filled, np.minimum(share, 1))
    return filled


def draw(seed):
    """One box of random voxels and direction of B0: `draw_in` of it."""
    rng = np.random.default_rng(seed)
    step = np.exp(rng.uniform(np.log(0.8), np.log(2.3)))
    voxel_size = np.full(3, step)
    if rng.random() < 0.35:
        voxel_size[rng.integers(3)] *= rng.uniform(1.3, 3.2)
    shape = tuple(int(max(SIZE * min(1, 1.2 * step / h), 18)) for h in voxel_size)
    b0 = (
        rng.standard_normal(3)
        if rng.random() < 0.3
        else np.eye(3)[rng.integers(3)] + 0.2 * rng.standard_normal(3)
    )
    grid = Grid(shape, tuple(map(float, voxel_size)), tuple(map(float, b0 / np.linalg.norm(b0))))
    return *draw_in(grid, rng, untold=0.7, outside=0.6), grid


def draw_in(grid, rng, *, untold, outside, noises=(0.0004, 0.006)):
    """Susceptibility, mask, field and noise (ppm) in a box, as the inversion gets them.

    The field has errors that the noise does not tell, and what sources outside of the mask leave, with the
    probabilities ``untold`` and ``outside``.
    """
    shape, voxel_size = grid.shape, grid.voxel_size

    def varied(power, longest):
        return random_field(shape, voxel_size, rng, power=power, longest=longest)

    radius = np.sqrt(
        sum(a**2 for a in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij', sparse=True))
    )
    mask = radius + 0.08 * varied(3.0, 40.0) < rng.uniform(0.85, 1.15)
    chi = draw_chi(shape, grid.voxel_size, rng) * mask * (rng.random() > 0.04)
    double = tuple(2 * n for n in shape)
    inside = tuple(slice(n) for n in shape)
    kernel = dipole_kernel(double, grid.voxel_size, grid.b0_dir)

    def field(sources):
        padded = np.zeros(double, np.float32)
        padded[inside] = sources
        return convolve(padded, kernel)[inside]

    sigma = np.exp(rng.uniform(*np.log(noises)))
    noise = sigma * np.exp(rng.uniform(0, 0.6) * varied(3.0, 40.0))
    if rng.random() < 0.5:
        noise *= np.where(varied(2.5, 15.0) > rng.uniform(1.5, 3), rng.uniform(2, 20), 1)
    found = field(chi) + noise * rng.standard_normal(shape)
    if rng.random() < untold:
        found += (
            noise
            * np.exp(rng.uniform(np.log(0.3), np.log(6)))
            * varied(rng.uniform(0, 1.5), rng.uniform(6, 30))
        )
    if rng.random() < outside:
        shell = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask)
        far = field(shell * varied(1.5, 30.0))
        found += far * rng.uniform(0, 4) * sigma / far[mask].std()
    return (
        chi.astype(np.float32),
        mask,
        (found * mask).astype(np.float32),
        (noise * mask).astype(np.float32),
    )


class Case:
    """A drawn box with the features of its first map, and the converged state of `whnltv`."""

    def __init__(self, seed):
        chi, mask, field, noise, grid = draw(seed)
        problem, step, regulariser = harmonic.beside(
            field, mask, noise, grid, harmonic.STRENGTH, harmonic.HARMONIC, harmonic.MAX_ITERATIONS
        )
        size, lam = grid.voxel_size, regulariser['weight']
        first = total_variation(step, problem.field, size, tolerance=harmonic.FIRST, **regulariser)
        self.rows = torch.from_numpy(features(first, problem, step.dipole, step.model))
        base = harmonic.lighter_at_edges(first, problem)
        regulariser['weight'] *= base
        second = total_variation(step, problem.field, size, tolerance=0.01, **regulariser)
        # the harmonic partner is known by now
        local = (problem.field - step.model + convolve(second, step.dipole)) * problem.inside
        shape = second.shape
        self.inside, self.true, self.field, self.weight, self.base, self.dipole, self.energy = (
            torch.from_numpy(np.ascontiguousarray(a))
            for a in (
                *(problem.inside, problem.box.crop(chi), local, problem.weight, base.astype(np.float32)),
                *(dipole_kernel(shape, size, grid.b0_dir), gradient_energy(shape, size)),
            )
        )
        self.spacing, self.penalty = size, float(problem.gradient_penalty)
        self.threshold = float(lam) / self.penalty
        self.chi, self.state = torch.from_numpy(second), None
        with torch.no_grad():
            self.chi, self.state = self.iterate(self.base, 30)
            self.usual = self.error(self.iterate(self.base, ITERATIONS)[0])

    def iterate(self, weight, count):
        """So many iterations of `splitting.Splitting` and `solvers.total_variation`."""
        mu, shape = self.penalty, self.chi.shape
        inverse = 1 / (DATA_PENALTY * self.dipole**2 + mu * self.energy)
        inverse[0, 0, 0] = 1

        def gradient(x):
            return torch.stack([(torch.roll(x, -1, a) - x) / h for a, h in enumerate(self.spacing)])

        def adjoint(q):
            return sum((torch.roll(q[a], 1, a) - q[a]) / h for a, h in enumerate(self.spacing))

        if self.state is None:
            model = fft.irfftn(fft.rfftn(self.chi) * self.dipole, s=shape)
            dual, vector = 0 * model, gradient(self.chi)
        else:
            model, dual, vector = self.state
        for _ in range(count):
            cut = self.threshold * weight / torch.sqrt((vector**2).sum(0) + 1e-16)
            cut = torch.clamp(cut, max=1)
            spectrum = DATA_PENALTY * self.dipole * fft.rfftn(model - dual)
            spectrum = inverse * (spectrum + mu * fft.rfftn(adjoint((1 - 2 * cut) * vector)))
            chi = fft.irfftn(spectrum, s=shape)
            goal = RELAX * fft.irfftn(spectrum * self.dipole, s=shape) + (1 - RELAX) * model + dual
            model = self.field + DATA_PENALTY * (goal - self.field) / (self.weight + DATA_PENALTY)
            dual = goal - model
            vector = (cut + (1 - RELAX) * (1 - cut)) * vector + RELAX * gradient(chi)
        return chi, (model, dual, vector)

    def error(self, chi):
        """Mean squared error in the mask, less the mean."""
        return (chi - self.true)[self.inside].var()

    def ratio(self, network):
        """Squared error with the weights of the network over that with those of `whnltv`."""
        factor = torch.exp(network(self.rows)[:, 0].clamp(-LARGEST, LARGEST))
        weight = torch.ones_like(self.base).masked_scatter(self.inside, factor) * self.base
        return self.error(self.iterate(weight, ITERATIONS)[0]) / (self.usual + 1e-7)


def main(words=None):
    """Train, and keep the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('--steps', type=int, default=360)
    parser.add_argument('--heads', type=int, default=120, help='boxes to train on')
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    held = [Case([arguments.seed, 1, i]) for i in range(HELD)]
    seen = torch.cat([case.rows for case in held])
    mean, spread = seen.mean(0), seen.std(0) + 0.1
    layers = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)
    nn.init.zeros_(layers[2].weight)
    nn.init.zeros_(layers[2].bias)
    network = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    descent = torch.optim.Adam(network.parameters(), betas=(0.9, 0.98))

    def scaled(case):
        case.rows = (case.rows - mean) / spread
        return case

    held, cases, lately = [scaled(case) for case in held], [], []
    for step in range(arguments.steps):
        # early steps see the first boxes, as drawing takes as long as a step
        if len(cases) < arguments.heads and (step % 2 == 0 or len(cases) < 12):
            cases.append(scaled(Case([arguments.seed, 0, len(cases)])))
        rate = 8e-3 * min(1, step / 20 + 0.05) * (0.525 + 0.475 * np.cos(np.pi * step / arguments.steps))
        for group in descent.param_groups:
            group['lr'] = rate
        ratio = cases[rng.integers(len(cases))].ratio(network)
        torch.log(ratio + 0.05).backward()
        lately.append(float(ratio.detach()))
        if step % 2:
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            descent.step()
            descent.zero_grad()
        if step % 50 == 49 or step == arguments.steps - 1:
            with torch.no_grad():
                ratios = np.sqrt([float(case.ratio(network)) for case in held])
            print(
                f'{step + 1} steps, {len(cases)} boxes: ratio of errors {np.sqrt(np.mean(lately)):.3f}, '
                f'held out {ratios.mean():.3f} ({ratios.min():.3f} to {ratios.max():.3f})',
                flush=True,
            )
            lately.clear()
            kept = {'mean': mean, 'spread': spread}
            for i, layer in enumerate(layers):
                kept |= {f'weight{i}': layer.weight, f'bias{i}': layer.bias}
            np.savez(arguments.out, **{k: v.detach().numpy().astype(np.float32) for k, v in kept.items()})
    print('SHA-256', hashlib.sha256(arguments.out.read_bytes()).hexdigest())


if __name__ == '__main__':
    main()
