import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.background_gradient import spread_function
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.relaxation import MAX_R2STAR, R2STAR, arlo, nlls
from bids_qsm.recon.units import ppm_per_radian

TIMES = (0.004, 0.009, 0.014, 0.019, 0.024)


def _decay(times, snr=None, shape=(12, 10, 8), fastest=60):
    rng = np.random.default_rng(0)
    rate = rng.uniform(10, fastest, shape).astype(np.float32)
    start = rng.uniform(300, 900, shape).astype(np.float32)
    signal = start[..., None] * np.exp(-rate[..., None] * np.float32(times))
    if snr:
        signal = np.hypot(
            signal + 600 / snr * rng.normal(size=signal.shape), 600 / snr * rng.normal(size=signal.shape)
        )
    return rate, start, signal.astype(np.float32), np.ones(shape, bool)


def _fit(name, signal, mask, times, field=None, **params):
    return R2STAR[name](signal, mask, times, field, 3.0, Grid(mask.shape), **params)


def test_every_method_is_tested():
    assert list(R2STAR) == ['arlo', 'loglinear', 'nlls']


@pytest.mark.parametrize('name', R2STAR)
@pytest.mark.parametrize(
    'times',
    [(0.004, 0.008, 0.012, 0.016, 0.02), (0.003, 0.011), (0.004, 0.007, 0.015, 0.03)],
    ids=['even', 'two', 'uneven'],
)
def test_exact_decay(name, times):
    rate, start, signal, mask = _decay(times)
    # noiseless signal of random voxels: its finest detail would pass for noise
    signal[:] = signal[:1, :1, :1] if name == 'nlls' else signal
    if name == 'nlls':
        rate, start = rate[:1, :1, :1] + 0 * rate, start[:1, :1, :1] + 0 * start
    r2star, t2star, s0 = _fit(name, signal, mask, times)
    np.testing.assert_allclose(r2star, rate, rtol=2e-3)
    np.testing.assert_allclose(t2star, 1 / rate, rtol=2e-3)
    np.testing.assert_allclose(s0, start, rtol=2e-3)


@pytest.mark.parametrize('name', R2STAR)
@pytest.mark.parametrize('times', [TIMES, (0.004, 0.007, 0.014, 0.019, 0.027)])
def test_noise_does_not_bias(name, times):
    rate, _, _, mask = _decay(times, shape=(24, 24, 24))
    signal = 600 * np.exp(-rate[..., None] * np.float32(times))
    noise = 10 * np.random.default_rng(1).normal(size=(2, *signal.shape))
    signal = np.hypot(signal + noise[0], noise[1]).astype(np.float32)
    error = _fit(name, signal, mask, times)[0] - rate
    assert abs(np.median(error)) < 0.5
    assert np.median(np.abs(error)) < 2


def test_the_noise_floor_is_no_slow_decay():
    rng = np.random.default_rng(0)
    times = tuple(np.arange(1, 9) * 0.006)
    signal = 100 * np.exp(-90 * np.array(times)) + 10 * rng.normal(size=(30, 30, 30, 8, 2)) @ [1, 1j]
    magnitude, mask = np.abs(signal).astype(np.float32), np.ones((30, 30, 30), bool)
    bias = {name: np.median(_fit(name, magnitude, mask, times)[0]) - 90 for name in R2STAR}
    assert abs(bias['nlls']) < 3
    assert bias['loglinear'] < -15


@pytest.mark.parametrize('name', R2STAR)
def test_limits(name):
    signal = np.zeros((2, 2, 2, 3), np.float32)
    signal[0] = [1, 2, 3]
    signal[1, 0] = [1, 0, 0]
    mask = np.ones((2, 2, 2), bool)
    mask[0, 0, 0] = False
    r2star, t2star, s0 = _fit(name, signal, mask, (0.005, 0.01, 0.015))
    assert r2star[0, 1, 1] == 0
    assert t2star[0, 1, 1] == 1
    assert 0 <= r2star[1, 0, 0] <= MAX_R2STAR
    for result in (r2star, t2star, s0):
        assert np.isfinite(result).all()
        assert result[0, 0, 0] == 0
        assert result[1, 1, 1] == 0


@pytest.mark.parametrize('function', [arlo, nlls])
def test_one_echo_is_refused(function):
    with pytest.raises(UserError, match='at least two echoes'):
        function(np.ones((2, 2, 2, 1), np.float32), np.ones((2, 2, 2), bool), (0.02,), None, 3.0, None)


def _gradient(turns, times, shape=(24, 6, 6)):
    """Field (ppm) whose phase turns by ``turns`` * pi a voxel at the last echo, along the first axis."""
    slope = turns * np.pi * ppm_per_radian(3.0) / times[-1]
    return np.float32(slope) * np.arange(shape[0], dtype=np.float32)[:, None, None] + np.zeros(
        shape, np.float32
    )


def test_spread_function_keeps_what_k_space_holds():
    mask, grid = np.ones((24, 6, 6), bool), Grid((24, 6, 6), (2.0, 1.0, 1.0))
    for turns, kept in ((0.4, 1.0), (1.0, 0.5), (1.6, 0.0)):
        share = spread_function(_gradient(turns, TIMES), mask, grid, TIMES, 3.0)
        np.testing.assert_allclose(share[..., -1], kept, atol=1e-3)
        assert (np.diff(share, axis=3) <= 1e-6).all()
    cut = mask.copy()
    cut[12:] = False
    field = np.where(cut, _gradient(0.4, TIMES), 0)
    np.testing.assert_allclose(spread_function(field, cut, grid, TIMES, 3.0), 1)


@pytest.mark.parametrize('name', R2STAR)
def test_background_gradients_are_corrected(name):
    times, mask = TIMES, np.ones((24, 6, 6), bool)
    field = _gradient(1.1, times)
    kept = spread_function(field, mask, Grid(mask.shape), times, 3.0)
    signal = (100 * np.exp(-30 * np.float32(times)) * kept).astype(np.float32)
    plain, mended = (_fit(name, signal, mask, times, field, spread=s)[0] for s in (False, True))
    assert (plain > 35).all()
    np.testing.assert_allclose(mended, 30, rtol=0.01)
