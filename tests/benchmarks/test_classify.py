"""The benchmark of classifiers plants leaks that are named, and plans the power of a known difference."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import classify

    return classify


def test_planted_leaks_are_named(bench):
    found = {name: share for _, name, _, _, share in bench.leaks(1)}
    clean = found.pop('a clean table with three sites')
    assert len(found) == 5
    assert set(found.values()) == {1}
    assert clean == 0


def test_power_grows_with_the_cohort_and_the_difference(bench):
    power = [bench.planned(bench.DIFFERENT, (n, n), 0.1) for n in (20, 60, 400)]
    assert power == sorted(power)
    assert power[-1] > 0.99
    assert bench.planned(bench.DIFFERENT, (60, 60), 0.0) == pytest.approx(0.025, abs=0.001)
