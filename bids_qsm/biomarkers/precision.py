"""Standard errors of regional means under noise that is correlated between voxels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import fft, ndimage, optimize

from bids_qsm.recon.grid import Grid

_ENOUGH_PAIRS = 200
_WHOLE_SUM = 100_000


@dataclass(frozen=True)
class Correlation:
    r"""Correlation of voxels a distance d (mm) apart: :math:`(1 - c) e^{-(d / \lambda)^p}`, 1 where d = 0.

    ``nugget`` is c, the share of uncorrelated variance, ``length`` (mm) is :math:`\lambda`, ``power`` is p:
    1 for rough maps, 2 for smooth ones.
    """

    nugget: float
    length: float
    power: float = 1.0

    def kernel(self, grid: Grid):
        """Correlation at all lags where it is not negligible, with lag 0 in the centre of the array."""
        reach = 5 ** (1 / self.power) * self.length if self.nugget < 1 else 0.0
        kernel = (1 - self.nugget) * _decay(_distances(grid, reach), self.length, self.power)
        kernel[tuple(n // 2 for n in kernel.shape)] = 1
        return kernel


def _decay(distance: np.ndarray, length: float, power: float):
    return np.exp(-((distance / max(length, 1e-6)) ** power))


def fit_correlation(data: np.ndarray, regions: Sequence[tuple], grid: Grid, *, reach_mm: float = 6.0):
    """Correlation of voxels within regions, from the variogram pooled over them.

    Half the mean squared difference of two voxels of one region grows with their distance from the nugget to
    the variance [1]_; unlike an autocorrelation it does not depend on the regions' means. Regions are pooled
    by their own variance, and nugget, variance, length and power fitted to it.

    Parameters
    ----------
    data : ndarray of float
        A map; NaN voxels are left out.
    regions : iterable of (box, ndarray of bool)
        Slices into ``data``, and the region in them.
    grid : Grid
    reach_mm : float
        Largest distance of the variogram.

    Returns
    -------
    Correlation
        Without correlation where the regions have too few voxels or are constant.

    References
    ----------
    .. [1] Matheron (1963), Econ Geol 58:1246. doi:10.2113/gsecongeo.58.8.1246
    """
    distance = _distances(grid, reach_mm)
    step = min(grid.voxel_size)
    bins = np.where(distance <= reach_mm, np.rint(distance / step).astype(int), 0)
    pairs, total = np.zeros(bins.max() + 1), np.zeros(bins.max() + 1)
    for box, region in regions:
        values = np.asarray(data[box], np.float64)
        inside = region & np.isfinite(values)
        spread = values[inside].std() if inside.sum() > 1 else 0.0
        if spread == 0:
            continue
        weight = inside.astype(np.float64)
        values = np.where(inside, (values - values[inside].mean()) / spread, 0)
        square = values**2
        count = _correlate(weight, weight, bins.shape)
        differences = _correlate(square, weight, bins.shape)
        differences += differences[::-1, ::-1, ::-1] - 2 * _correlate(values, values, bins.shape)
        pairs += np.bincount(bins.ravel(), count.ravel(), bins.max() + 1)
        total += np.bincount(bins.ravel(), differences.ravel(), bins.max() + 1)
    known = np.flatnonzero(pairs > _ENOUGH_PAIRS)
    known = known[known > 0]
    if known.size < 3:
        return Correlation(1.0, 0.0)
    away = np.array([distance[bins == b].mean() for b in known])
    return _fit(away, total[known] / (2 * pairs[known]), np.sqrt(pairs[known]), step)


def _fit(distance: np.ndarray, variogram: np.ndarray, weight: np.ndarray, step: float):
    best, found = np.inf, Correlation(1.0, 0.0)
    for length, power in product(np.geomspace(0.25 * step, max(distance), 40), (1.0, 1.5, 2.0)):
        design = np.stack([np.ones_like(distance), 1 - _decay(distance, length, power)], 1)
        (nugget, rest), misfit = optimize.nnls(design * weight[:, None], variogram * weight)
        if misfit < best and nugget + rest > 0:
            best, found = misfit, Correlation(float(nugget / (nugget + rest)), float(length), power)
    return found


def _distances(grid: Grid, reach: float):
    """Distance (mm) of every lag up to ``reach`` along each axis."""
    away = [np.arange(-int(reach // v), int(reach // v) + 1) * v for v in grid.voxel_size]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*away, indexing='ij')))


def _correlate(first: np.ndarray, second: np.ndarray, lags: tuple[int, ...]):
    """Sum over x of first(x) second(x + d) for lags d in an array of shape ``lags``, 0 in its centre."""
    half = [n // 2 for n in lags]
    shape = [fft.next_fast_len(max(n, h + 1) + h, real=True) for n, h in zip(first.shape, half, strict=True)]
    spectrum = np.conj(fft.rfftn(first, shape)) * fft.rfftn(second, shape)
    found = np.roll(fft.irfftn(spectrum, shape), half, (0, 1, 2))
    return found[tuple(slice(0, n) for n in lags)]


def shared_variance(region: np.ndarray, correlation: Correlation, grid: Grid):
    """Mean correlation of any two voxels of a region: 1 over the effective number of independent voxels.

    In very large regions the border is neglected, which gives a slightly larger value.

    Parameters
    ----------
    region : ndarray of bool or float
        The region, or the weight of each voxel in a weighted mean (0 to 1).

    >>> grid = Grid((4, 4, 4), (1.0, 1.0, 1.0))
    >>> shared_variance(np.ones((4, 4, 4), bool), Correlation(1.0, 0.0), grid)
    0.015625
    """
    size = float(region.sum(dtype=np.float64))
    if size == 0:
        return np.nan
    kernel = correlation.kernel(grid)
    used = region > 0
    if used.sum() > _WHOLE_SUM:
        square = float((region[used].astype(np.float64) ** 2).sum())
        return float(min(kernel.sum() * square / size**2, 1.0))
    weight = region[ndimage.find_objects(used.astype(np.uint8))[0]].astype(np.float64)
    # lags longer than the region do not occur
    cut = [min(k // 2, n - 1) for k, n in zip(kernel.shape, weight.shape, strict=True)]
    kernel = kernel[tuple(slice(k // 2 - c, k // 2 + c + 1) for k, c in zip(kernel.shape, cut, strict=True))]
    return float((_correlate(weight, weight, kernel.shape) * kernel).sum() / size**2)


def standard_error(values: np.ndarray, shared: float, weights: np.ndarray | None = None):
    r"""Standard error of the mean, or of the weighted mean, of correlated values [1]_.

    With R the mean correlation of two values, the variance of n values falls short of the true one by
    :math:`1 - R`, and that of their mean is R of the true one:

    .. math:: \mathrm{se}^2 = \frac{R}{1 - R} \, \frac{\sum_i w_i (x_i - \bar x)^2}{\sum_i w_i}

    Parameters
    ----------
    values : ndarray, shape (n,)
    shared : float
        R, from `shared_variance`, with the same weights.
    weights : ndarray, shape (n,), optional
        Of the values; all 1 unless given.

    References
    ----------
    .. [1] Bayley & Hammersley (1946), J R Stat Soc Suppl 8:184. doi:10.2307/2983560
    """
    if values.size < 2 or not shared < 1:
        return np.nan
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights) * shared / (1 - shared)))
