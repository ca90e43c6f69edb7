"""Correction of smooth receive and transmit bias in magnitude and T1-weighted images."""

from collections.abc import Sequence

import numpy as np
from scipy import interpolate
from threadpoolctl import threadpool_limits

from bids_qsm.anatomy.align import coarsen
from bids_qsm.anatomy.head import depth_in_head, tissue
from bids_qsm.anatomy.transform import grid_points
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.threshold import otsu

_BINS = 200
_FEWEST = 2000
"""Voxels of the shrunk image from which a field can be found."""


def foreground(image: Array):
    """Voxels of tissue against air: Otsu's threshold on the image clipped at its 99th percentile."""
    high = np.percentile(image, 99)
    if high <= image.min():
        return np.zeros(image.shape, bool)
    return image > otsu(np.minimum(image, high)) * 0.6


def _spline_basis(coordinate: Array, n_spans: int):
    """Cubic B-splines over ``n_spans`` equal spans of [0, 1], sampled at ``coordinate``: (n, n_spans + 3)."""
    knots = np.arange(-3, n_spans + 4) / n_spans
    clipped = np.clip(coordinate, 0, 1 - 1e-9)
    return interpolate.BSpline.design_matrix(clipped, knots, 3).toarray().astype(np.float32)


def _sharpen(values: Array, fwhm: float, wiener: float):
    """Expected sharp log intensity of each log intensity, by Wiener deconvolution of their histogram."""
    low, high = values.min(), values.max()
    width = (high - low) / (_BINS - 1)
    place = (values - low) / width
    base = np.minimum(place.astype(int), _BINS - 2)
    part = place - base
    counts = np.bincount(base, 1 - part, _BINS) + np.bincount(base + 1, part, _BINS)
    size = 2 * _BINS
    offset = (np.arange(size) + size // 2) % size - size // 2
    sd = fwhm / width / 2.3548
    blur = np.fft.rfft(np.exp(-0.5 * (offset / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))
    padded = np.fft.rfft(counts, size)
    sharp = np.fft.irfft(padded * np.conj(blur) / (np.abs(blur) ** 2 + wiener), size)
    sharp = np.maximum(sharp, 0)
    centres = low + width * np.where(np.arange(size) < _BINS * 1.5, np.arange(size), np.arange(size) - size)
    numerator = np.fft.irfft(np.fft.rfft(sharp * centres) * blur, size)[:_BINS]
    denominator = np.fft.irfft(np.fft.rfft(sharp) * blur, size)[:_BINS]
    expected = numerator / np.maximum(denominator, 1e-6 * denominator.max())
    return np.interp(values, low + width * np.arange(_BINS), expected)


def correct_bias(
    image: Array,
    affine: Array,
    *,
    shrink_mm: float = 4.0,
    spacings_mm: tuple = (200.0, 100.0),
    iterations: int = 30,
    fwhm: float = 0.15,
    wiener: float = 0.01,
    deep_mm: float = 0.0,
):
    r"""Divide an image by a smooth bias field found by iterated histogram sharpening, as N4 does [1]_.

    .. math:: b_{n+1} = b_n + S\{v - b_n - E[u \mid v - b_n]\}

    with v the log of the image, E[u | .] the sharpened intensity of Sled et al. and S a least-squares
    fit of cubic B-splines, here exact (one inverse a level) rather than N4's approximation.

    Parameters
    ----------
    image : ndarray, 3D
        Magnitude, not negative; a whole head or a brain.
    affine : ndarray (4, 4)
        Voxel to world (mm).
    shrink_mm : float
        Grid on which the field is found.
    spacings_mm : tuple of float
        Distances of the spline knots, one level each, coarse to fine.
    iterations : int
        Largest number of iterations per level; a level ends when the field changes by less than 0.1 %.
    fwhm, wiener : float
        Width of the assumed blur of the log histogram and noise of its Wiener deconvolution.
    deep_mm : float
        Find the field from tissue at this depth below the skin or more, and extend it to the rest: fat of the
        scalp, where it was not suppressed, is several times as bright as the brain and not bias.

    Returns
    -------
    corrected, field : ndarray of float32
        The image over the field, and the field, whose geometric mean over the foreground is one and which
        is held constant beyond its range there.

    References
    ----------
    .. [1] Tustison et al. (2010), IEEE TMI 29:1310. doi:10.1109/TMI.2010.2046908
    .. [2] Sled et al. (1998), IEEE TMI 17:87. doi:10.1109/42.668698
    """
    image = np.asarray(image, np.float32)
    small, small_affine = coarsen(image, affine, shrink_mm)
    mask = foreground(small) & (small > 0)
    if deep_mm:
        depth, found = depth_in_head(small, small_affine), tissue(small) & (small > 0)
        # in a thin slab or a small crop everything is near the surface
        deep = [found & (depth > mm) for mm in (deep_mm, deep_mm / 2)]
        mask = next((one for one in deep if one.sum() >= _FEWEST), mask)
    if mask.sum() < 100:
        raise ValueError('the image has no foreground to correct')
    values = np.log(small[mask]).astype(np.float64)
    low, high = np.percentile(values, (0.2, 99.8))
    values = np.clip(values, low, high)
    at = [np.nonzero(mask)[d] for d in range(3)]
    log_field = np.zeros(image.shape, np.float32)
    bias = np.zeros(values.size)
    # BLAS sums in an order that depends on the number of threads; the result should not
    with threadpool_limits(1, user_api='blas'):
        for spacing in spacings_mm:
            spans = [max(1, round(n * shrink_mm / spacing)) for n in small.shape]
            unit = [(at[d] + 0.5) / small.shape[d] for d in range(3)]
            design = _tensor([_spline_basis(unit[d], spans[d]) for d in range(3)])
            weights, bias = _fit(values, bias, design, iterations, fwhm, wiener)
            log_field += _evaluate(weights, spans, image.shape, affine, small.shape, small_affine)
    where = tissue(image) if deep_mm else foreground(image)
    # splines are unconstrained where there is no tissue
    log_field = np.clip(log_field, *np.percentile(log_field[where], (0.1, 99.9)))
    field = np.exp(log_field - log_field[where].mean())
    return image / field, field


def _fit(values: Array, bias: Array, design: Array, iterations: int, fwhm: float, wiener: float):
    """Spline weights of one level, and the bias with it added."""
    gram = (design.T @ design).astype(np.float64)
    # a small ridge stabilises splines whose support has little foreground
    gram[np.diag_indices_from(gram)] += 1e-3 * np.trace(gram) / len(gram)
    inverse = np.linalg.inv(gram).astype(np.float32)
    weights = np.zeros(len(gram))
    for _ in range(iterations):
        residual = values - bias - _sharpen(values - bias, fwhm, wiener)
        step = inverse @ (design.T @ residual.astype(np.float32))
        change = design @ step
        bias = bias + change - change.mean()
        weights += step
        if change.std() < 1e-3:
            break
    return weights, bias


def _tensor(bases: Sequence[Array]):
    """Products of three bases at the same points: (n, a * b * c)."""
    x, y, z = bases
    return np.einsum('ni,nj,nk->nijk', x, y, z, optimize=True).reshape(len(x), -1)


def _evaluate(
    weights: Array,
    spans: Sequence[int],
    shape: tuple[int, ...],
    affine: Array,
    small_shape: tuple[int, ...],
    small_affine: Array,
):
    """The spline of one level on the grid of the full image, whose axes are parallel to the small grid's."""
    corners = grid_points((2, 2, 2), np.asarray(affine, float) @ np.diag([*(np.array(shape) - 1), 1]))
    ends = corners[[0, -1]] @ np.linalg.inv(small_affine)[:3, :3].T + np.linalg.inv(small_affine)[:3, 3]
    cube = weights.reshape([n + 3 for n in spans]).astype(np.float32)
    for d in range(3):
        unit = (np.linspace(ends[0, d], ends[1, d], shape[d]) + 0.5) / small_shape[d]
        cube = np.moveaxis(np.tensordot(_spline_basis(unit, spans[d]), cube, (1, d)), 0, d)
    return cube
