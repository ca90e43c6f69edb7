"""Plug-ins as methods of the registries: ``onnx:/folder`` is a name beside 'tv' and 'vsharp'."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numba

from bids_qsm.errors import UserError
from bids_qsm.plugins import PREFIX, is_plugin
from bids_qsm.plugins.manifest import Manifest, read_manifest
from bids_qsm.plugins.network import Outcome, apply
from bids_qsm.plugins.sandbox import Machine
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.masking import MASK
from bids_qsm.recon.registry import Facts, Need, facts

STEPS_OF = {
    'inversion': ('inversion', 'onestep'),
    'background': ('background',),
    'mask': ('mask',),
    'separation:method': ('separation',),
}
"""Option -> steps of manifests that it takes."""
LIBRARIES_GB = 0.35
"""What the process of a network holds before it runs."""


def find_method(registry: Mapping[str, Callable], name: str) -> Callable:
    """The method of a registry, or the plug-in that ``name`` is; UserError where its manifest has a fault."""
    return PluginMethod(name) if is_plugin(name) else registry[name]


class PluginMethod:
    """A plug-in with the face of a method: a signature, facts, and a call that returns what its step returns.

    Its positional arguments are the data that its network takes; it has no parameters.
    """

    def __init__(self, name: str):
        self.__name__ = name
        self.manifest: Manifest = read_manifest(folder_of(name))
        self.__doc__ = f'{self.manifest.title}, a plug-in.'
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in self._needs()])
        self.facts = Facts(memory_of(self.manifest), prose(self.manifest), prose(self.manifest), 2.0)

    def _needs(self) -> list[str]:
        one = self.manifest
        images = [name for name in one.data if name in ('noise', 'magnitude', 'r2star', 'quality')]
        if one.step == 'mask':
            return list(dict.fromkeys([*images, 'grid']))
        field = 'total' if one.step == 'onestep' else 'field'
        first = [field, 'mask']
        if one.step == 'separation':
            first = [*(name for name in ('chi', 'field', 'r2prime') if name in one.data), 'mask']
        # noise weighs the fidelity of unrolled networks
        more = ['noise'] if one.unrolled else []
        units = {*(channel.unit for channel in one.channels), *(out.unit for out in one.output.channels)}
        more += ['field_strength'] if units & {'Hz', 'rad'} else []
        return list(dict.fromkeys([*first, *images, 'grid', *more]))

    @cached_property
    def model(self) -> bytes:
        return self.manifest.read_model()

    def apply(self, data: Mapping[str, Any], device: str) -> Outcome:
        """Run it on the data of an interface, which have ``field_strength`` (T) where it is known."""
        return apply(self.manifest, self.model, data, Machine(device, numba.get_num_threads()))

    def __call__(self, *data: Any) -> Any:
        """What a method of its step returns, on the CPU, of the data that its signature names."""
        named = dict(zip(self.__signature__.parameters, data, strict=True))
        values = self.apply(named, 'cpu').values
        return (values, named['mask']) if self.manifest.step == 'background' else values


def plugin_files(name: str) -> list[str]:
    """Files of a plug-in, on which the results of its step depend."""
    return [str(path) for path in read_manifest(folder_of(name)).files]


def folder_of(name: str) -> Path:
    """Folder of the plug-in that ``name`` is."""
    return Path(name.removeprefix(PREFIX))


def check_step(option: str, name: str) -> None:
    """Raise UserError where a plug-in is not one of the option that names it, or its manifest has a fault."""
    step = read_manifest(folder_of(name)).step
    if step in STEPS_OF.get(option, ()):
        return
    fitting = next((own for own, steps in STEPS_OF.items() if step in steps), None)
    raise UserError(
        f'--{option} {name}: this plug-in is for the step {step}; give it as --{fitting}, or choose another '
        'here.'
    )


def memory_of(manifest: Manifest) -> Need:
    """Memory of the step that runs a plug-in, its own process counted in."""
    # images of the network's grid: as they were, as they are sent, the result, and those of the physics
    own: float = 2 + 2 * len(manifest.output.channels) + 3 * len(manifest.channels)
    if manifest.unrolled:
        start = INVERSION.get(manifest.unrolled.start)
        own += max(6, facts(start).memory.padded if start else 0)
    # beside a mask the default one is made of all echoes, to compare the two
    usual = facts(next(iter(MASK.values()))).memory if manifest.step == 'mask' else Need(0.0)
    fixed, tile = 0.1 + LIBRARIES_GB + usual.fixed, manifest.tile.size
    volume, echoes = 8 + usual.volume, usual.echoes
    if tile is None:
        own += manifest.memory / 4
    else:
        fixed += 1e-9 * manifest.memory * math.prod(tile)
    if manifest.resample_mm:
        # those that say where the nearest voxel lies too
        own /= math.prod(manifest.resample_mm)
        return Need(fixed, volume, padded=usual.padded, echoes=echoes, cubes=own)
    return Need(fixed, volume, padded=usual.padded + own, echoes=echoes)


def prose(manifest: Manifest) -> str:
    """The plug-in in the methods text."""
    how = ''
    if manifest.unrolled:
        how = f', unrolled over {manifest.unrolled.iterations} steps'
        start = INVERSION.get(manifest.unrolled.start)
        how += f' from {facts(start).prose}' if start else ''
    return f'the network {manifest.title}{how} (plug-in; {manifest.citation.rstrip(".")})'
