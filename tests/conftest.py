"""Fixtures for all rooms."""

import pytest

from tests.skeletons import write_dataset


@pytest.fixture
def data(tmp_path):
    """An empty raw dataset."""
    return write_dataset(tmp_path / 'data')


@pytest.fixture
def find(data, tmp_path):
    """A function that finds the series of ``data`` with the options given."""

    def find(**settings):
        from bids_qsm.layout import find_series
        from bids_qsm.options import Options

        settings = {'skip_bids_validation': True, **settings}
        return find_series(
            Options(bids_dir=data, output_dir=tmp_path / 'out', level='participant', **settings)
        )

    return find
