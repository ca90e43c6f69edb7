"""CT: Hounsfield units, foci, calcium and skull, in a ball of brain in a shell of bone."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.ct import Tomogram, alignment_problem, filled, hounsfield_problem, seen_share
from bids_qsm.biomarkers.ct_foci import find_dense, list_calcium, measure_foci
from bids_qsm.biomarkers.localisation import Places

SIZE = 48
AFFINE = np.eye(4)
AFFINE[:3, 3] = -SIZE / 2
AXES = np.indices((SIZE,) * 3) - SIZE / 2
RADIUS = np.sqrt((AXES**2).sum(0))
MASK = RADIUS < 16


def ball(centre, radius):
    return np.sqrt(((AXES - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0)) <= radius


def head(noise=5.0):
    """Density (HU) of a head of 36 mm with a skull of 3 mm."""
    hu = np.where(RADIUS < 17, 33.0, np.where(RADIUS < 20, 900.0, np.where(RADIUS < 22, 40.0, -1000.0)))
    return (hu + noise * np.random.default_rng(1).standard_normal(hu.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda hu: hu, None),
        (lambda hu: hu + 1024, 'rescale intercept (-1024) was not applied'),
        (lambda hu: np.rint(255 * np.clip((hu + 1024) / 4095, 0, 1)), 'not in Hounsfield units'),
        (lambda hu: np.where(hu < -500, 0, hu), '0.0 % of its voxels are air'),
        (lambda hu: np.where(hu > 200, 100, hu), '0.00 % of its voxels are bone'),
        (lambda hu: np.where(np.abs(hu) < 100, hu + 40, hu), 'soft tissue has its mode at'),
        (lambda hu: np.random.default_rng(0).gamma(2, 150, hu.shape) * (RADIUS < 20), 'least value is 0'),
        (lambda hu: np.full(hu.shape, np.nan), 'no finite value'),
    ],
)
def test_what_is_not_in_hounsfield_units_is_refused(change, said):
    problem = hounsfield_problem(change(head()), 'sub-01_ct.nii.gz')
    if said is None:
        assert problem is None
        assert 'contrast agent' in hounsfield_problem(head(), 'sub-01_ce-iodine_ct.nii.gz')
    else:
        assert problem.startswith('sub-01_ct.nii.gz ')
        assert said in problem


@pytest.fixture(scope='module')
def found():
    """Foci: calcium, nothing, at the skull, bleed; and calcium that is no focus. The CT lies 3 mm off."""
    foci = {1: ball((6, 0, 0), 2), 2: ball((-6, 0, 0), 2), 3: ball((0, 16.5, 0), 1.5), 4: ball((0, 0, 8), 2)}
    hu, labels = head(), np.zeros(RADIUS.shape, np.int32)
    for number, density in {1: 250.0, 2: 0.0, 3: 0.0, 4: 40.0}.items():
        hu[foci[number]] += density
        labels[foci[number]] = number
    hu[ball((0, -8, -4), 1.5)] += 200
    # what touches bone is not told from it
    hu[ball((0, -15, 0), 2)] += 300
    to_ct = np.eye(4)
    to_ct[0, 3] = 3.0
    moved = AFFINE.copy()
    moved[0, 3] += 3.0
    ct = Tomogram(hu, moved, to_ct).around(MASK, AFFINE, margin_mm=6.0)
    dense = find_dense(ct, ct.holds(MASK, AFFINE))
    places = Places(labels * 0, pd.DataFrame(), AFFINE)
    return measure_foci(labels, AFFINE, MASK, ct, dense), list_calcium(ct, dense, labels, AFFINE, places), ct


def test_foci_get_their_class(found):
    table = found[0].set_index('focus')
    assert table['ct_class'].to_dict() == {1: 'calcified', 2: 'none', 3: 'n/a', 4: 'unclear'}
    assert 'beside the skull' in table['reason'][3]
    assert table['hu_max'][1] == pytest.approx(283, abs=20)
    assert table['hu_surround'][2] == pytest.approx(33, abs=3)
    assert (table['hu_limit'].dropna() > table['hu_surround'].dropna() + 15).all()


def test_calcium_is_listed_and_bone_is_not(found):
    table = found[1]
    assert len(table) == 2
    assert table['candidate'][0] == 1
    assert np.isnan(table['candidate'][1])
    np.testing.assert_allclose(table[['x', 'y', 'z']].to_numpy(float)[1], (0, -8, -4), atol=0.6)


def test_what_fills_little_of_a_thick_slice_is_unclear():
    """A focus of 1 voxel in slices of 8 mm: calcium would not be seen, so that its absence says nothing."""
    hu = head(0.0).reshape(SIZE, SIZE, SIZE // 8, 8).mean(-1)
    hu = hu + 8 * np.random.default_rng(2).standard_normal(hu.shape)
    affine = AFFINE @ np.diag([1, 1, 8, 1.0])
    affine[2, 3] += 3.5
    ct = Tomogram(hu.astype(np.float32), affine, np.eye(4))
    labels = np.zeros(RADIUS.shape, np.int32)
    labels[24, 24, 24] = 1
    dense = find_dense(ct, ct.holds(MASK, AFFINE))
    (row,) = measure_foci(labels, AFFINE, MASK, ct, dense).to_dict('records')
    assert row['ct_class'] == 'unclear'
    assert 'would not stand out from the noise in voxels of 1 x 1 x 8 mm' in row['reason']
    assert row['hu_diluted'] < row['hu_limit']


@pytest.mark.parametrize('fill', [-1024, np.nan, 0])
def test_what_fills_an_image_around_a_scan_is_not_seen(fill):
    hu = head()
    hu[:, :, :22] = fill
    hu[24, 24, 30] = 0  # a voxel of fluid may have 0 HU
    ct = Tomogram(filled(hu, 'ct'), AFFINE, np.eye(4))
    assert seen_share(ct, MASK, AFFINE) == pytest.approx(MASK[:, :, 22:].sum() / MASK.sum(), abs=1e-3)
    labels = np.where(ball((0, 0, -8), 2), 1, np.where(ball((0, 0, 5), 2), 2, 0)).astype(np.int32)
    table = measure_foci(labels, AFFINE, MASK, ct, find_dense(ct, MASK))
    assert table['ct_class'].tolist() == ['n/a', 'none']
    assert table['reason'].tolist() == ['outside of what the CT shows', 'n/a']


def test_the_part_around_a_brain_has_its_margin_in_a_tilted_scan():
    tilted = AFFINE.copy()
    tilted[1:3, 2] = np.sin(np.radians(40)), np.cos(np.radians(40))
    mask = ball((0, 8, 0), 3)
    whole = Tomogram(np.zeros((SIZE, SIZE, SIZE)), tilted, np.eye(4))
    part = whole.around(mask, AFFINE, margin_mm=10.0)
    # points 9 mm and more off its outermost slices lie within it
    low, high = np.array([-0.5] * 3), np.array(part.hu.shape) - 0.5
    points = np.argwhere(mask)[np.argwhere(mask)[:, 2].argsort()][[0, -1]] + [[0, 0, -9.5], [0, 0, 9]]
    at = np.c_[points, [1, 1]] @ (np.linalg.inv(part.affine) @ AFFINE)[:3].T
    assert ((at > low) & (at < high)).all()


def test_a_wrong_place_is_said():
    far = AFFINE.copy()
    far[0, 3] += 500
    assert seen_share(Tomogram(head(), far, np.eye(4)), MASK, AFFINE) == 0
    assert alignment_problem(1.0, 0.4, 0.001) is None
    for arguments, said in (
        ((0.0, np.nan, np.nan), 'holds 0 % of the brain'),
        ((1.0, 3.1, 0.0), '3.1 mm from'),
        ((1.0, np.nan, 0.0), 'not aligned'),
        ((1.0, 0.5, 0.05), '5.0 % of the brain mask are bone'),
    ):
        assert said in alignment_problem(*arguments)
