import numpy as np
import pytest

from bids_qsm.recon.grid import Grid
from bids_qsm.recon.reference import REFERENCE, brain, csf, none


@pytest.fixture(scope='module')
def r2star(head):
    rng = np.random.default_rng(0)
    r2star = np.where(head.brain, 18, 0) + np.where(head.nuclei, 15, 0)
    r2star = np.where(head.ventricles, 2, r2star)
    return np.abs(r2star + rng.standard_normal(r2star.shape)).astype(np.float32) * head.brain


def test_csf_finds_both_ventricles(head, r2star):
    offset, region, name, note = csf(head.chi + 1, head.brain, head.grid, r2star)
    assert (region & head.ventricles).sum() > 0.9 * region.sum()
    for side in (slice(None, head.grid.shape[0] // 2), slice(head.grid.shape[0] // 2, None)):
        assert region[side].any()
    assert offset == pytest.approx(1.019, abs=0.003)
    assert name == 'CSF'
    assert 'ventricles' in note


@pytest.mark.parametrize('case', ['no map', 'no fluid', 'all fluid'])
def test_csf_says_when_it_takes_the_whole_brain(head, r2star, case):
    maps = {
        'no map': None,
        'no fluid': np.where(head.ventricles, 18, r2star),
        'all fluid': np.where(np.random.default_rng(0).random(r2star.shape) < 0.1, 18, r2star) ** 3,
    }
    values = maps[case]
    if case == 'all fluid':
        x = np.arange(head.grid.shape[0])[:, None, None]
        values = np.where(abs(x - head.grid.shape[0] / 2) < 11, 1, 20) * np.ones_like(r2star)
    offset, region, name, note = csf(head.chi, head.brain, head.grid, values)
    assert offset == pytest.approx(head.chi[head.brain].mean(), abs=1e-6)
    np.testing.assert_array_equal(region, head.brain)
    assert name == 'whole brain'
    assert 'whole brain' in note
    assert 'but' in note


@pytest.mark.parametrize(('radius', 'is_taken'), [(7.3, False), (10.5, True)])
def test_the_zero_is_not_that_of_a_few_voxels(radius, is_taken):
    """A head of 3 mm: 1.4 ml of fluid, and 3.9 ml, whose core alone is of few voxels."""
    grid = Grid((40, 40, 40), (3.0, 3.0, 3.0))
    away = np.linalg.norm(np.indices(grid.shape).T - 20.0, axis=-1).T * 3
    mask, fluid = away < 55, away < radius
    chi = np.where(fluid, 0.03, -0.01).astype(np.float32)
    r2star = np.where(fluid, 1.0, 20.0).astype(np.float32)
    offset, region, name, note = csf(chi, mask, grid, r2star)
    if is_taken:
        assert (offset, name) == (pytest.approx(0.03, abs=1e-6), 'CSF')
        assert region.sum() >= 100
        assert '3.9 ml of fluid near the centre' in note
    else:
        assert (offset, name) == (pytest.approx(chi[mask].mean(), abs=1e-6), 'whole brain')
        assert '1.4 ml of fluid near the centre, where 3 to 120 ml is plausible' in note


def test_brain_and_none(head):
    offset, region, *_ = brain(head.chi, head.brain)
    assert offset == pytest.approx(head.chi[head.brain].mean(), abs=1e-6)
    assert region.sum() == head.brain.sum()
    offset, region, name, note = none()
    assert (offset, name) == (0, 'none')
    assert region is None
    assert note


def test_every_method_is_tested():
    assert set(REFERENCE) == {'csf', 'brain', 'none'}
