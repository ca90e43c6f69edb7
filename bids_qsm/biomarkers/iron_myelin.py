r"""Iron and myelin of tissue from susceptibility, R2* and other maps that depend on both.

Every quantity :math:`k` is a line in iron :math:`F` and the myelin volume fraction :math:`M`,

.. math:: y_k = z_k + a_k F + b_k M + \epsilon_k

whose constants are known within limits only, and are nuisance parameters that all regions of a person share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bids_qsm.biomarkers.iron import ADULTS, CURVES, expected_iron

ZERO, IRON, MYELIN = range(3)
"""Place of the constants of one quantity."""


@dataclass(frozen=True)
class Constant:
    """A constant at 3 T with its standard deviation, and where it comes from."""

    value: float
    sd: float
    source: str


CONSTANTS = {
    'chi': (
        Constant(
            0.0,
            0.020,
            'zero of the map, such as fluid, less tissue without iron and myelin; prior, as in separation',
        ),
        Constant(
            0.0060,
            0.0018,
            'in vivo: mean paramagnetic susceptibility of six nuclei (Min 2024) over iron of 1958, derived; '
            'ferritin and iron post mortem have 0.0110 (Zheng 2013), which is no value for maps in vivo',
        ),
        Constant(-0.11, 0.035, 'diamagnetic susceptibility of white matter (Min 2024) over .27, derived'),
    ),
    'R2star': (
        Constant(10.5, 2.0, 'tissue without iron and myelin; prior, so that R2* of tissue at 3 T is met'),
        Constant(
            1.4, 0.45, "R2' of iron (137 /s/ppm, Shin 2021) and its R2 (0.2 /s/T per mg/100 g), derived"
        ),
        Constant(25.0, 10.0, 'mean over fibre directions; prior, so that R2* of white matter is met'),
    ),
    'R2': (
        Constant(9.5, 2.0, 'tissue without iron and myelin; prior'),
        Constant(0.6, 0.3, '0.2 /s/T per mg/100 g; prior'),
        Constant(10.0, 7.0, 'prior'),
    ),
    'R1': (
        Constant(0.58, 0.10, 'T1 of grey and white matter at 3 T (1.35 s and 0.85 s) at .07 and .27; prior'),
        Constant(0.010, 0.006, 'T1 of the pallidum at 3 T; prior'),
        Constant(2.2, 0.6, 'T1 of grey and white matter at 3 T; prior'),
    ),
    'MTsat': (
        Constant(0.5, 0.3, 'depends on the pulse; prior'),
        Constant(0.0, 0.01, 'prior'),
        Constant(4.5, 1.8, 'depends on the pulse; prior'),
    ),
    'MWF': (
        Constant(0.0, 0.01, 'no myelin, no myelin water'),
        Constant(0.0, 0.0005, 'prior'),
        Constant(0.44, 0.11, 'myelin water fraction of .12 in white matter at .27; prior'),
    ),
}
"""Zero, change by a mg/100 g of iron, and by all of the volume being myelin, of each quantity at 3 T."""
UNITS = {'chi': 'ppm', 'R2star': '1/s', 'R2': '1/s', 'R1': '1/s', 'MTsat': '%', 'MWF': 'fraction'}
FIELD = 3.0
"""Field strength (T) of `CONSTANTS`."""
PRIOR_MEAN, PRIOR_SD = np.array([8.0, 0.12]), np.array([12.0, 0.25])
"""Iron (mg/100 g) and myelin fraction of any tissue of the brain."""
GREY_MYELIN, WHITE_MYELIN = (0.07, 0.03), (0.27, 0.04)
"""Myelin fraction of deep grey and of white matter, with standard deviations."""
WHITE = 'White matter'
WHITE_IRON = (4.2, 1.0)
"""Iron (mg/100 g) of deep white matter and its error: an assumption. It is what is quoted of frontal white
matter of 1958, which was not checked against that paper."""
REFERENCE_ERROR = (0.10, 0.5)
"""Error of the iron of 1958 as a mean of healthy people in vivo: share of it, and mg/100 g."""
ADULT_SHARE = 0.9
"""Least share of healthy people whose age has a known iron. The rest are in the mean of the map alone: were
their iron lower by a fifth, this would be off by 2 %, and `REFERENCE_ERROR` is 10 %."""
_LEAST_KNOWN = 0.5
"""Largest posterior over prior standard deviation, in the direction that is known least."""


@dataclass(frozen=True)
class Constants:
    """Constants of some quantities.

    Attributes
    ----------
    names : tuple of str
        Quantities, K of them.
    mean : ndarray, shape (K, 3)
        Zero, change by iron, change by myelin.
    cov : ndarray, shape (3 K, 3 K)
    """

    names: tuple[str, ...]
    mean: np.ndarray
    cov: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations, shape (K, 3)."""
        return np.sqrt(np.diag(self.cov)).reshape(self.mean.shape)

    @property
    def slopes(self) -> np.ndarray:
        """Change of each quantity by iron and by myelin, shape (K, 2)."""
        return self.mean[:, 1:]

    def of(self, names: Sequence[str]) -> 'Constants':
        """Those of some of the quantities."""
        at = [self.names.index(name) for name in names]
        index = np.concatenate([np.arange(3 * k, 3 * k + 3) for k in at])
        return Constants(tuple(names), self.mean[at], self.cov[np.ix_(index, index)])


