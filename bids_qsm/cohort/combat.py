"""ComBat: shift and scale of each site, by empirical Bayes over the regions of a map."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bids_qsm.cohort import mixed
from bids_qsm.cohort.observations import patterns

FEWEST_FEATURES = 3
"""Fewest regions that a prior is found over; of fewer, each region has its own estimates."""
LEARNED = 3
"""Fewest units of a site that its shift is learned from."""
SCALED = 10
"""Fewest for its scale too: without a prior, that of fewer units may be far too small, and the units that are
held out would be stretched by as much."""
_REPEATS = 3
"""Fewest observations beyond the first of each participant for a random intercept."""
_STEPS, _CLOSE = 200, 1e-7


@dataclass(frozen=True)
class Combat:
    r"""Site effects of k quantities at s sites: measured = expected + shift + scale * (rest).

    Attributes
    ----------
    values : ndarray, shape (n, k)
        Harmonised: the site's shift is taken away, and the rest is divided by its scale; as they are where
        one site alone has values, NaN where the effect of a site is not known.
    shift, scale : ndarray, shape (s, k)
        After empirical Bayes: shift in the unit of the values, scale as a ratio.
    shift_se, scale_se : ndarray, shape (s, k)
        Their standard errors, with the prior.
    raw_shift, raw_scale : ndarray, shape (s, k)
        Before empirical Bayes.
    raw_shift_se : ndarray, shape (s, k)
        Standard error of ``raw_shift``.
    spread : ndarray, shape (k,)
        Standard deviation about the model, over all sites.
    people : ndarray of int, shape (s, k)
        Participants of the site with a value.
    faults : tuple of str
        Why a quantity has no site effects; empty where it has.
    """

    values: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    shift_se: np.ndarray
    scale_se: np.ndarray
    raw_shift: np.ndarray
    raw_scale: np.ndarray
    raw_shift_se: np.ndarray
    spread: np.ndarray
    people: np.ndarray
    faults: tuple[str, ...]

    @property
    def alone(self) -> np.ndarray:
        """Whether one site alone has values, shape (k,)."""
        return _of_one_site(self.people)


@dataclass
class _Located:
    """What the location model of one quantity gives, over its rows."""

    rest: np.ndarray
    """Measured less expected without the site."""
    shift: np.ndarray
    se: np.ndarray
    spread: float


def combat(
    values: np.ndarray,
    site: np.ndarray,
    participant: np.ndarray,
    covariates: np.ndarray,
    families: Sequence[np.ndarray],
) -> Combat:
    r"""Estimate site effects and take them away, with what covariates explain kept [1]_ [2]_.

    .. math:: y_{ijv} = \alpha_v + x_{ij}^T \beta_v + \gamma_{iv} + \delta_{iv} \epsilon_{ijv}

    for region v, site i and observation j, with :math:`\sum_i n_i \gamma_{iv} = 0`. Shift and scale are drawn
    towards those of the other regions of their family: the prior of :math:`\gamma` is normal, that of
    :math:`\delta^2` inverse gamma, with moments of the family.

    Where participants were measured several times the location model has a random intercept a participant,
    so that those who were at several sites tell most about these. The scale is that of the deviations from
    the expected value, between and within participants; each participant counts once at a site.

    Parameters
    ----------
    values : ndarray, shape (n, k)
        NaN where not measured.
    site, participant : ndarray of int, shape (n,)
        Sites are numbered from 0.
    covariates : ndarray, shape (n, p)
        What is kept, without an intercept; of full rank with the sites (see
        `bids_qsm.cohort.harmonise.check_sites`).
    families : sequence of ndarray of int
        Columns of ``values`` that share a prior, where the same sites have them: shifts are relative to the
        mean over the sites.

    References
    ----------
    .. [1] Johnson et al. (2007), Biostatistics 8:118. doi:10.1093/biostatistics/kxj037
    .. [2] Fortin et al. (2018), NeuroImage 167:104. doi:10.1016/j.neuroimage.2017.11.024
    """
    n, k = values.shape
    sites = int(site.max(initial=-1)) + 1
    shape = (sites, k)
    shift, se, scale = (np.full(shape, np.nan) for _ in range(3))
    spread, people, faults = np.full(k, np.nan), np.zeros(shape, int), [''] * k
    rest, weight = np.full((n, k), np.nan), np.zeros((n, k))
    for rows, columns in patterns(values):
        if not rows.any():
            continue
        own, who = site[rows], participant[rows]
        share = _shares(own, who)
        count = np.bincount(own, share, sites)
        people[:, columns] = count.round().astype(int)[:, None]
        x = _design(own, covariates[rows])
        fault = ''
        if len(set(who)) <= x.shape[1]:
            fault = f'{len(set(who))} participants are too few'
        elif np.linalg.matrix_rank(x) < x.shape[1]:
            fault = 'of those who have it, sites and what is kept cannot be told apart'
        for j in columns:
            found = None if fault else _locate(values[rows, j], own, who, x, share, sites)
            if found is None:
                faults[j] = fault or 'the values do not vary about the model'
                continue
            weight[rows, j], rest[rows, j] = share, found.rest
            shift[:, j], se[:, j], spread[j] = found.shift, found.se, found.spread
    z, gamma = rest / spread, shift / spread
    for i in range(sites):
        here = site == i
        away = np.where(np.isfinite(z[here]), z[here] - gamma[i], 0)
        # in a balanced model without repeats this is the variance about the mean of the site
        moved = away - _mean(away, weight[here])
        scale[i] = np.sqrt((weight[here] * moved**2).sum(0) / np.maximum(people[i] - 1, 1))
    alone = _of_one_site(people)
    scale[(people < 2) | ~(scale > 0) | alone] = np.nan
    shift_star, scale_star, shift_se, scale_se = (np.full(shape, np.nan) for _ in range(4))
    for family in _of_equal_sites(families, people):
        for i in range(sites):
            good = family[np.isfinite(scale[i, family])]
            if not good.size:
                continue
            here = site == i
            star = _shrink(
                gamma[i, good], scale[i, good] ** 2, se[i, good] / spread[good],
                np.where(np.isfinite(z[here][:, good]), z[here][:, good], 0), weight[here][:, good],
            )  # fmt: skip
            shift_star[i, good], scale_star[i, good], shift_se[i, good], scale_se[i, good] = star
    harmonised = values - rest + spread * (z - shift_star[site]) / scale_star[site]
    harmonised[:, alone] = values[:, alone]
    return Combat(
        harmonised, shift_star * spread, scale_star, shift_se * spread, scale_se, shift, scale, se, spread,
        people, tuple(faults),
    )  # fmt: skip


def _of_one_site(people: np.ndarray):
    return (people > 0).sum(0) == 1


def _of_equal_sites(families: Sequence[np.ndarray], people: np.ndarray) -> Iterator[np.ndarray]:
    """The families, parted by the sites that have their quantities."""
    for family in families:
        _, of = np.unique(people[:, family] > 0, axis=1, return_inverse=True)
        for number in range(of.max(initial=-1) + 1):
            yield family[of.ravel() == number]


def _shares(site: np.ndarray, participant: np.ndarray):
    """Weight of each row, so that a participant counts once at each site."""
    _, code = np.unique(np.stack([site, participant]), axis=1, return_inverse=True)
    return 1 / np.bincount(code.ravel())[code.ravel()]


def _mean(values: np.ndarray, weight: np.ndarray):
    return (weight * values).sum(0) / np.maximum(weight.sum(0), 1e-300)


def _design(site: np.ndarray, covariates: np.ndarray):
    """Intercept, the sites that are there less the first of them, and the covariates that vary."""
    there = np.unique(site)
    varies = np.ptp(covariates, axis=0) > 0 if len(covariates) else []
    return np.column_stack([np.ones(len(site)), site[:, None] == there[1:], covariates[:, varies]]).astype(
        float
    )


def _locate(
    y: np.ndarray, site: np.ndarray, who: np.ndarray, x: np.ndarray, share: np.ndarray, sites: int
) -> _Located | None:
    """Fit sites and covariates to one quantity; None where it is constant."""
    if np.ptp(y) <= 1e-12 * max(np.abs(y).max(), 1e-300):
        return None
    there = np.unique(site)
    repeats = len(y) - len(set(who)) >= _REPEATS
    fit = mixed.random_intercept(x, y, who) if repeats else mixed.least_squares(x, y)
    if fit.within <= 1e-20 * y.var():
        return None
    first = np.zeros((len(there), len(fit.beta)))
    first[np.arange(1, len(there)), np.arange(1, len(there))] = 1
    # relative to the mean over observations
    contrast = first - np.array([(site == i).mean() for i in there]) @ first
    shift, se = np.full((2, sites), np.nan)
    shift[there] = contrast @ fit.beta
    se[there] = np.sqrt(np.einsum('ij,jk,ik->i', contrast, fit.cov, contrast))
    spread = float(np.sqrt((share * fit.residual**2).sum() / share.sum()))
    return _Located(fit.residual + shift[site], shift, se, spread)


def _shrink(
    gamma: np.ndarray, delta: np.ndarray, se: np.ndarray, z: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shift, scale and the errors of both at one site, drawn towards the means over the regions.

    Parameters
    ----------
    gamma, delta, se : ndarray, shape (k,)
        Shift, variance ratio, and error of the shift, of each region.
    z, weight : ndarray, shape (n, k)
        Standardised values of the site.
    """
    n = weight.sum(0)
    spread = delta.var(ddof=1) if len(delta) > 1 else 0.0
    between = gamma.var(ddof=1) if len(gamma) > 1 else 0.0
    if len(gamma) < FEWEST_FEATURES or spread <= 0 or between <= 0:
        return gamma, np.sqrt(delta), se, np.sqrt(delta / (2 * n))
    mean, m = gamma.mean(), delta.mean()
    a, b = (2 * spread + m**2) / spread, (m * spread + m**3) / spread
    centre = _mean(z, weight)
    about = (weight * (z - centre) ** 2).sum(0)
    g, d = gamma, delta
    for _ in range(_STEPS):
        last = g, d
        g = (between * n * gamma + d * mean) / (between * n + d)
        d = (0.5 * (about + n * (centre - g) ** 2) + b) / (n / 2 + a - 1)
        if max(np.abs(g - last[0]).max(), np.abs(d - last[1]).max()) < _CLOSE:
            break
    error = np.sqrt(1 / (1 / se**2 + 1 / between))
    return g, np.sqrt(d), error, 0.5 * np.sqrt(d / (n / 2 + a))


