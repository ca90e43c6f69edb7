"""What a model may hold: it is parsed as a message of protobuf, and looked through before it is run."""

from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.message import DecodeError

from bids_qsm.errors import UserError, plain

OPSETS = (11, 23)
"""First and last set of operators."""
LATEST_FORMAT = 13
MOST_NODES = 20_000
DEEPEST = 8
FLOAT = onnx.TensorProto.FLOAT
RANDOM = {
    'Bernoulli',
    'Multinomial',
    'RandomNormal',
    'RandomNormalLike',
    'RandomUniform',
    'RandomUniformLike',
}
LOOPS = {'Loop', 'Scan', 'SequenceMap'}
TEXTS = {
    'ImageDecoder',
    'RegexFullMatch',
    'StringConcat',
    'StringNormalizer',
    'StringSplit',
    'TfIdfVectorizer',
}


def check_model(
    content: bytes, inputs: dict[str, int | None], output: str, channels: int = 1
) -> tuple[bytes, dict[str, list[int | None]]]:
    """Raise UserError where a model may not be run, in one sentence.

    Parameters
    ----------
    content : bytes
        The model.
    inputs : dict
        Name of each input -> channels of an image, None for the vector of B0 (1, 3).
    output : str
        Name of the output, an image.
    channels : int
        Of the output.

    Returns
    -------
    model : bytes
        The model written anew, with nothing in it but what was looked through.
    fixed : dict
        Name of each image that goes in -> sizes of its axes that the model fixes, None where any goes.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError):
        raise UserError('the model is not ONNX or is damaged; export it with torch.onnx.export.') from None
    if not model.graph.node:
        raise UserError('the model is not ONNX or has no nodes; export it with torch.onnx.export.')
    if not 3 <= model.ir_version <= LATEST_FORMAT:
        raise UserError(f'the model has the IR version {model.ir_version}; it must be 3 to {LATEST_FORMAT}.')
    _check_domains(model)
    if model.training_info:
        raise UserError('the model holds training information; export it for inference.')
    _check_graph(model.graph, [0], 0)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # it has several kinds
        why = plain(str(error).strip().splitlines()[0])[:200].rstrip(' .:')
        raise UserError(f'the model is not valid ONNX ({why}); export it again.') from None
    _check_ports(model.graph, inputs, output, channels)
    model.DiscardUnknownFields()
    fixed = {name: _fixed(model.graph, name) for name, channels in inputs.items() if channels is not None}
    return model.SerializeToString(), fixed


def _check_domains(model: onnx.ModelProto):
    if model.functions:
        raise UserError(
            f'the model has functions of its own ({plain(model.functions[0].name)}), and they are not run; '
            'inline '
            'them with onnx.inliner.inline_local_functions.'
        )
    for opset in model.opset_import:
        if opset.domain not in ('', 'ai.onnx'):
            raise UserError(
                f'the model imports operators of {plain(opset.domain)!r}; only those of the ONNX standard '
                'are run.'
            )
        if not OPSETS[0] <= opset.version <= OPSETS[1]:
            raise UserError(
                f'the model has opset {opset.version}; export it with one of {OPSETS[0]} to {OPSETS[1]}.'
            )
    if len(model.opset_import) != 1:
        raise UserError('the model does not say which opset it needs; export it again.')


def _check_graph(graph: onnx.GraphProto, count: list[int], depth: int):
    """Look through a graph and those inside it; ``count`` holds the number of nodes so far."""
    if depth > DEEPEST:
        raise UserError(f'the model has graphs inside graphs, more than {DEEPEST} deep; simplify it.')
    if graph.sparse_initializer:
        raise UserError('the model has sparse weights, which are not read; store them as dense tensors.')
    for tensor in graph.initializer:
        _check_tensor(tensor)
    count[0] += len(graph.node)
    if count[0] > MOST_NODES:
        raise UserError(f'the model has more than {MOST_NODES} nodes; simplify it.')
    for node in graph.node:
        kind = plain(node.op_type)
        if node.domain not in ('', 'ai.onnx'):
            raise UserError(
                f'the node {kind} is of the domain {plain(node.domain)!r}; only operators of the ONNX '
                'standard are run.'
            )
        if kind in RANDOM:
            raise UserError(f'the node {kind} draws random numbers; results must be the same each time.')
        if kind in LOOPS:
            raise UserError(f'the node {kind} is a loop of unknown length, which is not run; unroll it.')
        if kind in TEXTS:
            raise UserError(f'the node {kind} works on texts or files, not on images; remove it.')
        for attribute in node.attribute:
            _check_attribute(attribute, kind, count, depth)


def _check_attribute(attribute: onnx.AttributeProto, kind: str, count: list[int], depth: int):
    if attribute.HasField('sparse_tensor') or attribute.sparse_tensors:
        raise UserError(f'the node {kind} has a sparse tensor, which is not read; store it as a dense one.')
    tensors = [*([attribute.t] if attribute.HasField('t') else []), *attribute.tensors]
    for tensor in tensors:
        _check_tensor(tensor)
    for graph in [*([attribute.g] if attribute.HasField('g') else []), *attribute.graphs]:
        _check_graph(graph, count, depth + 1)


def _check_tensor(tensor: onnx.TensorProto):
    name = plain(tensor.name)
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UserError(
            f'the tensor {name!r} lies in another file, which is not read; save the model with all weights '
            'in one file.'
        )
    if tensor.data_type == onnx.TensorProto.STRING or tensor.string_data:
        raise UserError(f'the tensor {name!r} holds texts, not numbers; remove it.')
    try:
        numpy_type = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f'the tensor {name!r} has an unknown type ({tensor.data_type}); export it again.'
        ) from None
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise UserError(f'the tensor {name!r} has a negative size; export the model again.')
        elements *= size
    if tensor.HasField('raw_data'):
        held = len(tensor.raw_data) / numpy_type.itemsize
    else:
        held = max(map(len, _values(tensor)))
    # types of less than 4 bytes, and complex ones, are packed in several ways; the checker knows them
    if (tensor.HasField('raw_data') and numpy_type.itemsize >= 1 and held < elements // 2) or (
        not tensor.HasField('raw_data') and held < elements // 8
    ):
        raise UserError(
            f'the tensor {name!r} claims {elements} values but holds {held:g}; export the model again.'
        )


def _values(tensor: onnx.TensorProto) -> Iterator:
    yield from (
        tensor.float_data,
        tensor.int32_data,
        tensor.int64_data,
        tensor.double_data,
        tensor.uint64_data,
    )


def _check_ports(graph: onnx.GraphProto, inputs: dict[str, int | None], output: str, channels_out: int):
    weights = {tensor.name for tensor in graph.initializer}
    ports = {port.name: port for port in graph.input if port.name not in weights}
    if set(ports) != set(inputs):
        raise UserError(
            f'the model has the inputs {_names(ports)}, but the manifest names {_names(inputs)}; make them '
            'agree.'
        )
    if output not in [port.name for port in graph.output]:
        raise UserError(
            f'the model has no output {plain(output)!r}, which the manifest names, but '
            f'{_names(port.name for port in graph.output)}; make them agree.'
        )
    found = next(port for port in graph.output if port.name == output)
    for port, channels in [*((ports[name], inputs[name]) for name in inputs), (found, channels_out)]:
        name, kind = plain(port.name), port.type.tensor_type
        if not port.type.HasField('tensor_type') or kind.elem_type != FLOAT:
            raise UserError(f'{name!r} of the model is not a tensor of float32; export it as one.')
        sizes = [axis.dim_value if axis.HasField('dim_value') else None for axis in kind.shape.dim]
        wanted = [1, 3] if channels is None else [1, channels, None, None, None]
        if len(sizes) != len(wanted) or any(
            None not in (size, want) and size != want for size, want in zip(sizes, wanted, strict=True)
        ):
            shape = ', '.join('?' if size is None else str(size) for size in sizes)
            what = (
                'b0 has the shape (1, 3)'
                if channels is None
                else f'the manifest asks for (1, {channels}, X, Y, Z)'
            )
            raise UserError(f'{name!r} of the model has the shape ({shape}), but {what}; make them agree.')


def _names(names: Iterable[str]):
    return plain(', '.join(sorted(names)))[:200] or 'none'


def _fixed(graph: onnx.GraphProto, name: str) -> list[int | None]:
    axes = next(port for port in graph.input if port.name == name).type.tensor_type.shape.dim[-3:]
    return [axis.dim_value if axis.HasField('dim_value') else None for axis in axes]
