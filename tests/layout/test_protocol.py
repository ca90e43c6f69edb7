"""One protocol for series of several scanners."""

import numpy as np
import pytest

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.layout.find import find_series
from tests.skeletons import SHAPE, write_image, write_series, write_t1w


@pytest.fixture
def data(data):
    write_series(data)
    return data


def found(data, **asked):
    options = Options(
        bids_dir=data, output_dir=data.parent / 'out', level='participant', skip_bids_validation=True, **asked
    )
    return find_series(options)


def test_echoes_of_a_window(data):
    plan = found(data, echo_window='5,12')
    (series,) = plan.series
    assert series.echo_times == (0.008, 0.012)
    assert [path.name.split('echo-')[1][0] for path in series.phase] == ['2', '3']
    assert len(series.magnitude) == 2
    assert any('Echoes at 4 ms are left out' in note for note in series.notes)


def test_no_echo_in_the_window(data):
    plan = found(data, echo_window='20,30')
    assert not plan.series
    (one,) = plan.rejected
    assert one.is_error
    assert 'holds none of its echo times (4, 8, 12 ms)' in one.reason


def test_voxels_may_only_grow(data):
    assert found(data, voxel_size='2,2,2.5').series[0].resampled is None
    assert found(data, voxel_size='3').series[0].resampled == (3.0, 3.0, 3.0)
    (one,) = found(data, voxel_size='2').rejected
    assert 'has voxels of 2 x 2 x 2.5 mm, larger than' in one.reason


@pytest.mark.parametrize('asked', [{'echo_window': '9,3'}, {'echo_window': '3'}, {'voxel_size': '1,2'}])
def test_values_that_are_none(data, asked):
    with pytest.raises(UserError, match='it must be'):
        found(data, **asked)


def test_masks_may_lie_on_the_larger_voxels(data, find):
    """Those that were drawn on the maps of an earlier run."""
    # the centre of the view stays: 8 x 9 x 7 voxels of 2 x 2 x 2.5 mm
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = 1.0, 2.0, 1.5
    drawn = data / 'derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz'
    write_image(drawn, (4, 4, 4), affine)
    (one,) = find(voxel_size='4').series
    assert [item.path.name for item in one.inputs if item.space == 'gre'] == [drawn.name]
    (one,) = find().series
    assert 'lies neither on the grid' in ' '.join(one.notes)


def test_maps_that_were_made_before_stay_as_they_are(data, tmp_path):
    write_image(tmp_path / 'tool/sub-02/anat/sub-02_Chimap.nii.gz', data=np.full(SHAPE, 0.01, np.float32))
    write_t1w(data, sub='02')
    asked = {'echo_window': '3,9', 'voxel_size': '4', 'derivatives': (('tool', tmp_path / 'tool'),)}
    phase, given = found(data, **asked).series
    assert phase.echo_window == (0.003, 0.009)
    assert phase.resampled_shape == (4, 4, 4)
    assert given.echo_window is given.resampled is None
    assert '--echo-window and --voxel-size leave as they are' in ' '.join(given.notes)
