"""Fibres from diffusion derivatives: which files applications read, and how these become angles."""

from pathlib import PurePath

import numpy as np

from bids_qsm.anatomy.fibres import (
    FRAMES,
    UNUSABLE,
    Carried,
    Fibres,
    axes_of_frame,
    carry,
    check_frame,
    fibres_in_scanner,
    fibres_of,
    turn_of,
)
from bids_qsm.applications.contract import Given, Query
from bids_qsm.biomarkers.positions import axes_of
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid

SPACES = ('T1w', 'ACPC', 'dwi', 'DWI', 'b0', 'B0')
"""Spaces of diffusion derivatives: QSIPrep calls its T1w image, turned to the commissures, T1w or ACPC."""
FIBRES = (
    Query(
        'fa',
        'map of fractional anisotropy',
        ('dwimap', 'FA'),
        datatype='',
        names=('*_param-fa_dwimap', '*_FA'),
        align='own',
        spaces=SPACES,
        whole=True,
    ),
    Query(
        'directions',
        'map of fibre directions beside one of fractional anisotropy',
        ('dwimap', 'tensor', 'V1'),
        datatype='',
        names=(
            *(f'*_param-{one}_dwimap' for one in ('tensor', 'diffusivity')),
            '*_tensor',
            *(f'*_param-{one}_dwimap' for one in ('peaks', 'v1')),
            '*_V1',
        ),
        align='own',
        beside='fa',
        whole=True,
        instead_of='dwi',
    ),
    Query(
        'dwi',
        'series of diffusion images',
        ('dwi',),
        datatype='dwi',
        names=('*_dwi',),
        align='own',
        spaces=SPACES,
        gradients=True,
    ),
)
"""Extra inputs of an application that takes fibres: maps by names of QSIPrep, QSIRecon and FSL, or else the
diffusion images, prepared or as they were scanned, which a tensor is fitted to."""
ONE_OF = ('directions', 'dwi')
"""Those of `FIBRES` of which any will do."""
AUTO, IGNORE = 'auto', 'ignore'
"""Frames that are none: that which the file tells, and no fibres at all."""
LARGEST = 1.2
"""99th percentile of fractional anisotropy; noise takes single voxels above 1."""
_REFERENCES = {'xyz': 'scanner', 'ijk': 'voxel', 'bvec': 'fsl'}
"""Key Reference of OrientationEncoding in sidecars (BEP 16) -> frame."""


def frame_of(given: Given) -> str:
    """Frame of the vectors of a file: by its sidecar, else FSL's for ``_V1`` and
    ``_tensor``, else that of the scanner.
    """
    encoding = given.sidecar.get('OrientationEncoding')
    reference = encoding.get('Reference') if isinstance(encoding, dict) else None
    if reference is None:
        return 'fsl' if _stem(given).endswith(('_v1', '_tensor')) else 'scanner'
    if reference not in _REFERENCES:
        raise UserError(
            f'the sidecar of {given.source} has the Reference {reference!r} of OrientationEncoding; it must '
            f'be one of {", ".join(_REFERENCES)}.'
        )
    return _REFERENCES[reference]


def check_stated(frame: object, flag: str, *, may_ignore: bool = True):
    """Raise UserError where a frame that the user stated is none."""
    if frame not in (AUTO, *FRAMES, *([IGNORE] if may_ignore else [])):
        more = f', or {IGNORE} to leave fibres out' if may_ignore else ''
        raise UserError(f'{flag}:frame is {frame!r}; it must be one of: {", ".join((AUTO, *FRAMES))}{more}.')


def fibres_on(
    fa: Given | None,
    given: Given | None,
    grid: Grid,
    affine: np.ndarray,
    frame: str,
    *,
    dwi: tuple[Given, Given] | None = None,
    required: bool = False,
) -> tuple[Carried | None, str]:
    """Fibres on the grid of the maps, and what to say of them.

    ``frame`` is one of `FRAMES`, `AUTO` for that which the file tells, or `IGNORE`. Files that cannot be used
    were found and not asked for, so that only the sentence says so.

    Raises
    ------
    UserError
        They cannot be used, and the user stated a frame, or fibres are ``required``.
    """
    pair = given_or_fitted(fa, given, dwi)
    if pair is None or frame == IGNORE:
        return None, ''
    try:
        return read_fibres(*pair, grid, affine, frame)
    except UserError as error:
        if required or frame != AUTO:
            raise
        return None, f'there are directions of fibres, but they are not used: {error}'


def given_or_fitted(
    fa: Given | None, given: Given | None, dwi: tuple[Given, Given] | None
) -> tuple[Given, Given] | None:
    """Fractional anisotropy and directions that were given, else those of diffusion images; None of none."""
    return (fa, given) if fa is not None and given is not None else dwi


def read_fibres(
    fa: Given, given: Given, grid: Grid, affine: np.ndarray, frame: str, *, is_checked: bool = True
) -> tuple[Carried, str]:
    """Fibres on the grid of the maps, and what to say of them; UserError where they cannot be used.

    Unless the caller does better, the frame is checked by the surfaces of white matter (``is_checked``).
    """
    found, anisotropy, read_in = _stored(fa, given, frame)
    is_told = not is_checked or check_frame(found.vectors, anisotropy, given.affine, read_in, given.source)
    turned = fibres_in_scanner(found, given.affine, read_in)
    carried = carry(turned, anisotropy, given.affine, grid.shape, affine, given.from_maps)
    said = f'directions of {given.source}, read in the frame {read_in}'
    fitted = given.sidecar.get('FittedHere')
    said = f'{said} ({fitted})' if fitted else said
    return carried, said if is_told else f'{said}, which the surfaces of white matter do not tell'


def check_surfaces(fa: Given, given: Given, frame: str) -> bool:
    """Whether the surfaces of white matter tell the frame; UserError where they show that it is another."""
    found, anisotropy, read_in = _stored(fa, given, frame)
    return check_frame(found.vectors, anisotropy, given.affine, read_in, given.source)


def _stored(fa: Given, given: Given, frame: str) -> tuple[Fibres, np.ndarray, str]:
    """Fibres in the axes of their file, fractional anisotropy, and the frame that these axes are."""
    if UNUSABLE in given.sidecar:
        raise UserError(str(given.sidecar[UNUSABLE]))
    anisotropy = fractions(fa)
    is_peaks = '_param-peaks_' in _stem(given)
    found = fibres_of(given.stored, anisotropy, given.source, amplitudes=is_peaks, intent=given.intent)
    return found, anisotropy, frame_of(given) if frame == AUTO else frame


def axes_of_file(given: Given, affine: np.ndarray, frame: str) -> np.ndarray:
    """Matrix (3, 3) that takes vectors of a file to the voxel axes of the maps, whose ``affine`` it is."""
    read_in = frame_of(given) if frame == AUTO else frame
    stored = axes_of_frame(given.affine, read_in).astype(np.float32)
    return axes_of(affine).T.astype(np.float32) @ turn_of(given.from_maps) @ stored


def fractions(fa: Given) -> np.ndarray:
    """Fractional anisotropy, 0 to 1; UserError where it has another scale."""
    found = np.nan_to_num(fa.data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(np.percentile(found[found > 0], 99)) if (found > 0).any() else 0.0
    if top > LARGEST:
        raise UserError(
            f'{fa.source} has values up to {top:.3g}, and fractional anisotropy is 0 to 1; divide it by its '
            'scale.'
        )
    return np.clip(found, 0, 1)


def _stem(given: Given) -> str:
    return PurePath(given.source).name.partition('.')[0].lower()
