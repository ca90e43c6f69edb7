"""Signs that features know the label in a way that new participants would not show."""

import re

import numpy as np
import pandas as pd
from scipy import stats

from bids_qsm.cohort.observations import codes, is_numeric, numeric, some

SITES: tuple[str, ...] = (
    'site',
    'scanner',
    'center',
    'centre',
    'institution',
    'institutionname',
    'manufacturer',
)
SITES += ('manufacturersmodelname', 'station', 'deviceserialnumber', 'magneticfieldstrength')
"""Columns, in lower case without punctuation, that say where a participant was scanned."""
LATER = {'diagnosis', 'diagnosed', 'dx', 'duration', 'onset', 'treatment', 'treated', 'medication', 'drug'}
LATER |= {'dose', 'severity', 'stage', 'outcome', 'followup', 'updrs', 'mdsupdrs', 'edss', 'hoehn', 'yahr'}
LATER |= {'status', 'patient'}
"""Words in names of columns that are known after the label, or because of it."""
_BY_CHANCE = 0.01
_SURE = 0.001
_LEAST = 5
_HOLDERS = 3
"""Most participants with the same value for it to tell a person: many may be at the floor of all scores."""


def same_people(x: pd.DataFrame, person: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Take participants for one whose units agree in all features, unless that may be chance.

    Chance is the number of pairs that would agree if the features were independent. As scores are not, one
    feature must have a value that hardly any other participant has.

    Parameters
    ----------
    x : DataFrame, n rows
        Features as numbers.
    person : ndarray of int, shape (n,)
        Number of the participant.
    names : ndarray of str, shape (n,)
        Label of the participant.

    Returns
    -------
    person : ndarray of int, shape (n,)
        Numbers of participants, where those that are one have one number.
    notes : list of str
    """
    x = x[[c for c in x if x[c].nunique() > 1]]
    n = len(x)
    alike = [(lambda c: (c * (c - 1)).sum() / (n * (n - 1)))(np.bincount(codes(x, [c]))) for c in x]
    if n < 2 or not len(alike) or n * (n - 1) / 2 * np.prod(alike) > _BY_CHANCE:
        return person, []
    # a row of missing values is like any other such row
    full = x.notna().to_numpy().mean(1) > 0.5
    holders = [pd.Series(person).groupby(x[c].to_numpy()).transform('nunique') for c in x]
    rare = np.nanmin(np.array(holders, float), axis=0, initial=np.inf) <= _HOLDERS
    row = np.where(full & rare, codes(x, x.columns), -1 - np.arange(n))
    frame = pd.DataFrame({'row': row, 'person': person})
    twins = frame[frame.groupby('row')['person'].transform('nunique') > 1]
    found = person.copy()
    for _, part in twins.groupby('row'):
        found[np.isin(found, found[part.index])] = found[part.index].min()
    if twins.empty:
        return person, []
    sets = [sorted(set(names[part.index])) for _, part in twins.groupby('row', sort=False)]
    pairs = list(dict.fromkeys(' = '.join(one) for one in sets))
    note = (
        'Participants with different names have the same values in all features and were taken for one '
        f'({some(pairs)}); remove one of them, or give both one participant_id.'
    )
    return pd.factorize(found)[0], [note]


def warnings(table: pd.DataFrame, features: list[str], y: np.ndarray, person: np.ndarray) -> list[str]:
    """Sentences on features, and on the site, that tell the label too well.

    Parameters
    ----------
    table : DataFrame, n rows
        Columns as they were given.
    features : list of str
    y, person : ndarray, shape (n,)
        Class, and number of the participant.
    """
    notes = []
    for column in features:
        values = table[column]
        told = _perfect(values, y) or _constant(values, y) or _missing(values, y, person) or _named(column)
        if told:
            notes.append(f'{column} {told}')
    for column in table:
        if re.sub('[^a-z]', '', str(column).lower().removeprefix('participant_')) in SITES:
            notes += _site(str(column), table[column], y, person)
    return notes


def _perfect(values: pd.Series, y: np.ndarray):
    known = values.notna().to_numpy()
    if min(y[known].sum(), (1 - y[known]).sum()) < _LEAST:
        return ''
    if is_numeric(values):
        x = numeric(values)[0].to_numpy()
        low, high = x[known & (y == 0)], x[known & (y == 1)]
        is_perfect = np.nanmax(low) < np.nanmin(high) or np.nanmax(high) < np.nanmin(low)
    else:
        levels = pd.Series(y[known]).groupby(values[known].astype(str).to_numpy())
        is_perfect = levels.ngroups <= known.sum() / 2 and (levels.nunique() == 1).all()
    more = 'it may hold the label, or have been made from it.'
    return f'tells the label without an error: {more}' if is_perfect else ''


def _constant(values: pd.Series, y: np.ndarray):
    for one in (0, 1):
        own, others = values[y == one].dropna(), values[y != one].dropna()
        if len(own) >= _LEAST and own.nunique() == 1 and others.nunique() > 2:
            more = 'it may only be measured, or only make sense, in the other.'
            return f'is {own.iloc[0]} in all units of one label: {more}'
    return ''


def _missing(values: pd.Series, y: np.ndarray, person: np.ndarray):
    lacks = pd.Series(values.isna().to_numpy(float)).groupby(person).mean() > 0.5
    positive = pd.Series(y).groupby(person).mean() > 0.5
    table = pd.crosstab(lacks, positive)
    if table.shape != (2, 2) or stats.fisher_exact(table)[1] >= _SURE:
        return ''
    return 'is missing much more often with one label than with the other, so that a gap tells the label.'


def _named(column: str):
    # duration_of_disease, DiseaseDuration, MDSUPDRS3
    words = re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z]+', column) + re.split('[^A-Za-z]+', column)
    if not {word.lower() for word in words} & LATER:
        return ''
    return 'may be known after the label or because of it, by its name; leave it out if it is.'


def _site(column: str, values: pd.Series, y: np.ndarray, person: np.ndarray):
    by_person = pd.DataFrame({'site': values.astype(object).to_numpy(), 'y': y}).groupby(person)
    people = by_person.agg({'site': 'first', 'y': 'mean'}).dropna()
    groups = [part['y'].to_numpy() for _, part in people.groupby('site') if len(part)]
    if len(groups) < 2 or people['y'].nunique() < 2 or stats.kruskal(*groups).pvalue >= _BY_CHANCE:
        return []
    shares = [f'{name}: {part["y"].mean():.0%} of {len(part)}' for name, part in people.groupby('site')]
    return [
        f'{column} tells the label (positive are {some(shares)}): features that differ between sites would '
        'seem to tell it too. Match the labels within each site, or use one site.'
    ]
