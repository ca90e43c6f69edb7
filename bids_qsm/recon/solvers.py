"""Iterative solvers of callables and arrays, without physics."""

from collections.abc import Callable, Sequence

import numpy as np

from bids_qsm.recon.arrays import Array, like
from bids_qsm.recon.fused_kernels import change, pull, step_gradient


def total_variation(
    least_squares: Callable,
    start: Array,
    spacing: Sequence[float],
    *,
    weight: float | Array,
    penalty: float,
    tolerance: float,
    max_iterations: int,
):
    r"""Minimise a quadratic plus isotropic total variation by (over-relaxed) ADMM [1]_.

    .. math:: \min_x E(x) + \lambda \sum |\nabla x|, \quad z = \nabla x

    Parameters
    ----------
    least_squares : callable
        Takes :math:`\nabla^T q`, returns the minimiser of :math:`E(x) + \mu/2 |\nabla x - q|^2`,
        where :math:`\mu` is ``penalty``. It may keep the state of a splitting of E.
    start : array
        Array of the shape, library and device of x.
    spacing : tuple
        Step along each axis (mm).
    weight : float, or array of float32
        :math:`\lambda`, for all voxels or of each.
    tolerance : float
        Stop when an iteration changes x by less than this share of its norm.

    Returns
    -------
    array of float32

    References
    ----------
    .. [1] Boyd et al. (2010), Found Trends Mach Learn 3:1. doi:10.1561/2200000016
    """
    vector = like(np.zeros((3, *start.shape), np.float32), start)
    drawn = like(np.zeros(tuple(start.shape), np.float32), start)
    inverse = tuple(1 / h for h in spacing)
    threshold = weight / penalty
    x = least_squares(drawn)
    for _ in range(max_iterations):
        step_gradient(x, vector, inverse, threshold, 1.8)
        pull(vector, drawn, inverse, threshold)
        previous, x = x, least_squares(drawn)
        moved, size = change(x, previous)
        if moved <= tolerance**2 * size:
            break
    return x
