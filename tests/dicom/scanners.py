"""DICOM files as scanners write them, of volumes whose content and place are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian

CLASSIC, ENHANCED = '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.5.1.4.1.1.4.1'
SHAPE = (8, 7, 4)
"""Columns, rows and slices of small scans."""
SPACING = (1.5, 1.5, 2.0)
PLANES = {
    'axial': np.eye(3),
    'sagittal': np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    'coronal': np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
}
"""Directions of columns, rows and slices (LPS)."""
WORDS = {'mag': 'MAGNITUDE', 'phase': 'PHASE', 'real': 'REAL', 'imag': 'IMAGINARY'}
LETTERS = {'mag': 'M', 'phase': 'P', 'real': 'R', 'imag': 'I'}

IDENTIFYING = {
    'OtherPatientIDs': 'OTHER-4242',
    'OtherPatientNames': 'Maidenname^Erika',
    'PatientBirthName': 'Birthname^Erika',
    'PatientMotherBirthName': 'Mothername^Berta',
    'PatientAddress': '12 Elm Street, Smallville',
    'PatientTelephoneNumbers': '+49 711 5550199',
    'PatientComments': 'twin of Karla',
    'AdditionalPatientHistory': 'fell from a horse',
    'EthnicGroup': 'Martian',
    'Occupation': 'lamplighter',
    'MedicalRecordLocator': 'SHELF-0099',
    'InstitutionName': 'General Hospital',
    'InstitutionAddress': '1 Hospital Road',
    'InstitutionalDepartmentName': 'Neuroradiology West',
    'StationName': 'STATION-77',
    'DeviceSerialNumber': 'SERIAL-4711',
    'OperatorsName': 'Operator^Olga',
    'PerformingPhysicianName': 'Performer^Paul',
    'PhysiciansOfRecord': 'Recorder^Rita',
    'RequestingPhysician': 'Requester^Rosa',
    'ReferringPhysicianName': 'Who^Doctor',
    'AccessionNumber': 'ACC0815',
    'StudyID': 'STUDY-0001',
    'AdmissionID': 'ADMIT-0007',
    'IssuerOfPatientID': 'ISSUER-HOSPITAL',
    'StudyDescription': 'Head for Mustermann',
    'ImageComments': 'patient Erika moved',
    'RequestedProcedureDescription': 'tremor for years',
    'PerformedProcedureStepDescription': 'brain of Erika',
    'PerformedProcedureStepID': 'STEP-0123',
    'PerformedProcedureStepStartDate': '20240229',
}
"""What else tells who a patient is, where and by whom; in all files."""


@dataclass(frozen=True)
class Scan:
    """An acquisition; ``volumes`` are (part, echo time in ms, phase or size of each voxel)."""

    vendor: str
    number: int
    protocol: str = 'QSM_gre'
    description: str = ''
    patient: str = 'HOSP-7731'
    name: str = 'Mustermann^Erika'
    born: str = '19640812'
    study: int = 1
    date: str = '20240301'
    time: float = 36000.0
    """Of the acquisition (s after midnight)."""
    has_times: bool = True
    """Whether headers say when an acquisition started."""
    echo_times: Sequence[float] = (5.0, 12.0, 19.0)
    parts: Sequence[str] = ('mag', 'phase')
    plane: str = 'axial'
    """Or sagittal, coronal."""
    degrees: float = 14.0
    """Turn about x."""
    tags: dict = field(default_factory=dict)
    """Further elements by keyword."""
    image_type: str = ''
    """Instead of that of the part."""
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Columns, rows and slices."""
        return SHAPE

    @property
    def spacing(self) -> np.ndarray:
        """Between columns, rows and slices (mm)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def affine(self) -> np.ndarray:
        """From column, row and slice to scanner coordinates (LPS, mm)."""
        turn = np.deg2rad(self.degrees)
        axes = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        axes = axes @ PLANES[self.plane] @ np.diag(SPACING)
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = (-9.0, -12.5 + self.seed, 4.0)
        return affine

    def truth(self, part: str, echo_time: float) -> np.ndarray:
        """Size (0 to 1000) or phase (rad) of each voxel: wrapped, and another for each scan."""
        x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing='ij')
        phase = echo_time / 6 * (0.9 * x + 0.3 * y - 0.5 * z + 0.2 * self.seed)
        size = (400 + 20 * x - 15 * y + 10 * z + self.seed) * np.exp(-echo_time / 40)
        signal = size * np.exp(1j * phase)
        if self.vendor == 'GE':  # as its product leaves them
            signal[..., 1::2] *= -1
        return _part(part, signal)

    def uid(self, *words: object) -> UID:
        return pydicom.uid.generate_uid(entropy_srcs=[str((self.patient, self.study, self.number, *words))])

    @property
    def series_uid(self) -> str:
        return self.uid('series')


@dataclass(frozen=True)
class Measured(Scan):
    """An acquisition of given volumes."""

    signals: Mapping[float, np.ndarray] = field(default_factory=dict)
    """Complex signal by echo time; columns, rows and slices."""
    place: np.ndarray = field(default_factory=lambda: np.eye(4))
    """From column, row and slice to scanner coordinates (LPS, mm)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.signals.values())).shape

    @property
    def affine(self) -> np.ndarray:
        return self.place

    def truth(self, part: str, echo_time: float) -> np.ndarray:
        return _part(part, self.signals[echo_time])


