"""Bring phase to one convention: scaling, missing values, slice flips, bipolar readout, sign."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.polarity import block_mean, find_polarity
from bids_qsm.recon.scaling import phase_to_radians

AXES = ('first', 'second', 'third')
FLIPPED = -0.3
"""Mean cosine of the phase step between neighbouring slices below which every second slice is negated."""
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
    manufacturer: str = '',
    scaling: str = 'auto',
    sign: str = 'auto',
    slice_flip: str = 'auto',
    bipolar: str = 'auto',
):
    """Convert the phase of any vendor to radians that grow with the field.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
        As stored.
    echo_times : sequence of float
        Rising echo times (s).
    manufacturer : str
        Decides the sign where the data cannot.
    scaling : str
        See ``phase_to_radians``.
    sign : {'auto', 'positive', 'negative'}
        'negative' where the stored phase falls with the field.
    slice_flip, bipolar : {'auto', 'yes', 'no'}
        Whether every second slice is negated; whether odd and even echoes are read in opposite directions.

    Returns
    -------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)
    findings : list of dict
        One for each test: what, found, action, evidence (sentences for log and report).

    Raises
    ------
    UserError
        Where the data cannot be phase and magnitude, or a correction asked for is impossible.
    """
    magnitude, phase, bad, gaps = _mark_gaps(magnitude, phase)
    phase, note = phase_to_radians(phase, scaling=scaling)
    how = (
        'set by the user'
        if scaling != 'auto'
        else 'read from the height of wraps and from the ends of the values'
    )
    findings = [gaps, _finding('Phase scaling', note, 'Converted to radians.', f'The scaling was {how}.')]
    findings.append(_mend_slice_flip(phase, magnitude, slice_flip))
    findings.append(_mend_bipolar(phase, magnitude, echo_times, grid, bipolar))
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


def find_slice_flip(phase: Array, magnitude: Array):
    """Axis along which every second slice of a 3D complex image may be negated, and its mean cosine.

    The mean cosine of the phase difference of neighbours, weighted by both magnitudes, is near 1 for any
    plausible field gradient; a gradient of pi per voxel would leave no signal.
    """
    similarity = _mean_cosine(*(np.ascontiguousarray(a.T) for a in (phase, magnitude)))[::-1]
    axis = int(np.argmin(similarity))
    return axis, float(similarity[axis])


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


def _finding(what: str, found: str, action: str, evidence: str):
    return {'what': what, 'found': found, 'action': action, 'evidence': evidence}


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
        return magnitude, phase, None, _finding('Missing values', 'None.', 'None needed.', 'All are finite.')
    share = f'{count / phase.size:.1%} of the values are not numbers, or negative magnitudes.'
    return (
        magnitude,
        phase,
        bad,
        _finding('Missing values', share, 'Set to phase 0 and magnitude 0.', 'Counted.'),
    )


def _mend_slice_flip(phase: Array, magnitude: Array, wanted: str):
    axis, similarity = find_slice_flip(phase[..., 0], magnitude[..., 0])
    flipped = similarity < FLIPPED if wanted == 'auto' else wanted == 'yes'
    evidence = (
        f'The phase difference of neighbouring slices along the {AXES[axis]} axis has a mean cosine of '
        f'{similarity:.2f}; it is about -1 if every second slice is negated, else about 1.'
    )
    by = '' if wanted == 'auto' else ' (set by the user)'
    if not flipped:
        return _finding('Slice flips', f'No alternating slices{by}.', 'None needed.', evidence)
    odd = (*(slice(1, None, 2) if a == axis else slice(None) for a in range(3)), slice(None))
    phase[odd] = wrap(phase[odd] + np.float32(np.pi))
    return _finding(
        'Slice flips',
        f'Every second slice along the {AXES[axis]} axis is negated{by}.',
        'Negated back.',
        evidence,
    )


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
    if not (theta.significant if wanted == 'auto' else wanted == 'yes'):
        return _finding(what, f'No difference between odd and even echoes{by}.', 'None needed.', evidence)
    place = np.arange(phase.shape[theta.axis]).reshape([-1 if a == theta.axis else 1 for a in range(3)])
    line = (theta.constant + theta.slope * place).astype(np.float32)
    for k in range(phase.shape[3]):
        phase[..., k] = wrap(phase[..., k] - (-1) ** k * line)
    return _finding(
        what,
        f'Odd and even echoes differ by a linear phase along the {AXES[theta.axis]} axis{by}.',
        'The linear phase was removed.',
        evidence,
    )


def _mend_sign(
    phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid, wanted: str, manufacturer: str
):
    what = 'Phase sign'
    if wanted != 'auto':
        negative, evidence = wanted == 'negative', 'Set by the user.'
    else:
        polarity = find_polarity(phase, magnitude, echo_times, grid)
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
        return _finding(what, 'The phase grows with the field.', 'None needed.', evidence)
    np.negative(phase, out=phase)
    return _finding(what, 'The phase falls with the field.', 'The sign of the phase was inverted.', evidence)


@njit(cache=True, parallel=True)
def _mean_cosine(phase: Array, magnitude: Array):
    """Magnitude-weighted mean cosine of the step to the next voxel, for each axis."""
    shape = phase.shape
    real = np.zeros((shape[0], 3))
    total = np.zeros((shape[0], 3))
    for z in prange(shape[0]):
        for y in range(shape[1]):
            for x in range(shape[2]):
                here, m = phase[z, y, x], magnitude[z, y, x]
                if m == 0:
                    continue
                if z + 1 < shape[0]:
                    w = m * magnitude[z + 1, y, x]
                    real[z, 0] += w * np.cos(phase[z + 1, y, x] - here)
                    total[z, 0] += w
                if y + 1 < shape[1]:
                    w = m * magnitude[z, y + 1, x]
                    real[z, 1] += w * np.cos(phase[z, y + 1, x] - here)
                    total[z, 1] += w
                if x + 1 < shape[2]:
                    w = m * magnitude[z, y, x + 1]
                    real[z, 2] += w * np.cos(phase[z, y, x + 1] - here)
                    total[z, 2] += w
    return real.sum(0) / np.maximum(total.sum(0), 1e-30)
