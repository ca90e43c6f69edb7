import numpy as np
import pytest

from bids_qsm.recon import fused_kernels, solvers


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def gradient(x, spacing):
    return np.stack([(np.roll(x, -1, axis) - x) / h for axis, h in enumerate(spacing)])


@pytest.mark.parametrize('shape', [(6, 7, 9), (8, 8, 8)])
def test_divergence_is_the_adjoint_of_the_gradient(shape):
    spacing = (1.0, 0.7, 2.0)
    x, q = noise(shape), noise((3, *shape), 1)
    out = np.empty(shape, np.float32)
    fused_kernels.divergence(q, out, tuple(1 / h for h in spacing))
    assert np.vdot(gradient(x, spacing), q) == pytest.approx(np.vdot(x, out), rel=1e-4)


def parts(vector, threshold):
    """What shrinking a vector cuts off, and what it leaves."""
    cut = vector * np.minimum(1, threshold / np.linalg.norm(vector, axis=0))
    return cut, vector - cut


SHAPE = (5, 6, 7)
THRESHOLDS = pytest.mark.parametrize('threshold', [0.8, 0.4 + np.abs(noise(SHAPE, 2))], ids=['one', 'each'])


@THRESHOLDS
def test_step_of_the_gradient_is_relaxed_admm(threshold):
    shape, spacing, relax = SHAPE, (1.0, 2.0, 0.5), 1.8
    x, vector = noise(shape), noise((3, *shape), 1)
    dual, shrunk = parts(vector, threshold)
    expected = dual + relax * gradient(x, spacing) + (1 - relax) * shrunk
    fused_kernels.step_gradient(x, vector, tuple(1 / h for h in spacing), threshold, relax)
    np.testing.assert_allclose(vector, expected, atol=1e-5)


@THRESHOLDS
def test_pull_is_the_divergence_of_shrunk_less_dual(threshold):
    shape, inverse = SHAPE, (1.0, 0.5, 2.0)
    vector = noise((3, *shape), 1)
    dual, shrunk = parts(vector, threshold)
    found, expected = np.empty(shape, np.float32), np.empty(shape, np.float32)
    fused_kernels.pull(vector, found, inverse, threshold)
    fused_kernels.divergence((shrunk - dual).astype(np.float32), expected, inverse)
    np.testing.assert_allclose(found, expected, atol=1e-5)


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
