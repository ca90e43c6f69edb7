"""Sessions, times of acquisition and the zero of susceptibility in the long table."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.cohort.tables import SHIFTED, gather, join_participants, join_scans, join_sessions, relative_to
from bids_qsm.errors import UserError
from tests.cohort.people import cohort


@pytest.fixture
def long():
    return cohort(2, sessions=2)


def by_session(table, column):
    rows = table.drop_duplicates(['participant_id', 'session_id'])
    return rows.set_index(['participant_id', 'session_id'])[column].to_dict()


def test_sessions_add_their_columns_and_win_over_participants(long):
    sessions = pd.DataFrame(
        {
            'participant_id': ['000', 'sub-000', 'sub-001'],
            'session_id': ['1', 'ses-2', 'ses-1'],
            'acq_time': ['2020-01-01', '2021-01-01', '2020-05-05'],
            'score': [1.0, 2.0, np.nan],
            'note': ['a', 'b', 'c'],
        }
    )
    joined, notes = join_sessions(long, sessions)
    assert len(joined) == len(long)
    assert joined.index.equals(long.index)
    times = by_session(joined, 'acq_time')
    assert times['sub-000', 'ses-2'] == '2021-01-01'
    assert pd.isna(times['sub-001', 'ses-2'])
    scores, own = by_session(joined, 'score'), by_session(long, 'score')
    assert (scores['sub-000', 'ses-1'], scores['sub-000', 'ses-2']) == (1, 2)
    assert scores['sub-001', 'ses-1'] == own['sub-001', 'ses-1']
    assert joined['score'].dtype == float
    assert 'session_note' in joined
    for said in ('Not in sessions.tsv: sub-001 ses-2', 'counts over participants.tsv', 'renamed to session_'):
        assert any(said in note for note in notes), said


def test_tables_with_many_columns_are_joined_at_once(long):
    """Columns that are added one by one are slow from 100 on, which pandas says."""
    names = {'participant_id': ['sub-001', 'sub-000']}
    people = pd.DataFrame({**names, **{f'item_{i}': [i, f'text {i}'] for i in range(150)}})
    visits = pd.DataFrame({**names, 'session_id': 'ses-2', **{f'score_{i}': [i, i + 1] for i in range(150)}})
    joined, _ = join_participants(long, people)
    joined, _ = join_sessions(joined, visits)
    joined['more'] = 1
    assert joined.index.equals(long.index)
    assert [*joined][: len(long.columns)] == [*long]
    assert by_session(joined, 'item_149')['sub-000', 'ses-1'] == 'text 149'
    found = by_session(joined, 'score_149')
    assert (found['sub-000', 'ses-2'], found['sub-001', 'ses-2']) == (150, 149)
    assert pd.isna(found['sub-000', 'ses-1'])


@pytest.mark.parametrize(
    ('sessions', 'said'),
    [
        (None, ''),
        (pd.DataFrame({'session_id': ['ses-1']}), 'no column participant_id'),
        (
            pd.DataFrame({'participant_id': ['000'] * 2, 'session_id': ['1'] * 2, 'x': [1, 2]}),
            'more than once',
        ),
    ],
)
def test_sessions_that_do_not_fit_are_said(long, sessions, said):
    joined, notes = join_sessions(long, sessions)
    assert len(joined) == len(long)
    assert said in ' '.join(notes)


def test_no_series_has_a_session():
    sessions = pd.DataFrame({'participant_id': ['000'], 'session_id': ['1']})
    assert 'no series has a session' in join_sessions(cohort(2), sessions)[1][0]


def test_times_of_the_own_file_or_else_of_the_session():
    table = pd.DataFrame({'region': ['GP'], 'hemisphere': ['both'], 'map': ['chi'], 'mean': [0.1]})
    series = [
        {'sub': '1', 'ses': 'a'},
        {'sub': '1', 'ses': 'b', 'run': '1'},
        {'sub': '1', 'ses': 'b', 'run': '2'},
    ]
    long = gather((entities, table) for entities in [*series, {'sub': '2', 'ses': 'a'}])
    scans = pd.DataFrame(
        {
            'filename': [
                'anat/sub-1_ses-a_T1w.nii.gz',
                'anat/sub-1_ses-b_run-1_part-mag_MEGRE.nii.gz',
                'anat/sub-1_ses-b_run-2_part-mag_MEGRE.nii.gz',
                'anat/sub-2_ses-a_T1w.nii.gz',
            ],
            'acq_time': ['2020-01-01T08:00:00', '2020-02-01T08:00:00', '2020-02-01T08:10:00', 'n/a'],
        }
    )
    joined, notes = join_scans(long, scans)
    assert joined['acq_time'].tolist()[:3] == scans['acq_time'].tolist()[:3]
    assert pd.isna(joined['acq_time'].iloc[3])
    assert 'no acq_time for 1 participants' in notes[0]
    kept = join_scans(long.assign(acq_time='2019-01-01'), scans)[0]['acq_time']
    assert kept.tolist() == [*scans['acq_time'][:3], '2019-01-01']


@pytest.mark.parametrize(
    ('scans', 'said'),
    [
        (None, ''),
        (pd.DataFrame({'filename': ['x']}), 'no column acq_time'),
        (
            pd.DataFrame({'filename': ['anat/sub-000_x.nii'], 'acq_time': ['soon']}),
            'no acq_time that can be read',
        ),
    ],
)
def test_times_that_cannot_be_read_are_said(long, scans, said):
    joined, notes = join_scans(long, scans)
    assert joined.equals(long)
    assert said in ' '.join(notes)


def measured(zero=0.02):
    rows = [('CSF', 'both', 'chi', zero), ('GP', 'L', 'chi', 0.12), ('GP', 'both', 'chi', 0.13)]
    rows += [('CSF', 'both', 'R2star', 2.0), ('GP', 'both', 'R2star', 40.0)]
    table = pd.DataFrame(rows, columns=['region', 'hemisphere', 'map', 'mean'])
    more = {name: table['mean'] + 0.001 for name in SHIFTED if name != 'mean'}
    return table.assign(
        **more, sd=0.01, se=0.003, se_pv=0.004, mean_positive=0.1, reference='brain', units='ppm'
    )


def test_susceptibility_relative_to_a_region():
    long = gather([({'sub': '1', 'seg': 'a'}, measured()), ({'sub': '2', 'seg': 'a'}, measured(0.05))])
    shifted, notes = relative_to(long, 'CSF')
    assert 'relative to CSF' in notes[0]
    assert len(notes) == 1
    chi = shifted['map'] == 'chi'
    np.testing.assert_allclose(shifted.loc[chi, 'mean'], [0, 0.1, 0.11, 0, 0.07, 0.08], atol=1e-12)
    for name in SHIFTED:
        np.testing.assert_allclose(long.loc[chi, name] - shifted.loc[chi, name], [0.02] * 3 + [0.05] * 3)
    assert shifted.loc[~chi, ['mean', 'se', 'reference']].equals(long.loc[~chi, ['mean', 'se', 'reference']])
    assert set(shifted.loc[chi, 'reference']) == {'CSF'}
    np.testing.assert_allclose(shifted.loc[chi, 'se'], [0, *[0.003 * 2**0.5] * 2] * 2)
    np.testing.assert_allclose(shifted.loc[chi, 'se_pv'].iloc[1], 0.005)
    assert shifted.loc[chi, 'mean_positive'].isna().all()
    assert shifted.loc[~chi, 'mean_positive'].notna().all()
    assert (shifted['sd'] == 0.01).all()


def test_the_error_of_a_zero_counts_over_that_of_its_mean():
    table = measured().assign(zero_se=[0.004, *[np.nan] * 4], core_se=0.003, se_weighted=np.nan)
    table = table.assign(against_csf=0.5, confidence=0.9)
    shifted, _ = relative_to(gather([({'sub': '1', 'seg': 'a'}, table)]), 'CSF')
    chi = shifted['map'] == 'chi'
    np.testing.assert_allclose(shifted.loc[chi, 'se'], [0, 0.005, 0.005])
    np.testing.assert_allclose(shifted.loc[chi, 'core_se'], [0, 0.005, 0.005])
    assert (shifted['against_csf'] == 0.5).all()
    assert (shifted['confidence'] == 0.9).all()


def test_series_without_the_region_are_left_out():
    without = measured().query('region != "CSF"')
    long = gather([({'sub': '1', 'run': '1'}, measured()), ({'sub': '2'}, without)])
    shifted, notes = relative_to(long, 'CSF')
    second = shifted[(shifted['participant_id'] == 'sub-2') & (shifted['map'] == 'chi')]
    assert second['mean'].isna().all()
    assert '1 series lack CSF' in notes[1]
    assert 'sub-2' in notes[1]


def test_an_unknown_region_is_an_error():
    with pytest.raises(UserError, match="No table has the region 'WM' to refer to; there are CSF, GP"):
        relative_to(gather([({'sub': '1'}, measured())]), 'WM')


def test_joins_one_after_the_other():
    people = pd.DataFrame({'participant_id': ['000', '001'], 'age': [30, 40]})
    long = cohort(2, sessions=2).drop(columns=['age', 'group', 'sex', 'score'])
    joined, _ = join_participants(long, people)
    sessions = pd.DataFrame({'participant_id': ['000'], 'session_id': ['2'], 'age': [31.5]})
    ages = by_session(join_sessions(joined, sessions)[0], 'age')
    assert list(ages.values()) == [30, 31.5, 40, 40]


@pytest.mark.parametrize('column', ['acquisition', 'run', 'reconstruction', 'atlas'])
def test_columns_of_sessions_do_not_pass_for_entities(column):
    table = pd.DataFrame({'region': ['GP'], 'hemisphere': ['both'], 'map': ['chi'], 'mean': [0.1]})
    key = {'acquisition': 'acq', 'run': 'run', 'reconstruction': 'rec', 'atlas': 'seg'}[column]
    long = gather(({'sub': '1', 'ses': '1', key: value}, table) for value in '12')
    sessions = pd.DataFrame({'participant_id': ['1'], 'session_id': ['1'], column: ['x']})
    joined, notes = join_sessions(long, sessions)
    assert joined[column].tolist() == ['1', '2']
    assert joined[f'session_{column}'].tolist() == ['x', 'x']
    assert 'renamed to session_' in notes[0]


def test_columns_of_participants_do_not_pass_for_entities_that_no_series_has():
    people = pd.DataFrame({'participant_id': ['000'], 'session_id': ['x'], 'run': [3]})
    joined, notes = join_participants(cohort(2), people)
    assert not {'session_id', 'run'} & set(joined)
    assert {'participant_session_id', 'participant_run'} < set(joined)
    assert any('session_id, run' in note for note in notes)


def test_the_zero_of_one_atlas_serves_another_of_the_same_series():
    nuclei = measured().query('region != "CSF"')
    series = [({'sub': '1', 'seg': 'a'}, measured()), ({'sub': '1', 'seg': 'b'}, nuclei)]
    shifted, notes = relative_to(gather(series), 'CSF')
    rows = shifted[(shifted['atlas'] == 'b') & (shifted['map'] == 'chi')]
    np.testing.assert_allclose(rows['mean'], [0.1, 0.11])
    assert 'another atlas' in notes[1]
    assert len(notes) == 2


def test_a_region_that_was_hardly_measured_is_no_reference():
    thin = measured(0.5).assign(coverage=lambda t: np.where(t['region'] == 'CSF', 0.3, 1.0))
    shifted, notes = relative_to(gather([({'sub': '1'}, measured()), ({'sub': '2'}, thin)]), 'CSF')
    second = shifted[(shifted['participant_id'] == 'sub-2') & (shifted['map'] == 'chi')]
    assert second['mean'].isna().all()
    assert any('Less than half of CSF was measured in 1 series' in note for note in notes)
    both = gather([({'sub': '2', 'seg': 'a'}, thin), ({'sub': '2', 'seg': 'b'}, measured())])
    shifted = relative_to(both, 'CSF')[0]
    rows = shifted[(shifted['atlas'] == 'a') & (shifted['map'] == 'chi')]
    np.testing.assert_allclose(rows['mean'], [0.48, 0.1, 0.11])
    assert (rows['se'] > 0.003).all()


def test_codes_of_groups_stay_what_they_are_where_some_have_none():
    long = cohort(3).drop(columns='group')
    people = pd.DataFrame({'participant_id': ['000', '001'], 'group': [1, 2]})
    joined, _ = join_participants(long, people)
    assert joined.groupby('participant_id')['group'].first().tolist()[:2] == ['1', '2']
    assert joined.loc[joined['participant_id'] == 'sub-002', 'group'].isna().all()
