import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.recon.background.levelled import levelled
from bids_qsm.recon.background.vsharp import vsharp
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.harmonic_susceptibility import _basis, harmonic_susceptibility
from bids_qsm.recon.inversion.tv import tv


@pytest.fixture(scope='module')
def r2star(head):
    """One value for each tissue of `head`, with noise; that of nuclei grows with their iron."""
    values = np.where(head.chi > 0, 16.0, 20.0) + 120 * np.maximum(head.chi - 0.025, 0)
    values = np.where(head.ventricles, 2.0, values)
    noise = np.random.default_rng(1).standard_normal(head.grid.shape)
    return ((values + noise) * head.brain).astype(np.float32)


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
    found = harmonic_susceptibility(head.chi + bowl, head.brain, r2star, untilted) - harmonic_susceptibility(
        head.chi, head.brain, r2star, untilted
    )
    assert error(found, bowl, head.brain) < 0.1


def test_too_few_voxels_are_left_alone():
    grid = Grid((12, 12, 12))
    mask = np.zeros(grid.shape, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    chi = np.random.default_rng(0).standard_normal(grid.shape).astype(np.float32)
    assert not harmonic_susceptibility(chi, mask, np.abs(chi), grid).any()


def test_better_than_one_pass_and_whole_mask(head, measured, r2star):
    total = (measured - head.local + head.total).astype(np.float32)
    local, kept = vsharp(total, head.brain, head.grid)
    plain = tv(local, kept, head.noise, head.grid)
    plain -= plain[kept].mean() * kept
    local, whole = levelled(total, head.brain, head.noise, head.grid, r2star)
    assert local.dtype == np.float32
    assert not local[~head.brain].any()
    assert (whole == head.brain).all()
    chi = tv(local, head.brain, head.noise, head.grid)
    core = ndimage.binary_erosion(kept, iterations=2)
    assert error(chi, head.chi, head.brain) < error(plain, head.chi, head.brain)
    assert error(chi, head.chi, core) < error(plain, head.chi, core)


def test_without_r2star(head, measured):
    total = (measured - head.local + head.total).astype(np.float32)
    local, _ = levelled(total, head.brain, head.noise, head.grid)
    chi = tv(local, head.brain, head.noise, head.grid)
    assert error(chi, head.chi, head.nuclei) < 0.45
