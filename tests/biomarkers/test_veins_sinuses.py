import numpy as np
import pytest
from scipy.spatial import KDTree

from bids_qsm.biomarkers import veins_sinuses
from bids_qsm.biomarkers.veins import Segment, Veins
from bids_qsm.biomarkers.veins_join import _joined, with_sinuses
from bids_qsm.biomarkers.veins_names import COURSES, fine_course
from bids_qsm.biomarkers.veins_sinuses import Sinus, _radius, _smooth, evidence, find_sinuses
from bids_qsm.biomarkers.veins_table import segment_table
from bids_qsm.phantom.vessels import Segment as Vessel
from bids_qsm.phantom.vessels import draw
from bids_qsm.recon.grid import Grid

TIMES = (0.004, 0.010, 0.016)
SIDE = 2.5
SHAPE = (64, 84, 72)
AFFINE = np.array([[SIDE, 0, 0, -79.0], [0, SIDE, 0, -120.0], [0, 0, SIDE, -85.0], [0, 0, 0, 1]])
SHIFT = np.array([3.0, 0, 0])
"""Of the sinus against its course: alignment has errors."""


def make_head(wide=7.0):
    """Echoes of an ellipsoid of brain in bone, with a sinus between them; mask and axis of the sinus."""
    line, _ = fine_course(next(c for c in COURSES if c.name == 'superior_sagittal_sinus').waypoints)
    axis = line[100:400] + SHIFT
    points = np.stack(np.indices(SHAPE), -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    size = [
        np.linalg.norm((points - (0, -16, 0)) / (np.array((68, 86, 79)) + d), axis=-1) for d in (0, 9, 14)
    ]
    share = draw([Vessel(axis, np.full(len(axis), wide / 2), 0.6, 0.5)], SHAPE, AFFINE)[0] if wide else 0
    start, rate = np.zeros(SHAPE), np.full(SHAPE, 20.0)
    start[size[2] < 1], rate[size[2] < 1] = 1.0, 45.0
    start[size[1] < 1], rate[size[1] < 1] = 0.08, 300.0
    start[size[0] < 1], rate[size[0] < 1] = 1.0, 20.0
    rng = np.random.default_rng(0)
    echoes = [
        (1 - share) * start * np.exp(-rate * t) + share * np.exp(-48 * t) + 0.01 * rng.standard_normal(SHAPE)
        for t in TIMES
    ]
    mask = (size[0] < 1) & (np.asarray(share) < 0.5)
    return np.abs(np.stack(echoes, -1)).astype(np.float32), mask, axis


@pytest.fixture(scope='module')
def head():
    return make_head()


def test_a_sinus_outside_the_mask_is_found_and_nothing_else(head):
    echoes, mask, axis = head
    found = find_sinuses(echoes, TIMES, mask, AFFINE, Grid.from_affine(SHAPE, AFFINE), [np.eye(4)])
    assert {one.name for one in found} == {'superior_sagittal_sinus'}
    points = np.concatenate([one.points for one in found]) + AFFINE[:3, 3]
    assert (KDTree(axis).query(points)[0] < 2).mean() > 0.95
    assert (KDTree(points).query(axis)[0] < 2).mean() > 0.9
    assert np.median(np.concatenate([one.diameter_mm for one in found])) == pytest.approx(7, abs=1)


def test_a_sinus_is_found_on_both_sides_of_where_the_field_of_view_cuts_the_vertex(head):
    echoes, mask, axis = head
    # 10 mm below the vertex
    cut = np.s_[:, :, :62]
    shape = mask[cut].shape
    found = find_sinuses(echoes[cut], TIMES, mask[cut], AFFINE, Grid.from_affine(shape, AFFINE), [np.eye(4)])
    points = np.concatenate([one.points for one in found]) + AFFINE[:3, 3]
    assert {one.name for one in found} == {'superior_sagittal_sinus'}
    for arc in (axis[:, 1] > 0, axis[:, 1] < 0):
        below = axis[arc & (axis[:, 2] < 63)]
        assert (KDTree(points).query(below)[0] < 2).mean() > 0.8


def test_a_mask_that_fills_the_volume_has_no_sinus_around_it():
    # of 60 x 30 x 30 mm about the vertex, with displaced courses too
    shape, affine = (24, 12, 12), AFFINE.copy()
    affine[:3, 3] = -30, -15, 60
    echoes, full = np.ones((*shape, 3), np.float32), np.ones(shape, bool)
    assert find_sinuses(echoes, TIMES, full, affine, Grid.from_affine(shape, affine), [np.eye(4)]) == []


def test_evidence_is_a_number_whatever_the_mask_and_the_echoes():
    grid = Grid((9, 9, 9))
    echoes = np.exp(-20 * np.array(TIMES)) * np.ones((9, 9, 9, 1), np.float32)
    echoes[6, 4, 4] = np.exp(-48 * np.array(TIMES))
    echoes[0, 0, 0] = np.nan
    # between every third voxel
    mask = np.zeros((9, 9, 9), bool)
    mask[4:6, 4:6, 4:6] = True
    likely = evidence(echoes, TIMES, mask, np.ones((9, 9, 9), bool), grid)
    assert np.isfinite(likely).all()
    assert likely[6, 4, 4] > 0.9
    assert likely[4, 4, 4] < 0.2


@pytest.mark.parametrize(('true', 'beside'), [(2.4, 0.3), (4.0, 0.3), (2.4, 0.0)])
def test_the_radius_along_a_row_of_voxels(true, beside):
    # no voxel centre lies 1.5 to 2 mm from a row of voxels of 1 mm
    across = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), -1).reshape(-1, 2)
    away = np.tile(np.linalg.norm(across, axis=1), 20)
    at = np.repeat(np.arange(20), len(across))
    found = _radius(at, away, np.where(away <= true, 0.9, beside), 20, 1.0)
    np.testing.assert_allclose(found, true, atol=0.5)


