"""Maps that another tool made: where they hold, what their noise is, and what aligns them."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.background.vsharp import vsharp
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.direct import tkd
from bids_qsm.recon.noise import noise_level

LEAST_NOISE = 1e-3
"""Least noise of a field, as a share of its standard deviation: maps that were smoothed show less."""


def where_given(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Mask of where a map has values: finite and not 0, holes filled, inside ``mask`` where there is one.

    >>> where_given(np.array([[[0.0, 2.0, np.nan]]]), None).tolist()
    [[[False, True, False]]]
    """
    found = ndimage.binary_fill_holes(np.isfinite(values) & (values != 0))
    return found if mask is None else found & mask


def field_noise(field: np.ndarray, mask: np.ndarray, magnitude: np.ndarray | None) -> np.ndarray:
    """Standard deviation (units of ``field``) of the noise of a field map, from its finest detail.

    It is inversely proportional to ``magnitude``, at most ten times its median; without one it is the same
    everywhere.
    """
    level = max(noise_level(field[..., None], mask), LEAST_NOISE * float(field[mask].std()))
    noise = np.full(field.shape, level, np.float32)
    if magnitude is None:
        return noise
    share = magnitude / max(float(np.median(magnitude[mask])), 1e-30)
    return noise / np.maximum(share, 0.1).astype(np.float32)


def contrast(values: np.ndarray, mask: np.ndarray, grid: Grid, *, kind: str) -> np.ndarray:
    """An image of positive values, 0 outside the mask, by which a map can be aligned with a T1w image.

    A field has little anatomical contrast: it is inverted by truncated k-space division first, a total field
    after V-SHARP. Values are cut at the 2nd and 98th percentile; the brain stands out from what is around it.

    Parameters
    ----------
    values : ndarray of float32, shape ``grid.shape``
        Susceptibility or field (ppm), or R2* (1/s).
    mask : ndarray of bool
    kind : str
        'chi', 'local_field', 'field' or 'r2star'.

    Returns
    -------
    ndarray of float32
        1 to 2 in the mask.
    """
    inside = mask
    if kind == 'field':
        values, inside = vsharp(np.where(mask, values, 0), mask, grid)
    if kind in ('field', 'local_field'):
        values = tkd(np.where(inside, values, 0), inside, grid)
    low, high = np.percentile(values[inside], (2, 98))
    return np.where(mask, 1 + np.clip((values - low) / max(high - low, 1e-12), 0, 1), 0).astype(np.float32)
