"""Tables of units of two classes whose separability in the population is known, for tests of classifiers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special


@dataclass(frozen=True)
class Population:
    r"""Normal features whose means differ between two classes.

    Feature j of unit i of a participant is :math:`x_{ij} = \delta_j y_i + u_j + e_{ij}`, with variance 1
    within a class, of which the participant has the share ``shared``.

    Attributes
    ----------
    base, qsm : tuple of float
        :math:`\delta` of each base feature and of each QSM feature.
    correlation : float
        Between any two features within a class.
    shared : float
        Correlation of a feature between units of a participant.
    """

    base: tuple[float, ...] = (0.6, 0.3)
    qsm: tuple[float, ...] = (0.6, 0.0, 0.0)
    correlation: float = 0.2
    shared: float = 0.0

    @property
    def names(self) -> tuple[list[str], list[str]]:
        return [f'base_{j}' for j in range(len(self.base))], [f'qsm_{j}' for j in range(len(self.qsm))]

    def auc(self, coefficients: np.ndarray) -> np.ndarray:
        r"""AUC of units of different participants, :math:`\Phi(b\delta / \sqrt{2 b\Sigma b})`.

        Parameters
        ----------
        coefficients : ndarray, shape (..., p)
            Of the base features, or of the base and the QSM features.
        """
        b = np.asarray(coefficients, float)
        delta, sigma = self._moments(b.shape[-1])
        spread = np.sqrt(2 * np.einsum('...i,ij,...j->...', b, sigma, b))
        return special.ndtr(np.where(spread > 0, b @ delta / np.where(spread > 0, spread, 1), 0))

    def sensitivity(self, coefficients: np.ndarray, *, specificity: float = 0.9) -> np.ndarray:
        r"""True positive rate at a specificity, :math:`\Phi(b\delta / \sqrt{b\Sigma b} - z)`; as `auc`."""
        b = np.asarray(coefficients, float)
        delta, sigma = self._moments(b.shape[-1])
        spread = np.sqrt(np.einsum('...i,ij,...j->...', b, sigma, b))
        shift = np.where(spread > 0, b @ delta / np.where(spread > 0, spread, 1), 0)
        return special.ndtr(shift - special.ndtri(specificity))

    def best(self, p: int) -> np.ndarray:
        """Coefficients of the first p features with the largest AUC."""
        delta, sigma = self._moments(p)
        return np.linalg.solve(sigma, delta)

    def _moments(self, p: int):
        delta = np.array([*self.base, *self.qsm])[:p]
        return delta, np.where(np.eye(p) > 0, 1.0, self.correlation)

    def draw(
        self, seed: int, *, people: tuple[int, int], units: int = 1, mixed: bool = False
    ) -> pd.DataFrame:
        """Draw a table of units.

        Parameters
        ----------
        people : (int, int)
            Participants of the negative and of the positive class.
        units : int
            Of each participant; about half to one and a half times as many where it is more than one.
        mixed : bool
            Whether the units of a participant may differ in label; then ``people`` only fixes the share of
            positive units, which varies between participants.

        Returns
        -------
        DataFrame
            Columns participant_id, label ('control' or 'patient'), and the features.
        """
        rng = np.random.default_rng([seed, 26])
        n = sum(people)
        sizes = rng.integers(max(1, units // 2), units + units // 2 + 1, n) if units > 1 else np.ones(n, int)
        person = np.repeat(np.arange(n), sizes)
        share = people[1] / n
        if mixed:
            y = (rng.random(len(person)) < rng.beta(4 * share, 4 * (1 - share), n)[person]).astype(float)
        else:
            y = (person >= people[0]).astype(float)
        delta, sigma = self._moments(len(self.base) + len(self.qsm))
        root = np.linalg.cholesky(sigma).T
        own, of_person = (rng.standard_normal((size, len(delta))) @ root for size in (len(person), n))
        x = np.outer(y, delta) + np.sqrt(self.shared) * of_person[person] + np.sqrt(1 - self.shared) * own
        table = pd.DataFrame({'participant_id': [f'sub-{i + 1:03d}' for i in person]})
        table['label'] = np.where(y > 0, 'patient', 'control')
        return table.join(pd.DataFrame(x, columns=[*self.names[0], *self.names[1]]))
