import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from bids_qsm.biomarkers import lesions
from bids_qsm.biomarkers.lesions import Drawn, dictionary, label_lesions, lesion_table

SHAPE, VOXEL = (48, 44, 40), np.array([1.0, 1.0, 1.5])
AFFINE = np.diag([*VOXEL, 1])
AFFINE[:3, 3] = (-20, 10, 5)
LABELS = pd.DataFrame(
    {'index': [3, 9], 'name': ['L_GPe', 'III'], 'hemisphere': ['L', 'n/a'], 'region': ['GPe', 'Ventricle']}
)


@pytest.mark.parametrize('value', [1, 3, 255])
def test_a_mask_of_any_one_value_is_binary(value):
    mask = np.zeros((6, 6, 6))
    mask[1, 1, 1] = mask[2, 2, 2] = mask[4:, 4, 4] = value
    found = label_lesions(mask)
    assert found[1, 1, 1] == found[2, 2, 2] == 1, 'pieces that touch at a corner are one'
    assert found[4, 4, 4] == found[5, 4, 4] == 2
    assert np.count_nonzero(found) == 4


def test_labels_and_empty_masks_are_kept():
    labels = np.zeros((4, 4, 4), np.int16)
    assert not label_lesions(labels).any()
    labels[0, 0, 0], labels[3, 3, 3] = 7, 2
    np.testing.assert_array_equal(label_lesions(labels), labels)


