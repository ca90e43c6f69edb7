"""The process that runs a network: bytes in, bytes out, within limits that it sets itself first.

``python -m bids_qsm.plugins.worker`` reads a line of JSON, the model and the images from its input, and
writes a line of JSON and the result. It knows no file.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from math import prod

import numpy as np

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
IN_MEMORY = ('alloc', 'Available memory', 'MemoryError')


def main():
    """Answer one request."""
    with contextlib.suppress(OSError, AttributeError):  # not every system has it
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    answer = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # what libraries print is no answer
    # imported before the limits, which are for what the model needs
    import onnx  # noqa: F401
    import onnxruntime

    from bids_qsm.errors import UserError
    from bids_qsm.plugins import graphs

    request = json.loads(sys.stdin.buffer.readline())
    before = _reset_peak()
    _limit(request)
    try:
        model = _read(request['model'])
        model, fixed = graphs.check_model(model, request['inputs'], request['output'], request['channels'])
        images = [
            np.frombuffer(_read(4 * prod(one['shape'])), np.float32).reshape(one['shape'])
            for one in request['images']
        ]
        reply, result = _run(onnxruntime, model, images, request)
        reply['fixed'] = fixed
    except UserError as error:
        reply, result = {'error': str(error)}, None
    except Exception as error:  # those of onnxruntime have no common base
        reply, result = {'error': _sentence(error)}, None
    reply['held'] = max(_memory('VmHWM') - before, 0)
    answer.write(json.dumps(reply).encode() + b'\n')
    if result is not None:
        answer.write(np.ascontiguousarray(result).data)
    answer.close()


def _reset_peak() -> int:
    """Memory (bytes) that this process holds, from where its peak is counted anew."""
    with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w') as stream:
        stream.write('5')
    return _memory('VmRSS')


def _memory(key: str) -> int:
    with open('/proc/self/status') as stream:
        found = next((line for line in stream if line.startswith(f'{key}:')), f'{key}: 0')
    return 1024 * int(found.split()[1])


def _read(count: int) -> bytes:
    content = sys.stdin.buffer.read(count)
    if len(content) != count:
        raise EOFError('the request ended early')
    return content


def _limit(request: dict):
    """No files, no core, and so much memory and time."""
    limits = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: 1 + int(request['seconds'] * request['threads']),
    }
    if request['provider'] == 'cpu':  # drivers of a GPU reserve addresses without bounds
        with open('/proc/self/statm') as stream:
            held = int(stream.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = held + int(request['bytes'])
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def _sentence(error: Exception):
    text = f'{type(error).__name__}: {error}'
    if isinstance(error, MemoryError) or any(sign in text for sign in IN_MEMORY):
        return (
            'the network needs more memory than its manifest says or there is; raise "memory" or --mem, '
            'or make tiles smaller.'
        )
    return f'onnxruntime cannot run the model ({" ".join(text.split())[:200]}).'


def _run(onnxruntime, model: bytes, images: list[np.ndarray], request: dict):  # noqa: ANN001
    from bids_qsm.errors import UserError
    from bids_qsm.plugins.tiles import Plan, run_tiled

    session = _session(onnxruntime, model, request)
    reply = {'provider': session.get_providers()[0], 'onnxruntime': onnxruntime.__version__}
    if not request['plan']:
        return reply, None
    plan, axes = Plan(**request['plan']), request['axes']
    back, wanted = np.argsort(axes), (1, request['channels'], *(plan.size[axis] for axis in axes))

    def network(place: tuple[slice, slice, slice]):
        feed: dict = {name: [] for name in request['inputs']}
        for one, image in zip(request['images'], images, strict=True):
            # a vector, or a kernel of the tile's size, is the same for all tiles
            part = image if one['same'] else image[place]
            # the vector has its components in the order of the axes
            feed[one['tensor']].append(part.transpose(axes) if part.ndim == 3 else part[axes])
        feed = {
            name: np.ascontiguousarray(parts[0][None] if parts[0].ndim == 1 else np.stack(parts)[None])
            for name, parts in feed.items()
        }
        (found,) = session.run([request['output']], feed)
        if found.shape != wanted or found.dtype != np.float32:
            raise UserError(
                f'the network gives an image of shape {found.shape}, where {wanted} is due; mend the model.'
            )
        if not np.isfinite(found).all():
            raise UserError(
                'the network gives values that are not finite; its input may be far from its training.'
            )
        return found[0].transpose(0, *(1 + back)).copy()

    return reply, run_tiled(network, plan, request['tiles'], request['channels'])


def _session(onnxruntime, model: bytes, request: dict):  # noqa: ANN001
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request['threads'], 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    # else some bytes in a text of the model would make it one of another format, which nobody looked through
    options.add_session_config_entry('session.load_model_format', 'ONNX')
    providers: list = ['CPUExecutionProvider']
    if request['provider'] == 'cuda':
        about = {
            'gpu_mem_limit': str(request['bytes']),
            'cudnn_conv_algo_search': 'HEURISTIC',
            'use_tf32': '0',
        }
        providers = [('CUDAExecutionProvider', about), *providers]
    return onnxruntime.InferenceSession(model, options, providers=providers)


if __name__ == '__main__':
    main()
