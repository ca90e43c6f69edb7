"""How much a rim stands out, in each direction from the centre of a lesion, and what stands out by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.biomarkers.rim_profiles import BINS, N_DIRECTIONS, STEP_MM, Frame

RIM_MM = (-1.5, 0.5)
"""Range of the signed distance in which a rim is looked for, plus a voxel on either side: masks drawn on
another image are off by that much."""
OUT_MM = (1.5, 3.5)
"""Range beyond the rim that the tissue outside is taken from."""
BLOCKED = 1 / 3
"""Largest share of a direction that may be hidden by veins, fluid, grey matter or the end of the map."""
FEWEST_PLACES = 8
"""Fewest places without a lesion that tell what stands out by chance."""
REACH_MM = 22.0
"""How far (mm) such places may lie from the lesion."""
SPREADS = 2.0
"""Threshold of a direction, in standard deviations of what stands out by chance."""


@dataclass(frozen=True, eq=False)
class Edge:
    """What was measured across the edge of a lesion: one entry a direction, NaN where not assessable.

    ``contrast`` is the least of rim less core and rim less outside, ``rim`` and ``outside`` are the values
    (ppm) and ``at`` the signed distance (mm) of the rim; ``core`` is that of the whole lesion.
    """

    contrast: np.ndarray
    rim: np.ndarray
    outside: np.ndarray
    at: np.ndarray
    core: float


def measure_edge(frame: Frame, values: np.ndarray, assessable: np.ndarray):
    """Find the rim in each direction: where it stands out most from core and outside alike.

    Parameters
    ----------
    frame : Frame
    values : ndarray of float, shape (n,)
        Map at the points of the frame; NaN at veins and where the map has no value.
    assessable : ndarray of bool, shape (directions,)

    Returns
    -------
    Edge
    """
    nothing = np.full(N_DIRECTIONS, np.nan)
    inner = values[(frame.signed <= -frame.core_mm) & np.isfinite(values)]
    if not inner.size:
        return Edge(nothing, nothing, nothing, nothing, np.nan)
    # the lower half: where the core is small, the rim reaches into it
    core = float(np.sort(inner)[: -(-inner.size // 2)].mean())
    profile = frame.profile(values)
    low = max(RIM_MM[0] - frame.voxel_mm, STEP_MM - frame.core_mm)
    candidates = np.flatnonzero((low <= BINS) & (RIM_MM[1] + frame.voxel_mm >= BINS))
    first, last = (round(limit / STEP_MM) for limit in OUT_MM)
    outsides = np.stack(
        [np.nanmean(_filled(profile[:, b + first : b + last + 1]), axis=1) for b in candidates], 1
    )
    rims = profile[:, candidates]
    contrast = np.minimum(rims - core, rims - outsides)
    contrast = np.where(assessable[:, None], contrast, np.nan)
    there = np.isfinite(contrast).any(1)
    best = np.where(np.isfinite(contrast), contrast, -np.inf).argmax(1)
    rows = np.arange(N_DIRECTIONS)
    found, rim, outside = (np.where(there, part[rows, best], np.nan) for part in (contrast, rims, outsides))
    return Edge(found, rim, outside, np.where(there, BINS[candidates][best], np.nan), core)


def _filled(part: np.ndarray):
    """Bins (directions, bins); rows of NaN alone, of which a mean would warn, become infinite."""
    empty = ~np.isfinite(part).any(1)
    return np.where(empty[:, None], np.inf, part)


@dataclass(frozen=True, eq=False)
class Chance:
    """Contrasts of directions at places without a lesion: their mean and standard deviation (ppm), and the
    contrasts themselves, (places, directions)."""

    mean: float
    spread: float
    contrasts: np.ndarray

    @property
    def threshold(self):
        """Contrast (ppm) that a direction must exceed."""
        return max(self.mean, 0.0) + SPREADS * self.spread

    def error(self, which: np.ndarray):
        """Standard deviation (ppm) of the mean over the directions ``which`` (bool), from place to place."""
        part = self.contrasts[:, which]
        part = part[np.isfinite(part).mean(1) > 0.5] if part.size else part
        return float(np.nanmean(part, axis=1).std(ddof=1)) if len(part) > 2 else np.nan


def contrast_by_chance(
    frame: Frame,
    chi: np.ndarray,
    plain: np.ndarray,
    voxel_size: Sequence[float] | np.ndarray,
    *,
    places: int = 40,
):
    """Measure the same shape at places without a lesion nearby: noise, its correlation, and tissue.

    Parameters
    ----------
    frame : Frame
    chi : ndarray of float32
        Susceptibility (ppm).
    plain : ndarray of bool
        Tissue like that around the lesion, without lesions and veins.
    voxel_size : sequence of float
        (mm).
    places : int
        Most places that are measured.

    Returns
    -------
    Chance or None
        None where there are fewer than `FEWEST_PLACES` places.
    """
    steps = np.array(voxel_size, float)
    centre = np.rint(frame.centre).astype(int)
    low = np.maximum(centre - np.ceil(REACH_MM / steps).astype(int), 0)
    high = np.minimum(centre + np.ceil(REACH_MM / steps).astype(int) + 1, plain.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    free = np.argwhere(plain[box]) + low
    # the same places on every machine and in every run
    free = np.random.default_rng(0).permutation(free)
    inner = frame.points[:: max(len(frame.points) // 400, 1)]
    everywhere, tissue = np.ones(N_DIRECTIONS, bool), np.where(plain, chi, np.nan)
    found = []
    for place in free[: 20 * places]:
        shift = place - frame.centre
        at = np.rint(inner + shift).astype(int)
        inside = ((at >= 0) & (at < plain.shape)).all(1)
        if inside.mean() < 0.9 or plain[tuple(at[inside].T)].sum() < 0.85 * len(at):
            continue
        values = frame.sampled(tissue, shift)
        found.append(measure_edge(frame, values, everywhere).contrast)
        if len(found) == places:
            break
    if len(found) < FEWEST_PLACES:
        return None
    contrasts = np.array(found)
    known = contrasts[np.isfinite(contrasts)]
    middle = float(np.median(known))
    spread = float(1.4826 * np.median(np.abs(known - middle)))
    return Chance(middle, spread, contrasts)
