"""BOLD runs for the application fmri: which are found, in which space, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.layout.ancillary import Anatomy
from bids_qsm.layout.bold_runs import find_runs, runs_of_series
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
        func = root / 'sub-01' / 'func'
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

    def find(template_xfm=(), derivatives=True):
        given = (('prep', prep.root),) if derivatives else ()
        options = Options(
            bids_dir=data, output_dir=data.parent / 'out', level='participant', derivatives=given
        )
        t1w = data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz'
        preproc = prep.root / 'sub-01' / 'anat' / 'sub-01_desc-preproc_T1w.nii.gz' if derivatives else None
        anatomy = Anatomy(t1w, preproc, None, template_xfm, ())
        return find_runs('01', anatomy, options, Index(data, ['01']))

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
    ((run,), _) = runs()
    assert run.space == ''
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
def test_what_is_wrong_with_a_run_is_an_error(prep, runs, how, says):
    prep(**how)
    with pytest.raises(UserError, match=says):
        runs()


def test_a_table_without_onsets_is_an_error(data, prep, runs):
    prep()
    (data / 'task-rest_events.tsv').write_text('start\tduration\n1\t2\n')
    with pytest.raises(UserError, match=r"task-rest_events.tsv has no column 'onset'"):
        runs()


def test_a_mask_on_another_grid_is_an_error(prep, runs):
    func = prep()
    write_image(func / 'sub-01_task-rest_desc-brain_mask.nii.gz', (9, 9, 9))
    with pytest.raises(UserError, match=r'in the derivatives prep.*differ in size'):
        runs()


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


def test_a_run_without_a_repetition_time_is_an_error(data, runs):
    path = write_image(data / 'sub-01' / 'func' / 'sub-01_task-rest_bold.nii.gz', (*SHAPE, FRAMES))
    write_json(path.with_name('sub-01_task-rest_bold.json'), {'TaskName': 'rest'})
    with pytest.raises(UserError, match='has no RepetitionTime between'):
        runs(derivatives=False)


def test_each_run_goes_to_one_series():
    series = [SimpleNamespace(session=s) for s in ('1', '1', '2')]
    runs = [SimpleNamespace(session=s, name=f'{s}') for s in ('1', '2', '3', None)]
    shared = [[run.name for run in runs_of_series(runs, one, series)] for one in series]
    assert shared == [['1', '3', 'None'], [], ['2']]
