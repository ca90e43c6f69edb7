import numpy as np
import pytest

from bids_qsm.plugins.tiles import Plan, run_tiled, starts, weights


@pytest.mark.parametrize(
    ('size', 'margin', 'blend', 'multiple'), [(16, 3, 0, 1), (16, 3, 4, 2), (24, 0, 5, 4)]
)
def test_weights_sum_to_one_and_leave_margins_out(size, margin, blend, multiple):
    length = 64
    first = starts(length, size, margin, blend, multiple)
    shares = weights(first, length, size, margin, blend)
    total = np.zeros(length)
    for start, one in zip(first, shares, strict=True):
        total[start : start + size] += one
        assert start % multiple == 0
        assert start == 0 or not one[:margin].any()
        assert start + size == length or not one[size - margin :].any()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_joined_tiles_are_the_volume():
    values = np.random.default_rng(0).standard_normal((20, 12, 31)).astype(np.float32)
    plan = Plan(values.shape, (12, 12, 10), 2, 2, 1)
    places = list(plan.places())
    (joined,) = run_tiled(lambda place: values[place][None].copy(), plan, range(len(places)), 1)
    np.testing.assert_allclose(joined, values, atol=1e-6)


def test_tiles_outside_of_the_mask_are_left_out():
    mask = np.zeros((40, 8, 8), bool)
    mask[30:38] = True
    plan = Plan(mask.shape, (16, 8, 8), 2, 0, 1)
    assert plan.needed(mask) == [2]
    assert plan.needed(mask | True) == [0, 1, 2]
