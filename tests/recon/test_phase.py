import numpy as np
import pytest

from bids_qsm.recon.phase import remove_offset, signal_mask, wrap
from tests.recon.simulated_gre import scan


def _error(offset, s):
    """Distance of an offset from the truth in the brain, rad, without the constant."""
    turn = np.exp(1j * (offset - s.offset)[s.brain])
    return np.angle(turn / turn.mean())


def test_wrap():
    angle = np.float32([-4, -3, 0, 3, 4, 100])
    wrapped = wrap(angle)
    assert (np.abs(wrapped) <= np.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angle), atol=1e-5)


@pytest.mark.parametrize('masked', [True, False])
def test_offset_is_found(masked):
    s = scan()
    mask = s.brain if masked else None
    phase, offset = remove_offset(s.phase, s.magnitude, mask, s.echo_times, s.grid)
    error = _error(offset, s)
    assert np.sqrt((error**2).mean()) < 0.05
    assert np.median(np.abs(error)) < 0.01
    assert phase.shape == s.phase.shape
    assert np.abs(phase).max() <= np.pi + 1e-6
    np.testing.assert_allclose(np.exp(1j * (phase + offset[..., None])), np.exp(1j * s.phase), atol=1e-5)


def test_smoothing_lowers_noise_without_bias_on_a_slope():
    s = scan(snr=15)
    raw, smooth = (
        np.abs(_error(remove_offset(s.phase, s.magnitude, s.brain, s.echo_times, s.grid, sigma_mm=mm)[1], s))
        for mm in (0, 4)
    )
    assert np.median(smooth) < np.median(raw) / 3
    ramp = np.broadcast_to(0.05 * np.arange(48, dtype=np.float32)[:, None, None], (48, 48, 48))
    steep = wrap(s.phase + ramp[..., None])
    found = remove_offset(steep, s.magnitude, s.brain, s.echo_times, s.grid)[1] - ramp
    assert np.median(np.abs(_error(found, s))) < 2 * np.median(smooth)


def test_a_single_echo_passes_through():
    s = scan()
    phase, offset = remove_offset(s.phase[..., :1], s.magnitude[..., :1], s.brain, (0.02,), s.grid)
    np.testing.assert_array_equal(phase, s.phase[..., :1])
    assert offset.shape == s.grid.shape
    assert not offset.any()


def test_signal_mask():
    s = scan()
    assert signal_mask(s.magnitude[..., 0])[s.brain].all()
    assert signal_mask(s.magnitude[..., 0]).mean() < 0.6
