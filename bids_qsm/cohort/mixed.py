"""Linear models of one response, with a random intercept where participants have repeated observations.

The covariance has two eigenspaces: deviations from a participant's mean, and the means. Restricted maximum
likelihood and its small-sample corrections need only cross products in these two, summed over participants
with the same number of observations, and a search over one variance ratio.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

_GRID = np.linspace(0, 1, 33)
_MOST = 1 - 1e-6
"""Largest share of the variance between participants: at 1 the likelihood is unbounded."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of a linear model and their uncertainty.

    Attributes
    ----------
    beta : ndarray, shape (p,)
    cov : ndarray, shape (p, p)
        Covariance of beta; of a mixed model with Kenward and Roger's correction.
    within, between : float
        Residual variance, and that of the random intercept (0 for least squares).
    fitted, residual : ndarray, shape (n,)
        ``x @ beta`` and the rest of the response; the residual of a mixed model includes the intercepts.
    information : tuple, optional
        Of a mixed model: uncorrected covariance, covariance of the two variances, derivatives.
    common : ndarray, shape (p,), optional
        Standard error of beta by what is off in all observations alike, with signs; cov counts it.
    """

    beta: np.ndarray
    cov: np.ndarray
    within: float
    between: float
    fitted: np.ndarray
    residual: np.ndarray
    information: tuple | None = None
    common: np.ndarray | None = None

    @property
    def spread(self) -> float:
        """Standard deviation of single observations about the fixed effects."""
        return float(np.sqrt(self.within + self.between))

    def with_common(self, error: np.ndarray) -> 'Fit':
        """The fit with an error of the coefficients that is common to all observations."""
        return replace(self, cov=self.cov + np.outer(error, error), common=error)

    @property
    def without_common(self) -> 'Fit':
        """The fit as it would be without that error."""
        if self.common is None:
            return self
        return replace(self, cov=self.cov - np.outer(self.common, self.common), common=None)

    def coefficient(self, j: int) -> tuple[float, float, float]:
        """Estimate, standard error and degrees of freedom of a coefficient."""
        contrast = np.zeros((1, len(self.beta)))
        contrast[0, j] = 1
        return float(self.beta[j]), float(np.sqrt(self.cov[j, j])), self._dof(contrast)[0]

    def joint(self, index: Iterable[int]) -> tuple[float, float, float]:
        """F of the hypothesis that some coefficients are all zero, with both degrees of freedom."""
        contrast = np.eye(len(self.beta))[list(index)]
        estimate = contrast @ self.beta
        wald = estimate @ np.linalg.solve(contrast @ self.cov @ contrast.T, estimate)
        dof, scale = self._dof(contrast)
        return float(scale * wald / len(contrast)), float(len(contrast)), dof

    def _dof(self, contrast: np.ndarray):
        """Denominator degrees of freedom, and the factor of F."""
        most = float(len(self.fitted) - len(self.beta))
        if self.information is None:
            return most, 1.0
        phi, variances, slopes = self.information
        rank = len(contrast)
        theta = contrast.T @ np.linalg.solve(contrast @ phi @ contrast.T, contrast) @ phi
        traces = [theta @ p @ phi for p in slopes]
        first = np.array([np.trace(t) for t in traces])
        a1 = float(first @ variances @ first)
        a2 = float(sum(variances[i, j] * np.trace(traces[i] @ traces[j]) for i in (0, 1) for j in (0, 1)))
        if a2 <= 0:
            return most, 1.0
        if rank == 1:
            return float(np.clip(2 / a2, 1, most)), 1.0
        b = (a1 + 6 * a2) / (2 * rank)
        g = ((rank + 1) * a1 - (rank + 4) * a2) / ((rank + 2) * a2)
        c1, c2, c3 = np.array([g, rank - g, rank + 2 - g]) / (3 * rank + 2 * (1 - g))
        if a2 >= rank or c2 * b >= 1 or c3 * b >= 1:
            return float(np.clip(2 * rank / a2, 1, most)), 1.0
        mean = 1 / (1 - a2 / rank)
        ratio = (1 + c1 * b) / ((1 - c2 * b) ** 2 * (1 - c3 * b)) / rank / mean**2
        if rank * ratio <= 1:
            return most, 1.0
        dof = 4 + (rank + 2) / (rank * ratio - 1)
        return float(np.clip(dof, 1, most)), float(dof / (mean * (dof - 2)))


def least_squares(x: np.ndarray, y: np.ndarray) -> Fit:
    """Fit by ordinary least squares.

    Parameters
    ----------
    x : ndarray, shape (n, p)
        Of full rank, n > p.
    y : ndarray, shape (n,)
    """
    q, r = linalg.qr(x, mode='economic')
    beta = linalg.solve_triangular(r, q.T @ y)
    fitted = x @ beta
    within = float(np.sum((y - fitted) ** 2) / (len(y) - x.shape[1]))
    inverse = linalg.solve_triangular(r, np.eye(len(r)))
    return Fit(beta, within * inverse @ inverse.T, within, 0.0, fitted, y - fitted)


def weighted_coefficients(x: np.ndarray, y: np.ndarray, participant: np.ndarray, fit: Fit) -> np.ndarray:
    """Coefficients of another response, with the weights that a fit gave to the observations."""
    _, code = np.unique(participant, return_inverse=True)
    counts = np.bincount(code)
    # of the means, what remains is as uncertain as a single deviation
    kept = 1 - 1 / np.sqrt(1 + counts * fit.between / fit.within)
    both = np.column_stack([x, y])
    means = np.zeros((len(counts), both.shape[1]))
    np.add.at(means, code, both)
    both = both - (kept[:, None] * means / counts[:, None])[code]
    return np.linalg.lstsq(both[:, :-1], both[:, -1], rcond=None)[0]


def random_intercept(x: np.ndarray, y: np.ndarray, participant: np.ndarray) -> Fit:
    r"""Fit a linear model with a random intercept a participant, by restricted maximum likelihood.

    .. math:: y_{ij} = x_{ij}^T \beta + u_i + e_{ij}, \quad u_i \sim N(0, \tau^2), \; e_{ij} \sim N(0,
              \sigma^2)

    Covariance and degrees of freedom of the coefficients are those of Kenward and Roger [1]_, which hold the
    significance level in small cohorts.

    Parameters
    ----------
    x : ndarray, shape (n, p)
        Of full rank; the first column is constant.
    y : ndarray, shape (n,)
    participant : ndarray of int, shape (n,)
        Some must occur more than once.

    References
    ----------
    .. [1] Kenward & Roger (1997), Biometrics 53:983. doi:10.2307/2533558
    """
    n, p = x.shape
    _, code = np.unique(participant, return_inverse=True)
    counts = np.bincount(code)
    # equal scales keep the cross products well conditioned
    size = np.linalg.norm(x, axis=0)
    centre = y.mean()
    unit = np.abs(y - centre).max() or 1.0
    z = np.column_stack([x / size, (y - centre) / unit])
    sums = np.zeros((len(counts), p + 1))
    np.add.at(sums, code, z)
    sizes = np.unique(counts)
    means = np.stack([sums[counts == k].T @ sums[counts == k] / k for k in sizes])
    inside = z - (sums / counts[:, None])[code]
    inner = inside.T @ inside
    howmany = np.array([(counts == k).sum() for k in sizes])
    rho = _search(inner, means, sizes, howmany, n, p)
    ratio = rho / (1 - rho)
    cross = inner + np.tensordot(1 / (1 + sizes * ratio), means, 1)
    inverse = np.linalg.inv(cross[:p, :p])
    beta = inverse @ cross[:p, p]
    within = float((cross[p, p] - cross[p, :p] @ beta) / (n - p))
    between = within * ratio
    phi = within * inverse
    variances, slopes, curves = _derivatives(
        phi, inner[:p, :p], means[:, :p, :p], sizes, howmany, within, between, n
    )
    extra = sum(
        variances[i, j] * (curves[i + j] - slopes[i] @ phi @ slopes[j]) for i in (0, 1) for j in (0, 1)
    )
    cov = phi + 2 * phi @ extra @ phi
    # at the boundary of the variances the correction may overshoot; it must not reduce an error
    cov = cov if np.all(np.diag(cov) >= np.diag(phi) * (1 - 1e-9)) else phi
    fitted = centre + unit * (z[:, :p] @ beta)
    scale = unit / size
    coefficients = beta * scale
    coefficients[0] += centre / x[0, 0]
    back = np.diag(scale)
    information = (phi, variances, slopes)
    return Fit(
        coefficients, back @ cov @ back, within * unit**2, between * unit**2, fitted, y - fitted,
        information,
    )  # fmt: skip


def _search(inner: np.ndarray, means: np.ndarray, sizes: np.ndarray, howmany: np.ndarray, n: int, p: int):
    """Share of the variance between participants at the maximum of the restricted likelihood."""
    low, high = 0.0, _MOST
    for _ in range(7):
        rho = low + (high - low) * _GRID
        ratio = rho / (1 - rho)
        weights = 1 / (1 + sizes * ratio[:, None])
        cross = inner + np.tensordot(weights, means, 1)
        sign, size = np.linalg.slogdet(cross[:, :p, :p])
        whole_sign, whole = np.linalg.slogdet(cross)
        # the residual sum of squares is the ratio of the two determinants
        deviance = (n - p) * (whole - size) + size - (np.log(weights) * howmany).sum(1)
        deviance[(sign <= 0) | (whole_sign <= 0)] = np.inf
        best = int(np.argmin(deviance))
        step = (high - low) / (len(_GRID) - 1)
        low, high = max(rho[best] - step, 0.0), min(rho[best] + step, _MOST)
    return float(rho[best])


def _derivatives(
    phi: np.ndarray,
    inner: np.ndarray,
    means: np.ndarray,
    sizes: np.ndarray,
    howmany: np.ndarray,
    within: float,
    between: float,
    n: int,
):
    """Covariance of the two variances from the expected information, and Kenward and Roger's P and Q."""
    total = within + sizes * between

    def cross(of_inner: float, of_means: np.ndarray):
        return of_inner * inner + np.tensordot(of_means, means, 1)

    slopes = (-cross(within**-2, total**-2), -cross(0.0, sizes * total**-2))
    curves = [cross(within**-3, total**-3), cross(0.0, sizes * total**-3), cross(0.0, sizes**2 * total**-3)]
    information = np.empty((2, 2))
    for i in (0, 1):
        for j in (0, 1):
            trace = (howmany * sizes ** (i + j) / total**2).sum()
            if i + j == 0:
                trace += (n - howmany.sum()) / within**2
            trace += np.trace(phi @ slopes[i] @ phi @ slopes[j]) - 2 * np.trace(phi @ curves[i + j])
            information[i, j] = trace / 2
    return np.linalg.inv(information), slopes, curves
