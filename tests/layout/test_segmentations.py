import nibabel as nib
import numpy as np
import pytest

from tests.skeletons import write_fmriprep, write_image, write_series, write_t1w

ANAT = (10, 11, 12)


@pytest.fixture
def given(tmp_path):
    return tmp_path / 'given'


@pytest.fixture
def found(data, find, given):
    """A function that finds the segmentations of one series with the derivatives ``given``."""
    write_series(data)
    write_t1w(data)

    def found(**options):
        plan = find(derivatives=(('given', given),), **options)
        (one,) = plan.series
        return {s.name: s for s in one.segmentations}, ' '.join(one.notes)

    return found


def write_dseg(root, name, shape=ANAT, affine=None):
    path = root / 'sub-01' / 'anat' / f'{name}_dseg.nii.gz'
    return write_image(path, shape, np.eye(4) if affine is None else affine, np.ones(shape, np.uint8))


def write_mgz(path, affine=None, shape=ANAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.MGHImage(np.ones(shape, np.int32), np.eye(4) if affine is None else affine), path)
    return path


def table(path, text='index\tname\n1\tLeft-Putamen\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_segmentations_of_fmriprep(found, given):
    write_fmriprep(given)
    for name in ('', '_desc-aseg', '_desc-aparcaseg', '_space-MNI152NLin2009cAsym'):
        write_dseg(given, f'sub-01{name}')
    shared = table(given / 'desc-aseg_dseg.tsv')
    table(given / 'desc-other_dseg.tsv')
    segmentations, notes = found()
    assert set(segmentations) == {'aseg', 'aparcaseg', 'dseg'}
    assert {s.on for s in segmentations.values()} == {'anat'}
    assert segmentations['aseg'].table == shared
    assert segmentations['aparcaseg'].table is None
    assert [segmentations[n].names for n in ('aseg', 'aparcaseg', 'dseg')] == [
        'freesurfer',
        'freesurfer',
        'bids',
    ]
    assert 'segmentation' not in notes


def test_the_nearest_table_names_the_labels(found, given):
    write_dseg(given, 'sub-01_seg-my_nuclei')
    write_dseg(given, 'sub-01_seg-x')
    table(given / 'seg-x_dseg.tsv')
    beside = table(given / 'sub-01/anat/sub-01_seg-x_dseg.tsv')
    segmentations, notes = found()
    assert segmentations['x'].table == beside
    assert segmentations['my'].table is None
    assert 'hold nothing' not in notes


def test_segmentations_on_the_grid_of_the_series(data, find, given):
    write_series(data, ses='a')
    write_series(data, ses='b')
    image = given / 'sub-01/ses-b/anat/sub-01_ses-b_seg-hand_dseg.nii.gz'
    write_image(image, data=np.ones((8, 9, 7), np.uint8))
    first, second = find(derivatives=(('given', given),)).series
    assert first.segmentations == ()
    (one,) = second.segmentations
    assert (one.name, one.on, one.dseg) == ('hand', 'gre', image)


def test_segmentations_elsewhere_are_left_out(found, given):
    write_dseg(given, 'sub-01_seg-x', (4, 4, 4))
    write_dseg(given, 'sub-01_ses-2_space-T1w_seg-y', (4, 4, 4))
    write_dseg(given, 'sub-01_space-T1w_seg-z', (4, 4, 4))
    segmentations, notes = found()
    assert {name: s.on for name, s in segmentations.items()} == {'z': 'anat'}
    assert 'sub-01_seg-x_dseg.nii.gz of the derivatives given lies neither on the grid' in notes
    assert 'sub-01_ses-2_space-T1w_seg-y_dseg.nii.gz of the derivatives given is of session 2' in notes


def test_names_are_letters_and_digits_and_never_the_atlas(found, given):
    write_dseg(given, 'sub-01_seg-nuclei')
    write_dseg(given, 'sub-01_seg-a+b')
    segmentations, _ = found()
    assert set(segmentations) == {'nucleigiven', 'ab'}
    (other,) = set(found(atlas='x/tpl-MNI_atlas-AB_dseg.nii.gz')[0]) - {'nuclei'}
    assert other == 'abgiven'


def test_two_of_one_name(found, given):
    for run in (2, 1):
        write_dseg(given, f'sub-01_run-{run}_desc-aseg')
    segmentations, notes = found()
    assert segmentations['aseg'].dseg.name == 'sub-01_run-1_desc-aseg_dseg.nii.gz'
    assert (
        'more than one segmentation aseg of sub-01; sub-01_run-2_desc-aseg_dseg.nii.gz is not used' in notes
    )


def test_freesurfer_folders(found, given):
    mri = given / 'sub-01' / 'mri'
    for name in ('aseg', 'aparc+aseg', 'aparc.DKTatlas+aseg.deep'):
        write_mgz(mri / f'{name}.mgz')
    write_mgz(given / 'sub-01.long.sub-01' / 'mri' / 'aseg.mgz')
    segmentations, notes = found()
    assert set(segmentations) == {'aseg', 'aparcaseg', 'aparcDKTaseg'}
    assert {(s.on, s.table, s.names) for s in segmentations.values()} == {('anat', None, 'freesurfer')}
    assert notes == ''


def test_freesurfer_of_another_session_or_image(found, given):
    write_mgz(given / 'sub-01_ses-2' / 'mri' / 'aseg.mgz')
    write_mgz(given / 'sub-01' / 'mri' / 'aseg.mgz')
    far = np.eye(4)
    far[2, 3] = 30
    write_mgz(given / 'sub-01' / 'mri' / 'rawavg.mgz', far)
    segmentations, notes = found()
    assert segmentations == {}
    assert 'is of session 2, but sub-01_T1w.nii.gz is the T1w image in use' in notes
    assert 'was made from an image elsewhere in the scanner than sub-01_T1w.nii.gz' in notes


@pytest.mark.parametrize('content', [b'', b'no image'])
def test_a_damaged_input_of_freesurfer_is_as_good_as_none(found, given, content):
    mri = write_mgz(given / 'sub-01' / 'mri' / 'aseg.mgz').parent
    (mri / 'rawavg.mgz').write_bytes(content)
    segmentations, notes = found()
    assert set(segmentations) == {'aseg'}
    assert notes == ''


def test_freesurfer_of_a_t1w_image_whose_neck_was_cut_off_since(found, given):
    mri = write_mgz(given / 'sub-01' / 'mri' / 'aseg.mgz').parent
    lower = np.eye(4)
    lower[2, 3] = -40
    write_mgz(mri / 'rawavg.mgz', lower, (10, 11, 52))
    assert set(found()[0]) == {'aseg'}


def test_names_tell_the_source_where_there_are_several(data, find, tmp_path):
    for sub in ('01', '02'):
        write_series(data, sub=sub)
        write_t1w(data, sub=sub)
        write_mgz(tmp_path / 'b' / f'sub-{sub}' / 'mri' / 'aseg.mgz')
    write_dseg(tmp_path / 'a', 'sub-01_desc-aseg')
    first, second = find(derivatives=(('a', tmp_path / 'a'), ('b', tmp_path / 'b'))).series
    assert [s.name for s in first.segmentations] == ['asega', 'asegb']
    assert [s.name for s in second.segmentations] == ['asegb']


def test_segmentations_of_another_session_on_an_equal_grid(data, find, given):
    write_series(data)
    for ses in ('a', 'b'):
        write_t1w(data, ses=ses)
    write_dseg(given, 'sub-01_ses-b_seg-x')
    (one,) = find(derivatives=(('given', given),)).series
    assert one.segmentations == ()
    assert 'is of session b, but sub-01_ses-a_T1w.nii.gz is the T1w image in use' in ' '.join(one.notes)


def test_a_segmentation_on_the_raw_t1w_where_the_preprocessed_one_has_another_grid(data, find, given):
    write_series(data)
    write_t1w(data, shape=(9, 9, 9))
    write_fmriprep(given)
    write_dseg(given, 'sub-01_seg-x', (9, 9, 9))
    (one,) = find(derivatives=(('given', given),)).series
    assert [(s.name, s.on) for s in one.segmentations] == [('x', 'anat')]


def test_freesurfer_without_a_t1w_image(data, find, given):
    write_series(data)
    write_mgz(given / 'sub-01' / 'mri' / 'aseg.mgz')
    (one,) = find(derivatives=(('given', given),)).series
    assert one.segmentations == ()
    assert 'is that of a T1w image, and there is none' in ' '.join(one.notes)


def test_a_damaged_freesurfer_file(data, find, given):
    write_series(data)
    write_t1w(data)
    path = write_mgz(given / 'sub-01' / 'mri' / 'aseg.mgz')
    path.write_bytes(path.read_bytes()[:-40])
    (one,) = find(derivatives=(('given', given),)).series
    assert one.segmentations == ()
    told = 'The segmentation aseg.mgz of the derivatives given is not used: aseg.mgz cannot be read'
    assert told in ' '.join(one.notes)


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('name\nLeft-Putamen\n', "has no column 'index'"),
        ('index\n1\n', "has no column 'name'"),
        ('index\tname\none\tLeft-Putamen\n', 'holds an index that is not a whole number'),
        ('', "has no column 'index'"),
    ],
)
def test_label_tables_that_cannot_be_used(data, find, given, text, says):
    write_series(data)
    write_t1w(data)
    write_dseg(given, 'sub-01_seg-x')
    table(given / 'seg-x_dseg.tsv', text)
    (one,) = find(derivatives=(('given', given),)).series
    assert one.segmentations == ()
    assert says in ' '.join(one.notes)
