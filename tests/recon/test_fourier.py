import itertools

import numpy as np
import pytest

from bids_qsm.recon.fourier import (
    Box,
    ball_weights,
    convolve,
    dipole_kernel,
    frequencies,
    irfft,
    rfft,
    smv_kernel,
)
from bids_qsm.recon.grid import Grid

SHAPES = [(16, 12, 10), (13, 16, 11), (7, 9, 13)]
OBLIQUE = tuple(np.array([0.3, -0.4, 0.8]) / np.linalg.norm([0.3, -0.4, 0.8]))


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize('shape', SHAPES)
def test_transform_returns_and_stays_single(shape):
    x = noise(shape)
    spectrum = rfft(x)
    assert spectrum.dtype == np.complex64
    back = irfft(spectrum, shape)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize('shape', SHAPES)
def test_dipole_is_the_full_kernel_made_even(shape):
    size = (1.0, 1.5, 2.0)
    expected = 0
    for signs in itertools.product((-1, 1), repeat=3):
        axes = [np.fft.fftfreq(n, v) for n, v in zip(shape, size, strict=True)]
        for axis, n, sign in zip(axes, shape, signs, strict=True):
            if n % 2 == 0:
                axis[n // 2] *= sign
        k = np.meshgrid(*axes, indexing='ij')
        square = sum(q**2 for q in k)
        square[0, 0, 0] = 1
        kernel = 1 / 3 - sum(b * q for b, q in zip(OBLIQUE, k, strict=True)) ** 2 / square
        kernel[0, 0, 0] = 0
        expected = expected + kernel[..., : shape[2] // 2 + 1] / 8
    np.testing.assert_allclose(dipole_kernel(shape, size, OBLIQUE), expected, atol=2e-6)


def test_dipole_of_a_sphere():
    """Outside a uniform sphere the field is that of a dipole; inside it is zero (with the Lorentz sphere)."""
    n, radius = 64, 8.0
    axes = np.meshgrid(*[np.arange(n) - n / 2] * 3, indexing='ij')
    ball = ball_weights((1, 1, 1), radius)
    chi = np.zeros((n,) * 3, np.float32)
    half = ball.shape[0] // 2
    middle = slice(n // 2 - half, n // 2 + half + 1)
    chi[middle, middle, middle] = ball / ball.max()
    field = convolve(chi, dipole_kernel(chi.shape, (1, 1, 1), OBLIQUE))
    r = np.sqrt(sum(a**2 for a in axes))
    along = sum(a * b for a, b in zip(axes, OBLIQUE, strict=True))
    outside = (r > radius + 3) & (r < 20)
    theory = (radius**3 / 3 / r[outside] ** 3) * (3 * along[outside] ** 2 / r[outside] ** 2 - 1)
    assert np.polyfit(theory, field[outside], 1)[0] == pytest.approx(1, abs=0.02)
    assert np.corrcoef(theory, field[outside])[0, 1] > 0.995
    assert np.abs(field[r < radius - 3]).max() < 0.02


@pytest.mark.parametrize('shape', SHAPES)
def test_kernels_are_their_own_adjoint(shape):
    x, y = noise(shape), noise(shape, 1)
    for kernel in (dipole_kernel(shape, (1, 1, 2), OBLIQUE), smv_kernel(shape, (1, 1, 2), 3.0)):
        assert np.vdot(convolve(x, kernel), y) == pytest.approx(np.vdot(x, convolve(y, kernel)), rel=1e-4)


def test_mean_over_a_ball_keeps_harmonic_fields():
    size, radius = (1.0, 1.2, 2.0), 5.0
    axes = np.meshgrid(*(np.arange(24) * v for v in size), indexing='ij')
    x, y, z = (a - a.mean() for a in axes)
    field = (2 * z**2 - x**2 - y**2 + x * y + 3 * z).astype(np.float32)
    smooth = convolve(field, smv_kernel(field.shape, size, radius))
    inner = (slice(6, -6), slice(6, -6), slice(4, -4))
    # the voxels that tile the ball are themselves not cubes: a small second-order residue is theirs
    curvature = radius**2
    assert np.abs(smooth - field)[inner].max() < 0.02 * curvature


def test_ball_weights_follow_volume_and_are_even():
    for radius in (1.0, 2.3, 6.0):
        weights = ball_weights((1.0, 1.0, 2.0), radius)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    volume = 1 / ball_weights((1.0, 1.0, 1.0), 6.0).max()
    assert volume == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.02)


def test_box_pads_on_all_sides_and_returns():
    mask = np.zeros((20, 21, 22), bool)
    mask[0:9, 5:12, 15:22] = True
    box = Box.around(mask, Grid(mask.shape, (1, 1, 2)), padding=6, margin=2)
    assert box.region == (slice(0, 11), slice(3, 14), slice(14, 22))
    assert all(n >= 8 + 3 for n in box.shape)
    inside = box.crop(mask)
    for axis in range(3):
        lines = inside.any(axis=tuple(a for a in range(3) if a != axis))
        assert not lines[0]
        assert not lines[-1]
    x = noise(mask.shape)
    np.testing.assert_array_equal(box.uncrop(box.crop(x))[mask], x[mask])
    assert not box.uncrop(box.crop(x))[12:].any()
    y = noise(box.shape, 2)
    assert np.vdot(box.crop(x), y) == pytest.approx(np.vdot(x, box.uncrop(y)), rel=1e-5)


def test_frequencies_are_cycles_per_mm():
    k = frequencies((8, 5, 6), (2.0, 1.0, 0.5))
    assert k[0].min() == pytest.approx(-0.25)
    assert k[1].max() == pytest.approx(0.4)
    assert k[2].max() == pytest.approx(1.0)
