"""The sessions of a participant in their order, the years between them, and those of one visit."""

import re
from itertools import pairwise

import numpy as np
import pandas as pd

from bids_qsm.cohort.observations import numeric, some
from bids_qsm.cohort.tables import parse_times

YEAR = 365.25
"""Days."""
RETEST_DAYS = 14
"""Sessions so long after the first of a visit belong to it, where the column visit does not say otherwise."""
_LONGEST_VISIT = 0.25
"""Years; what the column visit calls one visit cannot last longer."""


def years(series: pd.DataFrame) -> np.ndarray:
    """Years of each row since the first of its participant; NaN where unknown.

    From acq_time; for participants without, from the column time (years), or from an age that differs between
    their sessions.

    Parameters
    ----------
    series : DataFrame
        Columns participant_id, and acq_time, time or age where they are known.
    """
    who = series['participant_id'].to_numpy()
    found = np.full(len(series), np.nan)
    if 'acq_time' in series:
        times = parse_times(series['acq_time'])
        days = (times - times.min()) / pd.Timedelta(days=1)
        found = _since_first(days.to_numpy(float) / YEAR, who)
    for column in (c for c in ('time', 'age') if c in series):
        since = _since_first(numeric(series[column])[0].to_numpy(), who)
        # an age that is equal at sessions (whole years, or from participants.tsv) says nothing
        differ = (
            pd.Series(since).groupby(who).transform(lambda part: part.nunique() == len(part)).to_numpy(bool)
        )
        timed = pd.Series(found).notna().groupby(who).transform('sum').to_numpy() > 1
        found = np.where(timed, found, np.where(differ, since, np.nan))
    return found


def visits(series: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Number the visits of each participant from 0, in their order, with notes on sessions that share one.

    Sessions of one visit are repeats (test and retest): those for which the column visit (of sessions.tsv)
    states the same, or, without that column, those at most `RETEST_DAYS` days after the first of the visit.

    Parameters
    ----------
    series : DataFrame
        As for `years`, with session_id.
    """
    since, rows = years(series), order(series)
    who = series['participant_id'].astype(str).to_numpy()
    session = series['session_id'].astype(object).fillna('').astype(str).to_numpy()
    stated = series['visit'].astype(object).to_numpy() if 'visit' in series else None
    number, notes = np.zeros(len(series), int), []
    shared, refused = [], []
    people = np.split(rows, np.flatnonzero(who[rows][1:] != who[rows][:-1]) + 1) if rows.size else []
    for mine in people:
        first = mine[0]
        for before, row in pairwise(mine):
            gap = since[row] - since[first]
            if session[row] == session[before]:
                same = True
            elif stated is not None and pd.notna(stated[row]) and pd.notna(stated[before]):
                same = stated[row] == stated[before]
                if same and gap > _LONGEST_VISIT:
                    same = False
                    refused.append(who[row])
            else:
                same = bool(gap <= RETEST_DAYS / YEAR)
            if same and session[row] != session[before]:
                shared.append(who[row])
            number[row] = number[before] + (not same)
            if not same or np.isnan(since[first]):
                first = row
    if shared:
        why = 'by the column visit' if stated is not None else f'at most {RETEST_DAYS} days apart'
        notes.append(f'Sessions of one visit ({why}) are repeats and were averaged: {_people(shared)}.')
    if refused:
        notes.append(
            f'The column visit calls sessions of {_people(refused)} one visit that are more than '
            f'{_LONGEST_VISIT:g} years apart; they count as two.'
        )
    return number, notes


def _people(names: list[str]):
    several = sorted(set(names))
    return some(several) if len(several) < 4 else f'{len(several)} participants'


def order(series: pd.DataFrame) -> np.ndarray:
    """Rows by participant, and within each by time or, where it is not known, by the label of the session."""
    since = years(series)
    who = series['participant_id'].astype(str).to_numpy()
    label = series['session_id'] if 'session_id' in series else pd.Series('', index=series.index)
    label = [_natural(text) for text in label.astype(object).fillna('').astype(str)]
    known = pd.Series(np.isfinite(since)).groupby(who).transform('all').to_numpy(bool)
    keys = [(w, s if k else 0.0, text) for w, s, k, text in zip(who, since, known, label, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), int)


def _since_first(values: np.ndarray, who: np.ndarray):
    return values - pd.Series(values).groupby(who).transform('min').to_numpy()


def _natural(text: str):
    """ses-10 after ses-2."""
    return tuple((0, int(p), '') if p.isdigit() else (1, 0, p) for p in re.split(r'(\d+)', text) if p)
