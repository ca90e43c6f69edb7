"""Maps to DICOM for radiologists: in the study that they were computed from, in the place of its series."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

import nibabel as nib
import numpy as np

import bids_qsm
from bids_qsm.derivatives.files import atomic_write
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.dicom.classify import kind_of
from bids_qsm.dicom.convert import centres_apart, distance
from bids_qsm.dicom.headers import MOST_PROBLEMS, Frame, Group, read_folder
from bids_qsm.dicom.table import COMPLEX, Row, read_rows
from bids_qsm.entities import OF_SERIES, entities_of, join_entities, suffix_of
from bids_qsm.errors import UserError, plain
from bids_qsm.recon.resolution import SAME

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


@dataclass(frozen=True)
class Volume:
    """A map, and the DICOM series that it was computed from."""

    path: Path
    kind: str
    """Port of the map: 'chi' or 'swi'."""
    affine: np.ndarray
    """To scanner coordinates (LPS, mm)."""
    group: Group
    source: 'Dataset'
    """Header of the first file of the series."""

    @cached_property
    def values(self) -> np.ndarray:
        """(x, y, z); susceptibility in ppm."""
        try:
            return np.asarray(nib.load(self.path).dataobj, np.float32)
        except Exception as error:  # nibabel and zlib raise many kinds for damaged files
            raise _unreadable(self.path, error) from None

    @cached_property
    def digest(self) -> str:
        """Of the file of the map."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def stem(self) -> str:
        return self.path.name.partition('.')[0]

    @property
    def orientation(self) -> list[float]:
        """Cosines of rows and columns: rows run along the first axis, columns against the second."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return [round(float(value), 10) for value in (*axes[:, 0], *-axes[:, 1])]

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def thickness(self) -> float:
        """Of the slices of the source (mm), which may overlap or leave gaps; else the distance of slices."""
        own = round(float(self.spacing[2]), 8)
        is_same = self.values.shape == self.group.size
        return (self.group.number('SliceThickness') or own) if is_same else own

    def position(self, k: int) -> list[float]:
        """Centre of the first voxel of a slice."""
        corner = self.affine[:3] @ (0, self.values.shape[1] - 1, k, 1)
        return [round(float(value), 6) for value in corner]

    def slice(self, k: int) -> np.ndarray:
        """Rows and columns of a slice."""
        return self.values[:, ::-1, k].T

    def sources(self, k: int) -> list[Frame]:
        """Images of the series within a slice, of the first echo."""
        frames, normal = self.group.echoes[min(self.group.echoes)], self.group.normal
        place, half = np.dot(self.position(k), normal), 0.49 * self.spacing[2]
        return [one for one in frames if abs(np.dot(one.position, normal) - place) <= half]

    def uid(self, *words: object) -> str:
        """The same for the same map, source and version."""
        text = ' '.join(
            map(str, (self.group.series_uid, self.digest, bids_qsm.__version__, self.kind, *words))
        )
        return f'2.25.{uuid5(NAMESPACE_OID, text).int}'


def run_export(
    output_dir: Path,
    dicom_dir: Path,
    dest: Path,
    *,
    table: Path | None = None,
    participants: Sequence[str] = (),
) -> int:
    """Write the susceptibility maps and SWI of an output folder as DICOM; return 0.

    Parameters
    ----------
    output_dir : Path
        Output of the participant level.
    dicom_dir : Path
        The DICOM files that were imported.
    dest : Path
        Folder to write to.
    table : Path, optional
        Table of the import; without it, only one participant and one patient can be matched.
    participants : sequence of str
        Labels; all where there is none.

    Raises
    ------
    UserError
        Where a map cannot be matched with one series beyond doubt, or a file is there already.
    """
    maps = _maps(output_dir, participants)
    if table is not None and not table.is_file():
        raise UserError(f'--table {table} is no file; give the table that `bids_qsm import` wrote.')
    _require_place(dest, output_dir, dicom_dir)
    found = read_folder(dicom_dir)
    for problem in found.problems[:MOST_PROBLEMS]:
        print(f'bids_qsm: {plain(problem)}')
    rows = read_rows(table) if table else []
    if not rows:
        _require_one(maps, {group.code for group in found.groups}, bool(table))
    volumes = [_match(path, found.groups, rows) for path in maps]  # all, before the first is written
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'{dest} cannot be made ({error.strerror}); give another folder to write to.'
        ) from None
    for volume in volumes:
        for target in (dest / f'{volume.stem}_series', dest / f'{volume.stem}_map.dcm'):
            if target.exists():
                raise UserError(f'{target} is there already; remove it or choose another folder.')
    while volumes:  # whose values are read one by one
        volume = volumes.pop(0)
        folder = write_series(volume, dest / f'{volume.stem}_series')
        print(f'{plain(folder)}: {volume.values.shape[2]} images')
        if volume.kind == 'chi':
            print(f'{plain(write_parametric_map(volume, dest / f"{volume.stem}_map.dcm"))}: parametric map')
    print(f'bids_qsm: {plain(dest)} holds the identity of patients, as the DICOM files do. {RESEARCH}')
    return 0


def _require_place(dest: Path, output_dir: Path, dicom_dir: Path):
    """Raise UserError where files that name patients would lie among others."""
    place = dest.resolve()
    datasets = [one for one in (place, *place.parents) if (one / 'dataset_description.json').exists()]
    for folder in (output_dir.resolve(), dicom_dir.resolve(), *datasets):
        if place.is_relative_to(folder):
            raise UserError(
                f'{dest} lies in {folder}, but what is written names the patients and is no part of it; '
                'give another folder to write to.'
            )


def _maps(output_dir: Path, participants: Sequence[str]) -> list[Path]:
    """Susceptibility maps and SWI of series, on their own grid."""
    suffixes = {PRODUCTS[port].suffix for port in ('chi', 'swi')}
    paths = sorted(output_dir.glob('sub-*/**/anat/*.nii.gz'))
    paths = [
        path for path in paths if suffix_of(path) in suffixes and set(entities_of(path)) <= set(OF_SERIES)
    ]
    missing = set(participants) - {entities_of(path)['sub'] for path in paths}
    if missing:
        raise UserError(f'{output_dir} has no susceptibility map of sub-{min(missing)}; run it first.')
    if not paths:
        raise UserError(f'{output_dir} has no susceptibility maps; give the output of the participant level.')
    return [path for path in paths if not participants or entities_of(path)['sub'] in participants]


def _require_one(maps: Sequence[Path], persons: set, has_table: bool):
    subjects = {entities_of(path)['sub'] for path in maps}
    if len(persons) > 1 or len(subjects) > 1 or has_table:
        raise UserError(
            f'{len(subjects)} participants and {len(persons)} patients cannot be matched by images alone: '
            'give --table, which `bids_qsm import` wrote, or --participant-label and the folder of one '
            'patient.'
        )


def _match(path: Path, groups: Sequence[Group], rows: Sequence[Row]) -> Volume:
    """A map with the series that it comes from."""
    import pydicom

    kind = next(port for port in ('chi', 'swi') if PRODUCTS[port].suffix == suffix_of(path))
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel and zlib raise many kinds for damaged files
        raise _unreadable(path, error) from None
    candidates = [
        group for group in groups if group.part in ('mag', 'real') and group.volumes == 1 and group.is_even
    ]
    if rows:
        entities = entities_of(path)
        keys = {row.key for row in rows if row.suffix in COMPLEX and row.entities == entities}
        candidates = [group for group in candidates if group.key in keys]
        if not candidates:
            raise UserError(
                f'{path.name}: the table and the DICOM folder have no whole series of '
                f'{join_entities(entities.items())}; give those that it was imported from.'
            )
    else:  # SWI of the scanner, and what was exported before, lie on the same grid
        candidates = [group for group in candidates if kind_of(group, 1).suffix == 'GRE']
    own = [group for group in candidates if image.shape == group.size and _is_at(image, group)]
    if rows:  # by its field of view alone a map may be that of another study
        own = own or [group for group in candidates if image.shape != group.size and _covers(image, group)]
    if not own:
        raise UserError(
            f'{path.name} does not lie where the DICOM series do, so that it cannot be laid over them; give '
            'all DICOM files that it was computed from, and --table for a map of other voxels (maps that '
            'were moved to another space stay out).'
        )
    # echoes may be series of their own
    own = sorted(own, key=lambda group: (group.part != 'mag', min(group.echoes)))
    if len({(group.part, min(group.echoes)) for group in own}) < len(own):
        listed = ', '.join(group.label for group in own)
        mend = 'name one otherwise in the table' if rows else 'give --table, which `bids_qsm import` wrote'
        raise UserError(f'{path.name} may come from {listed}; {mend}.')
    frames = own[0].echoes[min(own[0].echoes)]
    source = pydicom.dcmread(frames[0].path, stop_before_pixels=True)
    return Volume(path, kind, np.diag([-1.0, -1, 1, 1]) @ image.affine, own[0], source)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f'{path} cannot be read ({plain(error)}); run its participant again.')


def _is_at(image: nib.Nifti1Image, group: Group) -> bool:
    return distance(image, group, min(group.echoes)) < 0.1


def _covers(image: nib.Nifti1Image, group: Group) -> bool:
    """Whether a map of larger voxels (--voxel-size) fills the field of view of a series, about its centre.

    It then has a grid of its own in the same frame of reference.
    """
    if image.ndim != 3 or len(group.places) < 2:
        return False
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    axes = np.diag([-1.0, -1, 1]) @ (image.affine[:3, :3] / spacing)
    row, column = np.reshape(group.facts['ImageOrientationPatient'], (2, 3)).astype(float)
    turn = np.abs(axes.T @ np.stack([row, column, group.normal], 1))
    between_rows, between_columns = (float(value) for value in group.facts['PixelSpacing'])
    own = np.array([between_columns, between_rows, np.diff(group.places).mean()])
    # as many voxels as fit; axes whose voxels stay must have them all, or slices of the series are missing
    fit = np.array(group.size) * own / spacing
    is_same = np.abs(spacing - own) <= SAME * own
    allowed = np.where(is_same, group.size, np.floor([fit - 0.01, fit + 0.01]))
    is_filled = (allowed == image.shape).any(0).all()
    is_parallel = np.allclose(turn, np.eye(3), atol=2e-3)
    return bool(is_parallel and is_filled and centres_apart(image, group, min(group.echoes)) < 0.1)


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
