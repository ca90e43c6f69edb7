"""The field that a distribution of susceptibility makes in the scanner."""

from collections.abc import Sequence

import numba
import numpy as np
from scipy import fft
from scipy.interpolate import make_interp_spline

from bids_qsm.phantom.fibres import MIDDLE
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.sampling import expand
from bids_qsm.recon.grid import Grid


def dipole_field(chi: np.ndarray, grid: Grid, *, pad: float = 1.4):
    r"""Field of a susceptibility distribution, by convolution with the unit dipole [1]_.

    .. math:: f(k) = w(k) \left(\tfrac{1}{3} - \frac{(k \cdot b)^2}{|k|^2}\right) \chi(k), \quad f(0) = 0

    The window w falls from 1 at 60 % of the highest frequency to 0 at the highest: there the kernel of an
    oblique B0 is discontinuous, and the edges of air would cause ringing.

    Parameters
    ----------
    chi : ndarray of float, shape ``grid.shape``
        Susceptibility (ppm) relative to what surrounds the volume.
    grid : Grid
    pad : float
        Size of the zero-filled volume of the convolution, relative to ``chi``.

    Returns
    -------
    ndarray of float32, shape ``grid.shape``
        Field (ppm of B0).

    References
    ----------
    .. [1] Marques & Bowtell (2005), Concepts Magn Reson B 25:65. doi:10.1002/cmr.b.20034
    """
    shape = [fft.next_fast_len(int(np.ceil(n * pad)), real=True) for n in grid.shape]
    workers = numba.get_num_threads()
    spectrum = fft.rfftn(np.asarray(chi, np.float32), shape, workers=workers)
    k, window = _axes(shape, grid)
    along = [np.float32(b) * q for b, q in zip(grid.b0_dir, k, strict=True)]
    for i in range(shape[0]):  # a slab at a time: the kernel of a fine grid is large
        square = k[0][i] ** 2 + k[1][:, None] ** 2 + k[2] ** 2
        if i == 0:
            square[0, 0] = 1
        kernel = np.float32(1 / 3) - (along[0][i] + along[1][:, None] + along[2]) ** 2 / square
        if i == 0:
            kernel[0, 0] = 0
        spectrum[i] *= kernel * (window[0][i] * window[1][:, None] * window[2])
    field = fft.irfftn(spectrum, shape, workers=workers, overwrite_x=True)
    return np.ascontiguousarray(field[tuple(slice(n) for n in grid.shape)])


def _axes(shape: Sequence[int], grid: Grid):
    """Frequencies (1/mm) along each axis of a half-complex transform, and the window of `dipole_field`."""
    k = [fft.fftfreq(n, d).astype(np.float32) for n, d in zip(shape, grid.voxel_size, strict=True)]
    k[2] = fft.rfftfreq(shape[2], grid.voxel_size[2]).astype(np.float32)
    window = [
        np.cos(np.pi / 2 * np.clip((2 * np.abs(q) * d - 0.6) / 0.4, 0, 1)).astype(np.float32) ** 2
        for q, d in zip(k, grid.voxel_size, strict=True)
    ]
    return k, window


