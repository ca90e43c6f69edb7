import numpy as np
import pytest
from scipy import optimize

from bids_qsm.recon.fourier import convolve, dipole_kernel, gradient_energy, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import fidelity, harmonic, hdqsm, l1qsm, nltv, splitting, tv, whnltv
from tests.recon.test_inversion import error

RADIANS = 2 * np.pi * 123.0 * 0.02
"""Phase (rad) that 1 ppm gives at 20 ms and 2.9 T."""


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize('name', ['squares', 'sines', 'lengths', 'chords'])
def test_step_towards_the_data_finds_the_minimum(name):
    radians, level, rho = 4.0, 0.3, 0.5
    misfit = {
        'squares': lambda e, w: 0.5 * w * e**2,
        'sines': lambda e, w: w * (1 - np.cos(radians * e)) / radians**2,
        'lengths': lambda e, w: level * np.sqrt(w) * np.abs(e),
        'chords': lambda e, w: level * np.sqrt(w) * np.abs(2 * np.sin(radians * e / 2)) / radians,
    }[name]
    step = {
        'squares': fidelity.squares(rho),
        'sines': fidelity.sines(rho, radians),
        'lengths': fidelity.lengths(rho, level),
        'chords': fidelity.chords(rho, radians, level),
    }[name]
    shape = (6, 5, 4)
    image, field = 2 * random(shape), random(shape, 1)
    weight = np.abs(np.sin(random(shape, 2)))
    weight[0] = 0
    model, dual = random(shape, 3), 0.1 * random(shape, 4)
    goal = fidelity.RELAX * image + (1 - fidelity.RELAX) * model + dual
    step(image, field, weight, model, dual)
    np.testing.assert_allclose(dual, goal - model, atol=1e-5)
    np.testing.assert_allclose(image, model - dual, atol=1e-5)

    def cost(m, at):
        return misfit(m - field[at], weight[at]) + rho / 2 * (m - goal[at]) ** 2

    for at in np.ndindex(*shape):
        fine = np.linspace(goal[at] - 2, goal[at] + 2, 2001)
        best = optimize.minimize_scalar(
            cost, fine[[0, -1]], args=(at,), bounds=fine[[0, -1]], method='bounded'
        )
        lowest = min(cost(fine, at).min(), best.fun)
        assert cost(model[at], at) <= lowest + 2e-3


