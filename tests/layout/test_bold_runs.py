"""BOLD runs for the application fmri: which are found, in which space, and what is refused."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.app.options import Options
from bids_qsm.layout.ancillary import Anatomy
from bids_qsm.layout.bold_runs import find_runs, notes_of_session, runs_of_series
from bids_qsm.layout.index import Index
from tests.skeletons import SHAPE, write_dataset, write_image, write_json, write_t1w

FRAMES = 24
XFM = '#Insight Transform File V1.0\n'


@pytest.fixture
def prep(data, tmp_path):
    """A function that adds a run to the derivatives of fMRIPrep."""
    root = write_dataset(tmp_path / 'prep')
    write_t1w(data)
    anat = root / 'sub-01' / 'anat'
    write_image(anat / 'sub-01_desc-preproc_T1w.nii.gz')
    for label in ('GM', 'WM'):
        write_image(anat / f'sub-01_label-{label}_probseg.nii.gz')

    def add(run='sub-01_task-rest', space='', xfm='from-boldref_to-T1w_mode-image_desc-coreg', **more):
        func = root / 'sub-01' / (f'ses-{more["ses"]}' if 'ses' in more else '') / 'func'
        run = run.replace('sub-01', f'sub-01_ses-{more["ses"]}') if 'ses' in more else run
        stem = f'{run}_space-{space}' if space else run
        write_image(func / f'{stem}_desc-preproc_bold.nii.gz', (*SHAPE, more.get('frames', FRAMES)))
        write_json(func / f'{stem}_desc-preproc_bold.json', {'RepetitionTime': 2.0, 'StartTime': 0.97})
        write_image(func / f'{stem}_desc-brain_mask.nii.gz', data=np.ones(SHAPE, np.uint8))
        write_image(func / f'{stem}_{"desc-coreg_" if not space else ""}boldref.nii.gz')
        if xfm and not space:
            (func / f'{run}_{xfm}_xfm.txt').write_text(XFM)
        rows = pd.DataFrame({'csf': np.ones(more.get('rows', FRAMES))})
        rows.to_csv(func / f'{run}_desc-confounds_timeseries.tsv', sep='\t', index=False)
        return func

    add.root = root
    return add


@pytest.fixture
def runs(data, prep):
    """A function that finds the runs: (runs, notes)."""

    def find(template_xfm=(), derivatives=True, sessions=(), t1w=None, preproc=None):
        given = (('prep', prep.root),) if derivatives else ()
        options = Options(
            bids_dir=data,
            output_dir=data.parent / 'out',
            level='participant',
            derivatives=given,
            session_label=sessions,
        )
        t1w = t1w or data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz'
        if derivatives and preproc is None:
            preproc = prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz'
        anatomy = Anatomy(t1w, preproc, None, template_xfm, ())
        found, notes, warnings = find_runs('01', anatomy, options, Index(data, ['01']))
        find.warnings = warnings
        return found, notes

    return find


def test_a_run_comes_with_all_that_belongs_to_it(data, prep, runs):
    func = prep()
    (data / 'task-rest_events.tsv').write_text('onset\tduration\n1\t2\n')
    ((run,), notes) = runs()
    assert ['used no field map' in note for note in notes] == [True]
    assert (run.name, run.space, run.repetition_time, run.start_time) == ('sub-01_task-rest', '', 2.0, 0.97)
    assert run.shape == (*SHAPE, FRAMES)
    names = {
        key: path.name
        for key in ('reference', 'mask', 'grey', 'white', 'confounds', 'events')
        if (path := getattr(run, key))
    }
    assert names == {
        'reference': 'sub-01_task-rest_desc-coreg_boldref.nii.gz',
        'mask': 'sub-01_task-rest_desc-brain_mask.nii.gz',
        'grey': 'sub-01_label-GM_probseg.nii.gz',
        'white': 'sub-01_label-WM_probseg.nii.gz',
        'confounds': 'sub-01_task-rest_desc-confounds_timeseries.tsv',
        'events': 'task-rest_events.tsv',
    }
    ((path, invert),) = run.to_anat
    assert (path.name, invert) == ('sub-01_task-rest_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt', True)
    assert not run.has_fieldmap
    assert not run.is_raw
    (func / 'sub-01_task-rest_from-boldref_to-auto00000_mode-image_xfm.txt').write_text(XFM)
    (data / 'sub-01' / 'func').mkdir()
    (data / 'sub-01' / 'func' / 'sub-01_task-rest_events.tsv').write_text('onset\tduration\n1\t2\n')
    ((run,), notes) = runs()
    assert run.has_fieldmap
    assert notes == []
    assert run.events.name == 'sub-01_task-rest_events.tsv'
    json.dumps(run.paths)  # as Nipype keeps it


def test_the_space_of_the_run_comes_first_then_t1w_then_templates(prep, runs, tmp_path):
    prep(space='T1w')
    prep(space='MNI152NLin2009cAsym')
    ((run,), _) = runs()
    assert (run.space, run.to_anat) == ('T1w', ())
    prep(xfm='from-scanner_to-T1w_mode-image')  # fMRIPrep before 23.1
    ((run,), notes) = runs()
    assert run.space == ''
    assert run.has_fieldmap is None  # it wrote nothing that tells
    assert notes == []
    assert run.to_anat[0][0].name.endswith('from-scanner_to-T1w_mode-image_xfm.txt')
    (path,) = (tmp_path / 'prep').rglob('*space-T1w_desc-preproc_bold.nii.gz')
    for other in (path, run.bold):
        other.unlink()
    there, back = tmp_path / 'there.h5', tmp_path / 'back.h5'
    ((run,), _) = runs(template_xfm=(('MNI152NLin2009cAsym', there, back),))
    assert (run.space, run.to_anat) == ('MNI152NLin2009cAsym', ((there, False),))
    found, (note,) = runs()
    assert found == []
    assert 'no transform between the T1w image and its space' in note


def test_a_run_aligned_to_another_t1w_image_is_left_out(prep, runs):
    prep()
    write_image(prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz', (9, 9, 9))
    # the image in use is that of the dataset
    found, notes = runs(derivatives=True)
    assert len(found) == 1
    (prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz').rename(
        prep.root / 'sub-01' / 'anat' / 'sub-01_acq-b_desc-preproc_T1w.nii.gz'
    )
    found, notes = runs(derivatives=True)
    assert (found, 'give prep first by -d' in notes[0]) == ([], True)


@pytest.mark.parametrize(
    ('how', 'says'),
    [({'rows': 23}, 'has 23 rows, but .* has 24 frames'), ({'frames': 12, 'rows': 12}, 'has 12 frames')],
)
def test_a_run_that_cannot_be_used_is_left_out(data, prep, runs, how, says):
    """The others stay, and a run that fMRIPrep prepared does not come back as a raw one."""
    prep(**how)
    prep('sub-01_task-nback')
    add_raw(data)
    ((run,), _) = runs()
    assert run.name == 'sub-01_task-nback'
    (warning,) = runs.warnings
    assert re.search(f'sub-01_task-rest is left out: .*{says}', warning)


def test_a_run_with_a_table_without_onsets_is_left_out(data, prep, runs):
    prep()
    (data / 'task-rest_events.tsv').write_text('start\tduration\n1\t2\n')
    assert runs()[0] == []
    assert "task-rest_events.tsv has no column 'onset'" in runs.warnings[0]


def test_a_run_with_a_mask_on_another_grid_is_left_out(prep, runs):
    func = prep()
    write_image(func / 'sub-01_task-rest_desc-brain_mask.nii.gz', (9, 9, 9))
    assert runs()[0] == []
    assert re.search('in the derivatives prep.*differ in size', runs.warnings[0])


def add_raw(data, run='sub-01_task-rest', **about):
    ses = next((part for part in run.split('_') if part.startswith('ses-')), '')
    path = write_image(data / 'sub-01' / ses / 'func' / f'{run}_bold.nii.gz', (*SHAPE, FRAMES))
    write_json(path.with_name(f'{run}_bold.json'), {'RepetitionTime': 1.5, 'TaskName': 'rest', **about})


def test_a_prepared_run_that_is_left_out_does_not_become_a_raw_one(data, prep, runs):
    prep(space='MNI152NLin2009cAsym')  # to which there is no transform
    add_raw(data)
    found, notes = runs()
    assert found == []
    assert ['no transform between' in note for note in notes] == [True]
    write_image(prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz', (9, 9, 9))
    found, notes = runs(preproc=data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz')
    assert found == []
    assert 'aligned to another T1w image' in notes[0]


def test_only_runs_of_the_sessions_that_were_asked_for_are_found(data, prep, runs):
    """Another session would get the veins of this one, over what it got by itself."""
    for ses in ('01', '02'):
        prep(ses=ses)
        add_raw(data, f'sub-01_ses-{ses}_task-rest')
        add_raw(data, f'sub-01_ses-{ses}_task-nback')
    assert len(runs()[0]) == 4
    names = [run.name for run in runs(sessions=('02',))[0]]
    assert names == ['sub-01_ses-02_task-nback', 'sub-01_ses-02_task-rest']


def test_a_run_aligned_to_the_t1w_image_of_its_own_session_is_left_out(prep, runs):
    """Of a sessionwise fMRIPrep each session is in its own place, though the grids are equal."""
    for ses in ('01', '02'):
        prep(ses=ses)
        write_image(prep.root / f'sub-01/ses-{ses}/anat/sub-01_ses-{ses}_desc-preproc_T1w.nii.gz')
    (prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz').unlink()
    found, notes = runs(preproc=prep.root / 'sub-01/ses-01/anat/sub-01_ses-01_desc-preproc_T1w.nii.gz')
    assert [run.name for run in found] == ['sub-01_ses-01_task-rest']
    (note,) = (note for note in notes if 'another T1w image' in note)
    assert note.startswith('sub-01_ses-02_task-rest of')


@pytest.mark.parametrize('space', ['T1w', 'MNI152NLin2009cAsym'])
def test_a_run_of_another_resolution_comes_with_its_mask(prep, runs, tmp_path, space):
    prep(space=f'{space}_res-2')
    there = tmp_path / 'there.h5'
    ((run,), _) = runs(template_xfm=(('MNI152NLin2009cAsym', there, there),))
    assert run.space == space
    assert run.mask.name == f'sub-01_task-rest_space-{space}_res-2_desc-brain_mask.nii.gz'
    assert run.reference.name == f'sub-01_task-rest_space-{space}_res-2_boldref.nii.gz'
    assert run.confounds is not None


def test_a_raw_run_counts_where_fmriprep_has_none(data, prep, runs):
    prep()
    for task in ('rest', 'nback'):
        path = write_image(data / 'sub-01' / 'func' / f'sub-01_task-{task}_bold.nii.gz', (*SHAPE, FRAMES))
        write_json(path.with_name(f'sub-01_task-{task}_bold.json'), {'RepetitionTime': 1.5, 'TaskName': task})
    found, (_, note) = runs()
    assert [(run.name, run.is_raw) for run in found] == [
        ('sub-01_task-nback', True),
        ('sub-01_task-rest', False),
    ]
    assert 'was not prepared by fMRIPrep' in note
    assert found[0].confounds is None
    assert found[0].repetition_time == 1.5


def test_a_run_without_a_repetition_time_is_left_out(data, runs):
    add_raw(data, RepetitionTime=None)
    assert runs(derivatives=False) == ([], [])
    assert 'has no RepetitionTime between' in runs.warnings[0]


def test_it_is_said_that_a_run_takes_the_veins_of_another_session():
    one = SimpleNamespace(session='2', name='sub-01_ses-2')
    runs = [SimpleNamespace(session=s, name=f'run{s}') for s in ('1', '2', None)]
    (note,) = notes_of_session(runs, one)
    assert note.startswith('run1: ')
    assert 'those of sub-01_ses-2' in note


def test_each_run_goes_to_one_series():
    series = [SimpleNamespace(session=s) for s in ('1', '1', '2')]
    runs = [SimpleNamespace(session=s, name=f'{s}') for s in ('1', '2', '3', None)]
    shared = [[run.name for run in runs_of_series(runs, one, series)] for one in series]
    assert shared == [['1', '3', 'None'], [], ['2']]
