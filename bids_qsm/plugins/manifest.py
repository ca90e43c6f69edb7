"""The manifest of a plug-in: what its network takes and gives, read and checked field by field."""

import hashlib
import json
import math
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bids_qsm.errors import UserError, plain
from bids_qsm.plugins.entries import (
    Reader,
    are_numbers,
    is_name,
    is_one_of,
    is_range,
    is_text,
    is_whole,
    listed,
)
from bids_qsm.recon.registry import is_within

FILE = 'manifest.json'
STEPS = {
    'inversion': ('field', 'mask', 'noise', 'magnitude', 'r2star'),
    'onestep': ('field', 'mask', 'noise', 'magnitude', 'r2star'),
    'background': ('field', 'mask', 'noise', 'r2star'),
    'mask': ('magnitude', 'quality'),
    'separation': ('chi', 'field', 'mask', 'r2prime', 'r2star', 'magnitude'),
}
"""Step -> images that its network may take: the local field for 'inversion' and 'separation', else the total
one."""
SOURCES = ('paramagnetic', 'diamagnetic')
"""Channels that a network of the step 'separation' gives, in this order."""
RELAXATION = ('r2prime', 'r2star')
RANGED = ('field', 'chi', *RELAXATION)
"""Images whose values in the training a manifest may state."""
OF_LOOP = ('x', 'gradient')
"""What unrolled networks may take beside these: susceptibility, and the gradient of the fidelity."""
OF_GRID = ('b0', 'dipole')
FIELD_UNITS = ('ppm', 'Hz', 'rad')
UNITS = {
    'field': FIELD_UNITS,
    'noise': FIELD_UNITS,
    'chi': ('ppm', 'ppb'),
    'r2prime': ('1/s',),
    'r2star': ('1/s',),
    'x': ('ppm', 'ppb'),
    'gradient': ('ppm',),
}
OUTPUT_UNITS = {
    'inversion': ('ppm', 'ppb'),
    'onestep': ('ppm', 'ppb'),
    'background': FIELD_UNITS,
    'mask': ('probability',),
    'separation': ('ppm', 'ppb'),
}
LARGEST_MANIFEST = 2**18
LARGEST_MODEL = 2**29
LARGEST_ARRAY = 2**27
LARGEST_TILE = 1024


Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Scale:
    """Constants of a normalisation: (value - mean) / sd."""

    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True)
class Channel:
    """One channel of an input: which image, in which unit, how normalised.

    ``normalise`` is a `Scale`, 'volume' (mean and standard deviation within the mask of this image) or 'p99'
    (divided by its 99th percentile). ``echo_time`` (s) is that of a field in rad, which may be ``wrapped`` to
    one turn: -pi or more, and less than pi.
    """

    data: str
    unit: str = ''
    sign: int = 1
    echo_time: float = math.nan
    normalise: Scale | str = Scale()
    wrapped: bool = False


@dataclass(frozen=True)
class Tensor:
    """An input of the network."""

    name: str
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True)
class Result:
    """One channel of the output: scale * value + mean, in ``unit``, with ``sign``."""

    unit: str
    sign: int = 1
    echo_time: float = math.nan
    scale: Scale | str = Scale()


