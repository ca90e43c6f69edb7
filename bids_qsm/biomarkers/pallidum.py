"""Eye of the tiger: a core of low susceptibility in the pallidum, inside a ring of high susceptibility."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine, spacing_of
from bids_qsm.biomarkers.nigra_frame import nucleus_voxels
from bids_qsm.recon.grid import Grid

SMOOTH_MM = 0.7
"""Standard deviation of the smoothing inside the pallidum, below the size of a core."""
DEEP_MM = 1.5
"""The middle of a core lies at least so far from the border of the pallidum, as the ring lies around it."""
LARGEST_MM3 = 8.0
FEWEST = 60
LEAST_SCORE = 0.2
"""Score from which there is something low inside a ring; iron all over has less than 0.1."""
LEAST_RING = 0.05
"""Least susceptibility (ppm) of a ring above the tissue around the pallidum: a share of less is noise."""
LEAST_SE = 3.0
"""Standard errors by which the ring lies above the tissue around the pallidum."""
DEEP_SE = 4.3
"""Standard errors by which a core lies below its ring: the lowest point of noise alone lies 3.3 below the
highest around it, and 4.2 at most in 20 sides."""
LONGEST_MM = 11.0
"""Longest core. What is longer runs through the pallidum, as the lamina between its parts does."""
LESS_R2STAR = 0.1
"""Share by which R2* of a core lies below that of its ring in the sign; calcium does not lower R2*."""
DIAMAGNETIC = -0.05
"""Susceptibility (ppm) of a core relative to the tissue around the pallidum that only calcium explains."""
_STEP = 0.5
_MOST = 20
"""Minima that are tried."""
_AROUND = (1.5, 5.0)
_PROFILE_MM = 14.0


@dataclass(frozen=True)
class Eye:
    """Core and ring of the pallidum of one side.

    Attributes
    ----------
    contrast, contrast_se : float
        Susceptibility of the ring less that of the core (ppm).
    ring : float
        Susceptibility of the ring less that of the tissue around the pallidum (ppm).
    enclosed : float
        Share of directions from the core in which the ring is met.
    score, score_se : float
        Share of the susceptibility of the ring that the core lacks, times ``enclosed``: 0 to 1.
    volume : float
        Volume (mm^3) of the core: below the middle between core and ring.
    length : float
        Length (mm) of the ellipsoid of the same spread as the core.
    r2star : float
        R2* of the ring less that of the core, over that of the ring.
    centre : ndarray
        Middle of the core (mm, scanner).
    core : ndarray of int, shape (n, 3)
        Its voxels.
    reason : str
        Why it was not assessed.
    """

    side: str
    contrast: float = np.nan
    contrast_se: float = np.nan
    ring: float = np.nan
    enclosed: float = np.nan
    score: float = np.nan
    score_se: float = np.nan
    volume: float = np.nan
    length: float = np.nan
    r2star: float = np.nan
    centre: np.ndarray | None = None
    core: np.ndarray | None = None
    reason: str = ''

    @property
    def finding(self):
        """What the figures say, in words."""
        if self.reason:
            return 'not assessable'
        if self.score < LEAST_SCORE or self.contrast < DEEP_SE * self.contrast_se:
            return 'no core inside a ring'
        if self.length > LONGEST_MM:
            return 'low band through the pallidum'
        if self.contrast - self.ring > -DIAMAGNETIC:
            return 'diamagnetic core, as of calcium'
        if np.isfinite(self.r2star) and self.r2star < LESS_R2STAR:
            return 'core whose R2* is not lower, as of calcium'
        return 'core inside a ring'


def find_eye(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    mask: np.ndarray,
    grid: Grid,
    affine: np.ndarray,
    side: str,
) -> Eye:
    """Look for a core inside a ring in the pallidum of one side.

    The core is looked for at minima of susceptibility, smoothed inside the pallidum, away from the border.
    From each, rays go out in 64 directions to the border. The ring is the median of the highest values along
    the rays; the minimum with the largest contrast times share of directions counts.

    Parameters
    ----------
    chi : ndarray
        Susceptibility (ppm).
    r2star : ndarray, optional
        R2* (1/s).
    side : str
        L or R.
    """
    size = spacing_of(affine)
    whole = nucleus_voxels(dseg, labels, 'GP', side, size)
    inside = whole & mask & np.isfinite(chi)
    if not whole.any():
        return Eye(side, reason='the labels have no pallidum on this side')
    if inside.sum() < 0.9 * whole.sum():
        return Eye(side, reason='less than 90 % of the pallidum lies inside the mask')
    if grid.voxel_volume > LARGEST_MM3 or inside.sum() < FEWEST:
        return Eye(side, reason=f'voxels of {grid.voxel_volume:.1f} mm^3 are too coarse for the core')
    margin = np.ceil((_AROUND[1] + 1) / size).astype(int)
    box = tuple(
        slice(max(b.start - m, 0), b.stop + m)
        for b, m in zip(ndimage.find_objects(whole.astype(np.uint8))[0], margin, strict=True)
    )
    first = np.array([b.start for b in box])
    region, values = inside[box], np.where(inside[box], chi[box], 0).astype(np.float64)
    away = ndimage.distance_transform_edt(~region, sampling=size)
    depth = np.maximum(ndimage.distance_transform_edt(region, sampling=size) - size.min() / 2, 0)
    shell = (away > _AROUND[0]) & (away < _AROUND[1]) & mask[box] & (dseg[box] == 0) & np.isfinite(chi[box])
    if shell.sum() < FEWEST:
        return Eye(side, reason='hardly any tissue around the pallidum lies inside the mask')
    around = float(np.median(chi[box][shell]))
    smooth = _smoothed(values, region, size)
    deep = region & (depth >= DEEP_MM)
    if deep.sum() < 10:
        return Eye(side, reason='the pallidum is too thin in these voxels')
    lowest = deep & (smooth <= ndimage.minimum_filter(np.where(region, smooth, np.inf), 3))
    places = np.argwhere(lowest)[np.argsort(smooth[lowest])[:_MOST]]
    if not len(places):
        places = np.argwhere(deep)[[np.argmin(smooth[deep])]]
    found = [_enclosed(smooth, region, place, size) for place in places]
    best = int(np.argmax([contrast * enclosed for _, contrast, enclosed in found]))
    middle, (ring, contrast, enclosed) = places[best], found[best]
    low = ring - contrast
    core = _joined(region & (smooth < low + contrast / 2), middle)
    rest = region & ~ndimage.binary_dilation(core, iterations=1) & (depth > size.min())
    if rest.sum() < FEWEST // 2:
        return Eye(side, reason='too little of the pallidum is left around its lowest point')
    # smoothed values are those that the core was compared in
    spread = 1.4826 * float(np.median(np.abs(smooth[rest] - np.median(smooth[rest]))))
    height = ring - around
    if height < max(LEAST_RING, LEAST_SE * spread):
        why = f'the pallidum is {1e3 * height:.0f} ppb above the tissue around it, too little for a ring'
        at = apply_affine(affine, (middle + first)[None])[0]
        return Eye(side, ring=height, centre=at, reason=why)
    share = float(np.clip(contrast / height, 0, 1)) * enclosed
    return Eye(
        side,
        contrast,
        spread,
        height,
        enclosed,
        share,
        spread / height * enclosed,
        float(core.sum() * grid.voxel_volume),
        _length(core, affine, size),
        _relaxation(r2star, box, core, rest),
        apply_affine(affine, (middle + first)[None])[0],
        np.argwhere(core) + first,
    )


def _smoothed(values: np.ndarray, region: np.ndarray, size: np.ndarray):
    """Smooth inside the region only."""
    weight = ndimage.gaussian_filter(region.astype(np.float64), SMOOTH_MM / size)
    return np.where(
        region, ndimage.gaussian_filter(values * region, SMOOTH_MM / size) / np.maximum(weight, 1e-6), 0
    )


def _enclosed(smooth: np.ndarray, region: np.ndarray, middle: np.ndarray, size: np.ndarray):
    """Level of the ring around a place, how far the place lies below it, and how much of it is closed."""
    top, met = _rays(smooth, region, middle, size)
    ring = float(np.median(top))
    contrast = ring - float(smooth[tuple(middle)])
    return ring, contrast, float(np.mean(met & (top > ring - contrast / 2)))


def _rays(smooth: np.ndarray, region: np.ndarray, middle: np.ndarray, size: np.ndarray, *, number: int = 64):
    """Highest value along each ray from the middle to the border, and whether it lies off the middle."""
    k = np.arange(number) + 0.5
    polar, turn = np.arccos(1 - 2 * k / number), np.pi * (1 + 5**0.5) * k
    ways = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1)
    steps = np.arange(0, 25, _STEP)
    at = middle[:, None, None] + ways.T[:, :, None] * steps / size[:, None, None]
    held = ndimage.map_coordinates(region.astype(np.float32), at, order=1) > 0.5
    held &= np.cumprod(held, 1).astype(bool)  # up to the first border
    line = np.where(held, ndimage.map_coordinates(smooth, at, order=1), -np.inf)
    return line.max(1), line.argmax(1) > 0


def _joined(mask: np.ndarray, middle: np.ndarray):
    """The piece of a mask that holds the middle."""
    pieces, _ = ndimage.label(mask)
    return pieces == pieces[tuple(middle)] if pieces[tuple(middle)] else np.zeros(mask.shape, bool)


def _length(core: np.ndarray, affine: np.ndarray, size: np.ndarray):
    """Length (mm) of the ellipsoid of the same spread as the voxels of a core."""
    points = np.argwhere(core) @ affine[:3, :3].T
    if len(points) < 2:
        return float(size.max())
    variance = np.linalg.eigvalsh(np.cov(points.T))[-1] + size.mean() ** 2 / 12
    # the variance of a solid ellipsoid along an axis is its length squared over 20
    return float(np.sqrt(20 * variance))


def _relaxation(r2star: np.ndarray | None, box: tuple, core: np.ndarray, rest: np.ndarray):
    """R2* of the ring less that of the core, over that of the ring."""
    if r2star is None:
        return np.nan
    there = np.isfinite(r2star[box]) & (r2star[box] > 0)
    if not (core & there).any() or not (rest & there).any():
        return np.nan
    ring = float(np.median(r2star[box][rest & there]))
    return (ring - float(np.median(r2star[box][core & there]))) / ring


def profile(chi: np.ndarray, affine: np.ndarray, eyes: dict[str, Eye]) -> pd.DataFrame:
    """Susceptibility along a line from left to right through the core of each side.

    Returns
    -------
    DataFrame
        Columns hemisphere, distance_mm (from the middle of the core, positive to the side), chi (ppm).
    """
    inverse = np.linalg.inv(affine)
    rows = []
    for side, eye in eyes.items():
        if eye.centre is None:
            continue
        offsets = np.arange(-_PROFILE_MM, _PROFILE_MM + 0.1, _STEP)
        outward = np.array([-1.0 if side == 'L' else 1.0, 0, 0])
        points = eye.centre + offsets[:, None] * outward
        values = ndimage.map_coordinates(
            np.nan_to_num(chi).astype(np.float32), apply_affine(inverse, points).T, order=1, mode='nearest'
        )
        rows += [
            {'hemisphere': side, 'distance_mm': d, 'chi': v} for d, v in zip(offsets, values, strict=True)
        ]
    return pd.DataFrame(rows, columns=['hemisphere', 'distance_mm', 'chi'])
