"""``bids_qsm plugin check``: what is wrong with a plug-in, or what it needs and how exact its tiles are."""

import io
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bids_qsm.errors import UserError, plain, size_text
from bids_qsm.plugins.manifest import LARGEST_ARRAY, RELAXATION, HashedFile, Manifest, Triple, examine
from bids_qsm.plugins.network import as_stored, golden_network, in_own_units
from bids_qsm.plugins.sandbox import Job, Machine, run_network

SEAM = 1e-4
"""Largest difference of tiles from the whole volume, relative to the largest value."""
SECONDS = 300.0
"""Longest time of a tile, when a plug-in is checked."""
TILES = 2
"""Tiles along each axis of the volume on which tiles are compared with the whole."""
WHOLE_LIMIT = 160**3
"""Voxels, at most, of that volume."""


@dataclass(frozen=True)
class Report:
    """Faults, one sentence each, and lines on what was measured."""

    faults: tuple[str, ...]
    lines: tuple[str, ...] = ()

    def __str__(self):
        if self.faults:
            return '\n'.join([f'{len(self.faults)} faults:', *(f'- {fault}' for fault in self.faults)])
        return '\n'.join([*self.lines, 'No fault was found.'])


def check_plugin(folder: str | Path, *, threads: int = 1, most_gb: float | None = None) -> Report:
    """Check manifest, files, model and golden data of a plug-in; measure its tiles, time and memory.

    ``most_gb`` is what its process may hold, whatever its manifest says; None: what the machine has.
    """
    manifest, faults = examine(folder)
    if manifest is None or faults:
        return Report(tuple(faults))
    machine = Machine(threads=threads, seconds=SECONDS, most_gb=most_gb)
    try:
        model = manifest.read_model()
        fixed = _check_model(manifest, model)
        error = check_golden(manifest, model, machine)
    except UserError as fault:
        return Report((str(fault),))
    lines = [
        f'{manifest.title}: step {manifest.step}, licence {manifest.licence}',
        f'Model: {len(model) / 1e6:.2f} MB, SHA-256 {manifest.model.sha256}',
        f'Golden output: differs by {error:.1e} of its largest value (allowed: '
        f'{manifest.golden.tolerance:.1e})',
    ]
    try:
        found = _measure(manifest, model, fixed, machine)
    except UserError as fault:
        return Report((str(fault),), tuple(lines))
    return Report(tuple(found.faults), (*lines, *found.lines))


def require_sound(manifest: Manifest, machine: Machine) -> None:
    """Raise UserError where the model may not be run, or does not give its golden output here."""
    check_golden(manifest, manifest.read_model(), machine)


def check_golden(manifest: Manifest, model: bytes, machine: Machine) -> float:
    """Largest difference from the golden output, relative to its largest value.

    UserError beyond the tolerance.
    """
    channels = len(manifest.output.channels)
    wanted = _array(manifest, manifest.golden.output, 3 if channels == 1 else 4)
    wanted = wanted.reshape(-1, *wanted.shape[-3:])
    shape = wanted.shape[1:]
    if len(wanted) != channels:
        raise UserError(
            f'{manifest.folder}: the golden output has {len(wanted)} channels along its first axis, and the '
            f'manifest names {channels}; make them agree.'
        )
    data = {name: _array(manifest, one) for name, one in manifest.golden.data}
    for name, image in data.items():
        if image.shape != shape:
            raise UserError(
                f'{manifest.folder}: the golden {name} has the shape {image.shape}, its output {shape}; '
                'make them agree.'
            )
    if any(n % manifest.tile.multiple for n in shape):
        raise UserError(
            f'{manifest.folder}: the golden data have the shape {shape}; make it a multiple of '
            f'{manifest.tile.multiple}.'
        )
    for one in manifest.channels:
        if one.wrapped and np.abs(data[one.data]).max() > np.float32(np.pi):
            raise UserError(
                f'{manifest.folder}: the golden {one.data} has values beyond -pi to pi, though the '
                'manifest says that it is wrapped; wrap it.'
            )
    network = golden_network(as_stored(manifest), model, shape, machine)
    if 'mask' in data:
        network.mask = data['mask'] > 0.5
    images = {name: in_own_units(network, name, image) for name, image in data.items() if name != 'mask'}
    found = network(images)
    for image, channel in zip(found, manifest.output.channels, strict=True):
        # golden outputs have the sign of the network
        image *= np.float32(channel.sign * network.per_unit(channel.unit, channel.echo_time))
    largest = float(np.abs(wanted).max()) or 1.0
    error = float(np.abs(found - wanted).max()) / largest
    if not error <= manifest.golden.tolerance:
        raise UserError(
            f'{manifest.folder}: on its golden data the network gives another output: it differs by '
            f'{error:.2g} of the '
            f'largest value, and {manifest.golden.tolerance:.2g} is allowed. Check units, normalisation, '
            'axes and scale '
            'of the manifest, or store the output again.'
        )
    return error


def _array(manifest: Manifest, one: HashedFile, ndim: int = 3) -> np.ndarray:
    content = manifest.read(one, largest=LARGEST_ARRAY)
    try:
        found = _npy(content, ndim)
    # a header is a text of Python, and what is wrong with it comes in a dozen kinds
    except (Exception, RecursionError) as error:
        raise UserError(
            f'{manifest.folder / one.file} is not an array of numbers '
            f'({plain(" ".join(str(error).split()))[:100]}); save it with numpy.save.'
        ) from None
    if not np.isfinite(found).all():
        raise UserError(f'{manifest.folder / one.file} is not a {ndim}D array of finite numbers; save one.')
    return found


