"""One protocol for series of several scanners."""

import pytest

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.layout.find import find_series
from tests.skeletons import write_dataset, write_series


@pytest.fixture
def data(tmp_path):
    root = write_dataset(tmp_path / 'data')
    write_series(root)
    return root


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
