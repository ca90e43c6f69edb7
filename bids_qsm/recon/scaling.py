"""Scaling of phase images: the two stored values that mean -pi and pi."""

from dataclasses import dataclass

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array

_BITS = (8, 10, 11, 12, 13, 14, 15, 16)
FULL_TURNS = (
    ('radians', -np.pi, np.pi),
    ('radians from 0', 0, 2 * np.pi),
    ('degrees', -180, 180),
    ('degrees from 0', 0, 360),
    ('thousandths of a radian', -1000 * np.pi, 1000 * np.pi),
    ('ten-thousandths of a radian', -10000 * np.pi, 10000 * np.pi),
    *((f'{bits} bits from 0', 0, 2**bits) for bits in _BITS),
    *((f'{bits} bits', -(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in _BITS),
)
SMOOTH = {2: 0.15, 1: 0.25}
"""Largest of so many steps to either side of a wrap, as a share of its height: noise has few such places."""
FEWEST_WRAPS = {2: 20, 1: 8}
MANY_WRAPS = 200
"""Wraps whose height is believed though the values have none of the usual ends."""
SHARE = 0.35
"""Least share that the wraps of one height have of all jumps between smooth steps."""
PEAK = 0.03
"""Half width of the peak of the heights of wraps, as a share of the turn: noise and curvature widen it."""
_MOST_VALUE = 1e15
"""Beyond any stored value; differences of values are finite in single precision."""
_MOST = 64
"""Lines of voxels along an axis that are looked at, to either side."""
NO_USUAL = 'no usual range'
TOLD = 'as told'
_UNIT = 1.05
"""Values within -1 to 1 may be in units of half a turn."""


@dataclass(frozen=True)
class Range:
    """Values that mean -pi and pi; ``n`` is the number of wraps that say so; ``note`` where ends disagree."""

    name: str
    low: float
    high: float
    n: int = 0
    note: str = ''

    @property
    def turn(self):
        return self.high - self.low

    @property
    def is_usual(self):
        """Whether vendors store phase so, or the user said it."""
        return self.name in (TOLD, *(name for name, *_ in FULL_TURNS))

    @property
    def zero(self):
        # angles from 0 to a full turn start at phase 0, integers from 0 at phase -pi
        return 0.0 if self.name in ('radians from 0', 'degrees from 0') else (self.low + self.high) / 2

    def beyond(self, values: Array):
        """Share of the values that do not lie between the ends."""
        slack = 0.01 * self.turn
        return float(((values < self.low - slack) | (values > self.high + slack)).mean())

    def is_like(self, other: 'Range'):
        slack = 0.08 * self.turn
        return abs(self.low - other.low) < slack and abs(self.high - other.high) < slack

    def __str__(self):
        if self.name == 'radians':
            return 'in radians'
        return f'scaled ({self.name}): {self.zero:.6g} means phase 0, and a full turn is {self.turn:.6g}'


def phase_to_radians(raw: Array, *, scaling: str = 'auto'):
    """Convert a phase image of any vendor to radians in [-pi, pi).

    'auto' takes the full turn from the height of wraps. Where the phase passes pi between two voxels, the
    stored value falls by the turn P less the step that the phase makes there. That step is the mean of those
    before and behind, so that

    .. math:: h = |d_i - (d_{i-1} + d_{i+1}) / 2|

    has a sharp peak at P, whatever the range of the values; in noise h has none. The ends of the range, found
    from where the histogram of the values stops and not from their extremes, then make P exact; where they
    contradict the wraps, the wraps win. Without wraps, as in noise around a short echo, the histogram must be
    as full at one end as at the other, and stop there. Each volume is looked at by itself; one that cannot
    be told takes the range of the others where its values lie in it.

    Parameters
    ----------
    raw : ndarray of float, shape (x, y, z) or (x, y, z, echo)
        Values as stored; those that are not finite are left out of the search and become 0, as do rare values
        more than a turn away from all others.
    scaling : str
        'auto', 'radians', 'degrees', or 'LOW,HIGH': the values that mean -pi and pi.

    Returns
    -------
    radians : ndarray of float32
    note : str
        What was found, in sentences.

    Raises
    ------
    UserError
        Where the values cannot be a phase, their scale cannot be told, or ``scaling`` cannot be read.

    Examples
    --------
    >>> rad, note = phase_to_radians(np.array([0.0, 1024, 2048, 4095]), scaling='0,4096')
    >>> (rad[:3] / np.pi).tolist()
    [-1.0, -0.5, 0.0]
    """
    return read_phase(raw, scaling)[:2]


def read_phase(raw: Array, scaling: str):
    """Radians and note as of `phase_to_radians`, and the `Range` of each volume."""
    if scaling != 'auto':
        found = _named_range(scaling)
        return _convert(raw, found, np.empty_like(raw, np.float32)), f'The phase is {found}.', [found]
    volumes = [raw] if raw.ndim < 4 else [raw[..., i] for i in range(raw.shape[3])]
    ranges = _find_ranges(volumes)
    radians = np.empty(raw.shape, np.float32, order='F' if np.isfortran(raw) else 'C')
    targets = [radians] if raw.ndim < 4 else [radians[..., i] for i in range(raw.shape[3])]
    for volume, found, target in zip(volumes, ranges, targets, strict=True):
        # a range with usual ends has no values a turn away from them
        _convert(volume, found, target, np.inf if found.name == NO_USUAL else 1.01)
    different = list(dict.fromkeys(str(found) for found in ranges))
    note = f'The phase is {different[0]}.'
    if len(different) > 1:
        numbers = [[str(i) for i, f in enumerate(ranges, 1) if str(f) == text] for text in different]
        told = '; '.join(f'volume {", ".join(n)} {t}' for n, t in zip(numbers, different, strict=True))
        note = f'Images differ in scale: {told}.'
    return radians, ' '.join((note, *dict.fromkeys(found.note for found in ranges if found.note))), ranges


def _convert(raw: Array, found: Range, out: Array, most: float = np.inf):
    """Fill ``out`` with radians; values of more than ``most`` turns become 0."""
    out[...] = raw
    with np.errstate(over='ignore', invalid='ignore'):
        out -= np.float32(found.zero)
        out *= np.float32(2 * np.pi / found.turn)
    full = np.float32(2 * np.pi)
    out[~(np.abs(out) <= min(most * full, np.finfo(np.float32).max))] = 0
    if max(-out.min(), out.max()) > np.pi:
        out -= full * np.floor(out / full + np.float32(0.5))
    return out


def _named_range(scaling: str):
    if scaling == 'radians':
        return Range('radians', -np.pi, np.pi)
    if scaling == 'degrees':
        return Range('degrees', -180.0, 180.0)
    try:
        low, high = (float(part) for part in scaling.split(','))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise UserError(
            f"Phase scaling {scaling!r} is not known: give 'auto', 'radians', 'degrees', "
            "or the values of -pi and pi as 'LOW,HIGH', for example '0,4096'."
        )
    return Range(TOLD, low, high)


def _find_ranges(volumes: list[Array]):
    """Range of each volume; one in which all values are equal takes that of another."""
    lines = [_lines(volume) for volume in volumes]
    values = [_sample(np.concatenate([line[np.isfinite(line)] for line in own])) for own in lines]
    varied = [i for i, own in enumerate(values) if own.size and own.min() < own.max()]
    if not varied:
        raise UserError(
            'All values of the phase image are equal; check that it is the phase part of the series.'
        )
    found = {i: _find_range(values[i], lines[i]) for i in varied}
    if not any(found.values()) and len(varied) > 1:  # each may have too few wraps, but not all together
        every = [line for i in varied for line in lines[i]]
        found = dict.fromkeys(varied, _find_range(np.concatenate([values[i] for i in varied]), every))
    best = sorted(filter(None, found.values()), key=lambda one: -one.n)
    ranges = {}
    for i in varied:
        alike = (one for one in best if found[i] and one.is_like(found[i]))
        holding = (one for one in best if one.beyond(values[i]) < 0.005)
        ranges[i] = next(alike, None) or next(holding, None) or _unwrapped_radians(values[i])
    return [ranges.get(i, ranges[varied[0]]) for i in range(len(volumes))]


def _lines(volume: Array):
    """Lines of voxels along each axis, every so many of them, shape (lines, voxels); fill values are NaN."""
    found = []
    for axis in range(3):
        thin = tuple(
            slice(None) if a == axis else slice(None, None, -(-volume.shape[a] // _MOST)) for a in range(3)
        )
        line = np.moveaxis(volume[thin], axis, -1).reshape(-1, volume.shape[axis]).astype(np.float32)
        line[~(np.abs(line) < _MOST_VALUE)] = np.nan
        found.append(line)
    sample = np.concatenate([line.ravel() for line in found])
    sample = sample[np.isfinite(sample)]
    values, counts = np.unique(sample[:: max(1, sample.size // 100_000)], return_counts=True)
    beside = np.maximum(np.r_[0, counts[:-1]], np.r_[counts[1:], 0])
    # a value of a large part of the image, and not those next to it, is background
    fills = values[(counts > 0.02 * counts.sum()) & (counts > 4 * beside)]
    for line in found if len(values) > 8 else ():
        for fill in fills:
            line[line == fill] = np.nan
    return found


def _sample(values: Array):
    """So many of the values that the search takes a moment."""
    return values[:: (values.size // 400_000) | 1]


def _jumps(line: Array, reach: int):
    """Height of each jump between ``reach`` smooth steps to either side, its middle, the step there."""
    step = np.diff(line, axis=-1)
    jump = step[:, reach : step.shape[1] - reach]
    if not jump.size:
        return np.empty((3, 0), np.float32)
    n = jump.shape[1]
    around = [step[:, i : i + n] for i in range(2 * reach + 1) if i != reach]
    with np.errstate(invalid='ignore'):
        smooth = np.maximum.reduce([np.abs(s) for s in around]) < SMOOTH[reach] * np.abs(jump)
    slope = sum(s[smooth] for s in around) / len(around)
    below, above = line[:, reach : reach + n][smooth], line[:, reach + 1 : reach + 1 + n][smooth]
    return np.stack([np.abs(jump[smooth] - slope), (below + above) / 2, np.abs(slope)])


def _find_range(values: Array, lines: list[Array]):
    """Range by the wraps, else by the ends of the values; None where neither tells it."""
    low, high = map(float, np.quantile(values, [0.01, 0.99]))
    if not low < high:
        return None
    low, high = low - (high - low) / 98, high + (high - low) / 98
    levels = np.unique(values[(values >= low) & (values <= high)].astype(np.float64))
    whole = bool((levels % 1 == 0).all())
    step = float(np.gcd.reduce(np.diff(levels).astype(np.int64))) if whole and len(levels) > 1 else 0.0
    if high - low < 16 * step:
        return None
    for reach in SMOOTH:
        peak = _peak(np.concatenate([_jumps(line, reach) for line in lines], axis=1), high - low, reach)
        found = peak and _by_wraps(values, *peak, step)
        if found:
            return found
    jumps = np.concatenate([np.abs(np.diff(line)).ravel() for line in lines])
    jumps = jumps[np.isfinite(jumps)]
    is_circular = (jumps > 0.75 * (high - low)).sum() > 1e-3 * jumps.size
    return _by_ends(values, low, high, step) if is_circular else None


def _peak(jumps: Array, span: float, reach: int):
    """Height of the wraps, the value halfway of them, and their number; None without a clear peak."""
    height, middle, slope = jumps[:, jumps[0] > 0.2 * span]
    order = np.sort(height)
    near = np.searchsorted(order, order * (1 + PEAK)) - np.searchsorted(order, order * (1 - PEAK))
    if near.max(initial=0) < max(FEWEST_WRAPS[reach], SHARE * len(order)):
        return None
    wraps = np.abs(height / order[near.argmax()] - 1) < PEAK
    first, centre, last = np.quantile(middle[wraps], [0.25, 0.5, 0.75])
    # where the phase is flat, noise makes the wraps, which are then too low
    turn = float(np.median(height[wraps & (slope >= np.median(slope[wraps]))]))
    # all wraps lie about one value, unless an offset was added behind them
    is_one = last - first < 0.1 * turn or near.max() >= MANY_WRAPS
    return (turn, float(centre), int(near.max())) if is_one else None


def _by_wraps(values: Array, turn: float, middle: float, n: int, step: float):
    """Range with a full turn of the height of ``n`` wraps; None where these are too few to be sure."""
    ends = [_end(values, middle + side * turn / 2, turn, side, step) for side in (-1, 1)]
    found, note = _name(ends, step, turn), ''
    if found is None:
        if n < MANY_WRAPS:
            return None
        found = Range(NO_USUAL, middle - turn / 2, middle + turn / 2)
    # edges of an object without texture jump as well, but no value lies between
    is_usual = any(found.name == name for name, *_ in FULL_TURNS)
    if not is_usual and np.mean(np.abs(values - middle) < turn / 4) < 0.01:
        return None
    beyond = found.beyond(values)
    if beyond or found.name == NO_USUAL:
        least, most = float(values.min()), float(values.max())
        note = (
            f'The values reach from {least:.6g} to {most:.6g} ({beyond:.2g} of them beyond that turn), but '
            f'the phase wraps by {turn:.4g}, which was taken.'
        )
    return Range(found.name, found.low, found.high, n, note)


def _end(values: Array, near: float, turn: float, side: int, step: float):
    """Value ``near`` which the histogram stops, whatever lies beyond, and how uncertain it is."""
    out = side * (values[np.abs(values - near) < 0.1 * turn] - near) / turn
    out = out[out < 0.06]
    counts, edges = np.histogram(out, max(5, int(0.16 / max(0.002, 2 * step / turn))), (-0.1, 0.06))
    inner = len(counts) * 2 // 5
    usual = np.median(counts[:inner])
    if usual >= 20:
        last = inner + int(np.argmax(np.r_[counts[inner:], 0] < 0.25 * usual))
        # the last level of integers, or part of a bin, is less full
        last += last < len(counts) and counts[last] > 0.02 * usual
        out = out[out <= edges[last]]
    return near + side * turn * float(out.max(initial=-0.1)), 3 * 0.1 * turn / max(len(out), 1)


def _name(ends: list[tuple[float, float]], step: float, turn: float):
    """The usual range with these ends, or one about 0 or from 0, of about the ``turn``; None otherwise."""
    (low, low_slack), (high, high_slack) = ends
    least = max(1.6 * step, 0.004 * turn)
    low_slack, high_slack = max(low_slack, least), max(high_slack, least)
    for name, first, last in FULL_TURNS:
        if abs(first - low) <= low_slack and abs(last - high) <= high_slack:
            if 'bits' in name and not step:
                continue
            return Range(name, first, last)
    size = max(-low, high)
    if abs(2 * size - turn) <= 0.05 * turn and abs(low + high) <= low_slack + high_slack:
        return Range('symmetric about 0', -size, size)
    if abs(low) <= low_slack and abs(high - turn) <= 0.05 * turn:
        # 0 to 996 in steps of 4 is a turn of 1000; 0 to 1000 is one as well
        last = min(high, high + step, key=lambda value: len(f'{value:.6g}'.rstrip('0')))
        return Range('from 0', 0.0, last)
    return None


def _by_ends(values: Array, low: float, high: float, step: float):
    """Range from both ends of the values, where these are as full as what lies next to them; or None."""
    turn, ends = high - low, []
    counts = []
    for side, near in ((-1, low), (1, high)):
        ends.append(_end(values, near, turn, side, step))
        depth = side * (ends[-1][0] - values) / turn
        rim, inner = np.mean((depth >= 0) & (depth < 0.02)), np.mean((depth >= 0.02) & (depth < 0.06)) / 2
        if rim < 0.6 * inner or np.mean(depth < -0.01) > 0.002:
            return None
        counts.append(inner)
    if min(counts) < 0.3 * max(counts) or min(counts) * len(values) < 20:
        return None
    return _name(ends, step, turn)


def _unwrapped_radians(values: Array):
    """Radians where values within a turn, beyond 1 and no integers can be little else."""
    size = float(np.abs(values).max())
    if _UNIT < size <= np.pi * 1.002 and (values[:1000] % 1 != 0).any():
        return Range('radians', -np.pi, np.pi)
    raise UserError(
        f'The phase image (values {values.min():.6g} to {values.max():.6g}) does not look like phase: it has '
        'no wraps of one height, and its two ends do not meet as -pi and pi do. Check that it is not a '
        'magnitude or field map, or state its scaling with --phase-scaling (radians, degrees, or LOW,HIGH).'
    )
