import numpy as np
import pytest

from bids_qsm.recon.field import FIELD, linear
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.registry import call
from bids_qsm.recon.units import ppm_per_radian
from tests.recon.simulated_gre import FIELD_STRENGTH, scan

TIMES = (0.005, 0.01, 0.015, 0.02, 0.025)
RATE = ppm_per_radian(3.0)


def _voxels(n=20, decay=30, snr=50, seed=0):
    """Unwrapped phase and magnitude of voxels with a random field (ppm)."""
    rng = np.random.default_rng(seed)
    field = rng.normal(0, 0.3, (n, n, n)).astype(np.float32)
    times = np.array(TIMES)
    signal = np.exp(-decay * times + 0j) + (rng.normal(size=(n, n, n, 5, 2)) @ [1, 1j]) / snr
    phase = np.angle(signal) + field[..., None] / RATE * times
    return field, phase.astype(np.float32), np.abs(signal).astype(np.float32), np.ones((n, n, n), bool)


def test_field_is_unbiased_and_its_noise_is_as_stated():
    field, phase, magnitude, mask = _voxels(n=32)
    fitted, noise, residual = linear(phase, magnitude, mask, TIMES, 3.0)
    score = (fitted - field) / noise
    assert abs(score.mean()) < 0.05
    assert score.std() == pytest.approx(1, abs=0.12)
    assert np.median(residual) == pytest.approx(1 / 50 * 0.9 / np.exp(-30 * 0.01), rel=0.3)


@pytest.mark.parametrize('times', [(0.02,), (0.004, 0.02)])
def test_few_echoes(times):
    field, _, magnitude, mask = _voxels(snr=200)
    phase = field[..., None] / RATE * np.float32(times)
    fitted, noise, _ = linear(phase, magnitude[..., : len(times)], mask, times, 3.0)
    np.testing.assert_allclose(fitted, field, atol=1e-4)
    assert (noise > 0).all()


def test_field_strength_scales():
    _, phase, magnitude, mask = _voxels()
    low, high = (linear(phase, magnitude, mask, TIMES, b)[0] for b in (3.0, 7.0))
    np.testing.assert_allclose(low * 3, high * 7, rtol=1e-4)


@pytest.mark.parametrize('moved', [{4: 1}, {0: 1}, {3: -1, 4: 1}, {3: 1, 4: 1}, {4: 2}, {2: -1}])
def test_left_over_wraps_are_mended(moved):
    field, phase, magnitude, mask = _voxels()
    for echo, turns in moved.items():
        phase[..., echo] += np.float32(2 * np.pi * turns)
    fitted, _, _ = linear(phase, magnitude, mask, TIMES, 3.0)
    assert (np.abs(fitted - field) > 0.05).mean() < 0.002


def test_dead_late_echoes_do_not_count():
    field, phase, magnitude, mask = _voxels(decay=300, snr=100)
    rng = np.random.default_rng(1)
    phase[..., 3:] = rng.uniform(-40, 40, phase[..., 3:].shape)
    magnitude[..., 3:] = np.abs(rng.normal(0, 0.01, (*magnitude[..., 3:].shape, 2)) @ [1, 1j])
    error = linear(phase, magnitude, mask, TIMES, 3.0)[0] - field
    assert np.sqrt((error**2).mean()) < 0.02


def test_outside_and_empty_voxels_are_zero():
    _, phase, magnitude, mask = _voxels()
    mask[:5] = False
    magnitude[6] = 0
    maps = linear(phase, magnitude, mask, TIMES, 3.0)
    for result in maps:
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert not result[:5].any()


def test_noise_level():
    s = scan()
    assert noise_level(s.magnitude, s.brain) == pytest.approx(1 / 70, rel=0.15)
    assert noise_level(s.magnitude, np.zeros_like(s.brain)) == 0


def test_whole_head():
    s = scan()
    _, _, magnitude, mask = s.field, None, s.magnitude, s.brain
    wrapped_free = s.true_phase + np.float32(0.01)
    field, _, residual = linear(wrapped_free, magnitude, mask, s.echo_times, FIELD_STRENGTH)
    assert np.abs(field - s.field)[mask].max() < 0.01
    assert residual.max() < 0.02


def _call(name, phase, magnitude, mask, times, wrapped=None):
    wrapped = wrap(phase) if wrapped is None else wrapped
    data = {'unwrapped': phase, 'phase': wrapped, 'magnitude': magnitude, 'mask': mask}
    return call(FIELD[name], data | {'echo_times': times, 'field_strength': 3.0, 'grid': None}, {})


@pytest.mark.parametrize('name', FIELD)
def test_methods_agree_with_the_truth(name):
    field, phase, magnitude, mask = _voxels(n=24)
    fitted, noise, residual = _call(name, phase, magnitude, mask, TIMES)
    assert ((fitted - field) / noise).std() == pytest.approx(1, abs=0.15)
    assert np.median(residual) < 0.1


@pytest.mark.parametrize('name', FIELD)
def test_late_echoes_that_leave_the_line_count_less(name):
    """Near air the first echo tells the mean field; the later ones follow what is left of the voxel."""
    field, phase, magnitude, mask = _voxels(decay=60, snr=100)
    bent = (
        phase + np.float32(40 * np.pi) * np.float32(TIMES) * np.clip(np.float32(TIMES) - 0.006, 0, None) * 100
    )
    straight = np.median(np.abs(_call(name, phase, magnitude, mask, TIMES)[0] - field))
    error = np.median(np.abs(_call(name, bent, magnitude, mask, TIMES)[0] - field))
    assert straight < 0.003
    # a plain fit is off by a quarter of a turn at the second echo and by more than two at the last
    assert error < 0.05


@pytest.mark.parametrize('name', FIELD)
def test_misfit_raises_the_noise(name):
    _, phase, magnitude, mask = _voxels()
    good = _call(name, phase, magnitude, mask, TIMES)[1]
    phase[..., 2] += 1.0
    assert (_call(name, phase, magnitude, mask, TIMES)[1] > 1.5 * good).mean() > 0.95


def test_nonlinear_finds_single_echo_and_empty_voxels():
    field, _, magnitude, mask = _voxels(snr=200)
    phase = field[..., None] / RATE * np.float32((0.02,))
    magnitude = magnitude[..., :1]
    magnitude[6] = 0
    fitted, noise, _ = _call('nonlinear', phase, magnitude, mask, (0.02,))
    np.testing.assert_allclose(fitted, field, atol=1e-4)
    assert np.isfinite(noise).all()
