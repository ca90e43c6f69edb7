"""Hostile and broken models are refused, each in one sentence, before onnxruntime sees them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bids_qsm.errors import UserError
from bids_qsm.plugins import graphs, worker
from tests.plugins.little import identity, linear, model_of

ONE = np.ones((1, 1, 1, 1, 1), np.float32)


def external():
    model = identity()
    tensor = model.graph.initializer[0]
    tensor.ClearField('raw_data')
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='../../../etc/passwd')
    return model


def external_in_a_constant():
    tensor = numpy_helper.from_array(ONE, 'v')
    tensor.external_data.add(key='location', value='/etc/passwd')
    node = helper.make_node('Constant', [], ['v'], value=tensor)
    return model_of([node, helper.make_node('Add', ['field', 'v'], ['chi'])], {})


def sparse():
    model = identity()
    values, places = (
        numpy_helper.from_array(np.ones(1, np.float32), 's'),
        helper.make_tensor('p', 7, [1], [0]),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [10**9]))
    return model


def sparse_constant():
    values, places = (
        numpy_helper.from_array(np.ones(1, np.float32), 's'),
        helper.make_tensor('p', 7, [1], [0]),
    )
    node = helper.make_node(
        'Constant', [], ['v'], sparse_value=helper.make_sparse_tensor(values, places, [9])
    )
    return model_of([node, helper.make_node('Add', ['field', 'v'], ['chi'])], {})


def foreign(kind='Evil', domain='evil.com', imports=True):
    node = helper.make_node(kind, ['field'], ['chi'], domain=domain)
    opsets = [helper.make_opsetid('', 18), *([helper.make_opsetid(domain, 1)] if imports else [])]
    return model_of([node], {}, imports=opsets)


def branch(*nodes):
    """A model whose If hides ``nodes``, the last of which gives 'inner'."""
    out = helper.make_tensor_value_info('inner', TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), 'hidden', [], [out])
    flag = helper.make_node(
        'Constant', [], ['flag'], value=helper.make_tensor('f', TensorProto.BOOL, [], [True])
    )
    choice = helper.make_node('If', ['flag'], ['chi'], then_branch=graph, else_branch=graph)
    return model_of([flag, choice], {})


def nested(depth):
    node = helper.make_node('Identity', ['field'], ['inner'])
    for _ in range(depth):
        out = helper.make_tensor_value_info('inner', TensorProto.FLOAT, None)
        graph = helper.make_graph([node], 'hidden', [], [out])
        node = helper.make_node('If', ['flag'], ['inner'], then_branch=graph, else_branch=graph)
    return branch(node)


def function():
    model = identity()
    node = helper.make_node('Identity', ['a'], ['b'])
    model.functions.append(
        helper.make_function('own', 'Own', ['a'], ['b'], [node], [helper.make_opsetid('', 18)])
    )
    return model


def loop():
    body = helper.make_graph(
        [helper.make_node('Identity', ['go'], ['on'])],
        'body',
        [
            helper.make_tensor_value_info('n', TensorProto.INT64, []),
            helper.make_tensor_value_info('go', TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info('on', TensorProto.BOOL, [])],
    )
    return model_of([helper.make_node('Loop', ['', ''], ['chi'], body=body)], {})


def training():
    model = identity()
    model.training_info.add()
    return model


def wrong_raw():
    model = identity()
    model.graph.initializer[0].dims[0] = 2**40
    return model


def negative():
    model = identity()
    model.graph.initializer[0].dims[0] = -1
    return model


def claimed():
    tensor = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[2**40])
    model = identity()
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def text_tensor():
    node = helper.make_node(
        'Constant', [], ['v'], value=helper.make_tensor('v', TensorProto.STRING, [1], [b'x'])
    )
    return model_of([node, helper.make_node('Identity', ['field'], ['chi'])], {})


def unknown_type():
    model = identity()
    model.graph.initializer[0].data_type = 999
    return model


def two_givers():
    twice = [helper.make_node('Identity', ['field'], ['chi']) for _ in range(2)]
    return model_of(twice, {})


def double():
    model = identity()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def shapeless():
    model = identity()
    model.graph.output[0].type.tensor_type.ClearField('shape')
    return model


def flat():
    model = identity()
    del model.graph.output[0].type.tensor_type.shape.dim[4]
    return model


def version(n):
    model = identity()
    model.ir_version = n
    return model


def many():
    count = graphs.MOST_NODES + 1
    nodes = [helper.make_node('Identity', [f'n{i}'], [f'n{i + 1}']) for i in range(count)]
    return model_of([*nodes, helper.make_node('Identity', ['field'], ['chi'])], {})


HOSTILE = {
    'weights in another file': (external, 'lies in another file, which is not read'),
    'constant in another file': (external_in_a_constant, 'lies in another file'),
    'sparse weights': (sparse, 'has sparse weights'),
    'sparse constant': (sparse_constant, 'has a sparse tensor'),
    'operators of a domain': (foreign, "imports operators of 'evil.com'"),
    'operators of onnxruntime': (lambda: foreign('Gelu', 'com.microsoft'), "operators of 'com.microsoft'"),
    'domain that is not imported': (lambda: foreign(imports=False), "Evil is of the domain 'evil.com'"),
    'machine learning operators': (lambda: foreign('Scaler', 'ai.onnx.ml'), "operators of 'ai.onnx.ml'"),
    'foreign node in a branch': (
        lambda: branch(helper.make_node('Evil', ['field'], ['inner'], domain='evil.com')),
        "Evil is of the domain 'evil.com'",
    ),
    'other file in a branch': (
        lambda: branch(
            *external_in_a_constant().graph.node[:1], helper.make_node('Identity', ['v'], ['inner'])
        ),
        'lies in another file',
    ),
    'random numbers in a branch': (
        lambda: branch(helper.make_node('RandomNormalLike', ['field'], ['inner'])),
        'RandomNormalLike draws random numbers',
    ),
    'graphs in graphs': (lambda: nested(graphs.DEEPEST + 2), 'graphs inside graphs, more than 8 deep'),
    'function of its own': (function, r'functions of its own \(Own\)'),
    'endless loop': (loop, 'Loop is a loop of unknown length'),
    'texts': (
        lambda: model_of([helper.make_node('ImageDecoder', ['field'], ['chi'])], {}),
        'works on texts or files',
    ),
    'text tensor': (text_tensor, 'holds texts, not numbers'),
    'training': (training, 'holds training information'),
    'new opset': (lambda: identity(opset=99), 'has opset 99; export it with one of 11 to 23'),
    'old opset': (lambda: identity(opset=7), 'has opset 7'),
    'no opset': (lambda: identity(imports=[]), 'does not say which opset'),
    'new format': (lambda: version(99), 'IR version 99'),
    'many nodes': (many, 'more than 20000 nodes'),
    'few weights': (wrong_raw, 'claims 1099511627776 values but holds 1'),
    'no weights': (claimed, 'claims 1099511627776 values but holds 0'),
    'negative size': (negative, 'has a negative size'),
    'unknown type': (unknown_type, r'unknown type \(999\)'),
    'two nodes give one tensor': (two_givers, 'is not valid ONNX'),
    'other input': (
        lambda: model_of([helper.make_node('Identity', ['other'], ['chi'])], {}, inputs={'other': 1}),
        'has the inputs other, but the manifest names field',
    ),
    'other output': (lambda: identity(output=('chi', 1)), "no output 'mask'"),
    'two inputs': (lambda: identity(inputs={'field': 1, 'more': 1}), 'has the inputs field, more'),
    'two channels': (lambda: identity(inputs={'field': 2}), r'has the shape \(1, 2, \?, \?, \?\)'),
    'four axes': (flat, r'has the shape \(1, 1, \?, \?\)'),
    'double precision': (double, 'is not a tensor of float32'),
    'no shape': (shapeless, 'is not valid ONNX'),
    'no nodes': (lambda: model_of([], {}), 'is not ONNX or has no nodes'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_models_are_refused(case):
    build, says = HOSTILE[case]
    output = 'mask' if case == 'other output' else 'chi'
    with pytest.raises(UserError, match=says) as error:
        graphs.check_model(build().SerializeToString(), {'field': 1}, output)
    assert str(error.value).count('\n') == 0
    assert str(error.value).endswith('.')


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\x80\x04\x95cposix\nsystem\n',
        b'PK\x03\x04 torch',
        identity().SerializeToString()[:-40],
        bytes(1000),
    ],
    ids=['empty', 'pickle', 'zip of PyTorch', 'cut short', 'zeros'],
)
def test_what_is_no_model_is_refused(content):
    with pytest.raises(UserError, match='is not ONNX or'):
        graphs.check_model(content, {'field': 1}, 'chi')


def test_sound_models_pass():
    inner = branch(helper.make_node('Identity', ['field'], ['inner']))
    for model in (identity(), linear(np.ones((3, 3, 3))), inner):
        again, fixed = graphs.check_model(model.SerializeToString(), {'field': 1}, 'chi')
        assert again == model.SerializeToString()
        assert fixed == {'field': [None, None, None]}
    fixed = graphs.check_model(identity(sizes=(8, 6, 4)).SerializeToString(), {'field': 1}, 'chi')[1]
    assert fixed == {'field': [8, 6, 4]}


def test_nothing_is_run_that_was_not_looked_through():
    """Bytes of another format of onnxruntime: in a field that is not of ONNX, and in a text that is."""
    model = identity(producer_name='ORTM')  # these stand at byte 4, where onnxruntime looks for them
    content = model.SerializeToString()
    assert content[4:8] == b'ORTM'
    hidden = b'\xfa\x7f\x08' + b'hORTMide'[:8]  # field 2047 of 8 bytes
    checked, _ = graphs.check_model(hidden + content, {'field': 1}, 'chi')
    assert checked == content
    request = {'threads': 1, 'provider': 'cpu', 'bytes': 1e9}
    session = worker._session(onnxruntime, checked, request)
    image = np.ones((1, 1, 4, 4, 4), np.float32)
    np.testing.assert_array_equal(session.run(None, {'field': image})[0], image)


def test_weights_as_numbers_pass():
    model = identity()
    model.graph.initializer[0].CopyFrom(
        onnx.helper.make_tensor('w', TensorProto.FLOAT, [1, 1, 1, 1, 1], [2.0])
    )
    graphs.check_model(model.SerializeToString(), {'field': 1}, 'chi')
