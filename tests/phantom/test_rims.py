import numpy as np
import pytest

from bids_qsm.phantom.rim_box import make_box, outline
from bids_qsm.phantom.rims import RimLesion, draw_one, neighbour, scatter_rims

AFFINE = np.diag([1.0, 1, 1, 1])
AFFINE[:3, 3] = -11.5
SHAPE = (24, 24, 24)


@pytest.mark.parametrize('thickness', [0.5, 1.0, 2.0])
def test_a_rim_keeps_its_volume_however_thin(thickness):
    lesion = RimLesion((0.2, 0.1, -0.3), 6.0, 0.0, 0.06, thickness=thickness)
    volume = 4 / 3 * np.pi * (6**3 - (6 - thickness) ** 3)
    assert lesion.rim_shares(SHAPE, AFFINE).sum() == pytest.approx(volume, rel=0.03)


@pytest.mark.parametrize('share', [0.4, 0.7])
def test_a_rim_covers_its_share_of_an_ellipsoid(share):
    shape = {'ratios': (1.0, 0.7, 0.8), 'turn': (20.0, 50.0, 110.0), 'gaps': ((1.0, 0, 0), (0, -0.6, 0.8))}
    whole = RimLesion((0, 0, 0), 7.0, 0.0, 0.06, **shape).rim_shares(SHAPE, AFFINE)
    part = RimLesion((0, 0, 0), 7.0, 0.0, 0.06, completeness=share, **shape).rim_shares(SHAPE, AFFINE)
    assert part.sum() / whole.sum() == pytest.approx(share, abs=0.03)
    assert (part <= whole + 1e-6).all()


def test_a_thin_rim_reads_less_than_it_is_after_the_voxels():
    lesion = RimLesion((0, 0, 0), 6.0, 0.0, 0.04, thickness=0.5)
    box = make_box(3, shape=SHAPE, lesions=(lesion,), texture=0.0, noise=0.0)
    assert 0.01 < box.chi.max() < 0.035
    assert box.field.dtype == np.float32
    # the mask is off by a voxel at most
    points = np.argwhere(np.ones(SHAPE, bool)) - 11.5
    wall = lesion.signed(points).reshape(SHAPE)
    assert not box.drawn[wall > 1].any()
    assert box.drawn[wall < -1].all()


def test_a_box_is_the_same_for_one_seed_and_knows_who_owns_what():
    one, same = (make_box(5, shape=(36, 36, 24), lesions=2, factor=2) for _ in range(2))
    np.testing.assert_array_equal(one.field, same.field)
    assert (one.owner > 0).sum() == one.drawn.sum()
    assert one.owner.max() <= len(one.lesions) == len(one.parents)


def test_neighbours_grow_together():
    rng = np.random.default_rng(4)
    one = draw_one(rng, 'solid')
    both = (one, neighbour(rng, one, 'rim'))
    assert [lesion.sort for lesion in both] == ['solid', 'rim']
    alone = outline(np.random.default_rng(1), both[:1], (1, 1, 1)).sum()
    assert outline(np.random.default_rng(1), both, (1, 1, 1)).sum() > alone


def test_rims_scatter_inside_a_box_of_a_head(head):
    found = scatter_rims(2, head, {'rim': 2, 'plain': 1}, centre=(25, -20, 25), half=(30, 40, 30))
    assert [lesion.sort for lesion in found] == ['rim', 'rim', 'plain']
    assert all(abs(lesion.centre[0] - 25) < 30 for lesion in found)
