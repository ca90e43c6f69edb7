"""Bring phase to one convention: scaling, missing values, slice flips, bipolar readout, sign."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.highpass import SHAPED, Spread, find_spread
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.polarity import block_mean, find_polarity
from bids_qsm.recon.scaling import Range, read_phase
from bids_qsm.recon.slices import (
    BENT,
    HOPELESS,
    MISPLACED,
    NEGATED,
    broken_axis,
    find_bends,
    find_disorder,
    is_random,
    remove_slice_offsets,
    step_cosines,
)

AXES = ('first', 'second', 'third')
NEGATIVE = 0.01
"""Share of a magnitude that may be negative; beyond, it is none."""
COARSE_MM = 2.0
BIPOLAR_SPAN = 0.1
"""Smallest difference (rad) between odd and even echoes, across the object, that is corrected."""
BIPOLAR_SHARE = 0.2
"""Least share of the variance of the phase acceleration that a gradient along the readout must explain."""


@dataclass(frozen=True)
class Bipolar:
    """Phase (rad) constant + slope * voxel along ``axis``, added to echoes 0, 2, .. and taken off others."""

    axis: int
    slope: float
    constant: float
    span: float
    share: float

    @property
    def significant(self):
        return self.span >= BIPOLAR_SPAN and self.share >= BIPOLAR_SHARE


def condition(
    magnitude: Array,
    phase: Array,
    echo_times: Sequence[float],
    grid: Grid,
    *,
    field_strength: float | None = None,
    manufacturer: str = '',
    said: str = '',
    scaling: str = 'auto',
    sign: str = 'auto',
    slice_flip: str = 'auto',
    bipolar: str = 'auto',
    filtered: str = 'stop',
):
    """Convert the phase of any vendor to radians that grow with the field.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
        As stored.
    echo_times : sequence of float
        Rising echo times (s).
    field_strength : float, optional
        B0 (T); without it high-pass filtering is not looked for.
    manufacturer : str
        Decides the sign where the data cannot.
    said : str
        What speaks for high-pass filtering, '' for nothing; it decides where the data cannot.
    scaling : str
        See ``phase_to_radians``.
    sign : {'auto', 'positive', 'negative'}
        'negative' where the stored phase falls with the field.
    slice_flip, bipolar : {'auto', 'yes', 'no'}
        Whether every second slice is negated; whether odd and even echoes are read in opposite directions.
    filtered : {'stop', 'accept'}
        Whether phase that was high-pass filtered is refused.

    Returns
    -------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
    findings : list of dict
        One for each test: what, found, action, evidence (sentences for log and report), and the numbers that
        were measured.

    Raises
    ------
    UserError
        Where the data cannot be phase and magnitude, slices are not in order or have offsets, phase was
        high-pass filtered, or a correction asked for is impossible.
    """
    magnitude, phase, bad, gaps = _mark_gaps(magnitude, phase)
    stored = phase
    phase, note, ranges = read_phase(stored, scaling)
    how = (
        'set by the user'
        if scaling != 'auto'
        else 'read from the height of wraps and from the ends of the values'
    )
    scale = _finding('Phase scaling', note, 'Converted to radians.', f'The scaling was {how}.')
    findings = [gaps, {**scale, 'numbers': _scale_numbers(stored, ranges)}]
    findings.append(_mend_slice_flip(phase, magnitude, slice_flip))
    findings.append(_mend_slices(phase, magnitude, echo_times, grid))
    findings.append(_mend_bipolar(phase, magnitude, echo_times, grid, bipolar))
    if field_strength:
        spread = find_spread(phase, magnitude, echo_times, grid, field_strength)
        seen = spread and spread.is_filtered and find_polarity(phase, magnitude, echo_times, grid)
        is_filtered = bool(said) if spread is None else seen and abs(seen.correlation) < SHAPED
        findings.append(_judge_filter(bool(is_filtered), spread, said, filtered))
    findings.append(_mend_sign(phase, magnitude, echo_times, grid, sign, manufacturer))
    if bad is not None:
        phase[bad] = 0
    return magnitude, phase, findings


def from_real_imaginary(real: Array, imaginary: Array):
    """Magnitude and phase (rad) of complex images given as two parts.

    Raises
    ------
    UserError
        Where neither part has negative values, so that the zero of the scale is unknown.
    """
    if min(np.nanmin(real), np.nanmin(imaginary)) >= 0:
        raise UserError(
            'The real and imaginary images have no negative values, so their zero is not known; convert them '
            'from DICOM again with their rescale intercept.'
        )
    return np.hypot(real, imaginary), np.arctan2(imaginary, real)


def find_bipolar(phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid):
    r"""Linear phase by which odd and even echoes differ; None without three evenly spaced echoes.

    .. math:: \phi_k - 2 \phi_{k+1} + \phi_{k+2} = (-1)^k 4 \theta

    contains the difference only, as phase is otherwise linear in TE. With two echoes the difference looks
    like a linear field plus a linear offset, and needs no correction: `remove_offset` removes
    (1 + 2 T_1 / (T_2 - T_1)) theta, and the gradient -2 theta / (T_2 - T_1) that remains in the field has no
    source in the head and is removed with the background. The gradient along each axis is estimated from
    neighbouring blocks of about 2 mm; the axis of the largest is the readout.
    """
    spacing = np.diff(echo_times)
    triples = [k for k in range(len(spacing) - 1) if abs(spacing[k + 1] - spacing[k]) < 0.05 * spacing[k]]
    if not triples:
        return None
    factors = [max(1, round(COARSE_MM / size)) for size in grid.voxel_size]
    signal = 0
    # the first two, one of each sign, have nearly all of the signal
    for k in triples[:2]:
        bend = phase[..., k] - 2 * phase[..., k + 1] + phase[..., k + 2]
        weight = magnitude[..., k] * magnitude[..., k + 2]
        signal = signal + block_mean(weight * np.exp(1j * (-1) ** k * bend), factors)
    strength = np.abs(signal)
    if not strength.any():
        return None
    signal[strength < 0.1 * np.percentile(strength, 99)] = 0
    best = None
    for axis in range(3):
        theta = _fit_line(signal, axis, factors[axis])
        if best is None or theta.span * theta.share > best.span * best.share:
            best = theta
    return best


def _fit_line(signal: Array, axis: int, factor: int):
    """Fit ``arg(signal) = 4 (constant + slope * voxel)`` along one axis of a block-averaged image."""
    ahead = np.moveaxis(signal, axis, 0)
    steps = (np.conj(ahead[:-1]) * ahead[1:]).sum()
    slope = float(np.angle(steps))
    place = np.arange(len(ahead), dtype=np.float32)[:, None, None]
    strength = np.abs(ahead)
    total = strength.sum()
    profile = strength.sum((1, 2))
    centre = float((profile * place[:, 0, 0]).sum() / total)
    width = float(np.sqrt((profile * (place[:, 0, 0] - centre) ** 2).sum() / total))
    before = np.angle(ahead * np.exp(-1j * np.angle(ahead.sum())))
    rest, constant = None, 0.0
    for _ in range(3):
        turned = ahead * np.exp(-1j * (slope * (place - centre))).astype(np.complex64)
        constant = float(np.angle(turned.sum()))
        rest = np.angle(turned * np.exp(-1j * constant))
        if width == 0:
            break
        slope += float((strength * rest * (place - centre)).sum() / total / width**2)
    variance = float((strength * before**2).sum())
    share = 1 - float((strength * rest**2).sum()) / variance if variance > 0 else 0.0
    # from blocks to voxels: block b is centred on voxel factor * b + (factor - 1) / 2
    per_voxel = slope / factor / 4
    origin = constant / 4 - per_voxel * (factor * centre + (factor - 1) / 2)
    # a solid object is about 3.5 standard deviations long
    return Bipolar(axis, per_voxel, origin, abs(slope) * width * 3.5 / 4, share)


def _finding(what: str, found: str, action: str, evidence: str, level: str = 'info', **numbers: float):
    said = {'what': what, 'found': found, 'action': action, 'evidence': evidence, 'level': level}
    return {**said, 'numbers': numbers} if numbers else said


LEVELS = 200_000
"""Values, at most, of which the different ones are counted."""


def _scale_numbers(stored: Array, ranges: Sequence[Range]):
    """Whether all scales are usual, the least and largest turn, and the number of different values."""
    some = stored.ravel('K')[:: max(1, stored.size // LEVELS)]
    some = some[np.isfinite(some)]
    turns = [float(one.turn) for one in ranges]
    return {
        'usual': float(all(one.is_usual for one in ranges)),
        'least_turn': min(turns),
        'largest_turn': max(turns),
        'levels': float(len(np.unique(some))),
    }


def _mark_gaps(magnitude: Array, phase: Array):
    """Set phase to NaN and magnitude to 0 where either is not finite; return both, where, and the finding."""
    negative = magnitude < 0  # a few, as interpolation leaves them, are no reason to doubt all
    bad = ~np.isfinite(phase) | ~np.isfinite(magnitude)
    if np.count_nonzero(negative) <= NEGATIVE * negative.size:
        bad |= negative
    count = int(np.count_nonzero(bad))
    if count:
        # NaN excludes these voxels from the search for the range of the phase
        magnitude, phase = magnitude.copy(order='K'), phase.copy(order='K')
        magnitude[bad] = 0
        phase[bad] = np.nan
    if magnitude.min() < 0 or magnitude.max() <= 0:
        raise UserError(
            'The magnitude image has negative values or only zeros; check that it is the magnitude part.'
        )
    if not count:
        found = _finding('Missing values', 'None.', 'None needed.', 'All are finite.', share=0.0)
        return magnitude, phase, None, found
    share = f'{count / phase.size:.1%} of the values are not numbers, or negative magnitudes.'
    return (
        magnitude,
        phase,
        bad,
        _finding(
            *('Missing values', share, 'Set to phase 0 and magnitude 0.', 'Counted.'),
            share=count / phase.size,
        ),
    )


def _mend_slice_flip(phase: Array, magnitude: Array, wanted: str):
    cosines = [step_cosines(phase[..., k], magnitude[..., k]) for k in range(phase.shape[3])]
    least = cosines[0].index(min(cosines[0]))
    flipped = {
        'auto': [tuple(a for a in range(3) if one[a] < NEGATED) for one in cosines],
        'yes': [(least,)] * len(cosines),
        'no': [()] * len(cosines),
    }[wanted]
    evidence = (
        'Along the three axes the phase difference of neighbouring slices has mean cosines of '
        f'{", ".join(f"{one:.2f}" for one in cosines[0])}; each is about -1 if every second slice is '
        'negated, else about 1.'
    )
    by = '' if wanted == 'auto' else ' (set by the user)'
    if not any(flipped):
        return _finding('Slice flips', f'No alternating slices{by}.', 'None needed.', evidence)
    for k, axes in enumerate(flipped):
        if axes:
            place = sum(
                np.arange(phase.shape[a]).reshape([-1 if b == a else 1 for b in range(3)]) for a in axes
            )
            turned = phase[..., k] + np.float32(np.pi) * (place % 2).astype(np.float32)
            phase[..., k] = wrap(turned)
    first = next(axes for axes in flipped if axes)
    of_echoes = '' if all(axes == first for axes in flipped) else ' in some echoes'
    along = f'{" and ".join(AXES[a] for a in first)} {"axis" if len(first) == 1 else "axes"}'
    what = 'slice' if len(first) == 1 else 'voxel (a checkerboard)'
    return _finding(
        'Slice flips',
        f'Every second {what} along the {along} is negated{of_echoes}{by}.',
        'Negated back.',
        evidence,
    )


def _mend_slices(phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid):
    """Check that slices are in order and that phase continues from one to the next; take offsets off."""
    for axis in range(3):
        share = find_disorder(magnitude[..., 0], grid, axis)
        if share > MISPLACED:
            raise UserError(
                f'The slices along the {AXES[axis]} axis are not in order: {share:.0%} of them are more like '
                'slices elsewhere than like their neighbours, or a gap divides them. Convert the series '
                'again from DICOM, sorted by the position of the slices.'
            )
    bends = [find_bends(phase[..., k], magnitude[..., k]) for k in range(phase.shape[3])]
    if is_random(bends[0]):
        raise UserError(
            'The phase of neighbouring voxels is unrelated along all axes; check that it is the phase of '
            'this series.'
        )
    axis, are_offsets = broken_axis(bends[0])
    if axis is not None and not are_offsets:
        raise UserError(
            f'The phase does not continue from slice to slice along the {AXES[axis]} axis, unlike the '
            'magnitude: slices of the phase are not in order or not of this series. Convert the series again '
            'from DICOM.'
        )
    later = [along for along, offsets in map(broken_axis, bends[1:]) if offsets]
    axis = later[0] if axis is None and later else axis
    what, median = 'Slices', 'the phase bends from slice to slice by a median of'
    if axis is None:
        largest = float(np.nanmax([*bends[0].bend, 0]))
        evidence = f'Along no axis {median} more than {largest:.2f} rad.'
        found = 'In order, without offsets of phase.'
        return _finding(what, found, 'None needed.', evidence, bend=largest)
    size = float(max(one.bend[axis] for one in bends))
    evidence = f'Along this axis {median} {size:.2f} rad; without offsets it is less than {BENT} rad.'
    evolutions = (
        (wrap(phase[..., k] - phase[..., k - 1]), magnitude[..., k]) for k in range(1, phase.shape[3])
    )
    if phase.shape[3] > 1 and all(broken_axis(find_bends(*one))[0] != axis for one in evolutions):
        remove_slice_offsets(phase, magnitude, echo_times, axis)
        found = f'Each slice along the {AXES[axis]} axis has an offset of phase, the same in all echoes.'
        return _finding(what, found, 'The offsets were removed.', evidence, bend=size)
    several = 'another in each echo' if phase.shape[3] > 1 else 'and there is one echo only'
    found = (
        f'Each slice along the {AXES[axis]} axis has an offset of phase, {several}, so that the field '
        'between slices is not known'
    )
    if size > HOPELESS:
        raise UserError(f'{found}. {evidence} Susceptibility cannot be mapped from this series.')
    action = 'None is possible: expect stripes.'
    return _finding(what, f'{found} well.', action, evidence, 'warning', bend=size)


def _judge_filter(is_filtered: bool, spread: Spread | None, said: str, wanted: str):
    what, told = 'High-pass filter', f' What speaks for a filter: {said}.' if said else ''
    if spread is None:
        evidence = f'The object is too small to tell from the data.{told}'
    else:
        evidence = (
            f'The slow field varies by {spread.slow:.3f} ppm (robust standard deviation), the fast one by '
            f'{spread.fast:.3f} ppm; the slow field of a head is larger than .05 ppm.{told}'
        )
    numbers = {'slow': spread.slow, 'fast': spread.fast} if spread else {}
    if spread is None and not said:
        unknown = 'Whether the phase was high-pass filtered could not be judged.'
        return _finding(what, unknown, 'None.', evidence)
    if not is_filtered:
        return _finding(what, 'The phase was not high-pass filtered.', 'None needed.', evidence, **numbers)
    was = 'was' if spread else 'may have been'
    if wanted == 'stop':
        raise UserError(
            f'The phase {was} high-pass filtered, as for susceptibility-weighted images. {evidence} '
            'Susceptibility would be far too low. Give the unfiltered phase; to go on with this one, use '
            '--filtered-phase accept.'
        )
    small = 'susceptibility of all but small structures'
    found = f'The phase {was} high-pass filtered: {small} {"is" if spread else "would then be"} far too low.'
    return _finding(what, found, 'Accepted (set by the user).', evidence, 'warning', **numbers)


def _mend_bipolar(phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid, wanted: str):
    what = 'Bipolar readout'
    theta = find_bipolar(phase, magnitude, echo_times, grid)
    if theta is None:
        if wanted == 'yes':
            raise UserError(
                'A bipolar readout can only be corrected with three or more evenly spaced echoes, which '
                'this series does not have. With two echoes it adds a linear field only, which background '
                'removal takes off: leave the correction out.'
            )
        return _finding(
            what,
            'Not tested.',
            'None.',
            'The test needs three evenly spaced echoes with signal; a single-polarity readout is assumed.',
        )
    evidence = (
        f'Odd and even echoes differ by {theta.span:.2f} rad across the object along the '
        f'{AXES[theta.axis]} axis, which explains {max(theta.share, 0):.0%} of the phase acceleration.'
    )
    by = '' if wanted == 'auto' else ' (set by the user)'
    numbers = {'span': theta.span, 'share': theta.share}
    if not (theta.significant if wanted == 'auto' else wanted == 'yes'):
        found = f'No difference between odd and even echoes{by}.'
        return _finding(what, found, 'None needed.', evidence, **numbers)
    place = np.arange(phase.shape[theta.axis]).reshape([-1 if a == theta.axis else 1 for a in range(3)])
    line = (theta.constant + theta.slope * place).astype(np.float32)
    for k in range(phase.shape[3]):
        phase[..., k] = wrap(phase[..., k] - (-1) ** k * line)
    return _finding(
        what,
        f'Odd and even echoes differ by a linear phase along the {AXES[theta.axis]} axis{by}.',
        'The linear phase was removed.',
        evidence,
        **numbers,
    )


def _mend_sign(
    phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid, wanted: str, manufacturer: str
):
    what, numbers = 'Phase sign', {}
    if wanted != 'auto':
        negative, evidence = wanted == 'negative', 'Set by the user.'
    else:
        polarity = find_polarity(phase, magnitude, echo_times, grid)
        numbers = {'correlation': polarity.correlation, 'sure': float(polarity.sure)}
        if polarity.sure:
            negative = polarity.correlation < 0
            evidence = (
                f'The measured phase and the field that the shape of the head must cause correlate with '
                f'{polarity.correlation:+.2f}.'
            )
        else:
            negative = manufacturer.strip().upper().startswith('GE')
            maker = f'manufacturer {manufacturer}' if manufacturer else 'manufacturer not stated'
            evidence = (
                f'The data do not settle it ({polarity.why}; correlation {polarity.correlation:+.2f}), so '
                f'the usual sign was taken ({maker}): check that veins and deep grey nuclei are positive.'
            )
    if not negative:
        return _finding(what, 'The phase grows with the field.', 'None needed.', evidence, **numbers)
    np.negative(phase, out=phase)
    action = 'The sign of the phase was inverted.'
    return _finding(what, 'The phase falls with the field.', action, evidence, **numbers)
