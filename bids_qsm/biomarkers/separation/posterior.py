"""Most probable sources of each voxel, with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from scipy import ndimage

from bids_qsm.biomarkers.separation.calibration import VARIES, WHITE, Calibration, Data, calibrate
from bids_qsm.biomarkers.separation.sources import laid
from bids_qsm.biomarkers.separation.tissues import ZONES

UNIT = 0.005
"""Susceptibility (ppm) that the solver counts in."""
LIKE_MM = 0.5
"""Blur (mm, standard deviation) of the maps that tell a voxel's tissue."""
SMOOTHNESS = 0.15, 0.45
"""Weights of total variation of both sources: myelin has fewer fine details than iron and small vessels."""
FOREIGN = 0.3
"""Probability of no tissue from which on a voxel holds blood or calcium."""
DISPLACES = 0.4
"""Difference of susceptibility (ppm) to tissue of a voxel that is all blood or calcium; with less, tissue has
the rest of the voxel."""
AROUND_MM = 1.5
"""Blur of the tissue around blood or calcium, which is taken for that of the voxel."""
HARDLY = 1e-3
"""Weight of what is expected of a place beside the blurred tissue around blood or calcium: it counts alone in
the middle of a large bleed."""
ALIGNED = 0.7
"""Fractional anisotropy of fibres of one direction."""
_STEP = np.float32(0.28)  # below 1 / sqrt(12), the norm of the gradient


@dataclass(frozen=True)
class Separated:
    """Maps of sources (ppm), zero outside the mask.

    Attributes
    ----------
    para, dia : ndarray of float32
        Paramagnetic (0 or more) and diamagnetic (0 or less) susceptibility.
    para_sd, dia_sd : ndarray of float32
        Their standard deviations.
    fits : ndarray of bool
        Where the two sources of a tissue describe the voxel; not in vessels, bleeds and calcium.
    para_change, dia_change : ndarray of float32
        What both sources would change by, were the paramagnetic relaxivity higher by a tenth and the
        diamagnetic one in proportion.
    calibration : Calibration
    """

    para: np.ndarray
    dia: np.ndarray
    para_sd: np.ndarray
    dia_sd: np.ndarray
    fits: np.ndarray
    para_change: np.ndarray
    dia_change: np.ndarray
    calibration: Calibration