def _part(part: str, signal: np.ndarray) -> np.ndarray:
    return {'mag': np.abs, 'phase': np.angle, 'real': np.real, 'imag': np.imag}[part](signal)


def stored(vendor: str, part: str, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values as the vendor stores them, with slope and intercept."""
    if part == 'phase':
        if vendor in ('Siemens', 'UIH'):
            return np.floor((values / np.pi + 1) * 2048).clip(0, 4095).astype(np.uint16), 2.0, -4096.0
        if vendor == 'Philips':
            slope = 6284 / 4095
            return np.round((values * 1000 + 3142) / slope).astype(np.uint16), slope, -3142.0
        return np.round(values * 1000).astype(np.int16), 1.0, 0.0
    if part == 'mag':
        return np.round(values).astype(np.uint16), *((1.29, 0.0) if vendor == 'Philips' else (1.0, 0.0))
    if vendor == 'Philips':
        return np.round(values + 2048).astype(np.uint16), 1.0, -2048.0
    return np.round(values).astype(np.int16), 1.0, 0.0


def write_classic(folder: Path, scan: Scan) -> list[Path]:
    """One file for each slice; all parts and echoes in one series."""
    written = []
    one = _common(scan, CLASSIC, ())
    one.ImageOrientationPatient = _numbers(_orientation(scan))
    columns, rows, slices = _numbers(scan.spacing)
    one.PixelSpacing = [rows, columns]
    one.SliceThickness = one.SpacingBetweenSlices = slices
    one.ContentTime = _clock(scan.time + 300)
    for part in scan.parts:
        for echo, time in enumerate(scan.echo_times, 1):
            values, slope, intercept = stored(scan.vendor, part, scan.truth(part, time))
            _describe(one, scan, part, echo, time)
            # the two parts of a slice come from the same data
            if scan.has_times:
                one.AcquisitionTime = _clock(scan.time + 0.4 * echo)
            # slices are not written in the order of their places
            for k in sorted(range(scan.shape[2]), key=lambda k: (k % 2, k)):
                one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = scan.uid(part, echo, k)
                one.InstanceNumber = len(written) + 1
                one.ImagePositionPatient = _numbers(scan.affine[:3] @ (0, 0, k, 1))
                _pixels(one, values[:, :, k].T, slope, intercept)
                written.append(_save(one, folder / f'{scan.number:04d}_{one.InstanceNumber:05d}.dcm'))
    return written


def write_enhanced(folder: Path, scan: Scan) -> list[Path]:
    """All frames of the series in a file; interleaved as of Philips."""
    one = _common(scan, ENHANCED, ())
    parts, frames, pixels = scan.parts, [], []
    letters = 'MIXED' if len(parts) > 1 else WORDS[parts[0]]
    one.ImageType = ['ORIGINAL', 'PRIMARY', 'VOLUME', 'NONE']
    one.ComplexImageComponent = letters
    one.ContentTime = _clock(scan.time + 300)
    one.AcquisitionDateTime = scan.date + _clock(scan.time)
    one.InstanceNumber = 1
    _sequence(one, scan, enhanced=True)
    dimensions = [
        [(k + 1, echo, p + 1), part, time, k]
        for k in range(scan.shape[2])
        for echo, time in enumerate(scan.echo_times, 1)
        for p, part in enumerate(parts)
    ]
    images = {
        (part, time): stored(scan.vendor, part, scan.truth(part, time))
        for part in parts
        for time in scan.echo_times
    }
    for index, part, time, k in dimensions:
        values, slope, intercept = images[part, time]
        frames.append(_frame(scan, (1, *index), part, time, k, slope, intercept))
        pixels.append(values[:, :, k].T)
    shared = Dataset()
    columns, rows, slices = _numbers(scan.spacing)
    shared.PixelMeasuresSequence = _one(
        PixelSpacing=[rows, columns], SliceThickness=slices, SpacingBetweenSlices=slices
    )
    shared.PlaneOrientationSequence = _one(ImageOrientationPatient=_numbers(_orientation(scan)))
    shared.MRTimingAndRelatedParametersSequence = _one(RepetitionTime=28.0, FlipAngle=15.0)
    one.SharedFunctionalGroupsSequence = Items([shared])
    one.PerFrameFunctionalGroupsSequence = Items(frames)
    one.NumberOfFrames = len(frames)
    _pixels(one, np.stack([p.astype(np.int32) for p in pixels]).astype(np.uint16), None, None)
    return [_save(one, folder / f'{scan.number:04d}.dcm')]


def _frame(scan: Scan, index: tuple, part: str, time: float, k: int, slope: float, intercept: float):
    frame = Dataset()
    frame.FrameContentSequence = _one(
        DimensionIndexValues=list(index),
        StackID='1',
        InStackPositionNumber=k + 1,
        TemporalPositionIndex=1,
        FrameAcquisitionDateTime=scan.date + _clock(scan.time),
        FrameAcquisitionNumber=1,
    )
    frame.PlanePositionSequence = _one(ImagePositionPatient=_numbers(scan.affine[:3] @ (0, 0, k, 1)))
    frame.MREchoSequence = _one(EffectiveEchoTime=time)
    kind = 'ORIGINAL\\PRIMARY\\M_FFE\\M' if part == 'mag' else 'ORIGINAL\\PRIMARY\\PHASE MAP\\P'
    if scan.vendor == 'Siemens':
        kind = f'ORIGINAL\\PRIMARY\\{LETTERS[part]}\\NONE'
    frame.MRImageFrameTypeSequence = _one(FrameType=kind.split('\\'), ComplexImageComponent=WORDS[part])
    frame.PixelValueTransformationSequence = _one(
        RescaleIntercept=intercept, RescaleSlope=slope, RescaleType='US'
    )
    if scan.vendor == 'Philips':
        block = frame.private_block(0x2005, 'Philips MR Imaging DD 001', create=True)
        block.add_new(0x0E, 'FL', 651.74 if part == 'phase' else 0.000238)
    return frame


def _common(scan: Scan, kind: str, words: tuple) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = scan.uid('image', *words)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset('', {}, file_meta=meta, preamble=b'\0' * 128)
    one.SOPClassUID, one.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    one.SpecificCharacterSet = 'ISO_IR 100'
    one.Modality = 'MR'
    one.Manufacturer = {
        'Siemens': 'SIEMENS',
        'GE': 'GE MEDICAL SYSTEMS',
        'Philips': 'Philips Medical Systems',
        'UIH': 'UIH',
        'Canon': 'CANON_MEC',
    }[scan.vendor]
    one.ManufacturerModelName, one.SoftwareVersions = 'Tomograph', 'v1'
    one.PatientName, one.PatientID, one.PatientBirthDate = scan.name, scan.patient, scan.born
    one.PatientSex, one.PatientAge, one.PatientWeight = 'F', '059Y', '61'
    for key, value in IDENTIFYING.items():
        setattr(one, key, value)
    one.RequestAttributesSequence = _one(
        RequestedProcedureID='REQUEST-55', ScheduledProcedureStepDescription='asked by Requester'
    )
    # where Siemens, GE, Philips and UIH keep texts of their own
    for group, creator in (
        (0x0029, 'SIEMENS MEDCOM HEADER'),
        (0x0009, 'GEMS_IDEN_01'),
        (0x2001, 'Philips Imaging DD 001'),
        (0x0065, 'Image Private Header'),
    ):
        one.private_block(group, creator, create=True).add_new(0x60, 'LO', 'Privatetext Erika')
    one.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[f'{scan.patient} study {scan.study}'])
    one.SeriesInstanceUID = scan.series_uid
    one.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[f'{scan.patient} frame {scan.study}'])
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = scan.date
    one.StudyTime, one.SeriesTime = _clock(scan.time - 600), _clock(scan.time)
    one.SeriesNumber, one.SeriesDescription = scan.number, scan.description or scan.protocol
    one.ProtocolName, one.PatientPosition, one.BodyPartExamined = scan.protocol, 'HFS', 'BRAIN'
    one.MagneticFieldStrength, one.ImagingFrequency = 3, 123.2
    one.MRAcquisitionType = '3D'
    one.AcquisitionNumber = 1
    return one


def _describe(one: FileDataset, scan: Scan, part: str, echo: int, time: float):
    letter, word = LETTERS[part], WORDS[part]
    philips = 'PHASE MAP' if part == 'phase' else f'{letter}_FFE'
    one.ImageType = (
        scan.image_type
        or {
            'Siemens': f'ORIGINAL\\PRIMARY\\{letter}\\ND',
            'GE': 'ORIGINAL\\PRIMARY\\OTHER',
            'Philips': f'ORIGINAL\\PRIMARY\\{philips}\\{letter}\\FFE',
            'UIH': f'ORIGINAL\\PRIMARY\\{letter}\\UCA\\IF',
            # of magnitudes nothing is said
            'Canon': 'ORIGINAL\\PRIMARY' + ('' if part == 'mag' else f'\\{word}') + '\\GDC',
        }[scan.vendor]
    ).split('\\')
    _sequence(one, scan)
    one.EchoTime, one.EchoNumbers = time, echo
    if scan.vendor == 'GE':
        # ImageType is the same for all; the private one tells the part
        block = one.private_block(0x0043, 'GEMS_PARM_01', create=True)
        block.add_new(0x2F, 'SS', ['mag', 'phase', 'real', 'imag'].index(part))
    if scan.vendor == 'Philips':
        block = one.private_block(0x2005, 'Philips MR Imaging DD 001', create=True)
        block.add_new(0x0E, 'FL', 651.74 if part == 'phase' else 0.000238)


def _sequence(one: FileDataset, scan: Scan, enhanced: bool = False):
    if enhanced:
        one.PulseSequenceName, one.EchoPulseSequence, one.InversionRecovery = '*fl3d3r', 'GRADIENT', 'NO'
        one.EchoPlanarPulseSequence = 'NO'
    else:
        one.ScanningSequence, one.SequenceVariant, one.ScanOptions = 'GR', 'SP', 'PFP'
        one.SequenceName = '*fl3d3r'
        one.RepetitionTime, one.FlipAngle, one.PixelBandwidth = 28, 15, 260
        one.EchoTrainLength, one.NumberOfAverages = 1, 1
        one.InPlanePhaseEncodingDirection = 'ROW'
    for key, value in scan.tags.items():
        setattr(one, key, value)


def _pixels(one: FileDataset, values: np.ndarray, slope: float | None, intercept: float | None):
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, 'MONOCHROME2'
    one.Rows, one.Columns = values.shape[-2:]
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, int(values.dtype.kind == 'i')
    for key in ('RescaleIntercept', 'RescaleSlope', 'RescaleType'):
        one.pop(key, None)
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        one.RescaleIntercept, one.RescaleSlope, one.RescaleType = intercept, round(slope, 8), 'US'
    one.PixelData = values.tobytes()


def _save(one: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
    return path


def _one(**elements: object) -> Items:
    item = Dataset()
    for key, value in elements.items():
        setattr(item, key, value)
    return Items([item])


def _orientation(scan: Scan) -> np.ndarray:
    return (scan.affine[:3, :2] / scan.spacing[:2]).T.ravel()


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), 7) for value in values]


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    return f'{int(hours):02d}{int(rest // 60):02d}{rest % 60:09.6f}'
