"""What a series is, by its headers: gradient echo, T1w, FLAIR, BOLD, diffusion, or nothing that is used."""

import re
from dataclasses import dataclass

from bids_qsm.dicom.headers import Group


@dataclass(frozen=True)
class Kind:
    """``suffix`` is that of BIDS, 'GRE' for a gradient echo whose name depends on its echoes, '' for none.

    ``reason`` says why a series is left out.
    """

    suffix: str
    reason: str = ''
    is_by_text: bool = False
    """Whether a free text alone tells that it is a localizer or a calibration."""


_DERIVED = {
    **dict.fromkeys(('SECONDARY', 'REFORMATTED', 'CSA RESAMPLED', 'MPR', 'SUBTRACTION', 'MEAN'), 'derived'),
    **dict.fromkeys(('PROJECTION IMAGE', 'MIP', 'MINIP', 'MNIP', 'MIN IP'), 'a projection'),
    **dict.fromkeys(('ADC', 'FA', 'TRACEW', 'TENSOR', 'EXP', 'COLFA'), 'a map of diffusion'),
    **dict.fromkeys(('T1 MAP', 'T2 MAP', 'T2_STAR MAP', 'R2_STAR MAP', 'T2STAR_MAP', 'QSM'), 'a map'),
    **dict.fromkeys(('W', 'F', 'IP', 'OP', 'WATER', 'FAT', 'IN_PHASE', 'OUT_PHASE'), 'water or fat'),
    **dict.fromkeys(('V', 'VELOCITY MAP', 'PCA'), 'a map of flow'),
    **dict.fromkeys(('B0', 'B1', 'B0 MAP', 'FIELD MAP'), 'a field map'),
    'LOCALIZER': 'a localizer',
}
"""Words of ImageType, and what such an image is."""
_PARAMETRIC_MAP = '1.2.840.10008.5.1.4.1.1.30'
_TEXTS = (
    (r'locali[sz]er|scout|survey|plan_?scan|(?<![a-z])loc(?![a-z])', 'a localizer'),
    (r'calib|asset.?cal|coil.?surv|sens(e|itivity)?.?ref|ref(erence)?.?scan|shim', 'a calibration'),
    (r'm?.?minip|(?<![a-z])mip(?![a-z])', 'a projection'),
)
_FIELD_MAP = r'field.?map|(?<![a-z])fmap|b0.?map|phase.?diff|(?<![a-z])b1.?map'
_T1 = r'(?<![a-z0-9])t1(?![0-9])|mp-?rage|bravo|fspgr|(?<![a-z])tfl(?![a-z])|t1tfe'
_ANGIO = r'(?<![a-z])tof|angio|(?<![a-z])(mra|mrv|pca|pc3d)(?![a-z])|venog'
_GRE = r'qsm|swi|swan|fsbb|susc|megre|(?<![a-z])gre(?![a-z])|t2\*|t2.?star|t2s|medic|merge|ffe|aspire'
_BOLD = r'bold|fmri|rest|task|func'
_DIFFUSION = r'(?<![a-z])(dwi|dti|hardi|noddi|dki)|diff'