@dataclass(frozen=True)
class Output:
    """The output of the network: one channel, or those of `SOURCES`; of masks, above ``threshold``."""

    name: str
    channels: tuple[Result, ...] = ()
    threshold: float = 0.5


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``size`` voxels (None: the whole volume), of which ``margin`` at inner borders is thrown away.

    ``margin`` is how far the network sees, all layers together; neighbours blend over ``blend`` voxels more.
    Sizes and starts are multiples of ``multiple``, as pooling asks for.
    """

    size: tuple[int, int, int] | None
    margin: int
    blend: int = 0
    multiple: int = 1


@dataclass(frozen=True)
class Unrolled:
    """Steps of descent on the fidelity, each followed by the network; see `network.unrolled`."""

    iterations: int
    step_size: float
    start: str = 'zero'
    weights: str = 'mask'
    damping: float = 0.0


@dataclass(frozen=True)
class Training:
    """Ranges (lowest, highest) of what the network was trained on; None where the author does not say."""

    field_strength: tuple[float, float] | None = None
    voxel_size: tuple[float, float] | None = None
    b0_angle: tuple[float, float] | None = None
    residual: float | None = None
    values: tuple[tuple[str, tuple[float, float]], ...] = ()
    """Name of an image (`RANGED`), and the range of its values in the unit of its channel."""


@dataclass(frozen=True)
class HashedFile:
    """A file of the folder, and the SHA-256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Golden:
    """Data (images by name, on the grid of the training, B0 along z) and what comes of them."""

    data: tuple[tuple[str, HashedFile], ...]
    output: HashedFile
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Manifest:
    """What a plug-in says of itself; docs/plugins.md describes each field."""

    folder: Path
    name: str
    version: str
    licence: str
    citation: str
    step: str
    model: HashedFile
    inputs: tuple[Tensor, ...]
    output: Output
    axes: str
    resample_mm: tuple[float, float, float] | None
    b0: str
    tile: Tiling
    memory: float
    training: Training
    golden: Golden
    unrolled: Unrolled | None = None
    faults: tuple[str, ...] = field(default=(), repr=False)

    @property
    def title(self) -> str:
        return f'{self.name} {self.version}'

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(channel for tensor in self.inputs for channel in tensor.channels)

    @property
    def data(self) -> tuple[str, ...]:
        """Names of what the network takes, each once."""
        return tuple(dict.fromkeys(channel.data for channel in self.channels))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that results depend on."""
        return self.folder / FILE, self.folder / self.model.file

    def read(self, one: HashedFile, *, largest: int) -> bytes:
        """Content of a file of the folder; UserError where it is another than the manifest says."""
        content = read_bytes(self.folder, one.file, largest)
        found = hashlib.sha256(content).hexdigest()
        if found != one.sha256:
            raise UserError(
                f'{self.folder / one.file} has the SHA-256 {found}, but the manifest says {one.sha256}: the '
                'file was changed or damaged; get the plug-in again, or correct the manifest if it is yours.'
            )
        return content

    def read_model(self) -> bytes:
        """The model as bytes."""
        return self.read(self.model, largest=LARGEST_MODEL)


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a plug-in; UserError with its first fault where it has any."""
    manifest, faults = examine(folder)
    if manifest is None or faults:
        more = (
            f' ({len(faults) - 1} more faults; bids_qsm plugin check lists them)' if len(faults) > 1 else ''
        )
        raise UserError(f'{Path(folder) / FILE}: {faults[0]}{more}')
    return manifest


def examine(folder: str | Path) -> tuple[Manifest | None, list[str]]:
    """The manifest of a folder, None where it cannot be read, and one sentence for each of its faults."""
    folder = Path(folder)
    if not folder.is_dir():
        return None, [f'there is no folder {plain(folder)}; give that with {FILE} and the model.']
    try:
        text = read_bytes(folder, FILE, LARGEST_MANIFEST).decode()
        content = json.loads(text, parse_constant=_no_constant)
    except UserError as error:
        return None, [str(error)]
    except (ValueError, RecursionError) as error:
        return None, [f'it is not valid JSON ({plain(error)[:200]}); correct it.']
    if not isinstance(content, dict):
        return None, ['it is not a JSON object; begin it with { and "format": 1.']
    reader = Reader(content, 'a manifest')
    return _manifest(folder, reader), reader.faults


def read_bytes(folder: Path, name: str, largest: int) -> bytes:
    """Content of a plain file directly in ``folder``, no link, of at most ``largest`` bytes."""
    path = folder / name
    if not is_plain_name(name):
        raise UserError(f'{plain(name)!r} is not the plain name of a file in the folder of the plug-in.')
    try:
        # a link could name any file of the machine
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = 'is a link' if path.is_symlink() else f'cannot be read ({error.strerror})'
        raise UserError(f'{path} {why}; put the file itself into the folder of the plug-in.') from None
    with os.fdopen(descriptor, 'rb') as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f'{path} is not a file; put a file there.')
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise UserError(
            f'{path} is larger than {largest / 1e6:.3g} MB, the most that is read; make it smaller.'
        )
    return content


def is_plain_name(name: str) -> bool:
    """Whether a text names a file in a folder, not a path.

    >>> is_plain_name('model.onnx'), is_plain_name('../model.onnx'), is_plain_name('/etc/passwd')
    (True, False, False)
    """
    return re.fullmatch(r'[0-9A-Za-z_+-][0-9A-Za-z_.+-]{0,100}', name) is not None


def _no_constant(name: str):
    raise ValueError(f'{name} is not a number')


