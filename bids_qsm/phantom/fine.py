"""Blocks of a head, or single veins, acquired from a grid so fine that thin veins are resolved.

>>> vein = tube(diameter=2.0, tilt=60.0)
>>> block = acquire(Bed((vein,)), Protocol(fov=(16, 16, 16), echo_times=(0.01, 0.02)))
>>> block.magnitude.shape, block.phase.shape
((16, 16, 16, 2), (16, 16, 16, 2))
>>> sorted(block.truth)
['background_field', 'chi', 'local_field', 'mask', 'r2star', 'vein_chi', 'vein_dseg', 'veins']
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.blood import blood_chi
from bids_qsm.phantom.forward import dipole_field, overlap
from bids_qsm.phantom.gre import Protocol, crop_kspace, shim, steady
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.lesions import Lesion, draw_sphere
from bids_qsm.phantom.sampling import expand
from bids_qsm.phantom.vessels import Segment, average, clip, draw, summed
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

PAINTED = ('chi', 'r2star', 'density', 'r1', 'brain')
FAR = 3.0
"""Spacing (mm) of the lattice of sources outside of a block."""
REACH = {'head': 240.0, 'bed': 120.0}
"""Half the side (mm) of that lattice."""
LARGEST = 80e6
"""Fine voxels of a block: these need about 4 GB."""


def tube(
    *,
    diameter: float,
    tilt: float,
    azimuth: float = 0.0,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    bend: float = 0.0,
    length: float = 400.0,
    oxygenation: float = 0.65,
    hematocrit: float = 0.42,
    kind: str = 'other vein',
):
    """A straight or bent vein in scanner space.

    Parameters
    ----------
    diameter : float
        mm.
    tilt, azimuth : float
        Angle (degrees) to B0, which is the z axis, and around it from the x axis, at the centre.
    centre : sequence of float
        A point (mm) of its axis.
    bend : float
        Curvature (1/mm) in the plane of its axis and B0: 1 / 30 is an arc of 30 mm radius. A bent vein ends
        after half a turn at most.
    length : float
        mm.
    oxygenation, hematocrit : float
        Of its blood (0 .. 1).
    kind : str
        A key of CLASSES.

    Returns
    -------
    Segment
    """
    a, b = np.radians((tilt, azimuth))
    side = np.array((np.cos(b), np.sin(b), 0.0))
    along = np.sin(a) * side + np.cos(a) * np.array((0.0, 0.0, 1.0))
    across = np.cos(a) * side - np.sin(a) * np.array((0.0, 0.0, 1.0))
    if bend:
        length = min(length, np.pi / abs(bend))
    s = np.linspace(-length / 2, length / 2, int(np.ceil(length)) + 1)
    forward = np.sin(bend * s) / bend if bend else s
    aside = (1 - np.cos(bend * s)) / bend if bend else 0 * s
    points = np.asarray(centre, float) + forward[:, None] * along + aside[:, None] * across
    radius = np.full(len(points), diameter / 2)
    return Segment(points, radius, oxygenation, blood_chi(oxygenation, hematocrit), kind)


@dataclass(frozen=True)
class Bed:
    """Veins in an endless bed of one tissue, in scanner space.

    ``tissue`` is a key of TISSUES or NUCLEI; ``texture`` the standard deviation (ppm) of its susceptibility,
    with a grain of ``grain`` mm; ``seed`` that of the texture.
    """

    segments: tuple[Segment, ...]
    tissue: str = 'white'
    texture: float = 0.0
    grain: float = 2.0
    seed: int = 0

    def vessels(self):
        """Veins in scanner space."""
        return self.segments

    def paint(self, shape: tuple[int, ...], affine: np.ndarray):
        """Tissue without veins on a grid: the channels PAINTED."""
        kind = {**t.TISSUES, **t.NUCLEI}[self.tissue]
        values = {name: np.full(shape, getattr(kind, name), np.float32) for name in PAINTED[:-1]}
        if self.texture:
            values['chi'] += np.float32(self.texture) * self._texture(shape, affine)
        return {**values, 'brain': np.ones(shape, np.float32)}

    @property
    def chi(self):
        """Mean susceptibility (ppm) of the tissue."""
        return {**t.TISSUES, **t.NUCLEI}[self.tissue].chi

    def _texture(self, shape: tuple[int, ...], affine: np.ndarray):
        """A smooth random field of unit variance along the grid's axes."""
        steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
        coarse = [int(np.ceil(n * s / self.grain)) + 3 for n, s in zip(shape, steps, strict=True)]
        noise = np.random.default_rng([self.seed, 11]).standard_normal(coarse, dtype=np.float32)
        smooth = ndimage.gaussian_filter(noise, 0.6, mode='wrap')
        at = [1 + np.arange(n) * s / self.grain for n, s in zip(shape, steps, strict=True)]
        bases = [make_interp_spline(np.arange(c), np.eye(c), k=3)(a) for a, c in zip(at, coarse, strict=True)]
        return expand(smooth / smooth.std(), bases)


