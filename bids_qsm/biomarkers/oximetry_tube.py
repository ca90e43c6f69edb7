"""Field and signal of a vein: a bent tube of blood."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.spatial import KDTree

from bids_qsm.recon.units import ppm_per_radian

PARTS = 4
"""Parts of a voxel along each axis at the wall of a vein."""
_MERGED, _FAR = 4, 16.0
"""Points of an axis that are taken as one, and from how many of their steps."""


@dataclass(frozen=True)
class Tube:
    """Axis of a vein: ``points`` (n, 3) in mm along the voxel axes, unit ``tangents``, ``steps`` (mm)."""

    points: np.ndarray
    tangents: np.ndarray
    steps: np.ndarray

    @classmethod
    def through(cls, points: np.ndarray, step: float):
        """Tube through the points of a centreline, at equal steps (mm)."""
        points = np.asarray(points, float)
        away = np.linalg.norm(np.diff(points, axis=0), axis=1)
        at = np.r_[0, np.cumsum(away)]
        fine = np.linspace(0, at[-1], max(int(np.ceil(at[-1] / step)) + 1, 3))
        points = np.stack([np.interp(fine, at, points[:, k]) for k in range(3)], 1)
        tangents = np.gradient(points, axis=0)
        steps = np.linalg.norm(tangents, axis=1)
        return cls(points, tangents / steps[:, None], steps)

    def moved(self, shift: np.ndarray):
        """The same tube, moved as a whole (mm)."""
        return Tube(self.points + shift, self.tangents, self.steps)


@dataclass(frozen=True)
class Parts:
    """Parts that voxels are cut into: ``places`` (p, 3) in mm, those of voxel v from ``first[v]`` on."""

    places: np.ndarray
    first: np.ndarray


def cut(centres: np.ndarray, tube: Tube, radius: float, voxel_size: Sequence[float]):
    """Cut voxels into parts: into 4 along each axis where the wall of a tube may be, near it 2, and 1 beyond.

    Parameters
    ----------
    centres : ndarray, shape (v, 3)
        Centres of voxels (mm along the voxel axes).
    tube : Tube
    radius : float
        Of the tube (mm).
    voxel_size : sequence of 3 floats
    """
    step = max(voxel_size)
    away = KDTree(tube.points).query(centres)[0] - radius
    counts = np.where(away < 1.3 * step, PARTS, np.where(away < 2.6 * step, 2, 1))
    blocks = {n: _block(voxel_size, n) for n in np.unique(counts)}
    places = np.concatenate([c + blocks[n] for c, n in zip(centres, counts, strict=True)])
    return Parts(places, np.r_[0, np.cumsum(counts**3)])


def _block(voxel_size: Sequence[float], count: int):
    along = [(np.arange(count) + 0.5) / count - 0.5 for _ in range(3)]
    grid = np.stack(np.meshgrid(*along, indexing='ij'), -1).reshape(-1, 3)
    return grid * np.asarray(voxel_size, float)


def tube_geometry(places: np.ndarray, tube: Tube, b0_dir: Sequence[float]):
    r"""Distance of points to a tube, and the shape of its field there.

    Outside, a tube of radius a and susceptibility difference :math:`\Delta\chi` acts as a line of dipoles:

    .. math:: f = \Delta\chi \, a^2 g, \quad
        g(r) = \tfrac{1}{4} \int \frac{3 \cos^2\gamma - 1}{|r - q|^3} \, dl(q),

    which is exact for straight tubes: :math:`g = \sin^2\theta \cos 2\varphi / (2 \rho^2)`.

    Parameters
    ----------
    places : ndarray, shape (p, 3)
        Points (mm along the voxel axes).
    tube : Tube
    b0_dir : sequence of 3 floats

    Returns
    -------
    distance : ndarray, shape (p,)
        To the axis (mm).
    outer : ndarray, shape (p,)
        g (1/mm^2).
    inner : ndarray, shape (p,)
        Field inside over the susceptibility difference, :math:`(3 \cos^2\theta - 1) / 6`.
    """
    points, tangents, steps = (np.asarray(a, np.float64) for a in (tube.points, tube.tangents, tube.steps))
    starts = np.arange(0, len(points), _MERGED)
    sums = np.add.reduceat(steps, starts)
    centres = np.add.reduceat(points * steps[:, None], starts) / sums[:, None]
    return _geometry(
        np.ascontiguousarray(places, np.float64),
        np.ascontiguousarray(points),
        np.ascontiguousarray(tangents),
        steps,
        centres,
        sums,
        np.asarray(b0_dir, np.float64),
    )


@njit(cache=True, fastmath=True)
def _geometry(
    places: np.ndarray,
    points: np.ndarray,
    tangents: np.ndarray,
    steps: np.ndarray,
    centres: np.ndarray,
    sums: np.ndarray,
    b0: np.ndarray,
):
    count, length = len(places), len(points)
    distance = np.empty(count)
    outer = np.empty(count)
    inner = np.empty(count)
    for p in range(count):
        x, y, z = places[p]
        total, nearest, which = 0.0, 1e30, 0
        for g in range(len(centres)):
            dx, dy, dz = x - centres[g, 0], y - centres[g, 1], z - centres[g, 2]
            square = dx * dx + dy * dy + dz * dz
            first = g * _MERGED
            if square > (_FAR * steps[first]) ** 2:
                up = dx * b0[0] + dy * b0[1] + dz * b0[2]
                total += sums[g] * (3 * up * up / square - 1) / (square * np.sqrt(square))
                if square < nearest:
                    nearest, which = square, min(first + _MERGED // 2, length - 1)
                continue
            for j in range(first, min(first + _MERGED, length)):
                dx, dy, dz = x - points[j, 0], y - points[j, 1], z - points[j, 2]
                square = dx * dx + dy * dy + dz * dz
                if square < nearest:
                    nearest, which = square, j
                # on the axis itself, where the line is not the tube, the sum must stay finite
                square = max(square, 0.25 * steps[j] * steps[j])
                up = dx * b0[0] + dy * b0[1] + dz * b0[2]
                total += steps[j] * (3 * up * up / square - 1) / (square * np.sqrt(square))
        # of points taken as one, the nearest
        low, high = max(which - _MERGED, 0), min(which + _MERGED, length)
        nearest = 1e30
        for j in range(low, high):
            dx, dy, dz = x - points[j, 0], y - points[j, 1], z - points[j, 2]
            square = dx * dx + dy * dy + dz * dz
            if square < nearest:
                nearest, which = square, j
        tangent = tangents[which]
        along = (
            (x - points[which, 0]) * tangent[0]
            + (y - points[which, 1]) * tangent[1]
            + (z - points[which, 2]) * tangent[2]
        )
        distance[p] = np.sqrt(max(nearest - min(along * along, steps[which] ** 2), 0.0))
        outer[p] = total / 4
        tilt = tangent[0] * b0[0] + tangent[1] * b0[1] + tangent[2] * b0[2]
        inner[p] = (3 * tilt * tilt - 1) / 6
    return distance, outer, inner


def tube_signal(
    geometry: tuple[np.ndarray, np.ndarray, np.ndarray],
    first: np.ndarray,
    radius: float,
    dchi: float,
    *,
    edge: float,
    blood: float,
    blood_rate: float,
    tissue_rate: float,
    echo_times: Sequence[float],
    field_strength: float,
):
    """Complex signal of the eight halves (two along each axis) of voxels in and around a vein, at each echo.

    Each part of a voxel has the field of its place and the amplitude of blood or tissue.

    Parameters
    ----------
    geometry : tuple
        Of `tube_geometry`, at the places of `cut`.
    first : ndarray of int, shape (v + 1,)
        Of `Parts`.
    radius : float
        Of the tube (mm).
    dchi : float
        Susceptibility of blood less that of tissue (ppm).
    edge : float
        Size of a part of a voxel (mm); the wall is blurred by it.
    blood : float
        Signal of blood over that of tissue at echo time zero.
    blood_rate, tissue_rate : float
        R2* (1/s) of blood and of tissue.
    echo_times : sequence of float
        Echo times (s).
    field_strength : float
        B0 (T).

    Returns
    -------
    signal : ndarray of complex64, shape (v, 8, echo)
        The last axis varies fastest among the halves; tissue has 1 at echo time zero.
    spread : ndarray, shape (v,)
        Standard deviation of the field within the voxel (ppm).
    """
    times = np.asarray(echo_times, np.float64)
    return _signal(
        *geometry,
        first,
        float(radius),
        float(dchi),
        float(edge),
        np.float64(blood) * np.exp(-blood_rate * times),
        np.exp(-tissue_rate * times),
        times,
        float(1 / ppm_per_radian(field_strength)),
    )


@njit(cache=True)
def _signal(
    distance: np.ndarray,
    outer: np.ndarray,
    inner: np.ndarray,
    first: np.ndarray,
    radius: float,
    dchi: float,
    edge: float,
    blood: np.ndarray,
    tissue: np.ndarray,
    times: np.ndarray,
    turn: float,
):
    voxels, echoes = len(first) - 1, times.size
    halves = np.zeros((voxels, 8, echoes), np.complex64)
    spread = np.empty(voxels)
    signal = np.empty(echoes, np.complex128)
    for v in range(voxels):
        count = first[v + 1] - first[v]
        side = round(count ** (1 / 3))
        mean = square = 0.0
        for p in range(first[v], first[v + 1]):
            d = distance[p]
            inside = min(max((radius - d) / edge + 0.5, 0.0), 1.0)
            # of a part that the wall cuts, the outside has the field at the wall
            out = dchi * outer[p] * min(radius * radius, d * d)
            into = dchi * inner[p]
            mean += inside * into + (1 - inside) * out
            square += inside * into**2 + (1 - inside) * out**2
            signal[:] = 0
            for n in range(echoes):
                if inside < 1:
                    signal[n] += (1 - inside) * tissue[n] * np.exp(1j * turn * out * times[n])
                if inside > 0:
                    signal[n] += inside * blood[n] * np.exp(1j * turn * into * times[n])
            if side == 1:
                halves[v] += signal.astype(np.complex64)
                continue
            part = p - first[v]
            i, j, k = part // side**2, part // side % side, part % side
            half = 4 * (2 * i // side) + 2 * (2 * j // side) + 2 * k // side
            for n in range(echoes):
                halves[v, half, n] += signal[n] * (8 / count)
        spread[v] = np.sqrt(max(square / count - (mean / count) ** 2, 0.0))
    return halves, spread
