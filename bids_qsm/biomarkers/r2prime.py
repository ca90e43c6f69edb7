"""R2 of another acquisition on the grid of the maps, and R2' = R2* - R2 of voxels made alike."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bids_qsm.anatomy.transform import resample, transform_points
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.masking.morphology import spread_out
from bids_qsm.recon.point_spread import WIDTH, excess_spread, smooth_rate


class Placed(NamedTuple):
    """R2 and its variance on the grid of the maps, and where it is known (bool).

    ``spread`` is the covariance (mm^2) of the smoothing that gives the maps the voxels of its acquisition.
    """

    rate: Array
    variance: Array
    known: Array
    spread: Array


def place_rate(
    rate: Array,
    variance: Array,
    known: Array,
    own_affine: Array,
    shape: tuple[int, ...],
    affine: Array,
    from_maps: list,
) -> Placed:
    """Bring a map of rates onto the grid of the maps, with the point spread of whichever is the coarser.

    Along directions in which the grid of the maps is coarser, the rate is smoothed before. It is interpolated
    by cubic splines, which keep its point spread, and its variance linearly. Neighbours of one grid share
    noise on the other, which is not told by the variance.

    Parameters
    ----------
    rate, variance : ndarray of float32, shape of the other acquisition
        Rates (1/s), and the variance of their noise.
    known : ndarray of bool
        Where they are known.
    own_affine, affine : ndarray (4, 4)
        Voxel to scanner coordinates of the acquisition and of the maps (RAS, mm).
    shape : tuple of int
        Of the maps.
    from_maps : list
        Rigid transforms that take points of the maps to points of the acquisition, first to last.
    """
    corners = transform_points(np.vstack([np.zeros(3), np.eye(3)]), from_maps)
    turn = (corners[1:] - corners[0]).T
    own_axes, axes = own_affine[:3, :3], affine[:3, :3]
    weight = known.astype(np.float32)
    rate, variance = smooth_rate(rate, variance, weight, own_axes, excess_spread(own_axes, turn @ axes))
    # beyond what is known lies more of the same, so that splines do not ring there
    rate, variance = spread_out(rate, known), spread_out(variance, known)
    onto = own_affine, shape, affine, from_maps
    there = resample(weight, *onto) > 0.99
    placed = resample(rate, *onto, order=3)
    found = resample(variance, *onto)
    spread = excess_spread(axes, np.linalg.inv(turn) @ own_axes)
    return Placed(np.where(there, np.maximum(placed, 0), 0), np.where(there, found, 0), there, spread)


def place_field(
    b1: Array, own_affine: Array, shape: tuple[int, ...], affine: Array, transforms: list
) -> Array:
    """Bring a smooth transmit field onto another grid; beyond what is known it is that of the nearest voxel.

    Parameters
    ----------
    b1 : ndarray of float, 3D
        Relative transmit field; 0 where it is not known.
    own_affine, affine : ndarray (4, 4)
        Voxel to scanner coordinates of it and of the other grid (RAS, mm).
    shape : tuple of int
        Of the other grid.
    transforms : list
        From points of the other grid to those of the field, first to last.
    """
    placed = resample(spread_out(b1, b1 > 0), own_affine, shape, affine, transforms)
    return spread_out(placed, placed > 0)


def reversible_rate(
    r2star: Array, variance: Array, signal: Array, mask: Array, r2: Placed, affine: Array
) -> tuple[Array, Array]:
    r"""Reversible relaxation and its standard deviation, from voxels of one point spread.

    .. math:: R_2' = \overline{R_2^*} - R_2, \quad
        \sigma^2 = \operatorname{var} \overline{R_2^*} + \operatorname{var} R_2

    Differences of point spread would show as edges. R2' may be negative where noise is larger than it: means
    of regions need its sign.

    Parameters
    ----------
    r2star, variance : ndarray of float32, shape (x, y, z)
        Effective relaxation (1/s), and the variance of its noise; not known where R2* is not above 0, as in
        holes of maps.
    signal : ndarray of float32, shape (x, y, z)
        Of the gradient echo, any unit.
    mask : ndarray of bool, shape (x, y, z)
        Brain.
    r2 : Placed
    affine : ndarray (4, 4)
        Of the maps.

    Returns
    -------
    r2prime, sd : ndarray of float32, shape (x, y, z)
        (1/s); 0 where R2* or R2 is not known.
    """
    known = mask & np.isfinite(r2star) & (r2star > 0) & np.isfinite(variance)
    weight = np.where(known, np.maximum(signal, 0), 0).astype(np.float32)
    r2star, variance = np.where(known, r2star, 0), np.where(known, variance, 0)
    alike, noise = smooth_rate(r2star, variance, weight, affine[:3, :3], r2.spread)
    there = r2.known & (weight > 0)
    sd = np.sqrt(noise + r2.variance)
    away = alike - r2.rate
    return np.where(there, away, 0).astype(np.float32), np.where(there, sd, 0).astype(np.float32)


def widths(spread: Array) -> Sequence[float]:
    """Full widths at half maximum (mm) of a smoothing, largest first."""
    return (np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 0)) / WIDTH)[::-1].tolist()