@dataclass(frozen=True)
class Posterior:
    """Iron (mg/100 g) and myelin fraction of R regions.

    Attributes
    ----------
    mean : ndarray, shape (R, 2)
        Of zero or more.
    cov : ndarray, shape (R, 2, 2)
        With the errors of the constants.
    residual : ndarray, shape (R, K)
        Measured less predicted value of each quantity; NaN where there is none.
    identifiable : ndarray of bool, shape (R,)
        Whether susceptibility and R2* are there, and no combination of iron and myelin is known less than
        twice as well as before.
    """

    mean: np.ndarray
    cov: np.ndarray
    residual: np.ndarray
    identifiable: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations, shape (R, 2)."""
        return np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))

    @property
    def correlation(self) -> np.ndarray:
        """Correlation of the errors of iron and myelin, shape (R,)."""
        return self.cov[:, 0, 1] / np.prod(self.sd, 1)


def constants_at(field_strength: float, names: Sequence[str]) -> Constants:
    """Constants of some quantities at a field strength (T).

    Changes of relaxation rates R2* and R2 by iron and myelin are proportional to it, and their zero is
    (9 + 0.9 B0) / (9 + 2.7) of that at 3 T. R1 falls with the cube root of the field [1]_. Susceptibility,
    MTsat and the myelin water fraction do not depend on it.

    >>> constants_at(1.5, ['R2star']).slopes.tolist()
    [[0.7, 12.5]]

    References
    ----------
    .. [1] Bottomley et al. (1984), Med Phys 11:425. doi:10.1118/1.595535
    """
    ratio = field_strength / FIELD
    scales = {
        **dict.fromkeys(('R2star', 'R2'), ((9 + 0.9 * field_strength) / (9 + 0.9 * FIELD), ratio, ratio)),
        'R1': (ratio ** (-1 / 3),) * 3,
    }
    scale = np.array([scales.get(name, (1.0, 1.0, 1.0)) for name in names])
    mean = scale * [[one.value for one in CONSTANTS[name]] for name in names]
    sd = scale * [[one.sd for one in CONSTANTS[name]] for name in names]
    return Constants(tuple(names), mean, np.diag(np.square(sd).ravel()))


def posterior(
    values: np.ndarray,
    noise: np.ndarray,
    constants: Constants,
    *,
    prior_mean: np.ndarray = PRIOR_MEAN,
    prior_sd: np.ndarray = PRIOR_SD,
) -> Posterior:
    r"""Iron and myelin of regions, with constants as nuisance parameters.

    Given the constants :math:`c`, iron and myelin :math:`x` of a region have a Gaussian posterior; what is
    not known of the constants is added to first order, and is common to all regions:

    .. math:: P = A^T R^{-1} A + S^{-1}, \quad m = P^{-1} (A^T R^{-1} (y - z) + S^{-1} x_0), \quad
        C = P^{-1} + G C_c G^T, \quad G = \partial m / \partial c

    The data do not move the constants: tissue of any content says nothing of them but through its prior.
    `calibrate` does, where contents are known. Then iron and myelin are made the most probable pair that
    is not negative.

    Parameters
    ----------
    values, noise : ndarray, shape (R, K)
        Measured values and their standard deviations; NaN where a quantity was not measured.
    constants : Constants
        Of the K quantities.
    prior_mean, prior_sd : ndarray, shape (2,)
        Of iron (mg/100 g) and myelin fraction.
    """
    there = np.isfinite(values) & np.isfinite(noise)
    weight = np.where(there, 1 / np.square(np.where(there, noise, 1)), 0)
    a = constants.slopes
    precision = np.einsum('rk,ki,kj->rij', weight, a, a) + np.diag(1 / np.square(prior_sd))
    given = np.linalg.inv(precision)
    rest = np.where(there, values - constants.mean[:, ZERO], 0)
    x = np.einsum('rij,rj->ri', given, (weight * rest) @ a + prior_mean / np.square(prior_sd))
    residual = np.where(there, values - constants.mean[:, ZERO] - x @ a.T, np.nan)
    gain = np.einsum('rij,kj,rk->rik', given, a, weight)
    # by zero, change by iron and change by myelin of each quantity; a change of A also moves the gain
    moved = np.einsum('rik,rj->rikj', gain, np.column_stack([np.ones(len(x)), x]))
    moved = -moved
    moved[..., 1:] += np.einsum('rij,rk->rikj', given, weight * np.nan_to_num(residual))
    moved = moved.reshape(len(x), 2, -1)
    cov = given + np.einsum('ric,cd,rjd->rij', moved, constants.cov, moved)
    known = np.linalg.eigvalsh(cov / np.outer(prior_sd, prior_sd))[:, -1] <= _LEAST_KNOWN**2
    both = [list(constants.names).index(name) for name in ('chi', 'R2star') if name in constants.names]
    known &= len(both) == 2 and there[:, both].all(1)
    x = nonnegative(x, cov)
    left = np.where(there, values - constants.mean[:, ZERO] - x @ a.T, np.nan)
    return Posterior(x, cov, left, known)


def nonnegative(mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    r"""The most probable pair of zero or more: :math:`\min (x - m)^T C^{-1} (x - m)`, :math:`x \ge 0`.

    Of two unknowns there are three sets of active bounds; that which is feasible and nearest counts.

    Parameters
    ----------
    mean : ndarray, shape (..., 2)
    cov : ndarray, shape (..., 2, 2) or (2, 2)

    >>> nonnegative(np.array([5.0, -0.1]), np.array([[1.0, 0.05], [0.05, 0.01]])).tolist()
    [5.5, 0.0]
    """
    first, second = mean[..., 0], mean[..., 1]
    a, b, d = cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]
    options = (
        (np.zeros_like(first), second - b / a * first, first**2 / a),
        (first - b / d * second, np.zeros_like(second), second**2 / d),
        (0 * first, 0 * second, (d * first**2 - 2 * b * first * second + a * second**2) / (a * d - b**2)),
    )
    found, best = mean.copy(), np.where((first >= 0) & (second >= 0), -1.0, np.inf)
    for one, other, distance in options:
        better = (one >= 0) & (other >= 0) & (distance < best)
        found[better] = np.stack([one, other], -1)[better]
        best = np.where(better, distance, best)
    return found


def reference_tissue(region: str, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Iron and myelin of a region of healthy people, and their standard deviations; None where not known.

    It is not known of people under 30 years in regions without a curve over age (`ADULT_SHARE`). Iron is
    that of 1958 at the ages (years), its error `REFERENCE_ERROR`: other methods, other people, and what
    inversion does to a region of this size.

    >>> reference_tissue('RN', np.array([50.0, 20.0])) is None
    True
    >>> reference_tissue('RN', np.array([50.0]))
    (array([19.5 ,  0.07]), array([2.01308221, 0.03      ]))
    """
    if region == WHITE:
        (iron, error), myelin = WHITE_IRON, WHITE_MYELIN
    elif region in (*CURVES, *ADULTS):
        known = expected_iron(region, ages)
        if not known.size or np.isfinite(known).mean() < ADULT_SHARE:
            return None
        iron, myelin = float(np.nanmean(known)), GREY_MYELIN
        error = float(np.hypot(REFERENCE_ERROR[0] * iron, REFERENCE_ERROR[1]))
    else:
        return None
    return np.array([iron, myelin[0]]), np.array([error, myelin[1]])


