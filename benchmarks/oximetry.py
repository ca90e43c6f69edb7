"""x"""
import numpy as np
from bids_qsm.biomarkers.oximetry import Scan, measure_veins
from bids_qsm.biomarkers.oxygen import Constants, saturation, extraction
from bids_qsm.biomarkers.veins import Segment, Veins
from bids_qsm.phantom.fine import Bed, acquire, tube
from bids_qsm.phantom.gre import Protocol
from bids_qsm.recon.field import linear
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.registry import call
from bids_qsm.recon.relaxation import R2STAR
from bids_qsm.recon.units import effective_echo_time, ppm_per_radian


def scan_of(block, *, invert=True):
    """Maps of a block."""
    p, grid = block.protocol, block.grid
    mask = np.ones(grid.shape, bool)
    magnitude = block.magnitude.astype(np.float32)
    field, noise, residual = linear(block.phase.astype(np.float32), magnitude, mask, p.echo_times, p.field_strength)
    decay = {'magnitude': magnitude, 'mask': mask, 'echo_times': p.echo_times, 'field': field, 'field_strength': p.field_strength, 'grid': grid}
    r2 = call(next(iter(R2STAR.values())), decay, {}) if len(p.echo_times) > 1 else None
    r2 = r2[0] if isinstance(r2, tuple) else r2
    chi = block.truth['chi']
    if invert:
        data = {'field': field, 'radians_per_ppm': effective_echo_time(p.echo_times) / ppm_per_radian(p.field_strength), 'mask': mask, 'noise': noise, 'grid': grid, 'magnitude': combine(magnitude),'field_strength':p.field_strength,'echo_times':p.echo_times, 'r2star': r2}
        chi = call(next(iter(INVERSION.values())), data, {})
    return Scan(field, chi, combine(magnitude), mask, grid, p.echo_times, p.field_strength, r2, residual)


def veins_of(block, rng, *, place=0.15, width=0.1):
    """The true veins, with centrelines and diameters as a segmentation might find them."""
    inverse = np.linalg.inv(block.affine)
    segments, numbers = [], np.zeros(block.grid.shape, np.int32)
    best = np.full(block.grid.shape, np.inf)
    voxel = np.asarray(block.grid.voxel_size)
    index = np.stack(np.meshgrid(*map(np.arange, block.grid.shape), indexing='ij'), -1) * voxel
    for n, s in enumerate(block.segments, 1):
        at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(s.points, axis=0), axis=1))]
        fine = np.arange(0, at[-1], voxel.min() / 2)
        points = np.stack([np.interp(fine, at, s.points[:, k]) for k in range(3)], 1)
        points = points + place * voxel.max() * rng.standard_normal(3)
        radius = np.interp(fine, at, s.radius) * np.exp(width * rng.standard_normal())
        direction = np.gradient(points, axis=0)
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        tilt = np.degrees(np.arccos(np.clip(np.abs(direction[:, 2]), 0, 1)))
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        segments.append(Segment(n, s.kind.replace(' ', '_'), points, voxels, direction, 2 * radius, tilt, (0, 0)))
        away = np.min([((index - p * voxel) ** 2).sum(-1) for p in voxels], 0) ** 0.5 / radius.mean()
        numbers[away < best] = n
        best = np.minimum(best, away)
    share = block.truth['veins'].astype(np.float32)
    numbers[share < 0.01] = 0
    return Veins(share, share >= 0.5, block.truth['vein_dseg'], numbers * 0, numbers, tuple(segments), np.nan, 'assumed')


def one(seed, diameter, tilt, *, voxel=(1.0, 1.0, 1.0), snr=70.0, echo_times=(0.005, 0.010, 0.015, 0.020, 0.025), field_strength=3.0, rotation=(0, 0, 0), texture=0.01, width=0.1, n=28, invert=True, factor=5):
    rng = np.random.default_rng([seed, 5])
    v = np.array(voxel)
    size = float(np.prod(v) ** (1 / 3))
    yv = rng.uniform(0.55, 0.75)
    vein = tube(diameter=diameter * size, tilt=tilt, azimuth=rng.uniform(0, 360), centre=rng.uniform(-0.5, 0.5, 3) * v, oxygenation=yv)
    protocol = Protocol(voxel_size=tuple(voxel), fov=tuple(n * v), snr=snr, echo_times=tuple(echo_times), field_strength=field_strength, rotation=rotation)
    bed = Bed((vein,), texture=texture, seed=seed)
    block = acquire(bed, protocol, seed=seed, factor=factor)
    found = measure_veins(scan_of(block, invert=invert), veins_of(block, rng, width=width))[0]
    return yv, bed.chi, found
