import numpy as np
import pytest

from bids_qsm.biomarkers.vein_fraction import (
    boundary_cost,
    boundary_points,
    excluded,
    misfit,
    pure,
    share_of_voxels,
)
from bids_qsm.phantom.head import rigid


def centred(shape, spacing):
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    return affine


@pytest.fixture(scope='module')
def tube():
    """A tube of 3 mm across along an oblique axis, on a grid of 1 mm."""
    shape = (48, 48, 48)
    affine = centred(shape, 1.0)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing='ij'), -1) + affine[:3, 3]
    axis = np.array([0.6, 0.0, 0.8])
    far = np.linalg.norm(points - (points @ axis)[..., None] * axis, axis=-1)
    return np.clip(1.5 + 0.5 - far, 0, 1).astype(np.float32), affine


def test_shares_keep_the_volume_through_a_turn_and_a_coarser_grid(tube):
    image, affine = tube
    shape = (20, 20, 20)
    grid = centred(shape, 3.0)
    back = rigid((0, 0, 20), (2.0, -3.0, 1.0))
    share = share_of_voxels(image, affine, shape, grid, [back])
    assert share.min() >= 0
    assert share.max() <= 1
    # away from the ends of the tube, which leave the image
    volume = share.sum() * 27
    assert volume == pytest.approx(image.sum(), rel=0.03)
    middle = (share[..., None] * np.stack(np.indices(shape), -1)).sum((0, 1, 2)) / share.sum()
    at = back[:3, :3] @ (grid[:3, :3] @ middle + grid[:3, 3]) + back[:3, 3]
    np.testing.assert_allclose(at, 0, atol=0.15)


def test_points_are_as_close_as_the_finer_image_asks():
    """A voxel of 3 mm over an image of 0.5 mm has six points along each axis, and no bias."""
    rng = np.random.default_rng(0)
    image = rng.random((36, 36, 36), np.float32)
    grid = np.diag([3.0, 3, 3, 1])
    grid[:3, 3] = 1.25
    share = share_of_voxels(image, np.diag([0.5, 0.5, 0.5, 1]), (6, 6, 6), grid, [])
    np.testing.assert_allclose(share, image.reshape(6, 6, 6, 6, 6, 6).mean((1, 3, 5)), atol=1e-5)


def test_sinuses_are_excluded_with_their_neighbours_and_other_veins_without():
    veins, sinuses = np.zeros((2, 7, 7, 7), np.float32)
    veins[1, 1, 1], veins[5, 5, 5], veins[3, 3, 3] = 0.2, 0.05, 0.9
    sinuses[3, 3, 3] = 0.9
    out = excluded(veins, sinuses)
    assert out[1, 1, 1]
    assert not out[1, 1, 2]
    assert not out[5, 5, 5]
    assert out[3, 3, 3]
    assert out[3, 3, 4]
    assert out[2, 3, 3]
    assert not out[3, 4, 4]
    assert out.sum() == 8


def test_a_vein_deep_in_grey_matter_gives_no_signal_of_veins():
    grey = np.ones((7, 7, 7), np.float32)
    grey[:, :, 4:] = 0
    veins = np.zeros_like(grey)
    veins[3, 3, 1] = veins[3, 3, 3] = veins[3, 3, 5] = 0.5
    veins[1, 1, 5] = 0.2
    assert np.argwhere(pure(veins, grey)).tolist() == [[3, 3, 3], [3, 3, 5]]
    assert pure(veins, None).sum() == 3


@pytest.fixture(scope='module')
def folded():
    """White matter with a wavy surface, on a grid of 1 mm, and a run of 3 mm in which it is the darker."""

    def white_at(points):
        x, y, z = np.moveaxis(points, -1, 0)
        radius = 18 + 4 * np.sin(x / 4) * np.cos(y / 5) + 3 * np.cos(z / 3)
        return np.clip(0.5 + radius - np.linalg.norm(points, axis=-1), 0, 1).astype(np.float32)

    parts = []
    for shape, spacing in (((64,) * 3, 1.0), ((22,) * 3, 3.0)):
        affine = centred(shape, spacing)
        points = spacing * np.stack(np.indices(shape), -1) + affine[:3, 3]
        parts.append((white_at(points), affine))
    (white, affine), (coarse, grid) = parts
    return white, affine, 100 - 20 * coarse, grid


@pytest.mark.parametrize(('shift', 'expected'), [(0, 0), (2, 2), (4, 4)])
def test_a_shift_of_the_run_is_measured(folded, shift, expected):
    white, affine, image, grid = folded
    points, normals = boundary_points(white, affine)
    moved = [rigid((0, 0, 0), (0, shift, 0))]
    found, cost, best = misfit(image, grid, points, normals, moved)
    assert found == pytest.approx(expected, abs=1)
    assert best < 0.25
    assert cost - best > {0: -1e-6, 2: 0.001, 4: 0.05}[shift]


def test_the_cost_is_1_by_chance_and_2_where_the_contrast_is_reversed(folded):
    white, affine, image, grid = folded
    points, normals = boundary_points(white, affine)
    noise = 100 + np.random.default_rng(0).standard_normal(image.shape).astype(np.float32) * 10
    assert boundary_cost(noise, grid, points, normals, []) == pytest.approx(1, abs=0.15)
    assert boundary_cost(200 - image, grid, points, normals, []) > 1.75
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
