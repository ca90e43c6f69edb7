"""Plug-ins with the face of methods: what they need, hold and say."""

import numpy as np
import pytest

from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.registry import call, facts, needs, parameters
from tests.plugins.little import write_plugin

pytestmark = pytest.mark.usefixtures('here')
SHAPE = (12, 12, 12)


def test_a_name_of_a_registry_is_its_method():
    assert find_method(INVERSION, 'tkd') is INVERSION['tkd']


def test_a_plugin_is_called_as_a_method(tmp_path):
    folder = write_plugin(
        tmp_path / 'net', inputs=[{'tensor': 'field', 'channels': [{'data': 'field', 'unit': 'Hz'}]}]
    )
    method = find_method(INVERSION, f'onnx:{folder}')
    assert needs(method) == ['field', 'mask', 'grid', 'field_strength']
    assert parameters(method) == {}
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    field = np.where(mask, 0.01, 0).astype(np.float32)
    data = {'field': field, 'mask': mask, 'grid': Grid(SHAPE), 'field_strength': 3.0, 'noise': None}
    np.testing.assert_allclose(call(method, data, {}), 127.7321 * field, rtol=1e-4)


def test_the_start_of_an_unrolled_network_is_told_and_has_its_memory(tmp_path):
    x = [{'tensor': 'field', 'channels': [{'data': 'x', 'unit': 'ppm'}]}]
    how = {'iterations': 2, 'step_size': 1, 'start': 'tv'}
    found, plain = (
        facts(find_method({}, f'onnx:{write_plugin(tmp_path / name, inputs=x, unrolled=said)}'))
        for name, said in (('a', how), ('b', {**how, 'start': 'zero'}))
    )
    assert 'unrolled over 2 steps from TV [@tv]' in found.prose
    assert found.memory.padded - plain.memory.padded == facts(INVERSION['tv']).memory.padded - 6


def test_memory_is_that_of_tiles_or_grows_with_the_volume(tmp_path):
    whole = facts(find_method({}, f'onnx:{write_plugin(tmp_path / "a", memory=800)}')).memory
    tile = {'size': [100, 100, 100], 'margin': 4}
    tiles = facts(find_method({}, f'onnx:{write_plugin(tmp_path / "b", memory=800, tile=tile)}')).memory
    assert whole.padded - tiles.padded == 200
    assert tiles.fixed - whole.fixed == pytest.approx(0.8)
    half = {'policy': 'resample', 'mm': [0.5, 0.5, 0.5]}
    fine = facts(find_method({}, f'onnx:{write_plugin(tmp_path / "c", memory=800, voxel_size=half)}')).memory
    assert fine.cubes == pytest.approx(8 * whole.padded)
    inputs = [{'tensor': 'field', 'channels': [{'data': 'magnitude', 'normalise': 'p99'}]}]
    said = {'step': 'mask', 'inputs': inputs, 'output': {'tensor': 'chi', 'unit': 'probability'}}
    mask = facts(find_method({}, f'onnx:{write_plugin(tmp_path / "d", memory=800, **said)}')).memory
    usual = facts(next(iter(MASK.values()))).memory  # which is made beside it
    assert (mask.volume, mask.echoes) == (whole.volume + usual.volume, usual.echoes)
