"""Where the field can be trusted: masks from the magnitude, the quality of the phase, and the brain."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine


def combined(magnitude, quality, brain, grid: Grid, *, closing_mm: float = 4.0, opening_mm: float = 1.0):
    """Brain mask less the voxels whose phase is bad; without a brain mask the same as `quality_mask`.

    Bad spots that good phase surrounds (veins, iron-rich nuclei) stay inside; what is bad at the rim over
    more than ``closing_mm``, such as the signal lost above a sinus, is left out. The consensus asks for this
    pair [1]_.

    Parameters
    ----------
    magnitude : ndarray of float32, shape (x, y, z, echo)
    quality : ndarray of float32, shape (x, y, z)
        Reliability of the phase, 0 to 1.
    brain : ndarray of bool or None

    Returns
    -------
    ndarray of bool, shape (x, y, z)

    Raises
    ------
    UserError
        Where nothing is left.

    References
    ----------
    .. [1] QSM Consensus Organization Committee (2024), MRM 91:1834. doi:10.1002/mrm.30006
    """
    if brain is None:
        return quality_mask(magnitude, quality, grid, closing_mm=closing_mm, opening_mm=opening_mm)
    _not_empty(brain, 'the brain mask')
    good = brain & (quality > _valley(quality[brain]))
    return _clean(good, grid, closing_mm, np.inf, opening_mm) & brain


def quality_mask(magnitude, quality, grid: Grid, *, closing_mm: float = 4.0, opening_mm: float = 1.0):
    """Signal whose phase is good, by the valley of the histogram of ``quality`` over the signal.

    Without a brain mask scalp and neck stay in where their phase is good. Parameters as in `combined`.
    """
    signal = _signal(magnitude, grid)
    good = signal & (quality > _valley(quality[signal]))
    return _clean(good, grid, closing_mm, SPOT_ML, opening_mm)


def brain_mask(brain, grid: Grid, *, erosion_mm: float = 0.0):
    """Brain mask as it was given, eroded by ``erosion_mm``; its largest piece."""
    if brain is None:
        raise UserError('The mask "brain" needs a brain mask and none was found: choose another with --mask.')
    _not_empty(brain, 'the brain mask')
    if erosion_mm > 0:
        # the padding counts as outside, so that a brain cut by the field of view is eroded there too
        box = Box.around(brain, grid, padding=4 * max(grid.voxel_size))
        brain = box.uncrop(_distance(box.crop(brain), grid) > erosion_mm)
        _not_empty(brain, 'the eroded brain mask')
    return _largest(brain)


def magnitude_mask(magnitude, grid: Grid, *, closing_mm: float = 4.0, opening_mm: float = 3.0):
    """Bright voxels, by Otsu's threshold [1]_; neck and skull stay in.

    References
    ----------
    .. [1] Otsu (1979), IEEE Trans SMC 9:62. doi:10.1109/TSMC.1979.4310076
    """
    return _clean(_signal(magnitude, grid), grid, closing_mm, SPOT_ML, opening_mm)


SPOT_ML = 2.0
"""Largest enclosed hole (ml) to fill where the mask may reach around the sinuses."""


def otsu(values, *, bins: int = 256):
    """Threshold that parts ``values`` into the two classes farthest apart.

    >>> bool(2 < otsu(np.r_[np.full(9, 1.0), np.full(5, 4.0)]) < 3)
    True
    """
    counts, edges = np.histogram(values, bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide='ignore', invalid='ignore'):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between)
    # equal over a gap without values: take the middle of the gap
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:-1][best].mean())


def _valley(quality):
    """Quality that parts good from bad phase.

    Where all is good, Otsu would cut through the good: ROMEO's weights of coherent phase lie above .5, those
    of noise about .2, so the cut is kept between .25 and .45.
    """
    return float(np.clip(otsu(quality), 0.25, 0.45))


def _signal(magnitude, grid):
    """Voxels with signal: Otsu's threshold over the logarithm, which air and tissue share evenly."""
    image = combine(magnitude)
    image = ndimage.gaussian_filter(image, [0.7 / v for v in grid.voxel_size])
    top = np.percentile(image, 99)
    if not top > 0:
        raise UserError(
            'The magnitude is zero almost everywhere and the mask would be empty: check the magnitude images.'
        )
    level = np.log(np.maximum(image, 1e-3 * top))
    return level > otsu(level)


def _clean(mask, grid, closing_mm, hole_ml, opening_mm):
    """Close gaps, fill holes, cut necks, keep the largest piece; see `_fill` and `_open`."""
    _not_empty(mask, 'it')
    # twice the reach of either step, so that zeros surround the mask on both sides
    reach = max(closing_mm / 2, opening_mm, *grid.voxel_size)
    box = Box.around(mask, grid, padding=2 * reach + 4 * max(grid.voxel_size))
    filled = _fill(box.crop(mask), grid, max(closing_mm / 2, *grid.voxel_size), hole_ml)
    return box.uncrop(_open(filled, grid, opening_mm))


def _distance(mask, grid):
    """Distance (mm) of each voxel of ``mask`` from what lies outside."""
    return ndimage.distance_transform_edt(mask, sampling=grid.voxel_size)


def _fill(mask, grid, reach, hole_ml):
    """Close gaps narrower than twice the ``reach`` (mm) and enclosed holes of up to ``hole_ml``."""
    # grown by the reach, then shrunk by the same; what was in stays in
    near = _distance(~mask, grid) <= reach
    closed = (_distance(near, grid) > reach) | mask
    holes, count = ndimage.label(~closed)
    if count > 1:
        sizes = np.bincount(holes.ravel())
        small = sizes * grid.voxel_volume <= 1000 * hole_ml
        small[0] = False
        # the outside is the one that holds the corner of the padded box
        small[holes[0, 0, 0]] = False
        closed |= small[holes]
    return closed


def _open(mask, grid, opening_mm):
    """Cut necks thinner than twice ``opening_mm``, keep the largest piece."""
    core = _distance(mask, grid) > opening_mm
    if not core.any():
        return _largest(mask)
    return mask & (_distance(~_largest(core), grid) <= opening_mm + max(grid.voxel_size) / 2)


def _largest(mask):
    """Largest connected piece."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1


def _not_empty(mask, name):
    if not mask.any():
        raise UserError(
            f'The mask is empty: no voxel of {name} has usable signal and phase; '
            'check the images, or choose another mask with --mask.'
        )


MASK = {'combined': combined, 'brain': brain_mask, 'quality': quality_mask, 'magnitude': magnitude_mask}
