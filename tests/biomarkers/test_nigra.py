import numpy as np
import pytest

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.applications.nigra import overview, rows
from bids_qsm.biomarkers.nigra import _weaker, columns, nigra_table
from bids_qsm.biomarkers.nigra_frame import nigrae
from bids_qsm.biomarkers.nigrosome import Nigrosome, place_of
from bids_qsm.plotting.nigra_charts import plot_nigra
from tests.biomarkers.deep_nuclei import midbrain


def table_of(data, **more):
    chi, _, dseg, labels, mask, grid, affine = data
    image, table = nigra_table(chi, mask, dseg, labels, grid, affine, 'CSF', **more)
    return image, table.set_index('hemisphere')


@pytest.fixture(scope='module')
def measured():
    return table_of(midbrain())


def test_the_side_that_lost_its_nigrosome_is_found(measured):
    image, table = measured
    assert table['n1_finding'].tolist() == ['not seen', 'seen']
    assert set(table['n1_weaker_side']) == {'L'}
    assert table.loc['R', 'n1_contrast'] == pytest.approx(-60, abs=15)
    assert 2 < table.loc['R', 'n1_volume'] < 12
    assert set(np.unique(image)) == {0, 1, 2, 3}
    assert set(table.reset_index()) == set(columns())


def test_sides_that_hardly_differ_have_no_weaker_one():
    def weaker(left, right):
        pair = zip('LR', (left, right), strict=True)
        return _weaker({side: Nigrosome(side, -c, 0.01, 1, 1, 100 * c) for side, c in pair})

    assert weaker(0.0320, 0.0319) == 'n/a'  # seen, unclear
    assert weaker(0.06, 0.03) == 'R'
    assert weaker(0.02, 0.04) == 'L'  # not seen, seen


def test_the_place_is_behind_and_below_in_a_turned_head():
    """Axes come from the labels: a head that is tilted has them too."""
    _, _, dseg, labels, mask, _, affine = midbrain()
    tilt = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    for matrix in (np.eye(4), turn):
        found, why = nigrae(dseg, labels, mask, matrix @ affine)
        assert not why
        for side, one in found.items():
            points = apply_affine(affine, one.index)  # of the atlas
            place, nigra = points[place_of(one)].mean(0), points.mean(0)
            assert place[1] < nigra[1] - 1
            assert place[2] < nigra[2] - 1
            assert np.sign(place[0]) == (-1 if side == 'L' else 1)
            assert one.axes[2] @ matrix[:3, 2] > 0.99


def test_the_share_goes_with_the_threshold_and_the_zero(measured):
    _, table = measured
    _, other = table_of(midbrain(), threshold=100.0)
    assert (other['sn_below'] > table['sn_below']).all()
    assert (table['sn_below_per_10ppb'] > 0).all()
    assert (table['lower_below_se'] > 0).all()
    # a nigrosome has low susceptibility
    assert table.loc['R', 'lower_p10'] < table.loc['L', 'lower_p10']


def test_what_cannot_be_assessed_says_why():
    _, coarse = table_of(midbrain(voxel=(1.0, 1.0, 2.0)))
    assert set(coarse['n1_finding']) == {'not assessable'}
    assert coarse['reason'].str.contains('too coarse').all()
    assert coarse['sn_below'].notna().all()
    chi, r2star, dseg, labels, mask, grid, affine = midbrain()
    _, blind = table_of((chi, r2star, dseg, labels[labels['region'] != 'RN'], mask, grid, affine))
    assert blind['reason'].str.contains('no red nucleus').all()
    cut = mask.copy()
    cut[:, : mask.shape[1] // 2] = False
    _, outside = table_of((chi, r2star, dseg, labels, cut, grid, affine))
    assert set(outside['n1_finding']) == {'not assessable'}


def test_rows_and_pictures(measured):
    table = measured[1].reset_index()
    tidy = rows(table)
    assert len(tidy) == 10
    assert set(tidy['hemisphere']) == {'L', 'R'}
    assert '<svg' in plot_nigra(table)
    assert overview(table.assign(participant_id='sub-01'))['answers']
