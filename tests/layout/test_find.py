import json
import shutil
from collections import namedtuple

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.app.methods import Method
from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.layout import dataset as dataset_module
from bids_qsm.layout import find_series, validator
from tests.skeletons import SHAPE, oblique, only_error, write_image, write_json, write_series, write_t1w


def test_megre(data, find):
    write_series(data, ses='1', entities='acq-x_ce-g_rec-a_run-02_inv-1', extension='.nii')
    (one,) = find().series
    assert one.name == 'sub-01_ses-1_acq-x_ce-g_rec-a_run-02_inv-1'
    assert (one.subject, one.session) == ('01', '1')
    assert one.entities[2:] == (('acq', 'x'), ('ce', 'g'), ('rec', 'a'), ('run', '02'), ('inv', '1'))
    assert [p.name.split('_')[-3] for p in one.magnitude] == ['echo-1', 'echo-2', 'echo-3']
    assert all('part-phase' in p.name for p in one.phase)
    assert one.real == one.imag == ()
    assert one.echo_times == (0.004, 0.008, 0.012)
    assert (one.field_strength, one.manufacturer) == (3.0, 'Siemens')
    assert (one.repetition_time, one.flip_angle) == (0.03, 12)
    assert one.shape == SHAPE
    assert one.voxel_size == (2.0, 2.0, 2.5)
    assert one.b0_dir == (0.0, 0.0, 1.0)
    assert one.t1w is None


def test_every_kind_of_series(data, find):
    write_series(data, sub='01', parts=('real', 'imag'))
    write_series(data, sub='02', suffix='T2starw', echo_times=(0.02,))
    write_series(data, sub='03', suffix='GRE', echo_times=(0.02,))
    write_series(data, sub='04', suffix='T1w', echo_times=(0.02,))
    write_series(data, sub='05', parts=('', 'phase'))
    write_series(data, sub='06', suffix='T2starw', echoes=(1, 2, 3))
    plan = find()
    assert not plan.rejected
    assert [one.suffix for one in plan.series] == ['MEGRE', 'T2starw', 'GRE', 'T1w', 'MEGRE', 'T2starw']
    assert [len(one.echo_times) for one in plan.series] == [3, 1, 1, 1, 3, 3]
    first, *others = plan.series
    assert len(first.real) == len(first.imag) == 3
    assert first.magnitude == first.phase == ()
    assert all(one.magnitude and one.phase and not one.real for one in others)
    assert all(one.t1w is None for one in plan.series)


@pytest.mark.parametrize(
    'told',
    [{'InversionTime': 0.9}, {'ScanningSequence': 'GR\\IR'}, {'SeriesDescription': 't1_mprage_sag'}],
)
def test_mprage_with_phase_is_the_t1w_image(data, find, told):
    write_series(data)
    sidecar = {'MagneticFieldStrength': 3.0, **told}
    first, *_ = write_series(data, suffix='T1w', echo_times=(0.002,), shape=(10, 11, 12), sidecar=sidecar)
    (one,) = find().series
    assert (one.suffix, one.t1w) == ('MEGRE', first)
    assert find().rejected == ()


def test_image_type_tells_the_part_where_the_name_does_not(data, find):
    common = {'MagneticFieldStrength': 3.0}
    for run, words in (
        (1, ['ORIGINAL', 'PRIMARY', 'M', 'ND']),
        (2, ['ORIGINAL', 'PRIMARY', 'PHASE MAP', 'P']),
    ):
        write_series(
            data, parts=('',), suffix='T2starw', echo_times=(0.02,), entities=f'rec-{run}',
            sidecar={**common, 'ImageType': words},
        )  # fmt: skip
    for path in (data / 'sub-01/anat').glob('*rec-2*'):
        path.rename(path.with_name(path.name.replace('rec-2', 'rec-1').replace('_T2', '_chunk-1_T2')))
    reasons = [one.reason for one in find().rejected]
    assert any('sub-01_rec-1_chunk-1_T2starw.nii.gz has no magnitude' in reason for reason in reasons)
    for path in (data / 'sub-01/anat').glob('*chunk-1*'):
        path.unlink()
    (lone,) = find().rejected
    assert not lone.is_error


