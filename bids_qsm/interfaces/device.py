"""Carry arrays to the device that a step computes on, and the results back."""

from collections.abc import Callable

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.arrays import to_numpy
from bids_qsm.recon.registry import call, needs

DEVICES = ('cpu', 'cuda')


def require_device(device: str):
    """Raise UserError where this machine has no such device."""
    if device == 'cpu':
        return
    try:
        import torch
    except ImportError:
        raise UserError(
            f'--device {device} needs PyTorch, which is not installed: pip install "bids_qsm[gpu]".'
        ) from None
    if not torch.cuda.is_available():
        raise UserError(
            f'--device {device}: PyTorch finds no CUDA device here; check the driver and, in a container, '
            'that GPUs are passed on (docker --gpus all, apptainer --nv), or use --device cpu.'
        )


def call_on(device: str, function: Callable, data: dict, params: dict):
    """As :func:`bids_qsm.recon.registry.call`, computed on ``device``; NumPy arrays go in and come out."""
    if device == 'cpu':
        return call(function, data, params)
    require_device(device)
    return _call_with_tensors(device, function, data, params)


def call_method(
    device: str,
    registry: dict[str, Callable],
    name: str,
    data: dict,
    params: dict,
    *,
    field_strength: float | None = None,
):
    """Call a method or plug-in by its name; return what it found, and the record of a plug-in or None.

    A plug-in returns one array. ``field_strength`` (T) is for those that take fields in Hz or rad.
    """
    method = find_method(registry, name)
    if not is_plugin(name):
        return call_on(device, method, data, params), None
    own = {one: data[one] for one in needs(method) if one != 'field_strength'}
    outcome = method.apply({**own, 'field_strength': field_strength}, device)
    return outcome.values, outcome.record


def _call_with_tensors(device: str, function: Callable, data: dict, params: dict):
    import torch

    here = {name: data[name] for name in needs(function)}
    there = {
        name: torch.from_numpy(np.array(value)).to(device) if isinstance(value, np.ndarray) else value
        for name, value in here.items()
    }
    found = call(function, there, params)
    return tuple(to_numpy(a) for a in found) if isinstance(found, tuple) else to_numpy(found)
