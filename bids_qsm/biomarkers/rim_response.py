"""What voxels and inversion leave of a thin rim: a synthetic one of the same shape goes through both."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.spatial import KDTree

from bids_qsm.biomarkers.rim_contrast import measure_edge
from bids_qsm.biomarkers.rim_profiles import N_DIRECTIONS, Frame
from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import call

THICKNESS_MM = 1.0
"""Thickness of the synthetic rim. Of a rim thinner than the voxel only thickness times susceptibility
shows."""
TYPICAL_PPM = 0.05
"""Susceptibility of the synthetic rim: inversions that suppress noise keep more of strong contrasts."""
MARGIN_MM = 10.0
"""Tissue around the lesion that goes through the inversion with it."""
SUBVOXELS = 3
IN_A_HEAD = ('ndi', 'rts', 'medi', 'medi0')
"""Inversions that keep less of a rim alone than of one in a head, or nothing: they stop by noise, which its
field lacks, smooth weak sources away, or take edges and fluid from a head."""


def rim_response(
    frame: Frame,
    positive: np.ndarray,
    grid: Grid,
    invert: Callable,
    params: Mapping[str, object],
    noise: float,
    radians_per_ppm: float,
):
    """Contrast that a rim of 1 ppm and `THICKNESS_MM` would show in this lesion, in ppm.

    The rim lies inside the edge of the lesion, in the directions ``positive``. It is drawn three times as
    fine as the voxels, averaged, turned into its field by the dipole, inverted in a box of `MARGIN_MM` around
    the lesion, and measured as the lesion was. The box holds no other tissue and no noise, and the inversion
    gets the noise of the series only as a number: nonlinear inversions behave a little differently in a whole
    head.

    Parameters
    ----------
    frame : Frame
    positive : ndarray of bool, shape (directions,)
    grid : Grid
        That of the maps.
    invert : callable
        An entry of `bids_qsm.recon.inversion.INVERSION` that is not one of `IN_A_HEAD`.
    params : dict
        Its parameters.
    noise : float
        Standard deviation (ppm) of the field.
    radians_per_ppm : float
        Phase (rad) of 1 ppm at the effective echo time.

    Returns
    -------
    float
        NaN where the directions cannot be measured.
    """
    steps = np.array(grid.voxel_size)
    inner = frame.points[frame.signed < 0]
    low = np.floor(inner.min(0) - MARGIN_MM / steps).astype(int)
    shape = tuple(np.ceil(inner.max(0) + MARGIN_MM / steps).astype(int) - low)
    chi = TYPICAL_PPM * _drawn(frame, positive, low, shape, steps)
    (h, v, w), (x, y, z) = grid.voxel_size, grid.b0_dir
    kernel = dipole_kernel(tuple(2 * n for n in shape), (h, v, w), (x, y, z))
    wide = np.zeros([2 * n for n in shape], np.float32)
    inside = tuple(slice(n) for n in shape)
    wide[inside] = chi
    data = {
        **dict.fromkeys(('field', 'total'), np.ascontiguousarray(convolve(wide, kernel)[inside])),
        'mask': np.ones(shape, bool),
        'noise': np.full(shape, noise, np.float32),
        'grid': Grid(shape, grid.voxel_size, grid.b0_dir),
        'radians_per_ppm': radians_per_ppm,
    }
    found = call(invert, data, dict(params))
    edge = measure_edge(frame, frame.sampled(found, -low), np.ones(N_DIRECTIONS, bool))
    contrast = edge.contrast[positive]
    return float(np.nanmean(contrast) / TYPICAL_PPM) if np.isfinite(contrast).any() else np.nan


def _drawn(frame: Frame, positive: np.ndarray, low: np.ndarray, shape: tuple[int, ...], steps: np.ndarray):
    """Share of rim of each voxel of a box that begins at the voxel ``low``."""
    tree = KDTree(frame.points * steps)
    total = np.zeros(shape, np.float32)
    shifts = (np.arange(SUBVOXELS) + 0.5) / SUBVOXELS - 0.5
    voxels = np.argwhere(np.ones(shape, bool)) + low
    near = tree.query(voxels * steps, distance_upper_bound=2 * steps.max())[0]
    voxels = voxels[np.isfinite(near)]
    at = tuple((voxels - low).T)
    for shift in np.stack(np.meshgrid(shifts, shifts, shifts), -1).reshape(-1, 3):
        _, nearest = tree.query((voxels + shift) * steps)
        away = frame.signed[nearest]
        rim = (away <= 0) & (away > -THICKNESS_MM) & positive[frame.direction[nearest]]
        total[at] += rim
    return total / SUBVOXELS**3


def field_noise(field: np.ndarray, tissue: np.ndarray):
    """Standard deviation (ppm) of the noise of a field, from its second differences in tissue.

    >>> field = np.random.default_rng(0).normal(0, 0.003, (20, 20, 20)) + 0.01 * np.arange(20)
    >>> round(field_noise(field, np.ones(field.shape, bool)), 3)
    0.003
    """
    bend = field[..., 2:] - 2 * field[..., 1:-1] + field[..., :-2]
    inner = tissue[..., 2:] & tissue[..., 1:-1] & tissue[..., :-2]
    if not inner.any():
        return float('nan')
    return float(1.4826 * np.median(np.abs(bend[inner] - np.median(bend[inner]))) / np.sqrt(6))
