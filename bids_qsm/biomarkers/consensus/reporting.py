"""What the consensus asks to report of a study, filled in from a series and a run.

The items are those of tables 3 (hardware), 4 (sequence) and 5 (reconstruction) of the preprint
(arXiv:2307.02306) of doi:10.1002/mrm.30006; scan time, coil combination and regions were added here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_qsm.biomarkers.consensus.acquisition import coil_elements, words
from bids_qsm.biomarkers.consensus.check import Facts, text_of
from bids_qsm.biomarkers.consensus.processing import AS_GIVEN
from bids_qsm.errors import size_text

COLUMNS = {
    'item': ('What the consensus asks to report.', None),
    'value': ('What is known of it; n/a where it must be added by hand.', None),
    'needed': ('essential, if used (only where it was), or recommended.', None),
    'part': ('hardware, sequence or reconstruction: tables 3, 4 and 5 of the preprint.', None),
}


@dataclass(frozen=True)
class Item:
    """A line of the checklist."""

    title: str
    needed: str
    read: Callable[[Facts], object]
    """None or '' where it is not known."""


def _stated(*keys: str):
    def read(facts: Facts) -> object:
        return next((facts.sidecar[key] for key in keys if facts.sidecar.get(key) not in (None, '')), None)

    return read


def _number(key: str, unit: str, factor: float = 1.0):
    def read(facts: Facts) -> object:
        value = facts.stated(key)
        return None if value is None else f'{factor * value:.4g}{unit}'

    return read


def _coil(facts: Facts) -> object:
    name, n = facts.sidecar.get('ReceiveCoilName'), coil_elements(facts)
    return ', '.join(filter(None, (str(name or ''), f'{n} elements' if n else '')))


def _sequence(facts: Facts) -> object:
    kind = facts.sidecar.get('MRAcquisitionType')
    names = words(facts, 'ScanningSequence', 'SequenceVariant')
    said = str(facts.sidecar.get('PulseSequenceType') or '')
    kinds = 'gradient echo' if 'GR' in names else said[:1].lower() + said[1:]
    spoiled = 'spoiled' if 'SP' in names and 'spoiled' not in said.lower() else ''
    return ' '.join(filter(None, (kind if isinstance(kind, str) else '', spoiled, kinds)))


def _echoes(facts: Facts) -> object:
    times = [1e3 * time for time in facts.echo_times]
    if not times:
        return None
    if len(times) == 1:
        return f'1 echo, TE = {times[0]:.4g} ms'
    steps = np.diff(times)
    if steps.max() - steps.min() <= 0.1:
        return f'{len(times)} echoes, TE = {times[0]:.4g}:{steps.mean():.4g}:{times[-1]:.4g} ms'
    return f'{len(times)} echoes, TE = {", ".join(f"{time:.4g}" for time in times)} ms'


def _extent(facts: Facts) -> object:
    if not facts.shape:
        return None
    field = size_text(n * v for n, v in zip(facts.shape, facts.voxel_size, strict=True))
    return f'{field} mm, matrix {size_text(facts.shape)}'


def _voxel(facts: Facts) -> object:
    return f'{size_text(facts.voxel_size)} mm' if facts.voxel_size else None


def _orientation(facts: Facts) -> object:
    """Angle between B0 and the axis of the slices: that of the third voxel axis."""
    if not facts.b0_dir:
        return None
    angle = float(np.degrees(np.arccos(min(1.0, abs(facts.b0_dir[2])))))
    return 'axial' if angle < 1 else f'third axis at {angle:.0f} degrees to B0'


def _readout(facts: Facts) -> object:
    span, share = facts.numbers.get('bipolar_span'), facts.numbers.get('bipolar_share')
    if span is None or share is None:
        return None
    from bids_qsm.recon.conditioning import Bipolar

    is_bipolar = Bipolar(0, 0.0, 0.0, span, share).significant
    return 'bipolar (by the phase)' if is_bipolar else 'monopolar (by the phase)'


def _flow(facts: Facts) -> object:
    stated = facts.sidecar.get('FlowCompensation')
    if stated not in (None, ''):
        return stated
    return 'yes' if 'FC' in words(facts, 'ScanOptions') else None


def _acceleration(facts: Facts) -> object:
    said = [
        f'{name} {factor:g}'
        for name, key in (
            ('in plane', 'ParallelReductionFactorInPlane'),
            ('through plane', 'ParallelReductionFactorOutOfPlane'),
            ('multiband', 'MultibandAccelerationFactor'),
        )
        if (factor := facts.stated(key)) is not None
    ]
    method = facts.sidecar.get('ParallelAcquisitionTechnique')
    return ', '.join([str(method)] * bool(method and said) + said)


def _steps(facts: Facts) -> object:
    named = (
        ('mask', 'mask'),
        ('unwrap', 'unwrapping'),
        ('field', 'echo combination'),
        ('background', 'background removal'),
        ('inversion', 'inversion'),
        ('r2star', 'R2*'),
    )
    return '; '.join(f'{title}: {facts.methods[step]}' for step, title in named if facts.methods.get(step))


def _reference(facts: Facts) -> object:
    """The zero, and where it lies relative to the whole brain."""
    name = facts.methods.get('found_reference') or facts.method('reference')
    mean, sd = facts.numbers.get('brain_mean_ppm'), facts.numbers.get('brain_sd_ppm')
    if name in ('', AS_GIVEN):
        return None
    if mean is None or sd is None or 'brain' in name:
        return f'{name}, in ppm'
    away = f'{-1e3 * mean:+.1f} ppb from the mean of the brain mask'
    return f'{name}, in ppm; it lies {away} (standard deviation there {1e3 * sd:.1f} ppb)'


REPORT: dict[str, tuple[Item, ...]] = {
    'hardware': (
        Item(
            'Field strength',
            'essential',
            lambda facts: f'{facts.field_strength:.4g} T' if facts.field_strength else None,
        ),
        Item('Vendor', 'essential', _stated('Manufacturer')),
        Item('Scanner model', 'recommended', _stated('ManufacturersModelName')),
        Item('Software release', 'recommended', _stated('SoftwareVersions')),
        Item('Receive coil', 'recommended', _coil),
        Item('Gradient system', 'recommended', _stated('GradientSetType')),
    ),
    'sequence': (
        Item('Sequence type', 'essential', _sequence),
        Item('Commercial name', 'recommended', _stated('ProtocolName', 'SequenceName', 'PulseSequenceName')),
        Item('k-space trajectory', 'if used', _stated('KSpaceTrajectory')),
        Item('Orientation', 'recommended', _orientation),
        Item('Echoes', 'essential', _echoes),
        Item('TR', 'essential', _number('RepetitionTime', ' ms', 1e3)),
        Item('Flip angle', 'recommended', _number('FlipAngle', ' degrees')),
        Item('Bandwidth', 'recommended', _number('PixelBandwidth', ' Hz/pixel')),
        Item('Coverage and matrix', 'essential', _extent),
        Item('Voxel size', 'essential', _voxel),
        Item('Readout polarity', 'recommended', _readout),
        Item('Centre frequency', 'if used', _number('ImagingFrequency', ' MHz')),
        Item('Flow compensation', 'recommended', _flow),
        Item('Acceleration', 'essential', _acceleration),
        Item('Partial Fourier', 'if used', _stated('PartialFourier')),
        Item('Partial echo', 'if used', _stated('PartialEcho')),
        Item('Elliptical k-space shutter', 'recommended', _stated('EllipticalShutter')),
        Item('Phase stabilisation', 'if used', _stated('PhaseStabilization')),
        Item('Scan time', 'recommended', _number('AcquisitionDuration', ' s')),
    ),
    'reconstruction': (
        Item('Coil combination', 'essential', _stated('CoilCombinationMethod')),
        Item('Toolbox', 'essential', lambda facts: facts.methods.get('software')),
        Item('Algorithms and parameters', 'essential', _steps),
        Item('Further processing', 'if used', _stated()),
        Item('Reference', 'essential', _reference),
        Item('Regions', 'recommended', lambda facts: facts.methods.get('regions')),
        Item('Inclusion and exclusion', 'essential', _stated()),
    ),
}
"""Part of the checklist -> its items."""


def checklist(facts: Facts) -> pd.DataFrame:
    """The checklist of the consensus, filled in: one row an item, see `COLUMNS`."""
    rows = []
    for part, items in REPORT.items():
        for item in items:
            value = item.read(facts)
            shown = ', '.join(map(str, value)) if isinstance(value, list | tuple) else value
            text = text_of('' if shown is None else shown)
            rows.append({'item': item.title, 'value': text, 'needed': item.needed, 'part': part})
    return pd.DataFrame(rows, columns=[*COLUMNS])


def paragraph(table: pd.DataFrame) -> str:
    """The minimum report in sentences, from the checklist; and which essential items are missing."""
    known: Mapping[str, str] = {
        row['item']: row['value'] for row in table.to_dict('records') if row['value'] != 'n/a'
    }

    def said(*items: str, between: str = ', '):
        return between.join(
            f'{item.lower() if item != "TR" else item} {known[item]}' for item in items if item in known
        )

    scanner = ' '.join(known[item] for item in ('Vendor', 'Scanner model') if item in known)
    sentences = [
        f'Images were acquired at {known.get("Field strength", "an unknown field strength")}'
        + (f' on a scanner of {scanner}' if scanner else '')
        + (
            f' ({said("Software release", "Receive coil")})'
            if said('Software release', 'Receive coil')
            else ''
        )
        + (f' by a {known["Sequence type"]} sequence' if 'Sequence type' in known else '')
        + '.'
    ]
    of_scan = ('TR', 'Flip angle', 'Bandwidth', 'Readout polarity', 'Flow compensation', 'Acceleration')
    numbers = [known[item] for item in ('Echoes',) if item in known]
    numbers += [said(*of_scan, 'Partial Fourier', 'Scan time')] if said(*of_scan) else []
    geometry = said('Coverage and matrix', 'Voxel size', 'Orientation')
    sentences += [f'{", ".join(numbers)}.'] * bool(numbers)
    sentences += [f'{geometry[0].upper()}{geometry[1:]}.'] if geometry else []
    if 'Toolbox' in known:
        sentences.append(f'Susceptibility was computed with {known["Toolbox"]}.')
    if 'Algorithms and parameters' in known:
        sentences.append(
            f'{known["Algorithms and parameters"][0].upper()}{known["Algorithms and parameters"][1:]}.'
        )
    if 'Reference' in known:
        sentences.append(f'Susceptibility is given relative to {known["Reference"]}.')
    if 'Regions' in known:
        sentences.append(f'Regions are those of {known["Regions"]}.')
    lacking = table[(table['value'] == 'n/a') & (table['needed'] == 'essential')]['item'].tolist()
    if lacking:
        sentences.append(f'To be added by hand: {", ".join(item.lower() for item in lacking)}.')
    return ' '.join(sentences)
