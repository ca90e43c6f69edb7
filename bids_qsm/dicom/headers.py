"""What the headers of DICOM files say: series, their parts (magnitude, phase, ...), echoes and places."""

import contextlib
import filecmp
import importlib.util
import itertools
import math
import os
import re
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_qsm.dicom.identity import Person
from bids_qsm.errors import UserError, plain

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PARTS = {'MAGNITUDE': 'mag', 'PHASE': 'phase', 'REAL': 'real', 'IMAGINARY': 'imag'}
"""Values of ComplexImageComponent, and the part that BIDS names."""
LETTERS = {'M': 'mag', 'P': 'phase', 'R': 'real', 'I': 'imag', 'MAG': 'mag', 'PHASE MAP': 'phase'}
"""Further words of ImageType: those of Siemens and Philips; Philips adds its kind of sequence (M_FFE)."""
GE_PARTS = ('mag', 'phase', 'real', 'imag')
"""By the number in the private element (0043,102F) of GE, whose ImageType is the same for all."""
KEPT = (
    *('SOPClassUID', 'SOPInstanceUID', 'StudyInstanceUID', 'SeriesInstanceUID', 'FrameOfReferenceUID'),
    *(
        'PatientID',
        'PatientName',
        'PatientBirthDate',
        'PatientSex',
        'StudyDate',
        'StudyTime',
        'Modality',
        'Manufacturer',
    ),
    *('SeriesNumber', 'SeriesDescription', 'ProtocolName', 'SequenceName', 'PulseSequenceName'),
    *('ImageType', 'FrameType', 'ComplexImageComponent', 'Rows', 'Columns', 'NumberOfFrames'),
    *('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing', 'SliceThickness'),
    'MagneticFieldStrength',
    *('ScanningSequence', 'SequenceVariant', 'EchoPulseSequence', 'EchoPlanarPulseSequence'),
    *('InversionRecovery', 'InversionTime', 'InversionTimes', 'MRAcquisitionType', 'RepetitionTime'),
    *('FlipAngle', 'EchoTime', 'EffectiveEchoTime', 'DiffusionBValue', 'DiffusionDirectionality'),
    *('SamplesPerPixel', 'PixelRepresentation', 'RescaleSlope', 'RescaleIntercept'),
    *('AcquisitionTime', 'AcquisitionDateTime', 'FrameAcquisitionDateTime', 'VolumetricProperties'),
)
"""Elements that are read."""
SHOWN: Mapping[str, float | None] = {
    **{'Rows': None, 'Columns': None, 'NumberOfFrames': 1, 'SamplesPerPixel': 1, 'PixelRepresentation': 0},
    **{'RescaleSlope': 1, 'RescaleIntercept': 0, 'PhilipsScaleSlope': None},
    **{'PixelSpacing': None, 'ImageOrientationPatient': None},
}
"""Elements in which copies of an image agree, and their values where they lack."""
CORRECTED = ('DIS2D', 'DIS3D', 'DIS2DFM', 'GDC')
"""Words of ImageType for images whose geometry was corrected; the last is that of Canon."""
MOSAICS = ('MOSAIC', 'VFRAME')
"""Words of ImageType for files that hold all slices side by side, of Siemens and UIH."""
MOST_PROBLEMS = 30
"""Problems that are printed."""
OTHER_PIXELS = 'other pixels'
REPETITIONS = 'repetitions that the headers do not tell apart'
NEAR = 0.02
"""Places that differ by less (mm) are the same."""


@dataclass(frozen=True)
class Frame:
    """One slice: a file, or a frame of one."""

    path: Path
    number: int | None
    """Of the frame in its file, from 0; None where the file holds a single one."""
    position: tuple[float, ...]
    """Centre of the first voxel (LPS, mm)."""
    time: float | None
    """Of the acquisition (s after midnight)."""


