"""Unwrapping the phase of every echo in space, and aligning the echoes with each other."""

from collections.abc import Sequence

import numba
import numpy as np
from scipy import fft, ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.romeo import mean_edge_weight, unwrap_echoes

TWO_PI = 2 * np.pi
MEDIAN_SAMPLE = 50_000


@method(memory=Need(volume=2, echoes=5.6), prose='(romeo) [@romeo]')
def romeo(phase: Array, magnitude: Array, mask: Array, echo_times: Sequence[float], *, template: int = 0):
    """Unwrap each echo by region growing along the most reliable edges first [1]_.

    Each echo is unwrapped individually, so that errors do not spread between echoes. The multiple of 2 pi of
    each echo in each piece of the mask then follows from linear phase evolution. With a ``template``, only
    that echo is unwrapped in space, and the others in time, each voxel by linear evolution: this is faster,
    but errors of the template, and of a phase offset left in it, grow with the echo time. The weights are
    the paper's default.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Wrapped phase (rad) and magnitude.
    mask : ndarray of bool, shape (x, y, z)
        Where to unwrap; the result is 0 elsewhere.
    echo_times : sequence of float
        Rising echo times (s).
    template : int
        Number of the echo, from 1, that is unwrapped in space alone; 0 for every echo individually.

    Raises
    ------
    UserError
        Where there is no echo of the number ``template``.

    References
    ----------
    .. [1] Dymerska et al. (2021), MRM 85:2294. doi:10.1002/mrm.28563
    """
    if not 0 <= template <= len(echo_times):
        raise UserError(f'romeo: template={template} is no echo of a series of {len(echo_times)}.')
    unwrapped = np.zeros_like(phase, order='F')
    if not mask.any():
        return unwrapped
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    inside = np.ascontiguousarray(mask[box].T)
    partner, ratio = _partners(echo_times)
    grow = slice(None) if template == 0 else slice(template - 1, template)
    grown = unwrap_echoes(
        *(_flat(phase[box]), _flat(magnitude[box]), inside.ravel()),
        *(partner, ratio, inside.shape, np.arange(len(echo_times))[grow]),
    )
    grown *= inside.ravel()
    unwrapped[box] = grown.reshape(-1, *inside.shape).T
    if template:
        _unwrap_in_time(unwrapped, mask, echo_times, template - 1)
        return unwrapped
    return align_echoes(unwrapped, mask, echo_times)


@method(memory=Need(volume=5, echoes=3.5), prose='(laplacian) [@laplacian]')
def laplacian(phase: Array, mask: Array, echo_times: Sequence[float], grid: Grid):
    r"""Unwrap by solving Poisson's equation for the wrapped phase gradients inside the mask [1]_.

    .. math:: \nabla^2 \hat\phi = \nabla \cdot W(\nabla \phi), \quad \text{edges that leave the mask: } 0

    The result is linear in the true phase, so that the echoes are consistent. It differs from the true phase
    by a function that is harmonic in the mask, and is smooth where the phase has open-ended fringe lines.

    Parameters
    ----------
    phase : ndarray of float32, shape (x, y, z, echo)
        Wrapped phase (rad).
    mask : ndarray of bool, shape (x, y, z)
        Where to unwrap; the result is 0 elsewhere.
    echo_times : sequence of float
        Rising echo times (s).

    References
    ----------
    .. [1] Schofield & Zhu (2003), Opt Lett 28:1194. doi:10.1364/OL.28.001194
    """
    unwrapped = np.zeros_like(phase, order='F')
    if not mask.any():
        return unwrapped
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    inside = mask[box]
    shape = tuple(fft.next_fast_len(n) for n in inside.shape)
    workers = numba.get_num_threads()
    eigenvalues = np.zeros(shape, np.float32)
    for axis, (n, size) in enumerate(zip(shape, grid.voxel_size, strict=True)):
        line = (2 * np.cos(np.pi * np.arange(n) / n) - 2) / size**2
        eigenvalues += line.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    eigenvalues[0, 0, 0] = np.inf
    for echo in range(phase.shape[3]):
        source = np.zeros(shape, np.float32)
        _add_divergence(source, phase[*box, echo], inside, grid.voxel_size)
        spectrum = fft.dctn(source, type=2, workers=workers, overwrite_x=True)
        spectrum /= eigenvalues
        smooth = fft.idctn(spectrum, type=2, workers=workers, overwrite_x=True)
        smooth = smooth[tuple(slice(n) for n in inside.shape)]
        constant = np.angle(np.exp(1j * (phase[*box, echo][inside] - smooth[inside])).mean())
        unwrapped[*box, echo] = np.where(inside, smooth + np.float32(constant), 0)
    return align_echoes(unwrapped, mask, echo_times)


UNWRAP = {'romeo': romeo, 'laplacian': laplacian}


