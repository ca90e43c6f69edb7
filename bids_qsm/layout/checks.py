"""What an input file must be like; each check returns one sentence that says what is wrong, or None."""

import gzip
import json
import math
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_qsm.entities import entities_of, in_order, suffix_of, value_of
from bids_qsm.errors import size_text
from bids_qsm.interfaces.io import qform_of, scanner_affine
from bids_qsm.recon.units import tesla_from_mhz


def load_header(path: Path):
    """The image in ``path``, of which only the header is read; once, as several checks look at it."""
    found = path.stat()
    return _load(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=64)
def _load(path: Path, *state: int):
    del state
    return nib.load(path)


def image_problem(
    path: Path, *, has_frames: bool = False, of_vectors: bool = False, may_shear: bool = False
) -> str | None:
    """Why ``path`` cannot be one 3D volume of a scan with a known position in the scanner.

    One that ``has_frames`` is 4D, a volume a frame; one ``of_vectors`` has three volumes or a multiple of
    it; one that ``may_shear`` may have oblique voxel axes.
    """
    if not path.name.isprintable():
        return f'{path.name} has characters in its name that cannot be printed; rename it.'
    if not path.is_file():
        what = 'is a link to a file that is not there' if path.is_symlink() else 'is no file'
        return f'{path.name} {what}; fetch or replace it.'
    try:
        image = load_header(path)
    except Exception as error:  # nibabel and zlib raise many kinds for damaged files
        return f'{path.name} cannot be read as NIfTI ({_first_line(error)}); copy or convert it again.'
    shape = image.shape
    if has_frames:
        if len(shape) != 4 or shape[3] < 2:
            return f'{path.name} has a single frame ({size_text(shape)}), but a run of frames is 4D.'
        shape = shape[:3]
    if of_vectors:
        more = [size for size in shape[3:] if size != 1]  # NIfTI has tensors as x, y, z, 1, 6
        if len(more) != 1 or more[0] % 3:
            return (
                f'{path.name} is {size_text(shape)}, but directions have 3 volumes of a vector, 6 of a '
                'tensor, or 3 of each peak; give such a map.'
            )
        shape = shape[:3]
    if len(shape) == 4 and shape[3] == 1:  # a volume, as some software stores it
        shape = shape[:3]
    if len(shape) == 4:
        first = '_'.join(f'{key}-{value}' for key, value in in_order({**entities_of(path), 'echo': '1'}))
        return (
            f'{path.name} is 4D ({size_text(shape)}), but each echo must be one 3D file: combine receive '
            'coils, and split echoes or repetitions into files of their own, the first '
            f'{first}_{suffix_of(path)}.nii.gz, each with its EchoTime in a sidecar.'
        )
    if len(shape) != 3 or min(shape) < 2:
        return f'{path.name} is not a volume ({size_text(shape)}); susceptibility needs a 3D image.'
    kind = image.get_data_dtype().kind
    if kind not in 'iufb':
        what = 'complex numbers: split them into real and imaginary part' if kind == 'c' else 'no numbers'
        return f'{path.name} holds {what}; convert it again.'
    return (
        _affine_problem(path, image.affine, may_shear)
        or _affine_problem(path, scanner_affine(image), may_shear)
        or _length_problem(path, image)
    )


_DEFLATED = 1100
"""More bytes than one byte of a gzip file can stand for."""


def _affine_problem(path: Path, affine: np.ndarray, may_shear: bool) -> str | None:
    matrix = affine[:3, :3]
    mend = 'mend the qform and sform of its header.'
    if not np.isfinite(affine).all():
        return f'{path.name} has NaN in its affine; {mend}'
    size = np.sqrt((matrix**2).sum(0))
    if not ((size > 0.02) & (size < 30)).all():
        return f'{path.name} has voxels of {size_text(size)} mm; {mend}'
    cosines = (matrix / size).T @ (matrix / size) - np.eye(3)
    # beyond 45 degrees it is no tilt of a gantry
    if abs(cosines).max() > (0.7 if may_shear else 0.01):
        return f'{path.name} has a sheared affine (its voxel axes are not at right angles); {mend}'
    return None


def _length_problem(path: Path, image: nib.spatialimages.SpatialImage) -> str | None:
    """Compare the length of the file with what its header promises; read all of it only where needed."""
    needed = image.dataobj.offset + math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    found = path.stat().st_size
    if path.suffix in ('.gz', '.mgz'):
        with path.open('rb') as stream:
            stream.seek(-4, os.SEEK_END)
            found = int.from_bytes(stream.read(4), 'little')  # gzip ends in the length, modulo 2**32
        if needed > _DEFLATED * path.stat().st_size:
            return f'{path.name} is too short for the {needed} bytes of its header; copy or convert it again.'
        if found != needed % 2**32:  # truncated, or written in several members: count
            try:
                with gzip.open(path) as stream:
                    found = sum(map(len, iter(lambda: stream.read(2**22), b'')))
            except (OSError, EOFError) as error:
                return f'{path.name} is damaged ({_first_line(error)}); copy or convert it again.'
        else:
            found = needed
    if found < needed:
        return f'{path.name} is truncated: {found} of {needed} bytes; copy or convert it again.'
    return None


