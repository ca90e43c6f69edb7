"""Similarity of the z-scores of each participant to the mean patterns of the study's own labelled groups.

A similarity, never a diagnosis: patterns are those of the groups that the study itself has labelled, or of a
table that the user gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort.observations import as_text, describe, some
from bids_qsm.cohort.pattern_distance import distances, scales
from bids_qsm.errors import UserError

REGIONS = ('SN', 'GP', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate')
"""Regions of a pattern, where the study has them; else all regions that it has."""
FEWEST = 5
"""Participants that a group must have for a pattern."""
NONE = 'none'
_LEVEL = 0.01
"""Share of a group's own participants that are said to fit no pattern."""
_RESAMPLES, _PERMUTATIONS = 200, 200
_ALPHA = 0.05
_CLEAR = 0.8
_LIKE = 0.6
"""Least cosine to a pattern of a table, which has no spread."""
_DESCRIBED: dict[str, str | tuple[str, str]] = {
    'participant_id': 'Label of the participant.',
    'session_id': 'Label of the session.',
    'label': 'Label of the participant; n/a where there is none, and with a table of patterns.',
    'pattern': 'Group, or column of the table of patterns, that the participant is compared with.',
    'n': 'Participants of the group, without the participant; n/a for patterns of a table.',
    'cosine': 'Cosine between the z-scores of the participant and the mean ones of the group: 1 is the same '
    'pattern, whatever its strength; n/a for controls, whose mean is zero but for chance.',
    'distance': 'Mahalanobis distance to the group, of asinh z, with the shrunk covariance within groups; '
    'n/a for patterns of a table.',
    'p': 'Share of the participants of that group who lie as far from it, or farther: estimated by chi^2, '
    'scaled to the distances of that group, each participant left out; n/a for patterns of a table.',
    'support': 'Share of resamples in which this pattern is nearest: of the participants, by bootstrap; for '
    'patterns of a table, of the z-scores, with noise of standard deviation 1.',
    'rank': 'Rank of the pattern for the participant, 1 the nearest.',
    'choice': f'The nearest pattern, or {NONE} where it is too far for that group; for patterns of a table, '
    f'where the cosine is below {_LIKE:g}, or the z-scores are within what chance makes.',
    'clear': f'Whether the nearest pattern is so in {_CLEAR:.0%} of the resamples or more, and the groups '
    '(not the patterns of a table) are told apart better than by chance.',
}
COLUMNS = list(_DESCRIBED)
MEANS = ['pattern', 'region', 'z', 'se']


@dataclass(frozen=True)
class _Vectors:
    """z of participants by region, with their labels."""

    people: pd.DataFrame
    z: np.ndarray
    regions: list[str]
    label: np.ndarray


