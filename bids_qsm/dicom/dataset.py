"""What an import writes: the images of named series, their sidecars, and what a dataset has beside them."""

import gzip
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import bids_qsm
from bids_qsm.derivatives.files import BIDS_VERSION, atomic_write, write_json
from bids_qsm.dicom.convert import CannotConvert, Converted, convert
from bids_qsm.dicom.headers import Group
from bids_qsm.dicom.pairs import difference, distinct_echoes, may_pair
from bids_qsm.dicom.privacy import DECODED, FREE_TEXTS, names_person
from bids_qsm.dicom.table import COMPLEX, FOLDERS, UNCLEAR, Row
from bids_qsm.entities import in_order, join_entities
from bids_qsm.errors import UserError, plain

SIDECAR = (
    *('Modality', 'MagneticFieldStrength', 'ImagingFrequency', 'Manufacturer', 'ManufacturersModelName'),
    *('SoftwareVersions', 'BodyPart', 'BodyPartExamined', 'PatientPosition', 'MRAcquisitionType'),
    *('SeriesDescription', 'ProtocolName', 'ScanningSequence', 'SequenceVariant', 'ScanOptions'),
    *('SequenceName', 'PulseSequenceName', 'PulseSequenceType', 'PulseSequenceDetails', 'ImageType'),
    *('ImageTypeText', 'ComplexImageComponent', 'NonlinearGradientCorrection', 'SliceThickness'),
    *('SpacingBetweenSlices', 'EchoNumber', 'EchoTime', 'EchoTime1', 'EchoTime2', 'RepetitionTime'),
    *('InversionTime', 'FlipAngle', 'SpoilingState', 'SpoilingType', 'FlowCompensation', 'MTState'),
    *('PartialFourier', 'PartialFourierDirection', 'BaseResolution', 'PhaseResolution', 'Interpolation2D'),
    *('Interpolation3D', 'InterpolationFlag', 'ReceiveCoilName', 'ReceiveCoilActiveElements'),
    *('CoilString', 'CoilCombinationMethod', 'MatrixCoilMode', 'NumberOfAverages', 'PercentPhaseFOV'),
    *('PercentSampling', 'EchoTrainLength', 'PhaseEncodingSteps', 'AcquisitionMatrixPE'),
    *('ReconMatrixPE', 'PixelBandwidth', 'DwellTime', 'BandwidthPerPixelPhaseEncode'),
    *('PhaseEncodingAxis', 'PhaseEncodingDirection', 'ParallelReductionFactorInPlane'),
    *('ParallelReductionFactorOutOfPlane', 'ParallelAcquisitionTechnique', 'ParallelReductionOutOfPlane'),
    *('MultibandAccelerationFactor', 'EffectiveEchoSpacing', 'DerivedVendorReportedEchoSpacing'),
    *('TotalReadoutTime', 'SliceTiming', 'WaterFatShift', 'PhilipsRescaleSlope', 'PhilipsRescaleIntercept'),
    *('PhilipsScaleSlope', 'PhilipsRWVSlope', 'PhilipsRWVIntercept', 'UsePhilipsFloatNotDisplayScaling'),
    *('ImageOrientationPatientDICOM', 'InPlanePhaseEncodingDirectionDICOM', 'ConversionSoftware'),
    'ConversionSoftwareVersion',
)
"""Keys of sidecars that are kept: how images were acquired, not when, where and of whom."""
README = """The images of this dataset were converted from DICOM by bids_qsm {version} with dcm2niix
{converter}.

Names, IDs, dates and comments of the DICOM files are not in it. The table that links the participants to
patients lies outside this folder and must not be shared with it. The images show faces: deface what you
share.
"""


@dataclass(frozen=True)
class Done:
    """What an import did: written and kept files, and sentences on what went wrong or is unclear."""

    written: int
    kept: int
    problems: tuple[str, ...]


def write_dataset(rows: Sequence[Row], bids_dir: Path, program: str) -> Done:
    """Convert the rows that have a name, and write what is not there yet."""
    acquisitions = defaultdict(list)
    for row in rows:
        if row.is_used and row.found is not None:
            acquisitions[row.stem].append(row)
    written, kept, problems, subjects = 0, 0, [], set()
    version = ''
    for own in acquisitions.values():
        name = join_entities(own[0].entities.items())
        try:
            _require_whole(own, rows)
            files, version = _files_of(own, program)
            there = _already(bids_dir, files)
        except CannotConvert as error:
            problems.append(f'{name}_{own[0].suffix} is not imported: {error}.')
            continue
        for path, content in files.items():
            if path not in there:
                _write(bids_dir / path, content)
        written, kept = written + len(files) - len(there), kept + len(there)
        print(f'{name}_{own[0].suffix}: {len(files)} files', flush=True)
        subjects.add(own[0].subject)
    if subjects:
        _describe_dataset(bids_dir, subjects, version, {row.suffix for row in rows if row.is_used})
    return Done(written, kept, tuple(problems))