@dataclass(frozen=True)
class Block:
    """What `acquire` measured, and the truth of it.

    Attributes
    ----------
    signal : ndarray of complex64, shape (x, y, z, echo)
        With noise; magnitude 1 is that of water at its thermal equilibrium.
    affine : ndarray, shape (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    protocol : Protocol
    sigma : float
        Standard deviation of the noise of one channel.
    truth : dict of str to ndarray, shape (x, y, z)
        Means over each voxel: chi (ppm, relative to water), r2star (1/s, of the tissue itself, without
        dephasing), local_field and background_field (ppm); what vein_truth gives of veins; mask (bool) the
        brain.
    segments : tuple of Segment
        The parts of veins within the block, in scanner coordinates (mm).
    """

    signal: np.ndarray
    affine: np.ndarray
    protocol: Protocol
    sigma: float
    truth: dict[str, np.ndarray]
    segments: tuple[Segment, ...]

    @property
    def magnitude(self):
        """Magnitude (x, y, z, echo)."""
        return np.abs(self.signal)

    @property
    def phase(self):
        """Phase (rad, -pi to pi) (x, y, z, echo); it rises where the field is high."""
        return np.angle(self.signal)

    @property
    def grid(self):
        """Grid of the voxels, with the direction of B0."""
        return Grid.from_affine(self.signal.shape[:3], self.affine)


def acquire(
    source: Head | Bed,
    protocol: Protocol,
    *,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    seed: int = 0,
    factor: int = 5,
    lesions: Sequence[Lesion] = (),
    background: bool = False,
    margin: int = 4,
    kspace: bool = False,
):
    """Acquire a block: draw it finely, take the exact dipole field, bring the complex signal to voxels.

    The block has the field of view, voxels and rotation of the protocol, with its middle at ``centre``; its
    vendor's conventions, readout and coil are left out. Sources outside of the block act on it: up to
    ``margin`` voxels around it as finely as those within, beyond on a lattice of 3 mm.

    Parameters
    ----------
    source : Head or Bed
    protocol : Protocol
        A field of view of 64 x 64 x 48 voxels takes about 20 s; of 24 x 24 x 24 less than 1 s.
    centre : sequence of float
        Middle of the block (mm, scanner).
    seed : int
        Of the noise, and of the shim.
    factor : int
        Fine voxels along each side of a voxel.
    lesions : sequence of Lesion
        Drawn into the block, with centres in scanner coordinates (mm).
    background : bool
        Add the field of what is not brain or vein: skull, air, neck; less that of the shim. Needs a Head.
    margin : int
        Voxels.
    kspace : bool
        Crop the k-space of the signal as `bids_qsm.phantom.gre.simulate` does, not average over voxels. The
        block repeats itself then, so that its faces ring.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        The background was asked of a Bed, which has none, or the fine grid is too large.
    """
    if background and isinstance(source, Bed):
        raise ValueError('a bed of veins has no background field; acquire a head, or without a background')
    shape, affine = protocol.shape, protocol.affine
    affine[:3, 3] += centre
    wide = tuple(n + 2 * margin for n in shape)
    if np.prod(wide) * factor**3 > LARGEST:
        raise ValueError(f'{shape} voxels with {factor} parts along each side are too many; ask for fewer')
    fine_shape = tuple(n * factor for n in wide)
    fine_affine = affine @ np.diag([1 / factor] * 3 + [1])
    fine_affine[:3, 3] = affine[:3, :3] @ np.full(3, 0.5 / factor - 0.5 - margin) + affine[:3, 3]
    inner = tuple(slice(margin * factor, (margin + n) * factor) for n in shape)

    put, ground = _paint(source, fine_shape, fine_affine)
    for lesion in lesions:
        draw_sphere(put, lesion, fine_affine)
    segments = source.vessels()
    share, owner = draw(segments, fine_shape, fine_affine)
    vein_chi = np.array([*(s.chi for s in segments), 0], np.float32)[owner]
    venous = t.TISSUES['blood']
    put['chi'] += share * (vein_chi - put['chi'])
    for name in ('r2star', 'density', 'r1'):
        put[name] += share * (np.float32(getattr(venous, name)) - put[name])
    within = np.maximum(put.pop('brain'), share)
    grid = Grid.from_affine(fine_shape, fine_affine)
    local = dipole_field((put['chi'] - np.float32(ground)) * within, grid)[inner]
    put = {name: np.ascontiguousarray(value[inner]) for name, value in put.items()}
    share, owner, within = (v[inner] for v in (share, owner, within))
    far, around = _far_fields(source, shape, affine, wide, factor, seed if background else None)
    local = local + far

    truth = {
        'chi': average(put['chi'], factor),
        'r2star': average(t.scale_r2star(put['r2star'], protocol.field_strength), factor),
        'local_field': average(local, factor),
        'background_field': average(around, factor) if background else np.zeros(shape, np.float32),
        'mask': average(within, factor) > 0.5,
    }
    truth.update(summed(segments, share, owner, factor))

    start = steady(put['density'], put['r1'], protocol)
    field = local + around if background else local
    times = np.array(protocol.echo_times)
    turns = times / ppm_per_radian(protocol.field_strength)
    rate = t.scale_r2star(put['r2star'], protocol.field_strength)
    if kspace:
        echoes = (
            start * np.exp(1j * np.float32(b) * field - np.float32(t) * rate)
            for b, t in zip(turns, times, strict=True)
        )
        signal = np.stack([crop_kspace(one, shape, shift=(factor - 1) / 2) for one in echoes], -1)
    else:
        signal = _signal(start, rate, field, factor, turns, times)
    white = t.TISSUES['white']
    decay = np.exp(-times[0] * t.scale_r2star(white.r2star, protocol.field_strength))
    sigma = float(steady(white.density, white.r1, protocol) * decay / protocol.snr)
    rng = np.random.default_rng([seed, 12])
    for channel in (signal.real, signal.imag):
        channel += np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    return Block(signal, affine, protocol, sigma, truth, clip(segments, shape, affine))


