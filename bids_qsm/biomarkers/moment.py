"""Net dipole moment of a small source, from the local field around it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid

SIGNS = {1: 'paramagnetic', -1: 'diamagnetic', 0: 'indeterminate'}
FEWEST = 30
"""Fewest voxels of a shell that a moment is fitted in."""
MOST = 1500
"""Most voxels of a shell that are used; of more, some at equal steps."""
PADDING = 16
"""Voxels of zeros around the mask in the convolution with the dipole."""


@dataclass(frozen=True)
class Moment:
    """Moment (ppm mm^3), its standard error, voxels of the shell, and why there is none."""

    value: float = np.nan
    se: float = np.nan
    voxels: int = 0
    reason: str = ''

    def sign(self, errors: float = 3.0):
        """1 or -1 where it differs from 0 by more than ``errors`` standard errors, else 0."""
        if not np.isfinite(self.se) or abs(self.value) <= errors * self.se:
            return 0
        return int(np.sign(self.value))


def point_dipole(offset: np.ndarray, b0_dir: tuple[float, ...]):
    r"""Field (ppm) of a moment of 1 ppm mm^3 at ``offset`` (..., 3) mm from it.

    .. math:: f = \frac{3 \cos^2 \theta - 1}{4 \pi r^3}

    >>> point_dipole(np.array([[0, 0, 1.0], [2.0, 0, 0]]), (0, 0, 1)).round(4).tolist()
    [0.1592, -0.0099]
    """
    square = (offset**2).sum(-1)
    along = offset @ np.asarray(b0_dir)
    return (3 * along**2 / square - 1) / (4 * np.pi * square**1.5)


def void(magnitude: np.ndarray | None, r2star: np.ndarray | None, mask: np.ndarray, grid: Grid):
    """Voxels whose signal is lost, so that their phase is noise or that of their brightest part.

    Their magnitude is below half of the median of that around them (8 mm), or their R2* exceeds twice its
    median over the mask by more than 60/s: a signal of less than a third at 20 ms.
    """
    lost = np.zeros(mask.shape, bool)
    if magnitude is not None:
        lost |= darkness(magnitude, mask, grid) > 0.5
    if r2star is not None and mask.any():
        measured = r2star[mask & (r2star > 0)]
        if measured.size:
            lost |= r2star > 2 * np.median(measured) + 60
    return lost


def darkness(magnitude: np.ndarray, mask: np.ndarray, grid: Grid, *, reach_mm: float = 8.0):
    """How much darker a voxel is than the mask around it, 0 to 1: 1 less its magnitude over the mean.

    The mean is over a cube of twice ``reach_mm``, without what is darker than half of a first mean.
    """
    size = [2 * int(np.ceil(reach_mm / v)) + 1 for v in grid.voxel_size]

    def mean(inside: np.ndarray):
        weight = ndimage.uniform_filter(inside.astype(np.float32), size)
        total = ndimage.uniform_filter(np.where(inside, magnitude, 0).astype(np.float32), size)
        return total / np.maximum(weight, 1e-3)

    level = mean(mask)
    level = mean(mask & (magnitude > 0.5 * level))
    return np.clip(1 - magnitude / np.maximum(level, 1e-12), 0, 1).astype(np.float32)


class MomentFit:
    r"""Fits moments of sources in the local field of a brain.

    The field that the rest of the map makes is taken off: the moment is that of what a zone holds more than
    the tissue around it. With the dipole kernel D, susceptibility :math:`\chi`, its median around the zone
    :math:`\chi_0` and the local field f, a shell outside of the zone holds

    .. math:: f - D * \chi + D * (\chi - \chi_0)_\mathrm{zone} = m d + g \cdot \nabla d + p

    where d is the field of a unit dipole in the middle of the zone, the second term allows for another middle
    and p is a polynomial of first or, for a total field, second ``order``. All are fitted by least squares;
    voxels that are far off count less (Huber). Voxels without signal are left out.

    The residue of the fit is correlated between voxels and is not noise alone. The standard error is
    therefore scaled by what the same fit, with the same shell, finds at places nearby that hold no source:
    the root mean square of their moments over their standard errors, where it exceeds 1.

    Parameters
    ----------
    field : ndarray of float32 or None
        Local field (ppm). None takes that which the susceptibility makes.
    chi : ndarray of float32
        Susceptibility (ppm).
    mask : ndarray of bool
    lost : ndarray of bool
        Voxels whose phase is not to be trusted, see `void`.
    occupied : ndarray of bool
        Voxels of all sources, near which there is no place for comparison.
    grid : Grid
    order : int
    places : int
        Most places of comparison.
    reach_mm : float
        These lie within so many mm of the rim of the zone.
    """

    def __init__(
        self,
        field: np.ndarray | None,
        chi: np.ndarray,
        mask: np.ndarray,
        lost: np.ndarray,
        occupied: np.ndarray,
        grid: Grid,
        *,
        order: int = 1,
        places: int = 24,
        reach_mm: float = 25.0,
    ):
        self.grid, self.mask, self.places, self.reach = grid, mask, places, reach_mm
        self.size, self.order = np.array(grid.voxel_size), order
        self.trusted = mask & ~lost
        # a constant over the mask makes a field of its own at the edge
        self.chi = np.where(mask, chi, 0).astype(np.float32)
        made, flat = self._forward(self.chi), self._forward(mask.astype(np.float32))
        if field is None:
            self.rest = np.zeros(mask.shape, np.float32)
        else:
            rest, flat = field - made, flat - flat[mask].mean()
            level = -(rest[mask] * flat[mask]).sum() / max((flat[mask] ** 2).sum(), 1e-12)
            self.rest = np.where(mask, rest + np.float32(level) * flat, 0).astype(np.float32)
            self.chi = np.where(mask, self.chi - np.float32(level), 0).astype(np.float32)
        free = ndimage.binary_erosion(self.trusted & ~occupied, iterations=2)
        self.free = np.argwhere(free)

    def _forward(self, chi: np.ndarray):
        box = Box.around(self.mask, self.grid, padding=PADDING)
        sides, b0_dir = ((v[0], v[1], v[2]) for v in (self.grid.voxel_size, self.grid.b0_dir))
        kernel = dipole_kernel(box.shape, sides, b0_dir)
        return box.uncrop(convolve(box.crop(chi), kernel))

    def __call__(self, zone: np.ndarray, *, search_mm: float = 0.0):
        """Moment of what lies in a zone.

        Parameters
        ----------
        zone : ndarray of int, shape (n, 3)
            Its voxels, with those around it that its blur or loss of signal reaches.
        search_mm : float
            How far the dipole may move from the middle of the zone, where the source is seen in part.

        Returns
        -------
        Moment
        """
        middle = np.round(zone.mean(0)).astype(int)
        start = zone.mean(0) - middle
        shell, inner = self._shell(zone - middle)
        points = shell + middle
        valid = ((points >= 0) & (points < self.mask.shape)).all(1)
        valid[valid] = self.trusted[tuple(points[valid].T)]
        shell, inner = shell[valid], inner[valid]
        step = max(-(-len(shell) // MOST), 1)
        shell, inner = shell[::step], inner[::step]
        if len(shell) < FEWEST:
            return Moment(reason='too few voxels with signal around it')
        zone = zone - middle
        kernel = self._kernel(shell, zone)
        moved = np.zeros(3)
        for _ in range(4 if search_mm else 1):
            design = self._design((shell - start) * self.size - moved)
            fitted = self._fit(middle, zone, shell, inner, kernel, design)
            if fitted is None:
                return Moment(reason='too few voxels with signal around it')
            value, se, used, slope = fitted
            # a source that is off by s has the field m (d + s . grad d)
            moved = moved + 0.7 * slope / value
            moved *= min(1.0, search_mm / max(float(np.linalg.norm(moved)), 1e-9))
        if search_mm and abs(value) <= 3 * se:
            return Moment(value, se, used, 'within three standard errors of zero by its residue alone')
        away = np.linalg.norm((self.free - middle) * self.size, axis=1)
        radius = np.linalg.norm(zone * self.size, axis=1).max()
        near = self.free[(away > 2 * radius) & (away < self.reach + 2 * radius)]
        # always the same places for the same source
        chosen = np.random.default_rng(len(near)).permutation(len(near))[: self.places]
        found = [self._fit(place, zone, shell, inner, kernel, design) for place in near[chosen]]
        ratios = np.array([f[0] / f[1] for f in found if f is not None and f[2] > 0.6 * used])
        if len(ratios) < 8:
            return Moment(value, np.nan, used, 'too few places to compare with')
        # half of the places tell, so that veins and other sources among them do not
        scale = 1.4826 * np.median(np.abs(ratios))
        scale = float(np.sqrt(np.mean(np.minimum(ratios**2, (3 * scale) ** 2))))
        return Moment(value, se * max(scale, 1.0), used)

    def _shell(self, zone: np.ndarray):
        """Voxels around a zone, relative to its middle, and which of them lie next to it."""
        thick = max(3.0, 2 * self.size.max(), 0.6 * (len(zone) * self.grid.voxel_volume) ** (1 / 3))
        margin = np.ceil(thick / self.size).astype(int) + 1
        low = zone.min(0) - margin
        box = np.ones(zone.max(0) + margin + 1 - low, bool)
        box[tuple((zone - low).T)] = False
        distance = ndimage.distance_transform_edt(box, sampling=self.size)
        found = np.argwhere(box & (distance <= thick))
        return found + low, distance[tuple(found.T)] <= self.size.max() + 1

    def _kernel(self, shell: np.ndarray, zone: np.ndarray):
        """Field (ppm) in each voxel of a shell of 1 ppm in each of a zone; float32, shape (shell, zone)."""
        found = np.empty((len(shell), len(zone)), np.float32)
        for start in range(0, len(zone), 128):
            some = slice(start, start + 128)
            between = ((shell[:, None] - zone[some]) * self.size).astype(np.float32)
            found[:, some] = self.grid.voxel_volume * point_dipole(between, self.grid.b0_dir)
        return found

    def _design(self, offset: np.ndarray):
        """Columns: dipole, its derivatives along the axes, and a polynomial of first order."""
        small = 0.05
        columns = [point_dipole(offset, self.grid.b0_dir)]
        for step in small * np.eye(3):
            high, low = (point_dipole(offset + s * step, self.grid.b0_dir) for s in (-1, 1))
            columns.append((high - low) / (2 * small))
        columns += [np.ones(len(offset)), *offset.T]
        if self.order > 1:
            columns += [offset[:, a] * offset[:, b] for a in range(3) for b in range(a, 3)]
        return np.stack(columns, 1)

    def _fit(
        self,
        middle: np.ndarray,
        zone: np.ndarray,
        shell: np.ndarray,
        inner: np.ndarray,
        kernel: np.ndarray,
        design: np.ndarray,
    ):
        """Moment, standard error by the residue, voxels used, moment times shift (mm); None where few."""
        shape = np.array(self.mask.shape)
        points, held = shell + middle, zone + middle
        inside = ((points >= 0) & (points < shape)).all(1)
        inside[inside] = self.trusted[tuple(points[inside].T)]
        if inside.sum() < FEWEST or not (inside & inner).any():
            return None
        points = tuple(points[inside].T)
        around = np.median(self.chi[points][inner[inside]])
        there = ((held >= 0) & (held < shape)).all(1)
        there[there] = self.mask[tuple(held[there].T)]
        excess = np.zeros(len(held), np.float32)
        excess[there] = self.chi[tuple(held[there].T)] - around
        data = self.rest[points] + (kernel @ excess)[inside]
        columns = design[inside]
        scale = np.linalg.norm(columns, axis=0)
        columns = columns / scale
        weights = np.ones(len(data))
        for _ in range(4):
            normal = columns.T @ (weights[:, None] * columns)
            solved = np.linalg.solve(normal, columns.T @ (weights * data))
            residue = data - columns @ solved
            spread = max(1.4826 * float(np.median(np.abs(residue))), 1e-9)
            weights = np.minimum(1, 1.345 * spread / np.maximum(np.abs(residue), 1e-12))
        variance = (weights * residue**2).sum() / max(weights.sum() - columns.shape[1], 1)
        error = np.sqrt(variance * np.linalg.inv(normal)[0, 0])
        solved = solved / scale
        return float(solved[0]), float(error / scale[0]), int(inside.sum()), solved[1:4]
