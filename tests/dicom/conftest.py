"""Fixtures for DICOM files."""

import pytest

from bids_qsm.dicom.headers import read_folder
from bids_qsm.dicom.importing import run_import
from bids_qsm.dicom.plan import make_rows


@pytest.fixture
def planned(tmp_path):
    """A function that plans the files of ``tmp_path/dicom``: (series number, part) -> row."""

    def planned(known=(), subject=None, session=None):
        rows = make_rows(read_folder(tmp_path / 'dicom'), known, subject, session)
        return {(row.group.series_number, row.part): row for row in rows if row.found}

    return planned


@pytest.fixture
def bring_in(tmp_path):
    """A function that imports the files of ``tmp_path/dicom`` to ``tmp_path/bids``; its exit code."""

    def bring_in(**settings):
        return run_import(tmp_path / 'dicom', tmp_path / 'bids', **settings)

    return bring_in
