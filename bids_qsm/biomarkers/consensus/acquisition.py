"""Checks of the acquisition, from sidecars and headers."""

import math
import re

import numpy as np

from bids_qsm.biomarkers.consensus.check import (
    CONSENSUS,
    OWN,
    PREPRINT,
    REPORTED,
    SCHEMA,
    UNKNOWN,
    Check,
    Facts,
    State,
    at_least,
    at_most,
)

T2STAR_MS = {1.5: (55.5, 84.0), 3.0: (31.5, 66.0), 7.0: (16.1, 33.2)}
"""Field strength (T) -> shortest and longest T2* (ms): putamen and cortical grey matter, see `_T2STAR`."""
_T2STAR = 'T2* of putamen (shortest) and cortex (longest) at 1.5, 3 and 7 T'
T1_S = {1.5: (0.6, 1.2), 3.0: (0.9, 1.65), 7.0: (1.1, 1.9)}
"""Field strength (T) -> shortest and longest T1 (s) of brain tissue."""
HZ_PER_TESLA = 220 / 3
"""Bandwidth of a pixel at which fat is shifted by two pixels: 220 Hz at 3 T."""
ROUNDING_MS = 0.1


def by_field(table: dict[float, tuple[float, float]], tesla: float) -> tuple[float, float]:
    """Shortest and longest time at a field strength, interpolated in the logarithms of both.

    >>> by_field({1.5: (60.0, 80.0), 6.0: (15.0, 20.0)}, 3.0)
    (30.0, 40.0)
    """
    known = np.log(list(table))
    short, long = (
        float(np.round(np.exp(np.interp(np.log(tesla), known, np.log(column))), 6))
        for column in zip(*table.values(), strict=True)
    )
    return short, long


def words(facts: Facts, *keys: str) -> set[str]:
    """Words of fields of the sidecar, in upper case, whether they are a list or one text."""
    found: set[str] = set()
    for key in keys:
        value = facts.sidecar.get(key)
        parts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        found |= {word.upper() for part in parts for word in re.split(r'[^A-Za-z0-9*]+', str(part)) if word}
    return found


def _field(facts: Facts) -> State:
    tesla = facts.field_strength
    return UNKNOWN if tesla is None else ('pass' if 1.4 <= tesla <= 7.1 else 'warn', tesla)


def _three_dimensional(facts: Facts) -> State:
    kind = facts.sidecar.get('MRAcquisitionType')
    return UNKNOWN if kind not in ('2D', '3D') else ('pass' if kind == '3D' else 'fail', kind)


_SPOILED = re.compile(r'(?<![a-z])(?:rf)?spoil(?:ed|ing|t)?(?![a-z])', re.IGNORECASE)
_UNSPOILED = re.compile(
    r'(?<![a-z])(?:un|(?:non|not|no|without)(?![a-z])[\s_-]*(?:rf[\s_-]*)?)spoil', re.IGNORECASE
)


def _spoiled(facts: Facts) -> State:
    """Gradient echo, spoiled, not echo-planar."""
    said = str(facts.sidecar.get('PulseSequenceType', ''))
    sequence, variant = words(facts, 'ScanningSequence'), words(facts, 'SequenceVariant')
    shown = '/'.join(sorted(sequence | variant)) or said
    if sequence & {'SE', 'IR'} and 'GR' not in sequence:
        return 'fail', shown
    if 'EP' in sequence or 'EPI' in said.upper():
        return 'warn', shown
    if _UNSPOILED.search(said):
        return 'fail', said
    if facts.sidecar.get('SpoilingState') is False:
        return 'fail', 'not spoiled'
    if 'SP' in variant or _SPOILED.search(said) or facts.sidecar.get('SpoilingState') is True:
        return 'pass', shown
    if 'SS' in variant:
        return 'warn', shown
    return UNKNOWN


def _echo_count(facts: Facts) -> State:
    n = len(facts.echo_times)
    return UNKNOWN if not n else ('fail' if n < 2 else 'warn' if n < 3 else 'pass', n)


def _first_echo(facts: Facts) -> State:
    return at_most(1e3 * facts.echo_times[0] if facts.echo_times else None, 5.0, 10.0)


def _spacing(facts: Facts) -> State:
    """Largest difference (ms) between spacings of echoes."""
    steps = np.diff(facts.echo_times)
    if len(steps) < 2:
        return UNKNOWN
    spread = float(round(1e3 * float(steps.max() - steps.min()), 6))
    return at_most(spread, ROUNDING_MS, 1e3 * 0.05 * float(steps.mean()))


def last_echo_range(tesla: float) -> tuple[float, float]:
    """Shortest and longest time (ms) that the last echo should have."""
    short, long = by_field(T2STAR_MS, tesla)
    return 0.75 * short, 1.25 * long


