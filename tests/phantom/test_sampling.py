import numpy as np
from scipy import ndimage

from bids_qsm.phantom.sampling import Volume, Warp, coordinates, expand, pull, spline_basis
from bids_qsm.recon.blocks import linear_basis

STILL = Warp(np.zeros((3, 3, 3, 3), np.float32), np.full(3, -100.0), 100.0)


def test_pull_agrees_with_scipy_inside_and_gives_the_fill_value_outside():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((12, 14, 13, 2)).astype(np.float32)
    volume = Volume(data, np.array([-5.0, -6.0, -4.0]), 1.0)
    veins = Volume(np.arange(data.size, dtype=np.uint16).reshape(data.shape), volume.origin, 0.5, 1 / 4096)
    matrix = np.eye(4)
    matrix[:3, :3] = [[0.9, 0.1, 0], [-0.1, 0.8, 0.2], [0, -0.1, 0.9]]
    matrix[:3, 3] = (-4, -4, -3.5)
    first, blood, second = pull((8, 9, 30), matrix, STILL, volume, [1], [7.0], veins)
    points = coordinates((8, 9, 30), matrix, STILL)
    for found, channel, step, fill in (
        (first, data[..., 1], 1.0, 7.0),
        (blood, veins.data[..., 0] / 4096, 0.5, 0.0),
        (second, veins.data[..., 1] / 4096, 0.5, 0.0),
    ):
        index = np.moveaxis((points - volume.origin) / step, -1, 0)
        inside = np.all([(i > 0.01) & (i < n - 1.01) for i, n in zip(index, channel.shape, strict=True)], 0)
        assert inside.sum() > 50
        expected = ndimage.map_coordinates(channel, index, order=1)
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)
        assert np.all(found[index[2] > channel.shape[2]] == fill)


def test_warp_adds_its_displacement():
    nodes = np.zeros((3, 3, 3, 3), np.float32)
    nodes[..., 1] = 4.0
    shifted = coordinates((4, 4, 4), np.eye(4), Warp(nodes, np.full(3, -100.0), 100.0))
    still = coordinates((4, 4, 4), np.eye(4), STILL)
    np.testing.assert_allclose(shifted - still, np.broadcast_to([0, 4, 0], still.shape))


def test_expand_is_three_matrix_products():
    rng = np.random.default_rng(1)
    volume = rng.standard_normal((7, 8, 9)).astype(np.float32)
    bases = [
        linear_basis(np.linspace(0, 6, 15), 7),
        spline_basis(np.linspace(1, 6, 11), 8),
        rng.standard_normal((5, 9)),
    ]
    expected = np.einsum('ai,bj,ck,ijk->abc', *bases, volume)
    np.testing.assert_allclose(expand(volume, bases), expected, atol=1e-5)


def test_bases_reproduce_constants_and_lines():
    at = np.linspace(1, 6, 23)
    np.testing.assert_allclose(spline_basis(at, 8) @ np.arange(8), at)
    np.testing.assert_allclose(linear_basis(at, 8) @ np.arange(8), at)
