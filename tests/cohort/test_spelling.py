import pandas as pd
import pytest

from bids_qsm.cohort.spelling import spell
from bids_qsm.cohort.tables import gather, join_participants
from tests.cohort.test_tables import stats


@pytest.mark.parametrize(
    ('column', 'words', 'read', 'said'),
    [
        (
            'sex',
            ['M', 'm', 'male', 'F', 'female', 'F'],
            ['M', 'M', 'M', 'F', 'F', 'F'],
            'm, male was read as M',
        ),
        ('sex', ['male', 'MALE', 'Male', 'male', 'Female', 'f'], ['male'] * 4 + ['Female'] * 2, 'as Female'),
        ('sex', ['male', 'female', 'other'] * 2, ['male', 'female', 'other'] * 2, None),
        ('handedness', ['R', 'right', 'R', 'l', 'Left', 'l'], ['R'] * 3 + ['l'] * 3, 'right was read as R'),
        ('group', ['control', 'Control', 'PD'] * 2, ['control', 'Control', 'PD'] * 2, 'differ in case only'),
        ('site', ['m', 'male', 'F', 'female', 'x', 'y'], ['m', 'male', 'F', 'female', 'x', 'y'], None),
    ],
)
def test_spelling(column, words, read, said):
    people = pd.DataFrame({'participant_id': list('123456'), column: words, 'age': range(6)})
    long, _ = join_participants(gather(({'sub': name}, stats()) for name in '123456'), people)
    spelt, notes = spell(long)
    assert spelt.drop_duplicates('participant_id')[column].tolist() == read
    assert any(said in note for note in notes) if said else not notes
    assert spelt.drop(columns=column).equals(long.drop(columns=column))
