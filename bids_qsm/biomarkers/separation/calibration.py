"""Relaxivity of the sources, and the zero of susceptibility, from the maps of a person."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from bids_qsm.biomarkers.separation.tissues import FA, FLUID, FLUID_CHI, TISSUES, ZONES, table
from bids_qsm.errors import UserError

RELAXIVITY = (190.0, 0.45)
"""Paramagnetic relaxivity before the scan, at 3 T (1/s/ppm): median, and spread of its logarithm. Published
values are 114 to 323: Shin et al. (2021), doi:10.1016/j.neuroimage.2021.118371; static dephasing."""
RATIO = (0.8, 0.6)
"""Diamagnetic over paramagnetic relaxivity: median, and spread of its logarithm."""
SHIFT = 0.02
"""Spread (ppm) of the susceptibility of tissue without sources in the map's reference."""
VARIES = 0.12
"""Relative spread of relaxivity between places of a person; an assumption."""
SPREADS = 0.5
"""Spread of the logarithm of a factor on the standard deviations within each tissue but fluid."""
TURNED = (0.4, 0.2)
"""Share of the relaxation by myelin that depends on the fibre's angle to B0: mean, spread; an assumption."""
ANISOTROPY = (0.015, 0.008)
"""By how much (ppm) white matter has more susceptibility along fibres than across: mean, spread; an
assumption, within the .005 to .032 of published tracts."""
SAMPLE, WEIGHT = 1500, 5.0
"""Voxels drawn of each zone, and how many independent ones they count as: people differ from `TISSUES` in
ways that the model does not know, so that more voxels do not tell more."""
_BROAD = np.log(1 / 120.0)
_FREE = 3
WHITE = [*TISSUES].index('white matter')


@dataclass(frozen=True)
class Data:
    """Two maps of a voxel, as vectors over the voxels of the mask.

    Attributes
    ----------
    chi : ndarray of float32
        Susceptibility (ppm), any zero.
    rate : ndarray of float32
        R2', or R2* where ``reversible`` is False (1/s).
    chi_noise, rate_noise : float
        Standard deviations.
    reversible : bool
    scale : float
        Field strength over 3 T.
    angle : ndarray of float32, optional
        Squared cosine of the fibre's angle to B0 less 1/3, times how much the fibres of a voxel have one
        direction (0 to 1).
    fa : ndarray of float32, optional
        Fractional anisotropy, which goes with ``angle``; NaN where it is not known.
    """

    chi: np.ndarray
    rate: np.ndarray
    chi_noise: float
    rate_noise: float
    reversible: bool = True
    scale: float = 1.0
    angle: np.ndarray | None = None
    fa: np.ndarray | None = None