def _manifest(folder: Path, r: Reader) -> Manifest:
    r.take('format', 1, lambda v: v == 1 and is_whole(1, 1)(v), '1, the format that this version reads')
    name = r.take('name', '', is_name(40), 'a name of at most 40 letters, digits, - and _')
    version = r.take('version', '', is_name(20), 'a version such as "1.0", as a text')
    licence = r.take('licence', '', is_text(100), 'the licence of the network, as "CC-BY-4.0"')
    citation = r.take(
        'citation', '', is_text(400), 'the paper with its DOI, in one line of at most 400 signs'
    )
    step = r.take('step', 'inversion', is_one_of(STEPS), listed(STEPS))
    model = _hashed(r.inner('model'))
    unrolled = _unrolled(r.inner('unrolled', needed=False), step)
    inputs = _inputs(r, step, unrolled is not None)
    output = _output(r.inner('output'), step)
    for one in output.channels:
        if one.scale == 'as field' and not any(
            c.data == 'field' and c.normalise == 'volume' for tensor in inputs for c in tensor.channels
        ):
            r.fault('output.scale is "as field", but no "field" has "normalise": "volume"; give mean and sd.')
    axes = r.take(
        'axes',
        'XYZ',
        lambda v: sorted(v) == ['X', 'Y', 'Z'],
        'the order of the axes after batch and channel, "XYZ"',
    )
    resample = _voxel_size(r.inner('voxel_size'))
    b0 = r.take('b0', 'any', is_one_of(('any', 'axial', 'vector', 'kernel')), 'any, axial, vector or kernel')
    tile = _tile(r.inner('tile'))
    memory = r.take(
        'memory',
        1e3,
        lambda v: is_within(v, 4, 1e6),
        'bytes that the network holds per voxel of a tile',
    )
    training = _training(r.inner('training'), step)
    golden = _golden(r.inner('golden'))
    r.end()
    found = Manifest(
        *(
            folder,
            name,
            version,
            licence,
            citation,
            step,
            model,
            inputs,
            output,
            ''.join(axes),
            resample,
            b0,
            tile,
        ),
        *(float(memory), training, golden, unrolled),
    )
    r.faults += _disagreements(found)
    return found


def _disagreements(one: Manifest):
    """Faults of fields that do not go together."""
    data = one.data
    for policy, name in (('vector', 'b0'), ('kernel', 'dipole')):
        if (one.b0 == policy) != (name in data):
            there = '' if name in data else 'not '
            yield f'b0 is {one.b0!r}, but {name!r} is {there}an input; "{policy}" goes with it.'
    if one.step == 'separation':
        if not {'chi', 'field'} & {*data}:
            yield 'inputs have no channel with "data": "chi" or "field", which is taken apart; add one.'
        if not {*RELAXATION} & {*data}:
            yield f'inputs have no channel with "data": {" or ".join(RELAXATION)}, which tells sources apart.'
    elif one.step != 'mask' and 'field' not in data and one.unrolled is None:
        yield f'inputs have no channel with "data": "field", from which the step {one.step} starts; add it.'
    if one.unrolled is not None and 'x' not in data:
        yield 'inputs have no channel with "data": "x", which an unrolled network improves; add it.'
    known = {name for name, _ in one.golden.data}
    needed = {name for name in data if name not in ('mask', *OF_GRID)}
    missing = needed - known
    if missing:
        yield f'golden.data lacks {", ".join(sorted(missing))}, which the network takes; add a file for each.'
    odd = known - {*needed, 'mask'}
    if odd:
        yield f'golden.data has {plain(", ".join(sorted(odd)))}, which the network does not take; remove it.'


def _hashed(r: Reader | None) -> HashedFile:
    if r is None:
        return HashedFile('', '')
    found = HashedFile(
        r.take('file', '', is_plain_name, 'the plain name of a file in the folder, without a path'),
        r.take(
            'sha256',
            '',
            lambda v: re.fullmatch('[0-9a-f]{64}', v) is not None,
            'the SHA-256, 64 digits in lower case',
        ),
    )
    r.end()
    return found


