import numpy as np
import pytest

from bids_qsm.recon.polarity import block_mean, find_polarity
from tests.recon.simulated_gre import scan


@pytest.mark.parametrize('b0', [(0.1, 0.2, 0.97), (0, 0, -1), (0.97, 0.2, 0.1), (0.3, -0.5, 0.8)])
@pytest.mark.parametrize('echoes', [slice(None), slice(0, 1)], ids=['multi-echo', 'single echo'])
def test_sign_is_found_from_the_shape_of_the_head(b0, echoes):
    s = scan(b0=b0)
    data = s.magnitude[..., echoes], s.echo_times[echoes], s.grid
    upright = find_polarity(s.phase[..., echoes], *data)
    inverted = find_polarity(-s.phase[..., echoes], *data)
    assert upright.sure
    assert inverted.sure
    assert upright.correlation > 0.25
    assert inverted.correlation < -0.25


def test_a_crop_settles_nothing():
    s = scan()
    crop = slice(16, 30), slice(16, 30), slice(16, 30)
    found = find_polarity(s.phase[crop], s.magnitude[crop], s.echo_times, s.grid)
    assert not found.sure
    assert 'mm thick' in found.why


def test_noise_settles_nothing():
    s = scan()
    noise = np.random.default_rng(1).uniform(-np.pi, np.pi, s.phase.shape).astype(np.float32)
    assert not find_polarity(noise, s.magnitude, s.echo_times, s.grid).sure


def test_block_mean():
    volume = np.arange(7 * 4 * 3).reshape(7, 4, 3)
    means = block_mean(volume, (2, 2, 1))
    assert means.shape == (3, 2, 3)
    assert means[1, 0, 2] == volume[2:4, :2, 2].mean()
