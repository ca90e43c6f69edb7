"""The tensor of diffusion images that were not fitted yet."""

import numpy as np

from bids_qsm.anatomy.diffusion import Gradients, brain_of, fit_tensor
from bids_qsm.phantom.diffusion import DiffusionProtocol, diffusion_images, spread
from bids_qsm.recon.orientations.operators import COMPONENTS


def test_one_shell_is_fitted():
    """Of several the one that is nearest to 1000 and has enough directions; b-values of a shell differ."""
    bvals = np.array([5, *[995, 1005] * 3, *[2000] * 30, 0])
    bvecs = np.concatenate([np.full((1, 3), np.nan), spread(6), spread(30), np.zeros((1, 3))])
    one = Gradients(bvals, bvecs)
    assert np.flatnonzero(one.unweighted).tolist() == [0, 37]
    assert np.flatnonzero(one.shell).tolist() == [1, 2, 3, 4, 5, 6]
    assert one.directions == 6
    # about the highest b-value, with a mean without a direction
    bvals, bvecs = np.array([0, *[1490, 1510] * 4]), np.concatenate([np.zeros((2, 3)), spread(7)])
    high = Gradients.of(bvals[None], bvecs)
    assert np.flatnonzero(high.undirected).tolist() == [1]
    assert np.flatnonzero(high.used).tolist() == [0, *range(2, 9)]
    # a chain beyond the highest is no shell
    assert not Gradients.of(np.arange(0, 3000, 90.0), spread(34)).shells
    # in one plane they determine no tensor
    flat = np.stack([np.cos(np.arange(6)), np.sin(np.arange(6)), np.zeros(6)], 1)
    assert Gradients(np.full(6, 1000.0), flat).directions < 6


def test_a_tensor_is_found_with_its_axes():
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    true = turn @ np.diag([1.7e-3, 0.4e-3, 0.2e-3]) @ turn.T
    bvecs = np.concatenate([np.zeros((2, 3)), 1.01 * spread(20)])
    bvals = np.repeat([0.0, 1000.0], [2, 20])
    ways = bvecs / np.maximum(np.linalg.norm(bvecs, axis=1, keepdims=True), 1e-6)
    signal = 900 * np.exp(-bvals * np.einsum('ni,ij,nj->n', ways, true, ways))
    more = np.repeat([signal], 4, 0)
    more[1] *= 1 + 0.02 * rng.standard_normal(22)
    more[2] = 0
    fa, tensor = fit_tensor(more, Gradients(bvals, bvecs))
    expected = np.array([true[i, j] for i, j in COMPONENTS])
    np.testing.assert_allclose(tensor[0], expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(tensor[1], expected, atol=1e-4)
    assert np.isfinite(tensor).all()
    assert abs(fa[0] - 0.802) < 0.01


def test_bundles_of_a_voxel_add_up_in_signals():
    """Images of two crossing bundles, and the axes of their table on a grid that is not that of a mirror."""
    protocol = DiffusionProtocol((8.0,) * 3, (64.0,) * 3, (0, 0, 90), False, directions=30, snr=500)
    shape = protocol.grid.shape
    alone, crossed = np.zeros((2, 6, *shape), np.float32)
    alone[[0, 3, 5]] = np.float32([1.6e-3, 0.3e-3, 0.3e-3])[:, None, None, None]  # along x of the scanner
    crossed[[0, 3, 5]] = np.float32([0.3e-3, 0.3e-3, 1.6e-3])[:, None, None, None]
    half = np.where(np.indices(shape)[2] < 4, 1, 0.5).astype(np.float32)
    nothing = {'grey': np.zeros(shape, np.float32)}
    scan = diffusion_images([(half, alone), (1 - half, crossed)], nothing, protocol, 3)
    fa, tensor = fit_tensor(scan.images.reshape(-1, 32), Gradients(scan.bvals, scan.bvecs))
    mean = tensor.reshape(*shape, 6)[:, :, :4].mean((0, 1, 2))
    # the first voxel axis points along y of the scanner, and x of the scanner against the second one
    np.testing.assert_allclose(mean, [0.3e-3, 0, 0, 1.6e-3, 0, 0.3e-3], atol=3e-5)
    crossing = tensor.reshape(*shape, 6)[:, :, 4:].mean((0, 1, 2))
    assert abs(crossing[3] - crossing[5]) < 5e-5
    assert fa.reshape(shape)[:, :, 4:].mean() < 0.75 * fa.reshape(shape)[:, :, :4].mean()


def test_the_brain_is_what_is_bright():
    index = np.indices((24, 24, 24)) - 11.5
    inside = (index**2).sum(0) < 81
    found = brain_of(np.where(inside, 100, 2) + np.random.default_rng(0).random(inside.shape))
    assert (found & inside).sum() > 0.8 * inside.sum()
    assert (found & ~inside).sum() < 0.05 * inside.sum()
