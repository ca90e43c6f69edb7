import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.background import BACKGROUND, vsharp
from bids_qsm.recon.grid import Grid


def error(found, truth, mask):
    """Root mean square of the difference, demeaned, over that of the truth."""
    found, truth = found[mask] - found[mask].mean(), truth[mask] - truth[mask].mean()
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize('method', BACKGROUND)
def test_background_falls_and_local_field_stays(head, method):
    data = {'field': head.total, 'mask': head.brain, 'noise': head.noise, 'grid': head.grid}
    names = BACKGROUND[method].__code__.co_varnames[: BACKGROUND[method].__code__.co_argcount]
    local, mask = BACKGROUND[method](*(data[n] for n in names))
    assert local.dtype == np.float32
    assert mask.dtype == bool
    assert not (mask & ~head.brain).any()
    assert mask.sum() > 0.8 * head.brain.sum()
    assert not local[~mask].any()
    assert error(head.total, head.local, mask) > 5
    assert error(local, head.local, mask) < 0.9
    deep = head.nuclei & mask
    assert np.corrcoef(local[deep], head.local[deep])[0, 1] > 0.95


def test_restorations_give_back_local_field(head):
    plain, mask = vsharp(head.total, head.brain, head.grid, restorations=0)
    better, _ = vsharp(head.total, head.brain, head.grid)
    assert error(better, head.local, mask) < error(plain, head.local, mask)


def test_offset_of_the_field_does_not_matter(head):
    one, _ = vsharp(head.total, head.brain, head.grid)
    two, _ = vsharp(head.total + 3, head.brain, head.grid)
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_harmonic_field_is_taken_off_whole_in_odd_anisotropic_volumes():
    grid = Grid((41, 37, 23), (1.0, 1.0, 2.0))
    x, y, z = (
        ((np.arange(n) - n / 2) * v).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, v) in enumerate(zip(grid.shape, grid.voxel_size, strict=True))
    )
    field = ((2 * z**2 - x**2 - y**2 + 20 * x) / 400).astype(np.float32)
    mask = np.broadcast_to((x / 18) ** 2 + (y / 16) ** 2 + (z / 20) ** 2 < 1, grid.shape)
    local, kept = vsharp(field, mask, grid)
    assert kept.sum() > 0.6 * mask.sum()
    assert local[kept].std() < 0.03 * field[kept].std()


def test_mask_thinner_than_the_smallest_sphere_is_an_error():
    grid = Grid((12, 12, 12))
    mask = np.zeros(grid.shape, bool)
    mask[6] = True
    with pytest.raises(UserError, match='mask is empty'):
        vsharp(np.ones(grid.shape, np.float32), mask, grid)