@dataclass(eq=False)
class Group:
    """The images of one part of one series, by echo time (ms).

    ``facts`` are elements of its first image by keyword: those of the frame before those of the file.
    """

    series_uid: str
    part: str | None
    """None where the header does not tell it for sure."""
    facts: Mapping[str, Any]
    words: tuple[str, ...]
    """All values of ImageType and of its equivalents."""
    echoes: dict[float, list[Frame]] = field(default_factory=lambda: defaultdict(list))
    frames_in_file: dict[Path, int] = field(default_factory=dict)
    repeated: int = 0
    """Files whose SOP Instance UID other images have too."""
    clashes: list[tuple[Path, Path, str]] = field(default_factory=list)
    """Files of one identity that differ: the second, the first, and in what."""

    def text(self, *keywords: str) -> str:
        """Values of the elements, as one text."""
        return ' '.join(str(self.facts[key]) for key in keywords if self.facts.get(key) not in (None, ''))

    def number(self, keyword: str) -> float | None:
        """Value of an element as a number; None where it is none."""
        value = self.facts.get(keyword)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0] if value else None
        with contextlib.suppress(TypeError, ValueError):
            number = float(value)  # type: ignore[arg-type]
            return number if math.isfinite(number) else None
        return None

    @property
    def person(self) -> Person:
        return Person.of(self.facts)

    @property
    def is_known(self) -> bool:
        """Whether the header tells one person from others."""
        return self.person.is_known(self.text('StudyDate'))

    @cached_property
    def code(self) -> str:
        """Stands for the person."""
        return self.person.code(self.study, self.text('StudyDate'))

    @property
    def key(self) -> tuple[str, ...]:
        """Tells groups apart; UIDs alone do not, as some anonymisers give all patients the same."""
        return self.series_uid, self.part or 'unknown', self.code, self.study

    @property
    def study(self) -> str:
        return self.text('StudyInstanceUID')

    @property
    def series_number(self) -> int:
        return int(self.number('SeriesNumber') or 0)

    @property
    def label(self) -> str:
        """For messages; without free text, which may name the patient."""
        words = {'mag': 'magnitude', 'imag': 'imaginary'}
        return f'series {self.series_number} ({words.get(self.part or "", self.part or "unknown part")})'

    @cached_property
    def time(self) -> float | None:
        """Start of the acquisition (s after midnight); None where the headers do not say it."""
        times = [one.time for frames in self.echoes.values() for one in frames if one.time is not None]
        return min(times) if times else None

    @property
    def order(self) -> tuple:
        """In which series are counted."""
        return (
            self.text('StudyDate'),
            self.text('StudyTime'),
            self.study,
            self.series_number,
            str(self.part),
        )

    @cached_property
    def normal(self) -> np.ndarray:
        row, column = np.reshape(self.facts['ImageOrientationPatient'], (2, 3)).astype(float)
        return np.cross(row, column)

    @cached_property
    def places(self) -> np.ndarray:
        """Of the slices along their normal (mm), sorted; of the first echo."""
        first = self.echoes[min(self.echoes)]
        return np.unique(np.round([np.dot(one.position, self.normal) / NEAR for one in first])) * NEAR

    @cached_property
    def volumes(self) -> int:
        """Images at each place; 0 where the echoes or the places differ in their number."""
        counts = set()
        for frames in self.echoes.values():
            keys = [int(np.round(np.dot(one.position, self.normal) / NEAR)) for one in frames]
            found = Counter(keys)
            counts |= set(found.values())
            if len(found) != len(self.places):
                return 0
        return counts.pop() if len(counts) == 1 else 0

    @property
    def is_even(self) -> bool:
        """Whether no slice is missing between others."""
        steps = np.diff(self.places)
        return len(steps) < 1 or bool(steps.max() - steps.min() <= max(2.5 * NEAR, 0.02 * steps.max()))

    @cached_property
    def corners(self) -> np.ndarray:
        """The first voxel of the first and of the last slice (LPS, mm)."""
        first = self.echoes[min(self.echoes)]
        ordered = sorted(first, key=lambda one: float(np.dot(one.position, self.normal)))
        return np.array([ordered[0].position, ordered[-1].position])

    @property
    def size(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        return (int(self.facts['Columns']), int(self.facts['Rows']), len(self.places))

    @property
    def n_clashes(self) -> int:
        """Files that others of the same identity contradict."""
        return len({first for _, first, _ in self.clashes})

    @property
    def has_repetitions(self) -> bool:
        """Whether most images are there several times with other pixels."""
        is_most = 1 < self.n_clashes > len(self.frames_in_file) / 2
        return is_most and all(why == OTHER_PIXELS for *_, why in self.clashes)

    @property
    def clash(self) -> str:
        """What is wrong with files of one identity, and what to do; '' where nothing is."""
        if self.has_repetitions:
            return f'it holds {REPETITIONS}; keep one of them'
        n, m = self.n_clashes, len(self.frames_in_file)
        return f'files of one identity differ ({n} of {m}); keep only the right ones' if n else ''

    @property
    def is_mosaic(self) -> bool:
        return any(word in MOSAICS for word in self.words)

    @property
    def geometry_words(self) -> tuple[str, ...]:
        return tuple(word for word in self.words if word in CORRECTED)


@dataclass(frozen=True)
class Found:
    """What a folder holds; ``problems`` are sentences on files that cannot be used."""

    groups: tuple[Group, ...]
    problems: tuple[str, ...]
    n_unused: int
    """Files that problems are about."""
    n_files: int
    n_others: int
    """Files that are no DICOM, or no images."""


def require_packages(command: str, *names: str) -> None:
    """Raise UserError where packages of the extra are missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{command} needs {' and '.join(missing)}: run `pip install 'bids_qsm[dicom]'`.")


def read_folder(folder: Path) -> Found:
    """Read the headers of all DICOM files below ``folder``.

    Raises UserError where the folder is not there or holds none.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder; give the folder that holds the DICOM files.')
    import pydicom.config

    groups: dict[tuple, Group] = {}
    problems, n_files, n_others = [], 0, 0
    seen: dict[tuple, Path] = {}
    uids: dict[str, list[set[tuple]]] = defaultdict(list)
    # values that break the standard are common
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter('ignore')
        for path in _files(folder):
            try:
                one, frames = _read_file(path)
            except _Unusable as error:
                problems.append(f'{path}: {error}')
                continue
            if not frames:
                n_others += 1
                continue
            n_files += 1
            study, day = (str(one.get(key) or '') for key in ('StudyInstanceUID', 'StudyDate'))
            # UIDs alone do not tell: some anonymisers give all patients the same
            owner = str(one.SeriesInstanceUID), study, Person.of(one).code(study, day)
            places = tuple((frame.position, frame.time, part, echo) for frame, part, echo, *_ in frames)
            image = str(one.get('SOPInstanceUID') or path), str(one.get('InstanceNumber')), owner, places
            if image in seen:  # a copy
                why = _difference(path, seen[image])
                for part in dict.fromkeys(part for _, part, *_ in frames) if why else ():
                    groups[owner, part].clashes.append((path, seen[image], why))
                continue
            seen[image] = path
            uids[image[0]].append({(owner, part) for _, part, *_ in frames})
            for frame, part, echo, facts, words in frames:
                if (owner, part) not in groups:
                    groups[owner, part] = Group(owner[0], part, facts, words)
                groups[owner, part].echoes[echo].append(frame)
                groups[owner, part].frames_in_file[path] = len(frames)
    if not n_files and not problems:
        raise UserError(f'{folder} holds no DICOM images; give the folder that holds them.')
    for keys in uids.values():
        for key in itertools.chain(*keys) if len(keys) > 1 else ():
            groups[key].repeated += 1
    ordered = sorted(groups.values(), key=lambda one: (one.person, one.order, one.series_uid))
    clashing = {path for group in ordered for *pair, _ in group.clashes for path in pair}
    n_unused = len(problems) + len(clashing)
    problems += dict.fromkeys(itertools.chain(*map(_clashes, ordered)))
    return Found(tuple(ordered), tuple(problems), n_unused, n_files, n_others)


def _clashes(group: Group) -> list[str]:
    """Sentences on files of one identity that differ."""
    said = [
        f'{path}: it has the identity of {first} but {why}, and nothing tells which is right; keep only one.'
        for path, first, why in group.clashes
    ]
    if not group.has_repetitions:
        return said
    path, first, why = group.clashes[0]
    return [
        f'{path}: it has the identity of {first} but {why}, as {len(said) - 1} more files of {group.label} '
        f'have those of others: {REPETITIONS}; keep one of them, or export them with their own UIDs.'
    ]


class _Unusable(Exception):
    """Why a file cannot be used, in a few words."""


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(names):
            # pipes and devices would never end
            if not name.startswith('.') and name != 'DICOMDIR' and Path(root, name).is_file():
                yield Path(root) / name


def _read_file(path: Path) -> tuple[Any, list[tuple]]:
    """Header of a file and its frames: Frame, part, echo time, elements, image type; none of no image."""
    one = _read(path)
    if one is None or 'Rows' not in one or not one.get('SeriesInstanceUID'):
        return one, []
    try:
        return one, [
            (*_frame(path, number, facts, words), facts, words) for number, facts, words in _frames(one)
        ]
    except KeyError:  # of images without a place, such as reports and screenshots
        return one, []
    except Exception as error:  # pydicom raises many kinds for damaged values
        raise _Unusable(f'its header is damaged ({plain(error)[:80]}); copy it again.') from None


def _difference(path: Path, other: Path) -> str:
    """In what two files of one identity differ; '' where they show the same, also if stored otherwise."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        if filecmp.cmp(path, other, shallow=False):
            return ''
        one, two = (pydicom.dcmread(file) for file in (path, other))
        if 'Rows' not in one or 'Rows' not in two:  # pydicom returns nothing where packed pixels end early
            return 'was not compared with it (one of them is damaged)'
        for facts, others in zip(_frames(one), _frames(two), strict=True):
            for key, default in SHOWN.items():
                if _values(facts[1].get(key), default) != _values(others[1].get(key), default):
                    return f'another {key}'
        is_same = _stored(one) == _stored(two) or np.array_equal(_pixels(one), _pixels(two))
        return '' if is_same else OTHER_PIXELS
    # of pydicom, for what it cannot decode: no decoder is there, elements lack, or values are damaged
    except (
        *(OSError, EOFError, InvalidDicomError, RuntimeError, AttributeError, ValueError),
        struct.error,
    ) as error:
        reason = str(getattr(error, 'strerror', None) or error).partition('\n')[0].rstrip(':')
        return f'was not compared with it ({plain(reason)[:150]})'


def _stored(one: 'Dataset') -> tuple:
    """Pixels as they are in the file, and how they are stored there."""
    keys = ('PixelData', 'FloatPixelData', 'DoubleFloatPixelData', 'BitsAllocated')
    return one.file_meta.get('TransferSyntaxUID'), one.original_encoding, *(one.get(key) for key in keys)


def _values(value: Any, default: float | None) -> tuple[float, ...] | None:
    """An element of SHOWN as numbers, which texts of DICOM spell in several ways."""
    if value is None or value == '':
        return None if default is None else (default,)
    return tuple(map(float, value if isinstance(value, Sequence) and not isinstance(value, str) else [value]))


def _pixels(one: 'Dataset') -> np.ndarray:
    """Decoded; what the header lacks is what it is taken for elsewhere."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if 'TransferSyntaxUID' not in one.file_meta:
        is_implicit, is_little = one.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    usual = {'SamplesPerPixel': 1, 'BitsAllocated': 16, 'PixelRepresentation': 0, 'NumberOfFrames': 1}
    for key, value in usual.items():
        setattr(one, key, one.get(key) or value)
    one.PhotometricInterpretation = one.get('PhotometricInterpretation') or 'MONOCHROME2'
    one.BitsStored = one.get('BitsStored') or one.BitsAllocated
    return one.pixel_array


def _read(path: Path) -> 'Dataset | None':
    """The header of a file; None where it is no DICOM."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with path.open('rb') as stream:
            one = pydicom.dcmread(stream, stop_before_pixels=True)
            start = stream.tell()
    except InvalidDicomError:
        return None
    except OSError as error:
        raise _Unusable(f'it cannot be read ({error.strerror}).') from None
    except Exception as error:  # pydicom raises many kinds for damaged files
        first = plain(str(error)).partition('.')[0][:80]
        raise _Unusable(f'its header is damaged ({first}); copy it again.') from None
    if 'Rows' not in one:
        return one
    syntax = getattr(one.file_meta, 'TransferSyntaxUID', None)
    left = path.stat().st_size - start
    try:
        frames, samples = int(one.get('NumberOfFrames') or 1), int(one.get('SamplesPerPixel') or 1)
        size = int(one.Rows) * int(one.Columns) * frames * samples * int(one.get('BitsAllocated') or 16) // 8
    except (AttributeError, TypeError, ValueError):
        raise _Unusable('its header is damaged (size of the image); copy it again.') from None
    try:
        is_compressed = syntax is not None and syntax.is_compressed
    except ValueError:  # of UIDs that somebody made up
        raise _Unusable(
            f'its transfer syntax {plain(syntax)[:80]} is none of the standard; export it again in one.'
        ) from None
    if is_compressed:
        needed = 9
    elif str(syntax) == '1.2.840.10008.1.2.1.99':  # deflated as a whole
        needed = 0
    else:
        # with the tag of the pixels, their kind and their length
        needed = size + (8 if syntax is not None and syntax.is_implicit_VR else 12)
    if left < needed:
        raise _Unusable('it is truncated; copy it again from the scanner or the archive.')
    return one


def _frames(one: 'Dataset') -> Iterator[tuple[int | None, dict[str, Any], tuple[str, ...]]]:
    """Number, elements and image type of each frame of a file."""
    top = {key: one[key].value for key in KEPT if key in one}
    frames = one.get('PerFrameFunctionalGroupsSequence')
    if not frames:
        top |= _private(one)
        yield None, top, _words(top)
        return
    shared = one.get('SharedFunctionalGroupsSequence')
    common = {**top, **_private(one), **(_flat(shared[0]) if shared else {})}
    # of the file they are a summary of all frames
    for key in ('ImageType', 'ComplexImageComponent'):
        if len(frames) > 1 and any('MRImageFrameTypeSequence' in frame for frame in frames[:1]):
            common.pop(key, None)
    for number, frame in enumerate(frames):
        facts = {**common, **_flat(frame)}
        yield number, facts, _words(facts)


def _flat(groups: 'Dataset') -> dict[str, Any]:
    """Elements of functional groups by keyword; Philips and Siemens keep private ones among them."""
    found = {}
    for item in groups:
        if item.VR != 'SQ' or not item.value:
            continue
        if item.tag.is_private and item.tag.element & 0xFF not in (0x0F, 0xFE):
            continue
        inner = {key: item.value[0][key].value for key in KEPT if key in item.value[0]}
        # what the standard defines counts before what is private
        found = {**found, **inner} if not item.tag.is_private else {**inner, **found}
        found |= _private(item.value[0])
    return found


def _private(one: 'Dataset') -> dict[str, Any]:
    """Private elements that tell parts, weighting and scale, under names of our own."""
    found = {}
    for name, group, creator, element in (
        ('GEPart', 0x0043, 'GEMS_PARM_01', 0x2F),
        ('SiemensImageType', 0x0021, 'SIEMENS MR SDI 02', 0x75),
        ('SiemensBValue', 0x0019, 'SIEMENS MR HEADER', 0x0C),
        ('PhilipsScaleSlope', 0x2005, 'Philips MR Imaging DD 001', 0x0E),
    ):
        with contextlib.suppress(KeyError, AttributeError):
            found[name] = one.private_block(group, creator)[element].value
    return found


def _words(facts: Mapping[str, Any]) -> tuple[str, ...]:
    words = []
    for key in ('ImageType', 'FrameType', 'SiemensImageType'):
        value = facts.get(key) or ()
        words += [value] if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(str(word).strip().upper() for word in words))


def part_of(facts: Mapping[str, Any], words: Sequence[str]) -> str | None:
    """Part of the complex signal that an image shows; None where the header is not sure.

    Siemens, Philips, UIH and Canon say it in ImageType or ComplexImageComponent, GE in (0043,102F). Without
    any of them an image is a magnitude, unless its description calls it phase, which is not believed either.

    >>> part_of({}, ('ORIGINAL', 'PRIMARY', 'P', 'ND')), part_of({'GEPart': 2}, ('ORIGINAL', 'PRIMARY'))
    ('phase', 'real')
    >>> part_of({'ComplexImageComponent': 'PHASE'}, ('ORIGINAL', 'PRIMARY', 'M_FFE', 'M'))
    """
    told: set[str] = set()
    if 'GEPart' in facts:
        with contextlib.suppress(TypeError, ValueError, IndexError):
            told.add(GE_PARTS[int(facts['GEPart'])])
    for word in (str(facts.get('ComplexImageComponent') or ''), *words[2:]):
        name = re.sub('_(FFE|SE|IR|TFE)$', '', word)
        if name in PARTS or name in LETTERS:
            told.add(PARTS.get(name) or LETTERS[name])
    if len(told) > 1:
        return None
    if not told and re.search('(?<![a-z])(pha?|phase)(?![a-z])', str(facts.get('SeriesDescription')).lower()):
        return None
    return told.pop() if told else 'mag'


def _frame(
    path: Path, number: int | None, facts: dict[str, Any], words: tuple[str, ...]
) -> tuple[Frame, str | None, float]:
    position, orientation, spacing = (
        tuple(float(value) for value in facts[key])
        for key in ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing')
    )
    if [len(position), len(orientation), len(spacing)] != [3, 6, 2]:
        raise ValueError('the place of the image is incomplete')
    # far beyond any scanner; also of what is no number
    if not all(abs(value) < 1e5 for value in (*position, *orientation)) or not all(
        0 < value < 1e3 for value in spacing
    ):
        raise ValueError('the place of the image cannot be')
    echo = facts.get('EffectiveEchoTime')
    echo = float((facts.get('EchoTime') if echo is None else echo) or 0)
    if not 0 <= echo < 1e5:
        raise ValueError('the echo time cannot be')
    stamp = str(facts.get('FrameAcquisitionDateTime') or facts.get('AcquisitionDateTime') or '')[8:]
    clock = str(facts.get('AcquisitionTime') or stamp)
    return Frame(path, number, position, _seconds(clock)), part_of(facts, words), round(echo, 3)


def _seconds(clock: str) -> float | None:
    """A time of day in seconds.

    >>> _seconds('101530.25'), _seconds('')
    (36930.25, None)
    """
    found = re.match(r'(\d\d)(\d\d)(\d\d(?:\.\d*)?)', clock)
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) if found else None