def _write(path: Path, content: bytes):
    atomic_write(path, lambda temporary: temporary.write_bytes(content))


def _files_of(rows: Sequence[Row], program: str) -> tuple[dict[Path, bytes], str]:
    """Files of one acquisition by their place in the dataset, and the version of dcm2niix."""
    _require_fit(rows)
    times = distinct_echoes([row.group for row in rows])
    has_parts = rows[0].suffix in COMPLEX or any(row.group.part != 'mag' for row in rows)
    files, version = {}, ''
    for row in rows:
        for time in sorted(row.group.echoes):
            made = convert(row.group, time, program)
            version = str(made.sidecar.get('ConversionSoftwareVersion', ''))
            labels, echo = row.entities, int(np.argmin(np.abs(np.array(times) - time)))
            if len(times) > 1 or row.suffix in ('MEGRE', 'MESE'):
                labels['echo'] = str(echo + 1)
            if time:  # of both parts
                made.sidecar['EchoTime'] = round(times[echo] / 1000, 8)
            if has_parts:
                labels['part'] = row.group.part or 'mag'
            stem = f'{join_entities(in_order(labels))}_{row.suffix}'
            folder = Path(
                f'sub-{row.subject}', *([f'ses-{row.session}'] if row.session else []), FOLDERS[row.suffix]
            )
            # without name and time, so that equal data give equal files
            files[folder / f'{stem}.nii.gz'] = gzip.compress(made.nifti, 6, mtime=0)
            text = json.dumps(_sidecar(made, row, labels), indent=2, ensure_ascii=False) + '\n'
            files[folder / f'{stem}.json'] = text.encode()
            for extension, table in made.gradients.items():
                files[folder / f'{stem}{extension}'] = table.encode()
    return files, version


def _require_fit(rows: Sequence[Row]):
    """Raise CannotConvert where rows of one name are no parts of one acquisition, whoever named them."""
    parts: dict[str, list[Group]] = defaultdict(list)
    for row in rows:
        problem = difference(rows[0].group, row.group, but_echoes=True)
        if problem:
            raise CannotConvert(
                f'{rows[0].group.label} and {row.group.label} do not belong together: {problem}'
            )
        if row.group.part is None:
            raise CannotConvert(f'the header of {row.group.label} does not tell which part it is')
        for other in parts[row.group.part]:
            if set(other.echoes) & set(row.group.echoes):
                raise CannotConvert(
                    f'{other.label} and {row.group.label} have one name and the same echo times; name them '
                    'run-1_... and run-2_..., or skip one'
                )
        parts[row.group.part].append(row.group)
    for first, second in (('mag', 'phase'), ('real', 'imag'), ('mag', 'real')):
        if parts[first] and parts[second]:
            problem = difference(_whole(parts[first]), _whole(parts[second]))
            if problem:
                labels = ' and '.join(one.label for one in (*parts[first], *parts[second]))
                raise CannotConvert(f'{labels} do not belong together: {problem}')
    for part, half in (('phase', 'mag'), ('real', 'imag'), ('imag', 'real')):
        if parts[part] and not parts[half]:
            raise CannotConvert(f'{parts[part][0].label} lacks its other half')


def _require_whole(own: Sequence[Row], rows: Sequence[Row]):
    """Raise CannotConvert where a series that may be the other half of named ones is not decided on."""
    parts = {row.group.part for row in own}
    open_rows = [row for row in rows if row.found is not None and row.name == UNCLEAR]
    if own[0].suffix in COMPLEX and len(parts) == 1:
        for one, other in itertools.product(own, open_rows):
            if other.group.part not in parts and may_pair(one.group, other.group):
                raise CannotConvert(
                    f'{other.group.label}, which may belong to {one.group.label}, is unclear; give it the '
                    'same name if it does, or write skip'
                )


