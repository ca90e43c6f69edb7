"""Size of veins by the moment of their susceptibility, and the share of each voxel that they fill."""

from collections.abc import Sequence

import numba
import numpy as np
from scipy import ndimage

from bids_qsm.recon.distance import depth, depth_in_slab
from bids_qsm.recon.grid import Grid

ASSUMED_CHI = 0.50
"""Susceptibility (ppm) of venous blood above tissue where no vein of a head is wide enough to measure it.

4 pi 0.27 ppm of red cells without oxygen (Spees et al. (2001), MRM 45:533. doi:10.1002/mrm.1072), times a
hematocrit of 0.40, times 1 less an oxygenation of 0.63.
"""
ASSUMED_SD = 0.125
"""Standard deviation (ppm) of `ASSUMED_CHI` over people and veins: a quarter of `POSSIBLE_CHI`."""
POSSIBLE_CHI = (0.25, 0.75)
"""Venous blood (ppm) from a hematocrit of 0.30 with an oxygenation of 0.75 to 0.50 with 0.55."""
SCALE_ERROR = 0.05
"""Relative error of susceptibility maps in wide veins, which is the same in all voxels."""
BLURRED = 8
"""Voxels that share the noise of one: reconstruction blurs over two voxels along each axis."""
INNER = 1.5
"""Depth (voxels) in a vein from which a voxel is blood alone: its neighbours on either side are vein too.
From 1.2 voxels, a third of the voxels of thin veins of the cortex are tissue."""
NOT_LESS = 0.8
"""Share of the contrast of the strongest voxels that blood in wide veins has at least: no vein has more."""
WIDE_RADIUS = 1.4
"""Radius (voxels) of the mask of a vein from which the contrast on its axis is that of its own blood."""
RIM_MM = 4.0
"""Depth (mm) in the mask of the maps from which susceptibility is reliable in wide veins."""


def blood_susceptibility(
    contrast: np.ndarray, mask: np.ndarray, within: np.ndarray, grid: Grid, *, least: int = 10
):
    r"""Susceptibility (ppm) of blood above tissue, in the middle of the widest veins.

    The median m over voxels that lie deep in veins (`INNER`) and not at the rim of the maps (`RIM_MM`), of
    those that reach half of their 90th percentile, drawn to `ASSUMED_CHI` by their uncertainties:

    .. math:: \chi = \frac{m / s^2 + \chi_0 / s_0^2}{1 / s^2 + 1 / s_0^2}, \quad
        s^2 = \frac{\mathrm{var}}{n / 8} + (0.05 \, m)^2

    with :math:`s_0` of `ASSUMED_SD`. Where there are fewer than ``least`` of these voxels, m is not possible
    for venous blood (`POSSIBLE_CHI`), or thinner veins have clearly more (`NOT_LESS` of the 95th percentile
    of the mask), it is `ASSUMED_CHI`, or that percentile if it is higher and possible.

    Parameters
    ----------
    contrast : ndarray of float32, 3D
        Susceptibility above that of the tissue around (ppm).
    mask, within : ndarray of bool
        Of the veins, and of the maps.
    grid : Grid

    Returns
    -------
    chi : float
    source : str
        'measured' or 'assumed'.
    """
    side = grid.voxel_volume ** (1 / 3)
    deep = mask & (depth(mask, grid.voxel_size, 2 * max(grid.voxel_size)) >= INNER * side)
    # the end of a slab is no rim
    deep &= depth_in_slab(ndimage.binary_fill_holes(within), grid.voxel_size, RIM_MM + 1) > RIM_MM
    values = contrast[deep]
    if len(values):
        values = values[values >= np.quantile(values, 0.9) / 2]
    highest = float(np.quantile(contrast[mask], 0.95))
    middle = float(np.median(values)) if len(values) >= least else 0.0
    low, high = POSSIBLE_CHI
    if not low <= middle <= high or middle < NOT_LESS * highest:
        return min(max(ASSUMED_CHI, highest), high), 'assumed'
    variance = np.var(values) * BLURRED / len(values) + (SCALE_ERROR * middle) ** 2
    share = ASSUMED_SD**2 / (ASSUMED_SD**2 + variance)
    return float(share * middle + (1 - share) * ASSUMED_CHI), 'measured'


