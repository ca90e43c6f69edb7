"""Dipole inversion whose total variation has learned weights."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array, like, to_numpy
from bids_qsm.recon.fourier import convolve
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.fidelity import sines
from bids_qsm.recon.inversion.harmonic import (
    HARMONIC,
    MAX_ITERATIONS,
    STRENGTH,
    TOLERANCE,
    beside,
    in_two_passes,
    lighter_at_edges,
    steepness,
    usual_steepness,
)
from bids_qsm.recon.inversion.splitting import DATA_PENALTY, Problem
from bids_qsm.recon.registry import Need, method

CONE = 0.15
"""Susceptibility on the cone where the dipole is smaller than this is what total variation filled in."""
NEAR, AROUND = 1.0, 1.5
"""Standard deviations (in units of the voxel size) of the means of gradient and misfit about a voxel."""
FEATURES = 7
LARGEST = 3.0
"""Bound of the logarithm of the factor."""
BEYOND = 3.0
"""Features count up to so many standard deviations of those in training."""


@method(
    memory=Need(padded=24),
    prose='weak-harmonic nonlinear TV [@whnltv], lighter at edges [@reweighted], with learned weights '
    '[@learned]',
)
def learned(
    field: Array,
    mask: Array,
    noise: Array,
    grid: Grid,
    radians_per_ppm: float,
    *,
    strength: float = STRENGTH,
    harmonic: float = HARMONIC,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
):
    r"""Invert the dipole as `whnltv`, with a weight of total variation that a small network finds [1]_.

    .. math:: \min_{\chi, \phi} \tfrac1{2 r^2} \|W (e^{i r (D \chi + \phi)} - e^{i r f})\|^2
              + \lambda \sum w_v |\nabla \chi|_v + \tfrac{\beta h^4}2 \|M \Delta \phi\|^2

    The second pass of `whnltv` has weights by a formula; here this weight of each voxel is multiplied by a
    factor between 1/20 and 20 that a network of 817 parameters computes from the first map: the gradient
    there and about, the gradient of the part of the map that lies on the cone of the dipole, the misfit about
    the voxel and in the whole mask, the certainty of the field, and the contrast over the noise. All are
    ratios, lengths count in units of the voxel size. Where the field is off by more than its noise, it
    smooths more.

    The network was trained through the iteration, by ``benchmarks/train_prior.py``, on random ellipsoids,
    sheets, tubes and textures, never on a head. It sets weights only: for given weights the proximal step is
    that of total variation, convex and non-expansive, and adds no structure. This is no proof for the whole
    way from field to susceptibility, as the weights depend on the first map. Tests show that noise alone
    gives no more than with `whnltv`, and that spheres keep their height.

    Departure from [1]_: the network sees a voxel and means about it, instead of the image.

    Data and result as :mod:`bids_qsm.recon.inversion` has them.

    References
    ----------
    .. [1] Kofler et al. (2023), SIAM J Imaging Sci 16:2202. doi:10.1137/23M1552486
    """
    problem, step, regulariser = beside(field, mask, noise, grid, strength, harmonic, max_iterations)

    def factor(first: Array):
        usual = lighter_at_edges(first, problem)
        usual *= learned_factor(features(first, problem, step.dipole, step.model), problem)
        return usual

    match = sines(DATA_PENALTY, radians_per_ppm)
    return in_two_passes(problem, step, factor, match, tolerance, regulariser)


def features(chi: Array, problem: Problem, dipole: Array, model: Array):
    """What the network is given of each voxel of the mask: NumPy, (n, FEATURES).

    ``chi`` is the first map, ``model`` the field that it explains together with its harmonic partner.
    """
    inside, weight = to_numpy(problem.inside), to_numpy(problem.weight)[to_numpy(problem.inside)]
    voxel_size, h = problem.grid.voxel_size, problem.size
    slope = steepness(chi, voxel_size)
    usual = usual_steepness(slope, problem)
    slope = to_numpy(slope) / np.float32(usual)
    cone = like((abs(to_numpy(dipole)) < CONE).astype(np.float32), chi)
    doubtful = to_numpy(steepness(convolve(chi, cone), voxel_size))[inside] / np.float32(usual)
    misfit = to_numpy(problem.field - model)
    misfit *= np.sqrt(to_numpy(problem.weight))
    misfit /= np.float32(problem.typical)
    misfit *= misfit
    overall = np.sqrt(misfit[inside].mean(dtype=float))

    def about(x: Array, reach: float):
        steps = [reach * h / step for step in voxel_size]
        sums, share = (
            ndimage.gaussian_filter(a, steps, truncate=2.5, mode='constant')[inside]
            for a in (x * inside, inside.astype(np.float32))
        )
        return sums / np.maximum(share, np.float32(0.05))

    out = np.empty((np.count_nonzero(inside), FEATURES), np.float32)
    out[:, 0] = np.log(0.05 + slope[inside])
    out[:, 1] = np.log(0.05 + about(slope, NEAR))
    out[:, 2] = np.log(0.05 + doubtful)
    out[:, 3] = np.log(0.1 + np.sqrt(np.maximum(about(misfit, AROUND), 0)))
    out[:, 4] = np.log(0.1 + overall)
    out[:, 5] = np.log(0.003 + weight) / 2
    out[:, 6] = np.log(usual * h / problem.typical) / 2
    return out


def learned_factor(rows: Array, problem: Problem):
    """Factor on the weight of total variation at each voxel, 1 outside the mask."""
    network = Network.stored()
    found = np.ones(problem.inside.shape, np.float32)
    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 1 << 15):
        part = slice(start, start + (1 << 15))
        values[part] = network(rows[part])
    found[to_numpy(problem.inside)] = values
    return like(found, problem.field)


@dataclass(frozen=True)
class Network:
    """Two hidden layers of hyperbolic tangents: features to the factor, scaled as in training."""

    mean: np.ndarray
    spread: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    @cache
    def stored(cls):
        """The network that the package has."""
        with resources.files('bids_qsm.data').joinpath('learned_weights.npz').open('rb') as file:
            kept = np.load(file)
            layers = tuple((kept[f'weight{i}'], kept[f'bias{i}']) for i in range(3))
            return cls(kept['mean'], kept['spread'], layers)

    def __call__(self, rows: Array):
        x = np.clip((rows - self.mean) / self.spread, -BEYOND, BEYOND)
        for i, (weight, bias) in enumerate(self.layers):
            x = (np.tanh(x) if i else x) @ weight.T + bias
        return np.exp(np.clip(x[:, 0], -LARGEST, LARGEST))
