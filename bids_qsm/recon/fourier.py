"""Real FFTs of padded boxes, and the kernels of convolutions; the only place that calls an FFT library."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from bids_qsm.recon.arrays import Array, is_numpy, like, namespace, to_numpy
from bids_qsm.recon.grid import Grid


def rfft(x: Array):
    """Half-complex 3D transform of a real array; float32 gives complex64."""
    if not is_numpy(x):
        return namespace(x).fft.rfftn(x, axes=(0, 1, 2))
    return scipy.fft.rfftn(x, axes=(0, 1, 2), workers=numba.get_num_threads())


def irfft(spectrum: Array, shape: tuple[int, ...]):
    """Inverse of `rfft`; ``spectrum`` is destroyed."""
    if not is_numpy(spectrum):
        return namespace(spectrum).fft.irfftn(spectrum, s=tuple(shape), axes=(0, 1, 2))
    return scipy.fft.irfftn(
        spectrum, s=shape, axes=(0, 1, 2), workers=numba.get_num_threads(), overwrite_x=True
    )


def next_even_size(n: int):
    """Least even size from ``n`` on that has a fast transform."""
    return 2 * scipy.fft.next_fast_len((n + 1) // 2, real=True)


def refined(spectrum: np.ndarray, shape: tuple[int, ...]):
    """Array of twice the even ``shape`` whose every second value has the ``spectrum``, between them by sinc.

    What the `rfft` has at the highest frequency of an axis, where +k and -k share one sample, goes half to
    each of them, so that values at the old places stay as they were.

    >>> noise = np.random.default_rng(0).standard_normal((4, 6, 8), dtype=np.float32)
    >>> bool(np.allclose(refined(rfft(noise), noise.shape)[::2, ::2, ::2], noise, atol=1e-6))
    True
    """
    fine = tuple(2 * n for n in shape)
    wide = np.zeros((fine[0], fine[1], fine[2] // 2 + 1), np.complex64)
    halves = [n // 2 for n in shape]
    # of the last axis, the other half is implied
    spectrum = np.concatenate([spectrum[..., :-1], spectrum[..., -1:] / 2], -1)
    for x in (slice(0, halves[0] + 1), slice(-halves[0], None)):
        for y in (slice(0, halves[1] + 1), slice(-halves[1], None)):
            wide[x, y, : halves[2] + 1] = spectrum[x, y]
    for axis in (0, 1):
        for n in (halves[axis], -halves[axis]):
            wide[(slice(None),) * axis + (n,)] /= 2
    return 8 * irfft(wide, fine)


def convolve(x: Array, kernel: Array):
    """Circular convolution of ``x`` with a real, even kernel given in the layout of `rfft`."""
    spectrum = rfft(x)
    spectrum *= kernel
    return irfft(spectrum, x.shape)


@dataclass(frozen=True)
class Box:
    """A region of a volume and the zero-padded shape in which its transforms are taken."""

    volume: tuple[int, int, int]
    region: tuple[slice, slice, slice]
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, mask: Array, grid: Grid, *, padding: float, margin: float = 0.0):
        """Box of ``mask`` widened by ``margin`` mm, padded with at least ``padding`` mm of zeros.

        The margin is of real voxels and ends at the edge of the volume; the padding keeps the two ends of a
        circular convolution apart. Shapes grow to the next size that has a fast transform. ValueError where
        the mask is empty.
        """
        if not mask.any():
            raise ValueError('The mask is empty; give one with at least one voxel.')
        region, shape = [], []
        for axis, step in enumerate(grid.voxel_size):
            line = mask.any(axis=tuple(a for a in range(3) if a != axis))
            used = np.flatnonzero(to_numpy(line))
            extra = int(np.ceil(margin / step))
            start, stop = max(used[0] - extra, 0), min(used[-1] + 1 + extra, mask.shape[axis])
            region.append(slice(int(start), int(stop)))
            size = stop - start + int(np.ceil(padding / step))
            shape.append(scipy.fft.next_fast_len(int(size), real=True))
        return cls(tuple(mask.shape), tuple(region), tuple(shape))

    def crop(self, volume: Array):
        """The region of ``volume``, in a zero-padded array of the same type."""
        out = _zeros(self.shape, volume)
        out[self._inner] = volume[self.region]
        return out

    def uncrop(self, box: Array):
        """The inverse of `crop`: back in the volume, zero outside the region."""
        out = _zeros(self.volume, box)
        out[self.region] = box[self._inner]
        return out

    @property
    def _inner(self):
        """Where the region lies in the padded box: in the middle, surrounded by zeros."""
        sizes = [s.stop - s.start for s in self.region]
        starts = [(n - size) // 2 for n, size in zip(self.shape, sizes, strict=True)]
        return tuple(slice(a, a + size) for a, size in zip(starts, sizes, strict=True))


def _zeros(shape: tuple[int, ...], reference: Array):
    """Zeros of the type and library of ``reference``, on its device."""
    if is_numpy(reference):
        return np.zeros(shape, reference.dtype)
    return namespace(reference).zeros(shape, dtype=reference.dtype, device=reference.device)


def frequencies(shape: tuple[int, ...], voxel_size: tuple[float, ...]):
    """Three broadcastable float32 arrays of spatial frequency (cycles/mm) in the layout of `rfft`."""
    axes = [
        scipy.fft.fftfreq(shape[0], voxel_size[0]),
        scipy.fft.fftfreq(shape[1], voxel_size[1]),
        scipy.fft.rfftfreq(shape[2], voxel_size[2]),
    ]
    return np.meshgrid(*(a.astype(np.float32) for a in axes), indexing='ij', sparse=True)


def gradient_energy(shape: tuple[int, ...], voxel_size: tuple[float, ...], reference: Array | None = None):
    r"""Spectrum of :math:`\nabla^T \nabla` (1/mm^2), periodic forward differences, laid out as by `rfft`."""
    total = np.float32(0)
    for k, h in zip(frequencies(shape, voxel_size), voxel_size, strict=True):
        total = total + (2 - 2 * np.cos(2 * np.pi * k * np.float32(h))) / np.float32(h**2)
    return like(total.astype(np.float32), reference)


def dipole_kernel(
    shape: tuple[int, ...],
    voxel_size: tuple[float, ...],
    b0_dir: tuple[float, ...],
    reference: Array | None = None,
):
    r"""Unit dipole in the layout of `rfft`, for any direction ``b0_dir`` of B0 along the voxel axes [1]_.

    .. math:: D(k) = 1/3 - (k \cdot b)^2 / |k|^2, \quad D(0) = 0

    At the Nyquist plane of an even axis, where the frequencies +k and -k share one sample, their mean is
    taken, so that the kernel stays even and the convolution its own adjoint.

    References
    ----------
    .. [1] Marques & Bowtell (2005), Concepts Magn Reson B 25:65. doi:10.1002/cmr.b.20034
    """
    k = frequencies(shape, voxel_size)
    flips = [np.where(2 * np.arange(f.size) == n, -1, 1) for f, n in zip(k, shape, strict=True)]
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1
    along = sum(np.float32(b) * f for b, f in zip(b0_dir, k, strict=True))
    projected = along**2
    if any((f < 0).any() for f in flips):
        projected = _even(projected, k, flips, b0_dir)
    kernel = np.float32(1 / 3) - projected / square
    kernel[0, 0, 0] = 0
    return like(kernel.astype(np.float32), reference)


def _even(projected: Array, k: Sequence[Array], flips: Sequence[Array], b0_dir: tuple[float, ...]):
    """Mean of ``(k.b)^2`` over both signs of each Nyquist frequency."""
    for axis, flip in enumerate(flips):
        nyquist = np.flatnonzero(flip < 0)
        if not nyquist.size:
            continue
        # (a + c)^2 averaged over c = +-|c| is a^2 + c^2: the cross terms of that axis vanish on its plane
        plane = [slice(None)] * 3
        plane[axis] = slice(int(nyquist[0]), int(nyquist[0]) + 1)
        plane = tuple(plane)
        own = (np.float32(b0_dir[axis]) * k[axis].ravel()[nyquist[0]]) ** 2
        others = [a for a in range(3) if a != axis]
        p, q = (np.float32(b0_dir[a]) * k[a] for a in others)
        cross = np.float32(2) * p * q
        for a in others:
            # where two axes are at Nyquist at once, no cross term is left at all
            cross = cross * np.where(flips[a] < 0, 0, 1).reshape([-1 if d == a else 1 for d in range(3)])
        projected[plane] = own + p**2 + q**2 + cross
    return projected


def smv_kernel(
    shape: tuple[int, ...],
    voxel_size: tuple[float, ...],
    radius: float,
    reference: Array | None = None,
):
    """Mean over a ball of ``radius`` mm, in the layout of `rfft`; voxels cut by its surface count in part.

    The weights sum to 1 and are even along every axis, so the kernel is real and keeps harmonic fields to the
    accuracy with which the voxels tile the ball.
    """
    ball = ball_weights(voxel_size, radius)
    kernel = np.zeros(shape, np.float32)
    # a ball wider than the box overlaps itself, and adds up there
    where = [np.arange(-(n // 2), n // 2 + 1) % s for n, s in zip(ball.shape, shape, strict=True)]
    np.add.at(kernel, np.ix_(*where), ball)
    return like(np.ascontiguousarray(rfft(kernel).real), reference)


def ball_weights(voxel_size: tuple[float, ...], radius: float, *, samples: int = 5):
    """Share of each voxel that lies in a ball of ``radius`` mm about the central voxel, summing to 1.

    Where voxels are not cubes, the ball is flattened along their long sides, and the weights of the central
    voxel and its neighbours are adjusted until the weights have equal variance along all axes. The mean of a
    harmonic field of second order is then exact.
    """
    steps = np.asarray(voxel_size, float)
    # sampling by voxels adds a twelfth of the squared voxel size to the variance
    wider = 5 / 12 * (steps**2 - steps.min() ** 2)
    flat = radius / np.sqrt(np.maximum(radius**2 - wider, (0.01 * radius) ** 2))
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    reach = [int(np.ceil(radius / step + 0.5)) for step in steps]
    x, y, z = np.meshgrid(
        *(
            ((np.arange(n + 1)[:, None] + offsets).ravel() * step * f).astype(np.float32) ** 2
            for n, step, f in zip(reach, steps, flat, strict=True)
        ),
        indexing='ij',
        sparse=True,
    )
    inside = (x + y + z) <= radius**2
    size = [n + 1 for n in reach]
    octant = inside.reshape(size[0], samples, size[1], samples, size[2], samples).mean((1, 3, 5))
    weights = np.pad(octant, [(n, 0) for n in reach], mode='reflect')
    weights /= weights.sum()
    lines = [weights.sum(others) for others in ((1, 2), (0, 2), (0, 1))]
    spread = [
        line @ (np.arange(-n, n + 1) * step) ** 2 for line, n, step in zip(lines, reach, steps, strict=True)
    ]
    for axis, step in enumerate(steps):
        lacking = (spread[int(np.argmin(steps))] - spread[axis]) / step**2
        weights[tuple(reach)] -= lacking
        for side in (-1, 1):
            weights[tuple(n + side * (a == axis) for a, n in enumerate(reach))] += lacking / 2
    return weights.astype(np.float32)
