"""Evidence of veins: susceptibility, R2* and susceptibility-weighted magnitude in one image, its tubes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.biomarkers.focal_brain import tissue_contrast
from bids_qsm.biomarkers.vesselness import fill, tube_eigenvalues, tubeness
from bids_qsm.recon.grid import Grid

SCALES = (0.4, 0.6, 0.9, 1.35, 2.0, 3.0)
"""Standard deviations of the Gaussians (mm), about the radii of veins."""
MOST = 8.0
"""Largest contrast (spreads) of R2* and SWI that counts. Around veins, dephasing and the phase of the dipole
field make values far beyond, which susceptibility has not."""


def contrasts(
    maps: Mapping[str, np.ndarray | None],
    mask: np.ndarray,
    nuclei: np.ndarray,
    grid: Grid,
    *,
    reach_mm: float = 8.0,
):
    """Contrast of each map to the tissue around, in spreads of that tissue; veins are positive.

    Parameters
    ----------
    maps : dict of str to ndarray of float32 or None
        'chi' (ppm), 'r2star' (1/s; 0 or less where there is none) and 'swi' (any unit, dark in veins): those
        that there are.
    mask : ndarray of bool
    nuclei : ndarray of int
        Labels of iron-rich nuclei, 0 elsewhere: each has a level of its own.
    reach_mm : float
        Half the side of the cube that is the tissue around.

    Returns
    -------
    contrast : dict of str to ndarray of float32
        In spreads, 0 where a map has no value.
    spread : dict of str to ndarray of float32
        In the unit of the map.
    """
    contrast, spread = {}, {}
    for name, data in maps.items():
        if data is None:
            continue
        there = mask & (data > 0) if name in ('swi', 'r2star') else mask
        values = np.where(there, data, 0).astype(np.float32)
        if name == 'swi':
            values *= -1
        level = _levels(values, there, nuclei)
        values -= level
        found, spread[name] = tissue_contrast(values, there & (nuclei == 0), grid, reach_mm=reach_mm)
        contrast[name] = np.where(there, found / spread[name], 0).astype(np.float32)
        if name != 'chi':
            np.clip(contrast[name], -MOST, MOST, out=contrast[name])
    return contrast, spread


def _levels(values: np.ndarray, there: np.ndarray, nuclei: np.ndarray):
    """Median of each nucleus less that of a shell of tissue around it, on the voxels of the nucleus."""
    level = np.zeros(values.shape, np.float32)
    for index, box in enumerate(ndimage.find_objects(nuclei), 1):
        if box is None:
            continue
        box = tuple(slice(max(b.start - 3, 0), b.stop + 3) for b in box)
        own = (nuclei[box] == index) & there[box]
        around = ndimage.binary_dilation(own, iterations=2) & (nuclei[box] == 0) & there[box]
        if own.any() and around.any():
            level[box][own] = np.median(values[box][own]) - np.median(values[box][around])
    return level


def combine(contrast: Mapping[str, np.ndarray], seeds: np.ndarray, tissue: np.ndarray):
    r"""Combine contrasts by their likelihood ratio between vein and tissue.

    With the covariance S of the contrasts c in tissue and their medians m in ``seeds``, Gaussian likelihoods
    of equal covariance have the ratio

    .. math:: \log \frac{p(c \mid \mathrm{vein})}{p(c \mid \mathrm{tissue})} = w \cdot c + \mathrm{const},
        \quad w = S^{-1} m

    Parameters
    ----------
    contrast : dict of str to ndarray
        See `contrasts`.
    seeds, tissue : ndarray of bool
        Voxels that are surely vein, and voxels of which most are not.

    Returns
    -------
    evidence : ndarray of float32
        w c / sqrt(w S w): 1 is a standard deviation of tissue.
    weights : dict of str to float
        w, scaled to a sum of 1.
    """
    names = list(contrast)
    inside = np.stack([np.clip(contrast[name][tissue & ~seeds], -MOST, MOST) for name in names])
    covariance = np.atleast_2d(np.cov(inside))
    middle = np.array([np.median(contrast[name][seeds]) for name in names])
    weights = np.linalg.solve(covariance, middle)
    if weights.min() < 0:
        # a map that adds nothing to the others
        weights = np.maximum(middle, 1e-3) / np.diag(covariance)
    scale = np.sqrt(weights @ covariance @ weights)
    evidence = sum(np.float32(w / scale) * contrast[name] for w, name in zip(weights, names, strict=True))
    return evidence, dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def scales_of(grid: Grid):
    """Standard deviations (mm) of the Gaussians for a grid: `SCALES`, the finest no finer than its voxels."""
    side = grid.voxel_volume ** (1 / 3)
    finest = max(0.6 * side, SCALES[0])
    return [finest, *(s for s in SCALES if s > 1.2 * finest)]


def tube_strength(evidence: np.ndarray, mask: np.ndarray, grid: Grid, scales_mm: Sequence[float]):
    """Strength and axis of tubes over scales, in spreads of tissue.

    At each scale the strength is the geometric mean of the two curvatures across the axis, times
    `vesselness.tubeness`, over its own spread in tissue; the largest scale wins.

    Returns
    -------
    strength : ndarray of float32
        0 outside the mask.
    axis : ndarray of float32, shape (x, y, z, 3)
        Unit vectors (mm along the voxel axes).
    scale : ndarray of float32
        Standard deviation (mm) of the scale of the largest strength.
    """
    filled = fill(evidence, mask, grid)
    voxels = np.argwhere(mask)
    best = np.zeros(len(voxels), np.float32)
    along = np.zeros((len(voxels), 3), np.float32)
    size = np.zeros(len(voxels), np.float32)
    for scale in scales_mm:
        values, axis = tube_eigenvalues(filled, voxels, grid, scale)
        noise = 1.4826 * np.median(np.abs(values[:, 2] - np.median(values[:, 2])))
        found = np.sqrt(np.maximum(values[:, 1] * values[:, 2], 0)) / max(noise, 1e-12)
        found *= tubeness(values)
        better = found > best
        best[better], along[better], size[better] = found[better], axis[better], scale
    strength = np.zeros(mask.shape, np.float32)
    direction = np.zeros((*mask.shape, 3), np.float32)
    chosen = np.zeros(mask.shape, np.float32)
    strength[mask], direction[mask], chosen[mask] = best, along, size
    return strength, direction, chosen


def continue_along(strength: np.ndarray, axis: np.ndarray, grid: Grid, *, reach_mm: float = 4.0):
    """Mean strength along the axis of each voxel, on its better side and its worse side.

    A tube goes on, and noise and balls do not. On either side, the strength is averaged over ``reach_mm``
    in steps of half a voxel, each weighted by the squared cosine between the axes and followed along the
    axis that is found there. The result is the mean of both sides, or half of the better one if that is
    larger: a vein may end.

    Returns
    -------
    ndarray of float32
    """
    sides = np.array(grid.voxel_size)
    step = float(sides.min()) / 1.5
    out = np.zeros(strength.shape, np.float32)
    voxels = np.argwhere(strength > 0)
    _follow(strength, axis, voxels, sides, step, max(int(reach_mm / step), 2), out)
    return out


@njit(cache=True, parallel=True)
def _follow(
    strength: np.ndarray,
    axis: np.ndarray,
    voxels: np.ndarray,
    sides: np.ndarray,
    step: float,
    steps: int,
    out: np.ndarray,
):
    nx, ny, nz = strength.shape
    for n in prange(len(voxels)):
        i, j, k = voxels[n, 0], voxels[n, 1], voxels[n, 2]
        sums = np.zeros(2)
        for side in range(2):
            sign = 1.0 - 2.0 * side
            px, py, pz = float(i), float(j), float(k)
            dx, dy, dz = sign * axis[i, j, k, 0], sign * axis[i, j, k, 1], sign * axis[i, j, k, 2]
            for _ in range(steps):
                px += dx * step / sides[0]
                py += dy * step / sides[1]
                pz += dz * step / sides[2]
                a, b, c = int(np.rint(px)), int(np.rint(py)), int(np.rint(pz))
                if a < 0 or b < 0 or c < 0 or a >= nx or b >= ny or c >= nz:
                    break
                ax, ay, az = axis[a, b, c, 0], axis[a, b, c, 1], axis[a, b, c, 2]
                cosine = ax * dx + ay * dy + az * dz
                sums[side] += min(strength[a, b, c], 3 * strength[i, j, k]) * cosine * cosine
                if abs(cosine) > 0.7:
                    # bend with the tube
                    turn = 1.0 if cosine > 0 else -1.0
                    dx, dy, dz = dx + 0.5 * turn * ax, dy + 0.5 * turn * ay, dz + 0.5 * turn * az
                    size = np.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx / size, dy / size, dz / size
        first, second = sums[0] / steps, sums[1] / steps
        out[i, j, k] = (strength[i, j, k] + 2 * max((first + second) / 2, max(first, second) / 2)) / 3


def decoy_excess(decoy: np.ndarray, tissue: np.ndarray, grid: Grid, *, reach_mm: float = 10.0):
    """How many times tubes of the opposite sign are stronger around a voxel than in most of the tissue.

    At the rim, beside air and in streaks, artefacts make strong tubes of either sign. One threshold for the
    whole mask would follow them, and nothing else would pass.

    Parameters
    ----------
    decoy : ndarray of float32, 3D
        Scores in the negated evidence.
    tissue : ndarray of bool
    reach_mm : float
        Standard deviation of the Gaussian over which scores are averaged.

    Returns
    -------
    ndarray of float32
        Root mean square around the voxel over its median in the tissue, at least 1.
    """
    sigma = [reach_mm / v for v in grid.voxel_size]
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), sigma)
    square = ndimage.gaussian_filter(np.where(tissue, decoy, 0).astype(np.float32) ** 2, sigma)
    level = np.sqrt(square / np.maximum(weight, 1e-3))
    usual = float(np.median(level[tissue])) if tissue.any() else 0.0
    return np.maximum(level / usual, 1) if usual > 0 else np.ones(level.shape, np.float32)


def thresholds(found: np.ndarray, decoy: np.ndarray, shares: Sequence[float]):
    """Least score at which false tubes are no more than a share of all, for each of ``shares``.

    Blood is paramagnetic: tubes of the opposite sign are none, and noise and texture make as many of either
    sign. The number of tubes in the negated evidence (decoys) is that of false ones.

    Parameters
    ----------
    found, decoy : ndarray of float32, shape (n,)
        Scores of voxels in the evidence, and in the negated evidence.
    shares : sequence of float

    Returns
    -------
    list of float

    Examples
    --------
    >>> score = np.r_[np.linspace(0, 1, 101), np.full(50, 3.0)]
    >>> np.round(thresholds(score, np.linspace(0, 1, 101), [0.1]), 3).tolist()
    [0.951]
    """
    found, decoy = np.sort(found[found > 0]), np.sort(decoy[decoy > 0])
    levels = np.unique(np.quantile(np.r_[found, decoy], np.linspace(0, 1, 4001))) if len(found) else []
    result = []
    for share in shares:
        above = len(found) - np.searchsorted(found, levels)
        false = len(decoy) - np.searchsorted(decoy, levels)
        passed = np.flatnonzero(false <= share * above)
        result.append(float(levels[passed[0]]) if len(passed) else np.inf)
    return result
