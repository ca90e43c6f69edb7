import numpy as np
import pytest

from bids_qsm.app.methods import Method
from bids_qsm.errors import UserError
from bids_qsm.layout.inputs import without_too_few
from tests.skeletons import (
    SHAPE,
    only_error,
    stem_of,
    write_fmriprep,
    write_image,
    write_json,
    write_series,
    write_t1w,
)


def names(series, space):
    """Files of applications in a space."""
    return [item.path.name for item in series.inputs if item.space == space]


def test_t1w_of_the_first_session_and_lowest_run(data, find):
    write_series(data, ses='a')
    write_series(data, ses='b')
    for ses, entities in (('b', ''), ('a', 'run-2'), ('a', 'run-1'), ('a', 'ce-gd_run-1')):
        write_t1w(data, ses=ses, entities=entities)
    plan = find()
    assert {s.t1w.name for s in plan.series} == {'sub-01_ses-a_run-1_T1w.nii.gz'}
    assert 'There are 4 T1w images' in ' '.join(plan.series[0].notes)


def test_t1w_is_the_same_whichever_session_is_asked_for(data, find):
    for ses in ('a', 'b'):
        write_series(data, ses=ses)
        write_t1w(data, ses=ses)
    (one,) = find(session_label=('b',)).series
    assert one.t1w.name == 'sub-01_ses-a_T1w.nii.gz'


def test_a_damaged_t1w_is_left_out(data, find):
    write_series(data)
    write_t1w(data).write_bytes(b'')
    (one,) = find().series
    assert one.t1w is None
    assert 'A T1w image is not used: sub-01_T1w.nii.gz cannot be read' in one.notes[0]
    assert 'There is no T1w image to use; the magnitude of the series itself' in one.notes[1]
    second = write_t1w(data, entities='run-2')
    assert find().series[0].t1w == second


def test_an_odd_lesion_mask_is_left_out(data, find):
    write_series(data)
    manual = data / 'derivatives/manual/sub-01/anat'
    write_image(manual / 'sub-01_label-lesion_mask.nii.gz', (*SHAPE, 2))
    write_image(manual / 'sub-01_label-lesion2_mask.nii.gz').write_bytes(b'x')
    good = write_image(manual / 'sub-01_label-lesion3_mask.nii.gz', (*SHAPE, 1))
    (one,) = find().series
    assert names(one, 'gre') == [good.name]
    told = [note for note in one.notes if 'A lesion mask is not used: ' in note]
    assert [('is 4D' in note, 'cannot be read' in note) for note in told] == [(False, True), (True, False)]


def test_fmriprep_derivatives(data, find, tmp_path):
    write_series(data)
    write_t1w(data)
    given = write_fmriprep(tmp_path / 'fmriprep', spaces=('MNI152NLin2009cAsym', 'MNI152NLin6Asym'))
    (one,) = find(derivatives=(('fmriprep', given),)).series
    assert one.brain_mask.name == 'sub-01_desc-brain_mask.nii.gz'
    assert one.t1w_preproc.name == 'sub-01_desc-preproc_T1w.nii.gz'
    assert [space for space, _, _ in one.template_xfm] == ['MNI152NLin2009cAsym', 'MNI152NLin6Asym']
    _, there, back = one.template_xfm[0]
    assert 'from-T1w_to-MNI152NLin2009cAsym' in there.name
    assert 'from-MNI152NLin2009cAsym_to-T1w' in back.name
    assert 'The brain mask of the derivatives fmriprep is used.' in one.notes


def test_derivatives_without_the_subject_are_noted(data, find, tmp_path):
    write_series(data)
    given = write_fmriprep(tmp_path / 'fmriprep', sub='02')
    (one,) = find(derivatives=(('fmriprep', given),)).series
    assert one.brain_mask is None
    assert 'The derivatives fmriprep hold nothing for sub-01.' in one.notes


