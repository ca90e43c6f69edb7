import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking import support, widen

GRID = Grid((40, 36, 30), (1.0, 1.0, 1.5))


@pytest.fixture
def mask():
    mask = np.zeros(GRID.shape, bool)
    mask[8:30, 8:28, 6:24] = True
    return mask


def test_widen_reaches_as_far_as_asked_where_phase_is_good(mask):
    quality = np.full(GRID.shape, 0.9, np.float32)
    quality[:, 28:] = 0.05
    wide = widen(mask, quality, GRID, reach_mm=3.0)
    assert (wide & mask).sum() == mask.sum()
    line = wide[18, :, 15]
    assert not line[28:].any(), 'bad phase'
    assert (np.flatnonzero(line)[0], np.flatnonzero(wide[18, 18])[0]) == (5, 4)


def test_widen_takes_a_voxel_however_large(mask):
    quality = np.full(GRID.shape, 0.9, np.float32)
    coarse = Grid(GRID.shape, (4.0, 4.0, 4.0))
    assert np.flatnonzero(widen(mask, quality, coarse)[18, :, 15])[0] == 7


def test_support_keeps_the_mask_and_what_was_fitted_well_round_it(mask):
    wide = np.zeros_like(mask)
    wide[5:33, 5:31, 4:26] = True
    noise, residual = np.full(GRID.shape, 1e-3, np.float32), np.full(GRID.shape, 0.1, np.float32)
    residual[:, :8] = 1.0
    noise[30:] = 0.1
    noise[10] = 0.1
    found = support(mask, wide, residual, noise)
    assert (found & mask).sum() == mask.sum(), 'bad voxels inside stay'
    assert not (found & ~wide).any()
    assert not found[:, :8].any()
    assert not found[30:].any()
    assert found[15, 28:31, 15].all()


def test_empty_mask_is_an_error():
    nothing = np.zeros(GRID.shape, bool)
    with pytest.raises(UserError, match='mask is empty'):
        widen(nothing, np.ones(GRID.shape, np.float32), GRID)