def test_least_squares_of_the_splitting_solves_its_equations():
    """At its solution the gradient of what it minimises vanishes, adjoints included."""
    grid = Grid((12, 15, 14), (1.0, 1.2, 2.0), (0.0, 0.6, -0.8))
    mask = np.zeros(grid.shape, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    problem = splitting.Problem.of(random(grid.shape), mask, np.ones(grid.shape, np.float32), grid)
    shape = problem.box.shape
    seen = []
    step = splitting.Splitting(problem, lambda image, *_: seen.append(image))
    model = random(shape, 1)
    step.target[...] = model
    pull = random(shape, 2)
    chi = step(pull)
    dipole = dipole_kernel(shape, grid.voxel_size, grid.b0_dir)
    np.testing.assert_allclose(seen[0], convolve(chi, dipole), atol=1e-4)
    rho, mu = splitting.DATA_PENALTY, step.penalty
    rest = rho * convolve(seen[0] - model, dipole)
    rest += mu * (convolve(chi, gradient_energy(shape, grid.voxel_size)) - pull)
    assert np.abs(rest - rest.mean()).max() < 1e-4


@pytest.mark.parametrize('shape', [(9, 8, 7), (8, 6, 10)])
def test_two_unknowns_are_solved_for_at_once(shape):
    voxel_size, penalties = (1.0, 1.5, 2.0), (0.3, 0.05, 0.2)
    dipole = dipole_kernel(shape, voxel_size, (0.0, -0.6, 0.8))
    energy = gradient_energy(shape, voxel_size)
    model, pull, bend = (random(shape, n) for n in range(3))
    spectra = [rfft(a) for a in (model, pull, bend)]
    harmonic.split(*spectra, dipole, energy, penalties, 1.0)
    whole, chi, curved = (irfft(s, shape) for s in spectra)
    rho, mu, tau = penalties
    first = rho * convolve(whole - model, dipole) + mu * (convolve(chi, energy) - pull)
    second = rho * (whole - model) - tau * convolve(curved - bend, energy)
    assert np.abs(first - first.mean()).max() < 1e-3
    assert np.abs(second).max() < 1e-3


@pytest.fixture(scope='module')
def dying(head):
    """A field taken from one noisy echo, wrapped where the signal is weak; and its noise."""
    rng = np.random.default_rng(5)
    x = np.linspace(-1, 1, head.grid.shape[1], dtype=np.float32)[:, None]
    signal = np.where(x > -0.2, 12, 1.3) * np.ones(head.grid.shape, np.float32)
    parts = signal * np.exp(1j * RADIANS * head.local)
    parts = parts + rng.standard_normal(parts.shape) + 1j * rng.standard_normal(parts.shape)
    off = np.angle(parts * np.exp(-1j * RADIANS * head.local))
    # unwrapped in space, noise of more than half a turn lands a turn away
    off += 2 * np.pi * (rng.random(off.shape) < 0.1) * (signal < 2) * np.sign(rng.standard_normal(off.shape))
    noise = np.minimum(1 / signal, np.pi / np.sqrt(3)) / RADIANS
    return head.local + (off / RADIANS).astype(np.float32), noise.astype(np.float32)


def test_complex_misfit_wins_where_noise_is_strong(head, dying):
    field, noise = dying
    linear = tv(field, head.brain, noise, head.grid, tolerance=0.01)
    complex_ = nltv(field, head.brain, noise, head.grid, RADIANS)
    assert error(complex_, head.chi, head.brain) < 0.96 * error(linear, head.chi, head.brain)


def test_complex_misfit_of_good_data_is_the_linear_one(head, measured):
    one = tv(measured, head.brain, head.noise, head.grid, tolerance=0.003)
    two = nltv(measured, head.brain, head.noise, head.grid, RADIANS / 10, tolerance=0.003)
    assert error(two, one, head.brain) < 0.05


@pytest.fixture(scope='module')
def spoilt(head, measured):
    """A patch unwrapped a turn too far and a vein of wrong phase, of which the noise map knows nothing."""
    field = measured.copy()
    i, j, k = (n // 2 for n in head.grid.shape)
    field[i + 6 : i + 9, j - 4 : j - 1, k : k + 3] += 0.2
    field[i - 8, j - 12 : j + 8, k + 4] -= 0.1
    return field


@pytest.mark.parametrize('method', ['l1qsm', 'l1qsm linear', 'hdqsm'])
def test_outliers_harm_little_where_misfit_is_absolute(head, measured, spoilt, method):
    data = (head.brain, head.noise, head.grid)
    invert = {
        'l1qsm': lambda f: l1qsm(f, *data, RADIANS),
        'l1qsm linear': lambda f: l1qsm(f, *data, RADIANS, nonlinear=False),
        'hdqsm': lambda f: hdqsm(f, *data),
    }[method]
    clean = error(tv(measured, *data), head.chi, head.brain)
    squared = error(tv(spoilt, *data), head.chi, head.brain)
    robust = error(invert(spoilt), head.chi, head.brain)
    assert squared > 1.5 * clean
    assert robust < 1.25 * clean


def test_remnant_of_the_background_is_set_aside(head, measured):
    """Sources outside the mask leave a smooth field; only with a harmonic partner does chi not follow it."""
    outside = np.zeros(head.grid.shape, np.float32)
    i, _, k = (n // 2 for n in head.grid.shape)
    outside[i - 3 : i + 4, -5:-2, k - 8 : k - 2] = 10.0
    remnant = convolve(outside, dipole_kernel(head.grid.shape, head.grid.voxel_size, head.grid.b0_dir))
    spoilt = measured + remnant * head.brain
    without = nltv(spoilt, head.brain, head.noise, head.grid, RADIANS)
    beside = whnltv(spoilt, head.brain, head.noise, head.grid, RADIANS)
    assert error(beside, head.chi, head.brain) < 0.6 * error(without, head.chi, head.brain)


@pytest.mark.parametrize(('height', 'noise', 'steep'), [(0.012, 0.002, 0.004), (0.012, 0.02, 0.01)])
def test_weight_falls_with_the_first_gradient(height, noise, steep):
    """Halved where the gradient is its median, 4 ppb/mm, but noise over voxel size where this is more."""
    grid = Grid((12, 12, 12), (1.0, 2.0, 4.0))
    noise = np.full(grid.shape, noise, np.float32)
    problem = splitting.Problem.of(noise, np.ones(grid.shape, bool), noise, grid)
    chi = np.zeros(problem.field.shape, np.float32)
    # along y, of 2 mm, which is also the voxel size in the mean
    step = np.where(np.arange(chi.shape[1]) % 4 == 1, height, 0.008)
    chi += np.cumsum(step, dtype=np.float32)[:, None]
    # two thirds of a voxel's weight are lost to noise
    at = tuple(n // 2 for n in chi.shape)
    problem.weight[at] = 1 / 3
    factor = harmonic.lighter_at_edges(chi, problem)
    assert factor.dtype == np.float32
    expected = 3 / (1 + step[1:-1] / 2 / steep)
    np.testing.assert_allclose(factor[3, :-2, 3], expected, rtol=1e-3)
    assert factor[at] == pytest.approx(2 / 3 + expected[at[1]] / 3, rel=1e-3)


def test_lighter_edges_keep_contrast(head, measured, monkeypatch):
    """A fourth of the contrast that total variation of one weight takes is kept, and error falls."""
    data = (measured, head.brain, head.noise, head.grid, RADIANS)
    lighter = whnltv(*data)
    monkeypatch.setattr(harmonic, 'lighter_at_edges', lambda *_: 1.0)
    plain = whnltv(*data)
    kept, less = (np.polyfit(head.chi[head.brain], m[head.brain], 1)[0] for m in (lighter, plain))
    assert 1 - kept < 0.75 * (1 - less)
    assert error(lighter, head.chi, head.brain) < 0.87 * error(plain, head.chi, head.brain)
