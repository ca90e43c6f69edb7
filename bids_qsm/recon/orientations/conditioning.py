"""How well several head positions determine susceptibility, from their directions of B0 alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.recon.orientations.operators import COMPONENTS, response

GOOD = 0.10
"""Coverage from which a set of positions needs no regularisation.

Two positions have 0, as their cones of zeros meet; three at 0 and +-25 degrees about one axis have .03, at 0,
25 about x and 25 about y .12.
"""


@dataclass(frozen=True)
class Conditioning:
    """What the directions of B0 determine.

    ``coverage`` is the least root mean square over positions of the dipole kernel, over all directions of k;
    ``noise_gain`` the standard deviation of susceptibility over that of the field of one position;
    ``tensor`` the ratio of the largest to the least singular value of the six components, the median over
    directions of k; infinite where some component is not determined.
    """

    coverage: float
    noise_gain: float
    tensor: float

    @property
    def is_weak(self) -> bool:
        """Whether some spatial frequencies need regularisation."""
        return self.coverage < GOOD


def sphere(n: int):
    """Directions (n, 3), evenly spread over the unit sphere along a spiral."""
    i = np.arange(n) + 0.5
    z = 1 - 2 * i / n
    turn = np.pi * (1 + 5**0.5) * i
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], -1)


def strength(directions: Sequence[Sequence[float]] | np.ndarray, k: np.ndarray):
    r"""Root mean square of the dipole kernel over positions, for unit vectors ``k`` (n, 3).

    .. math:: \sqrt{\tfrac{1}{N} \sum_i (1/3 - (k \cdot h_i)^2)^2}
    """
    return np.sqrt(np.square(1 / 3 - (k @ np.asarray(directions, float).T) ** 2).mean(1))


def conditioning(directions: Sequence[Sequence[float]] | np.ndarray, *, n_points: int = 20_000):
    r"""How well positions determine susceptibility [1]_ and its tensor [2]_.

    With :math:`D_i(k) = 1/3 - (k \cdot h_i)^2` for unit vectors k, the coverage is
    :math:`\min_k \sqrt{\sum_i D_i^2 / N}` and the noise gain :math:`\sqrt{\langle 1 / \sum_i D_i^2 \rangle}`.

    Parameters
    ----------
    directions : (N, 3)
        Unit vectors of B0 in the frame of the head.
    n_points : int
        Directions of k on the sphere.

    Returns
    -------
    Conditioning

    References
    ----------
    .. [1] Liu et al. (2009), MRM 61:196. doi:10.1002/mrm.21828
    .. [2] Liu (2010), MRM 63:1471. doi:10.1002/mrm.22482
    """
    h = np.asarray(directions, float)
    k = sphere(n_points)
    rms = strength(h, k)
    gain = np.sqrt(np.mean(1 / np.maximum(len(h) * rms**2, 1e-12)))
    k = sphere(n_points // 10)
    products = np.stack([k[:, a] * k[:, b] for a, b in COMPONENTS])
    rows = np.stack(
        [np.stack([*response(products, one)], -1) for one in h], 1
    )  # direction, position, component
    # in the basis where the sum of squares of components is the norm of the tensor
    scale = np.array([1.0 if a == b else 0.5**0.5 for a, b in COMPONENTS])
    values = np.linalg.svd(rows * scale, compute_uv=False)
    is_known = values.shape[1] == len(COMPONENTS) and values[:, -1].min() > 1e-6 * values.max()
    tensor = np.median(values[:, 0] / values[:, -1]) if is_known else np.inf
    return Conditioning(float(rms.min()), float(gain), float(tensor))
