"""The benchmark of head positions runs, and its scores are those of heads that it knows."""

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import orientations

    monkeypatch.setattr(orientations, 'SPACING', 3.0)
    monkeypatch.setattr(orientations, 'FINER', 2)
    return orientations


def test_cosmos_of_a_coarse_head_is_better_than_one_position(bench, monkeypatch):
    # the default inversion takes seconds
    monkeypatch.setattr(bench, 'INVERSION', {'tkd': bench.INVERSION['tkd']})
    row = bench.row_of_cosmos(1002, 8.0, True, bench.NOISE, 'true', bench.head_turns(3), 1.0)
    assert row['inner'] < row['best single'] < 100
    assert row['inner'] <= row['NRMSE %']
    assert row['alike'] == pytest.approx(row['inner'])
    assert 0.3 < row['z'] < 3


def test_fibres_of_a_coarse_head_are_found(bench, monkeypatch):
    solve = bench.tensor
    monkeypatch.setattr(bench, 'tensor', lambda *data, **more: solve(*data, **more, max_iterations=6))
    row = bench.row_of_tensor(1002, 8.0, 6, 'true', bench.NOISE)
    # the median of random directions is 60
    assert row['angle'] < 45
    assert row['condition'] == pytest.approx(42, abs=2)
    assert abs(row['MSA bias %']) < 100


def test_errors_of_transforms_are_as_large_as_stated(bench):
    turns = bench.head_turns(3)
    true, wrong = (bench.transforms_of(turns, how, np.random.default_rng(0)) for how in ('true', 'misplaced'))
    np.testing.assert_array_equal(true[0], wrong[0])
    for a, b in zip(true[1:], wrong[1:], strict=True):
        moved = b @ np.linalg.inv(a)
        assert np.degrees(np.arccos((np.trace(moved[:3, :3]) - 1) / 2)) == pytest.approx(0.5, abs=0.01)
        assert np.linalg.norm(moved[:3, 3]) == pytest.approx(0.5)


def test_the_table_of_conditioning_says_which_sets_are_regularised(bench):
    said = {row['positions']: row['said'] for row in bench.rows_of_conditioning()}
    assert said['0, +-25 about x'] == 'regularised'
    assert not said['0, 25x, 25y']


def test_cost_of_a_coarse_head_is_within_what_its_nodes_declare(bench):
    rows = {row['application']: row for row in bench.rows_of_cost(10.0, iterations=1)}
    assert set(rows) == {
        'cosmos',
        'tensor',
        'resampling of a position, by sinc',
        'resampling of a position, by splines',
    }
    for name in ('cosmos', 'tensor'):
        assert 0 < rows[name]['peak GB, with the images'] < rows[name]['GB that its node declares']
