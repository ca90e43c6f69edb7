import hashlib
import io
import json

import numpy as np
import pytest
from onnx import helper
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.plugins.check import check_golden, check_plugin
from bids_qsm.plugins.frame import frame_of
from bids_qsm.plugins.manifest import read_manifest
from bids_qsm.plugins.network import STARTS, apply, full_dipole
from bids_qsm.plugins.sandbox import Machine
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import call
from tests.plugins.little import (
    OF_SOURCES,
    REACH,
    RELAXIVITY,
    identity,
    linear,
    model_of,
    net,
    save,
    separator,
    write_plugin,
)

pytestmark = pytest.mark.usefixtures('here')
SHAPE = (22, 26, 18)
TILE = {'size': [20, 20, 20], 'margin': REACH, 'multiple': 2, 'blend': 2}


def ball(shape=SHAPE, radius=7.5, voxel=(1, 1, 1)):
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing='ij')
    return x**2 + y**2 + z**2 < radius**2, (x, y, z)


@pytest.fixture
def scene():
    mask, _ = ball()
    rng = np.random.default_rng(0)
    field = np.where(mask, 0.05 * rng.standard_normal(SHAPE), 0).astype(np.float32)
    noise = np.full(SHAPE, 0.002, np.float32)
    return {'field': field, 'mask': mask, 'noise': noise, 'grid': Grid(SHAPE), 'field_strength': 3.0}


def run(folder, data):
    manifest = read_manifest(folder)
    return apply(manifest, manifest.read_model(), data, Machine())


def channel(**about):
    return [{'tensor': 'field', 'channels': [{'data': 'field', 'unit': 'ppm', **about}]}]


def test_identity_returns_the_field_and_a_record(tmp_path, scene):
    found = run(write_plugin(tmp_path / 'a'), scene)
    np.testing.assert_allclose(found.values, scene['field'], atol=1e-7)
    said = found.record
    assert (said['Name'], said['Tiles'], said['Flags']) == ('little', 1, [])
    assert said['SHA256'] == read_manifest(tmp_path / 'a').model.sha256
    assert said['Provider'] == 'CPUExecutionProvider'


def test_tiles_equal_the_whole_volume(tmp_path, scene):
    model = net(np.random.default_rng(1))
    whole = run(
        write_plugin(tmp_path / 'w', model, tile={'size': None, 'margin': REACH, 'multiple': 2}), scene
    )
    parts = run(write_plugin(tmp_path / 't', model, tile=TILE), scene)
    assert whole.record['Tiles'] == 1 < parts.record['Tiles']
    largest = np.abs(whole.values).max()
    assert np.abs(parts.values - whole.values).max() < 1e-4 * largest
    # with too small a margin they are not
    seams = run(write_plugin(tmp_path / 's', model, tile={**TILE, 'margin': 1}), scene)
    assert np.abs(seams.values - whole.values).max() > 1e-3 * largest


@pytest.mark.parametrize(
    ('about', 'factor'),
    [
        ({'unit': 'Hz'}, 127.7321 / 0.05),
        ({'unit': 'rad', 'echo_time': 0.02}, 2 * np.pi * 127.7321 * 0.02 / 0.05),
        ({'unit': 'ppm', 'sign': -1}, -20),
    ],
)
def test_units_signs_and_constants_are_those_of_the_manifest(tmp_path, scene, about, factor):
    inputs = channel(**about, normalise={'mean': 0, 'sd': 0.05})
    folder = write_plugin(tmp_path / 'a', inputs=inputs, output={'tensor': 'chi', 'unit': 'ppb'})
    np.testing.assert_allclose(run(folder, scene).values, factor * scene['field'] / 1e3, rtol=1e-4, atol=1e-6)
    if 'Hz' in about.values():
        with pytest.raises(UserError, match='add MagneticFieldStrength'):
            run(folder, {**scene, 'field_strength': None})


def test_phase_is_wrapped_where_the_manifest_says_so(tmp_path, scene):
    inputs = channel(unit='rad', echo_time=0.02, wrapped=True)
    folder = write_plugin(tmp_path / 'a', inputs=inputs, step='onestep')
    total = 4 * scene['field']
    phase = 2 * np.pi * 127.7321 * 0.02 * total
    assert np.abs(phase).max() > np.pi
    found = run(folder, {**scene, 'total': total}).values
    np.testing.assert_allclose(found, np.angle(np.exp(1j * phase)), atol=1e-4)


