"""Simulated train of spin echoes of a digital head, on a grid and in a pose of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numba
import numpy as np

from bids_qsm.phantom.gre import crop_kspace
from bids_qsm.phantom.head import rigid
from bids_qsm.phantom.sources import Sources
from bids_qsm.recon.spin_echo import Train

_RATES, _FIELDS = np.geomspace(0.3, 100, 64), np.linspace(0.55, 1.2, 27)
_SLOW = np.geomspace(0.2, 3, 7)
"""R2, transmit field and R1 (1/s) of the trains between which tissue is interpolated."""
OUTSIDE = 0.7
"""R2 over R2* around the brain."""


@dataclass(frozen=True)
class SpinEchoes:
    """How a train of spin echoes is acquired.

    Attributes
    ----------
    voxel_size, fov : tuple of float
        (mm).
    train : Train
    repetition_time : float
        (s).
    b1 : tuple of float
        Least and largest transmit field within the brain, which varies smoothly between them.
    snr : float
        Mean of white matter at the first echo over the noise of one channel.
    profile : tuple of float
        Angle of the pulses across the slice, over that in its middle: one number for 3D trains.
    rotation : tuple of float
        Of the slab (degrees about x, y, z).
    """

    voxel_size: tuple[float, float, float] = (1.25, 1.25, 2.5)
    fov: tuple[float, float, float] = (192.0, 224.0, 180.0)
    train: Train = field(default_factory=lambda: Train(0.010, 12))
    repetition_time: float = 3.0
    b1: tuple[float, float] = (0.7, 1.1)
    snr: float = 80.0
    profile: tuple[float, ...] = (1.0,)
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def shape(self):
        """Voxels along each axis, even."""
        return tuple(int(2 * round(f / v / 2)) for f, v in zip(self.fov, self.voxel_size, strict=True))

    @property
    def affine(self):
        """Voxel to scanner coordinates (RAS, mm)."""
        affine = np.eye(4)
        affine[:3, :3] = rigid(self.rotation)[:3, :3] * self.voxel_size
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine


@dataclass(frozen=True)
class SpinEchoScan:
    """Magnitude (x, y, z, echo), its grid, and the transmit field on it."""

    magnitude: np.ndarray
    affine: np.ndarray
    b1: np.ndarray
    protocol: SpinEchoes


def simulate_spin_echoes(
    sources: Sources,
    seed: int = 0,
    protocol: SpinEchoes | None = None,
    *,
    rotation: Sequence[float] | np.ndarray = (0, 0, 0),
    translation: Sequence[float] | np.ndarray = (0, 0, 0),
):
    """Acquire a train of spin echoes of a head by extended phase graphs.

    R2, R1 and proton density are those of the tissue, the transmit field is a smooth quadratic with its
    largest value near the middle. Signals are made on a grid of twice the voxels in the slice and more across
    it, and sampled by cropping k-space.

    Parameters
    ----------
    sources : Sources
        At 3 T.
    seed : int
        Of transmit field and noise.
    protocol : SpinEchoes
    rotation, translation : sequence of float
        How the head lies (degrees about x, y, z; mm), beside its pose.

    Returns
    -------
    SpinEchoScan
    """
    protocol = protocol or SpinEchoes()
    rng = np.random.default_rng([seed, 31])
    head = sources.head.moved(rotation, translation)
    sources = replace(sources, head=head)
    shape, affine = protocol.shape, protocol.affine
    ratio = [2 if v < 2 else 3 for v in protocol.voxel_size]
    fine = tuple(n * r for n, r in zip(shape, ratio, strict=True))
    fine_affine = affine @ np.diag([*(1 / r for r in ratio), 1.0])
    part = head.sample(fine, fine_affine, ('brain', 'density', 'r1', 'r2star', 'fat'))
    brain = part['brain']
    rate = OUTSIDE * part.pop('r2star')
    rate += brain * (sources.sample(fine, fine_affine)['r2'] / np.maximum(brain, 0.01) - rate)
    b1 = _transmit(fine, fine_affine, brain, protocol.b1, rng)
    start = part.pop('density') * (1 - np.exp(-protocol.repetition_time * part['r1']))
    table = _table(protocol)
    echoes = []
    for n in range(protocol.train.n):
        signal = _echo(start, rate, b1, part['r1'], table[..., n])
        echoes.append(crop_kspace(signal, shape))
    signal = np.stack(echoes, -1)
    white = head.sample(shape, affine, ('white',))['white'] > 0.9
    sigma = np.float32(signal[..., 0][white].mean() / protocol.snr)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    signal += sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude = np.hypot(signal, imaginary)
    few = b1[tuple(slice(None, None, r) for r in ratio)]
    return SpinEchoScan(magnitude * np.float32(1000 / magnitude.max()), affine, few, protocol)


def _table(protocol: SpinEchoes) -> np.ndarray:
    """Trains by R1, transmit field and R2: the mean over the profile of the slice."""
    rates, fields = _RATES, _FIELDS[:, None]
    trains = [
        np.mean([protocol.train.signal(rates, p * fields, t1=1 / r1) for p in protocol.profile], axis=0)
        for r1 in _SLOW
    ]
    return np.stack(trains).astype(np.float32)


def _transmit(
    shape: tuple[int, ...],
    affine: np.ndarray,
    brain: np.ndarray,
    limits: tuple[float, float],
    rng: np.random.Generator,
):
    """Smooth transmit field with the limits within the brain."""
    x, y, z = (
        (np.linalg.norm(affine[:3, a]) * (np.arange(n) - (n - 1) / 2) / 100).astype(np.float32)
        for a, n in enumerate(shape)
    )
    x, y = x[:, None, None], y[:, None]
    a, b, c = rng.uniform(0.6, 1.4, 3).astype(np.float32)
    u, v, w, s, r = rng.normal(0, 0.2, 5).astype(np.float32)
    field = -(a * x**2 + b * y**2 + c * z**2) + u * x + v * y + w * z + s * x * y + r * y * z
    low, high = np.percentile(field[::4, ::4, ::4][brain[::4, ::4, ::4] > 0.5], (0.5, 99.5))
    least, most = limits
    scaled = least + (most - least) * (field - low) / (high - low)
    return np.clip(scaled, _FIELDS[0], _FIELDS[-1]).astype(np.float32)


def _echo(start: np.ndarray, rate: np.ndarray, field: np.ndarray, r1: np.ndarray, table: np.ndarray):
    """One echo on the fine grid, interpolated in the table."""
    steps = (np.log(_SLOW), _FIELDS, np.log(_RATES))
    first = np.array([s[0] for s in steps])
    step = np.array([s[1] - s[0] for s in steps])
    return _interpolate(start, r1, field, rate, np.ascontiguousarray(table), first, step)


@numba.njit(cache=True, parallel=True)
def _interpolate(
    start: np.ndarray,
    r1: np.ndarray,
    field: np.ndarray,
    rate: np.ndarray,
    table: np.ndarray,
    first: np.ndarray,
    step: np.ndarray,
):
    shape = start.shape
    out = np.zeros(shape, np.float32)
    for i in numba.prange(shape[0]):
        low, share, at = np.empty(3, np.int64), np.empty(3), np.empty(3)
        for j in range(shape[1]):
            for k in range(shape[2]):
                if start[i, j, k] < 1e-6:
                    continue
                at[0] = np.log(max(r1[i, j, k], np.float32(1e-3)))
                at[1] = field[i, j, k]
                at[2] = np.log(max(rate[i, j, k], np.float32(1e-3)))
                for a in range(3):
                    place = min(max((at[a] - first[a]) / step[a], 0.0), table.shape[a] - 1.0)
                    low[a] = min(int(place), table.shape[a] - 2)
                    share[a] = place - low[a]
                total = 0.0
                for a in range(2):
                    for b in range(2):
                        for c in range(2):
                            weight = (
                                (share[0] if a else 1 - share[0])
                                * (share[1] if b else 1 - share[1])
                                * (share[2] if c else 1 - share[2])
                            )
                            total += weight * table[low[0] + a, low[1] + b, low[2] + c]
                out[i, j, k] = start[i, j, k] * total
    return out
