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
        from bids_qsm.app.options import Options
        from bids_qsm.app.participant import make_plan

        settings = {'skip_bids_validation': True, **settings}
        return make_plan(Options(bids_dir=data, output_dir=tmp_path / 'out', level='participant', **settings))

    return find
