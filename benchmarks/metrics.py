"""How far a susceptibility map, a field or a mask is from the truth.

Maps of susceptibility have no zero of their own: each is compared after taking off its mean over the brain.
"""

import numpy as np
from scipy import ndimage

MIN_VOXELS = 20
"""Fewest voxels of a region whose mean counts."""


def centred(found, mask, truth, true_mask):
    """``found`` and ``truth`` less their means over the brain; voxels that ``mask`` lost are 0.

    A lost voxel thus costs as much as a map that shows nothing there.
    """
    both = mask & true_mask
    found = np.where(both, found - found[both].mean(dtype=float), 0).astype(np.float32)
    truth = np.where(true_mask, truth - truth[true_mask].mean(dtype=float), 0).astype(np.float32)
    return found, truth


def nrmse(found, truth, where):
    """RMS error over ``where`` in per cent of the truth's RMS there."""
    return 100 * np.linalg.norm(found[where] - truth[where]) / np.linalg.norm(truth[where])


def detrended_nrmse(found, truth, where):
    """NRMSE (%) that is left after the line through ``truth`` over ``found`` was fitted."""
    found, truth = found[where].astype(float), truth[where].astype(float)
    slope, start = np.polyfit(found, truth, 1)
    return 100 * np.linalg.norm(slope * found + start - truth) / np.linalg.norm(truth - truth.mean())


def hfen(found, truth, where, *, sigma=1.5):
    """High-frequency error norm (%): NRMSE of the Laplacians of Gaussians, ``sigma`` in voxels.

    Langkammer et al. (2018), MRM 79:1661. doi:10.1002/mrm.26830
    """
    found, truth = (ndimage.gaussian_laplace(v, sigma) for v in (found, truth))
    return nrmse(found, truth, where)


def xsim(found, truth, where, *, span=1.0, k1=0.01, k2=0.001):
    """Mean structural similarity in ppm, with constants fit for susceptibility.

    Milovic et al. (2025), MRM 93:411. doi:10.1002/mrm.30271
    """
    first, second = (k1 * span) ** 2, (k2 * span) ** 2

    def mean(v):
        return ndimage.gaussian_filter(v, 1.5, radius=5)

    a, b = mean(found), mean(truth)
    covariance = mean(found * truth) - a * b
    spread = mean(found * found) - a * a + mean(truth * truth) - b * b
    likeness = (2 * a * b + first) * (2 * covariance + second)
    likeness /= (a * a + b * b + first) * (spread + second)
    return float(likeness[where].mean(dtype=float))


def dice(a, b):
    """Overlap of two masks, 0 to 1."""
    return 2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1)


def coverage(mask, true_mask):
    """Share of the true mask that is covered."""
    return np.count_nonzero(mask & true_mask) / np.count_nonzero(true_mask)


def regional_means(found, truth, dseg, where):
    """Means of ``truth`` and of ``found`` over each nucleus: (2, n)."""
    labels = [k for k in np.unique(dseg[where]) if k and np.count_nonzero(where & (dseg == k)) >= MIN_VOXELS]
    return np.array([[m[where & (dseg == k)].mean(dtype=float) for k in labels] for m in (truth, found)])


def regional_fit(found, truth, dseg, where):
    """Slope and intercept of the regional means of ``found`` on those of ``truth``; nan with one region."""
    means = regional_means(found, truth, dseg, where)
    return tuple(np.polyfit(*means, 1)) if means.shape[1] > 1 else (np.nan, np.nan)


def slow_error(found, truth, where, voxel_size, *, sigma=8.0):
    """Standard deviation of the error that is left after smoothing by ``sigma`` mm within ``where``."""
    steps = [sigma / v for v in voxel_size]
    share = ndimage.gaussian_filter(where.astype(np.float32), steps)[where]
    return float(np.std(ndimage.gaussian_filter(np.where(where, found - truth, 0), steps)[where] / share))


def moment(chi, stone, voxel_size, *, reach=2.0, shell=5.0):
    """Susceptibility times volume (ppm mm^3) of a small source, over its surroundings.

    What lies within ``reach`` mm of ``stone`` belongs to it, as a reconstruction spreads it; what lies from
    there to ``shell`` mm is its surroundings.
    """
    if not stone.any():
        return np.nan
    box = tuple(
        slice(max(s.start - int(shell / v) - 2, 0), s.stop + int(shell / v) + 2)
        for s, v in zip(ndimage.find_objects(stone.astype(np.uint8))[0], voxel_size, strict=True)
    )
    distance = ndimage.distance_transform_edt(~stone[box], sampling=voxel_size)
    near = distance <= max(reach, *voxel_size)
    around = ~near & (distance <= max(shell, *(3 * v for v in voxel_size)))
    part = chi[box].astype(float)
    return float((part[near] - np.median(part[around])).sum() * np.prod(voxel_size))


def score_chi(chi, mask, truth, voxel_size):
    """All scores of a susceptibility map, name -> value.

    ``truth`` holds chi (ppm), mask, dseg, veins and stone (bool), see `conditions.Scan`.
    """
    box = ndimage.find_objects(truth['mask'].astype(np.uint8))[0]
    # filters look this far beyond the mask
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in box)
    true_mask, dseg = truth['mask'][box], truth['dseg'][box]
    found, true = centred(chi[box], mask[box], truth['chi'][box], true_mask)
    both = mask[box] & true_mask
    slope, intercept = regional_fit(found, true, dseg, both)
    deep, veins = true_mask & (dseg > 0), truth['veins'][box] & both
    stone = truth['stone'][box]
    return {
        'nrmse': nrmse(found, true, true_mask),
        'detrended': detrended_nrmse(found, true, true_mask),
        'hfen': hfen(found, true, true_mask),
        'xsim': xsim(found, true, true_mask),
        'deep_grey': nrmse(found, true, deep) if deep.any() else np.nan,
        'slope': slope,
        'intercept_ppb': 1e3 * intercept,
        'coverage': coverage(mask, truth['mask']),
        'dice': dice(mask, truth['mask']),
        'stone': 100 * moment(found, stone, voxel_size) / moment(true, stone, voxel_size),
        'vein_ppb': 1e3 * float((found - true)[veins].mean(dtype=float)) if veins.any() else np.nan,
    }


def score_field(local, mask, truth, voxel_size, *, rim=6.0):
    """Scores of a local field (ppm): NRMSE over its own mask, and deeper than ``rim`` mm; bias removed."""
    inside = mask & truth['mask']
    deep = inside & (ndimage.distance_transform_edt(truth['mask'], sampling=voxel_size) > rim)
    true = truth['local_field']
    scores = {}
    for name, where in (('field_nrmse', inside), ('field_nrmse_deep', deep)):
        error = (local - true)[where]
        scores[name] = 100 * np.linalg.norm(error - error.mean()) / np.linalg.norm(true[where])
    return scores


def wrong_wraps(unwrapped, field, mask, radians_per_ppm):
    """Share (%) of the voxels of each echo that are off by a turn or more, but for whole turns of all.

    ``field`` is the true total field (ppm), ``radians_per_ppm`` the phase that 1 ppm gives at each echo.
    """
    shares = []
    for echo, scale in enumerate(radians_per_ppm):
        off = unwrapped[..., echo][mask] - scale * field[mask]
        off -= 2 * np.pi * np.rint(np.median(off) / (2 * np.pi))
        shares.append(100 * np.mean(np.abs(off) > np.pi))
    return shares
