import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.regions import dictionary, region_table
from bids_qsm.recon.grid import Grid

GRID = Grid((24, 24, 24), (1.0, 1.0, 1.2))
NAMES = ('SNc', 'SNr', 'RN', 'Putamen')


@pytest.fixture
def labels():
    rows = [(2 * n + s + 1, f'{h}_{r}', h, r) for n, r in enumerate(NAMES) for s, h in enumerate('LR')]
    return pd.DataFrame(rows, columns=['index', 'name', 'hemisphere', 'region'])


@pytest.fixture
def dseg():
    """Putamina of 6^3 voxels, SNc beside SNr, an RN of 8 voxels on the left alone."""
    image = np.zeros(GRID.shape, np.int16)
    image[2:8, 2:8, 2:8], image[16:22, 2:8, 2:8] = 7, 8
    image[2:8, 12:15, 12:18], image[16:22, 12:15, 12:18] = 1, 2
    image[2:8, 15:18, 12:18], image[16:22, 15:18, 12:18] = 3, 4
    image[10:12, 20:22, 20:22] = 5
    return image


@pytest.fixture
def chi(dseg):
    """0.1 (2 R2* units per label) in regions, large outside: what leaks in is seen."""
    return np.where(dseg > 0, 0.01 * dseg, 5.0).astype(np.float32)


def everywhere():
    return np.ones(GRID.shape, bool)


def row(table, region, hemisphere, name='chi'):
    found = table[(table['region'] == region) & (table['hemisphere'] == hemisphere) & (table['map'] == name)]
    assert len(found) == 1
    return found.iloc[0]


def test_core_is_eroded_and_free_of_neighbours(chi, dseg, labels):
    # blur, so that the rim of each region holds some of its surroundings
    chi[1:8, 2:8, 2:8][0] = 5
    chi[7, 2:8, 2:8] = 3
    putamen = row(region_table({'chi': chi}, dseg, labels, everywhere(), GRID), 'Putamen', 'L')
    assert putamen['core'] == 'eroded'
    assert putamen['n_voxels'] == 4**3
    assert putamen['volume_mm3'] == 6**3 * 1.2
    assert putamen['coverage'] == 1
    assert putamen['mean'] == pytest.approx(0.07)
    assert putamen['index'] == 7


def test_composites_join_their_parts_before_erosion(chi, dseg, labels):
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    assert row(table, 'SN', 'L')['n_voxels'] == 4**3
    assert row(table, 'SN', 'L')['mean'] == pytest.approx(0.02)
    assert row(table, 'SN', 'both')['mean'] == pytest.approx(0.025)
    assert row(table, 'SN', 'both')['n_voxels'] == 2 * 4**3
    assert pd.isna(row(table, 'SN', 'L')['index'])
    # too little of SNc would be left: it keeps voxels with four neighbours of six
    assert row(table, 'SNc', 'L')['core'] == 'inner'
    assert 'GP' not in set(table['region'])


def test_the_core_is_the_same_in_every_session(labels):
    """A nucleus that is drawn a little larger or smaller keeps the kind of its core."""
    labels['volume_mm3'] = 500.0
    at = np.indices(GRID.shape) * np.array(GRID.voxel_size)[:, None, None, None] - 12
    kinds = set()
    for radius in (4.0, 4.5, 5.0, 5.5):
        image = np.where((at**2).sum(0) < radius**2, 7, 0)
        table = region_table({'chi': image.astype(np.float32)}, image, labels, everywhere(), GRID)
        kinds.add(row(table, 'Putamen', 'L')['core'])
    assert kinds == {'eroded'}


def test_a_small_nucleus_does_not_vanish(chi, dseg, labels):
    nucleus = row(region_table({'chi': chi}, dseg, labels, everywhere(), GRID), 'RN', 'L')
    assert (nucleus['core'], nucleus['n_voxels']) == ('whole', 8)
    assert nucleus['mean'] == pytest.approx(0.05)


def test_a_region_outside_the_field_of_view_is_a_row_without_statistics(chi, dseg, labels):
    missing = row(region_table({'chi': chi}, dseg, labels, everywhere(), GRID), 'RN', 'R')
    assert (missing['n_voxels'], missing['volume_mm3'], missing['coverage'], missing['core']) == (
        0,
        0,
        0,
        'none',
    )
    assert missing[['mean', 'sd', 'median', 'p5', 'p95', 'mean_positive']].isna().all()


def test_mask_cuts_statistics_and_coverage(chi, dseg, labels):
    mask = everywhere()
    mask[5:8, 2:8, 2:8] = False
    putamen = row(region_table({'chi': chi}, dseg, labels, mask, GRID), 'Putamen', 'L')
    assert putamen['coverage'] == 0.5
    assert putamen['n_voxels'] == 2 * 4 * 4
    assert row(region_table({'chi': chi}, dseg, labels, mask, GRID), 'Putamen', 'both')['coverage'] == 0.75


def test_coverage_of_a_region_that_the_field_of_view_cuts(chi, dseg, labels):
    # The atlas is 10 % smaller than this brain; the slab ends in the middle of the putamina.
    counts = np.bincount(dseg.ravel(), minlength=9)[labels['index']]
    labels['volume_mm3'] = 0.9 * GRID.voxel_volume * np.where(counts, counts, 8)
    slab = (slice(None), slice(None), slice(5, 24))
    grid = Grid((24, 24, 19), GRID.voxel_size)
    table = region_table({'chi': chi[slab]}, dseg[slab], labels, everywhere()[slab], grid)
    assert row(table, 'Putamen', 'L')['coverage'] == pytest.approx(0.5, abs=0.01)
    assert row(table, 'SNc', 'L')['coverage'] == 1
    assert row(table, 'RN', 'R')['coverage'] == 0
    assert row(table, 'RN', 'both')['coverage'] == pytest.approx(0.5, abs=0.01)