def _last_echo(facts: Facts) -> State:
    if not facts.echo_times or not facts.field_strength:
        return UNKNOWN
    time, (least, most) = 1e3 * facts.echo_times[-1], last_echo_range(facts.field_strength)
    if least <= time <= most:
        return 'pass', time
    return 'warn' if 0.6 * least <= time <= 1.2 * most else 'fail', time


def _last_echo_text(facts: Facts) -> str:
    if not facts.field_strength:
        return '0.75 x shortest to 1.25 x longest T2* of grey matter'
    least, most = last_echo_range(facts.field_strength)
    at = f'at {facts.field_strength:.3g} T'
    return f'{least:.0f} to {most:.0f} ms {at}; fails below {0.6 * least:.1f} or above {1.2 * most:.1f} ms'


def _repetition(facts: Facts) -> State:
    time = facts.stated('RepetitionTime')
    if time is None or not facts.field_strength:
        return UNKNOWN
    longest = by_field(T1_S, facts.field_strength)[1]
    return at_most(1e3 * time, 0.25e3 * longest, 0.5e3 * longest)


def _repetition_text(facts: Facts) -> str:
    if not facts.field_strength:
        return '0.25 x T1; fails above 0.5 x T1'
    longest = 1e3 * by_field(T1_S, facts.field_strength)[1]
    return f'at most {0.25 * longest:.0f} ms; fails above {0.5 * longest:.0f} ms (T1 up to {longest:.0f} ms)'


def ernst_range(repetition_time: float, tesla: float) -> tuple[float, float]:
    """Ernst angles (degrees) of the longest and the shortest T1 of brain tissue."""
    short, long = by_field(T1_S, tesla)
    smallest, largest = (math.degrees(math.acos(math.exp(-repetition_time / t1))) for t1 in (long, short))
    return smallest, largest


def _flip(facts: Facts) -> State:
    angle, time = facts.stated('FlipAngle'), facts.stated('RepetitionTime')
    if angle is None or time is None or not facts.field_strength:
        return UNKNOWN
    least, most = ernst_range(time, facts.field_strength)
    if 0.9 * least <= angle <= 1.1 * most:
        return 'pass', angle
    return 'warn' if 0.6 * least <= angle <= 1.6 * most else 'fail', angle


def _flip_text(facts: Facts) -> str:
    time = facts.stated('RepetitionTime')
    if time is None or not facts.field_strength:
        return 'Ernst angles of the shortest and longest T1'
    least, most = ernst_range(time, facts.field_strength)
    return f'{least:.1f} to {most:.1f} degrees, 10 % beyond allowed; fails below 0.6 x or above 1.6 x'


def _isotropic(facts: Facts) -> State:
    if not facts.voxel_size:
        return UNKNOWN
    sides = tuple(round(side, 3) for side in facts.voxel_size)
    if max(sides) - min(sides) <= 0.1:
        return 'pass', sides
    return 'warn' if max(sides) <= 2 * min(sides) else 'fail', sides


def _voxel_volume(facts: Facts) -> State:
    if not facts.voxel_size:
        return UNKNOWN
    return at_most(round(math.prod(facts.voxel_size), 4), 1.05, 3.4)


def _gap(facts: Facts) -> State:
    """Distance of slices over their thickness, less 1."""
    thickness, distance = facts.stated('SliceThickness'), facts.stated('SpacingBetweenSlices')
    if thickness is None or distance is None:
        return UNKNOWN
    gap = round(distance / thickness - 1, 4)
    return 'pass' if abs(gap) <= 0.02 else 'warn' if -0.55 <= gap <= 0.25 else 'fail', gap


def _interpolation(facts: Facts) -> State:
    """Voxels of the image over lines that were acquired, along the phase encoding."""
    if facts.sidecar.get('Interpolation2D') is True or facts.sidecar.get('InterpolationFlag') is True:
        return 'fail', 'stated'
    acquired = facts.stated('AcquisitionMatrixPE')
    stored = facts.stated('ReconMatrixPE')
    if acquired is None or stored is None:
        return UNKNOWN
    return at_most(round(stored / acquired, 3), 1.05, 1.35)


def _bandwidth(facts: Facts) -> State:
    width = facts.stated('PixelBandwidth')
    if width is None or not facts.field_strength:
        return UNKNOWN
    usual = HZ_PER_TESLA * facts.field_strength
    state = at_most(width, 1.02 * usual, 3 * usual)[0]
    return 'warn' if width < usual / 3 else state, width


