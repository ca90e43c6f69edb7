import numpy as np
import pytest

from bids_qsm.recon.grid import Grid
from bids_qsm.recon.resolution import band_limited, coarsen, coarser_shape


def test_what_large_voxels_hold_is_kept_and_the_rest_is_left_out():
    n, m, ratio = 60, 40, 1.5
    kernel = band_limited(n, ratio, m)
    at = (np.arange(m) - (m - 1) / 2) * ratio + (n - 1) / 2
    j = np.arange(n)
    slow, fast = (np.cos(2 * np.pi * k * j / n + 0.3) for k in (7, 23))
    np.testing.assert_allclose(kernel @ slow, np.cos(2 * np.pi * 7 * at / n + 0.3), atol=1e-12)
    np.testing.assert_allclose(kernel @ fast, 0, atol=1e-12)


def test_half_the_voxels_are_the_middle_of_k_space():
    rng = np.random.default_rng(0)
    image = rng.normal(size=16) + 1j * rng.normal(size=16)
    k = np.fft.fft(image)
    k[4:13] = 0
    # the new voxels lie between two old ones
    shifted = np.fft.ifft(k * np.exp(2j * np.pi * np.fft.fftfreq(16) * 0.5))
    np.testing.assert_allclose(band_limited(16, 2.0, 8) @ image, shifted[::2], atol=1e-12)


def test_phase_and_place():
    grid = Grid((32, 30, 20), (0.8, 0.8, 2.0))
    x = np.arange(32)[:, None, None, None]
    echoes = np.array([1.0, 2.0])
    angle = np.broadcast_to(2 * np.pi * 2 * x / 32 * echoes, (*grid.shape, 2))
    magnitude, phase, to_old = coarsen(np.ones_like(angle), angle, grid, (1.6, 0.8, 2.0))
    assert magnitude.shape == (16, 30, 20, 2) == (*coarser_shape(grid, (1.6, 0.8, 2.0)), 2)
    np.testing.assert_allclose(magnitude, 1, atol=1e-5)
    old = to_old @ [3, 4, 5, 1]
    np.testing.assert_allclose(old, [6.5, 4, 5, 1])
    for e in range(2):
        expected = 2 * np.pi * 2 * old[0] / 32 * echoes[e]
        assert np.exp(1j * (phase[3, 4, 5, e] - expected)) == pytest.approx(1, abs=1e-5)


def test_smaller_voxels_are_refused():
    one = np.ones((4, 4, 4, 1))
    with pytest.raises(ValueError, match='smaller'):
        coarsen(one, one, Grid((4, 4, 4)), (0.5, 1, 1))
