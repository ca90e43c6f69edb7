import builtins
import importlib.util

import numpy as np
import pytest

from bids_qsm.anatomy import register as register_module
from bids_qsm.anatomy.register import REGISTER, rigid
from bids_qsm.anatomy.transform import apply_affine, grid_points, resample, transform_points
from bids_qsm.errors import UserError
from tests.anatomy.brains import SHAPE, head_in_template, person, pose, template, template_affine, warp

PERSON = [pose((6, -4, 5), (4, -6, 8), 1.04), warp(11, 3.0)]
QUICK = {
    'dipy': {
        'whole_mm': 5.0,
        'whole_iterations': (25, 10),
        'box_mm': 4.0,
        'box_iterations': (10,),
    },
    'greedy': {'spacing_mm': 4.0, 'iterations': '40x20'},
}


def register(method):
    image, affine, mask = person(PERSON)
    brain, template_mask = template()
    return REGISTER[method](image, affine, mask, brain, template_affine(), template_mask, **QUICK[method]), (
        affine,
        mask,
    )


@pytest.mark.parametrize('method', REGISTER)
def test_registration_recovers_a_known_warp(method):
    if method == 'greedy' and importlib.util.find_spec('picsl_greedy') is None:
        pytest.skip('picsl-greedy is not installed')
    (there, back), (affine, mask) = register(method)
    points = grid_points(mask.shape, affine)[mask.ravel()][::50]
    truth = transform_points(points, PERSON)
    found = transform_points(points, [back])
    center = np.linalg.norm(truth - (0, -18, 0), axis=1) < 40
    assert np.linalg.norm(found - truth, axis=1)[center].mean() < 1.5
    np.testing.assert_allclose(transform_points(found, [there]), points, atol=1.0)


def test_the_default_grids_recover_a_warp_of_deep_grey_matter():
    """On the grids of 2 and 1 mm that others shrink, with fewer iterations on each of their levels."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-36, -42, -36)
    shape, bend = (36, 36, 36), warp(3, 2.0)
    fixed, moving = (resample(template()[0], template_affine(), shape, affine, t) for t in ([], [bend]))
    everywhere = np.ones(shape, bool)
    there, back = REGISTER['dipy'](
        *(moving, affine, everywhere, fixed, affine, everywhere, np.eye(4)),
        whole_iterations=(10, 6, 2),
        box_iterations=(4, 1),
    )
    assert np.allclose([np.linalg.norm(one.affine[:3, :3], axis=0) for one in (there, back)], 2.0)
    points = grid_points(shape, affine)[::7]
    points = points[(np.abs(points - (0, -6, 0)) < 25).all(1)]
    truth = transform_points(points, [bend])
    assert np.linalg.norm(truth - points, axis=1).mean() > 1.5
    assert np.linalg.norm(transform_points(points, [back]) - truth, axis=1).mean() < 0.8


def test_a_part_of_a_brain_is_aligned_by_the_head_around_it(monkeypatch):
    """The whole template would shrink to what a mask holds that is cut straight."""
    image, affine, mask = person(PERSON)
    brain, template_mask = template()
    given, matrix = [], np.diag([1.1, 1.1, 1.1, 1.0])

    def lay(*arguments):
        given.extend(arguments)
        return matrix

    monkeypatch.setattr(register_module, 'lay_brain', lay)
    half = mask & (np.arange(mask.shape[2]) < mask.shape[2] // 2)
    there, _ = REGISTER['dipy'](
        *(image, affine, half, brain, template_affine(), template_mask),
        **{**QUICK['dipy'], 'whole_iterations': (1, 0), 'box_iterations': (1,)},
    )
    assert given[0] is image
    points = grid_points(SHAPE, template_affine())[::5000]
    moved = transform_points(points, [there])
    assert np.linalg.norm(moved - 1.1 * points, axis=1).mean() < 6


def test_another_contrast_is_registered_by_information():
    volume, volume_affine = head_in_template()
    magnitude = np.where(volume > 0.15, 1.1 - 0.7 * volume, volume)
    image, affine, mask = person(PERSON, image=(magnitude, volume_affine))
    brain, template_mask = template()
    there, back = REGISTER['dipy'](
        image, affine, mask, brain, template_affine(), template_mask, None, False, whole_mm=4.0
    )
    points = grid_points(mask.shape, affine)[mask.ravel()][::50]
    truth = transform_points(points, PERSON)
    assert np.linalg.norm(transform_points(points, [back]) - truth, axis=1).mean() < 2.0
    np.testing.assert_allclose(transform_points(points, [back, there]), points, atol=1.0)


def test_greedy_that_is_not_installed_is_one_sentence(monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith(('picsl_greedy', 'SimpleITK')):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(UserError, match=r'pip install bids_qsm\[greedy\]'):
        REGISTER['greedy'](None, None, None, None, None, None)


@pytest.mark.parametrize('slices', [(0, SHAPE[2]), (20, 44)], ids=['whole brain', 'slab'])
def test_rigid_alignment_across_contrasts_on_an_oblique_grid(slices):
    brain, mask = template()
    truth = pose((6, -8, 7), (9, -7, 6))
    oblique = pose((20, 5, 0), (0, 0, 0)) @ template_affine()
    oblique[:3, 3] = apply_affine(oblique, [[0, 0, slices[0]]])[0]
    shape = (*SHAPE[:2], slices[1] - slices[0])
    other = np.where(mask, 1.2 - brain, 0)
    moving = resample(other, template_affine(), shape, oblique, [np.linalg.inv(truth)])
    found = rigid(moving, oblique, brain, template_affine(), mask)
    points = grid_points(brain.shape, template_affine())[mask.ravel()][::100]
    error = np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1)
    assert error.mean() < 0.5
