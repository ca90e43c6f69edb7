from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import like
from bids_qsm.recon.csf import ventricles
from bids_qsm.recon.fourier import convolve, dipole_kernel, gradient_energy
from bids_qsm.recon.fused_kernels import divergence, gradient, pull, step_gradient
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import ilsqr, l2, medi, medi0, rts, tikhonov, tsvd
from bids_qsm.recon.inversion.ilsqr import smoothing_operator, streaks
from bids_qsm.recon.inversion.medi import doubt
from bids_qsm.recon.inversion.morphology import pull_smooth, smooth_places, step_smooth
from bids_qsm.recon.inversion.tikhonov import least_squares, normal_operator
from bids_qsm.recon.registry import call

SHAPE, SPACING = (12, 11, 14), (1.0, 1.5, 2.0)
RADIANS = 10.0


@pytest.fixture(scope='module')
def data(head, measured):
    """What a registry hands to a method; the magnitude shows the nuclei and the cortex."""
    rng = np.random.default_rng(2)
    magnitude = head.brain * (1 - head.chi) + 0.01 * rng.standard_normal(head.grid.shape)
    return {
        'field': measured,
        'mask': head.brain,
        'noise': head.noise,
        'grid': head.grid,
        'magnitude': magnitude.astype(np.float32),
        'radians_per_ppm': RADIANS,
        'r2star': np.where(head.ventricles, 2, 20).astype(np.float32),
    }


