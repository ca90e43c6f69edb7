"""A series and options that graphs are built of."""

import pytest

from bids_qsm.app.options import Options
from bids_qsm.layout import Series
from bids_qsm.layout.series import Use


@pytest.fixture
def files(tmp_path):
    """A function that makes an empty file to stand for an image: graphs check that inputs exist."""

    def make(name):
        path = tmp_path / 'data' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    return make


@pytest.fixture
def series(files):
    return Series(
        subject='01',
        session='1',
        entities=(('sub', '01'), ('ses', '1'), ('acq', 'highRes')),
        suffix='MEGRE',
        magnitude=tuple(files(f'mag{i}.nii') for i in range(3)),
        phase=tuple(files(f'phase{i}.nii') for i in range(3)),
        real=(),
        imag=(),
        echo_times=(0.004, 0.012, 0.02),
        field_strength=3.0,
        manufacturer='Siemens',
        repetition_time=0.03,
        flip_angle=15.0,
        shape=(32, 32, 24),
        voxel_size=(1.0, 1.0, 1.5),
        b0_dir=(0.0, 0.0, 1.0),
        t1w=files('T1w.nii'),
        applications=(Use('regions', (), ()),),
    )


@pytest.fixture
def options(tmp_path, templates, templates_once):  # noqa: ARG001
    return Options(
        bids_dir=tmp_path / 'data',
        output_dir=tmp_path / 'out',
        work_dir=templates,
        level='participant',
    )
