"""Every input that has bitten users of the peers: one sentence each, before anything is run."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.derivatives.files import output_path
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from tests.skeletons import AFFINE, SHAPE, oblique, only_error, write_image, write_series


def anat(data):
    return data / 'sub-01' / 'anat'


def edit(path, **changes):
    """Change a sidecar; None removes the key."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_no_phase(data, find):
    write_series(data, parts=('mag',))
    assert 'sub-01_echo-1_part-mag_MEGRE.nii.gz has no phase' in only_error(find())


@pytest.mark.parametrize(
    ('types', 'said'),
    [
        (['P', 'SWI'], 'ImageType SWI in the sidecar'),
        (['P', 'ND'], ''),
        ('swi', 'ImageType SWI in the sidecar'),
        (3, ''),
    ],
)
def test_what_the_sidecar_says_of_filtering(data, find, types, said):
    write_series(data)
    for path in anat(data).glob('*phase*.json'):
        edit(path, ImageType=types)
    (series,) = find().series
    assert series.filtered == said


def test_the_sidecar_is_kept_with_the_unit_of_phase(data, find):
    write_series(data)
    for path in anat(data).glob('*mag*.json'):
        edit(path, Units='arbitrary', PixelBandwidth=200)
    for path in anat(data).glob('*phase*.json'):
        edit(path, Units='rad', PixelBandwidth=300)
    (series,) = find().series
    assert series.sidecar['PixelBandwidth'] == 200
    assert series.sidecar['Units'] == 'rad'


def test_lone_magnitude_is_skipped_without_error(data, find):
    write_series(data)
    write_series(data, suffix='T2starw', echo_times=(0.02,), parts=('',), entities='acq-m')
    plan = find()
    assert len(plan.series) == 1
    assert not plan.rejected[0].is_error
    assert 'magnitude without phase' in plan.rejected[0].reason


def test_one_phase_missing(data, find):
    write_series(data)
    (anat(data) / 'sub-01_echo-2_part-phase_MEGRE.nii.gz').unlink()
    assert 'sub-01_echo-2_part-mag_MEGRE.nii.gz has no phase' in only_error(find())


def test_one_magnitude_missing(data, find):
    write_series(data)
    (anat(data) / 'sub-01_echo-2_part-mag_MEGRE.nii.gz').unlink()
    assert 'sub-01_echo-2_part-phase_MEGRE.nii.gz has no magnitude' in only_error(find())


def test_one_echo_missing(data, find):
    write_series(data, echoes=(1, 2, 4))
    assert 'echo 3 is missing before sub-01_echo-4' in only_error(find())


def test_sizes_differ(data, find):
    files = write_series(data)
    write_image(files[3], shape=(8, 9, 6))
    reason = only_error(find())
    assert files[3].name in reason
    assert '8 x 9 x 7' in reason
    assert '8 x 9 x 6' in reason


def test_affines_differ(data, find):
    files = write_series(data)
    write_image(files[1], affine=oblique(3))
    assert 'differ in their affine' in only_error(find())


@pytest.mark.parametrize(
    ('times', 'says'),
    [
        ((None, None, None), 'has no EchoTime'),
        ((4.0, 8.0, 12.0), 'looks like milliseconds'),
        ((0.0, 0.004, 0.008), 'must be a number of seconds above 0'),
        (('4', '8', '12'), 'must be a number of seconds above 0'),
        (
            (0.004, 0.008, 0.008),
            'echo-2_part-mag_MEGRE.nii.gz and sub-01_echo-3_part-mag_MEGRE.nii.gz have the same',
        ),
        ((0.004, 0.004, 0.004), 'only 1 different EchoTime (4 ms): if these are 3 uncombined coils'),
        ((0.004, 0.008) * 3, 'only 2 different EchoTime (4, 8 ms): if these are 3 uncombined coils'),
    ],
)
def test_echo_times(data, find, times, says):
    write_series(data, echo_times=times)
    assert says in only_error(find())


