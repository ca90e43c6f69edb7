"""Myelin by the beat of water in the sheath of fibres whose direction is known."""

import numpy as np

from bids_qsm.biomarkers.separation.posterior import ALIGNED
from bids_qsm.biomarkers.separation.sources import FITS_WITHIN, Sources
from bids_qsm.errors import UserError
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import Need, method
from bids_qsm.recon.units import ppm_per_radian

ISOTROPIC, ANISOTROPIC, EXCHANGE, G_RATIO = -0.06, -0.10, 0.02, 0.7
"""Susceptibility of the sheath (ppm), exchange (ppm), and inner over outer radius [1]_."""
AXONS = 0.6
"""Share of the axons in the water outside the sheath; an assumption."""
SHEATH_DECAY = 80.0
"""By how much faster (1/s at 3 T) water in the sheath decays."""
PER_WATER = 0.038 / 0.12
"""Diamagnetic susceptibility (ppm) that goes with a share of water in the sheath."""
SHARES = np.linspace(0, 0.3, 16)
FIBROUS = 0.25
"""Fractional anisotropy from which on a voxel is fitted."""


@method(
    memory=Need(volume=40, echoes=4),
    prose="a hollow-cylinder model of fibres whose directions diffusion gave [@wharton2012], with R2'",
)
def hollowcylinder(
    chi: np.ndarray,
    r2prime: np.ndarray,
    echoes: np.ndarray,
    echo_times: list,
    cosine: np.ndarray | None,
    fa: np.ndarray | None,
    mask: np.ndarray,
    chi_noise: float,
    rate_noise: float,
    scale: float,
    *,
    relaxivity: float = 137.0,
    ratio: float = 1.0,
):
    r"""Separate sources by susceptibility, R2', and the share of water f in the sheath of fibres.

    The magnitude of the echoes of white matter is fitted by [1]_

    .. math:: |S(t)| = S_0 e^{-R t} |(1 - f) (a e^{i \omega_a t} + 1 - a) + f e^{-R_m t + i \omega_m t}|

    whose frequencies follow from the fibre's angle to B0, see `beat`. Then

    .. math:: \min_{\chi_+, |\chi_-| \ge 0} \frac{(\chi_+ - |\chi_-| - \chi)^2}{\sigma_\chi^2}
        + \frac{(D_+ \chi_+ + D_-(\theta) |\chi_-| - R_2')^2}{\sigma_R^2}
        + \frac{(|\chi_-| - .32 f)^2}{.32^2 \sigma_f^2}

    with :math:`D_-(\theta)` as the squared sine, that of cylinders; the last term is that of white matter.

    Departures from the method that others call hollow-cylinder chi-separation: angles are those of diffusion
    and are not fitted; both sources have least squares, where theirs scales the paramagnetic one by .7.

    Data and result as :mod:`bids_qsm.biomarkers.separation.methods` has them.

    Raises
    ------
    UserError
        There are no directions of fibres.

    References
    ----------
    .. [1] Wharton & Bowtell (2012), PNAS 109:18559. doi:10.1073/pnas.1211075109
    """
    if cosine is None or fa is None:
        raise UserError(
            'The method hollowcylinder takes directions of fibres (maps of FA and V1, or of a tensor), and '
            'there are none; give their derivatives, or choose another method, such as method=posterior.'
        )
    amount, spread = np.zeros(chi.shape), np.full(chi.shape, np.inf)
    white = mask & (fa > FIBROUS)
    if white.any():
        share, sd = _share(echoes[white], np.array(echo_times), 1 - cosine[white], 3 * scale, echoes, mask)
        amount[white], spread[white] = PER_WATER * share, PER_WATER * sd
    turned = 1 - 1.5 * np.minimum(np.nan_to_num(fa) / ALIGNED, 1) * (cosine - 1 / 3)
    kernel = relaxivity * scale, relaxivity * scale * ratio
    noise = chi_noise, rate_noise
    para, dia = _least_squares(chi, r2prime, amount, spread, kernel[0], kernel[1] * turned, noise)
    more = 1.1 * kernel[0], 1.1 * kernel[1] * turned
    moved = _least_squares(chi, r2prime, amount, spread, *more, noise)
    off = kernel[0] * para + kernel[1] * turned * dia - r2prime
    fits = mask & (np.abs(off) < FITS_WITHIN * rate_noise)
    maps = (para, -dia, moved[0] - para, dia - moved[1])
    para, dia, by_para, by_dia = (np.where(mask, one, 0).astype(np.float32) for one in maps)
    return Sources(para, dia, fits, by_para, by_dia, kernel)


