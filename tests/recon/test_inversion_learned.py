"""Learned weights of total variation: what they may and may not do."""

from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.recon.fourier import convolve, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import learned, whnltv
from bids_qsm.recon.inversion.harmonic import HARMONIC, STRENGTH, beside
from bids_qsm.recon.inversion.learned import FEATURES, LARGEST, Network, features, learned_factor
from bids_qsm.recon.inversion.splitting import Problem
from bids_qsm.recon.solvers import total_variation

RADIANS = 2 * np.pi * 123.0 * 0.02
SHAPE = (40, 36, 32)


def scene(sources, *, noise=1e-3, voxel_size=(1.5, 1.5, 1.5), seed=0):
    """Field of ``sources`` with noise, in a mask that leaves a rim: the data of an inversion."""
    grid = Grid(SHAPE, voxel_size, (0.0, 0.6, 0.8))
    mask = np.zeros(SHAPE, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    field = convolve(sources.astype(np.float32), dipole_kernel(SHAPE, grid.voxel_size, grid.b0_dir))
    field += noise * np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)
    return field * mask, mask, np.full(SHAPE, noise, np.float32), grid, RADIANS


def ball(radius, height):
    """Sphere in the middle, cut voxels in part."""
    distance = np.sqrt(sum((i - n / 2) ** 2 for i, n in zip(np.indices(SHAPE), SHAPE, strict=True)))
    return height * np.clip(radius - distance + 0.5, 0, 1)


def error(found, truth, mask):
    found, truth = found[mask] - found[mask].mean(), truth[mask] - truth[mask].mean()
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def test_better_than_the_formula(head, measured):
    data = (measured, head.brain, head.noise, head.grid, RADIANS)
    found, usual = learned(*data), whnltv(*data)
    assert error(found, head.chi, head.brain) < 0.99 * error(usual, head.chi, head.brain)
    slope = np.polyfit(head.chi[head.nuclei], found[head.nuclei], 1)[0]
    assert 0.9 < slope < 1.1


@pytest.mark.parametrize('seed', [0, 1])
def test_noise_alone_gives_no_structure(seed):
    data = scene(np.zeros(SHAPE), seed=seed)
    found, usual = learned(*data), whnltv(*data)
    mask = data[1]
    assert found[mask].std() < 1.05 * usual[mask].std()
    assert (
        np.abs(found[mask] - found[mask].mean()).max() < 1.1 * np.abs(usual[mask] - usual[mask].mean()).max()
    )


@pytest.mark.parametrize(('radius', 'height', 'kept'), [(7, 0.1, 0.9), (7, -0.05, 0.9), (1.5, 0.4, 0.8)])
def test_spheres_and_a_microbleed_keep_their_height(radius, height, kept):
    """Also that of a source of a few voxels, and nothing as strong appears elsewhere."""
    truth = ball(radius, height)
    data = scene(truth)
    found = learned(*data)
    core, away = truth == height, data[1] & (truth == 0)
    assert kept < np.median(found[core] - np.median(found[away])) / height < 1.1
    assert np.abs(found[away] - np.median(found[away])).max() < 0.35 * abs(height)


def test_units_make_no_difference():
    """Field, noise and susceptibility ten times as large: the same factor."""
    one, ten = (scene(ball(5, 0.1 * gain), noise=1e-3 * gain) for gain in (1, 10))
    factors = [factor_of(*data[:4])[0] for data in (one, ten)]
    np.testing.assert_allclose(factors[0], factors[1], rtol=0.02)


def factor_of(field, mask, noise, grid):
    """The factor at each voxel of the box, and the mask there."""
    problem, step, regulariser = beside(field, mask, noise, grid, STRENGTH, HARMONIC, 50)
    first = total_variation(step, problem.field, grid.voxel_size, tolerance=0.05, **regulariser)
    rows = features(first, problem, step.dipole, step.model)
    assert rows.shape == (np.count_nonzero(mask), FEATURES)
    assert np.isfinite(rows).all()
    return learned_factor(rows, problem), problem.inside