def _inputs(r: Reader, step: str, is_unrolled: bool) -> tuple[Tensor, ...]:
    entries = r.take(
        'inputs', [], lambda v: isinstance(v, list) and 0 < len(v) <= 16, 'a list of 1 to 16 inputs'
    )
    tensors = []
    for number, content in enumerate(entries):
        one = r.within(content, f'inputs[{number}]')
        name = one.take('tensor', '', is_text(100), 'the name of an input of the model')
        channels = one.take(
            'channels', [], lambda v: isinstance(v, list) and 0 < len(v) <= 16, 'a list of 1 to 16 channels'
        )
        read = [
            _channel(one.within(channel, f'channels[{i}]'), step, is_unrolled)
            for i, channel in enumerate(channels)
        ]
        if len(read) > 1 and any(channel.data == 'b0' for channel in read):
            one.fault(
                f'inputs[{number}] has b0 among other channels; b0 is an input of its own, of shape (1, 3).'
            )
        one.end()
        tensors.append(Tensor(name, tuple(read)))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        r.fault('inputs name one tensor twice; put its channels into one entry.')
    return tuple(tensors)


def _channel(r: Reader, step: str, is_unrolled: bool) -> Channel:
    known = [*STEPS[step], *(OF_LOOP if is_unrolled else ()), *(() if step == 'mask' else OF_GRID)]
    data = r.take('data', known[0], is_one_of(known), f'what the step {step} has: {", ".join(known)}')
    units = UNITS.get(data)
    unit = r.take('unit', '', is_one_of(units), listed(units)) if units else ''
    sign, echo_time = _sign_and_time(r, unit)
    constant = data in (*OF_LOOP, *OF_GRID, 'mask')
    normalise = _scale(r, 'normalise', () if constant else ('volume', 'p99'))
    may_wrap = data == 'field' and unit == 'rad' and step in ('onestep', 'background')
    wrapped = r.take(
        'wrapped',
        False,
        lambda v: isinstance(v, bool) and (may_wrap or not v),
        'true or false, and true only of a total field in rad',
        needed=False,
    )
    r.end()
    return Channel(data, unit, sign, echo_time, normalise, wrapped)


def _sign_and_time(r: Reader, unit: str):
    sign = r.take('sign', 1, lambda v: v in (1, -1), '1 (positive: paramagnetic) or -1', needed=False)
    time = r.take(
        'echo_time',
        math.nan,
        lambda v: is_within(v) and 0 < v < 1 and unit == 'rad',
        'the echo time (s) of a field in rad, and only of that',
        needed=unit == 'rad',
    )
    return sign, time


def _scale(r: Reader, key: str, words: tuple[str, ...]) -> Scale | str:
    if isinstance(r.content.get(key), str):
        what = ' or '.join(['an object with mean and sd', *words])
        return r.take(key, Scale(), is_one_of(words), what)
    one = r.inner(key, needed=False)
    if one is None:
        return Scale()
    mean = one.take('mean', 0.0, is_within, 'a number')
    sd = one.take('sd', 1.0, lambda v: is_within(v) and v > 0, 'a positive number')
    one.end()
    return Scale(float(mean), float(sd))


def _output(r: Reader | None, step: str) -> Output:
    if r is None:
        return Output('')
    name = r.take('tensor', '', is_text(100), 'the name of the output of the model')
    channels = _sources(r) if step == 'separation' else (_result(r, step),)
    threshold = r.take(
        'threshold',
        0.5,
        lambda v: is_within(v) and 0 < v < 1 and step == 'mask',
        'a probability above which a voxel is in the mask, and only of the step mask',
        needed=False,
    )
    r.end()
    return Output(name, channels, float(threshold))


def _result(r: Reader, step: str) -> Result:
    units = OUTPUT_UNITS[step]
    unit = r.take('unit', units[0], is_one_of(units), listed(units))
    sign, echo_time = _sign_and_time(r, unit)
    return Result(unit, sign, echo_time, _scale(r, 'scale', () if step == 'mask' else ('as field',)))


def _sources(r: Reader) -> tuple[Result, ...]:
    """Channels of a separation, each an object that names its source."""
    count, channels = len(SOURCES), []
    entries = r.take(
        'channels',
        [],
        lambda v: isinstance(v, list) and len(v) == count,
        f'a list of {count} channels, {" and ".join(SOURCES)}',
    )
    for source, content in zip(SOURCES, entries, strict=False):
        one = r.within(content, f'channels[{len(channels)}]')
        one.take('data', source, is_one_of([source]), f'"{source}", as sources stand in this order')
        channels.append(_result(one, 'separation'))
        one.end()
    return tuple(channels) or (Result(''),) * count