def voxel_quality(phase: Array, magnitude: Array, echo_times: Sequence[float]):
    """Reliability of the phase of the first echo, 0 to 1: mean ROMEO weight of a voxel's six edges [1]_.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Wrapped phase (rad) and magnitude.
    echo_times : sequence of float
        Echo times (s); with two or more, the gradient of the second echo counts too.

    References
    ----------
    .. [1] Dymerska et al. (2021), MRM 85:2294. doi:10.1002/mrm.28563
    """
    shape = phase.shape[2::-1]
    partner, ratio = _partners(echo_times)
    first, magnitude = _flat(phase[..., :1])[0], _flat(magnitude[..., :1])[0]
    other = first if len(partner) == 1 else _flat(phase[..., 1:2])[0]
    return mean_edge_weight(first, other, ratio[0], magnitude, shape).reshape(shape).T


def align_echoes(unwrapped: Array, mask: Array, echo_times: Sequence[float]):
    """Add the multiple of 2 pi to each echo, in each connected piece of the mask, that makes it linear in TE.

    The median evolution between the first two echoes is assumed to be within pi, and the median phase at
    TE = 0 too; every later echo is predicted from the first echo and the one before it.
    """
    pieces, _ = ndimage.label(mask)
    for label, box in enumerate(ndimage.find_objects(pieces), start=1):
        piece = pieces[box] == label
        echoes = unwrapped[box]
        values = [echoes[..., e][piece] for e in range(len(echo_times))]
        thin = max(1, values[0].size // MEDIAN_SAMPLE)
        for e, shift in enumerate(_whole_turns([v[::thin] for v in values], echo_times)):
            if shift:
                echoes[..., e][piece] = values[e] - np.float32(TWO_PI * shift)
    return unwrapped


def _unwrap_in_time(unwrapped: Array, mask: Array, echo_times: Sequence[float], template: int):
    """Add the multiple of 2 pi to the template that brings each piece nearest to 0; unwrap the others by it.

    Each echo is predicted from the nearest unwrapped one, whose errors grow least.
    """
    pieces, _ = ndimage.label(mask)
    for label, box in enumerate(ndimage.find_objects(pieces), start=1):
        piece = pieces[box] == label
        first = unwrapped[*box, template]
        first[piece] -= np.float32(TWO_PI * np.rint(np.median(first[piece]) / TWO_PI))
    later = [(e, e - 1) for e in range(template + 1, len(echo_times))]
    for e, known in [*((e, e + 1) for e in range(template - 1, -1, -1)), *later]:
        away = unwrapped[..., e] - np.float32(echo_times[e] / echo_times[known]) * unwrapped[..., known]
        unwrapped[..., e] -= np.float32(TWO_PI) * np.rint(away / np.float32(TWO_PI))
        unwrapped[..., e] *= mask


def _whole_turns(values: Sequence[Array], echo_times: Sequence[float]):
    """Multiples of 2 pi to subtract from each echo; ``values`` are the phases of one piece, echo by echo."""
    if len(values) == 1:
        return [np.rint(np.median(values[0]) / TWO_PI)]
    first, second = values[:2]
    evolution = second - first
    turns = np.rint(np.median(evolution) / TWO_PI)
    per_second = (evolution - np.float32(TWO_PI * turns)) / np.float32(echo_times[1] - echo_times[0])
    shifts = [np.rint(np.median(first - np.float32(echo_times[0]) * per_second) / TWO_PI)]
    start = first - np.float32(TWO_PI * shifts[0])
    shifts.append(turns + shifts[0])
    for e in range(2, len(values)):
        before = values[e - 1] - np.float32(TWO_PI * shifts[-1])
        step = (echo_times[e] - echo_times[0]) / (echo_times[e - 1] - echo_times[0])
        predicted = start + np.float32(step) * (before - start)
        shifts.append(np.rint(np.median(values[e] - predicted) / TWO_PI))
    return shifts


def _partners(echo_times: Sequence[float]):
    """The echo whose gradient enters the weights of each echo, and the ratio of echo times (0: none)."""
    if len(echo_times) == 1:
        return np.zeros(1, np.int64), np.zeros(1, np.float32)
    partner = np.array([1, *range(len(echo_times) - 1)])
    times = np.asarray(echo_times, np.float32)
    return partner, times / times[partner]


def _add_divergence(source: Array, phase: Array, mask: Array, voxel_size: tuple[float, float, float]):
    for axis, size in enumerate(voxel_size):
        n = phase.shape[axis]
        low = tuple(slice(0, n - 1) if a == axis else slice(0, s) for a, s in enumerate(phase.shape))
        high = tuple(slice(1, n) if a == axis else slice(0, s) for a, s in enumerate(phase.shape))
        slope = phase[high] - phase[low]
        slope -= np.float32(TWO_PI) * np.rint(slope / np.float32(TWO_PI))
        slope *= mask[high] & mask[low]
        slope /= np.float32(size**2)
        source[low] += slope
        source[high] -= slope


def _flat(volumes: Array):
    """(x, y, z, echo) -> (echo, voxel), without a copy where the memory layout allows."""
    return np.ascontiguousarray(volumes.T, np.float32).reshape(volumes.shape[3], -1)