def beat(share: float | np.ndarray, times: np.ndarray, sine: np.ndarray, field_strength: float):
    r"""Signal of fibres over that of the slow decay of their water, (n, echoes), complex.

    .. math:: \omega_a = \tfrac{3}{4} \gamma B_0 \chi_A \sin^2\theta \ln(1/g), \quad
        \omega_m = \gamma B_0 (\tfrac{\chi_I}{2} (\tfrac{2}{3} - \sin^2\theta)
        + \tfrac{\chi_A}{2} (c \sin^2\theta - \tfrac{1}{3}) + E)

    with :math:`c = 1/4 - \tfrac{3}{2} \tfrac{g^2}{1 - g^2} \ln(1/g)`. ``sine`` is squared.
    """
    per_ppm = 1 / ppm_per_radian(field_strength)
    log = np.log(1 / G_RATIO)
    c = 0.25 - 1.5 * G_RATIO**2 / (1 - G_RATIO**2) * log
    axon = 0.75 * ANISOTROPIC * sine * log
    sheath = ISOTROPIC / 2 * (2 / 3 - sine) + ANISOTROPIC / 2 * (c * sine - 1 / 3) + EXCHANGE
    turn = 1j * per_ppm * times
    slow = AXONS * np.exp(turn * axon[:, None]) + 1 - AXONS
    decay = np.exp(-SHEATH_DECAY * field_strength / 3 * times)
    share = np.asarray(share, float).reshape(-1, 1)
    return (1 - share) * slow + share * decay * np.exp(turn * sheath[:, None])


def _share(
    signal: np.ndarray,
    times: np.ndarray,
    sine: np.ndarray,
    field_strength: float,
    echoes: np.ndarray,
    mask: np.ndarray,
):
    """Share of water in the sheath and its standard deviation, of voxels (n, echoes)."""
    signal = np.maximum(signal.astype(float), 1e-3 * signal.max())
    weight = signal**2
    total, mean = weight.sum(1), (weight * times).sum(1) / weight.sum(1)
    away = times - mean[:, None]
    squares = (weight * away**2).sum(1)
    cost = []
    for share in SHARES:
        level = np.log(signal) - np.log(np.abs(beat(share, times, sine, field_strength)))
        level -= ((weight * level).sum(1) / total)[:, None]
        level -= away * ((weight * level * away).sum(1) / squares)[:, None]
        cost.append((weight * level**2).sum(1))
    costs, step = np.array(cost), SHARES[1]
    best = np.clip(costs.argmin(0), 1, len(SHARES) - 2)
    low, here, high = (np.take_along_axis(costs, (best + k)[None], 0)[0] for k in (-1, 0, 1))
    bend = np.maximum((low - 2 * here + high) / step**2, 1e-12)
    found = SHARES[best] - (high - low) / (2 * step) / bend
    sigma = float(noise_level(echoes, mask))
    return np.clip(found, 0, SHARES[-1]), sigma * np.sqrt(2 / bend)


def _least_squares(
    chi: np.ndarray,
    rate: np.ndarray,
    amount: np.ndarray,
    spread: np.ndarray,
    para: float,
    dia: np.ndarray,
    noise: tuple[float, float],
):
    """Both sources, 0 or more (ppm), that suit susceptibility, R2' and an expected diamagnetic one best."""
    a, b, c = 1 / noise[0] ** 2, 1 / noise[1] ** 2, 1 / spread**2
    a11, a12, a22 = a + para**2 * b, para * dia * b - a, a + dia**2 * b + c
    first, second = a * chi + para * b * rate, -a * chi + dia * b * rate + c * amount
    det = a11 * a22 - a12**2
    iron, myelin = (a22 * first - a12 * second) / det, (a11 * second - a12 * first) / det
    # on a bound the other source alone has the least squares
    lone = np.maximum(first / a11, 0), np.maximum(second / a22, 0)
    return (
        np.where(iron < 0, 0, np.where(myelin < 0, lone[0], iron)),
        np.where(myelin < 0, 0, np.where(iron < 0, lone[1], myelin)),
    )
