"""Masks from the quality of the phase, the magnitude and the brain, and their combination."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.masking.deform import bet
from bids_qsm.recon.masking.morphology import (
    SPOT_ML,
    clean,
    cut_necks,
    dilate,
    erode,
    fill,
    landlocked,
    largest,
    not_empty,
)
from bids_qsm.recon.masking.signal import flatten, signal
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.threshold import otsu

RIM_MM = 5.0
"""Distance by which the smooth surface of `bet` may miss the tips of gyri and lobes."""
SHELL_MM = 3.0
"""Distance below the surface at which skull, meninges and fluid around the brain may lie."""
BRIGHT = (0.5, 0.8)
"""Range of the threshold of brightness, relative to the brain nearby, of voxels of the rim."""


@method(memory=Need(volume=4, echoes=2), prose='made from the brain mask and the quality of the phase')
def combined(
    magnitude: Array,
    quality: Array,
    brain: Array,
    grid: Grid,
    *,
    closing_mm: float = 4.0,
    opening_mm: float = 1.0,
):
    """The brain (given, or as found for the anatomical image) less the voxels of bad phase.

    Voxels of bad phase that are surrounded by good phase (veins, iron-rich nuclei) stay in the mask, and so
    do those that only a chain of veins joins with the outside, see `landlocked`. Regions of bad phase at the
    rim wider than ``closing_mm``, such as signal loss above a sinus, are left out. The consensus paper
    recommends this combination [1]_. Without a brain mask (the app always has one) `bet` finds the brain. Its
    smooth surface cuts the tips of gyri and lobes: voxels of good phase within 5 mm that are connected with
    its inside are added again.

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
        brain = _regrow(bet(magnitude, grid), magnitude, quality, grid)
    not_empty(brain, 'the brain mask')
    good = brain & (quality > valley(quality[brain]))
    good |= landlocked(brain & ~good, brain, grid)
    return clean(good, grid, closing_mm, np.inf, opening_mm) & brain


@method(
    memory=Need(volume=4, echoes=2),
    prose='made from the brain mask of HD-BET [@hdbet] and the quality of the phase',
)
def hdbet(
    magnitude: Array,
    quality: Array,
    brain: Array,
    grid: Grid,
    *,
    closing_mm: float = 4.0,
    opening_mm: float = 1.0,
):
    """As `combined`, where HD-BET found the brain of the anatomical image (the optional extra ``hdbet``)."""
    if brain is None:
        raise UserError('The mask "hdbet" needs the brain of the anatomical image, and none was found.')
    return combined(magnitude, quality, brain, grid, closing_mm=closing_mm, opening_mm=opening_mm)


@method(memory=Need(volume=4, echoes=2), prose='made from the magnitude and the quality of the phase')
def quality_mask(
    magnitude: Array, quality: Array, grid: Grid, *, closing_mm: float = 4.0, opening_mm: float = 1.0
):
    """Signal whose phase is good, by the valley of the histogram of ``quality`` over the signal.

    Scalp and neck stay in where their phase is good. Parameters as in `combined`.
    """
    tissue = signal(combine(magnitude), grid)
    good = tissue & (quality > valley(quality[tissue]))
    return clean(good, grid, closing_mm, SPOT_ML, opening_mm)


@method(memory=Need(volume=4, echoes=2), prose='the brain mask')
def brain_mask(brain: Array, grid: Grid, *, erosion_mm: float = 0.0):
    """The brain (given, or as found for the anatomical image) itself, eroded by ``erosion_mm``."""
    if brain is None:
        raise UserError('The mask "brain" needs a brain mask and none was found: choose another with --mask.')
    not_empty(brain, 'the brain mask')
    if erosion_mm > 0:
        # the padding counts as outside, so that a brain cut by the field of view is eroded there too
        box = Box.around(brain, grid, padding=4 * max(grid.voxel_size))
        brain = box.uncrop(erode(box.crop(brain), grid, erosion_mm))
        not_empty(brain, 'the eroded brain mask')
    return largest(brain)


@method(memory=Need(volume=4, echoes=2), prose='made from the magnitude by a threshold')
def magnitude_mask(magnitude: Array, grid: Grid, *, closing_mm: float = 4.0, opening_mm: float = 3.0):
    """Bright voxels, by Otsu's threshold [1]_, neck and skull included.

    References
    ----------
    .. [1] Otsu (1979), IEEE Trans SMC 9:62. doi:10.1109/TSMC.1979.4310076
    """
    return clean(signal(combine(magnitude), grid), grid, closing_mm, SPOT_ML, opening_mm)


def valley(quality: Array):
    """Threshold of quality between good and bad phase.

    Where all phase is good, Otsu's threshold would divide it: the ROMEO weights of coherent phase are above
    .5, those of noise about .2, so the threshold is limited to .25 to .45.
    """
    return float(np.clip(otsu(quality), 0.25, 0.45))


def _regrow(surface: Array, magnitude: Array, quality: Array, grid: Grid):
    """The inside of the surface less its dim rim, plus good signal around it, cut at necks."""
    reach = max(SHELL_MM, 1.5 * max(grid.voxel_size))
    margin = RIM_MM + max(grid.voxel_size)
    # `dilate` takes the end of the padded box for the mask: it must be out of reach of the region
    box = Box.around(surface, grid, padding=2 * (margin + max(grid.voxel_size)), margin=margin)
    # the first echo has the least signal loss near air
    inside, image, good = box.crop(surface), box.crop(magnitude[..., 0]), box.crop(quality)
    core = erode(inside, grid, reach)
    image = flatten(image, core if core.any() else inside, grid)
    image = ndimage.gaussian_filter(image, [0.35 / v for v in grid.voxel_size])
    shell = inside & ~core
    bright = image > np.clip(otsu(image[shell]), *BRIGHT)
    wanted = core | (inside & bright)
    wanted |= dilate(inside, grid, RIM_MM) & bright & (good > valley(good[inside]))
    # dim voxels of the shell that brain surrounds are vessels and sulci
    return box.uncrop(fill(cut_necks(wanted, grid, 1.5 * max(grid.voxel_size)), grid, 0.0, SPOT_ML))
