import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, special

from bids_qsm.biomarkers.reference import slow_error
from bids_qsm.biomarkers.region_columns import BORDER_MM, dictionary
from bids_qsm.biomarkers.regions import TOO_SMALL, membership, region_table
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
    assert (putamen['n_voxels'], putamen['core_voxels']) == (6**3, 4**3)
    assert putamen['volume_mm3'] == 6**3 * 1.2
    assert putamen['coverage'] == 1
    assert putamen['core_mean'] == putamen['core_median'] == pytest.approx(0.07)
    assert putamen['mean'] == pytest.approx(chi[2:8, 2:8, 2:8].mean(), rel=1e-4)
    assert putamen['mean'] > 0.5
    assert putamen['index'] == 7


def test_composites_join_their_parts_before_erosion(chi, dseg, labels):
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    assert row(table, 'SN', 'L')['n_voxels'] == 6**3
    assert row(table, 'SN', 'L')['core_voxels'] == 4**3
    assert row(table, 'SN', 'L')['mean'] == pytest.approx(0.02)
    assert row(table, 'SN', 'both')['mean'] == pytest.approx(0.025)
    assert row(table, 'SN', 'both')['core_voxels'] == 2 * 4**3
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
    statistics = ['mean', 'sd', 'median', 'p5', 'p95', 'mean_positive', 'mean_weighted', 'se_weighted']
    statistics += ['core_mean', 'core_sd', 'core_median', 'against_brain', 'confidence', 'border_mm']
    assert missing[statistics].isna().all()


def test_mask_cuts_statistics_and_coverage(chi, dseg, labels):
    mask = everywhere()
    mask[5:8, 2:8, 2:8] = False
    putamen = row(region_table({'chi': chi}, dseg, labels, mask, GRID), 'Putamen', 'L')
    assert putamen['coverage'] == 0.5
    assert putamen['n_voxels'] == 3 * 6 * 6
    assert putamen['core_voxels'] == 2 * 4 * 4
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
    whole = (slice(2, 8), slice(2, 8), slice(2, 8))
    values[whole] = np.linspace(-1, 2, 216).reshape(6, 6, 6)
    values[2, 2, 2] = np.nan
    found = row(region_table({'chi': values}, dseg, labels, everywhere(), GRID), 'Putamen', 'L')
    known = np.linspace(-1, 2, 216)[1:]
    core = values[3:7, 3:7, 3:7]
    assert (found['n_voxels'], found['core_voxels']) == (215, 64)
    assert found['core_mean'] == pytest.approx(core.mean(), rel=1e-4)
    assert found['core_sd'] == pytest.approx(core.std(ddof=1), rel=1e-4)
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


def test_each_reference_is_subtracted_with_the_error_of_its_zero(chi, dseg, labels):
    white = np.zeros(GRID.shape, bool)
    white[9:15] = True
    rng = np.random.default_rng(0)
    chi = np.where(white, -0.03, np.minimum(chi, 0.1)) + rng.normal(0, 0.01, GRID.shape)
    chi += 0.001 * np.arange(24)  # a slow error
    maps = {'chi': chi, 'R2star': np.full(GRID.shape, 20.0)}
    table = region_table(maps, dseg, labels, everywhere(), GRID, white_matter=white)
    putamen, matter, brain = (row(table, r, 'both') for r in ('Putamen', 'White matter', 'Brain'))
    assert putamen['against_white_matter'] == pytest.approx(putamen['mean'] - matter['mean'], rel=1e-3)
    assert putamen['against_brain'] == pytest.approx(putamen['mean'] - brain['mean'], rel=1e-3)
    # halves along the last axis differ by 12 ppb, the others by noise alone
    assert matter['zero_se'] == pytest.approx(np.hypot(matter['se'], slow_error(chi, white)), rel=1e-3)
    assert slow_error(chi, white) == pytest.approx(0.006 / np.sqrt(3), rel=0.1)
    together = np.hypot(putamen['se'], matter['zero_se'])
    assert putamen['se_against_white_matter'] == pytest.approx(together, rel=1e-3)
    assert (matter['against_white_matter'], matter['se_against_white_matter']) == (0, 0)
    assert np.isnan(putamen[['against_csf', 'se_against_csf']].astype(float)).all()
    steady = min((matter, brain), key=lambda r: r['zero_se'])['region']
    assert table.loc[table['note'].str.contains('steadiest zero'), 'region'].tolist() == [steady]
    rate = row(table, 'Putamen', 'both', 'R2star')
    assert rate[['against_white_matter', 'se_against_brain', 'zero_se']].isna().all()


def test_slow_errors_are_half_the_difference_of_the_halves():
    ramp = np.ones(GRID.shape) * np.arange(24)
    assert slow_error(ramp, everywhere()) == pytest.approx(6 / np.sqrt(3))
    one = np.zeros(GRID.shape, bool)
    one[3, 3, 3] = True
    assert slow_error(ramp, one) == 0