def calibrate(
    values: np.ndarray,
    noise: np.ndarray,
    regions: Sequence[str],
    ages: Sequence[np.ndarray],
    constants: Constants,
    *,
    iterations: int = 50,
) -> tuple[Constants, list[str]]:
    r"""Constants of a study from the means of its controls, whose tissue is that of healthy people.

    .. math:: \min_{x, c} \sum_{rk} \left(\frac{y_{rk} - z_k - a_k F_r - b_k M_r}{\sigma_{rk}}\right)^2
        + \sum_r \left|\frac{x_r - x_{r0}}{s_r}\right|^2 + (c - c_0)^T C_c^{-1} (c - c_0)

    by Gauss and Newton, in the state of the contents of all regions and the constants that these share.

    Parameters
    ----------
    values, noise : ndarray, shape (R, K)
        Means of the controls and their standard errors, which are above zero.
    regions : sequence of str, length R
    ages : sequence of ndarray, length R
        Of the controls (years) who have values of the region.
    constants : Constants
        What is known of them before.

    Returns
    -------
    constants : Constants
        Given the controls.
    used : list of str
        Regions with a reference; constants stay as they are where there is none.
    """
    known = {i: reference_tissue(*pair) for i, pair in enumerate(zip(regions, ages, strict=True))}
    tissue = {i: one for i, one in known.items() if one is not None and np.isfinite(values[i]).any()}
    if not tissue:
        return constants, []
    first = np.concatenate([*(mean for mean, _ in tissue.values()), constants.mean.ravel()])
    # steps are found in units of the prior, as constants differ by orders of magnitude
    units = np.concatenate([*(sd for _, sd in tissue.values()), np.sqrt(np.diag(constants.cov))])
    n, k = len(tissue), len(constants.names)
    prior = np.eye(len(units))
    prior[2 * n :, 2 * n :] = np.linalg.inv(constants.cov / np.outer(units[2 * n :], units[2 * n :]))
    values, noise = values[list(tissue)], noise[list(tissue)]
    r, q = np.nonzero(np.isfinite(values) & np.isfinite(noise))
    y, sigma, row = values[r, q], noise[r, q], np.arange(len(r))
    state = first.copy()
    for _ in range(iterations):
        x, c = state[: 2 * n].reshape(n, 2), state[2 * n :].reshape(k, 3)
        jacobian = np.zeros((len(y), len(state)))
        for part, place in enumerate((IRON, MYELIN)):
            jacobian[row, 2 * r + part] = c[q, place]
            jacobian[row, 2 * n + 3 * q + place] = x[r, part]
        jacobian[row, 2 * n + 3 * q + ZERO] = 1
        jacobian *= units / sigma[:, None]
        predicted = c[q, ZERO] + (c[q, 1:] * x[r]).sum(1)
        information = jacobian.T @ jacobian + prior
        step = np.linalg.solve(
            information, jacobian.T @ ((y - predicted) / sigma) + prior @ ((first - state) / units)
        )
        state = state + units * step
        if np.abs(step).max() < 1e-6:
            break
    cov = (np.linalg.inv(information) * np.outer(units, units))[2 * n :, 2 * n :]
    found = Constants(constants.names, state[2 * n :].reshape(k, 3), cov)
    return found, [regions[i] for i in tissue]


