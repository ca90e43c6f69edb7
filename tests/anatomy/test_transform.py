import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.anatomy.transform import (
    Displacement,
    apply_affine,
    compose,
    grid_points,
    invert,
    regrid,
    resample,
    resample_labels,
    transform_points,
)
from tests.anatomy.brains import pose

SHAPE = (20, 22, 18)
AFFINE = np.array([[0, -2.0, 0, 20], [1.5, 0, 0, -12], [0, 0, 2.5, -20], [0, 0, 0, 1]])


def smooth(seed, shape=SHAPE, sigma=2.0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma).astype(
        np.float32
    )


def wave(size=1.5):
    field = np.stack([smooth(s, (12, 13, 12), 2.0) for s in (1, 2, 3)], -1)
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = -28
    return Displacement(field * (size / np.abs(field).max()), affine)


@pytest.mark.parametrize('order', [1, 3])
def test_resampling_onto_itself_changes_nothing(order):
    image = smooth(0)
    np.testing.assert_allclose(resample(image, AFFINE, SHAPE, AFFINE, [], order=order), image, atol=1e-5)


def test_resampling_reads_a_linear_ramp_at_the_mapped_points():
    ramp = grid_points(SHAPE, AFFINE) @ [0.3, -0.2, 0.5] + 4
    chain = [pose((5, -3, 8), (1, 2, -1)), wave(), pose((0, 4, 0), (0, 1, 0))]
    inner = (8, 8, 6)
    affine = AFFINE.copy()
    affine[:3, 3] = apply_affine(AFFINE, [[6, 7, 6]])[0]
    expected = transform_points(grid_points(inner, affine), chain) @ [0.3, -0.2, 0.5] + 4
    found = resample(ramp.reshape(SHAPE), AFFINE, inner, affine, chain)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)


def test_points_meet_the_transforms_in_order():
    turn, shift = pose((0, 0, 90), (0, 0, 0)), pose((0, 0, 0), (10, 0, 0))
    np.testing.assert_allclose(transform_points([[1, 0, 0]], [turn, shift]), [[10, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(transform_points([[1, 0, 0]], [shift, turn]), [[0, 11, 0]], atol=1e-12)


def test_displacement_is_trilinear_and_keeps_its_edge_value_outside():
    field = np.zeros((2, 2, 2, 3), np.float32)
    field[1, ..., 0] = 4
    moved = transform_points([[0.25, 0.5, 0.5], [7, 0, 0], [-3, 0, 0]], [Displacement(field, np.eye(4))])
    np.testing.assert_allclose(moved[:, 0], [1.25, 11, -3])


def test_outside_the_moving_image_is_cval():
    shifted = resample(np.ones(SHAPE), AFFINE, SHAPE, AFFINE, [pose((0, 0, 0), (1000, 0, 0))], cval=-2)
    assert (shifted == -2).all()


def test_inverse_of_a_composed_warp():
    there = compose([wave(), pose((0, 0, 0), (0.5, 0, 0))], SHAPE, AFFINE)
    back = invert(there, SHAPE, AFFINE)
    inner = grid_points(SHAPE, AFFINE).reshape(*SHAPE, 3)[5:-5, 5:-5, 5:-5].reshape(-1, 3)
    np.testing.assert_allclose(transform_points(inner, [there, back]), inner, atol=0.05)


def test_labels_keep_their_volume_and_their_names():
    points = grid_points((40, 40, 40), np.eye(4)).reshape(40, 40, 40, 3)
    labels = np.zeros((40, 40, 40), np.int16)
    for value, center, radius in ((3, (15, 20, 20), 6.0), (7, (25, 20, 20), 4.0), (300, (20, 30, 20), 2.3)):
        labels[((points - center) ** 2).sum(-1) < radius**2] = value
    turn = pose((10, 20, 30), (0, 0, 0))
    center = np.array([20, 20, 20])
    turn[:3, 3] = center - turn[:3, :3] @ center + 0.4
    shape, affine = regrid(labels.shape, np.eye(4), 1.5)
    out = resample_labels(labels, np.eye(4), shape, affine, [turn])
    assert out.dtype == labels.dtype
    assert set(np.unique(out)) == {0, 3, 7, 300}
    for value in (3, 7, 300):
        volume = (out == value).sum() * 1.5**3
        assert volume == pytest.approx((labels == value).sum(), rel=0.15)


def test_labels_onto_themselves():
    labels = np.random.default_rng(0).integers(0, 5, SHAPE)
    np.testing.assert_array_equal(resample_labels(labels, AFFINE, SHAPE, AFFINE, []), labels)


def test_regrid_keeps_extent_and_middle():
    shape, affine = regrid(SHAPE, AFFINE, 3.0)
    assert shape == (10, 15, 15)
    middle = [apply_affine(a, [(np.array(s) - 1) / 2])[0] for s, a in ((SHAPE, AFFINE), (shape, affine))]
    np.testing.assert_allclose(middle[0], middle[1])
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), 3)


def test_a_field_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match='shape'):
        Displacement(np.zeros((4, 4, 4)), np.eye(4))