def test_parts_that_are_named_as_each_other(data, find):
    files = write_series(data)
    for path in files:
        word = 'PHASE' if 'part-mag' in path.name else 'M'
        sidecar = path.with_name(path.name.replace('nii.gz', 'json'))
        write_json(sidecar, {**json.loads(sidecar.read_text()), 'ImageType': ['ORIGINAL', word]})
    assert 'part-phase are each named as the other, as ImageType' in only_error(find())


def test_a_magnitude_of_a_task_is_only_noted(data, find):
    write_series(data)
    write_series(data, suffix='T2starw', parts=('',), entities='task-rest', echoes=(1, 2, 3))
    write_series(data, suffix='T2starw', parts=('mag',), entities='task-rest_run-2', echo_times=(0.02,))
    plan = find()
    assert [one.name for one in plan.series] == ['sub-01']
    assert [one.is_error for one in plan.rejected] == [False, False]
    assert all('is a magnitude without phase' in one.reason for one in plan.rejected)


def test_a_volume_of_one_frame_is_3d(data, find):
    first, *_ = write_series(data, shape=(*SHAPE, 1))
    write_image(first)
    write_t1w(data, shape=(10, 11, 12, 1))
    (one,) = find().series
    assert (one.shape, one.anat_shape) == (SHAPE, (10, 11, 12))


def test_both_conventions_prefer_magnitude_and_phase(data, find):
    write_series(data, parts=('mag', 'phase', 'real', 'imag'))
    (one,) = find().series
    assert one.phase
    assert not one.real
    assert 'magnitude and phase are used' in one.notes[0]


def test_sidecars_are_inherited(data, find):
    write_series(data, sidecar={})
    write_json(data / 'MEGRE.json', {'MagneticFieldStrength': 7})
    write_json(data / 'sub-01' / 'sub-01_MEGRE.json', {'Manufacturer': 'GE'})
    (one,) = find().series
    assert (one.field_strength, one.manufacturer) == (7.0, 'GE')


def test_field_strength_from_imaging_frequency(data, find):
    write_series(data, sidecar={'ImagingFrequency': 123.2})
    (one,) = find().series
    assert one.field_strength == pytest.approx(2.894, abs=2e-3)


def test_oblique_slab(data, find):
    write_series(data, affine=oblique(20))
    (one,) = find().series
    assert one.b0_dir == pytest.approx((0, np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20))), abs=1e-5)
    assert one.voxel_size == pytest.approx((2, 2, 2.5))


def test_unsorted_echoes_are_sorted(data, find):
    write_series(data, echo_times=(0.012, 0.004, 0.008))
    (one,) = find().series
    assert one.echo_times == (0.004, 0.008, 0.012)
    assert ['echo-2' in p.name for p in one.magnitude] == [True, False, False]
    assert ['echo-2' in p.name for p in one.phase] == [True, False, False]
    assert 'sorted' in one.notes[0]


def test_header_without_orientation_is_noted(data, find):
    for path in write_series(data):
        image = nib.load(path)
        image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
        image.to_filename(path)
    (one,) = find().series
    assert 'holds no orientation' in one.notes[0]


def test_labels_choose(data, find):
    for sub, ses in (('01', 'a'), ('01', 'b'), ('02', 'a')):
        write_series(data, sub=sub, ses=ses)
    assert [s.name for s in find(session_label=('ses-a',)).series] == ['sub-01_ses-a', 'sub-02_ses-a']
    assert [s.name for s in find(participant_label=('sub-01',)).series] == ['sub-01_ses-a', 'sub-01_ses-b']


