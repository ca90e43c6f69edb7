"""Places that may hold a focal source: peaks of susceptibility, of R2*, and loss of signal."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bids_qsm.biomarkers.focal_brain import Brain

CUBE = np.ones((3, 3, 3), bool)
FOUND = ('susceptibility', 'R2*', 'signal loss')
"""What a source was found by."""
FASTER = 15.0
"""Least contrast of R2* (1/s) of a peak of R2*."""
LARGE_MM = 10.0
"""Diameter above which a focus is no microbleed, Greenberg et al. (2009), Lancet Neurol 8:165.
doi:10.1016/S1474-4422(09)70013-4"""
DARK = 0.5
"""Least loss of magnitude of a place of signal loss: half."""


@dataclass(frozen=True)
class Source:
    """Voxels (n, 3) of a source, the index of its peak, the sign of its peak of susceptibility (or 0).

    ``is_large``: it was found by its contrast to tissue further away.
    """

    voxels: np.ndarray
    peak: tuple[int, ...]
    sign: int
    found: str
    is_large: bool = False


def sources(brain: Brain, *, threshold: float, largest_mm: float) -> Iterator[Source]:
    """Peaks over ``threshold`` spreads, each with its connected voxels of at least half its height.

    Large ones come first, then peaks of susceptibility of either sign in the order of their height, then
    peaks of R2* that none of these holds, then dark places that the mask leaves out. In nuclei and at their
    border, peaks are higher than nuclei are, and half the height is that over the nuclei. Sources longer than
    ``largest_mm`` are left out.
    """
    claimed = np.zeros(brain.mask.shape, bool)
    nuclei = ndimage.binary_dilation(brain.nuclei, CUBE)
    level = np.where(nuclei, np.float32(brain.nuclei_level), np.float32(0))
    ratio = brain.contrast / brain.spread
    peaks = {1: ratio > threshold, -1: ratio < -threshold}
    jobs = [(s * brain.contrast, peaks[s] & brain.mask, level if s > 0 else 0 * level, s) for s in (1, -1)]
    found = [seed for job in jobs for seed in _seeds(*job)]
    taken = np.zeros(brain.mask.shape, bool)
    for source in _large(brain, threshold, largest_mm, nuclei):
        claimed[tuple(source.voxels.T)] = taken[tuple(source.voxels.T)] = True
        yield source
    for seed in sorted(found, key=lambda one: -one[0]):
        for source in _grown(brain, seed, claimed, FOUND[0], largest_mm):
            taken[tuple(source.voxels.T)] = True
            yield source
    if brain.r2star is not None:
        fast = (brain.decay > threshold * brain.decay_spread) & (brain.decay > FASTER)
        # iron of nuclei raises R2* too
        for seed in sorted(_seeds(brain.decay, fast & ~nuclei, 0 * level, 0), key=lambda one: -one[0]):
            yield from _grown(brain, seed, taken, FOUND[1], largest_mm)
    if brain.dark is not None:
        pieces, _ = ndimage.label(brain.whole & ~brain.mask & (brain.dark > DARK), CUBE)
        for number, box in enumerate(ndimage.find_objects(pieces), 1):
            voxels = np.argwhere(pieces[box] == number) + [side.start for side in box]
            at = tuple(voxels.T)
            touches = taken[at].any()
            if len(voxels) > 1 and not touches and _length(voxels, brain) <= largest_mm:
                darkest = voxels[int(np.argmax(brain.dark[at]))]
                yield Source(voxels, tuple(map(int, darkest)), 0, FOUND[2])


def _large(brain: Brain, threshold: float, largest_mm: float, nuclei: np.ndarray) -> Iterator[Source]:
    """Sources of over `LARGE_MM`, by their contrast to tissue within 16 mm; no nuclei."""
    cube = np.maximum(np.round(0.6 * LARGE_MM / brain.size), 1).astype(int)
    ratio = ndimage.uniform_filter(brain.wide_contrast / brain.wide_spread, tuple(cube))
    claimed = np.zeros(brain.mask.shape, bool)
    nowhere = np.zeros(brain.mask.shape, np.float32)
    for sign in (1, -1):
        height = sign * brain.wide_contrast
        allowed = (sign * ratio > threshold) & brain.mask & ~nuclei
        for seed in sorted(_seeds(height, allowed, nowhere, sign), key=lambda one: -one[0]):
            for source in _grown(brain, seed, claimed, FOUND[0], largest_mm):
                volume = len(source.voxels) * brain.grid.voxel_volume
                if volume > np.pi / 6 * LARGE_MM**3:
                    yield replace(source, is_large=True)


def _seeds(height: np.ndarray, allowed: np.ndarray, level: np.ndarray, sign: int):
    """(height, index, map of heights, map of the level around, sign) of each local maximum."""
    tops = allowed & (height == ndimage.maximum_filter(height, footprint=CUBE)) & (height > level)
    return [(float(height[tuple(at)]), tuple(map(int, at)), height, level, sign) for at in np.argwhere(tops)]


def _grown(
    brain: Brain,
    seed: tuple,
    claimed: np.ndarray,
    found: str,
    largest_mm: float,
) -> Iterator[Source]:
    _, at, height, level, sign = seed
    if claimed[at]:
        return
    margin = np.ceil(largest_mm / brain.size).astype(int)
    low = np.maximum(np.array(at) - margin, 0)
    box = tuple(slice(a, b) for a, b in zip(low, np.array(at) + margin + 1, strict=True))
    here = height[box]
    pieces, _ = ndimage.label(here > (height[at] + level[box]) / 2, CUBE)
    region = pieces == pieces[tuple(np.array(at) - low)]
    overlaps = claimed[box][region].any()
    claimed[box] |= region if sign else ndimage.binary_dilation(region, CUBE)
    # a shoulder of a higher peak is not a separate source
    if overlaps or here[region].max() > height[at]:
        return
    voxels = np.argwhere(region) + low
    if _length(voxels, brain) <= largest_mm:
        yield Source(voxels, at, sign, found)


def _length(voxels: np.ndarray, brain: Brain):
    """Twice the distance (mm) from the middle to the farthest voxel."""
    places = voxels * brain.size
    return 2 * np.linalg.norm(places - places.mean(0), axis=1).max()