def separate(
    chi: np.ndarray,
    rate: np.ndarray,
    mask: np.ndarray,
    zone: np.ndarray,
    *,
    chi_noise: float,
    rate_noise: float,
    voxel_size: Sequence[float],
    reversible: bool = True,
    scale: float = 1.0,
    smooth_error: float = 0.0,
    calibration: Calibration | None = None,
    cosine: np.ndarray | None = None,
    fa: np.ndarray | None = None,
    smoothness: tuple[float, float] = SMOOTHNESS,
    iterations: int = 60,
):
    r"""Separate susceptibility into sources: maximum a posteriori, with total variation of both.

    .. math:: \min_{\chi_+ \ge 0, |\chi_-| \ge 0}
        \frac{(\chi_+ - |\chi_-| + \chi_0 - \chi)^2}{2 \sigma_\chi^2}
        + \frac{(D_+ \chi_+ + D_- |\chi_-| - R_2')^2}{2 \sigma_R^2}
        + \sum_t \gamma_t P_t(\chi_+, |\chi_-|) + \lambda_+ |\nabla \chi_+| + \lambda_- |\nabla \chi_-|

    summed over voxels. :math:`\gamma_t` is the probability of each tissue and :math:`P_t` its prior, see
    `calibrate`; :math:`\sigma_R` holds noise and 12 % of R2', which relaxivity varies by. The weights of
    total variation are ``smoothness`` over the standard deviation of the source without it. It is solved by
    the primal-dual method [1]_. Blood and calcium, which no tissue explains, are of one kind each and
    displace the tissue of their voxel, for which that around them is taken, or in the middle of a large bleed
    what is expected of the zone.

    The standard deviations are those of the quadratic terms (Laplace), of relaxivities and zero, and of the
    smooth error of susceptibility, which acts as another zero in each place. Blood and calcium come from
    susceptibility alone: their variance is that of its noise, of the zero, of the smooth error and of the
    tissue that is left, and no relaxivity changes them.

    Parameters
    ----------
    chi, rate : ndarray of float32, shape (x, y, z)
        Susceptibility (ppm); R2', or R2* where ``reversible`` is False (1/s), may be negative.
    mask : ndarray of bool
    zone : ndarray of uint8
        See `tissues.zones`.
    chi_noise, rate_noise : float
        Standard deviations of the two maps.
    voxel_size : sequence of float
        (mm).
    scale : float
        Field strength over 3 T.
    smooth_error : float
        Standard deviation (ppm) of what is wrong with susceptibility over longer ways than its noise, as the
        inversion leaves it. Only standard deviations count it.
    calibration : Calibration, optional
        That of this person, if it is known.
    cosine, fa : ndarray of float32, shape (x, y, z), optional
        Squared cosine of the fibre's angle to B0, and fractional anisotropy, NaN where it is not known:
        :math:`D_-` and the prior of :math:`|\chi_-|` of white matter then depend on the angle, and anisotropy
        tells tissues too.

    Returns
    -------
    Separated

    References
    ----------
    .. [1] Chambolle & Pock (2011), J Math Imaging Vis 40:120. doi:10.1007/s10851-010-0251-1
    """
    facts = chi_noise, rate_noise, reversible, scale
    of_fibres: tuple[np.ndarray, ...] = ()
    if cosine is not None and fa is not None:
        aligned = np.minimum(np.nan_to_num(fa[mask]) / ALIGNED, 1)
        of_fibres = aligned * (cosine[mask] - np.float32(1 / 3)), fa[mask]
    data = Data(chi[mask], rate[mask], *facts, *of_fibres)
    if calibration is None:
        calibration = calibrate(data, zone[mask])

    def blurred(image: np.ndarray, mm: float):
        smooth = ndimage.gaussian_filter(image.astype(np.float32), [mm / v for v in voxel_size])
        return smooth[mask]

    inside = blurred(mask, LIKE_MM)
    even_chi, even_rate = (blurred(np.where(mask, one, 0), LIKE_MM) / inside for one in (chi, rate))
    even = Data(even_chi, even_rate, *facts, *of_fibres)
    share = calibration.shares(even, zone[mask], less_noise=2.0)
    foreign = share[-1] > FOREIGN
    share = share[:-1]
    if foreign.any():
        expected = np.array([*ZONES.values()])[zone[mask], :-1].T
        around = [blurred(laid(np.where(foreign, 0, one), mask), AROUND_MM)[foreign] for one in share]
        share[:, foreign] = around + HARDLY * expected[:, foreign]
    share = share / share.sum(0)
    system = _System(data, even_rate, share, foreign, calibration)
    weights = np.array(smoothness)[:, None] / system.sd
    fields = [laid(v, mask) for v in (*system.matrix, *system.right, *weights)]
    amounts = _solve(*fields, mask, iterations)
    para, dia = (np.where(mask, UNIT * a, 0).astype(np.float32) for a in amounts)
    moves = system.moves(para[mask], dia[mask])
    fits = np.zeros(mask.shape, bool)
    fits[mask] = ~foreign & (system.misfit(para[mask], dia[mask]) < 3)
    para[mask], dia[mask] = system.displaced(para[mask], dia[mask])
    sd = system.uncertainty(para[mask], dia[mask], moves, smooth_error)
    tenth = np.log(1.1) * UNIT * moves[0]
    para_sd, dia_sd, by_para, by_dia = (laid(one, mask) for one in (*sd, tenth[0], -tenth[1]))
    return Separated(para, -dia, para_sd, dia_sd, fits, by_para, by_dia, calibration)


