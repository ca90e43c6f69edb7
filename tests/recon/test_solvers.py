import numpy as np
import pytest

from bids_qsm.recon import passes, solvers


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def gradient(x, spacing):
    return np.stack([(np.roll(x, -1, axis) - x) / h for axis, h in enumerate(spacing)])


@pytest.mark.parametrize('shape', [(6, 7, 9), (8, 8, 8)])
def test_divergence_is_the_adjoint_of_the_gradient(shape):
    spacing = (1.0, 0.7, 2.0)
    x, q = noise(shape), noise((3, *shape), 1)
    out = np.empty(shape, np.float32)
    passes.divergence(q, out, tuple(1 / h for h in spacing))
    assert np.vdot(gradient(x, spacing), q) == pytest.approx(np.vdot(x, out), rel=1e-4)


def test_shrink_parts_the_vector():
    shape, spacing = (5, 6, 7), (1.0, 2.0, 0.5)
    x, dual = noise(shape), noise((3, *shape), 1)
    whole = gradient(x, spacing) + dual
    target = np.zeros_like(dual)
    passes.shrink(x, dual, target, tuple(1 / h for h in spacing), 0.8, 1.0)
    norm = np.sqrt((whole**2).sum(0))
    cut = whole * np.minimum(1, 0.8 / norm)
    np.testing.assert_allclose(dual, cut, atol=1e-5)
    np.testing.assert_allclose(target, whole - 2 * cut, atol=1e-5)


def test_total_variation_denoises_a_step():
    """Of a step of height 1 in noise TV keeps the edge, and takes from each side weight * area / volume."""
    shape, penalty, weight = (16, 8, 8), 1.0, 0.3
    clean = np.zeros(shape, np.float32)
    clean[8:] = 1
    noisy = clean + 0.1 * noise(shape)
    k = [2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(n)) for n in shape]
    square = k[0][:, None, None] + k[1][:, None] + k[2]

    def least_squares(pull):
        spectrum = np.fft.fftn(noisy + penalty * pull) / (1 + penalty * square)
        return np.fft.ifftn(spectrum).real.astype(np.float32)

    x = solvers.total_variation(
        least_squares, clean, (1, 1, 1), weight=weight, penalty=penalty, tolerance=1e-5, max_iterations=500
    )
    # two faces (the volume is periodic) pull a plateau of eight layers by weight each
    expected = clean + 2 * weight / 8 * (1 - 2 * clean)
    for plateau in (slice(1, 7), slice(9, 15)):
        assert np.abs(x - expected)[plateau].max() < 0.04
        assert x[plateau].std() < 0.01
