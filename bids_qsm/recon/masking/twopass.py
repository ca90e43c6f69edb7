"""The two masks of a two-pass inversion, and its two maps made one."""

import numpy as np

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking.morphology import erode, not_empty
from bids_qsm.recon.masking.quality import combined, valley
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.threshold import otsu


def strict(quality: Array, mask: Array):
    """The voxels of ``mask`` whose phase is good, strong sources inside left out: for a first pass.

    The threshold is Otsu's over the quality within the mask, from .35 to .55: above the one of the filled
    mask, for the first pass is to see no voxel whose phase is in doubt.

    Parameters
    ----------
    quality : ndarray of float32, shape (x, y, z)
        Reliability of the phase, 0 to 1.
    mask : ndarray of bool, shape (x, y, z)
        The filled mask of the second pass.
    """
    not_empty(mask, 'the filled mask')
    level = np.clip(otsu(quality[mask]), valley(quality[mask]) + 0.1, 0.55)
    good = mask & (quality > level)
    not_empty(good, 'the strict mask')
    return good


@method(
    memory=Need(volume=4, echoes=2), prose='made from the brain mask and the quality of the phase [@two_pass]'
)
def two_pass(magnitude: Array, quality: Array, brain: Array, grid: Grid, *, closing_mm: float = 8.0):
    """Filled mask of the second of two passes [1]_: as `combined`, with wider gaps closed.

    The first pass is over `strict` of it, and `merge_two_pass` joins the maps.

    References
    ----------
    .. [1] Stewart et al. (2022), MRM 87:1289. doi:10.1002/mrm.29048
    """
    return combined(magnitude, quality, brain, grid, closing_mm=closing_mm)


def merge_two_pass(
    chi_strict: Array, chi_filled: Array, strict: Array, grid: Grid, *, margin_mm: float = 1.0
):
    """Susceptibility of the first pass where its mask lies, of the second elsewhere [1]_.

    Without its strong sources the first pass has no streaks of theirs. The second is shifted to the median
    of the first over what both have; and the first is taken only deeper than ``margin_mm`` in its mask, for
    at the rim of holes it is the less certain.

    Parameters
    ----------
    chi_strict, chi_filled : ndarray of float32, shape (x, y, z)
        Susceptibility (ppm) of the two passes, 0 outside their masks.
    strict : ndarray of bool, shape (x, y, z)
        Mask of the first pass.

    Returns
    -------
    ndarray of float32, shape (x, y, z)

    References
    ----------
    .. [1] Stewart et al. (2022), MRM 87:1289. doi:10.1002/mrm.29048
    """
    core = erode(strict, grid, margin_mm)
    if not core.any():
        return chi_filled
    shift = np.float32(np.median(chi_strict[core] - chi_filled[core]))
    return np.where(core, chi_strict, np.where(chi_filled != 0, chi_filled + shift, 0)).astype(np.float32)
