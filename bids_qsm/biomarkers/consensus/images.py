"""Checks of the images, from what was measured in them."""

import math

from bids_qsm.biomarkers.consensus.check import (
    CONSENSUS,
    OWN,
    REPORTED,
    UNKNOWN,
    Check,
    Facts,
    State,
    at_least,
    at_most,
)
from bids_qsm.recon.conditioning import BIPOLAR_SHARE, BIPOLAR_SPAN
from bids_qsm.recon.highpass import LEAST_RATIO, LEAST_SLOW
from bids_qsm.recon.misfit import DOUBTFUL, HOPELESS
from bids_qsm.recon.slices import BENT

LEVELS = (1000, 100)
"""Different values of phase in a full turn: enough, and too few (steps of .06 rad)."""
SNR = (10.0, 5.0)
SINGULARITY_MM = (0.0, 10.0)
FRINGE_MM = 10.0
"""Length of a line of singularities from which it is doubtful, even where the signal is weak; or 5 voxels."""
MOVED_MM = (1.0, 2.0)
"""Motion between echoes: what changes from echo to echo in heads that lie still looks like up to 0.6 mm."""
MOVED = (0.5, 1.0)
"""The same, in sides of a voxel."""
MOVED_TEXT = (
    f'at most {MOVED_MM[0]:g} mm or half a voxel; fails above {MOVED_MM[1]:g} mm and the side of a voxel'
)
GHOST = (0.05, 0.12)
SAMPLED = (0.9, 0.74)
ONE_SIDED = (0.9, 0.7)
POOR_PHASE = (0.05, 0.15)
CUT_MM = (85.0, 110.0)
"""Width of a cut: a sphere of 80 mm that lacks 11 mm, as scalp and skull, has one of 84 mm."""
HEIGHT_MM = (140.0, 110.0)
MISSING = (0.001, 0.5)


def _bipolar(facts: Facts) -> State:
    span, share = (facts.numbers.get(f'bipolar_{key}') for key in ('span', 'share'))
    if span is None or share is None:
        return UNKNOWN
    return ('warn' if span >= BIPOLAR_SPAN and share >= BIPOLAR_SHARE else 'pass'), f'{span:.2f} rad'


def _filtered(facts: Facts) -> State:
    filtered, slow = facts.numbers.get('filtered'), facts.numbers.get('slow_field')
    if filtered:
        return 'fail', 'stated' if slow is None else f'{slow:.3f} ppm'
    return UNKNOWN if slow is None else ('pass', f'{slow:.3f} ppm')


def _scale(facts: Facts) -> State:
    """A turn that all echoes share, that vendors use, and that agrees with the unit of the sidecar."""
    usual, least, largest = (facts.numbers.get(k) for k in ('usual_scale', 'least_turn', 'largest_turn'))
    if usual is None or least is None or largest is None:
        return UNKNOWN
    if facts.sidecar.get('Units') == 'rad' and abs(largest / (2 * math.pi) - 1) > 0.02:
        return 'fail', f'a turn of {largest:.4g}, stated as rad'
    if largest > 1.02 * least:
        return 'fail', f'turns of {least:.4g} to {largest:.4g}'
    return ('pass' if usual else 'warn'), f'a turn of {largest:.4g}'


def _slices(facts: Facts) -> State:
    bend = facts.numbers.get('slice_bend')
    if bend is None:
        return UNKNOWN
    mended = bool(facts.numbers.get('slices_mended'))
    return ('pass' if bend <= BENT else 'warn' if mended else 'fail'), f'{bend:.2f} rad'


def _sign(facts: Facts) -> State:
    sure, correlation = (facts.numbers.get(f'sign_{key}') for key in ('sure', 'correlation'))
    if sure is None or correlation is None:
        return UNKNOWN
    return ('pass' if sure else 'unknown'), f'correlation {correlation:+.2f}'


def _of(name: str, limits: tuple[float, float], *, least: bool = False):
    def judge(facts: Facts) -> State:
        return (at_least if least else at_most)(facts.numbers.get(name), *limits)

    return judge


def _singular(facts: Facts) -> State:
    state, value = at_most(facts.numbers.get('singularity_mm'), *SINGULARITY_MM)
    fringe = facts.numbers.get('fringe_mm', 0.0)
    if state == 'pass' and fringe > max(FRINGE_MM, 5 * max(facts.voxel_size, default=0.0)):
        return 'warn', f'{fringe:.3g} mm where the signal is weak'
    return state, value if state == 'unknown' else f'{value:.3g} mm'


def _moved(facts: Facts) -> State:
    moved = facts.numbers.get('moved_mm')
    if moved is None or not facts.voxel_size:
        return UNKNOWN
    passes, warns = (max(mm, of * min(facts.voxel_size)) for mm, of in zip(MOVED_MM, MOVED, strict=True))
    return at_most(moved, passes, warns)


def _cuts(facts: Facts) -> State:
    n = facts.numbers.get('brain_cuts')
    return UNKNOWN if n is None else ('pass' if n == 0 else 'fail', int(n))


