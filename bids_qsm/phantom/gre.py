"""Simulated multi-echo gradient-echo acquisition of a digital head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy import fft

from bids_qsm.phantom import tissue
from bids_qsm.phantom.forward import dipole_field, field_of_fibres, field_of_head
from bids_qsm.phantom.head import Head, rigid
from bids_qsm.phantom.sampling import expand
from bids_qsm.phantom.vessels import vein_truth
from bids_qsm.recon.blocks import linear_basis
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

FAT_SHIFT = -3.4
"""Chemical shift of fat against water (ppm)."""

PHASE_FORMATS = {
    'rad': None,
    'siemens': (-4096, 2, np.int16),
    'siemens12': (0, 1, np.int16),
    'philips': (-3141.59, 2 * 3141.59 / 4095, np.float32),
    'scaled': (-0.003674, 2 * 0.003674 / 4095, np.float32),
}
"""How a vendor stores phase: value at -pi, step between its 4096 levels, type; None is radians."""


@dataclass(frozen=True)
class Protocol:
    """Parameters of the acquisition, and the convention of the vendor for phase.

    ``rotation`` (degrees about x, y, z) tilts the slab. ``snr`` is the mean magnitude of white matter at the
    first echo over the noise of one channel. ``phase_format`` is a key of PHASE_FORMATS; ``sign`` -1 is the
    convention in which phase falls where the field is high; ``slice_flip`` negates every second slice of
    the complex image; ``bipolar`` adds a phase along the readout (second axis) that alternates with the
    echo; ``radiological`` stores the first axis from right to left; ``nan_outside`` puts NaN where there is
    no tissue.
    """

    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fov: tuple[float, float, float] = (192.0, 224.0, 176.0)
    echo_times: tuple[float, ...] = (0.005, 0.010, 0.015, 0.020, 0.025)
    field_strength: float = 3.0
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flip_angle: float = 15.0
    repetition_time: float = 0.030
    snr: float = 70.0
    manufacturer: str = 'Siemens'
    phase_format: str = 'rad'
    sign: int = 1
    bipolar: bool = False
    slice_flip: bool = False
    nan_outside: bool = False
    radiological: bool = False

    @property
    def shape(self):
        """Voxels along each axis, even."""
        return tuple(int(2 * round(f / v / 2)) for f, v in zip(self.fov, self.voxel_size, strict=True))

    @property
    def affine(self):
        """Voxel to scanner coordinates (RAS, mm); the middle of the field of view is the isocentre."""
        matrix = rigid(self.rotation)[:3, :3] * self.voxel_size
        if self.radiological:
            matrix[:, 0] *= -1
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = -matrix @ ((np.array(self.shape) - 1) / 2)
        return affine


@dataclass(frozen=True)
class Simulation:
    """Measured series, (x, y, z, echo), phase in wrapped rad by the vendor's convention; and the truth.

    ``truth``: chi (ppm), r2star (1/s), mask (bool, the brain), dseg and lesions (int16), and the fields (ppm)
    total_field (after shimming), local_field (of what lies within the mask) and background_field; and what
    vein_truth gives of the veins, beyond the mask too.
    """

    magnitude: np.ndarray
    phase: np.ndarray
    affine: np.ndarray
    protocol: Protocol
    truth: dict[str, np.ndarray]


def simulate(head: Head, protocol: Protocol, seed: int = 0):
    """Acquire a head: field, signal and dephasing on a finer grid, sampled in k-space, with noise.

    The fine grid has 1.5 to 2 times as many voxels along each axis of the field of view; cropping its k-space
    gives the dephasing and ringing of measured voxels.

    Parameters
    ----------
    head : Head
    protocol : Protocol
    seed : int
        Of noise, coil and shim.

    Returns
    -------
    Simulation
    """
    rng = np.random.default_rng(seed)
    shape, affine = protocol.shape, protocol.affine
    fine_shape, fine_affine = finer(shape, affine, protocol.voxel_size)
    grid = Grid.from_affine(fine_shape, fine_affine)

    field = field_of_head(head, fine_shape, fine_affine)
    part = head.sample(fine_shape, fine_affine, ('chi', 'brain', 'r2star', 'density', 'r1', 'fat'))
    brain, r2star = part.pop('brain'), part.pop('r2star')
    shim(field, brain, grid, rng)
    chi = part.pop('chi') * brain
    local = dipole_field(chi, grid)
    if head.fibres is not None:
        shift = field_of_fibres(head, fine_shape, fine_affine)
        field += shift
        local += shift
        del shift
    inside = crop_kspace(
        brain, shape
    )  # share of brain: voxels of the rim have the mean over their brain part
    truth = {
        'chi': crop_kspace(chi, shape) / np.maximum(inside, 0.5),
        'mask': inside > 0.5,
        'local_field': crop_kspace(local, shape),
        'background_field': _linear(field - local, shape),
    }
    del chi, local
    r2star = tissue.scale_r2star(r2star, protocol.field_strength)
    truth['r2star'] = np.maximum(crop_kspace(r2star * brain, shape), 0) / np.maximum(inside, 0.5)
    for name in ('chi', 'r2star', 'local_field'):
        truth[name][~truth['mask']] = 0
    truth['total_field'] = truth['background_field'] + truth['local_field']
    truth['dseg'] = head.labels(shape, affine) * truth['mask']
    truth['lesions'] = head.lesion_labels(shape, affine)
    truth.update(vein_truth(head.vessels(), shape, affine))

    start = steady(part.pop('density'), part.pop('r1'), protocol)
    del brain
    field += FAT_SHIFT * part.pop('fat')
    coil = _coil(rng)
    echoes = []
    for n, time in enumerate(protocol.echo_times):
        turn = time / ppm_per_radian(protocol.field_strength)
        swing = (-1) ** n * np.array([0.25, 0.9]) if protocol.bipolar else np.zeros(2)
        echoes.append(crop_kspace(_signal(start, r2star, field, coil, turn, time, swing), shape))
    white = head.sample(shape, affine, ('white', 'density'))
    signal = np.stack(echoes, -1)
    sigma = np.abs(echoes[0])[white['white'] > 0.9].mean() / protocol.snr
    for channel in (signal.real, signal.imag):
        channel += sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    if protocol.slice_flip:
        signal[:, :, 1::2] *= -1
    magnitude = np.abs(signal) * np.float32(1000 / np.abs(signal).max())
    phase = np.angle(signal) * np.float32(protocol.sign)
    if protocol.nan_outside:
        magnitude[white['density'] < 0.01] = np.nan
        phase[white['density'] < 0.01] = np.nan
    return Simulation(magnitude, phase, affine, protocol, truth)


def steady(density: float | np.ndarray, r1: float | np.ndarray, protocol: Protocol):
    """Steady-state signal at echo time zero of proton density and R1 (1/s at 3 T)."""
    angle = np.radians(protocol.flip_angle)
    e1 = np.exp(-protocol.repetition_time * tissue.scale_r1(r1, protocol.field_strength))
    return density * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)


def store_phase(phase: np.ndarray, phase_format: str):
    """Phase (rad) as a vendor stores it; see PHASE_FORMATS."""
    stored = PHASE_FORMATS[phase_format]
    if stored is None:
        return phase.astype(np.float32)
    low, step, dtype = stored
    level = np.round((phase + np.pi) / (2 * np.pi) * 4095)
    return (low + step * level).astype(dtype)


def finer(shape: tuple[int, ...], affine: np.ndarray, voxel_size: Sequence[float]):
    """Shape and affine of the grid of the simulation: same field of view, same first voxel centre."""
    ratio = [1.5 if v < 2 else 2.0 for v in voxel_size]
    fine = tuple(fft.next_fast_len(int(np.ceil(n * r))) for n, r in zip(shape, ratio, strict=True))
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * (np.array(shape) / fine)
    return fine, result


def crop_kspace(volume: np.ndarray, shape: tuple[int, ...], *, shift: float = 0.0):
    """Crop k-space: low-pass filter and down-sample onto ``shape``, axis by axis.

    The first voxel has its centre ``shift`` voxels of the volume after that of the volume's first.
    """
    real = not np.iscomplexobj(volume)
    for axis, n in enumerate(shape):
        size = volume.shape[axis]
        keep = np.round(fft.fftfreq(n, 1 / n)).astype(int)
        # mild k-space filter against ringing, as vendors apply
        edge = np.clip((np.abs(keep) / (n / 2) - 0.7) / 0.3, 0, 1)
        window = (0.5 + 0.5 * np.cos(np.pi * edge)) * 0.85 + 0.15
        spectrum = np.take(fft.fft(volume, axis=axis, workers=numba.get_num_threads()), keep % size, axis)
        form = [-1 if a == axis else 1 for a in range(3)]
        spectrum *= (window * n / size).astype(np.float32).reshape(form)
        if shift:
            spectrum *= np.exp(2j * np.pi * keep * shift / size).astype(np.complex64).reshape(form)
        volume = fft.ifft(spectrum, axis=axis, overwrite_x=True, workers=numba.get_num_threads())
        if real:
            volume = np.ascontiguousarray(volume.real)
    return volume


def _linear(volume: np.ndarray, shape: tuple[int, ...]):
    """Linear interpolation at the voxel centres of ``shape``, without ringing at discontinuities."""
    return expand(
        volume, [linear_basis(np.arange(n) * m / n, m) for n, m in zip(shape, volume.shape, strict=True)]
    )


def _harmonics(x: np.ndarray, y: np.ndarray, z: np.ndarray):
    """The solid harmonics up to second order."""
    return (1, x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2)


def shim(field: np.ndarray, brain: np.ndarray, grid: Grid, rng: np.random.Generator):
    """Subtract, in place, the shim of the scanner: nearly the best fit of the field over the brain."""
    x, y, z = (
        (v * (np.arange(n) - (n - 1) / 2) / 100).astype(np.float32)
        for n, v in zip(grid.shape, grid.voxel_size, strict=True)
    )
    i, j, k = np.nonzero(brain[::4, ::4, ::4] > 0.5)
    few = np.broadcast_arrays(*_harmonics(x[4 * i], y[4 * j], z[4 * k]))
    measured = field[4 * i, 4 * j, 4 * k].astype(float)
    weights = np.linalg.lstsq(np.stack(few, 1).astype(float), measured, rcond=None)[0]
    weights += rng.normal(0, 1, 9) * (0.03, *3 * [0.02], *5 * [0.02])
    for n, place in enumerate(x):
        terms = _harmonics(place, y[:, None], z)
        field[n] -= sum(np.float32(w) * term for w, term in zip(weights, terms, strict=True))


def _coil(rng: np.random.Generator):
    """Coefficients of the receive phase (rad) and of the log sensitivity over the field of view."""
    phase = rng.normal(0, 1, 10) * (2, 2, 2, 2, 1, 1, 1, 1, 1, 1)
    gain = rng.normal(0, 1, 10) * (0, 0.15, 0.15, 0.15, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05)
    gain[7:] += 0.3  # a coil array is brighter near its elements
    return np.stack([phase, gain])


@numba.njit(cache=True, parallel=True)
def _signal(
    start: np.ndarray,
    r2star: np.ndarray,
    field: np.ndarray,
    coil: np.ndarray,
    turn: float,
    time: float,
    swing: np.ndarray,
):
    """Complex signal of one echo on the fine grid."""
    shape = start.shape
    out = np.empty(shape, np.complex64)
    for i in numba.prange(shape[0]):
        u = 2 * i / (shape[0] - 1) - 1
        for j in range(shape[1]):
            v = 2 * j / (shape[1] - 1) - 1
            for k in range(shape[2]):
                w = 2 * k / (shape[2] - 1) - 1
                s = start[i, j, k]
                if s < 1e-6:
                    out[i, j, k] = 0
                    continue
                angle = turn * field[i, j, k] + swing[0] + swing[1] * v
                gain = 0.0
                for n, term in enumerate((1.0, u, v, w, u * v, u * w, v * w, u * u, v * v, w * w)):
                    angle += coil[0, n] * term
                    gain += coil[1, n] * term
                s *= np.exp(gain - r2star[i, j, k] * time)
                out[i, j, k] = s * np.cos(angle) + 1j * s * np.sin(angle)
    return out
