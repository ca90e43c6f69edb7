"""A small head in an echo-planar run with phase: motion, drift, interleaved slices, a spoiled frame."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from bids_qsm.phantom.head import rigid
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian
from tests.recon import little_head

STEP = 4.0
ECHO_TIME = 0.030
ODD_SLICES = 0.9
"""Phase (rad) of odd slices."""
POSES = {
    2: ((0.0, 0.5, 0.3), (0.3, 0.8, 0.4)),
    3: ((3.0, 0.0, 1.0), (2.0, 0.0, 3.0)),
    6: ((0,) * 3, (0, 1, 0)),
}
"""Rotation (degrees) and shift (mm) of the frames that are not in the pose of the truth."""
FAR, SPOILED, FRAMES = 3, 5, 8


@dataclass(frozen=True)
class Head:
    """Truth on ``grid``: chi and field (ppm), magnitude and brain."""

    grid: Grid
    affine: np.ndarray
    magnitude: np.ndarray
    field: np.ndarray
    chi: np.ndarray
    brain: np.ndarray

    @property
    def signal(self):
        """Complex image of a frame in the pose of the truth, without noise."""
        return signal_of(self.magnitude, self.field)


def signal_of(magnitude, field):
    return (magnitude * np.exp(1j * field * ECHO_TIME / ppm_per_radian(3.0))).astype(np.complex64)


def _shimmed(field, brain):
    """A field without its best fit of second order in the brain."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in field.shape), indexing='ij')
    terms = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2, y**2, z**2], -1)
    weights = np.linalg.lstsq(terms[brain], field[brain], rcond=None)[0]
    return (field - terms @ weights).astype(np.float32)


@cache
def head():
    """The head of the tests of reconstruction, without a tilt, with the dephasing of steep fields."""
    one = little_head.make(step=STEP, tilt=0.0)
    field = _shimmed(one.total, one.brain)
    slope = np.linalg.norm(np.gradient(field), axis=0)
    tissue = np.where(one.ventricles, 1.5, np.where(one.nuclei, 0.6, 1.0)) * (0.3 + 0.7 * one.brain)
    magnitude = one.head * tissue * np.clip(np.exp(-((slope / 0.25) ** 2)), 0.03, 1)
    affine = np.diag([STEP] * 3 + [1.0])
    affine[:3, 3] = -STEP * (np.array(one.grid.shape) - 1) / 2
    return Head(one.grid, affine, magnitude.astype(np.float32), field, one.chi, one.brain)


@cache
def frame(t, noise=0.04):
    """Magnitude and phase (rad) of frame ``t``, each (x, y, slice)."""
    rng, one = np.random.default_rng(t), head()
    images = [one.magnitude, one.field]
    if t in POSES:
        back = np.linalg.inv(one.affine) @ np.linalg.inv(rigid(*POSES[t])) @ one.affine
        images = [ndimage.affine_transform(i, back[:3, :3], back[:3, 3], mode='nearest') for i in images]
    signal = signal_of(*images)
    slices = np.arange(signal.shape[2])
    drift = 0.8 * t + ODD_SLICES * (slices % 2) + rng.normal(0, 0.2, len(slices))
    signal *= np.exp(1j * drift)
    if t == SPOILED:
        signal[:, :, ::3] *= 0.3 * np.exp(2.5j * np.linspace(-1, 1, signal.shape[0]))[:, None, None]
    signal += noise * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    return np.abs(signal).astype(np.float32), np.angle(signal).astype(np.float32)