def error(found, truth, mask):
    found, truth = found[mask] - found[mask].mean(), truth[mask] - truth[mask].mean()
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def random(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


LIMITS = {tsvd: 0.55, l2: 0.55, tikhonov: 0.45, rts: 0.4, ilsqr: 0.4, medi: 0.3, medi0: 0.3}


@pytest.mark.parametrize(('function', 'limit'), LIMITS.items())
def test_little_head(head, data, function, limit):
    chi = call(function, data, {})
    assert chi.dtype == np.float32
    assert not chi[~head.brain].any()
    assert error(chi, head.chi, head.brain) < limit
    deep = head.nuclei
    assert 0.75 < np.polyfit(head.chi[deep], chi[deep], 1)[0] < 1.1


@pytest.mark.parametrize('function', [tikhonov, rts, ilsqr, medi])
def test_noise_map_shields_from_a_spoilt_patch(head, data, function):
    spoilt, noise = data['field'].copy(), head.noise.copy()
    patch = tuple(slice(n // 2 + 8, n // 2 + 11) for n in head.grid.shape)
    spoilt[patch] += 0.2
    noise[patch] = 0.2
    params = {'outlier': 0.0} if function is medi else {}
    aware = call(function, {**data, 'field': spoilt, 'noise': noise}, params)
    naive = call(function, {**data, 'field': spoilt}, params)
    assert error(aware, head.chi, head.brain) < 0.75 * error(naive, head.chi, head.brain)


@pytest.mark.parametrize('function', [tsvd, l2, tikhonov, rts, ilsqr])
def test_scale_of_field_and_noise_is_a_unit_only(data, head, function):
    one = call(function, data, {})
    two = call(function, {**data, 'field': 8 * data['field'], 'noise': 8 * head.noise}, {})
    np.testing.assert_allclose(two, 8 * one, atol=2e-3)


def test_smoother_with_more_noise(data, head):
    for function in (tsvd, l2, tikhonov, rts, ilsqr):
        sure, unsure = (call(function, {**data, 'noise': s * head.noise}, {}) for s in (1, 4))
        rough = [np.abs(np.diff(chi, axis=0)).sum() for chi in (sure, unsure)]
        assert rough[1] < rough[0]


def test_tikhonov_order(data):
    small = call(tikhonov, data, {'order': 0})
    assert error(small, call(tikhonov, data, {}), data['mask']) < 0.6
    with pytest.raises(UserError, match='order is 2; it must be 0 or 1'):
        call(tikhonov, data, {'order': 2})


def test_closed_form_solves_its_normal_equations():
    """Where all voxels are trusted alike, conjugate gradients arrive at the closed form."""
    field = random(0)
    dipole = dipole_kernel(SHAPE, SPACING, (0.0, 0.6, 0.8))
    prior = np.float32(0.02) * gradient_energy(SHAPE, SPACING)
    found = least_squares(field, np.ones(SHAPE, np.float32), dipole, prior, 1e-6, 20)
    better = dipole**2 + prior
    better[0, 0, 0] = 1
    np.testing.assert_allclose(found, convolve(field, dipole / better), atol=1e-5)


def adjoint(apply):
    """<A x, y> and <x, A y>."""
    x, y = random(1), random(2)
    return float((apply(x.copy()) * y).sum()), float((x * apply(y.copy())).sum())


@pytest.mark.parametrize('tilt', [(0.0, 0.0, 1.0), (0.36, 0.48, -0.8)])
def test_normal_operator_is_its_own_adjoint(tilt):
    dipole = dipole_kernel(SHAPE, SPACING, tilt)
    trust = random(3) ** 2
    left, right = adjoint(normal_operator(trust, dipole, 0.1 * gradient_energy(SHAPE, SPACING)))
    assert left == pytest.approx(right, rel=1e-4)


def test_smoothing_operator_is_its_own_adjoint():
    flat = (np.abs(dipole_kernel(SHAPE, SPACING, (0.36, 0.48, -0.8))) < 0.1).astype(np.float32)
    steps = tuple(1 / h for h in SPACING)
    left, right = adjoint(smoothing_operator(flat, random(3) ** 2, np.empty((3, *SHAPE), np.float32), steps))
    assert left == pytest.approx(right, rel=1e-4)


def test_streaks_lie_in_the_cone_and_are_found():
    """What is added within the cone to an otherwise smooth map is taken off again."""
    shape = (32, 30, 31)
    kernel = dipole_kernel(shape, (1.0, 1.0, 1.0), (0.0, 0.28, 0.96))
    cone = np.abs(kernel) < 0.1
    block = np.zeros(shape, np.float32)
    block[12:20, 12:20, 12:20] = 1
    added = convolve(random(4, shape), cone.astype(np.float32)) * np.float32(0.05)
    inside = np.ones(shape, bool)
    found = streaks(block + added, inside, cone, (1.0, 1.0, 1.0), 0.3, 0.97, 1e-3, 100)
    assert np.linalg.norm(found - added) < 0.7 * np.linalg.norm(added)
    np.testing.assert_allclose(convolve(found, cone.astype(np.float32)), found, atol=1e-5)


def test_edges_of_the_magnitude_are_spared():
    magnitude = np.zeros(SHAPE, np.float32)
    magnitude[6:] = 1 + np.arange(6, dtype=np.float32)[:, None, None] / 100
    inside = np.ones(SHAPE, bool)
    inside[0] = False
    smooth = smooth_places(magnitude, inside, SPACING, 0.05)
    assert not smooth[0, 5].any()
    assert smooth[0, 6:-1].all()
    assert smooth[1:].all()
    assert smooth_places(magnitude, inside, SPACING, 0.0).all()


def test_steps_with_edges_are_the_plain_ones_without():
    x, steps, threshold = random(0), tuple(1 / h for h in SPACING), 0.5
    plain, vector = (random(1, (3, *SHAPE)) for _ in range(2))
    everywhere = np.ones((3, *SHAPE), bool)
    outs = [np.empty(SHAPE, np.float32) for _ in range(2)]
    step_gradient(x, plain, steps, threshold, 1.8)
    pull(plain, outs[0], steps, threshold)
    step_smooth(x, vector, everywhere, steps, threshold, 1.8)
    pull_smooth(vector, everywhere, outs[1], steps, threshold)
    np.testing.assert_allclose(vector, plain, atol=1e-5)
    np.testing.assert_allclose(outs[1], outs[0], atol=1e-4)


def test_differences_at_edges_are_not_shrunk():
    """There the target of the next gradient is the over-relaxed gradient itself."""
    x, steps = random(0), tuple(1 / h for h in SPACING)
    smooth = random(5, (3, *SHAPE)) > 0
    smooth[:, 3] = False
    vector, slopes = random(1, (3, *SHAPE)), np.empty((3, *SHAPE), np.float32)
    expected = -0.8 * vector
    gradient(x, slopes, steps)
    step_smooth(x, vector, smooth, steps, 0.5, 1.8)
    expected += 1.8 * slopes
    np.testing.assert_allclose(vector[~smooth], expected[~smooth], atol=1e-5)
    out, plain = (np.empty(SHAPE, np.float32) for _ in range(2))
    smooth[:] = False
    pull_smooth(vector, smooth, out, steps, 0.5)
    divergence(vector, plain, steps)
    np.testing.assert_allclose(out, plain, atol=1e-4)


def test_steps_with_edges_are_the_same_on_tensors():
    torch = pytest.importorskip('torch')
    x, steps, smooth = random(0), (1.0, 0.5, 2.0), random(5, (3, *SHAPE)) > 0
    arrays = [x, random(1, (3, *SHAPE)), smooth, np.zeros(SHAPE, np.float32)]
    tensors = [like(a.copy(), torch.zeros(1)) for a in arrays]
    for x, vector, smooth, out in (arrays, tensors):
        step_smooth(x, vector, smooth, steps, 0.7, 1.8)
        pull_smooth(vector, smooth, out, steps, 0.7)
    for a, b in zip(arrays, tensors, strict=True):
        np.testing.assert_allclose(b.numpy(), a, atol=1e-4)


def test_doubt_falls_on_outliers_alone():
    misfit = 0.001 * random(0)
    misfit[3, 3, 3] = 0.05
    misfit[4, 4, 4] = 2 * np.pi / RADIANS
    weight = np.ones(SHAPE, np.float32)
    weight[5:7] = 0
    less = doubt(misfit, weight, RADIANS, 6.0)
    assert less[3, 3, 3] < 1e-2
    less[3, 3, 3] = 1
    assert (less == 1).all()


def test_medi_doubts_outliers(head, data):
    """Voxels that are spoilt without the noise map knowing of it do less harm."""
    rng, spoilt = np.random.default_rng(0), data['field'].copy()
    where = head.brain & (rng.random(spoilt.shape) < 0.002)
    spoilt[where] += 0.05 * rng.standard_normal(np.count_nonzero(where), dtype=np.float32)
    robust, plain = (call(medi, {**data, 'field': spoilt}, {'outlier': limit}) for limit in (6.0, 0.0))
    assert error(robust, head.chi, head.brain) < 0.9 * error(plain, head.chi, head.brain)


def test_medi0_refers_to_even_csf(head, data):
    chi, plain = call(medi0, data, {}), call(medi, data, {})
    csf, _ = ventricles(head.brain, data['r2star'], head.grid)
    assert abs(chi[csf].mean()) < 1e-6
    assert chi[csf].std() < 0.5 * plain[csf].std()


def test_csf_is_found_in_the_middle(head, data):
    far = data['r2star'].copy()
    rim = np.argwhere(head.brain)[0]
    far[tuple(rim)] = 1
    found, _ = ventricles(head.brain, far, head.grid)
    assert found.any()
    assert not (found & ~head.ventricles).any()


def test_medi0_needs_csf(data):
    with pytest.raises(UserError, match='more than one echo'):
        call(medi0, {**data, 'r2star': None}, {})
    with pytest.raises(UserError, match='CSF'):
        call(medi0, {**data, 'r2star': np.full_like(data['r2star'], 30)}, {})


@pytest.mark.parametrize('function', list(LIMITS))
@pytest.mark.parametrize('sign', [1, -1])
def test_odd_anisotropic_tilted(function, sign):
    """A block of known susceptibility comes out to scale, and worse with B0 on the other side."""
    tilt = (0.0, -sign * 0.42261826, 0.90630779)
    grid = Grid((47, 41, 29), (1.0, 1.0, 2.0), tilt)
    chi, mask = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, bool)
    chi[20:26, 18:24, 13:16] = 0.1
    mask[5:-5, 5:-5, 4:-4] = True
    csf = np.zeros(grid.shape, bool)
    csf[28:34, 24:30, 10:14] = True
    data = {
        'field': convolve(chi, dipole_kernel(grid.shape, grid.voxel_size, grid.b0_dir)),
        'mask': mask,
        'noise': np.full(grid.shape, 1e-3, np.float32),
        'grid': grid,
        'magnitude': 1 - chi,
        'radians_per_ppm': RADIANS,
        'r2star': np.where(csf, 2, 20).astype(np.float32),
    }
    # its block of CSF has .3 ml
    params = {'min_ml': 0.0} if function is medi0 else {}
    found = call(function, data, params)
    core = (slice(22, 24), slice(20, 22), 14)
    assert found[core].mean() - found[mask & (chi == 0)].mean() == pytest.approx(0.1, abs=0.035)
    other = call(function, {**data, 'grid': replace(grid, b0_dir=(0.0, -tilt[1], tilt[2]))}, params)
    assert error(other, chi, mask) > 1.2 * error(found, chi, mask)
