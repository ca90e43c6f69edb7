"""Distances of participants to groups without them, and how far the participants of a group lie from it."""

import numpy as np
from scipy import stats

_BETWEEN = 0.25
"""Standard deviation between groups of the logarithm of their variance; see benchmarks/nbia.py."""


def distances(x: np.ndarray, member: np.ndarray, weight: np.ndarray | None = None):
    """Squared distance of each participant to each group without it, and the participants of the group.

    The participant is left out of the mean of its group and of the covariance, for which the others of its
    group are about that mean; the amount of shrinkage alone is that of all.
    """
    mass = member * (np.ones(len(x)) if weight is None else weight)
    total, size = mass @ x, mass.sum(1)
    mean = total / np.maximum(size, 1e-9)[:, None]
    home, own = member.argmax(0), mass.sum(0)
    rest = np.where((own > 0)[:, None], x - mean[home], 0)
    # without a participant, the squares of its group about their mean fall by this much of its own
    others = size[home] - own
    fall = np.where(others > 0, own * size[home] / np.maximum(others, 1e-9), 0)
    squares = (rest * own[:, None]).T @ rest - fall[:, None, None] * rest[:, :, None] * rest[:, None, :]
    freedom = np.maximum(own.sum() - own - len(member), 1)
    amount = shrinkage(rest, own, len(member))
    inverse = np.linalg.inv(shrunk(squares / freedom[:, None, None], amount))
    left = size[:, None] - mass
    off = x - (total[:, None] - mass[..., None] * x) / np.maximum(left, 1e-9)[..., None]
    found = np.einsum('gip,ipq,giq->gi', off, inverse, off) * left / (left + 1)
    return np.where(left < 1, np.inf, found), left


def scales(distance: np.ndarray, member: np.ndarray, p: int):
    """Squared distance to each group of its own participants, left out, over that of chi^2 with p values.

    By medians. The logarithm of that of a group lies between its own and that of all, by the variance of the
    logarithm of a median of n values of chi^2, about pi / (n p), and that between groups.
    """
    own = [distance[g, group] for g, group in enumerate(member)]
    usual = stats.chi2.ppf(0.5, p)
    middle = np.log(np.maximum([np.median(values) / usual for values in (np.concatenate(own), *own)], 1e-9))
    share = _BETWEEN**2 / (_BETWEEN**2 + np.pi / (p * member.sum(1)))
    return np.exp(share * middle[1:] + (1 - share) * middle[0])


def shrinkage(rest: np.ndarray, weight: np.ndarray, groups: int) -> float:
    """Weight, 0 to 1, of the diagonal in a covariance within groups, by the rule of Ledoit and Wolf.

    Parameters
    ----------
    rest : ndarray, shape (n, p)
        Residuals about the mean of the group of each participant.
    weight : ndarray, shape (n,)
        How often each counts.
    groups : int
        Number of means that were fitted.
    """
    n = weight.sum()
    sample = (rest * weight[:, None]).T @ rest / max(n - groups, 1)
    products = rest[:, :, None] * rest[:, None, :]
    noise = (weight[:, None, None] * np.square(products - sample)).sum(0) / max(n, 1) ** 2
    np.fill_diagonal(noise, 0)
    away = np.square(sample - np.diag(np.diag(sample))).sum()
    return float(np.clip(noise.sum() / away, 0, 1)) if away > 0 else 1.0


def shrunk(sample: np.ndarray, amount: float) -> np.ndarray:
    """Covariances, shape (..., p, p), shrunk to their diagonals, which can be inverted."""
    unit = np.eye(sample.shape[-1])
    level = np.trace(sample, axis1=-2, axis2=-1) / len(unit)
    floor = 1e-6 * np.maximum(level, 1e-12)[..., None, None]
    return (1 - amount) * sample + (amount * sample + floor) * unit
