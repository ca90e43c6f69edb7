"""Words of one meaning in tables of participants and sessions."""

import pandas as pd

from bids_qsm.cohort.tables import ENTITY_COLUMNS, MEASURES, series_columns

SYNONYMS = {
    'sex': ({'m', 'male'}, {'f', 'female'}, {'o', 'other'}),
    'handedness': ({'l', 'left'}, {'r', 'right'}, {'a', 'ambidextrous'}),
}
"""Words of one meaning in columns of BIDS, in lower case."""


def spell(long: pd.DataFrame):
    """Write words of one meaning alike, as most participants have them, and say what differs in case only.

    Those of one meaning are the `SYNONYMS` that BIDS allows. Others are not known to mean the same, so a
    group 'Control' beside 'control' stays and is told of.

    Returns
    -------
    spelt : DataFrame
        ``long``, with other words in its columns.
    notes : list of str
    """
    spelt, notes = long.copy(deep=False), []
    people = long.drop_duplicates(series_columns(long))
    skipped = {*ENTITY_COLUMNS.values(), *MEASURES, 'acq_time', 'filename'}
    for column in (c for c in long if c not in skipped and not pd.api.types.is_numeric_dtype(long[c])):
        counts = people[column].dropna().astype(str).value_counts()
        alike = [*SYNONYMS.get(column.removeprefix('participant_').removeprefix('session_'), ())]
        for words in alike:
            found = [word for word in counts.index if word.casefold() in words]
            if len(found) > 1:
                spelt[column] = spelt[column].replace(dict.fromkeys(found[1:], found[0]))
                notes.append(f'In {column}, {", ".join(found[1:])} was read as {found[0]}.')
        known = set().union(*alike)
        cases = pd.Series([word for word in counts.index if word.casefold() not in known], dtype=object)
        for _, found in cases.groupby(cases.str.casefold()):
            if len(found) > 1:
                notes.append(
                    f'{column} has levels that differ in case only ({", ".join(sorted(found))}); they are '
                    'taken for different ones, so spell them alike if they are not.'
                )
    return spelt, notes
