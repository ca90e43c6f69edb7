"""A study template: the average of susceptibility and T1w images of a cohort in template space."""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.transform import Displacement, compose, invert, regrid, resample, spacing_of

_CHI_WEIGHT = 400.0
"""Weight of 1 ppm against the 255 steps of a T1w image; see `hybrid`."""
_MARGIN_MM = 12.0


@dataclass(frozen=True)
class StudyTemplate:
    """Averages on one grid: chi (ppm), t1w (1 is the brain's median; None without T1w images), coverage.

    ``coverage`` is the share of the subjects who have a voxel, ``t1w_coverage`` the same of their T1w images.
    ``shifts`` (mm) is the mean displacement of each brain in the last iteration, NaN without iterations;
    ``likeness`` the correlation of each subject's chi with the average. ``notes`` holds pairs (index of a
    subject, text).
    """

    chi: np.ndarray
    t1w: np.ndarray | None
    coverage: np.ndarray
    t1w_coverage: np.ndarray | None
    shifts: np.ndarray
    likeness: np.ndarray
    notes: tuple


def average(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], *, clip: float = 2.5, least: float = 0.5
):
    """Robust mean over subjects in each voxel, with one subject in memory at a time.

    Values further than ``clip`` standard deviations from the mean of all are clipped to that distance, which
    limits the effect of a lesion, a vein or a failed map of one subject.

    Parameters
    ----------
    images, masks : sequence of ndarray, 3D
        Read twice, one by one; items may be loaded or resampled on access.
    clip : float
    least : float
        Share of the subjects that a voxel must have.

    Returns
    -------
    mean : ndarray of float32
        Zero where fewer than ``least`` have a value.
    coverage : ndarray of float32
        Share of the subjects that have one.
    """
    n = len(images)
    if not n:
        raise ValueError('average needs at least one image')
    count: Any = None
    for image, mask in zip(images, masks, strict=True):
        inside = np.asarray(mask, bool)
        values = np.where(inside, image, 0).astype(np.float64)
        if count is None:
            count, total, square = (np.zeros(values.shape) for _ in range(3))
        count += inside
        total += values
        square += values**2
    some = np.maximum(count, 1)
    mean = total / some
    reach = clip * np.sqrt(np.maximum(square / some - mean**2, 0))
    low, high = (mean - reach).astype(np.float32), (mean + reach).astype(np.float32)
    total[:] = 0
    for image, mask in zip(images, masks, strict=True):
        total += np.where(mask, np.clip(image, low, high), 0)
    coverage = (count / n).astype(np.float32)
    return np.where(coverage >= least, total / some, 0).astype(np.float32), coverage


def hybrid(chi: np.ndarray, t1w: np.ndarray | None, brain: np.ndarray):
    r"""Contrast of both cortex and deep grey nuclei: T1w in [0, 255] minus 400 chi (ppm) [1]_.

    Parameters
    ----------
    chi : ndarray (ppm)
    t1w : ndarray or None
        None: the contrast is that of chi alone.
    brain : ndarray of bool
        Outside it the contrast is zero.

    References
    ----------
    .. [1] Hanspach et al. (2017), J Magn Reson Imaging 46:1474. doi:10.1002/jmri.25671
    """
    if t1w is None:
        return np.where(brain, -_CHI_WEIGHT * chi, 0).astype(np.float32)
    low, high = np.percentile(t1w[brain], (0.5, 99.5)) if brain.any() else (0, 1)
    grey = 255 * np.clip((t1w - low) / max(high - low, 1e-6), 0, 1)
    return np.where(brain, grey - _CHI_WEIGHT * chi, 0).astype(np.float32)


