"""Regions and maps of iron and myelin, and what is left out where R2* is missing."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.ironmyelin import (
    APPLICATION,
    REGION_ERROR,
    _region_error,
    measure,
    rows,
    water_fraction,
)
from bids_qsm.applications.r2prime import rate_of
from bids_qsm.biomarkers.iron_myelin import constants_at
from bids_qsm.recon.grid import Grid

SHAPE = (24, 24, 16)


@pytest.fixture(scope='module')
def head():
    """A putamen of 13 mg/100 g beside white matter, at 7 T."""
    rng = np.random.default_rng(0)
    dseg = np.zeros(SHAPE, np.int32)
    dseg[4:12, 4:12, 3:13] = 1
    white = np.zeros(SHAPE, bool)
    white[14:] = True
    tissue = np.where(dseg[..., None] > 0, [13.0, 0.07], [4.2, 0.27])
    constants = constants_at(7.0, ('chi', 'R2star', 'MWF'))
    y = constants.mean[:, 0] + tissue @ constants.slopes.T
    y = (y + [0.003, 0.5, 0.005] * rng.standard_normal(y.shape)).astype(np.float32)
    labels = pd.DataFrame({'index': [1], 'name': ['P'], 'hemisphere': ['L'], 'region': ['Putamen']})
    data = dict.fromkeys(APPLICATION.arguments)
    return data | {
        'chi': y[..., 0], 'r2star': y[..., 1], 'mwf': y[..., 2], 'mask': np.ones(SHAPE, bool),
        'dseg': dseg, 'labels': labels, 'white_matter': white, 'grid': Grid(SHAPE), 'reference': 'CSF',
        'field_strength': 7.0,
    }  # fmt: skip


def found(head, **changed):
    return dict(zip(APPLICATION.gives, measure(*(head | changed).values()), strict=True))


def test_regions_and_maps_hold_the_tissue(head):
    result = found(head)
    table = result['table'].set_index(['region', 'hemisphere'])
    assert list(result['table']) == [column.name for column in APPLICATION.tables[0].columns]
    for region, side, where, iron, myelin in (
        ('Putamen', 'L', head['dseg'] > 0, 13.0, 0.07),
        ('White matter', 'both', head['white_matter'], 4.2, 0.27),
    ):
        row = table.loc[(region, side)]
        assert row['chi'] == pytest.approx(head['chi'][where].mean(), abs=1e-5)
        assert row['R2star'] == pytest.approx(head['r2star'][where].mean(), abs=1e-3)
        assert row['iron_mg100g'] == pytest.approx(iron, abs=0.3)
        assert row['mvf'] == pytest.approx(myelin, abs=0.03)
        assert row['mvf_sd_noise'] < row['mvf_sd'] / 2
        assert row['iron_change_per_fifth'] < 0 < row['mvf_change_per_fifth']
        assert row['inputs'] == 'chi, R2star, MWF'
        fits = where & result['ironmyelin']
        assert fits.sum() > 0.95 * where.sum()
        assert result['iron'][fits].mean() == pytest.approx(iron, abs=0.5)
        assert result['myelin'][fits].mean() == pytest.approx(myelin, abs=0.03)
    facts = result['facts']
    assert facts['R2star_by_iron']['value'] == pytest.approx(1.4 * 7 / 3, abs=1e-3)
    assert all(one['source'] for name, one in facts.items() if name.startswith('chi_'))
    tidy = rows(result['table'])
    assert set(tidy['map']) == {'iron', 'mvf'}
    assert len(tidy) == 2 * len(table)
    # the group level leaves regions out of which less than half was measured
    half = head['mask'] & (np.arange(SHAPE[2]) < 7)
    cut = rows(found(head, mask=half)['table']).set_index(['region', 'map'])
    assert cut.loc[('Putamen', 'iron'), 'coverage'].to_numpy() == pytest.approx(0.4)


def test_without_r2star_there_is_iron_of_grey_matter_alone(head):
    result = found(head, r2star=None)
    assert not [name for name in result['facts'] if name.startswith(('R2star', 'MWF'))]
    assert [name for name in APPLICATION.gives if result[name] is None] == [*APPLICATION.gives[:5]]
    table = result['table'].set_index('region')
    assert not table['identifiable'].any()
    assert table['mvf'].isna().all()
    assert table.loc['White matter', 'iron_mg100g'] != table.loc['White matter', 'iron_mg100g']
    assert pd.isna(table.loc['White matter', 'inputs'])
    assert set(table.loc['Putamen', 'inputs']) == {'chi'}
    row = table.loc['Putamen'].iloc[0]
    assert abs(row['iron_mg100g'] - 13) < row['iron_sd']
    assert row['iron_sd'] > 3
    assert set(rows(result['table'])['map']) == {'iron'}


def test_errors_of_rates_grow_with_the_field():
    assert [_region_error(name, 7.0) / REGION_ERROR[name] for name in REGION_ERROR] == pytest.approx(
        [1, 7 / 3, 7 / 3, 1, 1, 1]
    )


def test_units_of_given_maps_are_those_of_the_model():
    np.testing.assert_allclose(water_fraction(np.array([0.0, 12.0]), 'x'), [0, 0.12])
    np.testing.assert_allclose(water_fraction(np.array([0.0, 0.12]), 'x'), [0, 0.12])
    np.testing.assert_allclose(rate_of(np.array([0.0, 1250.0]), 'sub-01_T1map.nii'), [0, 0.8])
    np.testing.assert_allclose(rate_of(np.array([0.0, 0.8]), 'sub-01_R1map.nii'), [0, 0.8])