def sections(
    contrast: np.ndarray,
    line: np.ndarray,
    order: np.ndarray,
    distance: np.ndarray,
    lines: Sequence[np.ndarray],
    reach: Sequence[np.ndarray],
    voxel_volume: float,
    *,
    window_mm: float = 3.0,
):
    r"""Moment of each centreline point: contrast integrated over the section (unit of the contrast x mm^2).

    .. math:: M = \frac{\sum_v (c_v - b) V}{\Delta l}

    over the voxels v (of volume V) that are nearest to the points within a Gaussian window of the line, where
    b is the median in the shell beyond ``reach``, smoothed along the line. Inversion and the blur of voxels
    spread the contrast of a vein but hardly change its integral.

    Parameters
    ----------
    contrast : ndarray, shape (n,)
        Of voxels around the lines.
    line, order : ndarray of int, shape (n,)
        Nearest line and point, see `veins_graph.nearest`; -1 where there is none.
    distance : ndarray, shape (n,)
        To that point (mm).
    lines : list of ndarray, shape (m, 3)
        Points (mm), evenly spaced along each line.
    reach : list of ndarray, shape (m,)
        Distance (mm) within which voxels belong to the vein.

    Returns
    -------
    list of ndarray, shape (m,)
    """
    moments = []
    for n, points in enumerate(lines):
        mine = line == n
        at, away, value = order[mine], distance[mine], contrast[mine].astype(float)
        wide = reach[n][at]
        inside, shell = away <= wide, away > wide
        count = len(points)
        step = max(np.linalg.norm(np.diff(points, axis=0), axis=1).sum() / max(count - 1, 1), 1e-3)
        width = window_mm / step

        def smooth(values: np.ndarray, width: float = width):
            return ndimage.gaussian_filter1d(values, width, mode='constant', truncate=3.0)

        floor = np.median(value[shell]) if shell.any() else 0.0
        spread = 1.4826 * np.median(np.abs(value[shell] - floor)) if shell.any() else 0.0
        # other veins in the shell are no background
        calm = shell & (np.abs(value - floor) <= 2.5 * spread)
        weight = np.bincount(at[calm], minlength=count).astype(float)
        total = np.bincount(at[calm], value[calm], minlength=count)
        level = (smooth(total) + floor * 1e-3) / (smooth(weight) + 1e-3)
        mass = np.bincount(at[inside], (value - level[at])[inside], minlength=count) * voxel_volume
        length = smooth(np.full(count, step))
        moments.append(smooth(mass) / np.maximum(length, 1e-6))
    return moments


def core_contrasts(
    contrast: np.ndarray,
    line: np.ndarray,
    order: np.ndarray,
    distance: np.ndarray,
    lines: Sequence[np.ndarray],
    side: float,
):
    """Mean contrast within ``side`` of the axis, smoothed along it; arguments as of `sections`."""
    found = []
    for n, points in enumerate(lines):
        mine = (line == n) & (distance <= side)
        sums = np.bincount(order[mine], contrast[mine], minlength=len(points))
        count = np.bincount(order[mine], minlength=len(points)).astype(float)
        sums, count = (ndimage.gaussian_filter1d(v, 3.0, mode='nearest') for v in (sums, count))
        found.append(sums / np.maximum(count, 1e-6))
    return found


@numba.njit(cache=True, parallel=True)
def filled_shares(
    places: np.ndarray,
    points: np.ndarray,
    along: np.ndarray,
    radius: np.ndarray,
    ends: np.ndarray,
    sides: np.ndarray,
):
    """Share of each voxel that lies in a straight tube through the point of a centreline next to it.

    Parameters
    ----------
    places, points, along : ndarray, shape (n, 3)
        Middle of the voxel (mm), the nearest point of a centreline (mm) and its unit tangent.
    radius : ndarray, shape (n,)
        Of the tube (mm).
    ends : ndarray of int, shape (n,)
        -1 or 1 where the point is the first or last of a line, beyond which there is no tube, else 0.
    sides : ndarray, shape (3,)
        Of the voxels (mm).

    Returns
    -------
    ndarray of float32, shape (n,)
    """
    parts = 5
    out = np.zeros(len(places), np.float32)
    for n in numba.prange(len(places)):
        count = 0
        for a in range(parts):
            x = places[n, 0] + ((a + 0.5) / parts - 0.5) * sides[0] - points[n, 0]
            for b in range(parts):
                y = places[n, 1] + ((b + 0.5) / parts - 0.5) * sides[1] - points[n, 1]
                for c in range(parts):
                    z = places[n, 2] + ((c + 0.5) / parts - 0.5) * sides[2] - points[n, 2]
                    forward = x * along[n, 0] + y * along[n, 1] + z * along[n, 2]
                    if ends[n] * forward > radius[n]:
                        continue
                    count += x * x + y * y + z * z - forward * forward <= radius[n] ** 2
        out[n] = count / parts**3
    return out