def test_golden_phase_is_taken_as_it_is_stored(tmp_path):
    """The identity gives +pi back, which wrapping would turn into -pi."""
    inputs = channel(unit='rad', echo_time=0.02, wrapped=True)
    folder = write_plugin(tmp_path / 'a', inputs=inputs, step='onestep')
    said = json.loads((folder / 'manifest.json').read_text())
    phase = np.full((8, 8, 8), np.pi)
    for values, fault in ((phase, ''), (1.01 * phase, 'the golden field has values beyond -pi to pi')):
        for name, entry in (('field', said['golden']['data']), ('output', said['golden'])):
            entry[name] = save(folder, f'{name}.npy', values)
        (folder / 'manifest.json').write_text(json.dumps(said))
        if fault:
            with pytest.raises(UserError, match=fault):
                check_golden(*_read(folder), Machine())
        else:
            assert check_golden(*_read(folder), Machine()) < 1e-6


def test_both_sources_have_their_units_and_signs(tmp_path, scene):
    rng = np.random.default_rng(2)
    rate = (8 * rng.random(SHAPE) * scene['mask']).astype(np.float32)
    data = {'chi': scene['field'], 'r2prime': rate, 'mask': scene['mask'], 'grid': scene['grid']}
    para = (data['chi'] + rate / RELAXIVITY) / 2
    channels = [dict(one) for one in OF_SOURCES['output']['channels']]
    channels[1] |= {'unit': 'ppb', 'scale': {'mean': 0, 'sd': 1e3}}
    said = {**OF_SOURCES, 'output': {**OF_SOURCES['output'], 'channels': channels}}
    tile = {'size': [12, 12, 12], 'margin': 0, 'blend': 2}
    folder = write_plugin(tmp_path / 'a', separator(), **said, tile=tile, axes='ZXY', b0='axial')
    found = run(folder, {**data, 'grid': Grid(SHAPE, b0_dir=(0, 1, 0))})
    assert found.record['Tiles'] > 1
    np.testing.assert_allclose(found.values, [para, data['chi'] - para], atol=1e-6)
    check_golden(*_read(folder), Machine())
    report = check_plugin(folder)
    assert 'No fault was found.' in str(report)
    # another order of sources is another golden output
    said = json.loads((folder / 'manifest.json').read_text())
    said['golden']['output'] = save(folder, 'other.npy', np.zeros((3, 8, 8, 8)))
    (folder / 'manifest.json').write_text(json.dumps(said))
    with pytest.raises(UserError, match='the golden output has 3 channels along its first axis'):
        check_golden(*_read(folder), Machine())


def test_relaxation_beyond_the_training_is_flagged(tmp_path, scene):
    training = {'field_strength': [3, 3], 'voxel_size': [1, 1], 'r2prime': [0, 20], 'chi': [-1, 1]}
    folder = write_plugin(tmp_path / 'a', separator(), **OF_SOURCES, training=training)
    rate = np.full(SHAPE, 30, np.float32)
    found = run(folder, {**scene, 'chi': scene['field'], 'r2prime': rate})
    assert found.record['Flags'] == [
        "100% of the voxels have an R2' outside 0 to 20 1/s, the range of its training."
    ]


def _read(folder):
    manifest = read_manifest(folder)
    return manifest, manifest.read_model()


def test_each_volume_is_normalised_and_scaled_back(tmp_path, scene):
    folder = write_plugin(
        tmp_path / 'a',
        inputs=channel(normalise='volume'),
        output={'tensor': 'chi', 'unit': 'ppm', 'scale': 'as field'},
    )
    mean = scene['field'][scene['mask']].mean()
    np.testing.assert_allclose(run(folder, scene).values, (scene['field'] - mean) * scene['mask'], atol=1e-6)


def test_the_order_of_axes_is_that_of_the_manifest(tmp_path, scene):
    kernel = np.zeros((3, 1, 1))
    kernel[0] = 1  # each voxel gets the one before it on the first axis of the network
    ahead = run(
        write_plugin(tmp_path / 'a', linear(kernel), axes='ZXY', tile={'size': None, 'margin': 1}), scene
    )
    expected = np.roll(scene['field'], 1, axis=2) * scene['mask']
    np.testing.assert_allclose(ahead.values, expected, atol=1e-7)


def curvature():
    """A linear network that knows that B0 is its third axis: the second derivative along it."""
    kernel = np.zeros((1, 1, 3))
    kernel[0, 0] = 1, -2, 1
    return linear(kernel)


