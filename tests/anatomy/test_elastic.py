import numpy as np

from bids_qsm.anatomy.align import Similarity
from bids_qsm.anatomy.elastic import deform
from bids_qsm.anatomy.transform import grid_points, resample, transform_points
from tests.anatomy.brains import template, template_affine, warp


def test_deformation_undoes_most_of_a_warp_across_contrasts():
    brain, mask = template()
    truth = warp(7, 4.0)
    moved = resample(
        np.where(mask, 1.2 - brain, 0), template_affine(), brain.shape, template_affine(), [truth]
    )
    similarity = Similarity(
        brain, template_affine(), mask, moved, template_affine(), n_points=30000, sigma=1.0
    )
    found = deform(similarity, np.eye(4), brain.shape, template_affine(), sigma_mm=14.0)
    points = grid_points(brain.shape, template_affine())[mask.ravel()][::20]
    # brain(x) lies at found(x) in the moved image, which shows truth(found(x)) = x.
    before = np.linalg.norm(transform_points(points, [truth]) - points, axis=1).mean()
    after = np.linalg.norm(transform_points(points, [found, truth]) - points, axis=1).mean()
    assert after < 0.6 * before


def test_nothing_moves_where_all_points_miss_the_image():
    brain, mask = template()
    similarity = Similarity(
        brain, template_affine(), mask, brain, template_affine(), n_points=1000, sigma=1.0
    )
    away = np.eye(4)
    away[0, 3] = 1000.0
    assert not deform(similarity, away, brain.shape, template_affine()).field.any()
