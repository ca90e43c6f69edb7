"""The benchmark of veins in BOLD runs finds what a vein does, and its page shows what it measured."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
SHAPE, FRAMES = (16, 12, 12), 60


@pytest.fixture(scope='module')
def bench():
    """The scripts, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import document
        import fmri

        yield fmri, document


def make_run(gain):
    """A patch of 27 voxels that follows a task, and a vein of as many 21 mm beside it."""
    rng = np.random.default_rng(0)
    neural, vein = np.zeros((2, *SHAPE))
    neural[3:6, 4:7, 4:7] = 1
    vein[10:13, 4:7, 4:7] = 1
    task = (np.arange(FRAMES) // 10 % 2).astype(float)
    percent = 0.02 * (neural + gain * vein)[..., None] * task
    data = 100 * (1 + percent + 0.002 * rng.standard_normal((*SHAPE, FRAMES)))
    truth = {'brain': np.ones(SHAPE), 'veins': vein, 'neural': neural}
    protocol = SimpleNamespace(unsteady=0, repetition_time=2.0)
    affine = np.diag([3.0, 3, 3, 1])
    return SimpleNamespace(
        data=data, truth=truth, protocol=protocol, affine=affine, task=task, centre=affine[:3, :3] @ [4, 5, 5]
    )


def test_a_vein_moves_the_centre_until_it_is_excluded(bench):
    run, still = make_run(gain=2.0), make_run(gain=0.0)
    nothing = pd.DataFrame(index=range(FRAMES))
    found = bench[0].activation(run, still, run.truth['veins'] > 0, nothing)
    assert found['all']['off_mm'] == pytest.approx(14, abs=0.3)  # two thirds of the way
    assert found['all']['moved_mm'] == pytest.approx(14, abs=0.3)
    assert found['excluded']['off_mm'] < 0.3
    assert found['excluded']['moved_mm'] < 1e-6
    assert found['excluded']['response'] == pytest.approx(1)
    assert (found['all']['active'], found['excluded']['active']) == (54, 27)


def test_the_page_shows_the_worst_head(bench, tmp_path):
    row = {
        'veins': 'truth',
        'gain': 5.0,
        'way': 'excluded',
        'off_mm': 0.5,
        'moved_mm': 0.25,
        'gm_excluded': 0.02,
    }
    rows = [{**row, 'seed': n, 'response': r, 'false_%': 0.04} for n, r in enumerate((0.9, 1.02))]
    pd.DataFrame(rows).to_csv(tmp_path / 'fmri.tsv', sep='\t', index=False)
    shown = bench[1].veins_in_bold(bench[1].Results(tmp_path, 1.0)).splitlines()[2]
    assert shown.startswith(
        '| truth | excluded | 2 | 0.25 (0.25) | 0.50 (0.50) | 0.96 (0.90) | 0.04 (0.04) |'
    )
