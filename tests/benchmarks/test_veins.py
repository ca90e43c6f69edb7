"""The benchmark of veins knows right from wrong."""

from pathlib import Path

import numpy as np
import pytest

from bids_qsm.biomarkers.veins import find_veins
from tests.biomarkers.vein_maps import TREE, make_maps

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import veins

    return veins


def test_scores_of_found_veins_and_of_none(bench):
    maps = make_maps()
    maps |= {
        'points': np.concatenate([s.points for s in TREE]),
        'radius': np.concatenate([s.radius for s in TREE]),
        'who': np.repeat(np.arange(len(TREE)), [len(s.points) for s in TREE]),
    }
    images = [maps[name] for name in ('chi', 'swi', 'r2star', 'mask', 'dseg')]
    row = bench.score(find_veins(*images, maps['affine'], maps['grid']), maps, maps['grid'])
    assert row['dice'] > 0.8
    assert row['cldice'] > 0.85
    assert row['precision'] > 0.9
    assert row['recall_2'] > 0.9
    assert row['leak'] == 0
    assert abs(row['error_2']) < 0.3
    images[3] = np.zeros_like(maps['mask'])
    none = bench.score(find_veins(*images, maps['affine'], maps['grid']), maps, maps['grid'])
    assert none['dice'] == none['cldice'] == none['recall_2'] == 0
