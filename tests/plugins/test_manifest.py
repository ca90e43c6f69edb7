import json
import os
from functools import partial

import pytest

from bids_qsm.errors import UserError
from bids_qsm.plugins.manifest import LARGEST_MANIFEST, examine, read_bytes, read_manifest
from tests.plugins.little import OF_SOURCES, separator, write_plugin


@pytest.fixture
def plugin(tmp_path):
    return write_plugin(tmp_path / 'little')


def changed(folder, change):
    """Change the manifest of a plug-in; ``change`` is a function of its content."""
    path = folder / 'manifest.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def drop(key):
    return lambda content: content.pop(key)


def test_a_right_manifest_is_read(plugin):
    manifest, faults = examine(plugin)
    assert faults == []
    assert (manifest.title, manifest.step, manifest.data) == ('little 1.0', 'inversion', ('field',))
    assert manifest.tile.size is None
    assert manifest.read_model() == (plugin / 'model.onnx').read_bytes()


CHANNEL = partial(put, 'inputs', 0, 'channels', 0)
TILE = {'size': [32, 32, 32], 'margin': 4, 'multiple': 8}


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (drop('licence'), 'licence is missing; give the licence of the network'),
        (put('format', value=2), 'format is 2; it must be 1'),
        (put('name', value='../x'), r'name is "../x"; it must be a name of at most 40'),
        (put('citation', value='Me [@tkd]'), 'citation is'),
        (put('citation', value='Me\n<b>'), 'citation is'),
        (put('step', value='unwrap'), 'step is "unwrap"; it must be one of: inversion, onestep'),
        (
            put('model', 'file', value='../model.onnx'),
            'model.file is "../model.onnx"; it must be the plain name',
        ),
        (put('model', 'file', value='/etc/passwd'), 'model.file is "/etc/passwd"'),
        (put('model', 'sha256', value='AB'), 'model.sha256 is "AB"; it must be the SHA-256'),
        (put('model', value='model.onnx'), 'model must be an object'),
        (put('inputs', value=[]), r'inputs is \[\]; it must be a list of 1 to 16'),
        (CHANNEL('data', value='t1w'), 'it must be what the step inversion has: field, mask'),
        (CHANNEL('data', value='x'), 'it must be what the step inversion has'),
        (CHANNEL('unit', value='T'), 'unit is "T"; it must be one of: ppm, Hz, rad'),
        (CHANNEL('unit', value='rad'), 'echo_time is missing'),
        (CHANNEL('echo_time', value=0.02), r'echo_time is 0.02; .* and only of that'),
        (CHANNEL('sign', value=0), 'sign is 0; it must be 1'),
        (CHANNEL('normalise', value={'mean': 0, 'sd': 0}), 'normalise.sd is 0; it must be a positive number'),
        (CHANNEL('normalise', value='minmax'), 'normalise is "minmax"; it must be an object'),
        (CHANNEL('extra', value=1), 'extra is not a field of a manifest'),
        (put('output', 'unit', value='Hz'), 'output.unit is "Hz"; it must be one of: ppm, ppb'),
        (put('output', 'threshold', value=0.5), 'only of the step mask'),
        (put('output', 'scale', value='as field'), 'output.scale is "as field", but no "field"'),
        (put('axes', value='XYY'), 'axes is "XYY"'),
        (put('axes', value=3), 'axes is 3'),
        (put('voxel_size', value={'policy': 'resample'}), 'voxel_size.mm is missing'),
        (put('voxel_size', value={'policy': 'any', 'mm': [1, 1, 1]}), 'goes with "policy": "resample" alone'),
        (put('b0', value='vector'), "b0 is 'vector', but 'b0' is not an input"),
        (put('b0', value='tilted'), 'b0 is "tilted"'),
        (put('tile', value={**TILE, 'size': [30, 32, 32]}), 'tile.size has 30; it must be a multiple of 8'),
        (put('tile', value={**TILE, 'margin': 16}), 'at least 2 margins, blend and one multiple: 40'),
        (put('tile', value={**TILE, 'size': [32, 32, 1e9]}), 'tile.size is'),
        (put('memory', value=True), 'memory is true'),
        (put('training', 'field_strength', value=[7, 3]), r'training.field_strength is \[7, 3\]'),
        (
            put('unrolled', value={'iterations': 3, 'step_size': 1}),
            '"data": "x", which an unrolled network improves',
        ),
        (put('unrolled', value={'iterations': 0, 'step_size': 9}), 'unrolled.iterations is 0'),
        (
            put('unrolled', value={'iterations': 1, 'step_size': 1, 'damping': -1}),
            'unrolled.damping is -1; it must be a number, at most 1',
        ),
        (put('golden', 'data', value={}), r'golden.data is \{\}'),
        (put('golden', 'tolerance', value=1), 'golden.tolerance is 1'),
        (put('golden', 'data', 'r2star', value={'file': 'a', 'sha256': 64 * '0'}), 'golden.data has r2star'),
        (drop('golden'), 'golden is missing'),
        (CHANNEL('wrapped', value=True), 'true only of a total field in rad'),
        (put('training', 'residual', value=11), r'training.residual is 11; it must be the largest residual'),
        (put('step', value='separation'), r'output.channels is missing; give a list of 2 channels'),
    ],
)
def test_each_fault_is_one_sentence(plugin, change, says):
    changed(plugin, change)
    with pytest.raises(UserError, match=says) as error:
        read_manifest(plugin)
    assert str(plugin / 'manifest.json') in str(error.value)
    _, faults = examine(plugin)
    assert all(fault.endswith('.') and '\n' not in fault for fault in faults)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (put('inputs', 0, 'channels', 1, value={'data': 'mask'}), '"data": r2prime or r2star, which tells'),
        (put('inputs', 0, 'channels', 0, value={'data': 'mask'}), '"data": "chi" or "field", which is taken'),
        (put('output', 'channels', 0, 'data', value='diamagnetic'), 'as sources stand in this order'),
        (put('output', 'channels', 1, 'unit', value='Hz'), r'output.channels\[1\].unit is "Hz"'),
        (put('training', 'residual', value=0.2), 'relative to the field, and only of the step inversion'),
    ],
)
def test_a_separation_names_both_sources_and_what_tells_them_apart(tmp_path, change, says):
    folder = write_plugin(tmp_path / 'little', separator(), **OF_SOURCES)
    assert examine(folder)[1] == []
    changed(folder, change)
    with pytest.raises(UserError, match=says):
        read_manifest(folder)


