"""Directions of fibres from diffusion: read, checked, and carried to the grid of other maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from scipy.ndimage import gaussian_filter

from bids_qsm.anatomy.transform import Array, Displacement, resample
from bids_qsm.errors import UserError

FRAMES = ('fsl', 'voxel', 'scanner')
"""Axes that vectors may be in: those of the voxels, the first one reversed where the affine has a positive
determinant (FSL); those of the voxels; those of the scanner (RAS)."""
ORDERS = {'mrtrix': (0, 1, 2, 3, 4, 5), 'fsl': (0, 3, 5, 1, 2, 4), 'dipy': (0, 2, 5, 1, 3, 4)}
"""Software -> where its six volumes of a tensor have xx, yy, zz, xy, xz, yz."""
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Components of a symmetric matrix, as `carry` has them."""
WHITE = 0.3
"""Fractional anisotropy of voxels whose directions are checked."""
POSITIVE = 0.95
"""Share of white matter where all of the diagonal of a tensor is above 0."""
CLEAR = 0.9
"""Factor by which `across` must fall for another frame to be taken for the true one."""
LIKE_MM = 2.0
"""Blur (mm) of the anisotropy whose gradient tells the surfaces of bundles."""


@dataclass(frozen=True)
class Carried:
    """Fibres on the grid of other maps.

    Attributes
    ----------
    dyads : ndarray of float32, shape (6, x, y, z)
        Mean of v v' over what was interpolated, components `PAIRS`, axes of the scanner of the maps; its
        trace is 1, or 0 where there is no direction.
    fa : ndarray of float32, shape (x, y, z)
        Fractional anisotropy, NaN where it was not measured: beyond the image, and where that has no value
        above 0.
    """

    dyads: np.ndarray
    fa: np.ndarray

    def squared_cosine(self, b0: Sequence[float] | np.ndarray):
        """Squared cosine of the angle to B0 (unit vector, axes of the scanner); 1/3 without direction."""
        h = np.asarray(b0, np.float32)
        found = sum(
            (1 if i == j else 2) * h[i] * h[j] * d for d, (i, j) in zip(self.dyads, PAIRS, strict=True)
        )
        return np.where(self.dyads[:3].sum(0) > 0, np.clip(found, 0, 1), np.float32(1 / 3))

    def principal(self):
        """Unit vectors (x, y, z, 3), of any sign; zero without direction."""
        first = principal(np.moveaxis(self.dyads, 0, -1))
        return first * (self.dyads[:3].sum(0) > 0)[..., None]


