"""Oxygen extraction of tissue from the decay of the magnitude and susceptibility together (experimental)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2, vq
from scipy.optimize import least_squares
from scipy.special import j0

from bids_qsm.biomarkers.oxygen import Blood, Constants
from bids_qsm.recon.units import GYROMAGNETIC_RATIO

VENOUS = 0.77
"""Share of the blood of tissue that is venous; as descriptions of the method state it."""
MICRO_HCT = 0.85
"""Haematocrit of small vessels over that of large ones; an assumption."""
PRIORS = {
    'oef_sd': (0.10, 'fraction'),
    'volume': (0.025, 'fraction'),
    'volume_log_sd': (0.5, 'logarithm'),
    'chi': (-0.02, 'ppm'),
    'chi_sd': (0.03, 'ppm'),
    'rate': (15.0, '1/s'),
    'rate_sd': (6.0, '1/s'),
}
"""Assumptions at 3 T, with units: standard deviation of OEF about that of the veins; venous volume (share)
and the standard deviation of its logarithm; susceptibility of tissue without blood; R2."""
SAMPLE = 100_000
"""Voxels that clusters are found from; the others join the nearest."""
_X = np.linspace(0, 60, 2401)
_U, _W = np.polynomial.legendre.leggauss(400)
_U, _W = (_U + 1) / 2, _W / 2
_KERNEL = _W * (2 + _U) * np.sqrt(1 - _U) / (3 * _U**2)
_TABLE = np.array([(_KERNEL * (1 - j0(1.5 * x * _U))).sum() for x in _X])


def rate_scale(field_strength: float):
    """R2 of tissue over that at 3 T: it rises with about the root of the field strength, an assumption.

    >>> [round(float(rate_scale(b0)), 2) for b0 in (1.5, 3.0, 7.0)]
    [0.71, 1.0, 1.53]
    """
    return float(np.sqrt(field_strength / 3))


def priors(field_strength: float):
    """`PRIORS` at a field strength (T)."""
    scale = rate_scale(field_strength)
    return {
        name: (value * scale if units == '1/s' else value, units) for name, (value, units) in PRIORS.items()
    }


def dephasing(x: np.ndarray):
    r"""Exponent of the signal loss by a network of vessels of random direction, over their volume [1]_.

    .. math:: f_s(x) = \frac{1}{3} \int_0^1 (2 + u) \sqrt{1 - u} \, \frac{1 - J_0(1.5 x u)}{u^2} \, du

    It is :math:`0.3 x^2` for small x and :math:`x - 1` for large x.

    References
    ----------
    .. [1] Yablonskiy & Haacke (1994), MRM 32:749. doi:10.1002/mrm.1910320610

    >>> [round(float(dephasing(x)), 3) for x in (0.1, 20.0)]
    [0.003, 19.008]
    """
    x = np.abs(np.asarray(x, float))
    return np.where(x < _X[-1], np.interp(x, _X, _TABLE), x - 1)


@dataclass(frozen=True)
class Tissue:
    """Tissue with blood: extraction, venous volume (share), susceptibility of the rest (ppm), R2 (1/s)."""

    oef: float
    volume: float
    chi: float
    rate: float


def blood_of_tissue(y: float, blood: Blood, constants: Constants):
    """Susceptibility (ppm) of blood of saturation ``y`` in small vessels, less that of water."""
    hct = MICRO_HCT * blood.hct
    return hct * (constants.dchi_do * (1 - y) + constants.dchi_oxy)


def tissue_chi(tissue: Tissue, blood: Blood, constants: Constants):
    """Susceptibility (ppm, less that of water) of tissue: veins, arteries and the rest, by volume."""
    arterial = tissue.volume * (1 / VENOUS - 1)
    venous = blood_of_tissue((1 - tissue.oef) * blood.ya, blood, constants)
    rest = 1 - tissue.volume / VENOUS
    return tissue.volume * venous + arterial * blood_of_tissue(blood.ya, blood, constants) + rest * tissue.chi


def decay(
    tissue: Tissue,
    blood: Blood,
    constants: Constants,
    *,
    echo_times: Sequence[float],
    field_strength: float,
):
    r"""Magnitude over that at echo time zero: irreversible decay, and dephasing by deoxygenated blood [1]_.

    .. math:: |S| / S_0 = e^{-R_2 T} \, e^{-v f_s(\delta\omega T)}, \quad
        \delta\omega = \gamma B_0 (\chi_{blood} - \chi_{rest}) / 3

    References
    ----------
    .. [1] Cho et al. (2018), MRM 80:1595. doi:10.1002/mrm.27135
    """
    times = np.asarray(echo_times, float)
    venous = blood_of_tissue((1 - tissue.oef) * blood.ya, blood, constants)
    shift = GYROMAGNETIC_RATIO * field_strength * 1e-6 * (venous - tissue.chi) / 3
    return np.exp(-tissue.rate * times - tissue.volume * dephasing(shift * times))


def fit_tissue(
    signal: np.ndarray,
    signal_sd: float,
    chi: float,
    chi_sd: float,
    blood: Blood,
    constants: Constants,
    *,
    oef: float,
    echo_times: Sequence[float],
    field_strength: float,
):
    """Fit extraction, volume, susceptibility of the rest and R2 to the decay and susceptibility of tissue.

    Parameters
    ----------
    signal : ndarray, shape (echo,)
        Mean magnitude of a cluster of voxels, and its standard error ``signal_sd`` (same unit).
    chi, chi_sd : float
        Susceptibility less that of water, and its standard error (ppm).
    oef : float
        Extraction of the veins, about which that of tissue is expected.

    Returns
    -------
    tissue : Tissue
    oef_se : float
    """
    size = signal[0]
    prior = {name: value for name, (value, _) in priors(field_strength).items()}
    low, high = [0.02, -7, -0.5, 0, 0.2], [0.95, -1.5, 0.5, 200, 5]
    oef = float(np.clip(oef, low[0], high[0]))

    def residuals(theta: np.ndarray):
        here = Tissue(theta[0], np.exp(theta[1]), theta[2], theta[3])
        made = theta[4] * decay(here, blood, constants, echo_times=echo_times, field_strength=field_strength)
        return np.r_[
            (signal / size - made) * size / signal_sd,
            (chi - tissue_chi(here, blood, constants)) / chi_sd,
            (theta[0] - oef) / prior['oef_sd'],
            (theta[1] - np.log(prior['volume'])) / prior['volume_log_sd'],
            (theta[2] - prior['chi']) / prior['chi_sd'],
            (theta[3] - prior['rate']) / prior['rate_sd'],
        ]

    start = np.array([oef, np.log(prior['volume']), prior['chi'], prior['rate'], 1.1])
    found = least_squares(
        residuals,
        start,
        x_scale=(0.05, 0.2, 0.01, 2.0, 0.05),
        bounds=(low, high),
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=400,
    )
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    best = Tissue(float(found.x[0]), float(np.exp(found.x[1])), float(found.x[2]), float(found.x[3]))
    return best, float(np.sqrt(covariance[0, 0]))


FLOOR = 1e-3
"""Least error of a mean signal, as a share of it: gradients of the field across voxels are not modelled."""


def extraction_map(
    echoes: np.ndarray,
    chi: np.ndarray,
    mask: np.ndarray,
    blood: Blood,
    constants: Constants,
    *,
    oef: float,
    echo_times: Sequence[float],
    field_strength: float,
    chi_sd: float = 0.01,
    clusters: int = 80,
    seed: int = 0,
):
    """Map of extraction: voxels of like decay and susceptibility are fitted together [1]_.

    Parameters
    ----------
    echoes : ndarray, shape (x, y, z, echo)
        Magnitude.
    chi : ndarray, shape (x, y, z)
        Susceptibility less that of water (ppm).
    mask : ndarray of bool
        Tissue without fluid and large veins.
    oef : float
        Extraction of the veins.
    chi_sd : float
        Error of susceptibility that voxels of a cluster share (ppm).
    clusters : int
        Most clusters; each has at least about 50 voxels.
    seed : int
        Of the clustering.

    Returns
    -------
    oef, volume, oef_se : ndarray of float32
        Extraction, venous volume (share) and the standard error of extraction; 0 outside the mask.

    References
    ----------
    .. [1] Cho et al. (2020), MRM 83:844. doi:10.1002/mrm.27967
    """
    used = mask & (echoes > 0).all(-1) & np.isfinite(chi)
    shape = echoes[used].astype(np.float64)
    shape /= np.sqrt((shape**2).sum(1, keepdims=True))
    maps = [np.zeros(mask.shape, np.float32) for _ in range(3)]
    count = min(clusters, len(shape) // 50)
    if count == 0:
        return tuple(maps)
    features = np.c_[shape, chi[used]]
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    rng = np.random.default_rng(seed)
    few = len(features) <= SAMPLE
    sample = features if few else features[rng.choice(len(features), SAMPLE, replace=False)]
    centres, _ = kmeans2(sample, count, minit='++', seed=rng)
    which, _ = vq(features, centres)
    values = chi[used]
    found = np.zeros((3, len(which)), np.float32)
    for number in np.unique(which):
        here = which == number
        mean = shape[here].mean(0)
        spread = shape[here].std(0).mean() / np.sqrt(here.sum())
        tissue, se = fit_tissue(
            mean,
            max(float(spread), FLOOR * float(mean.mean())),
            float(values[here].mean()),
            float(np.hypot(values[here].std() / np.sqrt(here.sum()), chi_sd)),
            blood,
            constants,
            oef=oef,
            echo_times=echo_times,
            field_strength=field_strength,
        )
        found[:, here] = np.array([[tissue.oef], [tissue.volume], [se]])
    for one, data in zip(maps, found, strict=True):
        one[used] = data
    return tuple(maps)
