"""Scaling of phase images: the two stored values that mean -pi and pi."""

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array

NEAR_END = 0.06
"""Largest share of the range without values at either end."""
FULL_TURNS = (
    ('radians', -np.pi, np.pi),
    ('radians from 0', 0, 2 * np.pi),
    ('degrees', -180, 180),
    ('degrees from 0', 0, 360),
    ('thousandths of a radian', -1000 * np.pi, 1000 * np.pi),
    *((f'{bits} bits from 0', 0, 2**bits) for bits in (8, 10, 11, 12, 13, 14, 15, 16)),
    *((f'{bits} bits', -(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in (8, 10, 11, 12, 13, 14, 15, 16)),
)


def phase_to_radians(raw: Array, *, scaling: str = 'auto'):
    """Convert a phase image of any vendor to radians in [-pi, pi).

    'auto' searches for a usual encoding (radians, degrees, integers of 8 to 16 bits) whose two ends the
    values reach, then for any range symmetric about 0. The ends must be one phase, as -pi and pi are: about
    as many voxels lie at either end, and neighbours jump from one to the other.

    Parameters
    ----------
    raw : ndarray of float
        Values as stored; those that are not finite are left out of the search and become 0.
    scaling : str
        'auto', 'radians', 'degrees', or 'LOW,HIGH': the values that mean -pi and pi.

    Returns
    -------
    radians : ndarray of float32
    note : str
        What was found, as a sentence.

    Raises
    ------
    UserError
        Where the values cannot be a phase, or ``scaling`` cannot be read.

    Examples
    --------
    >>> rad, note = phase_to_radians(np.array([0.0, 1024, 2048, 4095]), scaling='0,4096')
    >>> (rad[:3] / np.pi).tolist()
    [-1.0, -0.5, 0.0]
    """
    name, low, high = _find_range(raw) if scaling == 'auto' else _named_range(scaling)
    if name == 'radians':
        radians = raw.astype(np.float32)
        note = 'The phase is in radians.'
    else:
        # Angles from 0 to a full turn start at phase 0, integers from 0 at phase -pi.
        zero = 0.0 if name in ('radians from 0', 'degrees from 0') else (low + high) / 2
        radians = raw.astype(np.float32)
        radians -= np.float32(zero)
        radians *= np.float32(2 * np.pi / (high - low))
        turn = f'a full turn is {high - low:.6g}'
        note = f'The phase is scaled ({name}): {zero:.6g} means phase 0, and {turn}.'
    radians[~np.isfinite(radians)] = 0
    turn = np.float32(2 * np.pi)
    if max(-radians.min(), radians.max()) > np.pi:
        radians -= turn * np.floor(radians / turn + np.float32(0.5))
    return radians, note


def _named_range(scaling: str):
    if scaling == 'radians':
        return 'radians', -np.pi, np.pi
    if scaling == 'degrees':
        return 'degrees', -180.0, 180.0
    try:
        low, high = (float(part) for part in scaling.split(','))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise UserError(
            f"Phase scaling {scaling!r} is not known: give 'auto', 'radians', 'degrees', "
            "or the values of -pi and pi as 'LOW,HIGH', for example '0,4096'."
        )
    return 'as told', low, high


def _find_range(raw: Array):
    thin = tuple(slice(None, None, max(1, n // 128)) for n in raw.shape[:3])
    finite = raw[np.isfinite(raw)] if not np.isfinite(raw.sum(dtype=np.float64)) else raw.ravel(order='K')
    if not finite.size or finite.min() == finite.max():
        raise UserError(
            'All values of the phase image are equal; check that it is the phase part of the series.'
        )
    least, most = float(finite.min()), float(finite.max())
    ends = _end_shares(finite, least, most)
    jumps = _jump_share(raw[thin], least, most)
    # a magnitude image may end near 4095 too, but few voxels are that bright
    circular = min(ends) > 0.1 * max(ends) and min(ends) > 1e-4 and jumps > 1e-4
    whole = bool((finite[:: max(1, finite.size // 100_000)] % 1 == 0).all())
    for name, low, high in FULL_TURNS:
        slack = (high - low) * NEAR_END
        beyond = (high - low) * 2e-3
        if low - beyond <= least <= low + slack and high - slack <= most <= high + beyond:
            if ('bits' in name and not whole) or not circular:
                continue
            return name, low, high
    size = max(abs(least), abs(most))
    if circular and abs(least + most) < 0.02 * size:
        return 'symmetric', -size, size
    if least < 0 < most and max(-least, most) <= np.pi * 1.002 and most - least > 0.2 and not whole:
        return 'radians', -np.pi, np.pi
    raise UserError(
        f'The phase image (values {least:.6g} to {most:.6g}) does not look like phase: its two ends do not '
        'meet as -pi and pi do. Check that it is not a magnitude or field map, or state its scaling '
        '(radians, degrees, or LOW,HIGH).'
    )


def _end_shares(values: Array, least: float, most: float):
    """Shares of the values in the lowest and the highest 32nd of the range, a fill value left out."""
    width = (most - least) / 32
    counts = np.array([(values < least + width).sum(), (values > most - width).sum()], float)
    fills = np.array([(values == least).sum(), (values == most).sum()], float)
    # a value of a large part of the image is background, not phase
    fills[fills < 0.02 * values.size] = 0
    return (counts - fills) / max(values.size - fills.sum(), 1)


def _jump_share(raw: Array, least: float, most: float):
    """Share of neighbours along any axis of which one lies in the lowest and one in the highest quarter."""
    quarter = (most - least) / 4
    level = np.int8(raw > most - quarter) - np.int8(raw < least + quarter)
    jumps = pairs = 0
    for axis in range(min(3, level.ndim)):
        difference = np.diff(level, axis=axis)
        jumps += (np.abs(difference) == 2).sum()
        pairs += difference.size
    return jumps / max(pairs, 1)
