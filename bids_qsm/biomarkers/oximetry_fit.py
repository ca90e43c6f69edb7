"""Susceptibility of a piece of vein from the field around and inside it, with its width and place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import KDTree

from bids_qsm.biomarkers.oximetry_sampling import BOUNDS, KSpace, field_and_magnitude, rows, to_voxels
from bids_qsm.biomarkers.oximetry_tube import PARTS, Parts, Tube, cut, tube_geometry, tube_signal
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.units import ppm_per_radian

MARGIN = 2
"""Voxels about a patch whose signal reaches into it."""
NEAR = 3.6
"""Distance (voxels) from the wall beyond which the field of a vein does not matter to other voxels."""
WIDTH_SD = 0.3
"""Standard deviation of the logarithm of the width that was found before: little is taken from it, as it may
rest on an assumed susceptibility."""
PLACE_SD = 0.3
"""Standard deviation of the place of the centreline, in voxels."""
BLOOD_SD = 0.3
"""Standard deviation of the logarithm of the signal of blood over that of tissue: flow and T1."""
RATE_SD = 15.0
"""Standard deviation of R2* of venous blood at 3 T (1/s) about its expected value."""
MODEL_SD = 0.12
"""Error of the model of a voxel, as a share of the spread of the field in it: walls are not sharp, sections
not round, and a filter of k-space is known about."""


STRONG = 2.0
"""Residual (standard deviations) from which a voxel counts less."""


def blood_rate(yv: float, field_strength: float):
    r"""Expected R2* of venous blood (1/s): quadratic in deoxygenation, about linear in field strength.

    Rounded from measurements at 3 T, haematocrit 0.4 [1]_; the fit treats it as uncertain, see RATE_SD.

    References
    ----------
    .. [1] Zhao et al. (2007), MRM 58:592. doi:10.1002/mrm.21342
    """
    return (15.0 + 180.0 * (1 - yv) ** 2) * field_strength / 3


@dataclass(frozen=True, eq=False)
class Patch:
    """Voxels about a piece of vein: where they lie and what was measured there.

    ``centres`` (v, 3) are in mm along the voxel axes; ``field`` is the local field (ppm) less that of all
    other sources; ``nuisance`` (v, n) are fields that may be added in any amount (ppm); ``magnitude`` is the
    combined magnitude (any unit); ``field_sd`` (ppm) and ``magnitude_sd`` the noise of both.
    """

    centres: np.ndarray
    field: np.ndarray
    magnitude: np.ndarray
    field_sd: np.ndarray
    magnitude_sd: float
    nuisance: np.ndarray


@dataclass(frozen=True)
class PieceFit:
    """What a fit found of a piece of vein; ``dchi_se`` counts noise and the geometry that was fitted too.

    ``misfit`` is a negative log likelihood, by which fits of one patch may be compared. ``cut`` is
    that of the filter of k-space, where there is one.
    """

    dchi: float
    dchi_se: float
    radius: float
    radius_se: float
    n_voxels: int
    misfit: float
    cut: float | None


def _frame(axis: np.ndarray, b0_dir: Sequence[float]):
    """Two unit vectors across an axis, the first towards B0 where that is not along the axis."""
    b0 = np.asarray(b0_dir, float)
    first = b0 - (b0 @ axis) * axis
    if np.linalg.norm(first) < 0.05:
        first = np.eye(3)[np.argmin(np.abs(axis))]
        first = first - (first @ axis) * axis
    first = first / np.linalg.norm(first)
    return first, np.cross(axis, first)


@dataclass(frozen=True, eq=False)
class _Box:
    """A box about a patch: ``parts`` of its voxels that are ``near`` a tube; the others are tissue.

    ``near`` and ``used``, the voxels of the patch, are indices into the flattened box.
    """

    shape: tuple[int, ...]
    near: np.ndarray
    used: np.ndarray
    parts: Parts

    @classmethod
    def about(cls, centres: np.ndarray, tube: Tube, radius: float, grid: Grid):
        """Box about the voxels with these centres (mm along the voxel axes)."""
        voxel = np.asarray(grid.voxel_size)
        index = np.round(centres / voxel).astype(int)
        low = index.min(0) - MARGIN
        shape = tuple(int(n) for n in index.max(0) + MARGIN + 1 - low)
        places = (np.indices(shape).reshape(3, -1).T + low) * voxel
        used = np.ravel_multi_index(tuple((index - low).T), shape)
        near = KDTree(tube.points).query(places)[0] < radius + NEAR * voxel.max()
        near[used] = True
        near = np.flatnonzero(near)
        parts = cut(places[near], tube, radius, grid.voxel_size)
        return cls(shape, near, used, parts)

    def sampled(self, halves: np.ndarray, tissue: np.ndarray, *cut: float):
        """Signal (voxel, echo) of the patch from halves of voxels near a tube; ``cut`` as of `rows`."""
        signal = np.empty((*self.shape, *halves.shape[1:]), np.complex64)
        signal[:] = tissue
        signal.reshape(-1, *halves.shape[1:])[self.near] = halves
        matrices = [rows(n, *cut) for n in self.shape]
        return to_voxels(signal, matrices).reshape(-1, len(tissue))[self.used]

    def of_patch(self, values: np.ndarray):
        """Values of the voxels of the patch from those near the tube."""
        return values[np.searchsorted(self.near, self.used)]


def fit_piece(
    patch: Patch,
    tube: Tube,
    radius: float,
    grid: Grid,
    *,
    echo_times: Sequence[float],
    field_strength: float,
    tissue_rate: float,
    sampling: KSpace | None,
    start: float = 0.4,
    rate: float | None = None,
    blood: tuple[float, float] = (1.0, BLOOD_SD),
    width_sd: float = WIDTH_SD,
):
    r"""Fit susceptibility, radius and place of a piece of vein to the field and the magnitude about it.

    The field is that of a tube, whose complex signals at all echoes are brought to voxels as the scan was
    sampled (`bids_qsm.biomarkers.oximetry_tube.tube_signal`,
    `bids_qsm.biomarkers.oximetry_sampling`), plus a polynomial of second order and the nuisance
    fields. Outside the vein only :math:`\Delta\chi a^2` counts; the field inside, the mixed voxels and the
    magnitude tell :math:`a` apart. Radius, place, signal and R2* of blood have weak priors.

    Parameters
    ----------
    patch : Patch
    tube : Tube
        The axis of the vein; it may reach beyond the patch.
    radius : float
        Radius found before (mm).
    grid : Grid
        Voxel size and direction of B0.
    echo_times, field_strength
        Of the series (s, T).
    tissue_rate : float
        R2* of tissue about the vein (1/s).
    start : float
        Susceptibility difference to start from (ppm).
    rate : float, optional
        Expected R2* of blood (1/s).
    blood : (float, float)
        Expected signal of blood over that of tissue at echo time zero, and the standard deviation of its
        logarithm.
    width_sd : float
        Standard deviation of the logarithm of ``radius``.
    sampling : KSpace, optional
        What is known of the filter of k-space, which is fitted too; without it, voxels are means.

    Returns
    -------
    PieceFit
    """
    step = max(grid.voxel_size)
    times = np.asarray(echo_times, np.float32)
    per_ppm = 1 / ppm_per_radian(field_strength)
    turn = max(echo_times) * per_ppm
    rate = blood_rate(0.65, field_strength) if rate is None else rate
    rate_sd = RATE_SD * field_strength / 3
    middle = patch.centres.mean(0)
    near = np.argsort(np.linalg.norm(tube.points - middle, axis=1))[: max(len(tube.points) // 4, 3)]
    axis = tube.tangents[near].mean(0)
    axis = axis / np.linalg.norm(axis)
    across = _frame(axis, grid.b0_dir)
    x = (patch.centres - middle) / step
    plain = np.stack([np.ones(len(x)), *x.T], 1)
    curved = np.stack([x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)], 1)
    smooth = np.concatenate([plain, curved, patch.nuisance], 1)
    tissue = np.exp(-tissue_rate * np.asarray(echo_times, float))
    box = _Box.about(patch.centres, tube, radius, grid)
    state: dict[tuple, tuple] = {}
    # noise and robust weights, each round anew
    field_sd, magnitude_sd = patch.field_sd, np.full(len(x), patch.magnitude_sd)
    field_robust, magnitude_robust = np.ones(len(x)), np.ones(len(x))

    def model(theta: np.ndarray):
        shift = tuple(theta[2:4])
        if shift not in state:
            if len(state) == 3:  # a point and its steps along both axes, for derivatives
                state.clear()
            moved = tube.moved(theta[2] * across[0] + theta[3] * across[1])
            state[shift] = tube_geometry(box.parts.places, moved, grid.b0_dir)
        halves, spread = tube_signal(
            state[shift],
            box.parts.first,
            np.exp(theta[1]),
            theta[0],
            edge=step / PARTS,
            blood=np.exp(theta[4]),
            blood_rate=theta[5],
            tissue_rate=tissue_rate,
            echo_times=echo_times,
            field_strength=field_strength,
        )
        signal = box.sampled(halves, tissue, *theta[6:])
        field, magnitude = field_and_magnitude(signal, tissue, times, per_ppm)
        return field, magnitude, box.of_patch(spread)

    expected = np.array([0, np.log(radius), 0, 0, np.log(blood[0]), rate])
    doubt = np.array([np.inf, width_sd, PLACE_SD * step, PLACE_SD * step, blood[1], rate_sd])
    scale = np.array([0.1, 0.1, 0.1 * step, 0.1 * step, 0.1, 5.0])
    low = np.array([-0.5, np.log(radius / 3), -step, -step, np.log(0.1), 0.0])
    high = np.array([2.0, np.log(radius * 3), step, step, np.log(5.0), 400.0])
    if sampling is not None:
        expected, doubt = np.r_[expected, sampling.cut], np.r_[doubt, sampling.cut_sd]
        scale, low, high = np.r_[scale, 0.05], np.r_[low, BOUNDS[0]], np.r_[high, BOUNDS[1]]

    def residuals(theta: np.ndarray):
        field, magnitude, spread = model(theta)
        weight = field_robust / np.hypot(field_sd, MODEL_SD * spread)
        rest = _without(patch.field - field, smooth, weight)
        shape = plain * magnitude[:, None]
        weight = magnitude_robust / np.hypot(magnitude_sd, MODEL_SD * np.minimum(turn * spread, 1))
        dark = _without(patch.magnitude, shape, weight)
        prior = ((theta - expected) / doubt)[1:]
        return np.concatenate([rest, dark, prior])

    theta = expected.copy()
    theta[0] = start
    n = len(x)
    misfit = 0.0
    for _ in range(3):
        found = least_squares(
            residuals,
            theta,
            x_scale=scale,
            bounds=(low, high),
            diff_step=1e-3,
            max_nfev=12,
            ftol=1e-4,
            xtol=1e-4,
        )
        theta = found.x
        rest, dark = found.fun[:n] / field_robust, found.fun[n : 2 * n] / magnitude_robust
        spread = model(theta)[2]
        misfit = _misfit(rest * np.hypot(field_sd, MODEL_SD * spread))
        misfit += _misfit(dark * np.hypot(magnitude_sd, MODEL_SD * np.minimum(turn * spread, 1)))
        # structure of the tissue adds to noise; single voxels that depart count less
        scale_of, field_robust = _reweighed(rest)
        field_sd = field_sd * scale_of
        scale_of, magnitude_robust = _reweighed(dark)
        magnitude_sd = magnitude_sd * scale_of
    covariance = _covariance(found.jac, found.fun, _sectors(patch.centres - middle, axis, across))
    return PieceFit(
        float(theta[0]),
        float(np.sqrt(covariance[0, 0])),
        float(np.exp(theta[1])),
        float(np.exp(theta[1]) * np.sqrt(covariance[1, 1])),
        int((found.fun[:n] != 0).sum()),
        misfit,
        float(theta[6]) if sampling is not None else None,
    )


def _misfit(rest: np.ndarray):
    """Negative log likelihood of residuals, less a constant: Student's t of 4 degrees, for outliers."""
    spread = 1.4826 * np.median(np.abs(rest)) + 1e-9
    return float(len(rest) * np.log(spread) + 2.5 * np.log1p((rest / spread) ** 2 / 4).sum())