def test_what_interpolation_leaves_at_the_edges_is_no_lesion():
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[1, 1, 1:4] = 64, 255, 127
    assert np.argwhere(label_lesions(mask, binary=True)).tolist() == [[1, 1, 2]]
    assert label_lesions(mask).max() == 255
    found = label_lesions(mask / 255)
    assert found.max() == found.sum() == 1
    # numbered lesions are seldom called a mask, but are kept
    np.testing.assert_array_equal(label_lesions(mask // 64, binary=True), mask // 64)


def test_of_probabilities_what_exceeds_one_half_is_a_lesion():
    mask = np.linspace(0, 0.9, 27).reshape(3, 3, 3)
    np.testing.assert_array_equal(label_lesions(mask) > 0, mask > 0.5)
    assert not label_lesions(mask * 0.4).any()


def ball(centre, radius):
    """Ball around a voxel, radius in mm."""
    offset = (np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) * VOXEL[:, None, None, None]
    return (offset**2).sum(0) <= radius**2


class Scene:
    """A patch of brain with noise that is correlated between voxels, a nucleus, and lesions to be put in."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1)
        self.chi = (0.01 * noise / noise.std()).astype(np.float32)
        self.r2star = np.full(SHAPE, 20, np.float32)
        self.mask = np.zeros(SHAPE, bool)
        self.mask[2:-2, 2:-2, 2:-2] = True
        self.dseg = np.zeros(SHAPE, np.int32)
        self.dseg[30:40, 30:40, 20:30], self.dseg[30:33, 8:11, 30:33] = 3, 9
        self.chi[self.dseg == 3] += 0.15

    def table(self, *drawn, r2star=True, **more):
        maps = (self.chi, self.r2star if r2star else None, self.mask)
        return lesion_table(*maps, drawn, self.dseg, LABELS, AFFINE, **more)

    def drawn(self, placed, source='mask'):
        return Drawn(source, placed.astype(np.int32), AFFINE, placed.astype(np.int32))


@pytest.fixture
def scene():
    return Scene()


def test_core_rim_surround_and_place(scene):
    here = ball((14, 16, 18), 5)
    core = ndimage.binary_erosion(here)
    scene.chi[core] += 0.02
    scene.chi[here & ~core] += 0.1
    scene.r2star[here & ~core] = 60
    shift = np.eye(4)
    shift[:3, 3] = (100, 0, -10)
    row = scene.table(scene.drawn(5 * here), to_template=[shift], reference='CSF').iloc[0]
    assert (row['source'], row['lesion'], row['sign'], row['reference']) == ('mask', 5, 'paramagnetic', 'CSF')
    assert pd.isna(row['reason'])
    assert row['n_voxels'] == here.sum()
    assert row['volume_mm3'] == pytest.approx(here.sum() * 1.5)
    assert row['coverage'] == 1
    assert row[['x', 'y', 'z']].tolist() == [-6, 26, 32]
    assert row[['template_x', 'template_y', 'template_z']].tolist() == [94, 26, 22]
    assert (row['nearest_region'], row['hemisphere']) == ('GPe', 'L')
    # from the ball to the corner of the nucleus
    assert row['region_distance_mm'] == pytest.approx(np.linalg.norm([16, 14, 3]) - 5, abs=0.8)
    assert row['chi_core'] == pytest.approx(0.02, abs=0.005)
    assert row['chi_rim'] == pytest.approx(0.1, abs=0.005)
    assert row['rim_contrast'] == pytest.approx(0.1, abs=0.008)
    assert row['chi_surround'] == pytest.approx(0, abs=0.004)
    assert row['chi_surround_sd'] == pytest.approx(0.01, rel=0.3)
    assert row[['R2star_core', 'R2star_rim', 'R2star_surround']].tolist() == [20, 60, 20]


def test_the_surround_of_a_lesion_in_a_nucleus_is_the_nucleus(scene):
    here = ball((35, 35, 25), 2.2)
    scene.chi[here] -= 0.08
    row = scene.table(scene.drawn(here)).iloc[0]
    assert (row['nearest_region'], row['hemisphere'], row['region_distance_mm']) == ('GPe', 'L', 0)
    assert row['chi_surround'] == pytest.approx(0.15, abs=0.01)
    assert row['contrast'] == pytest.approx(-0.08, abs=0.02)


def test_other_lesions_are_no_surround(scene):
    here = ball((14, 16, 18), 3)
    other = ball((14, 22, 18), 3.5) & ~here
    scene.chi[other] += 0.5
    alone = scene.table(scene.drawn(here)).iloc[0]
    both = scene.table(scene.drawn(here + 2 * other)).iloc[0]
    assert both['chi_surround_sd'] < alone['chi_surround_sd']
    assert both['sign'] == 'none'


def test_sign_is_right_and_plain_tissue_has_none():
    """A test at two standard deviations: 5 % of places without a lesion may have a sign."""
    signs = {0.0: [], 0.04: [], -0.04: []}
    for seed in range(4):
        for change, found in signs.items():
            scene = Scene(seed)
            placed = np.zeros(SHAPE, np.int32)
            for n, centre in enumerate([(10, 10, 10), (10, 30, 12), (36, 12, 10), (14, 18, 30)], 1):
                here = ball(centre, 1 + n / 2)
                placed[here] = n
                scene.chi[here] += change
            found += scene.table(scene.drawn(placed))['sign'].tolist()
    assert signs[0.04] == 16 * ['paramagnetic']
    assert signs[-0.04] == 16 * ['diamagnetic']
    assert signs[0.0].count('none') >= 14


def test_a_large_lesion_is_compared_beyond_itself():
    shape = (90, 50, 40)
    rng = np.random.default_rng(3)
    chi = 0.01 * rng.standard_normal(shape, np.float32)
    here = np.zeros(shape, np.int32)
    here[8:36, 14:36, 10:30] = 1
    chi[here > 0] -= 0.02
    nowhere = np.zeros(shape, np.int32)
    drawn = [Drawn('mask', here, np.eye(4), here)]
    row = lesion_table(chi, None, np.ones(shape, bool), drawn, nowhere, LABELS, np.eye(4)).iloc[0]
    assert row['n_comparisons'] >= lesions.FEWEST
    assert row['sign'] == 'diamagnetic'


def test_a_lesion_that_fits_nowhere_else_has_no_sign(scene):
    here = scene.mask & (scene.dseg == 0)
    here[:, :, :6] = False
    row = scene.table(scene.drawn(here)).iloc[0]
    assert (row['n_comparisons'], row['sign']) == (0, 'n/a')
    assert np.isfinite(row['chi_mean'])


def test_what_cannot_be_measured_has_a_reason(scene):
    nothing = np.zeros(SHAPE, np.int32)
    finer = np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] = AFFINE[:3, 3]
    small = np.zeros((24, 20, 20), np.int32)
    small[10, 10, 10] = 1
    beyond = np.zeros(SHAPE, np.int32)
    beyond[1, 1, 1] = 4
    away = np.eye(4)
    away[:3, 3] = (-30, 0, 0)
    corner = nothing.copy()
    corner[0, 0, 0] = 2
    drawn = [
        scene.drawn(nothing, 'empty'),
        Drawn('small', small, finer, nothing),
        Drawn('beyond', beyond, AFFINE, nothing, [away]),
        scene.drawn(corner, 'corner'),
    ]
    table = scene.table(*drawn, r2star=False).set_index('source')
    assert table['reason'].tolist() == [lesions.EMPTY, lesions.LOST, lesions.BEYOND, lesions.UNMAPPED]
    assert table['volume_mm3'].tolist() == [0, 0.13, 1.5, 1.5]
    assert table['lesion'].tolist()[1:] == [1, 4, 2]
    assert pd.isna(table['lesion']['empty'])
    assert (table[['n_voxels', 'coverage']] == 0).all(axis=None)
    assert table['chi_mean'].isna().all()
    assert table.loc['beyond', 'x'] == -20 + 1 - 30
    assert table.loc['small', ['x', 'y', 'z']].tolist() == [-15, 15, 10]


def test_half_outside_the_mask_is_half_covered(scene):
    here = np.zeros(SHAPE, bool)
    here[10:14, 10:14, :4] = True
    row = scene.table(scene.drawn(here)).iloc[0]
    assert (row['coverage'], row['n_voxels']) == (0.5, 32)


def test_the_edge_of_the_field_of_view_is_no_rim(scene):
    scene.mask[:] = True
    here = np.zeros(SHAPE, bool)
    here[10:20, 10:20, :6] = True
    scene.chi[10:20, 10:20, 5] += 1
    row = scene.table(scene.drawn(here)).iloc[0]
    # a lesion that goes on beyond the first slice has its core there
    assert row['chi_core'] == pytest.approx(scene.chi[11:19, 11:19, :5].mean(), rel=1e-3)


def test_an_atlas_without_labels_here(scene):
    scene.dseg[:] = 0
    row = scene.table(scene.drawn(ball((14, 16, 18), 3)), r2star=False).iloc[0]
    assert row[['nearest_region', 'hemisphere']].tolist() == ['n/a', 'n/a']
    assert np.isnan(row['region_distance_mm'])
    assert np.isnan(row['R2star_mean'])


def test_every_column_is_described(scene):
    table = scene.table()
    assert len(table) == 0
    assert list(table) == list(dictionary())
    assert all(column['Description'] for column in dictionary().values())
