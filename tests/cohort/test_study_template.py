from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.transform import Displacement, compose, grid_points, invert, resample, transform_points
from bids_qsm.cohort.study_template import average, build_template, hybrid
from tests.anatomy.brains import warp

SPACING = 3
CHI = {'GPe': 0.13, 'GPi': 0.13, 'SNc': 0.11, 'SNr': 0.11, 'RN': 0.1, 'Putamen': 0.04, 'Caudate': 0.045}


@cache
def standard():
    """T1w, chi and mask of nilearn's template around its deep grey matter, with nuclei, and the affine."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    image = load_mni152_template(resolution=SPACING)
    low, high = (
        np.rint(np.linalg.inv(image.affine) @ [*corner, 1]).astype(int)[:3]
        for corner in ((-56, -66, -44), (56, 50, 52))
    )
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    t1w = np.asarray(image.dataobj, np.float32)[box]
    mask = (np.asarray(load_mni152_brain_mask(resolution=SPACING).dataobj) > 0)[box]
    dseg, labels = nuclei_atlas(t1w.shape, affine)
    chi = np.where(mask, -0.03 * (t1w > 0.75 * t1w.max()), 0).astype(np.float32)
    for region, value in CHI.items():
        chi[np.isin(dseg, labels.loc[labels['region'] == region, 'index'])] = value
    return t1w, ndimage.gaussian_filter(chi, 0.5), mask, affine


@cache
def people(n=4, shift=3.0, size_mm=2.5):
    """Warped copies of the standard brain, all shifted forward (mm) by as much, at any brightness.

    Returns chi, T1w and mask of each, and the displacement of standard to each one's points.
    """
    t1w, chi, mask, affine = standard()
    rng = np.random.default_rng(11)
    forward = np.eye(4)
    forward[1, 3] = -shift
    found = []
    for i in range(n):
        chain = [forward, warp(20 + i, size_mm)]
        image, susceptibility, inside = (
            resample(volume, affine, t1w.shape, affine, chain) for volume in (t1w, chi, mask)
        )
        susceptibility += 0.004 * rng.standard_normal(t1w.shape).astype(np.float32)
        back = invert(compose(chain, t1w.shape, affine), t1w.shape, affine)
        found.append((susceptibility, rng.uniform(50, 900) * image, inside > 0.5, back))
    return tuple(zip(*found, strict=True))


@cache
def template(iterations):
    chis, t1ws, masks, _ = people()
    fields = {}
    found = build_template(
        chis,
        t1ws,
        masks,
        standard()[3],
        None,
        fields,
        iterations=iterations,
        spacing_mm=SPACING,
        levels=(10, 6),
    )
    return found, fields


@cache
def ideal():
    """The standard brain in the mean shape of the people: chi, T1w, and its points' way to the standard."""
    t1w, chi, _, affine = standard()
    mean = Displacement(np.mean([b.field for b in people()[3]], 0), affine)
    way = invert(mean, t1w.shape, affine)
    return *(resample(v, affine, t1w.shape, affine, [way], order=3) for v in (chi, t1w)), way


def inner():
    return ndimage.binary_erosion(standard()[2], iterations=4)


def test_the_mean_bears_outliers():
    rng = np.random.default_rng(1)
    images = [0.02 + 0.005 * rng.standard_normal((5, 5, 5)) for _ in range(20)]
    images[3] = images[3] + 5.0
    masks = [np.ones((5, 5, 5), bool)] * 20
    mean, coverage = average(images, masks)
    # a plain mean is off by 0.25
    assert np.abs(mean - 0.02).max() < 0.16
    assert (coverage == 1).all()


def test_the_mean_counts_what_was_measured():
    images = [np.full((2, 2, 2), v, np.float32) for v in (1.0, 3.0, 99.0)]
    masks = [np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)]
    masks[2][0, 0, 0] = False
    masks[1] = masks[1].copy()
    masks[1][1] = False
    mean, coverage = average(images, masks)
    np.testing.assert_allclose(mean[0], 2.0)
    # one of three has the other half: too few
    assert not mean[1].any()
    np.testing.assert_allclose(coverage[1], 1 / 3)


def test_hybrid_contrast():
    t1w = np.linspace(0, 1000, 1000).reshape(10, 10, 10)
    brain = np.ones(t1w.shape, bool)
    brain[0] = False
    chi = np.full(t1w.shape, 0.1)
    both, alone = hybrid(chi, t1w, brain), hybrid(chi, None, brain)
    assert both.max() == pytest.approx(255 - 40)
    np.testing.assert_allclose(alone[brain], -40)
    assert not both[0].any()


def test_an_iteration_makes_the_template_sharper():
    (before, _), (after, _) = template(0), template(1)
    for name, truth in zip(('chi', 't1w'), ideal()[:2], strict=True):
        maps = [getattr(t, name) for t in (before, after)]
        sharp = [np.mean(np.square(np.gradient(m))[:, inner()]) for m in maps]
        unlike = [1 - np.corrcoef(m[inner()], truth[inner()])[0, 1] for m in maps]
        assert sharp[1] > 1.1 * sharp[0], name
        assert unlike[1] < 0.7 * unlike[0], name
    assert after.chi.max() > before.chi.max()
    assert after.likeness.mean() > before.likeness.mean() + 0.02
    assert after.notes == ()


def test_the_template_has_the_mean_shape():
    """Subjects are found where they are, without a common shift, though all lie 3 mm off the standard."""
    affine, way = standard()[3], ideal()[2]
    points = grid_points(standard()[0].shape, affine)[inner().ravel()]
    fields = template(1)[1]
    apart, off = [], []
    for i, back in enumerate(people()[3]):
        truth = transform_points(points, [way, back])
        apart.append(truth - points)
        off.append(transform_points(points, [fields[i]]) - truth)
    size = np.linalg.norm(apart, axis=-1).mean()
    assert np.linalg.norm(off, axis=-1).mean() < 0.5 * size
    # the mean over subjects, in each voxel
    assert np.linalg.norm(np.mean(off, 0), axis=-1).mean() < 0.02


def test_gaps_and_missing_images_are_borne():
    """A subject without T1w and one with half of its chi: both are aligned, and said."""
    chis, t1ws, masks, _ = people()
    half = masks[1] & (np.arange(masks[1].shape[2]) > 14)
    chis = [chis[0], np.where(half, chis[1], 99).astype(np.float32), -chis[2]]
    found = build_template(
        chis, [None, *t1ws[1:3]], [masks[0], half, masks[2]], standard()[3], masks[:3],
        spacing_mm=SPACING, levels=(4,),
    )  # fmt: skip
    assert np.abs(found.chi).max() < 0.2
    assert found.t1w_coverage.max() == 1
    assert any(i == 0 and 'no T1w' in text for i, text in found.notes)
    assert not any(i == 1 for i, _ in found.notes)
    # a map of the wrong sign stands out
    assert any(i == 2 and 'unlike' in text for i, text in found.notes)


def test_susceptibility_alone():
    chis, _, masks, _ = people()
    found = build_template(chis[:2], [None, None], masks[:2], standard()[3], spacing_mm=SPACING, levels=(3,))
    assert found.t1w is None
    assert found.chi.max() > 0.08
    assert (found.shifts > 0).all()
