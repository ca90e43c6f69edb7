import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon import phase
from bids_qsm.recon.field import linear
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import RUN, _convolve, combine_coils, remove_offset, signal_mask, wrap
from bids_qsm.recon.unwrap import romeo
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
    corrected, offset = remove_offset(s.phase, s.magnitude, mask, s.echo_times, s.grid)
    error = _error(offset, s)
    assert np.sqrt((error**2).mean()) < 0.05
    assert np.median(np.abs(error)) < 0.01
    assert corrected.shape == s.phase.shape
    assert np.abs(corrected).max() <= np.pi + 1e-6
    turned = np.exp(1j * (corrected + offset[..., None]))
    np.testing.assert_allclose(turned, np.exp(1j * s.phase), atol=1e-5)


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


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_smoothing_is_a_convolution_along_each_axis(axis):
    """The volume is longer than a run along its first two axes, and thinner than the taps are many."""
    volume = np.random.default_rng(0).standard_normal((9, 70, 64), np.float32)
    assert volume[0].size > RUN
    taps = np.float32([1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1]) / 49
    before = int(np.prod(volume.shape[:axis]))
    found = _convolve(volume.reshape(before, volume.shape[axis], -1), taps).reshape(volume.shape)
    wanted = ndimage.convolve1d(volume, taps, axis=axis, mode='constant')
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_smoothing_means_of_blocks_is_smoothing_voxels(monkeypatch):
    s = scan(snr=15)
    data = (s.phase[:47, :, :46], s.magnitude[:47, :, :46], s.brain[:47, :, :46], s.echo_times)
    size = s.grid.voxel_size[0]
    # blocks of 2 x 1 x 3 voxels
    grid = Grid(data[2].shape, (size, 2 * size, 0.6 * size))
    blocks = remove_offset(*data, grid, sigma_mm=3 * size)[1]
    monkeypatch.setattr(phase, 'COARSE', 100)
    voxels = remove_offset(*data, grid, sigma_mm=3 * size)[1]
    away = np.abs(wrap(blocks - voxels))[data[2]]
    assert 0 < np.median(away) < 0.005
    assert np.percentile(away, 99) < 0.03


def test_unwrapping_is_left_out_where_it_makes_whole_turns(monkeypatch):
    s = scan()
    for times in ((0.005, 0.010), (0.010, 0.015)):
        data = (s.phase[..., :2], s.magnitude[..., :2], s.brain, times, s.grid)
        monkeypatch.setattr(phase, 'WHOLE', 1e-4)
        left_out = remove_offset(*data)[1]
        monkeypatch.setattr(phase, 'WHOLE', -1)
        np.testing.assert_allclose(wrap(left_out - remove_offset(*data)[1])[s.brain], 0, atol=1e-3)


def test_a_single_echo_passes_through():
    s = scan()
    same, offset = remove_offset(s.phase[..., :1], s.magnitude[..., :1], s.brain, (0.02,), s.grid)
    np.testing.assert_array_equal(same, s.phase[..., :1])
    assert offset.shape == s.grid.shape
    assert not offset.any()


def test_signal_mask():
    s = scan()
    assert signal_mask(s.magnitude[..., 0])[s.brain].all()
    assert signal_mask(s.magnitude[..., 0]).mean() < 0.6


def _coils(s, count=6, noise=0.02, seed=0):
    """The scan as seen by coils around the head: gains, and offsets smooth in space."""
    rng = np.random.default_rng(seed)
    n = s.grid.shape[0]
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n)] * 3, indexing='ij', sparse=True)
    true = s.magnitude[..., :2] * np.exp(1j * s.true_phase[..., :2])
    images = []
    for c in range(count):
        angle = 2 * np.pi * c / count
        gain = np.exp(-((x - np.cos(angle)) ** 2 + (y - np.sin(angle)) ** 2) / 2)
        turn = np.exp(1j * (rng.uniform(-3, 3) + 2 * x * np.sin(angle + c) + y * np.cos(2 * c) + z * x))
        grain = (rng.standard_normal((*true.shape, 2)) @ [1, 1j]) * noise
        images.append(true * (gain * turn)[..., None] + grain)
    images = np.stack(images, -1)
    return np.abs(images).astype(np.float32), np.angle(images).astype(np.float32)


def test_coils_are_combined_without_their_offsets():
    s = scan()
    times = s.echo_times[:2]
    magnitude, combined = combine_coils(*_coils(s), times, s.grid)
    assert magnitude.shape == combined.shape == (*s.grid.shape, 2)
    assert magnitude.dtype == combined.dtype == np.float32
    for e in range(2):
        away = np.exp(1j * (combined[..., e] - s.true_phase[..., e]))[s.brain]
        assert np.abs(away.mean()) > 0.99
        assert np.median(np.abs(np.angle(away))) < 0.06


def test_coils_of_one_echo_are_refused():
    one = np.ones((4, 4, 4, 1, 2), np.float32)
    with pytest.raises(UserError, match='single echo'):
        combine_coils(one, one, (0.02,), scan().grid)


def test_two_bipolar_echoes_gain_no_more_than_a_linear_field():
    s = scan(with_offset=False)
    times, magnitude = s.echo_times[:2], s.magnitude[..., :2]
    line = (0.3 + 0.02 * np.arange(s.grid.shape[1]))[:, None, None].astype(np.float32)
    bent = wrap(s.phase[..., :2] + line * np.float32([1, -1]))
    fields = []
    for measured in (s.phase[..., :2], bent):
        cleaned, _ = remove_offset(measured, magnitude, s.brain, times, s.grid)
        unwrapped = romeo(cleaned, magnitude, s.brain, times)
        fields.append(linear(unwrapped, magnitude, s.brain, times, 3.0)[0])
    change = (fields[1] - fields[0])[s.brain]
    basis = np.stack([np.ones(s.brain.sum()), *np.nonzero(s.brain)], 1)
    rest = change - basis @ np.linalg.lstsq(basis, change, rcond=None)[0]
    assert change.std() > 0.02
    assert np.median(np.abs(rest)) < 0.002
