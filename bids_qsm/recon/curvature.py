"""The curvature that the phase offset of coils leaves in the field of a single echo."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.background.lbv import lbv
from bids_qsm.recon.grid import Grid

TISSUE = 0.003
"""Depth of the bowl (ppm) that the local field of tissue may have: .0024 to .0028 in simulated heads."""

CONDUCTIVITY = 2.0
"""Of fluid at 3 T (S/m): no head has more on average."""


def remove_curvature(field: Array, mask: Array, grid: Grid, echo_time: float):
    r"""Subtract the quadratic field that the phase at TE = 0 leaves where a single echo cannot tell it.

    .. math:: \nabla^2 \phi_0 = 2 \mu_0 \omega \sigma, \quad \min_c \sum_M |B(f) - c \, B(|r|^2 / 6)|

    In tissue of conductivity :math:`\sigma` the phase of transmission and reception has this Laplacian [1]_:
    700 rad/m^2 in white matter at 3 T, a bowl of 30 ppb in the local field of a brain at 20 ms. No removal of
    background takes it for background, as it is not harmonic. The field of tissue has hardly any such bowl
    (`TISSUE`), as the sum of its Laplacian over the brain is a flux through the rim; c is reduced by the
    share that may be tissue's. B is `lbv`; c is one value for the whole mask, by least absolute deviations,
    so that veins do not count. Differences in conductivity stay.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Total field of one echo (ppm).
    mask : ndarray of bool
    echo_time : float
        (s).

    Returns
    -------
    field : ndarray of float32
        Without the quadratic (ppm), whose mean over the mask is zero; 0 outside the mask. ``field`` itself
        where the mask has no inside or c is not plausible.
    curvature : float
        c (ppm/mm^2); 0 where the mask has no inside.
    plausible : bool
        Whether c is no more than a head full of fluid would have.

    References
    ----------
    .. [1] Katscher, Kim & Seo (2013), Comput Math Methods Med 2013:546562. doi:10.1155/2013/546562
    """
    if not ndimage.binary_erosion(mask).any():
        return field, 0.0, True
    square = np.zeros(grid.shape, np.float32)
    for axis, (n, step) in enumerate(zip(grid.shape, grid.voxel_size, strict=True)):
        line = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * step
        square += (line**2 / 6).reshape([-1 if a == axis else 1 for a in range(3)])
    square -= square[mask].mean(dtype=float)
    bowl, inside = lbv(square, mask, grid)
    local = lbv(field, mask, grid)[0][inside]
    bowl = -bowl[inside]
    # the weighted median of the ratio has the least absolute deviations
    ratio = local / np.maximum(bowl, np.finfo(np.float32).tiny)
    order = np.argsort(ratio)
    total = np.cumsum(bowl[order], dtype=float)
    curvature = -float(ratio[order][np.searchsorted(total, total[-1] / 2)])
    # the share that is expected to be of the offset
    curvature *= max(0.0, 1 - (TISSUE / max(abs(curvature) * bowl.max(), TISSUE)) ** 2)
    # of 2 mu0 omega sigma in ppm (per omega TE): B0 cancels, and so do millionths and mm^2 per m^2
    if abs(curvature) > 2 * 4e-7 * np.pi * CONDUCTIVITY / echo_time:
        return field, curvature, False
    return np.where(mask, field - np.float32(curvature) * square, 0).astype(np.float32), curvature, True
