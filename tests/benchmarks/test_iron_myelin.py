"""The benchmark of stages counts right."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def test_a_summary_counts_bias_coverage_and_false_effects(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import iron_myelin

    rows = iron_myelin.score('few', [1])
    table = iron_myelin.summary(rows)
    iron = table.loc['iron', 'grey nuclei', '3']
    assert iron['truth'] == 4
    assert abs(iron['bias_pct']) < 40
    assert iron['coverage'] > 0.5
    moved = rows.assign(estimate=rows['truth'] + 1.0, ci_low=rows['truth'] + 0.5, ci_high=rows['truth'] + 2)
    table = iron_myelin.summary(moved)
    assert table.loc['iron', 'white matter', '2']['bias_pct'] == pytest.approx(50)
    assert table.loc['iron', 'white matter', '2']['coverage'] == 0
    assert table.loc['chi'].isna()['coverage'].all()
