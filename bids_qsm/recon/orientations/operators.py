"""The fields of susceptibility, and of its tensor, in several head positions, and their adjoints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.fourier import Box, dipole_kernel, frequencies, irfft, rfft
from bids_qsm.recon.grid import Grid

COMPONENTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Rows and columns of the six components of a symmetric tensor, in their order: xx, xy, xz, yy, yz, zz."""


def response(k: Sequence[np.ndarray], b0_dir: Sequence[float] | np.ndarray):
    r"""Field of each component of the tensor per ppm, for unit vectors k [1]_.

    .. math:: F = \tfrac{1}{3} h^T X h - (k \cdot h)\, k^T X h

    Off-diagonal components stand for both of their places.

    Parameters
    ----------
    k : three arrays
        Components of unit vectors.
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
    h = np.asarray(b0_dir, np.float32)
    along = sum(b * q for b, q in zip(h, k, strict=True))
    for a, b in COMPONENTS:
        one = h[a] * h[b] / np.float32(3) - along * k[a] * h[b]
        if a != b:
            one = one + h[a] * h[b] / np.float32(3) - along * k[b] * h[a]
        yield one


@dataclass(frozen=True)
class Scalar:
    """Fields of a scalar susceptibility in several positions, on a padded box."""

    box: Box
    kernels: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, box: Box, grid: Grid, directions: np.ndarray):
        one = [dipole_kernel(box.shape, grid.voxel_size, tuple(h)) for h in directions]
        return cls(box, tuple(one))

    def forward(self, chi: np.ndarray):
        """Fields (ppm), one a position, of ``chi`` (ppm)."""
        spectrum = rfft(chi)
        for kernel in self.kernels:
            yield irfft(spectrum * kernel, self.box.shape)

    def adjoint(self, fields: Sequence[np.ndarray]):
        """Sum over positions of the dipole kernel applied to ``fields``."""
        total = np.complex64(0)
        for kernel, one in zip(self.kernels, fields, strict=True):
            total = total + rfft(one) * kernel
        return irfft(total, self.box.shape)


@dataclass(frozen=True)
class Tensor:
    """Fields of a susceptibility tensor, given as six components, in several positions on a padded box.

    Kernels are made when they are used: those of 12 positions would fill the memory.
    """

    box: Box
    unit: tuple[np.ndarray, np.ndarray, np.ndarray]
    known: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, box: Box, grid: Grid, directions: np.ndarray):
        k = frequencies(box.shape, grid.voxel_size)
        length = np.sqrt(k[0] ** 2 + k[1] ** 2 + k[2] ** 2)
        length[0, 0, 0] = 1
        unit = tuple((one / length).astype(np.float32) for one in k)
        # on the planes where +k and -k share a sample, the kernel is not even: they are left out
        ends = [(2 * np.arange(q.size) == n).reshape(q.shape) for q, n in zip(k, box.shape, strict=True)]
        known = ~(ends[0] | ends[1] | ends[2])
        known[0, 0, 0] = False
        return cls(box, unit, known, np.asarray(directions, float))

    def _kernels(self, b0_dir: np.ndarray):
        for one in response(self.unit, b0_dir):
            yield (one * self.known).astype(np.float32)

    def forward(self, components: np.ndarray):
        """Fields (ppm), one a position, of six ``components`` (6, x, y, z; ppm)."""
        spectra = [rfft(one) for one in components]
        for h in self.directions:
            pairs = zip(self._kernels(h), spectra, strict=True)
            yield irfft(sum(kernel * one for kernel, one in pairs), self.box.shape)

    def adjoint(self, fields: Sequence[np.ndarray]):
        """Six components (6, x, y, z) of what the transpose makes of ``fields``."""
        totals = [np.zeros(self.known.shape, np.complex64) for _ in COMPONENTS]
        for h, one in zip(self.directions, fields, strict=True):
            spectrum = rfft(one)
            for total, kernel in zip(totals, self._kernels(h), strict=True):
                total += kernel * spectrum
        return np.stack([irfft(total, self.box.shape) for total in totals])
