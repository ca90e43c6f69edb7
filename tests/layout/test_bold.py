"""BOLD runs with phase: left alone unless asked for, then the series of the run."""

import json
import re

import pytest

from bids_qsm.errors import UserError
from tests.skeletons import SHAPE, only_error, write_image, write_json, write_series, write_t1w


@pytest.fixture
def bold(data):
    """A function that adds a run of four frames to func/, two images an echo."""

    def add(name='sub-01_task-rest_run-2', echo_times=(0.03,), parts=('mag', 'phase'), frames=4, **sidecar):
        folder = data / name.partition('_')[0] / 'func'
        for number, time in enumerate(echo_times, 1):
            for part in parts:
                echo = f'_echo-{number}' if len(echo_times) > 1 else ''
                stem = '_'.join(filter(None, [f'{name}{echo}', part and f'part-{part}', 'bold']))
                write_image(folder / f'{stem}.nii.gz', (*SHAPE, frames) if frames else SHAPE)
                about = {'EchoTime': time, 'MagneticFieldStrength': 3.0, 'TaskName': 'rest', **sidecar}
                write_json(folder / f'{stem}.json', about)
        return folder

    return add


def test_a_run_is_left_alone_and_it_is_said_how_to_ask_for_it(data, find, bold):
    write_series(data)
    bold()
    bold('sub-01_task-nback')
    bold('sub-01_task-other', parts=('',))
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    assert plan.rejected == ()
    (note,) = plan.notes
    assert note.startswith('sub-01_task-nback and 1 more: BOLD with phase is left alone; --start-from bold')


def test_a_dataset_of_runs_alone_says_how_to_ask_for_them(find, bold):
    bold()
    with pytest.raises(UserError, match=re.escape('sub-01_task-rest_run-2: BOLD with phase')):
        find()


def test_runs_are_the_series_when_asked_for(data, find, bold):
    write_series(data)
    write_t1w(data)
    bold(MRAcquisitionType='2D')
    bold('sub-01_task-nback', parts=('',))
    plan = find(start_from='bold')
    (one,) = plan.series
    assert (one.name, one.suffix, one.frames) == ('sub-01_task-rest_run-2', 'bold', 4)
    assert (one.echo_times, one.shape, one.field_strength) == ((0.03,), SHAPE, 3)
    assert [path.name for path in one.files] == [
        f'sub-01_task-rest_run-2_part-{part}_bold.nii.gz' for part in ('mag', 'phase')
    ]
    assert one.t1w.name == 'sub-01_T1w.nii.gz'
    assert any('mean of the 4 frames' in note and 'distortion' in note for note in one.notes)
    assert (plan.rejected, plan.notes) == ((), ())


def test_echoes_of_a_run_are_one_series(find, bold):
    bold(echo_times=(0.012, 0.028, 0.044))
    (one,) = find(start_from='bold').series
    assert one.echo_times == (0.012, 0.028, 0.044)
    assert len(one.phase) == len(one.magnitude) == 3


def test_magnitudes_may_be_named_without_part(find, bold):
    bold(parts=('', 'phase'))
    (one,) = find(start_from='bold').series
    assert one.magnitude[0].name == 'sub-01_task-rest_run-2_bold.nii.gz'


def test_a_participant_without_a_run_is_an_error(data, find, bold):
    bold()
    write_series(data, sub='02')
    plan = find(start_from='bold')
    assert [one.subject for one in plan.series] == ['01']
    (rejected,) = plan.rejected
    assert (rejected.name, rejected.is_error) == ('sub-02', True)
    assert 'asks for a run with phase (part-phase_bold), and there is none; add it' in rejected.reason


@pytest.mark.parametrize(
    ('how', 'says'),
    [
        ({'frames': None}, 'has a single frame (8 x 9 x 7), but a run of frames is 4D'),
        ({'frames': 1}, 'has a single frame (8 x 9 x 7 x 1), but a run of frames is 4D'),
        ({'parts': ('phase',)}, 'has no magnitude: part-mag of its echo is missing'),
        ({'EchoTime': None}, 'has no EchoTime in its sidecar'),
        ({'MagneticFieldStrength': None}, 'has neither MagneticFieldStrength nor ImagingFrequency'),
    ],
)
def test_what_is_wrong_with_a_run_is_said(find, bold, how, says):
    bold(**how)
    assert says in only_error(find(start_from='bold'))


def test_runs_of_different_length_are_refused(find, bold):
    bold(parts=('mag',))
    bold(parts=('phase',), frames=5)
    assert '8 x 9 x 7 x 4' in only_error(find(start_from='bold'))


def test_a_filter_file_chooses_runs(find, bold, tmp_path):
    bold()
    bold('sub-01_task-nback')
    path = write_json(tmp_path / 'filter.json', {'bold': {'task': 'nback'}})
    assert [one.name for one in find(start_from='bold', bids_filter_file=path).series] == [
        'sub-01_task-nback'
    ]


def test_a_stored_index_holds_the_runs(find, bold, tmp_path):
    folder = bold()
    settings = {'bids_database_dir': tmp_path / 'index', 'start_from': 'bold'}
    assert len(find(**settings).series) == 1
    bold('sub-01_task-nback')
    assert len(find(**settings).series) == 2
    # images that nobody asks for do not make it again
    made = next((tmp_path / 'index').iterdir()).stat().st_mtime_ns
    write_image(folder / 'sub-01_task-nback_sbref.nii.gz')
    (folder / 'sub-01_task-nback_events.tsv').write_text('onset\tduration\n')
    assert len(find(**settings).series) == 2
    assert next((tmp_path / 'index').iterdir()).stat().st_mtime_ns == made


def test_an_odd_name_of_a_run_is_told_of_only_when_asked_for(data, find, bold):
    write_series(data)
    folder = bold()
    first = folder / 'sub-01_task-rest_run-2_part-mag_bold.nii.gz'
    first.rename(first.with_name('sub-01_task-a b_part-mag_bold.nii.gz'))
    assert find().rejected == ()
    reasons = json.dumps([one.reason for one in find(start_from='bold').rejected])
    assert 'task-a b' in reasons