def build_template(
    chis: Sequence[np.ndarray],
    t1ws: Sequence[np.ndarray | None],
    masks: Sequence[np.ndarray],
    affine: np.ndarray,
    t1w_masks: Sequence[np.ndarray | None] | None = None,
    fields: MutableMapping[int, Displacement] | None = None,
    *,
    iterations: int = 1,
    spacing_mm: float = 2.0,
    levels: tuple = (15, 10, 6),
    unlike: float = 3.5,
    mapper: Callable = map,
):
    """Average a cohort in template space, then align each subject to the average and average again.

    In each iteration each subject is aligned to the average by the `hybrid` of both contrasts, at
    ``spacing_mm``. The mean of the maps is then undone in all of them, so that the template has the mean
    shape of the cohort and does not drift [1]_; every subject is interpolated once, from its own images.

    Parameters
    ----------
    chis : sequence of ndarray, 3D
        Susceptibility (ppm) of each subject, on one grid of template space. Subjects are read one by one,
        several times; items may be loaded on access.
    t1ws : sequence of (ndarray or None)
        Their T1w images on the same grid, free of bias; None for a subject who has none.
    masks : sequence of ndarray of bool
        Where chi was measured.
    affine : ndarray (4, 4)
        Voxel to template space (mm).
    t1w_masks : sequence of (ndarray of bool or None), optional
        Brains of the T1w images; by default ``masks``.
    fields : MutableMapping, optional
        Holds the displacement of each subject (at ``spacing_mm``), in memory or on disk.
    iterations : int
        0 averages the maps as they are.
    spacing_mm : float
    levels : tuple of int
        Iterations of the alignment from coarse to fine.
    unlike : float
        A subject whose likeness is this many robust standard deviations below the median is noted.
    mapper : callable
        As `map`; runs the alignments, for example in a pool of processes.

    Returns
    -------
    StudyTemplate

    References
    ----------
    .. [1] Avants et al. (2010), NeuroImage 49:2457. doi:10.1016/j.neuroimage.2009.09.062
    """
    n = len(chis)
    t1w_masks = masks if t1w_masks is None else t1w_masks
    fields = {} if fields is None else fields
    fields.clear()
    shape = np.asarray(masks[0]).shape
    heads = Heads(chis, t1ws, masks, t1w_masks, np.asarray(affine, float))
    have_t1w = [i for i in range(n) if t1ws[i] is not None]
    shifts = np.full(n, np.nan)
    averages = _averages(heads, fields, have_t1w)
    for _ in range(iterations):
        target = _target(averages, shape, affine, spacing_mm)
        align = partial(_align, heads=heads, target=target, levels=levels)
        total: Any = 0
        for i, field in enumerate(mapper(align, range(n))):
            fields[i] = Displacement(field, target.affine)
            total = total + field
        mean = Displacement((total / n).astype(np.float32), target.affine)
        # a point y of the template lies at x of the average, where x + mean(x) = y
        back = invert(mean, target.shape, target.affine)
        for i in range(n):
            fields[i] = compose([back, fields[i]], target.shape, target.affine)
            shifts[i] = float(np.sqrt((fields[i].field[target.brain] ** 2).sum(-1)).mean())
        averages = _averages(heads, fields, have_t1w)
    likeness = _likeness(heads, fields, averages.chi, averages.coverage >= 0.5)
    notes = _notes(likeness, unlike, n, have_t1w)
    return StudyTemplate(
        averages.chi, averages.t1w, averages.coverage, averages.t1w_coverage, shifts, likeness, notes
    )


@dataclass(frozen=True)
class Heads:
    """The subjects' images on one grid: sequences that may load their items on access."""

    chis: Sequence[np.ndarray]
    t1ws: Sequence
    masks: Sequence[np.ndarray]
    t1w_masks: Sequence
    affine: np.ndarray


@dataclass(frozen=True)
class _Averages:
    chi: np.ndarray
    coverage: np.ndarray
    t1w: np.ndarray | None
    t1w_coverage: np.ndarray | None


@dataclass(frozen=True)
class _Target:
    """The average on the coarse grid of the alignment, cropped to the brain."""

    chi: np.ndarray
    t1w: np.ndarray | None
    brain: np.ndarray
    shape: tuple
    affine: np.ndarray


class _Loaded(Sequence):
    """A sequence whose items are computed on access."""

    def __init__(self, load: Callable[[int], np.ndarray], indices: Iterable[int]):
        self._load, self._indices = load, list(indices)

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, at: Any):
        return self._load(self._indices[at])


def _averages(heads: Heads, fields: MutableMapping[int, Displacement], have_t1w: list[int]):
    n = len(heads.chis)

    def chi_of(i: int):
        return _moved(heads.chis[i], heads.masks[i], heads.affine, fields.get(i))

    def t1w_of(i: int):
        return _seen(_scaled(heads.t1ws[i], heads.t1w_masks[i]), heads.affine, fields.get(i))

    chi, coverage = average(
        _Loaded(chi_of, range(n)),
        _Loaded(lambda i: _moved_mask(heads.masks[i], heads.affine, fields.get(i)), range(n)),
    )
    if not have_t1w:
        return _Averages(chi, coverage, None, None)
    t1w, t1w_coverage = average(
        _Loaded(t1w_of, have_t1w),
        _Loaded(lambda i: _moved_mask(heads.t1w_masks[i], heads.affine, fields.get(i)), have_t1w),
    )
    return _Averages(chi, coverage, t1w, t1w_coverage)


def _moved(chi: np.ndarray, mask: np.ndarray, affine: np.ndarray, displacement: Displacement | None):
    """Chi after a displacement, from values inside the mask alone."""
    return _seen(_filled(chi, mask), affine, displacement)


def _filled(chi: np.ndarray, mask: np.ndarray):
    """Chi extended smoothly beyond the mask, so that interpolation at its rim includes no zeros."""
    mask = np.asarray(mask, bool)
    inside = np.where(mask, chi, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), 1.5)
    around = ndimage.gaussian_filter(inside, 1.5)
    beyond = np.divide(around, weight, out=np.zeros_like(around), where=weight > 1e-3)
    return np.where(mask, inside, beyond)


def _seen(image: np.ndarray, affine: np.ndarray, displacement: Displacement | None):
    """Apply a displacement; cubic, as linear interpolation blurs the average by a voxel."""
    if displacement is None:
        return image
    return resample(image, affine, image.shape, affine, [displacement], order=3)