@pytest.mark.parametrize(
    ('b0', 'voxel', 'wanted', 'tolerance'),
    [
        ((0, 0, 1), (1, 1, 1), None, 1e-3),
        ((0, 0, -1), (1, 1, 1), None, 1e-3),
        ((0, -1, 0), (1, 1, 1), None, 1e-3),
        ((0, 0.5, np.sqrt(0.75)), (1, 1, 1), None, 0.03),
        ((0.3, -0.8, 0.52), (1, 1, 1), None, 0.03),
        ((0, 0, 1), (1, 1.25, 0.8), (1.0, 1.0, 1.0), 0.03),
        ((0.4, 0, 0.917), (0.8, 1, 1.2), (1.0, 1.0, 1.0), 0.03),
    ],
    ids=['axial', 'upside down', 'sagittal', 'oblique', 'steep', 'resampled', 'both'],
)
def test_b0_and_voxel_size_are_those_of_the_training(tmp_path, b0, voxel, wanted, tolerance):
    b0 = np.array(b0) / np.linalg.norm(b0)
    shape = (40, 38, 36)
    mask, places = ball(shape, 13, voxel)
    inner, _ = ball(shape, 9, voxel)
    width = 5.0
    field = np.exp(-sum(p**2 for p in places) / (2 * width**2)).astype(np.float32)
    along = sum(b * p for b, p in zip(b0, places, strict=True))
    curved = ((along / width**2) ** 2 - 1 / width**2) * field
    policy = {'policy': 'resample', 'mm': list(wanted)} if wanted else {'policy': 'any'}
    folder = write_plugin(
        tmp_path / 'a', curvature(), b0='axial', voxel_size=policy, tile={'size': None, 'margin': 1}
    )
    found = run(
        folder,
        {'field': field * mask, 'mask': mask, 'grid': Grid(shape, voxel, tuple(b0)), 'field_strength': 3.0},
    )
    assert not found.values[~mask].any()
    # the network's differences over 1 mm differ from derivatives by 2 %
    assert np.abs(found.values - curved)[inner].max() < (0.02 + tolerance) * np.abs(curved).max()
    assert ('ResampledTo' in found.record) == (tolerance > 0.01)


def test_there_and_back_is_the_same_image(tmp_path):
    b0 = (0.0, 0.6, 0.8)
    mask, places = ball((40, 40, 40), 14)
    image = np.cos(places[0] / 4) * np.sin(places[1] / 5 + places[2] / 6)
    manifest = read_manifest(
        write_plugin(tmp_path / 'a', b0='axial', voxel_size={'policy': 'resample', 'mm': [1, 1, 1.1]})
    )
    frame = frame_of(manifest, Grid(mask.shape, (1, 1, 1), b0), mask, 2)
    inside = frame.mask_into(mask)
    back = frame.out(frame.into(image, mask), inside, mask)
    inner, _ = ball((40, 40, 40), 11)
    assert np.abs(back - image)[inner].max() < 0.01
    assert inside.sum() == pytest.approx(mask.sum() / 1.1, rel=0.02)


def test_the_vector_and_the_kernel_of_b0_are_inputs(tmp_path, scene):
    b0 = (0.0, 0.6, 0.8)
    data = {**scene, 'grid': Grid(SHAPE, (1, 1, 1), b0)}
    # the field times the second component of B0
    nodes = [
        helper.make_node('Slice', ['b', 'from', 'to', 'axis'], ['y']),
        helper.make_node('Reshape', ['y', 'form'], ['factor']),
        helper.make_node('Mul', ['field', 'factor'], ['chi']),
    ]
    tensors = {
        'from': np.array([1]),
        'to': np.array([2]),
        'axis': np.array([1]),
        'form': np.ones(5, np.int64),
    }
    inputs = [*channel(), {'tensor': 'b', 'channels': [{'data': 'b0'}]}]
    model = model_of(nodes, tensors, inputs={'field': 1, 'b': None})
    found = run(write_plugin(tmp_path / 'v', model, b0='vector', inputs=inputs), data)
    np.testing.assert_allclose(found.values, 0.6 * scene['field'], atol=1e-6)
    inputs = [{'tensor': 'both', 'channels': [{'data': 'field', 'unit': 'ppm'}, {'data': 'dipole'}]}]
    model = model_of(
        [helper.make_node('ReduceSum', ['both', 'axes'], ['chi'], keepdims=1)],
        {'axes': np.array([1])},
        inputs={'both': 2},
    )
    folder = write_plugin(tmp_path / 'k', model, b0='kernel', inputs=inputs)
    frame = frame_of(read_manifest(folder), data['grid'], data['mask'], 0)
    kernel = full_dipole(frame.grid.shape, frame.grid)
    inside = frame.mask_into(data['mask'])
    expected = data['field'] + frame.out(kernel * inside, inside, data['mask'])
    np.testing.assert_allclose(run(folder, data).values, expected, atol=1e-6)
    kernel = full_dipole(SHAPE, data['grid'])
    wave = np.random.default_rng(0).standard_normal(SHAPE)
    half = dipole_kernel(SHAPE, (1, 1, 1), b0)
    np.testing.assert_allclose(
        np.fft.ifftn(kernel * np.fft.fftn(wave)).real, convolve(wave.astype(np.float32), half), atol=1e-5
    )


