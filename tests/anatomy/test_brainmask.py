import numpy as np
import pytest

from bids_qsm.anatomy.bias import correct_bias
from bids_qsm.anatomy.brainmask import Brain, cut_ends, extract_brain, odd_volume
from bids_qsm.anatomy.head import SCALP_MM
from bids_qsm.errors import UserError
from tests.anatomy.brains import dice, head_in_template, person, pose, template, template_affine, warp
from tests.anatomy.heads import magnitude as scanned

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
    with pytest.raises(UserError, match='no head'):
        extract_brain(
            np.zeros((30, 30, 30), np.float32), np.diag([6, 6, 6, 1.0]), brain, template_affine(), mask
        )


REAL = {
    'bright scalp, shading and neck': {'fov': (204.0, 240.0, 252.0), 'shift': (0, 0, -36)},
    'thick slices': {'voxel': (3.0, 3.0, 9.0)},
    'slab': {'fov': (204.0, 240.0, 42.0), 'shift': (0, 0, 5)},
    'already stripped, tilted': {'stripped': True, 'rotation': (22, 0, 8)},
}


@pytest.mark.parametrize('settings', REAL.values(), ids=REAL)
def test_brain_of_a_magnitude_leaves_the_scalp_out(settings):
    image, affine, truth = scanned(**settings)
    brain, mask = template()
    corrected = correct_bias(image, affine, deep_mm=SCALP_MM)[0]
    found = extract_brain(corrected, affine, brain, template_affine(), mask, same_contrast=False)
    assert dice(found.mask, truth) > 0.9
    # The true brain of the phantom has less fluid around it than the mask.
    assert 0.95 < found.mask.sum() / truth.sum() < 1.13
    assert not any('plausible' in doubt for doubt in found.doubts) or found.millilitres > 2000


def test_a_volume_that_no_brain_has_is_doubted():
    few = {'mask': None, 'matrix': None, 'candidates': {'tissue': 0.9}}
    assert not Brain(millilitres=1400, share=1.0, **few).doubts
    assert not Brain(millilitres=700, share=0.5, **few).doubts
    assert '2445 ml; 800 to 2000 ml are plausible' in Brain(millilitres=2445, share=1.0, **few).doubts[0]
    assert '1652 ml' in Brain(millilitres=1652, share=0.6, **few).doubts[0]
    apart = Brain(None, None, 1400, 1.0, {'tissue': 0.6}).doubts
    assert apart == ['Ways to find the brain disagree with the mask (overlap): tissue (0.60).']
    assert 'no brain has more' in odd_volume(2500, is_part=True)[0]
    assert 'if it covers a part of it' in odd_volume(500, is_part=False)[0]
    assert not odd_volume(500, is_part=True)


def test_a_part_of_a_brain_is_told_from_a_whole_one():
    mask, affine = template()[1], template_affine()
    assert cut_ends(mask, affine) == []
    thick = np.diag([1.0, 1, 3, 1])
    assert cut_ends(mask[:, :, 1::3], affine @ thick) == []
    middle = [n // 2 for n in mask.shape]
    slab, side = mask.copy(), mask.copy()
    slab[:, :, : middle[2] - 8] = slab[:, :, middle[2] + 8 :] = False
    side[: middle[0]] = False
    assert cut_ends(slab, affine) == [(2, 0), (2, 1)]
    assert cut_ends(side, affine) == [(0, 0)]
    slab[middle[0] - 2 : middle[0] + 2, middle[1] - 2 : middle[1] + 2, middle[2] + 8 : middle[2] + 14] = True
    assert cut_ends(slab, affine) == [(2, 0), (2, 1)]
    # by the field of view
    assert cut_ends(mask[:, middle[1] :], affine) == [(1, 0)]