def _moved_mask(mask: np.ndarray, affine: np.ndarray, displacement: Displacement | None):
    mask = np.asarray(mask, bool)
    if displacement is None:
        return mask
    return resample(mask, affine, mask.shape, affine, [displacement]) > 0.5


def _scaled(t1w: np.ndarray, mask: np.ndarray):
    """T1w in units of the median of the brain, as intensities differ between scans."""
    inside = np.asarray(t1w)[np.asarray(mask, bool)]
    middle = float(np.median(inside)) if inside.size else 1.0
    return (np.asarray(t1w, np.float32) / (middle if middle > 0 else 1.0)).astype(np.float32)


def _target(averages: _Averages, shape: tuple[int, ...], affine: np.ndarray, spacing: float):
    brain = averages.coverage >= 0.5
    if averages.t1w_coverage is not None:
        brain = brain | (averages.t1w_coverage >= 0.5)
    coarse_shape, coarse_affine = regrid(shape, affine, spacing)
    inside = resample(brain, affine, coarse_shape, coarse_affine, []) > 0.5
    margin = int(np.ceil(_MARGIN_MM / spacing))
    low, high = [], []
    for axis in range(3):
        some = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        low.append(max(int(some[0]) - margin, 0))
        high.append(min(int(some[-1]) + margin + 1, coarse_shape[axis]))
    coarse_affine = coarse_affine.copy()
    coarse_affine[:3, 3] += coarse_affine[:3, :3] @ low
    coarse_shape = tuple(b - a for a, b in zip(low, high, strict=True))
    inside = inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    down = partial(_down, affine=affine, shape=coarse_shape, coarse=coarse_affine, spacing=spacing)
    t1w = None if averages.t1w is None else down(averages.t1w)
    return _Target(down(averages.chi), t1w, inside, coarse_shape, coarse_affine)


def _down(image: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], coarse: np.ndarray, spacing: float):
    """Smooth and resample onto the coarse grid."""
    size = spacing_of(affine)
    sigma = np.sqrt(np.maximum((spacing / size) ** 2 - 1, 0)) / 2.355
    return resample(ndimage.gaussian_filter(np.asarray(image, np.float32), sigma), affine, shape, coarse, [])


def _align(i: int, heads: Heads, target: _Target, levels: tuple[int, ...]):
    """Displacement vectors from the average to subject ``i``, on the grid of the target."""
    from bids_qsm.anatomy.syn import syn  # DIPY takes a second to import

    affine = heads.affine
    size = float(np.sqrt((target.affine[:3, 0] ** 2).sum()))
    down = partial(_down, affine=affine, shape=target.shape, coarse=target.affine, spacing=size)
    mask = np.asarray(heads.masks[i], bool)
    measured = down(mask) > 0.5
    # where a subject has no chi, the average itself exerts no force
    chi = np.where(measured, down(_filled(heads.chis[i], mask)), target.chi)
    t1w, fixed_t1w, brain = heads.t1ws[i], target.t1w, measured
    if t1w is None or fixed_t1w is None:
        t1w = fixed_t1w = None
    else:
        own = np.asarray(heads.t1w_masks[i], bool)
        t1w, brain = down(_scaled(t1w, own)), down(own) > 0.5
    static = hybrid(target.chi, fixed_t1w, target.brain)
    moving = hybrid(chi, t1w, brain)
    return syn(static, moving, target.affine, iterations=levels)[0].field


def _likeness(heads: Heads, fields: MutableMapping[int, Displacement], chi: np.ndarray, inside: np.ndarray):
    """Correlation of each subject's chi with the average, where it was measured."""
    found = np.full(len(heads.chis), np.nan)
    for i in range(len(found)):
        mask = heads.masks[i]
        where = _moved_mask(mask, heads.affine, fields.get(i)) & inside
        values = _moved(heads.chis[i], mask, heads.affine, fields.get(i))[where]
        if values.size > 1 and np.ptp(values) > 0:
            found[i] = np.corrcoef(values, chi[where])[0, 1]
    return found


def _notes(likeness: np.ndarray, unlike: float, n: int, have_t1w: list[int]):
    notes = []
    middle = np.nanmedian(likeness) if np.isfinite(likeness).any() else np.nan
    spread = 1.4826 * np.nanmedian(np.abs(likeness - middle)) if np.isfinite(middle) else 0.0
    # in a homogeneous cohort the spread is tiny and would mark ordinary subjects
    spread = max(spread, 0.02)
    for i, value in enumerate(likeness):
        if not np.isfinite(value):
            notes.append((i, 'has no susceptibility in the region of the others'))
        elif value < middle - unlike * spread:
            notes.append((i, f'is unlike the average (correlation {value:.2f}, the median is {middle:.2f})'))
    notes += [
        (i, 'has no T1w image in template space: its susceptibility alone counts')
        for i in range(n)
        if i not in have_t1w
    ]
    return tuple(notes)
