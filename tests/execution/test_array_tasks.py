"""Shares of array jobs: whole, apart, balanced, the same everywhere; and which task a scheduler means."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_qsm.app.cli import main
from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.execution.array_tasks import (
    balanced_shares,
    own_share,
    parse_task,
    scheduled_task,
    subject_cost,
)
from bids_qsm.execution.status import read_status
from tests.skeletons import write_series, write_t1w

SLURM = {
    'SLURM_ARRAY_TASK_ID': '2',
    'SLURM_ARRAY_TASK_COUNT': '4',
    'SLURM_ARRAY_TASK_MIN': '1',
    'SLURM_ARRAY_TASK_MAX': '4',
    'SLURM_ARRAY_TASK_STEP': '1',
}
SGE = {'SGE_TASK_ID': '4', 'SGE_TASK_FIRST': '1', 'SGE_TASK_LAST': '4', 'SGE_TASK_STEPSIZE': '1'}


@pytest.mark.parametrize('text', ['0/4', '5/4', '4', '1/0', 'a/b', '1/4/2', '-1/4', '', '1 / 4', '²/4'])
def test_a_task_is_one_of_those_there_are(text):
    with pytest.raises(UserError, match='it must be I/N'):
        parse_task(text)


@pytest.mark.parametrize(
    ('environ', 'task'),
    [
        ({}, None),
        (SLURM, '2/4'),
        ({**SLURM, 'SLURM_ARRAY_TASK_MIN': '0', 'SLURM_ARRAY_TASK_MAX': '3'}, '3/4'),
        (SGE, '4/4'),
        ({'SGE_TASK_ID': 'undefined', 'SGE_TASK_FIRST': 'undefined'}, None),
    ],
)
def test_a_scheduler_tells_the_task(environ, task):
    assert scheduled_task(environ) == task


@pytest.mark.parametrize(
    'environ',
    [
        # a task submitted again alone; the first one; two of four; all but the first; steps
        {**SLURM, 'SLURM_ARRAY_TASK_COUNT': '1', 'SLURM_ARRAY_TASK_MIN': '2', 'SLURM_ARRAY_TASK_MAX': '2'},
        {
            **SLURM,
            'SLURM_ARRAY_TASK_ID': '1',
            'SLURM_ARRAY_TASK_COUNT': '1',
            'SLURM_ARRAY_TASK_MAX': '1',
        },
        {**SLURM, 'SLURM_ARRAY_TASK_COUNT': '2'},
        {**SLURM, 'SLURM_ARRAY_TASK_MIN': '2', 'SLURM_ARRAY_TASK_COUNT': '3'},
        {**SLURM, 'SLURM_ARRAY_TASK_STEP': '3', 'SLURM_ARRAY_TASK_COUNT': '2'},
        {'SLURM_ARRAY_TASK_ID': '2'},
        {**SGE, 'SGE_TASK_FIRST': '4'},
        {**SGE, 'SGE_TASK_STEPSIZE': '3'},
        {'PBS_ARRAY_INDEX': '3'},
        {'PBS_ARRAYID': '3'},
    ],
)
def test_a_share_that_a_scheduler_does_not_tell_is_asked_for(environ):
    with pytest.raises(UserError, match=r'give --array-task I/N') as error:
        scheduled_task(environ)
    assert '\n' not in str(error.value)


@settings(deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text('abc019', min_size=1), st.integers(0, 10**9), max_size=40),
    st.integers(1, 12),
    st.randoms(),
)
def test_shares_are_whole_apart_balanced_and_ordered_by_nothing(costs, count, random):
    shares = balanced_shares(costs, count)
    assert len(shares) == count
    assert sorted(name for names in shares for name in names) == sorted(costs)
    shuffled = list(costs.items())
    random.shuffle(shuffled)
    assert balanced_shares(dict(shuffled), count) == shares
    loads = [sum(costs[name] for name in names) for names in shares]
    assert max(loads) <= sum(loads) / count + max(costs.values(), default=0)
    sizes = [len(names) for names in balanced_shares(dict.fromkeys(costs, 0), count)]
    assert max(sizes) - min(sizes) <= 1


def test_cost_is_that_of_the_series(data):
    files = write_series(data, sub='01', ses='1') + write_series(data, sub='01', ses='2')
    write_t1w(data, sub='01', ses='1')
    write_t1w(data, sub='02')
    folder = data / 'sub-01' / 'ses-1' / 'anat'
    (folder / 'sub-01_ses-1_echo-9_part-mag_MEGRE.nii.gz').symlink_to('/nowhere')
    (data / 'sub-01' / 'anat').symlink_to('anat')  # a loop
    whole = sum(path.stat().st_size for path in files)
    both, one = (subject_cost(data, '01', sessions) for sessions in ((), ('2',)))
    assert both - one == whole / 2
    # of what is not fetched, git-annex tells the size
    key = 'MD5E-m12-s5000--d41d8cd98f00b204e9800998ecf8427e.nii.gz'
    link = folder / 'sub-01_ses-1_echo-8_part-mag_MEGRE.nii.gz'
    link.symlink_to(f'../../../.git/annex/objects/Xx/0Z/{key}/{key}')
    assert subject_cost(data, '01', ()) - both == 5000
    assert subject_cost(data, '02', ()) == 0
    assert subject_cost(data, '01', ('3',)) == 0


def test_largest_participants_go_to_different_tasks(data):
    for subject, size in (('01', 30), ('02', 8), ('03', 30), ('04', 8)):
        write_series(data, sub=subject, shape=(size,) * 3, echo_times=(0.01,) * (1 if size < 9 else 9))
    shares = [own_share(data, ('01', '02', '03', '04'), (), f'{task}/2') for task in (1, 2)]
    assert shares == [('01', '02'), ('03', '04')]


def test_every_task_finds_its_own_and_says_so(data, find):
    for subject in '12345':
        write_series(data, sub=subject)
    write_t1w(data, sub='6')
    plans = [find(array_task=f'{task}/4') for task in range(1, 5)]
    assert sorted(one.subject for plan in plans for one in plan.series) == list('12345')
    assert [len(plan.series) for plan in plans] == [2, 1, 1, 1]
    assert plans[0].notes == ('task 1 of 4: 2 of 6 participants.',)
    # a task without a participant, or whose participants have no series, has nothing to do
    assert find(array_task='8/8').series == ()
    assert find(array_task='6/6').series == ()
    labelled = [find(array_task=f'{task}/2', participant_label=('2', '3')) for task in (1, 2)]
    assert [[one.subject for one in plan.series] for plan in labelled] == [['2'], ['3']]


def test_shares_that_are_given_are_those(data, find):
    for subject in '12345':
        write_series(data, sub=subject)
    shares = ('5 1', '', '2 3')
    found = [[one.subject for one in find(array_task=f'{n}/3', shares=shares).series] for n in (1, 2, 3)]
    assert found == [['1', '5'], [], ['2', '3']]
    chosen = find(array_task='3/3', shares=shares, participant_label=('1', '3'))
    assert [one.subject for one in chosen.series] == ['3']
    with pytest.raises(UserError, match="--array-task is '1/2', but the setting shares holds 3"):
        find(array_task='1/2', shares=shares)


def test_a_session_may_be_that_of_another_task(data, find):
    write_series(data, sub='1', ses='a')
    write_series(data, sub='2', ses='b')
    plans = [find(array_task=f'{task}/2', session_label=('b',)) for task in (1, 2)]
    assert [one.name for plan in plans for one in plan.series] == ['sub-2_ses-b']
    with pytest.raises(UserError, match="has no session 'c'"):
        find(array_task='1/2', session_label=('c',))


def test_command_line_reads_the_scheduler_unless_told(data, tmp_path, capsys, monkeypatch):
    for subject in '123':
        write_series(data, sub=subject)
    words = [str(data), str(tmp_path / 'out'), 'participant', '--skip-bids-validation', '--dry-run']
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 0
    said = capsys.readouterr()
    assert 'task 2 of 4: 1 of 3 participants' in said.out
    assert 'running share 2/4, as the scheduler says' in said.err
    assert main([*words, '--array-task', '1/1']) == 0
    assert 'sub-3' in capsys.readouterr().out
    assert main([*words, '--participant-label', '1', '3']) == 0
    said = capsys.readouterr().out
    assert 'task' not in said
    assert 'sub-3' in said
    monkeypatch.setenv('SLURM_ARRAY_TASK_COUNT', '1')
    assert main(words) == 2
    assert '--array-task' in capsys.readouterr().err
    assert main([*words, '--array-task', '2/x']) == 2
    assert main([*words[:2], 'group', '--array-task', '1/2']) == 2
    assert '--array-task goes with the level participant' in capsys.readouterr().err


def test_a_task_with_nothing_to_do_is_done(data, tmp_path, capsys):
    write_series(data, sub='1')
    words = [str(data), str(tmp_path / 'out'), 'participant', '--skip-bids-validation']
    assert main([*words, '--array-task', '2/2']) == 0
    assert 'task 2 of 2: 0 of 1 participants. There is nothing to run.' in capsys.readouterr().err
    state = read_status(tmp_path / 'out')
    assert state['missing_tasks'] == ['1/2']
    assert [run['state'] for run in state['runs']] == ['done']


def test_a_task_records_why_its_own_cannot_run(data, tmp_path, capsys):
    for subject in '12':
        write_series(data, sub=subject, sidecar={} if subject == '2' else None)
    out = tmp_path / 'out'
    words = [str(data), str(out), 'participant', '--skip-bids-validation', '--refinement', 'none']
    assert main([*words, '--array-task', '2/2', '--dry-run']) == 1
    assert 'sub-2: error' in capsys.readouterr().out
    assert main([*words, '--array-task', '2/2']) == 1
    (failure,) = json.loads((out / 'logs' / 'sub-2.json').read_text())['failures']
    assert failure['series'] == 'sub-2'
    assert failure['message'] in capsys.readouterr().err


def test_settings_of_a_task_run_that_task_again(tmp_path):
    places = {'bids_dir': tmp_path / 'in', 'output_dir': tmp_path / 'out', 'level': 'participant'}
    options = Options(**places, array_task='2/2', shares=('01', '02 03'))
    again = Options.from_toml(options.to_toml())
    assert (again.array_task, again.shares) == ('2/2', ('01', '02 03'))
    assert 'shares' not in options.to_command(participants=('02',))
