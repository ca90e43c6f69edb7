"""What the limits of the process of a network do."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from onnx import helper

from bids_qsm.errors import UserError
from bids_qsm.plugins import sandbox
from bids_qsm.plugins.manifest import read_manifest
from bids_qsm.plugins.sandbox import Image, Job, Machine, require_onnx, run_network
from bids_qsm.plugins.tiles import Plan
from tests.plugins.little import identity, model_of, net, write_plugin

SHAPE = (16, 12, 8)


def run(folder, model=None, machine=None, **changes):
    model = identity() if model is None else model
    manifest = read_manifest(write_plugin(folder, **changes))
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    plan = Plan(SHAPE, SHAPE, 0, 0, 1)
    images = [Image('field', image)]
    machine = machine or Machine(seconds=60)
    found, facts = run_network(Job(manifest, model.SerializeToString(), machine, images, plan, [0]))
    return image, found[0], facts


def test_it_gives_what_the_network_gives(tmp_path):
    image, found, facts = run(tmp_path / 'a')
    np.testing.assert_array_equal(found, image)
    assert facts['provider'] == 'CPUExecutionProvider'
    assert facts['held'] >= 0


def test_threads_do_not_change_a_bit(tmp_path):
    model = net(np.random.default_rng(0))
    one, two = (run(tmp_path / str(n), model, Machine(threads=n, seconds=60))[1] for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def exploding():
    """A network that makes 2 GB of a few voxels."""
    nodes = [
        helper.make_node('Tile', ['field', 'times'], ['all']),
        helper.make_node('Slice', ['all', 'a', 'b'], ['chi']),
    ]
    return model_of(
        nodes,
        {'times': np.int64([1, 1, 70, 70, 70]), 'a': np.int64([0] * 5), 'b': np.int64([1, 1, *SHAPE])},
    )


def test_memory_is_bounded(tmp_path):
    with pytest.raises(UserError, match=r'model\.onnx: the network needs more memory than its manifest says'):
        run(tmp_path / 'a', exploding())


def test_a_manifest_does_not_set_its_own_limits(tmp_path):
    tile = {'size': [512, 512, 512], 'margin': 4}
    manifest = read_manifest(write_plugin(tmp_path / 'a', memory=1e6, tile=tile))
    plan = Plan((512,) * 3, (512,) * 3, 4, 0, 1)
    asked = [
        sandbox.request_of(Job(manifest, b'', Machine(most_gb=gb), [], plan, [0, 1])) for gb in (None, 2.0)
    ]
    there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert [one['bytes'] for one in asked] == [there, 2e9]
    assert asked[0]['seconds'] == 2 * sandbox.SECONDS  # of a tile


def test_time_is_bounded(tmp_path):
    with pytest.raises(UserError, match=r'took longer than 0 s \(1 tiles\) and was ended'):
        run(tmp_path / 'a', machine=Machine(seconds=0.05))


def test_the_process_itself_refuses_hostile_models(tmp_path):
    model = identity()
    model.graph.initializer[0].external_data.add(key='location', value='/etc/passwd')
    with pytest.raises(UserError, match=r"model\.onnx: the tensor 'w' lies in another file"):
        run(tmp_path / 'a', model)


@pytest.mark.parametrize(
    ('code', 'says'),
    [
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', r'crashed \(SIGSEGV\)'),
        ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', 'took too much time or memory'),
        ('raise SystemExit("out of order")', r'ended with status 1 \(out of order\)'),
        ('print("{}")', 'ended with status 0'),
        ('print("nonsense")', 'the model is not usable'),
    ],
)
def test_an_end_without_an_answer_is_one_sentence(tmp_path, monkeypatch, code, says):
    monkeypatch.setattr(
        sandbox, 'WORDS', (sys.executable, '-c', f'import sys; sys.stdin.buffer.read(); {code}')
    )
    with pytest.raises(UserError, match=says) as error:
        run(tmp_path / 'a')
    assert '\n' not in str(error.value)


def test_the_process_gets_no_secrets(monkeypatch):
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    found = sandbox._environment(Machine())
    assert 'secret' not in found.values()
    assert 'HOME' not in found
    assert found['CUDA_VISIBLE_DEVICES'] == '1'


def test_missing_packages_are_said(monkeypatch):
    require_onnx('--inversion onnx:little')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxruntime: run `pip install 'bids_qsm\[ai\]'`"):
        require_onnx('--inversion onnx:little')


def test_a_gpu_that_onnxruntime_lacks_is_said():
    with pytest.raises(UserError, match='needs onnxruntime-gpu'):
        require_onnx('--inversion onnx:little', Machine('cuda'))
