"""Whether sources are large, as vessels are, or small, as iron stores are: R2 against susceptibility."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from bids_qsm.biomarkers.vesselness import vesselness
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid

CLASSES = ((1, 'macroscopic'), (2, 'microscopic'), (3, 'mixed'))
STRONG, WEAK = 0.10, 0.05
"""Susceptibility above that of its region (ppm) of strong sources, and below which they are weak."""
BEYOND = 2.0
"""Deviations of R2 beyond the spread of tissue that a class needs, at least."""
RARE, WIDEST, HIGHEST = 0.005, 25.0, 1.0
"""Expected share of tissue in each class, and the largest change of R2 (1/s) and susceptibility (ppm) that it
is expected to have."""
TUBES = 20.0
"""By how much voxels of a perfect tube are rather veins."""
A_BIN, MOST_BINS = 1000, 16
"""Voxels in a bin of susceptibility within a region, and bins at most."""
FLUID = 4.0
"""R2 below which a voxel is taken for fluid (1/s)."""
LEAST = 30
"""Voxels that a region must have for an R2 of its own."""
SLOPE = (40.0, 20.0)
"""Expected R2 by susceptibility of iron at 3 T, and its standard deviation (1/s/ppm): assumed."""


class Line(NamedTuple):
    """R2 of deep grey matter by susceptibility in one person: R2 = ``start`` + ``slope`` chi (1/s, 1/s/ppm).

    ``slope_sd`` is the standard deviation of the slope, ``spread`` that of regions from the line.
    """

    start: float
    slope: float
    slope_sd: float
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
    slope_sd = (told + 1 / sd**2) ** -0.5
    return Line(float(level - slope * middle), float(slope), float(slope_sd), spread, chi.size)


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
    grid: Grid,
    *,
    chi_noise: float,
    scale: float = 1.0,
) -> Scale | None:
    r"""Tell large from small sources by R2 at given susceptibility.

    Large sources, such as veins, change the mean field of a voxel but hardly R2, because water does not
    diffuse past them between refocusing pulses; small ones raise R2 [1]_. R2 of the regions of ``dseg``
    follows a line over susceptibility in each person. Each region, deep white matter and the rest have a
    usual R2 of their own, which may change with susceptibility within them, as myelin and water do. With the
    deviation d of R2 from the usual one along the line, its spread s (from noise and tissue, different for
    lower and higher R2), and the deviation of susceptibility from the median of the region,

    .. math::
        \text{tissue: } &t_4(\Delta\chi)\, N(d; 0, s^2) \\
        \text{iron on the line: } &q\, u(\Delta\chi)\, N(d; 0, s^2 + \sigma_a^2 \Delta\chi^2) \\
        \text{macroscopic: } &q (1 + c V)\, u(\Delta\chi)\, N(d + a \Delta\chi; 0, s^2) \\
        \text{microscopic, mixed: } &q\, [t_4(\Delta\chi) + q u(\Delta\chi)]\, U\,
        \Phi\!\left(\tfrac{d - 2 s}{s}\right)

    with u even from .1 to 1 ppm, U up to 25 /s, the slope a and its standard deviation, a prior q of .5 %,
    and the vesselness V, see `vesselness`, as veins are tubes. Microscopic sources have a susceptibility
    below .05 ppm, mixed ones more. A class is given where its probability exceeds one half.

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
    grid : Grid
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
    regions = [inside[zone] for zone in inside if zone <= dseg.max()]
    if len(regions) < 3:
        return None
    medians = [[np.median(one[box][there]) for box, there in regions] for one in (chi, r2)]
    line = fit_line(*np.array(medians), scale=scale)
    from_line = np.where(mask, r2 - line.start - line.slope * chi, 0)
    beside = above_middle(chi, zones, solid)
    away = np.zeros(mask.shape)
    below, above = np.full((2, *mask.shape), line.spread)
    wide = np.full(mask.shape, WEAK)
    for box, there in inside.values():
        beyond = beside[box][there]
        wide[box][there] = max(1.4826 * float(np.median(np.abs(beyond))), chi_noise)
        usual = _usual(beyond, from_line[box][there])
        away[box][there] = from_line[box][there] - usual[0]
        below[box][there], above[box][there] = usual[1:]
    # tissue varies by what is left of its spread beside noise, which differs between voxels
    noise = r2_sd**2 + (line.slope * chi_noise) ** 2
    typical = np.median(noise[solid])
    below, above = (np.sqrt(noise + np.maximum(s**2 - typical, (0.25 * s) ** 2)) for s in (below, above))
    sigma = np.maximum(np.where(away > 0, above, below), 1e-3)
    z = np.where(solid, away / sigma, 0)
    strong = special.ndtr((beside - STRONG) / chi_noise)
    weak = special.ndtr((WEAK - np.abs(beside)) / chi_noise)
    usual_chi = (0.375 / wide) * (1 + (beside / wide) ** 2 / 4) ** -2.5
    even_chi = RARE * strong / (HIGHEST - STRONG)
    middle = np.sqrt(2 / np.pi) / (below + above)
    tissue = usual_chi * middle * np.exp(-0.5 * z**2)
    wider = sigma**2 + (line.slope_sd * beside) ** 2
    tissue += even_chi * middle * sigma / np.sqrt(wider) * np.exp(-0.5 * away**2 / wider)
    unchanged = away + line.slope * beside
    spread = np.where(unchanged > 0, above, below)
    tubes = vesselness(chi.astype(np.float32), mask, grid)
    large = (
        even_chi * (1 + TUBES * tubes) * middle * np.exp(-0.5 * (unchanged / np.maximum(spread, 1e-3)) ** 2)
    )
    up = RARE * (usual_chi + even_chi) / WIDEST * special.ndtr(z - BEYOND)
    small, mixed = up * weak, up * (1 - weak)
    total = np.maximum(tissue + small + mixed + large, 1e-12)
    shares = [np.where(solid, one / total, 0).astype(np.float32) for one in (large, small, mixed)]
    found = np.zeros(mask.shape, np.uint8)
    for (number, _), part in zip(CLASSES, shares, strict=True):
        found[part > 0.5] = number
    return Scale(found, shares[0], shares[1], z.astype(np.float32), from_line.astype(np.float32), line)


def _usual(beyond: Array, values: Array) -> tuple[Array, Array, Array]:
    """Usual value at the susceptibility of each voxel of a zone, and the spread below and above it.

    Medians and outer sixths over bins of susceptibility, between which they are interpolated; beyond usual
    susceptibility they are those of the last bin.
    """
    wide = 1.4826 * np.median(np.abs(beyond))
    common = np.abs(beyond) <= 2.5 * wide
    n = int(np.clip(common.sum() // A_BIN, 1, MOST_BINS))
    order = np.argsort(beyond[common], kind='stable')
    parts = [np.median(beyond[common][one]) for one in np.array_split(order, n)]
    rows = [np.percentile(values[common][one], (16, 50, 84)) for one in np.array_split(order, n)]
    low, middle, high = (np.interp(beyond, parts, one) for one in np.transpose(rows))
    return middle, middle - low, high - middle