def test_filter_file_chooses(data, find, tmp_path):
    write_series(data, entities='acq-x')
    write_series(data, entities='acq-y', echo_times=(0.004, 0.008, 0.012, 0.016))
    write_series(data)
    write_t1w(data, entities='acq-p')
    write_t1w(data, entities='acq-q')
    chosen = tmp_path / 'filter.json'
    chosen.write_text('{"megre": {"acquisition": "y", "echo": ["2", "3"]}, "t1w": {"acq": "q"}}')
    (one,) = find(bids_filter_file=chosen).series
    assert one.echo_times == (0.008, 0.012)
    assert 'acq-q' in one.t1w.name
    chosen.write_text('{"megre": {"acq": null}}')
    assert [s.name for s in find(bids_filter_file=chosen).series] == ['sub-01']
    chosen.write_text('{"megre": {"acq": "*", "mt": null}}')
    assert [s.name for s in find(bids_filter_file=chosen).series] == ['sub-01_acq-x', 'sub-01_acq-y']


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('{"megre": ', 'cannot be read'),
        ('{"dwi": {}}', "names 'dwi'"),
        ('{"megre": 1}', "names 'megre'"),
        ('[]', 'must map'),
        ('{"megre": {"colour": "x"}}', 'does not fit the dataset: .*colour'),
    ],
)
def test_filter_file_errors(data, find, tmp_path, text, says):
    write_series(data)
    chosen = tmp_path / 'filter.json'
    chosen.write_text(text)
    with pytest.raises(UserError, match=says):
        find(bids_filter_file=chosen)


def test_filters_may_name_what_this_share_lacks(data, find, tmp_path):
    write_series(data, sub='01')
    write_series(data, sub='02')
    write_t1w(data, sub='02')
    chosen = tmp_path / 'filter.json'
    chosen.write_text('{"t1w": {"MagneticFieldStrength": 3, "session": null}}')
    assert len(find(bids_filter_file=chosen, participant_label=('01',)).series) == 1
    chosen.write_text('{"t1w": {"SeriesDescription": "mprage"}}')
    plans = [find(bids_filter_file=chosen, array_task=f'{task}/2') for task in (1, 2)]
    assert [one.name for plan in plans for one in plan.series] == ['sub-01', 'sub-02']


def test_not_a_dataset(data, find):
    (data / 'dataset_description.json').unlink()
    with pytest.raises(UserError, match='is not a BIDS dataset'):
        find()


def test_description_is_not_json(data, find):
    (data / 'dataset_description.json').write_text('')
    with pytest.raises(UserError, match=r'dataset_description.json is empty'):
        find()


def test_no_such_folder(data, find):
    shutil.rmtree(data)
    with pytest.raises(UserError, match='is not a folder'):
        find()


def test_unreadable_dataset(data, find, monkeypatch):
    write_series(data)
    monkeypatch.setattr(dataset_module.os, 'access', lambda path, _: path != data)
    with pytest.raises(UserError, match='cannot be read; change its permissions'):
        find()


def test_no_participants_no_series(data, find):
    with pytest.raises(UserError, match='holds no participant'):
        find()
    write_t1w(data)
    with pytest.raises(UserError, match='has no series to run'):
        find()


def test_unknown_labels(data, find):
    write_series(data, ses='a')
    with pytest.raises(UserError, match="has no participant '09'; it has: 01"):
        find(participant_label=('09',))
    with pytest.raises(UserError, match="has no session 'z'; its sessions: a"):
        find(session_label=('z',))


@pytest.mark.parametrize(('place'), ['.', 'sub-01/out', 'out', 'derivatives'])
def test_output_among_the_input(data, place):
    options = Options(bids_dir=data, output_dir=data / place, level='participant')
    with pytest.raises(UserError, match='lies in the input dataset'):
        find_series(options)


def test_output_in_derivatives(data):
    write_series(data)
    out = data / 'derivatives' / 'bids_qsm'
    options = Options(bids_dir=data, output_dir=out, level='participant', skip_bids_validation=True)
    assert len(find_series(options).series) == 1
    assert not out.exists()