def _bandwidth_text(facts: Facts) -> str:
    if not facts.field_strength:
        return '73 Hz/pixel for each tesla'
    usual = HZ_PER_TESLA * facts.field_strength
    at = f'at {facts.field_strength:.3g} T'
    return f'{usual / 3:.0f} to {usual:.0f} Hz/pixel {at}; fails above {3 * usual:.0f}'


def coil_elements(facts: Facts) -> int | None:
    """Number of receive elements that the sidecar tells, None where it tells none."""
    number = facts.stated('NumberReceiveCoilActiveElements', 'NumberOfReceiveCoilElements')
    if number:
        return int(number)
    name = str(facts.sidecar.get('ReceiveCoilName', ''))
    if name.lower() in ('body', 'qbody', 'bc'):
        return 1
    found = [int(n) for n in re.findall(r'(?<![0-9])([0-9]{1,3})(?![0-9])', name)]
    return max(found) if found and 2 <= max(found) <= 256 else None


def _elements(facts: Facts) -> State:
    n = coil_elements(facts)
    return UNKNOWN if n is None else at_least(n, 12, 8)


def _combination(facts: Facts) -> State:
    """Sum of squares keeps no phase: what combined the phase is not known then."""
    said = facts.sidecar.get('CoilCombinationMethod')
    if not isinstance(said, str) or not said:
        return UNKNOWN
    plain = re.sub('[^a-z]', '', said.lower())
    if 'sumofsquares' in plain or plain in ('sos', 'rsos'):
        return 'warn', said
    good = ('adaptive', 'roemer', 'sense', 'aspire', 'mcpc', 'virtual', 'walsh', 'espirit', 'complex')
    return ('pass' if any(word in plain for word in good) else 'unknown'), said


def _partial_fourier(facts: Facts) -> State:
    share = facts.stated('PartialFourier')
    if share is None and words(facts, 'PartialFourierEnabled') == {'NO'}:
        share = 1.0
    if share is None or share > 1:
        return UNKNOWN
    return at_least(share, 0.99, 0.7)


def _acceleration(facts: Facts) -> State:
    factors = [facts.stated(f'ParallelReductionFactor{way}') for way in ('InPlane', 'OutOfPlane')]
    known = [factor for factor in factors if factor is not None]
    return at_most(math.prod(known), 4.0, 6.0) if known else UNKNOWN


def _slab(facts: Facts) -> State:
    """Size (mm) of the field of view along the axis nearest to B0."""
    if not (facts.shape and facts.voxel_size and facts.b0_dir):
        return UNKNOWN
    axis = int(np.argmax(np.abs(facts.b0_dir)))
    return at_least(round(facts.shape[axis] * facts.voxel_size[axis], 1), 120.0, 80.0)