def test_uncombined_coils_are_one_series(data, find):
    """Echoes 1, 3, 5, 7 are four coils of the first echo time, whatever number they were given."""
    write_series(data, echo_times=(0.004, 0.008) * 4)
    (series,) = find().series
    assert (series.coils, series.echo_times) == (4, (0.004, 0.008))
    numbers = [int(entities_of(path)['echo']) for path in series.phase]
    assert numbers == [1, 3, 5, 7, 2, 4, 6, 8]
    assert any('4 receive coils' in note for note in series.notes)


def test_one_echo_time_missing(data, find):
    write_series(data, echo_times=(0.004, None, 0.012))
    assert 'sub-01_echo-2_part-mag_MEGRE.nii.gz has no EchoTime' in only_error(find())


def test_echo_time_of_the_phase_serves_where_the_magnitude_has_none(data, find):
    write_series(data)
    edit(anat(data) / 'sub-01_echo-2_part-mag_MEGRE.json', EchoTime=None)
    assert find().series[0].echo_times == (0.004, 0.008, 0.012)


def test_echo_times_of_magnitude_and_phase_differ(data, find):
    write_series(data)
    edit(anat(data) / 'sub-01_echo-2_part-phase_MEGRE.json', EchoTime=0.009)
    assert 'differ in EchoTime (0.008 and 0.009 s)' in only_error(find())


@pytest.mark.parametrize(
    ('sidecar', 'says'),
    [
        ({}, 'neither MagneticFieldStrength nor ImagingFrequency'),
        ({'MagneticFieldStrength': 3000}, 'no field strength in T'),
        ({'MagneticFieldStrength': '3T'}, 'must be a number (T)'),
        ({'ImagingFrequency': 123.2e-3}, 'no frequency of protons in MHz'),
    ],
)
def test_field_strength(data, find, sidecar, says):
    write_series(data, sidecar=sidecar)
    assert says in only_error(find())


@pytest.mark.parametrize(
    ('sidecar', 'tesla', 'says'),
    [
        ({'MagneticFieldStrength': 3, 'ImagingFrequency': 123.2}, 2.8935, 'says 3 T and 123.2 MHz'),
        ({'MagneticFieldStrength': 3, 'ImagingFrequency': 123247339}, 2.8946, 'says 3 T and 1.23247e+08 Hz'),
        ({'MagneticFieldStrength': 3, 'ImagingFrequency': 127.74}, 3.0002, None),
        ({'MagneticFieldStrength': 7, 'ImagingFrequency': 297.2}, 6.9803, None),
        ({'MagneticFieldStrength': 1.5, 'ImagingFrequency': 63.68}, 1.4957, None),
        ({'MagneticFieldStrength': 3, 'ImagingFrequency': 49.9}, 3, 'Frequency 49.9 is left out: protons'),
        ({'MagneticFieldStrength': 3, 'ImagingFrequency': '123'}, 3, "'123' is left out: it is no number"),
        ({'ImagingFrequency': 123.2e3}, 2.8935, 'is taken for kHz: 2.8935 T'),
        ({'ImagingFrequency': 123.2e6}, 2.8935, 'is taken for Hz: 2.8935 T'),
        ({'ImagingFrequency': 2.73}, 0.0641, None),
    ],
)
def test_the_frequency_tells_the_field_strength(data, find, sidecar, tesla, says):
    write_series(data, sidecar=sidecar)
    (one,) = find().series
    assert one.field_strength == pytest.approx(tesla, abs=1e-4)
    told = [note for note in one.notes if 'Frequency' in note or 'protons' in note]
    assert (says in told[0]) if says else not told


def _turned(path, sform=2, qform=1, angle=25):
    """An image whose sform is turned against its qform by an angle (degrees)."""
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
    image.set_qform(AFFINE, code=qform)
    image.set_sform(oblique(angle), code=sform)
    image.to_filename(path)


@pytest.mark.parametrize(('sform', 'qform', 'chosen'), [(2, 1, 'qform'), (1, 1, 'sform'), (2, 2, 'sform')])
def test_b0_lies_along_the_axis_of_the_scanner(data, find, sform, qform, chosen):
    for path in write_series(data):
        _turned(path, sform, qform)
    (one,) = find().series
    c, s = np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))
    assert one.b0_dir == pytest.approx((0, 0, 1) if chosen == 'qform' else (0, s, c), abs=1e-5)
    (note,) = [note for note in one.notes if 'sform' in note]
    assert f'differ, by 25.0 degrees; B0 is taken along the axis of the {chosen}' in note
    assert ("the scanner's by its code" in note) == (1 in (sform, qform))


