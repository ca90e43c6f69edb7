"""The fields of susceptibility, and of its tensor, in several head positions, and their adjoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np

from bids_qsm.recon.fourier import Box, dipole_kernel, frequencies, irfft, rfft
from bids_qsm.recon.grid import Grid

KEPT = 0.7
"""Share of the highest frequency along each axis of a slab up to which scans with other slabs can be compared
with it. Filters of k-space make them differ beyond it. In two simulated heads .7, .8 and .9 gave errors of
COSMOS of 4.8, 5.6 and 6.6 % without noise; with it .7 and .8 gave 10.6 and 10.2 %."""
SAME_ANGLE = 3.0
"""Degrees by which the axes of two slabs may be turned against each other to be the same."""
SAME_SIZE = 0.05
"""Share by which the edges of their voxels may differ."""
COMPONENTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Rows and columns of the six components of a symmetric tensor, in their order: xx, xy, xz, yy, yz, zz."""


def is_alike(first: np.ndarray, other: np.ndarray) -> bool:
    """Whether two slabs have the same voxels, whatever the order and the sense of their axes.

    Parameters
    ----------
    first, other : (3, 3)
        In their columns the edges of a voxel of each, at right angles.

    Examples
    --------
    >>> is_alike(np.diag([1, 2, 3]), np.array([[0, -1.02, 0], [2, 0, 0], [0, 0, 3]]))
    True
    >>> is_alike(np.diag([1, 2, 3]), np.diag([1, 3, 2]))
    False
    """
    sizes = [np.linalg.norm(one, axis=0) for one in (first, other)]
    cosines = np.abs((first / sizes[0]).T @ (other / sizes[1]))
    order = cosines.argmax(0)
    if len(set(order.tolist())) < 3 or np.abs(sizes[1] / sizes[0][order] - 1).max() > SAME_SIZE:
        return False
    # of the rotation that is left between the axes that go together
    return bool((cosines.max(0).sum() - 1) / 2 > np.cos(np.radians(SAME_ANGLE)))


