"""Tables of tab-separated values: read as BIDS means them, and written."""

from pathlib import Path

import pandas as pd

from bids_qsm.errors import UserError

MISSING = ['n/a', '', 'nan', 'NaN']
LABELS = ('participant_id', 'session_id', 'group', 'arm', 'acq_time', 'filename')
"""Columns of the tables of a dataset that are text, also where they look like numbers."""


def read_table(path: str | Path, dtype: dict | None = None) -> pd.DataFrame:
    """Read a BIDS table: tab-separated, missing values are n/a. 'None' and 'NA' are text."""
    # without chunks, in which a column of a long table may get different types
    return pd.read_csv(
        path, sep='\t', keep_default_na=False, na_values=MISSING, dtype=dtype, low_memory=False
    )


def read_labels(path: str | Path, dtype: type | None = None) -> pd.DataFrame:
    """Read a table of labels, where nothing is missing: a label of both hemispheres has the hemisphere ''."""
    return pd.read_csv(path, sep='\t', keep_default_na=False, dtype=dtype)


def read_input(path: str | Path) -> pd.DataFrame:
    """Read a table of the dataset, as participants.tsv: labels are text. UserError if it cannot be read."""
    try:
        table = read_table(path, dtype=dict.fromkeys(LABELS, str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} is no table of tab-separated values ({reason}); mend it.') from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus values as row names
        raise UserError(f'{path} is no table: its rows have more values than columns; mend it.')
    table = table.rename(columns=lambda name: str(name).strip())
    if table.columns.has_duplicates:
        raise UserError(f'{path} is no table: two of its columns have one name; mend it.')
    for column in table:
        if not pd.api.types.is_numeric_dtype(table[column]):
            # between blanks, pandas does not see that a value is missing
            text = table[column].map(lambda value: value.strip() if isinstance(value, str) else value)
            table[column] = text.where(~text.isin(MISSING))
    return table


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table, with 'n/a' for what is missing; return its path."""
    table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    return path
