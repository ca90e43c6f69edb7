"""Removing the phase at TE = 0 (MCPC-3D-S), of the combined image or of each receive coil."""

from collections.abc import Sequence

import numpy as np
from numba import njit, prange

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.unwrap import romeo

TURN, HALF, ONE = (np.float32(c) for c in (2 * np.pi, 0.5, 1))


def remove_offset(
    phase: Array,
    magnitude: Array,
    mask: Array | None,
    echo_times: Sequence[float],
    grid: Grid,
    *,
    sigma_mm: float = 4.0,
):
    r"""Estimate the phase at TE = 0 from the first two echoes, smooth it, and subtract it [1]_.

    .. math:: \phi_0 = \phi_1 - \frac{T_1}{T_2 - T_1} U(\phi_2 - \phi_1)

    where U is unwrapping by ROMEO, which is left out where the factor is a whole number: whole turns then
    stay whole turns. The offset is smoothed as a complex number weighted by m1 m2. The residual of the
    smoothing is smoothed again and added, which reduces the bias on slopes and at the rim of the mask. Where
    voxels are small against the Gaussian, means of blocks of them are smoothed, and interpolated. A single
    echo is returned unchanged, with offset 0.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude.
    mask : ndarray of bool, shape (x, y, z), or None
        Where to estimate; None is all voxels with signal. The smooth offset extends beyond the mask.
    echo_times : sequence of float
        Rising echo times (s).
    sigma_mm : float
        Standard deviation of the Gaussian (mm), 0 for none.

    Returns
    -------
    phase : ndarray of float32, shape (x, y, z, echo)
        Phase without offset, in [-pi, pi).
    offset : ndarray of float32, shape (x, y, z)
        The offset (rad).

    References
    ----------
    .. [1] Eckstein et al. (2018), MRM 79:2996. doi:10.1002/mrm.26963
    """
    if len(echo_times) == 1:
        return phase, np.zeros(phase.shape[:3], np.float32)
    if mask is None:
        mask = signal_mask(magnitude[..., 0])
    first = phase[..., 0]
    weight = magnitude[..., 0] * magnitude[..., 1]
    evolved = _unwrap_evolution(wrap(phase[..., 1] - first), weight, mask, echo_times)
    weight *= mask
    offset = _smooth_twice(wrap(first - evolved), weight, _sigmas(sigma_mm, grid))
    corrected = np.empty(phase.shape[::-1], np.float32)
    for e in range(phase.shape[3]):
        _subtract(np.ascontiguousarray(phase[..., e].T, np.float32), offset.T, corrected[e])
    return corrected.T, offset


def combine_coils(
    magnitude: Array, phase: Array, echo_times: Sequence[float], grid: Grid, *, sigma_mm: float = 4.0
):
    r"""Combine the images of receive coils, after removal of the phase of each at TE = 0 [1]_.

    .. math:: \phi_{0c} = \phi_{1c} - \frac{T_1}{T_2 - T_1}\, U\Big(\arg \sum_c m_{1c} m_{2c}
        e^{i (\phi_{2c} - \phi_{1c})}\Big), \quad
        S_k = \sum_c m_{kc}^2 e^{i (\phi_{kc} - \phi_{0c})}

    The phase evolution between the first two echoes is the same in all coils and is unwrapped once. Offsets
    are smoothed as in `remove_offset`. The weight is the squared magnitude (the magnitude in the paper), so
    that phase counts by its signal-to-noise ratio; the combined magnitude is the root sum of squares.

    Parameters
    ----------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo, coil)
        Magnitude and wrapped phase (rad).
    echo_times : sequence of float
        Rising echo times (s), two or more.
    sigma_mm : float
        Standard deviation of the Gaussian (mm), 0 for none.

    Returns
    -------
    magnitude, phase : ndarray of float32, shape (x, y, z, echo)

    Raises
    ------
    UserError
        With a single echo, from which the offsets of the coils cannot be estimated.

    References
    ----------
    .. [1] Eckstein et al. (2018), MRM 79:2996. doi:10.1002/mrm.26963
    """
    if len(echo_times) == 1:
        raise UserError(
            'The coils of a single echo cannot be combined, as their phase offsets are not known: '
            'give images that the scanner combined.'
        )
    coils = range(magnitude.shape[4])
    evolution = np.zeros(magnitude.shape[:3], np.complex64)
    for c in coils:
        product = magnitude[..., 0, c] * magnitude[..., 1, c]
        evolution += product * np.exp(1j * (phase[..., 1, c] - phase[..., 0, c]))
    weight = np.abs(evolution)
    mask = signal_mask(np.sqrt(weight))
    evolved = _unwrap_evolution(np.angle(evolution), weight, mask, echo_times)
    signal = np.zeros(magnitude.shape[:4], np.complex64, order='F')
    squares = np.zeros(magnitude.shape[:4], np.float32, order='F')
    for c in coils:
        weight = magnitude[..., 0, c] ** 2 * mask
        offset = _smooth_twice(wrap(phase[..., 0, c] - evolved), weight, _sigmas(sigma_mm, grid))
        for k in range(len(echo_times)):
            square = magnitude[..., k, c] ** 2
            squares[..., k] += square
            signal[..., k] += square * np.exp(1j * (phase[..., k, c] - offset))
    return np.sqrt(squares), np.angle(signal)


