"""Cerebrospinal fluid of the ventricles: where the zero of susceptibility may be."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import to_numpy
from bids_qsm.recon.grid import Grid


def ventricles(r2star, mask, grid: Grid, *, below: float = 5.0, reach: float = 30.0, pieces: int = 3):
    """Find CSF by its slow relaxation in the middle of the brain [1]_.

    Voxels with R2* under ``below`` that have a like neighbour on most sides, within ``reach`` mm of the
    brain's centre of mass; of the connected pieces there the ``pieces`` largest.

    Parameters
    ----------
    r2star : array of float32, shape ``grid.shape``
        Transverse relaxation rate (1/s).
    mask : array of bool

    Returns
    -------
    ndarray of bool

    Raises
    ------
    UserError
        Without R2* or where no such voxel is left.

    References
    ----------
    .. [1] Liu et al. (2018), MRM 79:2795. doi:10.1002/mrm.26946
    """
    if r2star is None:
        raise UserError('The CSF cannot be found without R2*, which takes more than one echo.')
    r2star, mask = to_numpy(r2star), to_numpy(mask)
    slow = mask & (r2star < below)
    slow &= ndimage.uniform_filter(slow.astype(np.float32), 3) > 0.5
    centre = ndimage.center_of_mass(mask)
    distance = sum(
        ((np.arange(n) - c) * h).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
        for axis, (n, c, h) in enumerate(zip(mask.shape, centre, grid.voxel_size, strict=True))
    )
    labels, count = ndimage.label(slow & (distance <= reach**2))
    if not count:
        raise UserError(f'No CSF (R2* under {below:g}/s) was found in the middle of the brain.')
    sizes = np.bincount(labels.ravel())[1:]
    largest = 1 + np.argsort(sizes, kind='stable')[::-1][:pieces]
    return np.isin(labels, largest)