def shrinking(name='x'):
    """A network that multiplies by 0.8."""
    node = helper.make_node('Mul', [name, 'w'], ['chi'])
    return model_of([node], {'w': np.float32([0.8]).reshape(1, 1, 1, 1, 1)}, inputs={name: 1})


@pytest.mark.parametrize(('weights', 'damping', 'start'), [('mask', 0, 'zero'), ('noise', 0.05, 'tv')])
def test_unrolled_networks_equal_our_own_loop(tmp_path, scene, weights, damping, start):
    scene['noise'] = scene['noise'] * np.linspace(1, 3, SHAPE[0], dtype=np.float32)[:, None, None]
    folder = write_plugin(
        tmp_path / 'a',
        shrinking(),
        inputs=[{'tensor': 'x', 'channels': [{'data': 'x', 'unit': 'ppm'}]}],
        unrolled={
            'iterations': 4,
            'step_size': 1.5,
            'weights': weights,
            'damping': damping,
            'start': start,
        },
        training={'field_strength': [3, 3], 'voxel_size': [1, 1], 'field': [-0.01, 0.01]},
    )
    found = run(folder, scene)
    mask, field = scene['mask'], scene['field']
    share = np.median(scene['noise'][mask]) / np.maximum(scene['noise'], np.median(scene['noise'][mask]))
    weight = mask * (share**2 if weights == 'noise' else 1)
    box = Box.around(mask, scene['grid'], padding=16)
    dipole = dipole_kernel(box.shape, (1, 1, 1), (0, 0, 1))
    back = dipole / (dipole**2 + damping) if damping else dipole
    x = call(INVERSION['tv'], scene, STARTS['tv']) if start == 'tv' else np.zeros(SHAPE, np.float32)
    for _ in range(4):
        misfit = weight * (box.uncrop(convolve(box.crop(x), dipole)) - field)
        x = 0.8 * mask * (x - 1.5 * mask * box.uncrop(convolve(box.crop(misfit.astype(np.float32)), back)))
    np.testing.assert_allclose(found.values, x, atol=1e-6)
    assert np.abs(x).max() > 0.01
    (flag,) = found.record['Flags']
    assert 'have a field outside -0.01 to 0.01 ppm' in flag


def test_unrolled_networks_may_take_the_gradient(tmp_path, scene):
    nodes = [
        helper.make_node('Mul', ['gradient', 'w'], ['step']),
        helper.make_node('Sub', ['x', 'step'], ['all']),
        helper.make_node('Mul', ['all', 'v'], ['chi']),
    ]
    one = (1, 1, 1, 1, 1)
    tensors = {'w': np.float32([1.5]).reshape(one), 'v': np.float32([0.8]).reshape(one)}
    both = ('x', 'gradient')
    inputs = [{'tensor': name, 'channels': [{'data': name, 'unit': 'ppm'}]} for name in both]
    model = model_of(nodes, tensors, inputs=dict.fromkeys(both, 1))
    how = {'iterations': 3, 'step_size': 1.5, 'start': 'tkd'}
    own = run(write_plugin(tmp_path / 'g', model, inputs=inputs, unrolled=how), scene)
    x = [{'tensor': 'x', 'channels': [{'data': 'x', 'unit': 'ppm'}]}]
    plain = run(write_plugin(tmp_path / 'x', shrinking(), inputs=x, unrolled=how), scene)
    np.testing.assert_allclose(own.values, plain.values, atol=1e-6)