def _sectors(places: np.ndarray, axis: np.ndarray, across: tuple[np.ndarray, np.ndarray]):
    """Sector of each voxel about an axis: four quarters around it, in three parts along it."""
    along = places @ axis
    part = np.searchsorted(np.quantile(along, (1 / 3, 2 / 3)), along)
    quarter = (places @ across[0] > 0) + 2 * (places @ across[1] > 0)
    return part * 4 + quarter


def _covariance(jacobian: np.ndarray, rest: np.ndarray, sectors: np.ndarray):
    """Covariance of the parameters, with residuals of one sector correlated in any way [1]_.

    Tissue near a vein makes residuals that neighbours share, so that they are fewer than voxels. The variance
    of each parameter is the larger of that and of what independent residuals give.

    References
    ----------
    .. [1] Liang & Zeger (1986), Biometrika 73:13. doi:10.1093/biomet/73.1.13
    """
    bread = np.linalg.pinv(jacobian.T @ jacobian)
    # residuals are of field, then of magnitude, then of priors, which stand alone
    ends = sectors.max() + 1 + np.arange(len(rest) - 2 * len(sectors))
    group = np.r_[sectors, sectors, ends]
    scores = np.zeros((group.max() + 1, jacobian.shape[1]))
    np.add.at(scores, group, jacobian * rest[:, None])
    count = np.unique(sectors).size
    shared = bread @ (scores.T @ scores) @ bread * count / max(count - 1, 1)
    larger = np.sqrt(np.maximum(np.diag(shared) / np.diag(bread), 1))
    return bread * np.outer(larger, larger)


