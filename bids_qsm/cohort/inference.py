"""False discovery rates and effect sizes, for many tests at once."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats


def adjust(p: Sequence[float] | np.ndarray | pd.Series, families: Sequence | np.ndarray) -> np.ndarray:
    """False discovery rate of each p within its family, after Benjamini and Hochberg [1]_; NaN stays NaN.

    Parameters
    ----------
    p : array_like, shape (n,)
    families : array_like of hashable, shape (n,)
        Tests of one family are adjusted together.

    References
    ----------
    .. [1] Benjamini & Hochberg (1995), J R Stat Soc B 57:289. doi:10.1111/j.2517-6161.1995.tb02031.x
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    members = {}
    for i in np.flatnonzero(np.isfinite(p)).tolist():
        members.setdefault(families[i], []).append(i)
    for index in members.values():
        adjusted[index] = stats.false_discovery_control(p[index])
    return adjusted


def small_sample(dof: float | np.ndarray):
    """Hedges' correction of a standardised difference for the bias of few degrees of freedom [1]_.

    References
    ----------
    .. [1] Hedges (1981), J Educ Stat 6:107. doi:10.3102/10769986006002107
    """
    dof = np.asarray(dof, float)
    return np.exp(special.gammaln(dof / 2) - special.gammaln((dof - 1) / 2)) / np.sqrt(dof / 2)


def noncentrality(t: float | np.ndarray, dof: float | np.ndarray, *, level: float = 0.95):
    """Confidence interval of the noncentrality of which t is a sample, by inverting its distribution.

    Bisection is exact to rounding; ``scipy.special.nctdtrinc`` is off by up to 2e-4.

    Parameters
    ----------
    t, dof : array_like, shape (n,)

    Returns
    -------
    low, high : ndarray, shape (n,)
    """
    t, dof = np.broadcast_arrays(np.asarray(t, float), np.asarray(dof, float))
    sign = np.where(t < 0, -1.0, 1.0)
    size = np.abs(t)
    tail = (1 - level) / 2
    ends = []
    for target in (1 - tail, tail):
        # the standard error of the estimate is about sqrt(1 + t^2 / 2 dof)
        reach = 12 * np.sqrt(1 + size**2 / (2 * np.maximum(dof, 1))) + 12 * size / np.sqrt(np.maximum(dof, 1))
        low, high = size - reach, size + reach
        for _ in range(60):
            middle = (low + high) / 2
            # the distribution falls as the noncentrality grows, and is NaN far out in the tail where it is 1
            above = ~(special.nctdtr(dof, middle, size) <= target)
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        ends.append((low + high) / 2)
    low, high = ends
    return np.where(sign > 0, low, -high), np.where(sign > 0, high, -low)


def correlation_interval(r: float | np.ndarray, dof: float | np.ndarray, *, level: float = 0.95):
    """Confidence interval of a (partial) correlation with ``dof`` residual degrees of freedom, by Fisher's z.

    The variance of z is 1 / (n - k - 3) for k covariates, and dof = n - k - 2.
    """
    r, dof = np.broadcast_arrays(np.asarray(r, float), np.asarray(dof, float))
    half = np.where(dof > 1, special.ndtri((1 + level) / 2) / np.sqrt(np.maximum(dof - 1, 1e-9)), np.nan)
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    return np.tanh(z - half), np.tanh(z + half)