def principal(symmetric: np.ndarray) -> np.ndarray:
    """First eigenvector (..., 3) of symmetric matrices, given by their components `PAIRS` on the last axis.

    >>> principal(np.array([0.1, 0.9, 0.2, 0.0, 0.0, 0.0])).round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    matrix = np.empty((*symmetric.shape[:-1], 3, 3), np.float32)
    for n, (i, j) in enumerate(PAIRS):
        matrix[..., i, j] = matrix[..., j, i] = symmetric[..., n]
    return np.linalg.eigh(matrix)[1][..., 2]


def directions(stored: np.ndarray, fa: np.ndarray, name: str, *, amplitudes: bool = False):
    """Unit vectors of the fibres of an image of vectors, of peaks or of tensors.

    Parameters
    ----------
    stored : ndarray, shape (x, y, z, 3), (x, y, z, 3 n) or (x, y, z, 6); or with axes of 1 more
        A vector; the peaks of a voxel, largest first; or a tensor, in any order of `ORDERS`: the diagonal is
        what is large everywhere.
    fa : ndarray, shape (x, y, z)
    name : str
        Of the file, for messages.
    amplitudes : bool
        Whether vectors have lengths (peaks); else they must be unit vectors in white matter.

    Returns
    -------
    ndarray of float32, shape (x, y, z, 3)
        In the axes of the file; zero where there is none.

    Raises
    ------
    UserError
        The image is none of these, or lies on another grid than ``fa``.
    """
    if sum(n > 1 for n in stored.shape[3:]) == 1:
        stored = stored.reshape(*stored.shape[:3], -1)
    count = stored.shape[3] if stored.ndim == 4 else 1
    if stored.shape[:3] != fa.shape or stored.ndim != 4 or count % 3:
        shapes = ' x '.join(map(str, stored.shape)), ' x '.join(map(str, fa.shape))
        raise UserError(
            f'{name} is {shapes[0]}, and the fractional anisotropy is {shapes[1]}; give 3 volumes of a '
            'vector, 6 of a tensor, or 3 of each peak, on the same grid.'
        )
    data = np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    white = fa > WHITE
    if white.sum() < 100:
        raise UserError(
            f'{name} cannot be used: fractional anisotropy is hardly anywhere above {WHITE}; check its map.'
        )
    if count == 6 and not amplitudes:
        return np.where(
            (data != 0).any(-1, keepdims=True), principal(data[..., _order(data, white, name)]), 0
        )
    first = data[..., :3]
    size = np.linalg.norm(first, axis=-1, keepdims=True)
    found = np.median(size[white])
    if not amplitudes and abs(found - 1) > 0.1:
        raise UserError(
            f'{name} has vectors of length {found:.2g} in white matter, where unit vectors are expected; '
            'give the first eigenvectors as they were written, not multiplied by anisotropy.'
        )
    return first / np.maximum(size, 1e-6)


def _order(data: np.ndarray, white: np.ndarray, name: str) -> list[int]:
    """Which of six volumes are xx, yy, zz, xy, xz, yz: those of the diagonal have the largest means."""
    means: list[float] = np.abs(data[white].mean(0)).tolist()
    best = max(ORDERS, key=lambda one: sum(means[n] for n in ORDERS[one][:3]))
    order = ORDERS[best]
    positive = (data[white][:, order[:3]] > 0).all(1).mean()
    if positive < POSITIVE:
        raise UserError(
            f'{name} has a tensor whose diagonal is above 0 in only {100 * positive:.0f} % of white matter; '
            'give the six volumes of a diffusion tensor, in the order of FSL, MRtrix or DIPY.'
        )
    return list(order)


def to_scanner(vectors: np.ndarray, affine: np.ndarray, frame: str):
    """Turn unit vectors (..., 3) from a frame of `FRAMES` to the axes of the scanner (RAS).

    >>> to_scanner(np.array([1.0, 0.0, 0.0]), np.eye(4), 'fsl').tolist()
    [-1.0, 0.0, 0.0]
    """
    return vectors @ _axes(affine, frame).T.astype(np.float32)


def _axes(affine: np.ndarray, frame: str):
    """Matrix that takes vectors of a frame to the axes of the scanner."""
    if frame == 'scanner':
        return np.eye(3)
    matrix = np.asarray(affine, float)[:3, :3]
    turn = _rotation(matrix)
    if frame == 'fsl' and np.linalg.det(matrix) > 0:
        turn = turn * [-1, 1, 1]
    return turn


def _rotation(matrix: np.ndarray):
    """The orthogonal matrix next to a matrix (polar decomposition); it may reflect."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def across(own: np.ndarray, slope: np.ndarray) -> float:
    r"""How far directions point across the surfaces of bundles, where these have a slope of anisotropy.

    .. math:: \frac{\sum (v \cdot \nabla \mathrm{FA})^2}{\sum |\nabla \mathrm{FA}|^2}

    It is 1/3 for directions that have nothing to do with white matter, and less for those of its fibres,
    which run along such surfaces. Both arguments have shape (n, 3).

    >>> across(np.array([[0.6, 0.8, 0.0]]), np.array([[2.0, 0.0, 0.0]]))
    0.36
    """
    total = max(float((slope.astype(float) ** 2).sum()), 1e-12)
    return float(((own * slope).sum(1, dtype=float) ** 2).sum() / total)


def _slope(fa: np.ndarray, affine: np.ndarray, white: np.ndarray):
    """Gradient (1/mm) of anisotropy along the axes of voxels, of those in ``white``, (n, 3)."""
    size = np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(0)).tolist()
    sigma = [LIKE_MM / step for step in size]
    slopes = (gaussian_filter(fa, sigma, [int(k == axis) for k in range(3)])[white] for axis in range(3))
    return np.stack([one / step for one, step in zip(slopes, size, strict=True)], 1)


