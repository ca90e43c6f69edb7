import numpy as np
import pytest

from bids_qsm.anatomy import atlas
from bids_qsm.phantom.head import CHANNELS, Lesion, make_head, rigid

SHAPE, AFFINE = (56, 64, 60), np.diag([4.0, 4, 4, 1])
AFFINE[:3, 3] = (-110, -126, -130)


@pytest.fixture(scope='module')
def sampled(head):
    return head.sample(SHAPE, AFFINE, (*CHANNELS, 'blood'))


def test_a_head_has_air_bone_fat_brain_and_blood(sampled):
    chi, brain = sampled['chi'], sampled['brain'] > 0.99
    assert chi.max() == pytest.approx(9.4)
    assert chi.min() < -1.5
    assert sampled['fat'].max() > 0.9
    assert 0.5 < sampled['blood'].max() < 1.0001
    assert 1.2e6 < (sampled['brain'] > 0.5).sum() * 64 < 2.3e6
    # air stays out of the brain, though it comes near
    assert np.abs(chi[brain]).max() < 0.6
    assert np.all(np.isfinite(np.stack(list(sampled.values()))))


def test_cavities_of_air_lie_inside_the_head_near_the_brain(head):
    points = head.to_template(SHAPE, AFFINE)
    chi = head.sample(SHAPE, AFFINE, ('chi',))['chi']
    for place in ((0, 13, -42), (0, 40, -45), (12, 80, -16), (29, 46, -72)):
        assert chi[np.linalg.norm(points - np.float32(place), axis=-1) < 10].max() > 4, place


def test_tissue_is_not_piecewise_constant(sampled):
    white = sampled['white'] > 0.95
    assert 0.002 < sampled['chi'][white].std() < 0.02
    assert sampled['chi'][white].mean() == pytest.approx(-0.03, abs=0.006)


def test_nuclei_hold_their_susceptibility(head):
    affine = AFFINE.copy()
    affine[:3, :3] *= 0.25
    affine[:3, 3] = (-40, -80, -50)
    shape = (80, 110, 80)
    dseg = head.labels(shape, affine)
    chi = head.sample(shape, affine, ('chi',))['chi']
    given = {n.index: n.chi for n in head.nuclei}
    labels = atlas.labels().set_index('index')
    for index in (
        n for n, r in labels.region.items() if r in ('GPi', 'RN', 'Dentate', 'Thalamus', 'Putamen')
    ):
        assert (dseg == index).sum() > 100
        assert np.median(chi[dseg == index]) == pytest.approx(given[index], rel=0.35, abs=0.01)


def test_persons_differ_and_a_seed_does_not(head):
    again, other = make_head(5, spacing=2.0, effects={'GP': 2.0}), make_head(6, spacing=2.0)
    assert np.array_equal(again.tissue.data, head.changed({'GP': 2.0}).tissue.data)
    assert np.array_equal(again.veins.data, head.veins.data)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(again.tree, head.tree, strict=True))
    assert np.array_equal(again.pose, head.pose)
    moved = np.linalg.norm(other.to_template(SHAPE, AFFINE) - head.to_template(SHAPE, AFFINE), axis=-1)
    assert 2 < np.median(moved) < 40
    chi = [{n.index: n.chi for n in h.nuclei} for h in (head, other)]
    ratio = np.array([chi[1][n] / chi[0][n] for n in chi[0]])
    assert 0.03 < ratio.std() < 0.5


def test_the_warp_folds_nothing(head):
    points = head.to_template(SHAPE, AFFINE)
    jacobian = np.stack([np.stack(np.gradient(points[..., k]), -1) / 4 for k in range(3)], -2)
    determinant = np.linalg.det(jacobian)
    assert determinant.min() > 0.3
    assert determinant.max() < 2.5


def test_effects_change_their_region_alone(head):
    changed = head.changed({'GP': 2.0})
    before, after = ({n.index: (n.region, n.chi) for n in h.nuclei} for h in (head, changed))
    for index, (region, chi) in after.items():
        assert chi == pytest.approx(before[index][1] * (2 if region in ('GPe', 'GPi') else 1))
    chi = CHANNELS.index('chi')
    different = changed.tissue.data[..., chi] != head.tissue.data[..., chi]
    assert 200 < different.sum() * 8 < 12000
    with pytest.raises(ValueError, match='no region'):
        head.changed({'Pallidus': 2.0})


def test_lesions_are_drawn_where_their_labels_are(head):
    lesion = Lesion((-24, -22, 30), 6.0, 0.1)
    hurt = head.changed({}, [lesion])
    labels = hurt.lesion_labels(SHAPE, AFFINE)
    names = ('chi', 'r1')
    before, after = head.sample(SHAPE, AFFINE, names), hurt.sample(SHAPE, AFFINE, names)
    assert 5 <= labels.sum() <= 30
    assert (after['chi'] - before['chi'])[labels == 1].mean() == pytest.approx(0.08, abs=0.03)
    assert (after['r1'] - before['r1'])[labels == 1].mean() < -0.1
    assert not head.lesion_labels(SHAPE, AFFINE).any()


def test_moving_a_head_turns_its_points(head):
    moved = head.moved((10, -5, 3), (4, 0, -2))
    matrix = rigid((10, -5, 3), (4, 0, -2))
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(
        moved.to_template((9, 9, 9), matrix @ AFFINE), head.to_template((9, 9, 9), AFFINE), atol=1e-3
    )


def test_a_smaller_head_is_the_same_head(head):
    small, matrix = head.scaled(0.92), np.diag([0.92, 0.92, 0.92, 1])
    np.testing.assert_allclose(
        small.to_template((9, 9, 9), matrix @ AFFINE), head.to_template((9, 9, 9), AFFINE), atol=1e-3
    )