def _unwrap_evolution(evolution: Array, weight: Array, mask: Array, echo_times: Sequence[float]):
    """Phase evolution up to the first echo (rad), from that between the first two echoes."""
    step = echo_times[1] - echo_times[0]
    factor = echo_times[0] / step
    if abs(factor - round(factor)) > WHOLE:
        # the root makes the magnitude coherence of ROMEO that of one echo
        evolution = romeo(evolution[..., None], np.sqrt(weight)[..., None], mask, [step])[..., 0]
    return np.float32(factor) * evolution


WHOLE = 1e-4
"""Distance from a whole number, by which a turn of the evolution changes the offset by less than a thousandth
of a radian."""


def wrap(angle: Array):
    """Angle (rad) brought into [-pi, pi), float32.

    >>> round(float(wrap(np.float32([3 * np.pi / 2]))[0] / np.pi), 5)
    -0.5
    """
    return _wrap(np.asarray(angle, np.float32).T).T


def signal_mask(magnitude: Array):
    """Voxels brighter than a tenth of the 99th percentile: a quick estimate of the object."""
    return magnitude > 0.1 * np.percentile(magnitude[::2, ::2, ::2], 99)


@njit(inline='always')
def _wrapped(angle: float):
    return angle - TURN * np.floor(angle / TURN + HALF)


@njit(cache=True)
def _wrap_flat(angle: Array, out: Array):
    for i in range(angle.size):
        out[i] = _wrapped(angle[i])


@njit(cache=True)
def _subtract(phase: Array, offset: Array, out: Array):
    """Difference of two volumes, wrapped, into ``out``."""
    for z in range(phase.shape[0]):
        for y in range(phase.shape[1]):
            for x in range(phase.shape[2]):
                out[z, y, x] = _wrapped(phase[z, y, x] - offset[z, y, x])


def _wrap(angle: Array):
    angle = np.ascontiguousarray(angle)
    out = np.empty_like(angle)
    _wrap_flat(angle.ravel(), out.ravel())
    return out


RUN = 4096
"""Values that a convolution works on at a time."""


def _sigmas(sigma_mm: float, grid: Grid):
    """Standard deviations in voxels."""
    return [sigma_mm / size for size in grid.voxel_size]


def _smooth_twice(angle: Array, weight: Array, sigmas: Sequence[float]):
    """Argument of the Gaussian-smoothed ``weight * exp(i angle)`` plus that of its smoothed residual.

    It is 0 out of reach of any weight, and the angle itself for sigma 0.
    """
    if not any(sigmas):
        return angle
    # axes from here on as they lie in memory
    factors = tuple(max(1, int(sigma / COARSE)) for sigma in sigmas[::-1])
    # means of blocks and linear interpolation are smoothing too
    variances = (sigma**2 - (f * f - 1) / 4 for sigma, f in zip(sigmas[::-1], factors, strict=True))
    narrowed = [v**0.5 / f for v, f in zip(variances, factors, strict=True)]
    signal = _sum_blocks(np.ascontiguousarray(angle.T), np.ascontiguousarray(weight.T), factors)
    smooth = np.angle(_smooth(signal, narrowed))
    smooth += np.angle(_smooth(signal * np.exp(-1j * smooth), narrowed))
    return _interpolate(np.exp(1j * smooth), factors, angle.shape[::-1]).T


