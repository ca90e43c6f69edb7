"""The susceptibility tensor from many head positions, and what it says of fibres."""

from collections.abc import Sequence

import numpy as np

from bids_qsm.recon.conjugate import conjugate_gradient
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.cosmos import PADDING, noise_of_all, supports, weight
from bids_qsm.recon.orientations.operators import COMPONENTS, Tensor, apply_inverse

ANISOTROPY, SMOOTHNESS = 0.02, 8.0
"""Spread (standard deviation, ppm) of anisotropic components of white matter that is expected, at most what
its anisotropy is, and the length (mm) over which they change by as much. After the default reconstruction of
a head in 8 positions, where fields are wrong by twice their noise and smoothly so, 50 ppb made anisotropy
33 % too large and directions 28 degrees wrong; with 20 ppb these are -4 % and 23 degrees."""
_DIAGONAL = np.array([a == b for a, b in COMPONENTS])
_FLOOR = 1e-3
"""Added to the normal equations of a position by the preconditioner, as the mean has no field."""


def tensor(
    fields: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    noises: Sequence[np.ndarray],
    directions: Sequence[Sequence[float]] | np.ndarray,
    white: np.ndarray,
    grid: Grid,
    *,
    spread: float = ANISOTROPY,
    smoothness: float = SMOOTHNESS,
    tolerance: float = 1e-3,
    max_iterations: int = 60,
):
    r"""Find the susceptibility tensor, isotropic outside white matter [1]_ [2]_.

    .. math:: X = \chi I + A, \quad \min \sum_i \|W_i (F_i X - f_i)\|^2
              + (\sigma / s)^2 (\|A\|_F^2 + l^2 \|\nabla A\|_F^2)

    A has no trace, and is zero outside ``white``; :math:`\sigma` is the noise of the field, s the ``spread``
    and l the ``smoothness``, which counts within white matter alone. Conjugate gradients of the six
    components of X, preconditioned by the solution without a mask.

    Parameters
    ----------
    fields, masks, noises, directions
        As of `cosmos`.
    white : ndarray of bool
        Where susceptibility may be anisotropic.
    grid : Grid
    spread : float
        Standard deviation (ppm) of anisotropic components that is expected.
    smoothness : float
        Length (mm) over which they change by as much.

    Returns
    -------
    ndarray of float32, (6, x, y, z)
        Components in the order of COMPONENTS (ppm), along the voxel axes; the mean of diagonal components
        is 0 where more than half of the positions have a field; elsewhere all are 0.

    References
    ----------
    .. [1] Liu (2010), MRM 63:1471. doi:10.1002/mrm.22482
    .. [2] Li & van Zijl (2014), MRM 72:610. doi:10.1002/mrm.25322
    """
    shown, place = supports(masks, grid)
    box = Box.around(place, grid, padding=PADDING)
    operator = Tensor.of(box, grid, np.asarray(directions, float))
    level = noise_of_all(noises, masks)
    weights = [box.crop(weight(noise, mask, level)) ** 2 for noise, mask in zip(noises, masks, strict=True)]
    inside, fibres = box.crop(place), box.crop(white & place)
    strength = (level / spread) ** 2
    # of the sum of squares of the components of A, in those of X
    penalty = np.diag(np.where(_DIAGONAL, 1.0, 2.0)) - np.outer(_DIAGONAL, _DIAGONAL) / 3
    ridge = strength * penalty + _FLOOR * len(fields) * np.eye(6)

    inverse = operator.inverse(ridge)

    def project(components: np.ndarray):
        """Nearest tensor that is isotropic outside white matter, in place."""
        components *= inside
        mean = components[_DIAGONAL].mean(0)
        for one, diagonal in zip(components, _DIAGONAL, strict=True):
            one[...] = np.where(fibres, one, mean if diagonal else 0)
        return components

    def volumes(x: np.ndarray):
        return x.reshape(6, *box.shape)

    def apply(x: np.ndarray):
        pairs = zip(weights, operator.forward(volumes(x)), strict=True)
        out = operator.adjoint(w * one for w, one in pairs)
        # outside white matter there is no A
        anisotropic = np.tensordot(penalty.astype(np.float32), volumes(x), 1)
        out += np.float32(strength) * (anisotropic + _roughness(anisotropic, fibres, grid, smoothness))
        return project(out).reshape(x.shape)

    def precondition(r: np.ndarray):
        return project(apply_inverse(inverse, volumes(r))).reshape(r.shape)

    data = (w * box.crop(one.astype(np.float32)) for w, one in zip(weights, fields, strict=True))
    right = project(operator.adjoint(data)).reshape(-1, *box.shape[1:])
    x = conjugate_gradient(
        apply, right, tolerance=tolerance, max_iterations=max_iterations, precondition=precondition
    )
    found = np.stack([box.uncrop(one) for one in volumes(x)]) * shown
    level_of_chi = found[_DIAGONAL][:, shown].mean()
    found[_DIAGONAL] -= level_of_chi * shown
    return found


def _roughness(components: np.ndarray, fibres: np.ndarray, grid: Grid, length: float):
    """Squared ``length`` times the negative Laplacian within white matter, whose border counts for none."""
    out = np.zeros_like(components)
    for axis, step in enumerate(grid.voxel_size):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in (-1, 0, 1, 2))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in (-1, 0, 1, 2))
        both = fibres[low[1:]] & fibres[high[1:]]
        change = (components[high] - components[low]) * (both * np.float32((length / step) ** 2))
        out[high] += change
        out[low] -= change
    return out


def turned(components: np.ndarray, rotation: np.ndarray):
    """Components (6, ...) of R X R^T: the tensor in axes turned by ``rotation`` (3, 3)."""
    full = rotation @ matrices(components) @ np.asarray(rotation).T
    return np.stack([full[..., a, b] for a, b in COMPONENTS]).astype(np.float32)


def matrices(components: np.ndarray):
    """Symmetric matrices (..., 3, 3) of six components (6, ...)."""
    full = np.empty((*components.shape[1:], 3, 3), np.float32)
    for one, (a, b) in zip(components, COMPONENTS, strict=True):
        full[..., a, b] = full[..., b, a] = one
    return full


def invariants(components: np.ndarray):
    r"""Mean susceptibility, anisotropy and principal direction of a tensor [1]_.

    .. math:: \mathrm{MMS} = (\chi_1 + \chi_2 + \chi_3) / 3, \quad
              \mathrm{MSA} = \chi_1 - (\chi_2 + \chi_3) / 2, \quad \chi_1 \ge \chi_2 \ge \chi_3

    Parameters
    ----------
    components : (6, ...)
        In ppm.

    Returns
    -------
    mean, anisotropy : ndarray of float32
        In ppm.
    direction : ndarray of float32, (..., 3)
        Unit vector of the largest eigenvalue; its sign means nothing.

    References
    ----------
    .. [1] Liu et al. (2012), NeuroImage 59:1290. doi:10.1016/j.neuroimage.2011.07.096
    """
    values, vectors = np.linalg.eigh(matrices(components))
    anisotropy = values[..., 2] - (values[..., 0] + values[..., 1]) / 2
    return values.mean(-1), anisotropy, vectors[..., 2]