def test_weighted_mean_of_a_ball_that_shares_its_rim():
    """The mean of w(p) chi over w, chi being p times the contrast."""
    at = np.indices(GRID.shape) * np.array(GRID.voxel_size)[:, None, None, None]
    distance = np.sqrt(((at - 12.3) ** 2).sum(0)) - 5
    share = np.clip(0.5 - distance / 2, 0, 1)
    labels = pd.DataFrame({'index': [4], 'name': ['L_RN'], 'hemisphere': ['L'], 'region': ['RN']})
    probseg = np.rint(255 * share).astype(np.uint8)[..., None]
    image = np.where(share > 0.5, 4, 0)
    table = region_table({'chi': 0.1 * share}, image, labels, everywhere(), GRID, probseg=probseg)
    found = row(table, 'RN', 'L')
    weight = share**2 / (share**2 + (1 - share) ** 2)
    expected = 0.1 * (weight * share).sum() / weight.sum()
    assert found['mean_weighted'] == pytest.approx(expected, rel=2e-3)
    assert found['mean'] == pytest.approx(0.1 * share[image > 0].mean(), rel=1e-4)
    assert found['core_mean'] > found['mean']
    assert found['mean_weighted'] == pytest.approx(found['mean'], rel=0.06)
    assert 0 < found['se_weighted'] < found['mean']
    assert np.isnan(row(table, 'Brain', 'both')['mean_weighted'])


def test_a_region_smaller_than_a_voxel_is_not_outside_the_field_of_view():
    labels = pd.DataFrame(
        {'index': [4, 5], 'name': ['L_RN', 'L_GP'], 'hemisphere': ['L', 'L'], 'region': ['RN', 'GP']}
    )
    probseg = np.zeros((*GRID.shape, 2), np.uint8)
    probseg[5, 5, 5, 0] = 90
    empty = np.zeros(GRID.shape, int)
    table = region_table({'chi': np.ones(GRID.shape)}, empty, labels, everywhere(), GRID, probseg=probseg)
    assert row(table, 'RN', 'L')['note'] == TOO_SMALL
    assert row(table, 'GP', 'L')['note'] == 'outside the field of view'


def test_parts_without_shares_have_no_weighted_mean(chi, dseg, labels):
    probseg = np.stack([255 * (dseg == i) for i in labels['index']], -1).astype(np.uint8)
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID, probseg=probseg)
    assert row(table, 'SN', 'L')['mean_weighted'] == pytest.approx(row(table, 'SN', 'L')['mean'])
    probseg[..., 0] = 0  # SNc on the left
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID, probseg=probseg)
    assert np.isnan(row(table, 'SN', 'L')['mean_weighted'])
    assert np.isnan(row(table, 'SN', 'both')['mean_weighted'])
    assert np.isfinite(row(table, 'SN', 'R')['mean_weighted'])
    # a nucleus that is out of the image has none either, and does not count for both sides
    assert np.isfinite(row(table, 'RN', 'both')['mean_weighted'])
    with pytest.raises(ValueError, match='probseg has shape'):
        region_table({'chi': chi}, dseg, labels, everywhere(), GRID, probseg=probseg[..., 1:])


def test_quality_of_composites(chi, dseg, labels):
    own = labels['region'].isin(['SNc', 'RN'])
    labels = labels.assign(
        source=np.where(own | (labels['region'] == 'Putamen'), 'own', 'prior'),
        confidence=np.linspace(0.1, 0.8, 8),
        moved_mm=np.linspace(3, 1, 8),
        volume_ratio=[1.2, 1.0, 0.9, 1.1, 1.0, np.nan, 1.3, 1.3],
    )
    counts = np.bincount(dseg.ravel())
    table = region_table({'chi': chi}, dseg, labels, everywhere(), GRID)
    substantia = row(table, 'SN', 'L')
    assert (substantia['source'], substantia['confidence'], substantia['moved_mm']) == ('mixed', 0.1, 3)
    expected = np.average([1.2, 0.9], weights=counts[[1, 3]])
    assert substantia['volume_ratio'] == pytest.approx(expected)
    assert substantia['border_mm'] == BORDER_MM['prior']
    both = row(table, 'Putamen', 'both')
    assert (both['source'], both['border_mm']) == ('own', BORDER_MM['own'])
    assert both['confidence'] == pytest.approx(0.7)
    # the right RN is not in the image
    assert row(table, 'RN', 'both')['volume_ratio'] == 1
    assert row(table, 'RN', 'R')['source'] == 'n/a'
    assert row(table, 'Brain', 'both')[['source', 'border_mm']].fillna('n/a').tolist() == ['n/a', 'n/a']


def test_without_quality_its_columns_are_there(chi, dseg, labels):
    found = row(region_table({'chi': chi}, dseg, labels, everywhere(), GRID, label_mm=0.3), 'SN', 'L')
    assert (found['source'], found['border_mm']) == ('n/a', 0.3)
    assert found[['confidence', 'moved_mm', 'volume_ratio']].isna().all()