def test_images_are_0_outside_the_mask_whatever_their_constants(tmp_path, scene):
    """A network that gives the mean of what it gets."""
    inputs = [
        *channel(),
        {'tensor': 'm', 'channels': [{'data': 'magnitude', 'normalise': {'mean': 2, 'sd': 1}}]},
    ]
    nodes = [
        helper.make_node('Pad', ['m', 'pads'], ['wide']),
        helper.make_node('AveragePool', ['wide'], ['mean'], kernel_shape=[3] * 3, count_include_pad=1),
        helper.make_node('Mul', ['field', 'zero'], ['none']),
        helper.make_node('Add', ['none', 'mean'], ['chi']),
    ]
    tensors = {'pads': np.int64([0, 0, 1, 1, 1] * 2), 'zero': np.zeros((1,) * 5, np.float32)}
    model = model_of(nodes, tensors, inputs={'field': 1, 'm': 1})
    found = run(
        write_plugin(tmp_path / 'a', model, inputs=inputs), {**scene, 'magnitude': 3.0 * scene['mask']}
    )
    expected = ndimage.uniform_filter(scene['mask'].astype(float), 3, mode='constant')
    np.testing.assert_allclose(found.values, expected * scene['mask'], atol=1e-6)


def test_the_vector_of_b0_has_the_order_of_the_axes(tmp_path, scene):
    """A network that gives the component of B0 along its first axis."""
    nodes = [
        helper.make_node('Gather', ['b', 'first'], ['one'], axis=1),
        helper.make_node('Reshape', ['one', 'shape'], ['part']),
        helper.make_node('Mul', ['field', 'zero'], ['none']),
        helper.make_node('Add', ['none', 'part'], ['chi']),
    ]
    tensors = {
        'first': np.int64([0]), 'shape': np.int64([1] * 5), 'zero': np.zeros((1,) * 5, np.float32)
    }  # fmt: skip
    model = model_of(nodes, tensors, inputs={'field': 1, 'b': None})
    inputs = [*channel(), {'tensor': 'b', 'channels': [{'data': 'b0'}]}]
    data = {**scene, 'grid': Grid(SHAPE, (1, 1, 1), (0.0, 0.6, 0.8))}
    for axes, part in (('XYZ', 0.0), ('YXZ', 0.6), ('ZYX', 0.8)):
        found = run(write_plugin(tmp_path / axes, model, b0='vector', inputs=inputs, axes=axes), data)
        np.testing.assert_allclose(found.values[scene['mask']], part, atol=1e-6)


def test_masks_are_above_the_threshold(tmp_path):
    mask, _ = ball()
    magnitude = np.where(mask, 4, 0.5).astype(np.float32)[..., None] * np.float32([1, 0.5])
    folder = write_plugin(
        tmp_path / 'a',
        step='mask',
        inputs=[{'tensor': 'field', 'channels': [{'data': 'magnitude', 'normalise': 'p99'}]}],
        output={'tensor': 'chi', 'unit': 'probability', 'threshold': 0.4},
    )
    found = run(folder, {'magnitude': magnitude, 'quality': mask, 'grid': Grid(SHAPE)})
    np.testing.assert_array_equal(found.values, mask)


def test_what_is_far_from_the_training_is_flagged(tmp_path, scene):
    near = {
        'field_strength': [3, 3],
        'voxel_size': [1, 1],
        'field': [-1, 1],
        'residual': 10,
        'b0_angle': [0, 5],
    }
    assert run(write_plugin(tmp_path / 'near', training=near), scene).record['Flags'] == []
    far = {'field_strength': [7, 7], 'voxel_size': [0.6, 0.8], 'field': [-0.01, 0.01], 'residual': 0.1}
    flags = run(write_plugin(tmp_path / 'far', training={**far, 'b0_angle': [30, 90]}), scene).record['Flags']
    said = (
        'voxels are 1 x 1 x 1 mm',
        'field strength is 3 T',
        'B0 is 0°',
        'have a field outside',
        'differs from the',
    )
    (unknown,) = run(tmp_path / 'near', {**scene, 'field_strength': None}).record['Flags']
    assert unknown == 'The field strength is not known, that of its training is 3 T.'
    assert len(flags) == len(said)
    assert all(part in flag for part, flag in zip(said, flags, strict=True))


def test_data_that_a_series_lacks_are_named(tmp_path, scene):
    inputs = [
        {'tensor': 'field', 'channels': [{'data': 'field', 'unit': 'ppm'}, {'data': 'r2star', 'unit': '1/s'}]}
    ]
    nodes = [helper.make_node('ReduceSum', ['field', 'axes'], ['chi'], keepdims=1)]
    model = model_of(nodes, {'axes': np.array([1])}, inputs={'field': 2})
    with pytest.raises(UserError, match=r'little 1\.0 needs r2star'):
        run(write_plugin(tmp_path / 'a', model, inputs=inputs), {**scene, 'r2star': None})


