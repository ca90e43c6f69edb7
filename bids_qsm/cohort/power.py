"""Sizes of trials that would show an effect on susceptibility, from the figures of a study."""

import numpy as np
import pandas as pd
from scipy import special, stats

from bids_qsm.cohort.observations import KEYS, QUANTITY, describe
from bids_qsm.cohort.total import VOLUME

EFFECTS, POWERS, ALPHA = (0.25, 0.5), (0.8, 0.9), 0.05
_MOST = 100_000
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    **QUANTITY,
    'design': (
        'change: last less first visit; ancova: last visit, given the first; random slope: slopes of equally '
        'spaced visits.'
    ),
    'visits': 'Visits of each participant.',
    'years': ('From first to last visit: the median of the study, over all arms.', 'year'),
    'effect': 'Relative effect.',
    'effect_of': (
        'level: share of the mean at the first visit that treatment takes away by the last; change: share of '
        'the mean change of the reference arm that it prevents, n/a without that arm.'
    ),
    'delta': ('Difference between arms at the last visit.', 'see column units'),
    'sd': ('Standard deviation, in an arm, of what is compared (of slopes times years).', 'see column units'),
    'sd_true': (
        'Part of it by true differences of change between participants; n/a for ancova, and where two visits '
        'of a study without enough repeated scans do not tell.',
        'see column units',
    ),
    'sd_error': (
        'Part of it by the error of measurement, if each visit has as many scans as in the study; else as '
        'sd_true.',
        'see column units',
    ),
    'correlation': 'Correlation of first and last visit.',
    'power': 'Probability to find the effect.',
    'alpha': 'Two-sided level of the test.',
    'n_per_arm': 'Participants in each of two arms; none are lost.',
    'n_low': 'The same with sd at the lower end of its 95 % confidence interval.',
    'n_high': 'The same with sd at the upper end of its 95 % confidence interval.',
    'n_study': 'Participants of the study that sd comes from.',
    'units': 'Unit of the values.',
    'note': 'Why there is no number, or a caution.',
}
COLUMNS = list(_DESCRIBED)


def per_arm(
    delta: float | np.ndarray,
    sd: float | np.ndarray,
    power: float,
    *,
    alpha: float = ALPHA,
    covariates: int = 0,
) -> np.ndarray:
    r"""Participants per arm to find a difference by a two-sided t test of two equal arms; NaN above 100 000.

    The smallest n whose power, by the noncentral t distribution with :math:`2n - 2` degrees of freedom (less
    the covariates) and noncentrality :math:`\delta / (s \sqrt{2/n})` [1]_, is enough. A covariate also costs
    the factor :math:`1 + 1/(2n - 4)` of variance, as arms differ in it by chance.

    Parameters
    ----------
    delta, sd : array_like
        Difference, and standard deviation in an arm.

    References
    ----------
    .. [1] Julious (2004), Stat Med 23:1921. doi:10.1002/sim.1783

    >>> per_arm([5, 10, 20], 15, 0.8).tolist()
    [143.0, 37.0, 10.0]
    """
    ratio = np.abs(np.asarray(delta, float)) / np.asarray(sd, float)
    z = special.ndtri(1 - alpha / 2) + special.ndtri(power)
    with np.errstate(divide='ignore', invalid='ignore'):
        n = np.maximum(np.ceil(2 * z**2 / ratio**2), 2 + covariates)
    n = np.where(n < _MOST, n, np.nan)
    for _ in range(20):
        short = _power(ratio, n, alpha, covariates) < power
        if not short.any():
            break
        n = n + short
    return n


def _power(ratio: np.ndarray, n: np.ndarray, alpha: float, covariates: int):
    dof = 2 * n - 2 - covariates
    lost = 1 + covariates / np.maximum(2 * n - 4, 1)
    shift = ratio * np.sqrt(n / 2 / lost)
    reach = stats.t.ppf(1 - alpha / 2, dof)
    return 1 - special.nctdtr(dof, shift, reach) + special.nctdtr(dof, shift, -reach)