def _npy(content: bytes, ndim: int) -> np.ndarray:
    """The array (float32) of a .npy file; ValueError where its header claims other than what follows."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f'it has the version {version} of the format')
    shape, is_fortran, dtype = readers[version](stream)
    if len(shape) != ndim or dtype.kind not in 'fbiu' or min(shape) < 1:
        raise ValueError(
            f'it has the shape {str(shape)[:40]} and the type {str(dtype)[:40]}, not {ndim}D numbers'
        )
    rest = memoryview(content)[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f'its shape {shape} needs another number of bytes than it has')
    values = np.frombuffer(rest, dtype).reshape(shape, order='F' if is_fortran else 'C')
    with np.errstate(over='ignore'):  # what is too large for a float32 is found to be infinite
        return values.astype(np.float32)


def _check_model(manifest: Manifest, model: bytes) -> dict[str, list[int | None]]:
    """Let the process of networks check a model; sizes that it fixes must be those of the tiles."""
    _, facts = run_network(Job(manifest, model, Machine(seconds=SECONDS)))
    order = ['XYZ'.index(axis) for axis in manifest.axes]
    size = [manifest.tile.size[axis] for axis in order] if manifest.tile.size else [None] * 3
    for name, fixed in facts['fixed'].items():
        if any(n is not None and n != m for n, m in zip(fixed, size, strict=True)):
            shown = ', '.join('any' if n is None else str(n) for n in fixed)
            raise UserError(
                f'{manifest.folder}: the model fixes the sizes ({shown}) of {name!r}; state them as '
                'tile.size.'
            )
    return facts['fixed']


@dataclass
class _Found:
    faults: list[str]
    lines: list[str]


def _measure(
    manifest: Manifest, model: bytes, fixed: dict[str, list[int | None]], machine: Machine
) -> _Found:
    """Compare tiles with the whole volume, and measure time and memory of a tile."""
    tile = manifest.tile
    side = -(-48 // tile.multiple) * tile.multiple
    size = tile.size or (side, side, side)
    one = golden_network(manifest, model, size, machine)
    began = time.monotonic()
    one(_noise(manifest, size))
    seconds, voxels = time.monotonic() - began, math.prod(size)
    # less what stays whole: the images as bytes, and the result
    images = 2 * (len(manifest.channels) + len(manifest.output.channels))
    needed = max(one.held - 4 * voxels * images, 0) / voxels
    lines = [
        f'One tile of {size_text(size)} voxels: {seconds:.1f} s with its process',
        f'Memory: {needed:.0f} bytes per voxel of a tile (declared: {manifest.memory:.0f})',
    ]
    if needed > manifest.memory:
        fault = f'memory is {manifest.memory:.0f}, but a tile held {needed:.0f} bytes per voxel; raise it.'
        return _Found([fault], lines)
    if tile.size is None or 'dipole' in manifest.data:
        return _Found([], [*lines, 'Tiles: none, the whole volume at a time'])
    step = (size[0] - 2 * tile.margin - tile.blend) // tile.multiple * tile.multiple
    shape = (size[0] + (TILES - 1) * max(step, tile.multiple), size[1], size[2])
    if any(sizes != [None] * 3 for sizes in fixed.values()):
        return _Found(
            [], [*lines, 'Tiles: the model fixes their size, so they cannot be compared with the whole']
        )
    if math.prod(shape) > WHOLE_LIMIT:
        return _Found([], [*lines, 'Tiles: too large here to be compared with the whole volume'])
    whole = golden_network(manifest, model, shape, machine)
    parts = golden_network(manifest, model, shape, machine)
    parts.plan = replace(parts.plan, size=size)
    parts.numbers = parts.plan.needed(parts.mask)
    noisy = _noise(manifest, shape)
    expected, found = whole(noisy), parts(noisy)
    seam = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    lines.append(
        f'Tiles: differ from the whole volume by {seam:.1e} of its largest value (allowed: {SEAM:.1e})'
    )
    faults = []
    if not seam <= SEAM:
        faults.append(
            f'tile.margin is {tile.margin}, but the network sees further: tiles differ from the whole '
            'volume by '
            f'{seam:.1e} of its largest value; raise the margin or multiple, and {SEAM:.0e} is allowed.'
        )
    return _Found(faults, lines)


def _noise(manifest: Manifest, shape: Triple) -> dict[str, np.ndarray]:
    """Noise of the amplitude of the training, for each image, in the unit of its channel."""
    rng = np.random.default_rng(0)
    found = {}
    for channel in manifest.channels:
        if channel.data in ('mask', 'b0', 'dipole'):
            continue
        spread, known = 0.05, dict(manifest.training.values).get(channel.data)
        if known:
            spread = max(map(abs, known)) / 2
        elif channel.data in RELAXATION:
            spread = 20.0
        elif channel.data in ('magnitude', 'quality'):
            spread = 0.5
        values = spread * rng.standard_normal(shape, np.float32)
        positive = channel.data in ('magnitude', 'quality', 'noise', *RELAXATION)
        found[channel.data] = np.abs(values) if positive else values
    return found
