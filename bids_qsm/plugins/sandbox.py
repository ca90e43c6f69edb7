"""Run the network of a plug-in in a process of its own, with limits of memory and time."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import numpy as np

import bids_qsm
from bids_qsm.errors import UserError, plain
from bids_qsm.plugins.manifest import Manifest
from bids_qsm.plugins.tiles import Plan

WORDS = (sys.executable, '-m', 'bids_qsm.plugins.worker')
SECONDS = 3600.0
"""Longest time of one tile, and that of the start."""
SPARE_GB = 0.3
"""Memory that a network may take beyond what its manifest says: its session, and rounding."""
SLACK = 1.5
KEPT = ('LD_LIBRARY_PATH', 'CUDA_VISIBLE_DEVICES', 'NVIDIA_VISIBLE_DEVICES', 'LANG', 'TMPDIR')
"""Variables of the environment that the process gets."""
PACKAGES = ('onnx', 'onnxruntime')


@dataclass(frozen=True)
class Image:
    """What an input of the network gets as one channel; ``same`` for every tile, or cut from a volume."""

    tensor: str
    values: np.ndarray
    same: bool = False


@dataclass(frozen=True)
class Machine:
    """Where a network runs: 'cpu' or 'cuda', with so many threads, so long at most for a tile.

    Its process holds at most ``most_gb`` beyond its libraries, whatever its manifest says; None is what the
    machine has.
    """

    device: str = 'cpu'
    threads: int = 1
    seconds: float = SECONDS
    most_gb: float | None = None


def require_onnx(flag: str, machine: Machine | None = None) -> None:
    """Raise UserError where the packages of the extra are missing, or lack the CUDA that is asked for."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{flag} needs {' and '.join(missing)}: run `pip install 'bids_qsm[ai]'`, or choose another "
            'method.'
        )
    if machine is not None and machine.device == 'cuda':
        import onnxruntime

        if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
            raise UserError(
                f'{flag} with --device cuda needs onnxruntime-gpu in place of onnxruntime; install it, or '
                'use '
                '--device cpu.'
            )


def run_network(
    manifest: Manifest,
    model: bytes,
    images: Sequence[Image],
    plan: Plan | None,
    tiles: Sequence[int],
    machine: Machine,
) -> tuple[np.ndarray | None, dict]:
    """Check a model and run it on the ``tiles`` of a volume; without a ``plan`` it is only checked.

    Returns
    -------
    result : ndarray of float32, shape ``plan.shape``, or None
    facts : dict
        'provider', the version of 'onnxruntime', and most bytes 'held' beyond the libraries.

    Raises
    ------
    UserError
        Where the model may not be run, or ended badly: one sentence, after the name of the plug-in.
    """
    request = request_of(manifest, model, images, plan, tiles, machine)
    parts: list = [json.dumps(request).encode(), b'\n', model]
    parts += [np.ascontiguousarray(one.values, np.float32).data for one in images]
    where = f'{manifest.folder / manifest.model.file}'
    try:
        ended = subprocess.run(
            WORDS,
            input=b''.join(parts),
            capture_output=True,
            timeout=request['seconds'],
            env=_environment(machine),
            cwd='/',
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f'{where}: the network took longer than {request["seconds"]:.0f} s ({len(tiles)} tiles) and was '
            'ended; give it more threads, or make it smaller.'
        ) from None
    head, _, body = ended.stdout.partition(b'\n')
    try:
        reply = json.loads(head)
    except ValueError:
        raise UserError(f'{where}: {_how_it_ended(ended)}') from None
    if 'error' in reply:
        raise UserError(f'{where}: {reply["error"]}')
    if plan is None:
        return None, reply
    if len(body) != 4 * prod(plan.shape):
        raise UserError(f'{where}: {_how_it_ended(ended)}')
    return np.frombuffer(bytearray(body), np.float32).reshape(plan.shape), reply


def request_of(
    manifest: Manifest,
    model: bytes,
    images: Sequence[Image],
    plan: Plan | None,
    tiles: Sequence[int],
    machine: Machine,
) -> dict:
    """What the process is told before the model and the images follow."""
    return {
        'model': len(model),
        'inputs': {
            one.name: None if one.channels[0].data == 'b0' else len(one.channels) for one in manifest.inputs
        },
        'output': manifest.output.name,
        'axes': ['XYZ'.index(axis) for axis in manifest.axes],
        'images': [
            {'tensor': one.tensor, 'shape': list(one.values.shape), 'same': one.same} for one in images
        ],
        'plan': asdict(plan) if plan else None,
        'tiles': list(tiles),
        'threads': machine.threads,
        'provider': machine.device,
        'seconds': machine.seconds * max(len(tiles), 1),
        'bytes': min(_bytes(manifest, model, images, plan, machine), _most(machine)),
    }


def _bytes(
    manifest: Manifest, model: bytes, images: Sequence[Image], plan: Plan | None, machine: Machine
) -> float:
    """Most that the process may hold beyond what its libraries do."""
    volumes = sum(4 * one.values.size for one in images)
    # each thread may have a heap of its own; weights are held as message, checked copy and tensors
    fixed = SPARE_GB * 1e9 + machine.threads * 2**27 + 8 * len(model)
    if plan is None:
        return fixed
    return fixed + 2 * volumes + 8 * prod(plan.shape) + SLACK * manifest.memory * prod(plan.size)


def _most(machine: Machine) -> float:
    """What a process may hold whatever a manifest says, which is a stranger's."""
    there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return there if machine.most_gb is None else min(1e9 * machine.most_gb, there)


def _environment(machine: Machine) -> dict[str, str]:
    """As little as a process needs: it has no home, no path and no credentials."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    here = str(Path(bids_qsm.__file__).parents[1])
    threads = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MALLOC_ARENA_MAX': str(machine.threads)}
    return {**kept, **threads, 'PYTHONPATH': here, 'PYTHONUTF8': '1', 'PYTHONDONTWRITEBYTECODE': '1'}


def _how_it_ended(ended: subprocess.CompletedProcess):
    last = plain((ended.stderr.decode(errors='replace').strip().splitlines() or [''])[-1])[:200]
    if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return (
            'the process of the network was ended: it took too much time or memory; give more threads or '
            'memory, or make its tiles smaller.'
        )
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        return f'the process of the network crashed ({name}); the model is not usable.'
    return (
        f'the process of the network ended with status {ended.returncode} ({last}); the model is not usable.'
    )
