"""Poisson's equation in a region of any shape: the operator, and a multigrid cycle near its inverse."""

from collections.abc import Sequence

import array_api_compat
import numba
import numpy as np

from bids_qsm.recon.arrays import Array, either, like, namespace

COARSEST_SWEEPS = 8


class Laplacian:
    r"""The negative Laplacian of seven points, :math:`-\nabla^2`, with zero values outside a region.

    Each level of a multigrid cycle [1]_ halves the resolution along the axes of short steps, and along all
    axes once the steps are similar. The points of a coarser grid are points of the finer one. Corrections are
    interpolated linearly, residuals restricted by the adjoint, and errors smoothed in red-black order, which
    is reversed on the way up. The cycle is therefore symmetric, and preconditions conjugate gradients.

    Parameters
    ----------
    region : ndarray of bool, 3D
        False on all six faces; its sizes are odd.
    spacing : tuple of float
        Step along each axis (mm).
    reference : array
        Of the library and device on which to work.

    References
    ----------
    .. [1] Briggs, Henson & McCormick (2000), A Multigrid Tutorial. doi:10.1137/1.9780898719505
    """

    def __init__(self, region: Array, spacing: tuple[float, float, float], reference: Array):
        self.weights = tuple(float(1 / h**2) for h in spacing)
        self.region = like(region, reference)
        self.axes = [a for a, h in enumerate(spacing) if h < 1.5 * min(spacing)]
        coarse = region[tuple(slice(None, None, 2 if a in self.axes else 1) for a in range(3))]
        self.coarser = None
        if coarse.any():
            # even sizes get one more layer outside the region
            coarse = np.pad(coarse, [(0, (n + 1) % 2) for n in coarse.shape])
            steps = [h * (2 if a in self.axes else 1) for a, h in enumerate(spacing)]
            self.coarser = Laplacian(coarse, steps, reference)

    def apply(self, x: Array):
        """Negative Laplacian (per mm^2) in the region, from values there and just outside; 0 elsewhere."""
        out = 0 * x
        _laplace(x, self.region, self.weights, out)
        return out

    def cycle(self, right: Array):
        """Approximate solution of ``apply(x) = right``."""
        x = 0 * right
        there = (0, 1) if self.coarser else (0, 1) * COARSEST_SWEEPS
        for parity in there:
            _sweep(x, right, self.region, self.weights, parity)
        if self.coarser:
            x += self._correction(right - self.apply(x))
        for parity in reversed(there):
            _sweep(x, right, self.region, self.weights, parity)
        return x

    def _correction(self, rest: Array):
        fine, coarse = rest.shape, self.coarser.region.shape
        for axis in self.axes:
            rest = _halve(rest, axis, coarse[axis])
        rest = rest * self.coarser.region
        correction = self.coarser.cycle(rest)
        for axis in reversed(self.axes):
            correction = _double(correction, axis, fine[axis])
        return correction * self.region


def _at(axis: int, *limits: int | None):
    """Index of a slice along one axis of three."""
    return tuple(slice(*limits) if a == axis else slice(None) for a in range(3))


def _halve(x: Array, axis: int, size: int):
    """Mean about every second point along ``axis``, by weights 1/4, 1/2, 1/4, in an array of ``size``."""
    shape = [size if a == axis else n for a, n in enumerate(x.shape)]
    out = namespace(x).zeros(tuple(shape), dtype=x.dtype, device=array_api_compat.device(x))
    half = x.shape[axis] // 2
    between = x[_at(axis, 1, None, 2)] * 0.25
    out[_at(axis, half + 1)] = x[_at(axis, None, None, 2)] * 0.5
    out[_at(axis, half)] += between
    out[_at(axis, 1, half + 1)] += between
    return out


def _double(x: Array, axis: int, size: int):
    """The adjoint of `_halve` times two: linear interpolation along ``axis`` to ``size`` points."""
    shape = [size if a == axis else n for a, n in enumerate(x.shape)]
    out = namespace(x).zeros(tuple(shape), dtype=x.dtype, device=array_api_compat.device(x))
    half = size // 2
    out[_at(axis, None, None, 2)] = x[_at(axis, half + 1)]
    out[_at(axis, 1, None, 2)] = (x[_at(axis, half)] + x[_at(axis, 1, half + 1)]) * 0.5
    return out


@numba.njit(cache=True, parallel=True, fastmath=True)
def _laplace_compiled(x: Array, region: Array, weights: Sequence[float], out: Array):
    """Negative Laplacian of ``x`` in the region, into ``out``."""
    nx, ny, nz = x.shape
    p, q, r = np.float32(weights[0]), np.float32(weights[1]), np.float32(weights[2])
    middle = 2 * (p + q + r)
    for i in numba.prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                if region[i, j, k]:
                    out[i, j, k] = (
                        middle * x[i, j, k]
                        - p * (x[i - 1, j, k] + x[i + 1, j, k])
                        - q * (x[i, j - 1, k] + x[i, j + 1, k])
                        - r * (x[i, j, k - 1] + x[i, j, k + 1])
                    )


def _laplace_any(x: Array, region: Array, weights: Sequence[float], out: Array):
    out[...] = (2 * sum(weights) * x - _neighbours(x, weights)) * region


_laplace = either(_laplace_compiled, _laplace_any)


def _neighbours(x: Array, weights: Sequence[float]):
    """Weighted sum of the six neighbours; wrong on the faces, which lie outside every region."""
    xp = namespace(x)
    pairs = (xp.roll(x, 1, axis=a) + xp.roll(x, -1, axis=a) for a in range(3))
    return sum(weight * pair for weight, pair in zip(weights, pairs, strict=True))


@numba.njit(cache=True, parallel=True, fastmath=True)
def _sweep_compiled(x: Array, right: Array, region: Array, weights: Sequence[float], parity: int):
    """Solve for each voxel of one colour of the chequerboard with its neighbours held, in place."""
    nx, ny, nz = x.shape
    p, q, r = np.float32(weights[0]), np.float32(weights[1]), np.float32(weights[2])
    scale = np.float32(1) / (2 * (p + q + r))
    for i in numba.prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1 + (i + j + 1 + parity) % 2, nz - 1, 2):
                if region[i, j, k]:
                    x[i, j, k] = scale * (
                        right[i, j, k]
                        + p * (x[i - 1, j, k] + x[i + 1, j, k])
                        + q * (x[i, j - 1, k] + x[i, j + 1, k])
                        + r * (x[i, j, k - 1] + x[i, j, k + 1])
                    )


def _sweep_any(x: Array, right: Array, region: Array, weights: Sequence[float], parity: int):
    xp = namespace(x)
    i, j, k = (xp.arange(n, device=array_api_compat.device(x)) for n in x.shape)
    chosen = region & ((i[:, None, None] + j[:, None] + k) % 2 == parity)
    x[...] = xp.where(chosen, (right + _neighbours(x, weights)) / (2 * sum(weights)), x)


_sweep = either(_sweep_compiled, _sweep_any)