def test_derivatives_that_do_not_fit(data, find, tmp_path):
    write_series(data)
    given = write_fmriprep(tmp_path / 'fmriprep')
    write_image(given / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz', shape=(5, 5, 5))
    assert 'in the derivatives fmriprep, sub-01_desc-brain_mask' in only_error(
        find(derivatives=(('fmriprep', given),))
    )


def test_derivatives_that_are_not_there(data, find, tmp_path):
    write_series(data)
    with pytest.raises(UserError, match=r'--derivatives fmriprep=.*is not a folder'):
        find(derivatives=(('fmriprep', tmp_path / 'none'),))


def test_lesions_and_the_grid_they_lie_on(data, find, tmp_path):
    write_series(data, ses='a')
    write_series(data, ses='b')
    write_t1w(data, ses='a')
    manual = data / 'derivatives' / 'manual' / 'sub-01' / 'ses-a' / 'anat'
    given = tmp_path / 'given' / 'sub-01' / 'ses-b' / 'anat'
    write_image(manual / 'sub-01_ses-a_label-lesion_mask.nii.gz')
    write_image(manual / 'sub-01_ses-a_desc-t1_label-lesion_roi.nii.gz', (10, 11, 12), np.eye(4))
    write_image(manual / 'sub-01_ses-a_space-MNI152Lin_label-lesion_mask.nii.gz', (4, 4, 4), np.eye(4))
    write_image(manual / 'sub-01_ses-a_label-lesion2_mask.nii.gz', (4, 4, 4), np.eye(4))
    write_image(manual / 'sub-01_ses-a_space-T1w_label-lesion_mask.nii.gz', (4, 4, 4), np.eye(4))
    write_image(manual / 'sub-01_ses-a_acq-lost_label-lesion_mask.nii.gz', (4, 4, 4), np.eye(4))
    write_image(given / 'sub-01_ses-b_space-T1w_label-lesion_mask.nii.gz', (10, 11, 12), np.eye(4))
    write_image(given / 'sub-01_ses-b_T1w_label-lesion_mask.nii.gz', (4, 4, 4), np.eye(4))
    write_image(given / 'sub-01_ses-b_acq-other_label-lesion_mask.nii.gz')
    first, second = find(derivatives=(('given', tmp_path / 'given'),)).series
    assert names(first, 'gre') == ['sub-01_ses-a_label-lesion_mask.nii.gz']
    assert names(first, 'anat') == [
        'sub-01_ses-a_desc-t1_label-lesion_roi.nii.gz',
        'sub-01_ses-a_space-T1w_label-lesion_mask.nii.gz',
    ]
    notes = ' '.join(first.notes)
    assert 'is in the space MNI152Lin and is not used' in notes
    assert 'label-lesion2_mask.nii.gz lies neither on the grid' in notes
    assert 'acq-lost_label-lesion_mask.nii.gz lies neither on the grid' in notes
    assert (
        'The lesion mask sub-01_ses-b_T1w_label-lesion_mask.nii.gz was drawn on the T1w image of session b, '
        'but sub-01_ses-a_T1w.nii.gz is the one in use'
    ) in ' '.join(second.notes)
    assert names(second, 'gre') == []
    assert names(second, 'anat') == ['sub-01_ses-b_space-T1w_label-lesion_mask.nii.gz']
    assert [item.space for item in second.inputs] == ['anat']


def test_a_mask_of_another_session_is_not_laid_on_an_equal_grid(data, find):
    for ses in ('a', 'b'):
        write_series(data, ses=ses)
        write_t1w(data, ses=ses)
    manual = data / 'derivatives/manual/sub-01/ses-b/anat'
    for name in ('space-T1w_label-lesion', 'label-lesion'):
        write_image(manual / f'sub-01_ses-b_{name}_mask.nii.gz', (10, 11, 12), np.eye(4))
    first, second = find().series
    assert first.inputs == second.inputs == ()
    notes = ' '.join(second.notes)
    assert (
        'sub-01_ses-b_space-T1w_label-lesion_mask.nii.gz was drawn on the T1w image of session b, but '
        'sub-01_ses-a_T1w.nii.gz is the one in use, and the head lies elsewhere in it; it is not used'
    ) in notes
    assert (
        'sub-01_ses-b_label-lesion_mask.nii.gz is of session b, which has a T1w image of its own, but '
        'sub-01_ses-a_T1w.nii.gz is the one in use, and the head lies elsewhere in it; it is not used'
    ) in notes


def test_nor_on_that_of_a_preprocessed_t1w_of_all_sessions(data, find, tmp_path):
    write_series(data, ses='b')
    for ses in ('a', 'b'):
        write_t1w(data, ses=ses)
    manual = data / 'derivatives/manual/sub-01'
    for ses in ('', '_ses-b'):
        write_image(manual / f'anat/sub-01{ses}_label-lesion_mask.nii.gz', (10, 11, 12), np.eye(4))
    (one,) = find(derivatives=(('given', write_fmriprep(tmp_path / 'given')),)).series
    assert names(one, 'anat') == ['sub-01_label-lesion_mask.nii.gz']
    assert 'sub-01_ses-b_label-lesion_mask.nii.gz is of session b' in ' '.join(one.notes)


def test_a_mask_on_the_raw_t1w_where_the_preprocessed_one_has_another_grid(data, find, tmp_path):
    write_series(data)
    write_t1w(data, shape=(9, 9, 9))
    manual = data / 'derivatives/manual/sub-01/anat'
    write_image(manual / 'sub-01_label-lesion_mask.nii.gz', (9, 9, 9), np.eye(4))
    (one,) = find(derivatives=(('given', write_fmriprep(tmp_path / 'given')),)).series
    assert one.t1w_preproc is not None
    assert names(one, 'anat') == ['sub-01_label-lesion_mask.nii.gz']


def test_an_empty_lesion_mask_goes_through(data, find):
    write_series(data)
    empty = np.zeros(SHAPE, np.uint8)
    write_image(data / 'derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz', data=empty)
    (one,) = find().series
    assert names(one, 'gre') == ['sub-01_label-lesion_mask.nii.gz']
    assert not any('lesion' in note for note in one.notes)


FLAIR_SHAPE = (6, 7, 5)


def write_flair(data, ses=None, entities='', affine=None):
    folder, stem = stem_of('01', ses, entities)
    affine = np.diag([3.0, 3, 3, 1]) if affine is None else affine
    return write_image(data / folder / f'{stem}_FLAIR.nii.gz', FLAIR_SHAPE, affine)


def drawn(data, name, shape=FLAIR_SHAPE, affine=None):
    affine = np.diag([3.0, 3, 3, 1]) if affine is None else affine
    return write_image(data / 'derivatives/manual/sub-01/anat' / name, shape, affine)


def test_lesions_drawn_on_flair(data, find):
    write_series(data)
    write_t1w(data)
    write_flair(data)
    drawn(data, 'sub-01_label-lesion_mask.nii.gz')
    drawn(data, 'sub-01_space-FLAIR_label-lesion_mask.nii.gz', (4, 4, 4))
    drawn(data, 'sub-01_FLAIR_label-lesion_dseg.nii.gz')
    (one,) = find().series
    assert one.flair.name == 'sub-01_FLAIR.nii.gz'
    assert names(one, 'flair') == [
        'sub-01_FLAIR_label-lesion_dseg.nii.gz',
        'sub-01_label-lesion_mask.nii.gz',
        'sub-01_space-FLAIR_label-lesion_mask.nii.gz',
    ]
    assert {item.space for item in one.inputs} == {'flair'}


def test_the_flair_of_the_session_that_lesions_were_drawn_on(data, find):
    other = np.diag([3.0, 3, 4, 1])
    for ses in ('a', 'b'):
        write_series(data, ses=ses)
        write_flair(data, ses)
    write_flair(data, 'b', 'run-2', other)
    drawn(data, 'sub-01_ses-b_label-lesion_mask.nii.gz', affine=other)
    first, second = find().series
    assert (first.flair.name, second.flair.name) == (
        'sub-01_ses-a_FLAIR.nii.gz',
        'sub-01_ses-b_run-2_FLAIR.nii.gz',
    )
    assert (names(first, 'flair'), len(names(second, 'flair'))) == ([], 1)


def test_lesions_on_a_flair_that_cannot_be_used(data, find):
    write_series(data)
    mask = drawn(data, 'sub-01_space-FLAIR_label-lesion_mask.nii.gz')
    (one,) = find().series
    assert one.flair is None
    assert 'was drawn on the FLAIR image, which is not there; it is not used' in ' '.join(one.notes)
    write_flair(data).write_bytes(b'')
    (one,) = find().series
    assert names(one, 'flair') == []
    assert 'label-lesion_mask.nii.gz is not used: sub-01_FLAIR.nii.gz cannot be read' in ' '.join(one.notes)
    mask.unlink()
    assert len(find().series) == 1


def mask_files(pattern):
    return Method('file', (('path', str(pattern)),))


def test_masks_of_the_user(data, find, tmp_path):
    write_series(data, ses='a')
    write_series(data, ses='b')
    for session in 'ab':
        write_image(tmp_path / f'sub-01_ses-{session}_m.nii.gz')
    for pattern in ('{series}_m.nii.gz', 'sub-{subject}_ses-{session}_m.nii.gz'):
        plan = find(mask=mask_files(tmp_path / pattern))
        assert [one.mask.name for one in plan.series] == ['sub-01_ses-a_m.nii.gz', 'sub-01_ses-b_m.nii.gz']


@pytest.mark.parametrize(
    ('pattern', 'says'),
    [
        ('none.nii.gz', 'none.nii.gz of sub-01 is not there'),
        ('{session}.nii.gz', 'no entity of that name; known words are: {series}, {subject}'),
        ('flat.nii.gz', 'the mask flat.nii.gz is not a volume'),
    ],
)
def test_masks_that_cannot_be_used(data, find, tmp_path, pattern, says):
    write_series(data)
    write_image(tmp_path / 'flat.nii.gz', shape=(4, 4))
    assert says in only_error(find(mask=mask_files(tmp_path / pattern)))


def test_one_mask_for_many_series(data, find, tmp_path):
    write_series(data)
    write_series(data, sub='02')
    with pytest.raises(UserError, match='names one file for 2 series'):
        find(mask=mask_files(write_image(tmp_path / 'm.nii.gz')))


def test_a_mask_of_the_user_must_hold_something_of_the_series(data, find, tmp_path):
    write_series(data)
    empty = write_image(tmp_path / 'empty.nii.gz', data=np.zeros(SHAPE, np.uint8))
    assert 'the mask empty.nii.gz is empty' in only_error(find(mask=Method('file', (('path', str(empty)),))))
    away = np.eye(4)
    away[:3, 3] = 500
    far = write_image(tmp_path / 'far.nii.gz', affine=away)
    assert 'the mask far.nii.gz lies outside of sub-01' in only_error(
        find(mask=Method('file', (('path', str(far)),)))
    )


def test_a_brain_mask_of_derivatives_on_the_grid_of_a_series_without_t1w_is_used(data, find, tmp_path):
    write_series(data)
    given = tmp_path / 'given'
    path = write_image(given / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz')
    (one,) = find(derivatives=(('qsm', given),)).series
    assert one.brain_mask == one.anat_mask == path
    assert 'The brain mask sub-01_desc-brain_mask.nii.gz of the derivatives qsm is used.' in one.notes


@pytest.mark.parametrize('asked', [True, False])
def test_what_is_no_head_has_no_regions(data, find, monkeypatch, asked):
    write_series(data)
    monkeypatch.setattr('bids_qsm.layout.ancillary.why_no_head', lambda *_: 'it is a crop')
    (one,) = find(no_registration=asked).series
    assert not one.has_regions
    assert not one.is_head
    said = one.notes if asked else one.warnings
    assert any('shows no head: it is a crop.' in text for text in said)
    assert any('--no-registration' in text for text in said) == asked
    assert bool(one.warnings) != asked
    monkeypatch.setattr('bids_qsm.layout.ancillary.why_no_head', lambda *_: None)
    (one,) = find(no_registration=asked).series
    assert one.is_head
    assert one.has_regions != asked


def test_with_a_t1w_nobody_asks_whether_it_is_a_head(data, find, monkeypatch):
    write_series(data)
    write_t1w(data)
    monkeypatch.setattr('bids_qsm.layout.ancillary.why_no_head', lambda *_: 'it is a crop')
    (one,) = find().series
    assert one.has_regions
    assert not one.warnings


def test_bold_runs_go_with_the_veins_of_their_session(data, find):
    """Where a session has no series, its runs take the veins of another; a broken run costs only itself."""
    write_series(data, ses='b')
    write_t1w(data)
    for ses, shape in (('a', (*SHAPE, 24)), ('b', (*SHAPE, 24)), ('c', (*SHAPE, 1))):
        run = write_image(
            data / 'sub-01' / f'ses-{ses}' / 'func' / f'sub-01_ses-{ses}_task-x_bold.nii.gz', shape
        )
        write_json(run.with_name(f'sub-01_ses-{ses}_task-x_bold.json'), {'RepetitionTime': 2.0})
    asked = {'applications': (Method('fmri'),)}

    def planned(**more):
        (one,) = find(**asked, **more).series
        return one, [run.name for use in one.applications for run in use.runs]

    one, runs = planned()
    assert runs == ['sub-01_ses-a_task-x', 'sub-01_ses-b_task-x']
    (note,) = (note for note in one.notes if 'its session has no map of veins' in note)
    assert note.startswith('sub-01_ses-a_task-x: ')
    (warning,) = one.warnings
    assert 'sub-01_ses-c_task-x is left out' in warning
    one, runs = planned(session_label=('b',))
    assert (runs, one.warnings) == (['sub-01_ses-b_task-x'], ())
    one, runs = planned(no_registration=True)
    assert (runs, one.warnings) == ([], ())


def flow_maps(series):
    return [(one.path.name, one.space) for one in series.inputs if one.query == 'perfusion']


def test_a_flow_map_is_taken_in_the_space_of_the_head(data, find, tmp_path):
    """Of all that a perfusion pipeline writes, the plain map on the T1w image."""
    write_series(data)
    names_ = (
        *('space-MNI152NLin2009cAsym_cbf', 'space-T1w_cbf', 'space-T1w_desc-basil_cbf'),
        *('cbf', 'desc-scrub_cbf'),
    )
    perf = tmp_path / 'aslprep' / 'sub-01' / 'perf'
    for name in names_:
        write_image(perf / f'sub-01_{name}.nii.gz', (5, 5, 5), np.eye(4))
    settings = {'derivatives': (('aslprep', tmp_path / 'aslprep'),), 'applications': (Method('oximetry'),)}
    # without a T1w image all of these are aligned here
    assert flow_maps(find(**settings).series[0])[0][0] in ('sub-01_cbf.nii.gz', 'sub-01_space-T1w_cbf.nii.gz')
    write_t1w(data)
    (one,) = find(**settings).series
    assert flow_maps(one) == [('sub-01_space-T1w_cbf.nii.gz', 'anat')]
    assert 'cbf.nii.gz is in the space MNI152NLin2009cAsym and is not used' in ' '.join(one.notes)
    for name in names_[1:3]:
        (perf / f'sub-01_{name}.nii.gz').unlink()
    assert flow_maps(find(**settings).series[0]) == [('sub-01_cbf.nii.gz', 'own')]


def test_blood_that_cannot_be_is_refused_when_planning(data, find):
    write_series(data)
    (data / 'participants.tsv').write_text('participant_id\thematocrit\nsub-01\t42,5\n')
    assert 'hematocrit of the participant' in only_error(find(applications=(Method('oximetry'),)))


def test_oximetry_of_too_little_is_left_out(data, find, tmp_path):
    """Three echoes do not show how the decay bends; given maps have no echoes at all."""
    write_t1w(data)
    tool = tmp_path / 'tool' / 'sub-01' / 'anat'
    inner = 3 * (slice(1, -1),)
    chi = np.zeros(SHAPE, np.float32)
    chi[inner] = np.random.default_rng(0).normal(0, 0.05, chi[inner].shape)
    for name in ('Chimap', 'localfield'):
        write_image(tool / f'sub-01_{name}.nii.gz', data=chi).with_name(f'sub-01_{name}.json').write_text(
            '{"Units": "ppm"}'
        )
    asked = {'applications': (Method('oximetry'), Method('qbold'), Method('candidates'))}
    (one,) = find(derivatives=(('tool', tmp_path / 'tool'),), **asked).series
    assert not {'oximetry', 'qbold'} & {use.name for use in one.applications}
    # nor is that missed which nobody asked for, and for which there is no CT
    assert not any('Candidates in CT' in note for note in one.notes)
    (said,) = [note for note in one.notes if note.startswith('Venous oxygenation: left out')]
    assert 'no echo times and no field strength' in said
    write_series(data)
    (one,) = find(**asked).series
    assert {use.name for use in one.applications} & {'oximetry', 'qbold'} == {'oximetry'}
    assert 'takes 4 echoes or more, and the series has 3' in ' '.join(one.notes)


def test_head_positions_need_several_series_of_a_session(data, find):
    write_t1w(data)
    write_series(data)
    (one,) = find(applications=(Method('cosmos'),)).series
    assert 'cosmos' not in {use.name for use in one.applications}
    assert 'takes 2 series or more of a session, and there is 1' in ' '.join(one.notes)


def test_series_that_cannot_take_part_are_no_head_positions(data, find):
    write_t1w(data)
    for run in (1, 2):
        write_series(data, entities=f'run-{run}')
    first, second = find(applications=(Method('cosmos'),)).series
    assert [use.name for use in second.applications if use.name == 'cosmos'] == ['cosmos']
    others = tuple(use for use in second.applications if use.name != 'cosmos')
    found = without_too_few([(first, first.applications, []), (second, others, ['no local field'])])
    assert [uses for _, uses, _ in found] == [others, others]
    assert 'only 1 of those there has what it needs' in found[0][2][0]
    assert found[1][2] == ['no local field']


def test_head_positions_that_do_not_go_together_are_refused_before_anything_runs(data, find):
    asked = {'applications': (Method('cosmos'),)}
    write_t1w(data)
    for acq in ('pos1', 'pos2'):
        write_series(data, entities=f'acq-{acq}')
    table = data / 'sub-01' / 'sub-01_orientations.tsv'
    table.write_text('file\tx\ty\tz\nsub-01_acq-pos1_echo-1_part-mag_MEGRE.nii.gz\t0\t0\t1\n')
    for one in find(**asked).rejected:
        assert one.is_error
        assert one.reason.startswith('sub-01_orientations.tsv has no row for sub-01_acq-pos2;')
    with table.open('a') as file:
        file.write('sub-01_acq-pos2_echo-1_part-mag_MEGRE.nii.gz\t0\t.3\t1\n')
    assert all('cosmos' in {use.name for use in one.applications} for one in find(**asked).series)
    write_series(data, entities='acq-pos2', affine=np.diag([4.0, 4, 4, 1]))
    plan = find(**asked)
    (one,) = plan.rejected
    assert one.is_error
    assert 'acq-pos2 has voxels that are 1.86 times larger in mean size than those of sub-01_acq-pos1' in (
        one.reason
    )
    (other,) = plan.series  # is run, and has no other to be joined with
    assert 'takes 2 series or more of a session' in ' '.join(other.notes)
    # they are joined at the voxels that all are resampled to
    found = find(**asked, voxel_size='4').series
    assert all('cosmos' in {use.name for use in one.applications} for one in found)
    table.write_text('file\tx\ty\tz\n"sub-01_acq-pos1_echo-1_part-mag_MEGRE.nii.gz\t0\t0\t1\n')
    for one in find(**asked, voxel_size='4').rejected:
        assert one.is_error
        assert one.reason.startswith('sub-01_orientations.tsv is no table of tab-separated values')


AFFINE_OF_CT = np.diag([8.0, 8, 8, 1])


def write_ct(path, shift=0.0, affine=AFFINE_OF_CT):
    """A CT of a ball of brain in a shell of bone."""
    radius = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    hu = np.where(radius < 8, 33, np.where(radius < 10, 900, -1000)) + shift
    return write_image(path, affine=affine, data=hu.astype(np.int16))


def ct_of(series):
    return [(one.path.name, one.space) for one in series.inputs if one.query == 'ct']


def test_a_ct_joins_the_candidates(data, find, tmp_path):
    """BIDS has no name for CT: .bidsignore hides it from the validator and not from us."""
    for ses in ('a', 'b'):
        write_series(data, ses=ses)
    asked = {'applications': (Method('candidates'),)}
    assert 'calcium' not in {use.name for use in find(**asked).series[0].applications}
    assert not any('no CT' in note for note in find(**asked).series[0].notes)
    (data / '.bidsignore').write_text('ct/\n*_CT.*\n')
    ct = write_ct(data / 'sub-01' / 'ses-a' / 'ct' / 'sub-01_ses-a_ct.nii.gz')
    write_ct(data / 'sub-01' / 'ses-a' / 'anat' / 'sub-01_ses-a_acq-raw_CT.nii.gz', shift=1024)
    # a PET scanner's, for attenuation, is no CT of the head
    write_ct(data / 'sub-01' / 'ses-a' / 'pet' / 'sub-01_ses-a_ct.nii.gz')
    assert ct_of(find().series[0]) == []  # nobody asked for candidates
    plan = find(**asked)
    assert [ct_of(one) for one in plan.series] == 2 * [[(ct.name, 'own')]]
    assert 'CT.nii.gz has air at 24 and not at -1000 HU' in ' '.join(plan.series[0].notes)
    assert 'The CT sub-01_ses-a_ct.nii.gz is of session a.' in plan.series[1].notes
    assert not any('could be the CT' in note for note in plan.series[0].notes)
    assert not any('bidsignore' in note for note in plan.notes)
    # a pattern asks for it by itself, in the dataset or in derivatives
    elsewhere = write_ct(tmp_path / 'scans' / 'sub-01' / 'head.nii.gz')
    write_ct(tmp_path / 'scans' / 'sub-010' / 'head.nii.gz')
    for settings in (
        {'ct': 'sub-*/head.nii.gz', 'derivatives': (('scans', tmp_path / 'scans'),)},
        {'ct': f'{tmp_path}/scans/*/*.nii.gz'},
    ):
        (one, _) = find(**settings).series
        assert ct_of(one) == [(elsewhere.name, 'own')]
        assert {'candidates', 'calcium'} <= {use.name for use in one.applications}
    (one, _) = find(ct='nowhere/*').series
    assert 'Candidates in CT: left out, as there is no CT of this series.' in one.notes


def test_the_folders_of_a_named_ct_tell_whose_it_is(data, find, tmp_path):
    """Its name first, then the nearest folder, and none above the first wildcard of the pattern."""
    for ses in ('a', 'b'):
        write_series(data, ses=ses)
    top = tmp_path / 'sub-01'
    write_ct(top / 'scans' / 'sub-02' / 'head.nii.gz')
    write_ct(top / 'scans' / 'sub-01' / 'sub-02_ct.nii.gz')
    assert ct_of(find(ct=f'{top}/scans/*/*.nii.gz').series[0]) == []
    for ses in ('b', 'a'):
        write_ct(top / 'scans' / 'sub-01' / f'ses-{ses}' / 'head.nii.gz')
    write_ct(top / 'scans' / 'sub-01' / 'ses-a' / 'broken.nii.gz', shift=1024)
    first, second = find(ct=f'{top}/scans/**/*.nii.gz').series
    for one, ses in ((first, 'a'), (second, 'b')):
        assert [item.path.parent.name for item in one.inputs if item.query == 'ct'] == [f'ses-{ses}']
        assert f'could be the CT; sub-01/ses-{ses}/head.nii.gz is used.' in ' '.join(one.notes)
        assert 'A CT is not used: sub-01/ses-a/broken.nii.gz: broken.nii.gz has air' in ' '.join(one.notes)
    # in full
    (only,) = {ct_of(one)[0] for one in find(ct=f'{top}/scans/sub-01/ses-a/head.nii.gz').series}
    assert only == ('head.nii.gz', 'own')


def test_a_ct_of_a_tilted_gantry_is_taken(data, find):
    write_series(data)
    tilted = AFFINE_OF_CT.copy()
    tilted[1:3, 2] = 8 * np.sin(np.radians(18)), 8 * np.cos(np.radians(18))
    ct = write_ct(data / 'sub-01' / 'ct' / 'sub-01_ct.nii.gz', affine=tilted)
    assert ct_of(find(applications=(Method('candidates'),)).series[0]) == [(ct.name, 'own')]
    folded = AFFINE_OF_CT.copy()
    folded[1:3, 2] = 8 * np.sin(np.radians(60)), 8 * np.cos(np.radians(60))
    write_ct(ct, affine=folded)
    assert 'has a sheared affine' in ' '.join(find(applications=(Method('candidates'),)).series[0].notes)


def test_the_validator_does_not_stop_a_ct(data, find):
    pytest.importorskip('bids_validator_deno')
    write_series(data)
    write_ct(data / 'sub-01' / 'ct' / 'sub-01_ct.nii.gz')
    write_json(data / 'sub-01' / 'ct' / 'sub-01_ct.json', {'Modality': 'CT'})
    (one,) = find(applications=(Method('candidates'),), skip_bids_validation=False).series
    assert ct_of(one) == [('sub-01_ct.nii.gz', 'own')]


@pytest.mark.parametrize(
    ('fa', 'vectors', 'volumes'),
    [
        ('sub-01_FA', 'sub-01_V1', 3),
        (
            'sub-01_space-ACPC_model-tensor_param-fa_dwimap',
            'sub-01_space-ACPC_model-tensor_param-tensor_dwimap',
            6,
        ),
        ('sub-01_space-T1w_model-csd_param-FA_dwimap', 'sub-01_space-T1w_model-csd_param-peaks_dwimap', 9),
    ],
)
def test_fibre_directions_are_found_beside_their_anisotropy(data, find, fa, vectors, volumes):
    write_series(data)
    write_t1w(data)
    folder = data / 'derivatives/dti/sub-01/dwi'
    write_image(folder / f'{fa}.nii.gz')
    write_image(folder / f'{vectors}.nii.gz', (*SHAPE, volumes))
    # of another fit: no anisotropy lies beside it
    write_image(data / 'derivatives/other/sub-01/dwi' / f'{vectors}.nii.gz', (*SHAPE, volumes))
    (one,) = find(applications=(Method('separation', ()),)).series
    assert names(one, 'own') == [f'{fa}.nii.gz']
    (directions,) = [item for item in one.inputs if item.space == 'beside']
    assert directions.path == folder / f'{vectors}.nii.gz'


def test_fibre_directions_on_another_grid_are_left_out(data, find):
    write_series(data)
    folder = data / 'derivatives/dti/sub-01/dwi'
    write_image(folder / 'sub-01_FA.nii.gz')
    write_image(folder / 'sub-01_V1.nii.gz', (*SHAPE, 3), np.diag([3.0, 3.0, 3.0, 1.0]))
    (one,) = find(applications=(Method('separation', ()),)).series
    assert names(one, 'beside') == []
    assert any('sub-01_V1.nii.gz and sub-01_FA.nii.gz differ in their affine' in note for note in one.notes)


def test_tensors_of_five_axes_are_directions_and_odd_shapes_are_not(data, find):
    """NIfTI has tensors as x, y, z, 1, 6."""
    write_series(data)
    folder = data / 'derivatives/dti/sub-01/dwi'
    write_image(folder / 'sub-01_param-fa_dwimap.nii.gz')
    tensor = write_image(folder / 'sub-01_param-tensor_dwimap.nii.gz', (*SHAPE, 1, 6))
    for shape, said in (
        ((*SHAPE, 1, 6), None),
        ((*SHAPE, 4), 'but directions have 3 volumes of a vector, 6 of a tensor'),
        (SHAPE, 'but directions have 3 volumes of a vector, 6 of a tensor'),
        ((SHAPE[0] + 1, *SHAPE[1:], 6), 'differ in size'),
    ):
        write_image(tensor, shape)
        (one,) = find(applications=(Method('separation', ()),)).series
        assert names(one, 'beside') == ([] if said else [tensor.name])
        assert said is None or any(tensor.name in note and said in note for note in one.notes)


def test_directions_of_the_same_acquisition_and_fit_are_taken(data, find):
    write_series(data)
    folder = data / 'derivatives/dti/sub-01/dwi'
    write_image(folder / 'sub-01_run-2_model-tensor_param-fa_dwimap.nii.gz')
    for name in ('run-1_model-tensor', 'run-02_model-csd'):
        write_image(folder / f'sub-01_{name}_param-tensor_dwimap.nii.gz', (*SHAPE, 6))
    (one,) = find(applications=(Method('separation', ()),)).series
    assert names(one, 'beside') == ['sub-01_run-02_model-csd_param-tensor_dwimap.nii.gz']
    write_image(folder / 'sub-01_run-2_model-tensor_param-tensor_dwimap.nii.gz', (*SHAPE, 6))
    (one,) = find(applications=(Method('separation', ()),)).series
    assert names(one, 'beside') == ['sub-01_run-2_model-tensor_param-tensor_dwimap.nii.gz']


def test_anisotropy_with_directions_comes_before_that_without(data, find):
    write_series(data)
    write_image(data / 'derivatives/a/sub-01/dwi/sub-01_FA.nii.gz')
    for name, shape in (('FA', SHAPE), ('V1', (*SHAPE, 3))):
        write_image(data / f'derivatives/b/sub-01/dwi/sub-01_desc-x_{name.lower()}.nii.gz', shape)
    (one,) = find(applications=(Method('separation', ()),)).series
    assert names(one, 'own') == ['sub-01_desc-x_fa.nii.gz']
    assert names(one, 'beside') == ['sub-01_desc-x_v1.nii.gz']


def test_a_method_of_fibres_is_left_out_without_them(data, find):
    write_series(data)
    wanted = Method('separation', (('method', 'hollowcylinder'),))
    (one,) = find(applications=(wanted,)).series
    assert not any(use.name == 'separation' for use in one.applications)
    assert any(
        'left out, as there is no map of fibre directions beside one of fractional anisotropy and no' in note
        for note in one.notes
    )
    folder = data / 'derivatives/dti/sub-01/dwi'
    for name, shape in (('FA', SHAPE), ('V1', (*SHAPE, 3))):
        write_image(folder / f'sub-01_{name}.nii.gz', shape)
    (one,) = find(applications=(wanted,)).series
    assert names(one, 'beside') == ['sub-01_V1.nii.gz']
    (one,) = find(applications=(Method('separation', (('frame', 'ignore'),)),)).series
    assert [use.inputs for use in one.applications if use.name == 'separation'] == [()]
