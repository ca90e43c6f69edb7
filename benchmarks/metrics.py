"""How far a susceptibility map is from the truth."""

import numpy as np


def nrmse(found, truth, where, demean_over=None):
    """RMS error over ``where`` in per cent of the truth's RMS there, both demeaned over ``demean_over``."""
    over = where if demean_over is None else demean_over
    found = found[where] - found[over].mean(dtype=float)
    truth = truth[where] - truth[over].mean(dtype=float)
    return 100 * np.linalg.norm(found - truth) / np.linalg.norm(truth)


def dice(a, b):
    """Overlap of two masks, 0 to 1."""
    return 2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1)


def regional_fit(found, truth, dseg, where, min_voxels=20):
    """Slope and intercept of the regional means of ``found`` on those of ``truth``."""
    labels = [k for k in np.unique(dseg[where]) if k and np.count_nonzero(where & (dseg == k)) >= min_voxels]
    means = np.array([[m[where & (dseg == k)].mean(dtype=float) for k in labels] for m in (truth, found)])
    return np.polyfit(*means, 1)