def grid_problem(path: Path, other: Path) -> str | None:
    """Why two images do not lie on one grid; a volume lies on that of a run of frames."""
    first, second = load_header(path), load_header(other)
    frames = {first.shape[3:], second.shape[3:]} - {(), (1,)}
    if first.shape[:3] != second.shape[:3] or len(frames) > 1:
        return (
            f'{path.name} ({size_text(first.shape)}) and {other.name} ({size_text(second.shape)}) differ in '
            'size; convert them from the same acquisition.'
        )
    if not same_affine(first.affine, second.affine):
        return f'{path.name} and {other.name} differ in their affine; convert them from the same acquisition.'
    return None


def same_grid(path: Path, other: Path) -> bool:
    """Whether two images lie on one grid."""
    return grid_problem(path, other) is None


def lies_on(path: Path, image: Path) -> bool:
    """Whether a file lies on the grid of an image, where both can be used."""
    return image_problem(path) is None and image_problem(image) is None and same_grid(path, image)


def same_affine(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two affines agree to a hundredth of a voxel."""
    tolerance = 0.01 * np.sqrt((first[:3, :3] ** 2).sum(0)).min()
    return bool(np.allclose(first, second, rtol=1e-4, atol=tolerance))


FEWEST_COILS = 4
"""Repeated echo times are taken for uncombined coils from this many on; fewer look like a wrong sidecar."""


def coil_count(echo_times: list, fewest: int = FEWEST_COILS) -> int:
    """Number of receive coils that were stored one by one, told by each of two or more echo times recurring.

    Less than ``fewest`` are none.

    >>> coil_count([0.004, 0.008] * 8), coil_count([0.004, 0.008, 0.012])
    (8, 1)
    """
    counts = Counter(round(time, 7) for time in echo_times)
    coils = min(counts.values())
    alike = len(counts) > 1 and max(counts.values()) == coils >= fewest
    return coils if alike else 1


def echo_time_problem(names: list[str], echo_times: list, fewest: int = FEWEST_COILS) -> str | None:
    """Why the echo times (s) of the files ``names`` cannot be those of one multi-echo acquisition.

    They may recur in ``fewest`` coils or more.
    """
    for name, time in zip(names, echo_times, strict=True):
        if time is None:
            return f'{name} has no EchoTime in its sidecar; add it (in seconds).'
        seconds = value_of(time, float)
        if seconds is None:
            return f'{name} has an EchoTime of {_short(time)}; it must be a number of seconds above 0.'
        if seconds > 1:
            return (
                f'{name} has an EchoTime of {seconds:g} s, which looks like milliseconds; divide it by 1000.'
            )
    different = sorted({round(time, 7) for time in echo_times})
    n_files, n_times = len(names), len(different)
    if n_times == n_files or coil_count(echo_times, fewest) > 1:
        return None
    listed = ', '.join(f'{1000 * time:g}' for time in different)
    if n_files % n_times == 0 and n_files > 2:
        return (
            f'{names[0]} and its {n_files - 1} fellow echoes have only {n_times} different EchoTime '
            f'({listed} ms): if these are {n_files // n_times} uncombined coils, combine them (bids_qsm '
            f'does from {fewest} coils and 2 echo times on); otherwise correct the sidecars.'
        )
    first, second = next(
        (a, b)
        for i, a in enumerate(range(n_files))
        for b in range(i + 1, n_files)
        if round(echo_times[a], 7) == round(echo_times[b], 7)
    )
    return (
        f'{names[first]} and {names[second]} have the same EchoTime ({1000 * echo_times[first]:g} ms); '
        'correct their sidecars.'
    )


SAME_SCANNER = 0.05
"""Largest relative difference between the field strengths of a magnet's name and of its frequency."""


def field_strength(name: str, metadata: dict) -> tuple[float | None, str | None, str | None]:
    """Field strength (T) from a sidecar, or None and why it is not known; and what to say of it.

    The frequency at which protons were imaged counts before the name of the magnet: those of 123.2 MHz are
    called 3 T and have 2.89 T.
    """
    tesla, mhz = metadata.get('MagneticFieldStrength'), metadata.get('ImagingFrequency')
    if tesla is None and mhz is None:
        return (
            None,
            f'{name} has neither MagneticFieldStrength nor ImagingFrequency in its sidecar; '
            'add MagneticFieldStrength (in tesla).',
            None,
        )
    key, value, unit = (
        ('MagneticFieldStrength', tesla, 'T') if tesla is not None else ('ImagingFrequency', mhz, 'MHz')
    )
    number = value_of(value, float)
    if number is None:
        return None, f'{name} has a {key} of {_short(value)}; it must be a number ({unit}) above 0.', None
    stated = number if tesla is not None else None
    if stated is not None and not 0.01 <= stated <= 30:
        return None, f'{name} has a {key} of {number:g}, which is no field strength in T; correct it.', None
    frequency = value_of(mhz, float)
    if frequency is None:
        said = f'The ImagingFrequency {_short(mhz)} is left out: it is no number of MHz.'
        return stated, None, said if mhz is not None else None
    for unit, share in (('MHz', 1.0), ('kHz', 1e-3), ('Hz', 1e-6)):
        found = round(float(tesla_from_mhz(frequency * share)), 4)
        if stated is None and 0.01 <= found <= 30:
            said = f'The ImagingFrequency {frequency:g} is taken for {unit}: {found:g} T.'
            return found, None, said if unit != 'MHz' else None
        if stated is not None and abs(found / stated - 1) <= SAME_SCANNER:
            said = (
                f'The sidecar says {stated:g} T and {frequency:g} {unit}; as protons precess so at '
                f'{found:.4g} T, this is taken.'
            )
            return found, None, said if abs(found / stated - 1) > 0.005 else None
    if stated is None:
        return (
            None,
            f'{name} has an ImagingFrequency of {frequency:g}, which is no frequency of protons in MHz; '
            'correct it, or add MagneticFieldStrength (in tesla).',
            None,
        )
    said = (
        f'The ImagingFrequency {frequency:g} is left out: protons do not precess so at the '
        f'MagneticFieldStrength, {stated:g} T.'
    )
    return stated, None, said


def orientation_note(path: Path) -> str | None:
    """What to say of an image whose sform and qform differ, or that has neither."""
    image = load_header(path)
    header = image.header
    if not isinstance(image, nib.Nifti1Pair):
        return None
    sform, qform = int(header['sform_code']), int(header['qform_code'])
    if not (sform or qform):
        return 'The header holds no orientation; B0 is taken to lie along the third voxel axis.'
    other = qform_of(header)
    if not (sform and qform) or (other is not None and same_affine(image.affine, other)):
        return None
    if other is None:
        return f'{path.name}: its qform holds no affine; B0 is taken along the axis of the sform.'
    rotations = [a[:3, :3] / np.sqrt((a[:3, :3] ** 2).sum(0)) for a in (image.affine, other)]
    cosine = (np.trace(rotations[0].T @ rotations[1]) - 1) / 2
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    chosen = 'sform' if np.array_equal(scanner_affine(image), image.affine) else 'qform'
    why = "the scanner's by its code" if 1 in (sform, qform) else "as no code says which is the scanner's"
    return (
        f'{path.name}: its sform (code {sform}) and its qform (code {qform}) differ, by {angle:.1f} degrees; '
        f'B0 is taken along the axis of the {chosen}, {why}.'
    )


_PARTS = {
    'mag': {'M', 'MAGNITUDE', 'M_FFE'},
    'phase': {'P', 'PHASE', 'PHASE MAP', 'P_FFE'},
    'real': {'R', 'REAL', 'R_FFE'},
    'imag': {'I', 'IMAGINARY', 'I_FFE'},
}
"""Words of ImageType that tell the part of a complex image."""


def image_types(metadata: dict) -> list[str]:
    """Words of ImageType, in upper case; some converters write them as one text."""
    words = metadata.get('ImageType')
    words = words.split('\\') if isinstance(words, str) else words if isinstance(words, list) else []
    return [str(word).upper() for word in words]


def told_part(metadata: dict) -> str | None:
    """Part of a complex image that ImageType tells, None where it tells none or several.

    >>> told_part({'ImageType': ['ORIGINAL', 'PRIMARY', 'P', 'ND']}), told_part({})
    ('phase', None)
    """
    words = {*image_types(metadata)}
    found = [part for part, names in _PARTS.items() if names & words]
    return found[0] if len(found) == 1 else None


def part_of(path: Path, metadata: dict) -> str:
    """Part of a complex image by its name or, where that has no part-, by ImageType: else the magnitude."""
    return entities_of(path).get('part') or told_part(metadata) or 'mag'


def is_inversion_recovery(metadata: dict) -> bool:
    """Whether a sidecar tells of an inversion pulse.

    >>> is_inversion_recovery({'InversionTime': 0.9}), is_inversion_recovery({'ScanningSequence': 'GR'})
    (True, False)
    """
    if value_of(metadata.get('InversionTime'), float):
        return True
    sequence = metadata.get('ScanningSequence')
    words = sequence if isinstance(sequence, list) else re.split('[^A-Z]+', str(sequence))
    names = (metadata.get(key) for key in ('SeriesDescription', 'ProtocolName', 'PulseSequenceType'))
    return 'IR' in words or any(re.search('mp2?rage', str(name), re.IGNORECASE) for name in names)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:60]}...'


def read_json(path: Path) -> tuple[dict, str | None]:
    """Content of a sidecar; or nothing, and why it cannot be read."""
    if not path.is_file():
        return {}, f'{path.name} is no file; replace it.'
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        return {}, f'{path.name} cannot be read ({error.strerror}); mend it or its permissions.'
    except RecursionError:
        return {}, f'{path.name} is nested too deeply; write it again.'
    except ValueError:
        empty = path.stat().st_size == 0
        return {}, f'{path.name} is {"empty" if empty else "not valid JSON"}; write it again.'
    if not isinstance(content, dict):
        return {}, f'{path.name} is not a JSON object; write it again.'
    return content, None


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0].rstrip('.') or type(error).__name__
