"""Cubic smoothing splines of many responses over age, with leave-one-out prediction of participants."""

import numpy as np

from bids_qsm.cohort.design import natural_spline

_KNOTS = 8
_LEAST_AGES = 10
"""Fewest different ages for a curve; with fewer a line is fitted."""
_RATIOS = np.concatenate([[1e-6], np.geomspace(1e-3, 1e4, 29)])
"""Ratios of the variance of the curve about a line to that of the participants."""
_BLOCK = 2**23


class AgeCurve:
    r"""Smooth curve of a response over age.

    A cubic smoothing spline is a line plus a random curve whose second derivative is white noise [1]_; on a
    natural spline with few knots that is a mixed model,

    .. math:: y = \beta_0 + \beta_1 a + Z u + e, \quad u \sim N(0, \lambda \sigma^2), \; e \sim N(0,
              \sigma^2),

    Predictions are averaged over the variance ratio :math:`\lambda`, weighted by its restricted likelihood.
    With one age there is only the mean, with few ages a line.

    Parameters
    ----------
    age : ndarray, shape (n,)
    shift : ndarray, shape (n,), optional
        A covariate that moves the whole curve, such as sex (0 or 1).

    References
    ----------
    .. [1] Wahba (1978), J R Stat Soc B 40:364. doi:10.1111/j.2517-6161.1978.tb01050.x
    """

    def __init__(self, age: np.ndarray, shift: np.ndarray | None = None):
        self.age = np.asarray(age, float)
        self.shift = None if shift is None else np.asarray(shift, float)
        distinct = np.unique(self.age)
        self.centre, self.unit = self.age.mean(), np.ptp(self.age) or 1.0
        # leaving one out must leave two ages for a line
        self.line = len(distinct) > 2 and len(self.age) >= 4
        self.knots, self.shape = None, None
        if len(distinct) >= _LEAST_AGES:
            count = min(_KNOTS, len(distinct) // 2)
            self.knots = np.quantile(self._scaled(distinct), np.linspace(0, 1, count))
            value, vector = np.linalg.eigh(_bending(self.knots))
            # the two directions without curvature are the line
            self.shape = vector[:, 2:] / np.sqrt(value[2:])
            size = np.mean(np.sum(self._columns(self.age)[:, 2:] ** 2, 1))
            self.shape = self.shape / np.sqrt(size)

    def predict(self, y: np.ndarray, age: np.ndarray, left_out: np.ndarray, shift: np.ndarray | None = None):
        """Expected value and predictive standard deviation of new participants.

        Parameters
        ----------
        y : ndarray, shape (n, k)
            Responses of the participants whose ages were given.
        age : ndarray, shape (m,)
            Ages to predict at.
        left_out : ndarray of int, shape (m,)
            For each, the index of the participant to leave out of the fit; -1 for none.
        shift : ndarray, shape (m,), optional
            The covariate of each, if those whose ages were given have it.

        Returns
        -------
        expected, sd, dof : ndarray, shape (m, k)
        """
        expected, sd, dof = np.full((3, len(age), y.shape[1]), np.nan)
        step = max(1, _BLOCK // (8 * (len(self.age) + 1) * 8))
        for start in range(0, y.shape[1], step):
            part = slice(start, start + step)
            expected[:, part], sd[:, part], dof[:, part] = self._predict(y[:, part], age, left_out, shift)
        return expected, sd, dof

    def _predict(self, y: np.ndarray, age: np.ndarray, left_out: np.ndarray, shift: np.ndarray | None):
        z, new = self._columns(self.age), self._columns(np.asarray(age, float))
        fixed = 2 if self.line else 1
        if self.shift is not None:
            z, new = np.c_[self.shift, z], np.c_[shift, new]
            fixed += 1
        random = z.shape[1] - fixed
        middle = y.mean(0)
        y = y - middle
        # the last fit includes all; sums of others are those of all less one, as one a pair would be n x n
        needed = np.unique(np.where(left_out < 0, len(y), left_out))
        fit_of = np.searchsorted(needed, np.where(left_out < 0, len(y), left_out))
        of_z, of_y = (np.append(part, np.zeros((1, part.shape[1])), axis=0)[needed] for part in (z, y))
        gram = z.T @ z - of_z[:, :, None] * of_z[:, None, :]
        moment = z.T @ y - of_z[:, :, None] * of_y[:, None, :]
        square = (y**2).sum(0) - of_y**2
        dof = len(y) - (needed < len(y))[:, None] - fixed
        # with few participants the ratio is uncertain, and a single best ratio gives too small errors
        top, total = np.full(square.shape, -np.inf), np.zeros(square.shape)
        first, second = np.zeros((2, len(new), y.shape[1]))
        for ratio in _RATIOS if random else _RATIOS[:1]:
            whole = gram + np.diag(np.r_[np.zeros(fixed), np.full(random, 1 / ratio)])
            inverse = np.linalg.inv(whole)
            coefficient = inverse @ moment
            rest = np.maximum(square - np.sum(coefficient * moment, 1), 1e-13 * square + 1e-300)
            size = np.linalg.slogdet(whole)[1][:, None]
            score = -(dof * np.log(rest) + size + random * np.log(ratio)) / 2
            higher = np.maximum(top, score)
            fade, weight = np.exp(top - higher), np.exp(score - higher)
            leverage = np.einsum('mp,mpq,mq->m', new, inverse[fit_of], new)
            at = np.einsum('mp,mpk->mk', new, coefficient[fit_of])
            variance = (rest / dof)[fit_of] * (1 + leverage[:, None])
            first = first * fade[fit_of] + weight[fit_of] * at
            second = second * fade[fit_of] + weight[fit_of] * (at**2 + variance)
            top, total = higher, total * fade + weight
        expected = first / total[fit_of]
        sd = np.sqrt(np.maximum(second / total[fit_of] - expected**2, 0))
        return expected + middle, sd, np.broadcast_to(dof[fit_of], expected.shape)

    def _scaled(self, age: np.ndarray):
        return (age - self.centre) / self.unit

    def _columns(self, age: np.ndarray):
        """Constant, line and curved columns at some ages; beyond the outer knots the curve is linear."""
        a = self._scaled(age)
        columns = [np.ones_like(a), *([a] if self.line else [])]
        if self.shape is None or self.knots is None:
            return np.stack(columns, -1)
        inside = np.clip(a, self.knots[0], self.knots[-1])
        basis = natural_spline(self.knots)
        bends = (basis(inside) + (a - inside)[:, None] * basis(inside, 1)) @ self.shape
        return np.column_stack([*columns, bends])


def _bending(knots: np.ndarray):
    """Matrix K with v'Kv the integral of the squared second derivative of the natural spline through v."""
    h = np.diff(knots)
    n = len(knots)
    q, r = np.zeros((n, n - 2)), np.zeros((n - 2, n - 2))
    for j in range(n - 2):
        q[j : j + 3, j] = 1 / h[j], -1 / h[j] - 1 / h[j + 1], 1 / h[j + 1]
        r[j, j] = (h[j] + h[j + 1]) / 3
        if j:
            r[j, j - 1] = r[j - 1, j] = h[j] / 6
    return q @ np.linalg.solve(r, q.T)
