"""Lines about which phase turns by a full turn though there is signal: errors of the combination of coils."""

import numpy as np
from scipy import ndimage

from bids_qsm.recon.arrays import Array
from bids_qsm.recon.noise import DEAD
from bids_qsm.recon.phase import wrap

AROUND_MM = 6.0


def longest_singularity(
    phase: Array, magnitude: Array, inside: Array, sigma: float, voxel_size: tuple, *, least: float
):
    r"""Length (mm) of the longest line about which phase turns by :math:`2\pi` in the presence of signal.

    The sum of wrapped differences around a square of four voxels is 0, or a full turn about a singularity
    [1]_. Where images of coils were combined with a wrong phase, it stays on a line through many slices, the
    end of an open-ended fringe line, while the magnitude, a sum of squares, has no hole there.

    Parameters
    ----------
    phase, magnitude : ndarray of float32, shape (x, y, z)
        Phase (rad) and magnitude of the first echo.
    inside : ndarray of bool
        Where to look, away from the skin.
    sigma : float
        Noise of the magnitude.
    voxel_size : tuple of float
        mm.
    least : float
        Least magnitude of all corners of a square, relative to that around and to that of the brain.

    References
    ----------
    .. [1] Chavez et al. (2002), IEEE Trans Med Imaging 21:966. doi:10.1109/TMI.2002.803106
    """
    around = ndimage.uniform_filter(
        magnitude, [max(3, 2 * round(AROUND_MM / side / 2) + 1) for side in voxel_size]
    )
    usual = max(least * float(np.median(magnitude[inside])), DEAD * sigma)
    good = inside & (magnitude > np.maximum(least * around, usual))
    found = np.zeros(phase.shape, bool)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        ahead = _ahead(good, first)
        whole = good & ahead & _ahead(good, second) & _ahead(ahead, second)
        along, across = _step(phase, first), _step(phase, second)
        turn = along + _ahead(across, first) - _ahead(along, second) - across
        found |= whole & (np.abs(turn) > np.pi)
    pieces, _ = ndimage.label(found, np.ones((3, 3, 3)))
    length = 0.0
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        if np.count_nonzero(pieces[box] == number) > 1:  # noise makes single ones
            sides = [(s.stop - s.start) * v for s, v in zip(box, voxel_size, strict=True)]
            length = max(length, float(np.linalg.norm(sides)))
    return length


def _ahead(x: Array, axis: int):
    """The next voxel along an axis; nothing behind the last."""
    moved = np.zeros_like(x)
    there, here = [slice(None)] * 3, [slice(None)] * 3
    there[axis], here[axis] = slice(1, None), slice(None, -1)
    moved[tuple(here)] = x[tuple(there)]
    return moved


def _step(phase: Array, axis: int):
    return wrap(_ahead(phase, axis) - phase)
