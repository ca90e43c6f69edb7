"""The benchmark of trials runs on few tables and says what it should."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import trials

    return trials


def test_slopes_and_power_are_printed(bench, capsys):
    trials = bench
    of = trials.TRIALS['deferiprone']
    trials.known_slopes('one', replace(of, regions={'GP': of.regions['GP']}), [1])
    said = capsys.readouterr().out
    row = re.search(r'chi +GP +placebo +([-\d.]+) +([-\d.]+)', said)
    assert float(row[1]) == pytest.approx(of.truth('GP', 'placebo')['chi'], abs=1e-3)
    assert abs(float(row[2])) < 15
    rng = trials.np.random.default_rng(0)
    arm = trials.np.repeat([0.0, 1.0], 10)
    t = trials.np.linspace(0, 1, 3)
    y = 100 + 20 * arm[:, None] * t + rng.normal(0, 1, (20, 3))
    assert all(trials._p_of(design, y, t, arm) < 1e-6 for design in ('change', 'ancova', 'random slope'))
