import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.recon.background.lbv import lbv
from bids_qsm.recon.background.levelled import levelled
from bids_qsm.recon.background.vsharp import vsharp
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import _basis, harmonic_susceptibility
from bids_qsm.recon.inversion.harmonic import whnltv
from bids_qsm.recon.inversion.tv import tv


@pytest.fixture(scope='module')
def r2star(head):
    """One value for each tissue of `head`, with noise; that of nuclei grows with their iron."""
    values = np.where(head.chi > 0, 16.0, 20.0) + 120 * np.maximum(head.chi - 0.025, 0)
    values = np.where(head.ventricles, 2.0, values)
    noise = np.random.default_rng(1).standard_normal(head.grid.shape)
    return ((values + noise) * head.brain).astype(np.float32)


@pytest.fixture(scope='module')
def plain(head, r2star):
    """What the true susceptibility gives, with its uncertainty."""
    return harmonic_susceptibility(head.chi, head.brain, r2star, head.grid)


def smooth_part(*data, **settings):
    return harmonic_susceptibility(*data, **settings, with_uncertainty=False)[0]


def error(found, truth, mask):
    found, truth = found[mask] - found[mask].mean(), truth[mask] - truth[mask].mean()
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def test_polynomials_make_harmonic_fields():
    b = np.array([0.36, -0.48, 0.8])
    basis = _basis(b, 4)
    assert len(basis) == 3 + 5 + 7 + 9
    x = np.random.default_rng(0).uniform(-1, 1, (3, 40))
    step = 1e-3

    def value(cube, p):
        powers = [c[:, None] ** np.arange(5) for c in p]
        return np.einsum('ijk,pi,pj,pk->p', cube, *powers)

    shifts = step * np.vstack([np.eye(3), b])
    for cube in basis:
        second = [
            value(cube, x + s[:, None]) - 2 * value(cube, x) + value(cube, x - s[:, None]) for s in shifts
        ]
        assert (
            np.abs(sum(second[:3]) / 3 - second[3]).max() / step**2
            < 1e-5 * np.abs(second).max() / step**2 + 1e-6
        )


def test_level_finds_a_bowl(head, r2star):
    x, y, z = ((np.arange(n) - n / 2) / n for n in head.grid.shape)
    bowl = 0.05 * (x[:, None, None] + y[:, None] * x[:, None, None] - z).astype(np.float32)
    untilted = Grid(head.grid.shape, head.grid.voxel_size)
    both = smooth_part(head.chi + bowl, head.brain, r2star, untilted)
    alone = smooth_part(head.chi, head.brain, r2star, untilted)
    assert error(both - alone, bowl, head.brain) < 0.1


def test_smoothing_of_r2star_takes_its_noise_out_of_the_level(head, r2star):
    noise = 5 * np.random.default_rng(2).standard_normal(head.grid.shape).astype(np.float32)
    changes = []
    for width in (0.0, 4.5):
        clean, noisy = (
            smooth_part(head.chi, head.brain, rates, head.grid, smoothing_mm=width)
            for rates in (r2star, r2star + noise * head.brain)
        )
        changes.append((noisy - clean)[head.brain].std())
    assert changes[1] < 0.5 * changes[0]


def test_level_does_not_depend_on_iron_rich_nuclei(head, r2star, plain):
    rich = head.nuclei & (head.chi > 0.05)
    assert rich.sum() > 20
    other = smooth_part(head.chi + 0.05 * rich, head.brain, r2star, head.grid)
    np.testing.assert_allclose(other, plain[0], atol=1e-7)


def test_uncertainty_follows_what_varies_slowly_at_equal_r2star(head, r2star, plain):
    """It is within a factor of two of the error that smooth susceptibility at equal R2* makes."""
    noise = np.random.default_rng(1).standard_normal((3, *head.grid.shape))
    sigma = [10 / v for v in head.grid.voxel_size]
    ratios, errors, stated = [], [], []
    for one in noise:
        tissue = ndimage.gaussian_filter(one, sigma)
        tissue *= 0.02 / tissue[head.brain].std()
        found, uncertainty = harmonic_susceptibility(
            (head.chi + tissue).astype(np.float32), head.brain, r2star, head.grid
        )
        typical = np.sqrt(np.mean(uncertainty[head.brain] ** 2))
        assert typical > 2 * np.sqrt(np.mean(plain[1][head.brain] ** 2))
        ratios.append((found - plain[0])[head.brain].std() / typical)
        errors.append(found - plain[0] - (found - plain[0])[head.brain].mean())
        stated.append(uncertainty)
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 2
    # and at each depth
    depth = ndimage.distance_transform_edt(head.brain, head.grid.voxel_size)
    for part in (depth > 20, (depth > 0) & (depth < 8)):
        true, said = (np.sqrt(np.mean(np.square(v)[:, part])) for v in (errors, stated))
        assert 0.4 < true / said < 2.5
    assert not uncertainty[~head.brain].any()


def test_too_few_voxels_are_left_alone():
    grid = Grid((12, 12, 12))
    mask = np.zeros(grid.shape, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    chi = np.random.default_rng(0).standard_normal(grid.shape).astype(np.float32)
    smooth, uncertainty = harmonic_susceptibility(chi, mask, np.abs(chi), grid)
    assert not smooth.any()
    assert uncertainty is None


def test_better_than_one_pass_and_whole_mask(head, measured, r2star):
    total = (measured - head.local + head.total).astype(np.float32)
    local, kept = vsharp(total, head.brain, head.grid)
    plain = tv(local, kept, head.noise, head.grid)
    plain -= plain[kept].mean() * kept
    local, whole, noise = levelled(total, head.brain, head.noise, head.grid, r2star)
    assert local.dtype == np.float32
    assert not local[~head.brain].any()
    assert (whole == head.brain).all()
    inner = lbv(total, head.brain, head.grid)[1]
    deep = ndimage.binary_erosion(inner, iterations=2)
    np.testing.assert_array_equal(noise[deep], head.noise[deep])
    assert (noise[inner & ~deep] > 2 * head.noise[inner & ~deep]).all()
    assert noise[head.brain & ~inner].min() > 1e3 * head.noise.max()
    chi = tv(local, head.brain, noise, head.grid)
    core = ndimage.binary_erosion(kept, iterations=2)
    assert error(chi, head.chi, head.brain) < error(plain, head.chi, head.brain)
    assert error(chi, head.chi, core) < error(plain, head.chi, core)


def test_without_r2star(head, measured):
    total = (measured - head.local + head.total).astype(np.float32)
    local, _, noise = levelled(total, head.brain, head.noise, head.grid)
    chi = whnltv(local, head.brain, noise, head.grid, 2 * np.pi * 123.0 * 0.02)
    assert error(chi, head.chi, head.nuclei) < 0.45
