"""Volumes of the viewer: few bytes, whole numbers, a stated step. Arrays in, bytes out."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from numba import njit
from scipy.ndimage import maximum_filter1d

from bids_qsm.plotting.mosaic import Box, box_of, spacing_of

COARSEST = 4
"""Factor on the step beyond which voxels are joined instead."""
NOTHING = -32768
"""Where there is no value."""
LEVELS = 250
"""Of the window of a map; of grey values, which have no unit, up to their 99.9th percentile."""
_MARGIN = 4.0  # mm around the brain
_MOST = 32767
_GZIP = 31  # with the head of gzip, without time and name
_SAMPLE = 8  # every eighth slice tells how large a volume is when compressed
_SMALL = 500_000  # voxels of a volume that is compressed to know its size


@dataclass(frozen=True)
class Volume:
    """An image (3D) of the viewer: values, NaN where there is none; or labels where ``step`` is 0."""

    data: np.ndarray
    step: float
    """Distance of the values that are told apart."""

    @property
    def is_labels(self) -> bool:
        return self.step == 0


def grey_step(data: np.ndarray, mask: np.ndarray) -> float:
    """Step of an image without unit: a 250th of what nearly all of the brain stays below; 1 where it is 0."""
    inside = np.abs(data[mask & np.isfinite(data)])
    top = float(np.percentile(inside, 99.9)) if inside.size else 0.0
    return top / LEVELS if top > 0 else 1.0


def crop(mask: np.ndarray, affine: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of an image that shows the brain and 4 mm around it, and the affine of that part."""
    box: Box = box_of(mask, affine, _MARGIN)
    part = tuple(slice(first, last + 1) for first, last in box)
    moved = np.array(affine, float)
    moved[:3, 3] = (affine @ [*(first for first, _ in box), 1.0])[:3]
    return part, moved


def around(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The brain and up to 4 mm around it along each axis of the voxels: without the face."""
    part, _ = crop(mask, affine)
    near = mask[part].astype(np.uint8)
    for axis, side in enumerate(spacing_of(affine)):
        near = maximum_filter1d(near, 2 * round(_MARGIN / side) + 1, axis, mode='constant')
    found = np.zeros_like(mask, bool)
    found[part] = near > 0
    return found


def thin(volume: Volume, affine: np.ndarray) -> tuple[Volume, np.ndarray]:
    """Join pairs of voxels along the axis on which voxels are shortest, and give the affine of the result.

    Values are averaged, and of labels the larger is kept. A last voxel without a partner is left out.
    """
    axis = int(np.argmin(spacing_of(affine)))
    even = volume.data.shape[axis] // 2 * 2
    first, second = (volume.data.take(range(start, even, 2), axis) for start in (0, 1))
    joined = np.maximum(first, second) if volume.is_labels else _mean(first, second)
    wider = np.array(affine, float)
    wider[:3, 3] += affine[:3, axis] / 2
    wider[:3, axis] *= 2
    return replace(volume, data=joined), wider


def _mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of two values, or the one that is there."""
    return np.where(np.isnan(first), second, np.where(np.isnan(second), first, (first + second) / 2))


def whole_numbers(one: Volume, coarseness: int = 1) -> np.ndarray:
    """Labels, or values in steps (times ``coarseness``) cut to the range of int16; `NOTHING` for NaN."""
    if one.is_labels:
        return one.data.astype(np.int16)
    steps = one.data / np.float32(one.step * coarseness)
    np.clip(steps, -_MOST, _MOST, out=steps)
    np.rint(steps, out=steps)
    steps[np.isnan(steps)] = NOTHING
    return steps.astype(np.int16)


def packed(values: np.ndarray) -> bytes:
    """Compress int16 values (3D) by gzip, the same bytes each time; viewer.js undoes it.

    Stored are differences from the median of the three neighbours before, one on each axis (0 where there is
    none), with the sign in the lowest bit: all low bytes, first axis fastest, and then all high bytes.
    """
    return _compressed(_differences(values))


def unpacked(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """What `packed` compressed; ValueError where the bytes are damaged, or of another shape."""
    try:
        planes = np.frombuffer(zlib.decompress(data, _GZIP), np.uint8).reshape(2, -1)
        zigzag = planes[0] | planes[1].astype(np.uint16) << 8
        steps = (zigzag >> 1).view(np.int16) ^ -(zigzag & 1).view(np.int16)
        return _undone(steps.reshape(shape, order='F'))
    except zlib.error as error:
        raise ValueError(str(error)) from None


@njit(cache=True)
def _undone(steps: np.ndarray):
    found = np.zeros_like(steps)
    for z in range(steps.shape[2]):
        for y in range(steps.shape[1]):
            for x in range(steps.shape[0]):
                a = found[x - 1, y, z] if x else 0
                b = found[x, y - 1, z] if y else 0
                c = found[x, y, z - 1] if z else 0
                found[x, y, z] = steps[x, y, z] + max(min(a, b), min(max(a, b), c))  # modulo 2**16
    return found


def sample_size(volume: Volume, coarseness: int = 1) -> int:
    """Bytes that `packed` gives; of large volumes only every eighth slice is looked at."""
    if volume.data.size < _SMALL or volume.data.shape[2] < _SAMPLE:
        return len(packed(whole_numbers(volume, coarseness)))
    first = _SAMPLE // 2
    places = (slice(first, None, _SAMPLE), slice(first - 1, -1, _SAMPLE))
    some, below = (whole_numbers(replace(volume, data=volume.data[..., at]), coarseness) for at in places)
    return round(len(_compressed(_differences(some, below))) * volume.data.size / some.size)


def _differences(values: np.ndarray, below: np.ndarray | None = None) -> np.ndarray:
    """Differences from the median of neighbours, of which those on the last axis may be given."""
    a, b = _before(values, 0), _before(values, 1)
    c = _before(values, 2) if below is None else below
    median = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    steps = values - median  # modulo 2**16
    return ((steps << 1) ^ (steps >> 15)).view(np.uint16)


def _before(values: np.ndarray, axis: int) -> np.ndarray:
    """The neighbour with the lower index on an axis, 0 beyond the edge."""
    moved = np.zeros_like(values)
    np.moveaxis(moved, axis, 0)[1:] = np.moveaxis(values, axis, 0)[:-1]
    return moved


def _compressed(zigzag: np.ndarray) -> bytes:
    flat = np.ravel(zigzag, order='F')
    planes = (flat & 255).astype(np.uint8).tobytes() + (flat >> 8).astype(np.uint8).tobytes()
    compress = zlib.compressobj(6, zlib.DEFLATED, _GZIP, strategy=zlib.Z_FILTERED)
    return compress.compress(planes) + compress.flush()


def precisions() -> Iterator[tuple[int, int, int]]:
    """How coarse to try: factor on the step, and how often voxels join, of the first map and of others.

    >>> [next(tried) for tried in [precisions()] for _ in range(6)]
    [(1, 0, 0), (2, 0, 0), (4, 0, 0), (2, 0, 1), (4, 0, 1), (2, 1, 1)]
    """
    yield 1, 0, 0
    for n in count():
        yield 2, n // 2, (n + 1) // 2
        yield COARSEST, n // 2, (n + 1) // 2
