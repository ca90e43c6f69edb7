"""From DICOM files to one NIfTI image: dcm2niix gets the files of one volume, and its answer is checked."""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from bids_qsm.dicom.headers import PARTS, Frame, Group
from bids_qsm.errors import UserError, plain, size_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIXES = {'ph': 'phase', 'real': 'real', 'imaginary': 'imag'}
"""Words that dcm2niix appends to names, and the part that they stand for."""
FREE_TEXTS = ('descrip', 'aux_file', 'intent_name', 'db_name')
"""Fields of NIfTI headers that hold times and comments."""


class CannotConvert(Exception):
    """Why a series cannot be converted, as a sentence."""


@dataclass(frozen=True)
class Converted:
    """An image: the bytes of an uncompressed NIfTI file, and what dcm2niix says of it."""

    nifti: bytes
    sidecar: dict[str, Any]
    gradients: dict[str, str]
    """Contents of the tables of diffusion by extension."""
    largest: float
    """Of the sizes of the values."""


def find_dcm2niix() -> str:
    """Path of dcm2niix: that of the Python package, else that of the system; UserError without any."""
    try:
        from dcm2niix import bin as program
    except ImportError:
        program = shutil.which('dcm2niix')
    if not program:
        raise UserError(
            "bids_qsm import needs dcm2niix: run `pip install 'bids_qsm[dicom]'`, or install dcm2niix."
        )
    return str(program)


def convert(group: Group, echo_time: float, program: str) -> Converted:
    """Convert the images of one echo of a group.

    Raises
    ------
    CannotConvert
        Where files of one identity differ, or dcm2niix does not make one image of the size, place, echo time
        and part that the headers tell.
    """
    if group.clash:
        raise CannotConvert(f'{group.label}: {group.clash}')
    frames = group.echoes[echo_time]
    with tempfile.TemporaryDirectory(prefix='bids_qsm-') as folder:
        source, target = Path(folder, 'in'), Path(folder, 'out')
        source.mkdir(mode=0o700)
        target.mkdir()
        _gather(group, frames, source)
        # settings of the user's ~/.dcm2nii.ini would change what is made; 3D acquisitions would be turned
        words = ['-g', 'i', '-b', 'y', '-ba', 'y', '-z', 'n', '-x', 'i', '-f', 'image']
        words += ['-o', str(target), str(source)]
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, errors='replace', check=False
        )
        images = sorted(target.glob('*.nii'))
        if len(images) != 1:
            said = [line for line in done.stdout.splitlines() if line.startswith('Error')]
            why = f' ({plain(said[0])})' if said and str(source) not in said[0] else ''
            raise CannotConvert(f'dcm2niix made {len(images)} images of one volume of {group.label}{why}')
        path = images[0]
        sidecar = _sidecar(path.with_suffix('.json'), group)
        gradients = {
            one.suffix: one.read_text()
            for one in sorted(target.iterdir())
            if one.suffix in ('.bval', '.bvec')
        }
        raw = path.read_bytes()
        _check(path, group, echo_time, sidecar)
        largest = float(np.abs(np.asanyarray(nib.load(path).dataobj)).max())
    return Converted(_without_texts(raw), sidecar, gradients, largest)


def _sidecar(path: Path, group: Group) -> dict[str, Any]:
    try:
        # texts may hold control characters
        return dict(json.loads(path.read_text(encoding='utf-8', errors='replace'), strict=False))
    except (OSError, ValueError, TypeError) as error:
        raise CannotConvert(f'what dcm2niix says of {group.label} cannot be read ({plain(error)})') from None


def _gather(group: Group, frames: Sequence[Frame], folder: Path):
    """Put links to the files of the frames into a folder; files with other frames too are taken apart."""
    by_file: dict[Path, list[int | None]] = {}
    for frame in frames:
        by_file.setdefault(frame.path, []).append(frame.number)
    for n, (path, numbers) in enumerate(by_file.items(), 1):
        target = folder / f'{n:06d}.dcm'
        if None in numbers or len(numbers) == group.frames_in_file[path]:
            os.symlink(path.absolute(), target)
        else:
            _take_frames(path, [number for number in numbers if number is not None], group, target)


