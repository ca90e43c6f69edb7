"""Partial correlations of many responses with one variable in resamples, and bootstrap intervals."""

import numpy as np
from scipy import special

_FREE = 2
"""Fewest degrees of freedom of a resample, beside covariates and slope."""
_BLOCK = 2**22
"""Largest size of an intermediate array."""


def bootstrap_weights(n: int, n_boot: int, seed: int, dtype: type = float) -> np.ndarray:
    """How often each of n participants is drawn in each resample, shape (n_boot, n)."""
    if not n:
        return np.zeros((n_boot, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(dtype)


def left_out_weights(n: int) -> np.ndarray:
    """Weights that leave each of n participants out once, shape (n, n)."""
    return 1 - np.eye(n)


def partial_correlations(
    x: np.ndarray, y: np.ndarray, covariates: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Correlation of x with each y after a linear fit of the covariates to both, in each weighted sample.

    Parameters
    ----------
    x : ndarray, shape (n,)
    y : ndarray, shape (n, k)
    covariates : ndarray, shape (n, q)
        The first column is constant.
    weights : ndarray, shape (b, n)
        None: those of `left_out_weights`, which for thousands of participants are never made.

    Returns
    -------
    ndarray, shape (b, k)
        NaN where x or y does not vary about the fit, or too few participants are in the sample.
    """
    # residuals over all first, so that the sums below lose no digits
    q, _ = np.linalg.qr(covariates)
    z = q * np.sqrt(len(q))
    x, y = (_unit(v - q @ (q.T @ v), v) for v in (x, y))
    size = z.shape[1]
    pairs = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1)
    if weights is None and len(z) ** 2 <= _BLOCK:
        weights = left_out_weights(len(z))
    rows = len(z) if weights is None else len(weights)
    found = np.empty((rows, y.shape[1]))
    step = max(1, min(_BLOCK // (size * y.shape[1] + size * size + 1), 4 * _BLOCK // max(len(z), 1)))
    for start in range(0, rows, step):
        w: np.ndarray | _LeftOut = _LeftOut(start, min(start + step, rows), len(z))
        if weights is not None:
            w = weights[start : start + step].astype(float, copy=False)
        gram = (w @ pairs).reshape(-1, size, size)
        # a resample may lack levels of a factor, or all participants with a region: keep the system
        # solvable
        trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
        gram += np.where(trace > 0, 1e-9 * trace, 1.0) * np.eye(size)
        zx = w @ (z * x[:, None])
        zy = (w @ (z[:, :, None] * y[:, None, :]).reshape(len(z), -1)).reshape(len(gram), size, -1)
        solved = np.linalg.solve(gram, zx[:, :, None])
        sxx = w @ x**2 - np.sum(zx * solved[:, :, 0], 1)
        sxy = w @ (x[:, None] * y) - np.sum(solved * zy, 1)
        syy = w @ y**2 - np.sum(zy * np.linalg.solve(gram, zy), 1)
        if isinstance(w, _LeftOut):
            total = distinct = np.full((len(gram), 1), len(z) - 1)
        else:
            total, distinct = w.sum(1, keepdims=True), (w > 0).sum(1, keepdims=True)
        # a resample of few distinct participants lies on a line whatever the data
        free = distinct - size - 1
        there = (sxx[:, None] > 1e-8 * total) & (syy > 1e-8 * total) & (free >= _FREE)
        root = np.sqrt(np.where(there, sxx[:, None] * syy, 1.0))
        found[start : start + step] = np.where(there, np.clip(sxy / root, -1, 1), np.nan)
    return found


class _LeftOut:
    """Rows from ``start`` to ``stop`` of `left_out_weights`, as an operator: a sum less each participant."""

    def __init__(self, start: int, stop: int, n: int):
        self.start, self.stop, self.n = start, stop, n

    def __matmul__(self, values: np.ndarray) -> np.ndarray:
        return values.sum(0) - values[self.start : self.stop]


def corrected_interval(
    estimate: np.ndarray, resampled: np.ndarray, left_out: np.ndarray, dof: float, *, level: float = 0.95
):
    """Bias-corrected and accelerated bootstrap interval, and the p at which it includes zero [1]_.

    Widened from normal to t quantiles, since resamples of a small sample scatter too little [2]_.

    Parameters
    ----------
    estimate : ndarray, shape (k,)
    resampled : ndarray, shape (b, k)
        Estimates of the resamples; NaN are left out.
    left_out : ndarray, shape (n, k)
        Estimates with each participant left out.
    dof : float
        Degrees of freedom of the estimate's error.

    Returns
    -------
    low, high, p : ndarray, shape (k,)

    References
    ----------
    .. [1] Efron (1987), J Am Stat Assoc 82:171. doi:10.1080/01621459.1987.10478410
    .. [2] Hesterberg (2015), Am Stat 69:371. doi:10.1080/00031305.2015.1089789
    """
    k = len(estimate)
    low, high, p = np.full((3, k), np.nan)
    widening = np.sqrt(len(left_out) / max(len(left_out) - 1, 1))
    tails = widening * special.stdtrit(dof, np.array([(1 - level) / 2, (1 + level) / 2]))
    for j in range(k):
        drawn = np.sort(resampled[:, j][np.isfinite(resampled[:, j])])
        jack = left_out[:, j][np.isfinite(left_out[:, j])]
        if not np.isfinite(estimate[j]) or len(drawn) < 0.9 * len(resampled) or len(jack) < 3:
            continue
        b = len(drawn)
        # ties with the estimate count half
        below = (
            np.searchsorted(drawn, estimate[j], 'left') + np.searchsorted(drawn, estimate[j], 'right')
        ) / 2
        bias = special.ndtri(np.clip(below / b, 0.5 / b, 1 - 0.5 / b))
        deviation = jack.mean() - jack
        spread = np.sum(deviation**2)
        bend = np.sum(deviation**3) / (6 * spread**1.5) if spread > 0 else 0.0
        # limits the acceleration, which one outlying participant can make too large
        share = special.ndtr(bias + (bias + tails) / np.maximum(1 - bend * (bias + tails), 0.5))
        low[j], high[j] = np.interp(share * (b - 1), np.arange(b), drawn)
        under = (np.searchsorted(drawn, 0, 'left') + np.searchsorted(drawn, 0, 'right')) / 2
        at_zero = special.ndtri(np.clip(under / b, 0.5 / b, 1 - 0.5 / b)) - bias
        tail = special.stdtr(dof, (at_zero / (1 + bend * at_zero) - bias) / widening)
        p[j] = np.clip(2 * min(tail, 1 - tail), 1 / b, 1)
    return low, high, p


def _unit(rest: np.ndarray, whole: np.ndarray):
    """Scale to unit mean square; zero where ``rest`` is rounding error of ``whole``."""
    size = np.sqrt(np.mean(rest**2, 0))
    there = size > 1e-10 * np.sqrt(np.mean(whole**2, 0))
    return np.where(there, rest / np.where(there, size, 1), 0.0)
