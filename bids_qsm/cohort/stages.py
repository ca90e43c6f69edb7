"""Iron and myelin of the stages of a disease against the first stage, with susceptibility and R2* beside
them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.biomarkers.iron import ADULT_AGE, ADULTS
from bids_qsm.biomarkers.iron_myelin import (
    ADULT_SHARE,
    CONSTANTS,
    IRON,
    UNITS,
    Constants,
    calibrate,
    constants_at,
    contrast,
)
from bids_qsm.cohort.design import CONTROLS, reference_level
from bids_qsm.cohort.inference import adjust
from bids_qsm.cohort.observations import (
    QUANTITY,
    Observations,
    as_text,
    average,
    codes,
    describe,
    numeric,
    observe,
    say_averaged,
    some,
)
from bids_qsm.cohort.tables import group_column
from bids_qsm.errors import UserError

MAPS = ('chi', 'R2star')
FEWEST = 5
"""Participants that a stage must have."""
FIFTH = 1.2
"""Factor of the change of susceptibility by iron for the column change_per_fifth."""
SITES = ('site', 'scanner', 'center', 'centre')
"""Names of the column of the scanner."""
ANY_ZERO = 0.2
"""Standard deviation (ppm) of susceptibility without iron and myelin in a map relative to a region."""
_OF_ANY_ZERO = 'not known: the map is relative to a region with iron and myelin'
_FLUID = ('Brain', 'CSF')
_LEAST = 1e-8
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    'atlas': QUANTITY['atlas'],
    'region': QUANTITY['region'],
    'stage': 'Stage that is compared with the reference.',
    'reference': 'First stage, whose people are taken as healthy.',
    'map': 'iron (wet tissue); mvf: share of the volume that is myelin; chi (susceptibility) and R2star, as '
    'measured.',
    'estimate': ('Stage less reference, age and the other covariates equal.', 'see column units'),
    'se': ('Standard error; of iron and mvf with the errors of the constants.', 'see column units'),
    'ci_low': ('Lower end of the 95 % interval.', 'see column units'),
    'ci_high': ('Upper end of the 95 % interval.', 'see column units'),
    'dof': 'Degrees of freedom after Bell and McCaffrey.',
    'p': 'Two-sided p value, not adjusted.',
    'p_fdr': 'False discovery rate (Benjamini and Hochberg) over the regions of the same atlas, stage and '
    'map.',
    'rho_iron_mvf': 'Correlation of the errors of iron and mvf.',
    'change_per_fifth': (
        'What the estimate would change by, were the susceptibility of iron higher by a fifth.',
        'see column units',
    ),
    'n': 'Participants of the stage.',
    'n_reference': 'Participants of the reference.',
    'units': 'Unit of the estimate.',
}
COLUMNS = list(_DESCRIBED)
_CONSTANTS: dict[str, str | tuple[str, str]] = {
    'atlas': QUANTITY['atlas'],
    'map': 'chi or R2star.',
    'constant': 'zero: of tissue without iron and myelin; iron, myelin: change by a unit of these.',
    'literature': ('Value before the study at its field strength.', 'see column units'),
    'literature_sd': ('Its standard deviation.', 'see column units'),
    'value': (
        'Value that was used: given the reference people, whose tissue is that of healthy ones.',
        'see units',
    ),
    'sd': ('Its standard deviation.', 'see column units'),
    'units': 'Unit of the constant.',
    'source': 'Where the value before the study comes from.',
}
CONSTANT_UNITS = ('', ' per mg/100 g', ' per unit of myelin fraction')


@dataclass(frozen=True)
class _People:
    """Participants who state all that the design needs; ``there`` are their rows."""

    levels: list[str]
    stage: np.ndarray
    age: np.ndarray
    covariates: dict[str, pd.Series]
    """Sex and site as text, where they differ."""
    there: np.ndarray


def compare_stages(
    long: pd.DataFrame,
    column: str,
    *,
    field_strength: float,
    statistic: str = 'mean',
    controls: str = '',
    relative_to: str = '',
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    r"""Compare the stages of a disease with the first one, in each region.

    Susceptibility and R2* of a region are fitted by least squares on stage, age and, where they differ, sex
    and site: each over the people who have it, and together over those who have both. The covariance of the
    estimates is that of White for small samples (HC2), and degrees of freedom are those of Bell and
    McCaffrey [1]_. Means of the first stage and iron of healthy people of that age calibrate the constants
    (`bids_qsm.biomarkers.iron_myelin.calibrate`), and these turn a change of both into one of iron and
    myelin (`contrast`), so that the zero of susceptibility cancels.

    Parameters
    ----------
    long : DataFrame
        Table of regions with the columns of the participants.
    column : str
        Stage of each participant: numbers, of which the lowest is the first, or text, of which
        ``controls`` or what is called like them is the first. Controls by the column of groups are the first
        stage where none of them has one.
    field_strength : float
        Of the maps (T).
    statistic : str
        Column that is the value of a region.
    relative_to : str
        Region that susceptibility was referred to. Its own is zero by definition, so that there is R2* alone.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`. Without R2* susceptibility alone.
    constants : DataFrame
        Of each atlas, before and after calibration.
    notes : list of str

    Raises
    ------
    UserError
        There is no such column or no age, the first stage is not known, there are too few stages or people,
        a stage is that of one site, or no region has enough values.

    References
    ----------
    .. [1] Imbens & Kolesar (2016), Rev Econ Stat 98:701. doi:10.1162/REST_a_00552
    """
    there = [name for name in MAPS if name in set(long['map'])]
    if 'chi' not in there:
        raise UserError(
            f'--stages {column}: the tables have no susceptibility; run the participant level again.'
        )
    data = observe(long, statistic=statistic, maps=there, hemispheres=['both'])
    notes = [*data.notes]
    _check_column(data.series, column)
    notes += say_averaged(data.series)
    data = average(data, ['participant_id'], factors=[column, 'sex', *SITES])
    people = _people(data.series, column, controls, notes)
    before = constants_at(field_strength, MAPS)
    measured = data.keys
    if relative_to:
        measured = measured[(measured['map'] != 'chi') | (measured['region'] != relative_to)]
    if relative_to not in ('', *_FLUID):
        before.cov[0, 0] = ANY_ZERO**2
        notes.append(
            f'Susceptibility is relative to {relative_to}, which has no contrast of its own: changes of iron '
            f'and myelin are right only where those of {relative_to} are the same in all stages.'
        )
    rows, constants = [], []
    for atlas, keys in measured.groupby('atlas', sort=False):
        table, known = _of_atlas(data, keys, people, before, notes)
        rows += [{'atlas': atlas, **row} for row in table]
        if known is not None:
            constants.append(_constants_table(known, before).assign(atlas=atlas))
    if not rows:
        said = next((note for note in notes if ' left out: ' in note), 'there is none besides fluid.')
        raise UserError(f'--stages {column}: no region can be compared: {said}')
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table['p_fdr'] = adjust(table['p'], codes(table, ['atlas', 'map', 'stage']))
    listed = pd.concat(constants, ignore_index=True) if constants else pd.DataFrame()
    return table, listed.reindex(columns=list(_CONSTANTS)), list(dict.fromkeys(notes))


def _check_column(series: pd.DataFrame, column: str):
    for name, why in ((column, ''), ('age', ', as iron of healthy people depends on it')):
        if name not in series or series[name].isna().all():
            known = ', '.join(str(c) for c in series)
            raise UserError(
                f'--stages {column}: participants.tsv has no column {name!r} with values{why}; add it '
                f'(there are '
                f'{known}).'
            )
    several = series.groupby('participant_id')[column].nunique() > 1
    if several.any():
        raise UserError(
            f'--stages {column}: {some(several.index[several])} has several stages; give each participant '
            f'one, in '
            'participants.tsv.'
        )


def _people(series: pd.DataFrame, column: str, controls: str, notes: list[str]) -> _People:
    """Participants that state all the design needs."""
    stage, levels = _staged(series, column, controls, notes)
    age, texts = numeric(series['age'])
    if texts:
        if age.isna().all():
            raise UserError(
                f'--stages {column}: no age in participants.tsv is a number (there are {some(texts)}); give '
                'years.'
            )
        notes.append(f'Ages that are no numbers are taken as missing: {some(texts)}.')
    there = (stage.notna() & age.notna()).to_numpy()
    covariates = {}
    for names in (('sex',), SITES):
        columns = [as_text(series[name]) for name in names if name in series]
        values = next((one for one in columns if one[there].nunique() > 1), None)
        if values is not None:
            covariates[str(values.name)] = values
            there = there & values.notna().to_numpy()
    used = ['age', *covariates]
    if not there.all():
        notes.append(f'{(~there).sum()} participants without {" or ".join([column, *used])} left out.')
    counts = stage[there].value_counts()
    small = [f'{name} ({counts.get(name, 0)})' for name in levels if counts.get(name, 0) < FEWEST]
    if small:
        raise UserError(
            f'--stages {column}: {some(small)} has fewer than {FEWEST} participants with '
            f'{", ".join(used)}; join it with a stage beside it, or leave it out.'
        )
    notes.append(f'Covariates: {", ".join(used)}. First stage, taken as healthy: {levels[0]}.')
    known = {name: values[there].reset_index(drop=True) for name, values in covariates.items()}
    people = _People(levels, stage[there].to_numpy(), age[there].to_numpy(float), known, there)
    _, why = _design(people, np.ones(len(people.stage), bool))
    if why:
        raise UserError(f'--stages {column}: {why}; leave that stage or that column out.')
    return people


def _design(people: _People, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Design of some of the people, and why they cannot be compared; empty where they can.

    Columns are the intercept (the first stage at its mean covariates), stages, covariates. All are made of
    these rows: what is constant in them, such as a site without R2*, must not be mistaken for the intercept.
    """
    own = people.stage[rows]
    if min((own == name).sum() for name in people.levels) < FEWEST:
        return np.zeros((0, 0)), f'fewer than {FEWEST} participants of a stage have values'
    dummies = np.column_stack([own == name for name in people.levels[1:]]).astype(float)
    blocks = {
        name: _dummies(values[rows])
        for name, values in people.covariates.items()
        if values[rows].nunique() > 1
    }
    if len(np.unique(people.age[rows])) > 1:
        blocks['age'] = people.age[rows][:, None]
    first = own == people.levels[0]
    centred = [block - block[first].mean(0) for block in blocks.values()]
    x = np.column_stack([np.ones(len(own)), dummies, *centred])
    if np.linalg.matrix_rank(x) == len(x):
        return x, 'there are as many covariates (sites) as participants'
    return x, _confounded(people.levels, dummies, blocks)


def _confounded(levels: list[str], dummies: np.ndarray, blocks: dict[str, np.ndarray]) -> str:
    """Say where covariates, one by one or together, determine a stage; empty where none does."""
    for names in (*([name] for name in blocks), [*blocks]):
        for k, level in enumerate(levels[1:]):
            rest = [np.ones(len(dummies)), np.delete(dummies, k, 1), *(blocks[name] for name in names)]
            others = np.column_stack(rest)
            both = np.column_stack([others, dummies[:, k]])
            if np.linalg.matrix_rank(both) <= np.linalg.matrix_rank(others):
                what = ' and '.join(names)
                return f'stage {level} cannot be told from {what}, which differs with it in all its people'
    return ''


def _staged(
    series: pd.DataFrame, column: str, controls: str, notes: list[str]
) -> tuple[pd.Series, list[str]]:
    """Stage of each participant as text, and the stages in their order.

    Controls by the column of groups, none of whom has a stage, are the first one.
    """
    stage, group = as_text(series[column]), group_column(series)
    ours, name = pd.Series(False, index=series.index), controls
    # an arm without treatment is one of patients
    if group not in (None, 'arm', column):
        groups = as_text(series[group])
        found = reference_level(sorted(set(groups.dropna())), controls)
        if found == controls or _is_control(found):
            ours, name = groups == found, found
    if ours.any() and stage[ours].isna().all():
        notes.append(
            f'{ours.sum()} participants of {group} {name} have no {column}; they are the first stage.'
        )
        stage = stage.mask(ours, name)
    else:
        name = controls
    levels = _in_order(stage, column, name)
    if len(levels) < 2:
        raise UserError(
            f'--stages {column}: there is one stage ({some(levels)}); two or more are needed, as stages are '
            'compared with the first.'
        )
    if ours.any() and not (stage[ours] == levels[0]).any():
        raise UserError(
            f'--stages {column}: nobody of {group} {groups[ours].iloc[0]} is of the first stage '
            f'({levels[0]}), whose people are taken as healthy; give controls a stage before it.'
        )
    return stage, levels


def _in_order(stage: pd.Series, column: str, controls: str) -> list[str]:
    """Stages in their order: numbers, or the controls, then numbers, then other text."""
    levels = sorted(set(stage.dropna()))
    numbers, texts = numeric(pd.Series(levels, index=levels))
    if not texts:
        return sorted(levels, key=float)
    first = reference_level(levels, controls)
    if first != controls and not _is_control(first):
        raise UserError(
            f'--stages {column}: none of {some(levels)} is called like controls, so that the first stage is '
            'not known; name it by --controls, or number the stages.'
        )
    rest = sorted(levels, key=lambda name: (np.isnan(numbers[name]), numbers[name]))
    return [first, *(name for name in rest if name != first)]


def _is_control(name: str) -> bool:
    return ''.join(filter(str.isalnum, name.lower())) in CONTROLS


def _dummies(values: pd.Series) -> np.ndarray:
    return pd.get_dummies(values.astype(str), drop_first=True).to_numpy(float)


def _of_atlas(
    data: Observations, keys: pd.DataFrame, people: _People, before: Constants, notes: list[str]
) -> tuple[list[dict], Constants | None]:
    """Rows of the regions of an atlas, and its calibrated constants."""
    regions = []
    for name, part in keys[~keys['region'].isin(_FLUID)].groupby('region', sort=False):
        places = zip(part['map'], part.index, strict=True)
        regions.append(
            _fit_region(str(name), {map_: data.values[people.there, k] for map_, k in places}, people)
        )
    _say_lacking(regions, notes)
    whole = {one.name: one for one in regions if MAPS in one.fits}
    constants = None
    if whole:
        reference = [one.fits[MAPS] for one in whole.values()]
        values = np.stack([fit.estimate[0] for fit, _ in reference])
        noise = np.stack([np.sqrt(np.diag(fit.cov[0])) for fit, _ in reference])
        first = people.stage == people.levels[0]
        ages = [people.age[first & rows] for _, rows in reference]
        constants, used = calibrate(values, noise, [*whole], ages, before)
        notes.append(
            f'Constants are those of the literature given the first stage in {", ".join(used)}.'
            if used
            else 'Constants are those of the literature, as no region has a known iron.'
        )
        young = [name for name in whole if name in ADULTS and name not in used]
        if young:
            notes.append(
                f'{some(young)} not used for the constants: iron is known from {ADULT_AGE:g} years on, and '
                f'more than {1 - ADULT_SHARE:.0%} of the first stage are younger.'
            )
    found = []
    for region in regions:
        for number, stage in enumerate(people.levels[1:], 1):
            for names, (fit, rows) in region.fits.items():
                counts = [int((people.stage[rows] == name).sum()) for name in (stage, people.levels[0])]
                common = {
                    'region': region.name, 'stage': stage, 'reference': people.levels[0],
                    'dof': fit.dof[number], 'n': counts[0], 'n_reference': counts[1],
                }  # fmt: skip
                change, cov = fit.estimate[number], fit.cov[number]
                if names == MAPS and constants is not None:
                    found += [common | row for row in _tissue(change, cov, constants)]
                elif names != MAPS:
                    found.append(
                        common
                        | {
                            'map': names[0],
                            'estimate': change[0],
                            'se': np.sqrt(cov[0, 0]),
                            'units': UNITS[names[0]],
                        }
                    )
    for row in found:
        half = stats.t.ppf(0.975, row['dof']) * row['se']
        row['ci_low'], row['ci_high'] = row['estimate'] - half, row['estimate'] + half
        row['p'] = 2 * stats.t.sf(abs(row['estimate']) / row['se'], row['dof'])
    return found, constants


@dataclass(frozen=True)
class _Region:
    """A region: its values by map, and by maps the fit with the people in it, or why there is none."""

    name: str
    values: dict[str, np.ndarray]
    fits: dict[tuple[str, ...], tuple['_Fit', np.ndarray]]
    lacking: dict[tuple[str, ...], str]


def _fit_region(name: str, values: dict[str, np.ndarray], people: _People) -> _Region:
    """Fit both maps together and each by itself, each time over the people who have values."""
    values = {map_: y for map_, y in values.items() if np.isfinite(y).any()}
    fits, lacking = {}, {}
    for names in (MAPS, *((map_,) for map_ in MAPS)):
        if not set(names) <= set(values):
            continue
        y = np.column_stack([values[map_] for map_ in names])
        rows = np.isfinite(y).all(1)
        x, why = _design(people, rows)
        if not why and (np.ptp(y[rows], 0) == 0).any():
            why = 'all participants have the same value'
        if why:
            lacking[names] = why
        else:
            fits[names] = _fit(x, y[rows]), rows
    return _Region(name, values, fits, lacking)


def _say_lacking(regions: list[_Region], notes: list[str]):
    """Note which regions, and whose values of them, are left out."""
    titles = {('chi',): 'χ of ', ('R2star',): 'R2* of ', MAPS: 'iron and myelin of '}
    left: dict[str, list[str]] = {}
    for one in regions:
        for why in dict.fromkeys(one.lacking.values()):
            these = [names for names, reason in one.lacking.items() if reason == why]
            singly = [names for names in these if names != MAPS]
            parts = [titles[names] for names in singly or these] if one.fits else ['']
            left.setdefault(why, []).extend(f'{part}{one.name}' for part in parts)
    notes += [f'{some(names)} left out: {why}.' for why, names in left.items()]
    if any('R2star' not in one.values for one in regions):
        notes.append(
            'Regions without R2* have no iron and myelin: susceptibility alone does not tell them apart.'
        )
    for alone, other in (MAPS, MAPS[::-1]):
        gone = {
            one.name: np.isfinite(one.values[alone]) & ~np.isfinite(one.values[other])
            for one in regions
            if set(MAPS) <= set(one.values)
        }
        gone = {name: rows for name, rows in gone.items() if rows.any()}
        if gone:
            n = int(np.logical_or.reduce([*gone.values()]).sum())
            what = titles[other,].removesuffix(' of '), titles[alone,].removesuffix(' of ')
            notes.append(
                f'{n} participants without {what[0]} in {some(gone)} count there for {what[1]} alone.'
            )


def _tissue(change: np.ndarray, cov: np.ndarray, constants: Constants) -> list[dict]:
    """Change of iron and of myelin."""
    x, of_x = contrast(change, cov, constants)
    slopes = constants.slopes.copy()
    slopes[0, IRON - 1] *= FIFTH
    other = np.linalg.solve(slopes, change)
    rho = of_x[0, 1] / np.sqrt(of_x[0, 0] * of_x[1, 1])
    return [
        {
            'map': name, 'estimate': x[k], 'se': np.sqrt(of_x[k, k]), 'units': units, 'rho_iron_mvf': rho,
            'change_per_fifth': other[k] - x[k],
        }
        for k, (name, units) in enumerate((('iron', 'mg/100 g'), ('mvf', 'fraction')))
    ]  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    """Coefficients (P, K), covariance over K of each coefficient (P, K, K), degrees of freedom (P)."""

    estimate: np.ndarray
    cov: np.ndarray
    dof: np.ndarray


def _fit(x: np.ndarray, y: np.ndarray) -> _Fit:
    r"""Least squares with the HC2 covariance of several responses and Bell-McCaffrey degrees of freedom.

    .. math:: V_p = \sum_i \frac{l_{pi}^2}{1 - h_i} e_i e_i^T, \quad
        \nu_p = \frac{(\mathrm{tr}\, M G_p)^2}{\mathrm{tr}\, (M G_p)^2}, \quad
        G_p = \mathrm{diag} \frac{l_{pi}^2}{1 - h_i}

    with the rows l of :math:`(X^T X)^{-1} X^T`, M the residual maker and h its leverages.
    """
    linear = np.linalg.pinv(x)
    maker = np.eye(len(x)) - x @ linear
    left = np.maximum(np.diag(maker), _LEAST)
    residual = maker @ y
    weight = np.square(linear) / left
    cov = np.einsum('pi,ik,il->pkl', weight, residual, residual)
    trace = weight @ np.diag(maker)
    dof = trace**2 / np.einsum('pi,ij,pj->p', weight, np.square(maker), weight)
    return _Fit(linear @ y, cov, dof)


def _constants_table(constants: Constants, before: Constants) -> pd.DataFrame:
    rows = [
        {
            'map': name,
            'constant': what,
            'literature': before.mean[k, place],
            'literature_sd': before.sd[k, place],
            'value': constants.mean[k, place],
            'sd': constants.sd[k, place],
            'units': UNITS[name] + CONSTANT_UNITS[place],
            'source': _OF_ANY_ZERO if before.sd[k, place] == ANY_ZERO else CONSTANTS[name][place].source,
        }
        for k, name in enumerate(constants.names)
        for place, what in enumerate(('zero', 'iron', 'myelin'))
    ]
    return pd.DataFrame(rows).round(6)


def dictionary() -> dict:
    """Describe every column of the table of stages, as a BIDS data dictionary."""
    return describe(_DESCRIBED)


def constants_dictionary() -> dict:
    """Describe every column of the table of constants."""
    return describe(_CONSTANTS)
