import numpy as np
import pytest

from bids_qsm.biomarkers.veins_graph import branches, centreline, merged, nearest

SIDES = np.array([1.0, 1.0, 1.5])
SHAPE = (40, 40, 30)


def tube(points, radius):
    """Voxels within a distance (mm) of points (mm)."""
    index = np.stack(np.indices(SHAPE), -1) * SIDES
    mask = np.zeros(SHAPE, bool)
    for point in points:
        mask |= ((index - point) ** 2).sum(-1) <= radius**2
    return mask


def straight(start, stop):
    return np.linspace(start, stop, 60)


def graph(mask, **settings):
    radius = np.full(SHAPE, 1.5, np.float32)
    return merged(branches(mask, SIDES, radius, **settings))


def test_two_crossing_veins_are_four_branches_of_one_junction():
    mask = tube(straight((5, 5, 20), (33, 33, 20)), 1.2) | tube(straight((5, 33, 20), (33, 5, 20)), 1.2)
    found = graph(mask)
    assert len(found) == 4
    assert {max(one.ends) for one in found} == {1}
    assert {min(one.ends) for one in found} == {0}
    # the diagonals of 28 mm, less what thinning takes off the ends
    assert sum(one.length(SIDES) for one in found) == pytest.approx(2 * 28 * np.sqrt(2), abs=10)


def test_a_bump_is_no_branch_and_a_straight_vein_is_one():
    mask = tube(straight((5, 20, 20), (35, 20, 20)), 1.5) | tube([(20, 22.5, 20)], 1.2)
    assert len(graph(mask)) == 1
    branch = graph(mask | tube(straight((20, 20, 20), (20, 34, 20)), 1.2))
    assert len(branch) == 3


def test_a_ring_is_one_branch_and_nothing_is_none():
    turn = np.linspace(0, 2 * np.pi, 100)
    ring = tube(np.stack([20 + 10 * np.cos(turn), 20 + 10 * np.sin(turn), np.full(100, 21.0)], 1), 1.2)
    (one,) = graph(ring)
    assert one.length(SIDES) == pytest.approx(2 * np.pi * 10, rel=0.15)
    assert graph(np.zeros(SHAPE, bool)) == []


def test_the_centreline_is_finer_than_voxels():
    """An oblique vein, whose voxels lie up to half a voxel off."""
    start, stop = np.array([6.3, 8.1, 9.2]), np.array([31.2, 27.7, 33.1])
    along = (stop - start) / np.linalg.norm(stop - start)
    index = np.stack(np.indices(SHAPE), -1) * SIDES - start
    away = np.linalg.norm(index - (index @ along)[..., None] * along, axis=-1)
    weight = np.exp(-(away**2) / 2 / 0.9**2).astype(np.float32)
    voxels = np.unique(np.rint(straight(start, stop) / SIDES).astype(int), axis=0)
    voxels = voxels[np.argsort(voxels * SIDES @ along)]
    points, tangents = centreline(voxels, weight, SIDES, np.full(len(voxels), 1.5))
    offset = points - start
    across = np.linalg.norm(offset - (offset @ along)[:, None] * along, axis=1)
    assert np.median(across) < 0.2
    assert across.max() < 0.5
    assert np.abs(tangents @ along).min() > 0.97
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.3)


def test_nearest_point_of_several_lines():
    lines = [straight((0, 0, 0), (10, 0, 0)), straight((0, 8, 0), (10, 8, 0))]
    line, point, distance = nearest(lines, np.array([[5, 1, 0], [10, 7, 0], [5, 40, 0]]), 3.0)
    assert line.tolist() == [0, 1, -1]
    assert point[1] == 59
    assert distance[0] == pytest.approx(1.0, abs=0.01)
