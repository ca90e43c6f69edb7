"""Where there is signal, and the shading of the coils over it."""

import numpy as np
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.arrays import Array
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.threshold import otsu

SHADING_MM = 25.0


def signal(image: Array, grid: Grid):
    """Voxels with signal: Otsu's threshold over the logarithm, which air and tissue share evenly."""
    image = ndimage.gaussian_filter(image, [0.7 / v for v in grid.voxel_size])
    top = np.percentile(image, 99)
    if not top > 0:
        raise UserError(
            'The magnitude is zero almost everywhere and the mask would be empty: check the magnitude images.'
        )
    level = np.log(np.maximum(image, 1e-3 * top))
    return level > otsu(level)


def flatten(image: Array, tissue: Array, grid: Grid):
    """``image`` over its mean within about 25 mm, so that tissue is about 1 everywhere; 0 far from tissue."""
    steps = tuple(slice(None, None, max(1, round(4 / v))) for v in grid.voxel_size)
    sigmas = [SHADING_MM / (s.step * v) for s, v in zip(steps, grid.voxel_size, strict=True)]
    few = (image * tissue)[steps]
    share = ndimage.gaussian_filter(tissue[steps].astype(np.float32), sigmas)
    mean = ndimage.gaussian_filter(few, sigmas) / np.maximum(share, 1e-3)
    mean = np.maximum(mean, 0.05 * np.median(few[tissue[steps]]))
    at = [np.arange(n, dtype=np.float32) / s.step for n, s in zip(image.shape, steps, strict=True)]
    for axis, place in enumerate(at):
        low = np.minimum(place.astype(int), mean.shape[axis] - 1)
        high = np.minimum(low + 1, mean.shape[axis] - 1)
        part = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
        mean = mean.take(low, axis) * (1 - part) + mean.take(high, axis) * part
    return (image / mean).astype(np.float32)
