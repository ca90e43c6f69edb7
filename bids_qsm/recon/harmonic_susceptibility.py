"""The part of susceptibility in the null space of the field, found by R2*."""

from itertools import product

import numpy as np

from bids_qsm.recon.arrays import Array, to_numpy
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid


def level(chi: Array, mask: Array, r2star: Array, grid: Grid, *, degree: int = 6, depth_mm: float = 3.0):
    r"""The smooth part of ``chi`` whose field is harmonic in the mask, found by R2*.

    .. math:: (\nabla^2 / 3 - (b \cdot \nabla)^2) \, \delta = 0, \quad
              \min_{\delta, g} \sum \rho(\chi - \delta - g(R_2^*))

    The field of such a :math:`\delta` cannot be told from that of sources outside the mask. We choose the
    polynomial up to ``degree`` with which tissue of equal R2* has equal susceptibility everywhere. g is a
    step function with one value for each twentieth of the R2* values; :math:`\rho` is the penalty of Geman
    and McClure at twice the robust standard deviation of the residual, so that nuclei, veins and lesions do
    not count.

    Parameters
    ----------
    chi : array of float32, shape ``grid.shape``
        Susceptibility (ppm).
    mask : array of bool
    r2star : array of float32
        R2* (1/s); voxels without one do not count.
    degree : int
        Highest degree of the polynomials.
    depth_mm : float
        Voxels nearer to the edge of the mask (mm) do not count.

    Returns
    -------
    ndarray of float32
        :math:`\delta` (ppm), less its mean over the mask.
    """
    chi, mask, r2star = to_numpy(chi), to_numpy(mask), to_numpy(r2star)
    counted = (depth(mask, grid.voxel_size, 2 * depth_mm) > depth_mm) & (r2star > 0)
    counted = np.flatnonzero(counted)
    counted = counted[:: max(counted.size // SAMPLES, 1)]
    axes = _powers(mask, grid, degree)
    basis = _basis(grid.b0_dir, degree)
    if counted.size < 100 * len(basis):
        return np.zeros(grid.shape, np.float32)
    at = np.unravel_index(counted, grid.shape)
    x, y, z = (axis[index] for axis, index in zip(axes, at, strict=True))
    used = np.argwhere(basis.any(0))
    columns = np.stack([x[:, i] * y[:, j] * z[:, k] for i, j, k in used], 1) @ basis[:, *used.T].T
    values = chi[at].astype(float)
    tissue = np.searchsorted(np.quantile(r2star[at], np.arange(1, TISSUES) / TISSUES), r2star[at])
    weights = _robust_fit(columns, values, tissue)
    found = np.tensordot(weights, basis, 1)
    for axis in axes:
        # each contraction moves the next axis to the front
        found = np.tensordot(found.astype(np.float32), axis.astype(np.float32), (0, 1))
    found -= found[mask].mean(dtype=float)
    return found


SAMPLES, TISSUES, ROUNDS = 60_000, 20, 6
"""Voxels that `level` uses, classes of R2*, and rounds of its robust fit."""


def _powers(mask: Array, grid: Grid, degree: int):
    """Powers 0 to ``degree`` of the coordinates along each axis, scaled to the mask: (n, degree + 1)."""
    axes, size = [], 0.0
    for axis, step in enumerate(grid.voxel_size):
        line = mask.sum(tuple(a for a in range(3) if a != axis), dtype=float)
        place = np.arange(line.size, dtype=float) * step
        place -= np.average(place, weights=line)
        size = max(size, float(np.abs(place[line > 0]).max()))
        axes.append(place)
    return [(place / size)[:, None] ** np.arange(degree + 1) for place in axes]


def _basis(b0_dir: tuple[float, float, float], degree: int):
    """Coefficients of x^i y^j z^k of the polynomials from degree 1 whose field is harmonic."""
    b = np.asarray(b0_dir, float)
    operator = np.eye(3) / 3 - np.outer(b, b)
    basis = []
    for order in range(1, degree + 1):
        terms = [t for t in product(range(order + 1), repeat=3) if sum(t) == order]
        lower = {t: n for n, t in enumerate(product(range(order), repeat=3)) if sum(t) == order - 2}
        rows = {t: n for n, t in enumerate(lower)}
        image = np.zeros((max(len(rows), 1), len(terms)))
        for n, term in enumerate(terms):
            for p, q in product(range(3), repeat=2):
                left = list(term)
                factor = left[p]
                left[p] -= 1
                factor *= left[q]
                left[q] -= 1
                if factor:
                    image[rows[tuple(left)], n] += operator[p, q] * factor
        free = np.linalg.svd(image)[2][order * (order - 1) // 2 :]
        for row in free:
            cube = np.zeros((degree + 1,) * 3)
            for value, term in zip(row, terms, strict=True):
                cube[term] = value
            basis.append(cube)
    return np.array(basis)


def _robust_fit(columns: Array, values: Array, tissue: Array):
    """Weights of the columns, by reweighted least squares with a free mean for each tissue."""
    trust = np.ones(len(values))

    def less_mean(v: Array):
        top = np.bincount(tissue, trust * v, TISSUES)
        return v - (top / np.maximum(np.bincount(tissue, trust, TISSUES), 1e-9))[tissue]

    for _ in range(ROUNDS):
        rest = less_mean(values)
        free = np.stack([less_mean(c) for c in columns.T], 1)
        weighed = free * trust[:, None]
        weights = np.linalg.lstsq(weighed.T @ free, weighed.T @ rest, rcond=None)[0]
        rest = rest - free @ weights
        spread = max(1.4826 * np.median(np.abs(rest)), 1e-12)
        trust = (1 + (rest / (2 * spread)) ** 2) ** -2
    return weights
