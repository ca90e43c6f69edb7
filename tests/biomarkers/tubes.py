"""Tubes of blood in a box, simulated on a fine grid: an independent check of oximetry."""

import numpy as np
from scipy import fft, ndimage

from bids_qsm.recon.field import linear
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.units import ppm_per_radian

FINE = 5
VARY = 0.1


def axis_of(tilt, azimuth=0.0):
    tilt, azimuth = np.radians([tilt, azimuth])
    return np.array([np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth), np.cos(tilt)])


def dipole(chi, voxel, b0=(0, 0, 1), pad=1.3):
    """Field of chi by the dipole kernel of the continuous Fourier transform."""
    shape = [fft.next_fast_len(int(n * pad), real=True) for n in chi.shape]
    k = np.meshgrid(
        fft.fftfreq(shape[0], voxel[0]).astype(np.float32),
        fft.fftfreq(shape[1], voxel[1]).astype(np.float32),
        fft.rfftfreq(shape[2], voxel[2]).astype(np.float32),
        indexing='ij',
        sparse=True,
    )
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1
    kernel = np.float32(1 / 3) - sum(np.float32(b) * q for b, q in zip(b0, k, strict=True)) ** 2 / square
    kernel[0, 0, 0] = 0
    spectrum = fft.rfftn(chi.astype(np.float32), shape)
    return fft.irfftn(spectrum * kernel, shape)[tuple(slice(n) for n in chi.shape)]


def mean_blocks(fine, size=None):
    size = size or FINE
    a, b, c = (n // size for n in fine.shape)
    return fine.reshape(a, size, b, size, c, size).mean((1, 3, 5))


def simulate(
    rng,
    *,
    tubes,
    shape=(24, 24, 24),
    voxel=(1.0, 1.0, 1.0),
    b0=(0, 0, 1),
    echo_times=(0.005, 0.010, 0.015, 0.020, 0.025),
    field_strength=3.0,
    snr=60.0,
    structure=0.015,
    blood=1.1,
    blood_rate=40.0,
    tissue_rate=20.0,
):
    """Simulate straight tubes (centre mm from the middle, axis, diameter mm, dchi); maps and shares."""
    fine_shape = tuple(n * FINE for n in shape)
    fine = [v / FINE for v in voxel]
    at = [f * (np.arange(n) - (n - 1) / 2) for n, f in zip(fine_shape, fine, strict=True)]
    x = np.meshgrid(*(a.astype(np.float32) for a in at), indexing='ij', sparse=True)
    chi = np.zeros(fine_shape, np.float32)
    share = np.zeros(fine_shape, np.float32)
    lines = []
    half = min(n * v for n, v in zip(shape, voxel, strict=True)) / 2 - 1.5 * max(voxel)
    for centre, axis, diameter, dchi in tubes:
        away = [q - c for q, c in zip(x, centre, strict=True)]
        along = sum(q * u for q, u in zip(away, axis, strict=True))
        distance = np.sqrt(np.maximum(sum(q**2 for q in away) - along**2, 0))
        reach = half / np.abs(axis).max()
        inside = np.clip((diameter / 2 - distance) / np.mean(fine) + 0.5, 0, 1) * (np.abs(along) < reach)
        chi += dchi * inside
        share = np.maximum(share, inside)
        lines.append(np.asarray(centre) + np.linspace(-reach, reach, 121)[:, None] * axis)
    tissue = np.zeros(fine_shape, np.float32)
    if structure:
        coarse = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
        coarse = coarse / coarse.std() * structure / 2 + structure / 2 * np.sign(coarse)
        tissue = ndimage.zoom(coarse, FINE, order=1, grid_mode=True, mode='nearest').astype(np.float32)
        tissue -= tissue.mean()
    field = dipole(chi + tissue * (1 - share), fine, b0)
    amplitude = 1 + VARY * ndimage.zoom(
        ndimage.gaussian_filter(rng.standard_normal(shape), 3.0) * 10, FINE, order=1, grid_mode=True, mode='nearest'
    )
    echoes = []
    for time in echo_times:
        turn = time / ppm_per_radian(field_strength)
        size = (1 - share) * amplitude * np.exp(-tissue_rate * time)
        size = size + share * blood * np.exp(-blood_rate * time)
        echoes.append(mean_blocks(size * np.exp(1j * turn * field)))
    signal = np.stack(echoes, -1).astype(np.complex64)
    signal += (rng.standard_normal((*signal.shape, 2)) @ [1, 1j] / snr).astype(np.complex64)
    magnitude = np.abs(signal).astype(np.float32)
    mask = np.ones(shape, bool)
    fitted, noise, residual = linear(
        np.angle(signal).astype(np.float32), magnitude, mask, echo_times, field_strength
    )
    return {
        'localfield': fitted,
        'noise': noise,
        'residual': residual,
        'magnitude': combine(magnitude),
        'mask': mask,
        'share': mean_blocks(share),
        'chi': mean_blocks(chi + tissue * (1 - share)),
        'grid': Grid(shape, voxel, tuple(b0)),
        'lines': [line + (np.array(shape) - 1) / 2 * voxel for line in lines],
        'echo_times': echo_times,
        'field_strength': field_strength,
    }
