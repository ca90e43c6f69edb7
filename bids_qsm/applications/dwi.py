"""Fibres from diffusion derivatives: which files applications read, and how these become angles."""

from pathlib import PurePath

import numpy as np

from bids_qsm.anatomy.fibres import FRAMES, Carried, carry, check_frame, directions, to_scanner, turn_of
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
        'map of fibre directions beside it',
        ('dwimap', 'V1'),
        datatype='',
        names=('*_V1', *(f'*_param-{one}_dwimap' for one in ('tensor', 'diffusivity', 'peaks', 'v1'))),
        align='own',
        beside='fa',
        whole=True,
    ),
)
"""Extra inputs of an application that takes fibres: names of QSIPrep, QSIRecon and FSL."""
AUTO, IGNORE = 'auto', 'ignore'
"""Frames that are none: that which the file tells, and no fibres at all."""
LARGEST = 1.2
"""99th percentile of fractional anisotropy; noise takes single voxels above 1."""
_REFERENCES = {'xyz': 'scanner', 'ijk': 'voxel', 'bvec': 'fsl'}
"""Key Reference of OrientationEncoding in sidecars (BEP 16) -> frame."""


def frame_of(given: Given) -> str:
    """Frame of the vectors of a file: by its sidecar, else FSL's for ``_V1``, else that of the scanner."""
    encoding = given.sidecar.get('OrientationEncoding')
    reference = encoding.get('Reference') if isinstance(encoding, dict) else None
    if reference is None:
        return 'fsl' if _stem(given).endswith('_v1') else 'scanner'
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
    if fa is None or given is None or frame == IGNORE:
        return None, ''
    try:
        return read_fibres(fa, given, grid, affine, frame)
    except UserError as error:
        if required or frame != AUTO:
            raise
        return None, f'there are directions of fibres, but they are not used: {error}'


def read_fibres(
    fa: Given, given: Given, grid: Grid, affine: np.ndarray, frame: str, *, is_checked: bool = True
) -> tuple[Carried, str]:
    """Fibres on the grid of the maps, and what to say of them; UserError where they cannot be used.

    Unless the caller does better, the frame is checked by the surfaces of white matter (``is_checked``).
    """
    read_in = frame_of(given) if frame == AUTO else frame
    anisotropy = fractions(fa)
    is_peaks = '_param-peaks_' in _stem(given)
    found = directions(given.stored, anisotropy, given.source, amplitudes=is_peaks)
    if is_checked:
        check_frame(found, anisotropy, given.affine, read_in, given.source)
    vectors = to_scanner(found, given.affine, read_in)
    carried = carry(vectors, anisotropy, given.affine, grid.shape, affine, given.from_maps)
    return carried, f'directions of {given.source}, read in the frame {read_in}'


def axes_of_file(given: Given, affine: np.ndarray, frame: str) -> np.ndarray:
    """Matrix (3, 3) that takes vectors of a file to the voxel axes of the maps, whose ``affine`` it is."""
    read_in = frame_of(given) if frame == AUTO else frame
    stored = to_scanner(np.eye(3, dtype=np.float32), given.affine, read_in).T
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
