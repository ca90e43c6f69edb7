"""What a method of the registry gives: two maps of sources, and what was assumed for them."""

from dataclasses import dataclass

import numpy as np

from bids_qsm.biomarkers.separation.closed import closed

FITS_WITHIN = 3.0
"""Standard deviations of noise that the model of a voxel may be off by."""


@dataclass(frozen=True)
class Sources:
    """Maps of sources (ppm), zero outside the mask, of a method that assumes relaxivities.

    Attributes
    ----------
    para, dia : ndarray of float32
        Paramagnetic (0 or more) and diamagnetic (0 or less) susceptibility.
    fits : ndarray of bool
        Where the two sources explain the relaxation of the voxel; for `decompose`, its susceptibility.
    para_change, dia_change : ndarray of float32
        What both would change by, were the assumed relaxivities higher by a tenth.
    relaxivity : tuple of float
        Paramagnetic and diamagnetic relaxivity that was assumed (1/s/ppm).
    """

    para: np.ndarray
    dia: np.ndarray
    fits: np.ndarray
    para_change: np.ndarray
    dia_change: np.ndarray
    relaxivity: tuple[float, float]


def consistent(
    para: np.ndarray,
    dia: np.ndarray,
    rate: np.ndarray,
    mask: np.ndarray,
    relaxivity: tuple[float, float],
    rate_noise: float,
    own: np.ndarray | float = 1.0,
    moved: tuple[np.ndarray, np.ndarray] | None = None,
):
    """`Sources` of a model of two relaxivities; ``rate`` is the relaxation (1/s) that they were fitted to.

    ``own`` is the factor on both relaxivities of each voxel.

    ``moved`` holds both sources with relaxivities that are higher by a tenth. Where it is not given, the
    change by another relaxivity is that of the two equations of a voxel at the sources that were found:
    less than it is where one source is zero.
    """
    first, second = (own * value for value in relaxivity)
    modelled = first * para - second * dia
    if moved is None:
        moved = closed(para + dia, modelled, 1.1 * first, 1.1 * second)
    fits = mask & (np.abs(modelled - rate) < FITS_WITHIN * rate_noise)
    para, dia, by_para, by_dia = (
        np.where(mask, one, 0).astype(np.float32) for one in (para, dia, moved[0] - para, moved[1] - dia)
    )
    return Sources(para, dia, fits, by_para, by_dia, relaxivity)


def laid(values: np.ndarray, mask: np.ndarray):
    """A volume (float32) with ``values`` in the voxels of ``mask``, and 0 elsewhere."""
    out = np.zeros(mask.shape, np.float32)
    out[mask] = values
    return out
