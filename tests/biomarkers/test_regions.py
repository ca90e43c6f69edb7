import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.regions import dictionary, region_table
from bids_qsm.recon.grid import Grid

GRID = Grid((24, 24, 24), (1.0, 1.0, 1.5))
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
    assert putamen['volume_mm3'] == 6**3 * 1.5
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
    # 4 x 1 x 4 voxels are less than a fifth of SNc: it keeps those with four neighbours of six
    assert row(table, 'SNc', 'L')['core'] == 'inner'
    assert 'GP' not in set(table['region'])


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


def test_a_label_is_a_lesion(chi, dseg, labels):
    few, many, empty = (np.zeros(GRID.shape, np.int16) for _ in range(3))
    few[1, 1, 1], few[20:22, 20, 20] = 1, 1
    many[5, 5, 20], many[9, 9, 20:23] = 4, 2
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID, [empty, few, many])
    lesions = table[table['region'] == 'lesion']
    assert lesions['index'].tolist() == [1, 2, 4]
    assert lesions['n_voxels'].tolist() == [3, 3, 1], 'pieces of one label are one lesion'
    assert (lesions['core'] == 'whole').all()
    assert pd.isna(lesions.iloc[-1]['sd'])


def test_lesions_keep_their_numbers_unless_these_are_taken(chi, dseg, labels):
    first, second = np.zeros((2, *GRID.shape), np.int16)
    first[1, 1, 1], first[5, 5, 5], second[9, 9, 9], second[3, 3, 3] = 7, 2, 3, 5
    tables = [
        region_table({'chi': chi}, dseg, labels, everywhere(), GRID, images)
        for images in ([first, second], [first, first])
    ]
    numbers = [table.loc[table['region'] == 'lesion', 'index'].tolist() for table in tables]
    assert numbers == [[2, 7, 3, 5], [2, 7, 9, 14]]


def test_a_lesion_outside_the_mask_is_a_row_without_statistics(chi, dseg, labels):
    mask = everywhere()
    mask[:4] = False
    image = np.zeros(GRID.shape, np.int16)
    image[1, 1, 1:3], image[9, 9, 9] = 1, 2
    lesions = region_table({'chi': chi}, dseg, labels, mask, GRID, [image]).query('region == "lesion"')
    assert lesions[['index', 'n_voxels', 'coverage', 'volume_mm3']].values.tolist() == [
        [1, 0, 0, 3],
        [2, 1, 1, 1.5],
    ]
    assert lesions.iloc[0][['mean', 'sd', 'median', 'p5', 'p95', 'mean_positive']].isna().all()


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
