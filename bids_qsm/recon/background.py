"""Removal of the field whose sources lie outside the mask: total field to local field."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel, irfft, rfft, smv_kernel
from bids_qsm.recon.grid import Grid


def vsharp(
    field,
    mask,
    grid: Grid,
    *,
    max_radius: float = 25.0,
    n_radii: int = 8,
    threshold: float = 0.05,
    restorations: int = 3,
):
    r"""Remove the background field by spherical means of varying radius (V-SHARP) [1]_ [2]_.

    .. math:: f_L = C^{-1}_{t} \, M_r (f - S_r * f)

    A field without sources in a sphere equals its mean over that sphere, so subtracting the mean leaves what
    the local sources make of it. Each voxel uses the largest sphere that stays inside the mask; ``n_radii``
    radii run in equal ratios from ``max_radius`` to one voxel, and the rim thinner than the smallest sphere
    is lost. The deconvolution :math:`C^{-1}_t` divides by :math:`1 - S` of the largest radius in use where it
    exceeds ``threshold``.

    That deconvolution is inexact where smaller spheres were used, and takes part of the slowly varying local
    field with it. Beyond the published method, each of ``restorations`` inverts the local field found so far
    by a closed-form (Tikhonov) division, takes the field of those sources within the mask off the total field
    before the next pass, and puts it back after: what is left for the spheres to spoil is smaller. 0 is the
    published method.

    Parameters
    ----------
    field : ndarray of float32, shape ``grid.shape``
        Total field (ppm).
    mask : ndarray of bool
        Where it can be trusted.
    max_radius : float
        Largest radius (mm).

    Returns
    -------
    local : ndarray of float32
        Local field (ppm), 0 outside the mask returned.
    mask : ndarray of bool
        Where it is given: ``mask`` less the rim.

    Raises
    ------
    UserError
        Where the mask is too thin for the smallest sphere.

    References
    ----------
    .. [1] Wu et al. (2012), MRM 67:137. doi:10.1002/mrm.23000
    .. [2] Li et al. (2011), NeuroImage 55:1645. doi:10.1016/j.neuroimage.2010.11.088
    """
    box = Box.around(mask, grid, padding=max_radius)
    step = min(grid.voxel_size)
    radii = np.geomspace(max(max_radius, step), step, n_radii)
    inside = box.crop(mask)
    # the voxel next to the sphere is cut by its surface, and reaches in by half a step
    distance = ndimage.distance_transform_edt(inside, sampling=grid.voxel_size).astype(np.float32)
    radius_of = np.zeros(box.shape, np.int8)
    for number, radius in enumerate(radii, 1):
        radius_of[(radius_of == 0) & (distance >= radius + step / 2)] = number
    del distance
    kept = radius_of > 0
    if not kept.any():
        raise UserError(
            f'The mask is empty after background removal: no part of it is thicker than {2 * step:.1f} mm; '
            'check the mask, or choose another with --mask.'
        )
    # made once and kept for all passes, largest first
    means = {
        number: smv_kernel(box.shape, grid.voxel_size, radius)
        for number, radius in enumerate(radii, 1)
        if (radius_of == number).any()
    }
    sharpen = 1 - next(iter(means.values()))
    unsharpen = np.where(sharpen > threshold, 1 / np.maximum(sharpen, threshold), 0).astype(np.float32)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)

    total = box.crop(field)
    total[inside] -= total[inside].mean()
    total[~inside] = 0
    local = _local(total, radius_of, means, unsharpen)
    for _ in range(restorations):
        sources = convolve(local, dipole / (dipole**2 + TIKHONOV))
        sources *= kept
        known = convolve(sources, dipole)
        known *= inside
        local = _local(total - known, radius_of, means, unsharpen)
        local += known
        local *= kept
    return box.uncrop(local), box.uncrop(kept)


TIKHONOV = np.float32(0.003)
"""Of the inversion that stands between two passes: most of a source is found where the dipole exceeds .05."""


def _local(field, radius_of, means, unsharpen):
    """One pass: each voxel less its mean over the sphere that its radius number names, deconvolved."""
    spectrum = rfft(field)
    out = np.zeros_like(field)
    for number, kernel in means.items():
        mean = irfft(spectrum * kernel, field.shape)
        where = radius_of == number
        out[where] = field[where] - mean[where]
    local = convolve(out, unsharpen)
    local *= radius_of > 0
    return local


BACKGROUND = {'vsharp': vsharp}
