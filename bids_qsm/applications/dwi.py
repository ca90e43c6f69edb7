"""Fibres from diffusion derivatives: which files applications read, and how these become angles."""

import numpy as np

from bids_qsm.anatomy.fibres import FRAMES, Carried, carry, check_frame, directions, to_scanner
from bids_qsm.applications.contract import Given, Query
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
_REFERENCES = {'xyz': 'scanner', 'ijk': 'voxel', 'bvec': 'fsl'}
"""Key Reference of OrientationEncoding in sidecars (BEP 16) -> frame."""


def frame_of(given: Given) -> str:
    """Frame of the vectors of a file: by its sidecar, else FSL's for ``_V1``, else that of the scanner."""
    encoding = given.sidecar.get('OrientationEncoding')
    reference = encoding.get('Reference') if isinstance(encoding, dict) else None
    if reference is None:
        return 'fsl' if _stem(given).endswith('_V1') else 'scanner'
    if reference not in _REFERENCES:
        raise UserError(
            f'the sidecar of {given.source} has the Reference {reference!r} of OrientationEncoding; it must '
            f'be one of {", ".join(_REFERENCES)}.'
        )
    return _REFERENCES[reference]


def check_stated(frame: object, flag: str):
    """Raise UserError where a frame that the user stated is none."""
    if frame not in (None, 'none', *FRAMES):
        raise UserError(
            f'{flag}:frame is {frame!r}; it must be one of: {", ".join(FRAMES)}, or none to leave fibres out.'
        )


def fibres_on(
    fa: Given | None,
    given: Given | None,
    grid: Grid,
    affine: np.ndarray,
    frame: str | None,
    *,
    is_checked: bool = True,
) -> tuple[Carried, str] | None:
    """Fibres on the grid of the maps and the frame that they were read in; None where there are none.

    ``frame`` is what the user stated, 'none' to leave fibres out. Unless the caller does better, it is
    checked by the surfaces of white matter (``is_checked``).
    """
    if fa is None or given is None or frame == 'none':
        return None
    frame = frame or frame_of(given)
    anisotropy = fa.data.astype(np.float32)
    found = directions(given.stored, anisotropy, given.source, amplitudes='_param-peaks_' in given.source)
    if is_checked:
        check_frame(found, anisotropy, given.affine, frame, given.source)
    vectors = to_scanner(found, given.affine, frame)
    return carry(vectors, anisotropy, given.affine, grid.shape, affine, given.from_maps), frame


def b0_axis(grid: Grid, affine: np.ndarray) -> np.ndarray:
    """Direction of B0 in the coordinates of the affine."""
    matrix = np.asarray(affine, float)[:3, :3]
    return matrix / np.sqrt((matrix**2).sum(0)) @ np.array(grid.b0_dir)


def _stem(given: Given) -> str:
    return given.source.partition('.')[0]
