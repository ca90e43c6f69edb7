"""The benchmark of relaxation puts sources where it says, and counts right."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.r2prime import APPLICATION
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.sources import PARTS, Relaxivity, add_sources

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
SHAPE = (12, 12, 12)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import relaxation

    return relaxation


def test_veins_do_not_change_r2_and_fine_iron_does(bench):
    before = add_sources(make_head(911, spacing=3.0), Relaxivity(), 911)
    after, marks = bench.planted(before, 911)
    added = after.volume.data - before.volume.data
    vein, dust = (one.tissue.data[..., bench.t.CHANNELS.index('chi')] for one in marks)
    assert vein.max() > 0.5
    assert dust.max() > 0.5
    assert not (vein * dust).any()
    r2 = added[..., PARTS.index('r2')]
    np.testing.assert_allclose(r2, bench.DUST[1] * dust, atol=1e-4)
    assert added[..., PARTS.index('para')][vein > 0.9].mean() > 5 * bench.DUST[0]


def test_perfect_maps_have_no_bias_and_every_class(bench, monkeypatch):
    rng = np.random.default_rng(0)
    x = np.arange(12)[:, None, None] * np.ones(SHAPE)
    white, nucleus = (x < 5).astype(float), x > 7
    vein = np.zeros(SHAPE)
    vein[2, 2:10, 2] = vein[6, 2:10, 8] = vein[11, 2:10, 8] = 1
    dust = np.zeros(SHAPE)
    dust[3, 2:10, 8] = dust[6, 2:10, 4] = dust[11, 2:10, 2] = 1
    truth = {
        'r2': (15 + rng.random(SHAPE)).astype(np.float32),
        'r2prime': np.full(SHAPE, 5.0),
        'b1': np.ones(SHAPE),
        'brain': np.ones(SHAPE),
        'csf': np.zeros(SHAPE),
        'blood': np.zeros(SHAPE),
        'white': white,
        'vein': vein,
        'dust': dust,
    }
    given = {
        'mask': np.ones(SHAPE, bool),
        'dseg': nucleus.astype(int),
        'labels': pd.DataFrame({'index': [1], 'region': ['Putamen']}),
        'white_matter': white > 0.5,
    }
    found = {
        **dict.fromkeys(APPLICATION.gives),
        'r2': truth['r2'],
        'r2sd': np.ones(SHAPE),
        'r2prime': truth['r2prime'],
        'macroscopic': vein,
        'microscopic': dust,
        'z': dust - vein,
        'scale': vein + 2 * dust,
    }
    monkeypatch.setattr(bench, 'measure', lambda *_, **__: [found[name] for name in APPLICATION.gives])
    table, scores, _ = bench.rows_of(given, truth)
    assert set(table['tissue']) == {'white', 'cortex', 'Putamen'}
    np.testing.assert_allclose(table[['R2 bias %', "R2' bias", 'false %']], 0, atol=1e-5)
    assert scores['AUC veins/dust'] == scores['AUC z veins/dust'] == 1
    assert scores['veins called, white %'] == scores['dust called, rest %'] == 100
    assert scores['veins called else %'] == scores['false %'] == 0
    found['scale'] = 3 - found['scale']
    _, scores, _ = bench.rows_of(given, truth)
    assert scores['veins called %'] == 0
    assert scores['veins called else %'] == scores['false %'] == 100
