"""The benchmark of foci scores what the table says against what was drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.phantom.foci import Focus, Sphere

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


class Head:
    """A head that is its own template."""

    pose = np.eye(4)

    def to_template(self, _, affine):
        return affine[:3, 3][None]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import foci

    return foci


def test_what_touches_is_found_and_the_rest_is_false(bench, monkeypatch, capsys):
    shape, affine = (20, 20, 20), np.eye(4)
    labels, drawn = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    drawn[5:8, 5:8, 5:8], drawn[12:15, 12:15, 12:15] = 1, 2
    labels[6, 6, 8], labels[2, 15, 2] = 1, 2
    row = {'class': 'microbleed', 'certainty': 'definite', 'found_by': 'R2*', 'sign': 'paramagnetic'}
    row |= {'moment': 8.0, 'moment_se': 1.0, 'moment_from': 'local field', 'confidence': 0.7}
    row |= dict.fromkeys(
        ('x', 'y', 'z', 'diameter_mm', 'dist_edge_mm', 'dist_vein_mm', 'dist_nucleus_mm'), 3.0
    )
    table = pd.DataFrame([{'candidate': n, **row, 'mars_region': 'deep'} for n in (1, 2)])
    monkeypatch.setattr(bench, 'find_candidates', lambda *_, **__: (labels, table.copy(), None))
    foci = [Focus((c, c, c), (Sphere(2.0, 0.3, 50.0, 0.8),), 'microbleed', 'vein') for c in (6.0, 13.0)]
    maps = dict.fromkeys(('chi', 'localfield', 'field', 'magnitude', 'r2star', 'mask'))
    maps |= {'affine': affine, 'foci': drawn, 'dseg': drawn}
    monkeypatch.setattr(bench, 'reconstructed', lambda *_: (Head(), foci, maps))
    found, told = bench.main(['--heads', 'atlas:1', '--voxel', '1'])
    assert found['found'].tolist() == [True, False]
    assert found['right'].tolist() == [True, False]
    assert told['focus'].tolist() == [1, 0]
    said = capsys.readouterr().out
    assert 'confidence 0.40: sensitivity 0.500, false 1.00 a head' in said
    assert 'sign from 2 mm: 1 of 1 right' in said
