import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.anatomy.register import REGISTER
from bids_qsm.anatomy.transform import apply_affine, grid_points
from bids_qsm.errors import UserError
from bids_qsm.interfaces.anatomy import (
    CheckBrain,
    CorrectBias,
    ExtractBrain,
    RegisterRigid,
    RegisterTemplate,
    Resample,
    Window,
)
from bids_qsm.interfaces.xfm import load_xfm, save_xfm
from tests.anatomy.brains import dice, person, pose, template, template_affine, warp

PERSON = [pose((5, 3, -4), (3, -5, 6), 1.03), warp(4, 2.0)]


def write(path, data, affine):
    data = data.astype(np.uint8) if data.dtype == bool else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A person and the template, as files."""
    image, affine, truth = person(PERSON)
    brain, mask = template()
    return {
        'image': write(tmp_path / 'T1w.nii.gz', image, affine),
        'truth': truth,
        'mask': write(tmp_path / 'mask.nii.gz', truth, affine),
        'template': write(tmp_path / 'template.nii.gz', brain, template_affine()),
        'template_mask': write(tmp_path / 'template_mask.nii.gz', mask, template_affine()),
    }


def test_bias_and_brain_of_a_head(files, tmp_path):
    corrected = CorrectBias(image=files['image']).run(cwd=str(tmp_path)).outputs.image
    assert nib.load(corrected).shape == nib.load(files['image']).shape
    found = ExtractBrain(
        image=corrected, template=files['template'], template_mask=files['template_mask']
    ).run(cwd=str(tmp_path))
    mask = nib.load(found.outputs.mask)
    assert mask.get_data_dtype() == np.uint8
    assert dice(np.asarray(mask.dataobj) > 0, files['truth']) > 0.95
    assert load_xfm(found.outputs.xfm)[0].shape == (4, 4)


def test_a_mask_that_covers_a_part_of_a_brain_is_reported(tmp_path):
    mask = template()[1]
    half = mask.copy()
    half[: half.shape[0] // 2] = False

    def said(inside):
        path = write(tmp_path / 'given.nii.gz', inside, template_affine())
        found = CheckBrain(mask=path).run(cwd=str(tmp_path)).outputs.notes
        return [one['found'] for one in json.loads(Path(found).read_text())['findings']]

    assert len(said(mask)) == 1
    assert 'cut straight, so it covers a part of a brain' in said(half)[1]


def test_template_and_image_are_carried_onto_each_other(files, tmp_path):
    method = next(iter(REGISTER))
    params = {'whole_mm': 6.0, 'whole_iterations': (20, 10), 'box_mm': 5.0, 'box_iterations': (5,)}
    register = RegisterTemplate(
        **{name: files[name] for name in ('image', 'mask', 'template', 'template_mask')},
        method=method,
        params=params,
    ).run(cwd=str(tmp_path))
    back = Resample(
        image=files['template_mask'],
        reference=files['image'],
        transforms=[register.outputs.template_to_image],
        interpolation='label',
    ).run(cwd=str(tmp_path))
    assert dice(np.asarray(nib.load(back.outputs.image).dataobj) > 0, files['truth']) > 0.95
    there = Resample(
        image=files['image'],
        reference=files['template'],
        transforms=[register.outputs.image_to_template],
        interpolation='linear',
    ).run(cwd=str(tmp_path))
    brain, mask = template()
    assert np.corrcoef(np.asarray(nib.load(there.outputs.image).dataobj)[mask], brain[mask])[0, 1] > 0.8


def test_rigid_transform_and_its_inverse(files, tmp_path):
    brain, mask = template()
    truth = pose((4, -3, 5), (4, -3, 2))
    # The scan of a moved head: its scanner points are truth(template points).
    moving = write(tmp_path / 'moving.nii.gz', 1.2 * mask - brain, truth @ template_affine())
    found = RegisterRigid(moving=moving, fixed=files['template'], fixed_mask=files['template_mask']).run(
        cwd=str(tmp_path)
    )
    matrix = load_xfm(found.outputs.xfm)[0]
    points = grid_points(brain.shape, template_affine())[mask.ravel()][::200]
    error = np.linalg.norm(apply_affine(matrix, points) - apply_affine(truth, points), axis=1)
    assert error.mean() < 0.6
    np.testing.assert_allclose(load_xfm(found.outputs.inverse)[0] @ matrix, np.eye(4), atol=1e-9)


def test_a_window_begins_at_zero(tmp_path):
    image = write(tmp_path / 'ct.nii.gz', np.float32([[[-1000, -20, 37, 900, np.nan]]]), np.eye(4))
    out = Window(image=image, low=-20.0, high=100.0).run(cwd=str(tmp_path)).outputs.image
    assert np.asarray(nib.load(out).dataobj).ravel().tolist() == [0, 0, 57, 120, 0]


def test_resample_chains_matrices_and_their_inverses(tmp_path):
    image = write(tmp_path / 'a.nii.gz', np.random.default_rng(0).random((6, 7, 8), np.float32), np.eye(4))
    xfm = save_xfm(pose((0, 0, 0), (1, 2, 0)), tmp_path, 'shift.txt')
    resample = Resample(image=image, reference=image, transforms=[xfm, xfm], invert=[True, False])
    out = nib.load(resample.run(cwd=str(tmp_path)).outputs.image)
    np.testing.assert_allclose(np.asarray(out.dataobj), np.asarray(nib.load(image).dataobj), atol=1e-6)
    resample = Resample(image=image, reference=image, transforms=[xfm], invert=[False])
    out = np.asarray(nib.load(resample.run(cwd=str(tmp_path)).outputs.image).dataobj)
    np.testing.assert_allclose(out[:5, :5], np.asarray(nib.load(image).dataobj)[1:, 2:], atol=1e-6)


def test_resample_without_transforms_changes_the_grid_alone(tmp_path):
    labels = np.zeros((8, 8, 8), np.int16)
    labels[2:6, 2:6, 2:6] = 1035
    image = write(tmp_path / 'dseg.nii.gz', labels, np.eye(4))
    affine = pose((0, 0, 0), (2, 0, 0))
    reference = write(tmp_path / 'ref.nii.gz', np.zeros((6, 8, 8), np.float32), affine)
    out = nib.load(
        Resample(image=image, reference=reference, transforms=[], interpolation='label')
        .run(cwd=str(tmp_path))
        .outputs.image
    )
    np.testing.assert_array_equal(np.asarray(out.dataobj), labels[2:])
    np.testing.assert_allclose(out.affine, affine)


def test_images_that_cannot_be_used_are_named(tmp_path):
    empty = write(tmp_path / 'empty.nii.gz', np.zeros((9, 9, 9), np.float32), np.eye(4))
    with pytest.raises(UserError, match=r'empty\.nii\.gz is empty'):
        CorrectBias(image=empty).run(cwd=str(tmp_path))
    series = write(tmp_path / 'series.nii.gz', np.ones((9, 9, 9, 3), np.float32), np.eye(4))
    with pytest.raises(UserError, match=r'one 3D volume'):
        CorrectBias(image=series).run(cwd=str(tmp_path))


@pytest.mark.parametrize(('shape', 'match'), [((9, 9, 9), 'is empty'), ((9, 9, 8), 'has shape')])
def test_a_mask_that_does_not_fit_is_named(tmp_path, shape, match):
    image = write(tmp_path / 'a.nii.gz', np.random.default_rng(0).random((9, 9, 9), np.float32), np.eye(4))
    mask = write(tmp_path / 'mask.nii.gz', np.zeros(shape, bool), np.eye(4))
    with pytest.raises(UserError, match=match):
        RegisterRigid(moving=image, fixed=image, fixed_mask=mask).run(cwd=str(tmp_path))
