"""Checks of a series against the consensus on QSM and published thresholds, and the report it asks for."""

from collections.abc import Sequence

import pandas as pd

from bids_qsm.biomarkers.consensus.acquisition import ACQUISITION
from bids_qsm.biomarkers.consensus.check import SEVERITIES, STATES, Facts
from bids_qsm.biomarkers.consensus.images import IMAGES
from bids_qsm.biomarkers.consensus.processing import PROCESSING

CHECKS = {**ACQUISITION, **IMAGES, **PROCESSING}
"""Name -> check, in the order of the table."""
COLUMNS = {
    'check': ('Name of the check.', None),
    'state': ('pass, warn, fail, or unknown where nothing tells it.', None),
    'value': ('What was found.', None),
    'threshold': ('What passes, and what fails.', None),
    'severity': (
        'high: susceptibility may be wrong; medium: it is less accurate; low: it is harder to compare or to '
        'report.',
        None,
    ),
    'source': ('Where the rule comes from, and the threshold.', None),
    'advice': ('What to do where it is not passed.', None),
    'title': ('What is checked.', None),
}


def judge(facts: Facts, checks: Sequence[str] = ()) -> pd.DataFrame:
    """The table of all checks, or of some: fails and warnings first, then those of high severity.

    Parameters
    ----------
    facts : Facts
    checks : sequence of str
        Names; all where it is empty.

    Returns
    -------
    DataFrame
        One row a check, see `COLUMNS`.
    """
    rows = [CHECKS[name].row(name, facts) for name in checks or CHECKS]
    rows.sort(key=lambda row: (STATES.index(row['state']), SEVERITIES.index(row['severity'])))
    return pd.DataFrame(rows, columns=[*COLUMNS])


def counts(table: pd.DataFrame) -> dict[str, int]:
    """Number of checks in each state.

    >>> counts(pd.DataFrame({'state': ['pass', 'warn', 'pass']}))
    {'fail': 0, 'warn': 1, 'unknown': 0, 'pass': 2}
    """
    return {state: int((table['state'] == state).sum()) for state in STATES}
