"""A small head of ellipsoids with sinuses, and its complex multi-echo gradient echo, in plain numpy."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import fft

from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

FIELD_STRENGTH = 3.0


@dataclass(frozen=True)
class Scan:
    """Truth and images: ``field`` (ppm), ``offset`` and ``phase`` (rad), ``magnitude``; echoes last."""

    grid: Grid
    echo_times: tuple
    brain: np.ndarray
    field: np.ndarray
    offset: np.ndarray
    magnitude: np.ndarray
    phase: np.ndarray

    @property
    def true_phase(self):
        """Unwrapped phase (rad) without offset."""
        rate = self.field / ppm_per_radian(FIELD_STRENGTH)
        return rate[..., None] * np.float32(self.echo_times)


def _inside(points, centre, radii):
    return sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)) < 1


def _dipole_field(chi, grid):
    shape = [2 * n for n in chi.shape]
    k = np.meshgrid(*map(fft.fftfreq, shape, grid.voxel_size), indexing='ij', sparse=True)
    square = sum(f**2 for f in k)
    square[0, 0, 0] = 1
    kernel = 1 / 3 - sum(f * b for f, b in zip(k, grid.b0_dir, strict=True)) ** 2 / square
    kernel[0, 0, 0] = 0
    field = fft.ifftn(fft.fftn(chi, s=shape) * kernel).real
    return field[tuple(slice(n) for n in chi.shape)]


def _second_order(points):
    one = np.ones(np.broadcast_shapes(*(p.shape for p in points)))
    terms = [one, *(one * p for p in points)]
    return terms + [one * points[i] * points[j] for i in range(3) for j in range(i, 3)]


@cache
def scan(
    n=48, echo_times=(0.004, 0.009, 0.014, 0.019), b0=(0.1, 0.2, 0.97), snr=70, seed=0, with_offset=True
):
    """Simulate; arrays are cached and must not be written to."""
    rng = np.random.default_rng(seed)
    size = 210 / n
    grid = Grid((n, n, n), (size,) * 3, tuple(np.array(b0) / np.linalg.norm(b0)))
    points = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * size] * 3, indexing='ij', sparse=True)
    sinus = _inside(points, (0, 78, -35), (20, 16, 14)) | _inside(points, (44, -10, -64), (12, 12, 10))
    air = ~_inside(points, (0, 0, 0), (75, 92, 85)) | sinus
    brain = _inside(points, (0, 0, 0), (64, 80, 73)) & ~_inside(points, (0, 78, -35), (30, 26, 24))
    skull = _inside(points, (0, 0, 0), (71, 88, 81)) & ~_inside(points, (0, 0, 0), (66, 83, 76)) & ~air
    chi = np.where(skull, -2.0, np.where(air, 9.4, 0.0))
    for centre in ((16, 5, 0), (-16, 5, 0), (8, -10, -15), (-8, -10, -15)):
        chi[_inside(points, centre, (8, 10, 8))] += 0.12
    field = _dipole_field(chi - 9.4, grid)
    terms = np.stack([t[brain] for t in _second_order([p / 100 for p in points])], 1)
    shim = np.linalg.lstsq(terms, field[brain], rcond=None)[0]
    field -= sum(c * t for c, t in zip(shim, _second_order([p / 100 for p in points]), strict=True))
    x, y, z = points
    offset = (
        np.sin(x / 50 + 0.3) + np.cos(y / 60) + 0.01 * z + x * z / 8000 if with_offset else 0 * (x + y + z)
    )
    density = np.where(air, 0, np.where(skull, 0.05, 1 + 0.2 * np.sin(x / 9) * np.cos(y / 11)))
    spread = sum(g**2 for g in np.gradient(field))
    rate = 1 / ppm_per_radian(FIELD_STRENGTH)
    echoes = []
    for time in echo_times:
        decay = np.exp(-25 * time - 0.04 * spread * (rate * time) ** 2)
        signal = density * decay * np.exp(1j * (offset + rate * time * field))
        noise = rng.standard_normal((2, n, n, n)) / snr
        echoes.append(signal + noise[0] + 1j * noise[1])
    signal = np.stack(echoes, -1)
    arrays = [
        np.asfortranarray(a, dtype=np.float32) for a in (field, offset, np.abs(signal), np.angle(signal))
    ]
    return Scan(grid, echo_times, np.asfortranarray(brain & ~air), *arrays)