@dataclass(frozen=True)
class ShiftAndScale:
    """Shift and scale of sites that were learned from some units, for others.

    Attributes
    ----------
    centre : ndarray, shape (k,)
    covariates : ndarray, shape (p, k)
    shift, scale : ndarray, shape (s, k)
        0 and 1 for a site that was not seen, whose units pass unchanged.
    seen : ndarray of bool, shape (s,)
    """

    centre: np.ndarray
    covariates: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    seen: np.ndarray

    def apply(self, values: np.ndarray, site: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Values (n, k) of units without their site's effect; ``known`` (n, p) are their covariates."""
        expected = self.centre + known @ self.covariates
        made = expected + (values - expected - self.shift[site]) / self.scale[site]
        return np.where(self.seen[site][:, None], made, values)


def learn(
    values: np.ndarray,
    site: np.ndarray,
    known: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
) -> ShiftAndScale:
    """Learn shift and scale of each site from weighted units, for units whose label is not known.

    The label of those that are learned from is in the model, so that a site with more of one label is not
    taken for shifted; it is not needed to apply what was learned. There is no prior, as features are few: of
    a site with fewer than `SCALED` units the scale stays 1.

    Parameters
    ----------
    values : ndarray, shape (n, k)
        Features; NaN where missing.
    site : ndarray of int, shape (n,)
    known : ndarray, shape (n, p)
        Covariates, without gaps.
    label, weight : ndarray, shape (n,)
        Units of weight 0 are not looked at.
    """
    sites, k = int(site.max()) + 1, values.shape[1]
    used = weight > 0
    counts = np.bincount(site[used], minlength=sites)
    seen = counts >= LEARNED
    rows = used & seen[site]
    shift, scale = np.zeros((sites, k)), np.ones((sites, k))
    centre, slopes = np.zeros(k), np.zeros((known.shape[1], k))
    there = np.flatnonzero(seen)
    extra = np.column_stack([known, label])
    for j in range(k):
        good = rows & np.isfinite(values[:, j])
        if len(there) < 2 or not good.any():
            continue
        w = weight[good]
        middle = w @ extra[good] / w.sum()
        x = np.column_stack([site[good][:, None] == there, extra[good] - middle]).astype(float)
        root = np.sqrt(w)[:, None]
        beta = np.linalg.lstsq(x * root, values[good, j] * root[:, 0], rcond=None)[0]
        rest = values[good, j] - x @ beta
        own = np.array([w[site[good] == i].sum() for i in there])
        total = own @ beta[: len(there)] / w.sum()
        spread = np.sqrt(w @ rest**2 / w.sum())
        slopes[:, j] = beta[len(there) : -1]
        centre[j] = total - middle[:-1] @ slopes[:, j]
        for i, effect, size in zip(there, beta, own, strict=False):
            here = site[good] == i
            if here.sum() >= LEARNED and spread > 0:
                shift[i, j] = effect - total
            if here.sum() >= SCALED and spread > 0:
                ratio = np.sqrt(w[here] @ rest[here] ** 2 / max(size - 1, 1)) / spread
                scale[i, j] = ratio if ratio > 0 else 1.0
    return ShiftAndScale(centre, slopes, shift, scale, seen & (len(there) > 1))
