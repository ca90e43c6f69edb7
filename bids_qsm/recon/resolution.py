"""Coarser voxels of complex images, by the part of k-space that they can hold."""

from collections.abc import Iterator, Sequence

import numpy as np

from bids_qsm.recon.grid import Grid

SAME = 0.01
"""Share by which two voxel sizes may differ and are taken for one."""


def coarser_shape(grid: Grid, voxel_size: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis that fit into the field of view, those of an axis of equal size unchanged."""
    return tuple(
        n if is_same(old, new) else max(int(n * old / new + 1e-6), 1)
        for n, old, new in zip(grid.shape, grid.voxel_size, voxel_size, strict=True)
    )


def to_finer(grid: Grid, voxel_size: Sequence[float]) -> np.ndarray:
    """Matrix (4, 4) from indices of voxels of a size to those of ``grid``, about the centre of the view."""
    made, shape = np.eye(4), coarser_shape(grid, voxel_size)
    for axis, (n, m, old, new) in enumerate(zip(grid.shape, shape, grid.voxel_size, voxel_size, strict=True)):
        if not is_same(old, new):
            made[axis, axis] = new / old
            made[axis, 3] = (n - 1) / 2 - (m - 1) / 2 * new / old
    return made


def is_same(old: float, new: float) -> bool:
    """Whether two voxel sizes (mm) are one."""
    return abs(new - old) <= SAME * old


def band_limited(n: int, ratio: float, m: int) -> np.ndarray:
    r"""Matrix (m, n) that samples a periodic signal at ``m`` points ``ratio`` apart, about its centre.

    .. math:: K_{ij} = \frac 1 n \sum_{|k| < n / 2r} e^{2 \pi i k (x_i - j) / n}

    Frequencies that samples so far apart cannot hold are left out, so that nothing folds back.

    >>> band_limited(8, 2.0, 4).sum(1).round(6)
    array([1., 1., 1., 1.])
    """
    at = (np.arange(m) - (m - 1) / 2) * ratio + (n - 1) / 2
    highest = int(np.ceil(n / (2 * ratio) - 1e-9)) - 1
    angle = 2 * np.pi * (at[:, None] - np.arange(n)) / n
    return (1 + 2 * sum((np.cos(k * angle) for k in range(1, highest + 1)), np.zeros_like(angle))) / n


def coarsen(
    magnitude: np.ndarray, phase: np.ndarray, grid: Grid, voxel_size: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resample complex images to larger voxels, as if less of k-space had been acquired.

    Parameters
    ----------
    magnitude, phase : ndarray, shape ``(*grid.shape, echoes)``
        Phase in rad.
    grid : Grid
    voxel_size : sequence of float
        Along each axis (mm), none smaller than that of ``grid``.

    Returns
    -------
    magnitude, phase : ndarray, shape ``(*coarser_shape(grid, voxel_size), echoes)``
    to_old : ndarray, shape (4, 4)
        From indices of new voxels to those of old ones.

    Raises
    ------
    ValueError
        A voxel would be smaller than it was acquired.
    """
    small = [new for old, new in zip(grid.voxel_size, voxel_size, strict=True) if new < (1 - SAME) * old]
    if small:
        raise ValueError(f'{small[0]:g} mm is smaller than the voxels of {grid.voxel_size}')
    shape, echoes, kernels = coarser_shape(grid, voxel_size), magnitude.shape[3], {}
    for axis, (n, m, old, new) in enumerate(zip(grid.shape, shape, grid.voxel_size, voxel_size, strict=True)):
        if not is_same(old, new):
            kernels[axis] = band_limited(n, new / old, m).astype(np.float32)
    made = np.empty((2, *shape, echoes), np.float32)
    for echo, image in enumerate(_complex(magnitude, phase)):
        for axis, kernel in kernels.items():
            image = np.moveaxis(np.tensordot(kernel, image, (1, axis)), 0, axis)
        made[0, ..., echo], made[1, ..., echo] = np.abs(image), np.angle(image)
    return made[0], made[1], to_finer(grid, voxel_size)


def _complex(magnitude: np.ndarray, phase: np.ndarray) -> Iterator[np.ndarray]:
    """Complex image of each echo; voxels without a signal are 0."""
    for echo in range(magnitude.shape[3]):
        signal = magnitude[..., echo] * np.exp(1j * phase[..., echo])
        yield np.nan_to_num(signal).astype(np.complex64)
