"""The part of susceptibility in the null space of the field, found by R2*."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array, to_numpy
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid


def harmonic_susceptibility(
    chi: Array,
    mask: Array,
    r2star: Array,
    grid: Grid,
    *,
    degree: int = 6,
    depth_mm: float = 3.0,
    smoothing_mm: float = 1.5,
    with_uncertainty: bool = True,
):
    r"""The smooth part of ``chi`` whose field is harmonic in the mask, found by R2*, and its uncertainty.

    .. math:: (\nabla^2 / 3 - (b \cdot \nabla)^2) \, \delta = 0, \quad
              \min_{\delta, g} \sum \rho(\chi - \delta - g(R_2^*))

    The field of such a :math:`\delta` cannot be told from that of sources outside the mask. We choose the
    polynomial up to ``degree`` with which tissue of equal R2* has equal susceptibility everywhere. g is a
    step function with one value for each twentieth of the R2* values; :math:`\rho` is the penalty of Geman
    and McClure at twice the robust standard deviation of the residual, so that veins and lesions do not
    count.

    R2* is smoothed first: its noise would put one tissue into the classes of another, and the difference of
    tissues into :math:`\delta`. The highest twentieth of it, and what lies near, does not count: nuclei and
    veins there differ in susceptibility at equal R2*, and spread into their surroundings.

    Susceptibility that varies slowly for another reason, at equal R2*, is taken for a part of
    :math:`\delta`. Its size is read from the smooth polynomials whose field is not harmonic, as it varies
    along both alike: their mean power at each degree, drawn as a line over the degrees (both logarithmic),
    gives the uncertainty. It grows towards the edge of the mask, where polynomials of a high degree grow.

    Parameters
    ----------
    chi : array of float32, shape ``grid.shape``
        Susceptibility (ppm).
    mask : array of bool
    r2star : array of float32
        R2* (1/s); voxels without one do not count.
    degree : int
        Highest degree of the polynomials, at least 3.
    depth_mm : float
        Voxels nearer to the edge of the mask or to a voxel of high R2* (mm) do not count.
    smoothing_mm : float
        Standard deviation of the Gaussian that R2* is smoothed by (mm).
    with_uncertainty : bool
        It takes half of the time.

    Returns
    -------
    smooth : ndarray of float32
        :math:`\delta` (ppm), less its mean over the mask; 0 where too few voxels count.
    uncertainty : ndarray of float32, or None
        Standard deviation (ppm) of its error; 0 outside the mask. None where it is not asked for or cannot
        be told: too few voxels count, or nothing varies slowly.
    """
    chi, mask, r2star = to_numpy(chi), to_numpy(mask), to_numpy(r2star)
    known = mask & (r2star > 0)
    r2star = _smooth(r2star, known, grid, smoothing_mm)
    high = r2star > np.quantile(r2star[known], 1 - 1 / TISSUES) if known.any() else known
    counted = (depth(mask & ~high, grid.voxel_size, 2 * depth_mm) > depth_mm) & known
    counted = np.flatnonzero(counted)
    counted = counted[:: max(counted.size // SAMPLES, 1)]
    axes = _powers(mask, grid, 2 * degree)
    basis = _basis(grid.b0_dir, degree)
    if counted.size < 100 * len(basis):
        return np.zeros(grid.shape, np.float32), None
    lines = _lines(axes, counted, grid)
    used = np.argwhere(basis.any(0))
    mixed = basis[:, *used.T].T
    columns = _monomials(lines, used) @ mixed
    values, rates = chi.flat[counted].astype(float), r2star.flat[counted]
    tissue = np.searchsorted(np.quantile(rates, np.arange(1, TISSUES) / TISSUES), rates)
    weights, trust = _robust_fit(columns, values, tissue)
    found = _polynomial(np.tensordot(weights, basis, 1), axes)
    found -= found[mask].mean(dtype=float)
    if not with_uncertainty:
        return found, None
    whole = np.flatnonzero(mask)
    whole = whole[:: max(whole.size // SAMPLES, 1)]
    means = (_monomials(_lines(axes, whole, grid), used) @ mixed).mean(0)
    variance = _variance(columns, lines, values, tissue, trust, basis, means)
    if variance is None:
        return found, None
    uncertainty = np.sqrt(np.maximum(_polynomial(variance, axes), 0))
    return found, np.where(mask, uncertainty, 0).astype(np.float32)


SAMPLES, TISSUES, ROUNDS = 60_000, 20, 6
"""Voxels that `harmonic_susceptibility` uses, classes of R2*, and rounds of its robust fit."""


def _smooth(volume: Array, where: Array, grid: Grid, width: float):
    """Mean of ``volume`` over a Gaussian of ``width`` (mm) and the voxels of ``where``; 0 elsewhere."""
    sigma = [width / v for v in grid.voxel_size]
    total, share = (
        ndimage.gaussian_filter(np.where(where, v, 0).astype(np.float32), sigma, truncate=3.0)
        for v in (volume, np.float32(1))
    )
    return np.divide(total, share, out=np.zeros_like(total), where=where)


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


def _polynomial(cube: Array, axes: Sequence[Array]):
    """Values on a grid of the polynomial with the coefficients ``cube`` of x^i y^j z^k (float32)."""
    for n, axis in zip(cube.shape, axes, strict=True):
        # each contraction moves the next axis to the front
        cube = np.tensordot(cube.astype(np.float32), axis[:, :n].T.astype(np.float32), (0, 0))
    return cube


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


def _lines(axes: Sequence[Array], voxels: Array, grid: Grid):
    """Powers of the coordinates of ``voxels`` (flat indices) along each axis."""
    at = np.unravel_index(voxels, grid.shape)
    return [axis[index] for axis, index in zip(axes, at, strict=True)]


def _monomials(lines: Sequence[Array], powers: Array):
    """x^i y^j z^k of the ``powers`` (n, 3) at points whose powers along the axes are ``lines``."""
    x, y, z = lines
    return np.stack([x[:, i] * y[:, j] * z[:, k] for i, j, k in powers], 1)


def _less_mean(values: Array, tissue: Array, trust: Array):
    """``values`` (n, ...) less their mean, weighed by ``trust``, in the class of each."""
    total = np.maximum(np.bincount(tissue, trust, TISSUES), 1e-9)
    means = [np.bincount(tissue, trust * v, TISSUES) / total for v in np.atleast_2d(values.T)]
    return values - np.stack(means, -1)[tissue].reshape(values.shape)


def _robust_fit(columns: Array, values: Array, tissue: Array):
    """Weights of the columns, by reweighted least squares with a free mean for each tissue; their trust."""
    trust = np.ones(len(values))
    for _ in range(ROUNDS):
        rest, free = _less_mean(values, tissue, trust), _less_mean(columns, tissue, trust)
        weighed = free * trust[:, None]
        weights = np.linalg.lstsq(weighed.T @ free, weighed.T @ rest, rcond=None)[0]
        rest = rest - free @ weights
        spread = max(1.4826 * np.median(np.abs(rest)), 1e-12)
        trust = (1 + (rest / (2 * spread)) ** 2) ** -2
    return weights, trust


def _variance(
    columns: Array,
    lines: Sequence[Array],
    values: Array,
    tissue: Array,
    trust: Array,
    basis: Array,
    means: Array,
):
    """Variance of the fit's error, from the power along the polynomials that it leaves.

    ``means`` are those of the polynomials ``basis`` over the mask. The variance is a polynomial of twice the
    degree; returned are its coefficients, or None where no power is left.
    """
    degree = basis.shape[1] - 1
    scale = np.sqrt(trust / trust.sum())

    def scaled(v: Array):
        return (_less_mean(v, tissue, trust).T * scale).T

    rest = scaled(values)
    taken, triangle = np.linalg.qr(scaled(columns))
    degrees = np.arange(2, degree + 1)
    power = np.zeros(len(degrees))
    for n, order in enumerate(degrees):
        powers = np.array([t for t in product(range(order + 1), repeat=3) if sum(t) == order])
        own = scaled(_monomials(lines, powers))
        for _ in range(2):  # a second time for rounding
            own -= taken @ (taken.T @ own)
        # the rest of this degree is spanned by the columns and lower degrees
        own = np.linalg.svd(own, full_matrices=False)[0][:, : order * (order - 1) // 2]
        taken = np.hstack([taken, own])
        power[n] = np.mean((own.T @ rest) ** 2)
    if not power.all():
        return None
    shape = (2 * degree + 1,) * 3
    slope, start = np.polyfit(np.log(degrees), np.log(power), 1, w=np.sqrt(degrees * (degrees - 1) / 2))
    orders = np.repeat(np.arange(1, degree + 1), 2 * np.arange(1, degree + 1) + 1)
    centred = basis.copy()
    centred[:, 0, 0, 0] -= means
    independent = np.tensordot(np.linalg.inv(triangle.T), centred, 1)
    spectra = np.fft.rfftn(independent, shape, axes=(1, 2, 3))
    return np.fft.irfftn(
        np.tensordot(np.exp(start + slope * np.log(orders)), spectra**2, 1), shape, axes=(0, 1, 2)
    )