def test_statistics_of_known_values(dseg, labels):
    values = np.zeros(GRID.shape, np.float32)
    core = (slice(3, 7), slice(3, 7), slice(3, 7))
    values[core] = np.linspace(-1, 2, 64).reshape(4, 4, 4)
    values[3, 3, 3] = np.nan
    found = row(region_table({'chi': values}, dseg, labels, everywhere(), GRID), 'Putamen', 'L')
    known = np.linspace(-1, 2, 64)[1:]
    assert found['n_voxels'] == 63
    assert found['mean'] == pytest.approx(known.mean(), rel=1e-4)
    assert found['sd'] == pytest.approx(known.std(ddof=1), rel=1e-4)
    assert found['p5'] == pytest.approx(np.percentile(known, 5), rel=1e-4)
    assert found['p95'] == pytest.approx(np.percentile(known, 95), rel=1e-4)
    assert found['mean_positive'] == pytest.approx(known[known > 0].mean(), rel=1e-4)


def test_brain_comes_first_and_is_the_mask(chi, dseg, labels):
    mask = dseg > 0
    table = region_table({'chi': chi, 'R2star': 10 * chi}, dseg, labels, mask, GRID, reference='CSF')
    brain = row(table, 'Brain', 'both')
    assert table.iloc[0]['region'] == 'Brain'
    assert brain['n_voxels'] == mask.sum()
    assert set(zip(table['map'], table['units'], table['reference'], strict=True)) == {
        ('chi', 'ppm', 'CSF'),
        ('R2star', '1/s', 'n/a'),
    }


def test_the_brains_mean_says_where_zero_would_be(chi, dseg, labels):
    table = region_table({'chi': chi}, dseg, labels, dseg > 0, GRID)
    assert row(table, 'Brain', 'both')['mean'] == pytest.approx(chi[dseg > 0].mean(), rel=1e-4)
    assert row(table, 'Brain', 'both')['note'] == 'n/a'


def test_regions_of_reference(chi, dseg, labels):
    white = np.zeros(GRID.shape, bool)
    white[10:14] = True
    maps = {'chi': chi, 'R2star': np.full(GRID.shape, 20, np.float32)}
    found = region_table(maps, dseg, labels, everywhere(), GRID, white_matter=white)
    assert found['region'].drop_duplicates().tolist()[:4] == ['Brain', 'CSF', 'White matter', 'SN']
    matter = row(found, 'White matter', 'both')
    assert (matter['n_voxels'], matter['core'], matter['coverage']) == (4 * 24 * 24, 'whole', 1)
    assert matter['mean'] == pytest.approx(chi[white].mean(), rel=1e-4)
    assert matter['note'].startswith('2.8 ml of deep white matter')
    fluid = row(found, 'CSF', 'both')
    assert (fluid['n_voxels'], fluid['core']) == (0, 'none')
    assert fluid['note'].startswith('not found: 0.0 ml of fluid')
    assert np.isnan(fluid['mean'])


def test_an_atlas_keeps_regions_of_the_same_name_apart(chi, dseg, labels):
    labels.loc[labels['region'] == 'Putamen', 'region'] = 'CSF'
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    assert row(table, 'CSF (atlas)', 'L')['mean'] == pytest.approx(0.07)
    assert row(table, 'CSF', 'both')['n_voxels'] == 0
    assert not table.duplicated(['region', 'hemisphere', 'map']).any()


def test_partial_volume_comes_with_its_error(chi, dseg, labels):
    noise = np.random.default_rng(0).normal(0, 0.01, GRID.shape)
    table = region_table({'chi': np.minimum(chi, 0) + noise}, dseg, labels, everywhere(), GRID)
    for region in ('SNc', 'SN', 'Putamen'):
        both, left = (row(table, region, side) for side in ('both', 'L'))
        assert abs(both['mean_pv']) < 4 * both['se_pv']
        assert 0.5 < left['se_pv'] / both['se_pv'] / np.sqrt(2) < 2
    assert table.loc[table['region'].isin(['Brain', 'CSF']), 'mean_pv'].isna().all()
    assert np.isnan(row(table, 'RN', 'R')['mean_pv'])


def test_labels_without_hemisphere_are_one_row(chi, dseg):
    labels = pd.DataFrame({'index': [7], 'name': ['a'], 'hemisphere': [np.nan], 'region': ['a']})
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    assert table.loc[table['region'] == 'a', 'hemisphere'].tolist() == ['both']


def test_an_atlas_with_a_region_of_its_own_keeps_it(chi, dseg, labels):
    labels.loc[labels['region'] == 'Putamen', 'region'] = 'SN'
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    assert row(table, 'SN', 'L')['mean'] == pytest.approx(0.07)


def test_dictionary_describes_every_column(chi, dseg, labels):
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    described = dictionary('nuclei')
    assert list(described) == list(table.columns)
    assert all(entry['Description'] for entry in described.values())
    assert described['volume_mm3']['Units'] == 'mm^3'
    assert 'nuclei' in described['region']['Description']
    assert 'cuts off does not count for Brain, CSF and White matter' in described['coverage']['Description']