def test_a_qform_that_is_none_is_left_out(data, find):
    for path in write_series(data):
        image = nib.load(path)
        image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
        image.set_sform(oblique(25), code=2)
        image.header['quatern_b'] = 2
        image.to_filename(path)
    (one,) = find().series
    assert one.b0_dir[1] == pytest.approx(np.sin(np.deg2rad(25)))
    assert 'its qform holds no affine' in ' '.join(one.notes)


def test_garbage_instead_of_an_image(data, find):
    files = write_series(data)
    files[0].write_bytes(b'not an image')
    assert f'{files[0].name} cannot be read as NIfTI' in only_error(find())


def test_empty_image(data, find):
    files = write_series(data, extension='.nii')
    files[2].write_bytes(b'')
    assert f'{files[2].name} cannot be read as NIfTI' in only_error(find())


@pytest.mark.parametrize('extension', ['.nii', '.nii.gz'])
def test_truncated_image(data, find, extension):
    files = write_series(data, extension=extension)
    files[2].write_bytes(files[2].read_bytes()[:-200])
    reason = only_error(find())
    assert files[2].name in reason
    assert 'truncated' in reason or 'damaged' in reason


@pytest.mark.parametrize(
    ('shape', 'says'),
    [((8, 9, 7, 32), 'is 4D (8 x 9 x 7 x 32)'), ((8, 9), 'is not a volume'), ((8, 9, 1), 'is not a volume')],
)
def test_dimensions(data, find, shape, says):
    write_series(data, shape=shape)
    reason = only_error(find())
    assert says in reason
    if len(shape) == 4:
        assert 'combine receive coils' in reason


def _with(i, j, value):
    affine = AFFINE.copy()
    affine[i, j] = value
    return affine


@pytest.mark.parametrize(
    ('affine', 'says'),
    [
        (_with(0, 0, np.nan), 'NaN in its affine'),
        (_with(2, 2, 0), 'has voxels of 2 x 2 x 0 mm'),
        (_with(0, 1, 0.5), 'sheared affine'),
    ],
)
def test_affine(data, find, affine, says):
    for path in write_series(data):
        image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), None)
        image.header['sform_code'] = 1
        for row, values in zip(('srow_x', 'srow_y', 'srow_z'), affine, strict=False):
            image.header[row] = values
        with path.open('wb') as raw, gzip.GzipFile(fileobj=raw, mode='wb') as stream:
            stream.write(
                bytes(image.header.binaryblock) + bytes(4) + image.get_fdata(dtype=np.float32).tobytes()
            )
    assert says in only_error(find())


@pytest.mark.parametrize(
    ('text', 'says'), [('', 'is empty'), ('{"EchoTime": ', 'not valid JSON'), ('[]', 'not a JSON object')]
)
@pytest.mark.parametrize('name', ['sub-01/anat/sub-01_echo-2_part-phase_MEGRE.json', 'MEGRE.json'])
def test_bad_sidecar_rejects_only_what_it_applies_to(data, find, name, text, says):
    write_series(data)
    write_series(data, sub='02', suffix='T2starw', echo_times=(0.02,))
    (data / name).write_text(text)
    plan = find()
    assert [s.name for s in plan.series] == ['sub-02']
    (rejected,) = plan.rejected
    assert says in rejected.reason
    assert name.rpartition('/')[2] in rejected.reason


def test_two_series_of_one_name(data, find):
    write_series(data)
    write_series(data, suffix='T2starw', echo_times=(0.02,))
    plan = find()
    assert [s.suffix for s in plan.series] == ['MEGRE']
    assert 'written under the names of' in plan.rejected[0].reason


def test_same_part_twice(data, find):
    write_series(data)
    write_series(data, extension='.nii')
    assert 'are the same part of echo 1' in only_error(find())


