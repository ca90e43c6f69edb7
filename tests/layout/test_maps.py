"""Maps of other tools: which are found, what their units must be, and when phase comes first."""

import numpy as np
import pytest

from bids_qsm.app.methods import Method
from bids_qsm.errors import UserError
from bids_qsm.layout.series import GivenMap
from tests.skeletons import (
    AFFINE,
    SHAPE,
    only_error,
    write_image,
    write_json,
    write_series,
    write_t1w,
)


def values(size):
    """A map of ``size`` (standard deviation) in a box in the middle, 0 elsewhere."""
    data = np.zeros(SHAPE, np.float32)
    box = tuple(slice(1, n - 1) for n in SHAPE)
    data[box] = np.random.default_rng(0).normal(0, size, data[box].shape)
    return data


@pytest.fixture
def tool(data, tmp_path):
    """A function that adds a map of another tool, beside a T1w image; returns its path."""
    write_t1w(data)

    def add(name, size=0.05, sidecar=None, root=tmp_path / 'tool', folder='sub-01/anat', **more):
        path = write_image(root / folder / f'{name}.nii.gz', data=values(size), **more)
        if sidecar is not None:
            write_json(root / folder / f'{name}.json', sidecar)
        return path

    return add


@pytest.fixture
def found(find, tmp_path):
    """A function that finds the series with the derivatives of the tool."""
    return lambda **settings: find(derivatives=(('tool', tmp_path / 'tool'),), **settings)


def test_a_susceptibility_map_alone_is_a_series(tool, found, data):
    path = tool('sub-01_acq-x_Chimap', sidecar={'Units': 'ppm', 'ReferenceRegion': 'CSF'})
    (one,) = found().series
    assert one.name == 'sub-01_acq-x'
    assert one.given == (GivenMap('chi', path, 1.0, 'CSF'),)
    assert one.maps == ('chi',)
    assert (one.phase, one.echo_times, one.t1w.name) == ((), (), 'sub-01_T1w.nii.gz')
    assert any('left out' in note for note in one.notes)
    # in the dataset itself as well
    tool('sub-01_ses-2_Chimap', root=data, folder='sub-01/ses-2/anat')
    assert [one.session for one in found().series] == [None, '2']


@pytest.mark.parametrize(
    ('name', 'port'),
    [
        ('sub-01_QSM', 'chi'),
        ('sub-01_desc-total_Chimap', 'chi'),
        ('Sepia_Chimap', 'chi'),
        ('Sepia_localfield', 'local_field'),
        ('sub-01_fieldmap-local', 'local_field'),
        ('sub-01_desc-localfield_fieldmap', 'local_field'),
        ('sub-01_fieldmap', 'field'),
        ('sub-01_totalField', 'field'),
        ('sub-01_R2starmap', 'r2star'),
    ],
)
def test_names_of_the_tools(tool, found, name, port):
    size = {'r2star': 20, 'field': 0.2}.get(port, 0.05)
    tool(name, size, {'Units': '1/s' if port == 'r2star' else 'ppm'}, folder='sub-01/qsm')
    (one,) = found().series
    assert (one.given_ports, one.name) == ((port,), 'sub-01')


@pytest.mark.parametrize(
    'name',
    [
        'sub-01_desc-paramagnetic_Chimap',
        'sub-01_space-MNI152_Chimap',
        'sub-01_echo-1_fieldmap',
        'sub-02_Chimap',
    ],
)
def test_other_maps_are_left_alone(tool, found, name):
    tool(name)
    tool('sub-01_QSM')
    (one,) = found().series
    assert one.given[0].path.name == 'sub-01_QSM.nii.gz'


def test_field_maps_of_epi_are_left_alone(tool, found, data):
    tool('sub-01_fieldmap', 20, {'Units': 'Hz'}, folder='sub-01/fmap')
    tool('sub-01_fieldmap', 20, {'Units': 'Hz'}, root=data, folder='sub-01/fmap')
    tool('sub-01_Chimap')
    (one,) = found().series
    assert one.given_ports == ('chi',)


def test_units_make_ppm(tool, found, tmp_path):
    tool('sub-01_localfield', 5, {})
    write_json(tmp_path / 'tool' / 'localfield.json', {'Units': 'Hz', 'MagneticFieldStrength': 3})
    (one,) = found().series
    assert one.given[0].factor == pytest.approx(1 / 127.73, rel=1e-3)
    tool('sub-01_localfield', 5 * 2 * np.pi, {'Units': 'rad/s'})
    (one,) = found().series
    assert one.given[0].factor == pytest.approx(1 / 127.73 / 2 / np.pi, rel=1e-3)
    assert any('taken to ppm at 3 T' in note for note in one.notes)