def moment_field(moments: np.ndarray, grid: Grid, *, pad: float = 1.4):
    r"""Field of magnetic moments of any direction, as `dipole_field` has it of those along B0 [1]_.

    .. math:: f(k) = w(k) \left(\tfrac{1}{3} b \cdot m(k) - \frac{(k \cdot b) (k \cdot m(k))}{|k|^2}\right)

    Parameters
    ----------
    moments : ndarray of float, ``(*grid.shape, 3)``
        Susceptibility tensor times b (ppm), along the voxel axes.

    Returns
    -------
    ndarray of float32, shape ``grid.shape``
        Field (ppm of B0).

    References
    ----------
    .. [1] Liu (2010), MRM 63:1471. doi:10.1002/mrm.22482
    """
    shape = [fft.next_fast_len(int(np.ceil(n * pad)), real=True) for n in grid.shape]
    workers = numba.get_num_threads()
    k, window = _axes(shape, grid)
    total = np.zeros((shape[0], shape[1], shape[2] // 2 + 1), np.complex64)
    for axis, b in enumerate(grid.b0_dir):
        spectrum = fft.rfftn(np.asarray(moments[..., axis], np.float32), shape, workers=workers)
        for i in range(shape[0]):
            q = (k[0][i], k[1][:, None], k[2])
            square = q[0] ** 2 + q[1] ** 2 + q[2] ** 2
            if i == 0:
                square[0, 0] = 1
            along = sum(np.float32(c) * one for c, one in zip(grid.b0_dir, q, strict=True))
            kernel = (np.float32(b / 3) - along * q[axis] / square) * (
                window[0][i] * window[1][:, None] * window[2]
            )
            total[i] += spectrum[i] * kernel
    total[0, 0, 0] = 0
    field = fft.irfftn(total, shape, workers=workers, overwrite_x=True)
    return np.ascontiguousarray(field[tuple(slice(n) for n in grid.shape)])


def field_of_fibres(head: Head, shape: tuple[int, ...], affine: np.ndarray):
    """Field (ppm) of the anisotropy of fibres on a grid, and the shift by their microstructure."""
    assert head.fibres is not None
    grid = Grid.from_affine(shape, affine)
    fractions, vectors = head.fibre_maps(shape, affine)
    strength = fractions / np.float32(MIDDLE)
    vectors = vectors @ (affine[:3, :3] / np.array(grid.voxel_size)).astype(np.float32)  # along voxel axes
    b = np.array(grid.b0_dir, np.float32)
    cosine = vectors @ b
    shift = head.fibres.microstructure * strength * (1 - cosine**2)
    # A b of A = anisotropy (v v^T - I / 3)
    vectors *= (strength * cosine)[..., None]
    vectors -= strength[..., None] * b / 3
    return shift + moment_field(np.float32(head.fibres.anisotropy) * vectors, grid)


def overlap(coarse: np.ndarray, low: float, high: float):
    """Share of each cell of the regular axis ``coarse`` (centres) that lies between ``low`` and ``high``."""
    half = (coarse[1] - coarse[0]) / 2
    covered = np.minimum(coarse + half, high) - np.maximum(coarse - half, low)
    return np.clip(covered / (2 * half), 0, 1).astype(np.float32)


def field_of_head(
    head: Head,
    shape: tuple[int, ...],
    affine: np.ndarray,
    *,
    margin: float = 10.0,
    far_spacing: float = 4.0,
    far_reach: float = 240.0,
):
    """Total field (ppm) of a head on a grid, including sources outside the grid.

    Up to ``margin`` mm around the grid the head is sampled at its spacing, beyond at ``far_spacing``, along
    the same axes. The two fields are added, as the dipole model is linear.
    """
    grid = Grid.from_affine(shape, affine)
    steps = np.array(grid.voxel_size)
    extra = np.ceil(margin / steps).astype(int)
    near_shape = tuple(int(n + 2 * e) for n, e in zip(shape, extra, strict=True))
    near_affine = affine.copy()
    near_affine[:3, 3] -= affine[:3, :3] @ extra
    air = head.air_chi
    chi = head.sample(near_shape, near_affine, ('chi',))['chi'] - air
    field = dipole_field(chi, Grid(near_shape, grid.voxel_size, grid.b0_dir))
    field = field[tuple(slice(e, e + n) for e, n in zip(extra, shape, strict=True))]

    count = int(2 * far_reach / far_spacing)
    middle = (np.array(shape) - 1) / 2
    offsets = far_spacing * (np.arange(count) - (count - 1) / 2)
    far_affine = affine.copy()
    far_affine[:3, :3] = affine[:3, :3] / steps * far_spacing
    corner = far_affine[:3, :3] @ np.full(3, (count - 1) / 2)
    far_affine[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - corner
    far = head.sample((count,) * 3, far_affine, ('chi',))['chi'] - air
    half = (np.array(near_shape) * steps) / 2
    x, y, z = (overlap(offsets, -h, h) for h in half)
    far *= 1 - x[:, None, None] * y[:, None] * z
    outer = dipole_field(far, Grid((count,) * 3, (far_spacing,) * 3, grid.b0_dir), pad=1.0)
    fine = [s * (np.arange(n) - m) for n, s, m in zip(shape, steps, middle, strict=True)]
    bases = [make_interp_spline(offsets, np.eye(count), k=3)(at) for at in fine]
    return field + expand(outer, bases)