def test_values_that_are_not_finite_are_refused(tmp_path, scene):
    node = helper.make_node('Log', ['field'], ['chi'])
    folder = write_plugin(tmp_path / 'a', model_of([node], {}))
    with pytest.raises(UserError, match='values that are not finite'):
        run(folder, scene)


def test_images_of_another_shape_are_refused(tmp_path, scene):
    node = helper.make_node('Concat', ['field', 'field'], ['chi'], axis=4)
    folder = write_plugin(tmp_path / 'a', model_of([node], {}))
    with pytest.raises(UserError, match='gives an image of shape'):
        run(folder, scene)


def test_another_golden_output_is_told(tmp_path):
    folder = write_plugin(tmp_path / 'a')
    path = folder / 'manifest.json'
    content = json.loads(path.read_text())
    content['output']['scale'] = {'mean': 0, 'sd': 1.01}
    path.write_text(json.dumps(content))
    (fault,) = check_plugin(folder).faults
    assert 'differs by 0.01 of the largest value, and 0.0001 is allowed' in fault


def test_golden_arrays_hold_numbers_alone(tmp_path):
    folder = write_plugin(tmp_path / 'a')
    manifest = read_manifest(folder)
    path = folder / 'manifest.json'
    for content in (b'\x80\x04cposix\nsystem\n', _objects(), *HEADERS):
        (folder / 'golden_output.npy').write_bytes(content)
        said = json.loads(path.read_text())
        said['golden']['output']['sha256'] = hashlib.sha256(content).hexdigest()
        path.write_text(json.dumps(said))
        manifest = read_manifest(folder)
        with pytest.raises(UserError, match=r'golden_output\.npy is not an array of numbers'):
            check_golden(manifest, manifest.read_model(), Machine())


def _header(text):
    line = text.encode() + b' ' * 60 + b'\n'
    return b'\x93NUMPY\x01\x00' + len(line).to_bytes(2, 'little') + line + bytes(64)


HEADERS = [
    _header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000, 100000)}"),
    _header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + '9' * 400 + ', 1, 1)}'),
    _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, -1)}"),
    _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 2)}"),
    _header("{'descr': 'O', 'fortran_order': False, 'shape': (2, 2, 2)}"),
    _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 1)"),
    _header('(' * 3000 + ')' * 3000),
    _header('"'),
]
"""Of arrays of other sizes than the 64 bytes that follow, and what no header is."""


def _objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{}, {}], object))
    return stream.getvalue()


def test_check_finds_margins_that_are_too_small(tmp_path):
    model = net(np.random.default_rng(0))
    sound = check_plugin(write_plugin(tmp_path / 'a', model, tile={**TILE, 'size': [24, 24, 24]}))
    assert sound.faults == ()
    assert 'No fault was found.' in str(sound)
    report = check_plugin(write_plugin(tmp_path / 'b', model, tile={**TILE, 'margin': 2}))
    assert 'tile.margin is 2, but the network sees further' in report.faults[0]
    fixed = check_plugin(write_plugin(tmp_path / 'c', identity(sizes=(8, 8, 8))))
    assert "the model fixes the sizes (8, 8, 8) of 'field'; state them as tile.size" in fixed.faults[0]


def test_noise_of_voxels_without_signal_does_not_ring_where_it_is_turned(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    noise = np.full(SHAPE, 0.001, np.float32)
    noise[tuple(n // 2 for n in SHAPE)] = 1000
    grid = Grid(SHAPE, b0_dir=(0.0, 0.6, 0.8))
    both = [{'tensor': 'x', 'channels': [{'data': name, 'unit': 'ppm'} for name in ('x', 'noise')]}]
    # the smaller of susceptibility, which is 0, and of the noise
    nodes = [helper.make_node('ReduceMin', ['x', 'axes'], ['chi'], keepdims=1)]
    model = model_of(nodes, {'axes': np.array([1])}, inputs={'x': 2})
    how = {'iterations': 1, 'step_size': 1}
    folder = write_plugin(tmp_path / 'a', model, inputs=both, b0='axial', unrolled=how)
    data = {'field': np.zeros(SHAPE, np.float32), 'mask': mask, 'noise': noise, 'grid': grid}
    np.testing.assert_array_equal(run(folder, data).values, 0)