@dataclass(frozen=True)
class Calibration:
    """What holds for all voxels of a person.

    Attributes
    ----------
    para, dia : float
        Relaxivities (1/s/ppm).
    shift : float
        Susceptibility of tissue without sources in the map (ppm).
    means : ndarray, shape (tissues, 3)
        Paramagnetic and diamagnetic susceptibility (ppm, both positive) and R2 (1/s) of tissues.
    spreads : ndarray, shape (tissues, 3)
        Standard deviations of these within tissues.
    covariance : ndarray, shape (3, 3)
        Of the logarithms of ``para`` and of ``dia`` over ``para``, and of ``shift``.
    turned : float
        Share of ``dia`` of white matter that depends on the fibre's angle to B0, as its squared sine.
    anisotropy : float
        Of susceptibility of white matter, along fibres less across (ppm).
    angle_sd : tuple of float
        Standard deviations of ``turned`` and ``anisotropy``.
    """

    para: float
    dia: float
    shift: float
    means: np.ndarray
    spreads: np.ndarray
    covariance: np.ndarray
    turned: float = 0.0
    anisotropy: float = 0.0
    angle_sd: tuple[float, float] = (0.0, 0.0)

    def by_angle(self, angle: np.ndarray):
        """Factor on ``dia`` of white matter at an angle (`Data.angle`), and what its mean has more (ppm)."""
        return np.maximum(1 - 1.5 * self.turned * angle, 0.05), -self.anisotropy * angle

    def densities(self, data: Data, *, less_noise: float = 1.0):
        """Logarithm of the density of each voxel, shape (tissues + 1, voxels); the last is for none."""
        para, dia, rate = (one[:, None] for one in self.spreads.T)
        iron, myelin, slow = (one[:, None] for one in self.means.T)
        kernel: float | np.ndarray = self.dia
        if data.angle is not None:
            size = len(self.means), len(data.chi)
            kernel, myelin = np.full(size, self.dia), np.broadcast_to(myelin, size).copy()
            factor, added = self.by_angle(data.angle)
            kernel[WHITE] *= factor
            myelin[WHITE] += added
        noise = data.chi_noise / less_noise, data.rate_noise / less_noise
        v1 = para**2 + dia**2 + noise[0] ** 2
        v2 = (self.para * para) ** 2 + (kernel * dia) ** 2 + noise[1] ** 2
        v2 = v2 + (VARIES * self.para * iron) ** 2 + (VARIES * kernel * myelin) ** 2
        both = self.para * para**2 - kernel * dia**2
        v1[FLUID], both[FLUID] = FLUID_CHI**2 + noise[0] ** 2, 0.0
        v2[FLUID] = noise[1] ** 2 + 0.5**2
        base: float | np.ndarray = 0.0
        if not data.reversible:
            base, v2 = slow, v2 + rate**2
        a = data.chi - (iron - myelin + self.shift)
        b = data.rate - (base + self.para * iron + kernel * myelin)
        det = v1 * v2 - both**2
        found = np.empty((len(self.means) + 1, len(data.chi)))
        found[:-1] = (-0.5 * v2 / det) * a * a + (both / det) * a * b - (0.5 * v1 / det) * b * b
        found[:-1] -= 0.5 * np.log(det) + np.log(2 * np.pi)
        found[-1] = _BROAD
        if data.fa is not None:
            mean, spread = (np.array(one)[:, None] for one in zip(*FA.values(), strict=True))
            known = np.isfinite(data.fa)
            of_fa = 0.5 * ((np.where(known, data.fa, 0) - mean) / spread) ** 2 + np.log(spread)
            found[:-1] -= np.where(known, of_fa, 0)
            found[-1] -= np.where(known, np.log(spread.mean()), 0)
        return found

    def shares(self, data: Data, zone: np.ndarray, *, less_noise: float = 1.0):
        """Probability of each tissue, and last of none of them, shape (tissues + 1, voxels)."""
        found = self.densities(data, less_noise=less_noise)
        found += np.log(np.array([*ZONES.values()]))[zone].T
        found -= found.max(0)
        np.exp(found, found)
        found /= found.sum(0)
        return found


