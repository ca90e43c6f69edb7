"""Difference between left and right of each region."""

import pandas as pd

from bids_qsm.cohort.observations import KEYS
from bids_qsm.cohort.tables import VALUES, series_columns

LESS = 'L - R'
"""Value of the column hemisphere in rows of the difference."""


def add_asymmetry(long: pd.DataFrame) -> pd.DataFrame:
    """Add a row of left less right for each region that has both sides, so that it is analysed like a value.

    Parameters
    ----------
    long : DataFrame
        From :func:`bids_qsm.cohort.tables.gather` and the joins.
    """
    if not {'L', 'R'} <= set(long['hemisphere'].dropna()):
        return long
    keys = [*series_columns(long), *(k for k in KEYS if k != 'hemisphere' and k in long)]
    left, right = (long[long['hemisphere'] == side].drop_duplicates(keys) for side in ('L', 'R'))
    both = left[keys].merge(right, on=keys, how='left').set_axis(left.index)
    difference = left.assign(hemisphere=LESS)
    for column in (c for c in VALUES if c in long):
        difference[column] = pd.to_numeric(left[column], errors='coerce') - pd.to_numeric(
            both[column], errors='coerce'
        )
    if 'coverage' in long:
        difference['coverage'] = pd.concat([left['coverage'], both['coverage']], axis=1).min(axis=1)
    return pd.concat([long, difference], ignore_index=True)
