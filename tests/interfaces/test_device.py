import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces import device

torch = pytest.importorskip('torch')


def double(field, *, gain: float = 2.0):
    return field * gain


def test_numpy_stays_numpy_on_the_cpu():
    field = np.ones(3, np.float32)
    assert device.call_on('cpu', lambda field: field, {'field': field}, {}) is field


def test_tensors_go_in_and_numpy_comes_out():
    kinds = []

    def pair(field, mask, grid, *, gain: float = 2.0):
        kinds.extend(type(a) for a in (field, mask, grid))
        return field * gain, mask

    data = {'field': np.arange(3, dtype=np.float32), 'mask': np.ones(3, bool), 'grid': 'a grid'}
    field, mask = device._call_with_tensors('cpu', pair, data, {'gain': 3.0})
    assert kinds == [torch.Tensor, torch.Tensor, str]
    np.testing.assert_array_equal(field, [0, 3, 6])
    assert mask.dtype == bool
    assert isinstance(device._call_with_tensors('cpu', double, data, {}), np.ndarray)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu_is_said():
    device.require_device('cpu')
    with pytest.raises(UserError, match='PyTorch finds no CUDA device'):
        device.call_on('cuda', double, {'field': np.ones(3)}, {})


def test_no_pytorch_is_said(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'torch', None)
    with pytest.raises(UserError, match=r'needs PyTorch.*bids_qsm\[gpu\]'):
        device.require_device('cuda')
