import h5py
import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import Undefined

from bids_qsm.anatomy.transform import Displacement, transform_points
from bids_qsm.errors import UserError
from bids_qsm.interfaces.anatomy import IdentityTransform
from bids_qsm.interfaces.xfm import load_chain, load_xfm, save_xfm

MATRIX = np.array([[0.9, 0.1, 0.05, 3.0], [-0.1, 1.1, 0.02, -4.0], [0.03, -0.06, 1.05, 7.5], [0, 0, 0, 1]])
GRID = np.array([[0, -2.0, 0, 9], [2.5, 0, 0, -8], [0, 0.3, 3, -7], [0, 0, 0, 1]])
POINTS = np.array([[0.0, 0, 0], [3, -2, 4], [-1.5, 2.5, 1]])


def displacement():
    field = np.random.default_rng(0).normal(0, 2, (5, 6, 7, 3)).astype(np.float32)
    return Displacement(field, GRID)


def test_affine_round_trip(tmp_path):
    path = save_xfm(MATRIX, tmp_path, 'affine.txt')
    np.testing.assert_array_equal(load_xfm(path)[0], MATRIX)
    np.testing.assert_allclose(load_xfm(path, invert=True)[0] @ MATRIX, np.eye(4), atol=1e-12)


def test_chains_are_read_and_inverted_one_by_one(tmp_path):
    first, second = save_xfm(MATRIX, tmp_path, 'a.txt'), save_xfm(np.diag([2.0, 2, 2, 1]), tmp_path, 'b.txt')
    chain = load_chain([first, second], [True, False])
    np.testing.assert_allclose(chain[0] @ MATRIX, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(load_chain([first, second], Undefined)[1], np.diag([2.0, 2, 2, 1]))
    assert load_chain(Undefined, Undefined) == []
    with pytest.raises(ValueError, match='1 transforms, but 2 values of invert'):
        load_chain([first], [True, False])


def test_affine_as_itk_states_it(tmp_path):
    # ITK: y = A (x - c) + t + c, in LPS.
    path = tmp_path / 'itk.txt'
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n'
        'Parameters: 0 -1 0 1 0 0 0 0 1 10 20 30\nFixedParameters: 5 6 7\n'
    )
    found = transform_points([[-1.0, -2, 3]], load_xfm(path))
    lps = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ (np.array([1, 2, 3]) - (5, 6, 7)) + (15, 26, 37)
    np.testing.assert_allclose(found, [lps * (-1, -1, 1)])


def test_the_last_transform_of_a_file_meets_points_first(tmp_path):
    path = tmp_path / 'two.txt'
    shift = (
        'Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 0 0 5\nFixedParameters: 0 0 0\n'
    )
    double = (
        'Transform: AffineTransform_double_3_3\nParameters: 2 0 0 0 2 0 0 0 2 0 0 0\nFixedParameters: 0 0 0\n'
    )
    path.write_text(f'#Insight Transform File V1.0\n#Transform 0\n{shift}#Transform 1\n{double}')
    np.testing.assert_allclose(transform_points([[0, 0, 1]], load_xfm(path)), [[0, 0, 7]])


def test_displacement_round_trip(tmp_path):
    path = save_xfm(displacement(), tmp_path, 'warp.nii.gz')
    (found,) = load_xfm(path)
    np.testing.assert_allclose(
        transform_points(POINTS, [found]), transform_points(POINTS, [displacement()]), atol=1e-5
    )


def test_displacement_is_stored_as_lps_vectors(tmp_path):
    image = nib.load(save_xfm(displacement(), tmp_path, 'warp.nii.gz'))
    assert image.shape == (5, 6, 7, 1, 3)
    assert image.header.get_intent()[0] == 'vector'
    np.testing.assert_allclose(image.affine, GRID, atol=1e-6)
    vectors = np.asarray(image.dataobj)[1, 2, 3, 0]
    np.testing.assert_array_equal(vectors, displacement().field[1, 2, 3] * (-1, -1, 1))


