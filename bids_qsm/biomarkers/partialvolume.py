"""Regional means corrected for partial volume with neighbours and surroundings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, sparse, special

from bids_qsm.biomarkers.precision import Correlation
from bids_qsm.recon.grid import Grid

_NEGLIGIBLE = 1e-3
_WORST_CONDITION = 1e8


@dataclass(frozen=True)
class Recovered:
    """Estimates of labels and their covariance; both NaN where the data do not determine them."""

    index: tuple[int, ...]
    mean: np.ndarray
    covariance: np.ndarray

    def combined(self, weights: dict[int, int]):
        """Estimate and standard error of the mean over labels, ``weights`` (label -> volume) given."""
        total = sum(weights.values())
        share = np.array([weights.get(i, 0.0) / total if total else 0.0 for i in self.index])
        used = share > 0
        if not used.any() or not set(weights) <= set(self.index):
            return np.nan, np.nan
        share = share[used]
        variance = share @ self.covariance[np.ix_(used, used)] @ share
        return float(share @ self.mean[used]), float(np.sqrt(variance))


@dataclass(frozen=True)
class _Model:
    """Design over the voxels of the fit: a column is the contribution of a compartment to each voxel."""

    box: tuple[slice, ...]
    where: np.ndarray
    owner: np.ndarray
    boxes: list
    design: sparse.csr_array
    is_label: np.ndarray


def recover(
    maps: Mapping[str, np.ndarray],
    dseg: np.ndarray,
    index: Sequence[int],
    mask: np.ndarray,
    grid: Grid,
    correlations: dict[str, Correlation],
    *,
    blur_voxels: float = 0.2,
    label_mm: float = 0.4,
):
    r"""Regional means corrected for partial volume, by least squares on spread functions [1]_ [2]_.

    A voxel near the regions is modelled as the sum of the contributions of all compartments,

    .. math:: z(x) = \sum_j T_j \, (m_j * h)(x) + e(x),

    :math:`m_j` the compartments, h a Gaussian. Compartments are the labels and the surroundings of each
    label, which are the voxels nearer to it than to others: a constant and a slope along each axis, as tissue
    differs between the sides of a nucleus. The fit covers the labels and a rim of two standard deviations of
    h around them. h combines the blur of the image (``blur_voxels``), of the sampling (one voxel) and of
    the position of labels (``label_mm``): where a label is misplaced at random, the expected share of its
    region in a voxel is its blurred outline, and the estimate stays unbiased.

    Parameters
    ----------
    maps : dict of str to ndarray
        NaN voxels are left out.
    dseg : ndarray of int
    index : sequence of int
        Labels to estimate.
    mask : ndarray of bool
        Where the maps are valid.
    grid : Grid
    correlations : dict of str to Correlation
        Of the noise of each map.
    blur_voxels : float
        Standard deviation of the image's point spread (voxels).
    label_mm : float
        Standard deviation of the position of labels along each axis (mm).

    Returns
    -------
    dict of str to Recovered

    References
    ----------
    .. [1] Rousset, Ma & Evans (1998), J Nucl Med 39:904.
    .. [2] Sattarivand et al. (2012), Phys Med Biol 57:7101. doi:10.1088/0031-9155/57/21/7101
    """
    size = np.array(grid.voxel_size)
    sigma = np.hypot(blur_voxels * size, label_mm)
    model = _model(dseg, tuple(index), mask, grid, sigma)
    if model is None:
        nothing = np.full(len(index), np.nan)
        return {name: Recovered(tuple(index), nothing, np.diag(nothing)) for name in maps}
    return {
        name: _solve(model, data[model.box], tuple(index), correlations[name], grid)
        for name, data in maps.items()
    }


def _model(dseg: np.ndarray, index: tuple[int, ...], mask: np.ndarray, grid: Grid, sigma: np.ndarray):
    size = np.array(grid.voxel_size)
    spreads = [_spread(s / v) for s, v in zip(sigma, size, strict=True)]
    reach = np.array([len(spread) // 2 for spread in spreads])
    rim = 2 * sigma.max() + size.max()
    outer = rim + (reach * size).max()
    margin = np.ceil(outer / size).astype(int) + reach + 1
    wanted = np.isin(dseg, index)
    found = ndimage.find_objects(wanted.astype(np.uint8))
    if not found:
        return None
    box = _grown(found[0], margin, dseg.shape)
    wanted, labels = wanted[box], np.where(wanted[box], dseg[box], 0)
    distance, nearest = ndimage.distance_transform_edt(~wanted, grid.voxel_size, return_indices=True)
    owner = np.where(distance <= outer, labels[tuple(nearest)], 0)
    where = (distance <= rim) & mask[box]
    row = np.full(where.shape, -1, np.int64)
    row[where] = np.arange(where.sum())
    boxes = [
        _grown(b, reach, owner.shape) if b is not None else None
        for b in ndimage.find_objects(owner.astype(np.int32), max_label=max(index))
    ]
    boxes = [boxes[i - 1] for i in index]
    columns, is_label = [], []
    for i, cut in zip(index, boxes, strict=True):
        if cut is None:
            continue
        kept = row[cut]
        for n, share in enumerate(_compartments(owner[cut] == i, wanted[cut], size)):
            for axis, spread in enumerate(spreads):
                share = ndimage.correlate1d(share, spread, axis, mode='constant')
            there = (kept >= 0) & (np.abs(share) > _NEGLIGIBLE)
            columns.append((kept[there], share[there]))
            is_label.append(i if n == 0 else 0)
    pointer = np.cumsum([0, *(len(rows) for rows, _ in columns)])
    design = sparse.csc_array(
        (
            np.concatenate([values for _, values in columns]),
            np.concatenate([rows for rows, _ in columns]),
            pointer,
        ),
        shape=(int(where.sum()), len(columns)),
    )
    return _Model(box, where, owner, boxes, design.tocsr(), np.array(is_label))


def _spread(sigma: float):
    """Spread function along an axis: a box of one voxel convolved with a Gaussian (voxels)."""
    reach = max(int(np.ceil(3 * sigma + 0.5)), 1)
    edges = np.arange(-reach - 0.5, reach + 1)
    if sigma == 0:
        sigma = 1e-6
    # the box once more, as borders lie anywhere between two voxel centres
    at = np.linspace(-0.5, 0.5, 9)
    spread = np.diff(special.ndtr((edges[:, None] + at) / sigma).mean(1))
    return (spread / spread.sum()).astype(np.float32)


def _compartments(mine: np.ndarray, wanted: np.ndarray, size: np.ndarray):
    """The label, its surroundings, and slopes of the surroundings along each axis."""
    yield (mine & wanted).astype(np.float32)
    around = (mine & ~wanted).astype(np.float32)
    yield around
    for axis, n in enumerate(around.shape):
        along = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * size[axis] / 10
        yield around * along.reshape([-1 if a == axis else 1 for a in range(3)])


def _grown(box: tuple[slice, ...], margin: np.ndarray, shape: tuple[int, ...]):
    return tuple(
        slice(max(b.start - int(m), 0), min(b.stop + int(m), n))
        for b, m, n in zip(box, margin, shape, strict=True)
    )


def _solve(model: _Model, data: np.ndarray, index: tuple[int, ...], correlation: Correlation, grid: Grid):
    """Least-squares estimates and their covariance under correlated noise."""
    values = np.asarray(data, np.float64)[model.where]
    finite = np.isfinite(values)
    design, values = model.design[finite], values[finite]
    mean = np.full(len(index), np.nan)
    covariance = np.full((len(index),) * 2, np.nan)
    power = design.power(2).sum(0)
    used = np.flatnonzero(power > 0.5)
    if not used.size:
        return Recovered(index, mean, covariance)
    gram = (design[:, used].T @ design[:, used]).toarray()
    scale = np.sqrt(np.diag(gram))
    gram /= np.outer(scale, scale)
    # slopes that the voxels do not determine are set to zero
    inverse = np.linalg.pinv(gram, rcond=1 / _WORST_CONDITION, hermitian=True) / np.outer(scale, scale)
    estimates = inverse @ (design[:, used].T @ values)
    residual = values - design[:, used] @ estimates
    at = {int(model.is_label[c]): n for n, c in enumerate(used) if model.is_label[c]}
    known = [n for n, i in enumerate(index) if i in at]
    columns = [at[index[n]] for n in known]
    mean[known] = estimates[columns]
    weights = _weights(design[:, used].tocsc(), inverse[:, columns], scale)
    covariance[np.ix_(known, known)] = _covariance(
        model, finite, residual, weights, [model.boxes[n] for n in known], correlation, grid
    )
    return Recovered(index, mean, covariance)


def _weights(design: sparse.csc_array, inverse: np.ndarray, scale: np.ndarray):
    """Weight of each voxel in each estimate (rows); distant compartments are neglected."""
    rows = []
    for column in inverse.T:
        share = np.abs(column * scale)
        near = np.flatnonzero(share > _NEGLIGIBLE * share.max())
        rows.append((design[:, near] @ sparse.csc_array(column[near, None])).T)
    return sparse.vstack(rows)


def _covariance(
    model: _Model,
    finite: np.ndarray,
    residual: np.ndarray,
    weights: sparse.sparray,
    boxes: list,
    correlation: Correlation,
    grid: Grid,
):
    """Covariance of noise summed with ``weights`` (estimates, voxels), within the box of each region."""
    where = np.zeros(model.where.shape, bool)
    where[model.where] = finite
    owner = model.owner[where]
    square = np.bincount(owner, residual**2) / np.maximum(np.bincount(owner), 1)
    weights = (weights * np.sqrt(square)[owner]).tocsr()
    by_voxel = weights.tocsc()
    kernel = correlation.kernel(grid)
    row = np.full(where.shape, -1, np.int64)
    row[where] = np.arange(where.sum())
    result = np.zeros((weights.shape[0],) * 2)
    for n, box in enumerate(boxes):
        rows = row[box]
        inside = rows >= 0
        image = np.zeros(rows.shape)
        image[inside] = weights[[n]].toarray()[0][rows[inside]]
        shape = [
            fft.next_fast_len(a + b - 1, real=True) for a, b in zip(image.shape, kernel.shape, strict=True)
        ]
        spread = fft.irfftn(fft.rfftn(image, shape) * fft.rfftn(kernel, shape), shape)
        middle = (slice(k // 2, k // 2 + m) for k, m in zip(kernel.shape, image.shape, strict=True))
        near = (rows[inside], np.zeros(inside.sum(), int))
        local = sparse.csc_array((spread[tuple(middle)][inside], near), (weights.shape[1], 1))
        result[n] = (by_voxel @ local).toarray()[:, 0]
    return (result + result.T) / 2
