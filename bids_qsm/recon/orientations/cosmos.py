"""Susceptibility from several head positions by least squares (COSMOS)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box, convolve, irfft, rfft
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.conditioning import GOOD
from bids_qsm.recon.orientations.operators import Scalar

PADDING = 40.0
"""Zeros (mm) around the brain, between the two ends of the circular convolution."""
MARGIN = 4.0
"""How far (mm) sources may lie outside the fields: voxels that the edge of the mask cuts hold some. Without
them the error of noise-free fields was 12 % in place of 1 %."""
SURROUNDINGS = 5.0
"""Standard deviation (mm) of the weights of voxels around one, in which residuals are compared with noise."""

FLOOR = 1e-3
"""Least root mean square of the kernel that the preconditioner divides by, where nothing is regularised."""
FREQUENCIES = 65
"""Along each axis, of `determined`."""
ALONE = 0.01
"""Sum of squared bands of other positions below which the first measures a frequency alone."""
SHELLS = (0.0, 1.0, 2.0, 3.5, 6.0, np.inf)
"""Depths in the mask (voxels) between which the noise of simulated solutions is compared."""


def cosmos(
    fields: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    noises: Sequence[np.ndarray],
    directions: Sequence[Sequence[float]] | np.ndarray,
    grid: Grid,
    *,
    slabs: Sequence[np.ndarray] | None = None,
    limit: float = GOOD,
    tolerance: float = 1e-3,
    max_iterations: int = 60,
):
    r"""Invert the dipole model of several head positions together (COSMOS) [1]_.

    .. math:: \min_\chi \sum_i \|W_i (B_i D_i \chi - f_i)\|^2
              + \|\sqrt{N \max(l^2 - \bar{D}^2, 0)}\, \hat\chi\|^2

    W is the median noise over the noise of a voxel, at most 1, and 0 outside the mask of the position. B is 1
    for the first position and what the slabs of that and of the first resolve for others, see `passband`;
    :math:`N(k) = \sum_i B_i^2` positions measure a frequency, and :math:`\bar{D}^2(k)` is the mean over them
    of the squared dipole kernel. Only spatial frequencies whose root mean square lies below the ``limit`` l
    are drawn to zero. Among those that all positions measure there are none if the conditioning is good, but
    for the mean. Where fewer measure one, l is no less than `GOOD` times the share of positions other than
    the first that do not, whatever the ``limit``: the first alone would leave its cone open. Sources lie
    where any position has a field, and up to `MARGIN` around it.

    Parameters
    ----------
    fields, masks, noises
        Local field (ppm), where it is known (bool) and its standard deviation (ppm), of each position, on one
        grid.
    directions : (N, 3)
        Unit vectors of B0 along the voxel axes of the grid.
    grid : Grid
        Of the reference position.
    slabs : sequence of (3, 3), optional
        In their columns the edges (mm) of a voxel of each position, along the axes of the grid: of those that
        the fields were resampled from, where these hold what is left by `passband` alone.
    limit : float
        Root mean square of the kernel below which a spatial frequency is regularised; with 0 none is that
        all positions measure.
    tolerance : float
        Of conjugate gradients, see `conjugate_gradient`.

    Returns
    -------
    chi : ndarray of float32
        Susceptibility (ppm), with mean 0 where more than half of the positions have a field, and 0 elsewhere.
    sd : ndarray of float32
        Its standard deviation (ppm): from the noise of the fields, with what the edge of the mask hides of
        the field of a source, and times ``excess`` where that is above 1.
    excess : ndarray of float32
        How much more than by their noise the fields of positions differ from that of one susceptibility, by
        registration, background, anisotropy: root mean square of residuals over noise, around each voxel.

    Raises
    ------
    ValueError
        The positions are not one for each field, or the fields have no noise.

    References
    ----------
    .. [1] Liu et al. (2009), MRM 61:196. doi:10.1002/mrm.21828
    """
    h = np.asarray(directions, float)
    if not len(h) == len(fields) == len(masks) == len(noises):
        raise ValueError(f'{len(h)} directions for {len(fields)} fields')
    shown, place = supports(masks, grid)
    box = Box.around(place, grid, padding=PADDING)
    operator = Scalar.of(box, grid, h, slabs)
    level = noise_of_all(noises, masks)
    weights = [box.crop(weight(noise, mask, level) ** 2) for noise, mask in zip(noises, masks, strict=True)]
    inside = box.crop(place)
    energy, penalty, inverse = _normal(operator, limit)

    def apply(x: np.ndarray):
        pairs = zip(weights, operator.forward(x), strict=True)
        return inside * (operator.adjoint([w * one for w, one in pairs]) + convolve(x, penalty))

    def precondition(r: np.ndarray):
        return inside * convolve(r, inverse)

    def solve(data: Sequence[np.ndarray]):
        right = inside * operator.adjoint([w * one for w, one in zip(weights, data, strict=True)])
        return conjugate_gradient(
            apply, right, tolerance=tolerance, max_iterations=max_iterations, precondition=precondition
        )

    data = [box.crop(one.astype(np.float32)) for one in fields]
    x = solve(data)
    chi = box.uncrop(x) * shown
    chi[shown] -= chi[shown].mean()
    # what positions see of a source, in all places together, against what they would see without a mask
    seen, whole = np.zeros(box.shape, np.float32), 0.0
    for w, kernel in zip(weights, operator.kernels, strict=True):
        square = irfft(kernel.astype(np.complex64), box.shape) ** 2
        whole += float(square.sum())
        seen += convolve(w, rfft(square).real)
    lost = np.sqrt(whole / np.maximum(box.uncrop(seen)[shown], 1e-3 * whole))
    sd, excess = np.zeros_like(chi), np.zeros_like(chi)
    sd[shown] = np.sqrt(np.mean(energy * inverse**2)) * level * lost
    # the rest, which is the edge of the mask, and the degrees of freedom are measured on noise alone
    rng = np.random.default_rng(0)
    noise = [
        np.where(w > 0, level / np.sqrt(np.maximum(w, 1e-12)), 0).astype(np.float32)
        * convolve(rng.standard_normal(box.shape, dtype=np.float32), band)
        for w, band in zip(weights, operator.bands, strict=True)
    ]
    of_noise = solve(noise)
    sd *= _edge(box.uncrop(of_noise), sd, shown, grid)
    misfits = [
        box.uncrop(_misfit(found, fitted, weights, operator, grid))
        for found, fitted in ((x, data), (of_noise, noise))
    ]
    excess[shown] = misfits[0][shown] / np.maximum(misfits[1][shown], 1e-9)
    sd *= np.maximum(excess, 1)
    return chi, sd, excess


def _normal(operator: Scalar, limit: float):
    """Sum of squared kernels over positions, what is added to it, and one over both, at each frequency."""
    all_of_them = len(operator.kernels)
    energy = sum(kernel**2 for kernel in operator.kernels)
    n = sum(band**2 for band in operator.bands)
    lacking = (all_of_them - n) / np.float32(max(all_of_them - 1, 1))
    least = np.maximum(np.float32(limit), np.float32(GOOD) * lacking)
    penalty = np.maximum(n * least**2 - energy, 0)
    # the mean has no field
    penalty[0, 0, 0] = all_of_them * GOOD**2
    return energy, penalty, 1 / np.maximum(energy + penalty, np.float32(all_of_them * FLOOR**2))


@dataclass(frozen=True)
class Determined:
    """What positions and their slabs determine of all spatial frequencies of the grid, but for the mean.

    ``regularised`` is the share of those that `cosmos` draws to zero, ``alone`` of those that the first
    position measures alone; ``noise_gain`` is the standard deviation of susceptibility over that of the field
    of one position.
    """

    regularised: float
    alone: float
    noise_gain: float


def determined(
    directions: Sequence[Sequence[float]] | np.ndarray,
    grid: Grid,
    *,
    slabs: Sequence[np.ndarray] | None = None,
    limit: float = GOOD,
):
    """`Determined` of arguments of `cosmos`, without the edge of the mask."""
    # all frequencies of the voxels, on a coarse grid of k-space without a plane of highest ones
    shape = (FREQUENCIES,) * 3
    box = Box(shape, tuple(slice(0, n) for n in shape), shape)
    operator = Scalar.of(box, Grid(shape, grid.voxel_size), np.asarray(directions, float), slabs)
    _, penalty, inverse = _normal(operator, limit)
    pairs = zip(operator.bands, operator.kernels, strict=True)
    power = sum((band * kernel) ** 2 for band, kernel in pairs)
    # the half of the spectrum that is left out counts too
    counts = np.full(penalty.shape, 2.0)
    counts[..., 0] = 1
    counts[0, 0, 0] = 0
    others = np.broadcast_to(sum(band**2 for band in operator.bands[1:]), penalty.shape)
    return Determined(
        float(np.average(penalty > 0, weights=counts)),
        float(np.average(others < ALONE, weights=counts)),
        float(np.sqrt(np.average(power * inverse**2, weights=counts))),
    )


def _edge(noise: np.ndarray, sd: np.ndarray, shown: np.ndarray, grid: Grid):
    """Factor on ``sd`` that the noise of a simulated solution asks for, by depth in voxels."""
    depth = ndimage.distance_transform_edt(
        shown, sampling=[v / min(grid.voxel_size) for v in grid.voxel_size]
    )
    factor = np.ones(shown.shape, np.float32)
    for low, high in pairwise(SHELLS):
        shell = shown & (depth > low) & (depth <= high)
        if shell.any():
            factor[shell] = np.sqrt(np.mean(np.square(noise[shell] / sd[shell]), dtype=float))
    return factor


def _misfit(
    x: np.ndarray,
    data: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    operator: Scalar,
    grid: Grid,
):
    """Root mean square of weighted residuals of the fields around each voxel."""
    total = np.zeros(x.shape, np.float32)
    for w, one, found in zip(weights, data, operator.forward(x), strict=True):
        total += w * (one - found) ** 2
    return np.sqrt(np.maximum(ndimage.gaussian_filter(total, [SURROUNDINGS / v for v in grid.voxel_size]), 0))


def noise_of_all(noises: Sequence[np.ndarray], masks: Sequence[np.ndarray]):
    """Median noise (ppm) within the masks of all positions; ValueError where it is 0."""
    level = float(np.median(np.concatenate([n[m] for n, m in zip(noises, masks, strict=True)])))
    if not level > 0:
        raise ValueError(f'the noise of the fields is {level:g}')
    return level


def supports(masks: Sequence[np.ndarray], grid: Grid):
    """Where more than half of the positions have a field, and up to `MARGIN` around any field (bool)."""
    union = np.any(masks, axis=0)
    return 2 * np.sum(masks, axis=0) > len(masks), ndimage.distance_transform_edt(
        ~union, sampling=grid.voxel_size
    ) <= MARGIN


def weight(noise: np.ndarray, mask: np.ndarray, level: float):
    """Weight of each voxel: ``level`` over its ``noise``, at most 1; 0 outside the mask."""
    return np.where(mask, np.minimum(level / np.maximum(noise, 1e-9), 1), 0).astype(np.float32)