def balls(seed, border_mm, size, noise=0.02):
    """Eight balls under correlated noise, labels whose borders are off, and the means that are true."""
    rng = np.random.default_rng(seed)
    grid = Grid(tuple(int(64 / v) for v in size), size)
    axes = [(np.arange(n) + 0.5) * v for n, v in zip(grid.shape, size, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing='ij'))
    blur, each = 0.45 * np.prod(size) ** (1 / 3), border_mm / np.sqrt(3)
    # integrates to a correlation over 4 x 4 mm
    rough = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 1.13 / np.array(size))
    rough *= each / rough.std()
    chi, dseg = np.full(grid.shape, -0.02), np.zeros(grid.shape, int)
    probseg, inside = np.zeros((*grid.shape, 8), np.uint8), []
    for i, radius in enumerate((3, 3.5, 4, 4.5, 5, 6, 3, 8)):
        centre = 16 + 32 * np.array([i // 4, i // 2 % 2, i % 2]) + rng.uniform(-1, 1, 3)
        placed = centre + rng.normal(0, each, 3)
        true = np.sqrt(((at - centre[:, None, None, None]) ** 2).sum(0)) - radius
        drawn = np.sqrt(((at - placed[:, None, None, None]) ** 2).sum(0)) - radius
        drawn = drawn - rng.normal(0, each) - rough
        chi += 0.12 * special.ndtr(-true / blur)
        dseg[drawn < 0] = i + 1
        probseg[..., i] = np.rint(255 * special.ndtr(-drawn / blur))
        inside.append((true < 0, membership(special.ndtr(-true / blur))))
    means = [(chi[hard].mean(), np.average(chi, weights=soft)) for hard, soft in inside]
    waves = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 0.8 / np.array(size))
    return chi + noise / waves.std() * waves, dseg, probseg, grid, means


@pytest.mark.parametrize(
    ('border_mm', 'size'), [(0.25, (1.0, 1.0, 2.0)), (0.4, (1.0, 1.0, 1.0)), (0.8, (1.0, 1.0, 2.0))], ids=str
)
def test_intervals_hold_the_truth_where_borders_are_off(border_mm, size):
    """68 % of them should; the mean of a misplaced nucleus is also biased towards its surroundings."""
    labels = pd.DataFrame({'index': range(1, 9), 'name': [f'L_{i}' for i in range(8)], 'hemisphere': 'L'})
    labels['region'] = labels['name']
    held = []
    for seed in range(20):
        chi, dseg, probseg, grid, truth = balls(seed, border_mm, size)
        everywhere = np.ones(grid.shape, bool)
        table = region_table(
            {'chi': chi}, dseg, labels, everywhere, grid, probseg=probseg, label_mm=border_mm
        )
        for name, (mean, weighted) in zip(labels['region'], truth, strict=True):
            found = row(table, name, 'L')
            held.append(
                (
                    abs(found['mean'] - mean) < found['se'],
                    abs(found['mean_weighted'] - weighted) < found['se_weighted'],
                )
            )
    share = np.mean(held, 0)
    assert ((share > 0.6) & (share < 0.76)).all(), share


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


def test_border_effect_is_what_a_neighbour_would_add(labels):
    """The mean of a region with a bright neighbour, and that of the same region with a border further out."""
    dseg = np.zeros(GRID.shape, int)
    dseg[10:20, 10:20, 10:16] = labels['index'][0]
    labels = labels.iloc[:1]
    for bright in (0.1, 0.3):
        chi = np.where(np.arange(GRID.shape[0]) < 20, 0.0, bright)[:, None, None] + np.zeros(GRID.shape)
        found = region_table({'chi': chi}, dseg, labels, everywhere(), GRID, label_mm=0.5)
        found = row(found, labels['region'].iloc[0], labels['hemisphere'].iloc[0])
        # of the six faces one has the neighbour, whose value is half bright there
        area = 100 * GRID.voxel_size[1] * GRID.voxel_size[2] * 0.6
        volume = (dseg > 0).sum() * GRID.voxel_volume
        assert found['border_effect'] == pytest.approx(0.5 * bright / 2 * area / volume, rel=0.15)
    assert np.isnan(
        row(region_table({'chi': chi}, dseg, labels, everywhere(), GRID), 'Brain', 'both')['border_effect']
    )


def test_the_border_counts_in_the_error_of_the_corrected_mean(chi, dseg, labels):
    found = {
        source: row(
            region_table({'chi': chi}, dseg, labels.assign(source=source), everywhere(), GRID), 'SN', 'L'
        )
        for source in ('own', 'prior')
    }
    assert found['own']['mean_pv'] == found['prior']['mean_pv']
    border = {s: f['border_effect'] / f['border_mm'] for s, f in found.items()}
    assert border['own'] == pytest.approx(border['prior'], rel=1e-3)
    # of the same noise
    noise, more = (np.square(f['se_pv']) for f in found.values())
    expected = np.square(found['prior']['se']) - np.square(found['own']['se'])
    assert more - noise == pytest.approx(expected, rel=1e-3)