def test_strength_is_averaged_over_mm_whichever_way_the_path_runs():
    one, sides = np.zeros(101), np.array([1.0, 1.0, 2.0])
    one[50] = 1
    for way in ((1, 0, 0), (0, 0, 1), (1, 1, 1)):
        path = np.arange(101)[:, None] * np.array(way)
        away = np.linalg.norm((path - path[50]) * sides, axis=1)
        found = _smooth(one, 6.0, path, sides)
        assert np.sqrt((found * away**2).sum()) == pytest.approx(6.0, rel=0.02)


def test_without_decoys_to_compare_with_nothing_is_found(head, monkeypatch):
    echoes, mask, _ = head
    monkeypatch.setattr(veins_sinuses, 'DECOYS', {'superior_sagittal_sinus': ()})
    assert not find_sinuses(echoes, TIMES, mask, AFFINE, Grid.from_affine(SHAPE, AFFINE), [np.eye(4)])


def test_without_a_sinus_none_is_found():
    echoes, mask, _ = make_head(0)
    assert not find_sinuses(echoes, TIMES, mask, AFFINE, Grid.from_affine(SHAPE, AFFINE), [np.eye(4)])


def veins_inside(axis):
    """A vein along the middle of the sinus, as found inside the mask."""
    points = axis[100:160]
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    voxels = (points - AFFINE[:3, 3]) / SIDE
    one = Segment(1, 'cortical_vein', points, voxels, along, np.full(60, 4.0), np.full(60, 50.0), (0, 0))
    numbers = np.zeros(SHAPE, np.int32)
    numbers[tuple(np.rint(voxels).astype(int).T)] = 1
    share = numbers.astype(np.float32)
    return Veins(share, share > 0, (5 * numbers).astype(np.int16), numbers, numbers, (one,), 0.5, 'assumed')