def _take_frames(path: Path, numbers: Sequence[int], group: Group, target: Path):
    """Write some frames of an enhanced file to a file of their own.

    dcm2niix stacks magnitude and phase, or echoes, that an enhanced file of Siemens holds together.
    """
    import pydicom

    try:
        one = pydicom.dcmread(path)
        _keep_frames(one, numbers)
        one.ComplexImageComponent = {part: word for word, part in PARTS.items()}[group.part or 'mag']
        one.save_as(target)
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise CannotConvert(
            f'the frames of {group.label} cannot be taken apart ({plain(error)[:80]}); copy its file again'
        ) from None


def _keep_frames(one: 'Dataset', numbers: Sequence[int]):
    from pydicom.encaps import encapsulate, generate_frames

    total = int(one.NumberOfFrames)
    one.PerFrameFunctionalGroupsSequence = [one.PerFrameFunctionalGroupsSequence[k] for k in numbers]
    if one.file_meta.TransferSyntaxUID.is_compressed:
        every = list(generate_frames(one.PixelData, number_of_frames=total))
        one.PixelData = encapsulate([every[k] for k in numbers])
    else:
        size = one.Rows * one.Columns * one.BitsAllocated // 8 * one.SamplesPerPixel
        one.PixelData = b''.join(one.PixelData[k * size : (k + 1) * size] for k in numbers)
    one.NumberOfFrames = len(numbers)


def _check(path: Path, group: Group, echo_time: float, sidecar: dict[str, Any]):
    image = nib.load(path)
    named = {SUFFIXES.get(word) for word in path.stem.split('_')[1:]} - {None}
    if named - {group.part}:
        raise CannotConvert(f'dcm2niix takes {group.label} for the {named.pop()} part')
    told = sidecar.get('EchoTime')
    if echo_time and (told is None or abs(1000 * told - echo_time) > 0.005):
        raise CannotConvert(
            f'dcm2niix finds an echo time of {told} s in {group.label}, not of {echo_time} ms'
        )
    if group.is_mosaic:
        return
    if image.shape[:3] != group.size or (image.shape[3:] or (1,)) != (group.volumes,):
        raise CannotConvert(
            f'dcm2niix makes {size_text(image.shape)} voxels of {group.label}, but its headers tell of '
            f'{size_text((*group.size, group.volumes))}'
        )
    if distance(image, group, echo_time) > 0.1:
        raise CannotConvert(f'dcm2niix places {group.label} elsewhere than its headers do')


def distance(image: nib.Nifti1Image, group: Group, echo_time: float) -> float:
    """Largest distance (mm) between corners (centres of voxels) of an image and the slices, in any order."""
    ours, theirs = _corners(image, group, echo_time)
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return float(max(apart.min(0).max(), apart.min(1).max()))


def centres_apart(image: nib.Nifti1Image, group: Group, echo_time: float) -> float:
    """Distance (mm) between the centres of an image and of the slices."""
    ours, theirs = _corners(image, group, echo_time)
    return float(np.linalg.norm(ours.mean(0) - theirs.mean(0)))


def _corners(image: nib.Nifti1Image, group: Group, echo_time: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners (8, 3) of the slices and of an image (RAS, mm)."""
    frames = sorted(group.echoes[echo_time], key=lambda one: float(np.dot(one.position, group.normal)))
    row, column = np.reshape(group.facts['ImageOrientationPatient'], (2, 3)).astype(float)
    between_rows, between_columns = (float(value) for value in group.facts['PixelSpacing'])
    first, last = (np.array(frames[n].position) for n in (0, -1))
    sides = [
        row * between_columns * (group.size[0] - 1),
        column * between_rows * (group.size[1] - 1),
        last - first,
    ]
    ends = np.array(list(itertools.product((0, 1), repeat=3)))
    ours = first + ends @ sides
    ours[:, :2] *= -1  # from LPS to RAS
    return ours, nib.affines.apply_affine(image.affine, ends * (np.array(image.shape[:3]) - 1))


def _without_texts(raw: bytes) -> bytes:
    """The file with its header cleared of times and comments."""
    header = nib.Nifti1Header(raw[:348], check=False)
    for key in FREE_TEXTS:
        header[key] = b''
    return header.binaryblock + raw[348:]
