r"""Maps of iron and myelin from susceptibility and R2* of each voxel, with a smoothness prior.

With the lines of `bids_qsm.biomarkers.iron_myelin`, and :math:`h_{ij}` the distance of neighbours i and j,

.. math:: \min_x \sum_i |R^{-1/2} (y_i - z - A x_i)|^2 + |S^{-1/2} (x_i - x_0)|^2
    + \sum_{i \sim j} \frac{|T^{-1} (x_i - x_j)|^2}{h_{ij}}

All voxels have the same R, so that the eigenvectors of :math:`P = A^T R^{-1} A + S^{-1}` against
:math:`T^{-2}` part it into two screened Poisson equations.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from bids_qsm.biomarkers.iron_myelin import PRIOR_MEAN, PRIOR_SD, Constants, nonnegative
from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.grid import Grid

ROUGHNESS = np.array([4.0, 0.06])
"""Standard deviation of the difference of iron (mg/100 g) and of the myelin fraction 1 mm apart; of a greater
distance it grows with the root. Judgements: nuclei have edges of 10 mg/100 g, cortex one of .2 of myelin."""
MOST_SD = 3.0
"""Residual over its standard deviation up to which the model holds in a voxel."""
_WAVES = 24
"""Spatial frequencies along each axis over which the standard deviation is averaged."""


@dataclass(frozen=True)
class Maps:
    """Iron (mg/100 g) and myelin fraction, zero outside ``fits``."""

    iron: np.ndarray
    myelin: np.ndarray
    iron_sd: np.ndarray
    myelin_sd: np.ndarray
    fits: np.ndarray
    """Where susceptibility and R2* are as iron and myelin can make them (bool)."""


def iron_myelin_maps(
    values: np.ndarray, noise: np.ndarray, constants: Constants, mask: np.ndarray, grid: Grid
) -> Maps:
    r"""Map iron and myelin.

    Standard deviations count noise, by its response to each spatial frequency averaged over all, as far from
    the border of the mask, and the errors of the constants, as where contents are even.

    Parameters
    ----------
    values : ndarray, shape ``(K, *grid.shape)``
        Susceptibility (ppm) and R2* (1/s).
    noise : ndarray, shape (K,)
        Standard deviations of a voxel that neighbours do not share.
    constants : Constants
        Of the K quantities; an error that neighbours share is one of the zero.
    mask : ndarray of bool, shape ``grid.shape``
        Where both are known.
    """
    a, weight = constants.slopes, 1 / np.square(noise)
    information = (weight[:, None] * a).T
    precision = information @ a + np.diag(1 / np.square(PRIOR_SD))
    start = PRIOR_MEAN / np.square(PRIOR_SD)
    stiffness, vectors = eigh(precision, np.diag(1 / np.square(ROUGHNESS)))
    data = values[:, mask] - constants.mean[:, 0, None]
    right = vectors.T @ (information @ data + start[:, None])
    x = np.zeros_like(right)
    for one, part in enumerate(right):
        x[one] = _screened(part, stiffness[one], mask, grid)
    x = (vectors @ x).T
    gain = vectors @ np.diag(_response(stiffness, grid)) @ vectors.T
    cov = gain + _by_constants(x, data, constants, np.linalg.inv(precision), weight)
    x = nonnegative(x, cov)
    rest = data - a @ x.T
    of_constants = constants.sd[:, :1] ** 2 + constants.sd[:, 1:] ** 2 @ np.square(x).T
    fits = (np.abs(rest) <= MOST_SD * np.sqrt(np.square(noise)[:, None] + of_constants)).all(0)
    fits &= x[:, 1] <= 1  # a share, which signal loss at the edge of a mask takes for more
    there = mask.copy()
    there[mask] = fits

    def filled(one: np.ndarray) -> np.ndarray:
        volume = np.zeros(mask.shape, np.float32)
        volume[there] = one[fits]
        return volume

    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    return Maps(filled(x[:, 0]), filled(x[:, 1]), filled(sd[:, 0]), filled(sd[:, 1]), there)


def _screened(right: np.ndarray, stiffness: float, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Solve stiffness x + L x = right inside the mask, L the graph Laplacian of its voxels."""
    box = tuple(slice(np.flatnonzero(line)[0], np.flatnonzero(line)[-1] + 1) for line in _lines(mask))
    inside = mask[box]
    links = []
    for axis, h in enumerate(grid.voxel_size):
        low, high = (_shift(axis, part) for part in (slice(None, -1), slice(1, None)))
        links.append((low, high, (inside[low] & inside[high]).astype(np.float32) / np.float32(h)))

    def apply(x: np.ndarray) -> np.ndarray:
        out = np.float32(stiffness) * x
        for low, high, link in links:
            flow = link * (x[high] - x[low])
            out[low] -= flow
            out[high] += flow
        return out

    b = np.zeros(inside.shape, np.float32)
    b[inside] = right
    return conjugate_gradient(apply, b, tolerance=1e-4, max_iterations=200)[inside]


def _lines(mask: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]


def _shift(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if other == axis else slice(None) for other in range(3))


def _response(stiffness: np.ndarray, grid: Grid) -> np.ndarray:
    """Mean over spatial frequencies of 1 / (stiffness + Laplacian): variance of a voxel."""
    half = np.pi * (np.arange(_WAVES) + 0.5) / _WAVES
    waves = [4 * np.sin(half / 2) ** 2 / h for h in grid.voxel_size]
    laplacian = waves[0][:, None, None] + waves[1][:, None] + waves[2]
    return np.array([(1 / (one + laplacian)).mean() for one in stiffness])


def _by_constants(
    x: np.ndarray, data: np.ndarray, constants: Constants, given: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Covariance by errors of the constants, which are independent, as in `iron_myelin.posterior`."""
    rest = data - constants.slopes @ x.T
    cov = np.zeros((len(x), 2, 2))
    for k, sd in enumerate(constants.sd):
        gain = given @ constants.slopes[k] * weight[k]
        for place, change in enumerate((np.ones(len(x)), x[:, 0], x[:, 1])):
            moved = -np.outer(change, gain)
            if place:
                moved += np.outer(weight[k] * rest[k], given[:, place - 1])
            cov += sd[place] ** 2 * moved[:, :, None] * moved[:, None, :]
    return cov