def test_work_is_output(find, tmp_path):
    with pytest.raises(UserError, match='both output and working folder'):
        find(work_dir=tmp_path / 'out')


def test_output_under_a_file(find, tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(UserError, match='out is a file'):
        find()


def test_read_only_output(find, monkeypatch):
    def refuse(dir):
        raise OSError(30, f'Read-only file system: {dir}')

    monkeypatch.setattr(dataset_module.tempfile, 'TemporaryFile', refuse)
    with pytest.raises(UserError, match=r'out cannot be written \(Read-only file system'):
        find()


def test_full_disk(data, find, monkeypatch):
    write_series(data)
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(10, 9, 10**6))
    with pytest.raises(UserError, match=r'has 0.0 GB free, but about 0.7 GB are needed'):
        find()
    assert find(reports_only=True).series


def test_validator_accepts_the_skeleton(data, find):
    pytest.importorskip('bids_validator_deno')
    write_series(data)
    write_t1w(data)
    plan = find(skip_bids_validation=False)
    assert plan.notes == ()
    assert plan.dataset_name == 'Skeleton'


def test_validator_stops_an_invalid_dataset(data, find):
    pytest.importorskip('bids_validator_deno')
    write_series(data)
    write_image(data / 'sub-01' / 'anat' / 'sub-01_nonsense.nii.gz')
    with pytest.raises(UserError, match=r'is not valid BIDS: .*sub-01_nonsense'):
        find(skip_bids_validation=False)


def test_validator_leaves_other_subjects_alone(data, find):
    pytest.importorskip('bids_validator_deno')
    for sub in ('01', '02'):
        write_series(data, sub=sub)
    write_image(data / 'sub-02' / 'anat' / 'sub-02_nonsense.nii.gz')
    assert find(skip_bids_validation=False, participant_label=('01',)).series
    with pytest.raises(UserError, match=r'sub-02_nonsense'):
        find(skip_bids_validation=False)


def test_validator_counts_errors_of_what_is_run_beside_odd_names(data, find):
    pytest.importorskip('bids_validator_deno')
    (image, *_), t1w = write_series(data), write_t1w(data)
    write_series(data, sub='02')
    t1w.with_name('T1w.nii.gz').write_bytes(t1w.read_bytes())
    t1w.with_name('sub-01_acq-0.8mm_echo-1_part-mag_MEGRE.nii.gz').write_bytes(t1w.read_bytes())
    (data / 'sub-03').mkdir()
    (data / 'sub-03' / 'anat').symlink_to('anat')  # a loop
    assert [one.name for one in find(skip_bids_validation=False).series] == ['sub-01', 'sub-02']
    sidecar = image.with_name(image.name.replace('nii.gz', 'json'))
    write_json(sidecar, {'MagneticFieldStrength': 3.0, 'EchoTime': 0.004, 'FlipAngle': -1})
    with pytest.raises(UserError, match=r'is not valid BIDS: .*sub-01_echo-1_part-mag_MEGRE'):
        find(skip_bids_validation=False)


def test_validator_does_not_stop_for_what_cannot_make_maps_wrong(data, find):
    """As of older converters: no Units beside the phase, other words in it; odd files that are not read."""
    pytest.importorskip('bids_validator_deno')
    *_, phase = write_series(data)
    sidecar = phase.with_name(phase.name.replace('nii.gz', 'json'))
    content = json.loads(sidecar.read_text())
    for units in ({'Units': 'radians'}, {}):
        write_json(sidecar, {**{key: content[key] for key in content if key != 'Units'}, **units})
        plan = find(skip_bids_validation=False)
        assert plan.series
        (note,) = plan.notes
        assert 'is not valid BIDS: 1 error' in note
        assert 'part-phase_MEGRE' in note
        assert 'run all the same, as the unit of phase is found from its values' in note
    (data / 'README').write_text('')
    (data / 'participants.tsv').write_text('participant_id\tage\nsub-01\t95\nsub-09\t50\n')
    (data / 'sub-01' / 'sub-01_scans.tsv').write_text('filename\tacq_time\nanat/gone.nii.gz\tn/a\n')
    (data / 'sub-01' / 'eeg').mkdir()
    (data / 'sub-01' / 'eeg' / 'notes.txt').write_text('x')
    write_json(data / 'dataset_description.json', {'Name': 'Skeleton'})
    notes = ' '.join(found := find(skip_bids_validation=False).notes)
    assert len(found) == 5
    assert 'PARTICIPANT_ID_MISMATCH' not in notes
    assert 'as no series uses it' in notes
    (data / 'participants.tsv').write_text('participant_id\tage\nsub-09\t50\n')
    notes = ' '.join(find(skip_bids_validation=False).notes)
    assert 'PARTICIPANT_ID_MISMATCH in /participants.tsv' in notes
    assert 'as who is missing there has no age or group there' in notes


