from functools import cache

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.datasets import load_mni152_brain_mask

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.cohort.voxelwise import COLUMNS, _estimable, _say_how_many, second_level, smooth_within

SPACING = 4


@cache
def brain():
    """Mask and affine of nilearn's template, and the atlas on its grid."""
    image = load_mni152_brain_mask(resolution=SPACING)
    dseg, labels = nuclei_atlas(image.shape, image.affine)
    return np.asarray(image.dataobj) > 0, image.affine, dseg, labels


def cohort(*, n=24, effect=0.05, noise=0.02, seed=3):
    """Patients whose pallidum holds more, by ``effect`` ppm, at ages that do not matter there."""
    mask, _, dseg, labels = brain()
    rng = np.random.default_rng(seed)
    design = pd.DataFrame(
        {'Intercept': 1.0, 'patient': np.arange(n) % 2.0, 'age': rng.uniform(20, 70, n)},
        index=[f'sub-{i:02d}' for i in range(n)],
    )
    pallidum = np.isin(dseg, labels.loc[labels['region'].isin(['GPe', 'GPi']), 'index'])
    images = []
    for patient in design['patient']:
        chi = noise * rng.standard_normal(mask.shape) + effect * patient * pallidum
        images.append(smooth_within(chi, mask, [SPACING] * 3, 6.0))
    return images, [mask] * n, design, pallidum


def test_smoothing_takes_in_nothing_from_outside():
    mask = brain()[0]
    outside = np.where(mask, 0.1, 99.0)
    smooth = smooth_within(outside, mask, [SPACING] * 3, 8.0)
    np.testing.assert_allclose(smooth[mask], 0.1, rtol=1e-5)
    assert not smooth[~mask].any()
    assert np.array_equal(smooth_within(outside, mask, [SPACING] * 3, 0), np.where(mask, 0.1, 0).astype('f4'))


def test_smoothing_has_the_width_asked_for():
    point = np.zeros((31, 31, 31))
    point[15, 15, 15] = 1
    smooth = smooth_within(point, np.ones(point.shape, bool), (1.0, 2.0, 1.0), 8.0)
    assert smooth[19, 15, 15] / smooth[15, 15, 15] == pytest.approx(0.5, rel=1e-3)
    assert smooth[15, 17, 15] / smooth[15, 15, 15] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize('method', ['fdr', 'permutation'])
def test_an_effect_is_found_where_it_is(method):
    images, masks, design, pallidum = cohort()
    _, affine, dseg, labels = brain()
    found = second_level(images, masks, affine, design, 'patient', dseg, labels, method=method, n_perm=200)
    assert found.n == 24
    kept = found.images['thresholded'] != 0
    assert kept[pallidum].mean() > 0.5
    # smoothing carries the effect as far as its width
    assert (kept & ~near(pallidum, 3)).sum() <= 0.1 * kept.sum()
    peak = found.clusters.iloc[0]
    assert list(found.clusters) == list(COLUMNS)
    assert peak['region'].split('_')[1] in ('GPe', 'GPi')
    assert peak['region_distance_mm'] <= SPACING
    assert peak['p_corrected'] < 0.05
    assert 0 < peak['effect'] < 0.08
    assert abs(peak['x']) == pytest.approx(18, abs=9)
    # the sign of a world axis is that of the side
    assert peak['region'][0] == ('L' if peak['x'] < 0 else 'R')


def near(mask, voxels):
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=voxels)


@pytest.mark.parametrize('method', ['fdr', 'permutation'])
def test_nothing_is_found_in_noise(method):
    """Of eight cohorts without effect, at 5 % each, hardly any may hold a voxel."""
    false = 0
    for seed in range(8):
        images, masks, design, _ = cohort(effect=0, n=14, seed=seed)
        found = second_level(images, masks, brain()[1], design, 'patient', method=method, n_perm=100)
        false += bool((found.images['thresholded'] != 0).any())
    assert false <= 2


def test_the_null_is_where_it_should_be():
    """z of a covariate without effect is a standard normal deviate over the voxels."""
    images, masks, design, _ = cohort(n=40)
    found = second_level(images, masks, brain()[1], design, 'age')
    z = found.images['z'][found.tested]
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.15
    assert not found.images['thresholded'].any()


