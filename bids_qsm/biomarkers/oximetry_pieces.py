"""Pieces of veins, cut from the maps of a scan, and how the scan was sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.fft import next_fast_len
from scipy.spatial import KDTree

from bids_qsm.biomarkers.oximetry_fit import Patch, PieceFit, fit_piece
from bids_qsm.biomarkers.oximetry_sampling import KSpace
from bids_qsm.biomarkers.oximetry_tube import Tube
from bids_qsm.biomarkers.veins import Segment, Veins
from bids_qsm.biomarkers.vesselness import fill
from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.grid import Grid

REACH = 3.0
"""Width of the tissue about a vein whose field is fitted, in voxels."""
PIECE_MM, PIECE_VOXELS, MOST_PIECES = 8.0, 8.0, 4
"""Length of the pieces of a vein, the larger of both, and the most pieces."""
PAD_MM = 40.0
"""Empty space about a map for convolutions (mm)."""
FIRST = 0.45
"""Susceptibility difference (ppm) that the fit starts from, and veins have before they were fitted."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Maps of a series on one grid: field and susceptibility in ppm, residual in rad, R2* in 1/s."""

    localfield: np.ndarray
    chi: np.ndarray
    magnitude: np.ndarray
    mask: np.ndarray
    grid: Grid
    echo_times: Sequence[float]
    field_strength: float
    r2star: np.ndarray | None = None
    residual: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Field of tissue and of all veins at their first susceptibility (ppm), and distance to veins (mm)."""

    tissue: np.ndarray
    veins: np.ndarray
    away: np.ndarray
    level: float

    def scaled(self, level: float):
        """The same with another susceptibility of the veins."""
        return replace(self, veins=self.veins * np.float32(level / self.level), level=level)


def surroundings_of(scan: Scan, veins: Veins):
    """Fields of what else acts on the voxels about a vein."""
    is_vein = veins.share > 0.02
    away = ndimage.distance_transform_edt(~is_vein, scan.grid.voxel_size).astype(np.float32)
    # the map is blurred about a vein, so what lies next to it is taken from farther off
    known = scan.mask & (away > 1.5 * max(scan.grid.voxel_size)) & np.isfinite(scan.chi)
    filled = fill(scan.chi, known, scan.grid, reach_mm=3.0) * scan.mask
    return Surroundings(_field(filled, scan.grid), _field(FIRST * veins.share, scan.grid), away, FIRST)


def sampling_of(scan: Scan, veins: Veins, segments: Sequence[Segment], around: Surroundings):
    """How a scan was sampled, by fits of these segments: filter of k-space, or None for means over voxels.

    ``KSpace()`` where none of them has a piece that can be fitted: then it is assumed.
    Scanners sample k-space; images that were averaged or simulated have means. What fits better is taken: the
    field inside a thin vein and the rings beside it differ so much that one vein tells.
    """

    def fits(sampling: KSpace | None):
        return [fit for one in segments for fit in fit_pieces(scan, veins, one, around, sampling, most=1)]

    means, filtered = fits(None), fits(KSpace())
    if not filtered:
        return KSpace()
    if sum(fit.misfit for fit in means) < sum(fit.misfit for fit in filtered):
        return None
    found = np.array([fit.cut for fit in filtered])
    cut = float(np.median(found))
    # few veins agree by chance
    spread = np.hypot(1.4826 * np.median(np.abs(found - cut)), 0.02) / np.sqrt(len(found))
    return KSpace(cut, float(spread))


def fit_pieces(
    scan: Scan,
    veins: Veins,
    segment: Segment,
    around: Surroundings,
    sampling: KSpace | None,
    *,
    most: int = MOST_PIECES,
) -> Iterator[PieceFit]:
    """Fit the pieces of a segment, ``most`` at most; ``sampling`` is k-space, or None for means."""
    grid, voxel = scan.grid, np.asarray(scan.grid.voxel_size)
    step = float(voxel.max())
    radius = float(np.median(segment.diameter_mm)) / 2
    tube = Tube.through(segment.voxels * voxel, min(max(0.5 * radius, 0.3 * step), 0.8 * step))
    length = tube.steps.sum()
    # near the ends the vein is not a tube any more; of a short one more is kept
    trim = min(radius + step, length / 6)
    usable = length - 2 * trim
    piece = max(PIECE_MM, PIECE_VOXELS * step)
    if usable < 3 * step:
        return
    count = max(int(np.floor(usable / piece)), 1)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    at = np.cumsum(tube.steps) - tube.steps[0]
    whole = _longer(tube, grid, 10 * radius + REACH * step)
    box = box_about(segment, grid, radius + (REACH + 1) * step)
    others = around.veins[box] - around.level * _own_field(segment, veins, grid, box)
    clean = scan.localfield[box] - around.tissue[box]
    index = np.argwhere(scan.mask[box])
    centres = (index + [s.start for s in box]) * voxel
    away, nearest = KDTree(tube.points).query(centres)
    foreign = veins.share[box] * (veins.numbers[box] != segment.number)
    foreign = foreign[tuple(index.T)] > 0.1
    for number in chosen:
        low = trim + number * usable / count
        here = (at[nearest] >= low) & (at[nearest] < low + usable / count)
        here &= (away < radius + REACH * step) & ~foreign
        ring = 2 * np.pi * (radius + REACH * step / 2) * REACH * step * usable / count / grid.voxel_volume
        if here.sum() < max(0.5 * ring, 40):
            continue
        place = tuple(index[here].T)
        magnitude = scan.magnitude[box][place].astype(float)
        magnitude = magnitude / np.median(magnitude)
        neighbours = others[place].astype(float)
        patch = Patch(
            centres[here],
            (clean[place] - neighbours).astype(float),
            magnitude,
            1e-3 / np.clip(magnitude, 0.05, 3),
            0.03,
            neighbours[:, None] if np.ptp(neighbours) > 0.01 else np.zeros((here.sum(), 0)),
        )
        rate = 20.0 * scan.field_strength / 3
        if scan.r2star is not None:
            outside = scan.r2star[box][place][away[here] > radius + step]
            rate = float(np.median(outside)) if outside.size else rate
        yield fit_piece(
            patch,
            whole,
            radius,
            grid,
            echo_times=scan.echo_times,
            field_strength=scan.field_strength,
            tissue_rate=rate,
            start=around.level,
            sampling=sampling,
        )


def box_about(segment: Segment, grid: Grid, reach: float):
    """Slices about a segment, ``reach`` mm wider than it."""
    extra = reach / np.asarray(grid.voxel_size)
    low = np.floor(segment.voxels.min(0) - extra).astype(int)
    high = np.ceil(segment.voxels.max(0) + extra).astype(int) + 1
    return tuple(slice(max(int(a), 0), min(int(b), n)) for a, b, n in zip(low, high, grid.shape, strict=True))


def _longer(tube: Tube, grid: Grid, more: float):
    """The tube, prolonged by ``more`` mm where it ends at the edge of the volume: there it is cut."""
    voxel, last = np.asarray(grid.voxel_size), np.asarray(grid.shape) - 1
    points, step = tube.points, tube.steps.mean()
    along = np.arange(1, int(more / step) + 1)[:, None] * step
    count = min(5, len(points))
    for end, near in ((0, points[count - 1]), (-1, points[-count])):
        here = points[end]
        if (np.minimum(here / voxel, last - here / voxel) < 1.5).any():
            direction = (here - near) / np.linalg.norm(here - near)
            added = here + along * direction
            points = np.concatenate([added[::-1], points] if end == 0 else [points, added])
    return Tube.through(points, step)


def _own_field(segment: Segment, veins: Veins, grid: Grid, box: tuple[slice, ...]):
    """Field of the shares of a segment itself, for a susceptibility of 1 ppm."""
    share = np.where(veins.numbers[box] == segment.number, veins.share[box], 0)
    return _field(share, grid)


def _field(chi: np.ndarray, grid: Grid):
    """Field of a susceptibility (ppm) in empty space: padded, so that the ends do not act on each other."""
    x, y, z = (
        next_fast_len(n + int(np.ceil(min(PAD_MM / v, n))), real=True)
        for n, v in zip(chi.shape, grid.voxel_size, strict=True)
    )
    shape = (x, y, z)
    wide = np.zeros(shape, np.float32)
    inner = tuple(slice(n) for n in chi.shape)
    wide[inner] = chi
    sides, b0_dir = ((x[0], x[1], x[2]) for x in (grid.voxel_size, grid.b0_dir))
    return convolve(wide, dipole_kernel(shape, sides, b0_dir))[inner]
