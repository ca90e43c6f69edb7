import numpy as np
import pytest

from bids_qsm.anatomy.align import Similarity, coarsen, matrix_of, refine
from tests.anatomy.brains import template, template_affine


def test_parameters_make_a_rotation_about_the_centre():
    center = np.array([10.0, -5, 3])
    matrix = matrix_of(np.array([0, 0, 0, 6.0, -3, 9]), center)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3] @ center + matrix[:3, 3], center)


def test_scales_stretch_along_the_axes():
    matrix = matrix_of(np.array([0, 0, 0, 0, 0, 0, 60 * np.log(1.1), 0, 0, 0, 0, 0]), np.zeros(3))
    np.testing.assert_allclose(np.diag(matrix), [1.1, 1, 1, 1])


def test_similarity_is_highest_where_inverted_contrast_matches():
    brain, mask = template()
    other = np.where(mask, 1.2 - brain, 0)
    similarity = Similarity(
        brain, template_affine(), mask, other, template_affine(), n_points=5000, sigma=3.0
    )
    shifts = [similarity(matrix_of(np.array([s, 0, 0, 0, 0, 0.0]), np.zeros(3))) for s in (-4, -1, 0, 1, 4)]
    assert shifts[2] == max(shifts)
    assert shifts[0] < shifts[1]
    assert shifts[4] < shifts[3]


def test_similarity_is_zero_without_overlap():
    brain, mask = template()
    similarity = Similarity(brain, template_affine(), mask, brain, template_affine(), n_points=500, sigma=0)
    assert similarity(matrix_of(np.array([500, 0, 0, 0, 0, 0.0]), np.zeros(3))) == 0


def test_refine_finds_a_small_affine():
    brain, mask = template()
    truth = matrix_of(np.array([2, -3, 1.5, 2, -1, 3, 2, -2, 1, 0.5, 0, 0]), np.zeros(3))
    similarity = Similarity(
        brain, template_affine(), mask, brain, truth @ template_affine(), n_points=8000, sigma=2.0
    )
    found, value = refine(similarity, np.eye(4), np.zeros(3), n_parameters=12, step=2.0, tolerance=0.05)
    corners = np.array([[60, 0, 0], [0, 60, 0], [0, 0, 60], [-60, -60, 0]]).T
    error = (found - truth)[:3, :3] @ corners + (found - truth)[:3, 3:]
    assert np.abs(error).max() < 0.6
    assert value == pytest.approx(similarity(found))


def test_coarsen_keeps_the_mean():
    brain, _ = template()
    small, affine = coarsen(brain, template_affine(), 6.0)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), 6)
    assert small.mean() == pytest.approx(brain.mean(), rel=0.02)
