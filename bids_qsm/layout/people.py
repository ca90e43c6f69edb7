"""What the tables of the dataset say of a participant: participants.tsv, and sessions.tsv by session."""

from pathlib import Path

import numpy as np
import pandas as pd

from bids_qsm.cohort.tables import join_participants, join_sessions
from bids_qsm.derivatives.tables import LABELS, read_input

KEYS = ('participant_id', 'session_id')


def read_participants(bids_dir: Path) -> pd.DataFrame | None:
    """Content of participants.tsv, None where there is none; UserError where it cannot be read."""
    file = bids_dir / 'participants.tsv'
    return read_input(file) if file.exists() else None


def facts_of(
    subject: str, session: str | None, people: pd.DataFrame | None, bids_dir: Path
) -> tuple[tuple[tuple[str, str | float | None], ...], list[str]]:
    """Columns and values that the tables state for a participant in a session, and what did not match.

    A value of sub-<label>_sessions.tsv for the session comes before that of ``people`` (participants.tsv).
    Numbers are float, what is missing (n/a) is None, and all else is a text. UserError where the table of
    the sessions cannot be read.
    """
    own = {'participant_id': f'sub-{subject}'} | ({'session_id': f'ses-{session}'} if session else {})
    row, notes = pd.DataFrame([own]), []
    if people is not None:
        if 'participant_id' in people:  # one row, as a join of all of them would be slow for each series
            named = people['participant_id'].astype(str).str.removeprefix('sub-')
            people = people[named == subject]
        row, said = join_participants(row, people)
        notes += said
    file = bids_dir / f'sub-{subject}' / f'sub-{subject}_sessions.tsv'
    if session and file.exists():
        row, said = join_sessions(row, read_input(file).assign(participant_id=own['participant_id']))
        notes += said
    found = {str(name): _value(str(name), row[name].iloc[0]) for name in row if name not in KEYS}
    return tuple(found.items()), notes


def _value(column: str, value: object) -> str | float | None:
    """A cell as text or number; labels are text also where they are written as numbers.

    >>> [_value('age', '34'), _value('group', '2'), _value('age', '90+'), _value('age', float('nan'))]
    [34.0, '2', '90+', None]
    """
    if pd.isna(value):
        return None
    if column not in LABELS and not isinstance(value, bool | np.bool_):
        number = pd.to_numeric(value, errors='coerce')
        if np.isfinite(number):
            return float(number)
    return str(value)
