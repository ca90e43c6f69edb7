"""Maps as DICOM files: classic MR images for every archive, and parametric maps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bids_qsm
from bids_qsm.derivatives.files import atomic_write
from bids_qsm.dicom.headers import Frame
from bids_qsm.dicom.matching import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COPIED = (
    *('SpecificCharacterSet', 'PatientName', 'PatientID', 'IssuerOfPatientID', 'PatientBirthDate'),
    *('PatientSex', 'PatientAge', 'PatientSize', 'PatientWeight', 'PatientIdentityRemoved'),
    *('DeidentificationMethod', 'StudyInstanceUID', 'StudyDate', 'StudyTime', 'StudyID', 'AccessionNumber'),
    *('ReferringPhysicianName', 'StudyDescription', 'FrameOfReferenceUID', 'PositionReferenceIndicator'),
    *('PatientPosition', 'AcquisitionDate', 'AcquisitionTime', 'MagneticFieldStrength'),
    *('ImagingFrequency', 'MRAcquisitionType', 'ProtocolName', 'InstitutionName'),
)
"""Elements of the source that its derived images share."""
RESEARCH = 'Research only, not for diagnosis.'
MR_IMAGE = '1.2.840.10008.5.1.4.1.1.4'
WINDOW = (-0.1, 0.2)
"""Of susceptibility (ppm), as in reports."""
CHI_STEP = 0.1
"""Step of stored susceptibility (ppb); larger where values reach beyond what 16 bits hold."""
_MOST = 32767


def write_series(volume: Volume, folder: Path) -> Path:
    """Write a map as classic MR images, a file for each slice; return the folder.

    Susceptibility is stored in steps of 0.1 ppb, and its rescaled values are ppb: windows narrower than 1,
    which ppm would need, are not allowed. A SWI is stretched to 16 bits, in arbitrary units.
    """
    scale = _scale(volume)
    partial = folder.with_name(f'.{folder.name}-partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for k in range(volume.values.shape[2]):
            _slice(volume, k, scale).save_as(partial / f'{k + 1:05d}.dcm', enforce_file_format=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Scale:
    """How values are stored: times ``factor`` they are what rescaling by ``step`` gives, and windows mean."""

    factor: float
    step: float
    centre: float
    width: float


def _scale(volume: Volume) -> Scale:
    largest = float(np.abs(np.nan_to_num(volume.values)).max())
    if volume.kind == 'chi':
        low, high = WINDOW
        step = max(CHI_STEP, np.ceil(1e4 * largest / _MOST) / 10)
        return Scale(1000.0, float(step), 500 * (low + high), 1000 * (high - low))
    factor = _MOST / max(largest, 1e-6)
    inside = volume.values[volume.values > 0]
    high = max(round(factor * float(np.percentile(inside, 99))), 2) if inside.size else _MOST
    return Scale(factor, 1.0, high / 2, high)


def _slice(volume: Volume, k: int, scale: Scale) -> 'Dataset':
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(MR_IMAGE)
    meta.MediaStorageSOPInstanceUID = UID(volume.uid('slice', k))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset('', {}, file_meta=meta, preamble=b'\0' * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    _identify(one, volume, 'series')
    one.ImageType = ['DERIVED', 'SECONDARY', 'QSM' if volume.kind == 'chi' else 'SWI']
    one.SeriesNumber = _series_number(volume, 1 if volume.kind == 'chi' else 3)
    one.SeriesDescription = f'{"QSM [ppb]" if volume.kind == "chi" else "SWI"} bids_qsm, RESEARCH'
    one.InstanceNumber = k + 1
    one.ScanningSequence = volume.source.get('ScanningSequence') or 'GR'
    one.SequenceVariant = volume.source.get('SequenceVariant') or 'NONE'
    one.ScanOptions = volume.source.get('ScanOptions') or ''
    one.EchoTime = one.RepetitionTime = one.EchoTrainLength = None
    one.MRAcquisitionType = volume.group.text('MRAcquisitionType') or '3D'
    one.ImagePositionPatient, one.ImageOrientationPatient = (
        _decimal(volume.position(k)),
        _decimal(volume.orientation),
    )
    one.PixelSpacing = _decimal([volume.spacing[1], volume.spacing[0]])
    one.SliceThickness, one.SpacingBetweenSlices = _decimal([volume.thickness, volume.spacing[2]])
    normal = np.cross(volume.orientation[:3], volume.orientation[3:])
    one.SliceLocation = _decimal([np.dot(volume.position(k), normal)])[0]
    frames = [_reference(frame) for frame in volume.sources(k)]
    if frames:
        one.SourceImageSequence = frames
    values = np.nan_to_num(volume.slice(k).astype(np.float64)) * scale.factor / scale.step
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, 'MONOCHROME2'
    one.Rows, one.Columns = values.shape
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.WindowCenter, one.WindowWidth = _decimal([scale.centre, scale.width])
    if volume.kind == 'chi':
        one.RescaleIntercept, one.RescaleSlope, one.RescaleType = 0, scale.step, 'ppb'
        one.RealWorldValueMappingSequence = [_mapping(scale.step)]
    one.PixelData = np.round(values).clip(-_MOST, _MOST).astype('<i2').tobytes()
    return one


def _identify(one: 'Dataset', volume: Volume, what: str):
    """Patient and study of the source; a series, and who made it."""
    source = volume.source
    for key in COPIED:
        if key in source:
            one[key] = source[key]
    for key in ('PatientName', 'PatientID', 'PatientBirthDate', 'PatientSex', 'StudyDate', 'StudyTime'):
        if key not in one:
            setattr(one, key, '')
    one.BodyPartExamined = source.get('BodyPartExamined') or 'HEAD'
    for key in ('ReferringPhysicianName', 'StudyID', 'AccessionNumber', 'PositionReferenceIndicator'):
        if key not in one:
            setattr(one, key, '')
    one.Modality, one.Manufacturer, one.ManufacturerModelName = 'MR', 'bids_qsm', 'bids_qsm'
    one.SoftwareVersions = bids_qsm.__version__
    one.SeriesInstanceUID = volume.uid(what)
    # of the acquisition, so that the same map gives the same files
    one.SeriesDate = one.ContentDate = source.get('SeriesDate') or source.get('StudyDate') or ''
    one.SeriesTime = one.ContentTime = source.get('SeriesTime') or source.get('StudyTime') or ''
    about = {'chi': 'Quantitative susceptibility map', 'swi': 'Susceptibility-weighted image'}[volume.kind]
    one.DerivationDescription = f'{about}, bids_qsm {bids_qsm.__version__}. {RESEARCH}'
    one.ImageComments = f'{about}. {RESEARCH}'
    one.BurnedInAnnotation, one.LossyImageCompression = 'NO', '00'
    one.ContributingEquipmentSequence = [
        _item(
            PurposeOfReferenceCodeSequence=[_code('109101', 'DCM', 'Acquisition Equipment')],
            Manufacturer=source.get('Manufacturer') or 'unknown',
            ManufacturerModelName=source.get('ManufacturerModelName') or '',
            SoftwareVersions=source.get('SoftwareVersions') or '',
        )
    ]


def _series_number(volume: Volume, n: int) -> int:
    """After that of the source: 5 becomes 5001."""
    return min(volume.group.series_number, 2_000_000) * 1000 + n


def _reference(frame: Frame) -> 'Dataset':
    import pydicom

    own = pydicom.dcmread(
        frame.path, specific_tags=['SOPClassUID', 'SOPInstanceUID'], stop_before_pixels=True
    )
    item = _item(ReferencedSOPClassUID=own.SOPClassUID, ReferencedSOPInstanceUID=own.SOPInstanceUID)
    if frame.number is not None:
        item.ReferencedFrameNumber = frame.number + 1
    return item


def _mapping(step: float) -> 'Dataset':
    item = _item(
        LUTExplanation='Magnetic susceptibility, relative to the reference region',
        LUTLabel='QSM',
        MeasurementUnitsCodeSequence=[_code('[ppb]', 'UCUM', 'parts per billion')],
        QuantityDefinitionSequence=[
            _item(
                ValueType='CODE',
                ConceptNameCodeSequence=[_code('246205007', 'SCT', 'Quantity')],
                ConceptCodeSequence=[_code('126396', 'DCM', 'Magnetic Susceptibility')],
            )
        ],
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=step,
    )
    item.add_new('RealWorldValueFirstValueMapped', 'SS', -_MOST)
    item.add_new('RealWorldValueLastValueMapped', 'SS', _MOST)
    return item


def write_parametric_map(volume: Volume, path: Path) -> Path:
    """Write a susceptibility map as a DICOM parametric map of floats in ppm; return the path."""
    import pydicom
    from highdicom import (
        PixelMeasuresSequence,
        PlaneOrientationSequence,
        PlanePositionSequence,
        VOILUTTransformation,
    )
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    slices = range(volume.values.shape[2])
    values = np.stack([np.nan_to_num(volume.slice(k)) for k in slices]).astype(np.float32)
    low, high = WINDOW
    frames = volume.group.echoes[min(volume.group.echoes)]
    files = list(dict.fromkeys(frame.path for frame in frames))
    one = ParametricMap(
        [pydicom.dcmread(file, stop_before_pixels=True) for file in files],
        values,
        series_instance_uid=volume.uid('map series'),
        series_number=_series_number(volume, 2),
        sop_instance_uid=volume.uid('map'),
        instance_number=1,
        manufacturer='bids_qsm',
        manufacturer_model_name='bids_qsm',
        software_versions=bids_qsm.__version__,
        device_serial_number='0',
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label='QSM',
                lut_explanation='Magnetic susceptibility, relative to the reference region',
                unit=Code('[ppm]', 'UCUM', 'parts per million'),
                value_range=(float(values.min()), float(values.max())),
                slope=1.0,
                intercept=0.0,
                quantity_definition=codes.DCM.MagneticSusceptibility,
            )
        ],
        voi_lut_transformations=[
            VOILUTTransformation((low + high) / 2, high - low, voi_lut_function='LINEAR_EXACT')
        ],
        content_description=f'Susceptibility. {RESEARCH}',
        content_label='QSM',
        pixel_measures=PixelMeasuresSequence(
            _rounded([volume.spacing[1], volume.spacing[0]]),
            volume.thickness,
            float(volume.spacing[2]),
        ),
        plane_orientation=PlaneOrientationSequence('PATIENT', volume.orientation),
        plane_positions=[PlanePositionSequence('PATIENT', volume.position(k)) for k in slices],
    )
    one.Modality, one.SeriesDescription = 'MR', 'QSM [ppm] bids_qsm, RESEARCH'
    one.ImageComments = f'Quantitative susceptibility map. {RESEARCH}'
    one.BodyPartExamined = volume.source.get('BodyPartExamined') or 'HEAD'
    for key in ('SeriesDate', 'SeriesTime'):
        setattr(one, key, volume.source.get(key) or '')
    one.ContentDate = volume.source.get('SeriesDate') or volume.source.get('StudyDate') or one.ContentDate
    one.ContentTime = volume.source.get('SeriesTime') or volume.source.get('StudyTime') or one.ContentTime
    # highdicom draws one at random, and notes when it wrote: equal maps would differ
    for item in (*one.DimensionOrganizationSequence, *one.DimensionIndexSequence):
        item.DimensionOrganizationUID = volume.uid('dimensions')
    for item in (one, *one.ContributingEquipmentSequence):
        for key in ('InstanceCreationDate', 'InstanceCreationTime', 'ContributionDateTime'):
            item.pop(key, None)
    return atomic_write(path, lambda temporary: one.save_as(temporary))


def _item(**elements: object) -> 'Dataset':
    from pydicom.dataset import Dataset

    item = Dataset()
    for key, value in elements.items():
        setattr(item, key, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> 'Dataset':
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _decimal(values: Any) -> list[str]:
    """Numbers as decimal strings, which hold 16 characters."""
    return [f'{float(value):.10g}'[:16] for value in values]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 8) for value in values]