def test_all_faults_are_listed(plugin):
    changed(plugin, lambda content: content.update(b0='x', axes='x', memory='x'))
    _, faults = examine(plugin)
    assert len(faults) == 3
    with pytest.raises(UserError, match='2 more faults; bids_qsm plugin check lists them'):
        read_manifest(plugin)


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('{', 'is not valid JSON'),
        ('[]', 'is not a JSON object'),
        ('{"format": NaN}', 'NaN is not a number'),
        ('[' * 100_000, 'is not valid JSON'),
        (' ' * (LARGEST_MANIFEST + 1), 'is larger than'),
        (b'\xff\xfe', 'is not valid JSON'),
    ],
    ids=['cut', 'list', 'nan', 'deep', 'large', 'no text'],
)
def test_what_is_no_manifest_is_refused(plugin, text, says):
    (plugin / 'manifest.json').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        read_manifest(plugin)


def test_no_folder_is_said(tmp_path):
    with pytest.raises(UserError, match='there is no folder'):
        read_manifest(tmp_path / 'none')


def test_another_model_is_refused(plugin):
    with (plugin / 'model.onnx').open('ab') as stream:
        stream.write(b' ')
    with pytest.raises(UserError, match=r'has the SHA-256 .* but the manifest says'):
        read_manifest(plugin).read_model()


def test_links_and_devices_are_not_followed(plugin, tmp_path):
    model = plugin / 'model.onnx'
    model.rename(tmp_path / 'elsewhere.onnx')
    model.symlink_to(tmp_path / 'elsewhere.onnx')
    with pytest.raises(UserError, match='is a link'):
        read_manifest(plugin).read_model()
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(UserError, match='is not a file'):
        read_manifest(plugin).read_model()
    model.unlink()
    with pytest.raises(UserError, match=r'cannot be read \(No such file'):
        read_manifest(plugin).read_model()
    with pytest.raises(UserError, match='plain name'):
        read_bytes(plugin, '../little/manifest.json', 9)


def test_sizes_are_bounded(plugin):
    with pytest.raises(UserError, match='the most that is read'):
        read_bytes(plugin, 'model.onnx', 10)
