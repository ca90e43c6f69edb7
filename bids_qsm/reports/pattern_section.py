"""Section of the cohort page on raised nuclei."""

import pandas as pd

from bids_qsm.reports.blocks import grid, section, words

SURE = 0.9
"""Share of draws from which a pattern is told from the others."""
_FOLD = 15
_PATTERNS = {'participant_id': 'participant', 'session_id': 'session', 'raised': 'raised nuclei'}
_PATTERNS |= {'pattern': 'most like', 'seen_in': 'seen in (among others)', 'similarity': 'similarity'}
_PATTERNS |= {'share': 'share of draws', 'second': 'next', 'note': 'note'}


def pattern_section(table: pd.DataFrame, *, notes: list[str], files: list[str]) -> dict:
    """Raised nuclei of each participant, and the pattern that is most like them."""
    said = words('patterns')
    of = ['participant_id', 'session_id', 'atlas']
    first = table[(table['rank'] == 1) | table['rank'].isna()].drop_duplicates(of)
    second = table[table['rank'] == 2].set_index(of)['pattern']
    shown = first.set_index(of).assign(second=second).reset_index()
    raised = first[first['raised'].fillna('') != '']
    answers = [
        f'A nucleus is raised in {_who(raised)} of {_who(first)} participants. What that is most like '
        'follows; it describes nuclei and is no diagnosis.'
    ]
    for name, one in raised.groupby('pattern', sort=False):
        sure = (one['share'] >= SURE).sum()
        answers.append(
            f'"{name}": {_who(one)} participants; in {sure} of {len(one)} sessions, this is told from the '
            f'other patterns (first in {100 * SURE:.0f} of 100 draws with normal variation).'
        )
    block = grid(said['heading'], shown, columns=_PATTERNS, caption=said['table'], folded=len(shown) > _FOLD)
    return section(
        'patterns', question=said['question'], answers=answers, blocks=[block], notes=notes, files=files
    )


def _who(rows: pd.DataFrame):
    """Number of participants."""
    return rows['participant_id'].nunique()
