import numpy as np
import pytest

from bids_qsm.anatomy.nucleus_shapes import extent, nuclei_of
from tests.anatomy.nuclei import AFFINE, BOX, LABELS, PARTS, SHAPE, STAY, dseg


@pytest.fixture(scope='module')
def nuclei():
    return {(n.name, n.hemisphere): n for n in nuclei_of(dseg(STAY), AFFINE, LABELS)}


def test_parts_of_a_nucleus_are_one_and_keep_their_labels(nuclei):
    assert set(nuclei) == {(name, side) for name in ('SN', 'STN', 'GP') for side in 'LR'}
    names = LABELS.set_index('index')['name']
    assert {names[i] for i in nuclei['SN', 'L'].parts} == {'L_SNc', 'L_SNr'}
    assert nuclei['SN', 'L'].volume == (np.isin(dseg(STAY), list(nuclei['SN', 'L'].parts))).sum()


def test_the_signed_distance_has_the_volume_of_the_label_and_falls_by_a_mm_a_mm(nuclei):
    pallidum = nuclei['GP', 'R']
    centre, radii = PARTS['GPe']
    np.testing.assert_allclose(pallidum.centre, np.array(centre) * (-1, 1, 1), atol=0.3)
    axes = [low + np.arange(n) for low, n in zip(BOX[0], SHAPE, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    inside = pallidum.distance(points) < 0
    assert inside.sum() == pytest.approx(pallidum.volume, rel=0.02)
    np.testing.assert_allclose(extent(pallidum), radii, atol=1.0)
    # along y, 1 to 15 mm in front of the surface, some of it beyond the lattice
    front = pallidum.centre + np.array([(0.0, radii[1] + away, 0.0) for away in (1.0, 3.0, 9.0, 25.0)])
    np.testing.assert_allclose(pallidum.distance(front), (1, 3, 9, 25), atol=0.8)


def test_the_pose_maps_points_of_the_person_to_those_of_the_atlas(nuclei):
    pallidum = nuclei['GP', 'L'].still
    # moved by (2, -1, 1) mm and twice as large along y
    pallidum.matrix = np.diag([1, 0.5, 1.0])
    pallidum.shift = np.array([-2.0, 1.0, -1.0]) @ np.diag([1, 0.5, 1.0])
    ends = pallidum.centre + np.array([(2, 9, 1), (2, -11, 1), (5, -1, 1)])
    np.testing.assert_allclose(pallidum.distance(ends), 0, atol=0.6)
    assert nuclei['GP', 'L'].distance(ends).min() > -3.5
    np.testing.assert_array_equal(nuclei['GP', 'L'].back, np.eye(4))


def test_the_gradient_is_that_of_the_distance(nuclei):
    nigra = nuclei['SN', 'L']
    points = nigra.centre + np.random.default_rng(0).uniform(-6, 6, (50, 3))
    found = nigra.slope(points)
    step = 1e-2
    for axis in range(3):
        away = np.eye(3)[axis] * step
        change = (nigra.distance(points + away) - nigra.distance(points - away)) / (2 * step)
        assert np.median(np.abs(change - found[:, 1 + axis])) < 0.02
