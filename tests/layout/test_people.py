import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.layout.people import facts_of, read_participants


@pytest.fixture
def bids(tmp_path):
    (tmp_path / 'sub-01').mkdir()
    (tmp_path / 'participants.tsv').write_text(
        'participant_id\tage\tsex\tgroup\thematocrit\thand\n'
        'sub-01\t34\tF\t1\t0.41\tn/a\n'
        '02\t90+\tM\t2\tn/a\t right \n'
    )
    (tmp_path / 'sub-01' / 'sub-01_sessions.tsv').write_text(
        'session_id\thematocrit\tage\tdose\nses-1\tn/a\t35\t2\n2\t0.38\tn/a\tlow\n'
    )
    return tmp_path


def stated(bids, subject, session=None):
    return dict(facts_of(subject, session, read_participants(bids), bids)[0])


def test_a_session_comes_before_the_participant_where_it_states_a_value(bids):
    without = {'age': 34.0, 'sex': 'F', 'group': '1', 'hematocrit': 0.41, 'hand': None}
    assert stated(bids, '01') == without
    assert stated(bids, '01', '1') == {**without, 'age': 35.0, 'dose': 2.0}
    assert stated(bids, '01', '2') == {**without, 'hematocrit': 0.38, 'dose': 'low'}
    # a number of one is a number, whatever others have in the column
    other = {'age': '90+', 'sex': 'M', 'group': '2', 'hematocrit': None, 'hand': 'right'}
    assert stated(bids, '02', '1') == other
    assert hash(facts_of('01', '1', read_participants(bids), bids)[0])


def test_who_is_not_listed_is_said(bids):
    facts, notes = facts_of('03', '1', read_participants(bids), bids)
    assert set(dict(facts).values()) == {None}
    assert notes == ['Not in participants.tsv: sub-03.']
    _, notes = facts_of('01', '9', read_participants(bids), bids)
    assert 'Not in sessions.tsv: sub-01 ses-9.' in notes


def test_without_tables_nothing_is_stated(tmp_path):
    assert read_participants(tmp_path) is None
    assert facts_of('01', '1', None, tmp_path) == ((), [])


def test_a_table_that_cannot_be_read_is_named(bids):
    table = bids / 'sub-01' / 'sub-01_sessions.tsv'
    table.write_bytes(b'session_id\tage\nses-1\t2\t3\n')
    with pytest.raises(UserError, match=r'sub-01_sessions.tsv is no table'):
        facts_of('01', '1', None, bids)
    assert facts_of('01', None, None, bids) == ((), [])
    (bids / 'participants.tsv').write_bytes(b'')
    with pytest.raises(UserError, match=r'participants.tsv is no table of tab-separated values'):
        read_participants(bids)
    assert facts_of('01', None, pd.DataFrame({'age': [3]}), bids)[1] == [
        'participants.tsv has no column participant_id and was left out.'
    ]
