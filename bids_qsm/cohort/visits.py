"""The sessions of a participant in their order, and the years between them."""

import re

import numpy as np
import pandas as pd

from bids_qsm.cohort.observations import numeric
from bids_qsm.cohort.tables import parse_times

YEAR = 365.25
"""Days."""


def years(series: pd.DataFrame) -> np.ndarray:
    """Years of each row since the first of its participant; NaN where unknown.

    From acq_time; for participants without, from an age that differs between their sessions.

    Parameters
    ----------
    series : DataFrame
        Columns participant_id, and acq_time or age where they are known.
    """
    who = series['participant_id'].to_numpy()
    found = np.full(len(series), np.nan)
    if 'acq_time' in series:
        times = parse_times(series['acq_time'])
        days = (times - times.min()) / pd.Timedelta(days=1)
        found = _since_first(days.to_numpy(float) / YEAR, who)
    if 'age' in series:
        age = _since_first(numeric(series['age'])[0].to_numpy(), who)
        # an age that is equal at sessions (whole years, or from participants.tsv) says nothing
        differ = (
            pd.Series(age).groupby(who).transform(lambda part: part.nunique() == len(part)).to_numpy(bool)
        )
        timed = pd.Series(found).notna().groupby(who).transform('sum').to_numpy() > 1
        found = np.where(timed, found, np.where(differ, age, np.nan))
    return found


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