@pytest.mark.parametrize(
    ('name', 'size', 'sidecar', 'reason'),
    [
        ('sub-01_Chimap', 50, {}, 'values up to'),
        ('sub-01_Chimap', 0.05, {'Units': 'ppb'}, 'as its sidecar says ppb'),
        ('sub-01_Chimap', 0.05, {'Units': 'Hz'}, "the Units 'Hz'; they must be ppm or ppb"),
        ('sub-01_Chimap', 0, {'Units': 'ppm'}, 'holds no value other than 0'),
        ('sub-01_R2starmap', 0.02, {}, 'values up to'),
        ('sub-01_localfield', 5, {'MagneticFieldStrength': 3}, 'has no Units in its sidecar; write sub-01_'),
        ('sub-01_localfield', 5, {'Units': 'Hz'}, 'neither MagneticFieldStrength nor'),
        ('sub-01_localfield', 5, {'Units': 'ppm'}, 'a local field map of a head has'),
        ('sub-01_fieldmap', 50, {'Units': 'ppm'}, 'a total field map of a head has'),
    ],
)
def test_what_is_wrong_is_said(tool, found, name, size, sidecar, reason):
    tool(name, size, sidecar)
    problem = only_error(found())
    assert reason in problem
    assert name in problem


def test_phase_comes_first_unless_told_otherwise(tool, found, data):
    write_series(data)
    tool('sub-01_Chimap')
    (one,) = found().series
    assert not one.given
    assert any('sub-01_Chimap.nii.gz is not used, as there is phase' in note for note in one.notes)
    (one,) = found(start_from='chi').series
    assert one.given_ports == ('chi',)
    assert len(one.magnitude) == 3
    assert 'asks for a local field map, and there is none' in only_error(found(start_from='local_field'))


def test_broken_phase_is_no_reason_to_take_a_map(tool, found, data):
    files = write_series(data)
    files[-1].write_bytes(b'')
    tool('sub-01_Chimap')
    assert '_part-phase_MEGRE' in only_error(found())


def test_magnitude_without_phase_places_the_map(tool, found, data):
    write_series(data, parts=('mag',))
    tool('sub-01_Chimap')
    plan = found()
    assert (len(plan.series[0].magnitude), plan.rejected) == (3, ())
    (data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz').unlink()
    assert len(found().series) == 1
    write_series(data, parts=('mag',), shape=(6, 6, 6))
    assert 'neither a T1w image nor a magnitude' in only_error(found())


def test_the_map_nearest_to_susceptibility_is_taken(tool, found):
    tool('sub-01_fieldmap', 0.3, {'Units': 'ppm'})
    tool('sub-01_localfield', 0.03, {'Units': 'ppm'})
    tool('sub-01_R2starmap', 20)
    (one,) = found().series
    assert one.given_ports == ('local_field', 'r2star')
    assert one.maps == ('chi', 'r2star')
    assert any('sub-01_fieldmap.nii.gz is not used' in note for note in one.notes)
    (one,) = found(start_from='field').series
    assert one.given_ports == ('field', 'r2star')


def test_r2star_is_fitted_where_field_and_echoes_are_there(tool, found, data):
    files = write_series(data, parts=('mag',))
    tool('sub-01_fieldmap', 0.3, {'Units': 'ppm'})
    (one,) = found(inversion=Method('medi0')).series
    assert (one.maps, one.echo_times) == (('chi', 'r2star'), (0.004, 0.008, 0.012))
    files[1].with_name(files[1].name.replace('.nii.gz', '.json')).write_text('{}')
    (one,) = found().series
    assert (one.maps, one.echo_times) == (('chi',), ())
    assert 'needs an R2* map' in only_error(found(inversion=Method('medi0')))


def test_masks_lie_beside_the_map(tool, found, tmp_path):
    tool('Sepia_Chimap')
    (one,) = found().series
    assert not one.is_whole
    anat = tmp_path / 'tool' / 'sub-01' / 'anat'
    write_image(anat / 'Sepia_mask_brain.nii.gz', data=np.ones(SHAPE, np.uint8))
    write_image(anat / 'Sepia_mask_QSM.nii.gz', data=np.ones(SHAPE, np.uint8))
    write_image(anat / 'sub-01_label-lesion_mask.nii.gz', data=np.ones(SHAPE, np.uint8))
    (one,) = found().series
    assert [m.path.name for m in one.given if m.port == 'mask'] == ['Sepia_mask_QSM.nii.gz']


def test_a_map_of_the_whole_head_is_masked_by_the_anatomy(data, found, tmp_path):
    write_t1w(data)
    noise = np.random.default_rng(0).normal(0, 0.05, SHAPE).astype(np.float32)
    write_image(tmp_path / 'tool' / 'sub-01' / 'anat' / 'sub-01_Chimap.nii.gz', data=noise)
    (one,) = found().series
    assert one.is_whole
    assert any('brain mask of the anatomical image' in note for note in one.notes)


def test_two_maps_of_one_series_cannot_be_told_apart(tool, found):
    tool('sub-01_Chimap')
    tool('sub-01_QSM')
    assert 'are both a susceptibility map of one series' in only_error(found())


def test_maps_on_different_grids_are_of_no_use(tool, found):
    tool('sub-01_Chimap')
    tool('sub-01_R2starmap', 20, affine=AFFINE @ np.diag([1.5, 1, 1, 1]))
    assert 'differ in their affine' in only_error(found())


def test_a_session_may_be_in_derivatives_alone(tool, found):
    tool('sub-01_ses-2_Chimap', folder='sub-01/ses-2/anat')
    (one,) = found(session_label=('2',)).series
    assert one.session == '2'
    with pytest.raises(UserError, match="no session '3'"):
        found(session_label=('3',))