def calibrate(data: Data, zone: np.ndarray):
    r"""Estimate the relaxivities and the zero of susceptibility of a person.

    Each voxel belongs to a tissue, whose sources :math:`(\chi_+, |\chi_-|)` are normally distributed, and

    .. math:: \chi = \chi_+ - |\chi_-| + \chi_0 + \epsilon, \quad
              R_2' = D_+ \chi_+ + D_- |\chi_-| + \epsilon'

    The most probable :math:`D_+, D_-, \chi_0`, means and spreads of the tissues are found together, given
    what is known before (`tissues.TISSUES`, `RELAXIVITY`, `RATIO`, `SHIFT`). Iron-rich nuclei, which have few
    diamagnetic sources, tell :math:`D_+`; the contrast of white and grey matter tells the rest.

    Parameters
    ----------
    data : Data
    zone : ndarray of int
        Index into `tissues.ZONES`, of each voxel.

    Returns
    -------
    Calibration

    Raises
    ------
    UserError
        There are too few voxels.
    """
    rng = np.random.default_rng(0)
    drawn, parts, start = [], [], 0
    for number, expected in enumerate(ZONES.values()):
        at = np.flatnonzero(zone == number)
        if len(at) >= 100:
            drawn.append(rng.choice(at, min(SAMPLE, len(at)), replace=False))
            parts.append((slice(start, start + len(drawn[-1])), np.array(expected)[:, None]))
            start += len(drawn[-1])
    if not drawn:
        raise UserError('there are too few voxels with susceptibility and relaxation to separate sources.')
    sample = _take(data, np.concatenate(drawn))
    first, uncertain, spreads = (
        np.stack([table(k, data.scale)[:, n] for k in range(3)], 1) for n in range(3)
    )
    free = uncertain > 0
    if data.reversible:
        free[:, 2] = False

    end = _FREE + FLUID + int(free.sum())

    def unpack(x: np.ndarray, covariance: np.ndarray):
        means = first.copy()
        means[free] += uncertain[free] * x[_FREE + FLUID : end]
        wide = np.ones((len(means), 1))
        wide[:FLUID, 0] = np.exp(SPREADS * x[_FREE : _FREE + FLUID])
        para = np.exp(x[0]) * data.scale
        means = np.maximum(means, 1e-4)
        turns = (0.0, 0.0)
        if sample.angle is not None:
            turns = tuple(m + sd * one for (m, sd), one in zip((TURNED, ANISOTROPY), x[end:], strict=True))
        return Calibration(para, para * np.exp(x[1]), x[2] * SHIFT, means, wide * spreads, covariance, *turns)

    nothing = np.zeros((3, 3))

    def cost(x: np.ndarray):
        one = unpack(x, nothing)
        before = ((x[0] - np.log(RELAXIVITY[0])) / RELAXIVITY[1]) ** 2
        before += ((x[1] - np.log(RATIO[0])) / RATIO[1]) ** 2 + (x[2:] ** 2).sum()
        found = one.densities(sample)
        top = found.max(0)
        np.exp(np.subtract(found, top, out=found), out=found)
        total = 0.0
        for part, expected in parts:
            likely, share = found[:, part], expected
            # the shares of this person, drawn towards the expected ones
            for _ in range(2):
                weights = likely * share
                share = 0.8 * (weights / weights.sum(0)).mean(1, keepdims=True) + 0.2 * expected
            total += (np.log((likely * share).sum(0)) + top[part]).mean()
        return 0.5 * before - WEIGHT * total

    begin = np.zeros(end if sample.angle is None else end + 2)
    begin[1] = np.log(RATIO[0])
    found = []
    for para in (130.0, 280.0):
        begin[0] = np.log(para)
        found.append(optimize.minimize(cost, begin, method='L-BFGS-B', options={'maxiter': 80, 'eps': 1e-4}))
    best = min(found, key=lambda one: one.fun)
    whole = _covariance(cost, best.x)
    covariance = whole[:_FREE, :_FREE]
    covariance[2] *= SHIFT
    covariance[:, 2] *= SHIFT
    one = unpack(best.x, covariance)
    if sample.angle is None:
        return one
    sds = np.sqrt(np.diag(whole)[end:]) * (TURNED[1], ANISOTROPY[1])
    return replace(one, angle_sd=tuple(sds.tolist()))


def _take(data: Data, at: np.ndarray):
    values = data.chi[at].astype(float), data.rate[at].astype(float)
    angle = None if data.angle is None else data.angle[at].astype(float)
    fa = None if data.fa is None else data.fa[at].astype(float)
    return Data(*values, data.chi_noise, data.rate_noise, data.reversible, data.scale, angle, fa)


def _covariance(cost: Callable[[np.ndarray], float], x: np.ndarray, step: float = 0.05):
    """Inverse of the second derivatives of a cost, by finite differences."""
    n = len(x)
    steps = step * np.eye(n)
    middle = cost(x)
    one = np.array([cost(x + d) for d in steps])
    back = np.array([cost(x - d) for d in steps])
    bend = np.diag((one + back - 2 * middle) / step**2)
    for i in range(n):
        for j in range(i):
            both = cost(x + steps[i] + steps[j])
            bend[i, j] = bend[j, i] = (both - one[i] - one[j] + middle) / step**2
    values, vectors = np.linalg.eigh(bend)
    # the prior alone has a curvature of at least one
    return vectors / np.maximum(values, 1.0) @ vectors.T