def similarity(
    z: pd.DataFrame, labels: pd.Series, *, controls: Sequence[str] = (), seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    r"""Compare each participant with the groups of the study, itself left out.

    With x = asinh z, which is z where it is small and its logarithm where it is large, so that patients
    differ in pattern more than in severity, the distance to a group of n participants with mean m is

    .. math:: D^2 = (x - m)^T S^{-1} (x - m) \, \frac{n}{n + 1}

    where S is the covariance within groups, shrunk to its diagonal [1]_. D of the participants of a
    group to it, each left out, gives the scale of chi^2 by which p is found. Permutations of the
    labels of patients say whether the groups are told apart at all; where they are not, nothing is clear.

    Parameters
    ----------
    z : DataFrame
        z-scores, as of `normative` or `published_norms`: columns participant_id, session_id, map, region,
        hemisphere, z.
    labels : Series
        Label by participant_id; NaN where there is none.
    controls : sequence of str
        Levels that are controls: a pattern like the others, of people whose z-scores leave them out.
    seed : int
        Of the bootstrap.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`: one row a participant (the first session) and pattern.
    means : DataFrame
        Mean z and its standard error by pattern and region.
    notes : list of str

    Raises
    ------
    UserError
        No region of a pattern has z-scores, or fewer than two groups are large enough.

    References
    ----------
    .. [1] Ledoit & Wolf (2004), J Multivar Anal 88:365. doi:10.1016/S0047-259X(03)00096-4
    """
    data, notes = _vectors(z, labels)
    counts = pd.Series(data.label[data.label != '']).value_counts()
    small = counts[counts < FEWEST]
    if len(small):
        listed = some(f'{name} ({n})' for name, n in small.items())
        notes.append(f'No pattern of {listed}: fewer than {FEWEST} participants with all regions.')
    groups = sorted(counts.index[counts >= FEWEST])
    if sum(name not in controls for name in groups) < 2:
        there = ', '.join(f'{name}: {n}' for name, n in counts.items()) or 'none'
        raise UserError(
            f'--patterns needs two groups of patients with {FEWEST} participants or more that have z-scores '
            f'of all regions; there are {there}.'
        )
    x = np.arcsinh(data.z)
    member = np.array([data.label == name for name in groups])
    distance, n = distances(x, member)
    p = stats.chi2.sf(distance / scales(distance, member, x.shape[1])[:, None], x.shape[1])
    support = _support(x, member, np.random.default_rng([seed, 41]))
    # controls have no shape: their mean is zero but for chance
    cosine = np.array(
        [
            np.full(len(x), np.nan) if name in controls else _cosines(data.z, group)
            for name, group in zip(groups, member, strict=True)
        ]
    )
    table = _table(data, groups, n, cosine, np.sqrt(distance), p, support, ~(p < _LEVEL))
    ill = [name not in controls for name in groups]
    right, chance = _by_chance(x, member, ill, np.random.default_rng([seed, 43]))
    patients = int(member[ill].sum())
    notes.append(
        f'Of {patients} labelled patients, each left out, {right} are nearest to their own group; permuted '
        f'labels reach that in {chance:.0%} of {_PERMUTATIONS} permutations.'
    )
    if chance > _ALPHA:
        notes.append('The groups are not told apart better than by chance: no similarity to them is clear.')
        table['clear'] = False
    return table, _means(data, groups, member), notes


def compare(
    z: pd.DataFrame,
    patterns: pd.DataFrame,
    *,
    name: str = 'the table of patterns',
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Compare each participant with the patterns of a table, by their cosine.

    Parameters
    ----------
    z : DataFrame
        As of `similarity`.
    patterns : DataFrame
        Column region, and one column of z-scores a pattern.
    name : str
        Of the table of patterns, for messages.
    seed : int
        Of the resamples, in which each z-score errs by its standard deviation of 1.

    Raises
    ------
    UserError
        The table has no column region, regions twice, no numbers or gaps, or shares fewer than three
        regions with the study.
    """
    given = _given(patterns, name)
    wanted = [r for r in given.index if r in set(z['region'].astype(str))]
    data, notes = _vectors(z, pd.Series(dtype=object), wanted) if wanted else (None, [])
    shared = data.regions if data else []
    if data is None or len(shared) < 3:
        listed = f' ({", ".join(shared)})' if shared else ''
        raise UserError(
            f'{name} shares only {len(shared)} regions{listed} with the z-scores of both sides that most '
            'participants have; it needs three.'
        )
    shape = given.loc[data.regions].to_numpy(float).T
    gaps = [str(c) for c, row in zip(given, shape, strict=True) if not np.isfinite(row).all()]
    if gaps:
        raise UserError(
            f'{name} has no number for a region of {some(gaps)}; a pattern needs one for each of '
            f'{", ".join(data.regions)}, or leave the region out.'
        )
    rng = np.random.default_rng([seed, 42])

    def against(values: np.ndarray):
        norm = np.linalg.norm(values, axis=1) * np.linalg.norm(shape, axis=1)[:, None]
        return (shape @ values.T) / np.maximum(norm, 1e-9)

    cosine = against(data.z)
    first = np.stack(
        [against(data.z + rng.standard_normal(data.z.shape)).argmax(0) for _ in range(_RESAMPLES)]
    )
    names = [str(c) for c in given]
    support = np.stack([(first == g).mean(0) for g in range(len(names))])
    # as strong as noise alone would be, or unlike all
    plain = stats.chi2.sf(np.square(data.z).sum(1), data.z.shape[1]) > _LEVEL
    fits = ~plain & ~(cosine < _LIKE)
    unknown = np.full(cosine.shape, np.nan)
    table = _table(data, names, unknown, cosine, unknown, unknown, support, fits)
    means = pd.DataFrame(
        [
            (name, r, v, np.nan)
            for name, row in zip(names, shape, strict=True)
            for r, v in zip(data.regions, row, strict=True)
        ],
        columns=MEANS,
    )
    return table, means, notes


def _given(patterns: pd.DataFrame, name: str):
    """Columns of numbers of a table of patterns, by region."""
    if 'region' not in patterns or patterns.shape[1] < 2:
        raise UserError(f'{name} needs a column region, and one column of z-scores a pattern.')
    region = patterns['region'].astype(str)
    twice = region[region.duplicated()].unique()
    if len(twice):
        raise UserError(
            f'{name} has more than one row of {some(twice)}; z-scores are of both sides together.'
        )
    given = patterns.drop(columns='region').set_axis(region).apply(pd.to_numeric, errors='coerce')
    given = given.dropna(axis=1, how='all')
    if given.empty:
        raise UserError(f'{name} has no column of numbers: one column of z-scores a pattern is needed.')
    return given


def _vectors(z: pd.DataFrame, labels: pd.Series, regions: Sequence[str] = ()):
    """z of both sides together, at the first session of each participant with all regions."""
    rows = z[(z['map'] == 'chi') & z['hemisphere'].astype(object).fillna('').isin(('both', ''))]
    if 'atlas' in rows and len(rows):
        atlas = rows['atlas'].astype(object).fillna('')
        rows = rows[atlas == atlas.mode().iloc[0]]
    wanted = list(regions) or [r for r in REGIONS if r in set(rows['region'])]
    if not wanted:
        raise UserError(f'--patterns: no z-score of a region of a pattern ({", ".join(REGIONS)}).')
    session = rows['session_id'] if 'session_id' in rows else pd.Series('', index=rows.index)
    rows = rows.assign(session_id=session.astype(object).fillna(''))
    wide = rows[rows['region'].isin(wanted)].pivot_table(
        index=['participant_id', 'session_id'], columns='region', values='z', aggfunc='first'
    )
    # a region that hardly anyone has would leave nobody
    kept = [r for r in wanted if r in wide and wide[r].notna().mean() >= 0.7]
    if not kept:
        raise UserError(
            f'--patterns: no region of a pattern ({", ".join(wanted)}) has a z-score of both sides together '
            'in most participants.'
        )
    notes = [f'Regions of the patterns: {", ".join(kept)}.']
    wide = wide.reindex(columns=kept)
    missing = wide.index[wide.isna().any(axis=1)].get_level_values(0).unique()
    wide = wide.dropna()
    if len(missing):
        notes.append(f'Without a similarity, as a region has no z-score: {some(missing)}.')
    people = wide.index.to_frame(index=False).drop_duplicates('participant_id')
    values = wide.to_numpy(float)[people.index]
    known = as_text(pd.Series([labels.get(name, np.nan) for name in people['participant_id']], dtype=object))
    known = np.array(['' if pd.isna(label) else str(label) for label in known], dtype=object)
    return _Vectors(people.reset_index(drop=True), values, kept, known), notes


def _support(x: np.ndarray, member: np.ndarray, rng: np.random.Generator):
    """Share of resamples of the participants, within groups, in which each group is nearest."""
    counts = np.zeros((len(member), len(x)))
    for _ in range(_RESAMPLES):
        weight = np.zeros(len(x))
        for group in member:
            there = np.flatnonzero(group)
            np.add.at(weight, rng.choice(there, len(there)), 1)
        distance = distances(x, member, weight)[0]
        counts[distance.argmin(0), np.arange(len(x))] += 1
    return counts / _RESAMPLES


def _by_chance(x: np.ndarray, member: np.ndarray, ill: Sequence[bool], rng: np.random.Generator):
    """Patients nearest to their own group, and how often permuted labels have as many."""
    patients = np.flatnonzero(member[ill].any(0))

    def right(groups: np.ndarray):
        nearest = distances(x, groups)[0].argmin(0)
        return int(groups[nearest[patients], patients].sum())

    found, reached = right(member), 1
    for _ in range(_PERMUTATIONS - 1):
        other = member.copy()
        other[:, patients] = member[:, rng.permutation(patients)]
        reached += right(other) >= found
    return found, reached / _PERMUTATIONS


def _cosines(z: np.ndarray, group: np.ndarray):
    """Cosine between each participant and the mean of a group without it."""
    total, size = z[group].sum(0), group.sum()
    mean = (total - group[:, None] * z) / np.maximum(size - group, 1)[:, None]
    norm = np.linalg.norm(z, axis=1) * np.linalg.norm(mean, axis=1)
    return (z * mean).sum(1) / np.maximum(norm, 1e-9)


def _table(
    data: _Vectors,
    names: Sequence[str],
    n: np.ndarray,
    cosine: np.ndarray,
    distance: np.ndarray,
    p: np.ndarray,
    support: np.ndarray,
    fits: np.ndarray,
):
    """One row a participant and pattern, the nearest first, which is the choice where it ``fits``."""
    rows = []
    for i, person in enumerate(data.people.to_dict('records')):
        by = distance[:, i] if np.isfinite(distance[:, i]).any() else -cosine[:, i]
        places = np.argsort(by, kind='stable')
        nearest = places[0]
        for rank, g in enumerate(places, 1):
            rows.append(
                {
                    'participant_id': person['participant_id'],
                    'session_id': person['session_id'] or np.nan,
                    'label': data.label[i] or np.nan,
                    'pattern': names[g],
                    'n': n[g, i],
                    'cosine': cosine[g, i],
                    'distance': distance[g, i],
                    'p': p[g, i],
                    'support': support[g, i],
                    'rank': rank,
                    'choice': names[nearest] if fits[nearest, i] else NONE,
                    'clear': bool(support[nearest, i] >= _CLEAR),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _means(data: _Vectors, groups: Sequence[str], member: np.ndarray):
    rows = []
    for name, group in zip(groups, member, strict=True):
        own = data.z[group]
        error = own.std(0, ddof=1) / np.sqrt(len(own))
        rows += [
            {'pattern': name, 'region': r, 'z': m, 'se': e}
            for r, m, e in zip(data.regions, own.mean(0), error, strict=True)
        ]
    return pd.DataFrame(rows, columns=MEANS)


def dictionary() -> Mapping[str, dict]:
    """Describe every column of the two tables."""
    return describe(
        {
            **_DESCRIBED,
            'region': 'Region of the atlas, both sides together.',
            'z': 'Mean z-score of the group, or what the table of patterns says.',
            'se': 'Standard error of the mean.',
        }
    )