def test_what_was_found_inside_keeps_its_line_and_gets_the_name(head):
    echoes, mask, axis = head
    grid = Grid.from_affine(SHAPE, AFFINE)
    before = veins_inside(axis)
    veins = with_sinuses(before, echoes, TIMES, mask, AFFINE, grid, [np.eye(4)])
    assert {one.name for one in veins.segments} == {'superior_sagittal_sinus'}
    assert np.array_equal(veins.segments[0].points, before.segments[0].points)
    # the vein is in the middle: a stretch on either side
    assert [one.number for one in veins.segments] == [1, 2, 3]
    ends = [KDTree(one.points).query(before.segments[0].points)[0] for one in veins.segments[1:]]
    assert all((gap > SIDE).mean() > 0.8 for gap in ends)
    assert set(np.unique(veins.labels)) == {0, 1}
    assert set(np.unique(veins.numbers)) == {0, 1, 2, 3}
    assert np.array_equal(veins.mask, veins.labels > 0)
    table = segment_table(veins, np.where(mask, 0.1, 0).astype(np.float32), None, mask, grid)
    assert table['outside_mask'].tolist() == [1, 1, 1]
    assert table['chi_mean'].isna().all()
    np.testing.assert_allclose(np.linalg.norm(veins.segments[1].direction, axis=1), 1, atol=1e-6)


def test_sinuses_do_not_depend_on_how_the_file_is_stored(head):
    echoes, mask, axis = head
    veins = with_sinuses(
        veins_inside(axis), echoes, TIMES, mask, AFFINE, Grid.from_affine(SHAPE, AFFINE), [np.eye(4)]
    )
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = SHAPE[0] - 1
    before = veins_inside(axis)
    images = {
        name: getattr(before, name)[::-1] for name in ('share', 'mask', 'labels', 'skeleton', 'numbers')
    }
    flipped = Veins(**images, segments=before.segments, blood_chi=0.5, blood_from='assumed')
    again = with_sinuses(
        flipped,
        echoes[::-1],
        TIMES,
        mask[::-1],
        AFFINE @ turn,
        Grid.from_affine(SHAPE, AFFINE @ turn),
        [np.eye(4)],
    )
    assert np.array_equal(again.numbers[::-1], veins.numbers)
    np.testing.assert_allclose(again.segments[1].points, veins.segments[1].points, atol=1e-4)


def straight(number, name, points, wide):
    """A vein through points (mm) of a grid of 1 mm at the origin."""
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    count = len(points)
    return Segment(number, name, points, points, along, np.full(count, wide), np.full(count, 50.0), (0, 0))


def test_voxels_of_a_sinus_are_of_the_sinus():
    """Between two pieces of it that were found inside, and where another vein runs into it."""
    at = np.arange(0, 39.1, 0.5)
    axis = np.stack([at, np.full(len(at), 6.0), np.full(len(at), 6.0)], 1)
    side = np.stack([np.full(13, 10.0), np.arange(0, 6.1, 0.5), np.full(13, 6.0)], 1)
    # 17 mm each, with a gap of 6 mm
    inside = [straight(1, 'other_vein', axis[:34], 4.0), straight(2, 'other_vein', axis[46:], 4.0)]
    tributary = straight(3, 'cortical_vein', side, 2.0)
    voxels = np.argwhere(np.ones((40, 13, 13), bool))
    voxels = voxels[np.linalg.norm(voxels[:, 1:] - 6, axis=1) <= 2]
    numbers = np.zeros((40, 13, 13), np.int32)
    share = numbers.astype(np.float32)
    numbers[10, :7, 6], share[10, :4, 6], share[10, 4:7, 6] = 3, 1.0, 0.4
    veins = Veins(
        share, share >= 0.5, numbers.astype(np.int16), numbers, numbers, (*inside, tributary), 0.5, 'assumed'
    )
    sinus = straight(0, 'superior_sagittal_sinus', axis, 4.0)
    found = Sinus(sinus.name, axis, sinus.direction, sinus.diameter_mm, voxels, np.ones(len(voxels)))
    joined = _joined(veins, sinus, voxels, found, np.eye(4))
    assert [one.name for one in joined.segments] == [sinus.name, sinus.name, 'cortical_vein']
    place = tuple(voxels.T)
    # to the nearer of both pieces, also in the gap
    assert np.array_equal(joined.numbers[place], np.where(voxels[:, 0] < 20, 1, 2))
    assert joined.mask[place].all()
    assert (joined.numbers[10, :4, 6] == 3).all()