def kind_of(group: Group, frames: int) -> Kind:
    """What the images of a group are; ``frames`` is the number of images at each place."""
    texts = group.text('SeriesDescription', 'ProtocolName').lower()
    sequence = group.text('SequenceName', 'PulseSequenceName').lower()
    if group.text('Modality') != 'MR':
        hint = '; write CT as its name if it is to be used' if group.text('Modality') == 'CT' else ''
        return Kind('', f'no MR image{hint}')
    if group.text('SOPClassUID') == _PARAMETRIC_MAP:
        return Kind('', 'a parametric map')
    for word in group.words:
        if word in _DERIVED:
            return Kind('', f'{_DERIVED[word]} (ImageType {word})')
    # phase of the same name is filtered, which the participant level finds out and says
    if 'SWI' in group.words and group.part == 'mag':
        return Kind('', 'a susceptibility-weighted image of the scanner (ImageType SWI)')
    for pattern, what in _TEXTS:
        if re.search(pattern, texts):
            # projections have the protocol of their phase
            return Kind('', f'{what}, as its description says', is_by_text=what != 'a projection')
    traits = _traits(group, sequence)
    if 'epi' in traits:
        return _echo_planar(group, traits, texts, frames)
    if 'spin' in traits or ('gradient' not in traits and re.search('flair', texts)):
        return _spin_echo(group, texts)
    if re.search(_FIELD_MAP, texts):
        return Kind('', 'a field map, as its description says; write MEGRE as its name if it is to be used')
    if 'prepared' in traits:
        return _prepared(group, texts)
    if 'gradient' in traits or re.search(_GRE, f'{texts} {sequence}') or group.part != 'mag':
        return Kind('GRE')
    if re.search(_T1, texts):
        return Kind('T1w')
    return Kind('', 'its headers do not say what it is; write a name if it is to be used')


def kind_without_phase(group: Group) -> Kind:
    """What a gradient-echo magnitude is that no phase goes with."""
    texts = group.text('SeriesDescription', 'ProtocolName').lower()
    if re.search(_ANGIO, texts):
        return Kind('', 'an angiography, as its description says')
    if len(group.echoes) == 1 and re.search(_T1, texts) and group.text('MRAcquisitionType') != '2D':
        return Kind('T1w')
    return Kind('', 'a gradient echo without phase; write T2starw or MEGRE as its name if it is to be used')


def _traits(group: Group, sequence: str) -> set[str]:
    scanning = group.facts.get('ScanningSequence') or ()
    scanning = {scanning} if isinstance(scanning, str) else set(scanning)
    pulses = group.text('EchoPulseSequence')
    traits = set()
    if 'EP' in scanning or group.text('EchoPlanarPulseSequence') == 'YES' or re.search('epi|ep2d', sequence):
        traits.add('epi')
    if 'GR' in scanning or pulses == 'GRADIENT':
        traits.add('gradient')
    if 'SE' in scanning or pulses == 'SPIN':
        traits.add('spin')
    time = group.number('InversionTime') or group.number('InversionTimes')
    is_prepared = group.text('InversionRecovery') == 'YES' or 'IR' in scanning
    if time or is_prepared or 'MP' in group.text('SequenceVariant').replace("'", ' ').split():
        traits.add('prepared')
    return traits


def _echo_planar(group: Group, traits: set[str], texts: str, frames: int) -> Kind:
    weighted = group.number('DiffusionBValue') or group.number('SiemensBValue')
    if weighted or group.text('DiffusionDirectionality') or re.search(_DIFFUSION, texts):
        return Kind('', 'diffusion; write dwi as its name if it is to be used')
    if 'spin' in traits and not re.search(_BOLD, texts):
        return Kind('', 'an echo-planar spin echo')
    if re.search('sbref|moco', texts) or 'MOCO' in group.words:
        return Kind('', 'made of a BOLD run, or a reference of one')
    if frames == 1 and not group.is_mosaic:
        return Kind('', 'an echo-planar image of one frame')
    return Kind('bold')


def _spin_echo(group: Group, texts: str) -> Kind:
    time = group.number('InversionTime') or group.number('InversionTimes') or 0
    if (re.search('flair', texts) or time > 1500) and not re.search(r't1.?flair|t1.?dark', texts):
        return Kind('FLAIR')
    return Kind('', 'a spin echo; write T2w, or MESE for a train of echoes, as its name if it is to be used')


def _prepared(group: Group, texts: str) -> Kind:
    if group.part != 'mag':
        return Kind('', 'the phase of an image with inversion')
    if re.search(r'mp2rage|_inv-?\d|uni[-_ ]?(images|den)', texts) or 'UNI' in group.words:
        return Kind('', 'MP2RAGE; write T1w as the name of the one that looks like a T1w image')
    return Kind('T1w')
