import numpy as np
import pytest

from bids_qsm.anatomy.brainmask import extract_brain
from tests.anatomy.brains import dice, head_in_template, person, pose, template, template_affine, warp

TILTED = [pose((18, -5, 6), (5, -8, 10), 1.06), warp(3, 3.0)]


def magnitude(head):
    """The head with the contrast of a gradient echo: CSF bright, white matter dark, scalp grey."""
    volume, affine = head
    return np.where(volume > 0.15, 1.1 - 0.7 * volume, volume), affine


@pytest.mark.parametrize(
    ('contrast', 'is_t1w'), [(lambda head: head, True), (magnitude, False)], ids=['T1w', 'magnitude']
)
def test_brain_of_a_tilted_head_is_found(contrast, is_t1w):
    image, affine, truth = person(TILTED, image=contrast(head_in_template()))
    brain, mask = template()
    found = extract_brain(image, affine, brain, template_affine(), mask, same_contrast=is_t1w)
    assert dice(found.mask, truth) > 0.95
    # The matrix maps template to image points, the inverse of the pose but for the warp.
    center = np.array([0, -20, 10, 1.0])
    np.testing.assert_allclose(TILTED[0] @ found.matrix @ center, center, atol=8)


def test_an_image_without_a_head_is_refused():
    brain, mask = template()
    with pytest.raises(ValueError, match='no head'):
        extract_brain(
            np.zeros((30, 30, 30), np.float32), np.diag([6, 6, 6, 1.0]), brain, template_affine(), mask
        )