def contrast(
    change: np.ndarray, cov: np.ndarray, constants: Constants, *, curvature: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    r"""Change of iron and myelin from changes of susceptibility and R2*, and its covariance.

    .. math:: \Delta x = A^{-1} \Delta y, \quad C = A^{-1} (S + J C_c J^T + L) A^{-T}

    Zeros of maps cancel; errors of slopes count in proportion to the change. L is what lines lack: the slope
    at a content differs from the mean one.

    Parameters
    ----------
    change : ndarray, shape (2,)
        Of susceptibility (ppm) and R2* (1/s).
    cov : ndarray, shape (2, 2)
        Of the change.
    constants : Constants
        Of 'chi' and 'R2star'.
    curvature : float
        Standard deviation of a slope at any content, over the mean slope. The default was chosen on simulated
        cohorts whose slopes change by up to 15 and 30 % over 20 mg/100 g: with .10 the
        intervals of myelin held 99 % of the truth in the former.
    """
    slopes = constants.slopes
    inverse = np.linalg.inv(slopes)
    x = inverse @ change
    jacobian = np.zeros((2, 6))
    jacobian[0, [IRON, MYELIN]] = jacobian[1, [3 + IRON, 3 + MYELIN]] = x
    local = np.diag(np.square(curvature * slopes * x).sum(1))
    whole = cov + jacobian @ constants.cov @ jacobian.T + local
    return x, inverse @ whole @ inverse.T


def iron_alone(
    values: np.ndarray, noise: np.ndarray, constants: Constants, *, myelin: tuple[float, float] = GREY_MYELIN
) -> Posterior:
    """Iron of grey matter from susceptibility alone, given its usual myelin; never identifiable.

    Parameters
    ----------
    values, noise : ndarray, shape (R,)
        Susceptibility (ppm).
    constants : Constants
        Of 'chi'.
    """
    found = posterior(
        values[:, None],
        noise[:, None],
        constants,
        prior_mean=np.array([PRIOR_MEAN[0], myelin[0]]),
        prior_sd=np.array([PRIOR_SD[0], myelin[1]]),
    )
    return replace(found, identifiable=np.zeros(len(values), bool))