def write_coils(data, coils=(1, 2), name='rec-uncombined_coil-{:02d}', **settings):
    for coil in coils:
        write_series(data, entities=name.format(coil), **settings)


@pytest.mark.parametrize('name', ['rec-uncombined_coil-{:02d}', 'coil-{}', 'rec-uncombined{}'])
def test_named_coils_are_one_series(data, find, name):
    write_coils(data, name=name)
    (series,) = find().series
    assert series.name == ('sub-01' if name == 'coil-{}' else 'sub-01_rec-uncombined')
    assert (series.coils, series.echo_times) == (2, (0.004, 0.008, 0.012))
    echoes = [entities_of(path)['echo'] for path in series.phase]
    assert echoes == ['1', '1', '2', '2', '3', '3']
    assert [p.name.replace('mag', 'phase') for p in series.magnitude] == [p.name for p in series.phase]
    assert [p.name for p in series.magnitude[:2]] == sorted(p.name for p in series.magnitude[:2])
    assert any('2 receive coils' in note for note in series.notes)


def test_few_coils_that_say_so_are_combined(data, find):
    write_series(data, entities='rec-uncombined', echo_times=(0.004, 0.008) * 2)
    (series,) = find().series
    assert (series.coils, series.echo_times) == (2, (0.004, 0.008))


def test_combined_images_come_first(data, find):
    write_coils(data, name='coil-{}')
    write_series(data)
    write_coils(data)
    plain, uncombined = find().series
    assert (plain.coils, uncombined.coils) == (1, 2)
    assert not any('coil' in path.name for path in plain.files)
    assert 'Images of single receive coils are left out' in plain.notes[0]


@pytest.mark.parametrize('what', ['missing', 'time', 'phase', 'single'])
def test_coils_that_do_not_fit(data, find, what):
    write_coils(data, (1, 2, 3), echo_times=(0.004,) if what == 'single' else (0.004, 0.008))
    stem = 'sub-01_rec-uncombined_coil-02_echo-2_part-'
    if what == 'time':
        for part in ('mag', 'phase'):
            edit(anat(data) / f'{stem}{part}_MEGRE.json', EchoTime=0.009)
    for path in anat(data).glob(f'{stem}*nii.gz'):
        if what == 'missing' or (what == 'phase' and 'phase' in path.name):
            path.unlink()
    says = {
        'missing': 'coil 2 has no echo 2',
        'time': f'{stem}mag_MEGRE.nii.gz and other coils of its echo differ in EchoTime',
        'phase': f'{stem}mag_MEGRE.nii.gz has no phase',
        'single': 'coils have a single echo',
    }
    assert says[what] in only_error(find())


def test_each_contrast_of_mpm_is_a_series(data, find):
    for contrast in ('flip-1_mt-off', 'flip-1_mt-on', 'flip-2_mt-off'):
        write_series(data, entities=f'acq-x_{contrast}', suffix='MPM', parts=('', 'phase'))
    write_series(data, sub='02', entities='flip-1_mt-on', suffix='MPM', parts=('',))
    plan = find()
    assert [one.name for one in plan.series] == [
        f'sub-01_acq-x_{contrast}' for contrast in ('flip-1_mt-off', 'flip-1_mt-on', 'flip-2_mt-off')
    ]
    assert all(len(one.phase) == 3 for one in plan.series)
    assert not plan.rejected[0].is_error
    one = plan.series[0]
    path = output_path('out', one.entities, suffix='Chimap')
    assert path.name == 'sub-01_acq-x_flip-1_mt-off_Chimap.nii.gz'


def test_the_validator_lets_coils_and_mpm_pass(data, find):
    pytest.importorskip('bids_validator_deno')
    write_coils(data)
    write_series(data, sub='02', entities='flip-1_mt-off', suffix='MPM')
    plan = find(skip_bids_validation=False)
    assert len(plan.series) == 2
    assert 'are not valid BIDS by their names or sidecars' in plan.notes[0]
    edit(anat(data) / 'sub-01_rec-uncombined_coil-01_echo-1_part-mag_MEGRE.json', FlipAngle=-1)
    with pytest.raises(UserError, match='is not valid BIDS'):
        find(skip_bids_validation=False)
