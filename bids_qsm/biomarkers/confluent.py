"""Confluent lesions: one piece of a mask taken apart into the lesions that grew together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.segmentation import watershed

from bids_qsm.anatomy.transform import apply_affine, transform_points
from bids_qsm.biomarkers.vesselness import hessian_eigenvalues

FEWEST = 30
"""Fewest voxels of a piece that is taken apart, as in ALPaCA, doi:10.1162/IMAG.a.932."""
SHARE = 0.1
"""Least share of the voxels of all centres of a piece that a centre must hold."""
BLUR, BLUR_VOXELS = 0.15, 0.7
"""Standard deviation of the smoothing: in depths of the piece, and at least in voxels."""
_CUBE = np.ones((3, 3, 3), bool)


def split_confluent(labels: np.ndarray, voxel_size: Sequence[float] | np.ndarray):
    """Take pieces of a mask apart where lesions grew together.

    Centres of lesions are where all three eigenvalues of the Hessian are negative [1]_: there the image has a
    summit in all directions. The paper takes the probability of lesion; here it is the smoothed distance to
    the edge of the piece, as masks have no probability. Other voxels go to a centre by watershed of the same
    distance, so that the cut lies at the neck.

    Parameters
    ----------
    labels : ndarray of int, shape (x, y, z)
        Pieces, numbered as `bids_qsm.biomarkers.lesions.label_lesions` does.
    voxel_size : sequence of float
        (mm).

    Returns
    -------
    parts : ndarray of int32
        Lesions, numbered from 1 in the order of the pieces; the same mask gets the same numbers always.
    table : DataFrame
        By the number of the lesion: parent, the number of the piece; n_in_parent, lesions in it.

    References
    ----------
    .. [1] Dworkin et al. (2018), AJNR 39:626. doi:10.3174/ajnr.A5556

    Examples
    --------
    >>> x, y, z = np.indices((24, 12, 12)) - 6
    >>> pair = (np.minimum(x**2, (x - 10) ** 2) + y**2 + z**2 < 5.5**2).astype(int)
    >>> parts, table = split_confluent(pair, (1, 1, 1))
    >>> int(parts.max()), table['n_in_parent'].tolist()
    (2, [2, 2])
    """
    parts = np.zeros(labels.shape, np.int32)
    rows, count = [], 0
    steps = np.array(voxel_size, float)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        piece = labels[box] == number
        found = _lesions(np.pad(piece, 1), steps)[1:-1, 1:-1, 1:-1]
        several = int(found.max())
        parts[box][piece] = found[piece] + count
        rows += [(number, several)] * several
        count += several
    index = pd.RangeIndex(1, count + 1, name='lesion')
    return parts, pd.DataFrame(rows, index=index, columns=['parent', 'n_in_parent'])


def _lesions(piece: np.ndarray, steps: np.ndarray):
    """Lesions of a piece with no voxel at the faces of the volume, from 1."""
    if piece.sum() < FEWEST:
        return piece.astype(np.int32)
    depth = ndimage.distance_transform_edt(piece, sampling=steps).astype(np.float32)
    sigma = np.maximum(BLUR * depth.max() / steps, BLUR_VOXELS)
    smooth = ndimage.gaussian_filter(depth, sigma)
    voxels = np.argwhere(piece)
    values, _ = hessian_eigenvalues(smooth, voxels, steps)
    centres = np.zeros(piece.shape, bool)
    centres[tuple(voxels.T)] = values.max(1) < 0
    seeds, count = ndimage.label(centres, _CUBE)
    large = np.bincount(seeds.ravel(), minlength=count + 1) >= SHARE * centres.sum()
    large[0] = False
    if large.sum() < 2:
        return piece.astype(np.int32)
    seeds = (np.cumsum(large) * large)[seeds]
    return watershed(-smooth, seeds, mask=piece).astype(np.int32)


def place_parts(
    parts: np.ndarray,
    table: pd.DataFrame,
    affine: np.ndarray,
    to_maps: Sequence,
    placed: np.ndarray,
    affine_of_maps: np.ndarray,
):
    """Carry lesions from the grid they were drawn and taken apart on to that of the maps.

    Voxels of a piece go to the lesion that is nearest; so a lesion has the same number in all sessions with
    the same mask.

    Parameters
    ----------
    parts : ndarray of int
        See `split_confluent`.
    table : DataFrame
        See `split_confluent`.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates of the mask.
    to_maps : sequence
        Transforms of its points to points of the maps, first to last.
    placed : ndarray of int
        Pieces on the grid of the maps.
    affine_of_maps : ndarray (4, 4)

    Returns
    -------
    ndarray of int32
        Lesions on the grid of the maps.
    """
    found = np.zeros(placed.shape, np.int32)
    for parent, rows in table.groupby('parent'):
        here = placed == parent
        if len(rows) == 1:
            found[here] = rows.index[0]
            continue
        voxels = np.argwhere(np.isin(parts, rows.index))
        points = transform_points(apply_affine(affine, voxels), list(to_maps))
        _, near = KDTree(points).query(apply_affine(affine_of_maps, np.argwhere(here)))
        found[here] = parts[tuple(voxels.T)][near]
    return found
