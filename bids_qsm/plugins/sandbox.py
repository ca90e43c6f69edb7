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


@dataclass(frozen=True)
class Job:
    """What a process is asked: to check a model and, with a ``plan``, to run it on ``tiles`` of a volume."""

    manifest: Manifest
    model: bytes
    machine: Machine
    images: Sequence[Image] = ()
    plan: Plan | None = None
    tiles: Sequence[int] = ()


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


def run_network(job: Job) -> tuple[np.ndarray | None, dict]:
    """Do a job in a process of its own.

    Returns
    -------
    result : ndarray of float32, shape ``(channels of the output, *plan.shape)``, or None
    facts : dict
        'provider', the version of 'onnxruntime', and most bytes 'held' beyond the libraries.

    Raises
    ------
    UserError
        Where the model may not be run, or ended badly: one sentence, after the name of the plug-in.
    """
    request = request_of(job)
    parts: list = [json.dumps(request).encode(), b'\n', job.model]
    parts += [np.ascontiguousarray(one.values, np.float32).data for one in job.images]
    where = f'{job.manifest.folder / job.manifest.model.file}'
    try:
        ended = subprocess.run(
            WORDS,
            input=b''.join(parts),
            capture_output=True,
            timeout=request['seconds'],
            env=_environment(job.machine),
            cwd='/',
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f'{where}: the network took longer than {request["seconds"]:.0f} s ({len(job.tiles)} tiles) and '
            'was ended; give it more threads, or make it smaller.'
        ) from None
    head, _, body = ended.stdout.partition(b'\n')
    try:
        reply = json.loads(head)
    except ValueError:
        raise UserError(f'{where}: {_how_it_ended(ended)}') from None
    if 'error' in reply:
        raise UserError(f'{where}: {reply["error"]}')
    if job.plan is None:
        return None, reply
    shape = (request['channels'], *job.plan.shape)
    if len(body) != 4 * prod(shape):
        raise UserError(f'{where}: {_how_it_ended(ended)}')
    return np.frombuffer(bytearray(body), np.float32).reshape(shape), reply


def request_of(job: Job) -> dict:
    """What the process is told before the model and the images follow."""
    manifest, machine = job.manifest, job.machine
    return {
        'model': len(job.model),
        'inputs': {
            one.name: None if one.channels[0].data == 'b0' else len(one.channels) for one in manifest.inputs
        },
        'output': manifest.output.name,
        'channels': len(manifest.output.channels),
        'axes': ['XYZ'.index(axis) for axis in manifest.axes],
        'images': [
            {'tensor': one.tensor, 'shape': list(one.values.shape), 'same': one.same} for one in job.images
        ],
        'plan': asdict(job.plan) if job.plan else None,
        'tiles': list(job.tiles),
        'threads': machine.threads,
        'provider': machine.device,
        'seconds': machine.seconds * max(len(job.tiles), 1),
        'bytes': min(_bytes(job), _most(machine)),
    }


def _bytes(job: Job) -> float:
    """Most that the process may hold beyond what its libraries do."""
    volumes, channels = sum(4 * one.values.size for one in job.images), len(job.manifest.output.channels)
    # each thread may have a heap of its own; weights are held as message, checked copy and tensors
    fixed = SPARE_GB * 1e9 + job.machine.threads * 2**27 + 8 * len(job.model)
    if job.plan is None:
        return fixed
    result, tile = 8 * channels * prod(job.plan.shape), SLACK * job.manifest.memory * prod(job.plan.size)
    return fixed + 2 * volumes + result + tile


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
