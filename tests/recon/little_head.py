"""A small numpy head whose field comes from a dipole on a finer grid than the one it is handed out on."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from bids_qsm.recon.grid import Grid


@dataclass(frozen=True)
class LittleHead:
    """Truth (ppm, bool) on ``grid``; ``total`` = ``local`` + background, without noise."""

    grid: Grid
    chi: np.ndarray
    local: np.ndarray
    total: np.ndarray
    brain: np.ndarray
    nuclei: np.ndarray
    ventricles: np.ndarray
    head: np.ndarray
    noise: np.ndarray


def _ellipsoid(points, centre, radii):
    return sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)) <= 1


def _field(chi, step, b0):
    """Field (ppm) of ``chi`` by complex FFT in a box of twice the size."""
    shape = [fft.next_fast_len(2 * n) for n in chi.shape]
    k = np.meshgrid(*(np.fft.fftfreq(n, step) for n in shape), indexing='ij', sparse=True)
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1
    kernel = 1 / 3 - sum(f * b for f, b in zip(k, b0, strict=True)) ** 2 / square
    kernel[0, 0, 0] = 0
    spectrum = fft.fftn(chi, s=shape, workers=2)
    spectrum *= kernel
    return fft.ifftn(spectrum, workers=2).real[tuple(slice(n) for n in chi.shape)].astype(np.float32)


def _shrink(x, fine):
    return x.reshape(sum(((n // fine, fine) for n in x.shape), ())).mean((1, 3, 5), dtype=np.float32)


def make(*, step: float = 3.0, fine: int = 2, tilt: float = 20.0, seed: int = 0, size=(174, 210, 186)):
    """Head of ``size`` mm in air: brain, nuclei, ventricles, veins, skull, a sinus and two ears."""
    rng = np.random.default_rng(seed)
    shape = [int(s / step) * fine for s in size]
    axes = [(np.arange(n) - (n - 1) / 2) * step / fine for n in shape]
    points = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing='ij', sparse=True)
    x, y, z = points
    neck = ((x / 55) ** 2 + ((y + 5) / 62) ** 2 <= 1) & (z < 0)
    head = _ellipsoid(points, (0, 0, 0), (80, 98, 86)) | neck
    dura, skull = (_ellipsoid(points, (0, 0, 6), (69 + t, 87 + t, 70 + t)) for t in (3, 8))
    brain = _ellipsoid(points, (0, 0, 6), (69, 87, 70)) & (z > -52)
    white = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    texture = [ndimage.gaussian_filter(w, d * fine / step) for w, d in zip(white, (2.5, 12), strict=True)]
    folded = texture[0] / texture[0].std()
    depth = ndimage.distance_transform_edt(brain, sampling=step / fine)
    cortex = brain & (depth < 9 + 5 * folded)
    chi = np.where(cortex, 0.02, -0.03).astype(np.float32)
    chi += 0.006 * texture[1] / texture[1].std()
    nuclei, ventricles = np.zeros(shape, bool), np.zeros(shape, bool)
    for side in (-1, 1):
        horn = _ellipsoid(points, (9 * side, -4, 16), (5, 30, 9))
        ventricles |= horn
        chi[horn] = 0.019
        for centre, radii, value in (
            ((13, 12, 12), (5, 11, 8), 0.044),
            ((26, 2, 4), (5, 14, 10), 0.038),
            ((18, -3, 0), (5, 9, 6), 0.131),
            ((5, -20, -8), (3.5, 3.5, 4), 0.100),
            ((10, -16, -12), (4, 7, 4), 0.111),
        ):
            at = [side * centre[0] + rng.normal(), centre[1] + rng.normal(), centre[2] + rng.normal()]
            region = _ellipsoid(points, at, radii) & ~ventricles
            chi[region] = value
            nuclei |= region
    for _ in range(10):
        start, way = rng.normal(size=3) * (25, 30, 25), rng.normal(size=3)
        for t in np.linspace(0, 40, 160):
            at = start + t * way / np.linalg.norm(way) + 5 * np.sin(t / 9 + np.arange(3))
            centre = [int(np.argmin(abs(a - c))) for a, c in zip(axes, at, strict=True)]
            chi[tuple(slice(max(c - fine // 2, 0), c + (fine + 1) // 2) for c in centre)] = 0.19
    chi[~brain] = 0
    inside = chi.copy()
    chi[skull & ~dura] = -2.0
    ear = (10, 12, 8)
    for centre, radii in (((0, 76, -38), (22, 18, 14)), ((46, -10, -48), ear), ((-46, -10, -48), ear)):
        chi[_ellipsoid(points, centre, radii) & ~dura] = 9.4
    chi[skull & ~brain & (chi != 9.4) & (z < -46)] = 0
    chi[~head] = 9.4
    angle = np.deg2rad(tilt)
    b0 = (np.sin(angle) * 0.6, np.sin(angle) * 0.8, np.cos(angle))
    # relative to air the padding is empty, so that the field is that of the head alone
    total = _field(chi - 9.4, step / fine, b0)
    local = _field(inside, step / fine, b0)
    small = {n: _shrink(v, fine) for n, v in {'chi': inside, 'local': local, 'total': total}.items()}
    masks = {'brain': brain, 'nuclei': nuclei, 'ventricles': ventricles, 'head': head}
    masks = {n: _shrink(v, fine) > 0.5 for n, v in masks.items()}
    slope = np.linalg.norm(np.gradient(small['total'], step), axis=0)
    signal = np.clip(np.exp(-((slope * step / 0.8) ** 2)), 0.05, 1).astype(np.float32)
    grid = Grid(small['chi'].shape, (step,) * 3, b0)
    return LittleHead(grid, **small, **masks, noise=np.float32(5e-4) / signal)
