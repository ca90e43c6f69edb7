"""Tables of tab-separated values: read as BIDS means them, and written."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pandas as pd

from bids_qsm.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ['n/a', '', 'nan', 'NaN']
LABELS = ('participant_id', 'session_id', 'group', 'arm', 'acq_time', 'filename')
"""Columns of the tables of a dataset that are text, also where they look like numbers."""
_TOGETHER = 500
"""Tables that are read at once."""
_ROWS = 100_000
"""Rows of a table that are turned into Parquet at once."""


def read_table(path: str | Path | IO[str], dtype: dict | None = None) -> pd.DataFrame:
    """Read a BIDS table: tab-separated, missing values are n/a. 'None' and 'NA' are text."""
    # without chunks, in which a column of a long table may get different types
    return pd.read_csv(
        path, sep='\t', keep_default_na=False, na_values=MISSING, dtype=dtype, low_memory=False
    )


@dataclass(frozen=True)
class Expected:
    """Columns that a table of the output has."""

    all_of: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    """Those that hold numbers, if they are there."""


def read_output(path: str | Path, expected: Expected) -> pd.DataFrame:
    """Read a table of the output dataset; UserError where it is cut short, or not as ``expected``."""
    (table,) = read_many([Path(path)], expected)
    if isinstance(table, UserError):
        raise table
    return table


def read_many(paths: Sequence[Path], expected: Expected) -> Iterator[pd.DataFrame | UserError]:
    """Read many tables of the output dataset, those with equal columns together: a tenth of the time.

    In place of a table that is damaged comes the error that `read_output` raises.
    """
    for start in range(0, len(paths), _TOGETHER):
        some = paths[start : start + _TOGETHER]
        texts = [_text(path) for path in some]
        heads = [text.partition('\n')[0] for text in texts]
        bounds = [0, *(i for i in range(1, len(some)) if heads[i] != heads[i - 1]), len(some)]
        for a, b in pairwise(bounds):
            tables = _read_alike(texts[a:b], expected.numbers)
            for path, text, table in zip(some[a:b], texts[a:b], tables, strict=True):
                fault = _fault(text, table, expected)
                again = 'run the participant level again for this participant.'
                yield UserError(f'{path} {fault}; {again}') if fault else table


def _text(path: Path) -> str:
    """Content of a file; empty where it is no text."""
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError):
        return ''


def _fault(text: str, table: pd.DataFrame | None, expected: Expected) -> str:
    """What is wrong with a table of the output; empty where nothing is."""
    if table is None or not isinstance(table.index, pd.RangeIndex) or '\0' in text:
        return 'is no table of tab-separated values'
    if not text.endswith('\n'):
        return 'is cut short'
    lacking = [name for name in expected.all_of if name not in table]
    if not {*expected.any_of} & {*table}:
        lacking += expected.any_of[:1]
    if lacking:
        return f'has no column {lacking[0]}'
    odd = [name for name in expected.numbers if name in table and not _is_numbers(table[name])]
    return f'has text in its column {odd[0]}, which holds numbers' if odd else ''


def _is_numbers(column: pd.Series) -> bool:
    return column.isna().all() or (
        pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    )


def _read_alike(texts: Sequence[str], numbers: Sequence[str]) -> list[pd.DataFrame | None]:
    """Tables with one header; one after another where lines are not rows, or one cannot be read.

    None stands for one that cannot be read.
    """
    bodies = [text.partition('\n')[2].rstrip('\n') for text in texts]
    lengths = [body.count('\n') + bool(body) for body in bodies]
    whole = '\n'.join([texts[0].partition('\n')[0], *filter(None, bodies)])
    table = _parsed(whole) if len(texts) > 1 else None
    if (
        table is None
        or len(table) != sum(lengths)
        or not isinstance(table.index, pd.RangeIndex)
        or not all(_is_numbers(table[name]) for name in numbers if name in table)
    ):
        return [_parsed(text) for text in texts]
    ends = np.cumsum(lengths)
    return [table.iloc[end - n : end].reset_index(drop=True) for end, n in zip(ends, lengths, strict=True)]


def _parsed(text: str) -> pd.DataFrame | None:
    try:
        return read_table(io.StringIO(text))
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return None


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


def write_parquet(table: pd.DataFrame, path: Path):
    """Write a table as Parquet, which needs pyarrow.

    What `read_table` takes for missing is missing here too, and numbers and truth values with gaps stay such.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # a column of Parquet has one type, which all of its values tell
    schema = pa.schema([(str(name), _type_of(table[name])) for name in table])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, max(len(table), 1), _ROWS):
            some = table.iloc[start : start + _ROWS]
            arrays = [_array_of(some[name], kind) for name, kind in zip(table, schema.types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _is_plain(column: pd.Series):
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _stated(column: pd.Series):
    """Values as objects, None where one is missing."""
    return column.astype(object).where(column.notna() & ~column.isin(MISSING), None)


def _type_of(column: pd.Series) -> 'pa.DataType':
    """Type of a column in Parquet."""
    import pyarrow as pa

    if _is_plain(column):
        return pa.array(column.iloc[:0], from_pandas=True).type
    if isinstance(column.dtype, pd.StringDtype):
        return pa.string()
    stated = _stated(column)
    kind = pd.api.types.infer_dtype(stated, skipna=True)
    if kind in ('integer', 'floating', 'mixed-integer-float'):
        return pa.array(pd.to_numeric(stated), from_pandas=True).type
    return pa.bool_() if kind == 'boolean' else pa.string()


def _array_of(column: pd.Series, kind: 'pa.DataType') -> 'pa.Array':
    import pyarrow as pa

    if _is_plain(column):
        return pa.array(column, kind, from_pandas=True)
    stated = _stated(column)
    if pa.types.is_string(kind):
        stated = stated.map(str, na_action='ignore')
    elif not pa.types.is_boolean(kind):
        stated = pd.to_numeric(stated)
        if pa.types.is_floating(kind):
            # a piece without gaps has whole numbers, and of large ones there is no safe way to the type
            stated = stated.astype(float)
    return pa.array(stated, kind, from_pandas=True)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table that `write_parquet` wrote, texts as such."""
    from pyarrow import parquet

    return parquet.read_table(path).to_pandas(ignore_metadata=True)