def _whole(groups: Sequence[Group]) -> Group:
    """Groups of one part, whose echoes are series of their own, as one."""
    return replace(groups[0], echoes={time: own for one in groups for time, own in one.echoes.items()})


def _sidecar(made: Converted, row: Row, labels: dict[str, str]) -> dict[str, Any]:
    kept = {}
    for key in SIDECAR:
        value = row.group.text(key) or None if key in DECODED else made.sidecar.get(key)
        texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        is_safe = key not in FREE_TEXTS or not any(names_person(text, row.group.person) for text in texts)
        # what dcm2niix reads in another alphabet is garbled, so that no name would be found in it
        if value is not None and is_safe and (key in DECODED or all(text.isascii() for text in texts)):
            kept[key] = value
    if labels.get('part') == 'phase':
        # dcm2niix scales the phase of Philips to radians
        is_rad = kept.get('UsePhilipsFloatNotDisplayScaling') == 1 and 1 < made.largest < 3.2
        kept['Units'] = 'rad' if is_rad else 'arbitrary'
    if row.suffix == 'bold':
        kept['TaskName'] = labels['task']
    return kept


def _already(bids_dir: Path, files: dict[Path, bytes]) -> set[Path]:
    """Files that are there already, with the same content; CannotConvert where one has another."""
    there = set()
    for path, content in files.items():
        if (bids_dir / path).exists():
            if _content(path, (bids_dir / path).read_bytes()) != _content(path, content):
                raise CannotConvert(
                    f'{path} is there with another content, and nothing is overwritten; remove it, or '
                    'change the name or the subject in the table'
                )
            there.add(path)
        twin = bids_dir / str(path).removesuffix('.gz')
        if path.suffix == '.gz' and twin.exists():
            raise CannotConvert(f'{twin.name} is there already; remove it or change the name in the table')
    return there


def _content(path: Path, raw: bytes) -> Any:
    """What a file says, however it is compressed and whichever version converted it."""
    try:
        if path.suffix == '.gz':
            return gzip.decompress(raw)
        if path.suffix == '.json':
            return {**json.loads(raw), 'ConversionSoftwareVersion': ''}
    except (OSError, EOFError, ValueError, TypeError):  # of a file that somebody else wrote
        return None
    return raw


def _describe_dataset(bids_dir: Path, subjects: Iterable[str], version: str, suffixes: set[str]):
    """Write what a dataset needs beside the images, unless it is there."""
    makers = [
        {'Name': 'bids_qsm', 'Version': bids_qsm.__version__},
        {'Name': 'dcm2niix', 'Version': version},
    ]
    description = {
        'Name': plain(bids_dir.absolute().name),
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'raw',
        'GeneratedBy': makers,
    }
    if not (bids_dir / 'dataset_description.json').exists():
        write_json(bids_dir / 'dataset_description.json', description)
    if not any(bids_dir.glob('README*')):
        text = README.format(version=bids_qsm.__version__, converter=version)
        atomic_write(bids_dir / 'README', lambda path: path.write_text(text))
    ignored = '*_CT.*\n' if 'CT' in suffixes else ''
    if not (bids_dir / '.bidsignore').exists():
        atomic_write(bids_dir / '.bidsignore', lambda path: path.write_text(ignored))
    _list_participants(bids_dir / 'participants.tsv', sorted(subjects))


def read_participants(path: Path) -> list[str]:
    """Lines of a participants.tsv; UserError where it cannot be read."""
    try:
        text = path.read_text(encoding='utf-8') if path.exists() else 'participant_id\n'
    except (OSError, UnicodeError) as error:
        raise UserError(f'{path} cannot be read ({error}); save it as a text in UTF-8.') from None
    return text.splitlines()


def _list_participants(path: Path, subjects: Sequence[str]):
    """Add a line for each participant that the table lacks; the others stay as they are."""
    lines = read_participants(path)
    header = lines[0].lstrip('\ufeff').split('\t') if lines else []
    if 'participant_id' not in header:
        return
    column = header.index('participant_id')
    listed = {line.split('\t')[column] for line in lines[1:] if line.count('\t') >= column}
    new = [f'sub-{label}' for label in subjects if f'sub-{label}' not in listed]
    more = ['\t'.join(name if i == column else 'n/a' for i in range(len(header))) for name in new]
    if new or not path.exists():
        whole = '\n'.join([*lines, *more]) + '\n'
        atomic_write(path, lambda temporary: temporary.write_text(whole, encoding='utf-8'))