def test_errors_beyond_the_noise_are_smoothed_more():
    """Where the field is off by more than the noise map says, the weight grows."""
    field, mask, noise, grid, _ = scene(ball(7, 0.1))
    off = field + mask * np.float32(6e-3) * np.random.default_rng(5).standard_normal(SHAPE, dtype=np.float32)
    good, bad = (
        np.median(factor[inside])
        for factor, inside in (factor_of(f, mask, noise, grid) for f in (field, off))
    )
    assert bad > 1.5 * good


def test_factor_is_bounded_and_one_outside():
    network = Network.stored()
    rows = np.random.default_rng(0).normal(scale=100, size=(500, FEATURES)).astype(np.float32)
    factor = network(rows)
    assert (np.abs(np.log(factor)) <= 1.001 * LARGEST).all()
    assert len(np.concatenate([a.ravel() for pair in network.layers for a in pair])) < 1000
    field, mask, noise, grid, _ = scene(ball(5, 0.1))
    problem = Problem.of(field, mask, noise, grid)
    found = learned_factor(rows[:1].repeat(np.count_nonzero(mask), 0), problem)
    assert (found[~problem.inside] == 1).all()


def test_proximal_step_is_not_expansive():
    """Two images come no farther apart by the proximal step of total variation with learned weights."""
    field, mask, noise, grid, _ = scene(ball(5, 0.1))
    problem = Problem.of(field, mask, noise, grid)
    weight = 0.05 * factor_of(field, mask, noise, grid)[0]
    shape, rng = problem.field.shape, np.random.default_rng(3)
    images = [rng.standard_normal(shape, dtype=np.float32) for _ in range(2)]
    mu = 1.0
    inverse = 1 / (1 + mu * gradient_energy(shape, grid.voxel_size))

    def step_of(image):
        return lambda pull: irfft((rfft(image) + mu * rfft(pull)) * inverse, shape)

    near = [
        total_variation(
            step_of(i), i, grid.voxel_size, weight=weight, penalty=mu, tolerance=1e-4, max_iterations=200
        )
        for i in images
    ]
    moved = np.linalg.norm(near[0] - near[1])
    assert 0.01 < moved / np.linalg.norm(images[0] - images[1]) < 1
    assert moved**2 <= 1.001 * float(((near[0] - near[1]) * (images[0] - images[1])).sum())


def test_direction_of_the_field_and_voxel_shape():
    """Voxels of another shape, and another direction of B0, are fine."""
    data = list(scene(ball(6, 0.1), voxel_size=(1.0, 1.0, 3.0)))
    truth = ball(6, 0.1)
    assert error(learned(*data), truth, data[1]) < 0.3
    data[3] = replace(data[3], b0_dir=(0.0, -0.6, 0.8))
    assert error(learned(*data), truth, data[1]) > 0.3


@pytest.mark.parametrize('size', [(1, 1, 1), (14, 14, 1), (2, 3, 20)])
def test_masks_of_few_voxels(size):
    """A voxel, a slice and a column, with NaN outside the mask, in voxels of 1 x 1 x 3 mm."""
    shape = (18, 18, 24)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(2, 2 + n) for n in size)] = True
    values = 0.02 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    field, noise = (np.where(mask, a, np.float32(np.nan)) for a in (values, np.float32(1e-3)))
    grid = Grid(shape, (1.0, 1.0, 3.0), (0.6, 0.0, 0.8))
    found = learned(field, mask, noise, grid, RADIANS, max_iterations=20)
    assert np.isfinite(found).all()
    assert (found[~mask] == 0).all()
    assert np.abs(found).max() < 1


def test_a_field_of_zero_gives_nothing():
    data = list(scene(np.zeros(SHAPE)))
    data[0] = 0 * data[0]
    assert np.abs(learned(*data, max_iterations=20)).max() < 1e-6


def test_without_the_network_it_is_the_formula(monkeypatch):
    """All else is shared with `whnltv`: a factor of 1 gives its map bit by bit."""
    monkeypatch.setattr(Network, '__call__', lambda _, rows: np.ones(len(rows), np.float32))
    data = scene(ball(5, 0.1))
    np.testing.assert_array_equal(learned(*data, max_iterations=20), whnltv(*data, max_iterations=20))