def sample_sizes(slopes: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    r"""Participants per arm for relative effects of 25 and 50 %, power 80 and 90 %, by region and design.

    Of both hemispheres together.

    All figures are of the study: with :math:`\sigma` the standard deviation of a visit about the line of its
    participant (where visits are two: that of repeated scans of the study, :math:`s_w / \sqrt n` for n scans
    of a visit, or unknown), :math:`\sigma_b` that of true slopes, T the years
    from first to last visit and t the times of visits, what is compared has the standard deviation

    - change: that of last less first visit, :math:`\sqrt{2 \sigma^2 + T^2 \sigma_b^2}` if changes are linear;
    - ancova: :math:`s \sqrt{1 - \rho^2}`, with s of the last visit and the correlation :math:`\rho` of both
      [1]_;
    - random slope: :math:`T \sqrt{\sigma_b^2 + \sigma^2 / \sum (t - \bar t)^2}` [2]_, for three visits or as
      many as the study has.

    Visits are taken to have as many scans as those of the study.

    Parameters
    ----------
    slopes : DataFrame
        From :func:`bids_qsm.cohort.trial.slopes`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`.
    notes : list of str

    References
    ----------
    .. [1] Borm, Fransen & Lemmens (2007), J Clin Epidemiol 60:1234. doi:10.1016/j.jclinepi.2007.02.006
    .. [2] Lefante (1990), Stat Med 9:437. doi:10.1002/sim.4780090414
    """
    rows = []
    slopes = slopes[(slopes['map'] != VOLUME) & slopes['hemisphere'].isin(['both', ''])]
    for _, of_region in slopes.groupby(KEYS, sort=False):
        people, arms = int(of_region['n_participants'].sum()), len(of_region)
        # the reference arm comes first, where it is there
        rows += _of_region(of_region.iloc[0].to_dict(), people, people - arms)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    notes = []
    if len(table):
        notes.append(
            'Numbers per arm rest on standard deviations of this study (n_low and n_high say how sure they '
            'are), on complete visits with as many scans, and on a normal distribution. Add those who may be '
            'lost.'
        )
        if (table['effect_of'] == 'level').any():
            notes.append('A share of the level depends on the zero of susceptibility.')
    return table, notes


def _of_region(row: dict, people: int, dof: int):
    """Rows of one region."""
    years, unit = row['years_study'], row['units'].removesuffix(' per year')
    visits = max(3, round(row['n_visits'] / max(row['n_participants'], 1)))
    fitted = row['method'] == 'random slope'
    # where visits are two, only repeated scans of the same study part error and change
    own = str(row['sdw_source']).startswith('own')
    error = row['sd_within'] if fitted else row['sdw'] / np.sqrt(row['scans']) if own else np.nan
    change, corr = row['sd_change'], row['correlation']
    # with two visits, what repeated scans do not explain of the change
    true = row['sd_slope'] * years if fitted else np.sqrt(np.maximum(change**2 - 2 * error**2, 0))
    lever = np.linspace(0, 1, visits)
    lever = np.sqrt(((lever - lever.mean()) ** 2).sum())
    designs = [
        ('change', 2, change, true, np.sqrt(2) * error, 0),
        ('ancova', 2, row['sd_last'] * np.sqrt(1 - corr**2), np.nan, np.nan, 1),
        ('random slope', visits, np.hypot(true, error / lever), true, error / lever, 0),
    ]
    low, high = np.sqrt(dof / stats.chi2.ppf((0.975, 0.025), max(dof, 1)))
    moved = row['slope'] * years
    unsure = ''
    if row['reference']:  # this is another arm
        unsure = f'too few of the reference arm {row["reference"]} to know its change'
    elif row['slope_low'] <= 0 <= row['slope_high']:
        unsure = 'the reference arm does not change for certain'
    found = []
    for name, n_visits, sd, of_true, of_error, covariates in designs:
        for of, whole in (('level', row['baseline']), ('change', moved)):
            why = unsure if of == 'change' else ''
            why = why if np.isfinite(sd) else 'too few repeated scans tell the error from the change'
            for effect in EFFECTS:
                for power in POWERS:
                    delta = abs(effect * whole)
                    n = np.full(3, np.nan)
                    if not why and sd > 0:
                        n = per_arm(delta, sd * np.array([1, low, high]), power, covariates=covariates)
                    found.append({
                        **{k: row[k] for k in QUANTITY}, 'design': name, 'visits': n_visits, 'years': years,
                        'effect': effect, 'effect_of': of, 'delta': delta, 'sd': sd, 'sd_true': of_true,
                        'sd_error': of_error, 'correlation': corr, 'power': power, 'alpha': ALPHA,
                        'n_per_arm': n[0], 'n_low': n[1], 'n_high': n[2], 'n_study': people, 'units': unit,
                        'note': why or ('' if np.isfinite(n[0]) else f'more than {_MOST} per arm'),
                    })  # fmt: skip
    return found


def dictionary() -> dict:
    """Describe every column of the table of sample sizes."""
    return describe(_DESCRIBED)
