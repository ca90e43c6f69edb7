"""What veins add to a BOLD run: regressors by principal components, and how much they explain."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

_BLOCK = 20_000
"""Voxels whose series are filtered at a time."""
FEWEST = 10
"""Voxels that a signal of veins needs."""


def cosines(frames: int, repetition_time: float, *, period: float = 128.0):
    """Discrete cosine basis of periods above ``period`` (s): columns of unit length, without the constant.

    Returns
    -------
    ndarray, shape (frames, n)

    Examples
    --------
    >>> cosines(150, 2.0).shape
    (150, 4)
    """
    order = np.arange(1, int(np.floor(2 * frames * repetition_time / period)) + 1)
    angle = np.pi * (np.arange(frames)[:, None] + 0.5) * order / frames
    return np.sqrt(2 / frames) * np.cos(angle)


def drop(series: np.ndarray, basis: np.ndarray):
    """Residuals of series (frames, n) after a least-squares fit of their mean and of a ``basis`` (frames, k).

    >>> bool(np.allclose(drop(np.array([[1.0], [2.0], [3.0]]), np.array([[-1.0], [0], [1]])), 0))
    True
    """
    centred = series - series.mean(0)
    basis = basis - basis.mean(0)
    if basis.shape[1]:
        q, r = np.linalg.qr(basis)
        q = q[:, np.abs(np.diag(r)) > 1e-8 * max(np.abs(r).max(), 1e-30)].astype(centred.dtype)
        centred = centred - q @ (q.T @ centred)
    return centred


def components(series: np.ndarray, *, most: int = 5, share: float = 0.5):
    r"""Principal components of series, as in CompCor [1]_.

    The series are scaled to unit variance, and :math:`X = U S V^T`. The components are the first columns of U
    that together explain ``share`` of the variance, at most ``most``. The sign of each is such that most
    voxels follow it.

    Parameters
    ----------
    series : ndarray, shape (frames, voxels)
        High-pass filtered, see `drop`.

    Returns
    -------
    ndarray, shape (frames, k)
    DataFrame
        Columns singular, explained (share of the variance), cumulative; one row a component.

    References
    ----------
    .. [1] Behzadi et al. (2007), NeuroImage 37:90. doi:10.1016/j.neuroimage.2007.04.042
    """
    spread = series.std(0)
    scaled = (series[:, spread > 0] / spread[spread > 0]).astype(np.float64)
    u, s, vt = np.linalg.svd(scaled, full_matrices=False)
    explained = s**2 / np.sum(s**2)
    cumulative = np.cumsum(explained)
    kept = min(most, int(np.searchsorted(cumulative, share - 1e-9)) + 1)
    signs = np.where(vt[:kept].sum(1) < 0, -1.0, 1.0)
    table = pd.DataFrame({'singular': s, 'explained': explained, 'cumulative': cumulative})
    return u[:, :kept] * signs, table[:kept]


def mean_frame(frames: Sequence[np.ndarray], *, skip: int = 0):
    """Mean of the frames of a run from the frame ``skip`` on, of which one is held at a time."""
    total = np.zeros(frames[0].shape, np.float64)
    for number in range(skip, len(frames)):
        total += frames[number]
    return (total / max(len(frames) - skip, 1)).astype(np.float32)


def gather(frames: Sequence[np.ndarray], where: np.ndarray):
    """Series (frames, voxels; float32) of the voxels of a mask.

    >>> gather([np.ones((2, 1, 1)), np.zeros((2, 1, 1))], np.array([[[True]], [[False]]])).tolist()
    [[1.0], [0.0]]
    """
    out = np.empty((len(frames), int(where.sum())), np.float32)
    for number in range(len(frames)):
        out[number] = frames[number][where]
    return np.nan_to_num(out, copy=False, posinf=0, neginf=0)


def regressors(
    series: np.ndarray,
    veins: np.ndarray,
    sinuses: np.ndarray,
    basis: np.ndarray,
    *,
    skip: int = 0,
    most: int = 5,
):
    """Regressors of a run by the signal of its veins, and what each is, like those of fMRIPrep.

    Parameters
    ----------
    series : ndarray of float32, shape (frames, voxels)
    veins, sinuses : ndarray of bool, shape (voxels,)
        Voxels that the regressors come from; fewer than `FEWEST` give none.
    basis : ndarray, shape (frames, k)
        Slow drifts; 0 in the frames that are skipped.
    skip : int
        Frames at the start before the steady state. Components are 0 there.
    most : int
        Components at most.

    Returns
    -------
    DataFrame
        One row a frame: vein_mean, vein_mean_derivative1, sinus_mean, vein_comp_cor_00 and so on.
    dict
        Column -> Method, Mask and, of components, SingularValue, VarianceExplained,
        CumulativeVarianceExplained, Retained.
    """
    table = pd.DataFrame(index=range(len(series)))
    about: dict[str, dict[str, object]] = {}
    if veins.sum() >= FEWEST:
        table['vein_mean'] = series[:, veins].mean(1, dtype=float)
        table['vein_mean_derivative1'] = table['vein_mean'].diff()
        about['vein_mean'] = {'Method': 'Mean', 'Mask': 'vein'}
        about['vein_mean_derivative1'] = {'Method': 'Backward difference of vein_mean', 'Mask': 'vein'}
    if sinuses.sum() >= FEWEST:
        table['sinus_mean'] = series[:, sinuses].mean(1, dtype=float)
        about['sinus_mean'] = {'Method': 'Mean', 'Mask': 'sinus'}
    if veins.sum() >= FEWEST:
        found, facts = components(drop(series[skip:, veins], basis[skip:]), most=most)
        for number, one in enumerate(facts.itertuples(index=False)):
            name = f'vein_comp_cor_{number:02d}'
            table[name] = np.r_[np.zeros(skip), found[:, number]]
            about[name] = {
                'Method': 'veinCompCor',
                'Mask': 'vein',
                'SingularValue': float(one.singular),
                'VarianceExplained': float(one.explained),
                'CumulativeVarianceExplained': float(one.cumulative),
                'Retained': True,
            }
    return table, about


def explained(series: np.ndarray, regressor: np.ndarray, basis: np.ndarray):
    r"""Share of the variance of each series that regressors explain beyond slow drifts.

    .. math:: \bar R^2 = 1 - (1 - R^2) \frac{n}{n - k}

    with the n degrees of freedom left by the drifts and k regressors, so that regressors of noise explain 0
    on average.

    Parameters
    ----------
    series : ndarray of float32, shape (frames, voxels)
    regressor : ndarray, shape (frames, k)
    basis : ndarray, shape (frames, m)

    Returns
    -------
    ndarray of float32, shape (voxels,)
        0 where a series is constant.
    """
    q, _ = np.linalg.qr(drop(np.asarray(regressor, float), basis))
    n, k = len(series) - 1 - basis.shape[1], q.shape[1]
    q = q.astype(np.float32)
    out = np.zeros(series.shape[1], np.float32)
    for start in range(0, series.shape[1], _BLOCK):
        part = drop(series[:, start : start + _BLOCK].astype(np.float32), basis)
        total = np.square(part).sum(0)
        fitted = np.square(q.T @ part).sum(0)
        r2 = np.divide(fitted, total, out=np.zeros_like(total), where=total > 0)
        out[start : start + _BLOCK] = np.where(total > 0, 1 - (1 - r2) * n / (n - k), 0)
    return out


def temporal_snr(series: np.ndarray, basis: np.ndarray):
    """Mean of each series over its standard deviation without slow drifts; 0 where it is constant."""
    out = np.zeros(series.shape[1], np.float32)
    for start in range(0, series.shape[1], _BLOCK):
        part = series[:, start : start + _BLOCK].astype(np.float32)
        spread = drop(part, basis).std(0)
        out[start : start + _BLOCK] = np.divide(
            part.mean(0), spread, out=np.zeros_like(spread), where=spread > 0
        )
    return out


def ratio_of_snr(series: np.ndarray, first: np.ndarray, second: np.ndarray, basis: np.ndarray):
    """Median `temporal_snr` of voxels ``first`` over that of ``second``; NaN where either is empty."""
    sides = [
        np.median(temporal_snr(series[:, one], basis)) if one.any() else np.nan for one in (first, second)
    ]
    return float(sides[0] / sides[1]) if sides[1] else np.nan


def responses(events: pd.DataFrame, frames: int, repetition_time: float, *, start: float = 0.0):
    """Expected response to each type of trial: its blocks convolved with Glover's haemodynamic response [1]_.

    Parameters
    ----------
    events : DataFrame
        Columns onset (s; rows where it is no number are left out), duration (s; 0 where it is no number) and,
        where there are types, trial_type.
    frames : int
    repetition_time : float
        (s)
    start : float
        Time (s) of the first frame, half a repetition time after slice timing correction to the middle.

    Returns
    -------
    DataFrame
        One column a type, one row a frame.

    References
    ----------
    .. [1] Glover (1999), NeuroImage 9:416. doi:10.1006/nimg.1998.0419
    """
    from nilearn.glm.first_level import compute_regressor

    times = start + repetition_time * np.arange(frames)
    timed = {name: pd.to_numeric(events[name], errors='coerce') for name in ('onset', 'duration')}
    known = events.assign(**timed).dropna(subset=['onset']).fillna({'duration': 0})
    kinds = known['trial_type'].astype(str) if 'trial_type' in known else pd.Series('task', index=known.index)
    found = {}
    for kind, part in known.groupby(kinds.to_numpy(), sort=True):
        trials = np.vstack([part['onset'], part['duration'], np.ones(len(part))]).astype(float)
        found[kind] = compute_regressor(trials, 'glover', times)[0][:, 0]
    return pd.DataFrame(found, index=range(frames))


def largest_correlation(first: np.ndarray, second: np.ndarray, basis: np.ndarray):
    """Largest size of the correlations between columns of two sets of series (frames, n), without drifts.

    Returns NaN where a set is empty, or has only columns that are constant.
    """
    sides = [drop(np.asarray(one, float), basis) for one in (first, second)]
    sides = [one[:, np.ptp(given, axis=0) > 0] for one, given in zip(sides, (first, second), strict=True)]
    if not all(one.shape[1] for one in sides):
        return np.nan
    sides = [one / np.maximum(np.linalg.norm(one, axis=0), 1e-12) for one in sides]
    return float(np.abs(sides[0].T @ sides[1]).max())


def steady_from(confounds: pd.DataFrame) -> int:
    """Number of frames at the start that fMRIPrep marks as before the steady state.

    >>> steady_from(pd.DataFrame({'non_steady_state_outlier00': [1, 0, 0]}))
    1
    """
    marked = [name for name in confounds if str(name).startswith('non_steady_state_outlier')]
    rows = np.flatnonzero(confounds[marked].to_numpy().any(1)) if marked else []
    return int(rows[-1]) + 1 if len(rows) else 0


def drifts(confounds: pd.DataFrame | None, frames: int, repetition_time: float):
    """Slow drifts to filter by, and whether they are the columns ``cosine*`` of fMRIPrep's confounds."""
    names: Sequence[str] = []
    if confounds is not None:
        names = [name for name in confounds if str(name).startswith('cosine')]
    if confounds is not None and names:
        return np.nan_to_num(confounds[names].to_numpy(float)), True
    skip = 0 if confounds is None else steady_from(confounds)
    basis = cosines(frames - skip, repetition_time)
    return np.vstack([np.zeros((skip, basis.shape[1])), basis]), False
