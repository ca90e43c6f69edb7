import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.tables import (
    by_atlas,
    counts,
    dictionary,
    gather,
    group_column,
    join_participants,
    lowest_coverage,
    references,
    summary,
)


def stats(mean=0.1, **more):
    table = pd.DataFrame(
        {
            'region': ['SN', 'SN', 'SN', 'GP'],
            'hemisphere': ['L', 'R', 'both', 'both'],
            'map': 'chi',
            'mean': [mean - 0.01, mean + 0.01, mean, 2 * mean],
            'coverage': [1.0, 0.7, 0.85, np.nan],
        }
    )
    return table.assign(**more)


@pytest.fixture
def long():
    return gather(
        [
            ({'sub': '02', 'run': '1'}, stats(0.2, reference='CSF')),
            ({'sub': '01', 'ses': '2', 'acq': 'fast'}, stats(0.1)),
            ({'sub': '01', 'ses': '1', 'acq': 'fast'}, stats(0.3)),
        ]
    )


def test_gather_names_each_row_and_keeps_all_columns(long):
    assert list(long)[:4] == ['participant_id', 'session_id', 'acquisition', 'run']
    assert len(long) == 12
    assert long['participant_id'].tolist() == ['sub-01'] * 8 + ['sub-02'] * 4
    assert long['session_id'].tolist()[:8] == ['ses-1'] * 4 + ['ses-2'] * 4
    assert long.loc[long['participant_id'] == 'sub-01', 'reference'].isna().all()
    assert set(long.loc[long['participant_id'] == 'sub-02', 'reference']) == {'CSF'}
    assert long['mean'].dtype == float
    # rows of a series stay in the order of its table
    assert long['region'].tolist()[:4] == ['SN', 'SN', 'SN', 'GP']


def test_gather_lets_the_file_name_win_over_a_column():
    long = gather([({'sub': '01'}, stats(participant_id='wrong'))])
    assert set(long['participant_id']) == {'sub-01'}


def test_gather_of_nothing():
    assert gather([]).empty


def test_join_adds_what_is_known(long):
    participants = pd.DataFrame(
        {'participant_id': ['01', 'sub-02'], 'group': ['HC', 'PD'], 'run': ['x', 'y']}
    )
    joined, notes = join_participants(long, participants)
    assert len(joined) == len(long)
    assert joined.groupby('participant_id')['group'].first().to_dict() == {'sub-01': 'HC', 'sub-02': 'PD'}
    assert 'participant_run' in joined
    assert len(notes) == 1
    assert 'renamed' in notes[0]


@pytest.mark.parametrize(
    ('participants', 'said'),
    [
        (None, 'no participants.tsv'),
        (pd.DataFrame({'subject': ['01']}), 'no column participant_id'),
        (pd.DataFrame({'participant_id': ['sub-01'], 'group': ['HC']}), 'sub-02'),
        (pd.DataFrame({'participant_id': ['01', '01', '02'], 'group': list('abc')}), 'more than once'),
    ],
)
def test_join_says_what_is_missing(long, participants, said):
    joined, notes = join_participants(long, participants)
    assert len(joined) == len(long)
    assert any(said in note for note in notes)


def test_counts_by_group(long):
    joined, _ = join_participants(long, pd.DataFrame({'participant_id': ['01'], 'group': ['HC']}))
    table = counts(joined).set_index('group')
    assert table.loc['HC'].tolist() == [1, 2, 2]
    assert table.loc['n/a'].tolist() == [1, 1, 1]
    assert counts(long)['series'].tolist() == [3]
    assert group_column(long) is None


def test_summary_over_series(long):
    table = summary(long, ['GP', 'SN'])
    assert table['region'].tolist() == ['GP', 'SN']
    assert table['series'].tolist() == [3, 3]
    np.testing.assert_allclose(table['mean'], [0.4, 0.2])
    np.testing.assert_allclose(table['sd'], [0.2, 0.1])


def test_lowest_coverage_of_each_series(long):
    worst = lowest_coverage(long)
    assert len(worst) == 3
    assert set(zip(worst['region'], worst['hemisphere'], worst['coverage'], strict=True)) == {
        ('SN', 'R', 0.7)
    }


def test_atlases_are_not_pooled():
    long = gather(({'sub': s, 'seg': a}, stats(m)) for s in '12' for a, m in (('a', 0.1), ('b', 0.3)))
    assert set(long['atlas']) == {'a', 'b'}
    table = summary(long, ['SN']).set_index('atlas')
    assert table['series'].to_dict() == {'a': 2, 'b': 2}
    np.testing.assert_allclose(table['mean'], [0.1, 0.3])
    assert lowest_coverage(long)['atlas'].tolist() == ['a', 'b'] * 2
    assert [(name, len(rows)) for name, rows in by_atlas(long)] == [('a', 8), ('b', 8)]


def test_references_of_susceptibility(long):
    assert references(long) == {'CSF': 1, 'not stated': 2}
    assert references(long.drop(columns='reference')) == {'not stated': 3}


def test_dictionary_describes_every_column(long):
    joined, _ = join_participants(
        long, pd.DataFrame({'participant_id': ['01'], 'run': ['x'], 'age': [3], 'handedness': ['r']})
    )
    described = dictionary(
        joined, {'mean': {'Description': 'Mean.', 'Units': 'ppm'}}, {'age': {'Units': 'year'}}
    )
    assert list(described) == list(joined)
    assert described['mean']['Units'] == 'ppm'
    assert described['age']['Units'] == 'year'
    assert 'not described' in described['handedness']['Description']
    assert 'participants.tsv' in described['participant_run']['Description']


def test_only_entities_of_the_files_are_described_as_such():
    long = gather([({'sub': '01', 'part': 'x'}, stats())])
    joined, _ = join_participants(
        long, pd.DataFrame({'participant_id': ['01'], 'age': [3], 'sex': ['F'], 'site': ['a']})
    )
    described = dictionary(joined.columns, {}, {})
    assert described['part']['Description'] == 'Value of the entity part- of the series.'
    for column in ('age', 'sex', 'site'):
        assert 'participants.tsv' in described[column]['Description']
