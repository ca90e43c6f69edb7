"""The benchmark of regional means knows what the truth is."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.phantom import tissue
from bids_qsm.phantom.head import make_head


@pytest.fixture(scope='module')
def bench():
    folder = str(Path(__file__).parents[2] / 'benchmarks')
    sys.path.insert(0, folder)
    import regions

    yield regions
    sys.path.remove(folder)


def test_true_values_are_those_that_nuclei_were_filled_with(bench):
    head = make_head(3, spacing=2.0, variation=0.0)
    truth = bench.true_values(head)
    for region in ('RN', 'Putamen'):
        assert truth[region] == pytest.approx(tissue.NUCLEI[region].chi, rel=0.1)
    assert min(truth['GPe'], truth['GPi']) < truth['GP'] < max(truth['GPe'], truth['GPi'])
    iron = bench.true_values(head.changed({'GP': 2.0}))
    assert iron['GP'] - truth['GP'] == pytest.approx(tissue.NUCLEI['GPe'].chi, rel=0.1)
    assert iron['RN'] == truth['RN']


def test_errors_are_relative_to_a_region_of_reference(bench):
    rows = [
        ('Brain', 'chi', -0.02, np.nan),
        ('Brain', 'truth', 0.01, np.nan),
        ('CSF', 'chi', np.nan, np.nan),
        ('CSF', 'truth', np.nan, np.nan),
        ('White matter', 'chi', -0.05, np.nan),
        ('White matter', 'truth', -0.03, np.nan),
        ('GP', 'chi', 0.1, 0.002),
        ('GP', 'truth', 0.12, 0.001),
    ]
    table = pd.DataFrame(rows, columns=['region', 'map', 'mean', 'se']).assign(hemisphere='both')
    table = table.assign(median=table['mean'], mean_pv=table['mean'] + 0.01, se_pv=0.004)
    table = table.assign(
        mean_weighted=np.nan, se_weighted=np.nan, core_mean=table['mean'] + 0.02, core_se=0.001
    )
    found = pd.DataFrame(bench.errors(table, {'GP': 0.125})).set_index(['reference', 'value'])
    assert set(found.index.get_level_values('reference')) == {'Brain', 'White matter'}
    assert found.loc[('Brain', 'mean')]['error'] == pytest.approx(5)
    assert found.loc[('White matter', 'mean')]['error'] == pytest.approx(-5)
    assert found.loc[('Brain', 'core_mean')][['error', 'se']].tolist() == pytest.approx([25, 1])
    assert 'mean_weighted' not in found.index.get_level_values('value')
    assert found.loc[('Brain', 'mean_pv')][['error', 'se']].tolist() == pytest.approx([15, 4])
