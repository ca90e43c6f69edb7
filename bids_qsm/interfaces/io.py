"""Loading and saving NIfTI files; the only place where arrays of the graph meet files."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid


def read(path):
    """Array of an image as it is stored, and its affine; UserError where the file is cut short or damaged."""
    try:
        image = nib.load(path)
        if not str(path).endswith('.gz'):
            return np.asanyarray(image.dataobj), image.affine
        with gzip.open(path) as stream:
            data = np.asanyarray(type(image).from_stream(stream).dataobj)
            # only its end tells whether all of a compressed file is right
            while stream.read(2**20):
                pass
        return data, image.affine
    except Exception as error:  # nibabel, gzip and zlib raise many kinds for damaged files
        if isinstance(error, MemoryError):
            raise
        reason = str(error).partition('\n')[0].rstrip('.') or type(error).__name__
        raise UserError(f'{path} cannot be read ({reason}); copy or convert it again.') from error


def load(path):
    """Array (float32) and Grid of an image; 4D series keep echoes last."""
    data, affine = read(path)
    return data.astype(np.float32), Grid.from_affine(data.shape, affine)


def load_mask(path):
    """Boolean array of a mask image."""
    return read(path)[0] > 0.5


def load_labels(path, grid):
    """Labels (int32) of an image that must lie on the grid of the maps."""
    data, _ = read(path)
    if data.shape != grid.shape:
        raise UserError(f'{path} has shape {data.shape}, but the maps have {grid.shape}: resample it first.')
    return np.rint(data).astype(np.int32)


def save_like(data, reference, cwd, name):
    """Write ``data`` with the geometry of the image ``reference`` to ``cwd/name``; return the path.

    Masks are written as uint8, labels keep their integer type, all else is float32.
    """
    ref = nib.load(reference)
    return save(data, ref.affine, cwd, name, header=ref.header)


def save(data, affine, cwd, name, header=None):
    """Write ``data`` with ``affine`` (mm, RAS) to ``cwd/name``; return the path."""
    data = np.asarray(data)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == 'f':
        data = data.astype(np.float32)
    elif data.dtype.kind in 'iu' and data.dtype.itemsize > 4:
        data = data.astype(np.int32)
    image = nib.Nifti1Image(data, affine)
    if header is None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    else:
        image.set_qform(affine, code=max(int(header['qform_code']), 1))
        image.set_sform(affine, code=max(int(header['sform_code']), 1))
    image.header.set_xyzt_units('mm')
    path = Path(cwd) / name
    image.to_filename(path)
    return str(path)
