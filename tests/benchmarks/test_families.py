"""The benchmark of families of heads runs, and its page shows what it measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def bench():
    """The scripts, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import document
        import families

        yield families, document


@pytest.fixture(scope='module')
def case(bench):
    """A head with a gradient, scanned with voxels of 4 mm."""
    return bench[0].scan_of('gradient', 3, 4.0)


def test_a_chain_is_scored_on_a_family(bench, case, tmp_path, monkeypatch):
    families, document = bench
    monkeypatch.setattr(families, 'scan_of', lambda *_: case)
    words = ['--families', 'gradient', '--seeds', '3', '--voxel', '4', '--results', str(tmp_path)]
    families.main([*words, '--chains', 'pdf + tkd'])
    row = pd.read_csv(tmp_path / 'families.tsv', sep='\t').loc[0]
    assert np.isfinite(row[['nrmse', 'slow_ppb', 'hfen', 'nuclei_ppb', 'slope', 'kept']].astype(float)).all()
    shown = document.families(document.Results(tmp_path, 1.0)).splitlines()[2]
    assert shown.startswith(f'| gradient | pdf + tkd | 1 | {row["nrmse"]:.1f} |')


def test_the_truth_scores_best_and_without_its_gradient_keeps_none(bench, case):
    families, _ = bench
    truth, size = case.truth, case.grid.voxel_size
    best = families.score(truth['chi'], truth['mask'], truth, size)
    wanted = {'nrmse': 0, 'slow_ppb': 0, 'hfen': 0, 'nuclei_ppb': 0, 'slope': 1, 'kept': 100}
    assert best == pytest.approx(wanted, abs=1e-3)
    level = families.score(truth['chi'] - truth['gradient'], truth['mask'], truth, size)
    assert level['kept'] == pytest.approx(0, abs=0.1)
    assert level['slow_ppb'] > 1


def test_the_plain_scan_measures_the_true_field(bench):
    families, _ = bench
    case = families.scan_of('1 echo, 7 T', 3, 4.0)
    truth, turn = case.truth, case.radians_per_ppm[0]
    error = case.data['phase'][..., 0] - turn * truth['total_field']
    error = np.angle(np.exp(1j * error))[truth['mask']]
    assert np.abs(error.mean()) < 1e-3
    assert error.std() < 0.05


def test_means_of_unlike_heads_are_not_compared(bench, tmp_path):
    _, document = bench
    scores = dict.fromkeys(('nrmse', 'slow_ppb', 'hfen', 'nuclei_ppb', 'slope', 'kept'), 1.0)
    measured = [('default', 1), ('default', 2), ('levelled + tv', 1)]
    rows = [{'family': 'own', 'voxel': 1.5, 'seed': seed, 'chain': c, **scores} for c, seed in measured]
    pd.DataFrame(rows).to_csv(tmp_path / 'families.tsv', sep='\t', index=False)
    shown = document.families(document.Results(tmp_path, 1.0))
    assert '| **default** | 2 |' in shown
    assert 'tv' not in shown
