import numpy as np
import pytest

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.applications.pallidum import measure, overview, rows
from bids_qsm.biomarkers.nigra_frame import nucleus_voxels
from bids_qsm.biomarkers.pallidum import find_eye
from bids_qsm.plotting.nigra_charts import plot_profiles
from tests.biomarkers.deep_nuclei import pallidum


def eye(kind, side='L', with_r2star=True):
    chi, r2star, dseg, labels, mask, grid, affine = pallidum(kind)
    return find_eye(chi, r2star if with_r2star else None, dseg, labels, mask, grid, affine, side)


def test_a_core_in_a_ring_scores_and_others_do_not():
    found = eye('tiger')
    assert found.finding == 'core inside a ring'
    assert found.contrast == pytest.approx(0.25, abs=0.1)
    np.testing.assert_allclose(found.centre, (-18, -4, -3), atol=2)
    assert found.score > 3 * found.score_se
    assert found.r2star > 0.3
    for other in (eye('tiger', 'R'), eye('high')):
        assert other.finding == 'no core inside a ring'
        assert other.score < 0.2


def test_a_calcified_core_is_not_the_sign():
    assert 'calcium' in eye('calcified').finding
    assert 'calcium' in eye('calcified', with_r2star=False).finding


def test_noise_is_no_core():
    """Uniform pallida, as of a child: their lowest point lies inside a ring by chance."""
    _, _, dseg, labels, mask, grid, affine = pallidum()
    whole = nucleus_voxels(dseg, labels, 'GP', 'R', spacing_of(affine))
    for iron, said in ((0.0, 'not assessable'), (0.01, 'not assessable'), (0.06, 'no core inside a ring')):
        for seed in (0, 2, 5):
            noise = np.random.default_rng(seed).normal(0, 0.02, mask.shape)
            noise[::5][dseg[::5] == 0] = np.nan
            chi = (iron * whole + noise).astype(np.float32)
            found = find_eye(chi, None, dseg, labels, mask, grid, affine, 'R')
            assert found.finding == said
            assert ('too little for a ring' in found.reason) == (said == 'not assessable')
            assert np.isnan(found.contrast) == (said == 'not assessable')


def test_what_cannot_be_assessed_says_why():
    chi, r2star, dseg, labels, mask, grid, affine = pallidum()
    none = find_eye(chi, r2star, dseg, labels[:0], mask, grid, affine, 'L')
    assert none.finding == 'not assessable'
    assert 'no pallidum' in none.reason
    assert 'mask' in find_eye(chi, r2star, dseg, labels, np.zeros_like(mask), grid, affine, 'L').reason


def test_tables_and_profile():
    chi, r2star, dseg, labels, mask, grid, affine = pallidum()
    image, table, profile = measure(chi, r2star, mask, dseg, labels, grid, affine)
    assert set(np.unique(image)) == {0, 1, 2}
    middle = profile[(profile['hemisphere'] == 'L')].set_index('distance_mm')['chi']
    assert middle[0] < middle[4] - 0.1
    assert '<svg' in plot_profiles(profile)
    assert len(rows(table)) == 4
    assert 'core inside a ring: 1' in overview(table)['answers'][0]