def _paint(source: Head | Bed, shape: tuple[int, ...], affine: np.ndarray):
    """Channels PAINTED without veins, and the susceptibility (ppm) of what surrounds them all."""
    if isinstance(source, Bed):
        return source.paint(shape, affine), source.chi
    return source.bloodless().sample(shape, affine, PAINTED), 0.0


def _far_fields(
    source: Head | Bed,
    shape: tuple[int, ...],
    affine: np.ndarray,
    wide: tuple[int, ...],
    factor: int,
    shimmed: int | None,
):
    """Fields (ppm), on the fine grid, of brain and veins outside the ``wide`` block and of all else."""
    steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
    middle = (np.array(shape) - 1) / 2
    count = int(2 * REACH['bed' if isinstance(source, Bed) else 'head'] / FAR)
    offsets = FAR * (np.arange(count) - (count - 1) / 2)
    lattice = np.eye(4)
    lattice[:3, :3] = affine[:3, :3] / steps * FAR
    corner = lattice[:3, :3] @ np.full(3, (count - 1) / 2)
    lattice[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - corner
    grid = Grid.from_affine((count,) * 3, lattice)
    if isinstance(source, Bed):
        share, owner = draw(source.segments, grid.shape, lattice)
        weighted = share * np.array([*(s.chi - source.chi for s in source.segments), 0], np.float32)[owner]
    else:
        found = source.sample(grid.shape, lattice, ('chi', 'brain', 'blood'))
        weighted = found['chi'] * np.maximum(found['brain'], found['blood'])
    x, y, z = (overlap(offsets, -h, h) for h in np.array(wide) * steps / 2)
    beyond = weighted * (1 - x[:, None, None] * y[:, None] * z)
    # nodes around the block are enough to interpolate from
    low, high = (
        np.clip(count // 2 + side * (np.array(wide) * steps / 2 // FAR + 6), 0, count) for side in (-1, 1)
    )
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    bases = []
    for n, step, m, part in zip(shape, steps, middle, box, strict=True):
        fine = step * ((np.arange(n * factor) - (factor - 1) / 2) / factor - m)
        at = offsets[part]
        bases.append(make_interp_spline(at, np.eye(len(at)), k=3)(fine))
    local = expand(dipole_field(beyond, grid, pad=1.0)[box], bases)
    if shimmed is None or isinstance(source, Bed):
        return local, np.float32(0)
    around = dipole_field(found['chi'] - source.air_chi - weighted, grid, pad=1.0)
    shim(around, found['brain'], grid, np.random.default_rng([shimmed, 13]))
    return local, expand(around[box], bases)


@numba.njit(cache=True, parallel=True)
def _signal(
    start: np.ndarray, rate: np.ndarray, field: np.ndarray, factor: int, turns: np.ndarray, times: np.ndarray
):
    """Complex signal (x, y, z, echo): the mean over the fine voxels of each voxel."""
    x, y, z = start.shape[0] // factor, start.shape[1] // factor, start.shape[2] // factor
    out = np.zeros((x, y, z, len(times)), np.complex64)
    parts = np.float32(factor**3)
    for i in numba.prange(x):
        real, imag = np.empty((z, len(times))), np.empty((z, len(times)))
        for j in range(y):
            real[:] = 0
            imag[:] = 0
            for a in range(i * factor, (i + 1) * factor):
                for b in range(j * factor, (j + 1) * factor):
                    for c in range(start.shape[2]):
                        for e in range(len(times)):
                            size = start[a, b, c] * np.exp(-rate[a, b, c] * np.float32(times[e]))
                            angle = field[a, b, c] * np.float32(turns[e])
                            real[c // factor, e] += size * np.cos(angle)
                            imag[c // factor, e] += size * np.sin(angle)
            for k in range(z):
                for e in range(len(times)):
                    out[i, j, k, e] = (real[k, e] + 1j * imag[k, e]) / parts
    return out
