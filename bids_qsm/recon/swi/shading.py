"""The magnitude of all echoes as one image, and the shading of the coils in it."""

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box, convolve, frequencies
from bids_qsm.recon.grid import Grid

COMBINATIONS = ('snr', 'average', 'last')


def combined_magnitude(magnitude: Array, combination: str):
    """Magnitude of all echoes as one image (float32, columns first as files are read).

    'snr' is the root sum of squares, in which an echo counts as its signal; 'average' is the mean, in which
    late echoes with more contrast count as much as the first; 'last' is the last echo alone.
    """
    if combination not in COMBINATIONS:
        raise UserError(f'combination is {combination!r}; it must be one of: {", ".join(COMBINATIONS)}.')
    if combination == 'last':
        return np.array(magnitude[..., -1], np.float32, order='F')
    echoes = magnitude.T.astype(np.float32, order='C', copy=False).reshape(magnitude.shape[3], -1)
    image = np.empty(echoes.shape[1], np.float32)
    _combine(echoes, combination == 'snr', image)
    return image.reshape(magnitude.shape[2::-1]).T


def divide_by_shading(image: Array, grid: Grid, width: float):
    """Divide ``image`` (columns first), in place, by its smooth part over its signal.

    The smooth part, of standard deviation ``width`` (mm), is made from means over small blocks, as it has no
    detail finer than them, and interpolated between their centres. Where there is no signal to smooth it
    stays at a tenth of the bright tissue's, so that noise is not raised.
    """
    blocks = np.array([max(int(width / (2.5 * v)), 1) for v in grid.voxel_size[::-1]])
    shape = tuple(int(-(-n // b)) for n, b in zip(image.T.shape, blocks, strict=True))
    coarse = Grid(shape, tuple(v * int(b) for v, b in zip(grid.voxel_size[::-1], blocks, strict=True)))
    floor = np.float32(0.1 * np.percentile(image[::2, ::2, ::2], 95))
    tiny = np.finfo(np.float32).tiny
    total, share = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    _block_means(image.T, blocks, floor, total, share)
    box = Box.around(np.ones(shape, bool), coarse, padding=3 * width)
    kernel = gaussian(box.shape, coarse.voxel_size, width)
    total, share = (box.uncrop(convolve(box.crop(part), kernel)) for part in (total, share))
    # far from any signal the ratio would be one of roundings
    np.maximum(share, np.float32(0.05), out=share)
    total /= share
    np.maximum(total, max(floor, tiny), out=total)
    _divide(
        image.T, total, *(_between(n, b, m) for n, b, m in zip(image.T.shape, blocks, shape, strict=True))
    )


def gaussian(shape: tuple[int, ...], voxel_size: tuple[float, float, float], width: float):
    """Gaussian mean of standard deviation ``width`` (mm), in the layout of `rfft`."""
    parts = [np.exp(-2 * (np.pi * np.float32(width) * f) ** 2) for f in frequencies(shape, voxel_size)]
    for part in parts:
        # arithmetic with the tiniest of floats is slow
        part[part < np.finfo(np.float32).eps] = 0
    return parts[0] * parts[1] * parts[2]


def _between(size: int, block: int, count: int):
    """For each voxel of an axis the block centre before it and the share of the one after."""
    at = np.clip((np.arange(size) + 0.5) / block - 0.5, 0, count - 1)
    # the last centre has none after it
    low = np.minimum(at.astype(np.int64), max(count - 2, 0))
    return low, (at - low).astype(np.float32)


@njit(cache=True, parallel=True, fastmath=True)
def _combine(echoes: Array, squares: bool, out: Array):
    number, voxels = echoes.shape
    chunk = 4096
    for c in prange((voxels + chunk - 1) // chunk):
        first, last = c * chunk, min((c + 1) * chunk, voxels)
        total = np.zeros(last - first, np.float32)
        for e in range(number):
            part = echoes[e, first:last]
            for v in range(last - first):
                total[v] += part[v] * part[v] if squares else part[v]
        for v in range(last - first):
            out[first + v] = np.sqrt(total[v]) if squares else total[v] / np.float32(number)


@njit(cache=True, parallel=True)
def _block_means(image: Array, blocks: Array, floor: float, total: Array, share: Array):
    """Sum of the signal, and of where it is, over each block, over the voxels of a full one."""
    nx, ny, nz = image.shape
    scale = np.float32(1 / (blocks[0] * blocks[1] * blocks[2]))
    for a in prange(total.shape[0]):
        for i in range(a * blocks[0], min((a + 1) * blocks[0], nx)):
            for j in range(ny):
                b = j // blocks[1]
                for c in range(total.shape[2]):
                    signal, count = np.float32(0), np.float32(0)
                    for k in range(c * blocks[2], min((c + 1) * blocks[2], nz)):
                        value = image[i, j, k]
                        if value > floor:
                            signal += value
                            count += np.float32(1)
                    total[a, b, c] += scale * signal
                    share[a, b, c] += scale * count


@njit(cache=True, parallel=True)
def _divide(
    image: Array,
    coarse: Array,
    along_x: tuple[Array, Array],
    along_y: tuple[Array, Array],
    along_z: tuple[Array, Array],
):
    """Divide by the linear interpolation of ``coarse``, row by row."""
    nx, ny, nz = image.shape
    depth = coarse.shape[2]
    for i in prange(nx):
        row = np.empty(depth, np.float32)
        a, p = along_x[0][i], along_x[1][i]
        up = min(a + 1, coarse.shape[0] - 1)
        for j in range(ny):
            b, q = along_y[0][j], along_y[1][j]
            right = min(b + 1, coarse.shape[1] - 1)
            one = np.float32(1)
            for c in range(depth):
                near = (one - q) * coarse[a, b, c] + q * coarse[a, right, c]
                far = (one - q) * coarse[up, b, c] + q * coarse[up, right, c]
                row[c] = (one - p) * near + p * far
            for k in range(nz):
                c, r = along_z[0][k], along_z[1][k]
                after = min(c + 1, depth - 1)
                image[i, j, k] /= (one - r) * row[c] + r * row[after]
