"""The benchmark of lesions says of true maps that they are right."""

from pathlib import Path

import numpy as np
import pytest

from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.lesions import scatter

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import lesions

    return lesions


def true_maps(head):
    """Maps of a head without noise, on a grid of 2 mm."""
    shape, affine = (78, 96, 80), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -2 * (np.array(shape) - 1) / 2
    tissue = head.sample(shape, affine, ('chi', 'r2star', 'brain'))
    mask = tissue['brain'] > 0.5
    chi = tissue['chi'] * mask
    return {
        'chi': chi,
        'r2star': tissue['r2star'] * mask,
        'mask': mask,
        'affine': affine,
        'true_chi': chi,
        'lesions': head.lesion_labels(shape, affine).astype(np.int32),
        'dseg': head.labels(shape, affine).astype(np.int32),
    }


def test_true_maps_score_well(bench, monkeypatch, capsys):
    head = make_head(5, spacing=2.0)
    head = head.changed({}, scatter(5, head, rims=2, calcifications=3, microbleeds=3))
    maps = true_maps(head)
    monkeypatch.setattr(bench, 'reconstruct', lambda *_: (head, maps))
    signs = bench.main(['--seeds', '5'])
    assert len(signs) == 8
    assert signs['right'].mean() >= 7 / 8
    measured = signs[signs['reason'].isna()]
    np.testing.assert_allclose(measured['contrast'], measured['true_contrast'])
    said = capsys.readouterr().out
    assert '5: sign right' in said