IMAGES = {
    'monopolar': Check(
        'Monopolar readout',
        _bipolar,
        f'odd and even echoes differ by less than {BIPOLAR_SPAN:g} rad across the object',
        'medium',
        f'monopolar: {CONSENSUS}; limit: {OWN}',
        'The linear difference is removed before the fit; what is not linear stays. For the next scans: use '
        'a monopolar (fly-back) readout.',
    ),
    'phase_scale': Check(
        'Range of phase',
        _scale,
        'one full turn in all echoes, as vendors store it, and as Units says',
        'high',
        f'{OWN}',
        'State it by --phase-scaling=LOW,HIGH: the values of -pi and pi. A wrong turn scales susceptibility.',
    ),
    'phase_levels': Check(
        *('Steps of stored phase', _of('levels', LEVELS, least=True)),
        f'{LEVELS[0]} values or more in a turn; fails below {LEVELS[1]}',
        *('medium', OWN, 'Convert again without reducing the depth of the images.'),
    ),
    'unfiltered': Check(
        'Phase without high-pass filter',
        _filtered,
        f'slow field of more than {LEAST_SLOW:g} ppm, or {LEAST_RATIO:g} x the fast one',
        'high',
        f'{OWN}, see the page "methods" of the documentation',
        'Give the unfiltered phase; susceptibility of filtered phase is far too low.',
    ),
    'slices': Check(
        *('Phase continues from slice to slice', _slices, f'bend of at most {BENT:g} rad', 'high'),
        f'3D: {CONSENSUS}; limit: {OWN}',
        'Offsets that all echoes share are removed; others leave stripes.',
    ),
    'phase_sign': Check(
        *('Sign of phase', _sign, 'settled by the field of the head', 'high', OWN),
        'Check that veins and deep grey nuclei are positive, or state it by --phase-sign.',
    ),
    'singularities': Check(
        'Coil combination without singularities',
        _singular,
        f'no line about which phase turns where there is signal; fails above {SINGULARITY_MM[1]:g} mm; of '
        f'crops also none of {FRINGE_MM:g} mm or 5 voxels where signal is weak',
        'high',
        f'open-ended fringe lines: {OWN} (the paper discusses them; limit not verified)',
        'Combine the coils again (adaptive, or save them one by one: bids_qsm combines them); '
        '--unwrap laplacian hides the line but not its field.',
    ),
    'snr': Check(
        *('Signal-to-noise of the last echo', _of('snr_last', SNR, least=True)),
        f'{SNR[0]:g} or more; fails below {SNR[1]:g}',
        *(
            'medium',
            OWN,
            'Expect noise in susceptibility and R2*; larger voxels or a shorter last echo help.',
        ),
    ),
    'phase_quality': Check(
        'Quality of phase',
        _of('poor_phase', POOR_PHASE),
        f'less than {POOR_PHASE[0]:.0%} of the brain below a quality of 0.3; fails above {POOR_PHASE[1]:.0%}',
        'medium',
        OWN,
        'Look at the phase for motion, dropouts and noise.',
    ),
    'phase_linearity': Check(
        'Phase linear in echo time',
        _of('misfit', (DOUBTFUL, HOPELESS)),
        f'failed fits in at most {DOUBTFUL:.0%} of the brain; fails above {HOPELESS:.0%}',
        'high',
        OWN,
        'Echoes contradict each other: look for motion, scales or signs that differ, or a bipolar readout.',
    ),
    'moved': Check(
        *('No motion between echoes', _moved, MOVED_TEXT, 'high', OWN),
        'Echoes of one readout do not move: check that they are of one acquisition.',
        unit='mm',
    ),
    'ghosts': Check(
        *('Ghosts', _of('ghost', GHOST), f'at most {GHOST[0]:.0%} of the signal; fails above {GHOST[1]:.0%}'),
        *('medium', OWN, 'Look for motion; scan again if structures are doubled.'),
    ),
    'zero_filled': Check(
        'Voxels as acquired',
        _of('sampled', SAMPLED, least=True),
        f'{SAMPLED[0]:.0%} of k-space along each axis; fails below {SAMPLED[1]:.0%}',
        'low',
        f'no interpolation: {REPORTED}; limits: {OWN}',
        'The image was interpolated or smoothed: its voxels are finer than what was measured, and noise is '
        'underestimated. Export without interpolation.',
    ),
    'symmetric_kspace': Check(
        'Both halves of k-space',
        _of('one_sided', ONE_SIDED, least=True),
        f'at least {ONE_SIDED[0]:.0%} of the other half along each axis; fails below {ONE_SIDED[1]:.0%}',
        'low',
        f'partial Fourier and echoes to be avoided: {CONSENSUS}; limits: {OWN}',
        'For the next scans: switch partial Fourier and asymmetric echoes off.',
    ),
    'head_in_view': Check(
        'Head inside the field of view',
        _of('cut_mm', CUT_MM),
        f'no cut wider than {CUT_MM[0]:g} mm, but below; fails above {CUT_MM[1]:g} mm',
        'medium',
        f'whole brain: {CONSENSUS}; limits: {OWN}',
        'What is cut off is missing, and its field is taken for background.',
        unit='mm',
    ),
    'head_height': Check(
        'From the top of the head to the lower end',
        _of('height_mm', HEIGHT_MM, least=True),
        f'{HEIGHT_MM[0]:g} mm or more; fails below {HEIGHT_MM[1]:g} mm',
        'medium',
        f'whole brain: {CONSENSUS}; limits: {OWN}',
        'Brain stem, cerebellum and dentate may be missing.',
        unit='mm',
    ),
    'brain_coverage': Check(
        *('Brain mask inside the field of view', _cuts, 'no end at which the mask is cut straight', 'medium'),
        f'whole brain: {CONSENSUS}; limit: {OWN}',
        'Leave out regions at the cut; the mean of the whole brain is that of a part.',
    ),
    'missing_values': Check(
        *(
            'Missing values',
            _of('missing', MISSING),
            'none in 99.9 % of the image; fails above half',
            'low',
            OWN,
        ),
        'Nothing, where they lie outside the head; otherwise convert again.',
    ),
}
"""Name of the check -> check."""