class _System:
    """Quadratic terms of each voxel: matrix (a11, a12, a22) and right side, in units of `UNIT`."""

    def __init__(
        self,
        data: Data,
        even_rate: np.ndarray,
        share: np.ndarray,
        foreign: np.ndarray,
        calibration: Calibration,
    ):
        self.foreign = foreign
        self.data, self.calibration = data, calibration
        para: float = calibration.para
        dia: float | np.ndarray = calibration.dia
        added: float | np.ndarray = 0.0
        if data.angle is not None:
            factor, added = calibration.by_angle(data.angle)
            dia = (dia * (1 + share[WHITE] * (factor - 1))).astype(np.float32)
        self.para, self.dia = para, dia
        self.chi = data.chi - np.float32(calibration.shift)
        self.rate = data.rate.astype(np.float32)
        variance = np.float32(data.rate_noise**2)
        reversible = np.maximum(even_rate, 0)
        if not data.reversible:
            own, spread = calibration.means[:, 2], calibration.spreads[:, 2]
            base = own @ share
            variance = variance + (spread**2 + own**2) @ share - base**2
            self.rate = self.rate - base
            reversible = np.maximum(even_rate - base, 0)
        self.variance = variance + (VARIES * reversible) ** 2
        self.chi_variance = data.chi_noise**2
        precision = [1 / calibration.spreads[:, k] ** 2 for k in (0, 1)]
        held = [p @ share for p in precision]
        drawn = [(p * calibration.means[:, k]) @ share for k, p in enumerate(precision)]
        drawn[1] = drawn[1] + precision[1][WHITE] * share[WHITE] * added
        # what is foreign says nothing of the tissue in the same voxel
        a, b = (
            np.where(foreign, 0, 1 / one).astype(np.float32) for one in (self.chi_variance, self.variance)
        )
        self.weights = a, b
        square = UNIT**2
        self.matrix = (
            square * (a + para**2 * b + held[0]),
            square * (para * dia * b - a),
            square * (a + dia**2 * b + held[1]),
        )
        self.right = (
            UNIT * (self.chi * a + para * self.rate * b + drawn[0]),
            UNIT * (dia * self.rate * b - self.chi * a + drawn[1]),
        )
        a11, a12, a22 = self.matrix
        self.determinant = a11 * a22 - a12**2
        self.sd = np.sqrt(np.stack([a22, a11]) / self.determinant)

    def displaced(self, para: np.ndarray, dia: np.ndarray):
        """Both sources with blood and calcium, which displace tissue and are of one kind."""
        excess = self.chi - (para - dia)
        left = 1 - np.minimum(np.abs(excess) / DISPLACES, 1)
        iron = np.where(excess > 0, np.maximum(self.chi + left * dia, 0), left * para)
        myelin = np.where(excess > 0, left * dia, np.maximum(left * para - self.chi, 0))
        return np.where(self.foreign, iron, para), np.where(self.foreign, myelin, dia)

    def misfit(self, para: np.ndarray, dia: np.ndarray):
        """Largest deviation of the two maps, in standard deviations."""
        first = (para - dia - self.chi) / np.sqrt(self.chi_variance)
        second = (self.para * para + self.dia * dia - self.rate) / np.sqrt(self.variance)
        return np.maximum(np.abs(first), np.abs(second))

    def moves(self, para: np.ndarray, dia: np.ndarray):
        """Change of both sources (`UNIT`) by log D+, by log D-/D+ and by the zero, shape (3, 2, voxels)."""
        a, b = (UNIT * one for one in self.weights)
        strong, weak = self.para * para, self.dia * dia
        lead = self.rate - strong - weak
        # derivatives of the right side less the matrix times the sources
        rights = (
            (b * self.para * (lead - strong - weak), b * self.dia * (lead - strong - weak)),
            (-b * self.para * weak, b * self.dia * (lead - weak)),
            (-a, a),
        )
        a11, a12, a22 = self.matrix
        solved = [(a22 * first - a12 * second, a11 * second - a12 * first) for first, second in rights]
        return np.array(solved) / self.determinant

    def uncertainty(self, para: np.ndarray, dia: np.ndarray, moves: np.ndarray, smooth_error: float):
        """Standard deviations (ppm), shape (2, voxels), with those of relaxivities, zero and smooth error."""
        spread = np.einsum('ikv,ij,jkv->kv', moves, self.calibration.covariance, moves)
        spread += (smooth_error * moves[2]) ** 2
        variance = UNIT**2 * (self.sd**2 + np.maximum(spread, 0))
        lone = self.chi_variance + self.calibration.covariance[2, 2] + smooth_error**2
        bleed = self.foreign & (para > dia)
        calcium = self.foreign & ~bleed
        # what is left of the tissue has the spread of tissues
        variance[0, bleed] = lone + variance[1, bleed]
        variance[1, calcium] = lone + variance[0, calcium]
        return np.sqrt(variance).astype(np.float32)


