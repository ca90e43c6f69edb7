import numpy as np

from bids_qsm.biomarkers.confluent import place_parts, split_confluent

X, Y, Z = np.indices((34, 20, 18))


def ball(x, radius):
    return (X - x) ** 2 + (Y - 9) ** 2 + (Z - 9) ** 2 < radius**2


def test_a_ball_stays_whole_and_a_pair_is_cut_at_its_neck():
    parts, table = split_confluent(ball(10, 7).astype(int), (1, 1, 1))
    assert table.loc[1].tolist() == [1, 1]
    assert parts.max() == 1
    pair = ball(8, 6) | ball(19, 6)
    parts, table = split_confluent(4 * pair, (1, 1, 1))
    assert table['parent'].tolist() == [4, 4]
    assert (parts > 0).sum() == pair.sum()
    assert (parts[:13][pair[:13]] == parts[8, 9, 9]).all()
    assert (parts[15:][pair[15:]] == parts[19, 9, 9]).all()


def test_an_ellipsoid_and_a_speck_stay_whole():
    long = ((X - 16) / 14) ** 2 + ((Y - 9) / 6) ** 2 + ((Z - 9) / 5) ** 2 < 1
    labels = long.astype(int)
    labels[0, 0, :2] = 7
    parts, table = split_confluent(labels, (1, 1, 1.5))
    assert table['parent'].tolist() == [1, 7]
    assert parts[0, 0, 0] == 2


def test_parts_keep_their_numbers_on_another_grid():
    labels = (ball(8, 6) | ball(19, 6)).astype(int)
    parts, table = split_confluent(labels, (1, 1, 1))
    shift = np.eye(4)
    shift[0, 3] = 2.0
    placed = np.roll(labels, 3, 0)
    # drawn 2 mm and moved 1 mm further to the right than the maps
    moved = place_parts(parts, table, shift, [np.diag([1.0, 1, 1, 1]) + _right(1.0)], placed, np.eye(4))
    np.testing.assert_array_equal(moved, np.roll(parts, 3, 0))


def _right(by):
    more = np.zeros((4, 4))
    more[0, 3] = by
    return more
