"""Checks of the processing, from the methods that the run chose."""

from collections.abc import Collection

from bids_qsm.biomarkers.consensus.check import CONSENSUS, OWN, UNKNOWN, Check, Facts, State

EXACT_UNWRAPPING = ('romeo',)
FIELD_FITS = ('linear', 'nonlinear')
PHASE_MASKS = ('combined', 'two_pass', 'quality')
SHARP_OR_PDF = ('sharp', 'vsharp', 'resharp', 'pdf')
SPARSE = ('whnltv', 'learned', 'tv', 'nltv', 'l1qsm', 'hdqsm', 'rts', 'medi', 'medi0', 'tgv')
"""Inversions that are regularised by total (generalised) variation or another l1 norm."""
REFERENCES = ('csf', 'brain')
AS_GIVEN = 'as given'
"""Zero of a map that was given, where its sidecar does not say it."""


def _one_of(step: str, good: Collection[str], otherwise: str):
    def judge(facts: Facts) -> State:
        name = facts.method(step)
        return UNKNOWN if not name else ('pass' if name in good else otherwise, facts.methods[step])

    return judge


def _reference(facts: Facts) -> State:
    """The zero that was found counts before that asked for."""
    asked, found = facts.methods.get('reference', ''), facts.methods.get('found_reference', '')
    if found.lower() == AS_GIVEN:
        found = ''
    if not (asked or found):
        return UNKNOWN
    named = facts.methods.get('reference_name') or facts.method('reference')
    is_other = found and asked and found.lower() != named.lower()
    shown = f'{found} ({asked} was asked for)' if is_other else asked or found
    return ('fail' if 'none' in (found.lower(), named.lower()) else 'pass'), shown


def _combined_echoes(facts: Facts) -> State:
    if len(facts.echo_times) < 2:
        return UNKNOWN
    return _one_of('field', FIELD_FITS, 'warn')(facts)


def _whole_brain(facts: Facts) -> State:
    """Tables of regions have the whole brain as a row, where there are regions."""
    regions = facts.methods.get('regions')
    return UNKNOWN if regions is None else ('pass' if regions else 'warn', regions or 'no regions')


PROCESSING = {
    'unwrapping': Check(
        *('Exact unwrapping', _one_of('unwrap', EXACT_UNWRAPPING, 'warn'), ', '.join(EXACT_UNWRAPPING)),
        *('medium', CONSENSUS, 'Use --unwrap romeo; Laplacian unwrapping changes the field.'),
    ),
    'echo_combination': Check(
        'Echoes combined before background removal',
        _combined_echoes,
        'a fit over all echoes: ' + ', '.join(FIELD_FITS),
        *('medium', CONSENSUS, 'Use --field linear or nonlinear.'),
    ),
    'phase_mask': Check(
        'Mask by brain and quality of phase',
        _one_of('mask', PHASE_MASKS, 'warn'),
        ', '.join(PHASE_MASKS),
        *('medium', CONSENSUS, 'Use --mask combined, or look for streaks at veins and sinuses.'),
    ),
    'background_removal': Check(
        'Background removal by SHARP or PDF',
        _one_of('background', SHARP_OR_PDF, 'warn'),
        ', '.join(SHARP_OR_PDF),
        *('low', CONSENSUS),
        'State the method and why it was chosen (the page "benchmarks" of the documentation compares them), '
        'or use --background vsharp to follow the paper to the letter.',
    ),
    'inversion': Check(
        *('Sparsity-regularised inversion', _one_of('inversion', SPARSE, 'warn'), ', '.join(SPARSE)),
        *('medium', CONSENSUS, 'Use the default, or --inversion tv.'),
    ),
    'reference': Check(
        *('Stated reference', _reference, ' or '.join(REFERENCES)),
        *('high', CONSENSUS, 'Use --reference csf or brain: without one, values have no zero.'),
    ),
    'whole_brain': Check(
        *('Whole brain as a region', _whole_brain, 'a row Brain in the tables of regions', 'low', CONSENSUS),
        f'Leave --no-registration out, so that others can refer to the whole brain ({OWN} rule for the row).',
    ),
}
"""Name of the check -> check."""
