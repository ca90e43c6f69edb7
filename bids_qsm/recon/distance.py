"""Depth of voxels in a mask."""

from collections.abc import Sequence

import numba
import numpy as np

from bids_qsm.recon.arrays import Array


def depth(mask: Array, voxel_size: Sequence[float], limit: float):
    """Distance (mm) of each voxel of a mask to the centre of the nearest voxel outside it, at most ``limit``.

    Beyond the volume all is outside. Squared distances are exact. There is one pass along each axis, and each
    row searches no farther than its largest distance so far.

    Parameters
    ----------
    mask : ndarray of bool, 3D
    voxel_size : tuple of float
        (mm).

    Returns
    -------
    ndarray of float32
        0 outside the mask.

    >>> depth(np.ones((1, 1, 5), bool), (9.0, 9.0, 1.0), 2.5).ravel().tolist()
    [1.0, 2.0, 2.5, 2.0, 1.0]
    """
    square = np.empty(mask.shape, np.float32)
    steps = tuple(np.float32(v) for v in voxel_size)
    _along_lines(np.ascontiguousarray(mask), square, steps[2], np.float32(limit))
    _across(square, square.copy(), steps[1])
    # the same pass along the first axis, in the same memory layout, for which the kernel is compiled
    swapped = np.ascontiguousarray(square.swapaxes(0, 1))
    _across(swapped, swapped.copy(), steps[0])
    return np.sqrt(swapped.swapaxes(0, 1), out=square)


@numba.njit(cache=True, parallel=True)
def _along_lines(mask: Array, square: Array, step: float, limit: float):
    """Squared distance along the last axis."""
    nx, ny, nz = mask.shape
    for i in numba.prange(nx):
        for j in range(ny):
            far = np.float32(0)
            for k in range(nz):
                far = min(far + step, limit) if mask[i, j, k] else np.float32(0)
                square[i, j, k] = far
            far = np.float32(0)
            for k in range(nz - 1, -1, -1):
                far = min(far + step, limit) if mask[i, j, k] else np.float32(0)
                square[i, j, k] = min(far, square[i, j, k]) ** 2


@numba.njit(cache=True, parallel=True, fastmath=True)
def _across(square: Array, before: Array, step: float):
    """Lower the squared distances by those of the neighbouring rows, ``before``, along the second axis."""
    nx, ny, nz = square.shape
    for i in numba.prange(nx):
        for j in range(ny):
            row = square[i, j]
            farthest = row.max()
            for t in range(1, ny + 1):
                more = (np.float32(t) * step) ** 2
                if more >= farthest:
                    break
                farthest = np.float32(0)
                if j - t >= 0 and j + t < ny:
                    low, high = before[i, j - t], before[i, j + t]
                    for k in range(nz):
                        row[k] = min(row[k], min(low[k], high[k]) + more)
                        farthest = max(farthest, row[k])
                else:
                    # beyond the volume, on one side at least
                    for k in range(nz):
                        row[k] = min(row[k], more)
                        farthest = max(farthest, row[k])


def depth_in_slab(mask: Array, voxel_size: Sequence[float], limit: float):
    """`depth` in a mask that goes on beyond the ends of the volume, as in a slab.

    >>> depth_in_slab(np.ones((1, 1, 2), bool), (1.0, 1.0, 1.0), 3.0).ravel().tolist()
    [3.0, 3.0]
    """
    pad = int(np.ceil(limit / min(voxel_size)))
    return depth(np.pad(mask, pad, mode='edge'), voxel_size, limit)[3 * (slice(pad, -pad),)]
