"""Small plug-ins that tests write: graphs of a few nodes, with a manifest that is right."""

import hashlib
import io
import json

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bids_qsm.plugins.network import full_dipole
from bids_qsm.recon.grid import Grid

AXES = ('x', 'y', 'z')


def weights(rng, *shape):
    scale = np.sqrt(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / scale).astype(np.float32)


def model_of(nodes, tensors, *, inputs=None, output=('chi', 1), opset=18, sizes=AXES, **others):
    """A model of ``nodes`` with the weights ``tensors`` (name -> array); inputs are name -> channels."""
    ports = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, [1, 3] if channels is None else [1, channels, *sizes]
        )
        for name, channels in (inputs or {'field': 1}).items()
    ]
    out = helper.make_tensor_value_info(output[0], TensorProto.FLOAT, [1, output[1], *AXES])
    graph = helper.make_graph(
        nodes, 'little', ports, [out], [numpy_helper.from_array(a, name) for name, a in tensors.items()]
    )
    imports = others.pop('imports', [helper.make_opsetid('', opset)])
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **others)


def linear(kernel, **others):
    """One convolution with ``kernel``, of odd sizes."""
    pads = [n // 2 for n in kernel.shape] * 2
    node = helper.make_node('Conv', ['field', 'w'], ['chi'], pads=pads)
    return model_of([node], {'w': kernel[None, None].astype(np.float32)}, **others)


def identity(**others):
    return linear(np.ones((1, 1, 1)), **others)


def net(rng, *, channels=1, width=4, name='field', others=()):
    """A U-Net with one level: 3x3x3 convolutions, pooling by 2, and a skip."""
    tensors, nodes = {}, []

    def conv(source, target, n_in, n_out, *, active=True):
        tensors[f'w_{target}'], tensors[f'b_{target}'] = (
            weights(rng, n_out, n_in, 3, 3, 3),
            weights(rng, n_out, 1)[:, 0],
        )
        made = f'{target}_raw' if active else target
        nodes.append(helper.make_node('Conv', [source, f'w_{target}', f'b_{target}'], [made], pads=[1] * 6))
        if active:
            nodes.append(helper.make_node('Relu', [made], [target]))

    joined = name
    if others:
        nodes.append(helper.make_node('Concat', [name, *others], ['joined'], axis=1))
        joined = 'joined'
    conv(joined, 'a', channels + len(others), width)
    nodes.append(helper.make_node('MaxPool', ['a'], ['pooled'], kernel_shape=[2] * 3, strides=[2] * 3))
    conv('pooled', 'b', width, width)
    tensors['scales'] = np.float32([1, 1, 2, 2, 2])
    nodes.append(
        helper.make_node(
            'Resize',
            ['b', '', 'scales'],
            ['wide'],
            mode='nearest',
            nearest_mode='floor',
            coordinate_transformation_mode='asymmetric',
        )
    )
    nodes.append(helper.make_node('Concat', ['a', 'wide'], ['both'], axis=1))
    conv('both', 'chi', 2 * width, 1, active=False)
    ports = {name: channels, **dict.fromkeys(others, 1)}
    return model_of(nodes, tensors, inputs=ports)


RELAXIVITY = 137.0
"""Of both sources in `separator` (1/s/ppm)."""


def separator(scale=1.0):
    """Two equations a voxel, as a convolution of chi (ppm) and R2' (1/s); both sources are positive."""
    matrix = scale / 2 * np.float32([[1, 1 / RELAXIVITY], [-1, 1 / RELAXIVITY]])
    node = helper.make_node('Conv', ['maps', 'w'], ['sources'])
    return model_of([node], {'w': matrix[..., None, None, None]}, inputs={'maps': 2}, output=('sources', 2))


OF_SOURCES = {
    'step': 'separation',
    'inputs': [
        {
            'tensor': 'maps',
            'channels': [{'data': 'chi', 'unit': 'ppm'}, {'data': 'r2prime', 'unit': '1/s'}],
        }
    ],
    'output': {
        'tensor': 'sources',
        'channels': [
            {'data': 'paramagnetic', 'unit': 'ppm'},
            {'data': 'diamagnetic', 'unit': 'ppm', 'sign': -1},
        ],
    },
}
"""What the manifest of `separator` says."""


REACH = 6
"""How far `net` sees at most: 1 + 1, pooling (1), and 2 in pooled voxels (2), and 1 at the end."""


def manifest(**changes):
    """A manifest of one channel of the local field in ppm, without hashes."""
    return {
        'format': 1,
        'name': 'little',
        'version': '1.0',
        'licence': 'CC0-1.0',
        'citation': 'Nobody (2026), no paper',
        'step': 'inversion',
        'model': {'file': 'model.onnx'},
        'inputs': [{'tensor': 'field', 'channels': [{'data': 'field', 'unit': 'ppm'}]}],
        'output': {'tensor': 'chi', 'unit': 'ppm'},
        'axes': 'XYZ',
        'voxel_size': {'policy': 'any'},
        'b0': 'any',
        'tile': {'size': None, 'margin': 0},
        'memory': 1000,
        'training': {'field_strength': [1.5, 7], 'voxel_size': [0.5, 3]},
        **changes,
    }


def write_plugin(folder, model=None, *, golden=(8, 8, 8), seed=3, **changes):
    """Write a plug-in; its golden output is what onnxruntime makes of noise that the manifest scales."""
    folder.mkdir(parents=True, exist_ok=True)
    content = (identity() if model is None else model).SerializeToString()
    (folder / 'model.onnx').write_bytes(content)
    said = manifest(**changes)
    said['model']['sha256'] = hashlib.sha256(content).hexdigest()
    if 'golden' not in said:
        said['golden'] = _golden(folder, content, said, golden, np.random.default_rng(seed))
    (folder / 'manifest.json').write_text(json.dumps(said))
    return folder


def _golden(folder, content, said, shape, rng):
    data, feed = {}, {}
    order = ['XYZ'.index(axis) for axis in said['axes']]
    for tensor in said['inputs']:
        parts = []
        for channel in tensor['channels']:
            if channel['data'] == 'b0':
                feed[tensor['tensor']] = np.float32([[0, 0, 1]])[:, order]
                continue
            if channel['data'] == 'dipole':
                parts.append(full_dipole(shape, Grid(shape)))
                continue
            if channel['data'] == 'mask':
                parts.append(np.ones(shape, np.float32))
                continue
            image = data.setdefault(channel['data'], 0.05 * rng.standard_normal(shape, np.float32))
            scale = channel.get('normalise', {})
            if scale == 'volume':
                scale = {'mean': image.mean(), 'sd': image.std()}
            elif scale == 'p99':
                scale = {'sd': np.percentile(image, 99)}
            parts.append((image - scale.get('mean', 0)) / scale.get('sd', 1))
        if parts:
            feed[tensor['tensor']] = np.stack([part.transpose(order) for part in parts])[None].astype(
                np.float32
            )
    (out,) = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider']).run(None, feed)
    made = []
    for image, channel in zip(out[0], said['output'].get('channels', [said['output']]), strict=True):
        scale = channel.get('scale', {})
        if scale == 'as field':
            scale = {'sd': data['field'].std()}
        made.append(image.transpose(np.argsort(order)) * scale.get('sd', 1) + scale.get('mean', 0))
    out = np.stack(made) if len(made) > 1 else made[0]
    return {
        'data': {name: save(folder, f'golden_{name}.npy', image) for name, image in data.items()},
        'output': save(folder, 'golden_output.npy', out),
    }


def save(folder, name, image):
    """Write an array; return its entry in a manifest."""
    stream = io.BytesIO()
    np.save(stream, image.astype(np.float32))
    (folder / name).write_bytes(stream.getvalue())
    return {'file': name, 'sha256': hashlib.sha256(stream.getvalue()).hexdigest()}