def _voxel_size(r: Reader | None):
    if r is None:
        return None
    policy = r.take('policy', 'any', is_one_of(('any', 'resample')), 'any or resample')
    is_needed = policy == 'resample'
    size = r.take('mm', None, are_numbers(3, 0.1, 10), 'three voxel sizes (mm)', needed=is_needed)
    if size is not None and not is_needed:
        r.fault('voxel_size.mm goes with "policy": "resample" alone; remove it, or state the policy.')
    r.end()
    return tuple(map(float, size)) if size is not None and is_needed else None


def _tile(r: Reader | None) -> Tiling:
    if r is None:
        return Tiling(None, 0)
    sizes = are_numbers(3, 1, LARGEST_TILE)
    size = r.take(
        'size',
        None,
        lambda v: v is None or (sizes(v) and all(isinstance(n, int) for n in v)),
        'three whole numbers of voxels, or null for the whole volume',
    )
    margin = r.take('margin', 0, is_whole(0, 500), 'how many voxels away the network sees (0 to 500)')
    blend = r.take('blend', 0, is_whole(0, 500), 'a number of voxels (0 to 500)', needed=False)
    multiple = r.take('multiple', 1, is_whole(1, 256), 'a whole number (1 to 256)', needed=False)
    r.end()
    if size is not None:
        wrong = [n for n in size if n % multiple or n < 2 * margin + blend + multiple]
        if wrong:
            r.fault(
                f'tile.size has {wrong[0]}; it must be a multiple of {multiple} and at least 2 margins, '
                'blend and '
                f'one multiple: {2 * margin + blend + multiple}.'
            )
            size = None
    return Tiling(tuple(size) if size else None, margin, blend, multiple)


def _unrolled(r: Reader | None, step: str) -> Unrolled | None:
    if r is None:
        return None
    if step != 'inversion':
        r.fault(f'unrolled goes with the step inversion, not with {step}; remove it.')
    found = Unrolled(
        r.take('iterations', 1, is_whole(1, 100), 'a whole number (1 to 100)'),
        float(r.take('step_size', 1.0, lambda v: is_within(v) and 0 < v < 4.5, 'a number between 0 and 4.5')),
        r.take('start', 'zero', is_one_of(('zero', 'tkd', 'tv')), 'zero, tkd or tv', needed=False),
        r.take('weights', 'mask', is_one_of(('mask', 'noise')), 'mask or noise', needed=False),
        float(
            r.take('damping', 0, lambda v: is_within(v) and 0 <= v <= 1, 'a number, at most 1', needed=False)
        ),
    )
    r.end()
    return found


def _training(r: Reader | None, step: str) -> Training:
    if r is None:
        return Training()
    keys = {
        'field_strength': 'field strengths (T)',
        'voxel_size': 'voxel sizes (mm)',
        'b0_angle': 'angles (degrees) of B0 to the third axis',
    }
    named = [name for name in RANGED if name in STEPS[step]]
    keys |= {name: f'values of {name} in the unit of its channel' for name in named}
    ranges = {
        key: r.take(
            key,
            None,
            is_range,
            f'[lowest, highest] of the {what}',
            needed=key in ('field_strength', 'voxel_size'),
        )
        for key, what in keys.items()
    }
    residual = r.take(
        'residual',
        None,
        lambda v: is_within(v) and 0 < v <= 10 and step == 'inversion',
        'the largest residual seen, relative to the field, and only of the step inversion',
        needed=False,
    )
    r.end()
    pairs = {key: (float(v[0]), float(v[1])) if v else None for key, v in ranges.items()}
    return Training(
        field_strength=pairs['field_strength'],
        voxel_size=pairs['voxel_size'],
        b0_angle=pairs['b0_angle'],
        residual=residual,
        values=tuple((name, pair) for name in named if (pair := pairs[name]) is not None),
    )


def _golden(r: Reader | None) -> Golden:
    if r is None:
        return Golden((), HashedFile('', ''))
    data = r.take(
        'data',
        {},
        lambda v: isinstance(v, dict) and 0 < len(v) <= 16,
        'an object: name of the image -> its file',
    )
    files = tuple((name, _hashed(r.within(one, f'data.{plain(name)}'))) for name, one in data.items())
    output = _hashed(r.inner('output'))
    tolerance = r.take(
        'tolerance', 1e-4, lambda v: is_within(v) and 0 < v <= 0.01, 'a number, at most 0.01', needed=False
    )
    r.end()
    return Golden(files, output, float(tolerance))