COARSE = 1.5
"""Least standard deviation of the Gaussian in blocks of voxels."""


def _smooth(signal: Array, sigmas: Sequence[float]):
    """Complex volume convolved with a Gaussian along each axis."""
    # real and imaginary part are the innermost axis: (all before, axis, all after)
    parts = signal.view(np.float32)
    for axis, sigma in enumerate(sigmas):
        radius = int(np.ceil(3 * sigma))
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
        before = int(np.prod(signal.shape[:axis]))
        parts = _convolve(parts.reshape(before, signal.shape[axis], -1), taps)
    return parts.reshape(-1).view(np.complex64).reshape(signal.shape)


@njit(cache=True)
def _sum_blocks(angle: Array, weight: Array, factors: tuple[int, int, int]):
    """Sums of ``weight * exp(i angle)`` over blocks of voxels."""
    fz, fy, fx = factors
    nz, ny, nx = angle.shape
    sums = np.zeros(((nz + fz - 1) // fz, (ny + fy - 1) // fy, (nx + fx - 1) // fx), np.complex64)
    for block in range(sums.shape[0]):
        row = np.empty(nx, np.complex64)
        for z in range(block * fz, min((block + 1) * fz, nz)):
            for y in range(ny):
                for x in range(nx):
                    here = angle[z, y, x]
                    row[x] = weight[z, y, x] * complex(np.cos(here), np.sin(here))
                for x in range(nx):
                    sums[block, y // fy, x // fx] += row[x]
    return sums


def _interpolate(values: Array, factors: tuple[int, int, int], shape: tuple[int, int, int]):
    """Angle of the linear interpolation of complex numbers in the middle of blocks, even at the ends."""
    places = (_between(*sizes) for sizes in zip(shape, factors, values.shape, strict=True))
    return _interpolate_at(values, *places)


def _between(voxels: int, factor: int, blocks: int):
    """The two blocks whose middles lie about each voxel of an axis, and the share of the second."""
    at = np.clip((np.arange(voxels) + 0.5) / factor - 0.5, 0, blocks - 1)
    first = at.astype(np.int64)
    return first, np.minimum(first + 1, blocks - 1), (at - first).astype(np.float32)


@njit(cache=True)
def _interpolate_at(values: Array, planes: tuple, rows: tuple, columns: tuple):
    out = np.empty((planes[0].size, rows[0].size, columns[0].size), np.float32)
    for z in range(out.shape[0]):
        line = np.empty(values.shape[2], np.complex64)
        low, high, p = planes[0][z], planes[1][z], planes[2][z]
        for y in range(out.shape[1]):
            left, right, q = rows[0][y], rows[1][y], rows[2][y]
            for x in range(line.size):
                near = (ONE - q) * values[low, left, x] + q * values[low, right, x]
                far = (ONE - q) * values[high, left, x] + q * values[high, right, x]
                line[x] = (ONE - p) * near + p * far
            for x in range(out.shape[2]):
                r = columns[2][x]
                here = (ONE - r) * line[columns[0][x]] + r * line[columns[1][x]]
                out[z, y, x] = np.arctan2(here.imag, here.real)
    return out


@njit(cache=True, parallel=True, fastmath=True)
def _convolve(volume: Array, taps: Array):
    """Convolve along the middle axis, zeros beyond the ends.

    Runs of contiguous values, which hold whole rows where little comes after the axis, stay in the fastest
    cache while all taps are added.
    """
    before, n, after = volume.shape
    flat, out = volume.reshape(before, n * after), np.zeros((before, n * after), np.float32)
    runs = (n * after + RUN - 1) // RUN
    for job in prange(before * runs):
        row, first = job // runs, job % runs * RUN
        _add_taps(out[row], flat[row], first, min(first + RUN, n * after), after, taps)
    return out.reshape(volume.shape)


@njit(cache=True, fastmath=True)
def _add_taps(out: Array, row: Array, first: int, last: int, step: int, taps: Array):
    """Convolve ``row`` with taps ``step`` values apart; add that from ``first`` to ``last`` to ``out``."""
    for t in range(taps.size):
        shift = (t - taps.size // 2) * step
        start, stop = max(first, -shift), min(last, row.size - shift)
        if start < stop:
            there, here = out[start:stop], row[start + shift : stop + shift]
            for a in range(there.size):
                there[a] += taps[t] * here[a]