_AGAIN = 'For the next scans: '
_NEXT = 'It cannot be mended afterwards. ' + _AGAIN
ACQUISITION = {
    'field_strength': Check(
        *('Field strength', _field, '1.4 to 7.1 T', 'low', f'required by the {PREPRINT}; limits: {OWN}'),
        'T1 and T2* are taken to be those at the nearest of 1.5 and 7 T, while limits of the bandwidth still '
        'grow with B0; judge by yourself what depends on the field.',
        unit='T',
    ),
    'three_dimensional': Check(
        *('3D acquisition', _three_dimensional, '3D', 'medium', CONSENSUS),
        _AGAIN + 'use a 3D sequence. The phase of 2D slices may jump from one to the next.',
    ),
    'spoiled': Check(
        'Spoiled gradient echo',
        *(
            _spoiled,
            'gradient echo, spoiled, not echo-planar',
            'medium',
            f'gradient echo: {CONSENSUS}; RF spoiling: {REPORTED}; warning and fail: {OWN}',
        ),
        _AGAIN
        + 'use an RF-spoiled gradient echo; steady states and echo-planar readouts change phase or place.',
    ),
    'echo_count': Check(
        *('Number of echoes', _echo_count, '3 or more; fails below 2', 'medium'),
        f'multi-echo: {CONSENSUS}; three: {SCHEMA}',
        _NEXT + 'acquire three echoes or more. One echo cannot tell the phase of the coils from the field.',
    ),
    'first_echo': Check(
        *('First echo time', _first_echo, 'at most 5 ms; fails above 10 ms', 'low'),
        f'as short as possible: {CONSENSUS}; {SCHEMA}',
        _AGAIN + 'take the shortest first echo. Strong sources and veins lose signal early.',
        unit='ms',
    ),
    'echo_spacing': Check(
        *('Uniform echo spacing', _spacing, 'equal to 0.1 ms; fails above 5 % of the spacing', 'low'),
        f'uniform: {CONSENSUS}; 0.01 ms in the dicompare schema (MIT licence), 0.1 ms for rounding: {OWN}',
        'A bipolar readout cannot be told from uneven echoes: state it by --bipolar if it is one.',
        unit='ms',
    ),
    'last_echo': Check(
        *('Last echo time', _last_echo, _last_echo_text, 'medium'),
        f'at least T2* of the tissue of interest: {CONSENSUS}; T2* and factors .75 and 1.25: {SCHEMA}; '
        f'fail at 0.6 x and 1.2 x of these: {OWN}',
        _NEXT
        + 'let the last echo come near T2* of deep grey matter. Phase of short echoes is small and noisy.',
        unit='ms',
    ),
    'repetition_time': Check(
        *('Repetition time', _repetition, _repetition_text, 'low'),
        f'as short as possible, 0.5 x T1: {SCHEMA}; warning at 0.25 x T1: {OWN}',
        _AGAIN + 'shorten TR to just above the last echo, and use the time for smaller voxels or coverage.',
        unit='ms',
    ),
    'flip_angle': Check(
        *('Flip angle', _flip, _flip_text, 'low'),
        f'Ernst angle for T1 of 900 to 1650 ms at 3 T: {SCHEMA}; 10 % and fail at 0.6 x and 1.6 x: {OWN}',
        _AGAIN + 'set the Ernst angle; other angles cost signal.',
        unit='degrees',
    ),
    'isotropic': Check(
        *('Isotropic voxels', _isotropic, 'sides equal to 0.1 mm; fails above a ratio of 2', 'medium'),
        f'isotropic: {CONSENSUS}; 0.1 mm: {SCHEMA}; ratio: {OWN}',
        'Small structures and veins across the long side are underestimated; compare only scans of equal '
        'voxels.',
        unit='mm',
    ),
    'voxel_volume': Check(
        *('Voxel volume', _voxel_volume, 'at most 1 mm^3; fails above 1.5 mm isotropic (3.4 mm^3)', 'medium'),
        f'at most 1 mm: {CONSENSUS}; volume: {SCHEMA}; fail: {OWN}',
        'Expect partial volume: small nuclei and veins are underestimated. ' + _AGAIN + 'use smaller voxels.',
        unit='mm^3',
    ),
    'slice_gap': Check(
        *(
            'Contiguous slices',
            _gap,
            'gap or overlap of at most 2 %; fails above a gap of 25 %',
            'medium',
            OWN,
        ),
        'Field of what lies in gaps is not measured; overlapping slices are interpolated. '
        + _AGAIN
        + 'use 3D.',
    ),
    'stated_interpolation': Check(
        'Interpolation, as stated',
        _interpolation,
        'image matrix at most 1.05 x acquired; fails above 1.35 x',
        'low',
        f'no interpolation: {REPORTED}; voxel size may differ from that acquired: {PREPRINT}; limits: {OWN}',
        'Export without interpolation; the voxels look smaller than what was measured.',
    ),
    'bandwidth': Check(
        *('Bandwidth of a pixel', _bandwidth, _bandwidth_text, 'low'),
        f'about 220 Hz at 3 T (fat shift of two pixels): {CONSENSUS}; upper limit: {SCHEMA}; '
        f'scaled by B0, lower limit and fail at 3 x: {OWN}',
        _AGAIN
        + 'lower the bandwidth as far as distortion allows: signal-to-noise grows with its inverse root.',
        unit='Hz/pixel',
    ),
    'coil_elements': Check(
        *(
            'Receive elements',
            _elements,
            '12 or more; fails below 8',
            'low',
            f'head array of 12 or more: {REPORTED}; fail: {OWN}',
        ),
        _AGAIN + 'use a head array.',
    ),
    'coil_combination': Check(
        'Combination of coils, as stated',
        *(_combination, 'a method for complex images', 'medium'),
        f'complex combination: {OWN} (the paper discusses it; wording not verified)',
        'Look for wraps that end inside tissue; ask for adaptive combination, or save uncombined coils.',
    ),
    'partial_fourier': Check(
        *('Partial Fourier or echo', _partial_fourier, 'none; fails below 0.7', 'low'),
        f'to be avoided: {PREPRINT}; fail: {OWN}',
        _AGAIN + 'switch partial Fourier off: it blurs phase where that varies fast.',
    ),
    'acceleration': Check(
        *('Acceleration', _acceleration, 'at most 4; fails above 6', 'low', OWN),
        'Look for noise and aliasing in the middle of the brain.',
    ),
    'slab': Check(
        *('Field of view along B0', _slab, '120 mm or more; fails below 80 mm', 'medium'),
        f'whole brain: {CONSENSUS}; limits: {OWN}',
        'The field of sources outside the slab is taken for background; leave out regions at its ends.',
        unit='mm',
    ),
}
"""Name of the check -> check."""
