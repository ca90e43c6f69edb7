"""Whether phase grows or falls with the field, from the field that the shape of the head must cause."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import largest
from bids_qsm.recon.phase import signal_mask
from bids_qsm.recon.unwrap import romeo

COARSE_MM = 3.0
CLOSING_MM = 8.0
TISSUE_PPM = -9.4
"""Susceptibility of tissue relative to air (ppm)."""
SURE = 0.25
"""Smallest correlation that decides the sign."""
SMALLEST_MM = 80.0
"""Smallest size of an object along each axis: of a thinner one too little surface is in view."""


@dataclass(frozen=True)
class Polarity:
    """Correlation of measured and predicted field, whether it decides the sign, and ``why`` not."""

    correlation: float
    sure: bool
    why: str = ''


def find_polarity(phase: Array, magnitude: Array, echo_times: Sequence[float], grid: Grid):
    """Correlate the measured phase with the field that the shape of the head must cause.

    On a grid of about 3 mm, the object in the magnitude image is given the susceptibility of tissue in air.
    Its field is correlated with the measured phase evolution (between the two closest echoes, or of the only
    one), after removal of all that a shim of second order can make. A negative correlation means that phase
    falls with the field.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z, echo)
        Phase (rad) and magnitude.
    echo_times : sequence of float
        Rising echo times (s).
    """
    factors = [max(1, round(COARSE_MM / size)) for size in grid.voxel_size]
    sizes = [f * s for f, s in zip(factors, grid.voxel_size, strict=True)]
    late = 1 + int(np.argmin(np.diff(echo_times))) if len(echo_times) > 1 else 0
    early = max(late - 1, 0)
    angle = phase[..., late] - phase[..., early] if late else phase[..., 0]
    strength = block_mean(magnitude[..., early], factors)
    signal = block_mean(magnitude[..., early] * magnitude[..., late] * np.exp(1j * angle), factors)
    bright = signal_mask(strength)
    # skull is dark but not air: close gaps as thin as it, but not sinuses and ear cavities
    steps = max(1, round(CLOSING_MM / max(sizes)))
    body = ndimage.binary_closing(np.pad(bright, steps + 1, mode='edge'), iterations=steps)
    body = largest(body[(slice(steps + 1, -steps - 1),) * 3])
    if not body.any():
        return Polarity(0.0, False, 'there is no object in the magnitude')
    extent = [
        (s.stop - s.start) * size
        for s, size in zip(ndimage.find_objects(body.view(np.uint8))[0], sizes, strict=True)
    ]
    if min(extent) < SMALLEST_MM:
        return Polarity(0.0, False, f'the object is only {min(extent):.0f} mm thick')
    expected = _shape_field(body, sizes, grid.b0_dir)
    coherence = np.abs(signal) / np.maximum(
        block_mean(magnitude[..., early] * magnitude[..., late], factors), 1e-30
    )
    trusted = bright & ndimage.binary_erosion(body, iterations=2) & (coherence > 0.5)
    if trusted.sum() < 1000:
        return Polarity(0.0, False, 'too little of the object has coherent phase')
    measured = romeo(
        np.angle(signal).astype(np.float32)[..., None],
        np.sqrt(np.abs(signal)).astype(np.float32)[..., None],
        largest(trusted),
        [1.0],
    )[..., 0]
    correlation = _correlate(measured, expected, largest(trusted))
    sure = abs(correlation) >= SURE
    return Polarity(correlation, sure, '' if sure else 'the correlation is too low')


def block_mean(volume: Array, factors: Sequence[int]):
    """Mean over blocks of ``factors`` voxels; incomplete blocks at the far ends are left out."""
    shape = [n // f for n, f in zip(volume.shape, factors, strict=True)]
    volume = volume[tuple(slice(n * f) for n, f in zip(shape, factors, strict=True))]
    for axis, (n, f) in enumerate(zip(shape, factors, strict=True)):
        volume = volume.reshape(*volume.shape[:axis], n, f, *volume.shape[axis + 1 :]).mean(axis + 1)
    return volume


def _shape_field(body: Array, sizes: Sequence[float], b0_dir: tuple[float, float, float]):
    """Field (ppm) of ``body`` as tissue in air; it is continued beyond the ends of the field of view."""
    reach = [round(60 / size) for size in sizes]
    tissue = np.pad(body, [(r, r) for r in reach], mode='edge')
    shape = [
        fft.next_fast_len(n + round(80 / s), real=True) for n, s in zip(tissue.shape, sizes, strict=True)
    ]
    k = np.meshgrid(
        np.fft.fftfreq(shape[0], sizes[0]),
        np.fft.fftfreq(shape[1], sizes[1]),
        np.fft.rfftfreq(shape[2], sizes[2]),
        indexing='ij',
        sparse=True,
    )
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1
    kernel = 1 / 3 - sum(f * b for f, b in zip(k, b0_dir, strict=True)) ** 2 / square
    kernel[0, 0, 0] = 0
    spectrum = fft.rfftn(TISSUE_PPM * tissue.astype(np.float32), s=shape)
    spectrum *= kernel.astype(np.float32)
    field = fft.irfftn(spectrum, s=shape)
    return field[tuple(slice(r, r + n) for r, n in zip(reach, body.shape, strict=True))]


def _correlate(a: Array, b: Array, mask: Array):
    """Correlation in the mask after removal of all polynomials up to second order."""
    x = [(axis - axis.mean()) / max(np.ptp(axis), 1) for axis in np.nonzero(mask)]
    columns = [np.ones_like(x[0]), *x, *(x[i] * x[j] for i in range(3) for j in range(i, 3))]
    basis = np.linalg.qr(np.stack(columns, 1))[0]
    rest = [v[mask] - basis @ (basis.T @ v[mask]) for v in (a, b)]
    norm = np.sqrt((rest[0] ** 2).sum() * (rest[1] ** 2).sum())
    return float((rest[0] * rest[1]).sum() / norm) if norm > 0 else 0.0
