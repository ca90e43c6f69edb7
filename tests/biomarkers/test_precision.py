import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.biomarkers.precision import Correlation, fit_correlation, shared_variance, standard_error
from bids_qsm.recon.grid import Grid

GRID = Grid((24, 24, 24), (1.0, 1.0, 1.5))
BOXES = [(slice(a, a + 6), slice(0, 24), slice(b, b + 6)) for a in (0, 12) for b in (0, 12)]
WHOLE = np.ones((6, 24, 6), bool)


@pytest.mark.parametrize('smooth', [0.0, 0.6, 1.2], ids=str)
def test_error_of_the_mean_of_smooth_noise(smooth):
    """The mean of a region varies between draws as its standard error says; n voxels are not n draws."""
    rng = np.random.default_rng(3)
    means, errors, naive = [], [], []
    for _ in range(40):
        noise = rng.standard_normal(GRID.shape)
        noise = ndimage.gaussian_filter(noise, smooth / np.array(GRID.voxel_size), mode='wrap')
        correlation = fit_correlation(noise, [(box, WHOLE) for box in BOXES], GRID)
        shared = shared_variance(WHOLE, correlation, GRID)
        for box in BOXES:
            values = noise[box][WHOLE]
            means.append(values.mean())
            errors.append(standard_error(values, shared))
            naive.append(values.std() / np.sqrt(values.size))
    assert np.median(errors) == pytest.approx(np.std(means), rel=0.25)
    assert np.median(errors) > (0.9, 2, 4)[[0.0, 0.6, 1.2].index(smooth)] * np.median(naive)


def test_a_constant_map_has_no_error():
    flat = np.full(GRID.shape, 0.1)
    correlation = fit_correlation(flat, [(box, WHOLE) for box in BOXES], GRID)
    assert correlation == Correlation(1.0, 0.0)
    shared = shared_variance(WHOLE, correlation, GRID)
    assert standard_error(flat[BOXES[0]][WHOLE], shared) == pytest.approx(0, abs=1e-12)


def test_missing_voxels_do_not_count():
    noise = np.random.default_rng(0).standard_normal(GRID.shape)
    noise[::3] = np.nan
    correlation = fit_correlation(noise, [(box, WHOLE) for box in BOXES], GRID)
    assert correlation.nugget > 0.8


def test_shared_variance_agrees_with_the_sum_over_pairs():
    region = np.random.default_rng(0).random((5, 6, 4)) > 0.4
    points = np.argwhere(region) * GRID.voxel_size
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    correlation = Correlation(0.2, 2.0, 1.5)
    expected = np.where(distance > 0, 0.8 * np.exp(-((distance / 2) ** 1.5)), 1).mean()
    assert shared_variance(region, correlation, GRID) == pytest.approx(expected, rel=0.01)


def test_shared_variance_of_a_weighted_mean_agrees_with_the_sum_over_pairs():
    weight = np.random.default_rng(0).random((5, 6, 4))
    weight[weight < 0.3] = 0
    at = np.argwhere(weight > 0) * GRID.voxel_size
    own = weight[weight > 0]
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    correlation = Correlation(0.2, 2.0, 1.5)
    pairs = np.where(distance > 0, 0.8 * np.exp(-((distance / 2) ** 1.5)), 1)
    expected = own @ pairs @ own / own.sum() ** 2
    assert shared_variance(weight, correlation, GRID) == pytest.approx(expected, rel=0.01)


def test_the_error_of_a_weighted_mean_is_its_spread_over_draws():
    rng = np.random.default_rng(1)
    weight = np.clip(rng.random(WHOLE.shape) * 2 - 0.5, 0, 1)
    used = weight > 0
    shared = shared_variance(weight, Correlation(1.0, 0.0), GRID)
    assert shared == pytest.approx((weight**2).sum() / weight.sum() ** 2)
    draws = rng.standard_normal((400, used.sum()))
    errors = [standard_error(values, shared, weight[used]) for values in draws]
    means = draws @ weight[used] / weight.sum()
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.1)
    same = standard_error(draws[0], 0.01, np.full(used.sum(), 0.3))
    assert same == pytest.approx(standard_error(draws[0], 0.01))


def test_of_very_many_voxels_the_border_is_left_out():
    small, large = np.ones((40, 40, 40), bool), np.ones((48, 48, 48), bool)
    correlation = Correlation(0.0, 1.0, 2.0)
    exact, near = (shared_variance(r, correlation, GRID) * r.sum() for r in (small, large))
    assert exact < near < 1.1 * exact
    half = 0.5 * large.astype(np.float32)
    assert shared_variance(half, correlation, GRID) == pytest.approx(near / large.sum())


@pytest.mark.parametrize('region', [np.zeros((3, 3, 3), bool), np.ones((1, 1, 1), bool)], ids=['none', 'one'])
def test_too_few_voxels_have_no_standard_error(region):
    shared = shared_variance(region, Correlation(0.0, 1.0), GRID)
    assert np.isnan(standard_error(np.ones(region.sum()), shared))
