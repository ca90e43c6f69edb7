import numpy as np
import pytest

from bids_qsm.biomarkers.reference import REFERENCES, reference_regions
from bids_qsm.recon.grid import Grid

GRID = Grid((40, 40, 40), (2.0, 2.0, 2.0))


@pytest.fixture
def head():
    """A ball of brain with fluid in its middle: maps and mask."""
    away = np.linalg.norm(np.indices(GRID.shape).T - 19.5, axis=-1).T
    mask = away < 18
    fluid = away < 5
    chi = np.where(fluid, 0.02, -0.01).astype(np.float32)
    return {'chi': chi, 'R2star': np.where(fluid, 1.5, 20).astype(np.float32)}, mask


def found(*arguments):
    return {one.name: one for one in reference_regions(*arguments)}


def test_fluid_is_found_and_described(head):
    maps, mask = head
    regions = found(maps, mask, None, GRID)
    assert tuple(regions) == REFERENCES
    csf = regions['CSF']
    assert np.allclose(maps['chi'][csf.region], 0.02)
    assert csf.how == 'whole'
    assert csf.note.endswith('R2* 1.5/s (brain 20.0/s), chi spread 0.000 ppm')
    assert regions['Brain'].region is mask


def test_fluid_of_high_r2star_is_no_reference(head):
    maps, mask = head
    (csf,) = [r for r in reference_regions(maps, mask, None, GRID, max_ratio=0.05) if r.name == 'CSF']
    assert not csf.region.any()
    assert csf.coverage == 0
    assert 'has R2* 1.5/s, the brain 20.0/s' in csf.note


def test_too_little_fluid_is_no_reference(head):
    """Some 50 voxels, as a vessel or noise of R2* gives."""
    maps, mask = head
    few = np.linalg.norm(np.indices(GRID.shape).T - 19.5, axis=-1).T < 2.3
    csf = found({**maps, 'R2star': np.where(few, 1.5, 20).astype(np.float32)}, mask, None, GRID)['CSF']
    assert not csf.region.any()
    assert csf.note == 'not found: 0.4 ml of fluid near the centre, where 3 to 120 ml is plausible'


def test_without_r2star_there_is_no_fluid(head):
    maps, mask = head
    csf = found({'chi': maps['chi']}, mask, None, GRID)['CSF']
    assert csf.note == 'not found: there is no R2* to find the ventricles by'


def test_white_matter(head):
    maps, mask = head
    white = np.zeros(GRID.shape, bool)
    white[:12, 10:30, 10:30] = True
    matter = found(maps, mask, white, GRID)['White matter']
    assert matter.coverage == pytest.approx((white & mask).sum() / white.sum())
    assert 'ml of deep white matter' in matter.note
    few = np.zeros(GRID.shape, bool)
    few[18, 18, 18] = True
    assert found(maps, mask, few, GRID)['White matter'].note.startswith('not found: 0.0 ml of deep white')
    assert found(maps, mask, None, GRID)['White matter'].how == 'none'
