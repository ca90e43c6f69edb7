"""Superficial siderosis: one row a series, sheets, what a cohort counts, and what it says."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.siderosis import APPLICATION, counts, measure, overview
from bids_qsm.recon.grid import Grid
from tests.biomarkers.test_siderosis import AFFINE, SHAPE, made


def measured(affine=AFFINE):
    """What the application gives of a box with a sheet, by name."""
    chi, r2star, mask, _ = made()
    found = measure(chi, r2star, mask, Grid.from_affine(SHAPE, affine), affine, [])
    return dict(zip(APPLICATION.gives, found, strict=True))


def test_a_sheet_is_counted_and_said():
    found = measured()
    (row,) = found['table'].to_dict('records')
    assert (row['pattern'], row['sulci'], row['sulci_possible'], row['reason']) == ('focal', 1, 0, 'n/a')
    (sheet,) = found['sheetlist'].to_dict('records')
    assert row['area_mm2'] == sheet['area_mm2']
    assert row['searched_ml'] > 100
    assert np.array_equal(found['siderosis'], found['sheets'] == 1)
    for table, rows in zip(APPLICATION.tables, (found['table'], found['sheetlist']), strict=True):
        assert set(rows) == set(table.described())
    counted = counts(found['table']).set_index('map')
    assert counted['mean'].to_dict() == {'siderosis_sulci': 1, 'siderosis_area': row['area_mm2']}
    assert found['facts']['SusceptibilitySpread']['value'] == pytest.approx(0.01, rel=0.2)
    cohort = pd.concat([found['table'].assign(participant_id=f'sub-{n}') for n in (1, 2)])
    assert '2 participants (focal: 2)' in overview(cohort)['answers'][0]


def test_what_cannot_be_assessed_counts_as_nothing():
    coarse = np.diag([1.0, 1, 3, 1])
    coarse[:3, 3] = AFFINE[:3, 3]
    found = measured(coarse)
    (row,) = found['table'].to_dict('records')
    assert row['pattern'] == 'not assessable'
    assert 'voxels of 3.0 mm' in row['reason']
    assert counts(found['table'])['mean'].isna().all()
    assert found['sheetlist'].empty
    assert not found['siderosis'].any()
