"""Directions of fibres from diffusion: read, checked, and carried to the grid of other maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from bids_qsm.anatomy.transform import Array, Displacement, resample
from bids_qsm.errors import UserError, size_text
from bids_qsm.recon.orientations.operators import COMPONENTS
from bids_qsm.recon.orientations.tensor import matrices, turned

FRAMES = ('fsl', 'voxel', 'scanner')
"""Axes that vectors may be in: those of the voxels, the first one reversed where the affine has a positive
determinant (FSL); those of the voxels; those of the scanner (RAS)."""
ORDERS = {'FSL': (0, 1, 2, 3, 4, 5), 'MRtrix': (0, 3, 4, 1, 5, 2), 'DIPY': (0, 1, 3, 2, 4, 5)}
"""Software -> where its six volumes of a tensor have COMPONENTS. DIPY has the lower triangle, as AFNI and
NIfTI have it."""
SYMMETRIC = 1005
"""Intent of NIfTI that says that volumes are the lower triangle of a symmetric matrix."""
DIAGONAL = [a == b for a, b in COMPONENTS]
WHITE = 0.3
"""Fractional anisotropy of voxels whose directions are checked."""
LEAST_FA = 0.2
"""Fractional anisotropy below which a direction says nothing of fibres: noise alone makes some .1."""
POSITIVE = 0.95
"""Share of white matter where all of the diagonal of a tensor is above 0."""
LARGER = 2.0
"""Factor by which each mean of the diagonal of a tensor exceeds the others: diffusivities against what the
two sides of a head nearly cancel."""
SAME_FA = 0.1
"""Median difference of a tensor's fractional anisotropy from that of the map beside it."""
CLEAR = 0.9
"""Factor by which `across` must fall for another frame to be taken for the true one."""
TOLD = 0.25
"""Value of `across` below which directions follow surfaces; those of nothing have 1/3."""
SURE = 4.0
"""Standard errors by which another frame must be better, of the 26 that are tried."""
_BLOCKS = 3
"""Pieces along each axis that are left out in turn to find the errors."""
UNUSABLE = 'Unusable'
"""Key of what is said of a tensor that was fitted here: why there is none."""
LIKE_MM = 2.0
"""Blur (mm) of the anisotropy whose gradient tells the surfaces of bundles."""


@dataclass(frozen=True)
class Carried:
    """Fibres on the grid of other maps.

    Attributes
    ----------
    dyads : ndarray of float32, shape (6, x, y, z)
        Mean of v v' of the first direction over what was interpolated, in the order of COMPONENTS, axes of
        the scanner of the maps; its trace is 1, or 0 where there is no direction.
    tensor : ndarray of float32, shape (6, x, y, z)
        See `Fibres`; in the same axes.
    fa : ndarray of float32, shape (x, y, z)
        Fractional anisotropy, NaN where it was not measured: beyond the image, and where that has no value
        above 0.
    """

    dyads: np.ndarray
    tensor: np.ndarray
    fa: np.ndarray

    @property
    def directed(self) -> np.ndarray:
        """Where there is a direction (bool)."""
        return self.dyads[DIAGONAL].sum(0) > 0

    def squared_cosine(self, b0: Sequence[float] | np.ndarray):
        """Squared cosine of the angle to B0 (unit vector, axes of the scanner); 1/3 without direction."""
        h = np.asarray(b0, np.float32)
        found = sum(
            (1 if i == j else 2) * h[i] * h[j] * d for d, (i, j) in zip(self.dyads, COMPONENTS, strict=True)
        )
        return np.where(self.directed, np.clip(found, 0, 1), np.float32(1 / 3))

    def principal(self):
        """Unit vectors (x, y, z, 3), of any sign; zero without direction."""
        first = principal(self.dyads)
        return first * self.directed[..., None]