def check_frame(vectors: np.ndarray, fa: np.ndarray, affine: np.ndarray, frame: str, name: str):
    """Raise UserError where another frame, or axes swapped or reversed, suit white matter better.

    It finds wrong signs and orders of axes, and a frame that was taken for another; not a rotation of less
    than some 15 degrees.

    Parameters
    ----------
    vectors : ndarray, shape (x, y, z, 3)
        As the file has them, read in ``frame``.
    fa : ndarray, shape (x, y, z)
    affine : ndarray, shape (4, 4)
    name : str
        Of the file.
    """
    white = fa > WHITE
    slope, own = _slope(fa, affine, white), vectors[white]
    back = _rotation(np.asarray(affine, float)[:3, :3]).astype(np.float32)
    frames = {one: across(to_scanner(own, affine, one) @ back, slope) for one in FRAMES}
    own = to_scanner(own, affine, frame) @ back
    ways = {
        (order, (1, *signs)): across(own[:, order] * np.array((1, *signs), np.float32), slope)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=2)  # the sign of a direction says nothing
    }
    other = min(frames, key=lambda one: frames[one])
    way = min(ways, key=lambda one: ways[one])
    least, given = min(frames[other], ways[way]), frames[frame]
    if least >= CLEAR * given:
        return
    if frames[other] <= least / CLEAR:
        hint = f'read in the frame {other} they do; state frame={other}'
    else:
        axes = ', '.join(('-' if sign < 0 else '') + 'xyz'[axis] for axis, sign in zip(*way, strict=True))
        hint = f'with the axes ({axes}) they would; correct the gradient table of the diffusion images'
    raise UserError(
        f'{name}: read in the frame {frame}, the directions of fibres do not follow white matter '
        f'({given:.2f} of its gradient lies along them, {least:.2f} is possible): {hint}.'
    )


def turn_of(transforms: Sequence[Array | Displacement]):
    """Matrix (3, 3) that turns vectors of an image as affine transforms of points of the maps to it say."""
    matrix = np.eye(3)
    for one in transforms:
        matrix = np.asarray(one)[:3, :3] @ matrix
    return _rotation(matrix).T.astype(np.float32)


def carry(
    vectors: np.ndarray,
    fa: np.ndarray,
    affine: Array,
    shape: tuple[int, ...],
    target: Array,
    transforms: Sequence[Array | Displacement],
):
    """Resample directions onto another grid, and turn them by the rotation of the transforms.

    Parameters
    ----------
    vectors : ndarray, shape (x, y, z, 3)
        Unit vectors in axes of the scanner of the image; zero where there is none.
    fa : ndarray, shape (x, y, z)
        NaN and 0 where it was not measured.
    affine : ndarray, shape (4, 4)
        Of the image.
    shape, target
        Grid of the maps: shape and affine.
    transforms : sequence of ndarray, shape (4, 4)
        Take points of the maps to points of the image, first to last.

    Returns
    -------
    Carried

    Raises
    ------
    ValueError
        A transform is not affine: it turns every place otherwise.
    """
    if any(isinstance(one, Displacement) for one in transforms):
        raise ValueError('directions are carried by affine transforms alone')
    turned = vectors @ turn_of(transforms).T
    # vectors have no sign, so that their products are interpolated; those of no fibre count less
    weight = np.nan_to_num(fa) * (np.abs(vectors).sum(-1) > 0)
    chain = list(transforms)
    dyads = np.stack(
        [resample(weight * turned[..., i] * turned[..., j], affine, shape, target, chain) for i, j in PAIRS]
    )
    trace = dyads[:3].sum(0)
    dyads = np.where(trace > 1e-3, dyads / np.maximum(trace, 1e-3), 0)
    fa = np.nan_to_num(fa).astype(np.float32)
    value, known = (resample(one, affine, shape, target, chain) for one in (fa, (fa > 0).astype(np.float32)))
    return Carried(dyads, np.where(known > 0.5, value / np.maximum(known, 0.5), np.float32(np.nan)))
