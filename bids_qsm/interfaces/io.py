"""Loading and saving files; the only place where arrays of the graph meet them."""

import gzip
import json
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid


def qform_of(header: nib.Nifti1Header):
    """Affine of the qform, None where its numbers are none of an affine."""
    try:
        with np.errstate(all='ignore'):
            affine = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):  # a quaternion longer than 1
        return None
    return affine if np.isfinite(affine).all() and (affine[:3, :3] ** 2).sum(0).all() else None


def scanner_affine(image: nib.spatialimages.SpatialImage):
    """Affine from voxels to the scanner (RAS, mm), from whose axes B0 is known.

    It is the one that other software takes (`image.affine`, the sform before the qform), unless the header
    says of the qform alone that it leads to the scanner (code 1), and of the sform that it leads elsewhere,
    as after an alignment (code 2).
    """
    if isinstance(image, nib.Nifti1Pair):
        header = image.header
        if header['qform_code'] == 1 and header['sform_code'] not in (0, 1):
            qform = qform_of(header)
            return image.affine if qform is None else qform
    return image.affine


def grid_of(image: nib.spatialimages.SpatialImage):
    """Grid of an image, with B0 along the axis of the scanner."""
    return Grid.from_affine(image.shape, image.affine, scanner_affine(image))


@contextmanager
def _reading(path: str | Path):
    try:
        yield
    except Exception as error:  # nibabel, gzip and zlib raise many kinds for damaged files
        if isinstance(error, MemoryError):
            raise
        reason = str(error).partition('\n')[0].rstrip('.') or type(error).__name__
        raise UserError(f'{path} cannot be read ({reason}); copy or convert it again.') from error


def read(path: str | Path):
    """Array of an image as it is stored, and its affine; UserError where the file is cut short or damaged."""
    with _reading(path):
        image = nib.load(path)
        if not str(path).endswith('.gz'):
            return np.asanyarray(image.dataobj), image.affine
        with gzip.open(path) as stream:
            data = np.asanyarray(type(image).from_stream(stream).dataobj)
            _check_end(stream)
        return data, image.affine


def _check_end(stream: gzip.GzipFile):
    """Read the rest of a compressed file, at whose end its checksum stands."""
    while stream.read(2**20):
        pass


class Frames:
    """Frames (x, y, z; float32) of a 4D image, of which one is read at a time; quickest in rising order.

    UserError where the file is cut short or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = path
        with _reading(path):
            if str(path).endswith('.gz'):
                with gzip.open(path) as stream:
                    _check_end(stream)
            self._image = nib.load(path, keep_file_open=True)  # else it is read from its start each time
        self.affine = self._image.affine

    def __len__(self):
        return self._image.shape[3]

    def __getitem__(self, number: int):
        with _reading(self.path):
            return np.asarray(self._image.dataobj[..., number], np.float32)


def load_float(path: str | Path):
    """Array (float32) and affine of an image; 4D series keep echoes last."""
    data, affine = read(path)
    return data.astype(np.float32), affine


def load(path: str | Path):
    """Array (float32) and Grid of an image; 4D series keep echoes last."""
    return load_float(path)[0], grid_of(nib.load(path))


def without_frames(data: np.ndarray):
    """A volume that is stored as a single frame, (x, y, z, 1), without that axis."""
    return data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data


def read_mask(path: str | Path):
    """Boolean array of a mask image, and its affine."""
    data, affine = read(path)
    return without_frames(data) > 0.5, affine


def load_mask(path: str | Path):
    """Boolean array of a mask image."""
    return read_mask(path)[0]


def load_volume(path: str | Path):
    """Array (float32, not finite set to 0) and affine of a 3D image."""
    data, affine = load_float(path)
    data = without_frames(data)
    if data.ndim != 3:
        raise UserError(f'{path} has shape {data.shape}: one 3D volume is needed here.')
    return np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0), affine


def load_head(path: str | Path):
    """Array and affine of a 3D image that is not empty, see :func:`load_volume`."""
    data, affine = load_volume(path)
    if data.max() <= data.min():
        raise UserError(f'{path} is empty: all its voxels have the same value.')
    return data, affine


def load_labels(path: str | Path, grid: Grid):
    """Labels (int32) of an image that must lie on the grid of the maps."""
    data = without_frames(read(path)[0])
    if data.shape != grid.shape:
        raise UserError(f'{path} has shape {data.shape}, but the maps have {grid.shape}: resample it first.')
    return np.rint(data).astype(np.int32)


def save_like(
    data: np.ndarray, reference: str | Path, cwd: str | Path, name: str, *, scale: float | None = None
):
    """Write ``data`` with the geometry of the image ``reference`` to ``cwd/name``; return the path.

    Masks are written as uint8, labels keep their integer type, all else is float32. The sform and the qform
    stay as they are, also where they differ. ``scale`` is what readers multiply stored integers by.
    """
    ref = nib.load(reference)
    header = ref.header if isinstance(ref, nib.Nifti1Pair) else None
    return save(data, ref.affine, cwd, name, header=header, scale=scale)


def save(
    data: np.ndarray,
    affine: np.ndarray,
    cwd: str | Path,
    name: str,
    header: nib.Nifti1Header | None = None,
    *,
    scale: float | None = None,
):
    """Write ``data`` with ``affine`` (mm, RAS) to ``cwd/name``; return the path."""
    data = np.asarray(data)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == 'f':
        data = data.astype(np.float32)
    elif data.dtype.kind in 'iu' and data.dtype.itemsize > 4:
        data = data.astype(np.int32)
    image = nib.Nifti1Image(data, affine)
    qcode, scode = (0, 0) if header is None else (int(header['qform_code']), int(header['sform_code']))
    qform = qform_of(header) if qcode and scode else affine
    image.set_qform(affine if qform is None else qform, code=max(qcode, 1))
    image.set_sform(affine, code=max(scode, 1))
    image.header.set_xyzt_units('mm')
    if scale is not None:
        image.header.set_slope_inter(scale, 0)
    path = Path(cwd) / name
    image.to_filename(path)
    return str(path)


def save_shares(data: np.ndarray, reference: str | Path, cwd: str | Path, name: str):
    """Write shares (uint8, in 255ths) like `save_like`; other software reads them as 0 to 1."""
    return save_like(data, reference, cwd, name, scale=1 / 255)


def load_shares(path: str | Path) -> np.ndarray:
    """Shares as they were given to `save_shares`."""
    return np.asarray(nib.load(path).dataobj.get_unscaled())


def read_numbers(path: str | Path) -> np.ndarray:
    """Table of numbers in a text file, by rows; UserError where it is none."""
    try:
        rows = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
        return np.array(rows, float)
    except (OSError, ValueError):  # also of rows of different lengths
        raise UserError(f'{Path(path).name} is no table of numbers; write it again.') from None


def read_record(path: str | Path) -> dict:
    """Content of a JSON file."""
    return json.loads(Path(path).read_text())


def write_record(content: dict, path: Path) -> Path:
    """Write a JSON file; return its path."""
    path.write_text(json.dumps(content, indent=2) + '\n')
    return path
