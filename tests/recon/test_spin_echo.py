"""R2 from spin echoes with imperfect refocusing."""

import numpy as np
import pytest

from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.spin_echo import Train, find_profile, fit_r2, train_noise


def isochromats(r2, b1, train, *, t1=1.0, n=200):
    """Echoes of spins that dephase evenly, turned one by one: what the phase graph sums up."""
    phase = (np.arange(n) + 0.5) / n * 2 * np.pi
    angle = np.radians(train.refocusing) * b1
    spins = np.stack([np.full(n, np.sin(np.pi / 2 * b1)), np.zeros(n), np.zeros(n)])
    slow, fast = np.exp(-train.spacing / 2 / t1), np.exp(-r2 * train.spacing / 2)

    def wait(spins):
        x, y, z = spins
        c, s = np.cos(phase), np.sin(phase)
        return np.stack([fast * (c * x - s * y), fast * (s * x + c * y), slow * z])

    out = []
    for _ in range(train.n):
        x, y, z = wait(spins)
        c, s = np.cos(angle), np.sin(angle)
        spins = wait(np.stack([x, c * y - s * z, s * y + c * z]))
        out.append(abs((spins[0] + 1j * spins[1]).mean()))
    return np.array(out)


@pytest.mark.parametrize(('b1', 'refocusing'), [(1.0, 180), (0.75, 180), (1.1, 180), (0.8, 150)])
def test_echoes_are_those_of_single_spins(b1, refocusing):
    train = Train(0.010, 16, refocusing)
    for r2 in (10.0, 40.0):
        assert np.allclose(train.signal(np.array(r2), np.array(b1)), isochromats(r2, b1, train), atol=1e-6)


def test_a_train_needs_two_echoes():
    with pytest.raises(ValueError, match='two echoes'):
        Train(0.01, 1)


def test_r2_and_the_transmit_field_are_found():
    """A quarter of the voxels off the nominal angle by 20 %: an exponential would be off by 6 % and more."""
    train, shape, rng = Train(0.010, 16), (24, 24, 12), np.random.default_rng(3)
    place = np.linspace(-1, 1, 24)[:, None, None]
    b1 = np.broadcast_to(1 - 0.2 * place**2, shape)
    r2 = np.where(rng.random((6, 6, 3)) > 0.5, 13.0, 20.0).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    clean = 1000 * train.signal(r2, b1)
    noise = 10 * (rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape))
    echoes = np.abs(clean + noise).astype(np.float32)
    mask = np.ones(shape, bool)
    mask[0] = False
    found, sd, s0, field = fit_r2(echoes, mask, train, noise=10.0, voxel_size=(2, 2, 2))
    assert not found[~mask].any()
    for one in (13.0, 20.0):
        where = mask & (r2 == one)
        assert abs(found[where].mean() / one - 1) < 0.015
        assert 0.7 < found[where].std() / sd[where].mean() < 1.5
    assert np.abs(field - b1)[mask].mean() < 0.03
    assert abs(s0[mask].mean() / 1000 - 1) < 0.03
    told, *_ = fit_r2(echoes, mask, train, noise=10.0, voxel_size=(2, 2, 2), b1=b1.astype(np.float32))
    assert np.abs(told - r2)[mask].mean() < np.abs(found - r2)[mask].mean() * 1.1


def test_echoes_below_the_noise_floor_are_left_out():
    train = Train(0.02, 12)
    clean = 100 * train.signal(np.full((4, 4, 4), 40.0), np.ones((4, 4, 4)))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape)
    echoes = np.abs(clean + noise).astype(np.float32)
    mask = np.ones((4, 4, 4), bool)
    found, *_ = fit_r2(echoes, mask, train, noise=1.0, voxel_size=(2, 2, 2), b1=np.ones((4, 4, 4)))
    assert abs(found.mean() - 40) < 1
    dark, *_ = fit_r2(np.ones_like(echoes), mask, train, noise=1.0, voxel_size=(2, 2, 2))
    assert not dark.any()


@pytest.mark.parametrize('profile', [(0.35, 0.7, 0.9, 0.98, 1.0), (0.2, 0.6, 0.95, 1.0, 1.0, 1.0, 1.0)])
def test_pulses_that_select_a_slice_bias_r2_less_once_their_profile_is_fitted(profile):
    """Profiles that are none of those tried: more than half of the bias, or a third, goes."""
    train, shape, rng = Train(0.010, 12), (20, 20, 8), np.random.default_rng(5)
    b1 = np.broadcast_to(1 - 0.25 * np.linspace(-1, 1, 20)[:, None, None] ** 2, shape)
    echoes = 1000 * Train(0.010, 12, profile=profile).signal(np.full(shape, 14.0), b1)
    echoes = (echoes + 8 * rng.standard_normal(echoes.shape)).astype(np.float32)
    mask, given = np.ones(shape, bool), {'noise': 8.0, 'voxel_size': (2, 2, 2)}
    plain = fit_r2(echoes, mask, train, **given)[0].mean() / 14 - 1
    found = find_profile(echoes, mask, train, **given)
    assert found.profile[-1] < 0.9
    fitted = fit_r2(echoes, mask, found, **given)[0].mean() / 14 - 1
    assert -0.08 < plain < -0.025
    assert abs(fitted) < 0.7 * abs(plain)


def test_the_noise_of_a_train_that_the_scanner_interpolated_is_seen():
    """Twice the voxels in the slice by zeros in k-space: the finest detail is empty."""
    train, rng = Train(0.010, 12), np.random.default_rng(4)
    clean = 1000 * train.signal(np.full((16, 16, 8), 14.0), np.array(0.85))
    coarse = clean + 20 * rng.standard_normal(clean.shape)
    lines = np.fft.fftshift(np.fft.fftn(coarse, axes=(0, 1)), axes=(0, 1))
    padded = np.fft.ifftshift(np.pad(lines, ((8, 8), (8, 8), (0, 0), (0, 0))), axes=(0, 1))
    echoes = np.abs(4 * np.fft.ifftn(padded, axes=(0, 1))).astype(np.float32)
    mask = np.ones(echoes.shape[:3], bool)
    detail = noise_level(echoes, mask)
    found = train_noise(echoes, mask, train, noise=detail, voxel_size=(1, 1, 2))
    assert detail < 0.6 * 20
    assert found == pytest.approx(20, rel=0.12)
    assert train_noise(echoes, mask, train, noise=50.0, voxel_size=(1, 1, 2)) == 50


def test_a_given_field_may_be_low():
    """A transmit field of .4, as at 7 T, and one that folds onto it."""
    train, r2 = Train(0.010, 12), np.full((4, 4, 4), 20.0)
    for one in (0.4, 1.55):
        b1 = np.full(r2.shape, one, np.float32)
        echoes = 1000 * train.signal(r2, b1)
        found, *_ = fit_r2(echoes, r2 > 0, train, noise=1.0, voxel_size=(2, 2, 2), b1=b1)
        assert abs(found.mean() / 20 - 1) < 0.01