def beside(folder, name):
    other = folder.with_name(name)
    other.mkdir()
    return other


@pytest.mark.parametrize(
    'break_it',
    [
        lambda anat: (anat / 'sub-01_echo-4_part-mag.nii.gz').write_bytes(b'1'),  # an echo without suffix
        lambda anat: (anat / 'sub-01_T2w.json').write_text('{'),
        lambda anat: (anat.parent.parent / 'participants.tsv').write_text('id;age\nsub-01;50\n'),
        lambda anat: write_json(anat / 'sub-01_echo-9_part-mag_MEGRE.json', {'EchoTime': 0.04}),
        lambda anat: write_image(beside(anat, 'pet') / 'sub-01_label-lesion_mask.nii.gz'),  # it is measured
        lambda anat: (beside(anat.parent, 'README_old') / 'notes.txt').write_text('x'),
        lambda anat: (anat / 'sub-01_scans.tsv').write_text('filename\tacq_time\nanat/gone.nii.gz\tn/a\n'),
    ],
)
def test_validator_stops_for_what_may(data, find, break_it):
    pytest.importorskip('bids_validator_deno')
    write_series(data)
    break_it(data / 'sub-01' / 'anat')
    with pytest.raises(UserError, match='is not valid BIDS'):
        find(skip_bids_validation=False)


def test_validator_leaves_alone_what_no_series_uses(data, find):
    pytest.importorskip('bids_validator_deno')
    first, *_ = write_series(data)
    write_image(beside(first.parent, 'pet') / 'sub-01_label-lesion_mask.nii.gz', (*SHAPE, 2))
    (one,) = find(skip_bids_validation=False).series
    assert not one.inputs
    write_image(data / 'sub-01' / 'pet' / 'sub-01_label-lesion_mask.nii.gz')
    (one,) = find().series
    assert [item.path.parent.name for item in one.inputs] == ['pet']


def test_tables_of_scans_are_known_by_their_place():
    codes = 'TSV_VALUE_INCORRECT_TYPE', 'acq_time'
    told = {
        place: validator._why_harmless(
            {**dict(zip(('code', 'subCode'), codes, strict=True)), 'location': place}, is_used=False
        )
        for place in (
            '/sub-01/sub-01_scans.tsv',
            '/sub-01/ses-a/sub-01_ses-a_scans.tsv',
            '/sub-01/ses-a/sub-01_ses-b_scans.tsv',
            '/sub-01/ses-a/sub-01_scans.tsv',
            '/sub-01/sub-02_scans.tsv',
            '/sub-01/anat/sub-01_scans.tsv',
        )
    }
    assert [bool(why) for why in told.values()] == [True, True, False, False, False, False]


def test_validator_is_optional(data, find, monkeypatch):
    write_series(data)
    monkeypatch.setattr(validator.shutil, 'which', lambda *_, **__: None)
    assert 'is not installed' in find(skip_bids_validation=False).notes[0]


def test_methods_that_need_several_echoes_reject_a_single_one(data, find):
    write_series(data, suffix='T2starw', echo_times=(0.02,))
    assert 'needs R2*' in only_error(find(inversion=Method('medi0')))