def _without(data: np.ndarray, design: np.ndarray, weight: np.ndarray):
    """Weighted residuals of the best linear fit of the design."""
    weighted = design * weight[:, None]
    rest = data * weight
    gram = weighted.T @ weighted
    gram[np.diag_indices(len(gram))] += 1e-9 * np.trace(gram) + 1e-12
    return rest - weighted @ np.linalg.solve(gram, weighted.T @ rest)


def _reweighed(rest: np.ndarray):
    r"""Spread of residuals, and factors by which those beyond `STRONG` spreads are brought back to that size.

    In rounds this makes their loss logarithmic, :math:`k^2 (1/2 + \ln |r / k|)` beyond k, so that strong
    structures hardly act. With such in 3 % of the voxels, Huber's loss gave errors a fifth larger.

    >>> spread, factor = _reweighed(np.r_[np.linspace(-1, 1, 41), 8.0])
    >>> round(float(spread), 2), round(float(factor[-1]), 3), float(factor[0])
    (0.82, 0.204, 1.0)
    """
    used = rest != 0
    if used.sum() < 20:
        return 1.0, np.ones(len(rest))
    spread = max(float(1.4826 * np.median(np.abs(rest[used]))), 1e-6)
    return spread, np.minimum(1, STRONG * spread / np.maximum(np.abs(rest), 1e-12))
