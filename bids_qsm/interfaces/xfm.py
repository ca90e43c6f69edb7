"""Reading and writing transforms in ITK's formats, which ANTs, fMRIPrep and nitransforms share.

ITK's world is LPS where ours is RAS: x and y change sign. A list of transforms is in the order in
which they meet the points of the reference image (see `bids_qsm.anatomy.transform`).
"""

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from nipype.interfaces.base import isdefined

from bids_qsm.anatomy.transform import Displacement
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_VECTOR_INTENT = 1007


def load_xfm(path: str | Path, invert: bool = False):
    """Read a transform file as a list of transforms, to be applied first to last.

    Reads ITK text files of affine transforms (``.txt``), ITK displacement fields (``.nii``, ``.nii.gz``)
    and ITK composites (``.h5``, as of fMRIPrep and antsRegistration).

    Raises
    ------
    UserError
        Where the file is of another kind, or a displacement field is to be inverted.
    """
    name = str(path)
    if name.endswith(('.nii', '.nii.gz')):
        transforms = [_load_displacement(path)]
    elif name.endswith('.h5'):
        transforms = _load_composite(path)
    elif name.endswith(('.txt', '.tfm')):
        transforms = _load_text(path)
    else:
        raise UserError(f'{name} is not a transform that can be read: give an ITK .txt, .nii.gz or .h5 file.')
    if not invert:
        return transforms
    if any(isinstance(t, Displacement) for t in transforms):
        raise UserError(
            f'{name} holds a displacement field, which cannot be inverted: give that of the other direction.'
        )
    return [np.linalg.inv(t) for t in reversed(transforms)]


def load_chain(files: list[str], invert: list[bool]):
    """Read transform files as one list, each inverted where its value of ``invert`` says so.

    Both are inputs of an interface: undefined (as Nipype makes empty lists) is none, or none inverted.
    """
    files = list(files) if isdefined(files) else []
    invert = (list(invert) if isdefined(invert) else []) or [False] * len(files)
    if len(invert) != len(files):
        raise ValueError(f'{len(files)} transforms, but {len(invert)} values of invert')
    return [t for file, flip in zip(files, invert, strict=True) for t in load_xfm(file, flip)]


def save_xfm(transform: np.ndarray | Displacement, cwd: str | Path, name: str):
    """Write a 4x4 matrix (``name`` in .txt) or a Displacement (.nii.gz) to ``cwd/name``; return the path."""
    path = Path(cwd) / name
    if not isinstance(transform, Displacement):
        lps = _FLIP @ np.asarray(transform, float) @ _FLIP
        numbers = ' '.join(repr(float(v)) for v in (*lps[:3, :3].ravel(), *lps[:3, 3]))
        path.write_text(
            '#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n'
            f'Parameters: {numbers}\nFixedParameters: 0 0 0\n'
        )
        return str(path)
    vectors = transform.field.astype(np.float32) * np.float32([-1, -1, 1])
    image = nib.Nifti1Image(vectors[:, :, :, None, :], transform.affine)
    image.header.set_intent(_VECTOR_INTENT)
    image.header.set_xyzt_units('mm')
    image.set_qform(transform.affine, code=1)
    image.set_sform(transform.affine, code=1)
    image.to_filename(path)
    return str(path)


def _matrix(parameters: np.ndarray, center: np.ndarray):
    """4x4 RAS matrix of ITK's 12 affine parameters (LPS) and centre of rotation."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(parameters[:9], (3, 3))
    lps[:3, 3] = np.asarray(parameters[9:12]) + center - lps[:3, :3] @ center
    return _FLIP @ lps @ _FLIP


def _is_affine(kind: str):
    return kind.startswith(('AffineTransform', 'MatrixOffsetTransformBase'))


def _load_text(path: str | Path):
    kinds, matrices, parameters = [], [], None
    try:
        lines = Path(path).read_text().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not an ITK text transform: it is a binary file.') from error
    for line in lines:
        key, _, value = line.partition(':')
        if key == 'Transform':
            kinds.append(value.strip())
        elif key == 'Parameters':
            parameters = np.array(value.split(), float)
        elif key == 'FixedParameters':
            center = np.array(value.split()[:3], float)
            if not kinds or not _is_affine(kinds[-1]) or parameters is None or parameters.size != 12:
                kind = kinds[-1] if kinds else 'nameless transform'
                raise UserError(f'{path} holds a {kind}: only affine transforms are read.')
            matrices.append(_matrix(parameters, center if center.size == 3 else np.zeros(3)))
    if not matrices:
        raise UserError(f'{path} is not an ITK text transform: no affine transform was found in it.')
    # ITK queues transforms and applies the last one first.
    return matrices[::-1]


def _load_displacement(path: str | Path):
    data, affine = read(path)
    if data.ndim != 5 or data.shape[3:] != (1, 3):
        raise UserError(
            f'{path} is not an ITK displacement field: its shape is {data.shape}, not (x, y, z, 1, 3).'
        )
    vectors = data[:, :, :, 0, :].astype(np.float32)
    return Displacement(vectors * np.float32([-1, -1, 1]), affine)


# what h5py and numpy raise for damaged files
_UNREADABLE = (OSError, LookupError, ValueError, AttributeError, RuntimeError, TypeError, OverflowError)


def _load_composite(path: str | Path):
    try:
        return _read_composite(path)
    except _UNREADABLE as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'{path} cannot be read as an ITK transform ({reason}); copy it again.') from error


def _read_composite(path: str | Path):
    transforms = []
    with h5py.File(path, 'r') as file:
        if 'TransformGroup' not in file:
            raise UserError(f'{path} is not an ITK composite transform: it has no TransformGroup.')
        group = file['TransformGroup']
        for key in sorted(group, key=int):
            kind = np.ravel(group[key]['TransformType'][()])[0].decode()
            if kind.startswith('CompositeTransform'):
                continue
            # ITK before 5 misspelt the name of the data set.
            misspelt = 'TranformParameters' in group[key]
            parameters = group[key]['TranformParameters' if misspelt else 'TransformParameters'][()]
            fixed = group[key]['TranformFixedParameters' if misspelt else 'TransformFixedParameters'][()]
            if not (np.isfinite(parameters).all() and np.isfinite(fixed).all()):
                raise ValueError('it holds values that are not finite')
            if _is_affine(kind):
                transforms.append(_matrix(parameters.astype(float), fixed.astype(float)))
            elif kind.startswith('DisplacementFieldTransform'):
                transforms.append(_displacement(parameters, fixed.astype(float)))
            else:
                raise UserError(
                    f'{path} holds a {kind}: only affine transforms and displacement fields are read.'
                )
    return transforms[::-1]


def _displacement(parameters: np.ndarray, fixed: np.ndarray):
    """Displacement of ITK's flat vectors (fastest first, then x, y, z) and grid parameters."""
    shape = tuple(int(n) for n in fixed[:3])
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:18].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    if not np.linalg.det(affine):
        raise ValueError('the grid of its displacement field has no extent')
    vectors = parameters.astype(np.float32).reshape((3, *shape), order='F')
    vectors = np.ascontiguousarray(np.moveaxis(vectors, 0, -1))  # once, not at each use
    return Displacement(vectors * np.float32([-1, -1, 1]), _FLIP @ affine)
