"""PyTorch arrays in, PyTorch arrays out, and the same numbers as with NumPy."""

import inspect

import numpy as np
import pytest

from bids_qsm.recon.arrays import is_numpy, like, to_numpy
from bids_qsm.recon.background import BACKGROUND
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.fused_kernels import change, divergence, gradient, pull, step_gradient
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call

torch = pytest.importorskip('torch')


@pytest.fixture(autouse=True)
def _only_explicit_moves(monkeypatch):
    """Tensors on a GPU cannot be read by NumPy functions; here they cannot either, but through `to_numpy`."""

    def refuse(self, *_):
        assert any(frame.function == 'to_numpy' for frame in inspect.stack(0)), 'NumPy met a tensor'
        return self.numpy()

    monkeypatch.setattr(torch.Tensor, '__array__', refuse)


def moved(data):
    """The arrays among ``data`` as tensors."""
    return {k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for k, v in data.items()}


def worst(found, expected):
    """Largest difference, in units of the spread of what is expected."""
    return np.abs(to_numpy(found) - expected).max() / expected.std()


@pytest.fixture(scope='module')
def data(head, measured):
    square = head.brain * (1 + 0.2 * (head.chi > 0.03))
    return {
        'field': measured,
        'total': head.total + measured - head.local,
        'mask': head.brain,
        'noise': head.noise,
        'grid': head.grid,
        'magnitude': square.astype(np.float32),
        'radians_per_ppm': 2 * np.pi * 123.0 * 0.02,
        'r2star': np.where(head.ventricles, 3, 20).astype(np.float32),
    }


QUICK = {
    'learned': {'max_iterations': 40},
    'tgv': {'max_iterations': 40},
    'whnltv': {'max_iterations': 40},
}
"""Parameters of methods that take long; the others stop where they stop."""


@pytest.mark.parametrize('method', INVERSION)
def test_inversion(method, data):
    expected = call(INVERSION[method], data, QUICK.get(method, {}))
    found = call(INVERSION[method], moved(data), QUICK.get(method, {}))
    assert not is_numpy(found)
    assert worst(found, expected) < 0.02


@pytest.mark.parametrize('method', BACKGROUND)
def test_background(method, data):
    data = {**data, 'field': data['total']}
    expected, kept, *_ = call(BACKGROUND[method], data, {})
    found, where, *_ = call(BACKGROUND[method], moved(data), {})
    assert not is_numpy(found)
    np.testing.assert_array_equal(to_numpy(where), kept)
    assert worst(found, expected) < 0.02


@pytest.mark.parametrize('each', [False, True])
def test_passes(each):
    rng = np.random.default_rng(0)
    x, vector = (rng.standard_normal(s, dtype=np.float32) for s in ((5, 6, 7), (3, 5, 6, 7)))
    inverse = (1.0, 0.5, 2.0)
    tensors = [torch.from_numpy(a.copy()) for a in (x, vector)]
    threshold = 0.4 + np.abs(x) if each else 0.7
    same = torch.from_numpy(threshold) if each else threshold
    step_gradient(x, vector, inverse, threshold, 1.8)
    step_gradient(*tensors, inverse, same, 1.8)
    np.testing.assert_allclose(tensors[1].numpy(), vector, atol=1e-5)
    pull(vector, x, inverse, threshold)
    pull(tensors[1], tensors[0], inverse, same)
    np.testing.assert_allclose(tensors[0].numpy(), x, atol=1e-5)
    for function, arrays in ((divergence, (vector, x)), (gradient, (x, vector))):
        tensors = [torch.from_numpy(a.copy()) for a in arrays]
        function(*arrays, inverse)
        function(*tensors, inverse)
        np.testing.assert_allclose(tensors[1].numpy(), arrays[1], atol=1e-5)
    other = x + np.float32(0.1)
    expected = change(x, other)
    assert change(torch.from_numpy(x), torch.from_numpy(other)) == pytest.approx(expected, rel=1e-4)


def test_boxes_and_kernels():
    mask = np.zeros((9, 10, 11), bool)
    mask[3:6, 4:8, 2:5] = True
    grid = Grid(mask.shape, (1.0, 2.0, 1.5))
    volume = np.random.default_rng(1).standard_normal(mask.shape, dtype=np.float32)
    tensor = torch.from_numpy(volume)
    box = Box.around(torch.from_numpy(mask), grid, padding=5.0)
    assert box == Box.around(mask, grid, padding=5.0)
    kernel = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    expected = box.uncrop(convolve(box.crop(volume), kernel))
    found = box.uncrop(convolve(box.crop(tensor), like(kernel, tensor)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
