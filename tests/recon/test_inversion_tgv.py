from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import tgv
from bids_qsm.recon.inversion.stencils import HALF, ascend, descend, wave_stencil
from bids_qsm.recon.inversion.tgv import _block_means, _expand
from tests.recon.test_inversion import error


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_the_two_passes_are_adjoint():
    shape, slopes = (9, 8, 10), (1.0, 1.3, 0.6)
    inside = np.zeros(shape, bool)
    inside[1:-1, 1:-1, 1:-1] = random((7, 6, 8)) > -1
    inner = inside & (random(shape, 1) > 0)
    wave = wave_stencil((1.0, 0.8, 1.7), (0.0, 0.6, -0.8))
    chi, psi = (random(shape, n) * inside for n in (2, 3))
    w = random((3, *shape), 4) * inside
    p, q, eta = (np.zeros(s, np.float32) for s in ((3, *shape), (6, *shape), shape))
    zero, far = np.zeros(shape, np.float32), (1e9, 1e9)
    # from zero, steps of one give K x, whose own support is that of the dual variables
    ascend(chi, w, psi, p, q, eta, zero, inside, inner, wave, slopes, (1, 1, 1), far)
    image = [a.copy() for a in (p, q, eta)]
    duals = [random(a.shape, 5 + n) * (a != 0) for n, a in enumerate(image)]
    x, steep, rest = (
        np.zeros(shape, np.float32),
        np.zeros((3, *shape), np.float32),
        np.zeros(shape, np.float32),
    )
    ahead = np.zeros((5, *shape), np.float32)
    descend(x, steep, rest, *duals, ahead, zero, inside, wave, slopes, (1, 1, 1))
    # the mixed slopes stand for two entries of a symmetric matrix each
    twice = np.array([1, 1, 1, 2, 2, 2]).reshape(6, 1, 1, 1)
    left = sum(np.vdot(a * f, b) for a, b, f in zip(image, duals, (1, twice, 1), strict=True))
    right = -sum(np.vdot(a, b) for a, b in zip((x, steep, rest), (chi, w, psi), strict=True))
    assert left == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize('b0_dir', [(0.0, 0.0, 1.0), (0.0, 0.6, -0.8), (0.36, 0.48, 0.8)])
def test_stencil_is_the_dipole_of_the_laplacian(b0_dir):
    """Of a smooth source both orders of dipole and Laplacian give the same field."""
    shape, voxel_size = (48, 48, 48), (1.0, 1.0, 1.5)
    size = np.prod(voxel_size) ** (1 / 3)
    x, y, z = np.meshgrid(*((np.arange(48) - 24) * h for h in voxel_size), indexing='ij')
    source = np.exp(-(x**2 + (y - 1) ** 2 + z**2) / (2 * 2.5**2)).astype(np.float32)
    field = convolve(source, dipole_kernel(shape, voxel_size, b0_dir))
    laplacian = sum(
        (np.roll(field, 1, a) + np.roll(field, -1, a) - 2 * field) * (size / h) ** 2
        for a, h in enumerate(voxel_size)
    )
    wave = wave_stencil(voxel_size, b0_dir)
    assert wave.size == 1 + len(HALF)
    found = wave[0] * source
    for c, shift in zip(wave[1:], HALF, strict=True):
        found += c * (np.roll(source, shift, (0, 1, 2)) + np.roll(source, [-s for s in shift], (0, 1, 2)))
    assert np.linalg.norm(found - laplacian) < 0.1 * np.linalg.norm(laplacian)


@pytest.fixture(scope='module')
def clean(head, measured):
    return tgv(measured - head.local + head.total, head.brain, head.noise, head.grid)


def test_total_field_to_susceptibility_without_erosion(head, clean):
    chi = clean
    assert chi.dtype == np.float32
    assert not chi[~head.brain].any()
    deep = head.nuclei
    assert error(chi, head.chi, deep) < 0.5
    assert 0.7 < np.polyfit(head.chi[deep], chi[deep], 1)[0] < 1.15
    assert error(chi, head.chi, head.brain) < 1


def test_a_sinus_of_noise_does_no_harm_where_the_noise_map_knows_it(head, measured, clean):
    total = measured - head.local + head.total
    noise = head.noise.copy()
    i, j, k = (n // 2 for n in head.grid.shape)
    patch = (slice(i - 4, i + 4), slice(j + 12, j + 20), slice(k - 10, k - 4))
    total[patch] += 2 * random(total[patch].shape)
    noise[patch] = 2
    chi = tgv(total, head.brain, noise, head.grid)
    deep = head.nuclei
    assert error(chi, head.chi, deep) < 1.15 * error(clean, head.chi, deep)
    assert np.abs(chi).max() < 2 * np.abs(clean).max()


def test_odd_anisotropic_tilted():
    grid = Grid((47, 41, 29), (1.0, 1.0, 2.0), (0.0, -0.42261826, 0.90630779))
    chi = np.zeros(grid.shape, np.float32)
    chi[20:26, 18:24, 13:16] = 0.1
    mask = np.zeros(grid.shape, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    outside = np.zeros(grid.shape, np.float32)
    outside[20:30, 10:20, -2:] = 5
    field = convolve(chi + outside, dipole_kernel(grid.shape, grid.voxel_size, grid.b0_dir))
    noise = np.full(grid.shape, 1e-3, np.float32)
    found = tgv(field, mask, noise, grid)
    core = (slice(22, 24), slice(20, 22), 14)
    assert found[core].mean() - found[mask & (chi == 0)].mean() == pytest.approx(0.1, abs=0.03)
    other = tgv(field, mask, noise, replace(grid, b0_dir=(0.0, 0.42261826, 0.90630779)))
    assert error(other, chi, mask) > 1.2 * error(found, chi, mask)


def test_coarsening_keeps_a_ramp():
    factors, shape = (2, 1, 2), (11, 6, 9)
    ramp = np.arange(11, dtype=np.float32)[:, None, None] + np.zeros(shape, np.float32)
    back = _expand(_block_means(ramp, factors), factors, shape, np.ones(shape, np.float32))
    # the border holds zeros, and so does what fills the last block
    np.testing.assert_allclose(back[1:9, :, 1:7][:, 1:5], ramp[1:9, 1:5, 1:7], atol=1e-5)
