import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.relaxation import MAX_R2STAR, fit_arlo


def _decay(times, snr=None, shape=(12, 10, 8)):
    rng = np.random.default_rng(0)
    rate = rng.uniform(10, 60, shape).astype(np.float32)
    start = rng.uniform(300, 900, shape).astype(np.float32)
    signal = start[..., None] * np.exp(-rate[..., None] * np.float32(times))
    if snr:
        signal = np.hypot(
            signal + 600 / snr * rng.normal(size=signal.shape), 600 / snr * rng.normal(size=signal.shape)
        )
    return rate, start, signal.astype(np.float32), np.ones(shape, bool)


@pytest.mark.parametrize(
    'times',
    [(0.004, 0.008, 0.012, 0.016, 0.02), (0.003, 0.011), (0.004, 0.007, 0.015, 0.03)],
    ids=['even', 'two', 'uneven'],
)
def test_exact_decay(times):
    rate, start, signal, mask = _decay(times)
    r2star, t2star, s0 = fit_arlo(signal, mask, times)
    np.testing.assert_allclose(r2star, rate, rtol=2e-3)
    np.testing.assert_allclose(t2star, 1 / rate, rtol=2e-3)
    np.testing.assert_allclose(s0, start, rtol=2e-3)


@pytest.mark.parametrize('times', [(0.004, 0.009, 0.014, 0.019, 0.024), (0.004, 0.007, 0.014, 0.019, 0.027)])
def test_noise_does_not_bias(times):
    rate, _, signal, mask = _decay(times, snr=60, shape=(24, 24, 24))
    error = fit_arlo(signal, mask, times)[0] - rate
    assert abs(np.median(error)) < 0.5
    assert np.median(np.abs(error)) < 2


def test_limits():
    signal = np.zeros((2, 2, 2, 3), np.float32)
    signal[0] = [1, 2, 3]
    signal[1, 0] = [1, 0, 0]
    mask = np.ones((2, 2, 2), bool)
    mask[0, 0, 0] = False
    r2star, t2star, s0 = fit_arlo(signal, mask, (0.005, 0.01, 0.015))
    assert r2star[0, 1, 1] == 0
    assert t2star[0, 1, 1] == 1
    assert 0 < r2star[1, 0, 0] <= MAX_R2STAR
    for result in (r2star, t2star, s0):
        assert np.isfinite(result).all()
        assert result[0, 0, 0] == 0
        assert result[1, 1, 1] == 0


def test_one_echo_is_refused():
    with pytest.raises(UserError, match='at least two echoes'):
        fit_arlo(np.ones((2, 2, 2, 1), np.float32), np.ones((2, 2, 2), bool), (0.02,))