@pytest.mark.parametrize('spelling', ['Transform', 'Tranform'])
@pytest.mark.parametrize('precision', ['double', 'float'])
def test_composite_of_fmriprep(tmp_path, spelling, precision):
    """from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5: affine queued first, displacement last."""
    warp = displacement()
    lps = np.diag([-1.0, -1, 1, 1])
    affine, grid = lps @ MATRIX @ lps, lps @ warp.affine
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    fixed = np.concatenate([warp.field.shape[:3], grid[:3, 3], spacing, (grid[:3, :3] / spacing).ravel()])
    vectors = (warp.field * np.float32([-1, -1, 1])).transpose(3, 0, 1, 2)
    contents = [
        (f'CompositeTransform_{precision}_3_3', None, None),
        (
            f'AffineTransform_{precision}_3_3',
            np.concatenate([affine[:3, :3].ravel(), affine[:3, 3]]),
            np.zeros(3),
        ),
        (f'DisplacementFieldTransform_{precision}_3_3', vectors.ravel(order='F'), fixed),
    ]
    path = tmp_path / 'from-T1w_to-MNI_mode-image_xfm.h5'
    with h5py.File(path, 'w') as file:
        for n, (kind, parameters, constants) in enumerate(contents):
            group = file.create_group(f'TransformGroup/{n}')
            group['TransformType'] = np.array([kind.encode()])
            if parameters is not None:
                group[f'{spelling}Parameters'] = parameters
                group[f'{spelling}FixedParameters'] = constants
    found = transform_points(POINTS, load_xfm(path))
    np.testing.assert_allclose(found, transform_points(POINTS, [warp, MATRIX]), atol=1e-4)


@pytest.mark.parametrize('reader', ['SimpleITK'])
def test_itk_reads_what_we_write(tmp_path, reader):
    sitk = pytest.importorskip(reader)
    flip = np.array([-1.0, -1, 1])
    affine = sitk.ReadTransform(save_xfm(MATRIX, tmp_path, 'affine.txt'))
    image = sitk.ReadImage(
        save_xfm(Displacement(displacement().field, np.diag([2, 2.5, 3, 1])), tmp_path, 'w.nii.gz')
    )
    warp = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    inside = np.abs(POINTS) + 0.5
    ours = transform_points(inside, load_xfm(tmp_path / 'w.nii.gz'))
    for point, moved in zip(inside, ours, strict=True):
        np.testing.assert_allclose(flip * warp.TransformPoint((flip * point).tolist()), moved, atol=1e-4)
        expected = transform_points([point], [MATRIX])[0]
        np.testing.assert_allclose(flip * affine.TransformPoint((flip * point).tolist()), expected, atol=1e-9)


def test_a_displacement_cannot_be_inverted(tmp_path):
    with pytest.raises(UserError, match='other direction'):
        load_xfm(save_xfm(displacement(), tmp_path, 'warp.nii.gz'), invert=True)


@pytest.mark.parametrize(
    ('name', 'text', 'match'),
    [
        ('a.txt', 'hello\n', 'no affine'),
        (
            'a.txt',
            'Transform: Euler3DTransform_double_3_3\nParameters: 0 0 0 1 2 3\nFixedParameters: 0 0 0\n',
            'Euler',
        ),
        ('a.mat', '1 0 0 0', 'not a transform'),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=match):
        load_xfm(tmp_path / name)


def test_a_plain_image_is_no_displacement(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), tmp_path / 'a.nii.gz')
    with pytest.raises(UserError, match='shape'):
        load_xfm(tmp_path / 'a.nii.gz')


def test_identity(tmp_path):
    node = IdentityTransform()
    path = node.run(cwd=str(tmp_path)).outputs.xfm
    np.testing.assert_array_equal(load_xfm(path)[0], np.eye(4))