@njit(cache=True, parallel=True)
def _solve(
    a11: np.ndarray,
    a12: np.ndarray,
    a22: np.ndarray,
    b1: np.ndarray,
    b2: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    mask: np.ndarray,
    iterations: int,
):
    """Minimise u'Au / 2 - b'u + TV weighted by ``first`` and ``second``, u >= 0; u has two volumes."""
    shape = mask.shape
    u = np.zeros((2, shape[0], shape[1], shape[2]), np.float32)
    ahead = np.zeros((2, shape[0], shape[1], shape[2]), np.float32)
    dual = np.zeros((2, 3, shape[0], shape[1], shape[2]), np.float32)
    zero, one, step = np.float32(0), np.float32(1), _STEP
    for i in prange(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                if mask[i, j, k]:
                    det = a11[i, j, k] * a22[i, j, k] - a12[i, j, k] ** 2
                    u[0, i, j, k] = max((a22[i, j, k] * b1[i, j, k] - a12[i, j, k] * b2[i, j, k]) / det, zero)
                    u[1, i, j, k] = max((a11[i, j, k] * b2[i, j, k] - a12[i, j, k] * b1[i, j, k]) / det, zero)
                    ahead[0, i, j, k], ahead[1, i, j, k] = u[0, i, j, k], u[1, i, j, k]
    for _ in range(iterations):
        for i in prange(shape[0]):
            for j in range(shape[1]):
                for k in range(shape[2]):
                    if not mask[i, j, k]:
                        continue
                    for c in range(2):
                        limit = first[i, j, k] if c == 0 else second[i, j, k]
                        x = y = z = zero
                        here = ahead[c, i, j, k]
                        if i + 1 < shape[0] and mask[i + 1, j, k]:
                            x = ahead[c, i + 1, j, k] - here
                        if j + 1 < shape[1] and mask[i, j + 1, k]:
                            y = ahead[c, i, j + 1, k] - here
                        if k + 1 < shape[2] and mask[i, j, k + 1]:
                            z = ahead[c, i, j, k + 1] - here
                        x = dual[c, 0, i, j, k] + step * x
                        y = dual[c, 1, i, j, k] + step * y
                        z = dual[c, 2, i, j, k] + step * z
                        size = np.sqrt(x * x + y * y + z * z)
                        kept = limit / size if size > limit else one
                        dual[c, 0, i, j, k] = kept * x
                        dual[c, 1, i, j, k] = kept * y
                        dual[c, 2, i, j, k] = kept * z
        for i in prange(shape[0]):
            for j in range(shape[1]):
                for k in range(shape[2]):
                    if not mask[i, j, k]:
                        continue
                    p, n = u[0, i, j, k], u[1, i, j, k]
                    x = p + step * (_divergence(dual[0], i, j, k) + b1[i, j, k])
                    y = n + step * (_divergence(dual[1], i, j, k) + b2[i, j, k])
                    one1, both = one + step * a11[i, j, k], step * a12[i, j, k]
                    one2 = one + step * a22[i, j, k]
                    det = one1 * one2 - both * both
                    u[0, i, j, k] = (one2 * x - both * y) / det
                    u[1, i, j, k] = (one1 * y - both * x) / det
                    # on a bound the other source alone has the least squares
                    if u[0, i, j, k] < 0:
                        u[0, i, j, k], u[1, i, j, k] = zero, max(y / one2, zero)
                    elif u[1, i, j, k] < 0:
                        u[1, i, j, k], u[0, i, j, k] = zero, max(x / one1, zero)
                    ahead[0, i, j, k] = 2 * u[0, i, j, k] - p
                    ahead[1, i, j, k] = 2 * u[1, i, j, k] - n
    return u


@njit(cache=True)
def _divergence(dual: np.ndarray, i: int, j: int, k: int):
    out = dual[0, i, j, k] + dual[1, i, j, k] + dual[2, i, j, k]
    if i > 0:
        out -= dual[0, i - 1, j, k]
    if j > 0:
        out -= dual[1, i, j - 1, k]
    if k > 0:
        out -= dual[2, i, j, k - 1]
    return out
