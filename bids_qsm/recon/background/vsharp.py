"""Background field removal by spherical means of varying radius."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, is_numpy, like, to_numpy
from bids_qsm.recon.background.spheres import demeaned, fits, truncated_inverse
from bids_qsm.recon.fourier import Box, ball_weights, convolve, dipole_kernel, irfft, rfft, smv_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method


@method(memory=Need(padded=16.5), prose='V-SHARP [@vsharp]')
def vsharp(
    field: Array,
    mask: Array,
    grid: Grid,
    *,
    max_radius: float = 25.0,
    n_radii: int = 8,
    threshold: float = 0.05,
    restorations: int = 3,
):
    r"""Remove the background field by spherical means of varying radius (V-SHARP) [1]_ [2]_.

    .. math:: f_L = C^{-1}_{t} \, M_r (f - S_r * f)

    A field without sources in a sphere equals its mean over that sphere, so subtracting the mean leaves the
    effect of local sources. Each voxel uses the largest sphere that fits into the mask. The ``n_radii`` radii
    are in equal ratios from ``max_radius`` to one voxel; the rim, where not even the smallest sphere fits, is
    lost. The deconvolution :math:`C^{-1}_t` divides by :math:`1 - S` of the largest radius in use where this
    exceeds ``threshold``.

    The deconvolution is inexact where smaller spheres were used, and removes part of the slowly varying local
    field. Each of ``restorations`` (not in the papers; 0 for none) inverts the local field found so far by a
    closed-form (Tikhonov) division, subtracts the field of these sources from the total field before the next
    pass, and adds it after, so that the error is of a smaller field.

    The means over small spheres are sums over their voxels, those over large spheres are computed by FFT.
    With thick slices, spheres also need the adjacent voxels along each axis in the mask.

    Data and results as :mod:`bids_qsm.recon.background` has them.

    Parameters
    ----------
    max_radius : float
        Largest radius (mm).

    Returns
    -------
    local : array of float32
    mask : array of bool
        ``mask`` less its rim.

    Raises
    ------
    UserError
        Where the mask is too thin for the smallest sphere.

    References
    ----------
    .. [1] Wu et al. (2012), MRM 67:137. doi:10.1002/mrm.23000
    .. [2] Li et al. (2011), NeuroImage 55:1645. doi:10.1016/j.neuroimage.2010.11.088
    """
    shape = to_numpy(mask)
    box = Box.around(shape, grid, padding=max_radius)
    inside = box.crop(shape)
    # spheres stay in the mask, except for voxels cut by their surface, so that means need no padding
    tight = Box.around(inside, replace(grid, shape=box.shape), padding=4 * max(grid.voxel_size))
    step = min(grid.voxel_size)
    radii = np.geomspace(max(max_radius, step), step, n_radii)
    radius_of = fits(tight.crop(inside), grid, radii)
    counts = np.bincount(radius_of.ravel(), minlength=n_radii + 1)
    used = np.flatnonzero(counts[1:]) + 1
    unsharpen = truncated_inverse(box.shape, grid, radii[used[0] - 1], threshold)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    invert = like(dipole / (dipole**2 + TIKHONOV), field)
    unsharpen, dipole, radius_of = (like(a, field) for a in (unsharpen, dipole, radius_of))
    # used by all passes
    means = [_mean(n, radii[n - 1], counts[n], radius_of, grid) for n in used]

    kept = tight.uncrop(radius_of > 0)
    within = tight.crop(like(inside, field))
    total = demeaned(tight.crop(box.crop(field)), within)
    local = _local(total, means, unsharpen, tight)
    local *= kept
    for _ in range(restorations):
        sources = convolve(local, invert)
        sources *= kept
        known = tight.crop(convolve(sources, dipole))
        known *= within
        local = _local(total - known, means, unsharpen, tight)
        local += tight.uncrop(known)
        local *= kept
    return box.uncrop(local), box.uncrop(kept)


TIKHONOV = np.float32(0.003)
"""Of the inversion between two passes: most of a source is found where the dipole exceeds .05."""


CHEAP = 12
"""Voxels to sum, over voxels of the box, in the time of a transform."""


def _local(field: Array, means: Sequence[Callable], unsharpen: Array, tight: Box):
    """One pass: each voxel less its mean over the sphere that fits there, deconvolved."""
    spectrum = rfft(field)
    out = 0 * field
    for subtract in means:
        subtract(field, spectrum, out)
    return convolve(tight.uncrop(out), unsharpen)


def _mean(number: int, radius: float, count: int, radius_of: Array, grid: Grid):
    """Function that subtracts the mean over spheres of ``radius`` where these are the largest to fit."""
    shape = radius_of.shape
    ball = ball_weights(grid.voxel_size, radius)
    where = np.argwhere(ball)
    if is_numpy(radius_of) and count * len(where) < CHEAP * radius_of.size:
        # few voxels and a small sphere: faster than a transform of the box
        offsets, weights = where - np.array(ball.shape) // 2, ball[ball != 0]
        return lambda field, _, out: _subtract_near(field, radius_of, number, offsets, weights, out)
    kernel = like(smv_kernel(shape, grid.voxel_size, radius), radius_of)
    return lambda field, spectrum, out: _subtract(
        field, irfft(spectrum * kernel, shape), radius_of, number, out
    )


@numba.njit(cache=True, parallel=True, fastmath=True)
def _subtract_near(field: Array, radius_of: Array, number: int, offsets: Array, weights: Array, out: Array):
    """``field`` less the weighted sum at ``offsets`` into ``out`` where ``radius_of`` is ``number``."""
    nx, ny, nz = field.shape
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                if radius_of[i, j, k] == number:
                    mean = np.float32(0)
                    for t in range(weights.size):
                        x, y, z = i + offsets[t, 0], j + offsets[t, 1], k + offsets[t, 2]
                        mean += weights[t] * field[np.uint64(x), np.uint64(y), np.uint64(z)]
                    out[i, j, k] = field[i, j, k] - mean


@numba.njit(cache=True, parallel=True)
def _subtract_compiled(field: Array, mean: Array, radius_of: Array, number: int, out: Array):
    """``field - mean`` into ``out`` where ``radius_of`` is ``number``."""
    nx, ny, nz = field.shape
    for i in numba.prange(nx):
        for j in range(ny):
            for k in range(nz):
                if radius_of[i, j, k] == number:
                    out[i, j, k] = field[i, j, k] - mean[i, j, k]


def _subtract_any(field: Array, mean: Array, radius_of: Array, number: int, out: Array):
    out += (field - mean) * (radius_of == number)


_subtract = either(_subtract_compiled, _subtract_any)
