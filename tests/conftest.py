"""Fixtures for all rooms."""

import gc
import os
from pathlib import Path

import pytest

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    # as in the steps of a run; each worker of the tests has a CPU, where threads of BLAS wait for one another
    os.environ.setdefault(name, '1')

from tests.skeletons import write_dataset  # noqa: E402 - it imports NumPy

LONG = ('test_threads.py', 'test_faults.py', 'test_fuzz.py')
"""Files that take longest, of those that may run before all kernels are compiled."""


def pytest_collection_modifyitems(items):
    """Start the longest files first, so that none of them runs alone at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish():
    """What is imported stays, so that the garbage collector need not look through it time and again."""
    gc.freeze()


@pytest.fixture(scope='session')
def reproducible():
    """The benchmark of equal files, imported as its parts import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / 'benchmarks')
        import reproducible

    return reproducible


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty raw dataset, whose images of noise count as heads."""
    monkeypatch.setattr('bids_qsm.layout.ancillary.why_no_head', lambda *_: None)
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


@pytest.fixture(scope='session')
def templates(tmp_path_factory):
    """A working folder for all tests that build graphs: templates are made there once, and nothing is run."""
    folder = tmp_path_factory.getbasetemp() / 'templates'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope='session')
def _resources():
    return {}


@pytest.fixture
def templates_once(monkeypatch, _resources):
    """The default template and atlas are read once, not for each graph, where they take most of the time."""
    from bids_qsm.app import participant
    from bids_qsm.app.options import Options

    find = participant.find_resources

    def find_once(options):
        fields = Options.__dataclass_fields__
        if any(
            getattr(options, name) != fields[name].default
            for name in ('output_spaces', 'atlas', 'refinement')
        ):
            return find(options)
        if options.work_dir not in _resources:
            _resources[options.work_dir] = find(options)
        return _resources[options.work_dir]

    monkeypatch.setattr(participant, 'find_resources', find_once)
    monkeypatch.setattr(participant, 'has_to_try', lambda *_: False)
