"""The operators and solvers under the methods of background field removal."""

import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.recon.background.pdf import seen_from
from bids_qsm.recon.background.spheres import within
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.distance import depth
from bids_qsm.recon.fourier import ball_weights, dipole_kernel, smv_kernel
from bids_qsm.recon.multigrid import Laplacian

SHAPE, STEPS = (15, 17, 13), (1.0, 0.7, 2.0)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def blob(seed=3, shape=SHAPE):
    """A region of any shape that keeps off the faces."""
    region = ndimage.gaussian_filter(noise(shape, seed), 1.5) > -0.05
    out = np.zeros(shape, bool)
    out[1:-1, 1:-1, 1:-1] = region[1:-1, 1:-1, 1:-1]
    return out


def test_spherical_operator_is_its_own_adjoint_and_positive():
    kernel = 1 - smv_kernel(SHAPE, STEPS, 3.0)
    region = blob()
    for apply in (within(region, kernel), within(region, kernel**2, 0.1)):
        kept = [region * noise(seed=s) for s in (1, 2)]
        assert np.vdot(apply(kept[0]), kept[1]) == pytest.approx(np.vdot(kept[0], apply(kept[1])), rel=1e-3)
        assert np.vdot(kept[0], apply(kept[0])) > 0
        assert not apply(kept[0])[~region].any()


def test_spherical_operator_squared_is_the_operator_twice():
    """The dual of RESHARP's problem holds because C M y needs no mask between the two."""
    kernel = 1 - smv_kernel(SHAPE, STEPS, 3.0)
    everywhere = np.ones(SHAPE, bool)
    once, square = within(everywhere, kernel), within(everywhere, kernel**2)
    np.testing.assert_allclose(once(once(noise())), square(noise()), atol=1e-5)


def test_dipoles_outside_have_an_adjoint():
    outside = ~blob()
    square = noise(seed=4) ** 2
    square[outside] = 0
    apply = seen_from(outside, dipole_kernel(SHAPE, STEPS, (0.0, 0.6, 0.8)), square)
    kept = [outside * noise(seed=s) for s in (1, 2)]
    assert np.vdot(apply(kept[0]), kept[1]) == pytest.approx(np.vdot(kept[0], apply(kept[1])), rel=1e-3)
    assert np.vdot(kept[0], apply(kept[0])) > 0


@pytest.mark.parametrize('steps', [(1.0, 1.0, 1.0), STEPS, (0.5, 0.5, 3.0)])
def test_multigrid_is_symmetric_and_nearly_inverts(steps):
    region = np.zeros((33, 35, 25), bool)
    region[1:-1, 1:-1, 1:-1] = blob(shape=(31, 33, 23))
    laplacian = Laplacian(region, steps, noise())
    x, y = (region * noise(region.shape, seed) for seed in (1, 2))
    for apply in (laplacian.apply, laplacian.cycle):
        assert np.vdot(apply(x), y) == pytest.approx(np.vdot(x, apply(y)), rel=1e-3, abs=1e-2)
        assert np.vdot(apply(x), x) > 0
    rest = x - laplacian.cycle(laplacian.apply(x))
    assert np.linalg.norm(rest) < 0.7 * np.linalg.norm(x)
    steps_taken = []

    def counted(v):
        steps_taken.append(1)
        return laplacian.apply(v)

    found = conjugate_gradient(
        counted, laplacian.apply(x), precondition=laplacian.cycle, tolerance=1e-5, max_iterations=50
    )
    np.testing.assert_allclose(found, x, atol=1e-3)
    assert len(steps_taken) < 20


def test_conjugate_gradients_solve_and_stop():
    scale = (1 + noise() ** 2).astype(np.float32)
    x = noise(seed=1)
    found = conjugate_gradient(lambda v: scale * v, scale * x, tolerance=1e-6, max_iterations=100)
    np.testing.assert_allclose(found, x, atol=1e-4)
    exact = conjugate_gradient(
        lambda v: scale * v, scale * x, precondition=lambda v: v / scale, tolerance=1e-6, max_iterations=1
    )
    np.testing.assert_allclose(exact, x, atol=1e-4)
    assert not conjugate_gradient(lambda v: v, 0 * x, tolerance=1e-6, max_iterations=5).any()


@pytest.mark.parametrize('limit', [2.5, 100.0])
def test_depth_is_the_distance_transform(limit):
    mask = ndimage.gaussian_filter(noise((30, 41, 27)), 2) > -0.08
    expected = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=STEPS)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(depth(mask, STEPS, limit), np.minimum(expected, limit), atol=1e-5)


@pytest.mark.parametrize('steps', [(1.0, 1.0, 2.0), (0.5, 0.5, 3.0), (1.0, 1.2, 0.9)])
@pytest.mark.parametrize('radius', [1.0, 4.0])
def test_balls_spread_alike_along_every_axis(steps, radius):
    weights = ball_weights(steps, radius)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    spread = []
    for axis, step in enumerate(steps):
        line = weights.sum(tuple(a for a in range(3) if a != axis), dtype=float)
        spread.append((line * ((np.arange(line.size) - line.size // 2) * step) ** 2).sum())
    np.testing.assert_allclose(spread, spread[0], rtol=1e-3)