def passband(shape: tuple[int, ...], voxel_size: tuple[float, ...], first: np.ndarray, other: np.ndarray):
    """Share of each spatial frequency in which scans of two slabs can be compared, in the layout of `rfft`.

    Along each axis of each slab it falls as a cosine from 1 at `KEPT` of the highest frequency to 0 at that;
    it is 1 where both slabs have the same voxels, see `is_alike`.

    Parameters
    ----------
    first, other : (3, 3)
        In their columns the edges (mm) of a voxel of each, along the axes of the grid.

    Returns
    -------
    ndarray of float32

    Examples
    --------
    >>> float(passband((8, 8, 8), (1, 1, 1), np.eye(3), np.diag([-1, 1, 1])))
    1.0
    >>> passband((8, 8, 8), (1, 1, 1), np.eye(3), 2 * np.eye(3))[:, 0, 0].round(2).tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    if is_alike(first, other):
        return np.float32(1)
    k = frequencies(shape, voxel_size)
    band = np.float32(1)
    for slab in (first, other):
        for edge in np.asarray(slab, np.float32).T:
            share = 2 * np.abs(edge[0] * k[0] + edge[1] * k[1] + edge[2] * k[2])
            beyond = np.clip((share - np.float32(KEPT)) / np.float32(1 - KEPT), 0, 1)
            band = band * (np.float32(0.5) + np.float32(0.5) * np.cos(np.float32(np.pi) * beyond))
    return band


def bands_of(box: Box, grid: Grid, slabs: Sequence[np.ndarray] | None, n: int):
    """`passband` of each of ``n`` positions; 1 for the first, on its own grid, and without ``slabs``."""
    if slabs is None:
        return (np.float32(1),) * n
    first, *others = slabs
    return np.float32(1), *(passband(box.shape, grid.voxel_size, first, one) for one in others)


def response(products: np.ndarray, b0_dir: Sequence[float] | np.ndarray):
    r"""Field of each component of the tensor per ppm [1]_.

    .. math:: F = \tfrac{1}{3} h^T X h - (k \cdot h)\, k^T X h

    Off-diagonal components stand for both of their places.

    Parameters
    ----------
    products : (6, ...)
        :math:`k_a k_b` of unit vectors k, in the order of COMPONENTS.
    b0_dir : (3,)
        h, unit vector.

    Yields
    ------
    ndarray of float
        Of each component in the order of COMPONENTS.

    References
    ----------
    .. [1] Liu (2010), MRM 63:1471. doi:10.1002/mrm.22482
    """
    h, full = np.asarray(b0_dir, np.float32), dict(zip(COMPONENTS, products, strict=True))
    kernel = [h[a] / 3 - sum(full[min(a, c), max(a, c)] * h[c] for c in range(3)) for a in range(3)]
    for a, b in COMPONENTS:
        yield kernel[a] * h[a] if a == b else kernel[a] * h[b] + kernel[b] * h[a]


@dataclass(frozen=True)
class Scalar:
    """Fields of a scalar susceptibility in several positions, on a padded box.

    ``kernels`` are those of the dipole times ``bands``, which the slabs resolve.
    """

    box: Box
    kernels: tuple[np.ndarray, ...]
    bands: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, box: Box, grid: Grid, directions: np.ndarray, slabs: Sequence[np.ndarray] | None = None):
        bands = bands_of(box, grid, slabs, len(directions))
        kernels = [
            band * dipole_kernel(box.shape, grid.voxel_size, tuple(h))
            for band, h in zip(bands, directions, strict=True)
        ]
        return cls(box, tuple(kernels), bands)

    def forward(self, chi: np.ndarray):
        """Fields (ppm), one a position, of ``chi`` (ppm)."""
        spectrum = rfft(chi)
        for kernel in self.kernels:
            yield irfft(spectrum * kernel, self.box.shape)

    def adjoint(self, fields: Iterable[np.ndarray]):
        """Sum over positions of the dipole kernel applied to ``fields``."""
        total = np.complex64(0)
        for kernel, one in zip(self.kernels, fields, strict=True):
            total = total + rfft(one) * kernel
        return irfft(total, self.box.shape)


@dataclass(frozen=True)
class Tensor:
    r"""Fields of a susceptibility tensor, given as six components, in several positions on a padded box.

    .. math:: F = \sum_a K_a m_a, \quad m = X h, \quad K_a = h_a / 3 - \sum_c P_{ac} h_c, \quad
              P_{ac} = k_a k_c / |k|^2

    ``products`` are the components of P. As in `dipole_kernel`, at the Nyquist plane of an even axis the mean
    over both signs of that frequency is taken: there the product of it and another one vanishes.
    """

    box: Box
    products: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, box: Box, grid: Grid, directions: np.ndarray):
        k = frequencies(box.shape, grid.voxel_size)
        square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
        square[0, 0, 0] = 1
        inner = [
            np.where(2 * np.arange(q.size) == n, 0, 1).reshape(q.shape)
            for q, n in zip(k, box.shape, strict=True)
        ]
        products = np.empty((6, *square.shape), np.float32)
        for product, (a, b) in zip(products, COMPONENTS, strict=True):
            product[...] = k[a] * k[b] / square if a == b else k[a] * inner[a] * k[b] * inner[b] / square
            product[0, 0, 0] = (a == b) / 3  # so that the mean has no field
        return cls(box, products, np.asarray(directions, np.float32))

    def forward(self, components: np.ndarray):
        """Fields (ppm), one a position, of six ``components`` (6, x, y, z; ppm)."""
        spectra = np.stack([rfft(one) for one in components])
        for h in self.directions:
            yield irfft(_project(spectra, self.products, h), self.box.shape)

    def adjoint(self, fields: Iterable[np.ndarray]):
        """Six components (6, x, y, z) of what the transpose makes of ``fields``."""
        totals = np.zeros(self.products.shape, np.complex64)
        for h, one in zip(self.directions, fields, strict=True):
            _spread(totals, rfft(one), self.products, h)
        return np.stack([irfft(total, self.box.shape) for total in totals])

    def inverse(self, ridge: np.ndarray):
        """Inverse (6, 6, ...) of ``adjoint`` after ``forward``, plus ``ridge`` (6, 6), at each frequency."""
        found = np.empty((6, *self.products.shape), np.float32)
        for i in range(self.products.shape[1]):
            p = self.products[:, i]
            normal = np.zeros((*p.shape[1:], 6, 6), np.float32) + ridge.astype(np.float32)
            for h in self.directions:
                c = np.stack([*response(p, h)], -1)
                normal += c[..., :, None] * c[..., None, :]
            found[:, :, i] = np.moveaxis(np.linalg.inv(normal), (-2, -1), (0, 1))
        return found


def apply_inverse(inverse: np.ndarray, components: np.ndarray):
    """Six components of what `Tensor.inverse` makes of six."""
    shape = components.shape[1:]
    spectra = [rfft(one) for one in components]
    found = []
    for row in inverse:
        total = row[0] * spectra[0]
        for one, spectrum in zip(row[1:], spectra[1:], strict=True):
            total += one * spectrum
        found.append(irfft(total, shape))
    return np.stack(found)


@numba.njit(cache=True)
def _kernel(p: np.ndarray, h: np.ndarray, i: int, j: int, k: int):
    """The three K of `Tensor` at a frequency."""
    x = h[0] / 3 - p[0, i, j, k] * h[0] - p[1, i, j, k] * h[1] - p[2, i, j, k] * h[2]
    y = h[1] / 3 - p[1, i, j, k] * h[0] - p[3, i, j, k] * h[1] - p[4, i, j, k] * h[2]
    z = h[2] / 3 - p[2, i, j, k] * h[0] - p[4, i, j, k] * h[1] - p[5, i, j, k] * h[2]
    return np.float32(x), np.float32(y), np.float32(z)


@numba.njit(cache=True, parallel=True)
def _project(s: np.ndarray, p: np.ndarray, h: np.ndarray):
    """Spectrum of the field of a position, of those of six components."""
    out = np.empty(s.shape[1:], np.complex64)
    for i in numba.prange(s.shape[1]):
        for j in range(s.shape[2]):
            for k in range(s.shape[3]):
                x, y, z = _kernel(p, h, i, j, k)
                out[i, j, k] = (
                    x * (s[0, i, j, k] * h[0] + s[1, i, j, k] * h[1] + s[2, i, j, k] * h[2])
                    + y * (s[1, i, j, k] * h[0] + s[3, i, j, k] * h[1] + s[4, i, j, k] * h[2])
                    + z * (s[2, i, j, k] * h[0] + s[4, i, j, k] * h[1] + s[5, i, j, k] * h[2])
                )
    return out


@numba.njit(cache=True, parallel=True)
def _spread(totals: np.ndarray, spectrum: np.ndarray, p: np.ndarray, h: np.ndarray):
    """Add the transpose of `_project` to the six components, in place."""
    for i in numba.prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                x, y, z = _kernel(p, h, i, j, k)
                f = spectrum[i, j, k]
                totals[0, i, j, k] += x * h[0] * f
                totals[1, i, j, k] += (x * h[1] + y * h[0]) * f
                totals[2, i, j, k] += (x * h[2] + z * h[0]) * f
                totals[3, i, j, k] += y * h[1] * f
                totals[4, i, j, k] += (y * h[2] + z * h[1]) * f
                totals[5, i, j, k] += z * h[2] * f