class Fibres(NamedTuple):
    """What diffusion says of the fibres of each voxel, in the axes of its file.

    Attributes
    ----------
    vectors : ndarray of float32, shape (x, y, z, 3)
        First direction, of unit length; zero where there is none.
    tensor : ndarray of float32, shape (6, x, y, z)
        Diffusion tensor over its trace, less 1/3 I, in the order of COMPONENTS: bundles that share a voxel
        add up in it, as their anisotropies of susceptibility do.
    """

    vectors: np.ndarray
    tensor: np.ndarray


def principal(symmetric: np.ndarray) -> np.ndarray:
    """First eigenvector (..., 3) of symmetric matrices (6, ...) in the order of COMPONENTS.

    >>> principal(np.array([0.1, 0.0, 0.0, 0.9, 0.0, 0.2])).round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    return np.linalg.eigh(matrices(symmetric))[1][..., 2]


def anisotropy_of(fa: np.ndarray):
    r"""Anisotropy :math:`\mathrm{FA} / \sqrt{3 - 2 \mathrm{FA}^2}`, 0 to 1.

    It is what the diffusion tensor over its trace has along fibres more than across, where the other two
    eigenvalues are equal.

    >>> float(anisotropy_of(np.float64(1)))
    1.0
    """
    return fa / np.sqrt(3 - 2 * fa**2)


def size_of(tensor: np.ndarray) -> np.ndarray:
    """Anisotropy (...) of tensors without trace (6, ...), see `anisotropy_of`."""
    twice = np.where(DIAGONAL, 1, 2).astype(np.float32)
    return np.sqrt(1.5 * np.tensordot(twice, tensor**2, 1))


def fibres_of(stored: np.ndarray, fa: np.ndarray, name: str, *, amplitudes: bool = False, intent: int = 0):
    """Fibres of an image of vectors, of peaks or of tensors.

    A vector v stands for a tensor of two equal eigenvalues, :math:`a (v v^T - I / 3)`, with the anisotropy a
    of ``fa``. Peaks of a voxel give its tensor the shape of the mean of :math:`v v^T` by their amplitudes,
    and ``fa`` gives it the size. Where there are no fibres by a tensor, there is noise of no preferred sign.

    Parameters
    ----------
    stored : ndarray, shape (x, y, z, 3), (x, y, z, 3 n) or (x, y, z, 6); or with axes of 1 more
        A vector; the peaks of a voxel, largest first; or a tensor in any unit, in an order of `ORDERS`.
    fa : ndarray, shape (x, y, z)
    name : str
        Of the file, for messages.
    amplitudes : bool
        Whether vectors have lengths (peaks); else they must be unit vectors in white matter.
    intent : int
        Code of NIfTI, which may state the order of a tensor, see `SYMMETRIC`; else the diagonal tells it.

    Returns
    -------
    Fibres

    Raises
    ------
    UserError
        The image is none of these, or lies on another grid than ``fa``.
    """
    if sum(n > 1 for n in stored.shape[3:]) == 1:
        stored = stored.reshape(*stored.shape[:3], -1)
    count = stored.shape[3] if stored.ndim == 4 else 1
    if stored.shape[:3] != fa.shape or stored.ndim != 4 or count % 3:
        raise UserError(
            f'{name} is {size_text(stored.shape)}, and the fractional anisotropy is {size_text(fa.shape)}; '
            'give 3 volumes of a vector, 6 of a tensor, or 3 of each peak, on the same grid.'
        )
    data = np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    white = fa > WHITE
    if white.sum() < 100:
        raise UserError(
            f'{name} cannot be used: fractional anisotropy is hardly anywhere above {WHITE}; check its map.'
        )
    if count == 6 and not amplitudes:
        return _of_tensor(data, fa, white, name, intent)
    peaks = data.reshape(*fa.shape, -1, 3)
    sizes = np.linalg.norm(peaks, axis=-1)
    found = np.median(sizes[..., 0][white])
    if not amplitudes and abs(found - 1) > 0.1:
        raise UserError(
            f'{name} has vectors of length {found:.2g} in white matter, where unit vectors are expected; '
            'give the first eigenvectors as they were written, not multiplied by anisotropy.'
        )
    # of amplitude w, w v v' is the product of the peak with itself over w
    share = 1 / np.maximum(sizes * sizes.sum(-1, keepdims=True), 1e-12)
    shape = np.stack([(share * peaks[..., a] * peaks[..., b]).sum(-1) for a, b in COMPONENTS])
    there = sizes[..., 0] > 1e-6
    shape[DIAGONAL] -= there / np.float32(3)
    # unlike a tensor, of which noise has no sign, noise adds to anisotropy
    size = np.where(there & (fa > LEAST_FA), anisotropy_of(np.nan_to_num(fa)), 0)
    tensor = shape * (size / np.maximum(size_of(shape), 1e-3))
    first = peaks[..., 0, :] / np.maximum(sizes[..., :1], 1e-6)
    return Fibres(first, tensor.astype(np.float32))


def _of_tensor(data: np.ndarray, fa: np.ndarray, white: np.ndarray, name: str, intent: int) -> Fibres:
    """Fibres of six volumes of a tensor."""
    data = np.moveaxis(data, -1, 0)[list(ORDERS[_order(data, white, name, intent)])]
    trace = data[DIAGONAL].sum(0)
    there = trace > 0
    tensor = np.where(there, data / np.where(there, trace, 1), 0)
    tensor[DIAGONAL] -= there / np.float32(3)
    # no diffusion is negative: noise alone has more anisotropy than a line
    tensor /= np.maximum(size_of(tensor), 1)
    own = size_of(tensor[:, white])
    apart = float(np.median(np.abs(own * np.sqrt(3 / (1 + 2 * own**2)) - fa[white])))
    if apart > SAME_FA:
        raise UserError(
            f'{name} has a fractional anisotropy that differs from that of the map beside it by {apart:.2f} '
            'in white matter; give the tensor and the map of one fit.'
        )
    return Fibres(np.where(there[..., None], principal(tensor), 0).astype(np.float32), tensor)


def _order(data: np.ndarray, white: np.ndarray, name: str, intent: int) -> str:
    """The order of six volumes, of `ORDERS`: those of the diagonal are above 0 and have the largest means."""
    means = np.abs(data[white].mean(0))
    on, off = ([n for n, is_on in enumerate(DIAGONAL) if is_on is wanted] for wanted in (True, False))
    fitting = []
    for software, order in ORDERS.items():
        largest, least = means[[order[n] for n in off]].max(), means[[order[n] for n in on]].min()
        positive = (data[white][:, [order[n] for n in on]] > 0).all(1).mean()
        if least > LARGER * largest and positive > POSITIVE:
            fitting.append(software)
    stated = 'DIPY' if intent == SYMMETRIC else None
    if not fitting or stated not in (None, *fitting):
        which = 'of the lower triangle, which its header states' if stated else 'of FSL, MRtrix or DIPY'
        raise UserError(
            f'{name} is no diffusion tensor in the order {which}: its diagonal is not what is large and '
            'above 0 in white matter; write the six volumes of a tensor again.'
        )
    return stated or fitting[0]


def to_scanner(vectors: np.ndarray, affine: np.ndarray, frame: str):
    """Turn unit vectors (..., 3) from a frame of `FRAMES` to the axes of the scanner (RAS).

    >>> to_scanner(np.array([1.0, 0.0, 0.0]), np.eye(4), 'fsl').tolist()
    [-1.0, 0.0, 0.0]
    """
    return vectors @ axes_of_frame(affine, frame).T.astype(np.float32)


def fibres_in_scanner(fibres: Fibres, affine: np.ndarray, frame: str):
    """Turn fibres from a frame of `FRAMES` to the axes of the scanner (RAS)."""
    turn = axes_of_frame(affine, frame).astype(np.float32)
    return Fibres(fibres.vectors @ turn.T, turned(fibres.tensor, turn))


def axes_of_frame(affine: np.ndarray, frame: str):
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


def _error_of_difference(one: np.ndarray, other: np.ndarray, slope: np.ndarray, white: np.ndarray) -> float:
    """Standard error of what `across` of two readings differs by, pieces of ``white`` left out in turn."""
    place = np.stack(np.nonzero(white), 1)
    size = np.maximum(np.ptp(place, axis=0) + 1, 1)
    piece = np.ravel_multi_index(tuple(((place - place.min(0)) * _BLOCKS // size).T), (_BLOCKS,) * 3)
    squares = ((one * slope).sum(1) ** 2 - (other * slope).sum(1) ** 2, (slope**2).sum(1))
    difference, total = (np.bincount(piece, one.astype(float), _BLOCKS**3) for one in squares)
    used = total > 0
    left = (difference.sum() - difference[used]) / np.maximum(total.sum() - total[used], 1e-12)
    return float(np.sqrt(max(used.sum() - 1, 1) * left.var())) if used.sum() > 1 else np.inf


def check_frame(vectors: np.ndarray, fa: np.ndarray, affine: np.ndarray, frame: str, name: str) -> bool:
    """Whether the surfaces of white matter tell that directions are in a frame.

    It finds wrong signs and orders of axes, and a frame that was taken for another; not a rotation of less
    than some 15 degrees. Where bundles do not follow surfaces, or are few, nothing is told (False).

    Parameters
    ----------
    vectors : ndarray, shape (x, y, z, 3)
        As the file has them, read in ``frame``.
    fa : ndarray, shape (x, y, z)
    affine : ndarray, shape (4, 4)
    name : str
        Of the file.

    Raises
    ------
    UserError
        Another frame, or axes swapped or reversed, are proved to suit white matter better.
    """
    white = fa > WHITE
    slope, own = _slope(fa, affine, white), vectors[white]
    back = _rotation(np.asarray(affine, float)[:3, :3]).astype(np.float32)
    in_frames = {one: to_scanner(own, affine, one) @ back for one in FRAMES}
    frames = {one: across(turned, slope) for one, turned in in_frames.items()}
    own = in_frames[frame]

    def swapped(order: Sequence[int], signs: Sequence[int]):
        return own[:, order] * np.array(signs, np.float32)

    ways = {
        (order, (1, *signs)): across(swapped(order, (1, *signs)), slope)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=2)  # the sign of a direction says nothing
    }
    other = min(frames, key=lambda one: frames[one])
    way = min(ways, key=lambda one: ways[one])
    least, given = min(frames[other], ways[way]), frames[frame]
    if least >= CLEAR * given:
        return given < TOLD
    best = in_frames[other] if frames[other] <= ways[way] else swapped(*way)
    if least >= TOLD or given - least < SURE * _error_of_difference(own, best, slope, white):
        return False
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
    fibres: Fibres,
    fa: np.ndarray,
    affine: Array,
    shape: tuple[int, ...],
    target: Array,
    transforms: Sequence[Array | Displacement],
):
    """Resample fibres onto another grid, and turn them by the rotation of the transforms.

    Parameters
    ----------
    fibres : Fibres
        In axes of the scanner of the image.
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
    turn = turn_of(transforms)
    vectors = fibres.vectors @ turn.T
    # vectors have no sign, so that their products are interpolated; those of no fibre count less
    weight = np.nan_to_num(fa) * (np.abs(vectors).sum(-1) > 0)
    fa = np.nan_to_num(fa).astype(np.float32)
    known = (fa > 0).astype(np.float32)

    def onto(image: np.ndarray):
        return resample(image, affine, shape, target, list(transforms))

    dyads = np.stack([onto(weight * vectors[..., a] * vectors[..., b]) for a, b in COMPONENTS])
    trace = dyads[DIAGONAL].sum(0)
    dyads = np.where(trace > 1e-3, dyads / np.maximum(trace, 1e-3), 0)
    share = onto(known)
    tensor = np.stack([onto(known * one) for one in turned(fibres.tensor, turn)])
    tensor = np.where(share > 0.5, tensor / np.maximum(share, 0.5), 0)
    value = np.where(share > 0.5, onto(fa) / np.maximum(share, 0.5), np.float32(np.nan))
    return Carried(dyads, tensor, value)
