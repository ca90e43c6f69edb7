"""Susceptibility without what fibres add to the field, and how both depend on the angle of fibres to B0."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.fibres import Carried, size_of
from bids_qsm.biomarkers.positions import axes_of, slow_error_of
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.fibres import BETTER, FibreFit, FibreModel, fibre_fields
from bids_qsm.recon.orientations.tensor import turned

FULL = 0.3
"""Anisotropy from which on a voxel is taken to be white matter alone: that of a fractional one of .47, which
is some mean of white matter."""
BLUR_MM = 1.0
"""Blur (mm) of the squares of anisotropy that tell the share of white matter."""
NOISE = 0.06
"""Anisotropy (root of the mean square) that noise makes of none, with 30 directions and a signal of 20 times
the noise; it is taken off in squares, as noise adds up."""
WHITE_FA = 0.3
"""Fractional anisotropy of the voxels whose susceptibility is shown by angle."""
CLEAR = 20.0
"""Evidence (logarithm of a Bayes factor) from which on the field tells which axes the vectors are in."""
BINS = np.arange(0, 91, 10)
"""Edges of the classes of angles (degrees)."""


@dataclass(frozen=True)
class WithoutFibres:
    """Susceptibility without what fibres add.

    Attributes
    ----------
    chi : ndarray of float32
        Susceptibility (ppm), 0 outside the mask, with the mean of that which was given: the zero of the map
        changes with white matter.
    field : ndarray of float32
        What was taken off the local field (ppm).
    fit : FibreFit
    """

    chi: np.ndarray
    field: np.ndarray
    fit: FibreFit


def tensor_on(fibres: Carried, mask: np.ndarray, affine: np.ndarray, grid: Grid):
    """Tensor of fibres along the voxel axes (6, x, y, z), and the share of white matter (x, y, z).

    Both are 0 outside the mask. White matter where bundles cross has less anisotropy than elsewhere, and not
    less myelin: its share grows with the anisotropy up to `FULL` alone. That of noise is taken off.
    """
    tensor = turned(fibres.tensor, axes_of(affine).T.astype(np.float32)) * mask
    sigma = [BLUR_MM / step for step in grid.voxel_size]
    squares = ndimage.gaussian_filter(size_of(tensor) ** 2, sigma) - np.float32(NOISE**2)
    share = np.minimum(np.sqrt(np.maximum(squares, 0)) / np.float32(FULL), 1) * mask
    return tensor, share.astype(np.float32)


def better_axes(model: FibreModel, tensor: np.ndarray, fit: FibreFit, axes: np.ndarray):
    """The turn (3, 3) of the vectors of a file that the field proves better than none; None if none is.

    Proof is an evidence that exceeds that of the vectors as they are by `BETTER`, and by `CLEAR` / 2 at
    least. ``axes`` is that of `FibreModel.frames`.
    """
    matrix, best = max(model.frames(tensor, axes), key=lambda pair: pair[1].evidence)
    more = best.evidence - fit.evidence
    return matrix if more > max(CLEAR / 2, BETTER * best.evidence) else None


def without_fibres(
    chi: np.ndarray,
    field: np.ndarray,
    mask: np.ndarray,
    tensor: np.ndarray,
    share: np.ndarray,
    fit: FibreFit,
    r2star: np.ndarray | None,
    grid: Grid,
    *,
    invert: Callable[[np.ndarray], np.ndarray],
):
    """Take what fibres add off the local field, and invert it.

    The change that ``invert`` shows is added to ``chi``, so that all that was done to that stays. Then what
    varies slowly at equal R2* is taken off the change, as it is off each map.

    Parameters
    ----------
    chi, field : ndarray
        Susceptibility and local field (ppm).
    mask : ndarray of bool
    tensor, share : ndarray, (6, x, y, z) and (x, y, z)
        See `tensor_on`.
    fit : FibreFit
    r2star : ndarray, optional
        R2* (1/s); without it nothing is taken off the change.
    grid : Grid
    invert : callable
        Local field to susceptibility (ppm).

    Returns
    -------
    WithoutFibres
    """
    added = np.tensordot(fit.values.astype(np.float32), fibre_fields(tensor, share, grid), 1) * mask
    change = (invert(field - added) - invert(field)) * mask
    change -= slow_error_of(change, mask, r2star, grid, np.array(grid.b0_dir))
    return WithoutFibres(np.where(mask, chi + change - change[mask].mean(), 0), added, fit)


def by_angle(maps: dict[str, np.ndarray], cosine: np.ndarray, white: np.ndarray):
    """Mean susceptibility of white matter by the angle of its fibres to B0.

    Parameters
    ----------
    maps : dict of str to ndarray
        Column -> susceptibility (ppm).
    cosine : ndarray
        Squared cosine of the angle.
    white : ndarray of bool

    Returns
    -------
    DataFrame
        One row for each class of `BINS`: angle_deg (its middle), n_voxels, share, and for each map its mean
        and ``<map>_sd``.
    """
    angle = np.degrees(np.arccos(np.sqrt(np.clip(cosine[white], 0, 1))))
    place = np.clip(np.digitize(angle, BINS) - 1, 0, len(BINS) - 2)
    rows = []
    for n, middle in enumerate((BINS[1:] + BINS[:-1]) / 2):
        row = {'angle_deg': middle, 'n_voxels': int((place == n).sum())}
        row['share'] = row['n_voxels'] / max(len(place), 1)
        for name, data in maps.items():
            values = data[white][place == n]
            row[name] = float(values.mean()) if values.size else np.nan
            row[f'{name}_sd'] = float(values.std()) if values.size else np.nan
        rows.append(row)
    return pd.DataFrame(rows).round(6)