def test_estimates_are_those_of_each_voxel_alone():
    """Also where some participants have no value: there the others count, with their degrees of freedom."""
    images, masks, design, _ = cohort(n=12)
    rng = np.random.default_rng(0)
    masks = [m & (rng.random(m.shape) > 0.06) for m in masks]
    # what is not measured must not be looked at
    images = [np.where(m, i, 1e3).astype(np.float32) for i, m in zip(images, masks, strict=True)]
    found = second_level(images, masks, brain()[1], design, 'patient')
    count = np.sum(masks, 0)
    assert np.array_equal(found.tested, count >= 0.8 * 12)
    for n in (10, 11, 12):
        voxel = tuple(np.argwhere(count == n)[20])
        rows = [i for i in range(12) if masks[i][voxel]]
        fit = sm.OLS([images[i][voxel] for i in rows], design.iloc[rows]).fit()
        assert found.images['effect'][voxel] == pytest.approx(fit.params['patient'], rel=1e-3)
        assert found.images['t'][voxel] == pytest.approx(fit.tvalues['patient'], rel=1e-3)


def test_permutations_take_the_voxels_that_all_have():
    images, masks, design, _ = cohort(n=12)
    masks = [*masks[:-1], masks[-1] & (np.arange(masks[0].shape[2]) > 12)]
    found = second_level(images, masks, brain()[1], design, 'patient', method='permutation', n_perm=50)
    assert np.array_equal(found.tested, masks[-1])
    assert any('every participant has' in note for note in found.notes)


def test_a_thin_slab_is_left_out():
    images, masks, design, _ = cohort(n=12)
    slab = masks[0] & (abs(np.arange(masks[0].shape[2]) - 20) < 4)
    found = second_level(images, [slab, *masks[1:]], brain()[1], design, 'patient')
    assert found.n == 11
    assert np.array_equal(found.tested, masks[1])
    assert any('sub-00' in note for note in found.notes)


def test_few_arrangements_are_said():
    images, masks, design, _ = cohort(n=8)
    found = second_level(
        images, masks, brain()[1], design.drop(columns='age'), 'patient', method='permutation', n_perm=50
    )
    assert any('arranged in 70 ways' in note for note in found.notes)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'patient': 1.0}, 'same for all'),
        ({'patient': np.r_[1.0, np.zeros(11)]}, 'one participant, sub-00'),
        ({'age': np.arange(12) % 2.0 * 3, 'more': np.arange(12) % 2.0}, 'follows from the other columns'),
    ],
)
def test_what_cannot_be_tested_is_said(change, said):
    images, masks, design, _ = cohort(n=12)
    found = second_level(images, masks, brain()[1], design.assign(**change), 'patient')
    assert not found.images
    assert found.clusters.empty
    assert any('patient was not tested' in note and said in note for note in found.notes)


def test_too_few_participants():
    images, masks, design, _ = cohort(n=5)
    found = second_level(images, masks, brain()[1], design, 'patient')
    assert not found.images
    assert 'too few' in found.notes[0]


def test_redundant_covariates_do_not_matter():
    images, masks, design, _ = cohort(n=12)
    doubled = design.assign(months=12 * design['age'])
    found = second_level(images, masks, brain()[1], doubled, 'patient')
    alone = second_level(images, masks, brain()[1], design, 'patient')
    np.testing.assert_allclose(found.images['t'], alone.images['t'], atol=1e-4)
    assert 'months follows' in found.notes[0]


def test_images_without_a_common_voxel():
    images, masks, design, _ = cohort(n=12)
    low = np.arange(masks[0].shape[0]) < 20
    halves = [m & (low if i % 2 else ~low)[:, None, None] for i, m in enumerate(masks)]
    found = second_level(images, halves, brain()[1], design, 'patient')
    assert not found.images
    assert any('No voxel was measured' in note for note in found.notes)


def test_columns_of_one_name_all_count():
    rng = np.random.default_rng(0)
    curve = rng.normal(size=(20, 3))
    columns = np.column_stack([np.ones(20), np.arange(20) % 2, curve])
    design = pd.DataFrame(columns, columns=['Intercept', 'patient', *['cr(age, df=3)'] * 3])
    notes = []
    matrix, reason = _estimable(design, 'patient', notes)
    assert (matrix.shape, reason, notes) == ((20, 5), '', [])
    assert np.array_equal(matrix[:, 0], design['patient'])


@pytest.mark.parametrize(('n', 'patients', 'least'), [(6, 3, '0.1'), (6, 2, '0.067')])
def test_the_least_p_of_permutations(n, patients, least):
    notes = []
    _say_how_many(np.column_stack([np.arange(n) < patients, np.ones(n)]), 0.05, notes)
    assert f'smaller than {least}.' in notes[0]
