"""Whether sources are large, as vessels are, or small, as iron stores are: R2 against susceptibility."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from bids_qsm.recon.arrays import Array

CLASSES = ((1, 'macroscopic'), (2, 'microscopic'), (3, 'mixed'))
STRONG, WEAK = 0.10, 0.05
"""Susceptibility above that of its region (ppm) of strong sources, and below which they are weak."""
BEYOND = 2.0
"""Deviations of R2 beyond the spread of tissue that a class needs, at least."""
RARE, WIDEST = 0.005, 25.0
"""Expected share of tissue in each class, and the largest change of R2 that it is expected to have (1/s)."""
FLUID = 4.0
"""R2 below which a voxel is taken for fluid (1/s)."""
LEAST = 30
"""Voxels that a region must have for an R2 of its own."""
SLOPE = (40.0, 20.0)
"""Expected R2 by susceptibility of iron at 3 T, and its standard deviation (1/s/ppm): assumed."""


class Line(NamedTuple):
    """R2 of deep grey matter by susceptibility in one person: R2 = ``start`` + ``slope`` chi,
    and its spread."""

    start: float
    slope: float
    spread: float
    n: int


class Scale(NamedTuple):
    """Class of each voxel (uint8, see `CLASSES`; 0 unclassified), probabilities, deviations.

    ``z`` is the deviation of R2 from that of its region at its susceptibility, over its expected spread;
    ``from_line`` (1/s) is that from the line of all regions.
    """

    dseg: Array
    macroscopic: Array
    microscopic: Array
    z: Array
    from_line: Array
    line: Line


def fit_line(chi: Array, r2: Array, *, scale: float = 1.0, rounds: int = 20) -> Line:
    r"""Robust line of R2 on susceptibility over regions, whose slope is expected to be near that of iron.

    Tukey's biweight [1]_; the slope is the mean of that of the regions and of `SLOPE`, weighted by their
    precisions.

    Parameters
    ----------
    chi, r2 : ndarray, shape (n,)
        Medians of regions (ppm, 1/s).
    scale : float
        Field strength over 3 T, with which the expected slope increases.

    References
    ----------
    .. [1] Beaton & Tukey (1974), Technometrics 16:147. doi:10.1080/00401706.1974.10489171
    """
    expected, sd = (scale * one for one in SLOPE)
    weight = np.ones(chi.size)
    for _ in range(rounds):
        middle = np.average(chi, weights=weight)
        level = np.average(r2, weights=weight)
        x, y = chi - middle, r2 - level
        rest = y - x * np.average(x * y, weights=weight) / max(np.average(x * x, weights=weight), 1e-8)
        spread = max(1.4826 * float(np.median(np.abs(rest))), 0.3)
        told = (weight * x * x).sum() / spread**2
        slope = ((weight * x * y).sum() / spread**2 + expected / sd**2) / (told + 1 / sd**2)
        weight = np.maximum(1 - ((y - slope * x) / (4.685 * spread)) ** 2, 0.01) ** 2
    return Line(float(level - slope * middle), float(slope), spread, chi.size)


def zones_of(dseg: Array, white: Array | None) -> Array:
    """Regions, and after their last number deep white matter, and the rest (int32, same shape)."""
    last = dseg.max()
    rest = np.full(dseg.shape, 2) if white is None else np.where(white, 1, 2)
    return np.where(dseg > 0, dseg, last + rest).astype(np.int32)


def _inside(zones: Array, there: Array):
    """Zone -> its box and which voxels of it are ``there`` (bool), of zones that have `LEAST` of these."""
    boxes = enumerate(ndimage.find_objects(zones), start=1)
    found = {zone: (box, (zones[box] == zone) & there[box]) for zone, box in boxes if box is not None}
    return {zone: pair for zone, pair in found.items() if pair[1].sum() >= LEAST}


def above_middle(chi: Array, zones: Array, there: Array) -> Array:
    """Susceptibility less the median of its zone over what is ``there`` (bool)."""
    away = chi.copy()
    for box, part in _inside(zones, there).values():
        away[box][part] -= np.median(chi[box][part])
    return away


def source_scale(
    chi: Array,
    r2: Array,
    r2_sd: Array,
    mask: Array,
    white: Array | None,
    dseg: Array,
    *,
    chi_noise: float,
    scale: float = 1.0,
) -> Scale | None:
    r"""Tell large from small sources by R2 at given susceptibility.

    Large sources, such as veins, change the mean field of a voxel but hardly R2, because water does not
    diffuse past them between refocusing pulses; small ones raise R2 [1]_. R2 of the regions of ``dseg``
    follows a line over susceptibility in each person. Each region, deep white matter and the rest have an
    offset from it of their own (their median), as their myelin and water differ.
    With the deviation d from these, and its spread s from noise and tissue, each voxel is

    .. math:: \text{tissue: } N(d; 0, s^2), \quad
        \text{microscopic: } U\, \Phi\!\left(\tfrac{d - 2 s}{s}\right) [|\Delta\chi| < .05], \quad
        \text{macroscopic: } U\, \Phi\!\left(\tfrac{-d - 2 s}{s}\right) [\Delta\chi > .1]

    with U even up to 25 /s and a prior of 1 % for each class. Susceptibility counts from the median of
    the region; brackets are shares of its noise. A
    class is given where its probability exceeds one half. Microscopic sources of stronger susceptibility are
    mixed.

    Parameters
    ----------
    chi : ndarray of float32, shape (x, y, z)
        Susceptibility (ppm).
    r2, r2_sd : ndarray of float32, shape (x, y, z)
        R2 and its standard deviation (1/s).
    mask : ndarray of bool, shape (x, y, z)
        Where both are known.
    white : ndarray of bool, shape (x, y, z), optional
        Deep white matter.
    dseg : ndarray of int, shape (x, y, z)
        Regions.
    chi_noise : float
        Standard deviation of the noise of susceptibility (ppm).
    scale : float
        Field strength over 3 T.

    Returns
    -------
    Scale, or None where there are less than three regions for a line.

    References
    ----------
    .. [1] Yablonskiy & Haacke (1994), MRM 32:749. doi:10.1002/mrm.1910320610
    """
    solid = mask & (r2 > FLUID)
    zones = zones_of(dseg, white)
    inside = _inside(zones, solid)
    regions = [zone for zone in inside if zone <= dseg.max()]
    if len(regions) < 3:
        return None
    middle = {
        zone: [np.median(one[box][there]) for one in (chi, r2)] for zone, (box, there) in inside.items()
    }
    line = fit_line(*np.array([middle[zone] for zone in regions]).T, scale=scale)
    from_line = np.where(mask, r2 - line.start - line.slope * chi, 0)
    away, beside = from_line.copy(), above_middle(chi, zones, solid)
    spread = np.full(mask.shape, line.spread, np.float32)
    for box, there in inside.values():
        values = from_line[box][there]
        offset = np.median(values)
        away[box][there] -= offset
        spread[box][there] = 1.4826 * np.median(np.abs(values - offset))
    # tissue varies by what is left of its spread beside noise, which differs between voxels
    noise = r2_sd**2 + (line.slope * chi_noise) ** 2
    usual = np.median(noise[solid])
    sigma = np.sqrt(noise + np.maximum(spread**2 - usual, (0.25 * spread) ** 2))
    z = np.where(solid, away / np.maximum(sigma, 1e-3), 0)
    sd = max(chi_noise, 1e-4)
    weak = special.ndtr((WEAK - np.abs(beside)) / sd)
    strong = special.ndtr((beside - STRONG) / sd)
    tissue = (1 - 2 * RARE) * np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * sigma)
    up = RARE / WIDEST * special.ndtr(z - BEYOND)
    small, mixed = up * weak, up * (1 - weak)
    large = RARE / WIDEST * special.ndtr(-z - BEYOND) * strong
    total = np.maximum(tissue + small + mixed + large, 1e-12)
    shares = [np.where(solid, one / total, 0).astype(np.float32) for one in (large, small, mixed)]
    found = np.zeros(mask.shape, np.uint8)
    for (number, _), part in zip(CLASSES, shares, strict=True):
        found[part > 0.5] = number
    return Scale(found, shares[0], shares[1], z.astype(np.float32), from_line.astype(np.float32), line)
